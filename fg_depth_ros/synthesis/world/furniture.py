"""Furniture in true size. A thing along a wall stands at the origin with its back to +z. Metres."""

from __future__ import annotations

import math

from fg_depth_ros.synthesis.world.asset_library import AssetSampler
from fg_depth_ros.synthesis.world.primitives import Builder, Material, Pattern

_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def wood(p: AssetSampler) -> Material:
    """Draw the material of furniture: wood, or paint."""
    if p.chance(0.6):
        return p.material((p.uniform(90, 190), p.uniform(70, 140), p.uniform(40, 95)), (0.1, 0.5), (60, 250))
    return p.material(p.colour(40, 240, 0.3), (0.02, 0.25), gloss=p.uniform(0, 0.08))


def along_wall(b: Builder, p: AssetSampler, width: float, depth: float, ceiling: float) -> None:
    """Something against a wall: shelf, cupboard, sideboard, desk, sofa, bed or a screen."""
    kind = int(p.rng.choice(7, p=[0.28, 0.22, 0.16, 0.12, 0.1, 0.06, 0.06]))
    if kind == 0:
        shelf(b, p, width, min(depth, 0.4), min(ceiling - 0.1, p.uniform(0.8, 2.3)))
    elif kind == 1:
        cupboard(b, p, width, depth, min(ceiling - 0.1, p.uniform(1.6, 2.2)))
    elif kind == 2:
        height = p.uniform(0.7, 1.0)
        cupboard(b, p, width, depth, height)
        _clutter(b, p, width * 0.8, depth * 0.6, height)
        if p.chance(0.5):
            picture(b, p, depth / 2, width, height + 0.4)
    elif kind == 3:
        table(b, p, max(width, 0.9), depth, p.uniform(0.7, 0.78))
        chair(b.place((p.uniform(-0.2, 0.2), -depth / 2 - 0.15), math.pi + p.uniform(-0.4, 0.4)), p)
    elif kind == 4:
        sofa(b, p, max(width, 1.2))
    elif kind == 5:
        m = p.material(p.colour(100, 235, 0.3), (0.1, 0.4))
        b.box(wood(p), (0, 0), (width, 0.3, depth))
        b.box(m, (0, 0), (width * 0.98, 0.22, depth), 0.3)
    else:
        board = Material(image=p.random_image(), colour=(30, 30, 34), gain=0.05, gloss=0.2)
        height = p.uniform(0.4, 0.8)
        b.box(wood(p), (0, 0), (width, 0.45, depth))
        b.box(board, (0, depth * 0.2), (min(width, height * 1.7), height, 0.05), 0.55)


def free_standing(b: Builder, p: AssetSampler) -> None:
    """Something in the middle of a room: a table with chairs, a chair, a plant, an armchair, a lamp."""
    kind = int(p.rng.choice(5, p=[0.35, 0.2, 0.2, 0.1, 0.15]))
    if kind == 0:
        width, depth, height = p.uniform(0.6, 1.2), p.uniform(0.6, 1.0), p.uniform(0.4, 0.78)
        table(b, p, width, depth, height)
        if height > 0.65:
            for i in range(int(p.rng.integers(0, 4))):
                turn = i * math.pi / 2
                away = (depth if i % 2 == 0 else width) / 2 + 0.12
                chair(b.place((math.sin(turn) * away, math.cos(turn) * away), turn + p.uniform(-0.3, 0.3)), p)
    elif kind == 1:
        chair(b, p)
    elif kind == 2:
        plant(b, p)
    elif kind == 3:
        sofa(b, p, p.uniform(0.8, 1.0))
    else:
        floor_lamp(b, p)


def small(b: Builder, p: AssetSampler) -> None:
    """Something on the floor: a carton, a ball, a bucket, a bag, or some outline."""
    kind = int(p.rng.integers(5))
    if kind == 0:
        for i in range(int(p.rng.integers(1, 4))):
            side, m = p.uniform(0.2, 0.5), p.material((165, 130, 90), (0.05, 0.3))
            b.box(m, (0, 0), (side, 0.3, side * 0.8), i * 0.3, p.uniform(-0.4, 0.4))
    elif kind == 1:
        radius = p.uniform(0.06, 0.3)
        b.ellipsoid(p.material(p.colour(60, 220, 0.9), (0.1, 0.7), (100, 600)), (0, 0), (radius, radius, radius))
    elif kind == 2:
        b.cylinder(p.material(p.colour(40, 220, 0.7), (0, 0.4)), (0, 0), p.uniform(0.1, 0.2), p.uniform(0.2, 0.6))
    elif kind == 3:
        b.box(p.material(p.colour(30, 180, 0.6), (0.1, 0.5)), (0, 0), (p.uniform(0.2, 0.5), p.uniform(0.2, 0.45), 0.2),
              taper=(0.2, 0.4, 0.4))  # fmt: skip
    elif len(p.assets.outlines):
        m = p.material(p.colour(30, 220, 0.6), (0.2, 0.8), (100, 400))
        p.billboard(b, int(p.rng.choice(p.assets.outlines)), (0, 0), p.uniform(0.3, 1.2), widest=0.9, material=m)


def table(b: Builder, p: AssetSampler, width: float, depth: float, height: float) -> None:
    """Add a table with four legs, or one, and things on it."""
    top, thick = wood(p), p.uniform(0.02, 0.05)
    b.box(top.replace(gloss=p.uniform(0, 0.1)), (0, 0), (width, thick, depth), height - thick)
    legs = top if p.chance(0.6) else p.material(p.colour(20, 200, 0.1), (0, 0.2))
    if p.chance(0.8):
        size = p.uniform(0.025, 0.07)
        for x, z in _CORNERS:
            b.box(legs, (x * (width / 2 - size), z * (depth / 2 - size)), (size, height - thick, size), shade=0)
    else:
        b.cylinder(legs, (0, 0), 0.05, height - thick)
        b.cylinder(legs, (0, 0), min(width, depth) * 0.3, 0.03)
    _clutter(b, p, width * 0.8, depth * 0.7, height)


def _clutter(b: Builder, p: AssetSampler, width: float, depth: float, height: float) -> None:
    """Small things on a board: books, cups, boxes, a screen."""
    for _ in range(int(p.rng.integers(0, 6))):
        at = (p.uniform(-0.5, 0.5) * width, p.uniform(-0.5, 0.5) * depth)
        m = p.material(p.colour(25, 235, 0.8), (0.1, 0.9), (150, 600))
        kind = int(p.rng.integers(4))
        if kind == 0:
            b.box(m, at, (0.22, p.uniform(0.02, 0.1), 0.15), height, p.uniform(0, 3))
        elif kind == 1:
            b.cylinder(m, at, p.uniform(0.03, 0.06), p.uniform(0.08, 0.28), height)
        elif kind == 2:
            b.box(m, at, (p.uniform(0.08, 0.3), p.uniform(0.08, 0.35), p.uniform(0.08, 0.2)), height, p.uniform(0, 3))
        else:
            radius = p.uniform(0.03, 0.09)
            b.ellipsoid(m, at, (radius, radius, radius), height)


def tabletop_objects(b: Builder, p: AssetSampler, width: float, depth: float, height: float) -> None:
    """Crowd a board with things as they are photographed for stereo benchmarks: small ones before larger ones."""
    for i in range(count := int(p.rng.integers(6, 22))):
        behind = (i + p.uniform(-0.8, 0.8)) / count - 0.5  # from the front to the back
        at = (p.uniform(-0.5, 0.5) * width, -behind * 0.9 * depth)
        size = 0.7 + 0.6 * (0.5 - behind) if p.chance(0.7) else 1.0
        m = p.material(p.colour(25, 235, 0.8), (0.1, 1.0), (150, 800), gloss=p.uniform(0, 0.1))
        kind = int(p.rng.choice(6, p=[0.2, 0.2, 0.15, 0.15, 0.08, 0.22]))
        if kind == 0:  # a pile of books
            level = height
            for _ in range(int(p.rng.integers(1, 6))):
                thick = p.uniform(0.015, 0.06)
                book = p.material(p.colour(25, 235, 0.8), (0.1, 1.0), (150, 800))
                b.box(book, at, (p.uniform(0.14, 0.3), thick, p.uniform(0.1, 0.22)), level, p.uniform(-0.6, 0.6))
                level += thick
        elif kind == 1:  # a pot, a tin, a bottle
            b.cylinder(m, at, p.uniform(0.03, 0.11) * size, p.uniform(0.1, 0.35) * size, height)
        elif kind == 2:  # a ball, a bust, a pumpkin
            radius = p.uniform(0.04, 0.13) * size
            b.ellipsoid(m, at, (radius, radius * p.uniform(0.8, 1.7), radius), height)
        elif kind == 3 and len(p.assets.outlines):  # something flat that stands: a toy, a figure, a branch
            p.billboard(
                b, int(p.rng.choice(p.assets.outlines)), at, p.uniform(0.12, 0.5) * size, p.uniform(-0.5, 0.5), height,
                widest=0.5, material=m,
            )  # fmt: skip
        elif kind == 4:  # sticks in a pot: thin things
            b.cylinder(m, at, 0.05, 0.12, height)
            for _ in range(int(p.rng.integers(2, 6))):
                lean, tall = (p.uniform(-0.12, 0.12), p.uniform(-0.12, 0.12)), p.uniform(0.2, 0.45)
                end = (at[0] + lean[0], height + tall, at[1] + lean[1])
                b.rod(m, (at[0], height + 0.1, at[1]), end, p.uniform(0.003, 0.012), shade=0)
        else:  # a carton, upright or flat
            sides = (p.uniform(0.08, 0.35) * size, p.uniform(0.06, 0.45) * size, p.uniform(0.06, 0.25))
            b.box(m, at, sides, height, p.uniform(-0.8, 0.8))


def chair(b: Builder, p: AssetSampler) -> None:
    """Add a chair, its back at +z: seat at 0.42 - 0.5 m, back up to 0.8 - 1.05 m."""
    m, seat, side = wood(p), p.uniform(0.42, 0.5), p.uniform(0.38, 0.46)
    leg = p.uniform(0.018, 0.04)
    cover = p.material(p.colour(30, 200, 0.7), (0.1, 0.5)) if p.chance(0.4) else m
    b.box(cover, (0, 0), (side, 0.04, side), seat - 0.04)
    top = p.uniform(0.8, 1.05)
    for x in (-1, 1):
        at = x * (side - leg) / 2
        b.box(m, (at, -(side - leg) / 2), (leg, seat - 0.04, leg), shade=0)
        b.box(m, (at, (side - leg) / 2), (leg, top, leg), shade=0)
    if p.chance(0.5):
        b.box(cover, (0, (side - leg) / 2), (side, p.uniform(0.2, top - seat - 0.05), 0.025), seat + 0.05, shade=0)
    else:
        for i in range(int(p.rng.integers(1, 4))):
            b.box(m, (0, (side - leg) / 2), (side, 0.05, 0.02), top - 0.05 - 0.12 * i, shade=0)


def sofa(b: Builder, p: AssetSampler, width: float) -> None:
    """Add a sofa or armchair, its back at +z."""
    m = p.material(p.colour(40, 190, 0.6), (0.1, 0.5), (80, 300))
    b.box(m, (0, -0.2), (width, 0.42, 0.85))
    b.box(m, (0, 0.15), (width, p.uniform(0.7, 0.95), 0.22), taper=(0, 0.2, 0))
    for side in (-1, 1):
        b.box(m, (side * (width / 2 - 0.08), -0.2), (0.16, 0.6, 0.85))
    if p.chance(0.5):
        pillow = p.material(p.colour(60, 230, 0.9), (0.2, 0.9), (150, 500))
        b.ellipsoid(pillow, (p.uniform(-0.3, 0.3) * width, -0.02), (0.2, 0.2, 0.09), 0.42, shade=0)


def shelf(b: Builder, p: AssetSampler, width: float, depth: float, height: float) -> None:
    """Add an open shelf with books and things on its boards."""
    m, thick = wood(p), p.uniform(0.015, 0.03)
    for side in (-1, 1):
        b.box(m, (side * (width - thick) / 2, 0), (thick, height, depth))
    if p.chance(0.7):
        b.wall(m, (0, depth / 2 - 0.005), (width, height), shade=0)
    count = max(2, round(height / p.uniform(0.28, 0.42)))
    step = height / count
    for i in range(count + 1):
        b.box(m, (0, 0), (width - 2 * thick, thick, depth), min(i * step, height - thick), shade=i == 0)
        if i == count:
            break
        at, end = -width / 2 + 0.04, width / 2 - 0.04
        while at < end - 0.08:
            wide = p.uniform(0.08, 0.5)
            wide = min(wide, end - at)
            tall, deep = p.uniform(0.5, 0.9) * step, p.uniform(0.5, 0.9) * depth
            thing = p.material(p.colour(20, 235, 0.8), (0.1, 0.8), (150, 600))
            if p.chance(0.6):  # books, back to back
                books = Pattern((p.uniform(0.02, 0.05), 50), (0.85, 1), (25, 22, 20), -0.8)
                thing = thing.replace(pattern=books)
            b.box(thing, (at + wide / 2, -0.01), (wide * 0.97, tall, deep), i * step + thick, shade=0)
            at += wide + (p.uniform(0.02, 0.3) if p.chance(0.4) else 0.0)


def cupboard(b: Builder, p: AssetSampler, width: float, depth: float, height: float) -> None:
    """Add a closed cupboard with doors or drawers."""
    doors = max(1, round(width / p.uniform(0.35, 0.6)))
    rows = 1 if p.chance(0.5) else int(p.rng.integers(2, 5))
    seams = Pattern((width / doors, height / rows), (1 - 0.012 * doors / width, 1 - 0.012 * rows / height),
                    (25, 22, 20), -0.9, (-width / 2, -height / 2))  # fmt: skip
    m = wood(p)
    b.box(m.replace(pattern=seams), (0, 0), (width, height, depth))
    knob = p.material(p.colour(40, 220, 0.1), (0, 0.1))
    for i in range(doors):
        for j in range(rows):
            x = -width / 2 + (i + 0.5) * width / doors
            low = (j + 0.5) * height / rows
            b.box(knob, (x, -depth / 2 - 0.01), (0.1, 0.015, 0.03), low, shade=0)


def plant(b: Builder, p: AssetSampler) -> None:
    """Add a plant in its pot, 0.5 - 1.8 m."""
    pot, height = p.uniform(0.2, 0.4), p.uniform(0.3, 1.4)
    b.box(p.material(p.colour(60, 220, 0.5), (0, 0.3)), (0, 0), (pot, pot, pot), taper=(-0.25, -0.25, -0.25))
    leaves, turn = int(p.rng.choice(p.assets.bushes)), p.uniform(0, 3)
    for i in range(2):
        p.billboard(b, leaves, (0, 0), height, turn + i * math.pi / 2, pot * 0.95, widest=1.0)


def floor_lamp(b: Builder, p: AssetSampler) -> None:
    """Add a standing lamp with a shade, 1.3 - 1.8 m."""
    m, height = p.material(p.colour(30, 200, 0.1), (0, 0.1)), p.uniform(1.3, 1.8)
    b.cylinder(m, (0, 0), 0.14, 0.03)
    b.cylinder(m, (0, 0), 0.012, height)
    shade = Material(colour=p.colour(190, 245, 0.2), gain=0.05, glow=p.uniform(0.2, 0.8))
    b.box(shade, (0, 0), (0.4, 0.28, 0.4), height - 0.2, taper=(0.35, 0.35, 0.35))


def picture(b: Builder, p: AssetSampler, wall: float, width: float, base: float = 1.1) -> None:
    """Add a framed picture on the wall that lies ``wall`` m behind."""
    wide, high = min(width, p.uniform(0.3, 1.2)), p.uniform(0.3, 0.8)
    base += p.uniform(0, 0.3)
    b.box(wood(p), (0, wall - 0.015), (wide, high, 0.03), base, shade=0)
    shown = Material(image=p.random_image(), colour=(128, 128, 128), gain=1.0, fit=True, gloss=p.uniform(0, 0.1))
    b.box(shown, (0, wall - 0.018), (wide * 0.88, high * 0.88, 0.03), base + high * 0.06, shade=0)


def door(b: Builder, p: AssetSampler, m: Material) -> None:
    """Add a closed door in the wall at the origin: 0.8 - 1.0 m by 2.0 - 2.1 m."""
    wide, high = p.uniform(0.8, 1.0), p.uniform(2.0, 2.1)
    frame = p.material(p.colour(60, 235, 0.1), (0, 0.2))
    b.box(frame, (0, 0), (wide + 0.14, high + 0.07, 0.05), shade=0)
    panel = m.replace(pattern=Pattern((wide / 2, high / 3), (0.7, 0.75), p.similar(m.colour, 20), 0.6,
                                  (-wide * 0.425, -high * 0.46)))  # fmt: skip
    b.box(panel, (0, -0.01), (wide, high, 0.05), shade=0)
    b.rod(p.material((160, 160, 160), (0, 0)), (wide * 0.4, 1.0, -0.08), (wide * 0.3, 1.0, -0.08), 0.012, shade=0)


def rack(b: Builder, p: AssetSampler, width: float, depth: float, height: float) -> None:
    """Add a storage rack with cartons on its boards."""
    iron = p.material(p.colour(50, 180, 0.8), (0, 0.2))
    for x, z in _CORNERS:
        b.box(iron, (x * (width - 0.06) / 2, z * (depth - 0.06) / 2), (0.06, height, 0.06), shade=0)
    level, step = 0.1, p.uniform(0.7, 1.3)
    while level < height - 0.2:
        b.box(iron, (0, 0), (width, 0.06, depth), level, shade=level < 0.2)
        at = -width / 2 + 0.08
        while at < width / 2 - 0.3:
            wide = min(p.uniform(0.25, 0.8), width / 2 - 0.06 - at)
            if p.chance(0.75):
                m = p.material((165, 130, 90) if p.chance(0.6) else p.colour(40, 220, 0.6), (0.05, 0.5))
                size = (wide * 0.95, p.uniform(0.4, 0.85) * (step - 0.1), depth * p.uniform(0.6, 0.95))
                b.box(m, (at + wide / 2, 0), size, level + 0.06, shade=0)
            at += wide
        level += step
