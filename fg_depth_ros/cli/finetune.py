"""``fg-depth finetune``: from recordings to better weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fg_depth_ros.cli.app import Photos, app, console, image_size_of
from fg_depth_ros.cli.bag import Left, LeftInfo, Right, RightInfo, Slop, bag_options, show_bags

if TYPE_CHECKING:
    from fg_depth_ros.training.finetune.finetune import Outcome

_NOT_BETTER = 2
_HIGHER_IS_BETTER = ("delta_1", "agreement")


@app.command("finetune")
def finetune_command(
    bags: Annotated[list[Path], typer.Option(help="Bag, or folder of bags; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder for weights, state and logs; a run found there goes on.")],
    weights: Annotated[str, typer.Option(help="Depth weights to begin with, name or file.")] = "depthnet_lite",
    stereo: Annotated[
        bool, typer.Option("--stereo", help="Fine-tune the stereo network by self-supervision instead.")
    ] = False,
    stereo_weights: Annotated[str, typer.Option(help="Stereo weights to begin with.")] = "flownet_stereo",
    hours: Annotated[float, typer.Option(help="Length in hours of training time, kept over restarts.")] = 0.0,
    steps: Annotated[int, typer.Option(help="Length in steps; with --hours the earlier end counts.")] = 0,
    split: Annotated[str, typer.Option(help="How bags are divided: blocks, end (of time), or bag (whole ones).")] = (
        "blocks"
    ),
    held_out: Annotated[
        float, typer.Option(help="Part that judges the weights; as much again stops the training.")
    ] = 0.2,
    guard: Annotated[float, typer.Option(help="Time between the parts that is left out, s.")] = 0.3,
    patience: Annotated[
        int, typer.Option(help="Validations without a better figure that end the training; 0: none do.")
    ] = 5,
    teacher: Annotated[str, typer.Option(help="Any model for stereo or flow.")] = "flownet_stereo",
    teacher_weights: Annotated[str, typer.Option(help="Weights file of the teacher; default: the shipped ones.")] = "",
    teacher_scale: Annotated[float, typer.Option(help="The teacher sees the images resized by this.")] = 1.0,
    cache: Annotated[str, typer.Option(help="Folder for what the teacher says; default: OUT/teaching.")] = "",
    world: Annotated[str, typer.Option(help="street, indoor or mixed: rehearse with rendered scenes, too.")] = "",
    world_share: Annotated[float, typer.Option(help="Part of the samples that is rendered.")] = 0.3,
    photos: Photos = [],
    cutouts: Annotated[list[Path], typer.Option(help="Folder of cut-outs for scenes; may be repeated.")] = [],
    size: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT of the input (with --stereo: of windows), multiples of 32; auto.")
    ] = "auto",
    loss: Annotated[str, typer.Option(help="A row of the ablation, as of distill.")] = "flow_mask_fd",
    regression_of: Annotated[str, typer.Option(help="ratio or metres: what L_dr compares.")] = "ratio",
    max_depth: Annotated[float, typer.Option(help="Farther is not learned from, m; 0: any.")] = 80.0,
    max_disparity: Annotated[
        float, typer.Option(help="Larger is not learned from, px at 1024 px of width; 0: any.")
    ] = 0.0,
    zoom: Annotated[float, typer.Option(help="Largest factor that windows of samples are enlarged by.")] = 1.8,
    anchor: Annotated[float, typer.Option(help="With --stereo: weight of the distance from the first weights.")] = 10.0,
    left: Left = "",
    right: Right = "",
    left_info: LeftInfo = "",
    right_info: RightInfo = "",
    slop: Slop = 0.0,
    batch: Annotated[int, typer.Option(help="Pairs per process and step; 0: 8, with --stereo 2.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="At its highest; 0: 5e-4, with --stereo 1e-4.")] = 0.0,
    seed: int = 0,
    precision: Annotated[str, typer.Option(help="32, bf16-mixed or 16-mixed.")] = "32",
    workers: Annotated[int, typer.Option(help="Reading and rendering processes.")] = 1,
    validate_minutes: Annotated[
        float, typer.Option(help="Minutes between validations; 0: a twentieth of --hours.")
    ] = 0.0,
    validate_steps: Annotated[int, typer.Option(help="Steps between validations; 0: a twentieth of --steps.")] = 0,
    validation_pairs: Annotated[int, typer.Option(help="Pairs of every bag that choose the weights; 0: by bags.")] = 0,
) -> None:
    """Teach a network with recordings and no labels; exit status 2 where the weights are not better than before."""
    from fg_depth_ros.cli.distill import draw_depth, track_pairs
    from fg_depth_ros.training.depth.config import PRESETS, MaskConfig
    from fg_depth_ros.training.depth.pair_preparation import first_process
    from fg_depth_ros.training.finetune.bags import gather_bags
    from fg_depth_ros.training.finetune.config import DepthFinetuning, StereoFinetuning, TimeSplit
    from fg_depth_ros.training.finetune.finetune import finetune_depth, finetune_stereo

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if loss not in PRESETS:
        raise ValueError(f"unknown loss '{loss}'; known: {', '.join(PRESETS)}")
    if hours <= 0 and steps <= 0:
        raise ValueError("a training needs a length: give --hours or --steps")
    options = bag_options(left, right, left_info, right_info, slop)
    material = gather_bags(bags, TimeSplit(split, held_out, guard), options, out / "checks", track_pairs)
    if first_process():
        show_bags(material.bags)
    common: dict[str, Any] = {
        "out": str(out), "hours": hours, "steps": steps, "patience": patience, "seed": seed, "precision": precision,
        "workers": workers, "validate_minutes": validate_minutes, "validate_steps": validate_steps,
        "validation_scenes": validation_pairs,
    }  # fmt: skip
    optional: dict[str, Any] = {"batch": batch, "learning_rate": learning_rate}
    if size != "auto":
        optional["width"], optional["height"] = image_size_of(size)
    common |= {name: value for name, value in optional.items() if value}
    outcome: Outcome | None
    if stereo:
        outcome = finetune_stereo(
            StereoFinetuning(weights=stereo_weights, anchor=anchor, **common), material, track_pairs
        )
    else:
        config = DepthFinetuning(
            weights=weights, teacher=teacher, teacher_weights=teacher_weights, teacher_scale=teacher_scale,
            cache=cache, world=world, world_share=world_share, photos=tuple(map(str, photos)),
            cutouts=tuple(map(str, cutouts)), zoom=zoom, losses=replace(PRESETS[loss], regression_of=regression_of),
            mask=MaskConfig(max_depth=max_depth, max_disparity=max_disparity), **common,
        )  # fmt: skip
        outcome = finetune_depth(config, material, draw=draw_depth, track=track_pairs)
    if outcome is not None:
        _show(outcome.document)
        console.print(str(outcome.path), highlight=False, soft_wrap=True)
        if not outcome.better:
            raise typer.Exit(_NOT_BETTER)


def _show(document: Mapping[str, Any]) -> None:
    """The held-out part before and after, and what became of it."""
    before, after = (document["figures"][when].get("held_out", {}) for when in ("before", "after"))
    table = Table(title=f"held-out part ({document['split']['kind']}), neither trained on nor chosen by")
    table.add_column("bag", overflow="fold")
    for heading in ("measure", "before", "after"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for name, measures in before.items():
        for measure, value in measures.items():
            new = after.get(name, {}).get(measure, float("nan"))
            gained = new > value if measure.endswith(_HIGHER_IS_BETTER) else new < value
            table.add_row(escape(name), measure, f"{value:.4f}", f"[{'green' if gained else 'red'}]{new:.4f}[/]")
    console.print(table)
    chosen = document["selected"]
    console.print(
        f"{chosen['measure']} on the stopping part: {chosen['before']:.4f} before, {chosen['after']:.4f} after "
        f"{chosen['step']} steps",
        highlight=False,
    )
    if not document["better"]:
        console.print("[red bold]not better than the weights it began with: no weights are made[/]")
