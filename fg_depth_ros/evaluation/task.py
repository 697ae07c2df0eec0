"""Evaluation of methods on data sets with ground truth, written once over a ``Task``.

A task (``StereoTask``, ``FlowTask``, ``DepthTask``) says how its data sets are opened, what a method gets to see, how
a prediction is compared with the truth, and how it is drawn. ``evaluate`` runs methods over data sets,
``Task.validation`` measures a network while it is trained.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from rich import progress as bars
from rich.console import Console
from torch import nn

from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.evaluation.metrics import Metrics, mean_metrics
from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.files import FileError

Aggregate = Literal["pooled", "per_image"]
_TILE_WIDTH = 400


@dataclass
class Score:
    """Accumulate the metrics of one method on one data set."""

    sums: dict[str, Metrics] = field(default_factory=dict)
    per_image: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    warm: tuple[Any, ...] = ()
    """Inputs that the method ran on last, by the shapes of their images; it is warmed up before others are timed."""

    def add(self, sums: Mapping[str, Metrics], metrics: dict[str, float], seconds: float) -> None:
        """Add the sums, the metrics and the time of one sample."""
        for part, one in sums.items():
            if part in self.sums:
                self.sums[part] += one
            else:
                self.sums[part] = one
        self.per_image.append(metrics)
        self.seconds += seconds


@dataclass(frozen=True)
class Task(ABC):
    """One problem: its data sets, truth, metrics and picture. Raises ValueError for an unknown ``aggregate``."""

    aggregate: Aggregate = "pooled"
    """``pooled``: all pixels of a data set count alike; ``per_image``: the mean of each image's metrics."""

    name: ClassVar[str]
    quantity: ClassVar[str]
    """Estimated quantity, such as "disparity"."""
    columns: ClassVar[tuple[str, ...]]
    """Table columns, in order."""
    validation_metrics: ClassVar[tuple[str, ...]]
    image_title: ClassVar[str] = "image"
    error_title: ClassVar[str] = "dark 0 px, bright 4 px and more"
    advice: ClassVar[str] = ""
    """For the error that no sample has truth."""
    open: ClassVar[Callable[..., dict[str, list[Any]]]]
    """Open data sets: (paths, **options) -> samples by the name of their set."""

    def __post_init__(self) -> None:
        if self.aggregate not in ("pooled", "per_image"):
            raise ValueError(f"aggregate is {self.aggregate!r}: choose 'pooled' or 'per_image'")

    # ---- one sample ------------------------------------------------------------------------------------------

    @abstractmethod
    def inputs(self, sample: Any, methods: Sequence[Any]) -> tuple[Any, ...]:
        """Read what ``estimate`` and ``compare`` need; first the image of the prediction, uint8 RGB H x W x 3."""

    def runner(self, method: Any, inputs: tuple[Any, ...]) -> Any:
        """Return what estimates; None: the method does not apply. Methods that share one run it once per sample."""
        return method

    @abstractmethod
    def estimate(self, runner: Any, inputs: tuple[Any, ...]) -> np.ndarray:
        """Run an estimator or a function."""

    @abstractmethod
    def compare(
        self, method: Any, prediction: np.ndarray, truth: np.ndarray, sample: Any, inputs: tuple[Any, ...]
    ) -> tuple[np.ndarray, dict[str, Metrics]]:
        """Compare; return the prediction as it was compared (filled, resized, scaled) and its sums, main part first."""

    def metrics(self, sums: Mapping[str, Metrics]) -> dict[str, float]:
        """Return the metrics of sums as ``compare`` returns them."""
        return next(iter(sums.values())).compute()

    # ---- a table ---------------------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the comparison, for a report."""
        return {"pixels": "all with truth", "no_answer": "wrong", "aggregate": self.aggregate}

    @property
    def notes(self) -> list[str]:
        """Notes on the table."""
        return []

    def details(self, set_name: str, samples: Sequence[Any]) -> dict[str, Any]:
        """Return the further fields of a data set's row. Raises ValueError: its samples do not fit together."""
        return {}

    def published(self, samples: Sequence[Any]) -> Sequence[tuple[str, dict[str, float]]]:
        """Return the metrics that others published for this protocol, by the name of their line."""
        return ()

    def summary(self, score: Score) -> dict[str, float]:
        """Return the metrics of a method over a data set."""
        metrics = mean_metrics(score.per_image) if self.aggregate == "per_image" else self.metrics(score.sums)
        return metrics | {"seconds": score.seconds / len(score.per_image)}

    # ---- a picture -------------------------------------------------------------------------------------------

    @abstractmethod
    def colours(self, truth: np.ndarray, sample: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that colours predictions and this truth alike."""

    @abstractmethod
    def colour_error(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Colour the error of a prediction, uint8 RGB."""

    def tiles(
        self, image: np.ndarray, truth: np.ndarray, predictions: Sequence[np.ndarray | None], sample: Any = None
    ) -> list[np.ndarray]:
        """Draw image, truth, predictions in the same colours and the error of the first one, 400 px wide each."""
        colour = self.colours(truth, sample)
        nothing = np.full_like(truth, np.nan)
        drawn = [nothing if prediction is None else prediction for prediction in predictions]
        pictures = [image, colour(truth), *map(colour, drawn), self.colour_error(drawn[0], truth)]
        # Truth may be sparse: no averaging.
        return [
            visualization.resized(picture, _TILE_WIDTH, smooth=index == 0) for index, picture in enumerate(pictures)
        ]

    def titles(self, methods: Sequence[str]) -> list[str]:
        """Return what stands above the tiles."""
        error = f"error of {methods[0]} ({self.error_title})"
        return [self.image_title, f"true {self.quantity}", *methods, error]

    def draw(
        self, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, method: str = "prediction"
    ) -> np.ndarray:
        """Draw image, truth, prediction and error of one sample (NaN: unknown) side by side, 400 px wide each."""
        tiles = self.tiles(image, truth, [prediction])
        return visualization.contact_sheet([tiles], self.titles([method]), tile_width=_TILE_WIDTH)

    # ---- training --------------------------------------------------------------------------------------------

    @abstractmethod
    def method_of(self, network: nn.Module) -> Any:
        """Wrap a network, as it is, on its device, as a method of this task."""

    def validation(self, datasets: Mapping[str, Sequence[Any]]) -> Callable[[nn.Module], dict[str, float]]:
        """Return a function that measures a network: "set/metric" -> figure. Raises FileError: a set without truth."""
        for name, samples in datasets.items():
            if not any(sample.has_truth for sample in samples):
                raise FileError(f"data set {name} has no true {self.quantity}: nothing to validate with")

        def validate(network: nn.Module) -> dict[str, float]:
            report = evaluate(self, datasets, {"network": self.method_of(network)}, show_progress=False)
            rows = [row for row in report.rows if not row.get("published")]
            return {f"{row['set']}/{name}": row["metrics"][name] for row in rows for name in self.validation_metrics}

        return validate


def evaluate(
    task: Task, datasets: Mapping[str, Sequence[Any]], methods: Mapping[str, Any], *,
    model: Mapping[str, Any] | None = None, sheets: str | Path | None = None, sheet_samples: int = 12,
    console: Console | None = None, show_progress: bool = True,
) -> Report:  # fmt: skip
    """Compare every method with the truth of every data set; a pixel without prediction counts as wrong.

    Args:
        task: the problem.
        datasets: samples by the name of their set; those without truth are left out.
        methods: estimators or functions as the task describes them, by the name of their line.
        model: name and hash for the report.
        sheets: a folder that gets one picture per data set, of its first ``sheet_samples`` samples: image, truth, every
            method's prediction in the same colours, and the error of the first method.
        console, show_progress: where the progress is shown (default: standard error), and whether.

    Returns one row per data set and method with the task's metrics and ``seconds``, the mean time of one estimate
    (warmed up; reading and completing are not in it), and below them the rows that others published for this protocol.

    Raises ValueError: no method, no sample with truth, or a prediction of another size than its image.
    """
    if not methods:
        raise ValueError("no method to evaluate: give at least one")
    report = Report(f"evaluate {task.name}", dict(model or {}), task.settings)
    with progress_bars(console, show_progress) as progress:
        for set_name, samples in datasets.items():
            bar = progress.add_task(set_name, total=len(samples))
            details = task.details(set_name, samples)
            scores = {name: Score() for name in methods}
            rows: list[list[np.ndarray]] = []
            captions: list[str] = []
            for sample in samples:
                truth = sample.truth()
                if truth is not None:
                    image, predictions = _evaluate_sample(task, sample, truth, methods, scores)
                    if sheets is not None and len(rows) < sheet_samples:
                        rows.append(task.tiles(image, truth, [predictions.get(name) for name in methods], sample))
                        captions.append(sample.name)
                progress.advance(bar)
            scores = {name: score for name, score in scores.items() if score.per_image}
            for name, score in scores.items():
                images, pixels = len(score.per_image), next(iter(score.sums.values())).pixels
                report.add_row(set_name, name, task.summary(score), images=images, pixels=pixels, **details)
            for name, metrics in task.published(samples) if scores else ():
                report.add_row(set_name, name, metrics, published=True)
            if scores and sheets is not None:
                sheet = visualization.contact_sheet(rows, task.titles(list(methods)), captions, tile_width=_TILE_WIDTH)
                write_image(Path(sheets) / f"{set_name.replace('/', '_')}.png", sheet)
    if not report.rows:
        names = ", ".join(datasets) or "none given"
        raise ValueError(
            f"no sample with true {task.quantity} that a method applies to in the data sets ({names}): nothing to "
            f"evaluate against{task.advice}"
        )
    return report


def _evaluate_sample(
    task: Task, sample: Any, truth: np.ndarray, methods: Mapping[str, Any], scores: Mapping[str, Score]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Add one sample to all scores; return its image and every method's prediction."""
    inputs = task.inputs(sample, list(methods.values()))
    image: np.ndarray = inputs[0]
    predictions: dict[str, np.ndarray] = {}
    kind = tuple(one.shape if isinstance(one, np.ndarray) else one for one in inputs)
    found: dict[int, tuple[np.ndarray, float]] = {}
    for name, method in methods.items():
        runner = task.runner(method, inputs)
        if runner is None:
            continue
        if id(runner) not in found:
            if scores[name].warm != kind:
                # Not counted: it may compile, load and warm up. Of what ran longer ago nothing may be left.
                task.estimate(runner, inputs)
                scores[name].warm = kind
            begin = time.perf_counter()
            found[id(runner)] = task.estimate(runner, inputs), time.perf_counter() - begin
        prediction, seconds = found[id(runner)]
        if prediction.shape[:2] != image.shape[:2]:
            raise ValueError(
                f"method '{name}' returned {prediction.shape} for {sample.name}, whose size is {image.shape[:2]}: a "
                "method returns the size of its input"
            )
        predictions[name], sums = task.compare(method, prediction, truth, sample, inputs)
        scores[name].add(sums, task.metrics(sums), seconds)
    return image, predictions


def progress_bars(console: Console | None, show: bool) -> bars.Progress:
    """Return progress bars with the time left; on standard error where no console is given."""
    return bars.Progress(
        bars.TextColumn("{task.description}", style="bold", markup=False), bars.BarColumn(), bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn(),
        console=console or Console(stderr=True), disable=not show,
    )  # fmt: skip
