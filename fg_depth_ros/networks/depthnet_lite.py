"""``depthnet_lite``: depth from one image, small enough for a robot.

An encoder down to 1/32 of the resolution, where a mean over the whole image is added; a decoder with sums instead
of concatenations; depth at 1/4, then two steps of learned 9-tap up-sampling with a residual between them, as in
``flownet_stereo``. The layers at 1/16 also get the position in the image: how high in the image a point of the
ground is depends on its distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fg_depth_ros.networks.blocks import Residual, conv_norm, double, planar, upsample_convex
from fg_depth_ros.networks.depth import DepthNetwork, DepthPrediction, start_logit
from fg_depth_ros.networks.quantization import Quantizable

HALF_CHANNELS = 16  # at 1/2 of the resolution


class CompactDepthNetwork(DepthNetwork, Quantizable):
    """Base of the compact networks: a decoder for features at 1/2 (16 channels) to 1/32 of the resolution."""

    int8_convolutions = r"encoder\.blocks|(quarter|eighth|sixteenth|lowest)\.|up_|merge_|body"

    def _add_decoder(self, channels: Sequence[int]) -> None:
        """Add the decoder; ``channels``: of the features at 1/4, 1/8, 1/16 and 1/32."""
        quarter, eighth, sixteenth, lowest = channels
        self.whole = nn.Conv2d(lowest, lowest, 1)
        self.up_lowest = conv_norm(lowest, sixteenth, 1, relu=False)
        self.merge_sixteenth = Residual(sixteenth)
        self.up_sixteenth = conv_norm(sixteenth, eighth, 1, relu=False)
        self.merge_eighth = Residual(eighth)
        self.up_eighth = conv_norm(eighth, quarter, 1, relu=False)
        self.merge_quarter = Residual(quarter)
        self.coarse = _head(eighth)
        self.depth = _head(quarter)
        self.mask = nn.Sequential(conv_norm(quarter, quarter, 1), nn.Conv2d(quarter, 36, 1))
        self.context = nn.Conv2d(quarter, HALF_CHANNELS, 1)
        self.enter = conv_norm(HALF_CHANNELS, HALF_CHANNELS, relu=False)
        self.body = nn.Sequential(Residual(HALF_CHANNELS), Residual(HALF_CHANNELS))
        self.residual = nn.Conv2d(HALF_CHANNELS, 1, 3, padding=1)
        self.fine_mask = nn.Conv2d(HALF_CHANNELS, 36, 1)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)  # type: ignore[arg-type]

    def _decode(
        self, half: torch.Tensor, quarter: torch.Tensor, eighth: torch.Tensor, sixteenth: torch.Tensor,
        lowest: torch.Tensor,
    ) -> DepthPrediction:  # fmt: skip
        """Return the prediction for the features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution."""
        lowest = lowest + self.whole(lowest.mean((2, 3), keepdim=True))
        sixteenth = self.merge_sixteenth(double(self.up_lowest(lowest)).add_(sixteenth).relu_())
        eighth = self.merge_eighth(double(self.up_sixteenth(sixteenth)).add_(eighth).relu_())
        quarter = self.merge_quarter(double(self.up_eighth(eighth)).add_(quarter).relu_())
        quarter_logits = self.depth(quarter).float()
        half_logits = upsample_convex(quarter_logits, self.mask(quarter))
        x = self.body(self.enter(half).add_(double(self.context(quarter))).relu_())
        half_logits = half_logits + self.residual(x).float()
        logits = [upsample_convex(half_logits, planar(self.fine_mask, x))]
        if self.training:
            logits += [half_logits, quarter_logits, self.coarse(eighth)]
        return self.prediction(logits)


class DepthNetLite(CompactDepthNetwork):
    """``depthnet_lite``."""

    def __init__(
        self,
        focal: float = 384.0,
        width: int = 640,
        height: int = 192,
        channels: Sequence[int] = (48, 96, 144, 192),
    ) -> None:
        """Sizes of the parts; multiples of 16 run up to twice as fast per channel on CPUs as others.

        Args:
            focal, width, height: the camera that it fits; see ``DepthNetwork``.
            channels: at 1/4, 1/8, 1/16 and 1/32 of the resolution.
        """
        super().__init__(focal, width, height)
        self.options["channels"] = list(channels)
        quarter, eighth, sixteenth, lowest = channels
        self.stem = nn.Sequential(conv_norm(3, HALF_CHANNELS, 5, 2), conv_norm(HALF_CHANNELS, HALF_CHANNELS))
        self.quarter = nn.Sequential(conv_norm(HALF_CHANNELS, quarter, stride=2), Residual(quarter))
        self.eighth = nn.Sequential(conv_norm(quarter, eighth, stride=2), Residual(eighth), Residual(eighth))
        self.sixteenth = nn.Sequential(
            conv_norm(eighth + 2, sixteenth, stride=2), Residual(sixteenth), Residual(sixteenth)
        )
        self.lowest = nn.Sequential(conv_norm(sixteenth, lowest, stride=2), Residual(lowest), Residual(lowest))
        self._add_decoder(channels)

    def forward(self, image: torch.Tensor) -> DepthPrediction:
        """Predict inverse depth of N x 3 x H x W float RGB in [0, 1]; H and W multiples of 32."""
        half = self.stem(self.normalised(image))
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(torch.cat([eighth, positions(eighth)], 1))
        return self._decode(half, quarter, eighth, sixteenth, self.lowest(sixteenth))


def _head(channels: int) -> nn.Conv2d:
    """Compute logits of the inverse depth; a fresh one gives START_DEPTH nearly everywhere."""
    head = nn.Conv2d(channels, 1, 3, padding=1)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.constant_(head.bias, start_logit())  # type: ignore[arg-type]
    return head


def positions(like: torch.Tensor) -> torch.Tensor:
    """Return column and row of every place, -1 .. 1 over the image: N x 2 x h x w."""
    n, _, h, w = like.shape
    xs = torch.linspace(-1, 1, w, device=like.device, dtype=like.dtype)
    ys = torch.linspace(-1, 1, h, device=like.device, dtype=like.dtype)
    places = torch.stack([xs.expand(h, w), ys.view(h, 1).expand(h, w)])
    return places.expand(n, -1, -1, -1)
