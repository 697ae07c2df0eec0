"""Thinning of point clouds: an axis-aligned box, and one point for each voxel."""

from __future__ import annotations

import cv2
import numpy as np


def inside_box(points: np.ndarray, low: np.ndarray, high: np.ndarray, to_box: np.ndarray | None = None) -> np.ndarray:
    """Tell which points lie in a box, its sides included.

    Args:
        points: ... x 3 float32 m; NaN is outside.
        low, high: corners of the box, m.
        to_box: 4 x 4, takes points into the frame of the box; None = they are in it.

    Returns bool, shaped as ``points`` without its last axis.
    """
    if to_box is not None:
        points = cv2.transform(points.reshape(-1, 1, 3), to_box[:3]).reshape(points.shape)
    inside = np.ones(points.shape[:-1], bool)
    for axis in range(3):
        values = points[..., axis]
        inside &= (values >= np.float32(low[axis])) & (values <= np.float32(high[axis]))
    return inside


def voxel_means(points: np.ndarray, colours: np.ndarray | None, size: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Return one point for each occupied voxel, the mean of its points, with their mean colour (rounded).

    Voxel (i, j, k) holds ``i <= x / size < i + 1`` and so on, in the points' own frame.

    Args:
        points: N x 3 float32 m, finite.
        colours: N or N x 3 uint8; None without.
        size: side of a voxel, m.

    Returns M x 3 float32 m, and M or M x 3 uint8. In the order of the voxels, x first.
    """
    if not len(points):
        return points, colours
    voxel, count = _number_voxels([np.floor(points[:, axis] * np.float32(1 / size)) for axis in range(3)])
    counts = np.bincount(voxel, minlength=count)

    def means(values: np.ndarray) -> np.ndarray:
        columns = [values] if values.ndim == 1 else list(values.T)
        found = [np.bincount(voxel, column, count) / counts for column in columns]
        return found[0] if values.ndim == 1 else np.stack(found, axis=-1)

    colour = None if colours is None else np.rint(means(colours)).astype(np.uint8)
    return means(points).astype(np.float32), colour


def _number_voxels(cells: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """Return the number of each of N triples of whole numbers (x, y, z) in their order, and how many differ."""
    x, y, z = ((axis - axis.min()).astype(np.int64) for axis in cells)
    spans = [int(axis.max()) + 1 for axis in (x, y, z)]
    bits = len(x).bit_length()
    if (spans[0] * spans[1] * spans[2]).bit_length() + bits > 63:  # far more voxels than points: rare
        x = np.unique(np.stack([x, y]), axis=1, return_inverse=True)[1].reshape(-1)
        keys = x * spans[2] + z
        numbers = np.unique(keys, return_inverse=True)[1]
        return numbers, int(numbers.max()) + 1
    # A sort of whole numbers is several times faster than one that returns the order, so they bring it with them.
    keys = ((x * spans[1] + y) * spans[2] + z) << bits | np.arange(len(x))
    keys.sort()
    order, keys = keys & ((1 << bits) - 1), keys >> bits
    number = np.cumsum(np.concatenate([[0], keys[1:] != keys[:-1]]))
    numbers = np.empty(len(x), np.int64)
    numbers[order] = number
    return numbers, int(number[-1]) + 1
