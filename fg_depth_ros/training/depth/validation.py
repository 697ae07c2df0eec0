"""Validation of a depth network while it is trained: figures on fixed images, and a picture of some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from fg_depth_ros.data.samples import DepthSample
from fg_depth_ros.evaluation.depth import DepthTask
from fg_depth_ros.training.batches import to_image
from fg_depth_ros.training.callbacks import Evaluate, Validation
from fg_depth_ros.training.depth.batch import PairBatch, TeacherPrediction

MONITOR = "abs_rel"
"""The figure that selects the best weights: the mean of the AbsRel of all validation sets."""
TEACHER = "teacher"
"""Name of the samples whose reference depth is the teacher's."""
_SHOWN = 3


def validation_sample(pairs: PairBatch, prediction: TeacherPrediction | None) -> DepthSample:
    """Return the left image (N = 1) with its true depth, or else that of the teacher's masked prediction."""
    if torch.isfinite(pairs.truth).any() or prediction is None:
        name, depth = "truth", pairs.truth
    else:
        name, depth = TEACHER, (pairs.focal * pairs.baseline).view(-1, 1, 1, 1) / prediction.disparity
    return DepthSample(name, to_image(pairs.left), float(pairs.focal[0]), depth[0, 0].cpu().numpy())


def evaluate_sets(sets: Mapping[str, Sequence[DepthSample]]) -> Evaluate:
    """Return a function that measures AbsRel, RMSE (m) and delta_1 of every set, means over its images.

    ``SET/abs_rel`` ... against the truth, ``SET/teacher_abs_rel`` ... where the teacher is the reference.
    """
    parts: dict[str, dict[str, list[DepthSample]]] = {"": {}, f"{TEACHER}_": {}}
    for name, samples in sets.items():
        for sample in samples:
            parts[f"{TEACHER}_" if sample.name == TEACHER else ""].setdefault(name, []).append(sample)
    measured = {prefix: DepthTask().validation(known) for prefix, known in parts.items() if known}

    def evaluate(network: torch.nn.Module) -> dict[str, float]:
        figures = {}
        for prefix, measure in measured.items():
            for key, value in measure(network).items():
                name, _, metric = key.rpartition("/")
                figures[f"{name}/{prefix}{metric}"] = value
        return figures

    return evaluate


def depth_validation(
    selecting: Mapping[str, Sequence[DepthSample]], testing: Mapping[str, Sequence[DepthSample]],
    extra: Evaluate | None = None,
) -> Validation:  # fmt: skip
    """Return the validation of a depth training.

    ``selecting``: images whose mean AbsRel selects the best weights; ``testing``: images whose metrics are
    also logged; ``extra``: metrics of the network on anything else.
    """
    every = [sample for sets in (testing, selecting) for samples in sets.values() for sample in samples]
    step = max(1, len(every) // _SHOWN)
    shown = every[step // 2 :: step][:_SHOWN]
    task, select, test = DepthTask(), evaluate_sets(selecting), evaluate_sets(testing)

    def evaluate(network: torch.nn.Module) -> dict[str, float]:
        figures = select(network)
        mean = float(np.mean([value for name, value in figures.items() if name.endswith("abs_rel")]))
        return {MONITOR: mean, **figures, **test(network)}

    def picture(network: torch.nn.Module) -> np.ndarray:
        method, rows = task.method_of(network), []
        for sample in shown:
            image, truth = sample.image_rgb(), sample.truth()
            assert truth is not None
            rows.append(task.draw(image, truth, method(image, sample.fx)))
        return np.concatenate(rows)

    return Validation(evaluate, MONITOR, extra, picture)
