"""Validation of a depth network while it is trained: figures on fixed pairs, and a picture of some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from fg_depth_ros.evaluation.metrics import DepthTally, mean_metrics
from fg_depth_ros.networks import DepthNetwork, depth_of
from fg_depth_ros.training.callbacks import ExtraEvaluate, Validation
from fg_depth_ros.training.depth.batch import PairBatch, TeacherPrediction
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.flow_mask import prior_flow_mask

MONITOR = "abs_rel"
"""The figure that selects the best weights: the mean of the AbsRel of all validation sets."""
_MEASURES = ("abs_rel", "rmse", "delta_1")
_SHOWN = 3

Draw = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(image H x W x 3 uint8 RGB, reference H x W m with NaN, prediction H x W m) -> a picture, uint8 RGB."""


class ValidationPair(NamedTuple):
    """An image and its reference depth.

    ``image`` 1 x 3 x H x W uint8, ``focal`` px, ``reference`` H x W m, NaN where there is none: the true depth, or
    (``by_teacher``) what the teacher predicts where its checks hold.
    """

    image: torch.Tensor
    focal: float
    reference: torch.Tensor
    by_teacher: bool


def validation_pair(pairs: PairBatch, prediction: TeacherPrediction | None, mask: MaskConfig) -> ValidationPair:
    """Return one pair (N = 1) with its true depth if there is any, else with the teacher's within the flow mask."""
    if torch.isfinite(pairs.truth).any() or prediction is None:
        return ValidationPair(pairs.left, float(pairs.focal[0]), pairs.truth[0, 0], False)
    usable = prior_flow_mask(prediction, pairs.focal, pairs.baseline, mask)
    depth = (pairs.focal * pairs.baseline).view(-1, 1, 1, 1) / torch.where(usable, prediction.disparity, 1.0)
    reference = torch.where(usable, depth, torch.nan)[0, 0].cpu()
    return ValidationPair(pairs.left, float(pairs.focal[0]), reference, True)


@torch.no_grad()
def predict_depth(network: DepthNetwork, pair: ValidationPair, device: torch.device) -> np.ndarray:
    """Return the network's depth of a pair's image, H x W float32 m."""
    inverse = network(pair.image.to(device).float() / 255).inverse
    return depth_of(inverse.float(), network.focal, pair.focal)[0, 0].cpu().numpy()


def evaluate_sets(
    sets: Mapping[str, Sequence[ValidationPair]], network: DepthNetwork, device: torch.device
) -> dict[str, float]:
    """Return AbsRel, RMSE (m) and delta_1 of every set, means over its images.

    ``SET/abs_rel`` ... against the truth, ``SET/teacher_abs_rel`` ... where the teacher is the reference.
    """
    figures: dict[str, float] = {}
    for name, pairs in sets.items():
        found: list[dict[str, float]] = []
        for pair in pairs:
            tally = DepthTally()
            tally.add(predict_depth(network, pair, device), pair.reference.numpy())
            metrics, prefix = tally.metrics(), f"{name}/teacher_" if pair.by_teacher else f"{name}/"
            found.append({prefix + measure: metrics[measure] for measure in _MEASURES})
        figures |= mean_metrics(found)
    return figures


def depth_validation(
    selecting: Mapping[str, Sequence[ValidationPair]],
    testing: Mapping[str, Sequence[ValidationPair]],
    extra: ExtraEvaluate | None = None,
    draw: Draw | None = None,
) -> Validation:
    """Return the validation of a depth training.

    Args:
        selecting: pairs whose mean AbsRel selects the best weights.
        testing: pairs whose figures are logged beside.
        extra: figures of the network on anything else.
        draw: makes the picture of one pair.
    """
    every = [pair for sets in (testing, selecting) for pairs in sets.values() for pair in pairs]
    step = max(1, len(every) // _SHOWN)
    shown = every[step // 2 :: step][:_SHOWN]

    def evaluate(network: torch.nn.Module, device: torch.device) -> dict[str, float]:
        figures = evaluate_sets(selecting, network, device)  # type: ignore[arg-type]
        mean = float(np.mean([value for name, value in figures.items() if name.endswith("abs_rel")]))
        return {MONITOR: mean, **figures, **evaluate_sets(testing, network, device)}  # type: ignore[arg-type]

    def picture(network: torch.nn.Module, device: torch.device) -> np.ndarray | None:
        if draw is None or not shown:
            return None
        rows = [
            draw(pair.image[0].permute(1, 2, 0).numpy(), pair.reference.numpy(), predict_depth(network, pair, device))  # type: ignore[arg-type]
            for pair in shown
        ]
        widest = max(row.shape[1] for row in rows)
        return np.concatenate([np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0))) for row in rows])

    return Validation(evaluate, MONITOR, extra, picture)
