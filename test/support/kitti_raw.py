"""A small KITTI raw on disk whose geometry can be worked out by hand: one date, one drive, frames 69 and 70."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fg_depth_ros.data.io.formats import write_image
from support.pair_folders import planes

DATE, DRIVE = "2011_09_26", "2011_09_26_drive_0002_sync"
SIZE = (160, 96)
# The LiDAR stands 0.25 m behind the first camera: camera (x, y, z) = LiDAR (-y, -z, x - 0.25). Camera 2 stands 0.06 m
# to the left of the first one, camera 3 0.5 m to the right of camera 2.
CAMERAS = """calib_time: 09-Jan-2012 13:57:47
R_rect_00: 1 0 0 0 1 0 0 0 1
S_rect_02: 160 96
P_rect_02: 200 0 76.5 12 0 200 47.5 0 0 0 1 0
S_rect_03: 160 96
P_rect_03: 200 0 76.5 -88 0 200 47.5 0 0 0 1 0
"""
LIDAR = """calib_time: 15-Mar-2012 11:37:16
R: 0 -1 0 0 0 -1 1 0 0
T: 0 0 -0.25
delta_f: 0 0
"""


def write_sweep(path: Path, points: list[tuple[float, float, float]]) -> None:
    """x forward, y left, z up, m; the fourth number is what the surface reflects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.array([(*point, 0.5) for point in points], "<f4").tobytes())


def write_raw(root: Path, frames: tuple[int, ...] = (69, 70)) -> Path:
    """The folder of KITTI raw; frame 69 shows two points of the LiDAR, frame 70 one."""
    date = root / DATE
    drive = date / DRIVE
    for name in ("image_02", "image_03"):
        (drive / name / "data").mkdir(parents=True)
    (date / "calib_cam_to_cam.txt").write_text(CAMERAS)
    (date / "calib_velo_to_cam.txt").write_text(LIDAR)
    for seed, frame in enumerate(frames):
        left, right, _ = planes(seed, *SIZE)
        write_image(drive / "image_02" / "data" / f"{frame:010d}.png", left)
        write_image(drive / "image_03" / "data" / f"{frame:010d}.png", right)
        # 10 m before camera 2: u = 76.5 + 12 / 10 = 77.7, v = 47.5 + 200 * 0.45 / 10 = 56.5 + a little
        points = [(10.25, 0.0, -0.4525), (4.25, 1.0, -0.4525)][: 2 - seed]
        write_sweep(drive / "velodyne_points" / "data" / f"{frame:010d}.bin", points)
    return root


def write_frames(path: Path, *lines: str) -> Path:
    """A list of frames; by default the two that there are."""
    path.write_text("\n".join(lines or (f"{DATE}/{DRIVE} 0000000069 l", f"{DATE}/{DRIVE} 70 l")) + "\n")
    return path
