"""``fg-depth distill``: a depth network for one camera, from stereo pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fg_depth_ros.cli.app import Photos, app, console, image_size_of

if TYPE_CHECKING:
    import numpy as np

    from fg_depth_ros.training.loop import Watch

_NEAR, _FAR = 3.0, 80.0  # m, ends of the colours in pictures


@app.command("distill")
def distill_command(
    out: Annotated[Path, typer.Option(help="Folder for weights, state and logs; a run found there goes on.")],
    data: Annotated[list[Path], typer.Option(help="Folder of calibrated pairs, or bag; may be repeated.")] = [],
    frames: Annotated[str, typer.Option(help="Part of every folder that is used, such as 0:80.")] = "",
    held_out: Annotated[
        str, typer.Option(help="Part of every folder to select the weights by; default: last tenth of --frames.")
    ] = "",
    test_frames: Annotated[
        str, typer.Option(help="Part of every folder that is evaluated beside; neither trained on nor selected by.")
    ] = "",
    world: Annotated[str, typer.Option(help="street, indoor or mixed: train on rendered scenes, too.")] = "",
    shape: Annotated[
        list[str], typer.Option(help="A further WIDTHxHEIGHT of scenes, by turns with --size; may be repeated.")
    ] = [],
    world_share: Annotated[float, typer.Option(help="Part of the samples that is rendered, beside folders.")] = 0.5,
    photos: Photos = [],
    cutouts: Annotated[list[Path], typer.Option(help="Folder of cut-outs for scenes; may be repeated.")] = [],
    left: Annotated[str, typer.Option(help="Topic of the left images in bags; default: found by name.")] = "",
    right: Annotated[str, typer.Option(help="Topic of the right images in bags.")] = "",
    slop: Annotated[float, typer.Option(help="Largest difference of stamps of a pair in bags, s.")] = 0.0,
    hours: Annotated[float, typer.Option(help="Length in hours of training time, kept over restarts.")] = 0.0,
    steps: Annotated[int, typer.Option(help="Length in steps; with --hours the earlier end counts.")] = 0,
    model: Annotated[str, typer.Option(help="depthnet_lite, depthnet_r18 or depthnet_r50.")] = "depthnet_lite",
    weights: Annotated[str, typer.Option(help="Weights to start from (name or file); default: fresh.")] = "",
    load_partial: Annotated[
        bool, typer.Option("--load-partial", help="Weights of other sizes or of a relative: take what fits.")
    ] = False,
    encoder: Annotated[str, typer.Option(help="Published ResNet weights for depthnet_r18/r50 to start with.")] = "",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the network's input, multiples of 32.")] = "640x192",
    focal: Annotated[
        float, typer.Option(help="Canonical focal length at --size, px; default: the camera's, or 0.6 of the width.")
    ] = 0.0,
    teacher: Annotated[
        str, typer.Option(help="Any model for stereo or flow; truth: the true depth that comes with the pairs.")
    ] = "flownet_stereo",
    teacher_weights: Annotated[str, typer.Option(help="Weights file of the teacher; default: the shipped ones.")] = "",
    teacher_scale: Annotated[
        float, typer.Option(help="The teacher sees the images resized by this; below 1 reaches larger disparities.")
    ] = 1.0,
    cache: Annotated[str, typer.Option(help="Folder for what the teacher says; default: OUT/teaching.")] = "",
    on_the_fly: Annotated[
        bool, typer.Option("--on-the-fly", help="Ask the teacher at every step instead of once beforehand.")
    ] = False,
    loss: Annotated[
        str, typer.Option(help="auto_mask, flow_mask, flow_mask_dr, flow_mask_fp or flow_mask_fd (the whole).")
    ] = "flow_mask_fd",
    photometric: Annotated[float, typer.Option(help="Weight of target against warped source; default: --loss's.")] = -1,
    regression: Annotated[float, typer.Option(help="Weight of L_dr.")] = -1,
    regression_of: Annotated[
        str, typer.Option(help="metres: L_dr as published, led by far depths; ratio: relative errors count.")
    ] = "metres",
    flow_photometric: Annotated[float, typer.Option(help="Weight of L_fp.")] = -1,
    smoothness: Annotated[float, typer.Option(help="Weight of the smoothness.")] = -1,
    scales: Annotated[int, typer.Option(help="Levels of the network that learn.")] = 1,
    self_distillation: Annotated[float, typer.Option(help="Weight of levels learning from the best one.")] = 0.0,
    max_depth: Annotated[float, typer.Option(help="Farther is not learned from, m; 0: any.")] = 80.0,
    max_disparity: Annotated[
        float, typer.Option(help="Larger is not learned from, px at 1024 px of width; 0: any.")
    ] = 80.0,
    left_right: Annotated[float, typer.Option(help="Largest difference between the views, px; 0: any.")] = 1.5,
    vertical: Annotated[float, typer.Option(help="Largest row component of the teacher's match, px; 0: any.")] = 1.0,
    graft: Annotated[bool, typer.Option(help="Data grafting.")] = True,
    zoom: Annotated[float, typer.Option(help="Largest factor that windows of samples are enlarged by.")] = 1.0,
    flips: Annotated[float, typer.Option(help="Probability that a sample is mirrored.")] = 0.5,
    batch: Annotated[int, typer.Option(help="Pairs per process and step.")] = 8,
    schedule: Annotated[str, typer.Option(help="step (the paper's) or one_cycle.")] = "step",
    learning_rate: Annotated[float, typer.Option(help="At its highest; 0: the schedule's.")] = 0.0,
    weight_decay: float = 0.0,
    seed: int = 0,
    patterns: Annotated[int, typer.Option(help="Procedural textures beside the photos.")] = 160,
    precision: Annotated[str, typer.Option(help="32, bf16-mixed or 16-mixed.")] = "32",
    workers: Annotated[int, typer.Option(help="Reading and rendering processes; a GPU renders by itself.")] = 1,
    validate_minutes: Annotated[float, typer.Option(help="Minutes between validations.")] = 10.0,
    validation_scenes: Annotated[int, typer.Option(help="Pairs of every set that are judged.")] = 24,
    real: Annotated[
        list[Path], typer.Option(help="Data set with true depth to watch (not trained on); may be repeated.")
    ] = [],
) -> None:
    """Teach a network metric depth from one camera with stereo pairs and no labels; resumable, torchrun-ready."""
    from fg_depth_ros.training.depth.config import PRESETS, DistillTraining, MaskConfig
    from fg_depth_ros.training.depth.distill import train_distill

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if loss not in PRESETS:
        raise ValueError(f"unknown loss '{loss}'; known: {', '.join(PRESETS)}")
    given = {
        "photometric": photometric,
        "regression": regression,
        "flow_photometric": flow_photometric,
        "smoothness": smoothness,
    }
    weighted: dict[str, Any] = {name: value for name, value in given.items() if value >= 0}
    weighted["regression_of"] = regression_of
    width, height = image_size_of(size)
    bag = {"left": left, "right": right, "slop": slop}
    config = DistillTraining(
        out=str(out), data=tuple(map(str, data)), frames=frames, held_out=held_out, test_frames=test_frames,
        bag={name: value for name, value in bag.items() if value}, world=world, world_share=world_share,
        shapes=tuple(map(image_size_of, shape)),
        photos=tuple(map(str, photos)), cutouts=tuple(map(str, cutouts)), hours=hours, steps=steps, model=model,
        weights=weights, load_partial=load_partial, encoder=encoder,
        width=width, height=height, focal=focal, teacher=teacher,
        teacher_weights=teacher_weights, teacher_scale=teacher_scale, cache=cache, on_the_fly=on_the_fly,
        losses=replace(PRESETS[loss], scales=scales, self_distillation=self_distillation, **weighted),
        mask=MaskConfig(max_depth=max_depth, max_disparity=max_disparity, vertical=vertical, left_right=left_right),
        graft=graft, zoom=zoom, flips=flips, batch=batch, schedule=schedule, learning_rate=learning_rate,
        weight_decay=weight_decay, seed=seed, patterns=patterns, precision=precision, workers=workers,
        validate_minutes=validate_minutes, validation_scenes=validation_scenes,
    )  # fmt: skip
    best = train_distill(config, _watch(real) if real else None, draw_depth, track_pairs)
    console.print(str(best), highlight=False, soft_wrap=True)


def _watch(folders: list[Path]) -> Watch:
    """Figures of data sets, told from those of pairs of the same folder."""
    from fg_depth_ros.data.datasets.depth import open_depth_sets
    from fg_depth_ros.evaluation.depth import watch_depth

    judge = watch_depth(open_depth_sets(folders))
    return lambda network: {f"real_{name}": value for name, value in judge(network).items()}


def track_pairs(items: Iterable[int], what: str, count: int) -> Iterable[int]:
    """A bar that shows how far the preparation is, of the first process."""
    from rich.progress import track

    from fg_depth_ros.training.depth.pair_preparation import first_process

    if not first_process():
        return items
    return track(items, f"looking at {what}", total=count, console=Console(stderr=True))


def draw_depth(image: np.ndarray, reference: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Image, reference and answer side by side, near red and far blue; uint8 RGB."""
    import numpy as np

    from fg_depth_ros.evaluation.reports.figures import colour_depth

    coloured: list[Any] = [colour_depth(depth, _NEAR, _FAR) for depth in (reference, answer)]
    return np.concatenate([image, *coloured], 1)
