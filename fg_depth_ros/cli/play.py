"""``fg-depth play`` and ``replay-live``: bags on ROS topics, and into a running depth node that is measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fg_depth_ros.cli.app import Device, Model, Weights, app, console

_COLUMNS = {
    "accuracy": ["epe", "d1", "density", "abs_rel", "rmse", "delta_1", "photometric", "seen_by_both"],
    "timing": ["pairs_sent", "pairs_delivered", "pairs_dropped", "pairs_unaccounted", "rate_hz", "published_p50_ms",
               "published_p95_ms"],
}  # fmt: skip
_TABLE_WIDTH = 130
_RULE = re.compile(r"[\w/~{}:]+:=[\w/~{}]+")
Rate = Annotated[float, typer.Option(help="How many times as fast as it was recorded.")]
Bags = Annotated[list[Path], typer.Argument(help="Bags, or folders of bags, played one after the other.")]


@app.command()
def play(
    bags: Bags,
    rate: Rate = 1.0,
    loop: Annotated[bool, typer.Option(help="Start again after the last message.")] = False,
    topic: Annotated[list[str], typer.Option(help="Play this topic only; may be repeated.")] = [],
    remap: Annotated[list[str], typer.Option(help="FROM:=TO, as ROS remaps; may be repeated.")] = [],
    clock: Annotated[bool, typer.Option(help="Publish the recording's time on /clock.")] = True,
    restart_clock: Annotated[bool, typer.Option(help="/clock goes back with a loop; else it goes on.")] = True,
    count: Annotated[int, typer.Option(help="End after so many messages; 0: all.")] = 0,
    wait: Annotated[int, typer.Option(help="Wait for so many subscribers of the stereo pair's topics.")] = 0,
    wait_timeout: Annotated[float, typer.Option(help="Give up waiting after so many seconds; 0: never.")] = 0.0,
) -> None:
    """Play bags on the topics that they were recorded from, where there is no `ros2 bag play`."""
    if wrong := [rule for rule in remap if not _RULE.fullmatch(rule)]:
        raise ValueError(f"--remap '{wrong[0]}' is no rule: give FROM:=TO, such as /left/image_rect:=/cam/image_rect")

    from fg_depth_ros.nodes.players.bag_player import main

    values = {
        "bags": [str(bag) for bag in bags],
        "topics": topic or [""],
        "rate": rate,
        "loop": loop,
        "publish_clock": clock,
        "restart_clock": restart_clock,
        "count": count,
        "wait_for_subscribers": wait,
        "wait_timeout": wait_timeout,
    }
    words = [word for name, value in values.items() for word in ("-p", f"{name}:={json.dumps(value)}")]
    words += [word for rule in remap for word in ("-r", rule)]
    raise typer.Exit(main(["--ros-args", *words]))


@app.command("replay-live")
def replay_live(
    bags: Bags,
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.html and the nodes' logs.")],
    model: Model = "flownet_stereo",
    weights: Weights = "",
    rate: Rate = 1.0,
    loop: Annotated[bool, typer.Option(help="Play again and again, until --count messages.")] = False,
    count: Annotated[int, typer.Option(help="End after so many messages; 0: all.")] = 0,
    device: Device = "auto",
) -> None:
    """Play bags into the depth node over ROS topics: accuracy, latency, drops and rates as the robot would see them."""
    from fg_depth_ros.apps.live_evaluation import BagsEvaluation
    from fg_depth_ros.apps.processes import ProcessGroup, free_domain_id
    from fg_depth_ros.nodes.common.environment import child_environment

    if loop and not count:
        raise ValueError("--loop never ends by itself: say with --count after how many messages")
    depth = {"model": model, "device": device}
    if weights:
        depth["depth_weights"] = str(Path(weights).absolute())
    evaluation = BagsEvaluation(bags, out, rate=rate, loop=loop, count=count, depth=depth)
    environment = child_environment(domain_id=free_domain_id())
    with ProcessGroup(out / "logs", environment) as group, console.status("starting") as status:
        report = evaluation.run(group, status.update)
    wide = Console(width=max(console.width, _TABLE_WIDTH))  # long lines are better than numbers cut off
    for kind, columns in _COLUMNS.items():
        rows = [row for row in report.rows if row["kind"] == kind]
        shown = [name for name in columns if any(name in row["metrics"] for row in rows)]
        if rows:
            wide.print(type(report)(report.command, rows=rows).table(shown, title=kind))
    for reason, pairs in (reason for row in report.rows for reason in row.get("drops", {}).items()):
        console.print(f"dropped: {pairs} {reason}", style="yellow", highlight=False)
    console.print(f"report: {out / 'report.html'} and report.json", highlight=False, soft_wrap=True)
