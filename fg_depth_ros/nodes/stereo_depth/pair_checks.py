"""Check each pair for swapped cameras and poor rectification."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import numpy as np

from fg_depth_ros.data.io.messages import MessageError, MessageFault
from fg_depth_ros.geometry import VerticalFlow, vertical_flow
from fg_depth_ros.geometry.features import MIN_MATCHES, FeatureMatches, match_features
from fg_depth_ros.geometry.resize import resize_image
from fg_depth_ros.inference import FlowEstimator, StereoEstimate

_FIRST_PAIRS = 10  # in which enough features for a decision are looked for
_VERTICAL_LIMIT_PX = 1.5
_PERIOD_SECONDS = 30.0
_MEDIAN_OF = 5  # measurements of the vertical flow
_RECENT = 5  # pairs that one is compared with
_RECENT_NS = 2_000_000_000  # older ones say nothing
_GRID = 8  # px between the disparities that are compared
_AGREEING = 0.6  # of the agreement of recent pairs: a swapped one has 0 to 0.4, the next frame 0.9 and more
_CHANGE_PX = 4.0  # median change of the disparities, and share of the disparities themselves
_CHANGE = 0.25
_MIRRORED = 0.3  # of the change: how exactly disparities of the pair before come back with the other sign
_THUMBNAIL = (64, 48)
_CROSSED = 0.7  # of the change of each image: how exactly the two of the pair before come back crosswise


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


class SwappedPairCheck:
    """Finds single pairs whose images are swapped, by the pairs before. Not thread-safe.

    Where the search begins at infinity, a swapped pair cannot be matched, and its images agree no more; where the
    principal points differ, it can, all disparities come back with the other sign, and each image resembles the other
    one of the pair before. Only what changed suddenly is matched by features.
    """

    def __init__(self, topics: Mapping[str, str]) -> None:
        self._topics = topics
        self._agreements: deque[float] = deque(maxlen=_RECENT)
        self._disparities: np.ndarray | None = None
        self._images: tuple[np.ndarray, np.ndarray] | None = None
        self._stamp = 0

    def reset(self) -> None:
        """Begin again with the next pair."""
        self._agreements.clear()
        self._disparities = self._images = None

    def check(self, left: np.ndarray, right: np.ndarray, estimate: StereoEstimate, stamp: int) -> None:
        """Check a matched pair. Raises MessageError when its images are swapped, unlike those of the pairs before.

        ``stamp``: of the pair, ns. Pairs more than two seconds before it say nothing.
        """
        if not 0 < stamp - self._stamp <= _RECENT_NS:
            self.reset()
        agreement = None if estimate.support is None else estimate.support.agreement
        disparities = estimate.matched[_GRID // 2 :: _GRID, _GRID // 2 :: _GRID]
        problem = self._problem(left, right, agreement, disparities, estimate.rig.doffs)
        if problem is not None:
            names = f"{self._topics['left/image_rect']} and {self._topics['right/image_rect']}"
            raise MessageError(
                MessageFault.SWAPPED_PAIR,
                f"{names}: the images of the pair at {stamp * 1e-9:.3f} s are swapped ({problem}), and those of the "
                "pairs before were not: it is dropped; look for a fault in the driver",
            )
        if agreement is not None:
            self._agreements.append(agreement)
        self._disparities, self._images, self._stamp = disparities, (left, right), stamp

    def _problem(
        self, left: np.ndarray, right: np.ndarray, agreement: float | None, disparities: np.ndarray, doffs: float
    ) -> str | None:
        """Return why a pair is known to be swapped, or None."""
        before = self._comparable(disparities)
        changed = before is not None and _have_changed(before, disparities, doffs)
        if before is not None and changed and _are_mirrored(before, disparities) and self._are_crossed(left, right):
            return f"disparities of {_median(before):+.1f} px became {_median(disparities):+.1f} px"
        if not self._has_dropped(agreement) and not (changed and agreement is None):
            return None
        found = match_features(left, right, doffs)
        if found.problem is None:
            return None
        return f"of {found.count} matched features {found.swapped} lie behind the cameras"

    def _has_dropped(self, agreement: float | None) -> bool:
        """Tell whether the images of a pair agree far less than those of the pairs before."""
        usual = float(np.median(self._agreements)) if self._agreements else 0.0
        return agreement is not None and agreement < _AGREEING * usual

    def _are_crossed(self, left: np.ndarray, right: np.ndarray) -> bool:
        """Tell whether each image resembles the other one of the pair before rather than its own."""
        assert self._images is not None
        own, other = (
            sum(
                float(np.abs(_thumbnail(now) - _thumbnail(before)).mean())
                for now, before in zip(pair, images, strict=True)
            )
            for pair, images in (((left, right), self._images), ((right, left), self._images))
        )
        return other < _CROSSED * own

    def _comparable(self, disparities: np.ndarray) -> np.ndarray | None:
        """Return the disparities of the pair before, if they are of the same size."""
        before = self._disparities
        return before if before is not None and before.shape == disparities.shape else None


def _have_changed(before: np.ndarray, now: np.ndarray, doffs: float) -> bool:
    """Tell whether the disparities of two pairs, px, differ by more than those of two frames in a row do."""
    return _median(np.abs(now - before)) > _CHANGE_PX + _CHANGE * _median(np.abs(before + doffs))


def _are_mirrored(before: np.ndarray, now: np.ndarray) -> bool:
    """Tell whether the disparities of the pair before came back with the other sign."""
    return _median(np.abs(now + before)) < _MIRRORED * _median(np.abs(now - before))


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Resize an image, uint8, H x W or H x W x 3 RGB, to a small grey one, float32."""
    small = resize_image(image, *_THUMBNAIL).astype(np.float32)
    return small if small.ndim == 2 else small.mean(axis=2)


def _median(values: np.ndarray) -> float:
    """Return the median of those that are not NaN; NaN without any."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


class VerticalFlowCheck:
    """Checks by dense flow whether the rows of the two cameras agree: running medians of its vertical part and tilt.

    Not thread-safe.
    """

    def __init__(self, topics: Mapping[str, str]) -> None:
        self._topics = topics
        self._found: deque[VerticalFlow] = deque(maxlen=_MEDIAN_OF)
        self._next = 0.0

    def reset(self) -> None:
        """Begin again with the next pair."""
        self._found.clear()
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
