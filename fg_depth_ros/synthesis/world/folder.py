"""Virtual worlds on disk, as a folder of pairs with truth (``open_stereo_folder`` reads it)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from fg_depth_ros.data.io.calibration import write_rig
from fg_depth_ros.data.io.formats import write_image, write_kitti_disparity
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.files import atomic_write, refuse_present
from fg_depth_ros.geometry import StereoRig

POSES = "poses.txt"
_LARGEST = 65535 / 256  # what the PNGs can hold


def write_world(
    out: str | Path, rig: StereoRig, frames: Callable[[int], StereoSample], count: int,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> None:  # fmt: skip
    """Write ``count`` pairs with true disparity, depth, rig and poses; ``frames`` gives the one with a number.

    ``out`` holds left/ and right/: 000000.png ...; disp/: true disparity (KITTI, px / 256); depth/: true depth (KITTI,
    m / 256); rig.json; and, where frames have poses, poses.txt: row by row the 3 x 4 that takes points of each frame to
    the first. In disp and depth 0 means unknown: the sky, and what is farther than 255.99 m or has more than 255.99 px.
    Every file appears complete, a pair's right picture last; rig.json comes first, poses.txt when all pairs are there.

    Raises ValueError: a count that is not positive. Raises FileError: the folder holds pairs or cannot be written to.
    """
    if count < 1:
        raise ValueError(f"count is {count}; at least one frame is written")
    out = Path(out)
    refuse_present(out / "left", "pictures")
    poses = []
    write_rig(out / "rig.json", rig)
    for number in track(range(count)):
        frame, name = frames(number), f"{number:06d}.png"
        disparity, depth, (left, right) = frame.truth(), frame.true_depth(), frame.images()
        assert disparity is not None and depth is not None
        for folder, values in (("disp", disparity), ("depth", depth)):
            write_kitti_disparity(out / folder / name, np.where(values <= _LARGEST, values, np.nan))
        for folder, picture in (("left", left), ("right", right)):
            write_image(out / folder / name, picture)
        if frame.pose is not None:
            poses.append(frame.pose)
    if poses:
        lines = [" ".join(f"{value:.9e}" for value in pose[:3].reshape(-1)) for pose in poses]
        with atomic_write(out / POSES, sync=False) as path:
            path.write_text("\n".join(lines) + "\n")
