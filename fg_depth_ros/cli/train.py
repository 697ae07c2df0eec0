"""Commands that train networks: ``fg-depth train stereo``, ``train flow`` and ``distill``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fg_depth_ros.cli.app import console, say, track_progress
from fg_depth_ros.cli.options import Real, Settings, Without, image_size_of
from fg_depth_ros.data.bags.topics import PairTopics
from fg_depth_ros.training.depth.config import PRESETS, DepthLossConfig, DistillTraining, MaskConfig
from fg_depth_ros.training.flow.config import FlowTraining
from fg_depth_ros.training.stereo.config import StereoTraining

if TYPE_CHECKING:
    from fg_depth_ros.evaluation.task import Task

Out = Annotated[Path, typer.Option(help="Folder for weights, state and logs; a run found there is resumed.")]

LOSSES_HELP = f"Losses to train with: {', '.join(list(PRESETS)[:-1])} or {list(PRESETS)[-1]} (the whole)."


def log_to_terminal() -> None:
    """Show what a training logs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


Option = Annotated[
    list[str],
    typer.Option(
        help="Network option NAME=VALUE, such as width=0.375, when training starts from scratch; may be repeated."
    ),
]


def stereo(out: Out, make_config: Settings[StereoTraining], option: Option = [], real: Real = []) -> None:
    """Train the stereo network on synthetic scenes; resumable, and several processes under torchrun.

    Example: `fg-depth train stereo --photos my_pictures --hours 2 --out runs/mine --real kitti2015`
    """
    from fg_depth_ros.evaluation.stereo import StereoTask
    from fg_depth_ros.training.stereo.train import train_stereo

    log_to_terminal()
    config = make_config(out=str(out), options=_network_options(option))
    console.print(str(train_stereo(config, _validation(StereoTask(), real))))


def flow(out: Out, make_config: Settings[FlowTraining], option: Option = [], real: Real = []) -> None:
    """Train a flow network on Flying-Chairs-like scenes or on pairs; resumable, several processes under torchrun.

    Examples: `fg-depth train flow --photos my_pictures --hours 4 --out runs/lite`,
    `fg-depth train flow --model flownet_s --option width=0.375 --data FlyingChairs --steps 600000 --out runs/s`
    """
    from fg_depth_ros.evaluation.flow import FlowTask
    from fg_depth_ros.training.flow.train import train_flow

    log_to_terminal()
    config = make_config(out=str(out), options=_network_options(option))
    console.print(str(train_flow(config, _validation(FlowTask(), real))))


def distill(
    out: Out,
    make_config: Annotated[Settings[DistillTraining], Without(["width", "height"])],
    mask: Settings[MaskConfig],
    losses: Settings[DepthLossConfig],
    topics: Settings[PairTopics],
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the network's input, multiples of 32.")] = "640x192",
    loss: Annotated[str, typer.Option(help=LOSSES_HELP)] = "flow_mask_fd",
    real: Real = [],
) -> None:
    """Distill metric depth from one image, from stereo pairs without labels; resumable, also under torchrun.

    Example: `fg-depth distill --data drive --frames 0:80 --hours 1 --out runs/drive`
    """
    from fg_depth_ros.evaluation.depth import DepthTask
    from fg_depth_ros.training.depth.distill import train_distill

    log_to_terminal()
    width, height = image_size_of(size)
    config = make_config(
        out=str(out), width=width, height=height, bag=topics().given(), losses=depth_losses(loss, losses), mask=mask()
    )
    best = train_distill(config, _validation(DepthTask(), real, "real_"), track_progress)
    say(str(best))


def depth_losses(preset: str, given: Settings[DepthLossConfig]) -> DepthLossConfig:
    """Return a row of the ablation with the weights that were given in place of its own. Raises ValueError."""
    if preset not in PRESETS:
        raise ValueError(f"unknown loss '{preset}'; known: {', '.join(PRESETS)}")
    return replace(PRESETS[preset], **given.keywords)


def _validation(task: Task, folders: list[Path], prefix: str = "") -> Callable[[Any], dict[str, float]] | None:
    """Return a function that evaluates a network on data sets; ``prefix`` stands before their names."""
    if not folders:
        return None
    figures = task.validation(task.open(folders))
    return lambda network: {prefix + name: value for name, value in figures(network).items()}


def _network_options(given: list[str]) -> dict[str, Any]:
    """Parse ``width=0.375`` to ``{"width": 0.375}``; what is no JSON is text."""
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
