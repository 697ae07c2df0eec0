"""``fg-depth train``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from fg_depth_ros.cli.app import Photos, console, train_app


@train_app.command("stereo")
def train_stereo_command(
    out: Annotated[Path, typer.Option(help="Folder for weights, state and logs; a run found there goes on.")],
    photos: Photos = [],
    hours: Annotated[float, typer.Option(help="Length in hours of training time, kept over restarts.")] = 0.0,
    steps: Annotated[int, typer.Option(help="Length in steps; with --hours the earlier end counts.")] = 0,
    model: Annotated[str, typer.Option(help="Network to train.")] = "flownet_stereo",
    weights: Annotated[str, typer.Option(help="Weights to start from (name or file); default: fresh.")] = "",
    grow: Annotated[bool, typer.Option("--grow", help="The weights are of a smaller net of the kind.")] = False,
    width: int = 448,
    height: int = 224,
    batch: Annotated[int, typer.Option(help="Pairs per process and step, even.")] = 4,
    learning_rate: float = 1e-3,
    seed: int = 0,
    patterns: Annotated[int, typer.Option(help="Procedural textures beside the photos.")] = 160,
    precision: Annotated[str, typer.Option(help="32, bf16-mixed or 16-mixed.")] = "32",
    workers: Annotated[int, typer.Option(help="Rendering processes (CPU); a GPU renders by itself.")] = 1,
    validate_minutes: Annotated[float, typer.Option(help="Minutes between validations.")] = 10.0,
    real: Annotated[
        list[Path], typer.Option(help="Folder of real pairs to watch (not trained on); may be repeated.")
    ] = [],
) -> None:
    """Train the stereo network on synthetic scenes; resumable, and several processes under torchrun."""
    from fg_depth_ros.data.datasets import open_stereo_sets
    from fg_depth_ros.evaluation.stereo import watch_stereo
    from fg_depth_ros.training.stereo import StereoTraining, train_stereo

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = StereoTraining(
        out=str(out), photos=tuple(map(str, photos)), hours=hours, steps=steps, model=model, weights=weights,
        grow=grow, width=width, height=height, batch=batch, learning_rate=learning_rate, seed=seed, patterns=patterns,
        precision=precision, workers=workers, validate_minutes=validate_minutes,
    )  # fmt: skip
    watch = watch_stereo(open_stereo_sets(real)) if real else None
    console.print(str(train_stereo(config, watch)))
