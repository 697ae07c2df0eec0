"""Flying-Chairs-like pairs with exact optical flow, rendered on the CPU or on the training device.

Both frames are rendered from the same layers; neither is a warp of the other. A layer is a mask and a colour that
move by one affine matrix M, so the flow of what is seen at x is M x - x, to the rounding of float32. What is seen at
a pixel is the topmost layer that covers it by half or more; at edges the colours mix as the covered area says.

A scene is painted layer by layer, each within the box that it can touch: on the CPU scene by scene, on a GPU the
whole batch at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from fg_depth_ros.synthesis.affine_motion import shifted
from fg_depth_ros.synthesis.chairs_scenes import Layer, SceneSampler
from fg_depth_ros.synthesis.cutouts import CutoutAtlas
from fg_depth_ros.synthesis.textures import TextureAtlas

Box = tuple[int, int, int, int]
"""Rows y0 .. y1 - 1 and columns x0 .. x1 - 1."""


class FlowBatch(NamedTuple):
    """N pairs of frames.

    ``first``/``second`` N x 3 x H x W uint8 RGB; ``flow`` N x 2 x H x W float32 px, u right and v down,
    ``first(x, y) <-> second(x + u, y + v)``; ``valid`` N x 1 x H x W bool, where the flow is known;
    ``occluded`` N x 1 x H x W bool, True where the surface is not visible in the second frame (hidden, or outside)."""

    first: torch.Tensor
    second: torch.Tensor
    flow: torch.Tensor
    valid: torch.Tensor
    occluded: torch.Tensor


class ChairsGenerator:
    """Renders scenes by number; the same seed, number and size give the same scene on every machine."""

    def __init__(
        self, photos: TextureAtlas, cutouts: CutoutAtlas | None = None, width: int = 512, height: int = 384,
        seed: int = 0, device: torch.device | str = "cpu", *, backgrounds: int | None = None, extras: int = 0,
    ) -> None:  # fmt: skip
        """Set up the generator of one data set.

        Args:
            photos: backgrounds, and surfaces of the layers that have no colour of their own.
            cutouts: masks of the layers, some with their own colour; None for drawn outlines alone.
            width, height: of the frames, px.
            seed: separates whole data sets (training, validation) from each other.
            device: where frames are rendered.
            backgrounds: only the first so many of ``photos`` serve as backgrounds; None for all.
            extras: mean number of small, thin and fast layers in a scene in addition to the recipe's chairs.

        Raises ValueError: no photos, more backgrounds than photos, or frames without pixels.
        """
        backgrounds = photos.count if backgrounds is None else backgrounds
        if not 1 <= backgrounds <= photos.count:
            raise ValueError(f"backgrounds are {backgrounds} of {photos.count} photos; at least one is needed")
        if width < 1 or height < 1:
            raise ValueError(f"frames of {width}x{height} pixels cannot be rendered; give a size of at least 1x1")
        if extras < 0:
            raise ValueError(f"extras is {extras}; a scene can have 0 or more of them")
        self.width, self.height, self.seed, self.device = width, height, seed, torch.device(device)
        self.photos = photos.to(self.device)
        self.cutouts = (CutoutAtlas.build() if cutouts is None else cutouts).to(self.device)
        self.sampler = SceneSampler(
            width, height, photos.count, photos.size, backgrounds, self.cutouts.photos,
            self.cutouts.count - self.cutouts.photos, extras,
        )  # fmt: skip
        self._offsets = {False: self.photos.offsets.tolist(), True: self.cutouts.offsets}

    def scene(self, index: int) -> list[Layer]:
        """Draw the scene with this number: the background, then the layers from the lowest to the topmost."""
        return self.sampler.draw(np.random.default_rng([self.seed, index]))

    def batch(self, indices: Sequence[int]) -> FlowBatch:
        """Render the pairs with these numbers; each is a function of (seed, number) and the frame size alone."""
        groups = [[i] for i in indices] if self.device.type == "cpu" else [list(indices)]
        rendered = [self._render([self.scene(i) for i in group]) for group in groups]
        return FlowBatch(*(torch.cat(field) for field in zip(*rendered, strict=True)))

    @torch.no_grad()
    def _render(self, scenes: list[list[Layer]]) -> FlowBatch:
        n, h, w = len(scenes), self.height, self.width
        layers = max(map(len, scenes))
        scenes = [[*scene, *[_NOTHING] * (layers - len(scene))] for scene in scenes]
        frames = _Frame(n, h, w, self.device), _Frame(n, h, w, self.device)
        for k in range(layers):
            self._paint(k, [scene[k] for scene in scenes], frames)
        flow = _displacement(np.array([[layer.motion for layer in scene] for scene in scenes]), frames[0].label)
        valid = torch.ones((n, 1, h, w), dtype=torch.bool, device=self.device)
        occluded = _occluded(flow, frames[0].label, frames[1].label).unsqueeze(1)
        return FlowBatch(frames[0].picture(), frames[1].picture(), flow, valid, occluded)

    def _paint(self, k: int, layers: list[Layer], frames: tuple[_Frame, _Frame]) -> None:
        """Layer ``k`` of all scenes onto both frames."""
        at_start = [np.eye(3)] * len(layers)
        boxes = [self._box(layers, moves) for moves in (at_start, [p.motion for p in layers])]
        if boxes == [None, None]:
            return
        colours = self._colours(layers)
        masks = None if k == 0 else self._masks(layers)
        for frame, box, moves in zip(frames, boxes, (at_start, [np.linalg.inv(p.motion) for p in layers]), strict=True):
            if box is None:
                continue
            colour = colours.read(np.array([p.to_colour @ m for p, m in zip(layers, moves, strict=True)]), box)
            if masks is None:
                frame.colour.copy_(colour)
                continue
            alpha = masks.read(np.array([p.to_mask @ m for p, m in zip(layers, moves, strict=True)]), box)
            frame.cover(k, box, colour, alpha)

    def _box(self, layers: list[Layer], moves: list[np.ndarray]) -> Box | None:
        """Find the part of a frame that the layers can touch; None: nothing."""
        y0, y1, x0, x1 = self.height, 0, self.width, 0
        corners = np.array([[0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]], float)
        for layer, move in zip(layers, moves, strict=True):
            if layer.mask < 0:
                return 0, self.height, 0, self.width
            xs, ys, _ = move @ np.linalg.inv(layer.to_mask) @ corners
            if xs.max() >= 0 and ys.max() >= 0 and xs.min() <= self.width - 1 and ys.min() <= self.height - 1:
                x0, x1 = min(x0, max(0, int(xs.min()))), max(x1, min(self.width, int(xs.max()) + 2))
                y0, y1 = min(y0, max(0, int(ys.min()))), max(y1, min(self.height, int(ys.max()) + 2))
        return (y0, y1, x0, x1) if y0 < y1 and x0 < x1 else None

    def _colours(self, layers: list[Layer]) -> _Source:
        images = []
        for layer in layers:
            atlas = self.cutouts.colours if layer.own_colour else self.photos
            level, side = _level(layer.to_colour, atlas.size, atlas.levels)
            at = layer.image * atlas.stride + self._offsets[layer.own_colour][level]
            image = atlas.texels[at : at + side * side].view(side, side, 3).permute(2, 0, 1).float()
            if layer.gain != 1:
                shade = torch.tensor(layer.shade, device=self.device, dtype=torch.float32)
                image = image * layer.gain + (128 * (1 - layer.gain) + shade).view(3, 1, 1)
            images.append(image)
        return _Source(images, mirrored=True)

    def _masks(self, layers: list[Layer]) -> _Source:
        images = []
        for layer in layers:
            level, side = _level(layer.to_mask, self.cutouts.size, self.cutouts.levels)
            at = layer.mask * self.cutouts.stride + self.cutouts.offsets[level]
            image = self.cutouts.masks[at : at + side * side].view(1, side, side).float() / 255
            images.append(image)
        magnified = [1 / (_footprint(p.to_mask) * image.shape[-1]) for p, image in zip(layers, images, strict=True)]
        return _Source(images, mirrored=False, magnified=magnified)


_NOTHING = Layer(
    np.eye(3), np.eye(3), image=0, own_colour=False, gain=1.0, shade=(0.0, 0.0, 0.0),
    to_mask=shifted(1e4, 1e4), mask=0,
)  # fmt: skip
"""Padding of a scene with fewer layers than others of its batch: a pixel far outside."""


class _Frame:
    """One frame of N scenes while it is painted."""

    def __init__(self, n: int, height: int, width: int, device: torch.device) -> None:
        self.colour = torch.empty((n, 3, height, width), device=device)
        self.label = torch.zeros((n, height, width), dtype=torch.int64, device=device)

    def cover(self, layer: int, box: Box, colour: torch.Tensor, alpha: torch.Tensor) -> None:
        """Paint N x 3 x h x w with N x 1 x h x w coverage into the box."""
        y0, y1, x0, x1 = box
        self.colour[:, :, y0:y1, x0:x1].lerp_(colour, alpha)
        self.label[:, y0:y1, x0:x1].masked_fill_(alpha[:, 0] >= 0.5, layer)

    def picture(self) -> torch.Tensor:
        """N x 3 x H x W uint8."""
        return self.colour.clamp_(0, 255).round_().to(torch.uint8)


class _Source:
    """N square images of one layer, ready to be read along affine maps."""

    def __init__(self, images: list[torch.Tensor], mirrored: bool, magnified: list[float] | None = None) -> None:
        """``images``: C x S x S each, S may differ. Beyond their borders they are mirrored, or 0.

        ``magnified``: pixels per texel of masks; if there are several, their edges are made one pixel wide again.
        """
        self.mirrored = mirrored
        self.sides = np.array([image.shape[-1] for image in images], float).reshape(-1, 1, 1)
        largest = int(self.sides.max())
        self.texels = torch.stack([F.pad(i, (0, largest - i.shape[-1], 0, largest - i.shape[-2])) for i in images])
        self.sharpen = None
        if magnified is not None and max(magnified) > 1:
            factors = torch.tensor([max(1.0, m) for m in magnified], device=self.texels.device)
            self.sharpen = factors.view(-1, 1, 1, 1)

    def read(self, to_image: np.ndarray, box: Box) -> torch.Tensor:
        """N x C x h x w, bilinear, at the box's pixels taken to the unit square by N 3 x 3 matrices."""
        y0, y1, x0, x1 = box
        device, last = self.texels.device, self.texels.shape[-1] - 1
        # Unit square -> texel numbers -> parts of the way to the last texel, or grid_sample's -1 .. 1.
        texel = to_image[:, :2] * self.sides
        texel[:, :, 2] -= 0.5
        maps = texel / (self.sides - 1) if self.mirrored else texel * (2 / last)
        if not self.mirrored:
            maps[:, :, 2] -= 1
        a = torch.from_numpy(maps).to(device, torch.float32).view(-1, 2, 3, 1, 1)
        xs = torch.arange(x0, x1, device=device, dtype=torch.float32)
        ys = torch.arange(y0, y1, device=device, dtype=torch.float32).view(-1, 1)
        grid = a[:, :, 0] * xs + (a[:, :, 1] * ys + a[:, :, 2])  # N x 2 x h x w
        if self.mirrored:
            reach = torch.from_numpy((self.sides - 1) * (2 / last)).to(device, torch.float32).view(-1, 1, 1, 1)
            grid = grid.remainder_(2).sub_(1).abs_().neg_().add_(1).mul_(reach).sub_(1)
        grid = grid.permute(0, 2, 3, 1)
        values = F.grid_sample(self.texels, grid, padding_mode="zeros", align_corners=True)
        if self.sharpen is not None:
            values = values.sub_(0.5).mul_(self.sharpen).add_(0.5).clamp_(0, 1)
        return values


def _footprint(to_image: np.ndarray) -> float:
    """Side of the unit square per pixel, on average of both directions."""
    return math.sqrt(abs(to_image[0, 0] * to_image[1, 1] - to_image[0, 1] * to_image[1, 0]))


def _level(to_image: np.ndarray, size: int, levels: int) -> tuple[int, int]:
    """Choose the mip level whose texels are about as large as a pixel; returns it and its side."""
    texels = _footprint(to_image) * size
    level = min(max(0, round(math.log2(texels))), levels - 1, int(math.log2(size)) - 2)
    return level, size >> level


def _displacement(motions: np.ndarray, label: torch.Tensor) -> torch.Tensor:
    """Flow N x 2 x H x W px of the layers ``label`` (N x H x W) that move by N x L 3 x 3 ``motions``.

    Coordinates are taken from the frame's middle, so that float32 rounds as little as it can.
    """
    n, h, w = label.shape
    middle = np.array([(w - 1) / 2, (h - 1) / 2, 1.0])
    slopes = (motions - np.eye(3))[:, :, :2]
    table = np.concatenate([slopes[..., :2], (slopes @ middle)[..., None]], -1).reshape(-1, 6)
    layers = torch.arange(n, device=label.device).view(-1, 1, 1) * motions.shape[1] + label
    rows = torch.from_numpy(table).to(label.device, torch.float32)[layers.view(-1)].view(n, h, w, 2, 3)
    xs = torch.arange(w, device=label.device, dtype=torch.float32) - middle[0]
    ys = torch.arange(h, device=label.device, dtype=torch.float32).view(-1, 1) - middle[1]
    flow = rows[..., 0] * xs.unsqueeze(-1) + rows[..., 1] * ys.unsqueeze(-1) + rows[..., 2]
    return flow.permute(0, 3, 1, 2).contiguous()


def _occluded(flow: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Find pixels, N x H x W bool, that leave the frame or lie below the topmost layer of the second frame."""
    n, h, w = first.shape
    x = (flow[:, 0] + torch.arange(w, device=flow.device)).round_()
    y = (flow[:, 1] + torch.arange(h, device=flow.device).view(-1, 1)).round_()
    outside = (x < 0) | (x > w - 1) | (y < 0) | (y > h - 1)
    at = y.clamp_(0, h - 1).long() * w + x.clamp_(0, w - 1).long()
    return outside | (second.view(n, -1).gather(1, at.view(n, -1)).view(n, h, w) > first)
