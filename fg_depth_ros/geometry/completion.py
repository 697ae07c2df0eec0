"""Dense disparity: holes and half-occlusions take the background beside them."""

from __future__ import annotations

import numpy as np

from fg_depth_ros.geometry.masks import hidden_by_nearer, leaves_image


def complete_occluded(disparity: np.ndarray, threshold: float = 1.5) -> np.ndarray:
    """Fill the pixels that the right camera cannot see from the background beside them; returns a new map.

    What is behind a nearer surface or outside the right image cannot be matched; the surface that is half hidden is the
    farther one beside it. Holes (NaN) are filled too.

    Args:
        disparity: H x W px.
        threshold: as for ``hidden_by_nearer``, px.
    """
    unseen = hidden_by_nearer(disparity, threshold) | leaves_image(disparity)
    return fill_holes_kitti(np.where(unseen, np.float32(np.nan), disparity))


def fill_holes_kitti(disparity: np.ndarray) -> np.ndarray:
    """Fill the holes (NaN) of a disparity map with the background beside them; returns a new float32 map.

    The background interpolation of the KITTI stereo devkit: along the row a hole takes the smaller (farther) of the
    two values that enclose it, and at the image's side the one there is; then rows without any value are filled in the
    same way along the columns. A map without any value stays as it is. One difference: the devkit leaves an empty row
    between two filled ones empty, here it is filled as well.

    Args:
        disparity: H x W px.

    Raises:
        ValueError: not a map H x W.
    """
    if disparity.ndim != 2:
        raise ValueError(f"expected a disparity map HxW, got shape {disparity.shape}")
    rows = _fill_along_rows(np.asarray(disparity, dtype=np.float32))
    return np.ascontiguousarray(_fill_along_rows(rows.T).T)


def _fill_along_rows(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    if known.all():
        return values.copy()
    width = values.shape[1]
    index = np.arange(width)
    before = np.maximum.accumulate(np.where(known, index, -1), axis=1)
    after = np.minimum.accumulate(np.where(known, index, width)[:, ::-1], axis=1)[:, ::-1]
    nan = np.float32(np.nan)
    left = np.where(before >= 0, np.take_along_axis(values, np.maximum(before, 0), axis=1), nan)
    right = np.where(after < width, np.take_along_axis(values, np.minimum(after, width - 1), axis=1), nan)
    return np.fmin(left, right)  # the one that is known where the other is not
