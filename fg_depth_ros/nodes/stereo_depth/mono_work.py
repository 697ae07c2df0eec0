"""What stereo_depth_node does with depth from the left image alone: has it estimated, keeps it in scale with stereo,
and fills with it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import numpy as np

from fg_depth_ros.geometry.alignment import scale_between
from fg_depth_ros.inference import MonoEstimate, StereoEstimate
from fg_depth_ros.nodes.common.codes import FaultCode
from fg_depth_ros.nodes.common.diagnostics import WARN, Faults
from fg_depth_ros.nodes.stereo_depth.model_host import MonoHost

_LEAST, _LARGEST = 0.2, 5.0  # factors beyond are no scale of anything: the network or the matching has failed
_COMPARED = 20_000  # pixels, on a grid: a median of more is no better, and takes longer
_REMEMBERED = 5  # factors that make a running median
_FRESH_SECONDS = 60.0  # a factor that is older says little about the place where the robot is now
_MEASURE_SECONDS = 1.0  # between two factors that nobody needs just now


class MonoScale:
    """The factor from mono depth to stereo depth: of the pair at hand, and as a running median for when there is none.

    Not thread-safe (the worker owns it).
    """

    def __init__(self) -> None:
        self._found: deque[float] = deque(maxlen=_REMEMBERED)
        self._tried = self._measured = -np.inf  # time.monotonic
        self._held: float | None = None

    def due(self) -> bool:
        """Whether it is time to measure without need, so that a factor is known when the right camera goes."""
        return time.monotonic() - self._tried >= _MEASURE_SECONDS

    def measure(self, depth: np.ndarray, estimate: StereoEstimate) -> float | str:
        """The factor from ``depth`` (H x W m) to the valid depth of a pair; or, in words, why there is none."""
        self._tried = time.monotonic()
        step = max(1, round((depth.size / _COMPARED) ** 0.5))
        grid = (slice(step // 2, None, step),) * 2
        factor = scale_between(depth[grid], estimate.matched_depth[grid], estimate.matched_mask[grid])
        if factor is None:
            share = np.count_nonzero(estimate.matched_mask) / estimate.matched_mask.size
            return f"too few pixels have stereo depth ({share:.1%}) to compare with mono depth"
        if not _LEAST <= factor <= _LARGEST:
            return (
                f"stereo depth is {factor:.3g} times mono depth ({_LEAST:g} to {_LARGEST:g} can be): the mono weights "
                "do not fit this camera or this scene, or the calibration is wrong"
            )
        self._found.append(factor)
        self._measured = self._tried
        return factor

    def hold(self) -> np.float32:
        """The factor to use without a pair: the median of the last ones, where they were fresh when the pairs ended,
        else 1. It stays the same until it is let go.
        """
        if self._held is None:
            fresh = time.monotonic() - self._measured <= _FRESH_SECONDS
            self._held = float(np.median(self._found)) if fresh else 1.0
        return np.float32(self._held)

    def let_go(self) -> None:
        """There are pairs again."""
        self._held = None

    def values(self) -> Mapping[str, str]:
        """Key -> value for a DiagnosticStatus."""
        if not self._found:
            return {}
        return {
            "mono factor": f"{self._found[-1]:.3f}",
            "mono factor age (s)": f"{time.monotonic() - self._measured:.0f}",
            **({} if self._held is None else {"mono factor in use without a pair": f"{self._held:.3f}"}),
        }


class MonoWork:
    """Depth from left images alone, and what is filled with it. Not thread-safe (the worker owns it)."""

    def __init__(self, host: MonoHost, faults: Faults) -> None:
        self.scale = MonoScale()
        self._host, self._faults = host, faults
        self._weights = ""  # hash of those that the scale belongs to

    def estimate(self, left: np.ndarray, fx: float, need: str) -> MonoEstimate | None:
        """Depth from an image (uint8, H x W or H x W x 3 RGB; fx in px), or None while there is no model for it.

        `need` says who needs it, for the fault that names what is missing. Raises OutOfMemory.
        """
        estimator = self._host.demand()
        if estimator is not None:
            found = estimator.estimate(left, fx)
            if estimator.model_sha256 != self._weights:
                self.scale, self._weights = MonoScale(), estimator.model_sha256
            self._faults.clear("mono")
            return found
        if self._host.off:
            self._miss(need, "mono_model is off: set it to depthnet_lite")
        elif (failure := self._host.failure) is not None:
            self._miss(need, f"{failure}. Set mono_weights, or mono_model to off")
        return None

    def fill(self, estimate: StereoEstimate, depth: np.ndarray) -> StereoEstimate:
        """The estimate with its holes filled from mono depth (H x W m, its own scale), where a scale can be found."""
        factor = self.scale.measure(depth, estimate)
        if isinstance(factor, str):
            self._faults.report("scale", WARN, f"nothing is filled from mono: {factor}", code=FaultCode.NO_MONO_SCALE)
            return estimate
        self._faults.clear("scale")
        return estimate.filled(depth * np.float32(factor))

    def keep_scale(self, estimate: StereoEstimate, depth: np.ndarray) -> None:
        """Measure the scale now and then although nothing is filled, for when the right camera is gone."""
        if self.scale.due():
            self.scale.measure(depth, estimate)

    def _miss(self, need: str, what: str) -> None:
        self._faults.report("mono", WARN, f"{need}, but there is no mono depth: {what}", code=FaultCode.NO_MONO_DEPTH)
