"""Evaluate a matcher's uncertainty: reliability (errors within a sigma) and sparsification (it ranks errors).

Sparsification as Ilg et al. 2018 (arXiv 1802.07095): the mean error that is left when the least certain pixels are
removed, compared with the same when the largest errors are removed, which nothing can beat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.evaluation.stereo import search_doffs
from fg_depth_ros.geometry import left_right_difference
from fg_depth_ros.inference import StereoDepthEstimator

FRACTIONS = np.linspace(0.0, 0.95, 20)
"""Shares of the pixels that are removed, the least certain first."""
FACTORS = np.linspace(0.1, 4.0, 40)
"""Multiples of sigma within which errors are counted."""
SIGMA, LEFT_RIGHT = "sigma", "left-right check"
_CEILING = 1e6  # stands for "no agreement at all" in the ranking by the left-right check


@dataclass
class Uncertainty:
    """Errors of a data set with what was said of them, flat arrays of one length.

    ``error``: px; ``scores``: by the name of the method, larger is less certain; ``sigma`` is one of them, in px.
    """

    error: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    def coverage(self, factors: Iterable[float] = FACTORS) -> np.ndarray:
        """Return the share of errors that lie within these multiples of sigma, 0 .. 1 each."""
        ratio = np.sort(self.error / np.maximum(self.scores[SIGMA], 1e-6))
        return np.searchsorted(ratio, np.asarray(list(factors)), side="right") / max(len(ratio), 1)

    def sparsification(self, score: np.ndarray | None = None) -> np.ndarray:
        """Return the mean error, px, of what is left at each of ``FRACTIONS``; without a score the best possible."""
        order = np.argsort(self.error if score is None else score, kind="stable")
        sums = np.concatenate([[0.0], np.cumsum(self.error[order], dtype=np.float64)])
        kept = np.maximum(np.round((1 - FRACTIONS) * len(order)).astype(int), 1)
        return sums[kept] / kept

    def area_above_best(self, name: str) -> float:
        """Return the area between a method's curve and the best one, in parts of the mean error (AUSE); 0 is best."""
        above = self.sparsification(self.scores[name]) - self.sparsification()
        area = ((above[1:] + above[:-1]) / 2 * np.diff(FRACTIONS)).sum()
        return float(area / max(self.error.mean(), 1e-9))


def collect(estimator: StereoDepthEstimator, samples: Iterable[StereoSample]) -> Uncertainty:
    """Match every pair with truth, both ways. Raises ValueError: no truth, or a method without uncertainty."""
    errors: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {SIGMA: [], LEFT_RIGHT: []}
    for sample in samples:
        truth = sample.truth()
        if truth is None:
            continue
        left, right = sample.images()
        doffs = search_doffs(sample)
        found = estimator.match(left, right, doffs)
        if found.sigma is None:
            raise ValueError(f"{estimator.model_name} gives no uncertainty: choose a network")
        backward = estimator.match_right(left, right, doffs)
        difference = left_right_difference(found.disparity, backward)
        known = np.isfinite(truth) & np.isfinite(found.disparity)
        errors.append(np.abs(found.disparity - truth)[known])
        scores[SIGMA].append(found.sigma[known])
        scores[LEFT_RIGHT].append(np.where(np.isfinite(difference), difference, _CEILING)[known])
    if not errors:
        raise ValueError("no pair with true disparity: nothing to compare the uncertainty with")
    return Uncertainty(np.concatenate(errors), {name: np.concatenate(parts) for name, parts in scores.items()})


def report_uncertainty(found: Mapping[str, Uncertainty], model: Mapping[str, Any]) -> Report:
    """Return a report: a row per data set and score with ``within_1_sigma``, ``within_2_sigma`` (%) and ``ause``."""
    report = Report("evaluate uncertainty", dict(model), {"pixels": "all with truth", "left_right": "two passes"})
    for name, one in found.items():
        shares = 100 * one.coverage((1.0, 2.0))
        within = {"within_1_sigma": float(shares[0]), "within_2_sigma": float(shares[1])}
        for score in one.scores:
            metrics = {"ause": one.area_above_best(score), **(within if score == SIGMA else {})}
            report.add_row(name, score, metrics, kind="uncertainty", pixels=len(one.error))
    return report
