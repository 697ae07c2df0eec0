"""``depthnet_efficient``: depth from one image, with an encoder that was trained on ImageNet.

Encoder: EfficientNet-Lite0 (Google, 2020; after Tan & Le, ICML 2019), without its classifier: inverted residuals
(Sandler et al., CVPR 2018) of 1 x 1 and depthwise convolutions, ReLU6, nothing that depends on the image as a whole.
Its layers compute what TensorFlow's do, so that published weights fit (``fg-depth import``). Decoder: that of
``depthnet_lite``; every level of the encoder enters through a 1 x 1 convolution, at 1/16 with the place in the image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from fg_depth_ros.networks.blocks import conv_norm
from fg_depth_ros.networks.depth import DepthPrediction
from fg_depth_ros.networks.depthnet_lite import CompactDepthNetwork, positions

EFFICIENTNET = "efficientnet_lite0"
"""Name of the encoder in the card of a file that holds it alone."""
# Of every stage: expansion, kernel, stride of its first block, channels, number of blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM = 32
# TensorFlow's 0.99 is the share of the old mean that stays, PyTorch's momentum the share of the new one.
_MOMENTUM, _EPSILON = 0.01, 1e-3


class DepthNetEfficient(CompactDepthNetwork):
    """``depthnet_efficient``."""

    def __init__(
        self,
        focal: float = 384.0,
        width: int = 640,
        height: int = 192,
        channels: Sequence[int] = (48, 96, 144),
    ) -> None:
        """Build it for a camera.

        Args:
            focal, width, height: the camera that it fits; see ``DepthNetwork``.
            channels: of the decoder at 1/4, 1/8 and 1/16 of the resolution.
        """
        super().__init__(focal, width, height)
        self.options["channels"] = list(channels)
        quarter, eighth, sixteenth = channels
        # Mean and deviation that the published encoder was trained with; they are not those of ImageNet's pixels.
        self.mean.fill_(127 / 255)
        self.deviation.fill_(128 / 255)
        self.encoder = EfficientNetLite0()
        _, *encoded, lowest = self.encoder.channels
        self.quarter, self.eighth, self.sixteenth = (
            conv_norm(cin, cout, 1, relu=False) for cin, cout in zip(encoded, channels, strict=True)
        )
        self.position = nn.Conv2d(2, sixteenth, 1, bias=False)
        self._add_decoder((quarter, eighth, sixteenth, lowest))

    def forward(self, image: torch.Tensor) -> DepthPrediction:
        """Predict inverse depth of N x 3 x H x W float RGB in [0, 1]; H and W multiples of 32."""
        half, quarter, eighth, sixteenth, lowest = self.encoder(self.normalised(image))
        position = self.position(positions(sixteenth))
        return self._decode(
            half, self.quarter(quarter), self.eighth(eighth), self.sixteenth(sixteenth) + position, lowest
        )


class EfficientNetLite0(nn.Module):
    """The encoder: features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution, ``channels`` of each."""

    channels = (16, 24, 40, 112, 320)

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_norm(3, _STEM, 3, 2)
        blocks: list[nn.Module] = []
        self._ends = []  # blocks after which the next stage halves the resolution, and the last one
        cin = _STEM
        for expansion, kernel, stride, cout, count in _STAGES:
            if stride == 2:
                self._ends.append(len(blocks) - 1)
            for number in range(count):
                blocks.append(_InvertedResidual(cin, cout, kernel, stride if number == 0 else 1, expansion))
                cin = cout
        self._ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Encode N x 3 x H x W, H and W multiples of 32, to five levels, finest first."""
        x, levels = self.stem(image), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self._ends:
                levels.append(x)
        return levels


class _InvertedResidual(nn.Module):
    """Expansion by a 1 x 1 convolution, depthwise convolution, linear 1 x 1 projection; a sum where shapes allow."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = cin * expansion
        self.expand = _conv_norm(cin, wide) if expansion > 1 else nn.Identity()
        self.depthwise = _conv_norm(wide, wide, kernel, stride, groups=wide)
        self.project = _conv_norm(wide, cout, relu=False)
        self.adds = stride == 1 and cin == cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return out + x if self.adds else out


def _autocast_on_cpu() -> bool:
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # before PyTorch 2.4
        return torch.is_autocast_cpu_enabled()


class _DepthwiseConv(nn.Conv2d):
    """Depthwise convolution that is fast to train on a CPU in mixed precision.

    The gradient of 5 x 5 weights takes oneDNN 2.4 to 7.7 times as long in bfloat16 as in float32 (AVX512-BF16).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = x.device.type == "cpu" and _autocast_on_cpu()
        if not (self.training and mixed and self.kernel_size[0] == 5):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


def _conv_norm(
    cin: int, cout: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Make a convolution as TensorFlow pads it ("SAME"), batch norm and, with ``relu``, ReLU6.

    With stride 2 and sides that are even, which those of all levels here are, TensorFlow puts the odd row and column of
    padding after the image, and PyTorch's symmetric padding would move everything by a pixel.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if stride == 2:
        layers["pad"] = nn.ZeroPad2d(((kernel - 2) // 2, (kernel - 1) // 2) * 2)
    padding = kernel // 2 if stride == 1 else 0
    convolution = nn.Conv2d if groups == 1 else _DepthwiseConv
    layers["conv"] = convolution(cin, cout, kernel, stride, padding, groups=groups, bias=False)
    layers["norm"] = nn.BatchNorm2d(cout, eps=_EPSILON, momentum=_MOMENTUM)
    if relu:
        layers["relu"] = nn.ReLU6(inplace=True)
    return nn.Sequential(layers)
