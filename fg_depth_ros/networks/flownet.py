"""FlowNetS and FlowNetC (Dosovitskiy et al., ICCV 2015), and the frame that FlowNet 2.0's networks share with them.

Layers as in the paper's figures 2 and 3, with LeakyReLU(0.1) where the paper has ReLU, as in all public weights.
Layers are named as in the public PyTorch implementations, so their weights fit tensor by tensor.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fg_depth_ros.networks.correlation import correlate_window
from fg_depth_ros.networks.flow import IMAGE_MEAN, FlowPrediction, pad_to_multiple

NORMALIZATIONS = ("fixed", "pair_mean")
CHANNEL_ORDERS = ("rgb", "bgr")
_SLOPE = 0.1
_SEARCH_RADIUS, _SEARCH_STRIDE = 20, 2  # feature pixels at 1/8: +-160 px of the image in steps of 16


class FlowNetwork(nn.Module):
    """From two frames to a flow: normalisation, padding, units. Subclasses implement ``match`` between them."""

    size_multiple = 64
    enlarging = "bilinear"  # how flow at 1/4 is up-sampled to full resolution
    mean: torch.Tensor

    def __init__(
        self, batch_norm: bool = False, width: float = 1.0, normalization: str = "fixed", channel_order: str = "rgb",
        flow_scale: float = 20.0,
    ) -> None:  # fmt: skip
        """Keep what all networks of the family take; forward always takes RGB. Raises ValueError: not possible.

        ``batch_norm``: after every convolution instead of a bias. ``width``: factor on the number of channels; 3/8
        gives the thin networks of FlowNet 2.0. ``normalization``: ``fixed``: RGB minus (.45, .432, .411);
        ``pair_mean``: minus the mean of every channel over both frames. ``channel_order``: of the layers' input,
        ``rgb`` or ``bgr``. ``flow_scale``: px per unit of the layers' output.
        """
        super().__init__()
        if width <= 0:
            raise ValueError(f"width must be a positive factor on the channels, got {width}")
        if flow_scale <= 0:
            raise ValueError(f"flow_scale must be positive, got {flow_scale}")
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got '{normalization}'")
        if channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"channel_order must be one of {', '.join(CHANNEL_ORDERS)}, got '{channel_order}'")
        self.options: dict[str, Any] = {
            "batch_norm": batch_norm, "width": width, "normalization": normalization, "channel_order": channel_order,
            "flow_scale": flow_scale,
        }  # fmt: skip
        self.batch_norm, self.width = batch_norm, width
        self.normalization, self.channel_order, self.flow_scale = normalization, channel_order, flow_scale
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> FlowPrediction:
        """Estimate the flow from ``first`` to ``second``, N x 3 x H x W float RGB in [0, 1].

        Raises ValueError: the frames differ in shape or have no three channels; in training mode, a size that is no
        multiple of ``size_multiple``.
        """
        if first.shape != second.shape or first.dim() != 4 or first.shape[1] != 3:
            raise ValueError(
                f"expected two N x 3 x H x W frames of one size, got {tuple(first.shape)} and {tuple(second.shape)}"
            )
        height, width = first.shape[-2:]
        if self.training and (height % self.size_multiple or width % self.size_multiple):
            raise ValueError(f"training needs sizes that are multiples of {self.size_multiple}, got {width}x{height}")
        first, second = pad_to_multiple(self.size_multiple, *self.normalized(first, second))
        levels = self.match(first, second)
        flow = levels[0]
        if flow.shape[-1] != first.shape[-1]:
            flow = enlarge(flow, self.enlarging)
        return FlowPrediction(flow[..., :height, :width], levels if self.training else None)

    def normalized(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalise the frames for the layers."""
        if self.normalization == "pair_mean":
            # In the order and range (0 .. 255) of the public code: what rounding leaves grows in a stack of networks.
            first, second = 255 * first, 255 * second
            mean = torch.stack([first, second], 2).flatten(2).mean(-1).unsqueeze(-1).unsqueeze(-1)
            first, second = (first - mean) / 255, (second - mean) / 255
        else:
            first, second = first - self.mean, second - self.mean
        if self.channel_order == "bgr":
            first, second = first.flip(1), second.flip(1)
        return first, second

    @abstractmethod
    def match(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the flow of normalised and padded frames at all resolutions, finest first, float32 px of the image."""

    def channels(self, count: int) -> int:
        """Return a number of channels times the width factor."""
        return max(1, round(count * self.width))

    def in_pixels(self, levels: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Convert predictions in the layers' unit to px."""
        return tuple(at_least_single(level) * self.flow_scale for level in levels)


class RefiningNetwork(FlowNetwork):
    """Common part of FlowNetS, FlowNetC and FlowNet2-SD: conv4 to conv6_1 and the refinement (paper, figure 3)."""

    def __init__(
        self, decoder_bias: bool = False, flow_bias: bool = False, intermediate: bool = False, **options: Any
    ) -> None:
        """Make the common layers; ``options``: as of ``FlowNetwork``.

        ``decoder_bias``: biases on deconvolutions and on the layers that predict flow; ``flow_bias``: on those that
        enlarge flow. ``intermediate``: a convolution between a level's features and its prediction (FlowNet2-SD).
        """
        super().__init__(**options)
        c = self.channels
        conv3, conv4, conv5, conv6 = c(256), c(512), c(512), c(1024)
        self.conv4, self.conv4_1 = self.conv(conv3, conv4, 3, 2), self.conv(conv4, conv4)
        self.conv5, self.conv5_1 = self.conv(conv4, conv5, 3, 2), self.conv(conv5, conv5)
        self.conv6, self.conv6_1 = self.conv(conv5, conv6, 3, 2), self.conv(conv6, conv6)
        self.predict_flow6 = predict_flow(conv6, decoder_bias)
        below = conv6
        for level, skip, decoded in ((5, conv5, c(512)), (4, conv4, c(256)), (3, conv3, c(128)), (2, c(128), c(64))):
            joined = skip + decoded + 2
            self.add_module(f"deconv{level}", deconv(below, decoded, decoder_bias))
            self.add_module(f"upsampled_flow{level + 1}_to_{level}", enlarge_flow(flow_bias))
            if intermediate:
                self.add_module(f"inter_conv{level}", plain_conv(joined, decoded, self.batch_norm))
            self.add_module(f"predict_flow{level}", predict_flow(decoded if intermediate else joined, decoder_bias))
            below = joined
        self.intermediate = intermediate

    def conv(self, cin: int, cout: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
        """Make a convolution and LeakyReLU, with or without batch normalisation."""
        return conv(cin, cout, kernel, stride, self.batch_norm)

    def refine(self, conv2: torch.Tensor, conv3: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Estimate flow at 1/4, 1/8 .. 1/64, in the layers' unit, from features at 1/4 and 1/8."""
        conv4 = self.conv4_1(self.conv4(conv3))
        conv5 = self.conv5_1(self.conv5(conv4))
        features = self.conv6_1(self.conv6(conv5))
        flow = self.predict_flow6(features)
        levels = [flow]
        for level, skip in ((5, conv5), (4, conv4), (3, conv3), (2, conv2)):
            larger = self.get_submodule(f"upsampled_flow{level + 1}_to_{level}")(flow)
            features = torch.cat([skip, self.get_submodule(f"deconv{level}")(features), larger.to(skip.dtype)], 1)
            seen = self.get_submodule(f"inter_conv{level}")(features) if self.intermediate else features
            flow = self.get_submodule(f"predict_flow{level}")(seen)
            levels.append(flow)
        return tuple(reversed(levels))


class FlowNetS(RefiningNetwork):
    """``flownet_s``: both frames stacked, and a plain encoder-decoder."""

    def __init__(self, inputs: int = 6, decoder_bias: bool = False, flow_bias: bool = False, **options: Any) -> None:
        """Build with fresh weights; ``inputs``: channels that ``levels`` takes; else as ``RefiningNetwork``."""
        super().__init__(decoder_bias, flow_bias, **options)
        self.options |= {"decoder_bias": decoder_bias, "flow_bias": flow_bias}
        c = self.channels
        self.conv1 = self.conv(inputs, c(64), 7, 2)
        self.conv2 = self.conv(c(64), c(128), 5, 2)
        self.conv3, self.conv3_1 = self.conv(c(128), c(256), 5, 2), self.conv(c(256), c(256))
        initialize(self)

    def match(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Estimate the flow of a batch; see ``FlowNetwork.match``."""
        return self.in_pixels(self.levels(torch.cat([first, second], 1)))

    def levels(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Estimate flow of N x inputs x H x W at 1/4, 1/8 .. 1/64, in the layers' unit."""
        conv2 = self.conv2(self.conv1(x))
        return self.refine(conv2, self.conv3_1(self.conv3(conv2)))


class FlowNetC(RefiningNetwork):
    """``flownet_c``: features of either frame by the same layers, compared over a window of +-160 px."""

    def __init__(self, decoder_bias: bool = False, flow_bias: bool = False, **options: Any) -> None:
        """Build with fresh weights; arguments as of ``FlowNetwork`` and ``RefiningNetwork``."""
        super().__init__(decoder_bias, flow_bias, **options)
        self.options |= {"decoder_bias": decoder_bias, "flow_bias": flow_bias}
        c = self.channels
        self.conv1 = self.conv(3, c(64), 7, 2)
        self.conv2 = self.conv(c(64), c(128), 5, 2)
        self.conv3 = self.conv(c(128), c(256), 5, 2)
        self.conv_redir = self.conv(c(256), c(32), 1)
        displacements = (2 * _SEARCH_RADIUS // _SEARCH_STRIDE + 1) ** 2
        self.conv3_1 = self.conv(c(32) + displacements, c(256))
        initialize(self)

    def match(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Estimate the flow of a batch; see ``FlowNetwork.match``."""
        return self.in_pixels(self.levels(first, second))

    def levels(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Estimate flow of two N x 3 x H x W at 1/4, 1/8 .. 1/64, in the layers' unit."""
        # One frame after the other: batch normalisation in training then sees the statistics the public code sees.
        conv2 = self.conv2(self.conv1(first))
        conv3 = self.conv3(conv2)
        other = self.conv3(self.conv2(self.conv1(second)))
        costs = F.leaky_relu(correlate_window(conv3, other, _SEARCH_RADIUS, _SEARCH_STRIDE), _SLOPE)
        joined = torch.cat([self.conv_redir(conv3), costs.to(conv3.dtype)], 1)
        return self.refine(conv2, self.conv3_1(joined))


def conv(cin: int, cout: int, kernel: int = 3, stride: int = 1, batch_norm: bool = False) -> nn.Sequential:
    """Make a convolution and LeakyReLU; with batch normalisation between them instead of a bias."""
    layers: list[nn.Module] = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=not batch_norm)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(cout))
    return nn.Sequential(*layers, nn.LeakyReLU(_SLOPE, inplace=True))


def plain_conv(cin: int, cout: int, batch_norm: bool = False) -> nn.Sequential:
    """Make a 3 x 3 convolution with bias and without activation."""
    layers: list[nn.Module] = [nn.Conv2d(cin, cout, 3, padding=1)]
    return nn.Sequential(*layers, nn.BatchNorm2d(cout)) if batch_norm else nn.Sequential(*layers)


def deconv(cin: int, cout: int, bias: bool) -> nn.Sequential:
    """Make a layer that doubles the resolution, and LeakyReLU."""
    return nn.Sequential(nn.ConvTranspose2d(cin, cout, 4, 2, 1, bias=bias), nn.LeakyReLU(_SLOPE, inplace=True))


def predict_flow(cin: int, bias: bool) -> nn.Conv2d:
    """Make a layer from features to flow of the same resolution."""
    return nn.Conv2d(cin, 2, 3, padding=1, bias=bias)


def enlarge_flow(bias: bool) -> nn.ConvTranspose2d:
    """Make a layer that learns to double the resolution of flow."""
    return nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=bias)


def enlarge(flow: torch.Tensor, mode: str) -> torch.Tensor:
    """Enlarge flow four times, in the same unit; ``mode`` ``bilinear`` (pixel centres kept in place) or ``nearest``."""
    return F.interpolate(flow, scale_factor=4.0, mode=mode, align_corners=False if mode == "bilinear" else None)


def at_least_single(tensor: torch.Tensor) -> torch.Tensor:
    """Convert half precision to float32; others stay as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def initialize(network: nn.Module) -> None:
    """Initialise weights for LeakyReLU (He et al. 2015, eq. 15), and biases with 0."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, _SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
