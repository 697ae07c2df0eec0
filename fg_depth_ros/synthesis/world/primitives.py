"""Primitives of a virtual world: planes, boxes, cylinders and balls in metres, with their materials.

World frame: x right, y down, z forward (as an optical frame, REP 103), metres; the ground is y = 0. Heights are given
upwards and positive, and turned into -y here. A scene is a table with one row per primitive; nothing here makes pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property

import numpy as np


class Kind(IntEnum):
    """Shape of a primitive in its own coordinates, which its half sizes stretch; y points down."""

    RECT = 0  # z = 0, |x| < 1, |y| < 1; may have a hole or a cut-out's outline
    BOX = 1  # |y| < 1; |x| and z may taper towards the top: cabins of cars, roofs
    CYLINDER = 2  # x^2 + z^2 < 1, |y| < 1
    ELLIPSOID = 3  # x^2 + y^2 + z^2 < 1


#: Columns of the primitive table; see ``Scene``.
FIELDS = (
    *("kind", "body", "order"),  # which shape, with what it moves, which of two at one place is seen (decals)
    *("cx", "cy", "cz"),  # its middle, m
    *(f"r{i}{j}" for i in range(3) for j in range(3)),  # its axes in the world are the columns
    *("hx", "hy", "hz"),  # half sizes, m
    *("taper_x", "taper_front", "taper_back"),  # of a box: part of its half size that is missing at the top
    *("hole_u0", "hole_u1", "hole_v0", "hole_v1"),  # of a rect: what is cut out of -1 .. 1
    "cutout",  # outline of a rect, -1 none
    "shade",  # 1: it darkens what is near it, 2: it throws a shadow, 3: both
    *("image", "scale", "tex_u", "tex_v", "fit"),  # texture, texels per metre, its start; 1: stretched over the face
    *("gain", "red", "green", "blue"),  # its contrast and mean colour
    *("pattern", "period_u", "period_v", "duty_u", "duty_v", "start_u", "start_v", "frame"),  # see ``Pattern``
    *("pattern_red", "pattern_green", "pattern_blue", "pattern_gloss"),
    *("gloss", "mirror", "glow"),  # reflection of surroundings, of the very scene, light of its own
)
COLUMN = {name: i for i, name in enumerate(FIELDS)}
_CENTRE = slice(COLUMN["cx"], COLUMN["cz"] + 1)
_AXES = slice(COLUMN["r00"], COLUMN["r22"] + 1)
_HALF = slice(COLUMN["hx"], COLUMN["hz"] + 1)
_MATERIAL = slice(COLUMN["image"], COLUMN["glow"] + 1)


@dataclass(frozen=True)
class Pattern:
    """Rectangles in rows and columns on a surface: windows, tiles, dashes, boards. Lengths in metres.

    In every ``period`` (u across, v down) the part ``duty`` from ``start`` on is covered with ``colour``. ``strength``
    below 0 covers the rest instead: joints between tiles. ``frame``: width of a light border around each rectangle.
    """

    period: tuple[float, float]
    duty: tuple[float, float]
    colour: tuple[float, float, float]
    strength: float = 1.0
    start: tuple[float, float] = (0.0, 0.0)
    frame: float = 0.0
    gloss: float = 0.0


_NO_PATTERN = Pattern((1.0, 1.0), (1.0, 1.0), (0.0, 0.0, 0.0), strength=0.0)


@dataclass(frozen=True)
class Material:
    """A surface. ``colour``: mean RGB 0..255, around which the texture's ``image`` varies with contrast ``gain``.

    ``scale``: texels per metre; ``fit``: the image once over the whole face instead. ``gloss``: part of the light that
    is a reflection of the surroundings; ``mirror``: the same, of the scene itself (for horizontal surfaces);
    ``glow``: part of the colour that needs no light.
    """

    image: int = 0
    colour: tuple[float, float, float] = (128.0, 128.0, 128.0)
    gain: float = 0.3
    scale: float = 100.0
    start: tuple[float, float] = (0.0, 0.0)
    fit: bool = False
    gloss: float = 0.0
    mirror: float = 0.0
    glow: float = 0.0
    pattern: Pattern | None = None

    def replace(self, **changes: object) -> Material:
        """Return a copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @cached_property
    def row(self) -> np.ndarray:
        """A row of the primitive table with the fields of the material; the others have their defaults."""
        p = self.pattern or _NO_PATTERN
        row = np.zeros(len(FIELDS))
        row[COLUMN["cutout"]], row[COLUMN["shade"]] = -1, 3
        # In the order of the fields.
        row[_MATERIAL] = (
            *(self.image, self.scale, *self.start, self.fit, self.gain, *self.colour),
            *(p.strength, *p.period, *p.duty, *p.start, p.frame, *p.colour, p.gloss),
            *(self.gloss, self.mirror, self.glow),
        )
        return row


@dataclass(frozen=True)
class Motion:
    """Motion of a body.

    At time t (s) it has moved by ``velocity * t + swing * (sin(rate t + phase) - sin(phase))`` (m) and turned by
    ``turn * t`` (rad, positive to the right) about the vertical through ``pivot`` (m; None: through the body's origin).
    """

    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    swing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rate: float = 1.0
    phase: float = 0.0
    turn: float = 0.0
    pivot: tuple[float, float, float] | None = None

    def pose(self, time: float) -> np.ndarray:
        """Return 4 x 4 float64: takes points of the body at time 0 to where they are at ``time``."""
        moved = np.array(self.velocity) * time
        moved = moved + np.array(self.swing) * (math.sin(self.rate * time + self.phase) - math.sin(self.phase))
        pivot, pose = np.array(self.pivot or (0.0, 0.0, 0.0)), np.eye(4)
        pose[:3, :3] = turned(self.turn * time)
        pose[:3, 3] = pivot + moved - pose[:3, :3] @ pivot
        return pose


def turned(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Return the 3 x 3 rotation of ``roll`` about z, ``pitch`` about x (z up), then ``yaw`` about y (z right), rad."""
    c, s = math.cos(yaw), math.sin(yaw)
    about_y = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    if pitch == 0 and roll == 0:
        return about_y
    cp, sp, cr, sr = math.cos(pitch), math.sin(pitch), math.cos(roll), math.sin(roll)
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z)


_FLAT = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # a flat rect's own y points backward, its z down


@dataclass
class Builder:
    """Adds primitives at a place: lengths in metres, ``at`` = (right, forward), heights upwards, angles in radians.

    ``place`` gives a builder for the parts of a thing, in the thing's own coordinates.
    """

    rows: list[np.ndarray] = field(default_factory=list)
    motions: list[Motion] = field(default_factory=lambda: [Motion()])
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    origin: np.ndarray = field(default_factory=lambda: np.zeros(3))
    body: int = 0

    def place(
        self, at: tuple[float, float], yaw: float = 0.0, height: float = 0.0, motion: Motion | None = None
    ) -> Builder:
        """Return a builder with its origin there, turned by ``yaw``; with ``motion``, in world axes, a moving body."""
        origin = self.origin + self.rotation @ np.array([at[0], -height, at[1]])
        body = self.body
        if motion is not None:
            body = len(self.motions)
            self.motions.append(replace(motion, pivot=motion.pivot or (origin[0], origin[1], origin[2])))
        return Builder(self.rows, self.motions, self.rotation @ turned(yaw), origin, body)

    def box(
        self, material: Material, at: tuple[float, float], size: tuple[float, float, float], base: float = 0.0,
        yaw: float = 0.0, taper: tuple[float, float, float] = (0.0, 0.0, 0.0), **fields: float,
    ) -> None:  # fmt: skip
        """Add a box (width, height, length); ``taper``: parts of half width, front and back missing at the top."""
        centre = (at[0], base + size[1] / 2, at[1])
        tapers = dict(zip(("taper_x", "taper_front", "taper_back"), taper, strict=True))
        self._add(Kind.BOX, centre, turned(yaw), (size[0] / 2, size[1] / 2, size[2] / 2), material, **tapers, **fields)

    def wall(
        self, material: Material, at: tuple[float, float], size: tuple[float, float], base: float = 0.0,
        yaw: float = 0.0, lean: float = 0.0, **fields: float,
    ) -> None:  # fmt: skip
        """Add an upright rectangle ``size`` = (width, height), seen from both sides; ``lean``: pitch of its plane."""
        centre = (at[0], base + size[1] / 2, at[1])
        self._add(Kind.RECT, centre, turned(yaw, lean), (size[0] / 2, size[1] / 2, 1.0), material, **fields)

    def floor(
        self, material: Material, at: tuple[float, float], size: tuple[float, float], height: float = 0.0,
        yaw: float = 0.0, **fields: float,
    ) -> None:  # fmt: skip
        """Add a horizontal rectangle ``size`` = (width, length)."""
        self._add(
            Kind.RECT, (at[0], height, at[1]), turned(yaw) @ _FLAT, (size[0] / 2, size[1] / 2, 1.0), material, **fields
        )

    def cylinder(
        self, material: Material, at: tuple[float, float], radius: float, height: float, base: float = 0.0,
        **fields: float,
    ) -> None:  # fmt: skip
        """Add an upright cylinder."""
        centre = (at[0], base + height / 2, at[1])
        self._add(Kind.CYLINDER, centre, np.eye(3), (radius, height / 2, radius), material, **fields)

    def rod(
        self, material: Material, start: tuple[float, float, float], end: tuple[float, float, float], radius: float,
        **fields: float,
    ) -> None:  # fmt: skip
        """Add a cylinder between two points (right, height, forward)."""
        a, b = np.array(start, float), np.array(end, float)
        a[1], b[1] = -a[1], -b[1]
        long = math.dist(a, b)
        x, y, z = ((b - a) / long).tolist()
        # Two directions across: one of them level, or, for upright rods, to the right.
        across = math.hypot(x, z)
        beside = (z / across, 0.0, -x / across) if across > 1e-6 else (1.0, 0.0, 0.0)
        third = (beside[1] * z - beside[2] * y, beside[2] * x - beside[0] * z, beside[0] * y - beside[1] * x)
        axes = np.array([beside, (x, y, z), third]).T
        middle = ((a + b) / 2).tolist()
        half = (radius, long / 2, radius)
        self._add(Kind.CYLINDER, (middle[0], -middle[1], middle[2]), axes, half, material, **fields)

    def ellipsoid(
        self, material: Material, at: tuple[float, float], radii: tuple[float, float, float], base: float = 0.0,
        yaw: float = 0.0, **fields: float,
    ) -> None:  # fmt: skip
        """Add an ellipsoid of half sizes ``radii`` (x, y, z) that stands on height ``base``."""
        self._add(Kind.ELLIPSOID, (at[0], base + radii[1], at[1]), turned(yaw), radii, material, **fields)

    def _add(
        self, kind: Kind, centre: Sequence[float], axes: np.ndarray, half: Sequence[float], material: Material,
        **fields: float,
    ) -> None:  # fmt: skip
        row = material.row.copy()
        row[0], row[1] = kind, self.body
        row[_CENTRE] = self.origin + self.rotation @ (centre[0], -centre[1], centre[2])
        row[_AXES] = (self.rotation @ axes).reshape(-1)
        row[_HALF] = half
        for name, value in fields.items():
            row[COLUMN[name]] = value
        self.rows.append(row)


@dataclass(frozen=True)
class Light:
    """Light of a scene.

    ``towards``: unit vector from a surface to the sun (y down, so a sun above has y < 0); ``sun``, ``sky``: RGB
    strengths of its direct and of the scattered light; ``lamps``: L x 4 places (m) and reach (m) of lamps indoors,
    of strength ``lamp``; ``haze``: distance (m) at which a third of the contrast is left.
    """

    towards: tuple[float, float, float] = (0.0, -1.0, 0.0)
    sun: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sky: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lamps: tuple[tuple[float, float, float, float], ...] = ()
    lamp: tuple[float, float, float] = (0.0, 0.0, 0.0)
    haze: float = 1e6


@dataclass(frozen=True)
class Sky:
    """Background of a world: RGB at the zenith and the horizon, and clouds from a texture."""

    zenith: tuple[float, float, float] = (110.0, 150.0, 215.0)
    horizon: tuple[float, float, float] = (205.0, 215.0, 225.0)
    image: int = 0
    clouds: float = 0.5


@dataclass(frozen=True)
class Path:
    """Path of the camera.

    An arc of ``curvature`` (1/m, positive turns right) that begins at (``x``, ``z``) in direction z, at ``speed`` m/s
    and this ``height`` (m). The camera is turned by ``look`` (rad) to the right of its path, up by ``pitch``, and by
    ``roll``, and sways by ``sway`` (m, rad: sideways, up, yaw, pitch, roll).

    ``reach``: where the way ends and goes back, m: for rooms.
    """

    x: float = 0.0
    z: float = 0.0
    look: float = 0.0
    height: float = 1.5
    pitch: float = 0.0
    roll: float = 0.0
    speed: float = 5.0
    curvature: float = 0.0
    sway: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    reach: float = math.inf

    def pose(self, time: float) -> np.ndarray:
        """Return the camera's pose at ``time`` s, 4 x 4 float64: takes points of the optical frame to the world."""
        gone = self.speed * time
        if math.isfinite(self.reach):
            gone = self.reach / 2 * (1 - math.cos(2 * gone / self.reach))
        angle = gone * self.curvature
        forward = math.sin(angle) / self.curvature if self.curvature else gone
        right = (1 - math.cos(angle)) / self.curvature if self.curvature else 0.0
        waves = np.sin(time * np.array([1.1, 7.3, 0.7, 5.1, 3.7]) + np.array([0.0, 1.0, 2.0, 3.0, 4.0])) * self.sway
        pose = np.eye(4)
        pose[:3, :3] = turned(angle + self.look + waves[2], self.pitch + waves[3], self.roll + waves[4])
        pose[:3, 3] = self.x + right + waves[0], -self.height - waves[1], self.z + forward
        return pose


@dataclass(frozen=True)
class View:
    """Lenses that suit a scene.

    ``field_of_view``: the least and the largest, horizontal, degrees; ``nearest``: what is nearest in sight, m; None:
    the ground.
    """

    field_of_view: tuple[float, float] = (40.0, 110.0)
    nearest: float | None = None


@dataclass(frozen=True)
class Scene:
    """A world: G x len(FIELDS) float64 primitives, how their bodies move, light, sky, and the camera's way."""

    rows: np.ndarray
    motions: tuple[Motion, ...]
    light: Light
    sky: Sky
    path: Path
    surroundings: int = 0
    """Image that glossy things reflect."""
    view: View = View()

    def at(self, time: float) -> np.ndarray:
        """Return the table with all bodies where they are at ``time`` s."""
        if len(self.motions) < 2:
            return self.rows
        poses = np.stack([motion.pose(time) for motion in self.motions])[self.rows[:, COLUMN["body"]].astype(int)]
        rows = self.rows.copy()
        rows[:, _CENTRE] = np.einsum("gij,gj->gi", poses[:, :3, :3], rows[:, _CENTRE]) + poses[:, :3, 3]
        rows[:, _AXES] = (poses[:, :3, :3] @ rows[:, _AXES].reshape(-1, 3, 3)).reshape(-1, 9)
        return rows
