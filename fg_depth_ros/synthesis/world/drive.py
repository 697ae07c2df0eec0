"""A drive through one virtual world: stereo frames at 10 Hz with exact depth and the camera's poses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.synthesis.cameras import CameraPair
from fg_depth_ros.synthesis.cutouts import CutoutAtlas
from fg_depth_ros.synthesis.textures import TextureAtlas
from fg_depth_ros.synthesis.world.asset_library import AssetLibrary, AssetSampler
from fg_depth_ros.synthesis.world.generator import fitted_rig
from fg_depth_ros.synthesis.world.rendering import FRAME_SECONDS, Renderer, RenderJob, WorldBatch
from fg_depth_ros.synthesis.world.rooms import draw_room
from fg_depth_ros.synthesis.world.street import draw_street

DRIVES = ("street", "indoor")
"""Kinds of worlds that can be driven through."""
_BASELINES = {"street": 0.3, "indoor": 0.12}  # m
_TEXTURE_SIZE = 256
_PATTERNS = 96


class WorldDrive:
    """Frames 0 .. ``frames`` - 1 of a way through one world, each a function of (kind, rig, seed, number) alone.

    Streets are driven along on a smooth course, rooms back and forth; other things move by themselves.
    """

    def __init__(
        self, kind: str, rig: StereoRig, seed: int = 0, atlas: TextureAtlas | None = None,
        cutouts: CutoutAtlas | None = None, frames: int = 100, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        """Without an atlas patterns are drawn; ``cutouts`` are used in addition to drawn things.

        Raises ValueError: unknown kind.
        """
        check_kind(kind)
        if frames < 1:
            raise ValueError(f"frames is {frames}; a drive has at least one")
        self.kind, self.rig, self.frames, self.seed = kind, fitted_rig(rig, rig.width, rig.height), frames, seed
        if atlas is None:
            atlas = TextureAtlas.build([], _PATTERNS, _TEXTURE_SIZE, seed)
        assets = AssetLibrary(atlas, cutouts).to(device)
        sampler = AssetSampler(np.random.default_rng([seed, 3]), assets)
        # 15 m/s is as fast as a street is driven along.
        street = kind == "street"
        scene = draw_street(sampler, 15.0 * frames * FRAME_SECONDS) if street else draw_room(sampler, to_drive=True)
        drawn = CameraPair.draw(np.random.default_rng([seed, 4]), rig.width)
        # A rig that someone has calibrated and focused.
        cameras = replace(
            drawn, row_offset=0.0, row_tilt=0.0, grey=False, noise=min(drawn.noise, 0.01), vignette=0.0,
            blur=(min(drawn.blur[0], 0.6), min(drawn.blur[1], 0.6)),
        )  # fmt: skip
        self.scene = scene
        self._renderer = Renderer([RenderJob(scene, self.rig, cameras, seed * 1_000_003)], assets, torch.device(device))
        self._start = np.linalg.inv(scene.path.pose(0.0))
        self._exposed = False

    def __len__(self) -> int:
        return self.frames

    def frame(self, index: int) -> StereoSample:
        """Render the frame with this number. Raises IndexError: there is none."""
        if not 0 <= index < self.frames:
            raise IndexError(f"frame {index} of a drive that has {self.frames}")
        if not self._exposed and index:  # the exposure is that of the first frame, whichever is asked for first
            self._renderer.views()
        self._exposed = True
        time = index * FRAME_SECONDS
        batch = self._renderer.pairs(time, index)
        sample = sample_of(batch, self.rig, f"{self.kind}_{index:06d}")
        return replace(sample, stamp=round(time * 1e9), pose=self._start @ self.scene.path.pose(time))


def sample_of(batch: WorldBatch, rig: StereoRig, name: str) -> StereoSample:
    """Make a sample of the first pair of a batch; depth is inf for the sky."""
    left, right = (np.ascontiguousarray(view[0].permute(1, 2, 0).cpu().numpy()) for view in (batch.left, batch.right))
    return StereoSample(name, left, right, rig, depth=batch.depth[0, 0].cpu().numpy())


def check_kind(kind: str) -> None:
    """Raise ValueError unless ``kind`` is one of ``DRIVES``."""
    if kind not in DRIVES:
        raise ValueError(f"there is no world '{kind}' to drive through; choose one of {', '.join(DRIVES)}")


def drive_rig(kind: str, width: int, height: int, field_of_view: float = 80.0, baseline: float = 0.0) -> StereoRig:
    """Make a rig with its principal point in the middle; ``field_of_view``: across, degrees.

    ``baseline``: m; 0 takes 0.3 on streets, 0.12 indoors and 0.2 elsewhere. Raises ValueError: a field of view or a
    baseline that no such camera has.
    """
    if not 1 < field_of_view < 175:
        raise ValueError(f"field of view is {field_of_view:g} degrees; a pinhole camera's lies between 1 and 175")
    if baseline < 0:
        raise ValueError(f"baseline is {baseline:g} m; the right camera stands to the right: give it above 0")
    focal = width / (2 * math.tan(math.radians(field_of_view) / 2))
    cx, cy = (width - 1) / 2, (height - 1) / 2
    return StereoRig(width, height, focal, focal, cx, cy, cx, baseline or _BASELINES.get(kind, 0.2))
