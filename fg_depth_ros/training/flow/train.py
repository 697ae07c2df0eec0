"""Training of the flow networks: ``fg-depth train flow``.

Flying-Chairs-like scenes rendered without end, or folders of pairs with true flow; the losses, schedules and
augmentation of the published networks, and those of the compact one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from fg_depth_ros.data.datasets.flow import open_flow_sets
from fg_depth_ros.data.samples import FlowSample
from fg_depth_ros.evaluation.flow import FlowTask
from fg_depth_ros.files import FileError
from fg_depth_ros.synthesis.chairs import ChairsGenerator, FlowBatch
from fg_depth_ros.synthesis.cutouts import CutoutAtlas, list_cutouts
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
from fg_depth_ros.synthesis.world.generator import WorldGenerator
from fg_depth_ros.training.batches import cat_batches, split_batch, to_image, to_tensor
from fg_depth_ros.training.callbacks import Evaluate, Validation
from fg_depth_ros.training.config import check_multiple
from fg_depth_ros.training.content import Content, content_of_files, content_of_frames
from fg_depth_ros.training.flow.augmentation import Augmenter, FlowPairs
from fg_depth_ros.training.flow.config import SCHEDULES, FlowTraining
from fg_depth_ros.training.flow.losses import flow_loss
from fg_depth_ros.training.loop import VALIDATION_SEED, TrainingModule, fit, photo_sources
from fg_depth_ros.training.scene_pool import MixedScenes, ScenePool
from fg_depth_ros.training.stream import DataStream, evenly, scene_numbers, shuffled

MakeFlowBatch = Callable[[Sequence[int]], FlowBatch]


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

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> FlowPairs:
        """Move or render a batch; augment what comes as it was read."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return self.augmenter(moved.batch, batch.numbers.tolist()) if isinstance(moved, NumberedBatch) else moved

    def losses(self, batch: FlowPairs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the configured loss of the network's prediction."""
        prediction = self.predict(batch.first, batch.second)
        return flow_loss(prediction, batch.flow, batch.valid, self.config.loss, sparse=self.config.sparse)


def _augmented(make: MakeFlowBatch, augmenter: Augmenter, numbers: list[int]) -> FlowPairs:
    return augmenter(make(numbers), numbers)


def _numbered(make: MakeFlowBatch, numbers: list[int]) -> NumberedBatch:
    return NumberedBatch(torch.tensor(numbers), make(numbers))


def scene_batches(
    make: MakeFlowBatch, world: MakeFlowBatch, config: FlowTraining, augmenter: Augmenter
) -> Callable[[list[int]], FlowPairs]:
    """Return what makes batches of rendered scenes, those of ``make`` and a share of the virtual world.

    Scenes come from a pool and are augmented at each use; with ``uses`` of 1 every number is a scene of its own.
    """

    def views_of(render: MakeFlowBatch, numbers: list[int]) -> list[list[FlowBatch]]:
        return [[scene] for scene in split_batch(render(numbers))]

    def use(scene: FlowBatch, rng: np.random.Generator) -> FlowPairs:
        return augmenter(scene, [int(rng.integers(2**31))])

    scenes = MixedScenes(partial(views_of, make), partial(views_of, world), share=config.world_share, seed=config.seed)
    if config.uses == 1:
        return lambda numbers: cat_batches(
            [augmenter(scene, [n]) for n, (scene,) in zip(numbers, scenes(numbers), strict=True)]
        )
    return ScenePool(scenes, use, cat_batches, size=config.pool, uses=config.uses, seed=config.seed).batch


class _TrainingData(NamedTuple):
    """Training batches and validation pairs of a run."""

    name: str
    open_batches: Callable[[torch.device], tuple[MakeFlowBatch, MakeFlowBatch | None]]
    """Return what makes batches and, for rendered scenes, what renders those of the virtual world."""
    validation: list[FlowSample]
    card: dict[str, Any]
    content: Content


def train_flow(config: FlowTraining, extra: Evaluate | None = None) -> Path:
    """Train a flow network, or resume it; return the path of the best weights.

    ``extra``: metrics of the network on anything else, such as real pairs. Raises FileError: folders of photos,
    cut-outs or pairs that cannot be used. Raises CheckpointError: a state in ``out`` that belongs to another training,
    or weights that cannot be used. Raises FloatingPointError: a loss that is not finite. Raises ValueError: a size or
    options that do not fit the network.
    """
    data = _folder_data(config) if config.data else _rendered_data(config)
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


class FolderPairs:
    """Pairs on disk as endless numbered samples of one size: every pass through them is in another order.

    A window of ``width`` x ``height`` px is cut out at a place drawn by the number; a smaller picture is continued at
    the right and below, where its flow is not known. ``seed``: of the order and the windows.
    """

    def __init__(self, samples: Sequence[FlowSample], width: int, height: int, seed: int = 0) -> None:
        self.samples, self.width, self.height, self.seed = list(samples), width, height, seed

    def batch(self, numbers: Sequence[int]) -> FlowBatch:
        """Return the samples with these numbers, each a function of (seed, number) alone. Raises FileError."""
        cut = []
        for number in numbers:
            sample = self.samples[shuffled(number, len(self.samples), self.seed)[0]]
            cut.append(self._window(self.whole(sample), number))
        return cat_batches(cut)

    def _window(self, whole: FlowBatch, number: int) -> FlowBatch:
        height, width = whole.first.shape[-2:]
        across, down = max(0, self.width - width), max(0, self.height - height)
        if across or down:
            frames = [F.pad(f.float(), (0, across, 0, down), mode="replicate").to(torch.uint8) for f in whole[:2]]
            whole = FlowBatch(*frames, *(F.pad(field, (0, across, 0, down)) for field in whole[2:]))
        rng = np.random.default_rng([self.seed, 1, number])
        x = int(rng.integers(0, width + across - self.width + 1))
        y = int(rng.integers(0, height + down - self.height + 1))
        return FlowBatch(*(field[..., y : y + self.height, x : x + self.width] for field in whole))

    @staticmethod
    def whole(sample: FlowSample) -> FlowBatch:
        """Return one pair at its own size; ``occluded`` is False everywhere where the set does not say."""
        first, second = map(to_tensor, sample.images())
        truth, hidden = sample.truth(), sample.occluded()
        if truth is None:
            raise FileError(f"{sample.name}: no true flow next to {sample.first}; a training needs it")
        flow = to_tensor(truth)
        valid = torch.isfinite(flow).all(1, keepdim=True)
        occluded = torch.zeros_like(valid) if hidden is None else torch.from_numpy(hidden)[None, None] & valid
        return FlowBatch(first, second, torch.where(valid, flow, torch.zeros_like(flow)), valid, occluded)


def pairs_with_truth(sets: Mapping[str, Sequence[FlowSample]]) -> list[FlowSample]:
    """Return the samples that have true flow. Raises FileError: there are none."""
    samples = [sample for each in sets.values() for sample in each if sample.has_truth]
    if not samples:
        raise FileError(f"data sets ({', '.join(sets)}) hold no pair with true flow; a training needs it")
    return samples


def _rendered_data(config: FlowTraining) -> _TrainingData:
    """Return rendered scenes to train on and to validate with."""
    photos = list_photos(config.photos)
    cutout_files = list_cutouts(config.cutouts) if config.cutouts else []
    atlas = TextureAtlas.build(photos, config.patterns, seed=config.seed)
    cutouts = CutoutAtlas.build(cutout_files, config.outlines, seed=config.seed)

    def generator(width: int, height: int, seed: int, device: torch.device | str = "cpu") -> ChairsGenerator:
        return ChairsGenerator(
            atlas, cutouts, width, height, seed, device, backgrounds=len(photos) or None, extras=config.extras
        )

    held_out = generator(config.width, config.height, config.seed + VALIDATION_SEED)
    card = {
        "licence": "Apache-2.0",
        "data": f"rendered scenes, {100 * config.world_share:g} % of the virtual world, the others of affine motions "
        f"(fg_depth_ros.synthesis.chairs); each used {config.uses} times on average",
        "photo_sources": photo_sources(photos),
        "cutout_sources": photo_sources(cutout_files),
    }
    size = config.width + config.margin, config.height + config.margin
    scenes = [rendered_flow_sample(held_out.batch([i])) for i in range(config.validation_scenes)]

    def open_batches(device: torch.device) -> tuple[MakeFlowBatch, MakeFlowBatch]:
        world = WorldGenerator(atlas, cutouts, *size, config.seed, device)
        return generator(*size, config.seed, device).batch, world.frames

    return _TrainingData("synthetic", open_batches, scenes, card, content_of_files(photos=photos, cutouts=cutout_files))


def _folder_data(config: FlowTraining) -> _TrainingData:
    """Return pairs of the folders to train on, and others of them to validate with."""
    sets = open_flow_sets(config.data, config.split)
    training = pairs_with_truth(sets)
    if config.split == "train":
        others = pairs_with_truth(open_flow_sets(config.data, "test"))
        held_out = [others[i] for i in evenly(others, config.validation_scenes)]
    else:
        if len(training) < 2:
            raise FileError(
                f"{', '.join(config.data)}: one pair with true flow; a training needs another for the validation"
            )
        chosen = evenly(training, max(1, min(config.validation_scenes, len(training) // 20)))
        held_out = [sample for i, sample in enumerate(training) if i in chosen]
        training = [sample for i, sample in enumerate(training) if i not in chosen]
    pairs = FolderPairs(training, config.width + config.margin, config.height + config.margin, config.seed)
    card = {
        "licence": "that of the data it was trained on",
        "data": "pairs of " + ", ".join(f"{name} ({len(samples)})" for name, samples in sets.items()),
    }
    content = content_of_frames({"training": training, "held-out": held_out})
    return _TrainingData("held_out", lambda device: (pairs.batch, None), held_out, card, content)


def rendered_flow_sample(scene: FlowBatch) -> FlowSample:
    """Return a rendered pair (N = 1) as a sample."""
    flow = torch.where(scene.valid, scene.flow, torch.nan)[0].permute(1, 2, 0).cpu().numpy()
    return FlowSample("scene", to_image(scene.first), to_image(scene.second), flow)
