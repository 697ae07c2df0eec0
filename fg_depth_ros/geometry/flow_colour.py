"""Middlebury's colour code of optical flow: look-up tables, cheap enough for a running node."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

# Segments of the colour circle (red-yellow, yellow-green, green-cyan, cyan-blue, blue-magenta, magenta-red)
# in the colour code of Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011.
_WHEEL_SEGMENTS = (15, 6, 4, 11, 13, 6)
_WHEEL_STEPS = 1024


def colour_flow(flow: np.ndarray, max_flow: float | None = None) -> np.ndarray:
    """Colour optical flow: hue is the direction, saturation the length (Baker et al., IJCV 2011).

    ``flow``: H x W x 2 float px, u to the right and v down; NaN = unknown, black. ``max_flow``: length that is fully
    saturated, px; longer flow is darkened. Default: the largest length. Returns H x W x 3 uint8 RGB.
    """
    u = np.ascontiguousarray(flow[..., 0], dtype=np.float32)
    v = np.ascontiguousarray(flow[..., 1], dtype=np.float32)
    known = np.isfinite(u) & np.isfinite(v)
    if not known.all():
        u, v = np.where(known, u, 0.0).astype(np.float32), np.where(known, v, 0.0).astype(np.float32)
    length, angle = cv2.cartToPolar(-u, -v)  # angle in [0, 2 pi) of the reversed vector
    if max_flow is None:
        max_flow = float(length.max(initial=0.0))
    radius = length * np.float32(1.0 / max(max_flow, 1e-6))
    # The code's circle starts at -pi: index 0 is the direction atan2(-v, -u) = -pi.
    index = np.rint(angle * np.float32(_WHEEL_STEPS / (2.0 * np.pi))).astype(np.int32) + _WHEEL_STEPS // 2
    hue = _flow_wheel()[index % _WHEEL_STEPS]
    beyond = radius > 1.0
    colours = 1.0 - np.minimum(radius, 1.0)[..., None] * (1.0 - hue)
    colours[beyond] = 0.75 * hue[beyond]
    result = (255.0 * colours).astype(np.uint8)
    result[~known] = 0
    return result


@lru_cache(maxsize=1)
def _flow_wheel() -> np.ndarray:
    """Return the colour circle at ``_WHEEL_STEPS`` directions from -pi on, float32 RGB in [0, 1]."""
    corners = np.array(
        [[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255], [255, 0, 0]],
        dtype=np.float64,
    )
    entries = [
        corners[i] + np.sign(corners[i + 1] - corners[i]) * np.floor(255.0 * step / count)
        for i, count in enumerate(_WHEEL_SEGMENTS)
        for step in range(count)
    ]
    wheel = np.array(entries) / 255.0
    position = np.arange(_WHEEL_STEPS) / _WHEEL_STEPS * (len(wheel) - 1)
    first = position.astype(int)
    part = (position - first)[:, None]
    return ((1.0 - part) * wheel[first] + part * wheel[(first + 1) % len(wheel)]).astype(np.float32)
