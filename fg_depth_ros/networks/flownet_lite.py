"""The compact network for optical flow: FlowNetC's search where it is cheap, then refinements up to full size.

1. One encoder for both frames.
2. At the coarsest resolution, 1/32 (1/16 in older weights), all displacements of a window are compared (FlowNetC's
   correlation layer); a 2-D hourglass over the correlation channels, guided by the first frame, ends in one logit per
   displacement.
3. Flow = expectation around the best displacement (soft-argmin over its neighbours).
4. At every finer resolution up to 1/2: second features warped by the flow so far, compared within a few pixels (at
   1/2 with the same place alone), residual (as in FlowNet 2.0's stacks and PWC-Net, Sun et al. 2018). With ``fine`` the
   images themselves are compared at full resolution, too, and every pixel has a residual of its own.
5. Learned 9-tap up-sampling at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    index_of_best,
    planar,
    upsample_convex,
)
from fg_depth_ros.networks.correlation import correlate_window
from fg_depth_ros.networks.flow import IMAGE_MEAN, FlowPrediction, pad_to_multiple, warp
from fg_depth_ros.networks.quantization import Quantizable

_MATCHING = 64  # channels of the features that are compared by the search
_AROUND = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))  # rows and columns from the match that ``fine`` compares with
_STAGES = ("at_sixteenth", "at_eighth", "at_quarter", "at_half")


class FlowNetLite(Quantizable):
    """``flownet_lite``: optical flow between two frames."""

    int8_convolutions = (
        r"encoder\.(?!stem|quarter\.0)|(from_)?thirty_second|search\.(enter|guide|top|down|low|up|merge)|at_\w+\.body"
    )

    mean: torch.Tensor

    def __init__(
        self,
        features: Sequence[int] = (32, 64, 96, 128),
        widths: Sequence[int] = (128, 112, 64, 32, 16),
        radii: Sequence[int] = (8, 4, 3, 2, 0),
        fine: bool = False,
    ) -> None:
        """Sizes of the parts.

        ``features``: channels of the encoder at 1/4, 1/8, 1/16 and 1/32 of the resolution; three of them: the search is
        at 1/16. ``widths``: channels of the stages, from the search to 1/2; ``radii``: radius of the search at each of
        them, pixels of that resolution: the first reaches 32 times as far in the image; 0: no search, the difference of
        the features is looked at instead. ``fine``: whether the last stage compares the images pixel by pixel, and
        predicts every pixel. Raises ValueError: other numbers of them.
        """
        super().__init__()
        if len(features) not in (3, 4) or not len(widths) == len(radii) == len(features) + 1:
            raise ValueError(
                f"{len(features)} features, {len(widths)} widths and {len(radii)} radii: give 3 or 4 features and one "
                "more of the others"
            )
        self.options: dict[str, Any] = {"features": list(features), "widths": list(widths), "radii": list(radii)}
        if fine:
            self.options["fine"] = True
        half, coarsest = 16, 2 ** (len(features) + 1)
        self.size_multiple = 2 * coarsest
        self.encoder = Encoder(half, features[:3])
        if len(features) == 4:
            self.thirty_second = nn.Sequential(conv_norm(features[2], features[3], stride=2), Residual(features[3]))
            self.from_thirty_second = conv_norm(features[3], features[2], 1, relu=False)
        self.search = _Search(features[-1], widths[0], radii[0], context=widths[1], scale=coarsest)
        channels, contexts = (half, *features[:-1]), (*widths[2:], 0)
        for i, name in enumerate(self._stages(), 1):
            scale = coarsest >> i
            compared = min(4 * scale, 48)
            of_pixels = fine and name == _STAGES[-1]
            stage = _Refinement(channels[-i], compared, widths[i], radii[i], scale, contexts[i - 1], of_pixels)
            setattr(self, name, stage)
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)

    def _stages(self) -> tuple[str, ...]:
        """Return the names of the stages after the search, coarsest first."""
        return _STAGES[-len(self.options["features"]) :]

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> FlowPrediction:
        """Estimate flow of N x 3 x H x W float RGB in [0, 1]. Raises ValueError: a size that cannot be trained at."""
        height, width = first.shape[-2:]
        if self.training and (height % self.size_multiple or width % self.size_multiple):
            raise ValueError(f"training needs sizes that are multiples of {self.size_multiple}, got {width}x{height}")
        pair = torch.cat(pad_to_multiple(self.size_multiple, first, second)) - self.mean
        features = list(self.encoder(pair.contiguous(memory_format=torch.channels_last)))
        if len(self.options["features"]) == 4:
            deepest = self.thirty_second(features[-1])
            features[-1] = double(self.from_thirty_second(deepest)).add_(features[-1]).relu_()
            features.append(deepest)
        logits, coarsest, flow, context = self.search(*features.pop().chunk(2))
        levels = [coarsest]
        for name in self._stages():
            level, flow, context = getattr(self, name)(pair, *features.pop().chunk(2), flow, context)
            levels.append(level)
        if self.training:
            return FlowPrediction(flow, (flow, *reversed(levels)), logits)
        return FlowPrediction(flow[..., :height, :width])


def expected_displacement(logits: torch.Tensor, radius: int) -> torch.Tensor:
    """Compute the soft-argmin over the best displacement and its neighbours.

    ``logits``: N x K*K x H x W with K = 2 * radius + 1, channel ``iy * K + ix`` as of ``correlate_window``. Returns N x
    2 x H x W displacement (u, v), pixels of the logits' resolution.
    """
    side = 2 * radius + 1
    logits = logits.float()
    steps = torch.arange(side, device=logits.device, dtype=logits.dtype)
    ix, iy = steps.repeat(side).view(1, -1, 1, 1), steps.repeat_interleave(side).view(1, -1, 1, 1)
    best = index_of_best(logits)
    best_y = torch.floor((best + 0.5) / side)
    far = ((ix - (best - side * best_y)).abs() > 1) | ((iy - best_y).abs() > 1)
    weights = torch.softmax(logits.masked_fill(far, -1e4), 1)
    return torch.cat([(weights * (ix - radius)).sum(1, True), (weights * (iy - radius)).sum(1, True)], 1)


class _Search(nn.Module):
    """All displacements of a window at the coarsest resolution, brought into agreement with their surroundings."""

    def __init__(self, features: int, width: int, radius: int, context: int, scale: int) -> None:
        super().__init__()
        self.radius, self.scale = radius, scale
        displacements = (2 * radius + 1) ** 2
        self.matching = nn.Conv2d(features, _MATCHING, 1)
        self.enter = conv_norm(displacements, width, relu=False)
        self.guide = conv_norm(features, width, 1, relu=False)
        self.top = Residual(width)
        self.down = conv_norm(width, width, stride=2)
        self.low = nn.Sequential(Residual(width), Residual(width))
        self.up = conv_norm(width, width, 1, relu=False)
        self.merge = Residual(width)
        self.logits = nn.Conv2d(width, displacements, 1)
        self.direct = nn.Parameter(torch.full((1,), 4.0))
        self.mask = nn.Conv2d(width, 36, 1)
        self.context = nn.Conv2d(width, context, 1)

    def forward(
        self, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Estimate logits, flow at this and at twice the resolution (px of the full image), and context."""
        unit = F.normalize(self.matching(torch.cat([first, second])), dim=1) * _MATCHING**0.5
        first_unit, second_unit = unit.chunk(2)
        costs = correlate_window(first_unit, second_unit, self.radius, 1).to(first.dtype)
        costs = costs.contiguous(memory_format=torch.channels_last)
        top = self.top(self.enter(costs).add_(self.guide(first)).relu_())
        low = self.low(self.down(top))
        top = self.merge(double(self.up(low)).add_(top).relu_())
        logits = self.logits(top) + self.direct * costs
        flow = self.scale * expected_displacement(logits, self.radius)
        return logits, flow, upsample_convex(flow, planar(self.mask, top)), self.context(top)


class _Refinement(nn.Module):
    """Residual flow at one resolution, up-sampled to the next."""

    def __init__(
        self, features: int, compared: int, width: int, radius: int, scale: int, context: int, fine: bool
    ) -> None:
        super().__init__()
        self.radius, self.scale = radius, scale
        self.compare = nn.Conv2d(features, compared, 1)
        comparisons = (2 * radius + 1) ** 2 if radius else compared
        self.enter = conv_norm(features + comparisons + 2, width, relu=False)
        self.body = nn.Sequential(Residual(width), Residual(width))
        self.residual = nn.Conv2d(width, 2, 3, padding=1)
        if fine:
            self.compare_pixels = PixelComparison("xy", _AROUND)
            self.pixels = nn.Conv2d(self.compare_pixels.channels, width, 3, padding=1, bias=False)
            self.detail = nn.Conv2d(width, 8, 3, padding=1)  # for each pixel of a cell, added to the prediction
            nn.init.zeros_(self.pixels.weight)
            nn.init.zeros_(self.detail.weight)
            nn.init.zeros_(self.detail.bias)  # type: ignore[arg-type]
        self.mask = nn.Conv2d(width, 36, 1)
        self.context = nn.Conv2d(width, context, 1) if context else None
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)  # type: ignore[arg-type]

    def forward(
        self, pair: torch.Tensor, first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Estimate flow at this resolution and at twice it (px of the full image), and context for the next stage."""
        here, near = self.compare(first).contiguous(), warp(self.compare(second).contiguous(), flow / self.scale)
        costs = correlate_window(here, near, self.radius, 1) if self.radius else here - near
        contrast = (flow - F.avg_pool2d(flow, 5, 1, 2, count_include_pad=False)) / self.scale
        few = torch.cat([costs.float(), contrast.clamp(-4, 4)], 1).to(first.dtype)
        few = few.contiguous(memory_format=torch.channels_last)
        x = convolve_parts(self.enter, first, few).add_(double(context))
        if not hasattr(self, "pixels"):
            x = self.body(x.relu_())
            flow = flow + self.scale * self.residual(x).float()
            return flow, upsample_convex(flow, planar(self.mask, x)), self.context(x) if self.context else None
        compared = self.compare_pixels(pair, lambda image: warp(image, double(flow)))
        x = self.body((x + self.pixels(compared.to(x.dtype))).relu_())
        residual, detail = convolve_together(x, self.residual, self.detail)
        flow = flow + self.scale * residual
        return flow, upsample_convex(flow, planar(self.mask, x)) + F.pixel_shuffle(detail, 2), None
