"""Distillation of a depth network for one camera from stereo pairs: ``fg-depth distill``.

FG-Depth (Zhu et al., ICRA 2023): a frozen teacher says where the matches of a pair are; the network, which sees the
left image alone, learns from that, in metres. The loop is ``training.loop``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch

from fg_depth_ros.data.io.formats import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.networks import load_checkpoint
from fg_depth_ros.networks.registry import weights_path
from fg_depth_ros.synthesis.cutouts import CutoutAtlas, list_cutouts
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
from fg_depth_ros.synthesis.world.generator import WorldGenerator
from fg_depth_ros.training.depth.batch import Taught
from fg_depth_ros.training.depth.config import TRUTH, DistillTraining
from fg_depth_ros.training.depth.module import DistillModule, moved
from fg_depth_ros.training.depth.pair_checks import PairCounts
from fg_depth_ros.training.depth.pair_preparation import (
    Division,
    Lesson,
    Track,
    divide,
    first_process,
    open_pair_sets,
    prepare,
)
from fg_depth_ros.training.depth.pair_sources import Fit, LessonSource, Mixture, RenderedSource, best_size, load_lesson
from fg_depth_ros.training.depth.teacher import Teacher, TeachingCache
from fg_depth_ros.training.depth.validation import DistillKeeper, Draw, Judged, judged
from fg_depth_ros.training.feeding import Feed, evenly
from fg_depth_ros.training.loop import VALIDATION_SEED, Watch, photo_sources, run

_LOG = logging.getLogger(__name__)
_WIDE = 0.6  # canonical focal length by the width where there are several cameras: 80 degrees across
_MUCH = 0.1
_FOCAL_TOLERANCE = 0.01  # cameras whose focal lengths differ by less are one camera


class _Material(NamedTuple):
    """Pairs on disk that a run is trained and judged on."""

    lessons: list[Lesson]
    selecting: dict[str, list[Judged]]
    watched: dict[str, list[Judged]]
    counts: dict[str, dict[str, PairCounts]]
    """By part of the division and set."""

    @property
    def total(self) -> PairCounts:
        """All of them."""
        return sum((c for part in self.counts.values() for c in part.values()), start=PairCounts())


def train_distill(
    config: DistillTraining,
    watch: Watch | None = None,
    draw: Draw | None = None,
    track: Track = lambda items, what, count: items,
    parts: Division | None = None,
    source: Mapping[str, Any] | None = None,
) -> Path:
    """Run (or go on with) a distillation; returns the path of the best weights.

    Args:
        config: what to do.
        watch: figures of the network on anything else; written down at every validation, and neither trained on nor
            selected by.
        draw: makes the picture of one pair that every validation leaves, for some, in ``out/pictures``.
        track: shows how far the preparation is.
        parts: the pairs, opened and divided by the caller; None = as ``config`` says.
        source: what the card says of the data beside.

    Raises:
        FileError: folders, bags or photos that cannot be used; a set of which no pair can be trained on.
        ModelError: a teacher that cannot be used.
        CheckpointError: a state in ``out`` that belongs to another training, or weights that cannot be used.
        FloatingPointError: a loss that is not finite.
        ValueError: a size or options that do not fit the network.
    """
    pl.seed_everything(config.seed, verbose=False)
    teacher = None
    if config.teacher != TRUTH:
        teacher = Teacher(
            config.teacher, config.teacher_weights, _own_device(), config.teacher_precision, config.teacher_scale
        )
    cache = None
    if teacher is not None and not config.on_the_fly:
        cache = TeachingCache(config.cache or Path(config.out) / "teaching", teacher)
    if parts is None:
        parts = divide(open_pair_sets(config.data, config.bag), config.frames, config.held_out, config.test_frames)
    if teacher is None:
        _check_truth(parts)
    world = _World(config) if config.world else None
    rigs = [pair.rig for pairs in parts.training.values() for pair in pairs if pair.rig is not None]
    module = DistillModule(config, _canonical_focal(config, rigs), teacher)
    _tell_cut(config, rigs)
    material = _material(config, parts, teacher, cache, track)
    if world is not None:
        for shape in config.all_shapes:
            scenes = world.scenes(config.seed + VALIDATION_SEED, "cpu", [shape])
            name = "world" if len(config.all_shapes) == 1 else f"world_{shape[0]}x{shape[1]}"
            numbers = range(config.validation_scenes // len(config.all_shapes))
            judging = material.selecting if config.select_by_world else material.watched
            judging[name] = [judged(scenes.pairs([i]), None, config.mask) for i in numbers]
    selecting, watched = (
        {name: kept for name, pairs in sets.items() if (kept := [p for p in pairs if p.reference.isfinite().any()])}
        for sets in (material.selecting, material.watched)
    )
    for wanted, found, what in ((True, selecting, "held-out"), (parts.watched, watched, "watched")):
        if wanted and not found:
            raise FileError(f"none of the {what} pairs has a depth to judge by; choose others")
    card = {**_card(config, module, material, world), **(source or {})}
    keeper = DistillKeeper(config, selecting, watched, card, watch, draw, material.total)

    def open_feed(device: torch.device, start: int, rank: int, ranks: int) -> tuple[Feed, int]:
        on_cpu = device.type == "cpu"
        if teacher is not None:
            teacher.to(device)
        module.scenes = world.scenes(config.seed, device, config.all_shapes) if world is not None else None
        lessons = None
        if material.lessons:
            lessons = LessonSource(material.lessons, cache, config.width, config.height, config.seed)
        mixture = Mixture(lessons, module.scenes, config.world_share, render_here=on_cpu)
        workers = config.workers if on_cpu or lessons is not None else 0
        return Feed(mixture.draw, config.batch, start=start, rank=rank, ranks=ranks), workers

    best = run(config, module, keeper, open_feed)
    if first_process():
        _LOG.info("while training: %s", module.counts.summary())
    return best


def _own_device() -> str:
    """The GPU of this process, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def _tell_cut(config: DistillTraining, rigs: Sequence[StereoRig]) -> None:
    """Say which size would show whole pictures, where much of them is cut off."""
    for rig in dict.fromkeys(rigs):
        cut = Fit.of(rig, config.width, config.height).cut_off
        if cut > _MUCH and first_process():
            width, height = best_size(rig, config.width * config.height)
            _LOG.warning(
                "%.0f %% of the pictures of %dx%d px are cut off at %dx%d; the size %dx%d would show them whole",
                100 * cut, rig.width, rig.height, config.width, config.height, width, height,
            )  # fmt: skip


def _check_truth(parts: Division) -> None:
    """Raise FileError for a set that a training by truth cannot use."""
    for sets in parts:
        for name, pairs in sets.items():
            if pairs[0].truth() is None:
                raise FileError(
                    f"{name}: no true disparity beside the pairs, and the teacher is '{TRUTH}': name a model"
                )


def _material(
    config: DistillTraining, parts: Division, teacher: Teacher | None, cache: TeachingCache | None, track: Track
) -> _Material:
    """Everything on disk, looked at and, if that is wanted beforehand, answered by the teacher."""
    asked = teacher if cache is not None else None
    prepared, counts = [], {}
    for what, part in parts._asdict().items():
        usable, counts[what] = prepare(part, asked, cache, config.mask, track, config.skip_unusable)
        prepared.append(usable)
    if parts.training and not (prepared[0] or config.world):
        raise FileError("none of the bags and folders has pairs that can be trained on; the reasons are above")
    judged_parts = [
        {
            name: [_judged(config, lessons[i], teacher, cache) for i in sorted(evenly(lessons, limit))]
            for name, lessons in part.items()
        }
        for part, limit in ((prepared[1], config.validation_scenes), (prepared[2], 4 * config.validation_scenes))
    ]
    selecting, watched = judged_parts
    material = _Material(
        [lesson for lessons in prepared[0].values() for lesson in lessons],
        selecting,
        {f"watched_{name}": pairs for name, pairs in watched.items()},
        counts,
    )
    if config.data and first_process():
        _LOG.info("%s", material.total.summary())
    return material


def _judged(config: DistillTraining, lesson: Lesson, teacher: Teacher | None, cache: TeachingCache | None) -> Judged:
    pairs, taught = load_lesson(lesson, cache, config.width, config.height)
    if taught is None and teacher is not None:
        taught = teacher.teach(pairs.left, pairs.right, both=bool(config.mask.left_right))
        taught = Taught(*moved(taught, torch.device("cpu")))
    return judged(pairs, taught, config.mask)


def _canonical_focal(config: DistillTraining, rigs: Sequence[StereoRig]) -> float:
    """As ``DistillTraining.focal`` says."""
    if config.weights:
        parent = load_checkpoint(weights_path(config.weights))[1]
        return float(parent.options.get("focal", _WIDE * config.width))  # a relative to grow from has none
    if config.focal:
        return config.focal
    focals = [Fit.of(rig, config.width, config.height).focal(rig) for rig in rigs]
    if focals and not config.world and max(focals) - min(focals) <= _FOCAL_TOLERANCE * min(focals):
        return float(np.mean(focals))
    return _WIDE * config.width


class _World:
    """Material for rendered scenes."""

    def __init__(self, config: DistillTraining) -> None:
        self.config, self.photos = config, list_photos(config.photos)
        self.stamps = list_cutouts(config.cutouts) if config.cutouts else []
        self.atlas = TextureAtlas.build(self.photos, config.patterns, seed=config.seed)
        self.cutouts = CutoutAtlas.build(self.stamps, config.outlines, seed=config.seed)

    def scenes(self, seed: int, device: torch.device | str, shapes: Sequence[tuple[int, int]]) -> RenderedSource:
        """Scenes of this run's kind in these shapes, by turns of a batch."""
        c = self.config
        renderers = [
            WorldGenerator(self.atlas, self.cutouts, width, height, seed=seed, device=device, kind=c.world)
            for width, height in shapes
        ]
        return RenderedSource(renderers, c.batch, c.needs_right)


def _card(config: DistillTraining, module: DistillModule, material: _Material, world: _World | None) -> dict[str, Any]:
    """What the weights say of themselves."""
    rigs = [lesson.pair.rig for lesson in material.lessons]
    baselines = sorted({round(rig.baseline, 4) for rig in rigs if rig is not None})
    sources = [f"{counts.used} pairs of {name}" for name, counts in material.counts["training"].items() if counts.used]
    card: dict[str, Any] = {"licence": "that of the data it was trained on"}
    card["sets"] = {
        what: {name: counts.as_dict() for name, counts in part.items()} for what, part in material.counts.items()
    }
    if world is not None:
        sources.append(f"rendered scenes (fg_depth_ros.synthesis.world.generator, {config.world})")
        card["photo_sources"], card["stamp_sources"] = photo_sources(world.photos), photo_sources(world.stamps)
        if not material.lessons:
            card["licence"] = module.parent.get("licence", "Apache-2.0") if module.parent else "Apache-2.0"
    card["data"] = ", ".join(sources)
    card["camera"] = {
        "focal": module.model.focal, "width": config.width, "height": config.height, "baselines": baselines,
    }  # fmt: skip
    card["teacher"] = module.teacher.settings if module.teacher else {"model": TRUTH}
    return card
