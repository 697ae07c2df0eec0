"""Figures that the triggers compare with their limits: motion, disagreement, confidence.

They are computed several times a second during a recording, so they use small images and a grid of pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from fg_depth_ros.geometry.depth import scale_between
from fg_depth_ros.geometry.masks import Label

MOTION_WIDTH = 160
_GRID = 20_000  # pixels that are plenty for a mean over an image
_LEAST = 200
_SMALLEST = 16


def small_grey(image: np.ndarray, width: int = MOTION_WIDTH) -> np.ndarray:
    """Resize an image (uint8 H x W, or H x W x 3 RGB) to uint8 grey, ``width`` pixels wide, keeping its proportions."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    # First smaller, then grey: the conversion then has little to do.
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY) if small.ndim == 3 else small


def mean_flow(before: np.ndarray, after: np.ndarray) -> float:
    """Compute the mean length, px, of the optical flow (DIS, Kroeger et al., ECCV 2016) between two grey uint8 images.

    Raises ValueError: the sizes differ, or are smaller than the 16 px that the method needs.
    """
    if before.shape != after.shape:
        raise ValueError(f"one image is {before.shape} and the other {after.shape}: sizes must agree")
    if min(before.shape) < _SMALLEST:
        raise ValueError(f"images of {before.shape} are too small for optical flow: {_SMALLEST} px are needed")
    # Not through fg_depth_ros.inference, which loads PyTorch: a recorder starts at once and stays small.
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow = method.calc(np.ascontiguousarray(before), np.ascontiguousarray(after), None)  # type: ignore[call-overload]
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean())


def disagreement(
    stereo: np.ndarray, mono: np.ndarray, trusted: np.ndarray | None = None, least: int = _LEAST
) -> float | None:
    """Compute the mean of ``|s * mono - stereo| / stereo``, the difference of both depths at one scale.

    ``s`` is the median ratio of the two (``scale_between``): a network that is wrong about the size of
    everything agrees; one that sees another shape does not. Taken on a grid of some 20 000 pixels.

    Args:
        stereo, mono: depth H x W, metres, NaN (or not positive) where there is none.
        trusted: bool H x W, pixels of the stereo depth to use; None = all.
        least: smallest number of pixels with both depths; with fewer the result is None.

    Raises:
        ValueError: the sizes differ.
    """
    if trusted is None:
        trusted = np.ones(stereo.shape, bool)
    if not stereo.shape == mono.shape == trusted.shape:
        raise ValueError(f"stereo is {stereo.shape}, mono {mono.shape} and trusted {trusted.shape}: sizes must agree")
    step = max(1, int((stereo.size / _GRID) ** 0.5))
    a, b, known = (array[::step, ::step] for array in (stereo, mono, trusted))
    with np.errstate(invalid="ignore"):
        known = known & np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    scale = scale_between(b, a, known, least)
    if scale is None:
        return None
    truth = a[known].astype(np.float64)
    return float(np.mean(np.abs(scale * b[known] - truth) / truth))


def confident_share(labels: np.ndarray) -> float:
    """Return the share of the pixels of ``mask/labels`` (uint8 H x W) that are valid, 0 to 1; filled ones are not."""
    return float(np.mean(labels == Label.VALID))
