"""KITTI raw with true depth: the test of Eigen et al. (NIPS 2014), from LiDAR sweeps or from the improved maps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from fg_depth_ros.data.datasets.layouts import find_image, reader_of
from fg_depth_ros.data.io.calibration import read_calibration, read_numbers
from fg_depth_ros.data.io.formats import image_size, read_kitti_disparity
from fg_depth_ros.data.samples import ArrayReader, DepthProtocol, DepthSample, StereoSample
from fg_depth_ros.files import FileError, read_bytes
from fg_depth_ros.geometry import nearest_depth

LidarRule = Literal["published", "camera"]
LIDAR_RULES = ("published", "camera")
EIGEN = DepthProtocol("KITTI Eigen", crop="garg")
EIGEN_IMPROVED = DepthProtocol("KITTI Eigen improved", crop="garg")
_CAMERAS, _LIDAR = "calib_cam_to_cam.txt", "calib_velo_to_cam.txt"


@dataclass(frozen=True)
class LidarCamera:
    """Projection of KITTI's LiDAR points into one rectified camera.

    ``to_image``: 3 x 4 float64, homogeneous LiDAR points (x forward, y left, z up; m) to (u Z, v Z, Z), u and v in px.
    ``width``, ``height``: of that camera's images, px.
    """

    to_image: np.ndarray
    width: int
    height: int

    @classmethod
    def read(cls, cameras: Path, lidar: Path, camera: int) -> LidarCamera:
        """Read calib_cam_to_cam.txt and calib_velo_to_cam.txt.

        ``to_image`` is ``P_rect_0x R_rect_00 (R | T)`` (Geiger et al., Vision meets Robotics, IJRR 2013, Eq. 8). Raises
        FileError: a file or a line of it is missing or damaged.
        """
        projection, rectify, size = read_numbers(
            cameras, {f"P_rect_0{camera}": 12, "R_rect_00": 9, f"S_rect_0{camera}": 2}
        )
        rotation, translation = read_numbers(lidar, {"R": 9, "T": 3})
        lidar_to_camera = np.eye(4)
        lidar_to_camera[:3] = np.column_stack([rotation.reshape(3, 3), translation])
        rectification = np.eye(4)
        rectification[:3, :3] = rectify.reshape(3, 3)
        return cls(projection.reshape(3, 4) @ rectification @ lidar_to_camera, int(size[0]), int(size[1]))

    def depth(self, points: np.ndarray, rule: LidarRule = "published") -> np.ndarray:
        """Project points N x 3 (m, in the LiDAR's frame) to a depth map H x W float32 m, NaN where there is none.

        Of several points in one pixel the nearest counts; what lies behind the LiDAR is left out. ``published`` is how
        the truth behind the published tables was made since Godard et al. (CVPR 2017): pixels are rounded and moved by
        one to the left and up, and depth is the distance ahead of the LiDAR, which stands 0.27 m behind the camera.
        ``camera`` is the camera's own: rounded pixels, depth along its axis.
        """
        ahead = points[points[:, 0] >= 0].astype(np.float64)
        seen = np.column_stack([ahead, np.ones(len(ahead))]) @ self.to_image.T
        ahead, seen = ahead[seen[:, 2] > 0], seen[seen[:, 2] > 0]
        pixels = np.rint(seen[:, :2] / seen[:, 2:]) - (rule == "published")
        depth = ahead[:, 0] if rule == "published" else seen[:, 2]
        return nearest_depth(pixels, depth, self.width, self.height)

    def sweep_depth(self, sweep: Path, rule: LidarRule) -> np.ndarray:
        """Read a sweep as ``depth`` returns it."""
        return self.depth(read_velodyne(sweep), rule)


def read_velodyne(path: str | Path) -> np.ndarray:
    """Read a LiDAR sweep: N x 3 float32 m, x forward, y left, z up. Raises FileError: missing or cut off."""
    content = read_bytes(path)
    if len(content) % 16:
        raise FileError(f"{path}: {len(content)} bytes are no whole number of points of 16 bytes; fetch it again")
    return np.frombuffer(content, "<f4").reshape(-1, 4)[:, :3]


def open_eigen(
    raw: str | Path, frames: str | Path, improved: str | Path | None = None, rule: LidarRule = "published"
) -> dict[str, list[DepthSample]]:
    """Open the frames of a list as data sets.

    ``KITTI Eigen`` has the sweeps as truth; ``KITTI Eigen improved``, where ``improved`` is given, the maps of Uhrig et
    al. (3DV 2017).

    Args:
        raw: KITTI raw: DATE/DATE_drive_NNNN_sync/{image_02, image_03, velodyne_points}/data, DATE/calib_*.txt.
        frames: the usual list, a frame a line: ``DATE/DRIVE_sync 0000000069 l`` (l: image_02, r: image_03).
        improved: the folder data_depth_annotated, with train/ and val/; or with the drives right inside it. Frames that
            it has no map of (45 of the 697) have no truth there.
        rule: how sweeps become depth, see ``LidarCamera.depth``.

    Raises FileError: something is missing or damaged, with the line of the list. Raises ValueError: an unknown rule.
    """
    if rule not in LIDAR_RULES:
        raise ValueError(f"rule '{rule}' is unknown; choose one of {', '.join(LIDAR_RULES)}")
    root, maps = Path(raw), None if improved is None else Path(improved)
    for folder in (root, maps):
        if folder is not None and not folder.is_dir():
            raise FileError(f"{folder}: no such folder; give the folder that holds KITTI's dates or drives")
    sets: dict[str, list[DepthSample]] = {EIGEN.name: []}
    if maps is not None:
        sets[EIGEN_IMPROVED.name] = []
    read_camera = cache(LidarCamera.read)
    for number, line in enumerate(read_bytes(frames).decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{frames}, line {number}"
        drive, stem, camera = _parsed(line, where)
        folder = root / drive
        sweep = folder / "velodyne_points" / "data" / f"{stem}.bin"
        lidar_camera = read_camera(folder.parent / _CAMERAS, folder.parent / _LIDAR, camera)
        if not sweep.is_file():
            raise FileError(f"{sweep}: missing ({where}); fetch the drive's velodyne_points, or shorten the list")
        truth = partial(lidar_camera.sweep_depth, sweep, rule)
        sets[EIGEN.name].append(_sample(folder, stem, camera, where, truth, EIGEN))
        if maps is not None:
            inner = Path(folder.name, "proj_depth", "groundtruth", f"image_0{camera}", f"{stem}.png")
            reader = reader_of(read_kitti_disparity, *(maps / part / inner for part in ("val", "train", "")))
            sets[EIGEN_IMPROVED.name].append(_sample(folder, stem, camera, where, reader, EIGEN_IMPROVED))
    if not sets[EIGEN.name]:
        raise FileError(f"{frames}: holds no frame; a line is 'DATE/DRIVE_sync FRAME l'")
    return sets


def _parsed(line: str, where: str) -> tuple[str, str, int]:
    """Return (drive, name of the frame, 2 or 3 for the camera) of a line of the list."""
    found = re.fullmatch(r"(\S+)\s+(\d+)(?:\s+([lr]))?", line.strip())
    if found is None:
        raise FileError(f"{where}: '{line.strip()[:80]}' is no frame; 'DATE/DRIVE_sync FRAME l' is expected")
    return found[1], f"{int(found[2]):010d}", 3 if found[3] == "r" else 2


def _sample(
    folder: Path, stem: str, camera: int, where: str, truth: ArrayReader | None, protocol: DepthProtocol
) -> DepthSample:
    name = f"{folder.name}_{stem}" + ("_r" if camera == 3 else "")
    image = find_image(folder / f"image_0{camera}" / "data", stem)
    if image is None:
        raise FileError(f"{folder / f'image_0{camera}' / 'data' / stem}.png: missing ({where}); fetch the drive")
    rig = read_calibration(folder.parent / _CAMERAS, *image_size(image))
    right = find_image(folder / "image_03" / "data", stem) if camera == 2 else None
    pair = None if right is None else StereoSample(name, image, right, rig)
    return DepthSample(name, image, rig.fx, truth, pair, protocol)
