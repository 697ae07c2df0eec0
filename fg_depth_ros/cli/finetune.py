"""``fg-depth finetune``: from recordings to better weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fg_depth_ros.cli.app import REFUSED, say, show, track_progress
from fg_depth_ros.cli.bags import show_bags
from fg_depth_ros.cli.options import Settings, Without, image_size_of
from fg_depth_ros.cli.train import Out, depth_losses, log_to_terminal
from fg_depth_ros.data.bags.topics import PairTopics
from fg_depth_ros.training.depth.config import DepthLossConfig, MaskConfig
from fg_depth_ros.training.finetune.config import DepthFinetuning, StereoFinetuning, TimeSplit

_OF_DISTILL = Without(
    ["data", "frames", "held_out", "test_frames", "model", "width", "height", "shapes", "encoder", "focal",
     "skip_unusable", "select_by_world", "schedule", "graft", "on_the_fly"]
)  # fmt: skip
_DEPTH_DEFAULTS = {"loss": "flow_mask_fd", "regression_of": "ratio", "max_depth": 80.0, "max_disparity": 0.0}
_HIGHER_IS_BETTER = ("delta_1", "agreement")


def finetune(
    bags: Annotated[list[Path], typer.Option(help="Bag, or folder of bags; may be repeated.")],
    out: Out,
    division: Settings[TimeSplit],
    make_depth: Annotated[Settings[DepthFinetuning], _OF_DISTILL],
    make_stereo: Annotated[Settings[StereoFinetuning], Without(["width", "height", "weights", "model"])],
    topics: Settings[PairTopics],
    stereo: Annotated[
        bool, typer.Option("--stereo", help="Fine-tune the stereo network by self-supervision instead.")
    ] = False,
    stereo_weights: Annotated[
        str | None, typer.Option(help="Stereo weights to start from.", show_default=StereoFinetuning.weights)
    ] = None,
    size: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT of the input (with --stereo: of windows), multiples of 32; auto.")
    ] = "auto",
    loss: Annotated[
        str | None, typer.Option(help="Losses to train with, as in distill.", show_default="flow_mask_fd")
    ] = None,
    regression_of: Annotated[
        str | None, typer.Option(help="ratio or metres: what L_dr compares.", show_default="ratio")
    ] = None,
    max_depth: Annotated[
        float | None, typer.Option(help="Ignore pixels farther than this, m; 0: no limit.", show_default="80")
    ] = None,
    max_disparity: Annotated[
        float | None,
        typer.Option(help="Ignore larger disparities, px at a width of 1024 px; 0: no limit.", show_default="0"),
    ] = None,
) -> None:
    """Fine-tune a network on recordings, without labels; exit status 3 if the result is not better.

    Examples: `fg-depth finetune --bags recordings --hours 0.5 --out runs/robot`,
    `fg-depth finetune --bags recordings --stereo --steps 500 --out runs/stereo`
    """
    from fg_depth_ros.data.bags.folders import find_bags
    from fg_depth_ros.distributed import process_rank
    from fg_depth_ros.training.finetune.bags import open_recordings
    from fg_depth_ros.training.finetune.run import finetune_depth, finetune_stereo

    log_to_terminal()
    find_bags(bags)  # first of all: a path may be mistyped
    sizes = {} if size == "auto" else dict(zip(("width", "height"), image_size_of(size), strict=True))
    # before the bags are read: settings that do not fit are refused at once
    values = {
        "loss": loss, "regression_of": regression_of, "max_depth": max_depth, "max_disparity": max_disparity
    }  # fmt: skip
    of_depth = {name: value for name, value in values.items() if value is not None}
    of_stereo = {} if stereo_weights is None else {"stereo_weights": stereo_weights}
    ours, others = (make_stereo, make_depth) if stereo else (make_depth, make_stereo)
    if unused := sorted({*others.keywords.keys() - ours.keywords.keys(), *(of_depth if stereo else of_stereo)}):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        of = "depth from one image; --stereo-weights names the stereo weights to start from" if stereo else "--stereo"
        raise ValueError(f"{names}: of {of}")
    tuning: DepthFinetuning | StereoFinetuning
    if stereo:
        weights = StereoFinetuning.weights if stereo_weights is None else stereo_weights
        tuning = make_stereo(out=str(out), weights=weights, **sizes)
    else:
        chosen: dict[str, Any] = _DEPTH_DEFAULTS | of_depth
        losses = depth_losses(chosen["loss"], partial(DepthLossConfig, regression_of=chosen["regression_of"]))
        mask = MaskConfig(max_depth=chosen["max_depth"], max_disparity=chosen["max_disparity"])
        tuning = make_depth(out=str(out), losses=losses, mask=mask, **sizes)
    recordings = open_recordings(bags, division(), topics().given(), out / "checks", track_progress)
    if process_rank()[0] == 0:
        show_bags(recordings.bags)
    if isinstance(tuning, StereoFinetuning):
        outcome = finetune_stereo(tuning, recordings, track_progress)
    else:
        outcome = finetune_depth(tuning, recordings, track=track_progress)
    if outcome is not None:
        _show(outcome.document)
        say(str(outcome.path))
        if not outcome.better:
            raise typer.Exit(REFUSED)


def _show(document: Mapping[str, Any]) -> None:
    """Print the held-out part before and after, and what became of it."""
    before, after = (document["figures"][when].get("held_out", {}) for when in ("before", "after"))
    table = Table(title=f"held-out part ({document['split']['kind']}), neither trained on nor chosen by")
    table.add_column("bag", overflow="fold")
    for heading in ("measure", "before", "after"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for name, measures in before.items():
        for measure, value in measures.items():
            new = after.get(name, {}).get(measure, float("nan"))
            gained = new > value if measure.endswith(_HIGHER_IS_BETTER) else new < value
            table.add_row(name, measure, f"{value:.4f}", Text(f"{new:.4f}", "green" if gained else "red"))
    show(table)
    for key, of in (("selected", "the stopping part"), ("judged", "both parts, mean")):
        figures = document[key]
        after = f"{figures['after']:.4f} after {document['selected']['step']} steps"
        say(f"{figures['measure']} of {of}: {figures['before']:.4f} before, {after}")
    if not document["better"]:
        say(f"not better than the initial weights: kept as {document['weights']}", "red bold")
