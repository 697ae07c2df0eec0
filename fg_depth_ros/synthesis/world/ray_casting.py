"""Rays against the primitives of virtual worlds: exact depth, and which primitive a pixel shows.

A primitive is tried only in the part of each picture row that its outline covers. These parts, of all primitives and
all pictures of a batch, are one long list of candidates, which is worked off kind by kind: a few dozen operations on
long arrays, on the CPU as on a GPU. The nearest candidate of a pixel wins.

A ray is the camera's place plus depth times a direction whose part along the optical axis is 1, so the ray's parameter
is the depth. In a primitive's own coordinates the direction is an affine function of column and row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from fg_depth_ros.synthesis.cutouts import CutoutAtlas
from fg_depth_ros.synthesis.world.outlines import Outlines, Spans, spans_of
from fg_depth_ros.synthesis.world.primitives import COLUMN, Kind

NEAR = 0.05  # m: nothing nearer is seen
_ORDER_STEP = 1e-4  # a decal counts as this part nearer than what it lies on
_NOTHING = (1 << 62) - 1
BOX_EDGES = np.array([[i, i | bit] for i in range(8) for bit in (1, 2, 4) if not i & bit])


@dataclass(frozen=True)
class View:
    """A pinhole camera in the world. ``axes``: its x, y, z as columns, ``origin``: its place (m); ``fx`` ... ``cy`` px.

    ``row_offset`` and ``row_tilt``: its row y shows what a rectified camera has in the row
    ``y + row_offset + row_tilt * (x - middle)``.
    """

    axes: np.ndarray
    origin: np.ndarray
    fx: float
    fy: float
    cx: float
    cy: float
    row_offset: float = 0.0
    row_tilt: float = 0.0
    middle: float = 0.0

    def rays(self) -> np.ndarray:
        """3 x 3: takes (column, row, 1) to the direction in the world whose part along the optical axis is 1."""
        return np.asarray(self.axes @ np.linalg.inv(self.projection()))

    def projection(self) -> np.ndarray:
        """3 x 3: takes the camera's own (x, y, z) to (column * z, row * z, z)."""
        pinhole = np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]])
        row = [-self.row_tilt, 1, self.row_tilt * self.middle - self.row_offset]
        return np.array([[1, 0, 0], row, [0, 0, 1]]) @ pinhole

    def mirrored(self, y: float) -> View:
        """Return the camera mirrored at world height ``y``: it sees what the mirror shows, at the same pixels."""
        flip = np.array([1.0, -1.0, 1.0])
        return replace(self, axes=self.axes * flip[:, None], origin=self.origin * flip + np.array([0, 2 * y, 0]))


@dataclass(frozen=True, eq=False)
class Shot:
    """The primitives of N samples, G in all, before N cameras.

    ``rows`` G x len(FIELDS); ``sample`` G: which camera looks at it; ``rays`` G x 3 x 3 and ``start`` G x 3: direction
    (from column, row, 1) and place of the camera in each primitive's own, stretched coordinates.
    """

    rows: np.ndarray
    sample: np.ndarray
    views: tuple[View, ...]
    width: int
    height: int
    rays: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, tables: Sequence[np.ndarray], views: Sequence[View], width: int, height: int) -> Shot:
        """One table and one camera per sample."""
        rows = np.concatenate(tables)
        sample = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        to_local = axes_of(rows).transpose(0, 2, 1) / half_of(rows)[:, :, None]
        rays = to_local @ np.stack([view.rays() for view in views])[sample]
        away = np.stack([view.origin for view in views])[sample] - centre_of(rows)
        start = (to_local @ away[:, :, None])[:, :, 0]
        return cls(rows, sample, tuple(views), width, height, rays, start)

    def halved(self) -> Shot:
        """Return the same for every other pixel of every other row, beginning with the first."""
        views = [replace(v, fx=v.fx / 2, fy=v.fy / 2, cx=v.cx / 2, cy=v.cy / 2, row_offset=v.row_offset / 2,
                         middle=v.middle / 2) for v in self.views]  # fmt: skip
        rays = self.rays * [2.0, 2.0, 1.0]
        return replace(self, views=tuple(views), width=(self.width + 1) // 2, height=(self.height + 1) // 2, rays=rays)

    def column(self, name: str) -> np.ndarray:
        """One field of all primitives."""
        return np.asarray(self.rows[:, COLUMN[name]])

    @cached_property
    def holed(self) -> np.ndarray:
        """G bool: rects with something cut away."""
        return (self.column("cutout") >= 0) | (self.column("hole_u1") > self.column("hole_u0"))

    @cached_property
    def distance(self) -> np.ndarray:
        """G: from the camera to the primitives' middles, m."""
        origin = np.stack([view.origin for view in self.views])[self.sample]
        return np.asarray(np.linalg.norm(centre_of(self.rows) - origin, axis=1))

    @cached_property
    def focal(self) -> np.ndarray:
        """G: focal length of each primitive's camera, px."""
        return np.array([view.fx for view in self.views])[self.sample]

    def outlines(self, points: np.ndarray, edges: np.ndarray, wanted: np.ndarray) -> Outlines:
        """Project the convex hulls of G x K world points (G bool ``wanted``); ``edges`` E x 2 join them."""
        chosen = np.nonzero(wanted)[0]
        sample = self.sample[chosen]
        origin = np.stack([view.origin for view in self.views])[sample]
        project = np.stack([view.projection() @ view.axes.T for view in self.views])[sample]
        seen = (points[chosen] - origin[:, None]) @ project.transpose(0, 2, 1)
        return Outlines.of(seen, edges, NEAR, chosen)


def centre_of(rows: np.ndarray) -> np.ndarray:
    """G x 3 middles, m."""
    return np.asarray(rows[:, COLUMN["cx"] : COLUMN["cz"] + 1])


def half_of(rows: np.ndarray) -> np.ndarray:
    """G x 3 half sizes, m."""
    return np.asarray(rows[:, COLUMN["hx"] : COLUMN["hz"] + 1])


def axes_of(rows: np.ndarray) -> np.ndarray:
    """G x 3 x 3, own axes in the world as columns."""
    return np.asarray(rows[:, COLUMN["r00"] : COLUMN["r22"] + 1]).reshape(-1, 3, 3)


_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def corners_of(rows: np.ndarray, grow: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the corners G x 8 x 3 of boxes around the primitives, ``grow`` m (one, or G x 1) larger to all sides."""
    half = half_of(rows) * np.where((rows[:, COLUMN["kind"]] == Kind.RECT)[:, None], [1.0, 1.0, 0.0], 1.0) + grow
    signed = _SIGNS * half[:, None]
    # A box that tapers has its upper corners further inside.
    upper, front = _SIGNS[:, 1] < 0, _SIGNS[:, 2] > 0
    x, ahead, back = (rows[:, COLUMN[name], None] for name in ("taper_x", "taper_front", "taper_back"))
    signed[..., 0] -= _SIGNS[:, 0] * upper * x * half_of(rows)[:, None, 0]
    signed[..., 2] -= _SIGNS[:, 2] * upper * np.where(front, ahead, back) * half_of(rows)[:, None, 2]
    return np.asarray(centre_of(rows)[:, None] + signed @ axes_of(rows).transpose(0, 2, 1))


def visible_primitives(shot: Shot, pixels: float) -> np.ndarray:
    """Find primitives whose second longest side, at its nearest, is at least so many pixels long; G bool.

    What is thinner than a pixel would come and go along its length.
    """
    half = half_of(shot.rows)
    rect = shot.column("kind") == Kind.RECT
    second = np.where(rect, half[:, :2].min(1), np.sort(half, 1)[:, 1])
    longest = np.where(rect, half[:, :2].max(1), half.max(1))
    return np.asarray(2 * second * shot.focal >= pixels * np.maximum(shot.distance - longest, 0.1))


class Candidates:
    """Pixels at which primitives are tried: C in all.

    ``pixel``: C int64 place in the flat N * H * W pictures; ``item``: C int64, which primitive; ``x``: C column.
    """

    def __init__(self, shot: Shot, spans: Spans) -> None:
        self._shot, self._spans = shot, spans
        total = int(spans.length.sum())
        device = spans.item.device
        rows = torch.arange(len(spans.item), device=device)
        self._row = torch.repeat_interleave(rows, spans.length, output_size=total)
        first = spans.length.cumsum(0) - spans.length - spans.x0
        x = torch.arange(total, device=device) - first[self._row]
        sample = torch.from_numpy(shot.sample).to(device)[spans.item]
        self.pixel = x + ((sample * shot.height + spans.y) * shot.width)[self._row]
        self.x = x.float()

    @property
    def item(self) -> torch.Tensor:
        """C int64: number of the primitive."""
        return self._spans.item[self._row]

    def of(self, values: np.ndarray) -> torch.Tensor:
        """G numbers, one for every primitive, for every candidate, float32 (int64 stays)."""
        kind = torch.int64 if values.dtype.kind == "i" else torch.float32
        there = torch.from_numpy(np.ascontiguousarray(values)).to(self._row.device, kind)
        return there[self._spans.item][self._row]

    def along(self, slopes: np.ndarray) -> torch.Tensor:
        """Evaluate G x 3 factors of (column, row, 1) for every candidate."""
        device = self._row.device
        table = torch.from_numpy(np.stack([slopes[:, 0], slopes[:, 1], slopes[:, 2]])).to(device)
        table = table[:, self._spans.item]
        # What is the same along a row is worked out once for the row, in double precision.
        start = (table[1] * self._spans.y + table[2]).float()
        return torch.addcmul(start[self._row], table[0].float()[self._row], self.x)

    def field(self, name: str) -> torch.Tensor:
        """One field of the primitive table for every candidate."""
        return self.of(self._shot.column(name))

    def direction(self) -> list[torch.Tensor]:
        """x, y, z of the rays in the primitives' own coordinates."""
        return [self.along(self._shot.rays[:, i]) for i in range(3)]

    def start(self) -> list[torch.Tensor]:
        """Return the camera's place in the primitives' own coordinates."""
        return [self.of(self._shot.start[:, i]) for i in range(3)]


def groups_of(shot: Shot, spans: Spans, kinds: np.ndarray) -> Iterator[tuple[int, Candidates]]:
    """Yield the candidates of the primitives group by group; ``kinds``: G int, the group of each, -1 for none."""
    group = torch.from_numpy(kinds).to(spans.item.device)[spans.item]
    for kind in np.unique(kinds[kinds >= 0]):
        rows = (group == int(kind)).nonzero()[:, 0]
        if len(rows):
            yield int(kind), Candidates(shot, Spans(*(column[rows] for column in spans)))


class RayHits(NamedTuple):
    """``depth``: N x H x W float32 m, inf where nothing is hit; ``item``: N x H x W int64 row of the shot, -1 there."""

    depth: torch.Tensor
    item: torch.Tensor


def cast_rays(
    shot: Shot, cutouts: CutoutAtlas, device: torch.device, window: np.ndarray | None = None,
    behind: torch.Tensor | None = None, wanted: np.ndarray | None = None,
) -> RayHits:  # fmt: skip
    """Find the nearest primitive of every pixel.

    ``window``: N x 2 (y0, y1), the only rows of the pictures that are looked at; None: all of them. ``behind``: N x H x
    W m; what lies nearer than this is left out. ``wanted``: G bool, the only primitives that are looked at.
    """
    rects = shot.column("kind") == Kind.RECT
    chosen = np.ones(len(shot.rows), bool) if wanted is None else wanted
    outlines = shot.outlines(corners_of(shot.rows), BOX_EDGES, chosen)
    spans = spans_of(outlines, shot.sample, shot.width, shot.height, device, window)
    count = len(shot.views) * shot.height * shot.width
    best = torch.full((count,), _NOTHING, dtype=torch.int64, device=device)
    nearer = 1 - _ORDER_STEP * shot.column("order")
    # Boxes go by how many of their faces look towards the camera.
    outside = (_planes(shot)[0] > 0).sum(1)
    kinds = np.where(rects, shot.holed.astype(int), 0)
    kinds = np.where(shot.column("kind") == Kind.BOX, 10 + outside, kinds)
    kinds = np.where(shot.column("kind") > Kind.BOX, shot.column("kind").astype(int), kinds)
    for kind, c in groups_of(shot, spans, np.where(chosen, kinds, -1)):
        if kind < 2:
            t = _rect_depth(shot, c, cutouts if kind else None)
        elif kind >= 10:
            if kind == 10:
                continue  # the camera is inside: nothing is seen of it
            t = _box_depth(shot, c, kind - 10)
        else:
            t = _round_depth(c.start(), c.direction(), kind == Kind.ELLIPSOID)
        hit = (t > (NEAR if behind is None else behind.view(-1)[c.pixel])) & (t < torch.inf)
        # Positive floats are ordered as their bits are, so one minimum finds depth and owner, and ties are fair.
        item = c.item
        if shot.column("order").any():
            t = t * torch.from_numpy(nearer).to(device, torch.float32)[item]
        key = (t.view(torch.int32).to(torch.int64) << 24) | item
        best.scatter_reduce_(0, c.pixel, key.masked_fill_(~hit, _NOTHING), "amin")
    seen = best != _NOTHING
    item = torch.where(seen, best & 0xFFFFFF, 0)
    depth = (best >> 24).to(torch.int32).view(torch.float32) / torch.from_numpy(nearer).to(device, torch.float32)[item]
    shape = (len(shot.views), shot.height, shot.width)
    return RayHits(torch.where(seen, depth, torch.inf).view(shape), torch.where(seen, item, -1).view(shape))


def _rect_depth(shot: Shot, c: Candidates, cutouts: CutoutAtlas | None) -> torch.Tensor:
    """Compute C depths of rects.

    One over the depth is an affine function of column and row, and so is a place on the rect times it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        nearness = -shot.rays[:, 2] / shot.start[:, 2:]
        places = [shot.start[:, i : i + 1] * nearness + shot.rays[:, i] for i in range(2)]
    near = c.along(nearness)
    x, y = (c.along(place) for place in places)
    t = 1 / near
    t = t.masked_fill_((x.abs() > near) | (y.abs() > near) | ~(near > 0), torch.inf)
    if cutouts is not None:
        t = t.masked_fill_(~opaque(c, shot, cutouts, [x / near, y / near]), torch.inf)
    return t


def _planes(shot: Shot) -> tuple[np.ndarray, np.ndarray]:
    """Compute the six planes of boxes.

    Returns G x 6 values at the camera's place, above 0 outside, and G x 6 x 3 how these change along the ray of
    (column, row, 1).
    """
    # Inside: |y| <= 1 and sign * along <= 1 - taper * (1 - y) / 2, as the height above the bottom is (1 - y) / 2.
    value, slope = np.empty((len(shot.rows), 6)), np.empty((len(shot.rows), 6, 3))
    o, d = shot.start, shot.rays
    for i, (name, axis, sign) in enumerate(FACES):
        half = shot.column(name) / 2 if name else np.zeros(len(o))
        value[:, i] = sign * o[:, axis] - 1 + half * ((1 - o[:, 1]) if name else 1.0)
        slope[:, i] = sign * d[:, axis] - half[:, None] * d[:, 1]
    return value, slope


FACES = (("", 1, -1), ("", 1, 1), ("taper_x", 0, 1), ("taper_x", 0, -1), ("taper_front", 2, 1), ("taper_back", 2, -1))
"""Faces of a box: which taper they have, the axis they are crossed along, and its sign there."""


def _box_depth(shot: Shot, c: Candidates, outside: int) -> torch.Tensor:
    """C depths of boxes of which the camera is outside of ``outside`` planes."""
    value, slope = _planes(shot)
    order = np.argsort(value <= 0, axis=1, kind="stable")
    with np.errstate(divide="ignore", invalid="ignore"):
        nearness = -np.take_along_axis(slope, order[:, :, None], 1) / np.take_along_axis(value, order, 1)[:, :, None]
    # Entered through the farthest of the planes that one is outside of, left through the nearest of the others.
    enter = c.along(nearness[:, 0])
    for i in range(1, outside):
        enter = torch.minimum(enter, c.along(nearness[:, i]))
    leave = c.along(nearness[:, outside])
    for i in range(outside + 1, 6):
        leave = torch.maximum(leave, c.along(nearness[:, i]))
    return (1 / enter).masked_fill_((enter <= 0) | (enter < leave), torch.inf)


def _round_depth(o: Sequence[torch.Tensor], d: Sequence[torch.Tensor], ball: bool) -> torch.Tensor:
    """Return the C depths where rays enter balls or cylinders; NaN or infinite: they miss."""
    (ox, oy, oz), (dx, dy, dz) = o, d
    # From the place next to the axis (or the middle), so that thin things far away keep their digits.
    if ball:
        a = dx * dx + dy * dy + dz * dz
        middle = -(ox * dx + oy * dy + oz * dz) / a
        px, py, pz = ox + middle * dx, oy + middle * dy, oz + middle * dz
        return middle - ((1 - px * px - py * py - pz * pz) / a).sqrt()
    a = dx * dx + dz * dz
    middle = -(ox * dx + oz * dz) / a
    px, pz = ox + middle * dx, oz + middle * dz
    side = middle - ((1 - px * px - pz * pz) / a).sqrt()
    side = torch.where((oy + side * dy).abs() <= 1, side, torch.inf)
    cap = (torch.where(dy > 0, -1.0, 1.0) - oy) / dy
    x, z = ox + cap * dx, oz + cap * dz
    cap = torch.where(x * x + z * z <= 1, cap, torch.inf)
    return torch.fmin(side, cap)


def opaque(c: Candidates, shot: Shot, cutouts: CutoutAtlas, at: Sequence[torch.Tensor]) -> torch.Tensor:
    """Find the places ``at`` = (x, y) in -1 .. 1 of rects with an outline or a hole that are opaque; C bool."""
    x, y = at
    hole = (x > c.field("hole_u0")) & (x < c.field("hole_u1")) & (y > c.field("hole_v0")) & (y < c.field("hole_v1"))
    mask = shot.column("cutout").astype(np.int64)
    if not (mask >= 0).any():
        return ~hole
    # One mip level per primitive: the one whose texels are about as large as pixels at its distance.
    texels = cutouts.size / (2 * half_of(shot.rows)[:, :2].min(1)) * shot.distance / shot.focal
    level = np.clip(np.rint(np.log2(np.maximum(texels, 1))), 0, cutouts.levels - 1).astype(np.int64)
    side = np.right_shift(cutouts.size, level)
    base = np.maximum(mask, 0) * cutouts.stride + np.array(cutouts.offsets)[level]
    sides, base_of = c.of(side), c.of(base)
    last = sides - 1
    u, v = (((p + 1) / 2 * sides - 0.5).nan_to_num_(0.0, 0.0, 0.0).clamp_(min=0) for p in (x, y))
    u, v = torch.minimum(u, last.float()), torch.minimum(v, last.float())
    u0, v0 = u.long(), v.long()
    step, down = (u0 < last).long(), (v0 < last).long() * sides
    at00 = base_of + v0 * sides + u0
    wu, wv = u - u0, v - v0
    take = lambda index: cutouts.masks[index].float()  # noqa: E731
    top, bottom = take(at00), take(at00 + down)
    top = torch.lerp(top, take(at00 + step), wu)
    bottom = torch.lerp(bottom, take(at00 + down + step), wu)
    return ~hole & ((torch.lerp(top, bottom, wv) > 127.5) | (c.of(mask) < 0))
