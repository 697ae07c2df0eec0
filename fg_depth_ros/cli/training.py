"""``fg-depth train``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

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
    load_partial: Annotated[
        bool, typer.Option("--load-partial", help="Weights of other sizes or of a relative: take what fits.")
    ] = False,
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
    from fg_depth_ros.data.datasets.stereo import open_stereo_sets
    from fg_depth_ros.evaluation.stereo import watch_stereo
    from fg_depth_ros.training.stereo.config import StereoTraining
    from fg_depth_ros.training.stereo.stereo import train_stereo

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = StereoTraining(
        out=str(out), photos=tuple(map(str, photos)), hours=hours, steps=steps, model=model, weights=weights,
        load_partial=load_partial, width=width, height=height, batch=batch, learning_rate=learning_rate, seed=seed,
        patterns=patterns,
        precision=precision, workers=workers, validate_minutes=validate_minutes,
    )  # fmt: skip
    watch = watch_stereo(open_stereo_sets(real)) if real else None
    console.print(str(train_stereo(config, watch)))


@train_app.command("flow")
def train_flow_command(
    out: Annotated[Path, typer.Option(help="Folder for weights, state and logs; a run found there goes on.")],
    photos: Photos = [],
    cutouts: Annotated[list[Path], typer.Option(help="Folder of cut-outs with alpha that move; may be repeated.")] = [],
    data: Annotated[
        list[Path], typer.Option(help="Folder of pairs with true flow to train on instead of scenes; may be repeated.")
    ] = [],
    split: Annotated[str, typer.Option(help="all, or train: Flying Chairs as its list divides it.")] = "all",
    hours: Annotated[float, typer.Option(help="Length in hours of training time, kept over restarts.")] = 0.0,
    steps: Annotated[int, typer.Option(help="Length in steps; with --hours the earlier end counts.")] = 0,
    model: Annotated[str, typer.Option(help="Network to train: flownet_lite, flownet_s, ...")] = "flownet_lite",
    option: Annotated[
        list[str], typer.Option(help="Of a fresh network, NAME=VALUE such as width=0.375; may be repeated.")
    ] = [],
    weights: Annotated[str, typer.Option(help="Weights to start from (name or file); default: fresh.")] = "",
    load_partial: Annotated[
        bool, typer.Option("--load-partial", help="Weights of other sizes or of a relative: take what fits.")
    ] = False,
    width: int = 448,
    height: int = 320,
    margin: Annotated[int, typer.Option(help="Pixels by which scenes are larger, room for augmentation.")] = 64,
    batch: Annotated[int, typer.Option(help="Pairs per process and step.")] = 8,
    schedule: Annotated[
        str, typer.Option(help="S, S_long, C, one_cycle or fixed; default: the model's, fixed with --weights.")
    ] = "",
    learning_rate: Annotated[float, typer.Option(help="At its highest; 0: the schedule's.")] = 0.0,
    loss: Annotated[str, typer.Option(help="finest, flownet2 or lite; default: the model's.")] = "",
    sparse: Annotated[bool, typer.Option("--sparse", help="True flow is sparse, as of LiDAR.")] = False,
    augment: Annotated[str, typer.Option(help="paper, mild or none.")] = "paper",
    erase: Annotated[float, typer.Option(help="Probability of covered patches in the second frame.")] = 0.0,
    outlines: Annotated[int, typer.Option(help="Drawn outlines beside the cut-outs.")] = 256,
    extras: Annotated[int, typer.Option(help="Mean number of small, thin and fast pieces in a scene.")] = 0,
    weight_decay: Annotated[float, typer.Option(help="Of all but biases.")] = 4e-4,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient, 0: any; negative: the loss's.")] = -1.0,
    seed: int = 0,
    patterns: Annotated[int, typer.Option(help="Procedural textures beside the photos.")] = 160,
    precision: Annotated[str, typer.Option(help="32, bf16-mixed or 16-mixed.")] = "32",
    workers: Annotated[int, typer.Option(help="Rendering or reading processes; a GPU renders by itself.")] = 1,
    validate_minutes: Annotated[float, typer.Option(help="Minutes between validations.")] = 10.0,
    real: Annotated[
        list[Path], typer.Option(help="Folder of real pairs to watch (not trained on); may be repeated.")
    ] = [],
) -> None:
    """Train a flow network on Flying-Chairs-like scenes or on pairs; resumable, several processes under torchrun."""
    from fg_depth_ros.data.datasets.flow import open_flow_sets
    from fg_depth_ros.evaluation.flow import draw_flow, watch_flow
    from fg_depth_ros.training.flow.config import FlowTraining
    from fg_depth_ros.training.flow.flow import train_flow

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = FlowTraining(
        out=str(out), photos=tuple(map(str, photos)), cutouts=tuple(map(str, cutouts)), data=tuple(map(str, data)),
        split=split, hours=hours, steps=steps, model=model, options=_options(option), weights=weights,
        load_partial=load_partial,
        width=width, height=height, margin=margin, batch=batch, schedule=schedule, learning_rate=learning_rate,
        loss=loss, sparse=sparse, augment=augment, erase=erase, outlines=outlines, extras=extras,
        weight_decay=weight_decay, clip=clip, seed=seed, patterns=patterns, precision=precision, workers=workers,
        validate_minutes=validate_minutes,
    )  # fmt: skip
    watch = watch_flow(open_flow_sets(real)) if real else None
    console.print(str(train_flow(config, watch, draw_flow)))


def _options(given: list[str]) -> dict[str, Any]:
    """``width=0.375`` -> ``{"width": 0.375}``; what is no JSON is text."""
    options: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise typer.BadParameter(f"option '{text}' is not NAME=VALUE, such as width=0.375")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options
