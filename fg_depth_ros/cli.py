"""``fg-depth``: the package's command line. Every command imports what it needs when it runs."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from fg_depth_ros.evaluation import Report
    from fg_depth_ros.evaluation.stereo import Aggregate
    from fg_depth_ros.inference import StereoDepthEstimator

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Learned stereo depth for ROS 2.")
train_app = typer.Typer(no_args_is_help=True, help="Train networks.")
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure accuracy on data sets.")
synth_app = typer.Typer(no_args_is_help=True, help="Make synthetic data.")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(synth_app, name="synth")

console = Console()

_BENCH_TABLES = {
    "speed": ["latency_p50_ms", "latency_p95_ms", "throughput_hz", "memory_mib", "device_memory_mib"],
    "node": [
        "pairs_sent",
        "pairs_delivered",
        "pairs_unaccounted",
        "published_p50_ms",
        "inference_p50_ms",
        "overhead_p50_ms",
    ],
}

Model = Annotated[str, typer.Option(help="flownet_stereo or sgbm.")]
Weights = Annotated[str, typer.Option(help="Weights file; default: the shipped weights.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda:N.")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the report here (docs/report_schema.md).")]
Scale = Annotated[float, typer.Option(help="Resize by this for matching; below 1 reaches larger disparities.")]
MinDisparity = Annotated[int, typer.Option(help="Where the search begins, px; -doffs reaches infinity.")]
Photos = Annotated[list[Path], typer.Option(help="Folder of pictures for the surfaces; may be repeated.")]


@app.command()
def demo(
    model: Model = "flownet_stereo",
    pairs: Annotated[str, typer.Option(help="Folder of your own pairs; default: the Motorcycle pair.")] = "motorcycle",
    seconds: Annotated[float, typer.Option(help="How long each model runs.")] = 8.0,
    rate: Annotated[float, typer.Option(help="Pairs per second.")] = 3.0,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("fg_depth_demo.png"),
    width: Annotated[int, typer.Option(help="Resize the pairs to this width; 0 = as they are.")] = 0,
    weights: Weights = "",
    json: Json = None,
) -> None:
    """Play a real pair into the node over ROS topics, and judge the depth that comes out."""
    from fg_depth_ros.nodes.demo import run_demo

    raise typer.Exit(run_demo(model, pairs, seconds, rate, out, json, weights=weights, width=width, console=console))


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
    from fg_depth_ros.data.calibration import read_calibration
    from fg_depth_ros.data.datasets import StereoSample, open_stereo_folder
    from fg_depth_ros.data.formats import FileError, image_size
    from fg_depth_ros.evaluation.results import write_disparity, write_estimate

    if (pairs is None) == (left is None or right is None):
        raise typer.BadParameter("give two images, or --pairs FOLDER")
    if pairs is not None:
        samples = open_stereo_folder(pairs)
    else:
        assert left is not None and right is not None
        rig = read_calibration(calib, *image_size(left)) if calib else None
        samples = [StereoSample(left.stem, left, right, rig)]
    estimator = _estimator(
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
    from fg_depth_ros.data import datasets
    from fg_depth_ros.evaluation import StereoMethod, evaluate_stereo
    from fg_depth_ros.geometry import complete_occluded, fill_holes_kitti

    sets = {"Motorcycle": [datasets.motorcycle()]} if motorcycle else {}
    sets.update(datasets.open_stereo_sets(data))
    methods = {}
    for path in weights or [""]:
        estimator = _estimator(model, path, device, precision, inference_scale=scale)
        name = estimator.model_name + (f" {Path(path).stem}" if len(weights) > 1 else "")
        if model == "sgbm":
            continue  # stands in the table anyway
        methods[name] = StereoMethod(estimator, fill=complete_occluded)
        methods[f"{name} raw"] = StereoMethod(estimator)
    sgbm = _estimator("sgbm")
    first = next(iter(methods.values())).matcher if methods else sgbm
    methods |= {"SGBM filled": StereoMethod(sgbm, fill=fill_holes_kitti), "SGBM unfilled": StereoMethod(sgbm)}
    report = evaluate_stereo(
        sets,
        methods,
        aggregate=cast("Aggregate", aggregate),
        model=_identity(first),
        sheets=sheets,
        console=Console(stderr=True),
    )
    columns = ["epe", "bad_1", "bad_2", "bad_3", "d1", "density", "abs_rel", "seconds"]
    console.print(report.table(columns))
    _save(report, json)
    console.print("all pixels with truth; no answer counts as wrong; EPE over answered pixels", style="dim")


@app.command()
def bench(
    model: Annotated[list[str], typer.Option(help="Model; may be repeated.")] = ["flownet_stereo", "sgbm"],
    size: Annotated[list[str], typer.Option(help="WIDTHxHEIGHT; may be repeated.")] = ["640x480"],
    precision: Annotated[list[str], typer.Option(help="Precision; may be repeated.")] = ["float32"],
    repeats: Annotated[int, typer.Option(help="Timed runs of each.")] = 20,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 = all cores.")] = 0,
    node: Annotated[bool, typer.Option(help="Also measure the node over ROS topics.")] = False,
    weights: Weights = "",
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Latency, throughput and memory of models; with --node the overhead of the node over DDS."""
    from fg_depth_ros.evaluation.bench import bench_models

    sizes = [_size(text) for text in size]
    report = bench_models(model, sizes, precision, repeats, weights=weights, device=device, threads=threads)
    if node:
        from fg_depth_ros.nodes.bench_node import bench_node

        for name in model:
            for one in sizes:
                measured = bench_node(name, one, weights=weights if name != "sgbm" else "", device=device)
                report.rows += measured.rows
    for kind, columns in _BENCH_TABLES.items():
        rows = [row for row in report.rows if row["kind"] == kind]
        if rows:
            shown = dataclasses.replace(report, rows=rows)
            console.print(shown.table([c for c in columns if c in rows[0]["metrics"]], title=f"bench: {kind}"))
    _save(report, json)


@app.command()
def doctor() -> None:
    """Check this machine: versions, device, weights, ROS, the transport for large images."""
    from fg_depth_ros.evaluation.report import software_versions
    from fg_depth_ros.inference import ModelError, StereoDepthEstimator

    for name, version in software_versions().items():
        console.print(f"{name:28} {version}", highlight=False)
    healthy = True
    try:
        estimator = StereoDepthEstimator()
        console.print(f"{'weights':28} {estimator.model_name} {estimator.model_sha256[:12]} on {estimator.device}")
    except ModelError as error:
        healthy = False
        console.print(f"[red]weights: {error}[/]")
    try:
        from fg_depth_ros.nodes.environment import describe_environment

        for name, value in describe_environment().items():
            console.print(f"{name:28} {value}", highlight=False)
    except ImportError as error:
        healthy = False
        console.print(f"[red]ROS: {error}; source a ROS installation, or install the extra 'ros'[/]")
    raise typer.Exit(0 if healthy else 1)


@synth_app.command("stereo")
def synth_stereo(
    out: Annotated[Path, typer.Option(help="Folder for left/, right/, disp/ and occluded/.")],
    photos: Photos = [],
    count: Annotated[int, typer.Option(help="Number of pairs.")] = 10,
    width: int = 512,
    height: int = 256,
    seed: int = 0,
    patterns: Annotated[int, typer.Option(help="Procedural textures beside the photos.")] = 160,
) -> None:
    """Write synthetic pairs with exact disparity (16-bit PNG, px / 256) and occlusion masks."""
    from rich.progress import track

    from fg_depth_ros.data.formats import write_image, write_kitti_disparity
    from fg_depth_ros.data.synthetic import StereoSceneGenerator
    from fg_depth_ros.data.textures import TextureAtlas, list_photos

    atlas = TextureAtlas.build(list_photos(photos), patterns, seed=seed)
    generator = StereoSceneGenerator(atlas, width, height, seed)
    for folder in ("left", "right", "disp", "occluded"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i in track(range(count), "rendering", console=Console(stderr=True)):
        pair, name = generator.batch([i]), f"{i:06d}.png"
        write_image(out / "left" / name, pair.left[0].permute(1, 2, 0).numpy())
        write_image(out / "right" / name, pair.right[0].permute(1, 2, 0).numpy())
        write_kitti_disparity(out / "disp" / name, pair.disparity[0, 0].numpy())
        write_image(out / "occluded" / name, pair.occluded[0, 0].numpy().astype("uint8") * 255)
    console.print(f"{count} pairs in {out}", highlight=False)


@train_app.command("stereo")
def train_stereo_command(
    out: Annotated[Path, typer.Option(help="Folder for weights, state and logs; a run found there goes on.")],
    photos: Photos = [],
    hours: Annotated[float, typer.Option(help="Length in hours of training time, kept over restarts.")] = 0.0,
    steps: Annotated[int, typer.Option(help="Length in steps; with --hours the earlier end counts.")] = 0,
    model: Annotated[str, typer.Option(help="Network to train.")] = "flownet_stereo",
    weights: Annotated[str, typer.Option(help="Weights to start from (name or file); default: fresh.")] = "",
    width: int = 448,
    height: int = 224,
    batch: Annotated[int, typer.Option(help="Pairs per process and step, even.")] = 4,
    learning_rate: float = 1e-3,
    seed: int = 0,
    patterns: Annotated[int, typer.Option(help="Procedural textures beside the photos.")] = 160,
    precision: Annotated[str, typer.Option(help="32, bf16-mixed or 16-mixed.")] = "32",
    workers: Annotated[int, typer.Option(help="Rendering processes (CPU); a GPU renders by itself.")] = 1,
    validate_minutes: Annotated[float, typer.Option(help="Minutes between validations.")] = 10.0,
    real: Annotated[
        list[Path], typer.Option(help="Folder of real pairs to watch (not trained on); may be repeated.")
    ] = [],
) -> None:
    """Train the stereo network on synthetic scenes; resumable, and several processes under torchrun."""
    from fg_depth_ros.data.datasets import open_stereo_sets
    from fg_depth_ros.evaluation.stereo import watch_stereo
    from fg_depth_ros.training.stereo import StereoTraining, train_stereo

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = StereoTraining(
        out=str(out), photos=tuple(map(str, photos)), hours=hours, steps=steps, model=model, weights=weights,
        width=width, height=height, batch=batch, learning_rate=learning_rate, seed=seed, patterns=patterns,
        precision=precision, workers=workers, validate_minutes=validate_minutes,
    )  # fmt: skip
    watch = watch_stereo(open_stereo_sets(real)) if real else None
    console.print(str(train_stereo(config, watch)))


def _estimator(
    model: str, weights: str = "", device: str = "auto", precision: str = "float32", **options: float
) -> StereoDepthEstimator:
    from fg_depth_ros.inference import EstimatorConfig, StereoDepthEstimator

    return StereoDepthEstimator(
        EstimatorConfig(model=model, weights=weights, device=device, precision=precision, **options)  # type: ignore[arg-type]
    )


def _identity(estimator: object) -> dict[str, str | None]:
    from fg_depth_ros.inference import StereoDepthEstimator

    assert isinstance(estimator, StereoDepthEstimator)
    return {"name": estimator.model_name, "sha256": estimator.model_sha256 or None, "device": estimator.device}


def _save(report: Report, json: Path | None) -> None:
    if json is not None:
        report.write_json(json)
        console.print(f"report: {json}", highlight=False, soft_wrap=True)


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"size '{text}' is not WIDTHxHEIGHT, such as 640x480") from None
    return width, height


def main() -> None:
    """Entry point: errors that name their cause are one line, not a traceback."""
    try:
        app()
    except Exception as error:
        ours = type(error).__module__.startswith("fg_depth_ros.")
        if not ours and not isinstance(error, (ValueError, FloatingPointError)):
            raise  # a defect, not a user's mistake: show all of it
        console.print(Text(f"fg-depth: {error}", style="red"), soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
