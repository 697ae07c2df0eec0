"""Backward warping of the right image onto the left one by the left image's disparity."""

from __future__ import annotations

from typing import Any

import numpy as np

from fg_depth_ros.geometry._arrays import ArrayT, array_module, as_float32


def warp_right_to_left(image: ArrayT, disparity: ArrayT) -> tuple[ArrayT, ArrayT]:
    """Warp the right image to the left camera: ``out(x, y) = image(x - d(x, y), y)``, bilinear along the row.

    ``image``: numpy H x W or H x W x C, or torch N x C x H x W; ``disparity``: px, H x W or N x 1 x H x W. Gradients of
    torch flow to both. Returns the warped image, float32, zero where it is not valid, and the validity, bool of the
    shape of ``disparity``: False where that is not finite or the match is outside the image. Raises ValueError: shapes
    that do not fit.
    """
    xp = array_module(image)
    _check_shapes(image, disparity, torch_layout=xp is not np)
    pixels: Any = as_float32(image)
    shift: Any = as_float32(disparity)
    width = shift.shape[-1]
    columns = xp.arange(width, dtype=xp.float32)
    if xp is not np:
        columns = columns.to(shift.device)
    target = columns - shift
    valid = (target >= 0) & (target <= width - 1)  # False for NaN
    safe = xp.where(valid, target, xp.zeros_like(target))
    first = xp.floor(safe)
    weight = safe - first
    if xp is np:
        left = first.astype(np.int64)
        right = np.minimum(left + 1, width - 1)
        rows = np.arange(shift.shape[0])[:, None]
        keep = valid
        if pixels.ndim == 3:
            weight, keep = weight[..., None], valid[..., None]
        warped = pixels[rows, left] * (1.0 - weight) + pixels[rows, right] * weight
        return np.where(keep, warped, np.float32(0.0)).astype(np.float32, copy=False), valid  # type: ignore[return-value]
    left = first.long().expand(-1, pixels.shape[1], -1, -1)
    right = (left + 1).clamp(max=width - 1)
    warped = pixels.gather(3, left) * (1.0 - weight) + pixels.gather(3, right) * weight
    return xp.where(valid, warped, xp.zeros_like(warped)), valid


def _check_shapes(image: Any, disparity: Any, *, torch_layout: bool) -> None:
    found = f"image {tuple(image.shape)} and disparity {tuple(disparity.shape)}"
    if torch_layout:
        if image.ndim != 4 or disparity.ndim != 4 or disparity.shape[1] != 1:
            raise ValueError(f"expected image NxCxHxW and disparity Nx1xHxW, got {found}")
        fits = image.shape[0] == disparity.shape[0] and image.shape[2:] == disparity.shape[2:]
    else:
        if image.ndim not in (2, 3) or disparity.ndim != 2:
            raise ValueError(f"expected image HxW or HxWxC and disparity HxW, got {found}")
        fits = image.shape[:2] == disparity.shape
    if not fits:
        raise ValueError(f"image and disparity must have one size, got {found}: resize the disparity to the image")
