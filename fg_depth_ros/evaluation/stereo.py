"""Stereo methods on data sets with true disparity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from fg_depth_ros.data.datasets.stereo import open_stereo_sets
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.metrics import DepthMetrics, Metrics, StereoMetrics, predicted_depth
from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.evaluation.task import Task
from fg_depth_ros.geometry import disparity_to_depth
from fg_depth_ros.geometry.depth_colour import colour_disparity
from fg_depth_ros.inference import NetworkMatcher, StereoConfig, StereoDepthEstimator


@dataclass(frozen=True)
class StereoMethod:
    """A matcher with its post-processing: one row of the report."""

    matcher: Any
    """An object with ``match(left, right)`` whose result has ``.disparity`` (a StereoDepthEstimator), or a function
    (left, right) -> disparity; uint8 RGB H x W x 3 in, H x W pixels out, NaN = no prediction."""
    fill: Callable[[np.ndarray], np.ndarray] | None = None
    """Hole filling applied to the prediction: ``geometry.fill_holes_kitti`` for a method that leaves holes,
    ``geometry.complete_occluded`` for a dense one, as ``StereoEstimate.disparity`` does."""
    valid_only: bool = False
    """Count only pixels with a prediction; the row's method should say so."""


@dataclass(frozen=True)
class StereoTask(Task):
    """Disparity of rectified pairs. Methods: a ``StereoMethod``, or its matcher alone.

    Where a data set has a calibration, ``abs_rel`` of the depth is given, too (truth nearer than 80 m).
    """

    name: ClassVar[str] = "stereo"
    quantity: ClassVar[str] = "disparity"
    columns: ClassVar[tuple[str, ...]] = (
        "epe",
        "bad_1",
        "bad_2",
        "bad_2_noc",
        "bad_3",
        "d1",
        "density",
        "abs_rel",
        "seconds",
    )
    validation_metrics: ClassVar[tuple[str, ...]] = ("epe", "bad_1", "bad_2", "d1")
    image_title: ClassVar[str] = "left image"
    open = staticmethod(open_stereo_sets)

    @property
    def notes(self) -> list[str]:
        """Notes on the table."""
        return [
            "all pixels with truth (noc: those that the right camera sees); a pixel without prediction counts as "
            "wrong; EPE over pixels with a prediction; the search begins at 0, where no true disparity is negative"
        ]

    def inputs(self, sample: StereoSample, methods: Sequence[Any]) -> tuple[Any, ...]:
        """Read left and right image, and ``search_doffs`` of the sample."""
        return (*sample.images(), search_doffs(sample))

    def runner(self, method: Any, inputs: tuple[Any, ...]) -> Any:
        """Return the matcher."""
        return _method(method).matcher

    def estimate(self, runner: Any, inputs: tuple[Any, ...]) -> np.ndarray:
        """Run a matcher; an estimator or a network begins its search as ``search_doffs`` says."""
        left, right, doffs = inputs
        if isinstance(runner, StereoDepthEstimator):
            return runner.match(left, right, doffs).disparity
        if isinstance(runner, NetworkMatcher):
            return runner.match(left, right, StereoConfig().search_start(doffs)).disparity
        return np.asarray(runner.match(left, right).disparity if hasattr(runner, "match") else runner(left, right))

    def compare(
        self, method: Any, prediction: np.ndarray, truth: np.ndarray, sample: StereoSample, inputs: tuple[Any, ...]
    ) -> tuple[np.ndarray, dict[str, Metrics]]:
        """Complete the disparity and compare it, and its depth, with the truth."""
        method = _method(method)
        disparity = method.fill(prediction) if method.fill else prediction
        stereo = StereoMetrics()
        stereo.update(disparity, truth, valid_only=method.valid_only)
        sums: dict[str, Metrics] = {"disparity": stereo}
        hidden = sample.occluded()
        if hidden is not None:
            seen = sums["noc"] = StereoMetrics()
            seen.update(disparity, np.where(hidden, np.float32(np.nan), truth), valid_only=method.valid_only)
        if sample.rig is not None:
            depth = sums["depth"] = DepthMetrics()
            depth.update(predicted_depth(disparity, sample.rig), disparity_to_depth(truth, sample.rig))
        return disparity, sums

    def metrics(self, sums: Mapping[str, Metrics]) -> dict[str, float]:
        """Return the metrics of disparity, ``bad_2_noc`` where the sets know what is occluded, and ``abs_rel``."""
        metrics = sums["disparity"].compute()
        if "noc" in sums:
            metrics["bad_2_noc"] = sums["noc"].compute()["bad_2"]
        if "depth" in sums and sums["depth"].pixels:
            metrics["abs_rel"] = sums["depth"].compute()["abs_rel"]
        return metrics

    def colours(self, truth: np.ndarray, sample: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Colour by the largest true disparity."""
        largest = float(np.nanmax(truth)) if np.isfinite(truth).any() else 1.0
        return lambda disparity: colour_disparity(disparity, largest)

    def colour_error(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Colour the error in px."""
        return visualization.colour_error(prediction, truth)

    def method_of(self, network: nn.Module) -> NetworkMatcher:
        """Wrap a stereo network."""
        return NetworkMatcher(network, "network")


def search_doffs(sample: StereoSample) -> float:
    """Return the ``doffs`` that the search for a sample follows, px: 0 where its true disparities begin there.

    Benchmarks are defined by a search from 0; a rig whose principal points differ sees far surfaces below it, and the
    node searches for those.
    """
    truth = sample.truth()
    return sample.doffs if truth is not None and (truth < 0).any() else 0.0


def _method(method: Any) -> StereoMethod:
    return method if isinstance(method, StereoMethod) else StereoMethod(method)
