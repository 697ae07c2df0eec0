"""A virtual world to learn from and to measure in: streets and rooms with exact depth, disparity, motion and poses.

Both cameras are ray-cast into the same metric scene (``ray_casting``), so depth is exact to the pixel; a surface is
where its closed form says. The same code works on a CPU and, for a whole batch at once, on a GPU. Every sample is a
function of (seed, number, size) alone.

Frames: the optical frame of REP 103 (x right, y down, z forward), metres. Disparity is ``x_left - x_right`` px > 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.synthesis.cameras import CameraPair
from fg_depth_ros.synthesis.chairs import FlowBatch
from fg_depth_ros.synthesis.cutouts import CutoutAtlas
from fg_depth_ros.synthesis.textures import TextureAtlas
from fg_depth_ros.synthesis.world.asset_library import AssetLibrary, AssetSampler
from fg_depth_ros.synthesis.world.primitives import Scene
from fg_depth_ros.synthesis.world.rendering import FRAME_SECONDS, Renderer, RenderJob, WorldBatch, WorldViews
from fg_depth_ros.synthesis.world.rooms import draw_room
from fg_depth_ros.synthesis.world.street import draw_street

__all__ = ["FRAME_SECONDS", "WORLDS", "WorldBatch", "WorldGenerator", "WorldViews"]

WORLDS = ("mixed", "street", "indoor")
"""Kinds of worlds; ``mixed`` draws one of the others for every scene."""
_STREETS = 0.6  # of the scenes of a mixed world


class WorldGenerator:
    """Renders worlds by number; the same number gives the same world on every machine."""

    def __init__(
        self, atlas: TextureAtlas, cutouts: CutoutAtlas | None, width: int, height: int, seed: int = 0,
        device: torch.device | str = "cpu", kind: str = "mixed", rig: StereoRig | None = None,
    ) -> None:  # fmt: skip
        """Set up the generator of one data set.

        Args:
            atlas: pictures for surfaces.
            cutouts: photos and outlines of things in addition to the drawn people and trees; may be None.
            width, height: of the pictures, px.
            seed: separates whole data sets (training, validation) from each other.
            device: where pictures are made and stay.
            kind: one of ``WORLDS``.
            rig: the cameras of every scene, rescaled to the size; None draws a rig for each.

        Raises ValueError: an unknown kind, or a rig whose principal columns differ or whose shape is another one.
        """
        if kind not in WORLDS:
            raise ValueError(f"kind of world is '{kind}'; choose one of {', '.join(WORLDS)}")
        self.width, self.height, self.seed, self.kind = width, height, seed, kind
        self.device = torch.device(device)
        self.rig = None if rig is None else fitted_rig(rig, width, height)
        self.assets = AssetLibrary(atlas, cutouts).to(self.device)

    def batch(self, indices: Sequence[int], with_motion: bool = False) -> WorldBatch:
        """Render the samples with these numbers, ``with_motion`` with the next image, flow and pose."""
        parts = [renderer.pairs(with_motion=with_motion) for renderer in self._renderers(indices)]
        together = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]
        return WorldBatch(*together)  # type: ignore[arg-type]

    def views(self, indices: Sequence[int]) -> WorldViews:
        """Render the left images of these samples alone, which takes half the time."""
        parts = [renderer.views() for renderer in self._renderers(indices)]
        return WorldViews(*map(torch.cat, zip(*parts, strict=True)))

    def frames(self, indices: Sequence[int]) -> FlowBatch:
        """Render two frames of the left camera of each sample, 1/30 to 1/2 s apart, with the flow between them."""
        parts = []
        for index in indices:
            rng = np.random.default_rng([self.seed, 3, index])
            seconds = math.exp(rng.uniform(math.log(1 / 30), math.log(1 / 2)))
            parts.append(Renderer([self.sample(index)], self.assets, self.device).frames(seconds))
        return FlowBatch(*map(torch.cat, zip(*parts, strict=True)))

    def scene(self, index: int) -> Scene:
        """Draw the world with this number."""
        rng = np.random.default_rng([self.seed, 0, index])
        street = self.kind == "street" or (self.kind == "mixed" and rng.random() < _STREETS)
        sampler = AssetSampler(rng, self.assets)
        return draw_street(sampler) if street else draw_room(sampler)

    def rig_of(self, index: int, scene: Scene | None = None) -> StereoRig:
        """Draw the cameras of the sample with this number."""
        if self.rig is not None:
            return self.rig
        rng = np.random.default_rng([self.seed, 2, index])
        return draw_rig(rng, scene or self.scene(index), self.width, self.height)

    def _renderers(self, indices: Sequence[int]) -> list[Renderer]:
        # On a CPU one by one is as fast and needs less memory.
        groups = [[i] for i in indices] if self.device.type == "cpu" else [list(indices)]
        return [Renderer([self.sample(i) for i in group], self.assets, self.device) for group in groups]

    def sample(self, index: int) -> RenderJob:
        """Draw the world with this number, its cameras and their noise."""
        scene = self.scene(index)
        cameras = CameraPair.draw(np.random.default_rng([self.seed, 1, index]), self.width)
        return RenderJob(scene, self.rig_of(index, scene), cameras, (self.seed * 1_000_003 + index) * 1_000_033)


def fitted_rig(rig: StereoRig, width: int, height: int) -> StereoRig:
    """Scale a rig to another size of the same shape. Raises ValueError: another shape, or two principal columns."""
    if rig.doffs != 0:
        raise ValueError(
            f"the rig's principal columns differ by {rig.doffs:g} px; a virtual one has one for both: set cx_right = cx"
        )
    if abs(width * rig.height / (height * rig.width) - 1) > 0.02:
        raise ValueError(
            f"the rig is for {rig.width}x{rig.height} px, which {width}x{height} has not the shape of; give a size of "
            "the same shape"
        )
    return rig.scaled(width, height)


def draw_rig(rng: np.random.Generator, scene: Scene, width: int, height: int) -> StereoRig:
    """Draw cameras that suit a scene: its field of view; baseline 0.06 - 0.7 m, so that little is too near for both.

    In streets focal length times baseline reaches that of KITTI's rig, 0.31 m times the image width.
    """
    focal = width / (2 * math.tan(math.radians(rng.uniform(*scene.view.field_of_view)) / 2))
    aside, down = rng.normal(0, 0.01), rng.normal(0, 0.03)
    # The nearest thing in sight, and 0.3 of the width as the disparity there.
    nearest = scene.view.nearest or max(0.6, scene.path.height * focal / (height * (0.5 - down)))
    longest = min(0.7, max(0.07, 0.3 * width * nearest / focal))
    baseline = math.exp(rng.uniform(math.log(max(0.06, longest / 5)), math.log(longest)))
    cx, cy = (width - 1) / 2 + aside * width, (height - 1) / 2 + down * height
    return StereoRig(width, height, focal, focal, cx, cy, cx, baseline)
