"""Random layered scenes: what stands where, with which surface, outline and texture.

A scene is a table of layers. Every layer is a surface given by its disparity as an analytic function of the left
image's coordinates, an outline in the same coordinates, and a texture painted on it. Nothing here makes pixels;
``stereo.py`` does. All randomness of a scene comes from one NumPy generator, so a seed is a scene.

Units: pixels of the left image for places, sizes and disparities.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Outline(IntEnum):
    """Shape of a layer in its own rotated, normalised coordinates (u, v)."""

    EVERYWHERE = 0
    ELLIPSE = 1  # |u|^p + |v|^p < 1; p from diamond to rectangle
    STAR = 2  # radius modulated by the angle
    FRAME = 3  # rectangle with a rectangular hole
    FENCE = 4  # rectangle of parallel bars
    GRID = 5  # rectangle of crossing bars
    CABLE = 6  # a thin sine curve
    FOLIAGE = 7  # ellipse cut by a noise pattern


#: Columns of the layer table; see ``Scene``.
FIELDS = (
    *("cx", "cy", "ru", "rv", "angle", "outline", "p", "q", "phase"),  # place, half sizes, rotation, outline
    *("a", "b", "c", "bump", "wave", "wave_u", "wave_v"),  # disparity: plane, quadratic bump, sine wave
    *("image", "tex_scale", "tex_angle", "tex_u", "tex_v", "perspective"),  # where on which texture
    *("gain", "shade_r", "shade_g", "shade_b"),  # its contrast and mean colour
    *("mirror", "mirror_image", "mirror_disparity"),  # strength of a reflection, of what, how deep it lies
)
COLUMN = {name: i for i, name in enumerate(FIELDS)}
MAX_SLOPE = 0.6  # of the disparity along a row; below 1 a surface shows its front to both cameras


@dataclass(frozen=True)
class Scene:
    """Layers of one scene: L x len(FIELDS) float64, any order (nearest wins)."""

    layers: np.ndarray
    max_disparity: float


class SceneSampler:
    """Draws scenes of mixed kinds: street, room, still life and plain clutter."""

    def __init__(self, width: int, height: int, images: int, max_disparity: float = 150.0) -> None:
        """``images``: number of images in the atlas that textures are drawn from."""
        self.width, self.height, self.images, self.limit = width, height, images, max_disparity

    def draw(self, rng: np.random.Generator) -> Scene:
        """Draw one scene."""
        nearest = float(np.exp(rng.uniform(np.log(10.0), np.log(min(self.limit, 0.42 * self.width)))))
        rows: list[np.ndarray] = []
        kind = rng.choice(["street", "room", "still_life", "clutter"], p=[0.28, 0.22, 0.28, 0.22])
        {
            "street": self._street,
            "room": self._room,
            "still_life": self._still_life,
            "clutter": self._clutter,
        }[kind](rng, rows, nearest)
        return Scene(np.stack(rows), nearest)

    # ---- kinds of scenes ---------------------------------------------------------------------------------------

    def _street(self, rng: np.random.Generator, rows: list[np.ndarray], nearest: float) -> None:
        w, h = self.width, self.height
        horizon = h * rng.uniform(0.2, 0.6)
        ground = nearest * rng.uniform(0.5, 1.0) / (h - horizon)
        rows.append(self._backdrop(rng, rng.uniform(0, 0.03) * nearest, textured=rng.random() < 0.5))
        rows.append(self._wall(rng, w / 2, horizon, 0.0, ground * np.tan(rng.normal(0, 0.04)), ground, perspective=0.8))
        vanish = w * rng.uniform(0.25, 0.75)
        for side, edge in ((-1, 0.0), (1, float(w))):
            if rng.random() < 0.6:
                slope = side * min(MAX_SLOPE - 0.1, nearest * rng.uniform(0.1, 0.8) / max(abs(edge - vanish), 1))
                wall = self._wall(rng, vanish, horizon, 0.0, slope, 0.0, perspective=float(rng.random() < 0.5))
                if rng.random() < 0.6:  # a wall of finite height
                    self._outline(wall, Outline.ELLIPSE, (vanish + edge) / 2, horizon, abs(edge - vanish) / 2 + 4,
                                  h * rng.uniform(0.15, 0.6), 0.0, 30.0)  # fmt: skip
                rows.append(wall)
        for _ in range(rng.integers(3, 22)):
            d = nearest * float(np.exp(rng.uniform(np.log(0.04), np.log(0.95))))
            foot = horizon + d / ground
            size = d / nearest * h * rng.uniform(0.15, 0.9)
            rows.append(self._object(rng, rng.uniform(0, w), foot, d, size, nearest, standing=True))
        for _ in range(rng.integers(0, 6)):
            d = nearest * float(np.exp(rng.uniform(np.log(0.12), np.log(0.9))))
            height = d / nearest * h * rng.uniform(0.35, 0.8)
            self._vehicle(rng, rows, rng.uniform(0, w), horizon + d / ground, d, height, vanish)
        self._scatter(rng, rows, rng.integers(0, 8), 0.05 * nearest, nearest)

    def _room(self, rng: np.random.Generator, rows: list[np.ndarray], nearest: float) -> None:
        w, h = self.width, self.height
        back = nearest * rng.uniform(0.08, 0.5)
        rows.append(self._backdrop(rng, back, slope=rng.normal(0, 0.04)))
        horizon, vanish = h * rng.uniform(0.2, 0.7), w * rng.uniform(0.2, 0.8)
        floor = nearest * rng.uniform(0.6, 1.1) / (h - horizon)
        rows.append(self._wall(rng, w / 2, horizon, 0.0, rng.normal(0, 0.02), floor, perspective=0.8))
        if rng.random() < 0.5:
            rows.append(self._wall(rng, w / 2, horizon, 0.0, 0.0, -nearest * rng.uniform(0.3, 1) / horizon))
        for side, edge in ((-1, 0.0), (1, float(w))):
            if rng.random() < 0.6:
                slope = side * min(MAX_SLOPE - 0.1, nearest * rng.uniform(0.3, 1) / max(abs(edge - vanish), 1))
                rows.append(self._wall(rng, vanish, horizon, 0.0, slope, 0.0))
        for _ in range(rng.integers(2, 12)):
            d = float(rng.uniform(back, nearest))
            rows.append(
                self._object(rng, rng.uniform(0, w), horizon + d / floor, d, h * rng.uniform(0.1, 0.5), nearest, True)
            )
        self._scatter(rng, rows, rng.integers(3, 20), back, nearest)

    def _still_life(self, rng: np.random.Generator, rows: list[np.ndarray], nearest: float) -> None:
        w, h = self.width, self.height
        back = nearest * rng.uniform(0.25, 0.75)
        backdrop = self._backdrop(rng, back, slope=rng.normal(0, 0.06))
        set_(backdrop, c=rng.normal(0, 0.05))
        if rng.random() < 0.5:  # cloth
            self._curve(rng, backdrop, amplitude=rng.uniform(0.5, 0.08 * nearest + 1), length=rng.uniform(40, 240))
        rows.append(backdrop)
        for _ in range(rng.integers(4, 18)):
            d = float(rng.uniform(back, nearest))
            size = h * float(np.exp(rng.uniform(np.log(0.06), np.log(0.5))))
            rows.append(self._object(rng, rng.uniform(0, w), rng.uniform(0, h * 1.1), d, size, nearest))
        for _ in range(rng.integers(0, 3)):  # bundles of sticks
            x, y, d = rng.uniform(0, w), rng.uniform(0, h), float(rng.uniform(back, nearest))
            for _ in range(rng.integers(2, 8)):
                stick = self._blank(rng, d * rng.uniform(0.9, 1.1))
                self._outline(stick, Outline.ELLIPSE, x + rng.normal(0, 25), y + rng.normal(0, 10),
                              rng.uniform(1.2, 6), rng.uniform(30, 120), rng.normal(0, 0.5), 20.0)  # fmt: skip
                rows.append(stick)
        self._scatter(rng, rows, rng.integers(0, 10), back, nearest)

    def _clutter(self, rng: np.random.Generator, rows: list[np.ndarray], nearest: float) -> None:
        back = nearest * rng.uniform(0.02, 0.4)
        backdrop = self._backdrop(rng, back, slope=rng.normal(0, 0.05))
        set_(backdrop, c=rng.normal(0, 0.03))
        if rng.random() < 0.3:
            self._curve(rng, backdrop, amplitude=rng.uniform(0.3, 4), length=rng.uniform(60, 300))
        rows.append(backdrop)
        self._scatter(rng, rows, rng.integers(8, 36), back, nearest)

    # ---- pieces ------------------------------------------------------------------------------------------------

    def _blank(self, rng: np.random.Generator, disparity: float) -> np.ndarray:
        """Make a fronto-parallel layer without outline and with a random texture."""
        row = np.zeros(len(FIELDS))
        plain = rng.random() < 0.1
        gain = rng.uniform(0.0, 0.12) if plain else float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
        tone = rng.uniform(30, 220) if rng.random() < 0.85 else rng.uniform(200, 255)
        shade = np.clip(tone + rng.normal(0, 22, 3), 3, 252)
        set_(row, cx=self.width / 2, cy=self.height / 2, ru=self.width, rv=self.height, a=disparity,
             image=float(rng.integers(self.images)), tex_scale=np.exp(rng.uniform(np.log(0.5), np.log(3.0))),
             tex_angle=rng.uniform(-np.pi, np.pi) if rng.random() < 0.4 else rng.normal(0, 0.1),
             tex_u=rng.uniform(0, 512), tex_v=rng.uniform(0, 512), gain=gain,
             shade_r=shade[0], shade_g=shade[1], shade_b=shade[2])  # fmt: skip
        if rng.random() < 0.05:
            set_(row, mirror=rng.uniform(0.08, 0.45), mirror_image=float(rng.integers(self.images)),
                 mirror_disparity=disparity * rng.uniform(0.1, 0.9))  # fmt: skip
        return row

    def _backdrop(
        self, rng: np.random.Generator, disparity: float, slope: float = 0.0, textured: bool = True
    ) -> np.ndarray:
        row = self._blank(rng, max(disparity, 0.0))
        reach = abs(slope) * self.width / 2  # the far end of a slanted backdrop stays in front of infinity
        set_(row, b=slope if reach < disparity else 0.0)
        if not textured:
            set_(row, gain=rng.uniform(0, 0.1))
        return row

    def _wall(
        self, rng: np.random.Generator, x: float, y: float, a: float, b: float, c: float, perspective: float = 0.0
    ) -> np.ndarray:
        row = self._blank(rng, a)
        set_(row, cx=x, cy=y, b=float(np.clip(b, -MAX_SLOPE, MAX_SLOPE)), c=c,
             perspective=float(rng.random() < perspective), mirror=get(row, "mirror") * 1.5)  # fmt: skip
        return row

    def _object(
        self, rng: np.random.Generator, x: float, y: float, disparity: float, size: float, nearest: float,
        standing: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """Draw an object of about ``size`` pixels; ``standing``: ``y`` is its foot, else its centre."""
        row = self._blank(rng, disparity)
        kind = Outline(rng.choice(len(Outline), p=[0.0, 0.52, 0.13, 0.09, 0.05, 0.05, 0.05, 0.11]))
        aspect = float(np.exp(rng.normal(0, 0.5)))
        ru, rv, angle = size / 2 * aspect, size / 2 / aspect, rng.normal(0, 0.08) if standing else rng.uniform(-3, 3)
        p, q, phase = float(rng.choice([1.0, 2.0, 4.0, 30.0], p=[0.05, 0.35, 0.2, 0.4])), 0.0, rng.uniform(0, 6.3)
        if kind == Outline.ELLIPSE and rng.random() < 0.22:  # pole, stick, branch
            ru, rv, p = rng.uniform(0.8, 5.0), rv * rng.uniform(1, 3), 30.0
        elif kind == Outline.STAR:
            p, q = float(rng.integers(3, 9)), rng.uniform(0.1, 0.5)
        elif kind == Outline.FRAME:
            p = rng.uniform(0.6, 0.95)
        elif kind in (Outline.FENCE, Outline.GRID):
            p, q = max(2.0, ru / rng.uniform(4, 22)), rng.uniform(0.15, 0.6)
        elif kind == Outline.CABLE:
            ru, rv = ru * 3, max(rv, 4.0)
            p, q = rng.uniform(0.5, 6), rng.uniform(0.8, 3.0) / rv
        elif kind == Outline.FOLIAGE:
            p, q = rng.uniform(0.6, 3.0), rng.uniform(-0.7, 0.6)
        self._outline(row, kind, x, y - rv * 0.95 if standing else y, ru, rv, angle, p, q)
        set_(row, phase=phase)
        slant = 0.25 if rng.random() < 0.5 else 0.03
        set_(row, b=np.clip(rng.normal(0, slant), -0.4, 0.4), c=0.0 if standing else rng.normal(0, slant))
        if rng.random() < 0.4:
            depth = min(rng.uniform(0.02, 0.2) * nearest, 0.12 * min(ru, rv) + 0.3)
            set_(row, bump=depth * rng.choice([1.0, -0.6]))
        elif rng.random() < 0.12:
            self._curve(rng, row, amplitude=rng.uniform(0.2, 2.5), length=max(size, 20) * rng.uniform(0.2, 1))
        reach = abs(get(row, "b")) * ru + abs(get(row, "c")) * rv
        if reach > 0.5 * disparity:  # keep the whole thing in front of infinity
            set_(row, b=0.0, c=0.0)
        return row

    def _vehicle(
        self, rng: np.random.Generator, rows: list[np.ndarray], x: float, foot: float, disparity: float, height: float,
        vanish: float,
    ) -> None:  # fmt: skip
        """Add a glossy body with dark windows: hardly any texture of its own, and reflections that lie elsewhere."""
        length = height * rng.uniform(0.9, 3.0)
        slope = rng.normal(0, 0.02)
        if rng.random() < 0.5:  # along the road, towards the vanishing point
            slope = disparity / (x - vanish if abs(x - vanish) > 1 else 1.0)
        most = min(0.4, disparity / length)  # its far end stays in front of infinity
        slope = float(np.clip(slope, -most, most))
        paint = np.clip(rng.choice([12, 60, 120, 200, 245]) + rng.normal(0, 12) + rng.normal(0, 25, 3), 2, 253)

        def part(across: float, up: float, half_length: float, half_height: float, power: float) -> np.ndarray:
            row = self._blank(rng, disparity + slope * across * length)
            centre, middle = x + across * length, foot - up * height
            self._outline(row, Outline.ELLIPSE, centre, middle, half_length * length, half_height * height, 0.0, power)
            set_(row, cx=centre, cy=middle, a=disparity + slope * across * length, b=slope, c=rng.normal(0, 0.01))
            set_(row, mirror_image=float(rng.integers(self.images)), mirror_disparity=disparity * rng.uniform(0, 0.6))
            rows.append(row)
            return row

        bump = min(0.06 * disparity, 0.05 * height) * rng.uniform(0, 1)
        gloss = rng.uniform(0.02, 0.4)
        front = rng.uniform(-0.15, 0.15)
        body = part(0.0, 0.34, 0.5, rng.uniform(0.26, 0.34), rng.uniform(4, 20))
        cabin = part(front, 0.7, rng.uniform(0.25, 0.42), rng.uniform(0.22, 0.3), rng.uniform(2.5, 12))
        for row in (body, cabin):
            set_(row, gain=rng.uniform(0, 0.15), mirror=gloss, bump=bump)
            set_(row, shade_r=paint[0], shade_g=paint[1], shade_b=paint[2])
        panes = int(rng.integers(1, 4))
        for i in range(panes):
            reach = get(cabin, "ru") / length
            place = front + reach * ((2 * i + 1) / panes - 1) * 0.85
            pane = part(place, 0.74, 0.85 * reach / panes * 0.9, get(cabin, "rv") / height * 0.62, rng.uniform(4, 20))
            tone = rng.uniform(5, 70)
            set_(pane, gain=rng.uniform(0, 0.2), mirror=rng.uniform(0.15, 0.7), bump=bump)
            set_(pane, a=get(pane, "a") + 0.02 * disparity, shade_r=tone, shade_g=tone, shade_b=tone)
        for across in (-0.3, 0.3):
            wheel = part(across, 0.13, 0.28 * height / length / 2, 0.14, 2.0)
            tone = rng.uniform(5, 60)
            set_(wheel, a=get(wheel, "a") + 0.03 * disparity, shade_r=tone, shade_g=tone, shade_b=tone, mirror=0.0)

    def _scatter(
        self, rng: np.random.Generator, rows: list[np.ndarray], count: np.integer | int, low: float, high: float
    ) -> None:
        for _ in range(count):
            d = float(rng.uniform(low, high) if rng.random() < 0.6 else low + (high - low) * rng.random() ** 3)
            size = self.height * float(np.exp(rng.uniform(np.log(0.025), np.log(0.7))))
            rows.append(self._object(rng, rng.uniform(0, self.width), rng.uniform(0, self.height), d, size, high))

    @staticmethod
    def _curve(rng: np.random.Generator, row: np.ndarray, amplitude: float, length: float) -> None:
        """Add a sine wave to the surface, flattened where it would turn away from a camera."""
        direction = rng.uniform(0, np.pi)
        k = 2 * np.pi / length
        amplitude = min(amplitude, 0.3 / max(abs(k * np.cos(direction)), 1e-3))
        set_(row, wave=amplitude, wave_u=k * np.cos(direction), wave_v=k * np.sin(direction))

    @staticmethod
    def _outline(
        row: np.ndarray, kind: Outline, cx: float, cy: float, ru: float, rv: float, angle: float, p: float, q: float = 0
    ) -> None:
        """Give ``row`` an outline; a plane that passes through another anchor keeps its place."""
        old_x, old_y = get(row, "cx"), get(row, "cy")
        a = get(row, "a") + get(row, "b") * (cx - old_x) + get(row, "c") * (cy - old_y)
        set_(row, outline=kind, cx=cx, cy=cy, ru=ru, rv=rv, angle=angle, p=p, q=q, a=a)


def set_(row: np.ndarray, **values: float) -> None:
    """Write named columns of a layer."""
    for name, value in values.items():
        row[COLUMN[name]] = value


def get(row: np.ndarray, name: str) -> float:
    """Read a named column of a layer."""
    return float(row[COLUMN[name]])
