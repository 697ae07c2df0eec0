"""Metrics of disparity, depth and optical flow, accumulated over many images.

An object is updated image by image. ``compute()`` then counts all pixels alike ("pooled"); ``mean_metrics`` of several
objects gives every image the same weight ("per_image"). **A pixel without prediction counts as wrong** in every
percentage; means of errors (EPE, AbsRel, ...) can only be taken over pixels with a prediction, so read them together
with the density.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import numpy as np

from fg_depth_ros.geometry import StereoRig, disparity_to_depth

STEREO_THRESHOLDS = (0.5, 1.0, 2.0, 3.0, 4.0)
_DELTAS = (1, 2, 3)
_Metrics = TypeVar("_Metrics", bound="Metrics")
# Kinds of pixels with an EPE of their own. By the length of the true flow in px, as Sintel's s0-10, s10-40, s40+: 10
# and 40 belong to the middle one.
_FLOW_PARTS = ("all", "noc", "occ", "below_10", "10_40", "above_40")


class Metrics:
    """Sums over pixels. ``a += b`` adds the sums of another object of the same class."""

    pixels: int
    _settings: ClassVar[tuple[str, ...]] = ()
    """Fields that are no sums."""

    def __iadd__(self: _Metrics, other: _Metrics) -> _Metrics:
        for name, value in vars(other).items():
            if isinstance(value, dict):
                sums = getattr(self, name)
                sums.update({key: sums.get(key, 0) + number for key, number in value.items()})
            elif name not in self._settings:
                mine = getattr(self, name)
                mine += value
                setattr(self, name, mine)
        return self

    def compute(self) -> dict[str, float]:
        """Return the metrics by name; NaN where nothing was counted."""
        raise NotImplementedError


@dataclass
class StereoMetrics(Metrics):
    """Disparity errors: EPE, bad-t, D1, density.

    - ``epe``: mean ``|prediction - truth|`` in px, over pixels with a prediction.
    - ``bad_<t>``: percent of pixels with truth that are off by more than t pixels or have no prediction.
    - ``d1``: percent off by more than 3 px *and* more than 5 % of the truth (KITTI 2015), or without prediction.
    - ``density``: percent of pixels with truth that have a prediction.
    """

    pixels: int = 0
    answered: int = 0
    error_sum: float = 0.0
    bad: dict[float, int] = field(default_factory=lambda: dict.fromkeys(STEREO_THRESHOLDS, 0))
    outliers: int = 0

    def update(self, prediction: np.ndarray, truth: np.ndarray, *, valid_only: bool = False) -> None:
        """Count one image: H x W px both, NaN = no prediction, no truth. Raises ValueError: the sizes differ.

        ``valid_only``: count only pixels with a prediction (the way a sparse method is usually quoted).
        """
        _check_shapes(prediction, truth)
        counted = np.isfinite(truth)
        if valid_only:
            counted &= np.isfinite(prediction)
        expected = truth[counted].astype(np.float64)
        error = np.abs(prediction[counted].astype(np.float64) - expected)
        answered = np.isfinite(error)
        error_or_inf = np.where(answered, error, np.inf)
        self.pixels += int(expected.size)
        self.answered += int(answered.sum())
        self.error_sum += float(error[answered].sum())
        for threshold in self.bad:
            self.bad[threshold] += int((error_or_inf > threshold).sum())
        self.outliers += int(((error_or_inf > 3.0) & (error_or_inf > 0.05 * np.abs(expected))).sum())

    def compute(self) -> dict[str, float]:
        """Return the metrics by name; NaN where nothing was counted."""
        return {
            "epe": ratio(self.error_sum, self.answered),
            **{f"bad_{t:g}": 100.0 * ratio(n, self.pixels) for t, n in self.bad.items()},
            "d1": 100.0 * ratio(self.outliers, self.pixels),
            "density": 100.0 * ratio(self.answered, self.pixels),
        }


@dataclass
class DepthMetrics(Metrics):
    """Depth errors as Eigen et al. (NIPS 2014) define them, in metres.

    Pixels with truth strictly between ``min_depth`` and ``max_depth`` are counted, predictions are clamped to that
    range first. Over pixels with a prediction: ``abs_rel`` = mean |e| / Z, ``sq_rel`` = mean e^2 / Z, ``rmse``,
    ``rmse_log`` (natural logarithm). Over all, those without are wrong: ``delta_<k>``, the part with
    max(p/Z, Z/p) < 1.25^k.
    ``depth_density``: percent of counted pixels that have a prediction.
    """

    _settings: ClassVar[tuple[str, ...]] = ("min_depth", "max_depth")

    min_depth: float = 1e-3
    max_depth: float = 80.0
    pixels: int = 0
    answered: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("abs", "sq", "se", "log"), 0.0))
    within: dict[int, int] = field(default_factory=lambda: dict.fromkeys(_DELTAS, 0))

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Count one image: H x W m both, NaN = no prediction, no truth. Raises ValueError: the sizes differ."""
        _check_shapes(prediction, truth)
        counted = (truth > self.min_depth) & (truth < self.max_depth)
        expected = truth[counted].astype(np.float64)
        found = np.clip(prediction[counted].astype(np.float64), self.min_depth, self.max_depth)
        answered = np.isfinite(found)
        self.pixels += int(expected.size)
        expected, found = expected[answered], found[answered]
        self.answered += int(expected.size)
        error = found - expected
        self.sums["abs"] += float((np.abs(error) / expected).sum())
        self.sums["sq"] += float((error**2 / expected).sum())
        self.sums["se"] += float((error**2).sum())
        self.sums["log"] += float(((np.log(found) - np.log(expected)) ** 2).sum())
        largest = np.maximum(found / expected, expected / found)
        for power in self.within:
            self.within[power] += int((largest < 1.25**power).sum())

    def compute(self) -> dict[str, float]:
        """Return the metrics by name; NaN where nothing was counted."""
        return {
            "abs_rel": ratio(self.sums["abs"], self.answered),
            "sq_rel": ratio(self.sums["sq"], self.answered),
            "rmse": math.sqrt(ratio(self.sums["se"], self.answered)),
            "rmse_log": math.sqrt(ratio(self.sums["log"], self.answered)),
            **{f"delta_{power}": ratio(n, self.pixels) for power, n in self.within.items()},
            "depth_density": 100.0 * ratio(self.answered, self.pixels),
        }


@dataclass
class FlowMetrics(Metrics):
    """Flow errors: end-point error by kind of pixel, Fl, angular error, density.

    - ``epe``: mean ``|prediction - truth|_2`` in px, over pixels with a prediction.
    - ``epe_noc``, ``epe_occ``: the same over pixels that the second frame shows, and that it does not; only of pairs
      that come with this knowledge.
    - ``epe_below_10``, ``epe_10_40``, ``epe_above_40``: over pixels whose true flow is shorter than 10 px, 10 to 40 px,
      longer than 40 px.
    - ``fl_all``: percent of pixels with truth that are off by more than 3 px *and* more than 5 % of the truth's length
      (KITTI 2015), or without prediction.
    - ``angular``: mean angle between (u, v, 1) of prediction and truth in degrees, over pixels with a prediction
      (Barron, Fleet and Beauchemin, IJCV 1994).
    - ``density``: percent of pixels with truth that have a prediction.
    """

    pixels: int = 0
    answered: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FLOW_PARTS, 0))
    error_sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_FLOW_PARTS, 0.0))
    angle_sum: float = 0.0
    outliers: int = 0

    def update(self, prediction: np.ndarray, truth: np.ndarray, occluded: np.ndarray | None = None) -> None:
        """Count one pair: H x W x 2 px both, NaN = no prediction, no truth. Raises ValueError: the sizes differ.

        ``occluded``: H x W bool, True where the second frame does not show the surface; None = not known.
        """
        _check_shapes(prediction, truth, channels=2)
        if occluded is not None and (occluded.shape != truth.shape[:2] or occluded.dtype != bool):
            raise ValueError(
                f"occluded must be bool of the truth's size {truth.shape[:2]}, got {occluded.shape} of {occluded.dtype}"
            )
        counted = np.isfinite(truth).all(-1)
        expected, found = truth[counted].astype(np.float64), prediction[counted].astype(np.float64)
        error = np.linalg.norm(found - expected, axis=-1)
        length = np.linalg.norm(expected, axis=-1)
        known = np.isfinite(error)
        parts = {
            "all": known,
            "below_10": known & (length < 10),
            "10_40": known & (length >= 10) & (length <= 40),
            "above_40": known & (length > 40),
        }
        if occluded is not None:
            hidden = occluded[counted]
            parts |= {"noc": known & ~hidden, "occ": known & hidden}
        for name, part in parts.items():
            self.answered[name] += int(part.sum())
            self.error_sums[name] += float(error[part].sum())
        self.pixels += int(length.size)
        self.angle_sum += float(_angles(found[known], expected[known]).sum())
        wrong = np.where(known, error, np.inf)
        self.outliers += int(((wrong > 3.0) & (wrong > 0.05 * length)).sum())

    def compute(self) -> dict[str, float]:
        """Return the metrics by name; NaN where nothing was counted."""
        return {
            **{
                "epe" if name == "all" else f"epe_{name}": ratio(self.error_sums[name], self.answered[name])
                for name in _FLOW_PARTS
            },
            "fl_all": 100.0 * ratio(self.outliers, self.pixels),
            "angular": ratio(self.angle_sum, self.answered["all"]),
            "density": 100.0 * ratio(self.answered["all"], self.pixels),
        }


def predicted_depth(disparity: np.ndarray, rig: StereoRig) -> np.ndarray:
    """Convert a predicted disparity to the depth that ``DepthMetrics`` counts, H x W px of the rig's size to m.

    ``d + doffs <= 0`` is a prediction, too, of infinity: inf, which is clamped to ``max_depth``. NaN only where the
    disparity is.
    """
    depth = disparity_to_depth(disparity, rig)
    return np.where(np.isfinite(disparity) & np.isnan(depth), np.float32(np.inf), depth)


def mean_metrics(per_image: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over images, every image counted alike; images where it is NaN are left out."""
    columns: dict[str, list[float]] = {}
    for metrics in per_image:
        for name, value in metrics.items():
            columns.setdefault(name, []).append(value)
    means = {}
    for name, values in columns.items():
        known = [value for value in values if not math.isnan(value)]
        means[name] = ratio(sum(known), len(known))
    return means


def crop_mask(crop: str, height: int, width: int) -> np.ndarray:
    """Return the pixels that a protocol counts, bool H x W.

    ``garg``: rows .40810811-.99189189 and columns .03594771-.96405229 (Garg et al., ECCV 2016); ``nyu``: rows 45-470
    and columns 41-600 of 480 x 640 (Eigen et al., NIPS 2014); ``none``: all.
    """
    rows, columns = slice(None), slice(None)
    if crop == "garg":
        rows = slice(int(0.40810811 * height), int(0.99189189 * height))
        columns = slice(int(0.03594771 * width), int(0.96405229 * width))
    elif crop == "nyu":
        rows = slice(45 * height // 480, 471 * height // 480)
        columns = slice(41 * width // 640, 601 * width // 640)
    mask = np.zeros((height, width), dtype=bool)
    mask[rows, columns] = True
    return mask


def ratio(total: float, count: int) -> float:
    """Divide; NaN where nothing was counted."""
    return total / count if count else math.nan


def _angles(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the angles in degrees between (u, v, 1) of K x 2 flow vectors."""
    one = np.ones((len(found), 1))
    a, b = np.hstack([found, one]), np.hstack([expected, one])
    # The arc tangent keeps small angles exact, where the paper's arc cosine loses half of the digits.
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1)))


def _check_shapes(prediction: np.ndarray, truth: np.ndarray, channels: int = 0) -> None:
    if prediction.shape != truth.shape or truth.shape[2:] != ((channels,) if channels else ()):
        form = "HxWx2" if channels else "HxW"
        raise ValueError(
            f"prediction {prediction.shape} and truth {truth.shape} must both be {form} of one size: bring the "
            "prediction to the truth's size (disparity and flow values scale with the image)"
        )
