"""What an estimate holds, as files that other tools read."""

from __future__ import annotations

import os
import tempfile
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
from fg_depth_ros.evaluation.reports import figures
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import organised_points
from fg_depth_ros.geometry.flow_colour import colour_flow
from fg_depth_ros.inference import StereoEstimate


def write_disparity(disparity: np.ndarray, folder: Path, name: str) -> list[Path]:
    """Disparity alone, for pairs without calibration: ``.pfm``, KITTI's 16-bit PNG, a coloured picture.

    ``.pfm`` marks pixels without answer as +inf (Middlebury), the PNG as 0 (KITTI).
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}_disparity{end}" for end in (".pfm", ".png", "_colour.png")]
    write_pfm(paths[0], np.where(np.isfinite(disparity), disparity, np.float32(np.inf)))
    write_kitti_disparity(paths[1], np.where(disparity > 0, disparity, np.float32(np.nan)))
    write_image(paths[2], figures.colour_disparity(disparity))
    return paths


def write_estimate(estimate: StereoEstimate, left: np.ndarray, folder: Path, name: str) -> list[Path]:
    """Everything: disparity as ``write_disparity``, depth (.npy float32 m with NaN; 16-bit PNG in mm), labels, cloud.

    Args:
        estimate: of the pair.
        left: H x W x 3 uint8 RGB, the colours of the cloud.
        folder: where to; made if missing.
        name: what the files begin with.

    Returns:
        The paths written.
    """
    paths = write_disparity(estimate.disparity, folder, name)
    depth = estimate.depth
    ends = ("_depth.npy", "_depth.png", "_depth_colour.png", "_labels.png", "_cloud.ply")
    npy, png, colour, labels, cloud = (folder / f"{name}{end}" for end in ends)
    with open(npy, "wb") as stream:
        np.save(stream, depth)
    write_png_depth(png, depth)
    known = depth[np.isfinite(depth)]
    low, high = np.percentile(known, (2, 98)) if known.size else (0.0, 1.0)
    write_image(colour, figures.colour_depth(depth, float(low), float(max(high, low + 1e-3))))
    write_image(labels, figures.colour_labels(estimate.labels))
    write_ply(cloud, organised_points(depth, estimate.rig), left)
    return [*paths, npy, png, colour, labels, cloud]


def write_flow(flow: np.ndarray, folder: Path, name: str) -> list[Path]:
    """Optical flow as ``.flo``, as KITTI's 16-bit PNG, and as a picture in Middlebury's colours.

    The files appear under their names only when all of them are complete. The PNG holds 1/64 px and at most 512 px:
    longer flow is marked as unknown in it.

    Args:
        flow: H x W x 2 px, NaN = unknown.
        folder: where to; made if missing.
        name: what the files begin with.

    Returns:
        The paths written.

    Raises:
        FileError: the folder cannot be written to.
    """
    ends = ("_flow.flo", "_flow.png", "_flow_colour.png")
    fits = (np.abs(flow) < 511.98).all(-1, keepdims=True)  # NaN does not
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".flow_", dir=folder) as unfinished:
            parts = [Path(unfinished) / end for end in ends]
            write_flo(parts[0], flow)
            write_kitti_flow(parts[1], np.where(fits, flow, np.float32(np.nan)))
            write_image(parts[2], colour_flow(flow))
            paths = [folder / f"{name}{end}" for end in ends]
            for part, path in zip(parts, paths, strict=True):
                os.replace(part, path)
    except OSError as error:
        raise FileError(f"{folder}: cannot be written to ({error.strerror}); choose another folder") from error
    return paths
