"""Scenes given by hand, and what exact cameras see of them."""

from __future__ import annotations

import functools

import numpy as np
import torch

from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.synthesis.cameras import CameraPair
from fg_depth_ros.synthesis.cutouts import CutoutAtlas
from fg_depth_ros.synthesis.textures import TextureAtlas
from fg_depth_ros.synthesis.world.asset_library import AssetLibrary
from fg_depth_ros.synthesis.world.primitives import Builder, Light, Path, Scene, Sky
from fg_depth_ros.synthesis.world.rendering import Renderer, RenderJob

WIDTH, HEIGHT = 96, 64
EVEN = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
STILL = CameraPair((0.3, 0.3), EVEN, (0.0, 0.0), (1.0, 1.0), 0.0, 0.0, False, 0.0, 0.0)
"""Two cameras that are alike, without noise."""


@functools.cache
def small_atlas() -> TextureAtlas:
    return TextureAtlas.build([], patterns=6, size=64, seed=1)


@functools.cache
def small_cutouts() -> CutoutAtlas:
    return CutoutAtlas.build([], outlines=4, size=64)


@functools.cache
def small_assets() -> AssetLibrary:
    return AssetLibrary(small_atlas(), small_cutouts())


def rig(baseline: float = 0.2, focal: float = 80.0) -> StereoRig:
    """A camera whose axis meets the pixel (48, 32)."""
    return StereoRig(WIDTH, HEIGHT, focal, focal, 48.0, 32.0, 48.0, baseline)


GREY_SKY = Sky((200.0, 200.0, 200.0), (200.0, 200.0, 200.0), clouds=0.0)


def scene(builder: Builder, path: Path = Path(speed=0.0, height=1.5), **fields: object) -> Scene:  # noqa: B008
    return Scene(np.stack(builder.rows), tuple(builder.motions), Light(), GREY_SKY, path, **fields)  # type: ignore[arg-type]


def renderer(
    world: Scene, with_rig: StereoRig | None = None, assets: AssetLibrary | None = None, **options: float
) -> Renderer:
    """A renderer with even cameras; ``options`` of ``rig``, unless one is given."""
    return Renderer(
        [RenderJob(world, with_rig or rig(**options), STILL, 0)], assets or small_assets(), torch.device("cpu")
    )


def depth_of(builder: Builder, **path: float) -> np.ndarray:
    """H x W depth of a camera at height 1.5 m (or as ``path`` says) that looks along z."""
    world = scene(builder, Path(**{"speed": 0.0, "height": 1.5, **path}))
    return renderer(world).views().depth[0, 0].numpy().astype(np.float64)


def directions() -> tuple[np.ndarray, np.ndarray]:
    """x and y of the rays of ``rig()``'s pixels at depth 1, H x W."""
    x, y = np.meshgrid(np.arange(WIDTH) - 48.0, np.arange(HEIGHT) - 32.0)
    return x / 80.0, y / 80.0
