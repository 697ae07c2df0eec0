"""The compact stereo network: FlowNetC with its search kept to the epipolar line, and a refinement.

1. One encoder for both images; matching features at 1/4 of the resolution.
2. Row correlation over 192 px, then a 2-D hourglass over the correlation channels, guided by the left image.
3. Disparity = expectation around the best hypothesis (soft-argmin over it and its two neighbours).
4. At 1/2 resolution: right features warped by that disparity, compared within a few pixels, residual. With ``fine``
   the images themselves are compared, too, at full resolution, and every pixel has a residual of its own.
5. Learned 9-tap up-sampling at both steps; Laplace scale of the error for every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from fg_depth_ros.networks.blocks import (
    Encoder,
    PixelComparison,
    Residual,
    conv_norm,
    convolve_parts,
    convolve_together,
    double,
    double_bilinear,
    index_of_best,
    planar,
    upsample_convex,
)
from fg_depth_ros.networks.correlation import correlate_near, correlate_row
from fg_depth_ros.networks.flow import IMAGE_MEAN, sample_at, scaled_grid
from fg_depth_ros.networks.quantization import Quantizable

SIZE_MULTIPLE = 32
_WINDOW = 1  # hypotheses on either side of the best one that enter the expectation
_NEAR = 2  # radius of the refinement: pixels at 1/2 resolution, with ``fine`` also at full resolution


class StereoPrediction(NamedTuple):
    """Prediction of a stereo network for N pairs.

    ``disparity``: N x 1 x H x W px of the left image, >= 0. ``log_scale``: N x 1 x H x W, log of the Laplace scale b of
    its error in px. ``coarse`` (training): N x D x H/4 x W/4 logits of the hypotheses; ``middle`` (training):
    N x 1 x H/2 x W/2 disparity before the refinement, px of the full image.
    """

    disparity: torch.Tensor
    log_scale: torch.Tensor
    coarse: torch.Tensor | None = None
    middle: torch.Tensor | None = None


class FlowNetStereo(Quantizable):
    """``flownet_stereo``: disparity and its uncertainty from a rectified pair."""

    int8_convolutions = (
        r"encoder\.(?!stem|quarter\.0)|aggregation\.(?!logits|mask|context)|second_look\.(body|deep|rise)"
    )

    mean: torch.Tensor

    def __init__(
        self,
        features: Sequence[int] = (32, 80, 96),
        aggregate: Sequence[int] = (48, 96, 128),
        refine: int = 16,
        deep: int = 0,
        fine: bool = False,
        max_disparity: int = 192,
    ) -> None:
        """Sizes of the parts; multiples of 16 run up to twice as fast per channel on CPUs as others.

        Args:
            features: channels of the encoder at 1/4 (matching features), 1/8 and 1/16 of the resolution.
            aggregate: channels of the hourglass at the same resolutions; at 1/32 as many as at 1/16.
            refine: channels of the refinement at 1/2 resolution.
            deep: channels of a second level of the refinement at 1/4 resolution, which lets it look farther; 0: none.
            fine: whether the refinement compares the images pixel by pixel, and predicts every pixel.
            max_disparity: largest disparity searched, px, a multiple of 4.

        Raises:
            ValueError: ``max_disparity`` is not a positive multiple of 4.
        """
        super().__init__()
        if max_disparity < 4 or max_disparity % 4:
            raise ValueError(f"max_disparity must be a positive multiple of 4 px, got {max_disparity}")
        self.options = {
            "features": list(features),
            "aggregate": list(aggregate),
            "refine": refine,
            **({"deep": deep} if deep else {}),
            **({"fine": fine} if fine else {}),
            "max_disparity": max_disparity,
        }
        self.max_disparity = max_disparity
        self.hypotheses = max_disparity // 4
        half = 16
        self.encoder = Encoder(half, features)
        self.aggregation = _Aggregation(self.hypotheses, features, aggregate, refine)
        self.second_look = _Refinement(half, refine, deep, fine)  # the name is part of the weights files
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> StereoPrediction:
        """Match a rectified pair.

        Args:
            left, right: N x 3 x H x W float RGB in [0, 1]; H and W multiples of 32.
        """
        pair = torch.cat([left, right]).sub_(self.mean)
        half, quarter, eighth, sixteenth = self.encoder(pair.contiguous(memory_format=torch.channels_last))
        half_left, half_right = half.chunk(2)
        unit = F.normalize(quarter, dim=1) * quarter.shape[1] ** 0.5  # their correlation is a cosine
        left_matching, right_matching = unit.chunk(2)
        costs = correlate_row(left_matching, right_matching, self.hypotheses)
        guides = [level.chunk(2)[0] for level in (quarter, eighth, sixteenth)]
        logits, up_mask, context = self.aggregation(costs, guides)
        middle = upsample_convex(4 * expected_hypothesis(logits), up_mask)
        disparity, log_scale = self.second_look(pair, half_left, half_right, middle, context)
        if self.training:
            return StereoPrediction(disparity, log_scale, logits, middle)
        return StereoPrediction(disparity.clamp(min=0), log_scale)


def expected_hypothesis(logits: torch.Tensor) -> torch.Tensor:
    """Compute the soft-argmin around the best hypothesis: N x D x H x W logits -> N x 1 x H x W in hypothesis units."""
    logits = logits.float()
    index = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype).view(1, -1, 1, 1)
    far = (index - index_of_best(logits)).abs() > _WINDOW
    return (torch.softmax(logits.masked_fill(far, -1e4), 1) * index).sum(1, keepdim=True)


def warp_along_row(features: torch.Tensor, disparity: torch.Tensor) -> torch.Tensor:
    """Read N x C x H x W right features at x - disparity (N x 1 x H x W feature px); zero outside the image."""
    height, width = features.shape[-2:]
    xs, ys = scaled_grid(height, width, disparity.device)
    # Factors of the whole size, and no indexing: engines would round what they make of them, as in ``flow.warp``.
    along = torch.stack([torch.full_like(xs, -2 / max(width - 1, 1)), torch.zeros_like(ys)], -1)
    places = disparity.float().permute(0, 2, 3, 1) * along + torch.stack([xs, ys], -1)
    return sample_at(features.float(), places, "zeros")


class _Aggregation(nn.Module):
    """Correlation -> logits of the hypotheses, an up-sampling mask, and context for the refinement."""

    def __init__(self, hypotheses: int, guides: Sequence[int], channels: Sequence[int], context: int) -> None:
        super().__init__()
        width, middle, low = channels
        self.enter = conv_norm(hypotheses, width, relu=False)
        self.guide = nn.ModuleList(conv_norm(c, w, 1, relu=False) for c, w in zip(guides, channels, strict=True))
        self.down_middle = conv_norm(width, middle, stride=2, relu=False)
        self.middle = Residual(middle)
        self.down_low = conv_norm(middle, low, stride=2, relu=False)
        self.low = Residual(low)
        self.down_lowest = conv_norm(low, low, stride=2)
        self.lowest = nn.Sequential(Residual(low), Residual(low))
        self.up_low = conv_norm(low, low, 1, relu=False)
        self.up_middle = conv_norm(low, middle, 1, relu=False)
        self.merge_middle = conv_norm(middle, middle)
        self.up = conv_norm(middle, width, 1, relu=False)
        self.merge = Residual(width)
        self.logits = nn.Conv2d(width, hypotheses, 3, padding=1)
        self.direct = nn.Parameter(torch.full((1,), 4.0))
        self.mask = nn.Sequential(conv_norm(width, width, 1), nn.Conv2d(width, 36, 1))
        self.context = nn.Conv2d(width, context, 1)

    def forward(
        self, costs: torch.Tensor, guides: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        top = self.enter(costs).add_(self.guide[0](guides[0])).relu_()
        middle = self.middle(self.down_middle(top).add_(self.guide[1](guides[1])).relu_())
        low = self.low(self.down_low(middle).add_(self.guide[2](guides[2])).relu_())
        low = double(self.up_low(self.lowest(self.down_lowest(low)))).add_(low).relu_()
        middle = self.merge_middle(double(self.up_middle(low)).add_(middle).relu_())
        top = self.merge(double(self.up(middle)).add_(top).relu_())
        return torch.addcmul(self.logits(top), costs, self.direct), self.mask(top), self.context(top)


class _Refinement(nn.Module):
    """Residual disparity at 1/2 resolution, up-sampled to full, with the scale of the error."""

    def __init__(self, features: int, width: int, deep: int, fine: bool) -> None:
        super().__init__()
        self.compare = nn.Conv2d(features, features // 2, 1)
        self.enter = conv_norm(features + 2 * _NEAR + 2, width, relu=False)
        self.body = nn.Sequential(Residual(width), Residual(width))
        if deep:
            self.deep = nn.Sequential(conv_norm(width, deep, stride=2), Residual(deep), Residual(deep))
            self.rise = conv_norm(deep, width, 1, relu=False)
            nn.init.zeros_(self.rise[1].weight)  # type: ignore[arg-type]  # begins as if it were not there
        self.answer = nn.Conv2d(width, 2, 3, padding=1)  # residual, log scale; the name is part of the weights files
        if fine:
            self.compare_pixels = PixelComparison("x", [(0, _NEAR - k) for k in range(2 * _NEAR + 1)])
            self.pixels = nn.Conv2d(self.compare_pixels.channels, width, 3, padding=1, bias=False)
            self.detail = nn.Conv2d(width, 8, 3, padding=1)  # for each pixel of a cell, added to the prediction
            nn.init.zeros_(self.pixels.weight)
            nn.init.zeros_(self.detail.weight)
            nn.init.zeros_(self.detail.bias)  # type: ignore[arg-type]
        self.mask = nn.Conv2d(width, 36, 1)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)  # type: ignore[arg-type]

    def forward(
        self, pair: torch.Tensor, left: torch.Tensor, right: torch.Tensor, disparity: torch.Tensor,
        context: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        costs = correlate_near(self.compare(left), warp_along_row(self.compare(right), disparity / 2), _NEAR)
        contrast = disparity - F.avg_pool2d(disparity, 5, 1, 2, count_include_pad=False)
        few = torch.cat([costs.float(), contrast.clamp(-4, 4)], 1).to(left.dtype)
        few = few.contiguous(memory_format=torch.channels_last)
        x = convolve_parts(self.enter, left, few).add_(double(context))
        if hasattr(self, "pixels"):
            compared = self.compare_pixels(pair, lambda right: warp_along_row(right, double(disparity)))
            x = x + self.pixels(compared.to(x.dtype))
        x = self.body[0](x.relu_())
        if hasattr(self, "deep"):
            x = double(self.rise(self.deep(x))).add_(x).relu_()
        x = self.body[1](x)
        mask = planar(self.mask, x)
        if not hasattr(self, "pixels"):
            residual, log_scale = self.answer(x).float().chunk(2, 1)
            return upsample_convex(disparity + 2 * residual, mask), double_bilinear(log_scale)
        answer, details = convolve_together(x, self.answer, self.detail)
        (residual, log_scale), (detail, of_scale) = answer.chunk(2, 1), details.chunk(2, 1)
        disparity = upsample_convex(disparity + 2 * residual, mask) + F.pixel_shuffle(detail, 2)
        return disparity, F.pixel_shuffle(log_scale + of_scale, 2)
