"""Commands that run the models, or prepare it: ``fg-depth demo``, ``infer``, ``rectify``, ``flow`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from fg_depth_ros.cli.app import (
    console,
    counted,
    flow_estimator,
    one_rig,
    progress,
    say,
    say_engine_failures,
    stereo_estimator,
)
from fg_depth_ros.cli.options import (
    AutoScale,
    Calibration,
    Device,
    Engine,
    FlowScale,
    Json,
    MinDepth,
    MinDisparity,
    Model,
    Precision,
    Settings,
    SideBySide,
    Weights,
    Without,
    file_to_write,
    folder_to_write,
    given_options,
    min_disparity_of,
    scale_of,
)
from fg_depth_ros.data.bags.topics import PairTopics

if TYPE_CHECKING:
    import numpy as np

    from fg_depth_ros.data.samples import StereoSample
    from fg_depth_ros.geometry import PairFault, StereoRig
    from fg_depth_ros.inference import StereoDepthEstimator

Out = Annotated[Path, typer.Option(callback=folder_to_write, help="Folder for the results.")]


def demo(
    model: Model = "flownet_stereo",
    pairs: Annotated[
        str, typer.Option(help="Your own pairs: a folder, a bag; default: the Motorcycle pair (docs/data.md).")
    ] = "motorcycle",
    side_by_side: SideBySide = False,
    seconds: Annotated[float, typer.Option(help="How long each model runs.")] = 8.0,
    rate: Annotated[float, typer.Option(help="Pairs per second.")] = 3.0,
    out: Annotated[Path, typer.Option(callback=file_to_write, help="The picture to write.")] = Path(
        "fg_depth_demo.png"
    ),
    width: Annotated[int, typer.Option(help="Resize the pairs to this width; 0 = as they are.")] = 0,
    world: Annotated[str, typer.Option(help="Play a virtual world with true depth instead: street or indoor.")] = "",
    weights: Weights = "",
    engine: Engine = "auto",
    precision: Precision = "auto",
    json: Json = None,
) -> None:
    """Play a real pair, or a virtual world, into the node over ROS topics, and evaluate the depth that comes out.

    Examples: `fg-depth demo`, `fg-depth demo --world street`, `fg-depth demo --pairs my_pairs --width 640`
    """
    from fg_depth_ros.apps.demo import run_demo

    code = run_demo(
        model, pairs, seconds, rate, out, json, weights=weights, width=width, world=world, side_by_side=side_by_side,
        engine=engine, precision=precision, console=console,
    )  # fmt: skip
    raise typer.Exit(code)


def infer(
    topics: Settings[PairTopics],
    context: typer.Context,
    first: Annotated[
        str | None,
        typer.Argument(
            metavar="PAIRS | LEFT",
            help="A folder of pairs, a bag, a video, or motorcycle (a real pair); or the left image of one pair.",
        ),
    ] = None,
    second: Annotated[str | None, typer.Argument(metavar="RIGHT", help="The right image of one pair.")] = None,
    calib: Calibration = None,
    pairs: Annotated[
        Path | None, typer.Option(help="The pairs as an option; the arguments are then topics of the images in a bag.")
    ] = None,
    side_by_side: SideBySide = False,
    out: Out = Path("fg_depth_out"),
    model: Model = "flownet_stereo",
    weights: Weights = "",
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    scale: AutoScale = "1",
    min_disparity: MinDisparity = "auto",
    min_depth: MinDepth = 0.1,
    max_depth: Annotated[float, typer.Option(help="Farther pixels are out of range, m.")] = 80.0,
) -> None:
    """Write disparity, depth, labels, pictures and a cloud of one pair, a folder of pairs, a video or a bag.

    Examples: `fg-depth infer left.png right.png --calib calib.txt`, `fg-depth infer my_pairs --out results`,
    `fg-depth infer zed.mp4 --side-by-side`
    """
    from fg_depth_ros.files import FileError, WriteError

    chosen, matched_at, least = topics(), scale_of(scale), min_disparity_of(min_disparity)
    of_bags = given_options(context, [name for name in vars(chosen) if name != "rectify"])
    samples = _pairs_of(first, second, pairs, calib, side_by_side, chosen, of_bags)
    estimator = stereo_estimator(
        model, weights, device, engine, precision, inference_scale=matched_at,
        min_disparity=least, min_depth=min_depth, max_depth=max_depth,
    )  # fmt: skip
    failed, warm = 0, set[tuple[int, int]]()
    for sample in samples:
        try:
            outcome = _write_pair(estimator, sample, out, warm)
        except WriteError:
            raise
        except (ValueError, ArithmeticError, RuntimeError) as error:  # the other pairs are still done
            if len(samples) == 1 and isinstance(error, FileError):
                raise
            say(f"{sample.name}: skipped: {error}", "red")
            failed += 1
            continue
        say(f"{sample.name}: {len(outcome.paths)} files in {out} ({outcome.note})")
        if (problem := _problem_of(sample, outcome)) is not None:
            say(f"{sample.name}: {problem}", "yellow")
    say_engine_failures(estimator)
    if failed:
        raise typer.Exit(1)


class _PairOutcome(NamedTuple):
    """What ``infer`` wrote of a pair, and what is wrong with it."""

    images: tuple[np.ndarray, np.ndarray]
    paths: list[Path]
    note: str
    fault: PairFault | None
    low_density: str | None  # why hardly any pixel has depth


def _write_pair(
    estimator: StereoDepthEstimator, sample: StereoSample, out: Path, warm: set[tuple[int, int]]
) -> _PairOutcome:
    """Estimate a pair and write the results; ``warm``: sizes, px, that the estimator is warmed up for."""
    from fg_depth_ros.evaluation.reports.results import write_disparity, write_estimate
    from fg_depth_ros.geometry import photometric_support

    images = sample.images()
    if sample.rig is None:
        disparity = estimator.disparity(*images)
        fault = photometric_support(*images, disparity).fault
        paths = write_disparity(disparity, out, sample.name)
        return _PairOutcome(images, paths, "disparity only: no calibration (give --calib)", fault, None)
    if (size := (sample.rig.width, sample.rig.height)) not in warm:
        estimator.warm_up_for(sample.rig)  # so that the time is that of the pair, without compiling
        warm.add(size)
    estimate = estimator.estimate(*images, sample.rig)
    low_density = estimate.explain_low_density() if estimate.low_density else None
    paths = write_estimate(estimate, images[0], out, sample.name)
    note = f"{100 * estimate.mask.mean():.0f} % valid, {_timing(estimator, estimate.seconds)}"
    return _PairOutcome(images, paths, note, estimate.fault, low_density)


def _problem_of(sample: StereoSample, outcome: _PairOutcome) -> str | None:
    """Return what is wrong with a pair, and what to do; None where nothing is."""
    from fg_depth_ros.geometry.features import features_tell_more, match_features

    if features_tell_more(outcome.fault):
        problem = match_features(*outcome.images, sample.rig.doffs if sample.rig else 0.0).problem
        if problem is not None:
            return problem
    if outcome.fault is not None:
        return f"{outcome.fault}: {outcome.fault.explanation}"
    return outcome.low_density


def _pairs_of(
    first: str | None, second: str | None, pairs: Path | None, calib: Path | None, side_by_side: bool,
    topics: PairTopics, of_bags: list[str],
) -> list[StereoSample]:  # fmt: skip
    """Open what the arguments of ``infer`` name; ``of_bags``: options that were given and make sense for bags alone.

    Raises typer.BadParameter, saying what was given and what to do, where that is no pair. Raises as ``open_stereo``.
    """
    from fg_depth_ros.data.bags.files import is_bag
    from fg_depth_ros.data.datasets.stereo import open_pair, open_stereo

    named = {side: topic for side, topic in (("left", first), ("right", second)) if topic is not None}
    if pairs is not None:
        if named and not is_bag(pairs):
            others = " and ".join(named.values())
            raise typer.BadParameter(
                f"--pairs {pairs} is no bag, whose topics {others} could name: leave one of them out"
            )
        return open_stereo(pairs, calib, side_by_side=side_by_side, **topics.given() | named)
    if first is None:
        raise typer.BadParameter(
            "give a folder of pairs, a bag, two images, or, with --side-by-side, one image or video"
        )
    place = Path(first)
    if second is None:
        if place.is_file() and not side_by_side and not is_bag(place):
            raise typer.BadParameter(
                f"{first} is one file, and a pair is two: give the right image after it, or, where its left half is "
                "the left view, --side-by-side"
            )
        return open_stereo(place, calib, side_by_side=side_by_side, **topics.given())
    if side_by_side:
        raise typer.BadParameter("--side-by-side is for one image or video with both views: leave it out")
    if place.is_dir() or (place.exists() and is_bag(place)):
        raise typer.BadParameter(f"{first} is no image: give two images, or leave {second} out")
    if of_bags:
        verb, them = ("is", "it") if len(of_bags) == 1 else ("are", "them")
        raise typer.BadParameter(f"{', '.join(of_bags)} {verb} for bags: leave {them} out with two images")
    return [open_pair(place, Path(second), calib, rectify=topics.rectify)]


def rectify(
    pairs: Annotated[Path, typer.Argument(help="Raw pairs: a folder, a bag, or with --side-by-side one file.")],
    topics: Annotated[Settings[PairTopics], Without(["rectify"])],
    out: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder for left/, right/, left.yaml and right.yaml.")
    ],
    calib: Calibration = None,
    side_by_side: SideBySide = False,
) -> None:
    """Write rectified pairs (PNG; 16 bits stay) and the camera_info of both cameras, by a calibration of the raw ones.

    Examples: `fg-depth rectify raw_pairs --calib camchain.yaml --out pairs`,
    `fg-depth rectify zed.mp4 --side-by-side --calib SN1234.conf --out pairs`
    """
    from fg_depth_ros.data.datasets.stereo import open_stereo
    from fg_depth_ros.data.io.calibration import write_camera_files
    from fg_depth_ros.data.io.formats import write_image
    from fg_depth_ros.files import FileError, atomic_write

    if out.resolve() == pairs.resolve():
        raise ValueError(f"--out {out} is where the raw pairs are, and they would be lost: name another folder")
    samples = open_stereo(pairs, calib, side_by_side=side_by_side, **{**topics().given(), "rectify": "on"})
    rig = one_rig(samples, pairs, "a rectified pair")
    _refuse_others(out, samples, rig)
    write_camera_files(out, rig)  # first: they tell a repeated run that the folder is its own
    failed = 0
    for sample in progress(samples, "rectifying"):
        try:
            images = sample.unscaled_images()
        except FileError as error:  # the other pairs are still done
            say(f"{sample.name}: skipped: {error}", "red")
            failed += 1
            continue
        for side, image in zip(("left", "right"), images, strict=True):
            with atomic_write(out / side / f"{sample.name}.png", sync=False) as unfinished:
                write_image(unfinished, image)
    say(
        f"{counted(len(samples) - failed, 'pair')} in {out}: {rig.width}x{rig.height} px, fx {rig.fx:.1f} px, baseline "
        f"{rig.baseline:.4f} m"
    )
    if failed:
        raise typer.Exit(1)


def _refuse_others(out: Path, samples: Sequence[StereoSample], rig: StereoRig) -> None:
    """Raise FileError where the folder holds other pairs, or another camera; what the same run began may be there."""
    from fg_depth_ros.data.io.calibration import camera_files
    from fg_depth_ros.files import FileError, refuse_present

    own: set[str] = set()
    for name, text in camera_files(rig).items():
        if (out / name).is_file():
            if (out / name).read_bytes() != text.encode():
                raise FileError(
                    f"{out / name}: is of another camera; name another folder, or remove what this one holds"
                )
            own = {f"{sample.name}.png" for sample in samples}
    refuse_present(out / "left", "other pictures", own=own)


def _timing(estimator: Any, seconds: float) -> str:
    runs = f" ({estimator.engine}, {estimator.precision})" if estimator.engine else ""
    return f"{1000 * seconds:.0f} ms{runs}"


def flow(
    first: Annotated[Path, typer.Argument(help="First frame.")],
    second: Annotated[Path, typer.Argument(help="Second frame.")],
    out: Out = Path("fg_depth_out"),
    model: Annotated[
        str,
        typer.Option(help="Network, dis, farneback, lucas_kanade, horn_schunck; default: flownet_lite, or --weights'."),
    ] = "",
    weights: Weights = "",
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    scale: FlowScale = 1.0,
    variational: Annotated[bool, typer.Option("--variational", help="Refine the flow (+v).")] = False,
) -> None:
    """Write the optical flow between two frames: .flo, KITTI's 16-bit PNG, and a picture in Middlebury's colours.

    Example: `fg-depth flow frame_10.png frame_11.png --model dis`
    """
    from fg_depth_ros.data.samples import FlowSample
    from fg_depth_ros.evaluation.reports.results import write_flow

    frames = FlowSample(first.stem, first, second).images()
    estimator = flow_estimator(model, weights, device, engine, precision, scale, variational)
    height, width = frames[0].shape[:2]
    estimator.warm_up(width, height)  # so that the time is that of the frames, without compiling
    estimate = estimator.estimate(*frames)
    paths = write_flow(estimate.flow, out, first.stem)
    note = f"{estimator.model_name}{' +v' if variational else ''}, {_timing(estimator, estimate.seconds)}"
    say(f"{', '.join(path.name for path in paths)} in {out} ({note})")
    say_engine_failures(estimator)


def doctor() -> None:
    """Check this machine: versions, device, engines, weights, ROS, the transport for large images.

    Example: `fg-depth doctor`
    """
    from fg_depth_ros.evaluation.reports.report import software_versions
    from fg_depth_ros.inference import FlowConfig, MonoConfig, StereoConfig
    from fg_depth_ros.inference.engines.cache import cache_folder
    from fg_depth_ros.inference.engines.selection import INSTALLABLE as ENGINES
    from fg_depth_ros.inference.engines.selection import select_engine
    from fg_depth_ros.inference.estimator import choose_device
    from fg_depth_ros.networks import MODELS, CheckpointError, has_weights, load_model

    for name, version in software_versions().items():
        say(f"{name:28} {version}")
    healthy = True
    device = choose_device("auto")
    say(f"{'device':28} {device}")
    defaults = (config().model for config in (StereoConfig, FlowConfig, MonoConfig))
    for name in dict.fromkeys([*defaults, *filter(has_weights, MODELS)]):
        try:
            network, card = load_model(name)
            selection = select_engine("auto", "auto", device, int8=bool(getattr(network, "int8_ranges", None)))
            engine = f"{selection.engine.name} {selection.precision}"
            say(f"{name:28} weights {card.sha256[:12]}, runs on {engine} ({selection.reason})")
        except CheckpointError as error:
            healthy = False
            say(f"weights: {error}", "red")
    for known in ENGINES.values():
        state = known.missing() or ", ".join(known.precisions(device)) or f"does not run on {device}"
        say(f"{f'engine {known.name}':28} {state}")
    if (problem := select_engine("auto", "auto", device).problem) is not None:
        say(problem, "red")
    say(f"{'engine cache':28} {cache_folder()}")
    try:
        from fg_depth_ros.nodes.common.environment import describe_environment, domain_problem

        for name, value in describe_environment().items():
            say(f"{name:28} {value}")
        if problem := domain_problem():
            healthy = False
            say(problem, "red")
    except ImportError as error:
        healthy = False
        say(f"ROS: {error}; source a ROS installation, or install the extra 'ros'", "red")
    raise typer.Exit(0 if healthy else 1)
