"""Evaluation of flow methods on data sets with true flow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from torch import nn

from fg_depth_ros.data.io.formats import FileError, write_image
from fg_depth_ros.data.samples import FlowSample
from fg_depth_ros.evaluation.flow_metrics import FlowTally
from fg_depth_ros.evaluation.reports import figures
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.evaluation.stereo import progress_bars
from fg_depth_ros.geometry.flow_colour import colour_flow
from fg_depth_ros.inference import NetworkFlow

_SHEET_TILE_WIDTH = 400
_WATCHED = ("epe", "fl_all")


class _HasFlow(Protocol):
    @property
    def flow(self) -> np.ndarray: ...


class _Estimator(Protocol):
    def estimate(self, first: np.ndarray, second: np.ndarray) -> _HasFlow: ...


Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]
FlowMethod = _Estimator | Flow
"""An object with ``estimate(first, second)`` whose result has ``.flow`` (a FlowEstimator), or a function (first,
second) -> flow; uint8 RGB H x W x 3 in, H x W x 2 px out, NaN = no answer."""


@dataclass
class _Score:
    tally: FlowTally = field(default_factory=FlowTally)
    seconds: float = 0.0
    warm: bool = False


def evaluate_flow(
    datasets: Mapping[str, Sequence[FlowSample]],
    methods: Mapping[str, FlowMethod],
    *,
    model: Mapping[str, Any] | None = None,
    command: str = "evaluate flow",
    sheets: str | Path | None = None,
    sheet_pairs: int = 12,
    console: Console | None = None,
    show_progress: bool = True,
) -> Report:
    """Judges every method on every data set: all pixels with truth, no answer counts as wrong, all pixels of a set
    count alike.

    Args:
        datasets: samples by the name of their set; those without truth are skipped.
        methods: by the name of their line.
        model: name and hash for the report.
        command: for the report.
        sheets: a folder that gets one picture per data set: first frame, true flow, every method's answer in the same
            colours, and the error of the first method.
        sheet_pairs: as many pairs stand on it, the first ones.
        console: where the progress is shown.
        show_progress: or not at all.

    Returns:
        A report with the measures of ``FlowTally`` and ``seconds``, the mean time of one estimate (warmed up; reading
        is not in it).

    Raises:
        ValueError: no pair has truth, no method, or an answer of another size.
        FileError: what cannot be read.
    """
    if not methods:
        raise ValueError("no method to evaluate: give at least one")
    report = Report(
        command=command,
        model=dict(model or {}),
        settings={"pixels": "all with truth", "no_answer": "wrong", "aggregate": "pooled"},
    )
    with progress_bars(console, show_progress) as progress:
        for set_name, samples in datasets.items():
            task = progress.add_task(set_name, total=len(samples))
            scores = {name: _Score() for name in methods}
            rows: list[list[np.ndarray]] = []
            captions: list[str] = []
            pairs = 0
            for sample in samples:
                truth = sample.truth()
                if truth is not None:
                    pairs += 1
                    first, answers = _judge(sample, truth, methods, scores)
                    if sheets is not None and len(rows) < sheet_pairs:
                        rows.append(_tiles(first, truth, answers))
                        captions.append(sample.name)
                progress.advance(task)
            if pairs == 0:
                continue
            for name, score in scores.items():
                metrics = score.tally.metrics() | {"seconds": score.seconds / pairs}
                report.add_row(set_name, name, metrics, images=pairs, pixels=score.tally.pixels)
            if sheets is not None:
                path = Path(sheets) / f"{set_name.replace('/', '_')}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                titles = _titles(list(methods))
                write_image(path, figures.contact_sheet(rows, titles, captions, tile_width=_SHEET_TILE_WIDTH))
    if not report.rows:
        names = ", ".join(datasets) or "none given"
        raise ValueError(f"no pair with true flow in the data sets ({names}): nothing to evaluate against")
    return report


def watch_flow(datasets: Mapping[str, Sequence[FlowSample]]) -> Callable[[nn.Module], dict[str, float]]:
    """A function that judges a flow network while it is trained: "set/measure" -> figure (EPE px, Fl-all %).

    The network is used as it is, on its device. Raises FileError, before any hours are spent, where a data set has no
    pair with truth.
    """
    for name, samples in datasets.items():
        if all(not sample.has_truth for sample in samples):
            raise FileError(f"data set {name} has no true flow to watch a training by")

    def judge(network: nn.Module) -> dict[str, float]:
        report = evaluate_flow(datasets, {"network": NetworkFlow(network, "network").flow}, show_progress=False)
        return {f"{row['set']}/{name}": row["metrics"][name] for row in report.rows for name in _WATCHED}

    return judge


def draw_flow(first: np.ndarray, truth: np.ndarray, answer: np.ndarray, method: str = "answer") -> np.ndarray:
    """One pair as a picture: first frame, true flow, answer in the same colours, error.

    Args:
        first: H x W x 3 uint8 RGB.
        truth: H x W x 2 px, NaN = unknown.
        answer: H x W x 2 px.
        method: title of the answer.

    Returns:
        uint8 RGB; four tiles of 400 px width beside each other.
    """
    tiles = _tiles(first, truth, {method: answer})
    return figures.contact_sheet([tiles], _titles([method]), tile_width=_SHEET_TILE_WIDTH)


def _judge(
    sample: FlowSample, truth: np.ndarray, methods: Mapping[str, FlowMethod], scores: Mapping[str, _Score]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Adds one pair to all scores; returns the first frame and every method's flow."""
    first, second = sample.images()
    occluded = sample.occluded()
    answers = {}
    for name, method in methods.items():
        score = scores[name]
        if not score.warm:
            _timed(method, first, second)  # the first call loads and warms up: not counted
            score.warm = True
        flow, seconds = _timed(method, first, second)
        if flow.shape != truth.shape:
            raise ValueError(
                f"method '{name}' answered {flow.shape} for {sample.name}, whose flow is {truth.shape}: a method "
                "answers at the size of its input"
            )
        score.tally.add(flow, truth, occluded)
        score.seconds += seconds
        answers[name] = flow
    return first, answers


def _timed(method: Any, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    answer = method.estimate(first, second).flow if hasattr(method, "estimate") else method(first, second)
    return np.asarray(answer), time.perf_counter() - began


def _titles(methods: list[str]) -> list[str]:
    return ["first frame", "true flow", *methods, f"error of {methods[0]} (dark 0 px, bright 4 px and more)"]


def _tiles(first: np.ndarray, truth: np.ndarray, answers: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    length = np.linalg.norm(truth, axis=-1)
    longest = float(np.nanmax(length)) if np.isfinite(length).any() else 1.0
    error = np.linalg.norm(next(iter(answers.values())) - truth, axis=-1)
    pictures = [
        first,
        colour_flow(truth, longest),
        *(colour_flow(answer, longest) for answer in answers.values()),
        figures.colour_error(error, np.where(np.isfinite(length), 0.0, np.nan)),
    ]
    # Reduced at once, so that a large set's sheet never holds full images; truth may be sparse: no averaging.
    return [figures.resized(picture, _SHEET_TILE_WIDTH, smooth=index == 0) for index, picture in enumerate(pictures)]
