"""``fg-depth synth``: synthetic data on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fg_depth_ros.cli.app import Photos, console, synth_app


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
