"""Error measures of optical flow, gathered over many pairs.

As for disparity (``metrics``), **no answer counts as wrong** in the percentage, and means of errors can only be taken
over answered pixels: read them together with the density.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

# Parts of the pixels that have a mean of their own, by the length of the true flow in px: [from, to), and the last also
# what lies at 40 exactly belongs to the middle one: Sintel's s0-10, s10-40, s40+.
_PARTS = ("all", "noc", "occ", "below_10", "10_40", "above_40")


@dataclass
class FlowTally:
    """Flow errors: end-point error by kind of pixel, Fl, angular error, density.

    - ``epe``: mean ``|prediction - truth|_2`` in px, over answered pixels.
    - ``epe_noc``, ``epe_occ``: the same over pixels that the second frame shows, and that it does not; only of pairs
      that come with this knowledge.
    - ``epe_below_10``, ``epe_10_40``, ``epe_above_40``: over pixels whose true flow is shorter than 10 px, 10 to 40 px,
      longer than 40 px.
    - ``fl_all``: percent of pixels with truth that are off by more than 3 px *and* more than 5 % of the truth's length
      (KITTI 2015), or without answer.
    - ``angular``: mean angle between (u, v, 1) of prediction and truth in degrees, over answered pixels (Barron, Fleet
      and Beauchemin, IJCV 1994).
    - ``density``: percent of pixels with truth that have an answer.
    """

    pixels: int = 0
    answered: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0))
    error_sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0.0))
    angle_sum: float = 0.0
    outliers: int = 0

    def add(self, prediction: np.ndarray, truth: np.ndarray, occluded: np.ndarray | None = None) -> None:
        """Counts one pair.

        Args:
            prediction, truth: H x W x 2 px, NaN = no answer, no truth.
            occluded: H x W bool, True where the second frame does not show the surface; None = not known.

        Raises:
            ValueError: the sizes differ.
        """
        _check_shapes(prediction, truth, occluded)
        judged = np.isfinite(truth).all(-1)
        expected, found = truth[judged].astype(np.float64), prediction[judged].astype(np.float64)
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
            hidden = occluded[judged]
            parts |= {"noc": known & ~hidden, "occ": known & hidden}
        for name, part in parts.items():
            self.answered[name] += int(part.sum())
            self.error_sums[name] += float(error[part].sum())
        self.pixels += int(length.size)
        self.angle_sum += float(_angles(found[known], expected[known]).sum())
        wrong = np.where(known, error, np.inf)
        self.outliers += int(((wrong > 3.0) & (wrong > 0.05 * length)).sum())

    def __iadd__(self, other: FlowTally) -> FlowTally:
        self.pixels += other.pixels
        self.angle_sum += other.angle_sum
        self.outliers += other.outliers
        for name in _PARTS:
            self.answered[name] += other.answered[name]
            self.error_sums[name] += other.error_sums[name]
        return self

    def metrics(self) -> dict[str, float]:
        """The measures by name; NaN where nothing was counted."""
        values = {
            "epe" if name == "all" else f"epe_{name}": _ratio(self.error_sums[name], self.answered[name])
            for name in _PARTS
        }
        values["fl_all"] = 100.0 * _ratio(self.outliers, self.pixels)
        values["angular"] = _ratio(self.angle_sum, self.answered["all"])
        values["density"] = 100.0 * _ratio(self.answered["all"], self.pixels)
        return values


def _angles(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Angles in degrees between (u, v, 1) of K x 2 flow vectors."""
    one = np.ones((len(found), 1))
    a, b = np.hstack([found, one]), np.hstack([expected, one])
    # The arc tangent keeps small angles exact, where the paper's arc cosine loses half of the digits.
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1)))


def _ratio(total: float, count: int) -> float:
    return total / count if count else math.nan


def _check_shapes(prediction: np.ndarray, truth: np.ndarray, occluded: np.ndarray | None) -> None:
    if prediction.shape != truth.shape or truth.ndim != 3 or truth.shape[2] != 2:
        raise ValueError(
            f"prediction {prediction.shape} and truth {truth.shape} must both be HxWx2 of one size: bring the "
            "prediction to the truth's size (flow vectors scale with the image)"
        )
    if occluded is not None and (occluded.shape != truth.shape[:2] or occluded.dtype != bool):
        raise ValueError(
            f"occluded must be bool of the truth's size {truth.shape[:2]}, got {occluded.shape} of {occluded.dtype}"
        )
