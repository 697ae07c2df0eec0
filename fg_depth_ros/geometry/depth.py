"""Disparity <-> depth of a rectified pair, and how an error of the one becomes an error of the other.

All functions take numpy arrays or torch tensors of any shape and return the same kind, float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fg_depth_ros.geometry._arrays import ArrayT, array_module, as_float32
from fg_depth_ros.geometry.rig import StereoRig


def disparity_to_depth(disparity: ArrayT, rig: StereoRig) -> ArrayT:
    """Convert disparity to depth along the optical axis (REP 118): ``Z = fx * baseline / (d + doffs)``.

    Args:
        disparity: ``x_left - x_right``, px of the rig's image size; of any shape.
        rig: of the images.

    Returns:
        Depth, m; NaN where the disparity is NaN or ``d + doffs <= 0`` (at or beyond infinity).
    """
    shifted: Any = as_float32(disparity) + np.float32(rig.doffs).item()
    xp = array_module(disparity)
    usable = shifted > 0
    # Dividing by 1 where the result is not used avoids numpy's warnings.
    depth = rig.fx * rig.baseline / xp.where(usable, shifted, xp.ones_like(shifted))
    return as_float32(xp.where(usable, depth, xp.full_like(shifted, float("nan"))))


def depth_to_disparity(depth: ArrayT, rig: StereoRig) -> ArrayT:
    """Convert depth to disparity: ``d = fx * baseline / Z - doffs``.

    Args:
        depth: m, of any shape.
        rig: of the images.

    Returns:
        Image disparity, px; NaN where the depth is NaN, infinite or not positive.
    """
    metres: Any = as_float32(depth)
    xp = array_module(depth)
    usable = (metres > 0) & xp.isfinite(metres)
    disparity = rig.fx * rig.baseline / xp.where(usable, metres, xp.ones_like(metres)) - rig.doffs
    return as_float32(xp.where(usable, disparity, xp.full_like(metres, float("nan"))))


def depth_sigma(depth: ArrayT, disparity_sigma: ArrayT, rig: StereoRig) -> ArrayT:
    """Propagate a standard deviation of disparity to depth: ``sigma_Z = Z^2 * sigma_d / (fx * baseline)``.

    First order, from ``Z = fx * baseline / (d + doffs)``.

    Args:
        depth: m, of any shape.
        disparity_sigma: px, of the same shape.
        rig: of the images.

    Returns:
        One standard deviation of the depth, m; NaN where either is NaN.
    """
    metres: Any = as_float32(depth)
    sigma: Any = as_float32(disparity_sigma)
    return as_float32(metres * metres * sigma / (rig.fx * rig.baseline))
