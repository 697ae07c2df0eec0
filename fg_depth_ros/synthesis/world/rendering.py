"""Pictures of virtual worlds with everything that is known about them: depth, disparity, occlusion, motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.synthesis.cameras import CameraPair, auto_exposure, expose
from fg_depth_ros.synthesis.chairs import FlowBatch
from fg_depth_ros.synthesis.world.asset_library import AssetLibrary
from fg_depth_ros.synthesis.world.primitives import Scene
from fg_depth_ros.synthesis.world.ray_casting import (
    RayHits,
    Shot,
    View,
    axes_of,
    cast_rays,
    centre_of,
    corners_of,
    half_of,
    visible_primitives,
)
from fg_depth_ros.synthesis.world.shading import Shader

FRAME_SECONDS = 0.1
"""Between a frame and the next."""
_THINNEST = 0.6  # px: thinner things would be seen in some rows and not in others
_SAME = 0.5  # px of disparity: what is nearer by more hides what lies behind


class WorldBatch(NamedTuple):
    """N pairs of one size, on the generator's device.

    ``left``, ``right``: N x 3 x H x W uint8 RGB. ``depth``: N x 1 x H x W float32 m, left view, inf for the sky.
    ``disparity``: N x 1 x H x W float32 px, ``focal * baseline / depth``, 0 for the sky. ``occluded``: N x 1 x H x W
    bool, True where the right camera does not see the left pixel. ``focal``: N float32 px (fx); ``baseline``: N
    float32 m.

    With motion: ``second``: N x 3 x H x W uint8, the left camera's next picture; ``flow``: N x 2 x H x W float32 px to
    it, also of what moves by itself and of the sky, NaN where the place gets behind the camera; ``pose``: N x 4 x 4
    float32, takes points of this left camera's frame to the next one's (of what stands still). Else None.
    """

    left: torch.Tensor
    right: torch.Tensor
    depth: torch.Tensor
    disparity: torch.Tensor
    occluded: torch.Tensor
    focal: torch.Tensor
    baseline: torch.Tensor
    second: torch.Tensor | None = None
    flow: torch.Tensor | None = None
    pose: torch.Tensor | None = None


class WorldViews(NamedTuple):
    """The left half of a ``WorldBatch``."""

    left: torch.Tensor
    depth: torch.Tensor
    focal: torch.Tensor
    baseline: torch.Tensor


@dataclass(frozen=True)
class RenderJob:
    """A scene, its cameras, and the seed of their noise."""

    scene: Scene
    rig: StereoRig
    cameras: CameraPair
    noise: int


class Renderer:
    """Renders samples of one picture size. Its exposure is that of the first picture it makes."""

    def __init__(self, samples: Sequence[RenderJob], assets: AssetLibrary, device: torch.device) -> None:
        self.samples, self.assets, self.device = list(samples), assets, device
        self._rigs = [sample.rig for sample in samples]
        self._exposure: torch.Tensor | None = None

    def views(self, time: float = 0.0, frame: int = 0) -> WorldViews:
        """Render the left cameras at ``time`` (s). ``frame`` gives every image of a drive noise of its own."""
        return self._left(time, frame)[0]

    def pairs(self, time: float = 0.0, frame: int = 0, with_motion: bool = False) -> WorldBatch:
        """Render both cameras at ``time`` (s), and, ``with_motion``, the left one ``FRAME_SECONDS`` later."""
        views, kept, left_shot, left = self._left(time, frame)
        right_shot = self._shot(time, kept, right=True)
        right = cast_rays(right_shot, self.assets.cutouts, self.device)
        force = (views.focal * views.baseline).view(-1, 1, 1)
        disparity, right_disparity = force / left.depth, force / right.depth
        hidden = occluded(disparity, right_disparity, left.item, right.item)
        picture = self._picture(right_shot, right, 1, 4 * frame + 1)
        depth, *camera = views[1:]
        batch = WorldBatch(views.left, picture, depth, disparity.unsqueeze(1), hidden.unsqueeze(1), *camera)
        if not with_motion:
            return batch
        later = time + FRAME_SECONDS
        second, flow, _ = self._later(later, frame, kept, left_shot, left)
        moved = [np.linalg.inv(sample.scene.path.pose(later)) @ sample.scene.path.pose(time) for sample in self.samples]
        pose = torch.from_numpy(np.stack(moved)).to(self.device, torch.float32)
        return batch._replace(second=second, flow=flow, pose=pose)

    def frames(self, seconds: float) -> FlowBatch:
        """Render the left cameras twice, ``seconds`` apart, with the flow between the pictures."""
        views, kept, shot, seen = self._left(0.0, 0)
        second, flow, hidden = self._later(seconds, 0, kept, shot, seen)
        valid = torch.isfinite(flow).all(1, keepdim=True)
        return FlowBatch(views.left, second, torch.where(valid, flow, 0.0), valid, hidden.unsqueeze(1) & valid)

    def _later(
        self, time: float, frame: int, kept: Sequence[np.ndarray], shot: Shot, seen: RayHits
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Render the left cameras at ``time``: the picture, flow to it, and which pixels of ``seen`` it does not show.

        N x 3 x H x W uint8, N x 2 x H x W float32 px, N x H x W bool.
        """
        later = self._shot(time, kept)
        found = cast_rays(later, self.assets.cutouts, self.device)
        flow, depth = _flow(shot, seen, later, self._rigs)
        picture = self._picture(later, found, 0, 4 * frame + 2)
        return picture, flow, _covered(flow, depth, seen.item, found)

    def _left(self, time: float, frame: int) -> tuple[WorldViews, list[np.ndarray], Shot, RayHits]:
        """Render the left cameras; returns also what the images were made from."""
        # What is thick enough to be seen, the same things for all pictures of a sample.
        whole = self._shot(time, [np.ones(len(sample.scene.rows), bool) for sample in self.samples])
        seen = visible_primitives(whole, _THINNEST)
        kept = [seen[whole.sample == n] for n in range(len(self.samples))]
        shot = self._shot(time, kept)
        found = cast_rays(shot, self.assets.cutouts, self.device)
        focal, baseline = (
            torch.tensor([getattr(rig, name) for rig in self._rigs], device=self.device, dtype=torch.float32)
            for name in ("fx", "baseline")
        )
        picture = self._picture(shot, found, 0, 4 * frame)
        return WorldViews(picture, found.depth.unsqueeze(1), focal, baseline), kept, shot, found

    def _shot(self, time: float, kept: Sequence[np.ndarray], right: bool = False) -> Shot:
        """Project the primitives that are ``kept``, at ``time``, to the left or right cameras."""
        views = []
        for sample in self.samples:
            rig, cameras, pose = sample.rig, sample.cameras, sample.scene.path.pose(time)
            view = View(pose[:3, :3], pose[:3, 3], rig.fx, rig.fy, rig.cx, rig.cy)
            if right:
                view = replace(
                    view, origin=pose[:3, 3] + pose[:3, 0] * rig.baseline, row_offset=cameras.row_offset,
                    row_tilt=cameras.row_tilt, middle=rig.width / 2,
                )  # fmt: skip
            views.append(view)
        tables = [sample.scene.at(time)[keep] for sample, keep in zip(self.samples, kept, strict=True)]
        return Shot.of(tables, views, self._rigs[0].width, self._rigs[0].height)

    def _picture(self, shot: Shot, seen: RayHits, view: int, stream: int) -> torch.Tensor:
        """N x 3 x H x W uint8: what camera ``view`` makes of it."""
        light = self._shader(shot).shade(seen, self._reflections(shot, seen))
        if self._exposure is None:
            self._exposure = auto_exposure(light)
        seeds = [sample.noise + stream & 0x7FFF_FFFF_FFFF for sample in self.samples]
        return expose(light * self._exposure, [sample.cameras for sample in self.samples], view, seeds)

    def _shader(self, shot: Shot) -> Shader:
        return Shader(shot, [sample.scene for sample in self.samples], self.assets, self.device)

    def _reflections(self, shot: Shot, seen: RayHits) -> torch.Tensor | None:
        """N x H x W x 3: what wet roads and polished floors show, if there are any."""
        mirrors = shot.column("mirror") > 0
        if not mirrors.any():
            return None
        shiny = torch.from_numpy(mirrors).to(self.device)[seen.item.clamp(min=0)] & (seen.item >= 0)
        window = np.zeros((len(shot.views), 2), np.int64)
        level = np.zeros(len(shot.views))
        for n, row in enumerate(shiny.any(2).cpu().numpy()):
            own = mirrors & (shot.sample == n)
            if row.any():
                lit = np.nonzero(row)[0]
                window[n] = lit[0], lit[-1] + 1
                # One level per scene: that of its lowest mirror. What lies below it is not seen in it.
                level[n] = centre_of(shot.rows)[own, 1].max()
        if not window.any():
            return None
        views = [view.mirrored(y) for view, y in zip(shot.views, level, strict=True)]
        mirrored = Shot.of([shot.rows[shot.sample == n] for n in range(len(views))], views, shot.width, shot.height)
        above = corners_of(shot.rows)[..., 1].min(1) < level[shot.sample] - 0.02
        depth = torch.where(shiny, seen.depth, torch.inf)
        found = cast_rays(mirrored, self.assets.cutouts, self.device, window, depth, above)
        return self._shader(mirrored).shade(found, where=shiny)


def occluded(
    left: torch.Tensor, right: torch.Tensor, left_item: torch.Tensor, right_item: torch.Tensor
) -> torch.Tensor:
    """N x H x W bool: left pixels whose match lies outside the right picture or behind what is seen there.

    A match falls between two columns; it is hidden if both show another thing, nearer by more than half a pixel of
    disparity. ``left``, ``right``: the views' disparities (px); ``*_item``: what they show.
    """
    width = left.shape[-1]
    target = torch.arange(width, device=left.device, dtype=torch.float32) - left
    low = target.floor().clamp(0, width - 1).long()
    high = (low + 1).clamp(max=width - 1)
    hidden = torch.ones_like(left_item, dtype=torch.bool)
    for column in (low, high):
        hidden &= (right.gather(2, column) > left + _SAME) & (right_item.gather(2, column) != left_item)
    return hidden | (target < 0) | (target > width - 1)


def _covered(flow: torch.Tensor, depth: torch.Tensor, item: torch.Tensor, later: RayHits) -> torch.Tensor:
    """N x H x W bool: pixels whose match lies outside the later picture or behind what is seen there.

    ``flow``: N x 2 x H x W px; ``depth``: N x H x W m, of the places in the later camera; ``item``: what they are of.
    """
    n, height, width = item.shape
    x = (flow[:, 0] + torch.arange(width, device=flow.device)).nan_to_num(-1).round()
    y = (flow[:, 1] + torch.arange(height, device=flow.device).view(-1, 1)).nan_to_num(-1).round()
    outside = (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)
    at = (y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()).view(n, -1)
    other, nearer = (field.view(n, -1).gather(1, at).view_as(item) for field in (later.item, later.depth))
    return outside | ((other != item) & (nearer < 0.99 * depth))


def _flow(shot: Shot, seen: RayHits, later: Shot, rigs: Sequence[StereoRig]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the flow to the later image, N x 2 x H x W px, and the depth there, N x H x W m (inf: the sky)."""
    n, height, width = seen.depth.shape
    device = seen.depth.device
    # A thing's own coordinates stay the same while it moves: pixel -> own place -> later world -> later camera.
    axes = np.stack([view.axes for view in later.views])[later.sample]
    origin = np.stack([view.origin for view in later.views])[later.sample]
    stretched = axes_of(later.rows) * half_of(later.rows)[:, None, :]
    turn = axes.transpose(0, 2, 1) @ stretched
    shift = (axes.transpose(0, 2, 1) @ (centre_of(later.rows) - origin)[:, :, None])[:, :, 0]
    directions = turn @ shot.rays
    starts = (turn @ shot.start[:, :, None])[:, :, 0] + shift
    item = seen.item.clamp(min=0).view(-1)
    table = torch.from_numpy(np.concatenate([directions.reshape(-1, 9), starts], 1).T.copy()).to(device, torch.float32)
    x = torch.arange(width, device=device, dtype=torch.float32)
    y = torch.arange(height, device=device, dtype=torch.float32).view(-1, 1)
    # The sky is infinitely far: only its direction counts.
    skies = np.stack([b.axes.T @ a.rays() for a, b in zip(shot.views, later.views, strict=True)]).reshape(n, 9)
    sky = torch.from_numpy(skies).to(device, torch.float32)
    is_sky = seen.item < 0
    depth = torch.where(is_sky, 1.0, seen.depth)
    places = []
    for i in range(3):
        g = [table[3 * i + j][item].view(n, height, width) for j in range(3)] + [
            table[9 + i][item].view(n, height, width)
        ]
        solid = g[3] + depth * (g[0] * x + g[1] * y + g[2])
        far = [sky[:, 3 * i + j].view(n, 1, 1) for j in range(3)]
        places.append(torch.where(is_sky, far[0] * x + far[1] * y + far[2], solid))
    per = {name: torch.tensor([getattr(rig, name) for rig in rigs], device=device, dtype=torch.float32).view(n, 1, 1)
           for name in ("fx", "fy", "cx", "cy")}  # fmt: skip
    z = torch.where(places[2] > 1e-3, places[2], torch.nan)
    u = places[0] / z * per["fx"] + per["cx"] - x
    v = places[1] / z * per["fy"] + per["cy"] - y
    return torch.stack([u, v], 1), torch.where(is_sky, torch.inf, places[2])
