"""Rooms, corridors and halls to drive through, with furniture in true size. Metres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fg_depth_ros.synthesis.world import furniture
from fg_depth_ros.synthesis.world import street_objects as things
from fg_depth_ros.synthesis.world.asset_library import Palette
from fg_depth_ros.synthesis.world.primitives import Builder, Light, Material, Motion, Path, Pattern, Scene, Sky


@dataclass(frozen=True)
class _Room:
    """Inner measures; the room reaches from z = 0 to ``length``, its middle is x = 0."""

    kind: str
    width: float
    length: float
    height: float
    aisle: float  # x of the way that stays free

    def free(self, x: float, z: float, radius: float) -> bool:
        """Is a thing of this radius out of the camera's way and within the walls?"""
        inside = abs(x) < self.width / 2 - radius and 0.2 + radius < z < self.length - radius
        return inside and abs(x - self.aisle) > radius + 0.45


def draw_room(p: Palette) -> Scene:
    """A room with a camera in it; everything by chance."""
    rng, b = p.rng, Builder()
    kind = str(rng.choice(["room", "corridor", "hall"], p=[0.6, 0.2, 0.2]))
    width, length, height = {
        "room": (p.between(3, 7.5), p.between(4.5, 11), p.between(2.4, 3.1)),
        "corridor": (p.between(1.7, 3.0), p.between(12, 30), p.between(2.3, 3.0)),
        "hall": (p.between(9, 20), p.between(18, 45), p.between(3.5, 8)),
    }[kind]
    room = _Room(kind, width, length, height, p.between(-0.25, 0.25) * width)
    _shell(b, p, room)
    if kind == "corridor":
        _corridor(b, p, room)
    elif kind == "hall":
        _hall(b, p, room)
    else:
        _furnish(b, p, room)
    lamps = _lamps(b, p, room)
    bright = p.between(0.35, 0.7)
    warm = p.between(0.7, 1.0)
    strength = p.between(0.25, 0.7)
    light = Light(
        sky=(bright, bright * (1 + warm) / 2, bright * warm), lamps=lamps,
        lamp=(strength, strength * (1 + warm) / 2, strength * warm),
    )  # fmt: skip
    reach = length * p.between(0.35, 0.6) if kind != "room" else max(0.5, length - 4.0) * p.between(0.4, 0.9)
    look = p.between(-0.25, 0.25) * (1.0 if kind != "corridor" else 0.3)
    path = Path(
        room.aisle,
        0.5,
        look,
        p.between(0.3, 1.7), float(rng.normal(-0.03, 0.04)), float(rng.normal(0, 0.015)), p.between(0.2, 1.2),
        sway=(0.03, 0.006, 0.04, 0.006, 0.004), reach=reach,
    )  # fmt: skip
    sky = Sky((200, 210, 225), (225, 228, 232), p.any_image(), 0.3)
    return Scene(np.stack(b.rows), tuple(b.motions), light, sky, path, p.any_image())


def _shell(b: Builder, p: Palette, room: _Room) -> None:
    """Floor, ceiling and walls, with windows to the outside and doors."""
    w, length, h = room.width, room.length, room.height
    polish = p.between(0.05, 0.35) if p.chance(0.4) else 0.0
    kind = int(p.rng.integers(3))
    if kind == 0:  # boards
        floor = p.surface(p.tone(85, 175, 0.2), (0.15, 0.45), (80, 220)).but(
            pattern=Pattern((p.between(0.07, 0.2), p.between(0.6, 2)), (0.97, 0.995), (45, 32, 22), -0.7)
        )
    elif kind == 1:  # tiles
        side = p.between(0.15, 0.6)
        floor = p.surface(p.tone(90, 215, 0.1), (0.05, 0.3)).but(
            pattern=Pattern((side, side), (0.97, 0.97), (90, 88, 85), -0.7)
        )
    else:  # carpet, concrete
        floor = p.surface(p.tone(60, 190, 0.3), (0.15, 0.5), (100, 400))
    b.floor(floor.but(mirror=polish), (0, length / 2), (w, length + 2), shade=0)
    ceiling = p.surface(p.tone(190, 240, 0.03), (0.0, 0.15))
    if p.chance(0.3):
        ceiling = ceiling.but(pattern=Pattern((0.6, 0.6), (0.97, 0.97), (150, 150, 150), -0.6))
    b.floor(ceiling, (0, length / 2), (w, length + 2), h)
    tone = p.tone(130, 235, 0.15)
    for side in (-1, 1):
        wall = p.surface(p.near(tone, 6), (0.03, 0.3), (60, 250))
        _wall(b, p, room, wall, (side * w / 2, length / 2), length + 2, side * math.pi / 2)
    end = p.surface(p.near(tone, 15), (0.03, 0.3), (60, 250))
    _wall(b, p, room, end, (0, length), w, 0.0)
    b.wall(end, (0, -1.0), (w, h))


def _wall(b: Builder, p: Palette, room: _Room, m: Material, at: tuple[float, float], width: float, yaw: float) -> None:
    """A wall, perhaps with an opening through which more can be seen; its own z points outwards."""
    place, h = b.place(at, yaw), room.height
    skirting = p.surface(p.tone(60, 235, 0.1), (0, 0.2))
    place.box(skirting, (0, -0.01), (width, p.between(0.05, 0.12), 0.02), shade=0)
    opening = p.chance(0.4) if room.kind != "hall" else p.chance(0.2)
    if not opening:
        place.wall(m, (0, 0), (width, h))
        return
    window = p.chance(0.6) and room.kind != "corridor"
    wide = min(p.between(0.9, 3.0) if window else p.between(0.85, 1.8), width * 0.5)
    low, high = (p.between(0.7, 1.0), h - p.between(0.25, 0.5)) if window else (0.0, min(h - 0.2, p.between(2.0, 2.3)))
    aside = p.between(-0.3, 0.3) * (width - wide)
    u0, u1 = (aside - wide / 2) * 2 / width, (aside + wide / 2) * 2 / width
    place.wall(m, (0, 0), (width, h), hole_u0=u0, hole_u1=u1, hole_v0=1 - 2 * high / h, hole_v1=1 - 2 * low / h)
    frame = p.surface(p.tone(120, 245, 0.1), (0, 0.2))
    for x in (aside - wide / 2, aside + wide / 2):
        place.box(frame, (x, 0.03), (0.06, high - low, 0.2), low, shade=0)
    place.box(frame, (aside, 0.03), (wide, 0.06, 0.2), high - 0.03, shade=0)
    if window:
        place.box(frame, (aside, 0.05), (wide + 0.1, 0.04, 0.3), low - 0.04, shade=0)
        for i in range(1, int(p.rng.integers(1, 4))):
            place.box(frame, (aside - wide / 2 + wide * i / 3, 0.05), (0.05, high - low, 0.06), low, shade=0)
        # Outside: ground, and something some way off.
        far = p.between(6, 30)
        place.floor(p.surface((110, 120, 85), (0.2, 0.6), glow=0.6), (0, 60), (160, 119), -p.between(0.2, 3), shade=0)
        outside = Material(image=p.any_image(), colour=(150, 150, 150), gain=0.9, scale=30, glow=0.7)
        place.wall(outside, (p.between(-4, 4), far), (far * p.between(0.8, 2), p.between(3, 9)), -3.0, shade=0)
    else:  # the next room
        deep = p.between(1.5, 5)
        other = p.surface(p.tone(110, 230, 0.2), (0.05, 0.4), (60, 250))
        place.wall(other, (aside, deep), (deep * 2 + wide + 2, h))
        for x in (-1, 1):
            place.wall(other, (aside + x * (wide / 2 + 1 + deep), deep / 2), (deep, h), yaw=math.pi / 2)
        ground = p.surface(p.tone(80, 180, 0.2), (0.1, 0.4))
        place.floor(ground, (aside, deep / 2), (2 * deep + wide + 2, deep), 0.001, shade=0)
        place.floor(ground.but(colour=(215, 215, 210)), (aside, deep / 2), (2 * deep + wide + 2, deep), h - 0.01)


def _lamps(b: Builder, p: Palette, room: _Room) -> tuple[tuple[float, float, float, float], ...]:
    """Lamps below the ceiling; returns place and reach of the strongest."""
    places = []
    count = 1 if room.kind == "room" else 3
    tube = p.chance(0.5)
    for i in range(count):
        z = room.length * (i + 0.5 + p.between(-0.1, 0.1)) / count
        x = p.between(-0.15, 0.15) * room.width
        glow = Material(colour=(250, 248, 238), gain=0.0, glow=1.0)
        drop = p.between(0.02, 0.5) if room.height > 2.6 else 0.02
        if tube:
            b.box(glow, (x, z), (p.between(0.12, 0.6), 0.05, p.between(0.6, 1.4)), room.height - drop - 0.05, shade=0)
        else:
            b.ball(glow, (x, z), (0.16, 0.13, 0.16), room.height - drop - 0.26, shade=0)
        if drop > 0.05:
            cord = p.surface((60, 60, 60), (0, 0))
            b.rod(cord, (x, room.height, z), (x, room.height - drop, z), 0.008, shade=0)
        places.append((x, -(room.height - drop - 0.2), z, room.width * 0.5 + 1.0))
    return tuple(places)


def _furnish(b: Builder, p: Palette, room: _Room) -> None:
    """Furniture along the walls, some in the middle, pictures, somebody now and then."""
    for side in (-1, 1, 0):  # left, right, and the wall at the end
        along = p.between(0.3, 1.2) if side else -room.width / 2 + 0.2
        end = room.length - 0.2 if side else room.width / 2 - 0.2
        while along < end - 0.5:
            wide = p.between(0.5, 2.0)
            if along + wide > end:
                break
            middle = along + wide / 2
            deep = p.between(0.28, 0.65)
            if side:
                place = b.place((side * (room.width / 2 - deep / 2 - 0.02), middle), side * math.pi / 2)
                reach = abs(room.aisle - side * room.width / 2) - deep
            else:
                place, reach = b.place((middle, room.length - deep / 2 - 0.02)), 1.0
            if p.chance(0.75) and reach > 0.45:
                furniture.along_wall(place, p, wide, deep, room.height)
            elif p.chance(0.6):
                furniture.picture(place, p, deep / 2, wide)
            along += wide + p.between(0.05, 0.8)
    for _ in range(int(p.rng.integers(1, 6))):
        x, z = p.between(-0.5, 0.5) * room.width, p.between(1.5, room.length - 0.5)
        radius = 0.75
        if room.free(x, z, radius):
            furniture.free_standing(b.place((x, z), p.between(0, 2 * math.pi)), p)
    for _ in range(int(p.rng.integers(0, 6))):
        x, z = p.between(-0.5, 0.5) * room.width, p.between(1.0, room.length)
        if room.free(x, z, 0.3):
            furniture.small(b.place((x, z), p.between(0, 6)), p)
    if p.chance(0.4):
        rug = p.surface(p.tone(50, 190, 0.6), (0.3, 0.9), (60, 200))
        size = (room.width * p.between(0.3, 0.6), room.length * p.between(0.2, 0.4))
        b.box(rug, (p.between(-0.15, 0.15) * room.width, room.length * p.between(0.4, 0.7)), (size[0], 0.012, size[1]))
    if p.chance(0.4):
        _somebody(b, p, room)


def _somebody(b: Builder, p: Palette, room: _Room) -> None:
    x, z = p.between(-0.4, 0.4) * room.width, p.between(0.35, 0.95) * room.length
    if abs(x - room.aisle) > 0.7:
        motion = Motion(swing=(0.15, 0.0, p.between(0.1, 0.8)), rate=p.between(0.5, 1.5), phase=p.between(0, 6))
        things.person(b, p, (x, z), p.between(-0.5, 0.5), motion)


def _corridor(b: Builder, p: Palette, room: _Room) -> None:
    """Doors, boards, lockers, a few things on the floor."""
    for side in (-1, 1):
        along = p.between(0.3, 2)
        door = p.surface(p.tone(50, 200, 0.4), (0.02, 0.3))
        while along < room.length - 1.2:
            place = b.place((side * room.width / 2, along), side * math.pi / 2)
            if p.chance(0.6):
                furniture.door(place, p, door)
            elif p.chance(0.5):
                furniture.picture(place, p, 0.0, p.between(0.6, 1.4))
            elif abs(room.aisle - side * room.width / 2) > 1.0:
                furniture.along_wall(place.place((0, -0.2)), p, p.between(0.5, 1.2), 0.35, room.height)
            along += p.between(1.1, 3.5)
    for _ in range(int(p.rng.integers(0, 5))):
        x, z = p.between(-0.5, 0.5) * room.width, p.between(2, room.length)
        if room.free(x, z, 0.25):
            furniture.small(b.place((x, z), p.between(0, 6)), p)
    if p.chance(0.5):
        _somebody(b, p, room)


def _hall(b: Builder, p: Palette, room: _Room) -> None:
    """Columns, racks in rows, tables, boxes on the floor."""
    racks = p.chance(0.5)
    step = p.between(3.0, 5.0)
    x = -room.width / 2 + 0.7
    pillar = p.surface(p.tone(100, 210, 0.2), (0.1, 0.4))
    high = min(room.height - 0.3, p.between(1.8, 5))
    while x < room.width / 2:
        z = p.between(1.5, 4)
        while z < room.length - 1.5:
            if room.free(x, z, 0.6):
                if racks:
                    furniture.rack(b.place((x, z), math.pi / 2), p, p.between(1.8, 2.8), 0.9, high)
                elif p.chance(0.4):
                    furniture.free_standing(b.place((x, z), p.between(0, 6)), p)
                elif p.chance(0.2):
                    b.cylinder(pillar, (x, z), p.between(0.15, 0.3), room.height)
            z += 2.9 if racks else p.between(1.8, 4)
        x += step if racks else p.between(2, 4)
    for _ in range(int(p.rng.integers(2, 14))):
        x, z = p.between(-0.5, 0.5) * room.width, p.between(2, room.length)
        if room.free(x, z, 0.4):
            furniture.small(b.place((x, z), p.between(0, 6)), p)
    for _ in range(int(p.rng.integers(0, 4))):
        _somebody(b, p, room)
