"""The command that shows: ``fg-depth view``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fg_depth_ros.cli.app import say, say_engine_failures, stereo_estimator
from fg_depth_ros.cli.options import (
    AutoScale,
    Device,
    Engine,
    MinDepth,
    MinDisparity,
    Precision,
    Settings,
    SideBySide,
    check_least,
    file_to_write,
    given_options,
    min_disparity_of,
    scale_of,
)
from fg_depth_ros.data.bags.topics import PairTopics

if TYPE_CHECKING:
    from fg_depth_ros.inference import StereoDepthEstimator

_OF_LIVE_TOPICS = ("pairs", "left", "namespace", "save", "window", "port", "data_port", "memory")


def view(
    topics: Settings[PairTopics],
    context: typer.Context,
    pairs: Annotated[
        str | None,
        typer.Argument(help="A folder of pairs, a bag, a video, or motorcycle (a real pair); default: live topics."),
    ] = None,
    calib: Annotated[Path | None, typer.Option(help="Calibration, instead of what lies next to the pairs.")] = None,
    side_by_side: SideBySide = False,
    model: Annotated[
        list[str], typer.Option(help="flownet_stereo, sgbm or bm; repeated, they stand side by side.")
    ] = [],
    weights: Annotated[list[Path], typer.Option(help="Weights file of a stereo network; may be repeated, too.")] = [],
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    scale: AutoScale = "1",
    min_disparity: MinDisparity = "auto",
    min_depth: MinDepth = 0.1,
    max_depth: Annotated[float, typer.Option(help="Farther pixels are out of range, m.")] = 80.0,
    count: Annotated[int, typer.Option(help="Show this many pairs; 0: all.")] = 0,
    namespace: Annotated[str, typer.Option(help="Namespace of the node whose live topics are shown.")] = "",
    save: Annotated[
        Path | None,
        typer.Option(callback=file_to_write, help="Write a file for rerun (.rrd) instead of showing a page."),
    ] = None,
    window: Annotated[
        bool, typer.Option("--window", help="Open rerun's own window instead of serving a page.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the page, on 127.0.0.1 only.")] = 9090,
    data_port: Annotated[int, typer.Option(help="Port of the page's data, likewise.")] = 9876,
    memory: Annotated[str, typer.Option(help="Largest memory of the data; then the oldest is dropped.")] = "2GB",
) -> None:
    """Show images, disparity, depth, uncertainty, mask and cloud in a browser: of live topics, a bag, or pairs.

    For live topics, `--left` names the topic of the left image. The page is served on this machine only (docs/view.md).

    Examples: `fg-depth view motorcycle`, `fg-depth view my_bag --model flownet_stereo --model sgbm`,
    `fg-depth view --namespace /front`
    """
    from fg_depth_ros.apps.viewer import Destination, view_pairs, view_topics
    from fg_depth_ros.evaluation.reports.live_view import load_rerun

    check_least(0, count=count)
    load_rerun()
    where = Destination(port, data_port, window, save, memory)
    if pairs is None:
        names = [name for name in context.params if name not in _OF_LIVE_TOPICS]
        if given := given_options(context, names):
            verb, them = ("is", "it") if len(given) == 1 else ("are", "them")
            raise typer.BadParameter(
                f"{', '.join(given)} {verb} for pairs: name a folder, a bag or motorcycle with {them}"
            )
        raise typer.Exit(view_topics(namespace, topics().left, where, say))
    if namespace:
        raise typer.BadParameter(f"--namespace is for live topics: leave it or {pairs} out")
    from fg_depth_ros.data.datasets.stereo import open_stereo
    from fg_depth_ros.files import expand_home

    samples = open_stereo(expand_home(pairs, "PAIRS"), calib, side_by_side=side_by_side, **topics().given())
    estimators = _estimators(
        model, weights, device=device, engine=engine, precision=precision, inference_scale=scale_of(scale),
        min_disparity=min_disparity_of(min_disparity), min_depth=min_depth, max_depth=max_depth,
    )  # fmt: skip
    title = f"{' and '.join(estimators)} on {Path(pairs).name}"
    status = view_pairs(title, samples[:count] if count else samples, estimators, where, say)
    say_engine_failures(*estimators.values())
    raise typer.Exit(status)


def _estimators(model: list[str], weights: list[Path], **options: Any) -> dict[str, StereoDepthEstimator]:
    """Load the methods by their labels. Raises ValueError: one that sees a single camera only."""
    from fg_depth_ros.evaluation.replay.methods import of_weights, shipped, unique

    models = model or ([] if weights else ["flownet_stereo"])
    methods = unique([*(shipped(name) for name in models), *(of_weights(path) for path in weights)])
    for method in methods:
        if method.kind != "stereo":
            raise ValueError(f"{method.label} gives depth from one image; give a stereo or flow network, sgbm or bm")
    named = {each.label if each.weights else each.model: each for each in methods}
    return {label: stereo_estimator(each.model, each.weights, **options) for label, each in named.items()}
