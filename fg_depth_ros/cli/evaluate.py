"""Measure accuracy on data sets: ``fg-depth evaluate stereo``, ``flow``, ``depth`` and ``uncertainty``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fg_depth_ros.cli.app import (
    chosen_frames,
    console,
    flow_estimator,
    identity,
    print_table,
    progress,
    save,
    say,
    say_engine_failures,
    stereo_estimator,
)
from fg_depth_ros.cli.options import (
    Device,
    Engine,
    FlowScale,
    Json,
    Model,
    Photos,
    Precision,
    Scale,
    Settings,
    Sheets,
    SideBySide,
    Weights,
    folder_to_write,
    image_size_of,
)
from fg_depth_ros.data.bags.topics import PairTopics

if TYPE_CHECKING:
    from fg_depth_ros.data.samples import DepthSample
    from fg_depth_ros.evaluation.reports.report import Report
    from fg_depth_ros.evaluation.task import Aggregate, Task
    from fg_depth_ros.inference import FlowEstimator

ManyWeights = Annotated[
    list[str], typer.Option(help="Weights file, instead of the shipped weights; several are compared.")
]


def stereo(
    topics: Settings[PairTopics],
    data: Annotated[
        list[Path], typer.Option(help="Data set, bag, or a folder of them; may be repeated (docs/data.md).")
    ] = [],
    side_by_side: SideBySide = False,
    model: Model = "flownet_stereo",
    weights: Annotated[list[str], typer.Option(help="Weights file; several are compared.")] = [],
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    scale: Scale = 1.0,
    aggregate: Annotated[str, typer.Option(help="pooled (all pixels alike) or per_image.")] = "pooled",
    motorcycle: Annotated[bool, typer.Option(help="Also evaluate scikit-image's Motorcycle pair.")] = True,
    sheets: Sheets = None,
    json: Json = None,
) -> None:
    """Evaluate learned stereo, SGBM with filled holes and SGBM with its density, on pairs with true disparity.

    Example: `fg-depth evaluate stereo --data kitti2015 --data middlebury2006 --sheets pictures`
    """
    from fg_depth_ros.data.datasets.stereo import motorcycle as motorcycle_pair
    from fg_depth_ros.evaluation.stereo import StereoMethod, StereoTask
    from fg_depth_ros.geometry import complete_occluded, fill_holes_kitti

    task = StereoTask(cast("Aggregate", aggregate))
    sets = {"Motorcycle": [motorcycle_pair()]} if motorcycle else {}
    sets.update(task.open(data, side_by_side=side_by_side, **topics().given()))
    sgbm = stereo_estimator("sgbm")
    learned = {} if model == "sgbm" and not weights else _estimators(  # SGBM stands in the table anyway
        [(model, path) for path in weights or [""]],
        lambda name, path: stereo_estimator(name, path, device, engine, precision, inference_scale=scale),
    )  # fmt: skip
    methods: dict[str, StereoMethod] = {}
    for name, estimator in learned.items():
        methods[name] = StereoMethod(estimator, fill=complete_occluded)
        methods[f"{name} raw"] = StereoMethod(estimator)
    methods |= {"SGBM filled": StereoMethod(sgbm, fill=fill_holes_kitti), "SGBM unfilled": StereoMethod(sgbm)}
    _evaluate(task, sets, methods, sheets, json)


def flow(
    data: Annotated[list[Path], typer.Option(help="Data set, or a folder of data sets; may be repeated.")],
    model: Annotated[
        list[str],
        typer.Option(
            help="Network or classical method; may be repeated; default: the classical ones and what has weights."
        ),
    ] = [],
    weights: ManyWeights = [],
    variational: Annotated[
        bool, typer.Option("--variational", help="Also evaluate every method with its flow refined (+v).")
    ] = False,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    scale: FlowScale = 1.0,
    split: Annotated[str, typer.Option(help="Split of Flying Chairs: all, train or test.")] = "all",
    sheets: Sheets = None,
    json: Json = None,
) -> None:
    """Evaluate learned and classical flow, on pairs with true flow, in one table.

    Example: `fg-depth evaluate flow --data Sintel/training --model flownet_lite --model dis`
    """
    from fg_depth_ros.evaluation.flow import FlowTask
    from fg_depth_ros.inference.config import CLASSICAL_FLOW
    from fg_depth_ros.networks import FLOW_MODELS

    task = FlowTask()
    sets = task.open(data, split)
    classical = [name for name in model or CLASSICAL_FLOW if name in CLASSICAL_FLOW]
    networks = [name for name in model if name not in CLASSICAL_FLOW]
    chosen = _networks(networks, weights, FLOW_MODELS if not model else ())
    methods: dict[str, FlowEstimator] = {}
    build = partial(flow_estimator, device=device, engine=engine, precision=precision, scale=scale)
    for name, estimator in _estimators([*chosen, *((name, "") for name in dict.fromkeys(classical))], build).items():
        methods[name] = estimator
        if variational:
            methods[f"{name} +v"] = estimator.refined()
    _evaluate(task, sets, methods, sheets, json)


def depth(
    topics: Settings[PairTopics],
    data: Annotated[
        list[Path],
        typer.Option(
            help="Images with depth/, a set of stereo pairs, nyu_depth_v2_labeled.mat, a bag, or, with --eigen, KITTI "
            "raw; may be repeated."
        ),
    ] = [],
    world: Annotated[list[str], typer.Option(help="street, indoor or mixed: rendered scenes; may be repeated.")] = [],
    eigen: Annotated[
        Path | None, typer.Option(help="List of KITTI raw frames, 'DATE/DRIVE_sync FRAME l' a line: Eigen's protocol.")
    ] = None,
    improved: Annotated[
        Path | None, typer.Option(help="data_depth_annotated: KITTI's improved truth next to the sweeps.")
    ] = None,
    lidar: Annotated[
        str, typer.Option(help="How sweeps become truth: published (as in all tables), or camera.")
    ] = "published",
    split: Annotated[
        Path | None, typer.Option(help="Test frames of NYU: splits.mat or a text; default: splits.mat next to it.")
    ] = None,
    model: Annotated[
        list[str], typer.Option(help="Depth network; may be repeated; default: those with weights, or --weights'.")
    ] = [],
    weights: ManyWeights = [],
    stereo: Annotated[
        list[str], typer.Option(help="Stereo model to compare with on pairs; may be repeated; none: without.")
    ] = ["flownet_stereo"],
    against: Annotated[
        str, typer.Option(help="Compare with this stereo model, where its two-way check holds, instead of by a truth.")
    ] = "",
    median: Annotated[
        bool, typer.Option("--median", help="Scale every prediction to the truth by the medians first.")
    ] = False,
    crop: Annotated[str, typer.Option(help="none, garg or nyu; default: the set's own.")] = "",
    max_depth: Annotated[float, typer.Option(help="Truth from here on is left out, m; default: the set's own.")] = 0,
    unit: Annotated[str, typer.Option(help="Unit of 16-bit depth PNGs: kitti (1/256 m) or mm.")] = "kitti",
    fx: Annotated[float, typer.Option(help="Focal length of images without calibration, px.")] = 0,
    frames: Annotated[str, typer.Option(help="Part of every set, such as 80:112.")] = "",
    scenes: Annotated[int, typer.Option(help="Scenes of every --world.")] = 50,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the scenes.")] = "640x192",
    photos: Photos = [],
    patterns: Annotated[int, typer.Option(help="Drawn textures of the scenes in addition to the photos.")] = 160,
    aggregate: Annotated[
        str, typer.Option(help="per_image (mean of the images' measures, as Eigen's), or pooled.")
    ] = "per_image",
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    sheets: Sheets = None,
    json: Json = None,
) -> None:
    """Evaluate depth from one image, and from stereo, on images with true depth, in one table.

    Example: `fg-depth evaluate depth --data kitti2015_scene_flow --weights runs/drive/best.safetensors`
    """
    from fg_depth_ros.data.datasets.kitti_depth import open_eigen
    from fg_depth_ros.evaluation.depth import DepthTask, PairMethod, against_stereo
    from fg_depth_ros.inference import MonoConfig, MonoDepthEstimator
    from fg_depth_ros.inference.estimator import choose_device
    from fg_depth_ros.networks import DEPTH_MODELS
    from fg_depth_ros.synthesis.textures import list_photos
    from fg_depth_ros.synthesis.world.samples import world_samples

    bag = topics().given()
    if not data and not world:
        raise typer.BadParameter("nothing to evaluate on: give --data or --world")
    if eigen is not None and len(data) != 1:
        raise typer.BadParameter(f"--eigen needs one --data, the folder of KITTI raw, and there are {len(data)}")
    if eigen is None and improved is not None:
        raise typer.BadParameter("--improved belongs to --eigen: give the list of frames")
    task = DepthTask(cast("Aggregate", aggregate), median)
    sets: dict[str, list[DepthSample]]
    if eigen is not None:
        sets = open_eigen(data[0], eigen, improved, cast("Any", lidar))
    else:
        sets = task.open(data, unit=cast("Any", unit), fx=fx, split=split, bag=bag)
    width, height = image_size_of(size)
    place = str(choose_device(device))
    for kind in world:
        sets[f"world {kind}"] = world_samples(
            kind, scenes, width, height, photos=list_photos(photos), patterns=patterns, device=place
        )
    sets = {name: list(chosen_frames(samples, frames, name)) for name, samples in sets.items()}
    if crop or max_depth:
        sets = {name: _with_protocol(samples, crop, max_depth) for name, samples in sets.items()}
    if against:
        reference = stereo_estimator(
            against, device=device, engine=engine, precision=precision, left_right_check="two_pass"
        )
        by = f"by {reference.model_name}"
        sets = {f"{name} {by}": against_stereo(samples, reference) for name, samples in sets.items()}

    methods = _estimators(
        _networks(model, weights, () if model else DEPTH_MODELS),
        lambda name, path: MonoDepthEstimator(MonoConfig(name, path, device, precision, engine=engine)),
    )
    pairs = any(sample.pair is not None for samples in sets.values() for sample in samples)
    for name in stereo if pairs else []:
        if name not in ("none", against):
            estimator = stereo_estimator(name, device=device, engine=engine, precision=precision)
            methods[f"{name} (stereo)"] = PairMethod(estimator)
    if not methods:
        raise typer.BadParameter(
            "no method: no depth network comes with weights here, and there are no pairs for --stereo; give --weights "
            "('fg-depth distill' makes some)"
        )
    report = _evaluate(task, sets, methods, sheets, json)
    if against:
        say_engine_failures(reference)
    ours = replace(report, rows=[row for row in report.rows if not row.get("published")])
    print_table(ours, task.band_columns, "by true distance, m")
    if len(ours.rows) < len(report.rows):
        console.print("published: as their authors give them, on all 697 frames", style="dim")


def uncertainty(
    topics: Settings[PairTopics],
    data: Annotated[list[Path], typer.Option(help="Data set with true disparity; may be repeated.")] = [],
    weights: Weights = "",
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    motorcycle: Annotated[bool, typer.Option(help="Also evaluate scikit-image's Motorcycle pair.")] = True,
    figures: Annotated[
        Path | None, typer.Option(callback=folder_to_write, help="Folder for the two plots, PNG.")
    ] = None,
    json: Json = None,
) -> None:
    """Evaluate the stereo network's uncertainty: how many errors lie within it, and how well it ranks them.

    within 1 and 2 sigma: share of the errors (Laplace: 75.7 and 94.1 %). AUSE: area between the curve of the error that
    is left without the least certain pixels and the best possible curve; 0 is best.

    Example: `fg-depth evaluate uncertainty --data middlebury2006 --figures plots`
    """
    from fg_depth_ros.data.datasets.stereo import motorcycle as motorcycle_pair
    from fg_depth_ros.data.datasets.stereo import open_stereo_sets
    from fg_depth_ros.evaluation.reports import plots
    from fg_depth_ros.evaluation.uncertainty import FACTORS, FRACTIONS, collect, report_uncertainty
    from fg_depth_ros.files import atomic_write

    if not (data or motorcycle):
        raise typer.BadParameter("nothing to evaluate on: give --data")
    sets = {"Motorcycle": [motorcycle_pair()]} if motorcycle else {}
    sets.update(open_stereo_sets(data, **topics().given()))
    estimator = stereo_estimator("flownet_stereo", weights, device, engine, precision)
    found = {name: collect(estimator, progress(samples, name, len(samples))) for name, samples in sets.items()}
    report = report_uncertainty(found, identity(estimator))
    for row in report.rows:
        row |= _ran(estimator)
    print_table(report, ["within_1_sigma", "within_2_sigma", "ause"])
    save(report, json)
    if figures is not None:
        curves = {
            name: {score: one.sparsification(values) for score, values in one.scores.items()}
            | {"best possible": one.sparsification()}
            for name, one in found.items()
        }
        for file, png in {
            "reliability": plots.reliability({name: one.coverage() for name, one in found.items()}, FACTORS),
            "sparsification": plots.sparsification(curves, FRACTIONS),
        }.items():
            with atomic_write(figures / f"{file}.png") as unfinished:
                unfinished.write_bytes(png)
            say(str(figures / f"{file}.png"))
    say_engine_failures(estimator)


def _evaluate(
    task: Task, sets: Mapping[str, Any], methods: Mapping[str, Any], sheets: Path | None, json: Path | None
) -> Report:
    """Evaluate methods and print and save the report, whose model is that of the first method."""
    from fg_depth_ros.evaluation.task import evaluate

    estimators = {name: _estimator_of(method) for name, method in methods.items()}
    report = evaluate(task, sets, methods, sheets=sheets)
    # Afterwards: with the engines that ran to the end.
    report.model |= identity(next(iter(estimators.values())))
    for row in report.rows:
        if not row.get("published"):
            row |= _ran(estimators[row["method"]])
    print_table(report, [name for name in task.columns if any(name in row["metrics"] for row in report.rows)])
    save(report, json)
    ran: dict[int, str] = {}
    for name, one in estimators.items():
        if one.engine:
            ran.setdefault(id(one.runner), f"{name}: {one.engine} {one.precision}")
    if ran:
        say("; ".join(ran.values()), "dim")
    say_engine_failures(*estimators.values())
    for note in task.notes:
        console.print(note, style="dim")
    return report


def _estimator_of(method: Any) -> Any:
    """Return the estimator that a line of the table stands for."""
    return next((getattr(method, name) for name in ("matcher", "estimator") if hasattr(method, name)), method)


def _ran(estimator: Any) -> dict[str, str | None]:
    return {name: identity(estimator)[name] for name in ("engine", "precision")}


def _networks(models: Sequence[str], weights: Sequence[str], default: Iterable[str]) -> list[tuple[str, str]]:
    """Pair models with weights: each file with its own model, the other models that were named with the shipped.

    ``default``: models of which those that come with weights are taken where nothing is named.
    """
    from fg_depth_ros.networks import has_weights, load_checkpoint

    if not models and not weights:
        return [(name, "") for name in default if has_weights(name)]
    owners = {load_checkpoint(path)[1].name for path in weights}
    others = (name for name in dict.fromkeys(models) if name not in owners)
    return [*(("", path) for path in weights), *((name, "") for name in others)]


def _estimators(chosen: Sequence[tuple[str, str]], build: Callable[[str, str], Any]) -> dict[str, Any]:
    """Build estimators of (model, weights), by the name of their line: the model, told apart by the file."""
    several = sum(bool(path) for _, path in chosen) > 1
    found: dict[str, Any] = {}
    for name, path in chosen:
        estimator = build(name, path)
        line = f"{estimator.model_name} {Path(path).stem}" if several and path else estimator.model_name
        found[f"{estimator.model_name} {path}" if line in found else line] = estimator
    return found


def _with_protocol(samples: list[DepthSample], crop: str, max_depth: float) -> list[DepthSample]:
    """Replace the protocol of samples; it is then none that is published."""
    given: dict[str, Any] = {"crop": crop} if crop else {}
    if max_depth:
        given["max_depth"] = max_depth
    return [
        sample if replace(sample.protocol, **given) == sample.protocol
        else replace(sample, protocol=replace(sample.protocol, name="", **given))
        for sample in samples
    ]  # fmt: skip
