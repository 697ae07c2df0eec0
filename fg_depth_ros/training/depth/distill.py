"""Distillation of a depth network for one camera from stereo pairs: ``fg-depth distill``.

FG-Depth (Zhu et al., ICRA 2023): a frozen teacher predicts the matches of a pair; the network, which sees the left
image alone, learns from that, in metres.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from fg_depth_ros.data.samples import DepthProtocol, DepthSample
from fg_depth_ros.distributed import process_rank
from fg_depth_ros.files import FileError, unused_name
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.geometry.resize import size_with_area
from fg_depth_ros.networks import load_checkpoint
from fg_depth_ros.networks.registry import weights_path
from fg_depth_ros.progress import Track, no_progress
from fg_depth_ros.synthesis.cutouts import CutoutAtlas, list_cutouts
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
from fg_depth_ros.synthesis.world.generator import WorldGenerator
from fg_depth_ros.training.callbacks import Evaluate
from fg_depth_ros.training.content import content_of_files, content_of_pairs
from fg_depth_ros.training.depth.batch import PairBatch
from fg_depth_ros.training.depth.config import TRUTH, DistillTraining
from fg_depth_ros.training.depth.dataset import (
    MixedDataset,
    PairDataset,
    ResizeCrop,
    SceneDataset,
    load_sample,
)
from fg_depth_ros.training.depth.module import DistillModule, predict
from fg_depth_ros.training.depth.pairs import (
    PairSplit,
    PreparedPairs,
    TrainingPair,
    open_pair_sets,
    prepare_pairs,
    split_frames,
)
from fg_depth_ros.training.depth.teacher import PredictionCache, Teacher
from fg_depth_ros.training.depth.validation import depth_validation, validation_sample
from fg_depth_ros.training.loop import VALIDATION_SEED, fit, photo_sources
from fg_depth_ros.training.stream import DataStream

_LOG = logging.getLogger(__name__)
_WIDE = 0.6  # canonical focal length by the width if there are several cameras: 80 degrees across
_MAX_CROPPED = 0.1
_FOCAL_TOLERANCE = 0.01  # cameras whose focal lengths differ by less are one camera


def train_distill(
    config: DistillTraining, extra: Evaluate | None = None, track: Track = no_progress, split: PairSplit | None = None,
    source: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Distill a depth network, or resume it; return the path of the best weights.

    ``extra``: metrics of the network on anything else, such as data sets with true depth. ``track``: shows the progress
    of the preparation. ``split``: the pairs, opened and split by the caller; None = as ``config`` says. ``source``:
    further entries for the card.

    Raises:
        FileError: folders, bags or photos that cannot be used; a set of which no pair can be trained on.
        ModelError: a teacher that cannot be used.
        CheckpointError: a state in ``out`` that belongs to another training, or weights that cannot be used.
        FloatingPointError: a loss that is not finite.
        ValueError: a size or options that do not fit the network, or a focal length and weights with their own.
    """
    pl.seed_everything(config.seed, verbose=False)
    teacher = cache = None
    if config.teacher != TRUTH:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
        teacher = Teacher(
            config.teacher, config.teacher_weights, device, config.teacher_precision, config.teacher_scale
        )
        if not config.on_the_fly:
            cache = PredictionCache(config.cache or Path(config.out) / "teaching", teacher)
    if split is None:
        split = split_frames(
            open_pair_sets(config.data, config.bag), config.frames, config.held_out, config.test_frames
        )
    if teacher is None:
        _require_truth(split)
    scenes = _Scenes(config) if config.world else None
    rigs = [pair.rig for pairs in split.training.values() for pair in pairs if pair.rig is not None]
    module = DistillModule(config, _canonical_focal(config, rigs), teacher)
    _warn_cropped(config, rigs)
    load = partial(load_sample, cache=cache, mask=config.mask, width=config.width, height=config.height)
    prepared = prepare_pairs(
        split, teacher if cache is not None else None, cache, config.mask, track, config.skip_unusable
    )
    if split.training and not (prepared.training or config.world):
        raise FileError("none of the bags and folders has pairs that can be trained on; the reasons are above")
    module.prepared = prepared.total
    selecting, testing = _validation_sets(config, module, prepared, cache, scenes)

    def open_stream(device: torch.device) -> DataStream:
        if teacher is not None:
            teacher.to(device)
        rendered = None
        if scenes is not None:
            rendered = scenes.dataset(config.seed, device, config.all_shapes, config.uses)
            if device.type != "cpu":
                module.device_renderer = rendered.pairs
        training = prepared.training
        pairs = PairDataset(training, load, cache, config.seed) if training else None
        dataset = MixedDataset(pairs, rendered, config.world_share, render_here=device.type == "cpu")
        workers = config.workers if device.type == "cpu" or pairs is not None else 0
        return DataStream(dataset.batch, config.batch, workers)

    card = {**_card(config, module, prepared, scenes), **(source or {})}
    content = content_of_pairs(split._asdict())
    if scenes is not None:
        content = {**content, **content_of_files(photos=scenes.photos, cutouts=scenes.cutouts)}
    best = fit(module, depth_validation(selecting, testing, extra), card, open_stream, content)
    if process_rank()[0] == 0:
        _LOG.info("while training: %s", module.counts.summary())
    return best


def _validation_sets(
    config: DistillTraining, module: DistillModule, prepared: PreparedPairs, cache: PredictionCache | None,
    scenes: _Scenes | None,
) -> tuple[dict[str, list[DepthSample]], dict[str, list[DepthSample]]]:  # fmt: skip
    """Return the samples to select the weights by, and those to test with, by the name of their set.

    Raises FileError: none of a part has a depth to compare with.
    """

    def sample(one: TrainingPair) -> DepthSample:
        pairs, prediction = load_sample(
            one, cache, config.mask, *_validation_size(config, module.start_size, one.pair.require_rig())
        )
        if prediction is None and module.teacher is not None:
            prediction = predict(module.teacher, pairs, config.mask)
        return validation_sample(pairs, prediction)

    def samples(sets: Mapping[str, Sequence[TrainingPair]]) -> dict[str, list[DepthSample]]:
        return {name: [sample(one) for one in pairs] for name, pairs in sets.items()}

    selecting = samples(prepared.few("validation", config.validation_scenes))
    testing = samples(prepared.few("test", 4 * config.validation_scenes, "test:"))
    if scenes is not None:
        taken = {name for sets in prepared.counts.values() for name in sets}
        rendered = {unused_name(name, taken, "rendered_"): samples for name, samples in scenes.validation().items()}
        (selecting if config.select_by_world else testing).update(rendered)
    selecting, testing = (_with_reference(sets) for sets in (selecting, testing))
    for required, sets, what in ((True, selecting, "validation"), (prepared.counts["test"], testing, "test")):
        if required and not sets:
            raise FileError(f"none of the {what} pairs has a depth to compare with; choose others")
    return selecting, testing


def _validation_size(config: DistillTraining, start_size: tuple[int, int], rig: StereoRig) -> tuple[int, int]:
    """Return the size of the validation images, which each network resizes to its own: enough for the larger one."""
    area = start_size[0] * start_size[1]
    if area <= config.width * config.height:
        return config.width, config.height
    return size_with_area(rig.width * rig.pixel_aspect, rig.height, area)


def _require_truth(split: PairSplit) -> None:
    """Raise FileError for a set that a training by true depth cannot use."""
    for sets in split:
        for name, pairs in sets.items():
            if pairs[0].truth() is None:
                raise FileError(
                    f"{name}: no true disparity next to the pairs, and the teacher is '{TRUTH}': name a model"
                )


def _canonical_focal(config: DistillTraining, rigs: Sequence[StereoRig]) -> float:
    """Return the canonical focal length (px) as ``DistillTraining.focal`` says."""
    if config.weights:
        focal = load_checkpoint(weights_path(config.weights))[1].options.get("focal")
        if focal is not None and config.focal:
            raise ValueError(
                f"the weights to start from have their own canonical focal length; leave {config.focal} out"
            )
        if focal is not None:
            return float(focal)  # an encoder or a related architecture has none
    if config.focal:
        return config.focal
    focals = [ResizeCrop.of(rig, config.width, config.height).focal(rig) for rig in rigs]
    if focals and not config.world and max(focals) - min(focals) <= _FOCAL_TOLERANCE * min(focals):
        return float(np.mean(focals))
    return _WIDE * config.width


def _warn_cropped(config: DistillTraining, rigs: Sequence[StereoRig]) -> None:
    """Name the size that would show whole pictures, where much of them is cut off."""
    for rig in dict.fromkeys(rigs):
        cropped = ResizeCrop.of(rig, config.width, config.height).cropped_share
        if cropped > _MAX_CROPPED and process_rank()[0] == 0:
            width, height = size_with_area(rig.width * rig.pixel_aspect, rig.height, config.width * config.height)
            _LOG.warning(
                "%.0f %% of the pictures of %dx%d px are cut off at %dx%d; the size %dx%d would show them whole",
                100 * cropped, rig.width, rig.height, config.width, config.height, width, height,
            )  # fmt: skip


def _with_reference(sets: Mapping[str, Sequence[DepthSample]]) -> dict[str, list[DepthSample]]:
    """Return the samples with a reference depth in the range that is evaluated, and the sets that have one."""
    protocol = DepthProtocol()

    def known(sample: DepthSample) -> bool:
        truth = sample.truth()
        return truth is not None and bool(((truth > protocol.min_depth) & (truth < protocol.max_depth)).any())

    found = {name: [sample for sample in samples if known(sample)] for name, samples in sets.items()}
    for name in (name for name, samples in found.items() if not samples and process_rank()[0] == 0):
        _LOG.warning(
            "%s: none of its validation images has a reference depth between %g and %g m: left out of the validation",
            name, protocol.min_depth, protocol.max_depth,
        )  # fmt: skip
    return {name: samples for name, samples in found.items() if samples}


class _Scenes:
    """Rendered scenes and the material for them."""

    def __init__(self, config: DistillTraining) -> None:
        self.config, self.photos = config, list_photos(config.photos)
        self.cutouts = list_cutouts(config.cutouts) if config.cutouts else []
        self._atlas = TextureAtlas.build(self.photos, config.patterns, seed=config.seed)
        self._cutout_atlas = CutoutAtlas.build(self.cutouts, config.outlines, seed=config.seed)

    def dataset(
        self, seed: int, device: torch.device | str, shapes: Sequence[tuple[int, int]], uses: int = 1
    ) -> SceneDataset:
        """Return scenes in these shapes, by turns of a batch, each used ``uses`` times."""
        c = self.config
        renderers = [
            WorldGenerator(self._atlas, self._cutout_atlas, *shape, seed=seed, device=device, kind=c.world)
            for shape in shapes
        ]
        return SceneDataset(renderers, c.batch, c.needs_right, uses=uses, seed=seed)

    def validation(self) -> dict[str, list[DepthSample]]:
        """Return the fixed scenes of the validation, a set for every shape."""
        shapes, sets = self.config.all_shapes, {}
        for width, height in shapes:
            dataset = self.dataset(self.config.seed + VALIDATION_SEED, "cpu", [(width, height)])
            scenes: list[PairBatch] = [dataset.pairs([i]) for i in range(self.config.validation_scenes // len(shapes))]
            name = "world" if len(shapes) == 1 else f"world_{width}x{height}"
            sets[name] = [validation_sample(scene, None) for scene in scenes]
        return sets


def _card(
    config: DistillTraining, module: DistillModule, prepared: PreparedPairs, scenes: _Scenes | None
) -> dict[str, Any]:
    """Return licence, data, camera and teacher for the card of the weights."""
    rigs = [one.pair.rig for one in prepared.training]
    sources = [f"{c.used} pairs of {name}" for name, c in prepared.counts["training"].items() if c.used]
    card: dict[str, Any] = {"licence": "that of the data it was trained on", "sets": prepared.card()}
    if scenes is not None:
        sources.append(f"rendered scenes (fg_depth_ros.synthesis.world.generator, {config.world})")
        card["photo_sources"], card["cutout_sources"] = photo_sources(scenes.photos), photo_sources(scenes.cutouts)
        if not prepared.training:
            card["licence"] = module.parent.get("licence", "Apache-2.0")
    card["data"] = ", ".join(sources)
    card["camera"] = {"focal": module.model.focal, "width": config.width, "height": config.height}
    card["camera"]["baselines"] = sorted({round(rig.baseline, 4) for rig in rigs if rig is not None})
    card["teacher"] = module.teacher.settings if module.teacher else {"model": TRUTH}
    return card
