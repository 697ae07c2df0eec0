"""EfficientNet-Lite0 as published: its tensors by their published names, and what it computes, written as functions.

After Google's lite/efficientnet_lite_builder.py (tensorflow/tpu) and TensorFlow's definition of "SAME" padding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

# Of every block: expansion, kernel, stride, channels in, channels out.
BLOCKS = [
    (1, 3, 1, 32, 16),
    (6, 3, 2, 16, 24), (6, 3, 1, 24, 24),
    (6, 5, 2, 24, 40), (6, 5, 1, 40, 40),
    (6, 3, 2, 40, 80), (6, 3, 1, 80, 80), (6, 3, 1, 80, 80),
    (6, 5, 1, 80, 112), (6, 5, 1, 112, 112), (6, 5, 1, 112, 112),
    (6, 5, 2, 112, 192), (6, 5, 1, 192, 192), (6, 5, 1, 192, 192), (6, 5, 1, 192, 192),
    (6, 3, 1, 192, 320),
]  # fmt: skip


def public_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors of every name in the published file, of magnitudes that keep the answer finite."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}

    def conv(name: str, cout: int, cin: int, kernel: int) -> None:
        fan_in = cin * kernel**2
        tensors[f"{name}.weight"] = torch.randn(cout, cin, kernel, kernel, generator=generator) * (2 / fan_in) ** 0.5

    def norm(name: str, channels: int) -> None:
        tensors[f"{name}.weight"] = 0.5 + torch.rand(channels, generator=generator)
        tensors[f"{name}.bias"] = torch.randn(channels, generator=generator) / 4
        tensors[f"{name}.running_mean"] = torch.randn(channels, generator=generator) / 4
        # As small as the epsilon in places, so that another one makes a difference.
        tensors[f"{name}.running_var"] = 1e-3 + torch.rand(channels, generator=generator)
        tensors[f"{name}.num_batches_tracked"] = torch.tensor(0)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for number, (expansion, kernel, _, cin, cout) in enumerate(BLOCKS):
        name, wide = f"_blocks.{number}", expansion * cin
        if expansion > 1:
            conv(f"{name}._expand_conv", wide, cin, 1)
            norm(f"{name}._bn0", wide)
        conv(f"{name}._depthwise_conv", wide, 1, kernel)
        norm(f"{name}._bn1", wide)
        conv(f"{name}._project_conv", cout, wide, 1)
        norm(f"{name}._bn2", cout)
    conv("_conv_head", 1280, 320, 1)
    norm("_bn1", 1280)
    tensors["_fc.weight"], tensors["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return tensors


def features(tensors: Mapping[str, torch.Tensor], image: torch.Tensor) -> list[torch.Tensor]:
    """Return what every block computes for N x 3 x H x W."""

    def conv(x: torch.Tensor, name: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = tensors[f"{name}.weight"]
        pads = []
        for side in (x.shape[-1], x.shape[-2]):
            kernel = weight.shape[-1]
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), weight, None, stride, 0, 1, groups)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            tensors[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    def relu6(x: torch.Tensor) -> torch.Tensor:
        return x.clamp(0, 6)

    x, answers = relu6(norm(conv(image, "_conv_stem", 2), "_bn0")), []
    for number, (expansion, _, stride, cin, cout) in enumerate(BLOCKS):
        name, before = f"_blocks.{number}", x
        if expansion > 1:
            x = relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
        x = relu6(norm(conv(x, f"{name}._depthwise_conv", stride, expansion * cin), f"{name}._bn1"))
        x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
        if stride == 1 and cin == cout:
            x = x + before
        answers.append(x)
    return answers
