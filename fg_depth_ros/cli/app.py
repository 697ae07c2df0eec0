"""The application that the commands belong to, and what they share."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from fg_depth_ros.evaluation import Report
    from fg_depth_ros.inference import StereoDepthEstimator

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Learned stereo depth for ROS 2.")
train_app = typer.Typer(no_args_is_help=True, help="Train networks.")
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure accuracy on data sets.")
synth_app = typer.Typer(no_args_is_help=True, help="Make synthetic data.")
bag_app = typer.Typer(no_args_is_help=True, help="Check and make bags.")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(synth_app, name="synth")
app.add_typer(bag_app, name="bag")

console = Console()

Model = Annotated[str, typer.Option(help="flownet_stereo or sgbm.")]
Weights = Annotated[str, typer.Option(help="Weights file; default: the shipped weights.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda:N.")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the report here (docs/report_schema.md).")]
Scale = Annotated[float, typer.Option(help="Resize by this for matching; below 1 reaches larger disparities.")]
MinDisparity = Annotated[int, typer.Option(help="Where the search begins, px; -doffs reaches infinity.")]
Photos = Annotated[list[Path], typer.Option(help="Folder of pictures for the surfaces; may be repeated.")]


def stereo_estimator(
    model: str, weights: str = "", device: str = "auto", precision: str = "float32", **options: float
) -> StereoDepthEstimator:
    """An estimator with these settings. Raises as ``EstimatorConfig`` and ``StereoDepthEstimator`` do."""
    from fg_depth_ros.inference import EstimatorConfig, StereoDepthEstimator

    return StereoDepthEstimator(
        EstimatorConfig(model=model, weights=weights, device=device, precision=precision, **options)  # type: ignore[arg-type]
    )


def identity(estimator: StereoDepthEstimator) -> dict[str, str | None]:
    """What a report says of the model."""
    return {"name": estimator.model_name, "sha256": estimator.model_sha256 or None, "device": estimator.device}


def save(report: Report, json: Path | None) -> None:
    """Write the report where ``--json`` wants it."""
    if json is not None:
        report.write_json(json)
        console.print(f"report: {json}", highlight=False, soft_wrap=True)


def check_folder(folder: Path) -> None:
    """Before long work: whether its results can be written there. Makes nothing; raises OSError where they cannot."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    code = errno.ENOTDIR if not there.is_dir() else 0 if os.access(there, os.W_OK | os.X_OK) else errno.EACCES
    if code:
        raise OSError(code, os.strerror(code), str(there))


def image_size_of(text: str) -> tuple[int, int]:
    """``640x480`` -> (640, 480)."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"size '{text}' is not WIDTHxHEIGHT, such as 640x480") from None
    return width, height
