"""Error measures of disparity and depth, gathered over many images.

A tally is filled image by image; `metrics()` then counts all pixels alike ("pooled"), `mean_metrics` of
several tallies gives every image the same weight ("per_image"). **No answer counts as wrong** in every
percentage; means of errors (EPE, AbsRel, ...) can only be taken over answered pixels, so read them together
with the density.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

STEREO_THRESHOLDS = (0.5, 1.0, 2.0, 3.0, 4.0)
_DELTAS = (1, 2, 3)


@dataclass
class StereoTally:
    """Disparity errors: EPE, bad-t, D1, density.

    - `epe`: mean |prediction - truth| in pixels, over answered pixels.
    - `bad_<t>`: percent of pixels with truth that are off by more than t pixels or have no answer.
    - `d1`: percent off by more than 3 px *and* more than 5 % of the truth (KITTI 2015), or without answer.
    - `density`: percent of pixels with truth that have an answer.
    """

    pixels: int = 0
    answered: int = 0
    error_sum: float = 0.0
    bad: dict[float, int] = field(default_factory=lambda: dict.fromkeys(STEREO_THRESHOLDS, 0))
    outliers: int = 0

    def add(self, prediction: np.ndarray, truth: np.ndarray, *, valid_only: bool = False) -> None:
        """Counts one image. Both HxW pixels, NaN = no answer / no truth.

        `valid_only`: judge answered pixels only (the way a sparse method is usually quoted). Raises
        ValueError when the sizes differ.
        """
        _check_shapes(prediction, truth)
        judged = np.isfinite(truth)
        if valid_only:
            judged &= np.isfinite(prediction)
        expected = truth[judged].astype(np.float64)
        error = np.abs(prediction[judged].astype(np.float64) - expected)
        answered = np.isfinite(error)
        error_or_inf = np.where(answered, error, np.inf)
        self.pixels += int(expected.size)
        self.answered += int(answered.sum())
        self.error_sum += float(error[answered].sum())
        for threshold in self.bad:
            self.bad[threshold] += int((error_or_inf > threshold).sum())
        self.outliers += int(((error_or_inf > 3.0) & (error_or_inf > 0.05 * np.abs(expected))).sum())

    def __iadd__(self, other: StereoTally) -> StereoTally:
        self.pixels += other.pixels
        self.answered += other.answered
        self.error_sum += other.error_sum
        self.outliers += other.outliers
        for threshold, count in other.bad.items():
            self.bad[threshold] += count
        return self

    def metrics(self) -> dict[str, float]:
        """The measures by name; NaN where nothing was counted."""
        values = {"epe": _ratio(self.error_sum, self.answered)}
        values.update({f"bad_{t:g}": 100.0 * _ratio(n, self.pixels) for t, n in self.bad.items()})
        values["d1"] = 100.0 * _ratio(self.outliers, self.pixels)
        values["density"] = 100.0 * _ratio(self.answered, self.pixels)
        return values


@dataclass
class DepthTally:
    """Depth errors as Eigen et al. (NIPS 2014) define them, in metres.

    Pixels with truth strictly between `min_depth` and `max_depth` are judged, predictions are clamped to that
    range first. Over answered pixels: `abs_rel` = mean |e| / Z, `sq_rel` = mean e^2 / Z, `rmse`, `rmse_log`
    (natural logarithm). Over all, no answer = wrong: `delta_<k>`, the part with max(p/Z, Z/p) < 1.25^k.
    `depth_density`: percent of judged pixels that have an answer.
    """

    min_depth: float = 1e-3
    max_depth: float = 80.0
    pixels: int = 0
    answered: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("abs", "sq", "se", "log"), 0.0))
    within: dict[int, int] = field(default_factory=lambda: dict.fromkeys(_DELTAS, 0))

    def add(self, prediction: np.ndarray, truth: np.ndarray, *, garg_crop: bool = False) -> None:
        """Counts one image. Both HxW metres, NaN = no answer / no truth.

        `garg_crop`: only the crop of Garg et al. (ECCV 2016) that KITTI Eigen results are quoted on. Raises
        ValueError when the sizes differ.
        """
        _check_shapes(prediction, truth)
        judged = (truth > self.min_depth) & (truth < self.max_depth)
        if garg_crop:
            judged &= garg_mask(*truth.shape)
        expected = truth[judged].astype(np.float64)
        found = np.clip(prediction[judged].astype(np.float64), self.min_depth, self.max_depth)
        answered = np.isfinite(found)
        self.pixels += int(expected.size)
        expected, found = expected[answered], found[answered]
        self.answered += int(expected.size)
        error = found - expected
        self.sums["abs"] += float((np.abs(error) / expected).sum())
        self.sums["sq"] += float((error**2 / expected).sum())
        self.sums["se"] += float((error**2).sum())
        self.sums["log"] += float(((np.log(found) - np.log(expected)) ** 2).sum())
        ratio = np.maximum(found / expected, expected / found)
        for power in self.within:
            self.within[power] += int((ratio < 1.25**power).sum())

    def __iadd__(self, other: DepthTally) -> DepthTally:
        self.pixels += other.pixels
        self.answered += other.answered
        for name, value in other.sums.items():
            self.sums[name] += value
        for power, count in other.within.items():
            self.within[power] += count
        return self

    def metrics(self) -> dict[str, float]:
        """The measures by name; NaN where nothing was counted."""
        values = {
            "abs_rel": _ratio(self.sums["abs"], self.answered),
            "sq_rel": _ratio(self.sums["sq"], self.answered),
            "rmse": math.sqrt(_ratio(self.sums["se"], self.answered)),
            "rmse_log": math.sqrt(_ratio(self.sums["log"], self.answered)),
        }
        values.update({f"delta_{power}": _ratio(n, self.pixels) for power, n in self.within.items()})
        values["depth_density"] = 100.0 * _ratio(self.answered, self.pixels)
        return values


def garg_mask(height: int, width: int) -> np.ndarray:
    """True (bool HxW) in the crop of Garg et al.: rows .40810811-.99189189, columns .03594771-.96405229."""
    mask = np.zeros((height, width), dtype=bool)
    rows = slice(int(0.40810811 * height), int(0.99189189 * height))
    columns = slice(int(0.03594771 * width), int(0.96405229 * width))
    mask[rows, columns] = True
    return mask


def mean_metrics(per_image: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each measure over images, every image counted alike; images where it is NaN are left out."""
    columns: dict[str, list[float]] = {}
    for metrics in per_image:
        for name, value in metrics.items():
            columns.setdefault(name, []).append(value)
    means = {}
    for name, values in columns.items():
        known = [value for value in values if not math.isnan(value)]
        means[name] = sum(known) / len(known) if known else math.nan
    return means


def _ratio(total: float, count: int) -> float:
    return total / count if count else math.nan


def _check_shapes(prediction: np.ndarray, truth: np.ndarray) -> None:
    if prediction.shape != truth.shape or truth.ndim != 2:
        raise ValueError(
            f"prediction {prediction.shape} and truth {truth.shape} must both be HxW of one size: "
            "bring the prediction to the truth's size (disparity values scale with the width)"
        )
