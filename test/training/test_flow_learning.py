"""A flow network that is trained visibly learns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning")

from fg_depth_ros.networks import load_model
from fg_depth_ros.synthesis.chairs import FlowBatch
from fg_depth_ros.training.flow.config import FlowTraining
from fg_depth_ros.training.flow.flow import train_flow

REACH = 4  # px


class Slides:
    """A stand-in for the renderer: textures that slide by up to 4 px along either axis, as fast as one can render."""

    def __init__(self, atlas, cutouts, width, height, seed, device, backgrounds=None, extras=0):
        self.atlas, self.size, self.seed = atlas, (height, width), seed

    def batch(self, indices):
        return FlowBatch(*(torch.stack(field) for field in zip(*map(self._pair, indices), strict=True)))

    def _pair(self, index):
        rng = np.random.default_rng([self.seed, index])
        height, width = self.size
        side = self.atlas.size
        at = int(rng.integers(self.atlas.count)) * self.atlas.stride
        image = self.atlas.texels[at : at + side * side].view(side, side, 3).permute(2, 0, 1)
        x, y = (int(rng.integers(REACH, side - length - REACH)) for length in (width, height))
        u, v = (int(k) for k in rng.integers(-REACH, REACH + 1, 2))
        first = image[:, y : y + height, x : x + width]
        second = image[:, y - v : y - v + height, x - u : x - u + width]
        valid = torch.ones((1, height, width), dtype=torch.bool)
        return first, second, torch.tensor([u, v]).float().view(2, 1, 1).expand(2, height, width), valid, ~valid


@pytest.mark.slow
@pytest.mark.timeout(900)  # seconds on an idle machine, minutes beside other work
def test_the_validation_error_falls_by_a_third(tmp_path, monkeypatch):
    """And below that of always answering that nothing moves, which a network learns long before it matches."""
    monkeypatch.setattr("fg_depth_ros.training.flow.flow.ChairsGenerator", Slides)
    config = FlowTraining(
        out=str(tmp_path), steps=700, model="flownet_s", options={"width": 0.125}, width=64, height=64, margin=0,
        batch=8, loss="flownet2", schedule="fixed", learning_rate=1e-3, augment="none", patterns=24, outlines=1,
        workers=0, validation_scenes=32, validate_minutes=60.0, seed=0,
    )  # fmt: skip
    best = train_flow(config)
    first, last = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    nothing_moves = np.mean([np.hypot(u, v) for u in range(-REACH, REACH + 1) for v in range(-REACH, REACH + 1)])
    assert (first["step"], last["step"]) == (0, 700)
    assert last["synthetic/epe"] < 2 / 3 * first["synthetic/epe"]
    assert last["synthetic/epe"] < 0.95 * nothing_moves
    _, card = load_model(best)
    assert (card.name, card.options["width"]) == ("flownet_s", 0.125)
    assert card.description["pairs"] == 5600
