"""Rooms, corridors and halls to drive through, and table tops seen from near; furniture in true size. Metres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fg_depth_ros.synthesis.world import furniture
from fg_depth_ros.synthesis.world import street_objects as things
from fg_depth_ros.synthesis.world.asset_library import AssetSampler
from fg_depth_ros.synthesis.world.primitives import Builder, Light, Material, Motion, Path, Pattern, Scene, Sky, View


@dataclass(frozen=True)
class _Room:
    """Inner measures; the room reaches from z = 0 to ``length``, its middle is x = 0."""

    kind: str
    width: float
    length: float
    height: float
    aisle: float  # x of the way that stays free

    def free(self, x: float, z: float, radius: float) -> bool:
        """Return whether a thing of this radius is clear of the camera's path and within the walls."""
        inside = abs(x) < self.width / 2 - radius and 0.2 + radius < z < self.length - radius
        return inside and abs(x - self.aisle) > radius + 0.45


def draw_room(p: AssetSampler, to_drive: bool = False) -> Scene:
    """Draw a random room with a camera in it; ``to_drive``: one with a way through it, no table top."""
    b, tables = Builder(), 0.0 if to_drive else 0.25
    shares = [*(share * (1 - tables) for share in (0.6, 0.2, 0.2)), tables]
    kind = str(p.rng.choice(["room", "corridor", "hall", "table"], p=shares))
    width, length, height = {
        "room": (p.uniform(3, 7.5), p.uniform(4.5, 11), p.uniform(2.4, 3.1)),
        "corridor": (p.uniform(1.7, 3.0), p.uniform(12, 30), p.uniform(2.3, 3.0)),
        "hall": (p.uniform(9, 20), p.uniform(18, 45), p.uniform(3.5, 8)),
        "table": (p.uniform(3, 7.5), p.uniform(4.5, 8), p.uniform(2.4, 3.1)),
    }[kind]
    room = _Room(kind, width, length, height, p.uniform(-0.25, 0.25) * width)
    _shell(b, p, room)
    if kind == "table":
        path, view = _table_top(b, p, room)
    else:
        {"room": _furnish, "corridor": _corridor, "hall": _hall}[kind](b, p, room)
        path, view = _drive(p, room), View()
    lamps = _lamps(b, p, room)
    bright = p.uniform(0.35, 0.7)
    warm = p.uniform(0.7, 1.0)
    strength = p.uniform(0.25, 0.7)
    light = Light(
        sky=(bright, bright * (1 + warm) / 2, bright * warm), lamps=lamps,
        lamp=(strength, strength * (1 + warm) / 2, strength * warm),
    )  # fmt: skip
    sky = Sky((200, 210, 225), (225, 228, 232), p.random_image(), 0.3)
    return Scene(np.stack(b.rows), tuple(b.motions), light, sky, path, p.random_image(), view)


def _drive(p: AssetSampler, room: _Room) -> Path:
    """Draw the way of a camera that is mounted on a robot, or held by a person."""
    reach = (
        max(0.5, room.length - 4.0) * p.uniform(0.4, 0.9) if room.kind == "room" else room.length * p.uniform(0.35, 0.6)
    )
    in_hand = p.chance(0.4)  # as in NYU Depth
    look = p.uniform(-0.25, 0.25) * (1.0 if room.kind != "corridor" else 0.3) * (3.5 if in_hand else 1.0)
    height = p.uniform(1.1, 1.75) if in_hand else p.uniform(0.3, 1.5)
    pitch, roll = (
        (p.rng.normal(-0.15, 0.15), p.rng.normal(0, 0.04))
        if in_hand
        else (p.rng.normal(-0.03, 0.05), p.rng.normal(0, 0.015))
    )
    return Path(
        room.aisle, 0.5, look, height, float(pitch), float(roll),
        p.uniform(0.2, 1.2), sway=(0.03, 0.006, 0.04, 0.006, 0.004), reach=reach,
    )  # fmt: skip


def _table_top(b: Builder, p: AssetSampler, room: _Room) -> tuple[Path, View]:
    """Set up a table full of things, a board behind it now and then; the camera looks at it from near."""
    away = p.uniform(0.4, 2.8)  # from the camera to the near edge of the table
    width, depth, height = p.uniform(0.9, 2.0), p.uniform(0.5, 1.2), p.uniform(0.45, 0.95)
    edge = 0.5 + away
    place = b.place((room.aisle, edge + depth / 2), p.uniform(-0.3, 0.3))
    furniture.table(place, p, width, depth, height)
    furniture.tabletop_objects(place, p, width, depth, height)
    if p.chance(0.7):
        back = p.material(p.colour(40, 235, 0.6), (0.05, 0.9), (60, 400))
        behind = edge + depth + p.uniform(0.03, 0.7)
        b.wall(back, (room.aisle, behind), (p.uniform(1.5, 4), p.uniform(1.2, 2.2)), yaw=p.uniform(-0.25, 0.25))
    above = p.uniform(0.05, 0.9)
    # Down to the middle of the things.
    pitch = math.atan2(p.uniform(0.0, 0.25) - above, away + depth / 2) + p.rng.normal(0, 0.03)
    path = Path(
        room.aisle + p.uniform(-0.2, 0.2), 0.5, p.uniform(-0.12, 0.12), height + above, float(pitch),
        float(p.rng.normal(0, 0.02)), p.uniform(0.05, 0.3), sway=(0.02, 0.004, 0.02, 0.004, 0.004), reach=0.2 * away,
    )  # fmt: skip
    # As a robot's arm sees it from near, and a stereo benchmark from some way off.
    return path, View(field_of_view=(30, 90) if away < 1.3 else (14, 45), nearest=0.7 * away)


def _shell(b: Builder, p: AssetSampler, room: _Room) -> None:
    """Floor, ceiling and walls, with windows to the outside and doors."""
    w, length, h = room.width, room.length, room.height
    polish = p.uniform(0.05, 0.35) if p.chance(0.4) else 0.0
    kind = int(p.rng.integers(3))
    if kind == 0:  # boards
        floor = p.material(p.colour(85, 175, 0.2), (0.15, 0.45), (80, 220))
        joints = Pattern((p.uniform(0.07, 0.2), p.uniform(0.6, 2)), (0.97, 0.995), (45, 32, 22), -0.7)
        floor = floor.replace(pattern=joints)
    elif kind == 1:  # tiles
        side = p.uniform(0.15, 0.6)
        floor = p.material(p.colour(90, 215, 0.1), (0.05, 0.3))
        floor = floor.replace(pattern=Pattern((side, side), (0.97, 0.97), (90, 88, 85), -0.7))
    else:  # carpet, concrete
        floor = p.material(p.colour(60, 190, 0.3), (0.15, 0.5), (100, 400))
    b.floor(floor.replace(mirror=polish), (0, length / 2), (w, length + 2), shade=0)
    ceiling = p.material(p.colour(190, 240, 0.03), (0.0, 0.15))
    if p.chance(0.3):
        ceiling = ceiling.replace(pattern=Pattern((0.6, 0.6), (0.97, 0.97), (150, 150, 150), -0.6))
    b.floor(ceiling, (0, length / 2), (w, length + 2), h)
    tone = p.colour(130, 235, 0.15)
    for side in (-1, 1):
        wall = p.material(p.similar(tone, 6), (0.03, 0.3), (60, 250))
        _wall(b, p, room, wall, (side * w / 2, length / 2), length + 2, side * math.pi / 2)
    end = p.material(p.similar(tone, 15), (0.03, 0.3), (60, 250))
    _wall(b, p, room, end, (0, length), w, 0.0)
    b.wall(end, (0, -1.0), (w, h))


def _wall(
    b: Builder, p: AssetSampler, room: _Room, m: Material, at: tuple[float, float], width: float, yaw: float
) -> None:
    """Add a wall, perhaps with an opening through which more can be seen; its own z points outwards."""
    place, h = b.place(at, yaw), room.height
    skirting = p.material(p.colour(60, 235, 0.1), (0, 0.2))
    place.box(skirting, (0, -0.01), (width, p.uniform(0.05, 0.12), 0.02), shade=0)
    opening = p.chance(0.4) if room.kind != "hall" else p.chance(0.2)
    if not opening:
        place.wall(m, (0, 0), (width, h))
        return
    window = p.chance(0.6) and room.kind != "corridor"
    wide = min(p.uniform(0.9, 3.0) if window else p.uniform(0.85, 1.8), width * 0.5)
    low, high = (p.uniform(0.7, 1.0), h - p.uniform(0.25, 0.5)) if window else (0.0, min(h - 0.2, p.uniform(2.0, 2.3)))
    aside = p.uniform(-0.3, 0.3) * (width - wide)
    u0, u1 = (aside - wide / 2) * 2 / width, (aside + wide / 2) * 2 / width
    place.wall(m, (0, 0), (width, h), hole_u0=u0, hole_u1=u1, hole_v0=1 - 2 * high / h, hole_v1=1 - 2 * low / h)
    frame = p.material(p.colour(120, 245, 0.1), (0, 0.2))
    for x in (aside - wide / 2, aside + wide / 2):
        place.box(frame, (x, 0.03), (0.06, high - low, 0.2), low, shade=0)
    place.box(frame, (aside, 0.03), (wide, 0.06, 0.2), high - 0.03, shade=0)
    if window:
        place.box(frame, (aside, 0.05), (wide + 0.1, 0.04, 0.3), low - 0.04, shade=0)
        for i in range(1, int(p.rng.integers(1, 4))):
            place.box(frame, (aside - wide / 2 + wide * i / 3, 0.05), (0.05, high - low, 0.06), low, shade=0)
        # Outside: ground, and something some way off.
        far = p.uniform(6, 30)
        place.floor(p.material((110, 120, 85), (0.2, 0.6), glow=0.6), (0, 60), (160, 119), -p.uniform(0.2, 3), shade=0)
        outside = Material(image=p.random_image(), colour=(150, 150, 150), gain=0.9, scale=30, glow=0.7)
        place.wall(outside, (p.uniform(-4, 4), far), (far * p.uniform(0.8, 2), p.uniform(3, 9)), -3.0, shade=0)
    else:  # the next room
        deep = p.uniform(1.5, 5)
        other = p.material(p.colour(110, 230, 0.2), (0.05, 0.4), (60, 250))
        place.wall(other, (aside, deep), (deep * 2 + wide + 2, h))
        for x in (-1, 1):
            place.wall(other, (aside + x * (wide / 2 + 1 + deep), deep / 2), (deep, h), yaw=math.pi / 2)
        ground = p.material(p.colour(80, 180, 0.2), (0.1, 0.4))
        place.floor(ground, (aside, deep / 2), (2 * deep + wide + 2, deep), 0.001, shade=0)
        place.floor(ground.replace(colour=(215, 215, 210)), (aside, deep / 2), (2 * deep + wide + 2, deep), h - 0.01)


def _lamps(b: Builder, p: AssetSampler, room: _Room) -> tuple[tuple[float, float, float, float], ...]:
    """Lamps below the ceiling; returns place and reach of the strongest."""
    places = []
    count = 1 if room.kind == "room" else 3
    tube = p.chance(0.5)
    for i in range(count):
        z = room.length * (i + 0.5 + p.uniform(-0.1, 0.1)) / count
        x = p.uniform(-0.15, 0.15) * room.width
        glow = Material(colour=(250, 248, 238), gain=0.0, glow=1.0)
        drop = p.uniform(0.02, 0.5) if room.height > 2.6 else 0.02
        if tube:
            b.box(glow, (x, z), (p.uniform(0.12, 0.6), 0.05, p.uniform(0.6, 1.4)), room.height - drop - 0.05, shade=0)
        else:
            b.ellipsoid(glow, (x, z), (0.16, 0.13, 0.16), room.height - drop - 0.26, shade=0)
        if drop > 0.05:
            cord = p.material((60, 60, 60), (0, 0))
            b.rod(cord, (x, room.height, z), (x, room.height - drop, z), 0.008, shade=0)
        places.append((x, -(room.height - drop - 0.2), z, room.width * 0.5 + 1.0))
    return tuple(places)


def _furnish(b: Builder, p: AssetSampler, room: _Room) -> None:
    """Furniture along the walls, some in the middle, pictures, somebody now and then."""
    for side in (-1, 1, 0):  # left, right, and the wall at the end
        along = p.uniform(0.3, 1.2) if side else -room.width / 2 + 0.2
        end = room.length - 0.2 if side else room.width / 2 - 0.2
        while along < end - 0.5:
            wide = p.uniform(0.5, 2.0)
            if along + wide > end:
                break
            middle = along + wide / 2
            deep = p.uniform(0.28, 0.65)
            if side:
                place = b.place((side * (room.width / 2 - deep / 2 - 0.02), middle), side * math.pi / 2)
                reach = abs(room.aisle - side * room.width / 2) - deep
            else:
                place, reach = b.place((middle, room.length - deep / 2 - 0.02)), 1.0
            if p.chance(0.75) and reach > 0.45:
                furniture.along_wall(place, p, wide, deep, room.height)
            elif p.chance(0.6):
                furniture.picture(place, p, deep / 2, wide)
            along += wide + p.uniform(0.05, 0.8)
    for _ in range(int(p.rng.integers(1, 6))):
        x, z = p.uniform(-0.5, 0.5) * room.width, p.uniform(1.5, room.length - 0.5)
        radius = 0.75
        if room.free(x, z, radius):
            furniture.free_standing(b.place((x, z), p.uniform(0, 2 * math.pi)), p)
    for _ in range(int(p.rng.integers(0, 6))):
        x, z = p.uniform(-0.5, 0.5) * room.width, p.uniform(1.0, room.length)
        if room.free(x, z, 0.3):
            furniture.small(b.place((x, z), p.uniform(0, 6)), p)
    if p.chance(0.4):
        rug = p.material(p.colour(50, 190, 0.6), (0.3, 0.9), (60, 200))
        size = (room.width * p.uniform(0.3, 0.6), room.length * p.uniform(0.2, 0.4))
        b.box(rug, (p.uniform(-0.15, 0.15) * room.width, room.length * p.uniform(0.4, 0.7)), (size[0], 0.012, size[1]))
    if p.chance(0.4):
        _somebody(b, p, room)


def _somebody(b: Builder, p: AssetSampler, room: _Room) -> None:
    x, z = p.uniform(-0.4, 0.4) * room.width, p.uniform(0.35, 0.95) * room.length
    if abs(x - room.aisle) > 0.7:
        motion = Motion(swing=(0.15, 0.0, p.uniform(0.1, 0.8)), rate=p.uniform(0.5, 1.5), phase=p.uniform(0, 6))
        things.person(b, p, (x, z), p.uniform(-0.5, 0.5), motion)


def _corridor(b: Builder, p: AssetSampler, room: _Room) -> None:
    """Doors, boards, lockers, a few things on the floor."""
    for side in (-1, 1):
        along = p.uniform(0.3, 2)
        door = p.material(p.colour(50, 200, 0.4), (0.02, 0.3))
        while along < room.length - 1.2:
            place = b.place((side * room.width / 2, along), side * math.pi / 2)
            if p.chance(0.6):
                furniture.door(place, p, door)
            elif p.chance(0.5):
                furniture.picture(place, p, 0.0, p.uniform(0.6, 1.4))
            elif abs(room.aisle - side * room.width / 2) > 1.0:
                furniture.along_wall(place.place((0, -0.2)), p, p.uniform(0.5, 1.2), 0.35, room.height)
            along += p.uniform(1.1, 3.5)
    for _ in range(int(p.rng.integers(0, 5))):
        x, z = p.uniform(-0.5, 0.5) * room.width, p.uniform(2, room.length)
        if room.free(x, z, 0.25):
            furniture.small(b.place((x, z), p.uniform(0, 6)), p)
    if p.chance(0.5):
        _somebody(b, p, room)


def _hall(b: Builder, p: AssetSampler, room: _Room) -> None:
    """Columns, racks in rows, tables, boxes on the floor."""
    racks = p.chance(0.5)
    step = p.uniform(3.0, 5.0)
    x = -room.width / 2 + 0.7
    pillar = p.material(p.colour(100, 210, 0.2), (0.1, 0.4))
    high = min(room.height - 0.3, p.uniform(1.8, 5))
    while x < room.width / 2:
        z = p.uniform(1.5, 4)
        while z < room.length - 1.5:
            if room.free(x, z, 0.6):
                if racks:
                    furniture.rack(b.place((x, z), math.pi / 2), p, p.uniform(1.8, 2.8), 0.9, high)
                elif p.chance(0.4):
                    furniture.free_standing(b.place((x, z), p.uniform(0, 6)), p)
                elif p.chance(0.2):
                    b.cylinder(pillar, (x, z), p.uniform(0.15, 0.3), room.height)
            z += 2.9 if racks else p.uniform(1.8, 4)
        x += step if racks else p.uniform(2, 4)
    for _ in range(int(p.rng.integers(2, 14))):
        x, z = p.uniform(-0.5, 0.5) * room.width, p.uniform(2, room.length)
        if room.free(x, z, 0.4):
            furniture.small(b.place((x, z), p.uniform(0, 6)), p)
    for _ in range(int(p.rng.integers(0, 4))):
        _somebody(b, p, room)
