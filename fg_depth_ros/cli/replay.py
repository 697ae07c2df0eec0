"""``fg-depth replay``: recorded bags through the node's estimators, judged offline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fg_depth_ros.cli.app import Device, Precision, app, check_folder, console
from fg_depth_ros.cli.bag import Left, LeftInfo, Right, RightInfo, Slop

if TYPE_CHECKING:
    from fg_depth_ros.data.samples import StereoSample
    from fg_depth_ros.evaluation.replay.methods import ReplayMethod

_COLUMNS = {
    "accuracy": [
        "epe", "d1", "density", "abs_rel", "rmse", "delta_1", "depth_density", "photometric", "left_right",
        "seen_by_both",
    ],
    "timing": ["inference_p50_ms", "inference_p95_ms", "throughput_hz"],
}  # fmt: skip
_TABLE_WIDTH = 150
_NONE = "none"


@app.command("replay")
def replay_command(
    bags: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")],
    weights: Annotated[
        list[Path], typer.Option(help="Weights file, of a stereo or a depth network; may be repeated.")
    ] = [],
    model: Annotated[
        list[str], typer.Option(help="Shipped weights to compare with; may be repeated; none: without.")
    ] = ["flownet_stereo", "depthnet_lite"],
    baseline: Annotated[list[str], typer.Option(help="Classical method beside them: sgbm.")] = [],
    mono: Annotated[bool, typer.Option(help="With networks that see one camera only.")] = True,
    every: Annotated[int, typer.Option(help="Take every n-th pair.")] = 1,
    first: Annotated[int, typer.Option(help="So many pairs of every bag at most; 0: all.")] = 0,
    left: Left = "",
    right: Right = "",
    left_info: LeftInfo = "",
    right_info: RightInfo = "",
    slop: Slop = 0.0,
    truth_topic: Annotated[
        str, typer.Option(help="Depth images to judge by; default: ground_truth/depth; none: without.")
    ] = "",
    lidar_topic: Annotated[
        str, typer.Option(help="PointCloud2 of a LiDAR to judge by; default: found by name; none: without.")
    ] = "",
    transform: Annotated[str, typer.Option(help="YAML file with the LiDAR's place, beside the bag's /tf_static.")] = "",
    lidar_slop: Annotated[float, typer.Option(help="Largest difference of the stamps of sweep and image, s.")] = 0.05,
    min_depth: Annotated[float, typer.Option(help="Nearer is out of range, m.")] = 0.1,
    max_depth: Annotated[float, typer.Option(help="Farther is out of range, m.")] = 80.0,
    worst: Annotated[int, typer.Option(help="Pictures of the worst pairs, for each method.")] = 6,
    timings: Annotated[
        bool, typer.Option(help="Measure times; without them, report.json is the same byte for byte.")
    ] = True,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Judge weights side by side on every pair of recorded bags, by true depth or LiDAR or by self-consistency.

    Started by torchrun, the processes share the bags; the first one writes.
    """
    from fg_depth_ros.evaluation.replay.replay import ReplayConfig, replay
    from fg_depth_ros.evaluation.reports.page import write_page

    config = ReplayConfig(
        bags=tuple(map(str, bags)),
        methods=_methods(weights, [*model, *baseline], mono),
        every=every,
        first=first,
        left=left,
        right=right,
        left_info=left_info,
        right_info=right_info,
        slop=slop,
        truth_topic=truth_topic,
        lidar_topic=lidar_topic,
        transform=transform,
        lidar_slop=lidar_slop,
        device=device,
        precision=precision,
        min_depth=min_depth,
        max_depth=max_depth,
        timings=timings,
        worst=worst,
    )
    check_folder(out)
    found = replay(config, _track)
    if not found.leads:
        return
    report = found.report
    report.write_json(out / "report.json")
    write_page(out / "report.html", report, pictures=found.worst, title="Replay of recorded pairs")
    wide = Console(width=max(console.width, _TABLE_WIDTH))  # long lines are better than numbers cut off
    for kind, columns in _COLUMNS.items():
        rows = [row for row in report.rows if row["kind"] == kind]
        shown = [name for name in columns if any(name in row["metrics"] for row in rows)]
        if rows:
            wide.print(changed(report, rows=rows).table(shown, title=kind))
    against = dict.fromkeys(row["against"] for row in report.rows if "against" in row)
    console.print(f"judged against: {', '.join(against)}", style="dim", soft_wrap=True)
    for entry in [*report.settings["left_out"], *report.settings["damaged"]]:
        console.print(f"left out: {entry['name']}: {entry['reason']}", style="yellow", markup=False, soft_wrap=True)
    console.print(f"report: {out / 'report.html'} and report.json", highlight=False, soft_wrap=True)


def _methods(weights: list[Path], names: list[str], mono: bool) -> tuple[ReplayMethod, ...]:
    from fg_depth_ros.evaluation.replay.methods import of_weights, shipped, unique

    found = [shipped(name) for name in names if name != _NONE] + [of_weights(path) for path in weights]
    chosen = tuple(method for method in unique(found) if mono or method.kind == "stereo")
    if not chosen:
        raise ValueError("nothing to replay with: name weights (--weights), shipped ones (--model) or --baseline sgbm")
    return chosen


def _track(items: Iterable[StereoSample], name: str, count: int) -> Iterable[StereoSample]:
    from rich.progress import track

    from fg_depth_ros.evaluation.replay.sharding import world

    if world()[0]:
        return items
    return track(items, name, total=count, console=Console(stderr=True))
