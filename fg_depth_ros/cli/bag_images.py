"""``fg-depth bag from-images``: a folder of stereo pairs as a bag."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fg_depth_ros.cli.app import bag_app, console

if TYPE_CHECKING:
    import numpy as np

    from fg_depth_ros.data.samples import StereoSample

_START = 1.0  # s; a stamp of zero would read as "no stamp"


@bag_app.command("from-images")
def from_images(
    folder: Annotated[Path, typer.Argument(help="Calibrated pairs, in a layout that `evaluate stereo` reads.")],
    out: Annotated[Path, typer.Option(help="The bag's folder, which must not be there yet.")],
    rate: Annotated[float, typer.Option(help="Pairs per second of the recording.")] = 10.0,
    frames: Annotated[str, typer.Option(help="Part of the folder, such as 0:80; default: all.")] = "",
    start: Annotated[float, typer.Option(help="Stamp of the first pair, s.")] = _START,
    compressed: Annotated[str, typer.Option(help="Write CompressedImage: png (lossless) or jpeg.")] = "",
    storage: Annotated[str, typer.Option(help="mcap or sqlite3.")] = "mcap",
    truth: Annotated[bool, typer.Option(help="Write true depth on ground_truth/depth where the folder has it.")] = True,
) -> None:
    """Make a bag of a folder of pairs: left and right images, camera_infos and, where known, true depth."""
    from rich.progress import track

    from fg_depth_ros.data.bags.writing import write_stereo_bag
    from fg_depth_ros.data.datasets.stereo import open_stereo_folder
    from fg_depth_ros.data.io.formats import FileError
    from fg_depth_ros.training.depth.pair_preparation import frames_of

    for name, value, known in (
        ("compressed", compressed, ("", "png", "jpeg")),
        ("storage", storage, ("mcap", "sqlite3")),
    ):
        if value not in known:
            raise ValueError(f"--{name} '{value}' is unknown; choose one of {', '.join(filter(None, known))}")
    if not (rate > 0 and start > 0):
        raise ValueError(f"--rate {rate:g} and --start {start:g} must be positive")
    samples = open_stereo_folder(folder)
    chosen = samples[frames_of(frames)]
    if not chosen:
        raise FileError(f"{folder}: --frames {frames} leaves none of its {len(samples)} pairs")
    rigs = {sample.rig for sample in chosen}
    rig = chosen[0].rig
    if rig is None or len(rigs) > 1:
        problem = "has no calibration" if rig is None else f"has {len(rigs)} calibrations"
        raise FileError(
            f"{folder}: {problem}, and a bag of a stereo camera has one: give a folder of one camera's pairs"
        )

    def recorded() -> Iterator[StereoSample]:
        numbered = list(enumerate(chosen))
        for index, sample in track(numbered, "writing", console=Console(stderr=True)):
            yield _frame(sample, round((start + index / rate) * 1e9), truth)

    path = write_stereo_bag(
        out, recorded(), rig, compressed=compressed, storage=storage, frame_id="left_camera_optical_frame",  # type: ignore[arg-type]
    )  # fmt: skip
    console.print(f"{len(chosen)} pairs in {path}", highlight=False, soft_wrap=True)


def _frame(sample: StereoSample, stamp: int, with_truth: bool) -> StereoSample:
    left, right = map(_plain, sample.images())
    depth = sample.true_depth() if with_truth else None
    return replace(sample, left=left, right=right, disparity=None, depth=depth, stamp=stamp)


def _plain(image: np.ndarray) -> np.ndarray:
    """One channel of an image without colours, all three of any other."""
    grey = (image[..., :1] == image).all()
    return image[..., 0].copy() if grey else image
