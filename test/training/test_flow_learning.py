"""A flow network that is trained learns to match."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning")

from fg_depth_ros.training.flow.augmentation import AugmentedFlowBatch
from fg_depth_ros.training.flow.config import FlowTraining
from fg_depth_ros.training.flow.train import FlowModule

REACH = 4  # px


def slides(count, size):
    """Textures that slide by up to 4 px along either axis."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, size // 4 + 8, size // 4 + 8, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)
    shifts = np.random.default_rng(0).integers(-REACH, REACH + 1, (count, 2))
    window = slice(REACH, REACH + size)
    second = [
        one[:, REACH - v : REACH - v + size, REACH - u : REACH - u + size]
        for one, (u, v) in zip(texture, shifts, strict=True)
    ]
    flow = torch.from_numpy(shifts).float()[:, :, None, None].expand(count, 2, size, size)
    valid = torch.ones(count, 1, size, size, dtype=torch.bool)
    return AugmentedFlowBatch(texture[:, :, window, window], torch.stack(second), flow, valid, ~valid)


def test_the_error_on_one_batch_falls_below_that_of_nothing_moves():
    """A network learns to answer that nothing moves long before it matches."""
    torch.manual_seed(0)
    module = FlowModule(
        FlowTraining(
            steps=1, model="flownet_s", options={"width": 0.125}, width=64, height=64, loss="flownet2",
            learning_rate=1e-3,
        )
    )  # fmt: skip
    batch = slides(8, 64)
    optimizer, errors = module.configure_optimizers(), []
    for _ in range(40):
        loss, parts = module.losses(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(parts["epe"]))
    still = float(torch.linalg.vector_norm(batch.flow, dim=1).mean())
    assert errors[0] > still and errors[-1] < 0.6 * still
