"""Data of ``fg-depth train flow``: rendered scenes without end, or folders of pairs with true flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from fg_depth_ros.data.datasets.flow import open_flow_sets
from fg_depth_ros.data.samples import FlowSample
from fg_depth_ros.files import FileError
from fg_depth_ros.synthesis.chairs import ChairsGenerator, FlowBatch
from fg_depth_ros.synthesis.cutouts import CutoutAtlas, list_cutouts
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
from fg_depth_ros.synthesis.world.generator import WorldGenerator
from fg_depth_ros.training.batches import cat_batches, split_batch, to_image, to_tensor
from fg_depth_ros.training.content import Content, content_of_files, content_of_frames
from fg_depth_ros.training.flow.augmentation import AugmentedFlowBatch, Augmenter
from fg_depth_ros.training.flow.config import FlowTraining
from fg_depth_ros.training.loop import VALIDATION_SEED, photo_sources
from fg_depth_ros.training.scene_pool import MixedScenes, ScenePool
from fg_depth_ros.training.stream import evenly, shuffled

MakeFlowBatch = Callable[[Sequence[int]], FlowBatch]


class TrainingData(NamedTuple):
    """Training batches and validation pairs of a run."""

    name: str
    open_batches: Callable[[torch.device], tuple[MakeFlowBatch, MakeFlowBatch | None]]
    """Return what makes batches and, for rendered scenes, what renders those of the virtual world."""
    validation: list[FlowSample]
    card: dict[str, Any]
    content: Content


def rendered_data(config: FlowTraining) -> TrainingData:
    """Return rendered scenes to train on and to validate with. Raises FileError: photos or cut-outs of no use."""
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

    return TrainingData("synthetic", open_batches, scenes, card, content_of_files(photos=photos, cutouts=cutout_files))


def folder_data(config: FlowTraining) -> TrainingData:
    """Return pairs of the folders to train on, and others of them to validate with. Raises FileError: too few."""
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
    pairs = FolderDataset(training, config.width + config.margin, config.height + config.margin, config.seed)
    card = {
        "licence": "that of the data it was trained on",
        "data": "pairs of " + ", ".join(f"{name} ({len(samples)})" for name, samples in sets.items()),
    }
    content = content_of_frames({"training": training, "held-out": held_out})
    return TrainingData("held_out", lambda device: (pairs.batch, None), held_out, card, content)


class FolderDataset:
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


def rendered_flow_sample(scene: FlowBatch) -> FlowSample:
    """Return a rendered pair (N = 1) as a sample."""
    flow = torch.where(scene.valid, scene.flow, torch.nan)[0].permute(1, 2, 0).cpu().numpy()
    return FlowSample("scene", to_image(scene.first), to_image(scene.second), flow)


def scene_batches(
    make: MakeFlowBatch, world: MakeFlowBatch, config: FlowTraining, augmenter: Augmenter
) -> Callable[[list[int]], AugmentedFlowBatch]:
    """Return what makes batches of rendered scenes, those of ``make`` and a share of the virtual world.

    Scenes come from a pool and are augmented at each use; with ``uses`` of 1 every number is a scene of its own.
    """

    def views_of(render: MakeFlowBatch, numbers: list[int]) -> list[list[FlowBatch]]:
        return [[scene] for scene in split_batch(render(numbers))]

    def use(scene: FlowBatch, rng: np.random.Generator) -> AugmentedFlowBatch:
        return augmenter(scene, [int(rng.integers(2**31))])

    scenes = MixedScenes(partial(views_of, make), partial(views_of, world), share=config.world_share, seed=config.seed)
    if config.uses == 1:
        return lambda numbers: cat_batches(
            [augmenter(scene, [n]) for n, (scene,) in zip(numbers, scenes(numbers), strict=True)]
        )
    return ScenePool(scenes, use, cat_batches, size=config.pool, uses=config.uses, seed=config.seed).batch
