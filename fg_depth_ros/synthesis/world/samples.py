"""Scenes of the virtual world as samples with true depth: what depth methods are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from fg_depth_ros.data.samples import ArrayReader, DepthSample, StereoSample
from fg_depth_ros.synthesis.textures import TextureAtlas
from fg_depth_ros.synthesis.world.drive import sample_of
from fg_depth_ros.synthesis.world.generator import WORLDS, WorldGenerator

WORLD_SEED = 900_001
"""Seed of worlds to measure on: far from the seeds that trainings count up from 0."""


class WorldScenes:
    """Scenes of the virtual world as samples; rendered when asked for, the last one is cached."""

    def __init__(self, generator: WorldGenerator) -> None:
        self.generator = generator
        self._render = lru_cache(maxsize=1)(self._rendered)

    def sample(self, index: int) -> DepthSample:
        """Return the scene with this number; the sky has no depth."""

        def read(what: str) -> ArrayReader:
            return lambda: getattr(self._render(index), what)

        name = f"{self.generator.kind}_{index:06d}"
        rig = self.generator.rig_of(index)
        return DepthSample.of_pair(StereoSample(name, read("left"), read("right"), rig, depth=read("depth")))

    def _rendered(self, index: int) -> StereoSample:
        return sample_of(self.generator.batch([index]), self.generator.rig_of(index), "")


def world_samples(
    kind: str, count: int, width: int = 640, height: int = 192, *, seed: int = WORLD_SEED,
    photos: Sequence[Path] = (), patterns: int = 160, device: str = "cpu",
) -> list[DepthSample]:  # fmt: skip
    """Return scenes 0 .. ``count`` - 1 of the virtual world, the same on every machine for the same arguments.

    ``kind``: street, indoor or mixed. ``seed``: of the world and of its ``patterns``, procedural textures.
    ``device``: where scenes are rendered. Raises ValueError: an unknown kind, or no scene.
    """
    if count < 1:
        raise ValueError(f"a world of {count} scenes is none; ask for at least 1")
    if kind not in WORLDS:  # checked before textures are drawn, which takes seconds
        raise ValueError(f"kind of world '{kind}' is unknown; choose one of {', '.join(WORLDS)}")
    atlas = TextureAtlas.build(list(photos), patterns, seed=seed)
    scenes = WorldScenes(WorldGenerator(atlas, None, width, height, seed, device, kind))
    return [scenes.sample(index) for index in range(count)]
