"""Console, tables, progress and estimators of all commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from fg_depth_ros.data.samples import StereoSample
    from fg_depth_ros.evaluation.reports.report import Report
    from fg_depth_ros.geometry import StereoRig
    from fg_depth_ros.inference import FlowEstimator, StereoDepthEstimator

_Sample = TypeVar("_Sample")
REFUSED = 3
"""Exit status where weights are not good enough; 2 is a mistake in the command line, 1 all else."""
_UNLIMITED = 10_000  # columns
console = Console(markup=False, emoji=False)  # names of files and bags are shown as they are


def say(text: str, style: str = "") -> None:
    """Print a line as it is: not wrapped, and without rich's markup and highlights."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def stereo_estimator(
    model: str, weights: str = "", device: str = "auto", engine: str = "auto", precision: str = "auto", **options: Any
) -> StereoDepthEstimator:
    """Build an estimator with these settings. Raises as ``StereoConfig`` and ``StereoDepthEstimator`` do."""
    from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator

    return StereoDepthEstimator(
        StereoConfig(model=model, weights=weights, device=device, engine=engine, precision=precision, **options)
    )


def flow_estimator(
    model: str, weights: str, device: str, engine: str, precision: str, scale: float, variational: bool = False
) -> FlowEstimator:
    """Build a flow estimator; without a model it is that of the weights, or the default. Raises as ``FlowConfig``."""
    from fg_depth_ros.inference import FlowConfig, FlowEstimator

    model = model or ("" if weights else FlowConfig.model)
    refinement = "variational" if variational else "auto"
    return FlowEstimator(FlowConfig(model, weights, device, precision, scale, engine, refinement))


def identity(estimator: Any) -> dict[str, str | None]:
    """Return what a report says of the model of an estimator: name, hash, device, engine, precision."""
    return {
        "name": estimator.model_name, "sha256": estimator.model_sha256 or None, "device": estimator.device,
        "engine": estimator.engine or None, "precision": estimator.precision or None,
    }  # fmt: skip


def say_engine_failures(*estimators: Any) -> None:
    """Print why PyTorch runs instead of the engine that was wanted, and what is not kept for the next start."""
    found = [
        f"{estimator.model_name}: {problem}"
        for estimator in estimators if (runner := estimator.runner) is not None
        for problem in (runner.failure, runner.cache_problem) if problem is not None
    ]  # fmt: skip
    for line in dict.fromkeys(found):
        say(line, "yellow")


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless it is one."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def save(report: Report, json: Path | None) -> None:
    """Write the report where ``--json`` wants it."""
    if json is not None:
        report.write_json(json)
        say(f"report: {json}")


def print_tables(report: Report, tables: Mapping[str, Sequence[str]]) -> None:
    """Print the rows of each kind with those of its measures that occur; ``tables``: measures by kind."""
    for kind, measures in tables.items():
        rows = [row for row in report.rows if row["kind"] == kind]
        if rows:
            shown = [name for name in measures if any(name in row["metrics"] for row in rows)]
            print_table(replace(report, rows=rows), shown, f"{report.command}: {kind}")


def print_table(report: Report, measures: Sequence[str], title: str | None = None) -> None:
    """Print a table of measures."""
    show(report.table(list(measures), title=title))


def show(table: Table) -> None:
    """Print a table so that nothing in it is broken: a row per line, or in a narrower terminal as a paragraph."""
    width = Measurement.get(console, console.options.update(width=_UNLIMITED), table).maximum
    if width <= console.width:
        console.print(table)
    elif not console.is_terminal:
        Console(width=width, markup=False, emoji=False).print(table)
    else:
        _show_paragraphs(table)


def _show_paragraphs(table: Table) -> None:
    if table.title:
        console.print(table.title, style="bold")
    before: list[Any] = []
    for row in zip(*(column.cells for column in table.columns), strict=True):
        cells = [cell or (before[i] if before and i == 0 else "") for i, cell in enumerate(row)]
        words = [
            Text.assemble((f"{column.header} ", "dim"), cell) if column.justify == "right" else Text(str(cell), "bold")
            for column, cell in zip(table.columns, cells, strict=True)
            if str(cell) not in ("", "-")
        ]
        console.print(Text(", ").join(words))
        before = cells


def progress(items: Iterable[Any], title: str, count: int | None = None) -> Iterable[Any]:
    """Show on the error output how far a loop over ``items`` is."""
    from rich.progress import track

    return track(items, escape(title), total=count, console=Console(stderr=True))


def track_progress(items: Iterable[Any], what: str, count: int) -> Iterable[Any]:
    """Show the progress of a loop that several processes share, in the first one alone (``progress.Track``)."""
    from fg_depth_ros.distributed import process_rank

    return items if process_rank()[0] else progress(items, what, count)


def chosen_frames(samples: Sequence[_Sample], frames: str, where: str | Path) -> Sequence[_Sample]:
    """Return the part of the samples that ``--frames`` names. Raises FileError, naming ``where``: none is left."""
    from fg_depth_ros.data.samples import frame_slice
    from fg_depth_ros.files import FileError

    chosen = samples[frame_slice(frames)]
    if frames and not chosen:
        raise FileError(f"{where}: --frames {frames} leaves none of its {len(samples)} frames")
    return chosen


def one_rig(samples: Sequence[StereoSample], where: Path, what: str) -> StereoRig:
    """Return the rig that all pairs have. Raises FileError, naming ``where``: none or several; ``what`` has one."""
    from fg_depth_ros.files import FileError

    rig, count = samples[0].rig, len({sample.rig for sample in samples})
    if rig is None or count > 1:
        problem = "has no calibration" if rig is None else f"has {count} calibrations"
        raise FileError(f"{where}: {problem}, and {what} has one: give a folder of one camera's pairs")
    return rig
