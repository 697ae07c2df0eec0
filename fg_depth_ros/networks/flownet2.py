"""FlowNet 2.0 (Ilg et al., CVPR 2017): stacks of FlowNetC and FlowNetS, a net for small motions, and their fusion.

Each further network of a stack sees both frames, the second one warped by the flow so far, that flow, and what the
warping left of the difference in brightness (paper, figure 2). Wired and named as in the public PyTorch
implementation, whose weights fit tensor by tensor; warping and norms in plain PyTorch.

``flownet2_s`` and ``flownet2_c`` are FlowNetS and FlowNetC with biases in the decoder and the normalisation of
FlowNet 2.0 (``registry.FLOW_MODELS``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fg_depth_ros.networks.flow import pixel_grid
from fg_depth_ros.networks.flownet import (
    FlowNetC,
    FlowNetS,
    FlowNetwork,
    RefiningNetwork,
    at_least_single,
    conv,
    deconv,
    enlarge,
    enlarge_flow,
    initialize,
    plain_conv,
    predict_flow,
)

_STACKED = 12  # both frames, the warped second one, flow, brightness error
_FUSED = 11  # first frame, two flows, their lengths, the brightness errors they leave


class FlowNet2SD(RefiningNetwork):
    """``flownet2_sd``: FlowNetS for small displacements: 3 x 3 kernels, full resolution first, smoother predictions."""

    def __init__(self, normalization: str = "pair_mean", **options: Any) -> None:
        """Build with fresh weights; arguments as of ``FlowNetwork``."""
        super().__init__(True, True, True, normalization=normalization, **options)
        c = self.channels
        self.conv0 = self.conv(6, c(64))
        self.conv1, self.conv1_1 = self.conv(c(64), c(64), 3, 2), self.conv(c(64), c(128))
        self.conv2, self.conv2_1 = self.conv(c(128), c(128), 3, 2), self.conv(c(128), c(128))
        self.conv3, self.conv3_1 = self.conv(c(128), c(256), 3, 2), self.conv(c(256), c(256))
        initialize(self)

    def match(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Estimate the flow of a batch; see ``FlowNetwork.match``."""
        return self.in_pixels(self.levels(torch.cat([first, second], 1)))

    def levels(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Estimate flow of N x 6 x H x W at 1/4, 1/8 .. 1/64, in the layers' unit."""
        conv0 = self.conv0(x)
        conv2 = self.conv2_1(self.conv2(self.conv1_1(self.conv1(conv0))))
        return self.refine(conv2, self.conv3_1(self.conv3(conv2)))


class FlowNetFusion(nn.Module):
    """The last part of ``flownet2``: chooses between two flows at full resolution and corrects where both are wrong."""

    def __init__(self, batch_norm: bool = False, width: float = 1.0) -> None:
        """Build with fresh weights; arguments as of ``FlowNetwork``."""
        super().__init__()
        full, half, quarter = (max(1, round(count * width)) for count in (64, 128, 128))
        middle, low = max(1, round(32 * width)), max(1, round(16 * width))
        self.conv0 = conv(_FUSED, full, 3, 1, batch_norm)
        self.conv1, self.conv1_1 = conv(full, full, 3, 2, batch_norm), conv(full, half, 3, 1, batch_norm)
        self.conv2, self.conv2_1 = conv(half, quarter, 3, 2, batch_norm), conv(quarter, quarter, 3, 1, batch_norm)
        self.deconv1, self.deconv0 = deconv(quarter, middle, True), deconv(half + middle + 2, low, True)
        self.inter_conv1 = plain_conv(half + middle + 2, middle, batch_norm)
        self.inter_conv0 = plain_conv(full + low + 2, low, batch_norm)
        self.predict_flow2 = predict_flow(quarter, True)
        self.predict_flow1, self.predict_flow0 = predict_flow(middle, True), predict_flow(low, True)
        self.upsampled_flow2_to_1, self.upsampled_flow1_to_0 = enlarge_flow(True), enlarge_flow(True)
        initialize(self)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Estimate flow of N x 11 x H x W at 1, 1/2 and 1/4 of the resolution, px."""
        conv0 = self.conv0(x)
        conv1 = self.conv1_1(self.conv1(conv0))
        conv2 = self.conv2_1(self.conv2(conv1))
        flow2 = self.predict_flow2(conv2)
        joined1 = torch.cat([conv1, self.deconv1(conv2), self.upsampled_flow2_to_1(flow2).to(conv1.dtype)], 1)
        flow1 = self.predict_flow1(self.inter_conv1(joined1))
        joined0 = torch.cat([conv0, self.deconv0(joined1), self.upsampled_flow1_to_0(flow1).to(conv0.dtype)], 1)
        return self.predict_flow0(self.inter_conv0(joined0)), flow1, flow2


class FlowNet2CS(FlowNetwork):
    """``flownet2_cs``: FlowNetC, then FlowNetS on what it left."""

    def __init__(self, normalization: str = "pair_mean", **options: Any) -> None:
        """Build with fresh weights; arguments as of ``FlowNetwork``."""
        super().__init__(normalization=normalization, **options)
        self._part: dict[str, Any] = {"batch_norm": self.batch_norm, "width": self.width, "flow_scale": self.flow_scale}
        self.flownetc = FlowNetC(decoder_bias=True, flow_bias=True, **self._part)
        self.flownets_1 = self._stacked_net()

    def match(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Estimate the flow of a batch, by the last network; see ``FlowNetwork.match``."""
        flow = enlarge(self.flownetc.match(first, second)[0], "bilinear")
        return self.in_pixels(self.flownets_1.levels(self.stacked(first, second, flow)))

    def stacked(self, first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """Return the input of the next network, N x 12 x H x W, for normalised frames and the flow so far (px)."""
        warped = resample(second, flow)
        error = length(first - warped)
        return torch.cat([first, second, warped, (flow / self.flow_scale).to(first.dtype), error], 1)

    def _stacked_net(self) -> FlowNetS:
        return FlowNetS(_STACKED, decoder_bias=True, **self._part)


class FlowNet2CSS(FlowNet2CS):
    """``flownet2_css``: one FlowNetS more."""

    enlarging = "nearest"

    def __init__(self, **options: Any) -> None:
        """Build with fresh weights; arguments as of ``FlowNet2CS``."""
        super().__init__(**options)
        self.flownets_2 = self._stacked_net()

    def match(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Estimate the flow of a batch, by the last network; see ``FlowNetwork.match``."""
        flow = enlarge(super().match(first, second)[0], "bilinear")
        return self.in_pixels(self.flownets_2.levels(self.stacked(first, second, flow)))


class FlowNet2(FlowNet2CSS):
    """``flownet2``: the stack for large motions and the net for small ones, fused at full resolution."""

    def __init__(self, **options: Any) -> None:
        """Build with fresh weights; arguments as of ``FlowNet2CS``."""
        super().__init__(**options)
        self.flownets_d = FlowNet2SD(**self._part)
        self.flownetfusion = FlowNetFusion(self.batch_norm, self.width)

    def match(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Estimate the flow of a batch, by the fusion at 1, 1/2 and 1/4 resolution; see ``FlowNetwork.match``."""
        large = enlarge(super().match(first, second)[0], "nearest")
        # Within this network the net for small motions gives px * flow_scale: its public weights are trained so.
        small = self.flownets_d.levels(torch.cat([first, second], 1))[0]
        small = enlarge(at_least_single(small) / self.flow_scale, "nearest")
        errors = [length(first - resample(second, flow)) for flow in (small, large)]
        seen = [first, small, large, length(small), length(large), *errors]
        joined = torch.cat([part.to(first.dtype) for part in seen], 1)
        return tuple(at_least_single(level) for level in self.flownetfusion(joined))


def length(vectors: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean length over the channels, N x C x H x W -> N x 1 x H x W; its gradient at zero is zero."""
    return torch.linalg.vector_norm(vectors, dim=1, keepdim=True)


def resample(second: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Warp as ``flow.warp`` with the coordinates as exact as float32 has them; beyond the border the border continues.

    ``grid_sample`` takes coordinates as a share of the width, which costs 1e-5 px and more. In a noisy picture, and
    through two more networks, that is 1e-4 px of flow and more: too much to compare weights from elsewhere.
    """
    n, c, h, w = second.shape
    xs, ys = pixel_grid(h, w, flow.device, flow.dtype)
    x, y = xs + flow[:, 0], ys + flow[:, 1]
    left, top = x.floor(), y.floor()
    across, down = (x - left).unsqueeze(1), (y - top).unsqueeze(1)
    pixels = second.flatten(2)

    def at(column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        # A flow that is no number must not become an address; it stays visible in the weights.
        column, row = column.nan_to_num(0.0).clamp(0, w - 1), row.nan_to_num(0.0).clamp(0, h - 1)
        place = (row.long() * w + column.long()).view(n, 1, h * w).expand(-1, c, -1)
        return pixels.gather(2, place).view(n, c, h, w)

    upper = (1 - across) * at(left, top) + across * at(left + 1, top)
    lower = (1 - across) * at(left, top + 1) + across * at(left + 1, top + 1)
    return ((1 - down) * upper + down * lower).to(second.dtype)
