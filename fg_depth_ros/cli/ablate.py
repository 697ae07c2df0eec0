"""``fg-depth ablate``: what each loss is good for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fg_depth_ros.cli.app import console, save, say, show
from fg_depth_ros.cli.options import Device, Settings, Without, folder_to_write, image_size_of
from fg_depth_ros.training.ablation.config import LossAblation


def figure3(
    out: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder for figure3.png and figure3.json.")
    ] = Path("fg_depth_ablation"),
    teacher: Annotated[str, typer.Option(help="Any model for stereo or flow.")] = "flownet_stereo",
    teacher_weights: Annotated[str, typer.Option(help="Weights file; default: the shipped weights.")] = "",
    device: Device = "auto",
    depth: Annotated[float, typer.Option(help="Distance of the wall, m; 5 to 30.")] = 11.22,
    step: Annotated[float, typer.Option(help="Step between two depths that are tried, m.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Random seed of texture and noise.")] = 0,
) -> None:
    """Find the depth at which each loss is smallest, on a wall at known depth seen by cameras of different exposure.

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
    make_config: Annotated[Settings[LossAblation], Without(["width", "height"])],
    size: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT of the network's input; scenes are twice as large.")
    ] = "256x96",
) -> None:
    """Train every row of the paper's ablation in the virtual world and evaluate it on other scenes; resumable.

    Example: `fg-depth ablate losses --out ablation`
    """
    from fg_depth_ros.training.ablation.losses import run_ablation, table

    width, height = image_size_of(size)
    config = make_config(out=str(out), width=width, height=height)
    report = run_ablation(config, lambda what: console.print(what, style="dim"))
    show(table(report))
    say(f"{out / 'losses.md'}, {out / 'losses.json'}")
