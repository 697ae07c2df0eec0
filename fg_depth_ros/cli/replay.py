"""Commands that evaluate recordings: ``fg-depth replay`` and ``replay-live``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from fg_depth_ros.cli.app import console, counted, print_tables, say, track_progress
from fg_depth_ros.cli.options import (
    Bags,
    Device,
    Engine,
    Model,
    PlayRate,
    Precision,
    Settings,
    Weights,
    Without,
    folder_to_write,
)
from fg_depth_ros.data.bags.topics import PairTopics
from fg_depth_ros.evaluation.replay.config import ReplayConfig

if TYPE_CHECKING:
    from fg_depth_ros.evaluation.replay.config import ReplayMethod

_TABLES = {
    "accuracy": [
        "epe", "d1", "density", "abs_rel", "rmse", "delta_1", "depth_density", "photometric", "left_right",
        "seen_by_both",
    ],
    "timing": [
        "inference_p50_ms", "inference_p95_ms", "throughput_hz", "pairs_sent", "pairs_delivered", "pairs_dropped",
        "pairs_unaccounted", "rate_hz", "published_p50_ms", "published_p95_ms",
    ],
}  # fmt: skip
_NONE = "none"


def replay(
    bags: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")],
    out: Annotated[Path, typer.Option(callback=folder_to_write, help="Folder for report.json and report.html.")],
    make_config: Settings[ReplayConfig],
    topics: Settings[PairTopics],
    weights: Annotated[
        list[Path], typer.Option(help="Weights file, of a stereo or a depth network; may be repeated.")
    ] = [],
    model: Annotated[
        list[str], typer.Option(help="Shipped weights to compare with; may be repeated; none: without.")
    ] = ["flownet_stereo", "depthnet_efficient"],
    baseline: Annotated[list[str], typer.Option(help="Classical method to compare with: sgbm.")] = [],
    mono: Annotated[bool, typer.Option(help="With networks that see one camera only.")] = True,
) -> None:
    """Evaluate weights side by side on every pair of recorded bags, by true depth or LiDAR or by self-consistency.

    Started by torchrun, the processes share the bags; the first one writes.

    Example: `fg-depth replay recordings --weights runs/mine/best.safetensors --out comparison`
    """
    from fg_depth_ros.evaluation.replay import run
    from fg_depth_ros.evaluation.reports.page import write_page

    config = make_config(
        bags=tuple(map(str, bags)), topics=topics(), methods=_methods(weights, [*model, *baseline], mono)
    )
    found = run.replay(config, track_progress)
    if not found.leads:
        return
    report = found.report
    report.write_json(out / "report.json")
    write_page(out / "report.html", report, pictures=found.worst, title="Replay of recorded pairs")
    print_tables(report, _TABLES)
    against = dict.fromkeys(row["against"] for row in report.rows if "against" in row)
    say(f"evaluated against: {', '.join(against)}", "dim")
    print_problems(report.settings)
    say(f"report: {out / 'report.html'} and report.json")


def replay_live(
    bags: Bags,
    out: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder for report.json, report.html and the nodes' logs.")
    ],
    topics: Annotated[Settings[PairTopics], Without(["slop", "stamps"])],
    model: Model = "flownet_stereo",
    weights: Weights = "",
    rate: PlayRate = 1.0,
    loop: Annotated[bool, typer.Option(help="Play again and again, until --count messages.")] = False,
    count: Annotated[int, typer.Option(help="Stop after this many messages; 0: all.")] = 0,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
) -> None:
    """Play bags into the depth node over ROS topics: accuracy, latency, drops and rates as the robot would see them.

    Example: `fg-depth replay-live recordings --out live`
    """
    from fg_depth_ros.apps.live_evaluation import BagsEvaluation
    from fg_depth_ros.apps.processes import ProcessGroup, free_domain_id
    from fg_depth_ros.nodes.common.environment import child_environment

    if loop and not count:
        raise ValueError("--loop never ends by itself: say with --count after how many messages")
    depth = {"model": model, "device": device, "engine": engine, "precision": precision}
    if weights:
        depth["depth_weights"] = str(Path(weights).absolute())
    given = topics().given()
    if chosen := given.pop("rectify", ""):
        depth["rectify"] = chosen
    evaluation = BagsEvaluation(bags, out, rate=rate, loop=loop, count=count, depth=depth, topics=given)
    environment = child_environment(domain_id=free_domain_id())
    with ProcessGroup(out / "logs", environment) as group, console.status("starting") as status:
        report = evaluation.run(group, lambda text: status.update(Text(text)))
    print_tables(report, _TABLES)
    for row in report.rows:
        for reason, pairs in row.get("drops", {}).items():
            say(f"dropped: {pairs} {reason}", "yellow")
    say(f"report: {out / 'report.html'} and report.json")


def print_problems(settings: dict[str, list[dict[str, Any]]]) -> None:
    """Print which bags and pairs of a replay were left out, what is wrong with others, and which engines failed."""
    for bag in settings["bags"]:
        unread = bag["unread"]
        if any(unread.values()):
            lost = f"{counted(unread['messages'], 'message')} and {unread['bytes']:,} bytes"
            say(f"{bag['name']}: evaluated without {lost} that cannot be read", "yellow")
    for entry in settings["left_out"]:
        say(f"left out: {entry['name']}: {entry['reason']}", "yellow")
    for entry in settings["damaged"]:
        say(f"left out: {entry['set']}, pair {entry['name']}: {entry['reason']}", "yellow")
    for entry in settings["warnings"]:
        say(f"{entry['name']}: {entry['text']}", "yellow")
    for method in settings["methods"]:
        if failure := method["engine_failure"]:
            say(f"{method['label']}: {failure}", "yellow")


def _methods(weights: list[Path], names: list[str], mono: bool) -> tuple[ReplayMethod, ...]:
    from fg_depth_ros.evaluation.replay.methods import of_weights, shipped, unique

    found = [shipped(name) for name in names if name != _NONE] + [of_weights(path) for path in weights]
    chosen = tuple(method for method in unique(found) if mono or method.kind == "stereo")
    if not chosen:
        raise ValueError("nothing to replay with: name weights (--weights), shipped ones (--model) or --baseline sgbm")
    return chosen
