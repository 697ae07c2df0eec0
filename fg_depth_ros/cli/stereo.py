"""``fg-depth infer`` and ``fg-depth evaluate stereo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from fg_depth_ros.cli.app import (
    Device,
    Json,
    MinDisparity,
    Model,
    Precision,
    Scale,
    Weights,
    app,
    console,
    evaluate_app,
    identity,
    save,
    stereo_estimator,
)

if TYPE_CHECKING:
    from fg_depth_ros.evaluation.stereo import Aggregate


@app.command()
def infer(
    left: Annotated[Path | None, typer.Argument(help="Left image of a rectified pair.")] = None,
    right: Annotated[Path | None, typer.Argument(help="Right image.")] = None,
    calib: Annotated[
        Path | None, typer.Option(help="Calibration (Middlebury, KITTI, ROS yaml pair, rig.json).")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="A whole folder of pairs instead.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("fg_depth_out"),
    model: Model = "flownet_stereo",
    weights: Weights = "",
    device: Device = "auto",
    precision: Precision = "float32",
    scale: Scale = 1.0,
    min_disparity: MinDisparity = 0,
    max_depth: Annotated[float, typer.Option(help="Farther pixels are out of range, m.")] = 80.0,
) -> None:
    """Disparity, depth, labels, pictures and a cloud of one pair or of a folder of pairs."""
    from fg_depth_ros.data.datasets.stereo import open_stereo_folder
    from fg_depth_ros.data.io.calibration import read_calibration
    from fg_depth_ros.data.io.formats import FileError, image_size
    from fg_depth_ros.data.samples import StereoSample
    from fg_depth_ros.evaluation.reports.results import write_disparity, write_estimate

    if (pairs is None) == (left is None or right is None):
        raise typer.BadParameter("give two images, or --pairs FOLDER")
    if pairs is not None:
        samples = open_stereo_folder(pairs)
    else:
        assert left is not None and right is not None
        rig = read_calibration(calib, *image_size(left)) if calib else None
        samples = [StereoSample(left.stem, left, right, rig)]
    estimator = stereo_estimator(
        model, weights, device, precision, inference_scale=scale, min_disparity=min_disparity, max_depth=max_depth
    )
    failed = 0
    for sample in samples:
        try:
            images = sample.images()
        except FileError as error:
            console.print(f"[red]skipped[/] {error}", highlight=False, soft_wrap=True)
            failed += 1
            continue
        if sample.rig is None:
            paths = write_disparity(estimator.disparity(*images), out, sample.name)
            note = "disparity only: no calibration (give --calib)"
        else:
            estimate = estimator.estimate(*images, sample.rig)
            paths = write_estimate(estimate, images[0], out, sample.name)
            note = f"{100 * estimate.mask.mean():.0f} % valid, {1000 * estimate.seconds:.0f} ms"
        console.print(f"{sample.name}: {len(paths)} files in {out} ({note})", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@evaluate_app.command("stereo")
def evaluate_stereo_command(
    data: Annotated[list[Path], typer.Option(help="Data set, or a folder of data sets; may be repeated.")] = [],
    model: Model = "flownet_stereo",
    weights: Annotated[list[str], typer.Option(help="Weights file; several are compared.")] = [],
    device: Device = "auto",
    precision: Precision = "float32",
    scale: Scale = 1.0,
    aggregate: Annotated[str, typer.Option(help="pooled (all pixels alike) or per_image.")] = "pooled",
    motorcycle: Annotated[bool, typer.Option(help="Also judge scikit-image's Motorcycle pair.")] = True,
    sheets: Annotated[Path | None, typer.Option(help="Folder for a picture per data set.")] = None,
    json: Json = None,
) -> None:
    """Learned stereo, SGBM with filled holes and SGBM with its density, on pairs with true disparity."""
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
    columns = ["epe", "bad_1", "bad_2", "bad_3", "d1", "density", "abs_rel", "seconds"]
    console.print(report.table(columns))
    save(report, json)
    console.print("all pixels with truth; no answer counts as wrong; EPE over answered pixels", style="dim")
