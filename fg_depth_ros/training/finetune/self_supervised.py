"""Fine-tuning of a stereo network on pairs without labels: ``fg-depth finetune --stereo``.

The network answers for both views of a pair (the right one as the left one of the mirrored pair); each image, warped by
the answer, has to look like the other one where both cameras see it. It may not go far from the weights that it begins
with. The loop is ``training.loop``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from fg_depth_ros.data.io.formats import FileError
from fg_depth_ros.networks.flow import pad_to_multiple
from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE
from fg_depth_ros.training.depth.batch import PairBatch
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.pair_checks import BadPair, PairCounts, as_tensor, checked_images, level_pair
from fg_depth_ros.training.depth.pair_preparation import Division, Lesson, Track, first_process, prepare
from fg_depth_ros.training.depth.pair_sources import LessonSource
from fg_depth_ros.training.feeding import Feed, evenly
from fg_depth_ros.training.finetune.config import StereoFinetuning
from fg_depth_ros.training.finetune.stereo_losses import distance_from, look_across, stereo_terms
from fg_depth_ros.training.loop import Keeper, TrainingModule, run

_LOG = logging.getLogger(__name__)
SELECTED = "unexplained"
"""The figure that chooses the best weights: the mean over the sets of what their pixels cost."""
_WEIGHTED = ("photometric", "left_right", "smoothness", "anchor")


class Windows(NamedTuple):
    """Windows of rectified pairs: N x 3 x H x W uint8 RGB each."""

    left: Tensor
    right: Tensor


def whole_pair(lesson: Lesson, cache: object = None, width: int = 0, height: int = 0) -> tuple[PairBatch, None]:
    """A pair at its own size, infinity at disparity 0; the other arguments are those of a ``Loader`` and unused.

    Raises:
        BadPair: the images cannot be used.
        FileError: the true disparity cannot be read.
    """
    left, right, known = checked_images(lesson.pair)
    left, right, rig = level_pair(left, right, known)
    disparity = lesson.pair.truth()
    truth = np.full(left.shape[:2], np.nan, np.float32) if disparity is None else disparity + known.doffs
    focal, baseline = torch.tensor([rig.fx]), torch.tensor([rig.baseline])
    return PairBatch(as_tensor(left), as_tensor(right), focal, baseline, torch.from_numpy(truth)[None, None]), None


class WindowSource:
    """Endless numbered windows of pairs on disk, each at a place drawn by its number."""

    def __init__(self, source: LessonSource, width: int, height: int) -> None:
        """``width``, ``height``: px; no pair may be smaller."""
        self.source, self.width, self.height = source, width, height

    def draw(self, numbers: Sequence[int]) -> Windows:
        """The windows with these numbers. Raises FileError where no pair can be read any more."""
        samples, counts = self.source.samples(numbers)
        for reason, example in counts.examples.items():
            _LOG.warning("left out (%s): %s", reason, example)
        cut = []
        for number, (pair, _) in zip(numbers, samples, strict=True):
            rng = np.random.default_rng([self.source.seed, 1, number])
            tall, wide = pair.left.shape[-2:]
            y, x = int(rng.integers(tall - self.height + 1)), int(rng.integers(wide - self.width + 1))
            cut.append([image[..., y : y + self.height, x : x + self.width] for image in (pair.left, pair.right)])
        return Windows(*(torch.cat(side) for side in zip(*cut, strict=True)))


class SelfSupervisedModule(TrainingModule):
    """A stereo network that learns from pairs alone."""

    config: StereoFinetuning

    def __init__(self, config: StereoFinetuning) -> None:
        super().__init__(config)
        self.beginning = [value.detach().clone() for value in self.model.parameters()]

    def render(self, numbers: list[int]) -> Any:
        """Nothing is rendered here."""
        raise RuntimeError("no generator to render scenes with")

    def losses(self, batch: Windows) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted terms of ``stereo_terms``, and what leaving the first weights costs."""
        c = self.config
        for part in self.model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()  # a few windows of one place say too little of the statistics
        left, right = batch.left.float() / 255, batch.right.float() / 255
        of_left, of_right = both_views(self.model, left, right)
        terms = stereo_terms(left, right, of_left, of_right, c.tolerance)
        if self.beginning[0].device != left.device:
            self.beginning = [value.to(left.device) for value in self.beginning]
        terms["anchor"] = distance_from(self.beginning, list(self.model.parameters()))
        loss = torch.stack([getattr(c, name) * terms[name] for name in _WEIGHTED]).sum()
        return loss, {name: value.detach() for name, value in {**terms, "loss": loss}.items()}


def both_views(network: torch.nn.Module, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The disparity of both views of N pairs (N x 3 x H x W in [0, 1], multiples of 32), px, both positive."""
    found = network(torch.cat([left, right.flip(-1)]), torch.cat([right, left.flip(-1)])).disparity.float()
    of_left, mirrored = found.chunk(2)
    return of_left, mirrored.flip(-1)


@torch.no_grad()
def judge_pair(network: torch.nn.Module, pair: PairBatch, tolerance: float, device: torch.device) -> dict[str, float]:
    """Figures of one pair at its own size, without labels where there are none.

    ``photometric``: mean error of the visible pixels of the left view. ``agreement``: part of the pixels inside where
    both views agree. ``unexplained``: mean over all pixels of the error where both views agree and of 1, the largest
    error there is, elsewhere: a network that gives up gains nothing. ``epe``: px, against the truth where it
    is known.
    """
    left, right = (image.to(device).float() / 255 for image in (pair.left, pair.right))
    height, width = left.shape[-2:]
    of_left, of_right = (view[..., :height, :width] for view in _padded_views(network, left, right))
    view = look_across(left, right, of_left, of_right, 1, tolerance)
    inside, visible = view.inside, view.visible
    cost = torch.where(visible, view.error, torch.ones_like(view.error))
    figures = {
        "photometric": float(view.error[visible].mean()),
        "agreement": float(visible.sum() / inside.sum().clamp(min=1)),
        SELECTED: float(cost.mean()),
    }
    known = torch.isfinite(pair.truth)
    if known.any():
        figures["epe"] = float((of_left.cpu() - pair.truth)[known].abs().mean())
    return figures


def _padded_views(network: torch.nn.Module, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """As ``both_views``, of pictures of any size; the padding is at the right and below of either pair."""
    height, width = left.shape[-2:]
    of_left = network(*pad_to_multiple(SIZE_MULTIPLE, left, right)).disparity.float()[..., :height, :width]
    mirrored = network(*pad_to_multiple(SIZE_MULTIPLE, right.flip(-1), left.flip(-1))).disparity.float()
    return of_left, mirrored[..., :height, :width].flip(-1)


def judge(
    sets: Mapping[str, Sequence[Lesson]], tolerance: float, network: torch.nn.Module, device: torch.device
) -> dict[str, float]:
    """``SET/photometric`` and so on: means over the pairs of every set. A pair that cannot be read is left out."""
    figures: dict[str, float] = {}
    for name, lessons in sets.items():
        found: dict[str, list[float]] = {}
        for lesson in lessons:
            try:
                pair, _ = whole_pair(lesson)
            except (BadPair, FileError) as error:
                _LOG.warning("not judged: %s", error)
                continue
            for key, value in judge_pair(network, pair, tolerance, device).items():
                found.setdefault(f"{name}/{key}", []).append(value)
        figures.update({key: float(np.nanmean(values)) for key, values in found.items()})
    return figures


class SelfSupervisedKeeper(Keeper):
    """As every training's, before the first step too."""

    def __init__(
        self,
        config: StereoFinetuning,
        selecting: Mapping[str, Sequence[Lesson]],
        watched: Mapping[str, Sequence[Lesson]],
        source: Mapping[str, Any],
    ) -> None:
        """``selecting``: what decides which weights are the best; ``watched``: what is written down beside."""
        super().__init__(config, self._judge, SELECTED, source)
        self._selecting = partial(judge, selecting, config.tolerance)
        self._watched = partial(judge, watched, config.tolerance)

    def _judge(self, network: torch.nn.Module, device: torch.device) -> dict[str, float]:
        selecting = self._selecting(network, device)
        mean = float(np.mean([value for name, value in selecting.items() if name.endswith(SELECTED)]))
        return {SELECTED: mean, **selecting, **self._watched(network, device)}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """What the network knows before it is trained."""
        if module.steps_done == 0:  # type: ignore[attr-defined]
            self.keep(trainer, module)  # type: ignore[arg-type]


def train_self_supervised(
    config: StereoFinetuning,
    parts: Division,
    source: Mapping[str, Any] | None = None,
    track: Track = lambda items, what, count: items,
) -> Path:
    """Run (or go on with) a fine-tuning; returns the path of the best weights.

    Args:
        config: what to do.
        parts: the pairs to train on, to choose the weights by, and to watch.
        source: what the card says of the data.
        track: shows how far the preparation is.

    Raises:
        FileError: no pair that can be used in one of the parts.
        CheckpointError: weights that cannot be used, or a state in ``out`` that belongs to another training.
        FloatingPointError: a loss that is not finite.
    """
    pl.seed_everything(config.seed, verbose=False)
    module = SelfSupervisedModule(config)
    prepared: list[dict[str, list[Lesson]]] = []
    counts: dict[str, dict[str, PairCounts]] = {}
    for what, part in parts._asdict().items():
        usable, counts[what] = prepare(part, None, None, MaskConfig(), track, skip_useless=True)
        if part and not usable:
            raise FileError(f"none of the {what} pairs can be used; the reasons are above")
        prepared.append(usable)
    if first_process():
        _LOG.info("%s", sum((c for part in counts.values() for c in part.values()), start=PairCounts()).summary())
    lessons = [lesson for part in prepared[0].values() for lesson in part]
    rigs = [lesson.pair.rig for lesson in lessons if lesson.pair.rig is not None]
    width = min(config.width, *(rig.width // SIZE_MULTIPLE * SIZE_MULTIPLE for rig in rigs))
    height = min(config.height, *(rig.height // SIZE_MULTIPLE * SIZE_MULTIPLE for rig in rigs))
    if not width or not height:
        raise FileError(f"pairs smaller than {SIZE_MULTIPLE} px cannot be learned from: leave their bags out")
    few = {
        name: [part[i] for i in sorted(evenly(part, config.validation_scenes))] for name, part in prepared[1].items()
    }
    seen = {
        f"watched_{name}": [part[i] for i in sorted(evenly(part, 2 * config.validation_scenes))]
        for name, part in prepared[2].items()
    }
    card = {
        "licence": "that of the data it was trained on",
        "data": ", ".join(f"{len(part)} pairs of {name}" for name, part in prepared[0].items()),
        "sets": {what: {name: c.as_dict() for name, c in part.items()} for what, part in counts.items()},
        **(source or {}),
    }
    keeper = SelfSupervisedKeeper(config, few, seen, card)

    def open_feed(device: torch.device, start: int, rank: int, ranks: int) -> tuple[Feed, int]:
        windows = WindowSource(LessonSource(lessons, None, 0, 0, config.seed, whole_pair), width, height)
        return Feed(windows.draw, config.batch, start=start, rank=rank, ranks=ranks), config.workers

    return run(config, module, keeper, open_feed)
