"""Random affine motions in the plane, drawn as for the Flying Chairs data set.

Every number of a motion is drawn by one law (``Law``), so most motions are small and a few are large. Source:
Dosovitskiy et al., FlowNet, ICCV 2015, section 4; the numbers are those known of the published set (a picture of 512 x
384 pixels). A motion is a 3 x 3 float64 matrix on homogeneous picture coordinates (x to the right, y down, pixels): it
takes a place in the first frame to its place in the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Law:
    """``b * clip(sign(g) |g|^power, low, high) + (1 - b) * mean``; g ~ N(mean, deviation), b ~ Bernoulli(chance)."""

    power: float
    mean: float
    deviation: float
    low: float
    high: float
    chance: float

    def __post_init__(self) -> None:
        if not (self.low < self.high and 0 <= self.chance <= 1 and self.deviation > 0):
            raise ValueError(f"a law needs low < high, a chance within 0..1 and a deviation above 0, got {self}")

    def draw(self, rng: np.random.Generator, count: int | None = None) -> np.ndarray:
        """Draw one number (a 0-d array), or ``count`` of them."""
        g = rng.normal(self.mean, self.deviation, count)
        happens = rng.random(count) < self.chance
        return np.where(happens, np.clip(np.sign(g) * np.abs(g) ** self.power, self.low, self.high), self.mean)


@dataclass(frozen=True)
class MotionLaws:
    """Distributions of a motion: ``translation`` (of u and of v, px), ``rotation`` (degrees), ``scale`` (factor)."""

    translation: Law
    rotation: Law
    scale: Law

    def draw(self, rng: np.random.Generator, centre: tuple[float, float], unit: float = 1.0) -> np.ndarray:
        """Draw a 3 x 3 motion about ``centre`` (px): rotation, scale, and ``unit`` times the drawn shift."""
        shift = unit * self.translation.draw(rng, 2)
        angle = np.deg2rad(float(self.rotation.draw(rng)))
        return about(centre, angle, float(self.scale.draw(rng)), (float(shift[0]), float(shift[1])))


CHAIR_MOTION = MotionLaws(
    translation=Law(power=4, mean=0, deviation=1.3, low=-120, high=120, chance=1.0),
    rotation=Law(power=2, mean=0, deviation=1.3, low=-30, high=30, chance=0.7),
    scale=Law(power=2, mean=1, deviation=0.1, low=0.8, high=1.2, chance=0.7),
)
"""Motion of a chair, relative to the background."""

BACKGROUND_MOTION = MotionLaws(
    translation=Law(power=4, mean=0, deviation=1.3, low=-40, high=40, chance=1.0),
    rotation=Law(power=2, mean=0, deviation=1.3, low=-10, high=10, chance=0.3),
    scale=Law(power=2, mean=1, deviation=0.1, low=0.93, high=1.07, chance=0.3),
)
"""Motion of the background, which everything shares."""


def shifted(x: float, y: float) -> np.ndarray:
    """Return the 3 x 3 matrix that adds (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def stretched(x: float, y: float) -> np.ndarray:
    """Return the 3 x 3 matrix that multiplies by (x, y)."""
    return np.diag([x, y, 1.0])


def turned(angle: float) -> np.ndarray:
    """Return the 3 x 3 rotation by ``angle`` radians, from the x axis towards the y axis (clockwise on a screen)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def about(
    centre: tuple[float, float], angle: float, scale: float, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Turn by ``angle`` (radians) and scale about ``centre``, then add ``shift``; 3 x 3."""
    x, y = centre
    return shifted(x + shift[0], y + shift[1]) @ turned(angle) @ stretched(scale, scale) @ shifted(-x, -y)
