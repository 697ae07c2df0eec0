"""Depth methods on data sets with true depth, as Eigen et al. (NIPS 2014) and their successors evaluate them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import cv2
import numpy as np
from torch import nn

from fg_depth_ros.data.datasets.depth import open_depth_sets
from fg_depth_ros.data.samples import DepthProtocol, DepthSample, StereoSample
from fg_depth_ros.evaluation.metrics import DepthMetrics, Metrics, crop_mask, predicted_depth
from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.evaluation.task import Aggregate, Score, Task
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.geometry.depth_colour import colour_depth
from fg_depth_ros.inference import StereoDepthEstimator
from fg_depth_ros.inference.mono import NetworkMono

BANDS = ((0, 10), (10, 20), (20, 40), (40, 80))
"""Distances with metrics of their own, m of true depth, the farther end not included."""
BAND_METRICS = ("abs_rel", "rmse")
# On the raw LiDAR of the 697 frames of Eigen's test, in Garg's crop, up to 80 m, without median scaling; each as its
# authors published it (Godard et al., ICCV 2019; Watson et al., ICCV 2019; Peng et al., ICCV 2021).
PUBLISHED = {
    "KITTI Eigen": (
        ("Monodepth2 S R18 640x192 (published)", {"abs_rel": 0.109, "rmse": 4.960, "delta_1": 0.864}),
        ("DepthHints R50 1024x320 (published)", {"abs_rel": 0.096, "rmse": 4.393, "delta_1": 0.890}),
        ("EPCDepth R18 1024x320 (published)", {"abs_rel": 0.0925, "rmse": 4.297, "delta_1": 0.899}),
        ("EPCDepth R50 1024x320 (published)", {"abs_rel": 0.0905, "rmse": 4.207, "delta_1": 0.901}),
    )
}
"""Rows of others by the name of the protocol that they were measured by."""
_SAME_SHAPE = 0.02


@dataclass(frozen=True)
class PairMethod:
    """A stereo method in the same table, on the samples that have a pair.

    Every pixel of its disparity counts, completed where the right camera cannot see; none or negative disparity is
    infinitely far.
    """

    estimator: StereoDepthEstimator

    def depth(self, left: np.ndarray, right: np.ndarray, rig: StereoRig) -> np.ndarray:
        """Estimate depth from a pair (uint8 RGB H x W x 3 both), H x W m."""
        return predicted_depth(self.estimator.disparity(left, right, rig.doffs), rig)


@dataclass(frozen=True)
class DepthTask(Task):
    """Depth of single images, by the data set's own protocol (crop and range of depth).

    Methods: an object with ``estimate(image, fx)`` whose result has ``.depth`` (a MonoDepthEstimator), or a function
    (image, fx) -> depth, (image, fx, fy) where pixels are not square; uint8 RGB H x W x 3 and px in, H x W m out, NaN
    = no prediction; or a ``PairMethod``. Predictions are resized to the truth as inverse depth, then clamped to the
    range. ``abs_rel`` and ``rmse`` are also those of every band of distance.
    """

    aggregate: Aggregate = "per_image"
    median: bool = False
    """Multiply every prediction by median(truth) / median(prediction) of its image first, as is done for networks that
    know no scale; ``scale`` in the report is the median of these factors."""

    name: ClassVar[str] = "depth"
    quantity: ClassVar[str] = "depth"
    columns: ClassVar[tuple[str, ...]] = (
        "abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3", "depth_density", "seconds", "scale",
    )  # fmt: skip
    band_columns: ClassVar[tuple[str, ...]] = tuple(f"{m}_{near}_{far}" for m in BAND_METRICS for near, far in BANDS)
    validation_metrics: ClassVar[tuple[str, ...]] = ("abs_rel", "rmse", "delta_1")
    error_title: ClassVar[str] = "bright: 25 % or more"
    advice: ClassVar[str] = "; stereo pairs can be compared with a stereo model instead (--against)"
    open = staticmethod(open_depth_sets)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the comparison, for a report."""
        return {"no_answer": "wrong", "aggregate": self.aggregate, "median_scaling": self.median}

    @property
    def notes(self) -> list[str]:
        """Notes on the table."""
        scaled = ["predictions scaled by the medians"] if self.median else []
        return ["errors over pixels with a prediction; others are wrong in delta", self.aggregate, *scaled]

    def inputs(self, sample: DepthSample, methods: Sequence[Any]) -> tuple[Any, ...]:
        """Read image and focal lengths, and, where a method wants them and there is a pair, right image and rig."""
        focal = (sample.fx,) if sample.fy in (None, sample.fx) else (sample.fx, sample.fy)
        inputs: tuple[Any, ...] = (sample.image_rgb(), focal)
        if sample.pair is not None and any(isinstance(method, PairMethod) for method in methods):
            inputs = (*inputs, sample.pair.images()[1], sample.pair.rig)
        return inputs

    def runner(self, method: Any, inputs: tuple[Any, ...]) -> Any:
        """Return the method; None for a stereo method without a pair."""
        return None if isinstance(method, PairMethod) and len(inputs) == 2 else method

    def estimate(self, runner: Any, inputs: tuple[Any, ...]) -> np.ndarray:
        """Run an estimator or a function."""
        image, focal, *pair = inputs
        if isinstance(runner, PairMethod):
            depth = runner.depth(image, *pair)
        else:
            depth = runner.estimate(image, *focal).depth if hasattr(runner, "estimate") else runner(image, *focal)
        return np.asarray(depth, dtype=np.float32)

    def compare(
        self, method: Any, prediction: np.ndarray, truth: np.ndarray, sample: DepthSample, inputs: tuple[Any, ...]
    ) -> tuple[np.ndarray, dict[str, Metrics]]:
        """Bring depth to the truth's size, scale it where that is asked for, and compare it, whole and by bands."""
        protocol = sample.protocol
        truth = np.where(crop_mask(protocol.crop, *truth.shape), truth, np.float32(np.nan))
        depth = _resized(prediction, truth, sample)
        sums: dict[str, Metrics] = {}
        if self.median:
            scale = _MedianScale([_median_factor(depth, truth, protocol)])
            depth = depth * np.float32(scale.factors[0])
        for band in (None, *BANDS):
            metrics = DepthMetrics(protocol.min_depth, protocol.max_depth)
            inside = truth
            if band is not None:
                inside = np.where((truth >= band[0]) & (truth < band[1]), truth, np.float32(np.nan))
            metrics.update(depth, inside)
            sums["" if band is None else f"_{band[0]}_{band[1]}"] = metrics
        return depth, sums | ({"scale": scale} if self.median else {})

    def metrics(self, sums: Mapping[str, Metrics]) -> dict[str, float]:
        """Return all metrics of the whole range, and those of the bands."""
        found: dict[str, float] = {}
        for part, one in sums.items():
            metrics = one.compute()
            names = BAND_METRICS if part.startswith("_") else tuple(metrics)
            found |= {name + (part if part.startswith("_") else ""): metrics[name] for name in names}
        return found

    def details(self, set_name: str, samples: Sequence[DepthSample]) -> dict[str, Any]:
        """Return the protocol of a data set. Raises ValueError if there are several."""
        protocols = list(dict.fromkeys(sample.protocol for sample in samples)) or [DepthProtocol()]
        if len(protocols) > 1:
            raise ValueError(f"data set {set_name} has {len(protocols)} protocols: give each a set of its own")
        return {"protocol": vars(protocols[0])}

    def published(self, samples: Sequence[DepthSample]) -> Sequence[tuple[str, dict[str, float]]]:
        """Return the metrics that others published for this protocol."""
        alike = not self.median and self.aggregate == "per_image"
        return PUBLISHED.get(samples[0].protocol.name, ()) if alike else ()

    def summary(self, score: Score) -> dict[str, float]:
        """Return the metrics of a method; ``scale`` is a median, however images are aggregated."""
        scale = score.sums["scale"].compute() if self.median else {}
        return super().summary(score) | scale

    def colours(self, truth: np.ndarray, sample: DepthSample | None) -> Callable[[np.ndarray], np.ndarray]:
        """Colour by the range of true depth."""
        farthest = (sample.protocol if sample else DepthProtocol()).max_depth
        near, far = visualization.depth_range(truth[truth < farthest], (1.0, farthest))
        return lambda depth: colour_depth(visualization.visible(depth), near, far)

    def colour_error(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Colour the relative error."""
        return visualization.colour_relative_error(prediction, truth)

    def method_of(self, network: nn.Module) -> Callable[[np.ndarray, float], np.ndarray]:
        """Wrap a depth network."""
        return NetworkMono(network, "network").depth


@dataclass
class _MedianScale(Metrics):
    factors: list[float]
    pixels: int = 0

    def compute(self) -> dict[str, float]:
        return {"scale": float(np.median(self.factors))}


def against_stereo(samples: Iterable[DepthSample], estimator: StereoDepthEstimator) -> list[DepthSample]:
    """Take the stereo depth of the samples that have a pair for the truth, where all checks of it hold.

    For drives without truth. What the stereo method gets wrong, this calls right: say so next to the metrics.
    """
    return [
        replace(one, depth=partial(_stereo_depth, one.pair, estimator), protocol=replace(one.protocol, name=""))
        for one in samples
        if one.pair is not None
    ]


def _stereo_depth(pair: StereoSample, estimator: StereoDepthEstimator) -> np.ndarray:
    return estimator.estimate(*pair.images(), pair.require_rig()).depth


def _resized(depth: np.ndarray, truth: np.ndarray, sample: DepthSample) -> np.ndarray:
    """Bring depth to the truth's size, as inverse depth, which varies evenly over a plane."""
    if depth.shape == truth.shape:
        return depth
    (height, width), (h, w) = truth.shape, depth.shape
    if abs((width / height) / (w / h) - 1) > _SAME_SHAPE:
        raise FileError(
            f"{sample.name}: true depth is {width}x{height} pixels and the image {w}x{h}, of another shape: they do "
            "not show the same; bring them to one"
        )
    with np.errstate(divide="ignore"):
        return 1 / cv2.resize(1 / depth, (width, height), interpolation=cv2.INTER_LINEAR)


def _median_factor(depth: np.ndarray, truth: np.ndarray, protocol: DepthProtocol) -> float:
    counted = (truth > protocol.min_depth) & (truth < protocol.max_depth) & np.isfinite(depth)
    return float(np.median(truth[counted]) / np.median(depth[counted])) if counted.any() else 1.0
