"""``depthnet_r18`` and ``depthnet_r50``: a ResNet and the decoder of Monodepth2.

Encoder: ResNet-18 or -50 (He et al., CVPR 2016), its tensors named as torchvision names them, so that published weights
fit. Decoder: Monodepth2 (Godard et al., ICCV 2019): channels 256, 128, 64, 32, 16; at every level a 3 x 3 convolution,
nearest-neighbour up-sampling, the encoder's features concatenated, another 3 x 3 convolution; ELU, reflection padding;
inverse depth at the four finest levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from fg_depth_ros.networks.blocks import double
from fg_depth_ros.networks.checkpoint import CheckpointError
from fg_depth_ros.networks.depth import DepthNetwork, DepthPrediction, start_logit

_DECODER = (16, 32, 64, 128, 256)
_DECODER_LEVELS = 4
_LAYERS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class DepthNet(DepthNetwork):
    """DepthNet of FG-Depth with an encoder of 18 or 50 layers."""

    def __init__(self, layers: int = 18, focal: float = 384.0, width: int = 640, height: int = 192) -> None:
        """Build 18 or 50 ``layers`` for this camera; see ``DepthNetwork``. Raises ValueError: another number."""
        super().__init__(focal, width, height)
        if layers not in _LAYERS:
            raise ValueError(f"layers must be one of {', '.join(map(str, _LAYERS))}, got {layers}")
        self.encoder = ResNet(layers)
        self.decoder = _Decoder(self.encoder.channels)

    def forward(self, image: torch.Tensor) -> DepthPrediction:
        """Predict inverse depth of N x 3 x H x W float RGB in [0, 1]; H and W multiples of 32."""
        logits = self.decoder(self.encoder(self.normalised(image)), _DECODER_LEVELS if self.training else 1)
        return self.prediction(logits)


def load_resnet(network: nn.Module, path: str | Path) -> None:
    """Put published weights of a ResNet into a DepthNet's encoder.

    ``path``: torchvision's state dict (``.pth``, read without running code, or ``.safetensors``); its classifier is
    left out. Raises CheckpointError: a network without ResNet, or a file that cannot be read or is of another ResNet.
    """
    if not isinstance(network, DepthNet):
        raise CheckpointError(
            f"{path} can only start depthnet_r18 or depthnet_r50, not a {type(network).__name__}: choose one of them "
            "(depthnet_efficient starts from an imported encoder by weights and load_partial)"
        )
    try:
        read = load_file if Path(path).suffix == ".safetensors" else _load_pickled
        tensors = {name: tensor for name, tensor in read(path).items() if not name.startswith("fc.")}
        network.encoder.load_state_dict(tensors)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, AttributeError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds no weights of this ResNet ({str(error).splitlines()[0]}); give the state dict that "
            "torchvision publishes for it"
        ) from error


def _load_pickled(path: str | Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


class ResNet(nn.Module):
    """The encoder: features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution."""

    def __init__(self, layers: int) -> None:
        """``layers``: 18 or 50."""
        super().__init__()
        block = _Basic if layers == 18 else _Bottleneck
        self.channels = (64, *(width * block.expansion for width in (64, 128, 256, 512)))
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        cin = 64
        for level, (width, count) in enumerate(zip((64, 128, 256, 512), _LAYERS[layers], strict=True), 1):
            blocks = []
            for i in range(count):
                blocks.append(block(cin, width, 2 if i == 0 and level > 1 else 1))
                cin = width * block.expansion
            setattr(self, f"layer{level}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Encode N x 3 x H x W to five levels, finest first."""
        levels = [F.relu(self.bn1(self.conv1(image)), inplace=True)]
        levels.append(self.layer1(F.max_pool2d(levels[0], 3, 2, 1)))  # type: ignore[operator]
        for layer in (self.layer2, self.layer3, self.layer4):
            levels.append(layer(levels[-1]))  # type: ignore[operator]
        return levels


class _Basic(nn.Module):
    expansion = 1

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(cin, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _shortcut(cin, width * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


def _shortcut(cin: int, cout: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and cin == cout:
        return None
    return nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))


class _Decoder(nn.Module):
    """From five levels of features to logits, finest first."""

    def __init__(self, encoder: Sequence[int]) -> None:
        super().__init__()
        before, after, heads = [], [], []
        for level, width in enumerate(_DECODER):
            below = encoder[-1] if level == len(_DECODER) - 1 else _DECODER[level + 1]
            beside = encoder[level - 1] if level > 0 else 0
            before.append(_Conv(below, width))
            after.append(_Conv(width + beside, width))
        for width in _DECODER[:_DECODER_LEVELS]:
            head = nn.Conv2d(width, 1, 3)
            nn.init.normal_(head.weight, std=0.01)
            nn.init.constant_(head.bias, start_logit())  # type: ignore[arg-type]
            heads.append(head)
        self.before, self.after, self.heads = nn.ModuleList(before), nn.ModuleList(after), nn.ModuleList(heads)

    def forward(self, features: list[torch.Tensor], levels: int) -> list[torch.Tensor]:
        """Decode; ``levels``: number of the finest resolutions to return."""
        x, logits = features[-1], []
        for level in reversed(range(len(_DECODER))):
            x = double(self.before[level](x))
            if level > 0:
                x = torch.cat([x, features[level - 1]], 1)
            x = self.after[level](x)
            if level < levels:
                logits.append(self.heads[level](F.pad(x, (1, 1, 1, 1), mode="reflect")))
        return logits[::-1]


class _Conv(nn.Module):
    """3 x 3 convolution after reflection padding, ELU."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Padding by reflection needs more pixels than it adds; one row or column is repeated instead.
        mode = "reflect" if min(x.shape[-2:]) > 1 else "replicate"
        return F.elu(self.conv(F.pad(x, (1, 1, 1, 1), mode=mode)), inplace=True)
