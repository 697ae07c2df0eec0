"""Fine-tuning of a stereo network on pairs without labels: ``fg-depth finetune --stereo``.

The network predicts both views of a pair (the right one as the left one of the mirrored pair); each image, warped by
the prediction, has to look like the other one where both cameras see it. The left-right consistency is that of Godard
et al., CVPR 2017, equation 5, and pixels that only one camera sees are found by it. The weights may not go far from
those to start from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from fg_depth_ros.evaluation.metrics import mean_metrics
from fg_depth_ros.files import FileError
from fg_depth_ros.networks.flow import pad_to_multiple
from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE, StereoPrediction
from fg_depth_ros.progress import Track, no_progress
from fg_depth_ros.training.batches import cat_batches
from fg_depth_ros.training.callbacks import Validation
from fg_depth_ros.training.content import content_of_pairs
from fg_depth_ros.training.depth.batch import PairBatch
from fg_depth_ros.training.depth.dataset import PairDataset, load_whole
from fg_depth_ros.training.depth.pair_checks import BadPair
from fg_depth_ros.training.depth.pairs import PairSplit, TrainingPair, prepare_pairs
from fg_depth_ros.training.finetune.config import StereoFinetuning
from fg_depth_ros.training.loop import TrainingModule, fit
from fg_depth_ros.training.photometric import masked_mean, photometric_error, smoothness_loss, warp_source
from fg_depth_ros.training.stream import DataStream

_LOG = logging.getLogger(__name__)
MONITOR = "unexplained"
"""The figure that selects the best weights: the mean over the sets of what their pixels cost."""
_WEIGHTED = ("photometric", "left_right", "smoothness", "anchor")
_MIN_VISIBLE = 16  # px; fewer say nothing of an exposure
_MAX_CONTRAST = 2.0  # contrasts beyond this are not the camera's
_MAX_DIFFERENCE = 3.0  # tolerances; what differs by more is hidden or lost, and is not pulled together


# ---- the loss


class ViewComparison(NamedTuple):
    """One view's disparity compared with the other view. N x 1 x H x W each.

    ``inside``: the match lies in the other image. ``difference``: px, between this view's disparity and the other
    one's at the match. ``visible``: both cameras see the pixel, as far as the two disparities say. ``error``:
    photometric, of the other image warped here, its exposure matched; undefined where the pixel is not visible.
    """

    inside: Tensor
    difference: Tensor
    visible: Tensor
    error: Tensor


def compare_views(
    target: Tensor, source: Tensor, own: Tensor, other: Tensor, side: int, tolerance: float
) -> ViewComparison:
    """Compare one view with the other one.

    ``target``, ``source``: N x 3 x H x W in [0, 1]; ``own``, ``other``: N x 1 x H x W px, disparity of the target's and
    of the source's view, both positive. ``side``: 1 where the source camera stands to the right of the target camera,
    -1 to the left. ``tolerance``: px, largest difference of the views at a visible pixel.
    """
    width = own.shape[-1]
    sign = own.new_full((len(own),), float(side))
    columns = torch.arange(width, device=own.device, dtype=own.dtype)
    match = columns - side * own.detach()
    inside = (match >= 0) & (match <= width - 1)
    difference = (own - warp_source(other, own, sign)).abs()
    visible = inside & (difference.detach() <= tolerance)
    warped = match_exposure(warp_source(source, own, sign), target, visible)
    # A window at the edge of what is visible then contains only known pixels.
    return ViewComparison(inside, difference, visible, photometric_error(torch.where(visible, warped, target), target))


def match_exposure(warped: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Return ``warped`` with the mean and the spread of ``target`` over the visible pixels, channel by channel.

    Two cameras rarely expose alike; what differs after this is not the exposure's. The factors get no gradient.
    ``visible``: N x 1 x H x W bool; an image with too few of them stays as it is.
    """
    count = visible.sum((2, 3), keepdim=True)

    def moments(image: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.where(visible, image, torch.zeros_like(image)).detach()
        mean = known.sum((2, 3), keepdim=True) / count.clamp(min=1)
        squares = torch.where(visible, (image.detach() - mean).square(), torch.zeros_like(image))
        return mean, (squares.sum((2, 3), keepdim=True) / count.clamp(min=1)).sqrt()

    mean_warped, spread_warped = moments(warped)
    mean_target, spread_target = moments(target)
    contrast = ((spread_target + 1e-3) / (spread_warped + 1e-3)).clamp(1 / _MAX_CONTRAST, _MAX_CONTRAST)
    matched = ((warped - mean_warped) * contrast + mean_target).clamp(0, 1)
    return torch.where(count >= _MIN_VISIBLE, matched, warped)


def stereo_terms(left: Tensor, right: Tensor, of_left: Tensor, of_right: Tensor, tolerance: float) -> dict[str, Tensor]:
    """Return the terms of the loss, before their weights; scalars, means of both views.

    ``photometric``: over the visible pixels. ``left_right``: px, over pixels inside whose views differ by less than
    three tolerances (px). ``smoothness``: of both disparities. ``visible``: part of all pixels, no term. Images are N x
    3 x H x W in [0, 1], disparities of the two views N x 1 x H x W px, both positive.
    """
    views = [
        compare_views(left, right, of_left, of_right, 1, tolerance),
        compare_views(right, left, of_right, of_left, -1, tolerance),
    ]
    near = [view.inside & (view.difference.detach() <= _MAX_DIFFERENCE * tolerance) for view in views]
    terms = {
        "photometric": [masked_mean(view.error, view.visible) for view in views],
        "left_right": [masked_mean(view.difference, where) for view, where in zip(views, near, strict=True)],
        "smoothness": [smoothness_loss(of_left, left), smoothness_loss(of_right, right)],
        "visible": [view.visible.float().mean() for view in views],
    }
    return {name: torch.stack(values).mean() for name, values in terms.items()}


def anchor_distance(anchor: list[Tensor], parameters: list[Tensor]) -> Tensor:
    """Return the squared distance of parameters from those to start from, by the squared length of these."""
    apart = torch.stack([(new - old).square().sum() for new, old in zip(parameters, anchor, strict=True)]).sum()
    return apart / torch.stack([old.square().sum() for old in anchor]).sum()


# ---- the training


class WindowBatch(NamedTuple):
    """Windows of rectified pairs: N x 3 x H x W uint8 RGB each."""

    left: Tensor
    right: Tensor


class WindowDataset:
    """Endless numbered windows of whole pairs on disk, each at a place drawn by its number; no pair may be smaller."""

    def __init__(self, pairs: PairDataset, width: int, height: int) -> None:
        self.pairs, self.width, self.height = pairs, width, height

    def batch(self, numbers: Sequence[int]) -> WindowBatch:
        """Return the windows with these numbers. Raises FileError where no pair can be read any more."""
        samples, counts = self.pairs.samples(numbers)
        for reason, example in counts.examples.items():
            _LOG.warning("left out (%s): %s", reason, example)
        cut = []
        for number, (pair, _) in zip(numbers, samples, strict=True):
            rng = np.random.default_rng([self.pairs.seed, 1, number])
            tall, wide = pair.left.shape[-2:]
            y, x = int(rng.integers(tall - self.height + 1)), int(rng.integers(wide - self.width + 1))
            views = (image[..., y : y + self.height, x : x + self.width] for image in (pair.left, pair.right))
            cut.append(WindowBatch(*views))
        return cat_batches(cut)


class SelfSupervisedModule(TrainingModule):
    """A stereo network that learns from pairs alone."""

    config: StereoFinetuning

    def __init__(self, config: StereoFinetuning) -> None:
        super().__init__(config)
        self.anchor = [value.detach().clone() for value in self.model.parameters()]

    def losses(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted terms of ``stereo_terms`` and the distance from the weights to start from."""
        for part in self.model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()  # a few windows of one place say too little of the statistics
        left, right = batch.left.float() / 255, batch.right.float() / 255
        terms = stereo_terms(left, right, *predict_views(self.predict, left, right), self.config.tolerance)
        self.anchor = [value.to(left.device) for value in self.anchor]
        terms["anchor"] = anchor_distance(self.anchor, list(self.model.parameters()))
        loss = torch.stack([getattr(self.config, name) * terms[name] for name in _WEIGHTED]).sum()
        return loss, {name: value.detach() for name, value in {**terms, "loss": loss}.items()}


def predict_views(network: Callable[..., StereoPrediction], left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the disparity of both views of N x 3 x H x W in [0, 1], of any size; px, both positive."""
    height, width = left.shape[-2:]
    both = torch.cat([left, right.flip(-1)]), torch.cat([right, left.flip(-1)])
    found = network(*pad_to_multiple(SIZE_MULTIPLE, *both)).disparity.float()[..., :height, :width]
    of_left, mirrored = found.chunk(2)
    return of_left, mirrored.flip(-1)


@torch.no_grad()
def evaluate_pair(network: torch.nn.Module, pair: PairBatch, tolerance: float) -> dict[str, float]:
    """Return figures of one pair at its own size, without labels if there are none.

    ``photometric``: mean error of the visible pixels of the left view. ``agreement``: part of the pixels inside where
    both views agree. ``unexplained``: mean over all pixels of the error where both views agree and of 1, the largest
    error there is, elsewhere: a network that gives up gains nothing. ``epe``: px, against the truth where it is known.
    """
    device = next((value.device for value in network.parameters()), torch.device("cpu"))
    left, right = (image.to(device).float() / 255 for image in (pair.left, pair.right))
    of_left, of_right = predict_views(network, left, right)
    view = compare_views(left, right, of_left, of_right, 1, tolerance)
    cost = torch.where(view.visible, view.error, torch.ones_like(view.error))
    figures = {
        "photometric": float(view.error[view.visible].mean()),
        "agreement": float(view.visible.sum() / view.inside.sum().clamp(min=1)),
        MONITOR: float(cost.mean()),
    }
    truth = pair.focal * pair.baseline / pair.truth
    known = torch.isfinite(truth)
    if known.any():
        figures["epe"] = float((of_left.cpu() - truth)[known].abs().mean())
    return figures


def evaluate_sets(
    sets: Mapping[str, Sequence[TrainingPair]], tolerance: float, network: torch.nn.Module
) -> dict[str, float]:
    """Return ``SET/photometric`` and so on: means over the pairs of every set. Unreadable pairs are left out."""
    figures: dict[str, float] = {}
    for name, pairs in sets.items():
        found = []
        for one in pairs:
            try:
                found.append(evaluate_pair(network, load_whole(one), tolerance))
            except (BadPair, FileError) as error:
                _LOG.warning("not evaluated: %s", error)
        figures |= {f"{name}/{measure}": value for measure, value in mean_metrics(found).items()}
    return figures


def train_self_supervised(
    config: StereoFinetuning, split: PairSplit, source: Mapping[str, Any] | None = None, track: Track = no_progress
) -> Path:
    """Fine-tune a stereo network, or resume it; return the path of the best weights.

    ``source``: further entries for the card. Raises FileError: no pair that can be used in one of the parts. Raises
    CheckpointError: weights that cannot be used, or a state in ``out`` that belongs to another training. Raises
    FloatingPointError: a loss that is not finite.
    """
    pl.seed_everything(config.seed, verbose=False)
    module = SelfSupervisedModule(config)
    prepared = prepare_pairs(split, track=track, skip_unusable=True)
    for part, sets in split._asdict().items():
        if sets and not prepared.parts[part]:
            raise FileError(f"none of the {part} pairs can be used; the reasons are above")
    rigs = [one.pair.rig for one in prepared.training if one.pair.rig is not None]
    width = min(config.width, *(rig.width // SIZE_MULTIPLE * SIZE_MULTIPLE for rig in rigs))
    height = min(config.height, *(rig.height // SIZE_MULTIPLE * SIZE_MULTIPLE for rig in rigs))
    if not width or not height:
        raise FileError(f"pairs smaller than {SIZE_MULTIPLE} px cannot be learned from: leave their bags out")
    selecting = prepared.few("validation", config.validation_scenes)
    testing = prepared.few("test", 2 * config.validation_scenes, "test:")

    def evaluate(network: torch.nn.Module) -> dict[str, float]:
        figures = evaluate_sets(selecting, config.tolerance, network)
        mean = float(np.mean([value for name, value in figures.items() if name.endswith(MONITOR)]))
        return {MONITOR: mean, **figures, **evaluate_sets(testing, config.tolerance, network)}

    def open_stream(device: torch.device) -> DataStream:
        dataset = PairDataset(prepared.training, lambda one: (load_whole(one), None), seed=config.seed)
        return DataStream(WindowDataset(dataset, width, height).batch, config.batch, config.workers)

    card = {
        "licence": "that of the data it was trained on",
        "data": ", ".join(f"{len(pairs)} pairs of {name}" for name, pairs in prepared.parts["training"].items()),
        "sets": prepared.card(),
        **(source or {}),
    }
    return fit(module, Validation(evaluate, MONITOR), card, open_stream, content_of_pairs(split._asdict()))
