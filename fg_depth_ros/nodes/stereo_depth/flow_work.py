"""What stereo_depth_node does with optical flow: between the left images of two moments, and between the two cameras
to see whether their rows still agree.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from fg_depth_ros.geometry import VerticalFlow, vertical_flow
from fg_depth_ros.inference import FlowEstimator
from fg_depth_ros.nodes.stereo_depth.pair_check import CheckedPair

_LONGEST_GAP = 1_000_000_000  # ns between two frames that still show one motion
_REMEMBERED = 5  # measurements of the vertical flow that make a running median


class TemporalFlow:
    """Flow from the left image before to the newest one. Not thread-safe (the worker owns it)."""

    def __init__(self) -> None:
        self._before: tuple[int, np.ndarray] | None = None

    def next(self, stamp: int, left: np.ndarray, estimator: FlowEstimator) -> np.ndarray | None:
        """H x W x 2 float32 px from the image before to `left`, or None where there is none to compare with: the
        first, another size, more than a second ago, or later than this one (a source that began again).

        `stamp`: ns. Raises OutOfMemory.
        """
        before, self._before = self._before, (stamp, left)
        if before is None or not 0 < stamp - before[0] <= _LONGEST_GAP or before[1].shape != left.shape:
            return None
        return estimator.estimate(before[1], left).flow

    def forget(self) -> None:
        """Nobody listens: the next image is a first one."""
        self._before = None


class RowMonitor:
    """Do the rows of the two cameras agree? A running median of the vertical flow and of its tilt.

    `topic(input name)` gives the resolved name of an input. Not thread-safe (the worker owns it).
    """

    def __init__(self, topic: Callable[[str], str]) -> None:
        self._topic = topic
        self._found: deque[VerticalFlow] = deque(maxlen=_REMEMBERED)
        self._next = 0.0

    def due(self, period: float) -> bool:
        """Whether the next look is due; `period` in seconds, 0 = never."""
        return period > 0 and time.monotonic() >= self._next

    def look(self, pair: CheckedPair, estimator: FlowEstimator, period: float) -> None:
        """Measure a pair; the next look is due after `period` seconds. Raises OutOfMemory."""
        self._next = time.monotonic() + period
        flow = estimator.estimate(pair.left, pair.right).flow
        # A match ahead of both cameras moves to the left; what does not is a wrong one.
        found = vertical_flow(flow, flow[..., 0] - pair.rig.doffs < 0.5)
        if found is not None:
            self._found.append(found)

    @property
    def running(self) -> VerticalFlow | None:
        """Medians of the last measurements; None before the first."""
        if not self._found:
            return None
        return VerticalFlow(*np.median(np.array(self._found), axis=0).tolist())

    def values(self) -> Mapping[str, str]:
        """Key -> value for a DiagnosticStatus."""
        running = self.running
        if running is None:
            return {}
        return {
            "vertical flow median (px)": f"{running.median:+.2f}",
            "vertical flow tilt (px)": f"{running.tilt:+.2f}",
        }

    def problem(self, most: float, most_tilt: float) -> str | None:
        """Why the rows do not agree, or None; limits in px."""
        running = self.running
        if running is None or (abs(running.median) <= most and abs(running.tilt) <= most_tilt):
            return None
        return (
            f"{self._topic('right/image_rect')} lies {running.median:+.1f} px lower than "
            f"{self._topic('left/image_rect')} and {running.tilt:+.1f} px more at the right border than at the left "
            f"(flow, running median; at most {most:g} and {most_tilt:g} px are fine): the cameras have moved or are "
            "not rectified; calibrate the pair again"
        )
