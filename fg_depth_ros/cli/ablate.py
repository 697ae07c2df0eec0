"""``fg-depth ablate``: what each loss is good for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fg_depth_ros.cli.app import console, save, say, show
from fg_depth_ros.cli.options import Device, Photos, image_size_of


def figure3(
    out: Annotated[Path, typer.Option(help="Folder for figure3.png and figure3.json.")] = Path("fg_depth_ablation"),
    teacher: Annotated[str, typer.Option(help="Any model for stereo or flow.")] = "flownet_stereo",
    teacher_weights: Annotated[str, typer.Option(help="Weights file; default: the shipped weights.")] = "",
    device: Device = "auto",
    depth: Annotated[float, typer.Option(help="Of the wall, m; between 5 and 30.")] = 11.22,
    step: Annotated[float, typer.Option(help="Between two depths that are tried, m.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Of texture and noise.")] = 0,
) -> None:
    """At which depth each loss is smallest, on a wall of known depth seen by two cameras of different exposure.

    Example: `fg-depth ablate figure3 --out look`
    """
    from fg_depth_ros.training.ablation.figure3 import Figure3, draw_figure3, run_figure3
    from fg_depth_ros.training.depth.teacher import Teacher

    setup = Figure3(depth=depth, step=step, seed=seed)
    report, shown = run_figure3(Teacher(teacher, teacher_weights, device), setup)
    show(report.table(["minimum", "error", "median_error", "within_2"], title=f"a wall at {depth:g} m"))
    console.print(
        "minimum m and error %: of the patch's middle pixel; median error %, within 2 % (share of pixels): of all its "
        f"pixels ({setup.patch}x{setup.patch})",
        style="dim",
    )
    draw_figure3(out / "figure3.png", setup, shown)
    say(f"figure: {out / 'figure3.png'}")
    save(report, out / "figure3.json")


def losses(
    out: Annotated[Path, typer.Option(help="Folder for scenes, runs and tables; what is finished there is kept.")],
    seeds: Annotated[int, typer.Option(help="Trainings of every row, each with scenes and weights of its own.")] = 2,
    steps: Annotated[int, typer.Option(help="Of every row.")] = 1000,
    loss: Annotated[
        list[str],
        typer.Option(
            help="auto_mask, flow_mask, flow_mask_dr, flow_mask_fp or flow_mask_fd; may be repeated; default: all."
        ),
    ] = [],
    grafting: Annotated[str, typer.Option(help="both, with or without data grafting.")] = "both",
    choices: Annotated[
        bool, typer.Option("--choices", help="Also what the paper leaves open: bounds of the mask, levels, L_dr.")
    ] = False,
    scenes: Annotated[int, typer.Option(help="Pairs that a seed trains on.")] = 400,
    test_scenes: Annotated[int, typer.Option(help="Pairs that all are evaluated on.")] = 100,
    world: Annotated[str, typer.Option(help="street, indoor or mixed.")] = "street",
    photos: Photos = [],
    patterns: Annotated[int, typer.Option(help="Procedural textures beside the photos.")] = 160,
    model: Annotated[
        str, typer.Option(help="depthnet_lite, depthnet_efficient, depthnet_r18 or depthnet_r50.")
    ] = "depthnet_lite",
    size: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT of the network's input; scenes are twice as large.")
    ] = "256x96",
    batch: Annotated[int, typer.Option(help="Pairs per step.")] = 8,
    schedule: Annotated[str, typer.Option(help="step (the paper's) or one_cycle.")] = "one_cycle",
    learning_rate: Annotated[float, typer.Option(help="At its highest; 0: the schedule's.")] = 0.0,
    teacher: Annotated[str, typer.Option(help="Any model for stereo or flow.")] = "flownet_stereo",
    teacher_weights: Annotated[str, typer.Option(help="Weights file of the teacher; default: the shipped ones.")] = "",
    precision: Annotated[str, typer.Option(help="32, bf16-mixed or 16-mixed.")] = "32",
) -> None:
    """Train every row of the paper's ablation in the virtual world and evaluate it on other scenes; resumable.

    Example: `fg-depth ablate losses --out ablation`
    """
    from fg_depth_ros.training.ablation.losses import LABELS, LossAblation, run_ablation, table

    width, height = image_size_of(size)
    config = LossAblation(
        out=str(out), seeds=seeds, losses=tuple(loss) or tuple(LABELS), grafting=grafting, choices=choices, steps=steps,
        scenes=scenes, test_scenes=test_scenes, world=world, photos=tuple(map(str, photos)), patterns=patterns,
        model=model, width=width, height=height, batch=batch, schedule=schedule, learning_rate=learning_rate,
        teacher=teacher, teacher_weights=teacher_weights, precision=precision,
    )  # fmt: skip
    report = run_ablation(config, lambda what: console.print(what, style="dim"))
    show(table(report))
    say(f"{out / 'losses.md'}, {out / 'losses.json'}")
