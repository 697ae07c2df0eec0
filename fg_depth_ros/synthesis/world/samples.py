"""Scenes of the virtual world as samples with true depth: what depth methods are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fg_depth_ros.data.datasets.depth_sample import DepthSample
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.synthesis.textures import TextureAtlas
from fg_depth_ros.synthesis.world.generator import WORLDS, WorldGenerator

WORLD_SEED = 900_001
"""Seed of worlds to measure on: far from the seeds that trainings count up from 0."""


class _WorldPair:
    """A scene of the world as a stereo pair."""

    def __init__(self, scenes: WorldScenes, index: int) -> None:
        self.scenes, self.index = scenes, index

    @property
    def rig(self) -> StereoRig:
        return self.scenes.generator.rig_of(self.index)

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        batch = self.scenes.render(self.index)
        return _picture(batch.left), _picture(batch.right)


class WorldScenes:
    """Scenes of the virtual world as samples; rendered when asked for, the last one kept."""

    def __init__(self, generator: WorldGenerator) -> None:
        self.generator = generator
        self.render = lru_cache(maxsize=1)(lambda index: generator.batch([index]))

    def sample(self, index: int) -> DepthSample:
        """The scene with this number; the sky has no depth."""
        pair = _WorldPair(self, index)
        name = f"{self.generator.kind}_{index:06d}"
        return DepthSample(name, lambda: pair.images()[0], pair.rig.fx, lambda: self._depth(index), pair)

    def _depth(self, index: int) -> np.ndarray:
        depth: np.ndarray = self.render(index).depth[0, 0].cpu().numpy()
        return depth


def world_samples(
    kind: str, count: int, width: int = 640, height: int = 192, *, seed: int = WORLD_SEED,
    photos: Sequence[Path] = (), patterns: int = 160, device: str = "cpu",
) -> list[DepthSample]:  # fmt: skip
    """Scenes 0 .. ``count`` - 1 of the virtual world, the same on every machine for the same arguments.

    Args:
        kind: street, indoor or mixed.
        count: number of scenes.
        width, height: of the images, px.
        seed: of the world and of its drawn textures.
        photos: pictures for surfaces.
        patterns: drawn textures beside them.
        device: where scenes are rendered.

    Raises:
        ValueError: an unknown kind, or no scene.
    """
    if count < 1:
        raise ValueError(f"a world of {count} scenes is none; ask for at least 1")
    if kind not in WORLDS:  # said before textures are drawn, which takes seconds
        raise ValueError(f"kind of world '{kind}' is unknown; choose one of {', '.join(WORLDS)}")
    atlas = TextureAtlas.build(list(photos), patterns, seed=seed)
    scenes = WorldScenes(WorldGenerator(atlas, None, width, height, seed, device, kind))
    return [scenes.sample(index) for index in range(count)]


def _picture(image: Any) -> np.ndarray:
    """The first of N x 3 x H x W uint8 as H x W x 3."""
    return np.ascontiguousarray(image[0].permute(1, 2, 0).cpu().numpy())
