"""Disparity <-> depth of a rectified pair, their errors, the scale between depth maps, and organised point clouds.

The conversions take numpy arrays or torch tensors of any shape and return the same kind, float32; clouds and scales are
numpy.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from fg_depth_ros.geometry._arrays import ArrayT, array_module, as_float32
from fg_depth_ros.geometry.rig import StereoRig


def disparity_to_depth(disparity: ArrayT, rig: StereoRig) -> ArrayT:
    """Convert disparity to depth along the optical axis (REP 118): ``Z = fx * baseline / (d + doffs)``.

    ``disparity``: ``x_left - x_right``, px of the rig's image size; of any shape. Returns m; NaN where the disparity is
    NaN or ``d + doffs <= 0`` (at or beyond infinity).
    """
    shifted: Any = as_float32(disparity) + np.float32(rig.doffs).item()
    xp = array_module(disparity)
    usable = xp.where(shifted > 0, shifted, xp.full_like(shifted, float("nan")))
    return as_float32(rig.fx * rig.baseline / usable)


def depth_to_disparity(depth: ArrayT, rig: StereoRig) -> ArrayT:
    """Convert depth (m) to disparity (px): ``d = fx * baseline / Z - doffs``; NaN where it is not positive, or inf."""
    metres: Any = as_float32(depth)
    xp = array_module(depth)
    usable = (metres > 0) & xp.isfinite(metres)
    disparity = rig.fx * rig.baseline / xp.where(usable, metres, xp.ones_like(metres)) - rig.doffs
    return as_float32(xp.where(usable, disparity, xp.full_like(metres, float("nan"))))


def depth_sigma(depth: ArrayT, disparity_sigma: ArrayT, rig: StereoRig) -> ArrayT:
    """Propagate a standard deviation of disparity to depth: ``sigma_Z = Z^2 * sigma_d / (fx * baseline)``.

    First order, from ``Z = fx * baseline / (d + doffs)``. ``depth``: m; ``disparity_sigma``: px, of the same shape.
    Returns one standard deviation of the depth, m; NaN where either is NaN.
    """
    metres: Any = as_float32(depth)
    sigma: Any = as_float32(disparity_sigma)
    return as_float32(metres * metres * sigma / (rig.fx * rig.baseline))


def organised_points(depth: np.ndarray, rig: StereoRig, stride: int = 1) -> np.ndarray:
    """Return the points of every ``stride``-th pixel in the left optical frame (x right, y down, z forward).

    Pinhole back-projection of H x W m at the rig's size: ``X = (x - cx) * Z / fx``, ``Y = (y - cy) * Z / fy``. Returns
    ceil(H / stride) x ceil(W / stride) x 3 float32 m; all three are NaN where the depth is not finite. Raises
    ValueError: depth and rig differ in size, or ``stride`` is below 1.
    """
    if depth.shape != (rig.height, rig.width):
        raise ValueError(
            f"depth is {depth.shape[1]}x{depth.shape[0]} and the rig {rig.width}x{rig.height} pixels: "
            "use rig.scaled(width, height) of the depth image"
        )
    if stride < 1:
        raise ValueError(f"stride is {stride}: it must be at least 1")
    z = np.asarray(depth[::stride, ::stride], dtype=np.float32)
    z = np.where(np.isfinite(z), z, np.float32(np.nan))
    rays_x = ((np.arange(0, rig.width, stride) - rig.cx) / rig.fx).astype(np.float32)
    rays_y = ((np.arange(0, rig.height, stride) - rig.cy) / rig.fy).astype(np.float32)
    return np.asarray(cv2.merge([z * rays_x, z * rays_y[:, None], z]))


def nearest_depth(pixels: np.ndarray, depth: np.ndarray, width: int, height: int) -> np.ndarray:
    """Project points to a depth map H x W float32 m, NaN without a point; of several in one pixel the nearest counts.

    ``pixels``: N x 2 (u, v) px, rounded to the nearest centre; ``depth``: N, m, what is not positive is left out.
    """
    pixels = np.rint(pixels)
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1) & (depth > 0)
    column, row = pixels[inside].astype(np.int64).T
    nearest = np.full((height, width), np.inf)
    np.minimum.at(nearest, (row, column), depth[inside])
    return np.where(np.isfinite(nearest), nearest, np.nan).astype(np.float32)


def scale_between(depth: np.ndarray, reference: np.ndarray, trusted: np.ndarray, least: int = 200) -> float | None:
    """Return the factor from ``depth`` to ``reference``: ``exp(median(log(reference / depth)))``.

    The median resists errors in less than half of the pixels (the median scaling of Zhou et al., CVPR 2017, with the
    ratio taken pixel by pixel). H x W m both; what is not finite, not positive or not ``trusted`` (H x W bool) is left
    out. Returns None where fewer than ``least`` pixels are left. Raises ValueError: the sizes differ.
    """
    if not depth.shape == reference.shape == trusted.shape:
        raise ValueError(
            f"depth is {depth.shape}, reference {reference.shape} and trusted {trusted.shape}: sizes must agree"
        )
    a, b = depth[trusted].astype(np.float64), reference[trusted].astype(np.float64)
    usable = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    if np.count_nonzero(usable) < least:
        return None
    return float(np.exp(np.median(np.log(b[usable]) - np.log(a[usable]))))
