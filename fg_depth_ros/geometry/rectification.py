"""Rectification of a calibrated pair of cameras, for images as the cameras took them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import cv2
import numpy as np

from fg_depth_ros.geometry.rig import RigError, StereoRig


@dataclass(frozen=True, eq=False)
class RawCamera:
    """One camera before rectification."""

    matrix: np.ndarray
    """K, 3 x 3, px."""
    distortion: np.ndarray
    """k1, k2, p1, p2 (radial-tangential), or k1 .. k4 (equidistant, of a fisheye)."""
    fisheye: bool = False

    def scaled(self, sx: float, sy: float) -> RawCamera:
        """Return the camera of resized images; pixel centres are at integers."""
        resize = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        return RawCamera(resize @ self.matrix, self.distortion, self.fisheye)


@dataclass(frozen=True, eq=False)
class Rectification:
    """What turns the images of a raw pair into those of a rectified one, and the rig of these."""

    rig: StereoRig
    maps: tuple[tuple[np.ndarray, np.ndarray] | None, ...] = field(repr=False)
    """Of ``cv2.remap``, left and right; None where an image is rectified as it is."""

    @classmethod
    def of(
        cls, left: RawCamera, right: RawCamera, rotation: np.ndarray, translation: np.ndarray, size: tuple[int, int]
    ) -> Rectification:
        """Rectify two cameras (Bouguet's method, as ``cv2.stereoRectify`` has it), for images of ``size`` px.

        ``rotation`` (3 x 3) and ``translation`` (m) take points from the left to the right camera's frame. Pinhole
        images keep only what both cameras see whole; a fisheye keeps the scale of its centre. Raises RigError: the
        right camera is not at the right of the left one.
        """
        cameras, (width, height), k = (left, right), size, left.matrix
        rectified = (
            not any(camera.fisheye or camera.distortion.any() for camera in cameras)
            and np.allclose(k, right.matrix) and np.allclose(rotation, np.eye(3), atol=1e-6)
            and np.allclose(translation[1:], 0, atol=1e-6)
        )  # fmt: skip
        if rectified:
            rig = StereoRig(width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2], k[0, 2], -float(translation[0]))
            return cls(rig, (None, None))
        fisheye = left.fisheye or right.fisheye
        lenses = [np.zeros(4) if fisheye else camera.distortion for camera in cameras]
        r_left, r_right, p_left, p_right = cv2.stereoRectify(
            k, lenses[0], right.matrix, lenses[1], size, rotation, translation.reshape(3, 1), alpha=0
        )[:4]
        if p_right[1, 3] != 0:
            raise RigError("the cameras are one above the other; turn the images by 90 degrees and calibrate again")
        if fisheye:
            focal = float(np.sqrt(k[0, 0] * k[1, 1]))
            p_right[0, 3] *= focal / p_right[0, 0]
            for p in (p_left, p_right):
                p[:2, :3] = [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2]]
        infos = (SimpleNamespace(width=width, height=height, p=p.ravel().tolist()) for p in (p_left, p_right))
        rig = StereoRig.from_camera_info(*infos)
        maps = []
        for camera, r, p in ((left, r_left, p_left), (right, r_right, p_right)):
            undistort = cv2.fisheye.initUndistortRectifyMap if camera.fisheye else cv2.initUndistortRectifyMap
            maps.append(undistort(camera.matrix, camera.distortion, r, p[:, :3], size, cv2.CV_32FC1))
        return cls(rig, tuple(maps))

    def apply(self, image: np.ndarray, side: int) -> np.ndarray:
        """Rectify an image, uint8 H x W (x 3); ``side``: 0 left, 1 right. What no camera saw is black."""
        maps = self.maps[side]
        return image if maps is None else cv2.remap(image, *maps, cv2.INTER_LINEAR)
