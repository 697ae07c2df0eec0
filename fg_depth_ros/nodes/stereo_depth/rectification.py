"""Whether the images of a pair are rectified: by matched features (swapped cameras, rows), and by vertical flow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from fg_depth_ros.data.io.messages import MessageError, MessageFault
from fg_depth_ros.geometry import VerticalFlow, vertical_flow
from fg_depth_ros.geometry.resize import resize_image
from fg_depth_ros.inference import FlowEstimator

_MIN_MATCHES = 40  # fewer say nothing
_SWAPPED_BELOW = 0.1  # share of matches on the right side of infinity
_VERTICAL_LIMIT_PX = 1.5
_PERIOD_SECONDS = 30.0
_ORB_PIXELS = 200_000  # enough for features, and a matter of some ten milliseconds
_MEDIAN_OF = 5  # measurements of the vertical flow


@dataclass(frozen=True)
class FeatureMatches:
    """Feature matches of a pair.

    ``count``: matches. ``in_front``: share of them in front of both cameras. ``vertical``: median row difference, px,
    positive when things lie lower in the right image; None with too few matches.
    """

    count: int
    in_front: float
    vertical: float | None


class FeatureCheck:
    """Checks pairs by matched features: the first pair of a calibration, then every half minute. Not thread-safe."""

    def __init__(self, topics: Mapping[str, str]) -> None:
        self._topics = topics
        self._next = 0.0
        self.matches: FeatureMatches | None = None

    @property
    def pending(self) -> bool:
        """Whether no pair has passed yet."""
        return self._next == 0.0

    def reset(self) -> None:
        """Begin again with the next pair."""
        self._next = 0.0

    def check(self, left: np.ndarray, right: np.ndarray, doffs: float) -> None:
        """Match features, if it is time to. Raises MessageError when nearly all say that the cameras are swapped."""
        if time.monotonic() < self._next:
            return
        self._next = 0.0
        self.matches = match_features(left, right, doffs)
        if self.matches.count >= _MIN_MATCHES and self.matches.in_front < _SWAPPED_BELOW:
            raise MessageError(
                MessageFault.SWAPPED_CAMERAS,
                f"{self._topics['left/image_rect']} and {self._topics['right/image_rect']} seem to be swapped: of "
                f"{self.matches.count} matched features only {self.matches.in_front:.0%} move left from the left "
                "to the right image, as all must; exchange the two cameras' topics",
            )
        self._next = time.monotonic() + _PERIOD_SECONDS

    @property
    def problem(self) -> str | None:
        """Why the last check says that rows do not agree, or None."""
        vertical = self.matches.vertical if self.matches else None
        if vertical is None or abs(vertical) <= _VERTICAL_LIMIT_PX:
            return None
        return (
            f"features lie {vertical:+.1f} px lower in {self._topics['right/image_rect']} than in "
            f"{self._topics['left/image_rect']} (median; at most {_VERTICAL_LIMIT_PX} px is fine): publish "
            "rectified images, or calibrate the pair again"
        )


class VerticalFlowCheck:
    """Checks by dense flow whether the rows of the two cameras agree: running medians of its vertical part and tilt.

    Not thread-safe.
    """

    def __init__(self, topics: Mapping[str, str]) -> None:
        self._topics = topics
        self._found: deque[VerticalFlow] = deque(maxlen=_MEDIAN_OF)
        self._next = 0.0

    def due(self, period: float) -> bool:
        """Tell whether to measure; ``period``: s, 0 = never."""
        return period > 0 and time.monotonic() >= self._next

    def measure(
        self, left: np.ndarray, right: np.ndarray, doffs: float, estimator: FlowEstimator, period: float
    ) -> None:
        """Measure a pair; the next one is due after ``period`` s. Raises OutOfMemory."""
        self._next = time.monotonic() + period
        flow = estimator.estimate(left, right).flow
        # A match in front of both cameras moves to the left; any other is a wrong match.
        found = vertical_flow(flow, flow[..., 0] - doffs < 0.5)
        if found is not None:
            self._found.append(found)

    @property
    def median(self) -> VerticalFlow | None:
        """Medians of the last measurements; None before the first."""
        if not self._found:
            return None
        return VerticalFlow(*np.median(np.array(self._found), axis=0).tolist())

    def values(self) -> Mapping[str, str]:
        """Return the key-value pairs of a DiagnosticStatus."""
        median = self.median
        if median is None:
            return {}
        return {"vertical flow median (px)": f"{median.median:+.2f}", "vertical flow tilt (px)": f"{median.tilt:+.2f}"}

    def problem(self, max_median: float, max_tilt: float) -> str | None:
        """Return why the rows do not agree, or None; limits in px."""
        found = self.median
        if found is None or (abs(found.median) <= max_median and abs(found.tilt) <= max_tilt):
            return None
        return (
            f"{self._topics['right/image_rect']} lies {found.median:+.1f} px lower than "
            f"{self._topics['left/image_rect']} and {found.tilt:+.1f} px more at the right border than at the left "
            f"(flow, running median; at most {max_median:g} and {max_tilt:g} px are fine): the cameras have moved or "
            "are not rectified; calibrate the pair again"
        )


def match_features(left: np.ndarray, right: np.ndarray, doffs: float) -> FeatureMatches:
    """Match ORB features between the images of a pair.

    A point in front of both cameras has ``d + doffs > 0``. Only features count whose row differs by at most 3 % of the
    height, since a rectified pair's rows agree. Images: uint8, H x W or H x W x 3 RGB.
    """
    grey = [i if i.ndim == 2 else cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (left, right)]
    scale = min(1.0, (_ORB_PIXELS / grey[0].size) ** 0.5)
    height, width = grey[0].shape
    grey = [resize_image(i, round(width * scale), round(height * scale)) for i in grey]
    orb = cv2.ORB.create(500)
    (points, marks), (others, other_marks) = (orb.detectAndCompute(np.ascontiguousarray(i), None) for i in grey)
    if marks is None or other_marks is None:
        return FeatureMatches(0, 0.0, None)
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(marks, other_marks)
    moved = [np.subtract(points[m.queryIdx].pt, others[m.trainIdx].pt) for m in pairs if m.distance < 48]
    moves = np.array(moved).reshape(-1, 2) / scale
    on_row = moves[np.abs(moves[:, 1]) <= 0.03 * left.shape[0]]
    if len(on_row) == 0:
        return FeatureMatches(0, 0.0, None)
    # Half a pixel: features are no better, and far points are everywhere near infinity.
    in_front = float(np.mean(on_row[:, 0] + doffs > -0.5))
    vertical = float(np.median(-on_row[:, 1])) if len(on_row) >= _MIN_MATCHES else None
    return FeatureMatches(len(on_row), in_front, vertical)
