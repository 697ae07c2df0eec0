"""``fg-depth quantize``: weights that engines run in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fg_depth_ros.cli.app import REFUSED, print_table, say
from fg_depth_ros.cli.options import Photos, check_least, file_to_write


def quantize(
    source: Annotated[str, typer.Argument(help="Weights file, or a model with shipped weights.", metavar="WEIGHTS")],
    out: Annotated[Path, typer.Option(callback=file_to_write, help="Weights file to write.")],
    photos: Photos = [],
    scenes: Annotated[int, typer.Option(help="Rendered scenes to measure on, and as many to compare on.")] = 32,
    data: Annotated[list[Path], typer.Option(help="Data set with truth to compare on; may be repeated.")] = [],
) -> None:
    """Calibrate weights for int8, and compare its accuracy with float32; exit status 3 where it is worse.

    The result is the same weights with the ranges of their convolutions. OpenVINO then runs them in int8.

    Example: `fg-depth quantize runs/mine/best.safetensors --out mine_int8.safetensors --data kitti2015`
    """
    from fg_depth_ros.synthesis.textures import list_photos
    from fg_depth_ros.training.quantization import MARGINS, calibrate

    check_least(1, scenes=scenes)
    done = calibrate(source, out, photos=list_photos(photos) if photos else [], scenes=scenes, data=data)
    print_table(done.report, [*(margin.metric for margin in MARGINS[done.task]), "seconds"])
    if done.worse:
        for line in done.worse:
            say(line, "red")
        say(f"not within the margins of docs/engines.md: {out} is not written", "red")
        raise typer.Exit(REFUSED)
    say(str(out))
