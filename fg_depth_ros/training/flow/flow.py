"""Training of the flow networks: ``fg-depth train flow``.

Flying-Chairs-like scenes rendered without end, or folders of pairs with true flow; the losses, schedules and
augmentation of the published networks, and those of the compact one. The loop is ``training.loop``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pytorch_lightning as pl
import torch

from fg_depth_ros.data.datasets.flow import open_flow_sets
from fg_depth_ros.data.io.formats import FileError, write_image
from fg_depth_ros.synthesis.chairs import ChairsGenerator, FlowBatch
from fg_depth_ros.synthesis.cutouts import CutoutAtlas, list_cutouts
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
from fg_depth_ros.training.feeding import Feed, FolderPairs, evenly, known_pairs
from fg_depth_ros.training.flow.augmentation import Augmenter, FlowPairs
from fg_depth_ros.training.flow.config import SCHEDULES, FlowTraining
from fg_depth_ros.training.flow.losses import flow_loss, length
from fg_depth_ros.training.loop import (
    VALIDATION_SEED,
    Judge,
    Keeper,
    Training,
    TrainingModule,
    Watch,
    photo_sources,
    run,
)

Draw = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(first H x W x 3 uint8 RGB, truth H x W x 2 px with NaN, answer H x W x 2 px) -> a picture, uint8 RGB."""


class _Source(Protocol):
    def batch(self, indices: Sequence[int]) -> FlowBatch: ...


class Numbered(NamedTuple):
    """Pairs as they were read, and their numbers (int64), for augmenting on the training device."""

    numbers: torch.Tensor
    batch: FlowBatch


def _augmented(source: _Source, augmenter: Augmenter, numbers: list[int]) -> FlowPairs:
    return augmenter(source.batch(numbers), numbers)


def _numbered(source: _Source, numbers: list[int]) -> Numbered:
    return Numbered(torch.tensor(numbers), source.batch(numbers))


class FlowModule(TrainingModule):
    """A flow network in training."""

    config: FlowTraining

    def __init__(self, config: FlowTraining) -> None:
        """Raises ValueError where the network cannot be trained at this size; else as ``TrainingModule``."""
        super().__init__(config, config.options)
        multiple = int(self.model.size_multiple)  # type: ignore[arg-type]
        if config.width % multiple or config.height % multiple:
            raise ValueError(
                f"width and height must be multiples of {multiple} for {config.model}, "
                f"got {config.width}x{config.height}"
            )
        self.augmenter = Augmenter(config.augmentation, config.width, config.height, config.seed)
        self.source: _Source | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam as published, AdamW with the loss ``lite``; biases do not decay."""
        named = list(self.model.named_parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in named if not name.endswith("bias")]},
            {"params": [p for name, p in named if name.endswith("bias")], "weight_decay": 0.0},
        ]
        kind = torch.optim.AdamW if self.config.loss == "lite" else torch.optim.Adam
        groups = [group for group in groups if group["params"]]
        return kind(groups, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

    def rate_factor(self, progress: float) -> float:
        """As the schedule says."""
        return SCHEDULES[self.config.schedule][1](progress)

    def render(self, numbers: list[int]) -> FlowPairs:
        """The scenes with these numbers, augmented."""
        if self.source is None:
            raise RuntimeError("no generator to render scenes with")
        return _augmented(self.source, self.augmenter, numbers)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> FlowPairs:
        """Scene numbers are rendered here, read pairs are moved and augmented; augmented ones are moved."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return self.augmenter(moved.batch, batch.numbers.tolist()) if isinstance(moved, Numbered) else moved

    def losses(self, batch: FlowPairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The configured loss of the network's prediction."""
        prediction = self.model(batch.first, batch.second)
        return flow_loss(prediction, batch.flow, batch.valid, self.config.loss, sparse=self.config.sparse)


class FlowKeeper(Keeper):
    """Validates before the first step too, and draws a fixed sample each time."""

    def __init__(
        self, config: Training, judge: Judge, select: str, source: Mapping[str, Any], watch: Watch | None,
        sample: FlowBatch, draw: Draw | None,
    ) -> None:  # fmt: skip
        """``sample``: one pair; ``draw``: makes a picture of it and the answer."""
        super().__init__(config, judge, select, source, watch)
        self.sample, self.draw = sample, draw

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """What the network knows before it is trained."""
        if module.steps_done == 0:  # type: ignore[attr-defined]
            self.keep(trainer, module)  # type: ignore[arg-type]

    def keep(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """As every training does it, and ``pictures/STEP.png``."""
        super().keep(trainer, module)
        if self.draw is None or not trainer.is_global_zero:
            return
        flow = answer(module.average, self.sample, module.device)[0].permute(1, 2, 0).numpy()
        truth = torch.where(self.sample.valid, self.sample.flow, torch.nan)[0].permute(1, 2, 0).numpy()
        picture = self.draw(self.sample.first[0].permute(1, 2, 0).numpy(), truth, flow)
        (self.out / "pictures").mkdir(exist_ok=True)
        write_image(self.out / "pictures" / f"{module.steps_done:07d}.png", picture)
        if trainer.logger:
            trainer.logger.experiment.add_image(  # type: ignore[attr-defined]
                "val/sample", picture, module.steps_done, dataformats="HWC"
            )


@torch.no_grad()
def answer(network: torch.nn.Module, batch: FlowBatch, device: torch.device) -> torch.Tensor:
    """The network's flow of a batch, N x 2 x H x W float32 px on the CPU."""
    return network(batch.first.to(device).float() / 255, batch.second.to(device).float() / 255).flow.float().cpu()


def validate_flow(
    name: str, batches: Sequence[FlowBatch], network: torch.nn.Module, device: torch.device
) -> dict[str, float]:
    """``NAME/epe`` (px) and ``NAME/fl`` (% off by more than 3 px and 5 % of the true length), over all known pixels."""
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        error = length(answer(network, batch, device) - batch.flow)[batch.valid]
        wrong = (error > 3) & (error > 0.05 * length(batch.flow)[batch.valid])
        sums += torch.stack([error.double().sum(), wrong.double().sum(), batch.valid.double().sum()])
    epe, wrong_part = (sums[:2] / sums[2]).tolist()
    return {f"{name}/epe": epe, f"{name}/fl": 100 * wrong_part}


class _Material(NamedTuple):
    """What a run is trained and judged on."""

    name: str
    open_source: Callable[[torch.device], _Source]
    validation: list[FlowBatch]
    card: dict[str, Any]


def train_flow(config: FlowTraining, watch: Watch | None = None, draw: Draw | None = None) -> Path:
    """Run (or go on with) a training; returns the path of the best weights.

    Args:
        config: what to do.
        watch: figures of the network on anything else, such as real pairs; written down at every validation, and
            neither trained on nor selected by.
        draw: makes the picture of one validation sample that every validation leaves in ``out/pictures``.

    Raises:
        FileError: folders of photos, cut-outs or pairs that cannot be used.
        CheckpointError: a state in ``out`` that belongs to another training, or weights that cannot be used.
        FloatingPointError: a loss that is not finite.
        ValueError: a size or options that do not fit the network.
    """
    material = _pairs(config) if config.data else _chairs(config)
    pl.seed_everything(config.seed, verbose=False)
    module = FlowModule(config)
    judge = partial(validate_flow, material.name, material.validation)
    card = material.card
    if not config.data and module.parent.get("licence"):
        card = {**card, "licence": module.parent["licence"]}  # what was fine-tuned stays under its licence
    sample = FlowBatch(*(part[:1] for part in material.validation[0]))
    keeper = FlowKeeper(config, judge, f"{material.name}/epe", card, watch, sample, draw)

    def open_feed(device: torch.device, start: int, rank: int, ranks: int) -> tuple[Feed, int]:
        on_cpu, workers = device.type == "cpu", config.workers
        module.source = source = material.open_source(device)
        make: Callable[[list[int]], Any] = partial(_augmented, source, module.augmenter)
        if not on_cpu:
            make, workers = (partial(_numbered, source), workers) if config.data else (torch.tensor, 0)
        return Feed(make, config.batch, start=start, rank=rank, ranks=ranks), workers

    return run(config, module, keeper, open_feed)


def _chairs(config: FlowTraining) -> _Material:
    """Rendered scenes."""
    photos = list_photos(config.photos)
    stamps = list_cutouts(config.cutouts) if config.cutouts else []
    atlas = TextureAtlas.build(photos, config.patterns, seed=config.seed)
    cutouts = CutoutAtlas.build(stamps, config.outlines, seed=config.seed)

    def generator(width: int, height: int, seed: int, device: torch.device | str = "cpu") -> ChairsGenerator:
        return ChairsGenerator(
            atlas, cutouts, width, height, seed, device, backgrounds=len(photos) or None, extras=config.extras
        )

    held_out = generator(config.width, config.height, config.seed + VALIDATION_SEED)
    card = {
        "licence": "Apache-2.0",
        "data": "synthetic scenes of affine motions (fg_depth_ros.synthesis.chairs), rendered while training",
        "photo_sources": photo_sources(photos),
        "stamp_sources": photo_sources(stamps),
    }
    return _Material(
        "synthetic",
        partial(generator, config.width + config.margin, config.height + config.margin, config.seed),
        [held_out.batch([i]) for i in range(config.validation_scenes)],
        card,
    )


def _pairs(config: FlowTraining) -> _Material:
    """Pairs from folders, and others of them to judge by."""
    sets = open_flow_sets(config.data, config.split)
    training = known_pairs(sets)
    if config.split == "train":
        others = known_pairs(open_flow_sets(config.data, "test"))
        held_out = [others[i] for i in sorted(evenly(others, config.validation_scenes))]
    else:
        if len(training) < 2:
            raise FileError(f"{', '.join(config.data)}: one pair with true flow; a training needs one more to judge by")
        chosen = evenly(training, max(1, min(config.validation_scenes, len(training) // 20)))
        held_out = [sample for i, sample in enumerate(training) if i in chosen]
        training = [sample for i, sample in enumerate(training) if i not in chosen]
    pairs = FolderPairs(training, config.width + config.margin, config.height + config.margin, config.seed)
    card = {
        "licence": "that of the data it was trained on",
        "data": "pairs of " + ", ".join(f"{name} ({len(samples)})" for name, samples in sets.items()),
    }
    return _Material("held_out", lambda device: pairs, [FolderPairs.whole(sample) for sample in held_out], card)
