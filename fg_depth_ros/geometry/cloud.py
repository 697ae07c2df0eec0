"""Organised point clouds from depth images."""

from __future__ import annotations

import numpy as np

from fg_depth_ros.geometry.rig import StereoRig


def organised_points(depth: np.ndarray, rig: StereoRig, stride: int = 1) -> np.ndarray:
    """Return the points of every ``stride``-th pixel in the left optical frame (x right, y down, z forward).

    Pinhole back-projection: ``X = (x - cx) * Z / fx``, ``Y = (y - cy) * Z / fy``.

    Args:
        depth: H x W m, at the rig's size.
        rig: of the depth image.
        stride: px, at least 1.

    Returns:
        ceil(H / stride) x ceil(W / stride) x 3 float32 m; all three are NaN where the depth is not finite.

    Raises:
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
    points = np.empty((*z.shape, 3), dtype=np.float32)
    np.multiply(z, rays_x, out=points[..., 0])
    np.multiply(z, rays_y[:, None], out=points[..., 1])
    points[..., 2] = z
    return points
