"""Resizing of images and of fields in pixels (numpy). The calibration is resized by ``StereoRig.scaled``."""

from __future__ import annotations

import math

import cv2
import numpy as np

_SMALLEST = 16  # px
_AREA_LIMIT, _AREA_WEIGHT = math.log(1.6), 0.2  # of another area, against another shape


def scaled_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Return width and height times ``scale``, rounded, each at least 16 px."""
    return max(_SMALLEST, round(width * scale)), max(_SMALLEST, round(height * scale))


def size_with_area(width: float, height: float, area: float, multiple: int = 32) -> tuple[int, int]:
    """Return the size, multiples of ``multiple`` px, that keeps the shape best at about an area in px^2.

    A tenth more or less area counts as much as a stretch by 2 %; 60 % more, or as much less, is avoided.
    """
    ideal = math.sqrt(area * width / height)
    widths = range(multiple, max(multiple, math.ceil(2 * ideal)) + 1, multiple)
    floors = {wide: int(wide * height / width / multiple) * multiple for wide in widths}
    sizes = [(wide, tall) for wide in widths for tall in (floors[wide], floors[wide] + multiple) if tall > 0]

    def misfit(size: tuple[int, int]) -> tuple[bool, float]:
        wide, tall = size
        stretch, larger = math.log(wide * height / (tall * width)), math.log(wide * tall / area)
        return abs(larger) > _AREA_LIMIT, math.hypot(stretch, _AREA_WEIGHT * larger)

    return min(sizes, key=misfit)


def resize_image(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize H x W or H x W x C: averages of areas where it shrinks, else bilinear; no copy at the same size."""
    before_height, before_width = image.shape[:2]
    if (before_width, before_height) == (width, height):
        return image
    method = cv2.INTER_AREA if width <= before_width and height <= before_height else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method))


def resize_nearest(field: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize H x W float32 to the nearest values: a mean across a depth edge would be the depth of nothing."""
    return np.asarray(cv2.resize(field, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def resize_disparity(disparity: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize a disparity map (or its sigma) H x W px; values scale with the width."""
    scale = np.float32(width / disparity.shape[1])
    return cv2.resize(disparity, (width, height), interpolation=cv2.INTER_LINEAR) * scale


def resize_flow(flow: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize a flow field H x W x 2 px; its vectors scale with the size. No copy at the same size."""
    before_height, before_width = flow.shape[:2]
    if (before_width, before_height) == (width, height):
        return flow
    scale = np.array([width / before_width, height / before_height], np.float32)
    return resize_image(flow, width, height).reshape(height, width, 2) * scale
