"""Prediction of the monocular depth networks, and how it becomes metres.

A network sees pixels, not angles: twice the focal length shows everything twice as large, as if it were twice as near.
So a network predicts for one *canonical camera*, the one with the focal length that it was trained for, and the true
focal length turns the prediction into metres (the label transformation of Metric3D, Yin et al., ICCV 2023, Eq. 2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

NEAREST, FARTHEST = 0.1, 100.0
"""Range of depth that a network can predict, m in its canonical camera (inverse: ``.01 + 9.99 * sigmoid``)."""
LARGEST_SIDE = 4096
"""Largest side of a network's input, px."""
START_DEPTH = 10.0
"""Depth that a fresh network predicts everywhere, m: near the middle of its range, and of usual scenes."""


class DepthPrediction(NamedTuple):
    """Prediction of a depth network for N images.

    ``inverse``: N x 1 x H x W float32, inverse depth in 1/m in the network's canonical camera, 0.01 .. 10.
    ``levels`` (training): the same at all scales, finest first (``inverse`` itself), N x 1 x H/2^k x W/2^k.
    """

    inverse: torch.Tensor
    levels: tuple[torch.Tensor, ...] | None = None


def depth_of(inverse: torch.Tensor, focal_canonical: float, focal: torch.Tensor | float) -> torch.Tensor:
    """Return depth in metres for a prediction: ``Z = (focal / focal_canonical) / inverse``.

    ``inverse``: of any shape, 1/m in the canonical camera, > 0. ``focal``: fx of the images in px at the network's
    input size; a number, or a tensor that broadcasts.
    """
    return (focal / focal_canonical) / inverse


def inverse_from_logits(logits: torch.Tensor) -> torch.Tensor:
    """Map logits to inverse depth in [1 / FARTHEST, 1 / NEAREST] (Monodepth2, Godard et al., ICCV 2019)."""
    return 1 / FARTHEST + (1 / NEAREST - 1 / FARTHEST) * torch.sigmoid(logits.float())


def start_logit() -> float:
    """Return the logit of ``1 / START_DEPTH``: bias of a fresh network's last layer."""
    share = (1 / START_DEPTH - 1 / FARTHEST) / (1 / NEAREST - 1 / FARTHEST)
    return math.log(share / (1 - share))


class DepthNetwork(torch.nn.Module):
    """Base of the depth networks: the camera they fit, and the form of their input.

    ``focal``: canonical focal length, px at the network's input size; ``width``, ``height``: size that it is trained
    at, and that images are resized to, px. Raises ValueError: a focal length that is not positive, or a size that is no
    multiple of ``size_multiple`` up to ``LARGEST_SIDE``.
    """

    size_multiple = 32
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, focal: float, width: int, height: int) -> None:
        super().__init__()
        if not focal > 0:
            raise ValueError(f"focal must be a positive number of pixels, got {focal}")
        for name, pixels in (("width", width), ("height", height)):
            if not self.size_multiple <= pixels <= LARGEST_SIDE or pixels % self.size_multiple:
                raise ValueError(
                    f"{name} must be a positive multiple of {self.size_multiple} px, got {pixels} "
                    f"(at most {LARGEST_SIDE})"
                )
        self.focal, self.width, self.height = float(focal), int(width), int(height)
        self.options: dict[str, object] = {"focal": self.focal, "width": self.width, "height": self.height}
        # Mean and deviation of ImageNet, which published encoders are trained with.
        self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1), persistent=False)

    def normalised(self, image: torch.Tensor) -> torch.Tensor:
        """Normalise N x 3 x H x W RGB in [0, 1]. Raises ValueError: a size that is no multiple of ``size_multiple``."""
        height, width = image.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(f"width and height must be multiples of {self.size_multiple} px, got {width}x{height}")
        return ((image - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)

    def prediction(self, logits: list[torch.Tensor]) -> DepthPrediction:
        """Return the prediction for the logits of all levels, finest first; outside training only of the finest."""
        if not self.training:
            return DepthPrediction(inverse_from_logits(logits[0]))
        levels = tuple(inverse_from_logits(level) for level in logits)
        return DepthPrediction(levels[0], levels)
