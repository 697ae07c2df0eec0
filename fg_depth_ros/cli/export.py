"""Commands about compiled networks: ``fg-depth compile`` for this machine, ``export`` for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fg_depth_ros.cli.app import counted, say, show
from fg_depth_ros.cli.options import (
    Device,
    Engine,
    MinDisparity,
    Precision,
    Weights,
    folder_to_write,
    image_size_of,
    min_disparity_of,
    scale_in_range,
)

_LARGEST_MEAN = 0.01  # px, or 1/m


def export(
    model: Annotated[str, typer.Argument(help="Network; default: the one that --weights belong to.")] = "",
    out: Annotated[Path, typer.Option(callback=folder_to_write, help="Folder for the files.")] = Path(
        "fg_depth_export"
    ),
    weights: Weights = "",
    format: Annotated[list[str], typer.Option(help="onnx or openvino; may be repeated; default: both.")] = [
        "onnx",
        "openvino",
    ],
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the images.")] = "640x480",
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Take images of any size; fastest at --size.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the files with PyTorch, on --pairs or the Motorcycle pair.")
    ] = False,
    pairs: Annotated[Path | None, typer.Option(help="Stereo pairs to compare on; implies --check.")] = None,
) -> None:
    """Write a network for other programs: ONNX, OpenVINO IR, and a description.

    With --check, exit code 1 when a file differs from PyTorch by more than 0.01 px (or 1/m) in the mean.

    Example: `fg-depth export flownet_stereo --size 640x480 --check`
    """
    from fg_depth_ros.data.datasets.stereo import motorcycle, open_stereo_folder
    from fg_depth_ros.inference.export import check_export, export_network

    if not model and not weights:
        raise typer.BadParameter("name a network, such as flownet_stereo, or give --weights")
    width, height = image_size_of(size)
    samples = []
    if check or pairs is not None:  # opened first: what is missing is found before the conversion
        samples = [motorcycle()] if pairs is None else open_stereo_folder(pairs)
        if dynamic and pairs is None:  # a second size
            samples.append(motorcycle().resized(width, height))
    done = export_network(model, out, weights=weights, formats=format, size=(width, height), dynamic=dynamic)
    for path in done.written:
        say(str(path))
    if not samples:
        return
    table = Table(title=f"difference from PyTorch over {counted(len(samples), 'pair')}")
    for head in ("file", "output"):
        table.add_column(head)
    for head in ("mean", "99 %", "largest"):
        table.add_column(head, justify="right")
    differences = check_export(done, (sample.images() for sample in samples))
    for each in differences:
        figures = (each.mean, each.percentile_99, each.largest)
        table.add_row(each.format, f"{each.output} {each.unit}", *(f"{value:.2g}" for value in figures))
    show(table)
    if not all(each.mean <= _LARGEST_MEAN for each in differences):
        raise typer.Exit(1)


def compile(
    model: Annotated[
        list[str] | None, typer.Argument(help="Networks.", show_default="of the weights, else the node's")
    ] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the camera's images.")] = "640x480",
    doffs: Annotated[float, typer.Option(help="cx of the right camera minus cx of the left one, px.")] = 0.0,
    scale: Annotated[
        float,
        typer.Option(callback=scale_in_range, help="The node's inference_scale; not of depth from one image."),
    ] = 1.0,
    min_disparity: MinDisparity = "auto",
    weights: Weights = "",
    engine: Engine = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Compile networks for a camera ahead of the first start, so that even the first pairs run on the engine.

    The result is kept (docs/engines.md). Without this the node compiles at the first pair, with PyTorch meanwhile.

    Example: `fg-depth compile --size 1280x720`
    """
    from fg_depth_ros.inference import EngineError, FlowConfig, MonoConfig, StereoConfig, open_estimator
    from fg_depth_ros.networks import STEREO_MODELS, load_checkpoint

    width, height = image_size_of(size)
    of_node = [config().model for config in (StereoConfig, FlowConfig, MonoConfig)]
    for name in model or ([load_checkpoint(Path(weights))[1].name] if weights else of_node):
        options: dict[str, Any] = {"weights": weights, "engine": engine, "precision": precision, "device": device}
        if name not in MonoConfig.known_models():
            options["inference_scale"] = scale
        if name in STEREO_MODELS:
            options["min_disparity"] = min_disparity_of(min_disparity)
        estimator = open_estimator(name, **options)
        estimator.warm_up(width, height, doffs)
        what = " ".join(filter(None, (estimator.model_name, estimator.engine, estimator.precision, size)))
        runner = estimator.runner
        if problem := runner and (runner.failure or runner.cache_problem):
            raise EngineError(f"{name} for {size}: {problem}")
        if runner is None or runner.compile_seconds is None:
            say(f"{what}: nothing to compile")
        else:
            seconds, kept = runner.compile_seconds
            say(f"{what}: {'kept from before, loaded' if kept else 'compiled'} in {seconds:.1f} s")
