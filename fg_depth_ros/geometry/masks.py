"""Label the pixels of a disparity map that cannot be trusted with the reason, and fill them (numpy, H x W)."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Label(IntEnum):
    """Values of ``mask/labels``, one per pixel."""

    VALID = 0
    OUT_OF_RANGE = 1  # no match, or depth outside [min_depth, max_depth]
    LEFT_RIGHT_MISMATCH = 2  # not seen by the right camera, or the two views disagree
    LEAVES_IMAGE = 3  # the match lies outside the right image
    VERTICAL_FLOW = 4  # a flow network's match lies too far from the row of its pixel
    LOW_CONFIDENCE = 5
    FILLED_FROM_MONO = 6
    UNSUPPORTED = 7  # too little texture or light to match, or the images do not agree


def leaves_image(disparity: np.ndarray) -> np.ndarray:
    """Return where (bool H x W) the match of pixel x, column ``x - d``, is outside the right image; False for NaN."""
    target = np.arange(disparity.shape[1], dtype=np.float32) - disparity
    return (target < 0) | (target > disparity.shape[1] - 1)


def left_right_mismatch(disp_left: np.ndarray, disp_right: np.ndarray, threshold: float) -> np.ndarray:
    """Return where (bool H x W) the right view's disparity differs from the left one by more than ``threshold`` px.

    True where one of both is NaN; False where the match leaves the image (see ``leaves_image``). Arguments and errors
    as for ``left_right_difference``.
    """
    agrees = left_right_difference(disp_left, disp_right) <= threshold  # False for NaN
    return ~agrees & ~leaves_image(disp_left)


def left_right_difference(disp_left: np.ndarray, disp_right: np.ndarray) -> np.ndarray:
    """Return by how much the right view's disparity differs from the left one, px, H x W float32.

    Both are ``x_left - x_right``, H x W px, each in its own image. The right value is taken at the nearest column to
    ``x - disp_left(x)``. NaN where one of both is NaN, and where the match leaves the image. Raises ValueError: the
    sizes differ.
    """
    if disp_left.shape != disp_right.shape:
        raise ValueError(f"left disparity is {disp_left.shape} and right {disp_right.shape}: sizes must agree")
    width = disp_left.shape[1]
    target = np.arange(width, dtype=np.float32) - disp_left
    outside = leaves_image(disp_left)
    column = np.rint(np.where(np.isfinite(target) & ~outside, target, 0.0)).astype(np.int64)
    matched = np.take_along_axis(disp_right, column, axis=1)
    return np.where(outside, np.float32(np.nan), np.abs(disp_left - matched))


def hidden_by_nearer(disparity: np.ndarray, threshold: float) -> np.ndarray:
    """Return where (bool H x W) a nearer surface covers the same pixel of the right image: half-occlusion.

    Needs one disparity map only: project every left pixel to its right column, keep the nearest one per column
    (z-buffer), and call hidden what is more than ``threshold`` px behind it. A pixel falls between two columns; both
    must be covered by something nearer. NaN never hides nor is hidden.
    """
    height, width = disparity.shape
    values = np.asarray(disparity, dtype=np.float32)
    target = np.arange(width, dtype=np.float32) - values
    inside = (target >= 0) & (target <= width - 1)
    # One slot per right pixel, and a spare one on the right of each row for what lies outside.
    column = np.where(inside, target, np.float32(width))
    np.floor(column, out=column)
    rows = np.arange(0, height * (width + 1), width + 1, dtype=np.int32)[:, None]
    slot = (column.astype(np.int32) + rows).astype(np.intp).reshape(-1)
    # What hits a column exactly covers that one alone. It is little where disparities are not rounded.
    exact = np.flatnonzero((column == target) & inside)
    values = values.reshape(-1)
    exact_slot, exact_value = slot[exact], values[exact]
    slot[exact] = width
    # Among pixels with one floor(x - d), a larger x has the larger d, so writing in raster order leaves the
    # nearest one: numpy keeps the last value of a repeated index.
    floors = np.full(height * (width + 1), -np.inf, dtype=np.float32)
    floors[slot] = values
    floors[width :: width + 1] = -np.inf
    nearest = floors.copy()
    np.maximum(floors[1:], floors[:-1], out=nearest[1:])
    nearest[exact_slot] = np.maximum(nearest[exact_slot], exact_value)
    covered = floors  # the farther of what covers a column and what covers the next one
    np.minimum(nearest[:-1], nearest[1:], out=covered[:-1])
    limit = values + np.float32(threshold)
    hidden = covered.take(slot) > limit
    hidden[exact] = nearest[exact_slot] > limit[exact]
    return hidden.reshape(height, width)


def label_pixels(
    depth: np.ndarray, *, min_depth: float, max_depth: float, leaves: np.ndarray | None = None,
    mismatch: np.ndarray | None = None, off_row: np.ndarray | None = None, unsupported: np.ndarray | None = None,
    unsure: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Return one ``Label`` per pixel, uint8 H x W.

    Where several checks fail the first in this order is the label: out of range, leaves the image, left-right mismatch,
    vertical flow, unsupported, low confidence. ``depth``: H x W m, NaN = no match; ``leaves``, ``mismatch``,
    ``off_row``, ``unsupported``, ``unsure``: bool H x W, True where this check failed; None = not checked. Raises
    ValueError: the sizes differ.
    """
    labels = np.full(depth.shape, Label.VALID, dtype=np.uint8)
    # Written from the weakest reason to the strongest, so that the strongest stays.
    for failed, label in (
        (unsure, Label.LOW_CONFIDENCE),
        (unsupported, Label.UNSUPPORTED),
        (off_row, Label.VERTICAL_FLOW),
        (mismatch, Label.LEFT_RIGHT_MISMATCH),
        (leaves, Label.LEAVES_IMAGE),
        (~((depth >= min_depth) & (depth <= max_depth)), Label.OUT_OF_RANGE),
    ):
        if failed is not None:
            if failed.shape != depth.shape:
                raise ValueError(f"mask for {label.name} is {failed.shape} and depth {depth.shape}: sizes must agree")
            labels[failed] = label
    return labels


def complete_occluded(disparity: np.ndarray, threshold: float = 1.5) -> np.ndarray:
    """Fill the pixels that the right camera cannot see from the background next to them; returns a new map.

    What is behind a nearer surface or outside the right image cannot be matched; the surface that is half hidden is the
    farther one next to it. Holes (NaN) are filled too. ``threshold``: as for ``hidden_by_nearer``, px.
    """
    unseen = hidden_by_nearer(disparity, threshold) | leaves_image(disparity)
    return fill_holes_kitti(np.where(unseen, np.float32(np.nan), disparity))


def fill_holes_kitti(disparity: np.ndarray) -> np.ndarray:
    """Fill the holes (NaN) of a disparity map with the background next to them; returns a new float32 map.

    The background interpolation of the KITTI stereo devkit: along the row a hole takes the smaller (farther) of the
    two values that enclose it, and at the image's side the one there is; then rows without any value are filled in the
    same way along the columns. A map without any value stays as it is. One difference: the devkit leaves an empty row
    between two filled ones empty, here it is filled as well.

    ``disparity``: H x W px. Raises ValueError: not a map H x W.
    """
    if disparity.ndim != 2:
        raise ValueError(f"expected a disparity map HxW, got shape {disparity.shape}")
    rows = _fill_along_rows(np.asarray(disparity, dtype=np.float32))
    return rows if np.isfinite(rows).all() else np.ascontiguousarray(_fill_along_rows(rows.T).T)


def _fill_along_rows(values: np.ndarray) -> np.ndarray:
    filled, holes = values.copy(), ~np.isfinite(values)
    if not holes.any():
        return filled
    # With a column without value on both sides a run of holes ends in its row.
    edges = np.flatnonzero(np.diff(np.pad(holes, ((0, 0), (1, 1))).reshape(-1)))
    first, last = edges[::2], edges[1::2]  # before a run, and its last one
    known = np.pad(values, ((0, 0), (1, 1)), constant_values=np.nan).reshape(-1)
    enclosing = np.fmin(known[first], known[last + 1])  # the one that is known where the other is not
    filled[holes] = np.repeat(enclosing, last - first)
    return filled
