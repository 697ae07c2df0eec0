"""Evaluation of depth methods on data sets with true depth, as Eigen et al. (NIPS 2014) and their successors do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from rich.console import Console
from torch import nn

from fg_depth_ros.data.io.formats import FileError, write_image
from fg_depth_ros.data.samples import DepthProtocol, DepthSample
from fg_depth_ros.evaluation.metrics import DepthTally, garg_mask, mean_metrics
from fg_depth_ros.evaluation.reports import figures
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.evaluation.stereo import Aggregate, progress_bars
from fg_depth_ros.geometry import StereoRig, disparity_to_depth
from fg_depth_ros.inference import StereoDepthEstimator
from fg_depth_ros.inference.mono import NetworkMono

BANDS = ((0, 10), (10, 20), (20, 40), (40, 80))
"""Distances that are judged apart, m of true depth, the farther end not included."""
BAND_MEASURES = ("abs_rel", "rmse")
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
_WATCHED = ("abs_rel", "rmse", "delta_1")
_SHEET_TILE_WIDTH = 400
_WORST_RELATIVE = 0.25  # error that is drawn brightest
_SAME_SHAPE = 0.02


class DepthView(NamedTuple):
    """What a method gets to see: ``image`` uint8 RGB H x W x 3, its focal length ``fx`` in px, and, where the sample is
    of a stereo pair and the method wants it, the ``right`` image and the ``rig``."""

    image: np.ndarray
    fx: float
    right: np.ndarray | None = None
    rig: StereoRig | None = None


class _HasDepth(Protocol):
    @property
    def depth(self) -> np.ndarray: ...


class _MonoEstimator(Protocol):
    def estimate(self, image: np.ndarray, fx: float) -> _HasDepth: ...


MonoMethod = _MonoEstimator | Callable[[np.ndarray, float], np.ndarray]
"""An object with ``estimate(image, fx)`` whose result has ``.depth`` (a MonoDepthEstimator), or a function (image, fx)
-> depth; uint8 RGB H x W x 3 and px in, H x W m out, NaN = no answer."""


@dataclass(frozen=True)
class PairMethod:
    """A stereo method beside the others, judged on the samples that have a pair.

    Every pixel of its disparity counts, completed where the right camera cannot see; none or negative disparity is
    infinitely far.
    """

    estimator: StereoDepthEstimator

    def __call__(self, view: DepthView) -> np.ndarray:
        """H x W m."""
        assert view.right is not None and view.rig is not None
        disparity = self.estimator.disparity(view.image, view.right)
        depth = disparity_to_depth(disparity, view.rig)
        return np.where(np.isfinite(disparity) & np.isnan(depth), np.float32(np.inf), depth)


@dataclass
class _Score:
    whole: DepthTally
    bands: list[DepthTally]
    per_image: list[dict[str, float]] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    seconds: float = 0.0


def evaluate_depth(
    datasets: Mapping[str, Sequence[DepthSample]],
    methods: Mapping[str, MonoMethod | PairMethod],
    *,
    median: bool = False,
    aggregate: Aggregate = "per_image",
    model: Mapping[str, Any] | None = None,
    command: str = "evaluate depth",
    sheets: str | Path | None = None,
    sheet_images: int = 12,
    console: Console | None = None,
    show_progress: bool = True,
) -> Report:
    """Judges every method on every data set, by the set's own protocol (crop and range of depth).

    Answers are brought to the size of the truth as inverse depth, then clamped to the range.

    Args:
        datasets: samples by the name of their set; those without truth are skipped.
        methods: by the name of their line. A stereo method is judged on the samples that have a pair.
        median: multiply every answer by median(truth) / median(answer) of its image first, as is done for networks that
            know no scale; ``scale`` in the report is the median of these factors.
        aggregate: "per_image" takes the mean of each image's measures, as Eigen's protocol does; "pooled" counts all
            pixels of a data set alike.
        model: name and hash for the report.
        command: for the report.
        sheets: a folder that gets one picture per data set: image, truth, every method's answer in the same colours,
            and the relative error of the first method.
        sheet_images: as many images stand on it, the first ones.
        console: where the progress is shown.
        show_progress: or not at all.

    Returns:
        A report with the measures of ``DepthTally``, ``abs_rel`` and ``rmse`` of every band of distance, and
        ``seconds``, the mean time of one estimate (warmed up; reading is not in it). Below a set of a published
        protocol stand the rows of others, with ``published`` True.

    Raises:
        ValueError: no sample has truth, no method, an unknown aggregate, samples of one set judged differently, or an
            answer of another size than its image.
        FileError: what cannot be read; truth of another shape than its image.
    """
    if not methods:
        raise ValueError("no method to evaluate: give at least one")
    if aggregate not in ("pooled", "per_image"):
        raise ValueError(f"aggregate is {aggregate!r}: choose 'pooled' or 'per_image'")
    settings = {"no_answer": "wrong", "aggregate": aggregate, "median_scaling": median}
    report = Report(command=command, model=dict(model or {}), settings=settings)
    with progress_bars(console, show_progress) as progress:
        for set_name, samples in datasets.items():
            task = progress.add_task(set_name, total=len(samples))
            protocol = _protocol_of(set_name, samples)
            scores = {name: _Score(_tally(protocol), [_tally(protocol) for _ in BANDS]) for name in methods}
            rows: list[list[np.ndarray]] = []
            captions: list[str] = []
            for sample in samples:
                truth = sample.truth()
                if truth is not None:
                    image, answers = _judge(sample, truth, methods, scores, median)
                    if sheets is not None and len(rows) < sheet_images:
                        rows.append(_tiles(image, truth, answers, list(methods), protocol))
                        captions.append(sample.name)
                progress.advance(task)
            judged = {name: score for name, score in scores.items() if score.per_image}
            for name, score in judged.items():
                images, pixels = len(score.per_image), score.whole.pixels
                metrics = _metrics(score, aggregate, median)
                report.add_row(set_name, name, metrics, images=images, pixels=pixels, protocol=vars(protocol))
            if judged and not median and aggregate == "per_image":
                for name, figures_of in PUBLISHED.get(protocol.name, ()):
                    report.add_row(set_name, name, figures_of, published=True)
            if judged and sheets is not None:
                _write_sheet(Path(sheets), set_name, list(methods), rows, captions)
    if not report.rows:
        names = ", ".join(datasets) or "none given"
        raise ValueError(
            f"no image with true depth (for stereo: and a pair) in the data sets ({names}): nothing to evaluate against"
        )
    return report


def watch_depth(datasets: Mapping[str, Sequence[DepthSample]]) -> Callable[[nn.Module], dict[str, float]]:
    """A function that judges a depth network while it is trained: "set/measure" -> figure (AbsRel, RMSE m, delta_1).

    The network is used as it is, on its device. Raises FileError, before any hours are spent, where a data set has no
    image with truth.
    """
    for name, samples in datasets.items():
        if all(not sample.has_truth for sample in samples):
            raise FileError(f"data set {name} has no true depth to watch a training by")

    def judge(network: nn.Module) -> dict[str, float]:
        report = evaluate_depth(datasets, {"network": NetworkMono(network, "network").depth}, show_progress=False)
        rows = [row for row in report.rows if not row.get("published")]
        return {f"{row['set']}/{name}": row["metrics"][name] for row in rows for name in _WATCHED}

    return judge


def against_stereo(samples: Iterable[DepthSample], estimator: StereoDepthEstimator) -> list[DepthSample]:
    """The samples that have a pair, with its stereo depth as if it were the truth, where all checks of it hold.

    For drives without truth. What the stereo method gets wrong, this calls right: say so beside the figures.
    """
    return [
        replace(sample, depth=_stereo_reader(sample, estimator), protocol=replace(sample.protocol, name=""))
        for sample in samples
        if sample.pair is not None
    ]


def _stereo_reader(sample: DepthSample, estimator: StereoDepthEstimator) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        assert sample.pair is not None and sample.pair.rig is not None
        return estimator.estimate(*sample.pair.images(), sample.pair.rig).depth

    return read


def _protocol_of(set_name: str, samples: Sequence[DepthSample]) -> DepthProtocol:
    protocols = list(dict.fromkeys(sample.protocol for sample in samples)) or [DepthProtocol()]
    if len(protocols) > 1:
        raise ValueError(f"data set {set_name} is judged by {len(protocols)} protocols: give each a set of its own")
    return protocols[0]


def _tally(protocol: DepthProtocol) -> DepthTally:
    return DepthTally(protocol.min_depth, protocol.max_depth)


def _judge(
    sample: DepthSample,
    truth: np.ndarray,
    methods: Mapping[str, MonoMethod | PairMethod],
    scores: Mapping[str, _Score],
    median: bool,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Adds one image to all scores; returns it, and every answer at the size of the truth."""
    pair, view = sample.pair, DepthView(sample.image_rgb(), sample.fx)
    if pair is not None and any(isinstance(method, PairMethod) for method in methods.values()):
        view = view._replace(right=pair.images()[1], rig=pair.rig)
    truth = np.where(_crop(sample.protocol, *truth.shape), truth, np.float32(np.nan))
    answers = {}
    for name, method in methods.items():
        if isinstance(method, PairMethod) and view.rig is None:
            continue
        score = scores[name]
        if not score.per_image:
            _timed(method, view)  # the first call loads and warms up: not counted
        depth, seconds = _timed(method, view)
        if depth.shape != view.image.shape[:2]:
            raise ValueError(
                f"method '{name}' answered {depth.shape} for {sample.name}, whose size is {view.image.shape[:2]}: a "
                "method answers at the size of its input"
            )
        depth = _fitted(depth, truth, sample)
        if median:
            factor = _median_factor(depth, truth, sample.protocol)
            depth = depth * np.float32(factor)
            score.factors.append(factor)
        _add(score, depth, truth, sample.protocol)
        score.seconds += seconds
        answers[name] = depth
    return view.image, answers


def _timed(method: Any, view: DepthView) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    if isinstance(method, PairMethod):
        answer = method(view)
    else:
        answer = method.estimate(*view[:2]).depth if hasattr(method, "estimate") else method(*view[:2])
    return np.asarray(answer, dtype=np.float32), time.perf_counter() - began


def _fitted(depth: np.ndarray, truth: np.ndarray, sample: DepthSample) -> np.ndarray:
    """Depth at the truth's size, resized as inverse depth, which varies evenly over a plane."""
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


def _crop(protocol: DepthProtocol, height: int, width: int) -> np.ndarray:
    """True (bool H x W) where the protocol judges."""
    if protocol.crop == "garg":
        return garg_mask(height, width)
    mask = np.ones((height, width), dtype=bool)
    if protocol.crop == "nyu":  # rows 45 - 470, columns 41 - 600 of 480 x 640
        mask[:] = False
        rows, columns = (45 * height // 480, 471 * height // 480), (41 * width // 640, 601 * width // 640)
        mask[slice(*rows), slice(*columns)] = True
    return mask


def _median_factor(depth: np.ndarray, truth: np.ndarray, protocol: DepthProtocol) -> float:
    judged = (truth > protocol.min_depth) & (truth < protocol.max_depth) & np.isfinite(depth)
    return float(np.median(truth[judged]) / np.median(depth[judged])) if judged.any() else 1.0


def _add(score: _Score, depth: np.ndarray, truth: np.ndarray, protocol: DepthProtocol) -> None:
    """Counts one image, whole and by bands of distance."""
    measures: dict[str, float] = {}
    parts = [(score.whole, "", truth)]
    for tally, (near, far) in zip(score.bands, BANDS, strict=True):
        band = np.where((truth >= near) & (truth < far), truth, np.float32(np.nan))
        parts.append((tally, f"_{near}_{far}", band))
    for tally, ending, part in parts:
        one = _tally(protocol)
        one.add(depth, part)
        tally += one
        measures |= _named(one, ending)
    score.per_image.append(measures)


def _named(tally: DepthTally, ending: str) -> dict[str, float]:
    metrics = tally.metrics()
    return {name + ending: metrics[name] for name in (BAND_MEASURES if ending else metrics)}


def _metrics(score: _Score, aggregate: Aggregate, median: bool) -> dict[str, float]:
    if aggregate == "per_image":
        metrics = mean_metrics(score.per_image)
    else:
        metrics = _named(score.whole, "")
        for tally, (near, far) in zip(score.bands, BANDS, strict=True):
            metrics |= _named(tally, f"_{near}_{far}")
    if median:
        metrics["scale"] = float(np.median(score.factors))
    return metrics | {"seconds": score.seconds / len(score.per_image)}


def _tiles(
    image: np.ndarray, truth: np.ndarray, answers: Mapping[str, np.ndarray], methods: list[str], protocol: DepthProtocol
) -> list[np.ndarray]:
    known = truth[np.isfinite(truth) & (truth < protocol.max_depth)]
    near, far = (float(d) for d in np.percentile(known, (2, 98))) if known.size else (1.0, protocol.max_depth)
    far = max(far, near * 1.01)
    blank = np.full_like(truth, np.nan)
    error = figures.visible(np.abs(answers.get(methods[0], blank) / truth - 1))
    pictures = [
        image,
        figures.colour_depth(figures.visible(truth), near, far),
        *(figures.colour_depth(answers.get(name, blank), near, far) for name in methods),
        figures.colour_error(error, np.where(np.isfinite(error), 0.0, np.nan), _WORST_RELATIVE),
    ]
    # Reduced at once, so that a large set's sheet never holds full images; truth may be sparse: no averaging.
    return [figures.resized(picture, _SHEET_TILE_WIDTH, smooth=index == 0) for index, picture in enumerate(pictures)]


def _write_sheet(
    folder: Path, set_name: str, methods: list[str], rows: list[list[np.ndarray]], captions: list[str]
) -> None:
    titles = ["image", "true depth", *methods, "error of the first (bright: 25 % or more)"]
    sheet = figures.contact_sheet(rows, titles, captions, tile_width=_SHEET_TILE_WIDTH)
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / f"{set_name.replace('/', '_')}.png", sheet)
