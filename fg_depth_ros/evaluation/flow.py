"""Optical flow methods on data sets with true flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from fg_depth_ros.data.datasets.flow import open_flow_sets
from fg_depth_ros.data.samples import FlowSample
from fg_depth_ros.evaluation.metrics import FlowMetrics, Metrics
from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.evaluation.task import Task
from fg_depth_ros.geometry.flow_colour import colour_flow
from fg_depth_ros.inference import NetworkFlow


@dataclass(frozen=True)
class FlowTask(Task):
    """Flow from the first to the second frame.

    Methods: an object with ``estimate(first, second)`` whose result has ``.flow`` (a FlowEstimator), or a function
    (first, second) -> flow; uint8 RGB H x W x 3 in, H x W x 2 px out, NaN = no prediction.
    """

    name: ClassVar[str] = "flow"
    quantity: ClassVar[str] = "flow"
    columns: ClassVar[tuple[str, ...]] = (
        "epe", "epe_noc", "epe_occ", "epe_below_10", "epe_10_40", "epe_above_40", "fl_all", "angular", "seconds",
    )  # fmt: skip
    validation_metrics: ClassVar[tuple[str, ...]] = ("epe", "fl_all")
    image_title: ClassVar[str] = "first frame"
    open = staticmethod(open_flow_sets)

    @property
    def notes(self) -> list[str]:
        """Notes on the table."""
        return [
            "EPE in px over all pixels with truth; noc, occ: shown and not shown by the second frame; <10 ... >40: by "
            "the length of the true flow in px; Fl: off by more than 3 px and 5 %; AE: angular error"
        ]

    def inputs(self, sample: FlowSample, methods: Sequence[Any]) -> tuple[Any, ...]:
        """Read both frames, and which pixels the second one does not show."""
        return (*sample.images(), sample.occluded())

    def estimate(self, runner: Any, inputs: tuple[Any, ...]) -> np.ndarray:
        """Run an estimator or a function."""
        first, second, _ = inputs
        return np.asarray(runner.estimate(first, second).flow if hasattr(runner, "estimate") else runner(first, second))

    def compare(
        self, method: Any, prediction: np.ndarray, truth: np.ndarray, sample: FlowSample, inputs: tuple[Any, ...]
    ) -> tuple[np.ndarray, dict[str, Metrics]]:
        """Compare flow with the truth."""
        metrics = FlowMetrics()
        metrics.update(prediction, truth, inputs[2])
        return prediction, {"flow": metrics}

    def colours(self, truth: np.ndarray, sample: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Colour by the longest true flow."""
        length = np.linalg.norm(truth, axis=-1)
        longest = float(np.nanmax(length)) if np.isfinite(length).any() else 1.0
        return lambda flow: colour_flow(flow, longest)

    def colour_error(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Colour the end-point error in px."""
        known = np.isfinite(truth).all(-1)
        return visualization.colour_error(np.linalg.norm(prediction - truth, axis=-1), np.where(known, 0.0, np.nan))

    def method_of(self, network: nn.Module) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Wrap a flow network."""
        return NetworkFlow(network, "network").flow
