"""Commands that measure speed: ``fg-depth bench`` and ``bench-recording``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fg_depth_ros.cli.app import console, print_tables, save, say, show
from fg_depth_ros.cli.options import Device, Json, Model, Weights, check_least, image_size_of

_TABLES = {
    "speed": [
        "latency_p50_ms", "latency_p95_ms", "throughput_hz", "epe_float32", "abs_rel_float32", "compile_s",
        "compile_cached_s", "energy_j", "memory_mib", "device_memory_mib",
    ],
    "node": [
        "pairs_sent", "pairs_delivered", "pairs_unaccounted", "published_p50_ms", "inference_p50_ms", "overhead_p50_ms",
    ],
}  # fmt: skip
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


def bench(
    model: Annotated[list[str], typer.Option(help="Model for stereo, flow or mono; may be repeated.")] = [
        "flownet_stereo",
        "sgbm",
    ],
    size: Annotated[list[str], typer.Option(help="WIDTHxHEIGHT; may be repeated.")] = ["640x480"],
    engine: Annotated[list[str], typer.Option(help="Engine; may be repeated; all with all precisions.")] = ["auto"],
    precision: Annotated[list[str], typer.Option(help="Precision; may be repeated.")] = ["auto"],
    repeats: Annotated[int, typer.Option(help="Timed runs of each.")] = 20,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 = all cores.")] = 0,
    energy: Annotated[bool, typer.Option(help="Also joules per run, where RAPL's counters can be read.")] = False,
    node: Annotated[bool, typer.Option(help="Also measure the node over ROS topics, in each of these.")] = False,
    rate: Annotated[float, typer.Option(help="With --node: pairs per second.")] = 5.0,
    cameras: Annotated[int, typer.Option(help="With --node: nodes at the same time, each with a camera.")] = 1,
    weights: Weights = "",
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Measure latency, throughput, memory and accuracy of models, engines and precisions; with --node over DDS, too.

    Example: `fg-depth bench --engine torch --engine openvino --precision float32 --precision bfloat16`
    """
    from fg_depth_ros.apps.experiment import check_playing
    from fg_depth_ros.evaluation.bench import bench_models

    if node:
        check_playing(rate)
    check_least(1, repeats=repeats, cameras=cameras)
    check_least(0, threads=threads)
    sizes = [image_size_of(text) for text in size]
    report = bench_models(
        model,
        sizes,
        precision,
        repeats,
        engines=engine,
        weights=weights,
        device=device,
        threads=threads,
        energy=energy,
    )
    if node:
        from fg_depth_ros.apps.bench_node import bench_node
        from fg_depth_ros.inference import StereoConfig

        for row in [row for row in report.rows if row["model"] in StereoConfig.known_models()]:
            measured = bench_node(
                row["model"], image_size_of(row["set"]), rate, cameras=cameras,
                weights="" if row["model"] in StereoConfig.classical else weights, device=device,
                engine=row["engine"] or "auto", precision=row["precision"] or "auto", threads=threads,
            )  # fmt: skip
            report.rows += measured.rows
    print_tables(report, _TABLES)
    for reason in report.settings.get("left_out", []):
        say(f"left out: {reason}", "yellow")
    save(report, json)


def recording(
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the pairs.")] = "640x480",
    rate: Annotated[float, typer.Option(help="Pairs per second.")] = 30.0,
    seconds: Annotated[float, typer.Option(help="How long pairs are played.")] = 20.0,
    storage: Annotated[str, typer.Option(help="raw, zstd, png or jpeg.")] = "raw",
    depth: Annotated[bool, typer.Option(help="Run the depth node, too, and record its depth.")] = True,
    model: Model = "flownet_stereo",
    root: Annotated[Path | None, typer.Option(help="Folder on the disk to measure; default: a temporary one.")] = None,
    json: Json = None,
) -> None:
    """Measure the recording of played pairs: what is lost and why, CPU share of each node, MB/s, the queue.

    Exit code 1 when a pair went missing and nobody counted it.

    Example: `fg-depth bench-recording --rate 30 --storage jpeg`
    """
    from rich.table import Table
    from rich.text import Text

    from fg_depth_ros.apps.bench_recording import bench_recording

    if storage not in ("raw", "zstd", "png", "jpeg"):
        raise typer.BadParameter(f"storage '{storage}' is unknown: raw, zstd, png and jpeg are known")
    with console.status("starting") as status:
        report = bench_recording(
            image_size_of(size), rate, seconds, storage=storage, depth=depth, model=model, root=root,
            on_status=lambda text: status.update(Text(text)),
        )  # fmt: skip
    (row,) = report.rows
    table = Table("measure", title=f"recording {row['set']}, {row['method']}")
    table.add_column("", justify="right")
    for name, value in row["metrics"].items():
        table.add_row(_MEASURES[name], f"{value:.1f}" if isinstance(value, float) else str(value))
        if name == "pairs_dropped":
            for reason, count in row["drops"].items():
                table.add_row(f"  {reason}", str(count))
    show(table)
    save(report, json)
    raise typer.Exit(1 if row["metrics"]["pairs_unaccounted"] else 0)
