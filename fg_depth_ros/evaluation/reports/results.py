"""Files of an estimate that other tools read; those of one estimate appear together, when all are complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fg_depth_ros.data.io.formats import (
    write_flo,
    write_image,
    write_kitti_disparity,
    write_kitti_flow,
    write_pfm,
    write_ply,
    write_png_depth,
)
from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.files import atomic_write
from fg_depth_ros.geometry import organised_points
from fg_depth_ros.geometry.depth_colour import colour_depth, colour_disparity
from fg_depth_ros.inference import StereoEstimate

Writer = Callable[[Path], object]


def write_disparity(disparity: np.ndarray, folder: Path, name: str) -> list[Path]:
    """Write disparity alone, for pairs without calibration: ``.pfm``, KITTI's 16-bit PNG, a coloured picture.

    ``disparity``: H x W px, NaN = no prediction, which is +inf in the ``.pfm`` (Middlebury) and 0 in the PNG (KITTI).
    The PNG holds at most 255.99 px: larger disparities are unknown in it.
    Returns the paths, which begin with ``folder/name``. Raises WriteError: a file cannot be written, and none of them
    changes; or it cannot be renamed, and some have changed.
    """
    return _write(folder, name, _disparity(disparity))


def write_estimate(estimate: StereoEstimate, left: np.ndarray, folder: Path, name: str) -> list[Path]:
    """Write as ``write_disparity``, and depth (.npy m; 16-bit PNG mm), labels and the cloud in colours of ``left``."""
    depth = estimate.depth
    near, far = visualization.depth_range(depth)
    middle = 2 / (1 / near + 1 / far)  # colours follow the inverse of depth
    ends = (f"{distance:.2f} m" for distance in (far, middle, near))
    depth_colours = visualization.with_scale(colour_depth(depth, near, far), *ends)
    writers: dict[str, Writer] = {
        **_disparity(estimate.disparity),
        "_depth.npy": lambda path: np.save(path, depth),
        "_depth.png": lambda path: write_png_depth(path, depth),
        "_depth_colour.png": lambda path: write_image(path, depth_colours),
        "_labels.png": lambda path: write_image(path, visualization.with_label_legend(estimate.labels)),
        "_cloud.ply": lambda path: write_ply(path, organised_points(depth, estimate.rig), left),
    }
    return _write(folder, name, writers)


def write_flow(flow: np.ndarray, folder: Path, name: str) -> list[Path]:
    """Write optical flow as ``.flo``, as KITTI's 16-bit PNG, and as a picture in Middlebury's colours.

    ``flow``: H x W x 2 px, NaN = unknown. The PNG holds 1/64 px and at most 512 px: longer flow is unknown in it.
    Returns and raises as ``write_disparity``.
    """
    fits = (np.abs(flow) < 511.98).all(-1, keepdims=True)  # NaN does not
    writers: dict[str, Writer] = {
        "_flow.flo": lambda path: write_flo(path, flow),
        "_flow.png": lambda path: write_kitti_flow(path, np.where(fits, flow, np.float32(np.nan))),
        "_flow_colour.png": lambda path: write_image(path, visualization.with_flow_wheel(flow)),
    }
    return _write(folder, name, writers)


def _disparity(disparity: np.ndarray) -> dict[str, Writer]:
    largest = float(np.max(disparity, where=np.isfinite(disparity), initial=0.0))
    ends = (f"{part * largest:.1f} px" for part in (0, 0.5, 1))
    colours = visualization.with_scale(colour_disparity(disparity, largest), *ends)
    return {
        "_disparity.pfm": lambda path: write_pfm(path, np.where(np.isfinite(disparity), disparity, np.float32(np.inf))),
        "_disparity.png": lambda path: write_kitti_disparity(
            path, np.where((disparity > 0) & (disparity < 255.99), disparity, np.float32(np.nan))
        ),
        "_disparity_colour.png": lambda path: write_image(path, colours),
    }


def _write(folder: Path, name: str, writers: Mapping[str, Writer]) -> list[Path]:
    """Write files by their endings; they are renamed, one by one, when the last one is complete."""
    paths = [folder / f"{name}{end}" for end in writers]
    with ExitStack() as files:
        for path, write in zip(paths, writers.values(), strict=True):
            write(files.enter_context(atomic_write(path, sync=False)))
    return paths
