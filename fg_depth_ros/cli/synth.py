"""``fg-depth synth``: synthetic data on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fg_depth_ros.cli.app import counted, progress, say
from fg_depth_ros.cli.options import Cutouts, Device, Photos, checked_size, image_size_of

Seed = Annotated[int, typer.Option(help="Seed of the scenes.")]


def stereo(
    out: Annotated[Path, typer.Option(help="Folder for left/, right/, disp/ and occluded/; without pairs yet.")],
    photos: Photos = [],
    count: Annotated[int, typer.Option(help="Number of pairs.")] = 10,
    width: Annotated[int, typer.Option(help="Width, px.")] = 512,
    height: Annotated[int, typer.Option(help="Height, px.")] = 256,
    seed: Seed = 0,
    patterns: Annotated[int, typer.Option(help="Procedural textures in addition to the photos.")] = 160,
) -> None:
    """Write synthetic pairs with exact disparity (16-bit PNG, px / 256) and occlusion masks.

    Example: `fg-depth synth stereo --out look --photos my_pictures`
    """
    from fg_depth_ros.data.io.formats import write_image, write_kitti_disparity
    from fg_depth_ros.files import refuse_present
    from fg_depth_ros.synthesis.stereo import StereoSceneGenerator
    from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos

    checked_size(width, height)
    refuse_present(out / "left", "pictures")
    atlas = TextureAtlas.build(list_photos(photos), patterns, seed=seed)
    generator = StereoSceneGenerator(atlas, width, height, seed)
    for i in progress(range(count), "rendering"):
        pair, name = generator.batch([i]), f"{i:06d}.png"
        write_image(out / "left" / name, pair.left[0].permute(1, 2, 0).numpy())
        write_image(out / "right" / name, pair.right[0].permute(1, 2, 0).numpy())
        write_kitti_disparity(out / "disp" / name, pair.disparity[0, 0].numpy())
        write_image(out / "occluded" / name, pair.occluded[0, 0].numpy().astype("uint8") * 255)
    say(f"{counted(count, 'pair')} in {out}")


def chairs(
    out: Annotated[Path, typer.Option(help="Folder for data/ and FlyingChairs_train_val.txt; without pairs yet.")],
    photos: Photos = [],
    cutouts: Cutouts = [],
    count: Annotated[int, typer.Option(help="Number of pairs.")] = 10,
    width: Annotated[int, typer.Option(help="Width, px.")] = 512,
    height: Annotated[int, typer.Option(help="Height, px.")] = 384,
    seed: Seed = 0,
    test_share: Annotated[float, typer.Option(help="Part of the pairs that the list marks for testing.")] = 640 / 22872,
    patterns: Annotated[int, typer.Option(help="Procedural textures; also backgrounds if there is no photo.")] = 160,
    outlines: Annotated[int, typer.Option(help="Drawn outlines in addition to the cut-outs.")] = 256,
    extras: Annotated[int, typer.Option(help="Mean number of small, thin and fast extra pieces per pair.")] = 0,
    device: Device = "auto",
) -> None:
    """Write pairs in the manner and layout of the Flying Chairs, with exact flow and occlusion masks.

    Example: `fg-depth synth chairs --out chairs --photos my_pictures --cutouts my_cutouts --count 1000`
    """
    from fg_depth_ros.inference.estimator import choose_device
    from fg_depth_ros.synthesis.chairs import ChairsGenerator
    from fg_depth_ros.synthesis.chairs_folder import write_chairs
    from fg_depth_ros.synthesis.cutouts import CutoutAtlas, list_cutouts
    from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos

    checked_size(width, height)
    place = choose_device(device)
    pictures = list_photos(photos)
    shapes = CutoutAtlas.build(list_cutouts(cutouts), outlines, seed=seed)
    atlas = TextureAtlas.build(pictures, patterns, seed=seed)
    generator = ChairsGenerator(
        atlas, shapes, width, height, seed, place, backgrounds=len(pictures) or None, extras=extras
    )
    listed = write_chairs(
        out, generator, count, test_share, batch=1 if place.type == "cpu" else 8,
        track=lambda numbers: progress(list(numbers), "rendering"),
    )  # fmt: skip
    say(f"{counted(count, 'pair')} in {out / 'data'}, divided by {listed}")


def world(
    out: Annotated[Path, typer.Option(help="Folder for left/, right/, disp/, depth/, rig.json; without pairs so far.")],
    kind: Annotated[str, typer.Option(help="street, indoor, or mixed (not with --drive).")] = "street",
    count: Annotated[int, typer.Option(help="Number of pairs.")] = 10,
    size: Annotated[str, typer.Option(help="Image size, WIDTHxHEIGHT, px.")] = "640x192",
    drive: Annotated[bool, typer.Option(help="One world, driven through at 10 Hz, with poses.txt.")] = False,
    photos: Photos = [],
    cutouts: Cutouts = [],
    seed: Seed = 0,
    baseline: Annotated[
        float, typer.Option(help="Stereo baseline, m; 0: 0.3 on streets, 0.12 indoors, 0.2 mixed.")
    ] = 0.0,
    field_of_view: Annotated[float, typer.Option(help="Horizontal field of view, degrees.")] = 80.0,
    patterns: Annotated[int, typer.Option(help="Procedural textures in addition to the photos.")] = 96,
    device: Device = "auto",
) -> None:
    """Write stereo pairs of virtual streets and rooms with exact disparity and depth.

    Example: `fg-depth synth world --out street --kind street --drive --count 100`
    """
    from fg_depth_ros.data.samples import StereoSample
    from fg_depth_ros.inference.estimator import choose_device
    from fg_depth_ros.synthesis.cutouts import CutoutAtlas, list_cutouts
    from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
    from fg_depth_ros.synthesis.world.drive import WorldDrive, drive_rig, sample_of
    from fg_depth_ros.synthesis.world.folder import write_world
    from fg_depth_ros.synthesis.world.generator import WorldGenerator

    place = choose_device(device)
    width, height = image_size_of(size)
    rig = drive_rig(kind, width, height, field_of_view, baseline)
    atlas = TextureAtlas.build(list_photos(photos), patterns, 256, seed=seed)
    shapes = CutoutAtlas.build(list_cutouts(cutouts), 64, seed=seed) if cutouts else None
    frames: Callable[[int], StereoSample]
    if drive:
        frames = WorldDrive(kind, rig, seed, atlas, shapes, count, place).frame
    else:
        generator = WorldGenerator(atlas, shapes, width, height, seed, place, kind, rig)
        frames = lambda number: sample_of(generator.batch([number]), rig, str(number))  # noqa: E731
    write_world(out, rig, frames, count, track=lambda numbers: progress(list(numbers), "rendering"))
    say(f"{counted(count, 'pair')} in {out}")
