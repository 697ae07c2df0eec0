"""Convolutions in 8 bits: rounding by hand, ranges, and what a weights file says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fg_depth_ros.networks import CheckpointError, create_model, load_model, save_checkpoint
from fg_depth_ros.networks.checkpoint import ModelCard
from fg_depth_ros.networks.quantization import Quantizable, int8_convolutions, measured_ranges, quantized


class Small(Quantizable):
    int8_convolutions = "body"

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
        nn.init.ones_(self.stem.weight)
        with torch.no_grad():
            self.body.weight.copy_(torch.tensor([1.27, 0.01]).view(2, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(self.stem(x))
        return found


def test_inputs_and_weights_are_rounded_by_hand() -> None:
    """Inputs 0 .. 255 in steps of 1; weights by a scale for each channel: 1.27 in steps of 0.01, and 0.01 exactly."""
    network = Small().eval()
    rounded = quantized(network, {"body": [0.0, 255.0]})
    answer = rounded(torch.tensor([0.0, 10.4, 300.0]).view(3, 1, 1, 1))
    torch.testing.assert_close(answer[:, 0].flatten(), torch.tensor([0.0, 12.7, 255 * 1.27]))
    torch.testing.assert_close(answer[:, 1].flatten(), torch.tensor([0.0, 0.1, 2.55]))
    assert network(torch.tensor([10.4]).view(1, 1, 1, 1))[0, 0].item() == pytest.approx(10.4 * 1.27)  # as it was


@pytest.mark.parametrize(("low", "high"), [(0.3, 2.0), (-2.0, -0.3), (-1.0, 3.0), (0.0, 0.0)])
def test_zero_which_pads_stays_exactly_zero(low: float, high: float) -> None:
    assert quantized(Small().eval(), {"body": [low, high]})(torch.zeros(1, 1, 1, 1)).abs().max() == 0


def test_ranges_are_means_over_the_runs() -> None:
    network = Small()
    with measured_ranges(network) as ranges:
        network(torch.tensor([[[[-1.0, 2.0]]]]))
        network(torch.tensor([[[[-3.0, 3.0]]]]))
    assert ranges == {"body": [-2.0, 2.5]}
    assert not network.body._forward_pre_hooks
    with pytest.raises(ValueError, match="the network did not run"), measured_ranges(network):
        pass
    with pytest.raises(ValueError, match="Conv2d has no convolutions for 8 bits"), measured_ranges(nn.Conv2d(1, 1, 1)):
        pass


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("flownet_stereo", ("encoder.stem", "aggregation.logits", "second_look.answer", "second_look.mask")),
        ("flownet_lite", ("encoder.stem", "search.logits", "at_half.residual", "at_half.mask", "at_quarter.compare")),
        ("depthnet_lite", ("stem", "depth", "residual", "mask", "fine_mask")),
        ("depthnet_efficient", ("encoder.stem", "depth", "residual", "mask", "fine_mask")),
    ],
)
def test_what_becomes_a_disparity_a_flow_or_depth_stays_in_float(name: str, exact: tuple[str, ...]) -> None:
    network = create_model(name)
    names = set(int8_convolutions(network))
    sizes = {n: m.weight.numel() for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert sum(sizes[n] for n in names) > 0.75 * sum(sizes.values())
    for part in exact:
        assert any(n.startswith(part) for n in sizes)
        assert not any(n.startswith(part) for n in names)


# ---- in a weights file ---------------------------------------------------------------------------------------------

SIZES = {"features": [16, 16, 16], "widths": [16, 16, 16, 16], "radii": [2, 1, 1, 0]}


def written(path: Path, change: dict[str, object]) -> Path:
    """Weights with ranges; ``change``: of what the card says of int8."""
    network = create_model("flownet_lite", **SIZES)
    card = save_checkpoint(path, network, ModelCard("flownet_lite", network.options, "", {}))
    ranges = {name: [0.0, 1.0] for name in int8_convolutions(network)}
    int8 = {"sha256": card.sha256, "ranges": ranges} | change
    save_checkpoint(path, network, replace(card, description={"int8": int8}))
    return path


def test_ranges_come_with_the_weights_that_they_were_measured_on(tmp_path: Path) -> None:
    network, _ = load_model(written(tmp_path / "a.safetensors", {}))
    assert isinstance(network, Quantizable)
    assert set(network.int8_ranges) == set(int8_convolutions(network))
    other, _ = load_model(written(tmp_path / "b.safetensors", {"sha256": "of the weights before the training"}))
    assert isinstance(other, Quantizable)
    assert not other.int8_ranges


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({}, "not those of its convolutions"),
        (None, "not those of its convolutions"),
        ({"search.top": [0, 1]}, "not those of its convolutions"),
        ([1.0, 0.0], "range of .* is"),
        ([0.0, float("nan")], "range of .* is"),
        ([0.0], "range of .* is"),
        ("wide", "range of .* is"),
    ],
)
def test_damaged_ranges_are_named(tmp_path: Path, ranges: object, words: str) -> None:
    if not isinstance(ranges, dict) and ranges is not None:
        ranges = dict.fromkeys(int8_convolutions(create_model("flownet_lite", **SIZES)), ranges)
    path = written(tmp_path / "a.safetensors", {"ranges": ranges})
    with pytest.raises(CheckpointError, match=f"a.safetensors does not fit .*{words}.*: quantize it again"):
        load_model(path)
