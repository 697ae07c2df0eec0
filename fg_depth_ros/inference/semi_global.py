"""Refinement of a network's disparity by semi-global matching around it.

A network finds the right surface where block matchers find none; where there is texture, comparing the pixels
themselves is more precise than comparing features. The search around the prediction is narrow, and takes a quarter of
the time of semi-global matching without one.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

REACH = 2.0
"""Largest correction, px at the size that the network matched at."""
_BLOCK = 3
_P1, _P2 = 16 * _BLOCK**2, 64 * _BLOCK**2
_SMALLEST = 2 * _BLOCK  # side of an image, px


def refine(left: np.ndarray, right: np.ndarray, disparity: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Correct a dense disparity by OpenCV's semi-global matching of the left image with the right one warped to it.

    Corrections beyond ``REACH`` are ignored; smaller ones are weighted by 0.7 (more where the network matched at a
    smaller size), as the network's prediction is the less noisy one. Pixels without a unique match, and those whose
    match lies outside the right image, stay as they are.

    Args:
        left, right: H x W x 3 uint8 RGB or H x W uint8.
        disparity: H x W float32 px, x_left - x_right, finite.
        scale: factor on the size at which the disparity was found.

    Returns:
        H x W float32 px.
    """
    height, width = disparity.shape
    if min(height, width) < _SMALLEST:
        return disparity
    left, right = (image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (left, right))
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    xs -= disparity
    warped = cv2.remap(right, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    reach = REACH / min(scale, 1.0)
    search = 16 * math.ceil((reach + 4) / 8)  # both sides together; OpenCV takes multiples of 16
    matcher = cv2.StereoSGBM.create(
        minDisparity=-search // 2, numDisparities=search, blockSize=_BLOCK, P1=_P1, P2=_P2, disp12MaxDiff=1,
        preFilterCap=31, uniquenessRatio=5, mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )  # fmt: skip
    # OpenCV gives only columns whose whole search range is in the image; borders extend it to all columns.
    pair = (cv2.copyMakeBorder(image, 0, 0, search, search, cv2.BORDER_REPLICATE) for image in (left, warped))
    correction = matcher.compute(*pair)[:, search:-search].astype(np.float32) / 16
    counts = (np.abs(correction) <= reach) & (xs >= 0) & (xs <= width - 1)
    weight = 1 - 0.3 * min(scale, 1.0)
    return np.asarray(disparity + weight * np.where(counts, correction, 0), np.float32)
