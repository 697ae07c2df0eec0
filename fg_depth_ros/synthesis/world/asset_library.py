"""Materials and cut-outs that virtual worlds are furnished from, with drawn people, crowns and bushes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import torch

from fg_depth_ros.synthesis.cutouts import CutoutAtlas, spread_colours
from fg_depth_ros.synthesis.textures import TextureAtlas, fractal_noise
from fg_depth_ros.synthesis.world.primitives import Builder, Material

_PEOPLE, _CROWNS, _BUSHES = 24, 16, 12
_FINE = 2  # figures are drawn this much larger, then averaged
_FIGURE_SEED = 11


class AssetLibrary:
    """Pictures for surfaces (``textures``) and ``cutouts`` in one place, by what they show.

    ``people``, ``crowns``, ``bushes`` (drawn), ``photos`` (of anything), ``outlines``: which cut-outs are what, in this
    order. ``extents``: M x 4, columns and rows (u0, u1, v0, v1 in 0 .. 1) that the cut-outs fill.
    """

    def __init__(self, textures: TextureAtlas, cutouts: CutoutAtlas | None) -> None:
        """``cutouts``: further ones; their size is that of the drawn figures too."""
        size = 256 if cutouts is None else cutouts.size
        figures = CutoutAtlas(draw_figures(size), [])
        given = (0, 0) if cutouts is None else (cutouts.photos, cutouts.count)
        self.textures = textures
        self.cutouts = figures if cutouts is None else _together(figures, cutouts)
        first, last = figures.count, figures.count + given[1]
        self.people = range(_PEOPLE)
        self.crowns = range(_PEOPLE, _PEOPLE + _CROWNS)
        self.bushes = range(_PEOPLE + _CROWNS, first)
        self.photos, self.outlines = range(first, first + given[0]), range(first + given[0], last)
        finest = self.cutouts.masks.view(-1, self.cutouts.stride)[:, : size * size].reshape(-1, size, size).cpu()
        self.extents = np.array([_extent(mask.numpy() > 127) for mask in finest])

    def to(self, device: torch.device | str) -> AssetLibrary:
        """Move the images to ``device``; returns this library."""
        self.textures, self.cutouts = self.textures.to(device), self.cutouts.to(device)
        return self


def _together(figures: CutoutAtlas, others: CutoutAtlas) -> CutoutAtlas:
    """Cut-outs with colours first: the drawn ones, then the photos, then the bare outlines."""
    both = CutoutAtlas.__new__(CutoutAtlas)
    both.__dict__.update(others.__dict__)
    device = others.masks.device
    both.masks = torch.cat([figures.masks.to(device), others.masks])
    both.colours = TextureAtlas.__new__(TextureAtlas)
    both.colours.__dict__.update(others.colours.__dict__)
    both.colours.texels = torch.cat([figures.colours.texels.to(device), others.colours.texels])
    both.colours.count = figures.photos + others.photos
    both.photos, both.count = both.colours.count, figures.count + others.count
    return both


def _extent(mask: np.ndarray) -> tuple[float, float, float, float]:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    size = mask.shape[0]
    if w < 2 or h < 2:
        return 0.0, 1.0, 0.0, 1.0
    return x / size, (x + w) / size, y / size, (y + h) / size


@dataclass(frozen=True)
class AssetSampler:
    """Draws materials and sets up cut-outs for one scene."""

    rng: np.random.Generator
    assets: AssetLibrary

    def random_image(self) -> int:
        """Draw the index of a surface image."""
        return int(self.rng.random() * self.assets.textures.count)

    def uniform(self, low: float, high: float) -> float:
        """Draw from the uniform distribution of ``low`` .. ``high``."""
        return low + (high - low) * self.rng.random()

    def chance(self, part: float) -> bool:
        """Return True with this probability."""
        return self.rng.random() < part

    def colour(self, low: float = 40.0, high: float = 215.0, tint: float = 0.25) -> tuple[float, float, float]:
        """Draw an RGB colour of this lightness; ``tint`` 0 is grey, 1 strongly coloured."""
        grey = self.uniform(low, high)
        red, green, blue = ((1 + tint * self.uniform(-1, 1)) * grey for _ in range(3))
        return (_byte(red), _byte(green), _byte(blue))

    def similar(self, colour: tuple[float, float, float], spread: float = 12.0) -> tuple[float, float, float]:
        """Draw a colour like this one: up to ``spread`` lighter or darker, with a slightly different tint."""
        lighter, tint = self.uniform(-spread, spread), spread / 3
        red, green, blue = (c + lighter + self.uniform(-tint, tint) for c in colour)
        return (_byte(red), _byte(green), _byte(blue))

    def material(
        self, colour: tuple[float, float, float], gain: tuple[float, float] = (0.1, 0.5),
        scale: tuple[float, float] = (50.0, 250.0), **fields: object,
    ) -> Material:  # fmt: skip
        """Draw a material of about this colour with a random image as texture; a few surfaces are nearly plain."""
        return Material(
            image=self.random_image(),
            colour=self.similar(colour),
            gain=self.uniform(*gain) * (0.15 if self.chance(0.1) else 1.0),
            scale=scale[0] * (scale[1] / scale[0]) ** self.rng.random(),
            start=(self.uniform(0, 500), self.uniform(0, 500)),
            **fields,  # type: ignore[arg-type]
        )

    def billboard(
        self, b: Builder, cutout: int, at: tuple[float, float], height: float, yaw: float = 0.0, base: float = 0.0,
        widest: float = 1e3, material: Material | None = None,
    ) -> None:  # fmt: skip
        """Add an upright cut-out at (right, forward), turned by ``yaw`` (rad), its lower edge at height ``base``.

        Its height (m) is less where it would be wider than ``widest`` m. ``material``: colour of bare outlines.
        """
        u0, u1, v0, v1 = self.assets.extents[cutout]
        height = min(height, widest * (v1 - v0) / (u1 - u0))
        side = height / (v1 - v0)
        own = Material(gain=self.uniform(0.8, 1.1), colour=self.similar((128, 128, 128), 8), scale=100)
        aside = (0.5 - (u0 + u1) / 2) * side
        place = b.place(at, yaw)
        place.wall(material or own, (aside, 0), (side, side), base - (1 - v1) * side, cutout=cutout, shade=2)


def _byte(value: float) -> float:
    return min(max(value, 4.0), 250.0)


@cache
def draw_figures(size: int) -> tuple[np.ndarray, ...]:
    """Draw people, crowns of trees and bushes, S x S x 4 uint8, in this order; always the same ones."""
    rng = np.random.default_rng(_FIGURE_SEED)
    figures = [_person(rng, size) for _ in range(_PEOPLE)]
    figures += [_leaves(rng, size, conifer=i % 4 == 3) for i in range(_CROWNS)]
    return (*figures, *(_leaves(rng, size, bush=True) for _ in range(_BUSHES)))


class _Canvas:
    """RGB and coverage; coordinates in parts of the side."""

    def __init__(self, size: int) -> None:
        self.side = size * _FINE
        self.rgb = np.zeros((self.side, self.side, 3), np.uint8)
        self.mask = np.zeros((self.side, self.side), np.uint8)

    def limb(self, points: np.ndarray, widths: tuple[float, float], colour: np.ndarray) -> None:
        """Draw a stroke through points whose width changes from the first to the last."""
        steps = np.concatenate([np.linspace(a, b, 12) for a, b in pairwise(points)])
        for place, width in zip(steps, np.linspace(*widths, len(steps)), strict=True):
            self.spot(place, (width / 2, width / 2), colour * (1 + 0.12 * (place[0] - 0.5)))

    def spot(self, centre: np.ndarray, radii: tuple[float, float], colour: np.ndarray, angle: float = 0.0) -> None:
        """Draw a filled ellipse."""
        at = (round(centre[0] * self.side), round(centre[1] * self.side))
        axes = (max(1, round(radii[0] * self.side)), max(1, round(radii[1] * self.side)))
        tone = tuple(int(c) for c in np.clip(colour, 0, 255))
        cv2.ellipse(self.rgb, at, axes, angle, 0, 360, tone, -1)
        cv2.ellipse(self.mask, at, axes, angle, 0, 360, 255, -1)

    def done(self, size: int, noise: np.ndarray) -> np.ndarray:
        """S x S x 4, coloured everywhere so that no foreign colour bleeds in at the edges."""
        spread = spread_colours(self.rgb, self.mask == 0).astype(np.float32)
        both = np.dstack([np.clip(spread + noise[..., None], 0, 255).astype(np.uint8), self.mask])
        return cv2.resize(both, (size, size), interpolation=cv2.INTER_AREA)


def _person(rng: np.random.Generator, size: int) -> np.ndarray:
    """Somebody who stands or walks, from head to feet over 0.94 of the square."""
    c = _Canvas(size)
    skin = np.array([225, 180, 150]) * rng.uniform(0.35, 1.05)
    hair, shirt, trousers, shoes = (rng.uniform(10, 230, 3) * rng.uniform(0.2, 1.0) for _ in range(4))
    middle, stride, broad = 0.5, rng.uniform(0.0, 0.13), rng.uniform(0.85, 1.25)
    hip, neck = 0.50, 0.175
    for side, shade in ((-1, 0.8), (1, 1.0)):
        foot = np.array([middle + side * stride, 0.955])
        knee = np.array([middle + side * stride * 0.55 + 0.02, 0.73])
        c.limb(np.array([[middle + side * 0.03, hip], knee, foot]), (0.1 * broad, 0.055), trousers * shade)
        c.spot(foot + np.array([0.02, 0.0]), (0.04, 0.016), shoes * shade)
    skirt = rng.random() < 0.25
    if skirt:
        c.limb(np.array([[middle, hip - 0.05], [middle, rng.uniform(0.62, 0.75)]]), (0.14 * broad, 0.24), shirt * 0.8)
    sleeve = shirt if rng.random() < 0.7 else skin
    swing = rng.uniform(-0.1, 0.1)
    c.limb(np.array([[middle - 0.06 * broad, 0.23], [middle - 0.09 * broad - swing / 2, 0.38],
                     [middle - 0.08 - swing, 0.52]]), (0.06, 0.04), sleeve * 0.8)  # fmt: skip
    c.limb(np.array([[middle, 0.23], [middle, 0.37], [middle, hip + 0.03]]), (0.17 * broad, 0.13 * broad), shirt)
    c.limb(np.array([[middle, 0.2], [middle, 0.215]]), (0.1 * broad, 0.14 * broad), shirt)
    c.limb(np.array([[middle + 0.07 * broad, 0.23], [middle + 0.1 * broad + swing / 2, 0.38],
                     [middle + 0.09 + swing, 0.52]]), (0.06, 0.04), sleeve)  # fmt: skip
    c.limb(np.array([[middle, neck + 0.03], [middle, neck - 0.02]]), (0.05, 0.05), skin * 0.9)
    c.spot(np.array([middle, 0.105]), (0.043, 0.06), hair)
    c.spot(np.array([middle + 0.01, 0.118]), (0.036, 0.048), skin)
    if rng.random() < 0.35:  # a bag or rucksack
        bag = rng.uniform(20, 200, 3) * rng.uniform(0.3, 1)
        c.spot(np.array([middle - 0.09 * broad, rng.uniform(0.3, 0.5)]), (0.05, 0.08), bag)
    noise = cv2.resize(fractal_noise(rng, size, 1.0), (c.side, c.side)) * rng.uniform(3, 14)
    return c.done(size, noise)


def _leaves(rng: np.random.Generator, size: int, conifer: bool = False, bush: bool = False) -> np.ndarray:
    """Draw the crown of a tree, or a bush: leaves in many tones, darker below and inside, with gaps."""
    c = _Canvas(size)
    green = np.array([rng.uniform(50, 130), rng.uniform(90, 150), rng.uniform(25, 70)])
    if rng.random() < 0.15:
        green = green[[1, 0, 2]] * [1.2, 1.0, 0.6]  # autumn
    count, leaf = int(rng.integers(700, 1500)), rng.uniform(0.007, 0.022)
    clumps = rng.uniform([-0.28, -0.3], [0.28, 0.3], (int(rng.integers(5, 12)), 2))
    for _ in range(count):
        if conifer:
            down = np.sqrt(rng.random())
            place = np.array([rng.normal(0, 0.19) * down, down * 0.88 - 0.44])
        else:
            place = clumps[rng.integers(len(clumps))] + rng.normal(0, 0.1, 2)
            place = place / max(1.0, np.linalg.norm(place) / 0.44)
        if bush:
            place[1] = abs(place[1]) * -0.9 + 0.42
        light = 0.75 - 0.7 * place[1] + 0.35 * place[0] + rng.normal(0, 0.25)
        radii = (leaf * rng.uniform(0.6, 1.6), leaf * rng.uniform(0.3, 1.0))
        c.spot(place + 0.5, radii, green * np.clip(light, 0.25, 1.8), rng.uniform(0, 180))
    if bush:
        c.spot(np.array([0.5, 0.9]), (0.3, 0.06), green * 0.4)
    noise = cv2.resize(fractal_noise(rng, size, 0.7), (c.side, c.side)) * 8
    return c.done(size, noise)
