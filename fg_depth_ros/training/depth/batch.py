"""What travels between the sources of stereo pairs, the teacher, the augmentation and the losses of depth training."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PairBatch(NamedTuple):
    """Rectified stereo pairs as the sources give them, at the training size.

    `left`, `right`: N x 3 x H x W uint8, RGB. `focal`: N float32, fx in px at this size. `baseline`: N float32, metres,
    > 0. `truth`: N x 1 x H x W float32, depth of the left view in metres, NaN where it is not known.
    """

    left: Tensor
    right: Tensor
    focal: Tensor
    baseline: Tensor
    truth: Tensor


class Taught(NamedTuple):
    """What the frozen teacher says of a batch of pairs, in px of the pair's size.

    `disparity`: N x 1 x H x W float32, left view: the match of column x lies in column x - disparity of the right
    image; NaN where there is no answer. `vertical`: N x 1 x H x W float32, the row component of the match (0 for a
    stereo network, which searches rows only). `right_disparity`: N x 1 x H x W float32, the same for the right view,
    positive as well (the match lies in column x + right_disparity of the left image); None if nobody asked for it.
    """

    disparity: Tensor
    vertical: Tensor
    right_disparity: Tensor | None = None


class DistillBatch(NamedTuple):
    """One batch as the losses see it: after the flow mask, the flips, the colour jitter and the grafting.

    `target`, `source`: N x 3 x H x W float32 in [0, 1], RGB, not colour-jittered. `seen`: N x 3 x H x W float32, the
    network's input: `target`, perhaps with other colours. `disparity`: N x 1 x H x W float32 px, >= 0 always, 0 where
    `mask` is False. `mask`: N x 1 x H x W bool, the prior-flow mask. `focal`: float32 px. `baseline`: float32, metres,
    with a sign: > 0 if the source camera stands to the right of the target camera, < 0 for a flipped pair. The match of
    column x lies in column x - sign(baseline) * disparity of the source. Both are N numbers, or N x H after grafting,
    when every row has the camera that it was taken with (`per_pixel` makes either fit a picture). `truth`: N x 1 x H x
    W float32, depth of the target view in metres, NaN where it is not known.
    """

    target: Tensor
    source: Tensor
    seen: Tensor
    disparity: Tensor
    mask: Tensor
    focal: Tensor
    baseline: Tensor
    truth: Tensor


def per_pixel(values: Tensor) -> Tensor:
    """Numbers of the samples (N) or of their rows (N x H), in a shape that goes with N x 1 x H x W."""
    return values.reshape(len(values), 1, -1, 1)
