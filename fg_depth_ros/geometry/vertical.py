"""Measure how well the rows of a rectified pair agree, from the vertical part of its flow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_FEWEST = 200  # pixels in a third of the image before its median is believed


class VerticalFlow(NamedTuple):
    """Median and tilt of the vertical flow, px.

    ``median`` is positive when things lie lower in the right image. ``tilt`` is by how much that changes from the left
    to the right border, as a rotation of one camera about its axis makes it.
    """

    median: float
    tilt: float


def vertical_flow(flow: np.ndarray, reliable: np.ndarray | None = None) -> VerticalFlow | None:
    """Measure median and tilt of the vertical part of a left -> right flow, H x W x 2 px, NaN where unknown.

    The tilt is the difference of the medians of the right and the left third of the image, over two thirds of the
    width, carried on to the whole width. Both resist what is wrong in less than half of the pixels. ``reliable``: H x W
    bool, pixels to use; None = all. Returns None when one of the outer thirds has fewer than 200 usable pixels.
    """
    vertical = flow[..., 1]
    usable = np.isfinite(flow).all(-1)
    if reliable is not None:
        usable &= reliable
    third = flow.shape[1] // 3
    left, right = (vertical[:, part][usable[:, part]] for part in (slice(0, third), slice(-third, None)))
    if third == 0 or min(len(left), len(right)) < _FEWEST:
        return None
    width = flow.shape[1]
    tilt = (float(np.median(right)) - float(np.median(left))) * width / (width - third)
    return VerticalFlow(float(np.median(vertical[usable])), tilt)
