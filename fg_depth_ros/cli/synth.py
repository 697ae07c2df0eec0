"""``fg-depth synth``: synthetic data on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fg_depth_ros.cli.app import Device, Photos, console, synth_app


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


@synth_app.command("chairs")
def synth_chairs(
    out: Annotated[Path, typer.Option(help="Folder for data/ and FlyingChairs_train_val.txt; without pairs so far.")],
    photos: Annotated[
        list[Path], typer.Option(help="Folder of pictures for backgrounds and surfaces; may be repeated.")
    ] = [],
    stamps: Annotated[
        list[Path], typer.Option(help="Folder of cut-out pictures with alpha, flown as chairs; may be repeated.")
    ] = [],
    count: Annotated[int, typer.Option(help="Number of pairs.")] = 10,
    width: int = 512,
    height: int = 384,
    seed: int = 0,
    test_share: Annotated[float, typer.Option(help="Part of the pairs that the list marks for testing.")] = 640 / 22872,
    patterns: Annotated[int, typer.Option(help="Procedural textures; backgrounds too where there is no photo.")] = 160,
    outlines: Annotated[int, typer.Option(help="Drawn outlines beside the cut-outs.")] = 256,
    extras: Annotated[int, typer.Option(help="Small, thin and fast pieces per pair beside the recipe; mean.")] = 0,
    device: Device = "auto",
) -> None:
    """Write pairs in the manner and layout of the Flying Chairs, with exact flow and occlusion masks."""
    from rich.progress import track

    from fg_depth_ros.data.chairs import ChairsGenerator
    from fg_depth_ros.data.chairs_folder import write_chairs
    from fg_depth_ros.data.cutouts import CutoutAtlas, list_stamps
    from fg_depth_ros.data.textures import TextureAtlas, list_photos
    from fg_depth_ros.inference.running import choose_device

    place = choose_device(device)
    pictures, things = list_photos(photos), list_stamps(stamps)
    cutouts = CutoutAtlas.build(things, outlines, seed=seed)
    atlas = TextureAtlas.build(pictures, patterns, seed=seed)
    generator = ChairsGenerator(
        atlas, cutouts, width, height, seed, place, backgrounds=len(pictures) or None, extras=extras
    )
    listed = write_chairs(
        out, generator, count, test_share, batch=1 if place.type == "cpu" else 8,
        track=lambda numbers: track(list(numbers), "rendering", console=Console(stderr=True)),
    )  # fmt: skip
    console.print(f"{count} pairs in {out / 'data'}, divided by {listed}", highlight=False, soft_wrap=True)
