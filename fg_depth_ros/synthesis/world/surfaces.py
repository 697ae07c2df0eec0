"""Find on which surface the ray hits of pixels lie, which way it faces, and how much of it a pixel covers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from fg_depth_ros.synthesis.world.primitives import COLUMN, Kind
from fg_depth_ros.synthesis.world.ray_casting import Shot, axes_of

_GRAZING = 0.02  # smallest part of the direction of sight along the normal that footprints are worked out with


class Surface(NamedTuple):
    """Surfaces that P pixels show, sorted by their shape. Lengths in metres.

    ``pixel`` P: places in the flat N * H * W pictures; ``item`` P: rows of the shot; ``sample`` P: pictures; ``depth``
    P. ``at`` P x 3 world places; ``ray`` P x 3 directions of sight, of part 1 along the optical axis; ``normal`` P x 3,
    towards the camera; ``u``, ``v`` places on the surface, ``unit_u``, ``unit_v`` the same in -1 .. 1; ``foot_u``,
    ``foot_v`` what a pixel covers along them.
    """

    pixel: torch.Tensor
    item: torch.Tensor
    sample: torch.Tensor
    depth: torch.Tensor
    at: torch.Tensor
    ray: torch.Tensor
    normal: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    unit_u: torch.Tensor
    unit_v: torch.Tensor
    foot_u: torch.Tensor
    foot_v: torch.Tensor


class _Face(NamedTuple):
    """Parts of a surface in a primitive's own axes: normal 3 x P, places, and the direction of sight along u and v."""

    normal: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    unit_u: torch.Tensor
    unit_v: torch.Tensor
    sight_u: torch.Tensor
    sight_v: torch.Tensor


def surface_of(
    shot: Shot, table: torch.Tensor, pixel: torch.Tensor, item: torch.Tensor, depth: torch.Tensor
) -> Surface:
    """Describe the surfaces that P pixels show.

    ``table``: the shot's rows as a tensor, len(FIELDS) x G. ``pixel``, ``item``: P int64, pixels and what they show;
    ``depth``: P m.
    """
    device, area, width = pixel.device, shot.width * shot.height, shot.width
    kind = table[COLUMN["kind"]][item]
    groups = [(kind == Kind.RECT), (kind == Kind.BOX), (kind > Kind.BOX)]
    order = [group.nonzero()[:, 0] for group in groups]
    every = torch.cat(order)
    pixel, item, depth = pixel[every], item[every], depth[every]
    send = lambda values: torch.from_numpy(np.ascontiguousarray(values)).to(device, torch.float32)  # noqa: E731
    x, y = (pixel % width).float(), (pixel % area // width).float()
    geometry = send(np.concatenate([shot.rays.reshape(-1, 9), shot.start, axes_of(shot.rows).reshape(-1, 9)], 1).T)
    parts, first = [], 0
    for group, face_of in zip(order, (_rect_face, _box_face, _round_face), strict=True):
        part = slice(first, first + len(group))
        first += len(group)
        if not len(group):
            continue
        g = geometry[:, item[part]]
        half = table[COLUMN["hx"] : COLUMN["hz"] + 1][:, item[part]]
        d = [torch.addcmul(g[3 * i + 2], g[3 * i], x[part]).addcmul_(g[3 * i + 1], y[part]) for i in range(3)]
        p = [torch.addcmul(g[9 + i], depth[part], d[i]) for i in range(3)]
        # The direction of sight in own axes, not stretched.
        sight = [d[i] * half[i] for i in range(3)]
        face = face_of(p, half, sight, table, item[part])
        normal = face.normal
        onto = normal[0] * sight[0] + normal[1] * sight[1] + normal[2] * sight[2]
        towards = torch.where(onto > 0, -1.0, 1.0)
        axes = g[12:].view(3, 3, -1)
        world = torch.stack([(axes[i] * normal).sum(0) * towards for i in range(3)], 1)
        onto = onto.abs_().clamp_(min=_GRAZING)
        feet = [((along / onto).square_().add_(1)).sqrt_().mul_(depth[part]) for along in (face.sight_u, face.sight_v)]
        parts.append((world, *face[1:5], *feet))
    normal, u, v, unit_u, unit_v, foot_u, foot_v = (torch.cat(column) for column in zip(*parts, strict=True))
    sample = pixel // area
    rays = [view.rays() for view in shot.views]
    if len(rays) == 1:
        r = rays[0].tolist()
        ray = torch.stack([x * r[i][0] + y * r[i][1] + r[i][2] for i in range(3)], 1)
        focal, origin = torch.full((), shot.views[0].fx, device=device), send(shot.views[0].origin)
    else:
        r = send(np.stack(rays))[sample]
        ray = r[:, :, 0] * x.unsqueeze(1) + r[:, :, 1] * y.unsqueeze(1) + r[:, :, 2]
        focal = send(np.array([view.fx for view in shot.views]))[sample]
        origin = send(np.stack([view.origin for view in shot.views]))[sample]
    at = torch.addcmul(origin, depth.unsqueeze(1), ray)
    return Surface(
        pixel, item, sample, depth, at, ray, normal, u, v, unit_u, unit_v, foot_u.div_(focal), foot_v.div_(focal)
    )


_Parts = list[torch.Tensor]


def _rect_face(p: _Parts, half: torch.Tensor, sight: _Parts, table: torch.Tensor, item: torch.Tensor) -> _Face:
    normal = torch.zeros_like(half)
    normal[2] = 1
    return _Face(normal, p[0] * half[0], p[1] * half[1], p[0], p[1], sight[0], sight[1])


def _box_face(p: _Parts, half: torch.Tensor, sight: _Parts, table: torch.Tensor, item: torch.Tensor) -> _Face:
    taper = {name: table[COLUMN[f"taper_{name}"]][item] / 2 for name in ("x", "front", "back")}
    up = 1 - p[1]
    level = p[1].abs() - 1
    beside = p[0].abs() - 1 + taper["x"] * up
    front, back = p[2] - 1 + taper["front"] * up, -p[2] - 1 + taper["back"] * up
    ends = torch.maximum(front, back)
    top = (level >= beside) & (level >= ends)
    side = (beside >= ends) & ~top
    lean = torch.where(side, taper["x"], torch.where(front > back, taper["front"], taper["back"]))
    end = ~(top | side)
    normal = torch.stack([
        p[0].sign() / half[0] * side,
        torch.where(top, p[1].sign(), -lean / half[1]),
        torch.where(front > back, 1.0, -1.0) / half[2] * end,
    ])  # fmt: skip
    normal = normal / (normal * normal).sum(0).sqrt()
    deep = p[2] * half[2]
    return _Face(
        normal,
        torch.where(side, deep, p[0] * half[0]),
        torch.where(top, deep, p[1] * half[1]),
        torch.where(side, p[2], p[0]),
        torch.where(top, p[2], p[1]),
        torch.where(side, sight[2], sight[0]),
        torch.where(top, sight[2], sight[1]),
    )


def _round_face(p: _Parts, half: torch.Tensor, sight: _Parts, table: torch.Tensor, item: torch.Tensor) -> _Face:
    ball = table[COLUMN["kind"]][item] == Kind.ELLIPSOID
    cap = ~ball & (p[1].abs() > (p[0] ** 2 + p[2] ** 2).sqrt())
    normal = torch.stack([
        torch.where(cap, 0.0, p[0] / half[0]),
        torch.where(cap, p[1].sign(), torch.where(ball, p[1] / half[1], 0.0)),
        torch.where(cap, 0.0, p[2] / half[2]),
    ])  # fmt: skip
    normal = normal / (normal * normal).sum(0).sqrt()
    angle = torch.atan2(p[0], p[2])
    around = torch.cos(angle) * sight[0] - torch.sin(angle) * sight[2]
    return _Face(
        normal,
        torch.where(cap, p[0] * half[0], angle * half[0]),
        torch.where(cap, p[2] * half[2], p[1] * half[1]),
        torch.where(cap, p[0], angle / torch.pi),
        torch.where(cap, p[2], p[1]),
        torch.where(cap, sight[0], around),
        torch.where(cap, sight[2], sight[1]),
    )
