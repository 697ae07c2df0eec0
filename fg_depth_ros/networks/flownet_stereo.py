"""The compact stereo network: FlowNetC with its search kept to the epipolar line, and a finer second look.

1. One encoder for both images; matching features at 1/4 of the resolution.
2. Row correlation over 192 px, then a 2-D hourglass over the correlation channels, guided by the left image.
3. Disparity = expectation around the best hypothesis (soft-argmin within two hypotheses of the maximum).
4. At 1/2 resolution: right features warped by that disparity, compared within a few pixels, residual.
5. Learned 9-tap up-sampling at both steps; Laplace scale of the error for every pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from fg_depth_ros.networks.correlation import correlate_near, correlate_row

SIZE_MULTIPLE = 16
_IMAGE_MEAN = (0.45, 0.432, 0.411)
_WINDOW = 2  # hypotheses on either side of the best one that enter the expectation
_NEAR = 2  # radius of the second look, pixels at 1/2 resolution


class StereoPrediction(NamedTuple):
    """What a stereo network says of N pairs.

    ``disparity``: N x 1 x H x W px of the left image, >= 0. ``log_scale``: N x 1 x H x W, log of the Laplace scale b of
    its error in px. ``coarse`` (training): N x D x H/4 x W/4 logits of the hypotheses; ``middle`` (training):
    N x 1 x H/2 x W/2 disparity before the second look, px of the full image.
    """

    disparity: torch.Tensor
    log_scale: torch.Tensor
    coarse: torch.Tensor | None = None
    middle: torch.Tensor | None = None


class FlowNetStereo(nn.Module):
    """``flownet_stereo``: disparity and its uncertainty from a rectified pair."""

    mean: torch.Tensor

    def __init__(self, features: int = 40, aggregate: int = 44, refine: int = 20, max_disparity: int = 192) -> None:
        """Sizes of the parts.

        Args:
            features: channels of the matching features at 1/4 resolution.
            aggregate: channels of the hourglass at 1/4 resolution.
            refine: channels of the second look at 1/2 resolution.
            max_disparity: largest disparity searched, px, a multiple of 4.

        Raises:
            ValueError: ``max_disparity`` is not a positive multiple of 4.
        """
        super().__init__()
        if max_disparity < 4 or max_disparity % 4:
            raise ValueError(f"max_disparity must be a positive multiple of 4 px, got {max_disparity}")
        self.max_disparity = max_disparity
        self.hypotheses = max_disparity // 4
        half = 16
        self.encoder = _Encoder(half, features)
        self.aggregation = _Aggregation(self.hypotheses, self.encoder.channels, aggregate, refine)
        self.second_look = _SecondLook(half, refine)
        self.register_buffer("mean", torch.tensor(_IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> StereoPrediction:
        """Match a rectified pair.

        Args:
            left, right: N x 3 x H x W float RGB in [0, 1]; H and W multiples of 16.
        """
        pair = torch.cat([left, right]) - self.mean
        half, quarter, eighth, sixteenth = self.encoder(pair.contiguous(memory_format=torch.channels_last))
        half_left, half_right = half.chunk(2)
        unit = F.normalize(quarter, dim=1) * quarter.shape[1] ** 0.5  # their correlation is a cosine
        left_matching, right_matching = unit.chunk(2)
        costs = correlate_row(left_matching, right_matching, self.hypotheses)
        guides = [level.chunk(2)[0] for level in (quarter, eighth, sixteenth)]
        logits, up_mask, context = self.aggregation(costs, guides)
        middle = upsample_convex(4 * expected_hypothesis(logits), up_mask)
        disparity, log_scale = self.second_look(half_left, half_right, middle, context)
        if self.training:
            return StereoPrediction(disparity, log_scale, logits, middle)
        return StereoPrediction(disparity.clamp(min=0), log_scale)


def expected_hypothesis(logits: torch.Tensor) -> torch.Tensor:
    """Soft-argmin around the best hypothesis: N x D x H x W logits -> N x 1 x H x W in hypothesis units."""
    steps = torch.arange(logits.shape[1], device=logits.device, dtype=torch.float32).view(1, -1, 1, 1)
    logits = logits.float()
    best = logits.argmax(1, keepdim=True)
    near = (steps - best).abs() <= _WINDOW
    weights = torch.softmax(logits.masked_fill(~near, -1e4), 1)
    return (weights * steps).sum(1, keepdim=True)


def upsample_convex(fields: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Double the resolution, each new value a learned convex mix of the 3 x 3 old ones around it (RAFT, Teed 2020).

    Args:
        fields: N x C x H x W, values kept as they are; all mixed alike.
        mask: N x 36 x H x W logits; channel ``tap * 4 + sub``.

    Returns:
        N x C x 2H x 2W.
    """
    n, c, h, w = fields.shape
    weights = torch.softmax(mask.float().contiguous().view(n, 9, 4, h, w), 1)  # contiguous: twice as fast here
    padded = F.pad(fields, (1, 1, 1, 1), mode="replicate").unsqueeze(2)
    taps = [
        (weights[:, None, 3 * dy + dx], padded[..., dy : dy + h, dx : dx + w]) for dy in range(3) for dx in range(3)
    ]
    mixed = taps[0][0] * taps[0][1]
    for weight, tap in taps[1:]:
        mixed = torch.addcmul(mixed, weight, tap)
    return F.pixel_shuffle(mixed.reshape(n, 4 * c, h, w), 2)


def warp_along_row(features: torch.Tensor, disparity: torch.Tensor) -> torch.Tensor:
    """Read N x C x H x W right features at x - disparity (N x 1 x H x W feature px); zero outside the image."""
    n, _, h, w = features.shape
    xs = torch.arange(w, device=features.device, dtype=torch.float32).view(1, 1, w)
    ys = torch.arange(h, device=features.device, dtype=torch.float32).view(1, h, 1)
    gx = 2 * (xs - disparity[:, 0].float()) / max(w - 1, 1) - 1
    gy = (2 * ys / max(h - 1, 1) - 1).expand(n, h, w)
    grid = torch.stack([gx, gy], -1)
    return F.grid_sample(features.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def _conv(cin: int, cout: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def _planar(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A 1 x 1 convolution as one matrix product; its result lies channel by channel, as a softmax over taps wants."""
    n, _, h, w = x.shape
    bias = conv.bias if conv.bias is not None else x.new_zeros(conv.out_channels)
    weight = conv.weight.flatten(1).expand(n, -1, -1)
    return torch.baddbmm(bias.view(1, -1, 1).expand(n, -1, h * w), weight, x.flatten(2)).view(n, -1, h, w)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels, relu=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).add_(x).relu_()


def _double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class _Encoder(nn.Module):
    """Image -> features at 1/2, 1/4 (with context from below), 1/8 and 1/16."""

    def __init__(self, half: int, quarter: int) -> None:
        super().__init__()
        self.channels = (quarter, quarter * 9 // 5, quarter * 12 // 5)
        _, eighth, sixteenth = self.channels
        self.stem = nn.Sequential(_conv(3, half, 5, 2), _conv(half, half))
        self.quarter = nn.Sequential(_conv(half, quarter, stride=2), _Residual(quarter))
        self.eighth = nn.Sequential(_conv(quarter, eighth, stride=2), _Residual(eighth))
        self.sixteenth = nn.Sequential(_conv(eighth, sixteenth, stride=2), _Residual(sixteenth))
        self.from_sixteenth = _conv(sixteenth, eighth, 1, relu=False)
        self.from_eighth = _conv(eighth, quarter, 1, relu=False)
        self.smooth = nn.Conv2d(quarter, quarter, 3, padding=1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        half = self.stem(image)
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        eighth = _double(self.from_sixteenth(sixteenth)).add_(eighth).relu_()
        quarter = _double(self.from_eighth(eighth)).add_(quarter).relu_()
        return half, self.smooth(quarter), eighth, sixteenth


class _Aggregation(nn.Module):
    """Correlation -> logits of the hypotheses, an up-sampling mask, and context for the second look."""

    def __init__(self, hypotheses: int, guides: tuple[int, int, int], width: int, context: int) -> None:
        super().__init__()
        middle, low = width * 2, width * 8 // 3
        self.enter = _conv(hypotheses, width, relu=False)
        self.guide = nn.ModuleList(
            _conv(c, w, 1, relu=False) for c, w in zip(guides, (width, middle, low), strict=True)
        )
        self.down_middle = _conv(width, middle, stride=2, relu=False)
        self.middle = _Residual(middle)
        self.down_low = _conv(middle, low, stride=2, relu=False)
        self.low = _Residual(low)
        self.up_middle = _conv(low, middle, 1, relu=False)
        self.merge_middle = _conv(middle, middle)
        self.up = _conv(middle, width, 1, relu=False)
        self.merge = _Residual(width)
        self.logits = nn.Conv2d(width, hypotheses, 3, padding=1)
        self.direct = nn.Parameter(torch.full((1,), 4.0))
        self.mask = nn.Sequential(_conv(width, width, 1), nn.Conv2d(width, 36, 1))
        self.context = nn.Conv2d(width, context, 1)

    def forward(
        self, costs: torch.Tensor, guides: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        top = self.enter(costs).add_(self.guide[0](guides[0])).relu_()
        middle = self.middle(self.down_middle(top).add_(self.guide[1](guides[1])).relu_())
        low = self.low(self.down_low(middle).add_(self.guide[2](guides[2])).relu_())
        middle = self.merge_middle(_double(self.up_middle(low)).add_(middle).relu_())
        top = self.merge(_double(self.up(middle)).add_(top).relu_())
        return self.logits(top) + self.direct * costs, self.mask(top), self.context(top)


class _SecondLook(nn.Module):
    """Residual disparity at 1/2 resolution, up-sampled to full, with the scale of the error."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.compare = nn.Conv2d(features, features // 2, 1)
        self.enter = _conv(features + 2 * _NEAR + 1 + width + 1, width)
        self.body = _Residual(width)
        self.residual = nn.Conv2d(width, 1, 3, padding=1)
        self.log_scale = nn.Conv2d(width, 1, 3, padding=1)
        self.mask = nn.Conv2d(width, 36, 1)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)  # type: ignore[arg-type]

    def forward(
        self, left: torch.Tensor, right: torch.Tensor, disparity: torch.Tensor, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        costs = correlate_near(self.compare(left), warp_along_row(self.compare(right), disparity / 2), _NEAR)
        contrast = disparity - F.avg_pool2d(disparity, 5, 1, 2, count_include_pad=False)
        # The few channels are laid out like the many first: faster than laying out what was joined.
        few = (
            torch.cat([costs.float(), contrast.clamp(-4, 4)], 1)
            .to(left.dtype)
            .contiguous(memory_format=torch.channels_last)
        )
        x = torch.cat([left, few[:, :-1], _double(context), few[:, -1:]], 1)
        x = self.body(self.enter(x))
        mask = _planar(self.mask, x)
        refined = disparity + 2 * self.residual(x).float()
        disparity, log_scale = upsample_convex(torch.cat([refined, self.log_scale(x).float()], 1), mask).chunk(2, 1)
        return disparity, log_scale
