"""``fg-depth bench-recording``: what recording costs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fg_depth_ros.cli.app import Json, Model, app, console, image_size_of, save

_MEASURES = {
    "pairs_sent": "pairs sent",
    "pairs_formed": "pairs whose four messages came",
    "pairs_written": "pairs on the disk",
    "pairs_before_recording": "pairs before and after recording",
    "pairs_dropped": "pairs dropped",
    "pairs_unaccounted": "pairs unaccounted for",
    "depth_written": "depth images on the disk",
    "queue_mean": "queue, mean (pairs)",
    "queue_largest": "queue, largest (pairs)",
    "megabytes_per_s": "MB/s",
    "cpu_logger_percent": "CPU, logger (% of a core)",
    "cpu_depth_percent": "CPU, depth node (% of a core)",
    "cpu_player_percent": "CPU, player (% of a core)",
}


@app.command()
def bench_recording(
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the pairs.")] = "640x480",
    rate: Annotated[float, typer.Option(help="Pairs per second.")] = 30.0,
    seconds: Annotated[float, typer.Option(help="How long pairs are played.")] = 20.0,
    storage: Annotated[str, typer.Option(help="raw, zstd, png or jpeg.")] = "raw",
    depth: Annotated[bool, typer.Option(help="Run the depth node beside, and record its depth.")] = True,
    model: Model = "flownet_stereo",
    root: Annotated[Path | None, typer.Option(help="Folder on the disk to measure; default: a temporary one.")] = None,
    json: Json = None,
) -> None:
    """Record played pairs over ROS topics: what is lost and why, CPU share of each node, MB/s, the queue.

    Exit code 1 when a pair went missing and nobody counted it.
    """
    from fg_depth_ros.apps.bench_recording import bench_recording as measure

    if storage not in ("raw", "zstd", "png", "jpeg"):
        raise typer.BadParameter(f"storage '{storage}' is unknown: raw, zstd, png and jpeg are known")
    with console.status("starting") as status:
        report = measure(
            image_size_of(size), rate, seconds, storage=storage, depth=depth, model=model, root=root,
            tell=lambda text: status.update(text),
        )  # fmt: skip
    (row,) = report.rows
    table = Table("measure", title=f"recording {row['set']}, {row['method']}")
    table.add_column("", justify="right")
    for name, value in row["metrics"].items():
        table.add_row(_MEASURES[name], f"{value:.1f}" if isinstance(value, float) else str(value))
        if name == "pairs_dropped":
            for reason, count in row["drops"].items():
                table.add_row(f"  {reason}", str(count))
    console.print(table)
    save(report, json)
    raise typer.Exit(1 if row["metrics"]["pairs_unaccounted"] else 0)
