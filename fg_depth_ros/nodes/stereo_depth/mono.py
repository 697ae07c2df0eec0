"""Depth from the left image alone: estimated on request, brought to the scale of stereo depth, used to fill holes."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Mapping

import numpy as np

from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.geometry.depth import scale_between
from fg_depth_ros.inference import FilledEstimate, MonoConfig, MonoDepthEstimator, MonoEstimate, StereoEstimate
from fg_depth_ros.nodes.common.codes import FaultCode, FaultSubject
from fg_depth_ros.nodes.common.diagnostics import WARN, Faults
from fg_depth_ros.nodes.stereo_depth.model_host import LazyModelHost

_SMALLEST, _LARGEST = 0.2, 5.0  # factors beyond are no scale: the network or the matching has failed
_COMPARED = 20_000  # pixels, on a grid: a median of more is no better, and takes longer
_MEDIAN_OF = 5  # measured factors
_FRESH_SECONDS = 60.0  # an older factor says little about the place where the robot is now
_PERIOD_SECONDS = 1.0  # between two measurements while no factor is needed


class ScaleError(ValueError):
    """No factor can be measured; the message says why."""


class MonoScale:
    """Factor from mono depth to stereo depth: of one pair, and a running median for when there is no pair.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._factors: deque[float] = deque(maxlen=_MEDIAN_OF)
        self._tried = self._measured = -np.inf  # time.monotonic
        self._fallback: float | None = None
        self.own_scale = False
        """Whether ``fallback`` is 1 since no pair was compared with mono depth lately."""

    @property
    def due(self) -> bool:
        """Whether to measure although no factor is needed, so that one is known when the right camera fails."""
        return time.monotonic() - self._tried >= _PERIOD_SECONDS

    def measure(self, depth: np.ndarray, estimate: StereoEstimate) -> float:
        """Measure the factor from mono depth (H x W m) to the valid depth of a pair. Raises ScaleError."""
        self._tried = time.monotonic()
        step = max(1, round((depth.size / _COMPARED) ** 0.5))
        grid = (slice(step // 2, None, step),) * 2
        factor = scale_between(depth[grid], estimate.depth[grid], estimate.mask[grid])
        if factor is None:
            share = np.count_nonzero(estimate.mask) / estimate.mask.size
            raise ScaleError(f"too few pixels have stereo depth ({share:.1%}) to compare with mono depth")
        if not _SMALLEST <= factor <= _LARGEST:
            raise ScaleError(
                f"stereo depth is {factor:.3g} times mono depth ({_SMALLEST:g} to {_LARGEST:g} is plausible): the mono "
                "weights do not fit this camera or this scene, or the calibration is wrong"
            )
        self._factors.append(factor)
        self._measured = self._tried
        return factor

    def fallback(self) -> np.float32:
        """Return the factor without a pair: the median of the last if fresh, else 1; fixed until ``end_fallback``."""
        if self._fallback is None:
            self.own_scale = time.monotonic() - self._measured > _FRESH_SECONDS
            self._fallback = 1.0 if self.own_scale else float(np.median(self._factors))
        return np.float32(self._fallback)

    def end_fallback(self) -> None:
        """Forget the factor of ``fallback``: there are pairs again."""
        self._fallback = None

    def values(self) -> Mapping[str, str]:
        """Return the key-value pairs of a DiagnosticStatus."""
        values = {}
        if self._factors:
            values["mono factor"] = f"{self._factors[-1]:.3f}"
            values["mono factor age (s)"] = f"{time.monotonic() - self._measured:.0f}"
        if self._fallback is not None:
            values["mono factor in use without a pair"] = f"{self._fallback:.3f}"
        return values


class MonoDepth:
    """Mono depth and the holes filled with it. Not thread-safe."""

    def __init__(self, host: LazyModelHost[MonoConfig, MonoDepthEstimator], faults: Faults) -> None:
        self.scale = MonoScale()
        self._host, self._faults = host, faults
        self._weights = ""  # hash of those that the scale belongs to
        self.model_name = ""
        """Name of the model that made the last estimate."""

    def estimate(self, left: np.ndarray, rig: StereoRig, need: str) -> MonoEstimate | None:
        """Estimate depth from one image (H x W or H x W x 3 RGB uint8); None, and a fault, while there is no model.

        ``rig``: at the image's size. ``need``: what needs it, for the text of the fault. Raises OutOfMemory.
        """
        estimator = self._host.request()
        if estimator is not None:
            estimate = estimator.estimate(left, rig.fx, rig.fy)
            if estimator.model_sha256 != self._weights:
                self.scale, self._weights = MonoScale(), estimator.model_sha256
            self.model_name = estimator.model_name
            self._faults.clear(FaultSubject.MONO)
            return estimate
        problem = None
        if self._host.off:
            problem = "mono_model is off: set it to auto"
        elif (failure := self._host.failure) is not None:
            problem = f"{failure}. Set mono_model and mono_weights"
        if problem is not None:
            text = f"{need}, but there is no mono depth: {problem}"
            self._faults.report(FaultSubject.MONO, WARN, text, FaultCode.NO_MONO_DEPTH)
        return None

    def fill(self, estimate: StereoEstimate, depth: np.ndarray) -> StereoEstimate | FilledEstimate:
        """Fill the holes of an estimate from mono depth (H x W m, its own scale), where a scale can be measured."""
        try:
            factor = self.scale.measure(depth, estimate)
        except ScaleError as error:
            self._faults.report(
                FaultSubject.SCALE, WARN, f"nothing is filled from mono: {error}", FaultCode.NO_MONO_SCALE
            )
            return estimate
        self._faults.clear(FaultSubject.SCALE)
        return FilledEstimate(estimate, depth * np.float32(factor))

    def update_scale(self, estimate: StereoEstimate, depth: np.ndarray) -> None:
        """Measure the scale from time to time although nothing is filled, for when the right camera fails."""
        if self.scale.due:
            with contextlib.suppress(ScaleError):
                self.scale.measure(depth, estimate)
