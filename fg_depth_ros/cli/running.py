"""``fg-depth demo``, ``bench`` and ``doctor``: the package at work on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from fg_depth_ros.cli.app import Device, Json, Model, Weights, app, console, image_size_of, save

_BENCH_TABLES = {
    "speed": ["latency_p50_ms", "latency_p95_ms", "throughput_hz", "memory_mib", "device_memory_mib"],
    "node": [
        "pairs_sent",
        "pairs_delivered",
        "pairs_unaccounted",
        "published_p50_ms",
        "inference_p50_ms",
        "overhead_p50_ms",
    ],
}


@app.command()
def demo(
    model: Model = "flownet_stereo",
    pairs: Annotated[str, typer.Option(help="Folder of your own pairs; default: the Motorcycle pair.")] = "motorcycle",
    seconds: Annotated[float, typer.Option(help="How long each model runs.")] = 8.0,
    rate: Annotated[float, typer.Option(help="Pairs per second.")] = 3.0,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("fg_depth_demo.png"),
    width: Annotated[int, typer.Option(help="Resize the pairs to this width; 0 = as they are.")] = 0,
    world: Annotated[str, typer.Option(help="Play a virtual world with true depth instead: street or indoor.")] = "",
    weights: Weights = "",
    json: Json = None,
) -> None:
    """Play a real pair, or a virtual world, into the node over ROS topics, and judge the depth that comes out."""
    from fg_depth_ros.apps.demo import run_demo

    code = run_demo(model, pairs, seconds, rate, out, json, weights=weights, width=width, world=world, console=console)
    raise typer.Exit(code)


@app.command()
def bench(
    model: Annotated[list[str], typer.Option(help="Model for stereo, flow or mono; may be repeated.")] = [
        "flownet_stereo",
        "sgbm",
    ],
    size: Annotated[list[str], typer.Option(help="WIDTHxHEIGHT; may be repeated.")] = ["640x480"],
    precision: Annotated[list[str], typer.Option(help="Precision; may be repeated.")] = ["float32"],
    repeats: Annotated[int, typer.Option(help="Timed runs of each.")] = 20,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 = all cores.")] = 0,
    node: Annotated[bool, typer.Option(help="Also measure the node over ROS topics.")] = False,
    weights: Weights = "",
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Latency, throughput and memory of models; with --node the overhead of the node over DDS."""
    from fg_depth_ros.evaluation.bench import bench_models

    sizes = [image_size_of(text) for text in size]
    report = bench_models(model, sizes, precision, repeats, weights=weights, device=device, threads=threads)
    if node:
        from fg_depth_ros.apps.bench_node import bench_node
        from fg_depth_ros.inference import known_models

        for name in (each for each in model if each in known_models()):
            for one in sizes:
                measured = bench_node(name, one, weights=weights if name != "sgbm" else "", device=device)
                report.rows += measured.rows
    for kind, columns in _BENCH_TABLES.items():
        rows = [row for row in report.rows if row["kind"] == kind]
        if rows:
            shown = dataclasses.replace(report, rows=rows)
            console.print(shown.table([c for c in columns if c in rows[0]["metrics"]], title=f"bench: {kind}"))
    save(report, json)


@app.command()
def doctor() -> None:
    """Check this machine: versions, device, weights, ROS, the transport for large images."""
    from fg_depth_ros.evaluation.reports.report import software_versions
    from fg_depth_ros.inference import EstimatorConfig, FlowConfig, MonoConfig
    from fg_depth_ros.inference.running import choose_device
    from fg_depth_ros.networks import CheckpointError, load_model

    for name, version in software_versions().items():
        console.print(f"{name:28} {version}", highlight=False)
    healthy = True
    for name in (EstimatorConfig().model, FlowConfig().model, MonoConfig().model):
        try:
            card = load_model(name)[1]
            console.print(f"{'weights':28} {name} {card.sha256[:12]}", highlight=False)
        except CheckpointError as error:
            healthy = False
            console.print(f"[red]weights: {error}[/]")
    console.print(f"{'device':28} {choose_device('auto')}", highlight=False)
    try:
        from fg_depth_ros.nodes.common.environment import describe_environment

        for name, value in describe_environment().items():
            console.print(f"{name:28} {value}", highlight=False)
    except ImportError as error:
        healthy = False
        console.print(f"[red]ROS: {error}; source a ROS installation, or install the extra 'ros'[/]")
    raise typer.Exit(0 if healthy else 1)
