"""Evaluation of stereo methods on data sets with true disparity."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from fg_depth_ros.data.io.formats import FileError, write_image
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.metrics import DepthTally, StereoTally, mean_metrics
from fg_depth_ros.evaluation.reports import figures
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.geometry import disparity_to_depth
from fg_depth_ros.inference import NetworkMatcher

Aggregate = Literal["pooled", "per_image"]
_SHEET_TILE_WIDTH = 400


class _HasDisparity(Protocol):
    @property
    def disparity(self) -> np.ndarray: ...


class _Matcher(Protocol):
    def match(self, left: np.ndarray, right: np.ndarray) -> _HasDisparity: ...


Match = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class StereoMethod:
    """One line of the table: a matcher and what happens to its answer before it is judged."""

    matcher: _Matcher | Match
    """An object with `match(left, right)` whose result has `.disparity` (a StereoDepthEstimator), or a
    function (left, right) -> disparity; uint8 RGB HxWx3 in, HxW pixels out, NaN = no answer."""
    fill: Callable[[np.ndarray], np.ndarray] | None = None
    """What completes the answer: `geometry.fill_holes_kitti` for a method that leaves holes,
    `geometry.complete_occluded` for a dense one, as `StereoEstimate.disparity` does."""
    valid_only: bool = False
    """Judge answered pixels only; the row's method should say so."""


@dataclass
class _Score:
    disparity: StereoTally = field(default_factory=StereoTally)
    depth: DepthTally = field(default_factory=DepthTally)
    per_image: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def evaluate_stereo(
    datasets: Mapping[str, Sequence[StereoSample]],
    methods: Mapping[str, StereoMethod | _Matcher | Match],
    *,
    aggregate: Aggregate = "pooled",
    model: Mapping[str, Any] | None = None,
    command: str = "evaluate stereo",
    sheets: str | Path | None = None,
    sheet_pairs: int = 12,
    console: Console | None = None,
    show_progress: bool = True,
) -> Report:
    """Judges every method on every data set: all pixels with truth, no answer counts as wrong.

    `aggregate`: "pooled" counts all pixels of a data set alike, "per_image" takes the mean of each image's
    measures. `seconds` is the mean time of one match (warmed up; filling and reading not included); AbsRel
    (truth nearer than 80 m) stands where the set has a calibration. Methods that share one matcher object run
    it once per pair. `model`: name and hash for the report. `sheets`: a folder that gets one picture per data
    set (left image, truth, the first method's answer and its error; the first `sheet_pairs` pairs). Pairs
    without truth are skipped. Raises ValueError when no pair has truth, FileError for what cannot be read.
    """
    if aggregate not in ("pooled", "per_image"):
        raise ValueError(f"aggregate is {aggregate!r}: choose 'pooled' or 'per_image'")
    if not methods:
        raise ValueError("no method to evaluate: give at least one")
    lines = {name: m if isinstance(m, StereoMethod) else StereoMethod(m) for name, m in methods.items()}
    report = Report(
        command=command,
        model=dict(model or {}),
        settings={"pixels": "all with truth", "no_answer": "wrong", "aggregate": aggregate},
    )
    with progress_bars(console, show_progress) as progress:
        for set_name, samples in datasets.items():
            task = progress.add_task(set_name, total=len(samples))
            scores: dict[str, _Score] = {name: _Score() for name in lines}
            tiles: list[list[np.ndarray]] = []
            captions: list[str] = []
            pairs = 0
            for sample in samples:
                truth = sample.truth()
                if truth is not None:
                    pairs += 1
                    left, first = _judge(sample, truth, lines, scores)
                    if sheets is not None and len(tiles) < sheet_pairs:
                        tiles.append(_tiles(left, truth, first))
                        captions.append(sample.name)
                progress.advance(task)
            if pairs == 0:
                continue
            for name, score in scores.items():
                metrics = _metrics(score, aggregate)
                metrics["seconds"] = score.seconds / pairs
                report.add_row(set_name, name, metrics, images=pairs, pixels=score.disparity.pixels)
            if sheets is not None:
                _write_sheet(Path(sheets), set_name, next(iter(lines)), tiles, captions)
    if not report.rows:
        names = ", ".join(datasets) or "none given"
        raise ValueError(f"no pair with true disparity in the data sets ({names}): nothing to evaluate against")
    return report


def watch_stereo(datasets: Mapping[str, Sequence[StereoSample]]) -> Callable[[nn.Module], dict[str, float]]:
    """A function that judges a stereo network while it is trained: "set/measure" -> figure.

    The network is used as it is, on its device. Raises FileError, before any hours are spent, where a data set has
    no pair with truth.
    """
    for name, samples in datasets.items():
        if all(not sample.has_truth for sample in samples):
            raise FileError(f"data set {name} has no true disparity to watch a training by")

    def judge(network: nn.Module) -> dict[str, float]:
        report = evaluate_stereo(datasets, {"network": NetworkMatcher(network, "network")}, show_progress=False)
        return {f"{row['set']}/{m}": row["metrics"][m] for row in report.rows for m in ("epe", "bad_1", "bad_2", "d1")}

    return judge


def _judge(
    sample: StereoSample, truth: np.ndarray, lines: Mapping[str, StereoMethod], scores: Mapping[str, _Score]
) -> tuple[np.ndarray, np.ndarray]:
    """Adds one pair to all scores; returns the left image and the first method's disparity."""
    left, right = sample.images()
    raw: dict[int, tuple[np.ndarray, float]] = {}
    first: np.ndarray | None = None
    for name, line in lines.items():
        key = id(line.matcher)
        if key not in raw:
            if not scores[name].per_image:
                _timed_match(line.matcher, left, right)  # the first call loads and warms up: not counted
            raw[key] = _timed_match(line.matcher, left, right)
        disparity, seconds = raw[key]
        if disparity.shape != truth.shape:
            raise ValueError(
                f"method '{name}' answered {disparity.shape} for {sample.name}, whose size is {truth.shape}: "
                "a method answers at the size of its input"
            )
        if line.fill:
            disparity = line.fill(disparity)
        first = disparity if first is None else first
        score = scores[name]
        score.seconds += seconds
        tally = StereoTally()
        tally.add(disparity, truth, valid_only=line.valid_only)
        score.disparity += tally
        metrics = tally.metrics()
        if sample.rig is not None:
            depth = DepthTally()
            depth.add(disparity_to_depth(disparity, sample.rig), disparity_to_depth(truth, sample.rig))
            score.depth += depth
            metrics["abs_rel"] = depth.metrics()["abs_rel"]
        score.per_image.append(metrics)
    assert first is not None
    return left, first


def _timed_match(matcher: Any, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    answer = matcher.match(left, right).disparity if hasattr(matcher, "match") else matcher(left, right)
    return np.asarray(answer), time.perf_counter() - start


def _metrics(score: _Score, aggregate: Aggregate) -> dict[str, float]:
    if aggregate == "per_image":
        return mean_metrics(score.per_image)
    metrics = score.disparity.metrics()
    if score.depth.pixels:
        metrics["abs_rel"] = score.depth.metrics()["abs_rel"]
    return metrics


def progress_bars(console: Console | None, show: bool) -> Progress:
    """Progress with the time left; on the error output where no console is given."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        disable=not show,
    )


def _tiles(left: np.ndarray, truth: np.ndarray, answer: np.ndarray) -> list[np.ndarray]:
    largest = float(np.nanmax(truth)) if np.isfinite(truth).any() else 1.0
    pictures = [
        left,
        figures.colour_disparity(truth, largest),
        figures.colour_disparity(answer, largest),
        figures.colour_error(answer, truth),
    ]
    # Reduced at once, so that a large set's sheet never holds full images; truth may be sparse: no averaging.
    return [figures.resized(picture, _SHEET_TILE_WIDTH, smooth=index == 0) for index, picture in enumerate(pictures)]


def _write_sheet(folder: Path, set_name: str, method: str, tiles: list[list[np.ndarray]], captions: list[str]) -> None:
    titles = ["left image", "true disparity", method, "error (dark 0 px, bright 4 px and more)"]
    sheet = figures.contact_sheet(tiles, titles, captions, tile_width=_SHEET_TILE_WIDTH)
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / f"{set_name.replace('/', '_')}.png", sheet)
