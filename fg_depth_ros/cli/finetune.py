"""``fg-depth finetune``: from recordings to better weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fg_depth_ros.cli.app import REFUSED, say, show, track_progress
from fg_depth_ros.cli.bags import show_bags
from fg_depth_ros.cli.options import Settings, Without, given_options, image_size_of
from fg_depth_ros.cli.train import LOSSES_HELP, Out, depth_losses, log_to_terminal
from fg_depth_ros.data.bags.topics import PairTopics
from fg_depth_ros.training.depth.config import DepthLossConfig, MaskConfig
from fg_depth_ros.training.finetune.config import LOSS, LOSSES, MASK, DepthFinetuning, StereoFinetuning, TimeSplit

_OF_DISTILL = Without(
    ["data", "frames", "held_out", "test_frames", "model", "width", "height", "shapes", "encoder", "focal",
     "skip_unusable", "select_by_world", "schedule", "graft", "on_the_fly"]
)  # fmt: skip
_OF_LOSSES = Without(
    ["photometric", "photometric_mask", "regression", "flow_photometric", "smoothness", "scales", "self_distillation"]
)
_OF_MASK = Without(["min_disparity", "inside", "vertical", "left_right"])
_HIGHER_IS_BETTER = ("delta_1", "agreement")


def finetune(
    bags: Annotated[list[Path], typer.Option(help="Bag, or folder of bags; may be repeated.")],
    out: Out,
    division: Settings[TimeSplit],
    make_depth: Annotated[Settings[DepthFinetuning], _OF_DISTILL],
    make_stereo: Annotated[Settings[StereoFinetuning], Without(["width", "height", "weights", "model"])],
    losses: Annotated[Settings[DepthLossConfig], LOSSES, _OF_LOSSES],
    mask: Annotated[Settings[MaskConfig], MASK, _OF_MASK],
    topics: Settings[PairTopics],
    context: typer.Context,
    stereo: Annotated[
        bool, typer.Option("--stereo", help="Fine-tune the stereo network by self-supervision instead.")
    ] = False,
    stereo_weights: Annotated[
        str, typer.Option(help="With --stereo: weights to start from.")
    ] = StereoFinetuning.weights,
    size: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT of the input (with --stereo: of windows), multiples of 32; auto.")
    ] = "auto",
    loss: Annotated[str, typer.Option(help=LOSSES_HELP)] = LOSS,
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
    options = topics().given()
    find_bags(bags)  # first of all: a path may be mistyped
    sizes = {} if size == "auto" else dict(zip(("width", "height"), image_size_of(size), strict=True))
    # before the bags are read: settings that do not fit are refused at once
    of_depth = [*make_depth.keywords.keys() - make_stereo.keywords.keys(), "loss", *losses.keywords, *mask.keywords]
    of_stereo = [*make_stereo.keywords.keys() - make_depth.keywords.keys(), "stereo_weights"]
    if unused := sorted(given_options(context, of_depth if stereo else of_stereo)):
        verb, them = ("is", "it") if len(unused) == 1 else ("are", "them")
        advice = f"--stereo: add that, or leave {them} out"
        if stereo:
            advice = f"depth from one image: leave {them} out with --stereo"
            advice += "; --stereo-weights names the weights to start from" if "--weights" in unused else ""
        raise ValueError(f"{', '.join(unused)} {verb} for {advice}")
    tuning: DepthFinetuning | StereoFinetuning
    if stereo:
        tuning = make_stereo(out=str(out), weights=stereo_weights, **sizes)
    else:
        given = partial(DepthLossConfig, **{"regression_of": LOSSES.regression_of, **losses.keywords})
        checks = replace(MASK, **mask.keywords)
        tuning = make_depth(out=str(out), losses=depth_losses(loss, given), mask=checks, **sizes)
    recordings = open_recordings(bags, division(), options, out / "checks", track_progress)
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
