"""Whether the images of a pair are rectified: by matched features (swapped cameras, rows), and by vertical flow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import numpy as np

from fg_depth_ros.data.io.messages import MessageError, MessageFault
from fg_depth_ros.geometry import VerticalFlow, vertical_flow
from fg_depth_ros.geometry.features import MIN_MATCHES, FeatureMatches, match_features
from fg_depth_ros.inference import FlowEstimator

_FIRST_PAIRS = 10  # in which enough features for a decision are looked for
_VERTICAL_LIMIT_PX = 1.5
_PERIOD_SECONDS = 30.0
_MEDIAN_OF = 5  # measurements of the vertical flow


class FeatureCheck:
    """Checks pairs by matched features: the first of a calibration, then one every half minute. Not thread-safe.

    Where the first pair has too few features, those of up to ten pairs are counted together.
    """

    def __init__(self, topics: Mapping[str, str]) -> None:
        self._topics = topics
        self._next, self._first = 0.0, 0
        self._rectified_inside = False
        self.matches = FeatureMatches()

    @property
    def pending(self) -> bool:
        """Whether no pair has passed yet."""
        return self._next == 0.0

    def reset(self, *, rectified_inside: bool = False) -> None:
        """Begin again with the next pair. ``rectified_inside``: the images are rectified here, by their camera_info."""
        self._next, self._first, self.matches = 0.0, 0, FeatureMatches()
        self._rectified_inside = rectified_inside

    def check(self, left: np.ndarray, right: np.ndarray, doffs: float) -> None:
        """Match features, if it is time to. Raises MessageError when the cameras are swapped or one is upside down."""
        if time.monotonic() < self._next:
            return
        found = match_features(left, right, doffs)
        self.matches = self.matches + found if self._first else found
        if (problem := self.matches.problem) is not None:
            self.reset(rectified_inside=self._rectified_inside)
            names = f"{self._topics['left/image_rect']} and {self._topics['right/image_rect']}"
            raise MessageError(MessageFault.SWAPPED_CAMERAS, f"{names}: {problem}")
        self._first += 1
        if self.matches.count >= MIN_MATCHES or self._first >= _FIRST_PAIRS:
            self._next, self._first = time.monotonic() + _PERIOD_SECONDS, 0

    @property
    def problem(self) -> str | None:
        """Why the last check says that rows do not agree, or None."""
        vertical = self.matches.vertical
        if vertical is None or abs(vertical) <= _VERTICAL_LIMIT_PX:
            return None
        remedy = (
            "they are rectified by their camera_info, which does not fit the cameras: calibrate the pair again, or, "
            "where they come rectified, set rectify to off"
            if self._rectified_inside
            else "publish rectified images, set rectify to on where camera_info has K, D and R of raw ones, or "
            "calibrate the pair again"
        )
        return (
            f"features lie {vertical:+.1f} px lower in {self._topics['right/image_rect']} than in "
            f"{self._topics['left/image_rect']} (median; at most {_VERTICAL_LIMIT_PX} px is fine): {remedy}"
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
