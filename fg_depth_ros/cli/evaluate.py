"""Commands that measure accuracy on data sets: ``fg-depth evaluate stereo``, ``flow`` and ``depth``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from fg_depth_ros.cli.app import console, flow_estimator, identity, print_table, save, stereo_estimator
from fg_depth_ros.cli.options import (
    Device,
    FlowScale,
    Json,
    Model,
    Photos,
    Precision,
    Scale,
    Sheets,
    image_size_of,
)

if TYPE_CHECKING:
    from fg_depth_ros.data.samples import DepthSample
    from fg_depth_ros.evaluation.task import Aggregate
    from fg_depth_ros.inference import FlowEstimator, MonoDepthEstimator

_STEREO_COLUMNS = ["epe", "bad_1", "bad_2", "bad_3", "d1", "density", "abs_rel", "seconds"]
_FLOW_COLUMNS = [
    "epe", "epe_noc", "epe_occ", "epe_below_10", "epe_10_40", "epe_above_40", "fl_all", "angular", "seconds",
]  # fmt: skip
_DEPTH_COLUMNS = [
    "abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3", "depth_density", "seconds",
]  # fmt: skip


def stereo(
    data: Annotated[list[Path], typer.Option(help="Data set, or a folder of data sets; may be repeated.")] = [],
    model: Model = "flownet_stereo",
    weights: Annotated[list[str], typer.Option(help="Weights file; several are compared.")] = [],
    device: Device = "auto",
    precision: Precision = "float32",
    scale: Scale = 1.0,
    aggregate: Annotated[str, typer.Option(help="pooled (all pixels alike) or per_image.")] = "pooled",
    motorcycle: Annotated[bool, typer.Option(help="Also judge scikit-image's Motorcycle pair.")] = True,
    sheets: Sheets = None,
    json: Json = None,
) -> None:
    """Evaluate learned stereo, SGBM with filled holes and SGBM with its density, on pairs with true disparity.

    Example: `fg-depth evaluate stereo --data kitti2015 --data middlebury2006 --sheets pictures`
    """
    from fg_depth_ros.data.datasets import stereo as datasets
    from fg_depth_ros.evaluation import StereoMethod, evaluate_stereo
    from fg_depth_ros.geometry import complete_occluded, fill_holes_kitti

    sets = {"Motorcycle": [datasets.motorcycle()]} if motorcycle else {}
    sets.update(datasets.open_stereo_sets(data))
    methods: dict[str, StereoMethod] = {}
    learned = sgbm = stereo_estimator("sgbm")
    for path in weights or [""]:
        estimator = stereo_estimator(model, path, device, precision, inference_scale=scale)
        name = estimator.model_name + (f" {Path(path).stem}" if len(weights) > 1 else "")
        if model == "sgbm":
            continue  # stands in the table anyway
        learned = estimator if learned is sgbm else learned
        methods[name] = StereoMethod(estimator, fill=complete_occluded)
        methods[f"{name} raw"] = StereoMethod(estimator)
    methods |= {"SGBM filled": StereoMethod(sgbm, fill=fill_holes_kitti), "SGBM unfilled": StereoMethod(sgbm)}
    report = evaluate_stereo(
        sets,
        methods,
        aggregate=cast("Aggregate", aggregate),
        model=identity(learned),
        sheets=sheets,
        console=Console(stderr=True),
    )
    print_table(report, _STEREO_COLUMNS)
    save(report, json)
    console.print("all pixels with truth; no answer counts as wrong; EPE over answered pixels", style="dim")


def flow(
    data: Annotated[list[Path], typer.Option(help="Data set, or a folder of data sets; may be repeated.")],
    model: Annotated[
        list[str],
        typer.Option(
            help="Network or classical method; may be repeated; default: the classical ones and what has weights."
        ),
    ] = [],
    weights: Annotated[
        list[str], typer.Option(help="Weights file, instead of the shipped weights; several are compared.")
    ] = [],
    variational: Annotated[
        bool, typer.Option("--variational", help="Also judge every method with its answer refined (+v).")
    ] = False,
    device: Device = "auto",
    precision: Precision = "float32",
    scale: FlowScale = 1.0,
    split: Annotated[str, typer.Option(help="Of Flying Chairs: all, train or test.")] = "all",
    sheets: Sheets = None,
    json: Json = None,
) -> None:
    """Evaluate learned and classical flow, on pairs with true flow, in one table.

    Example: `fg-depth evaluate flow --data Sintel/training --model flownet_lite --model dis`
    """
    from fg_depth_ros.data.datasets.flow import open_flow_sets
    from fg_depth_ros.evaluation import evaluate_flow
    from fg_depth_ros.inference.config import CLASSICAL_FLOW
    from fg_depth_ros.networks import FLOW_MODELS, has_weights

    sets = open_flow_sets(data, split)
    shipped = [] if weights else [name for name in FLOW_MODELS if has_weights(name)]
    names = list(dict.fromkeys(model)) or [*shipped, *CLASSICAL_FLOW]
    networks = [name for name in names if name not in CLASSICAL_FLOW]
    if weights:  # each in place of the network it is of; without a network named, whichever it is of
        chosen = [(networks[0] if len(networks) == 1 else "", path) for path in weights]
    else:
        chosen = [(name, "") for name in networks]
    chosen += [(name, "") for name in names if name in CLASSICAL_FLOW]
    methods: dict[str, FlowEstimator] = {}
    for name, path in chosen:
        estimator = flow_estimator(name, path, device, precision, scale)
        line = estimator.model_name + (f" {Path(path).stem}" if len(weights) > 1 and path else "")
        line = f"{estimator.model_name} {path}" if line in methods else line
        methods[line] = estimator
        if variational:
            methods[f"{line} +v"] = estimator.refined()
    report = evaluate_flow(
        sets,
        methods,
        model=identity(next(iter(methods.values()))),
        sheets=sheets,
        console=Console(stderr=True),
    )
    print_table(report, _FLOW_COLUMNS)
    save(report, json)
    console.print(
        "EPE in px over all pixels with truth; noc, occ: shown and not shown by the second frame; <10 ... >40: by the "
        "length of the true flow in px; Fl: off by more than 3 px and 5 %; AE: angular error",
        style="dim",
    )


def depth(
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
        Path | None, typer.Option(help="data_depth_annotated: KITTI's improved truth beside the sweeps.")
    ] = None,
    lidar: Annotated[
        str, typer.Option(help="How sweeps become truth: published (as in all tables), or camera.")
    ] = "published",
    split: Annotated[
        Path | None, typer.Option(help="Test frames of NYU: splits.mat or a text; default: splits.mat beside it.")
    ] = None,
    model: Annotated[
        list[str], typer.Option(help="Depth network; may be repeated; default: those with weights, or --weights'.")
    ] = [],
    weights: Annotated[
        list[str], typer.Option(help="Weights file, instead of the shipped weights; several are compared.")
    ] = [],
    stereo: Annotated[
        list[str], typer.Option(help="Stereo model beside, where there are pairs; may be repeated; none: without.")
    ] = ["flownet_stereo"],
    against: Annotated[
        str, typer.Option(help="Judge by this stereo model, where its two-way check holds, instead of by a truth.")
    ] = "",
    median: Annotated[
        bool, typer.Option("--median", help="Scale every answer to the truth by the medians first.")
    ] = False,
    crop: Annotated[str, typer.Option(help="none, garg or nyu; default: the set's own.")] = "",
    max_depth: Annotated[float, typer.Option(help="Truth from here on is not judged, m; default: the set's own.")] = 0,
    unit: Annotated[str, typer.Option(help="Of 16-bit depth PNG: kitti (1/256 m) or mm.")] = "kitti",
    fx: Annotated[float, typer.Option(help="Focal length of images without calibration, px.")] = 0,
    frames: Annotated[str, typer.Option(help="Part of every set, such as 80:112.")] = "",
    scenes: Annotated[int, typer.Option(help="Scenes of every --world.")] = 50,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the scenes.")] = "640x192",
    photos: Photos = [],
    patterns: Annotated[int, typer.Option(help="Drawn textures of the scenes beside the photos.")] = 160,
    aggregate: Annotated[
        str, typer.Option(help="per_image (mean of the images' measures, as Eigen's), or pooled.")
    ] = "per_image",
    device: Device = "auto",
    precision: Precision = "float32",
    sheets: Sheets = None,
    json: Json = None,
) -> None:
    """Evaluate depth from one image, and from stereo beside it, on images with true depth, in one table.

    Example: `fg-depth evaluate depth --data kitti2015_scene_flow --weights runs/drive/best.safetensors`
    """
    from fg_depth_ros.data.datasets.depth import open_depth_sets
    from fg_depth_ros.data.datasets.kitti_depth import open_eigen
    from fg_depth_ros.evaluation import PairMethod, against_stereo, evaluate_depth
    from fg_depth_ros.evaluation.depth import BAND_MEASURES, BANDS
    from fg_depth_ros.synthesis.textures import list_photos
    from fg_depth_ros.synthesis.world.samples import world_samples
    from fg_depth_ros.training.depth.pair_preparation import frames_of

    if not data and not world:
        raise typer.BadParameter("nothing to evaluate on: give --data or --world")
    if eigen is not None and len(data) != 1:
        raise typer.BadParameter(f"--eigen needs one --data, the folder of KITTI raw, and there are {len(data)}")
    if eigen is None and improved is not None:
        raise typer.BadParameter("--improved belongs to --eigen: give the list of frames")
    sets: dict[str, list[DepthSample]]
    if eigen is not None:
        sets = open_eigen(data[0], eigen, improved, cast("Any", lidar))
    else:
        sets = open_depth_sets(data, unit=cast("Any", unit), fx=fx, split=split)
    width, height = image_size_of(size)
    for kind in world:
        sets[f"world {kind}"] = world_samples(
            kind, scenes, width, height, photos=list_photos(photos), patterns=patterns, device=_device(device)
        )
    sets = {name: samples[frames_of(frames)] for name, samples in sets.items()}
    if crop or max_depth:
        sets = {name: _with_protocol(samples, crop, max_depth) for name, samples in sets.items()}
    if against:
        reference = stereo_estimator(against, device=device, precision=precision, **_TWO_WAY)
        by = f"by {reference.model_name}"
        sets = {f"{name} {by}": against_stereo(samples, reference) for name, samples in sets.items()}

    methods: dict[str, Any] = dict(_mono_methods(model, weights, device, precision))
    pairs = any(sample.pair is not None for samples in sets.values() for sample in samples)
    for name in stereo if pairs else []:
        if name not in ("none", against):
            estimator = stereo_estimator(name, device=device, precision=precision)
            methods[f"{name} (stereo)"] = PairMethod(estimator)
    if not methods:
        raise typer.BadParameter(
            "no method: no depth network comes with weights here, and there are no pairs for --stereo; give --weights "
            "('fg-depth distill' makes some)"
        )
    first = next(iter(methods.values()))
    report = evaluate_depth(
        sets,
        methods,
        median=median,
        aggregate=cast("Aggregate", aggregate),
        model=identity(getattr(first, "estimator", first)),
        sheets=sheets,
        console=Console(stderr=True),
    )
    print_table(report, [*_DEPTH_COLUMNS, "scale"] if median else _DEPTH_COLUMNS)
    ours = replace(report, rows=[row for row in report.rows if not row.get("published")])
    print_table(ours, [f"{name}_{near}_{far}" for name in BAND_MEASURES for near, far in BANDS], "by true distance, m")
    save(report, json)
    notes = ["errors over answered pixels; no answer is wrong in delta", aggregate]
    notes += ["answers scaled by the medians"] if median else []
    if len(ours.rows) < len(report.rows):
        notes.append("published: as their authors give them, on all 697 frames")
    console.print("; ".join(notes), style="dim")


_TWO_WAY: dict[str, Any] = {"left_right_check": "two_pass"}


def _device(device: str) -> str:
    from fg_depth_ros.inference.estimator import choose_device

    return str(choose_device(device))


def _with_protocol(samples: list[DepthSample], crop: str, max_depth: float) -> list[DepthSample]:
    """The same images under another protocol, which is then none that is published."""
    given: dict[str, Any] = {"crop": crop} if crop else {}
    if max_depth:
        given["max_depth"] = max_depth
    return [
        sample if replace(sample.protocol, **given) == sample.protocol
        else replace(sample, protocol=replace(sample.protocol, name="", **given))
        for sample in samples
    ]  # fmt: skip


def _mono_methods(models: list[str], weights: list[str], device: str, precision: str) -> dict[str, MonoDepthEstimator]:
    """Estimators by the name of their line; without any named, those that have weights."""
    from fg_depth_ros.inference import MonoConfig, MonoDepthEstimator
    from fg_depth_ros.networks import DEPTH_MODELS, has_weights

    names = list(dict.fromkeys(models))
    if weights:
        chosen = [(names[0] if len(names) == 1 else "", path) for path in weights]
    else:
        chosen = [(name, "") for name in names or [name for name in DEPTH_MODELS if has_weights(name)]]
    methods: dict[str, MonoDepthEstimator] = {}
    for name, path in chosen:
        estimator = MonoDepthEstimator(MonoConfig(name, path, device, precision))
        line = estimator.model_name + (f" {Path(path).stem}" if len(weights) > 1 else "")
        methods[f"{estimator.model_name} {path}" if line in methods else line] = estimator
    return methods
