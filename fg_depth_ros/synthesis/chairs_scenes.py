"""Scenes in the manner of the Flying Chairs: what lies where, with which surface, and how it moves.

A scene is a background and a pile of flat layers on it, the last on top. Nothing here makes pixels; ``chairs.py``
does. All randomness of a scene comes from one NumPy generator, so a seed is a scene.

Places are pixels of the first frame. Lengths of the recipe are for a picture of 512 x 384 pixels and are multiplied
by ``unit``, so that a picture of another size shows the same scenes larger or smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fg_depth_ros.synthesis.affine_motion import BACKGROUND_MOTION, CHAIR_MOTION, about, shifted, stretched, turned

CHAIRS = (16, 24)
"""Fewest and most chairs of a scene."""
CHAIR_SIZE = (200.0, 200.0, 50.0, 640.0)
"""Longer side of a chair: mean, deviation, least, most; px."""
_FIELD = 2.0  # chairs lie in a field of so many picture widths and heights; about five of them lie in the picture
_EXTRA_SIZE = (5.0, 60.0)
_EXTRA_SPEED = (0.3, 120.0)


@dataclass(frozen=True)
class Layer:
    """One flat thing.

    Matrices are 3 x 3 float64. ``to_colour`` and ``to_mask`` take first-frame pixels to the unit square of an image
    (0 .. 1 from its left or upper edge to its right or lower one).
    """

    motion: np.ndarray
    """First frame to second frame."""
    to_colour: np.ndarray
    image: int
    """Number of the photo; for a photo cut-out, of the cut-out itself."""
    own_colour: bool
    """The colour is that of the photo cut-out ``image``."""
    gain: float
    shade: tuple[float, float, float]
    """Colour = 128 + gain * (image - 128) + shade."""
    to_mask: np.ndarray
    mask: int
    """Number of the mask; -1: everywhere (the background)."""


@dataclass(frozen=True)
class SceneSampler:
    """Draws scenes for a picture of ``width`` x ``height`` px.

    ``photo_size``: side of the ``photos`` in texels; only the first ``backgrounds`` of them serve as such. ``cutouts``,
    ``outlines``: numbers of photo cut-outs and of masks without a colour of their own. ``extras``: mean number of
    small, thin and fast layers that are added to the recipe.
    """

    width: int
    height: int
    photos: int
    photo_size: int
    backgrounds: int
    cutouts: int
    outlines: int
    extras: int = 0

    @property
    def unit(self) -> float:
        """Pixels of this picture per pixel of the recipe."""
        return math.sqrt(self.width * self.height / (512 * 384))

    def draw(self, rng: np.random.Generator) -> list[Layer]:
        """Draw one scene: the background first, then from the lowest chair to the topmost."""
        ground = self._background(rng)
        layers = [self._chair(rng, ground.motion) for _ in range(rng.integers(CHAIRS[0], CHAIRS[1] + 1))]
        for _ in range(rng.integers(0, 2 * self.extras + 1)):
            layers.insert(int(rng.integers(len(layers) + 1)), self._extra(rng, ground.motion))
        return [ground, *layers]

    def _background(self, rng: np.random.Generator) -> Layer:
        """Draw a part of a photo, at most as large as the photo where its texels suffice."""
        w, h = self.width, self.height
        fitting = self.photo_size / max(w, h)
        texels = math.exp(rng.uniform(math.log(0.75), math.log(max(fitting, 0.76)))) / self.photo_size
        free = [max(0.0, 1 - texels * side) for side in (w, h)]
        corner = [rng.uniform(0, room) if room else rng.uniform(0, 1) for room in free]
        mirrored = rng.random() < 0.5
        to_colour = shifted(*corner) @ stretched(texels, texels)
        if mirrored:
            to_colour = to_colour @ shifted(w, 0) @ stretched(-1, 1)
        motion = BACKGROUND_MOTION.draw(rng, ((w - 1) / 2, (h - 1) / 2), self.unit)
        image = int(rng.integers(self.backgrounds))
        return Layer(motion, to_colour, image, False, 1.0, (0.0, 0.0, 0.0), np.eye(3), -1)

    def _chair(self, rng: np.random.Generator, ground: np.ndarray) -> Layer:
        mean, deviation, least, most = CHAIR_SIZE
        size = self.unit * float(np.clip(rng.normal(mean, deviation), least, most))
        centre = self._place(rng, _FIELD)
        # The chair's own motion comes first and the background's carries it along.
        motion = ground @ CHAIR_MOTION.draw(rng, centre, self.unit)
        return self._layer(rng, centre, size, motion, float(np.exp(-abs(rng.normal(0, 0.35)))))

    def _extra(self, rng: np.random.Generator, ground: np.ndarray) -> Layer:
        """Small or thin, and as often fast as slow."""
        size = self.unit * _between(rng, *_EXTRA_SIZE)
        thin = float(np.exp(-abs(rng.normal(0, 0.5))))
        if rng.random() < 0.4:  # a stick
            size, thin = size * 3, rng.uniform(0.03, 0.15)
        centre = self._place(rng, 1.1)
        speed, heading = self.unit * _between(rng, *_EXTRA_SPEED), rng.uniform(0, 2 * np.pi)
        shift = (speed * math.cos(heading), speed * math.sin(heading))
        turn = float(np.deg2rad(CHAIR_MOTION.rotation.draw(rng)))
        motion = ground @ about(centre, turn, float(CHAIR_MOTION.scale.draw(rng)), shift)
        return self._layer(rng, centre, size, motion, thin)

    def _place(self, rng: np.random.Generator, field: float) -> tuple[float, float]:
        across, down = (rng.random(2) - 0.5) * field + 0.5
        return float(across * self.width), float(down * self.height)

    def _layer(
        self, rng: np.random.Generator, centre: tuple[float, float], size: float, motion: np.ndarray, aspect: float
    ) -> Layer:
        """``size``: longer side in px; ``aspect``: of outlines, whose other side is shortened by it."""
        own_colour = self.cutouts > 0 and (self.outlines == 0 or rng.random() < 0.6)
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        if own_colour:  # photos of things keep their shape and stand nearly upright
            across, down, angle = size * mirror, size, rng.normal(0, 0.15)
            mask = int(rng.integers(self.cutouts))
        else:
            across, down = (size * mirror, size * aspect) if rng.random() < 0.5 else (size * aspect * mirror, size)
            angle = rng.normal(0, 0.2) if rng.random() < 0.5 else rng.uniform(-np.pi, np.pi)
            mask = self.cutouts + int(rng.integers(self.outlines)) if self.outlines else int(rng.integers(self.cutouts))
        unit_square = (
            shifted(0.5, 0.5) @ stretched(1 / across, 1 / down) @ turned(-angle) @ shifted(-centre[0], -centre[1])
        )
        if own_colour:
            return Layer(motion, unit_square, mask, True, 1.0, (0.0, 0.0, 0.0), unit_square, mask)
        texels = _between(rng, 0.5, 2.0) / self.photo_size
        to_colour = (
            shifted(*rng.random(2)) @ turned(rng.uniform(-np.pi, np.pi)) @ stretched(texels, texels)
            @ shifted(-centre[0], -centre[1])
        )  # fmt: skip
        gain, shade = 1.0, np.zeros(3)
        if rng.random() < 0.3:  # painted: less texture, a colour of its own
            gain, shade = _between(rng, 0.05, 0.8), rng.normal(0, 50, 3)
        image = int(rng.integers(self.photos))
        return Layer(motion, to_colour, image, False, gain, (shade[0], shade[1], shade[2]), unit_square, mask)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))
