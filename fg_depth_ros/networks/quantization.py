"""Convolutions in 8 bits: the ranges of their inputs, and networks that round as an int8 engine does.

Post-training quantisation (Jacob et al., CVPR 2018): inputs with one range per layer, weights with one per channel.
Exported to ONNX, the rounding is a pair of QuantizeLinear and DequantizeLinear, of which an engine makes an int8
convolution. What adds up, up-samples or compares stays as it is: 8 bits of a disparity are pixels.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

Ranges = Mapping[str, Sequence[float]]
"""Name of a convolution in its network -> smallest and largest value of its input."""


class Quantizable(nn.Module):
    """Base of the networks that have convolutions for 8 bits."""

    int8_convolutions: ClassVar[str]
    """Regular expression that the names of these convolutions begin with."""
    int8_ranges: Ranges = MappingProxyType({})
    """Activation ranges of these weights; empty: not calibrated."""


class _Int8Conv(nn.Module):
    """A convolution whose input and weights are rounded to 8 bits."""

    scales: torch.Tensor
    zero_points: torch.Tensor

    def __init__(self, conv: nn.Conv2d, low: float, high: float) -> None:
        super().__init__()
        self.conv = conv
        low, high = min(low, 0.0), max(high, 0.0)  # padding is zero, and must be exact
        self.scale = max(high - low, 1e-8) / 255
        self.zero_point = round(-low / self.scale)
        largest = conv.weight.detach().abs().amax((1, 2, 3)).clamp(min=1e-8)
        self.register_buffer("scales", largest / 127)
        self.register_buffer("zero_points", torch.zeros(len(largest), dtype=torch.int32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, 255)
        weight = torch.fake_quantize_per_channel_affine(self.conv.weight, self.scales, self.zero_points, 0, -128, 127)
        conv = self.conv
        return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]


def int8_convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the convolutions of a network that are for 8 bits, by name; none where the network says nothing of it."""
    if not isinstance(network, Quantizable):
        return {}
    pattern, named = network.int8_convolutions, network.named_modules()
    return {name: m for name, m in named if isinstance(m, nn.Conv2d) and re.match(pattern, name)}


@contextmanager
def measured_ranges(network: nn.Module) -> Iterator[dict[str, list[float]]]:
    """Measure the inputs of the convolutions for 8 bits while the network runs inside.

    The ranges are there at the end: means over the runs of the smallest and the largest value. Raises ValueError: the
    network has no such convolutions, or did not run.
    """
    convolutions = int8_convolutions(network)
    if not convolutions:
        raise ValueError(f"{type(network).__name__} has no convolutions for 8 bits")
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in convolutions}

    def observer(name: str) -> Any:
        return lambda _, inputs: seen[name].append((float(inputs[0].detach().min()), float(inputs[0].detach().max())))

    hooks = [conv.register_forward_pre_hook(observer(name)) for name, conv in convolutions.items()]
    ranges: dict[str, list[float]] = {}
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()
    if not all(seen.values()):
        raise ValueError("nothing was measured: the network did not run")
    for name, extremes in seen.items():
        ranges[name] = [sum(side) / len(extremes) for side in zip(*extremes, strict=True)]


def checked_ranges(network: nn.Module, ranges: Any) -> Ranges:
    """Return ranges as read from a file. Raises ValueError: they are not those of this network's convolutions."""
    names = set(int8_convolutions(network))
    if not isinstance(ranges, dict) or set(ranges) != names:
        raise ValueError("its int8 ranges are not those of its convolutions: quantize it again")
    for name, pair in ranges.items():
        if not (isinstance(pair, list) and len(pair) == 2 and all(_is_finite(v) for v in pair) and pair[0] <= pair[1]):
            raise ValueError(f"its int8 range of {name} is {pair!r}: quantize it again")
    return ranges


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def quantized(network: nn.Module, ranges: Ranges) -> nn.Module:
    """Return a copy of a network in evaluation mode that rounds the convolutions which the ranges name to 8 bits."""
    rounded = copy.deepcopy(network)
    for name, (low, high) in ranges.items():
        parent, _, leaf = name.rpartition(".")
        conv = rounded.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        setattr(rounded.get_submodule(parent), leaf, _Int8Conv(conv, low, high))
    return rounded
