"""Disparity <-> depth of a rectified pair, and how an error of the one becomes an error of the other.

All functions take numpy arrays or torch tensors of any shape and return the same kind, float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fg_depth_ros.geometry._arrays import ArrayT, array_module, as_float32
from fg_depth_ros.geometry.rig import StereoRig


def disparity_to_depth(disparity: ArrayT, rig: StereoRig) -> ArrayT:
    """Depth in metres along the optical axis: `Z = fx * baseline / (d + doffs)` (REP 118 meaning of depth).

    `disparity`: image disparity `x_left - x_right` in pixels of the rig's image size. NaN where the disparity
    is NaN or where `d + doffs <= 0` (at or beyond infinity).
    """
    shifted: Any = as_float32(disparity) + np.float32(rig.doffs).item()
    xp = array_module(disparity)
    usable = shifted > 0
    # Dividing by 1 where nothing may be divided keeps numpy free of warnings; the result there is thrown
    # away.
    depth = rig.fx * rig.baseline / xp.where(usable, shifted, xp.ones_like(shifted))
    return as_float32(xp.where(usable, depth, xp.full_like(shifted, float("nan"))))


def depth_to_disparity(depth: ArrayT, rig: StereoRig) -> ArrayT:
    """Image disparity in pixels: `d = fx * baseline / Z - doffs`. NaN where Z is NaN, infinite or <= 0."""
    metres: Any = as_float32(depth)
    xp = array_module(depth)
    usable = (metres > 0) & xp.isfinite(metres)
    disparity = rig.fx * rig.baseline / xp.where(usable, metres, xp.ones_like(metres)) - rig.doffs
    return as_float32(xp.where(usable, disparity, xp.full_like(metres, float("nan"))))


def depth_sigma(depth: ArrayT, disparity_sigma: ArrayT, rig: StereoRig) -> ArrayT:
    """One standard deviation of the depth in metres: `sigma_Z = Z^2 * sigma_d / (fx * baseline)`.

    First-order propagation through `Z = fx * baseline / (d + doffs)`; `disparity_sigma` in pixels, same shape
    as `depth` (metres). NaN where either is NaN.
    """
    metres: Any = as_float32(depth)
    sigma: Any = as_float32(disparity_sigma)
    return as_float32(metres * metres * sigma / (rig.fx * rig.baseline))
