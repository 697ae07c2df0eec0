"""``fg-depth demo``: real pairs, or a virtual world, through real topics, with the learned and a classical model.

Player, depth node and evaluator are separate processes that talk over DDS on this machine only. The two
models run one after the other, so that neither takes the processor from the other's latency.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fg_depth_ros.apps.experiment import ExperimentError, check_playing
from fg_depth_ros.apps.live_evaluation import PairsEvaluation, PairsResult
from fg_depth_ros.apps.processes import ChildDied, ChildTimeout, ProcessGroup, free_domain_id, interruptible
from fg_depth_ros.data.datasets.stereo import MOTORCYCLE, open_stereo
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import RigError, StereoRig
from fg_depth_ros.nodes.common.environment import child_environment
from fg_depth_ros.nodes.evaluator.pair_messages import Snapshot
from fg_depth_ros.nodes.players.source import NO_WORLD, WORLDS, CalibrationMissing, PairSource, write_drive

CLASSICAL = "sgbm"
ASSUMED_BASELINE = 0.1  # m, for pairs without calibration; the output names it
WORLD_FRAMES = 12  # of a virtual world; played again and again
WARM_UP_PAIRS = 3
# Measure -> heading, number format, unit (in the picture; the tables have a line about units).
_ACCURACY = {
    "epe": ("EPE", ".2f", " px"),
    "bad_1": ("bad-1", ".1f", " %"),
    "bad_2": ("bad-2", ".1f", " %"),
    "bad_4": ("bad-4", ".1f", " %"),
    "density": ("density", ".1f", " %"),
    "abs_rel": ("AbsRel", ".4f", ""),
}
_AGREEMENT = {
    "density": ("density", ".1f", " %"),
    "depth_density": ("depth", ".1f", " %"),
    "seen_by_both": ("seen by both", ".1f", " %"),
    "photometric": ("photometric", ".1f", " of 255"),
}
_SPEED = {
    "rate_hz": ("Hz", ".1f", ""),
    "arrival_p50_ms": ("latency", ".0f", " ms"),
    "arrival_p95_ms": ("95 %", ".0f", " ms"),
    "inference_p50_ms": ("model", ".0f", " ms"),
    "pairs_sent": ("sent", "d", ""),
    "pairs_delivered": ("arrived", "d", ""),
    "pairs_dropped": ("dropped", "d", ""),
    "pairs_unaccounted": ("unaccounted", "d", ""),
}
Columns = dict[str, tuple[str, str, str]]


@dataclass
class DemoInput:
    """The pairs to play, inspected before any process starts."""

    pairs: str
    name: str
    rig: StereoRig
    count: int
    truth: bool
    seconds: float
    rate: float
    parameters: dict[str, Any] = field(default_factory=dict)


def run_demo(
    model: str = "flownet_stereo", pairs: str = MOTORCYCLE, seconds: float = 8.0, rate: float = 3.0,
    out: str | Path = "fg_depth_demo.png", json: str | Path | None = None, *, weights: str = "", width: int = 0,
    world: str = "", side_by_side: bool = False, engine: str = "auto", precision: str = "auto",
    console: Console | None = None,
) -> int:  # fmt: skip
    """Run the demo and print what it measured.

    Args:
        model: shown in full, with ``weights`` (empty: those that come with the package); ``sgbm`` runs, too.
        pairs: a folder of stereo pairs, a bag or a video, or ``motorcycle`` for the pair that scikit-image ships.
        seconds, rate: each model is fed for so long, with so many pairs per second.
        out, json: where picture (PNG) and report go; no report where ``json`` is None.
        width: resize the images to this width; 0 keeps them.
        side_by_side: each image or video of ``pairs`` has the left view in its left half.
        engine, precision: of the network, as the node's parameters.
        world: play a drive through a virtual world, ``street`` or ``indoor``, instead of ``pairs``; with true depth.

    Returns:
        The exit code: 0; 1 when something failed, which has then been printed; 130 after Ctrl-C. No process and no
        shared memory is left in any case.
    """
    console = console or Console(markup=False, emoji=False)
    folder = Path(tempfile.mkdtemp(prefix="fg_depth_demo_"))
    keep_logs = False
    try:
        with interruptible():
            check_options(seconds, rate, width, world, pairs)
            if world:
                pairs = render_world(folder / f"virtual_{world}", world, width, console)
            chosen = inspect_pairs(pairs, seconds, rate, width, console, side_by_side)
            domain = free_domain_id()
            console.print(
                f"three processes over DDS on this machine only, ROS_DOMAIN_ID={domain}; logs in {folder}",
                style="dim",
                soft_wrap=True,
            )
            runs: list[PairsResult] = []
            snapshots: dict[str, Snapshot] = {}
            for name in dict.fromkeys([model, CLASSICAL]):
                shown = snapshots[model].name if model in snapshots else ""
                with ProcessGroup(folder / name, child_environment(domain_id=domain)) as group:
                    depth = {
                        "depth_weights": weights if name == model else "",
                        "engine": engine,
                        "precision": precision,
                    }
                    runs.append(_run_model(group, name, depth, chosen, shown, console))
                try:
                    snapshots[name] = Snapshot.read(runs[-1].snapshot)
                except (OSError, ValueError) as error:
                    console.print(f"no picture of {name}: {error}", style="yellow")
            report = _merged(runs, chosen)
            _print(report, chosen, console)
            if json is not None:
                report.write_json(json)
                console.print(f"report: {Path(json).resolve()}", soft_wrap=True)
            picture = _draw(Path(out), snapshots, report, chosen)
            console.print(f"picture: {picture.resolve()}", soft_wrap=True)
            return 0
    except KeyboardInterrupt:
        console.print("\nstopped; all processes have ended")
        return 130
    except (ChildDied, ChildTimeout, ExperimentError, FileError, RigError, OSError, ValueError) as error:
        keep_logs = True
        console.print(f"demo failed: {error}", style="red", soft_wrap=True)
        return 1
    finally:
        for rendered in folder.glob("virtual_*"):
            shutil.rmtree(rendered, ignore_errors=True)
        if not keep_logs or not any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def _run_model(
    group: ProcessGroup, model: str, depth: dict[str, str], chosen: DemoInput, shown: str, console: Console
) -> PairsResult:
    """Run one model with these parameters of the depth node.

    ``shown`` names the pair for the picture (the one that the model before it showed).
    """
    count = max(3, round(chosen.seconds * chosen.rate)) + WARM_UP_PAIRS
    evaluation = PairsEvaluation(
        model, count, chosen.rate, chosen.pairs, chosen.name, WARM_UP_PAIRS, chosen.truth, snapshot=True,
        snapshot_pair=shown, depth=depth, player=chosen.parameters,
        compile_for=chosen.rig,
    )  # fmt: skip
    with live_line(console, f"{model}: starting") as show:
        result = evaluation.run(group, lambda text: show(f"{model}: {text}"))
    console.print(f"{model}: {result.last_status}", style="green")
    return result


def _merged(runs: list[PairsResult], chosen: DemoInput) -> Report:
    """Make one report of all runs, with accuracy on the pairs that got depth from every model."""
    first = runs[0].report
    report = Report(
        command="demo",
        model=first.model,
        settings={
            **first.settings, "input": chosen.pairs, "size": f"{chosen.rig.width}x{chosen.rig.height}",
            "rate_hz": chosen.rate, "seconds": chosen.seconds,
        },
    )  # fmt: skip
    common = set.intersection(*(run.scores.names for run in runs))
    for run in runs:
        for method, metrics in run.scores.methods(run.model, common).items():
            report.add_row(chosen.name, method, metrics, kind="accuracy", pairs=len(common), of_pairs=chosen.count)
    report.rows.extend(run.timing for run in runs)
    return report


def _rows(report: Report, kind: str) -> list[dict[str, Any]]:
    return [row for row in report.rows if row["kind"] == kind]


def _print(report: Report, chosen: DemoInput, console: Console) -> None:
    accuracy, timing = _rows(report, "accuracy"), _rows(report, "timing")
    if not accuracy:
        raise ExperimentError(
            "no pair got depth from every model, so there is nothing to compare: give it more seconds, or a lower rate"
        )
    pairs, count = accuracy[0]["pairs"], chosen.count
    if count > 1:
        console.print(f"compared on the {pairs} of {count} pairs that got depth from every model")
    if chosen.truth:
        console.print(_table("Accuracy", accuracy, _ACCURACY))
        console.print(
            "All pixels with truth; EPE in px, bad-1/2/4 and density in %; a pixel without prediction counts as wrong. "
            "masked: measured where the node publishes depth, density is the share of these pixels.\n",
            style="dim",
        )
    else:
        console.print(_table("Self-consistency (there is no truth to compare with)", accuracy, _AGREEMENT))
        console.print(
            "In % of the pixels; photometric: mean grey difference, of 255, between matched pixels.\n", style="dim"
        )
    console.print(_table("Speed", timing, _SPEED))
    console.print(
        "Milliseconds; latency: from the stamp to the arrival of depth/image_rect, median and 95 %; model: "
        "matching alone.\n",
        style="dim",
    )
    for row in timing:
        for reason, number in row.get("drops", {}).items():
            console.print(f"{row['method']}: {number} dropped, {reason}")


def _table(title: str, rows: list[dict[str, Any]], columns: Columns) -> Table:
    """Make a table that fits into 80 columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("method", no_wrap=True)
    for heading, *_ in columns.values():
        table.add_column(heading, justify="right")
    for row in rows:
        cells = (_number(row["metrics"].get(name), form) for name, (_, form, _) in columns.items())
        table.add_row(row["method"], *cells)
    return table


def _draw(out: Path, snapshots: dict[str, Snapshot], report: Report, chosen: DemoInput) -> Path:
    from fg_depth_ros.apps.demo_picture import draw_demo  # matplotlib takes a second to import

    if not snapshots:
        raise ExperimentError("no pair arrived with all outputs, so there is no picture; the table above holds")
    model, first = next(iter(snapshots.items()))
    # Side by side they must show the same pair; where one model was too slow for it, the first stands alone.
    snapshots = {method: shot for method, shot in snapshots.items() if shot.name == first.name}
    title = (
        f"{model} on {chosen.name} over ROS topics: focal length {first.rig.fx:.0f} px, baseline "
        f"{first.rig.baseline:.3f} m"
    )
    accuracy = _ACCURACY if chosen.truth else _AGREEMENT
    foot = _lines(_rows(report, "accuracy"), accuracy) + _lines(_rows(report, "timing"), _SPEED)
    return draw_demo(out, snapshots, foot, title=title)


def _lines(rows: list[dict[str, Any]], columns: Columns) -> list[str]:
    """Return rows as lines of text, for below the picture."""
    lines = []
    for row in rows:
        found = ((row["metrics"].get(name), *column) for name, column in columns.items())
        figures = (f"{heading} {_number(value, form)}{unit}" for value, heading, form, unit in found)
        lines.append(f"{row['method']:<24}{'   '.join(figures)}")
    return lines


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


# ---- the input ----------------------------------------------------------------------------------------------------


def check_options(seconds: float, rate: float, width: int, world: str, pairs: str) -> None:
    """Raise ValueError, with the remedy, for options that make no sense."""
    check_playing(rate, seconds)
    if not 0 <= width <= 16384:
        raise ValueError(f"width = {width} px: give a width from 0 to 16384")
    worlds = [name for name in WORLDS if name != NO_WORLD]
    if world and world not in worlds:
        raise ValueError(f"there is no virtual world '{world}': choose one of {', '.join(worlds)}")
    if world and pairs != MOTORCYCLE:
        raise ValueError(f"world '{world}' and pairs '{pairs}' are two things to play: leave one of them out")


def render_world(folder: Path, world: str, width: int, console: Console) -> str:
    """Render a drive through a virtual world into a folder of pairs; return the folder."""
    with live_line(console, "rendering the virtual world") as show:

        def track(numbers: Iterable[int]) -> Iterator[int]:
            for number in numbers:
                show(f"rendering the virtual world: {number} of {WORLD_FRAMES} frames")
                yield number

        write_drive(folder, world, width=width, frames=WORLD_FRAMES, track=track)
    return str(folder)


def inspect_pairs(
    pairs: str, seconds: float, rate: float, width: int, console: Console, side_by_side: bool = False
) -> DemoInput:
    """Inspect the pairs before any process starts. Raises FileError with the remedy."""
    try:
        source = PairSource(pairs, width=width, side_by_side=side_by_side)
        parameters: dict[str, Any] = {}
    except CalibrationMissing:
        left, _ = open_stereo(Path(pairs).expanduser(), side_by_side=side_by_side)[0].raw_images()
        focal = float(left.shape[1])
        parameters = {"focal": focal, "baseline": ASSUMED_BASELINE}
        source = PairSource(pairs, width=width, side_by_side=side_by_side, **parameters)
        console.print(
            f"no calibration found next to the pairs: metres are guesses (focal length {focal:g} px, baseline "
            f"{ASSUMED_BASELINE} m). Put a calib.txt or rig.json into {pairs} for real ones.",
            style="yellow",
        )
    name = source.samples[0].name if len(source) == 1 else Path(pairs).expanduser().resolve().name
    rig = _first_readable(source).rig
    truth = source.has_truth
    console.print(
        f"{name}: {len(source)} pair(s), {rig.width}x{rig.height} px, focal length {rig.fx:.1f} px, "
        f"baseline {rig.baseline:.4f} m, {'with' if truth else 'without'} true depth",
        soft_wrap=True,
    )
    parameters |= {"width": width, "side_by_side": side_by_side}
    return DemoInput(pairs, name, rig, len(source), truth, seconds, rate, parameters)


def _first_readable(source: PairSource) -> Any:
    error: Exception = FileError("no pair")
    for index in range(len(source)):
        try:
            return source.load(index)
        except (FileError, RigError) as found:
            error = found
    raise error


@contextlib.contextmanager
def live_line(console: Console, first: str) -> Iterator[Callable[[str], None]]:
    """Show a line that changes, on a terminal only."""
    if not console.is_terminal:
        yield lambda text: None
        return
    with Live(Text(first), console=console, transient=True, refresh_per_second=8) as live:
        yield lambda text: live.update(Text(text))
