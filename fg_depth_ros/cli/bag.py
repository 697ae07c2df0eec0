"""``fg-depth bag check``: what recordings hold, and what is wrong with them."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from fg_depth_ros.cli.app import bag_app, console

Left = Annotated[str, typer.Option(help="Topic of the left images; default: found by name.")]
Right = Annotated[str, typer.Option(help="Topic of the right images.")]
LeftInfo = Annotated[str, typer.Option(help="Topic of the left camera_info; default: beside the images.")]
RightInfo = Annotated[str, typer.Option(help="Topic of the right camera_info.")]
Slop = Annotated[float, typer.Option(help="Largest difference of the two stamps of a pair, s.")]


@bag_app.command("check")
def check_command(
    paths: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")],
    left: Left = "",
    right: Right = "",
    left_info: LeftInfo = "",
    right_info: RightInfo = "",
    slop: Slop = 0.0,
    json: Annotated[Path | None, typer.Option("--json", help="Also write what was found here.")] = None,
) -> None:
    """Rates, gaps, exposure and calibration of recordings; exit status 1 where one cannot be used."""
    from fg_depth_ros.data.bags.checks import check_bag
    from fg_depth_ros.data.bags.folders import find_bags

    options = bag_options(left, right, left_info, right_info, slop)
    checked = []
    for path in find_bags(paths):
        checked.append({"name": path.name, **check_bag(path, **options).to_dict()})
    show_bags(checked)
    if json is not None:
        json.write_text(json_module.dumps(checked, indent=2) + "\n")
        console.print(f"report: {json}", highlight=False, soft_wrap=True)
    if not all(bag["usable"] for bag in checked):
        raise typer.Exit(1)


def bag_options(left: str, right: str, left_info: str, right_info: str, slop: float) -> dict[str, Any]:
    """Options of ``data.bags.open_bag_pairs``; those that were not given are left out."""
    given = {"left": left, "right": right, "left_info": left_info, "right_info": right_info, "slop": slop}
    return {name: value for name, value in given.items() if value}


def show_bags(bags: Iterable[Mapping[str, Any]]) -> None:
    """A line a bag, then what is wrong with any of them."""
    bags = list(bags)
    table = Table(title=f"{sum(bag['usable'] for bag in bags)} of {len(bags)} bag(s) can be used", box=SIMPLE)
    table.add_column("bag", overflow="fold")
    for heading in ("pairs", "s", "Hz", "gap s", "unpaired", "slack ms", "dark %", "bright %", "l/r"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("images", overflow="fold")
    for bag in bags:
        exposure, rig = bag["exposure"] or {}, bag["rig"] or {}
        table.add_row(
            escape(bag["name"]), str(bag["pairs"]), _number(bag["seconds"], ".1f"), _number(bag["rate"], ".1f"),
            _number(bag["largest_gap"], ".2f"), "/".join(map(str, bag["unpaired"])),
            _number(bag["slack"], ".1f", 1000), _number(exposure.get("dark"), ".0f", 100),
            _number(exposure.get("bright"), ".0f", 100), _number(exposure.get("ratio"), ".2f"),
            f"{rig['width']}x{rig['height']} {bag['encodings'][0]}" if rig else "-",
        )  # fmt: skip
    console.print(table)
    for bag in bags:
        for problem in bag["problems"]:
            colour = "red" if problem["severity"] == "leave out" else "yellow"
            text = f"{bag['name']}: {problem['severity']}: {problem['text']}"
            console.print(f"[{colour}]{escape(text)}[/]", highlight=False, soft_wrap=True)


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(scale * value, form)
