"""Rectification of a calibrated pair of cameras, for images as the cameras took them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from fg_depth_ros.geometry.rig import (
    RigError,
    StereoRig,
    camera_info_numbers,
    check_shape,
    image_window,
    is_rotation,
)

RECTIFY = ("auto", "on", "off")
"""Whether images are rectified by their camera_infos: where ``raw_sides`` says so, always, never."""
LENSES = {
    "plumb_bob": False, "rational_polynomial": False, "thin_prism": False, "radial-tangential": False, "radtan": False,
    "equidistant": True, "fisheye": True, "kannala_brandt": True,
}  # fmt: skip
"""Distortion model -> whether it is a fisheye's (``cv2.fisheye``); all others are OpenCV's polynomial."""
_POLYNOMIAL = (4, 5, 8, 12, 14)  # coefficients that OpenCV takes: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 .. s4 [tx ty]]]]
_FISHEYE = 4
_IDENTITY = 1e-6
_TRANSPORTS = {"compressed", "compresseddepth", "theora", "ffmpeg", "foxglove", "zstd"}
# Whole words; the group is what negates them.
_NAMED_RECTIFIED = re.compile(r"(?<![a-z])((?:not|non|un)[^a-z]*)?rect(?:ified)?(?![a-z])")
_NAMED_RAW = re.compile(r"(?<![a-z])raw(?![a-z])")
_IF_RECTIFIED = "where the images are rectified already, set rectify to off"
Maps = tuple[np.ndarray, np.ndarray]
"""Fixed-point maps of ``cv2.remap``."""


@dataclass(frozen=True, eq=False)
class RawCamera:
    """One camera before rectification."""

    matrix: np.ndarray
    """K, 3 x 3, px."""
    distortion: np.ndarray
    """Distortion coefficients in OpenCV's order: 4, 5, 8, 12 or 14, or k1 .. k4 of a fisheye (equidistant)."""
    fisheye: bool = False

    @classmethod
    def of_model(cls, matrix: np.ndarray, model: str, distortion: Sequence[float]) -> RawCamera:
        """Make a camera from the name of its distortion model (``LENSES``) and the coefficients.

        No coefficients are no distortion. Raises RigError: an unknown model, coefficients that are not finite or too
        many or few, no focal length.
        """
        matrix, numbers = np.asarray(matrix, np.float64).reshape(3, 3), np.asarray(distortion, np.float64).reshape(-1)
        if not matrix.any():
            raise RigError("k is all zeros: rectification needs the camera matrix; calibrate the camera")
        if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise RigError(
                f"k is {matrix.ravel().tolist()}: focal lengths are positive and all numbers finite; calibrate again"
            )
        if not np.isfinite(numbers).all():
            raise RigError(f"d is {numbers.tolist()}: its numbers must be finite; calibrate again")
        if model not in LENSES and numbers.any():
            raise RigError(f"distortion_model is '{model}', which is none of {', '.join(LENSES)}; calibrate with one")
        fisheye = LENSES.get(model, False)
        counts = (_FISHEYE,) if fisheye else _POLYNOMIAL
        if len(numbers) not in counts:
            used = len(np.trim_zeros(numbers, "b"))  # zeros after the coefficients say nothing
            count = next((count for count in counts if used <= count < len(numbers)), 0 if used else counts[0])
            if not count:
                raise RigError(
                    f"d has {len(numbers)} numbers, {model} takes {', '.join(map(str, counts))}; calibrate with one of "
                    f"{', '.join(LENSES)}"
                )
            numbers = numbers[:count] if used else np.zeros(count)
        return cls(matrix, numbers, fisheye)

    @classmethod
    def from_camera_info(cls, info: Any, side: str) -> RawCamera:
        """Make the camera of published raw images from their camera_info; as of ``StereoRig.from_camera_info``.

        Region of interest and binning are applied to K, as they are to P. ``side``: name for messages. Raises RigError.
        """
        k = camera_info_numbers(info, "k")
        if k.size != 9:
            raise RigError(f"{side} camera_info: k has {k.size} numbers, a camera matrix has 9; {_IF_RECTIFIED}")
        try:
            model = str(getattr(info, "distortion_model", ""))
            camera = cls.of_model(k, model, camera_info_numbers(info, "d").tolist())
        except RigError as error:
            raise RigError(f"{side} camera_info: {error}; {_IF_RECTIFIED}") from error
        x, y, bin_x, bin_y = image_window(info)
        window = np.array([[1 / bin_x, 0, -x / bin_x], [0, 1 / bin_y, -y / bin_y], [0, 0, 1]])
        return cls(window @ camera.matrix, camera.distortion, camera.fisheye)

    def scaled(self, sx: float, sy: float) -> RawCamera:
        """Return the camera of resized images; pixel centres are at integers."""
        resize = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        return RawCamera(resize @ self.matrix, self.distortion, self.fisheye)

    def maps(self, rotation: np.ndarray, projection: np.ndarray, size: tuple[int, int]) -> Maps:
        """Return the maps to a rectified image of ``size`` (width, height).

        ``rotation`` (R, 3 x 3) takes the camera's frame to the rectified one, ``projection`` (3 x 3) that to pixels.
        """
        undistort = cv2.fisheye.initUndistortRectifyMap if self.fisheye else cv2.initUndistortRectifyMap
        first, second = undistort(self.matrix, self.distortion, rotation, projection, size, cv2.CV_16SC2)
        return first, second


@dataclass(frozen=True, eq=False)
class Rectification:
    """Maps from the images of a raw pair to a rectified one, and the rig of that."""

    rig: StereoRig
    cameras: tuple[RawCamera | None, RawCamera | None] = field(repr=False)
    """Left and right; None where an image is rectified as it is."""
    rotations: tuple[np.ndarray, np.ndarray] = field(repr=False)
    """R of each camera, 3 x 3: from its frame to the rectified one."""
    size: tuple[int, int]
    """Width and height of the images before rectification."""

    @property
    def sides(self) -> tuple[bool, bool]:
        """Whether the left and the right image change."""
        return self.cameras[0] is not None, self.cameras[1] is not None

    @cached_property
    def maps(self) -> tuple[Maps | None, ...]:
        """Left and right, computed when an image first needs them; None where it is rectified as it is."""
        projections = (self.rig.P_left()[:, :3], self.rig.P_right()[:, :3])
        return tuple(
            None if camera is None else camera.maps(rotation, projection, (self.rig.width, self.rig.height))
            for camera, rotation, projection in zip(self.cameras, self.rotations, projections, strict=True)
        )

    @classmethod
    def of_rectified(cls, rig: StereoRig) -> Rectification:
        """Return the rectification of images that are rectified already: they stay as they are."""
        return cls(rig, (None, None), (np.eye(3), np.eye(3)), (rig.width, rig.height))

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
            return cls.of_rectified(rig)
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
        return cls(rig, cameras, (r_left, r_right), size)

    @classmethod
    def from_camera_info(cls, left: Any, right: Any, raw: tuple[bool, bool] = (True, True)) -> Rectification:
        """Rectify a pair by its two sensor_msgs/CameraInfo messages: K, D, R and P, region of interest and binning.

        The rectified image has the window and size of the raw one, as ``image_geometry::PinholeCameraModel`` has it,
        and P describes it. ``raw``: which images are raw, left and right (``raw_sides``); nothing but P is needed of
        the others.

        Raises:
            RigError: as ``StereoRig.from_camera_info``, and for K, D or R of a raw image that cannot be used.
        """
        rig = StereoRig.from_camera_info(left, right)
        a, r_left = _raw_camera(left, "left") if raw[0] else (None, np.eye(3))
        b, r_right = _raw_camera(right, "right") if raw[1] else (None, np.eye(3))
        if a is not None and b is not None and a.fisheye != b.fisheye:
            raise RigError(
                f"left camera_info has distortion_model '{left.distortion_model}' and right "
                f"'{right.distortion_model}': one fisheye and one pinhole camera; calibrate both with one model"
            )
        return cls(rig, (a, b), (r_left, r_right), (rig.width, rig.height))

    def scaled(self, width: int, height: int) -> Rectification:
        """Return the rectification for images of another size; the rectified ones are resized alike.

        Raises RigError: the images were cropped (``check_shape``).
        """
        if (width, height) == self.size:
            return self
        check_shape(self.size, (width, height))
        sx, sy = width / self.size[0], height / self.size[1]
        left, right = (None if camera is None else camera.scaled(sx, sy) for camera in self.cameras)
        rig = self.rig.scaled(round(self.rig.width * sx), round(self.rig.height * sy))
        return Rectification(rig, (left, right), self.rotations, (width, height))

    def apply(self, image: np.ndarray, side: int) -> np.ndarray:
        """Rectify an image, uint8 or uint16, H x W (x 3); ``side``: 0 left, 1 right. What no camera saw is black.

        Raises RigError: the image has another size than the calibration.
        """
        if self.cameras[side] is None:
            return image
        height, width = image.shape[:2]
        if (width, height) != self.size:
            raise RigError(
                f"the {('left', 'right')[side]} image is {width}x{height} pixels and the calibration for "
                f"{self.size[0]}x{self.size[1]}: calibrate for the size of the images"
            )
        maps = self.maps[side]
        assert maps is not None
        return cv2.remap(image, *maps, cv2.INTER_LINEAR)

    def apply_to_depth(self, depth: np.ndarray) -> np.ndarray:
        """Rectify depth of the left camera, H x W float32 m along its axis; NaN is unknown, as what it did not see.

        A pixel gets the depth of the nearest raw one, as depth along the axis of the rectified camera.
        """
        maps, rig = self.maps[0], self.rig
        if maps is None:
            return depth
        moved = cv2.remap(
            depth, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=(float("nan"),) * 4
        )
        # A point at depth 1 of the rectified camera is (x, y, 1), and R^T takes it back to the frame of the raw one.
        x, y = (np.arange(rig.width) - rig.cx) / rig.fx, (np.arange(rig.height) - rig.cy) / rig.fy
        r = self.rotations[0]
        along_raw_axis = x[None, :] * r[0, 2] + y[:, None] * r[1, 2] + r[2, 2]
        return moved / np.where(along_raw_axis > 0, along_raw_axis, np.nan).astype(np.float32)


def raw_sides(left: Any, right: Any, topics: Sequence[str], rectify: str) -> tuple[bool, bool]:
    """Return which images of a pair are to be rectified by their camera_infos: left, right.

    With ``auto`` an image is raw unless its topic says that it is rectified, or D of both cameras is zero and R the
    identity (or not filled). Drivers often publish rectified images with the D of the raw ones, so a name counts more.

    ``left``, ``right``: as of ``StereoRig.from_camera_info``. ``topics``: of the two images, resolved.
    """
    if rectify != "auto":
        return (rectify == "on",) * 2
    if not any(_is_distorted(info) or _is_turned(info) for info in (left, right)):
        return False, False
    first, second = (not is_named_rectified(topic) for topic in topics)
    return first, second


def is_named_rectified(name: str, above: int = 1) -> bool:
    """Return whether the name of an image topic, or the path of a file, says that its images are rectified.

    A word of its last component is ``rect`` or ``rectified``, as in ``image_rect`` and ``image_rect_raw``; or of one of
    those ``above`` it, as in ``rect/image``, unless the last one has the word ``raw``. The nearest such word counts,
    and says the opposite after ``not``, ``non`` or ``un``. Transports after it, such as ``/compressed``, do not
    count.
    """
    parts = name.strip("/").lower().split("/")
    while len(parts) > 1 and parts[-1] in _TRANSPORTS:
        parts.pop()
    for place, part in enumerate(reversed(parts[-1 - above :])):
        if (word := _NAMED_RECTIFIED.search(part)) is not None:
            return word[1] is None
        if place == 0 and _NAMED_RAW.search(part):
            return False
    return False


def _is_distorted(info: Any) -> bool:
    return bool(camera_info_numbers(info, "d").any())


def _is_turned(info: Any) -> bool:
    r = camera_info_numbers(info, "r")
    return r.size == 9 and bool(r.any()) and not np.allclose(r.reshape(3, 3), np.eye(3), rtol=0, atol=_IDENTITY)


def _raw_camera(info: Any, side: str) -> tuple[RawCamera, np.ndarray]:
    """Return a camera and its R, 3 x 3."""
    camera, r = RawCamera.from_camera_info(info, side), camera_info_numbers(info, "r")
    if r.size != 9 or not is_rotation(r):
        found = "all zeros" if not r.any() else str(r.tolist())
        raise RigError(
            f"{side} camera_info: r is {found}, no rotation matrix, and rectification needs it: calibrate both cameras "
            f"together as a stereo pair; {_IF_RECTIFIED}"
        )
    return camera, r.reshape(3, 3)
