"""Batches of a depth training: pairs, what the teacher predicts for them, and both as the losses take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PairBatch(NamedTuple):
    """Rectified stereo pairs."""

    left: Tensor
    """N x 3 x H x W uint8 RGB."""
    right: Tensor
    """N x 3 x H x W uint8 RGB."""
    focal: Tensor
    """N float32, fx in px at this size."""
    baseline: Tensor
    """N float32, m, > 0."""
    truth: Tensor
    """N x 1 x H x W float32, depth of the left view in m; NaN: not known; inf: the sky of a rendered scene."""


class TeacherPrediction(NamedTuple):
    """Prediction of the frozen teacher for a batch of pairs, in px of their size."""

    disparity: Tensor
    """N x 1 x H x W float32, left view: the match of column x lies in column x - disparity of the right image; NaN
    where there is no prediction."""
    vertical: Tensor
    """N x 1 x H x W float32, the row component of the match (0 for a stereo network, which searches rows only)."""
    right_disparity: Tensor | None = None
    """The same as ``disparity`` for the right view, positive as well (the match lies in column x + right_disparity of
    the left image); None if it was not asked for."""


class DistillBatch(NamedTuple):
    """A batch as the losses take it: after the flow mask, the flips, the colour jitter and the grafting.

    ``focal`` and ``baseline`` are N numbers, or N x H after grafting, when every row has the camera that it was taken
    with (``per_pixel`` makes either fit a picture). The match of column x lies in column
    x - sign(baseline) * disparity of the source.
    """

    target: Tensor
    """N x 3 x H x W float32 RGB in [0, 1], colours unchanged."""
    source: Tensor
    """Other image of the pair, of the form of ``target``."""
    seen: Tensor
    """N x 3 x H x W float32, the network's input: ``target``, perhaps with other colours."""
    disparity: Tensor
    """N x 1 x H x W float32 px, >= 0, 0 where ``mask`` is False."""
    mask: Tensor
    """N x 1 x H x W bool, the prior-flow mask."""
    focal: Tensor
    """float32 px."""
    baseline: Tensor
    """float32 m: > 0 if the source camera stands to the right of the target camera, < 0 for a mirrored pair."""
    truth: Tensor
    """N x 1 x H x W float32, depth of the target view in m; NaN: not known; inf: the sky of a rendered scene."""


def per_pixel(values: Tensor) -> Tensor:
    """Return numbers of the samples (N) or of their rows (N x H) in a shape that broadcasts to N x 1 x H x W."""
    return values.reshape(len(values), 1, -1, 1)
