"""Check by matched features how the two cameras of a rectified pair stand to each other."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fg_depth_ros.geometry.resize import resize_image
from fg_depth_ros.geometry.support import PairFault

MIN_MATCHES = 40
"""Fewer matches say nothing."""
_ORB_PIXELS = 200_000  # enough for features, and a matter of some ten milliseconds
_ON_ROW = 0.03  # of the height
_TOLERANCE = 0.5  # px; features are no better, and far points are everywhere near infinity


@dataclass(frozen=True)
class FeatureMatches:
    """Feature matches of a pair, or the sum of several pairs.

    In image disparities d = x_left - x_right, points in front of both cameras have ``d > -doffs``; were the two images
    swapped, all would have ``d < doffs``. Wrong matches are found on both sides alike, so what counts is how many
    contradict one of the two and not the other. With ``doffs > 0`` swapped images contradict nothing where all is
    farther than half the distance at which ``d`` is 0: they look like a scene whose near and far are swapped.
    """

    matched: int = 0
    """Matched features, on any rows."""
    count: int = 0
    """Matches whose rows differ by at most 3 % of the height, as they do in a rectified pair."""
    as_given: int = 0
    """Number of these matches that contradict swapped images."""
    swapped: int = 0
    """Number of these matches that contradict the images as given."""
    upside_down: int = 0
    """Matched features on the same rows once the right image is turned by 180 degrees."""
    vertical: float | None = None
    """Median row difference, px, positive when things lie lower in the right image; None with too few matches."""

    def __add__(self, other: FeatureMatches) -> FeatureMatches:
        """Return the matches of both; ``vertical`` is that of the newer ones."""
        return FeatureMatches(
            self.matched + other.matched, self.count + other.count, self.as_given + other.as_given,
            self.swapped + other.swapped, self.upside_down + other.upside_down,
            self.vertical if other.vertical is None else other.vertical,
        )  # fmt: skip

    @property
    def problem(self) -> str | None:
        """Say that the cameras are swapped or upside down, with the remedy, or return None."""
        if self.upside_down >= max(MIN_MATCHES, 0.7 * self.matched) and self.count < 0.3 * self.matched:
            return (
                f"one camera seems to be mounted upside down: {self.upside_down} of {self.matched} matched features "
                f"are "
                "on the same rows only when one image is turned by 180 degrees; turn it in the driver"
            )
        if self.count >= MIN_MATCHES and self.swapped >= max(10, 0.1 * self.count, 4 * self.as_given):
            return (
                f"left and right seem to be swapped: of {self.count} matched features {self.swapped} lie behind the "
                f"cameras and {self.as_given} would do so with the images swapped; swap the two cameras' topics "
                "(or turn both images by 180 degrees, where the rig is mounted upside down)"
            )
        return None


def features_tell_more(fault: PairFault | None) -> bool:
    """Return whether matched features may tell more of a pair than its fault does.

    Views of swapped cameras, and those whose rows differ, seem unrelated.
    """
    return fault in (None, PairFault.UNRELATED)


def match_features(left: np.ndarray, right: np.ndarray, doffs: float) -> FeatureMatches:
    """Match ORB features between the images of a pair.

    ``left``, ``right``: uint8, H x W or H x W x 3 RGB; ``doffs``: of the rig, px.
    """
    grey = [i if i.ndim == 2 else cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (left, right)]
    scale = min(1.0, (_ORB_PIXELS / grey[0].size) ** 0.5)
    height, width = grey[0].shape
    grey = [resize_image(i, round(width * scale), round(height * scale)) for i in grey]
    orb = cv2.ORB.create(500)
    (points, marks), (others, other_marks) = (orb.detectAndCompute(np.ascontiguousarray(i), None) for i in grey)
    if marks is None or other_marks is None:
        return FeatureMatches()
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(marks, other_marks)
    near = [(points[m.queryIdx].pt, others[m.trainIdx].pt) for m in pairs if m.distance < 48]
    first, second = np.array(near, np.float64).reshape(-1, 2, 2).transpose(1, 0, 2) / scale
    moves = first - second
    on_row = moves[np.abs(moves[:, 1]) <= _ON_ROW * height]
    turned = np.abs(first[:, 1] - (height - 1 - second[:, 1])) <= _ON_ROW * height
    limit = doffs + _TOLERANCE
    return FeatureMatches(
        len(moves), len(on_row), int((on_row[:, 0] > limit).sum()), int((on_row[:, 0] < -limit).sum()),
        int(turned.sum()), float(np.median(-on_row[:, 1])) if len(on_row) >= MIN_MATCHES else None,
    )  # fmt: skip
