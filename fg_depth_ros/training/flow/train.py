"""Training of the flow networks: ``fg-depth train flow``.

Flying-Chairs-like scenes rendered without end, or folders of pairs with true flow; the losses, schedules and
augmentation of the published networks, and those of the compact one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch

from fg_depth_ros.evaluation.flow import FlowTask
from fg_depth_ros.synthesis.chairs import FlowBatch
from fg_depth_ros.training.callbacks import Evaluate, Validation
from fg_depth_ros.training.config import check_multiple
from fg_depth_ros.training.flow.augmentation import AugmentedFlowBatch, Augmenter
from fg_depth_ros.training.flow.config import SCHEDULES, FlowTraining
from fg_depth_ros.training.flow.dataset import MakeFlowBatch, folder_data, rendered_data, scene_batches
from fg_depth_ros.training.flow.losses import flow_loss
from fg_depth_ros.training.loop import TrainingModule, fit
from fg_depth_ros.training.stream import DataStream, scene_numbers


class NumberedBatch(NamedTuple):
    """Pairs as they were read, and their numbers (int64), for augmentation on the training device."""

    numbers: torch.Tensor
    batch: FlowBatch


class FlowModule(TrainingModule):
    """A flow network in training. Raises ValueError, CheckpointError: size, options or weights that do not fit."""

    config: FlowTraining

    def __init__(self, config: FlowTraining) -> None:
        super().__init__(config, config.options)
        check_multiple(int(self.model.size_multiple), (config.width, config.height))  # type: ignore[arg-type]
        self.augmenter = Augmenter(config.augmentation, config.width, config.height, config.seed)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return Adam as published, AdamW with the loss ``lite``; biases do not decay."""
        named = list(self.model.named_parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in named if not name.endswith("bias")]},
            {"params": [p for name, p in named if name.endswith("bias")], "weight_decay": 0.0},
        ]
        kind = torch.optim.AdamW if self.config.loss == "lite" else torch.optim.Adam
        groups = [group for group in groups if group["params"]]
        return kind(groups, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

    def lr_factor(self, progress: float) -> float:
        """Return the factor of the schedule."""
        return SCHEDULES[self.config.schedule][1](progress)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> AugmentedFlowBatch:
        """Move or render a batch; augment what comes as it was read."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return self.augmenter(moved.batch, batch.numbers.tolist()) if isinstance(moved, NumberedBatch) else moved

    def losses(self, batch: AugmentedFlowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the configured loss of the network's prediction."""
        prediction = self.predict(batch.first, batch.second)
        return flow_loss(prediction, batch.flow, batch.valid, self.config.loss, sparse=self.config.sparse)


def _augmented(make: MakeFlowBatch, augmenter: Augmenter, numbers: list[int]) -> AugmentedFlowBatch:
    return augmenter(make(numbers), numbers)


def _numbered(make: MakeFlowBatch, numbers: list[int]) -> NumberedBatch:
    return NumberedBatch(torch.tensor(numbers), make(numbers))


def train_flow(config: FlowTraining, extra: Evaluate | None = None) -> Path:
    """Train a flow network, or resume it; return the path of the best weights.

    ``extra``: metrics of the network on anything else, such as real pairs. Raises FileError: folders of photos,
    cut-outs or pairs that cannot be used. Raises CheckpointError: a state in ``out`` that belongs to another training,
    or weights that cannot be used. Raises FloatingPointError: a loss that is not finite. Raises ValueError: a size or
    options that do not fit the network.
    """
    data = folder_data(config) if config.data else rendered_data(config)
    pl.seed_everything(config.seed, verbose=False)
    module = FlowModule(config)
    card = data.card
    if not config.data and module.parent.get("licence"):
        card = {**card, "licence": module.parent["licence"]}  # fine-tuned weights stay under their licence
    task, sample = FlowTask(), data.validation[0]
    first, second = sample.images()
    truth = sample.truth()
    assert truth is not None

    def picture(network: torch.nn.Module) -> np.ndarray:
        return task.draw(first, truth, task.method_of(network)(first, second))

    def open_stream(device: torch.device) -> DataStream:
        make, world = data.open_batches(device)
        if world is None:  # pairs on disk: on a GPU they are augmented there
            augmented = partial(_augmented, make, module.augmenter)
            batches = augmented if device.type == "cpu" else partial(_numbered, make)
            return DataStream(batches, config.batch, config.workers)
        render = scene_batches(make, world, config, module.augmenter)
        if device.type == "cpu":
            return DataStream(render, config.batch, config.workers)
        module.device_renderer = render
        return DataStream(scene_numbers, config.batch)

    evaluate = task.validation({data.name: data.validation})
    return fit(module, Validation(evaluate, f"{data.name}/epe", extra, picture), card, open_stream, data.content)
