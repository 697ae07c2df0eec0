"""Build things of the street in true size, m, each in its own coordinates (z forward), from primitives and cut-outs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from fg_depth_ros.synthesis.world.asset_library import AssetSampler
from fg_depth_ros.synthesis.world.primitives import Builder, Material, Motion, Pattern

CAR_LENGTHS = (3.5, 4.8)
VAN_LENGTHS = (4.8, 6.2)
_GLASS = (38.0, 46.0, 54.0)


def paint(p: AssetSampler) -> Material:
    """Car paint: most cars are white, grey or black."""
    colour = p.colour(25, 235, 0.08) if p.chance(0.65) else p.colour(60, 160, 0.8)
    return p.material(colour, (0.0, 0.08), gloss=p.uniform(0.06, 0.2))


def car(b: Builder, p: AssetSampler, length: float) -> None:
    """Add a passenger car of this length, 1.38 - 1.85 m high, most about 1.5 (KITTI's cars: 1.53 x 1.63 x 3.88)."""
    width, height = p.uniform(1.58, 1.86), float(p.rng.triangular(1.38, 1.48, 1.85))
    clear, waist = p.uniform(0.16, 0.24), p.uniform(0.52, 0.6) * height
    body, dark = paint(p), p.material((28, 28, 30), (0.0, 0.1))
    estate = p.uniform(0.02, 0.3)
    b.box(body, (0, 0), (width, waist - clear, length), clear, taper=(0.06, 0.05, 0.04))
    cabin = height - waist
    back, front = p.uniform(-0.47, -0.36) * length, p.uniform(0.16, 0.26) * length
    middle, long = (front + back) / 2, front - back
    slope, inset = p.uniform(0.35, 0.55), p.uniform(0.14, 0.22)
    # Glass all around, then posts and a roof of the body's colour.
    glass = Material(image=p.random_image(), colour=_GLASS, gain=0.05, gloss=p.uniform(0.12, 0.4))
    b.box(glass, (0, middle), (width * 0.94, cabin, long), waist, taper=(inset, slope, estate), shade=2)
    roof = long * (1 - (slope + estate) / 2)
    behind = (0, middle + long * (estate - slope) / 4)
    b.box(body, behind, (width * 0.95 * (1 - inset), 0.05, roof), height - 0.045, shade=0)
    for post in (0.12, p.uniform(0.42, 0.52)):
        place = back + long * (estate / 4 + post * (1 - slope / 2))
        b.box(body, (0, place), (width * 0.945, cabin, 0.09), waist, taper=(inset, 0, 0), shade=0)
    radius, wheel = p.uniform(0.29, 0.36), p.material((30, 30, 32), (0.0, 0.15))
    rim = p.material(p.colour(110, 200, 0.05), (0.0, 0.2))
    for z in (length * 0.31, -length * 0.3):
        for side in (-1, 1):
            outside = side * (width / 2 + 0.01)
            b.rod(wheel, (outside - side * 0.2, radius, z), (outside, radius, z), radius, shade=1)
            b.rod(rim, (outside - side * 0.1, radius, z), (outside + side * 0.008, radius, z), radius * 0.62, shade=0)
    for side in (-1, 1):
        at = side * width * 0.37
        lamp = Material(colour=(235, 235, 225), gain=0.05, glow=0.25)
        b.box(lamp, (at, length / 2 - 0.03), (0.32, 0.14, 0.09), waist - 0.22, shade=0)
        tail = Material(colour=(165, 22, 20), gain=0.05, glow=0.3)
        b.box(tail, (at * 1.08, -length / 2 + 0.03), (0.2, p.uniform(0.14, 0.3), 0.09), waist - 0.28, shade=0)
        b.box(body, (side * (width / 2 + 0.09), front * 0.8), (0.18, 0.13, 0.1), waist + 0.02, shade=0)
    plate = Material(colour=(225, 225, 215), gain=0.1, image=p.random_image(), scale=400)
    for end in (-1, 1):
        b.box(plate, (0, end * (length / 2 - 0.015)), (0.5, 0.11, 0.06), clear + 0.22, shade=0)
        b.box(dark, (0, end * (length / 2 - 0.02)), (width * 0.8, 0.13, 0.06), clear - 0.01, shade=0)


def van(b: Builder, p: AssetSampler, length: float) -> None:
    """Add a van of this length, 2.0 - 2.7 m high."""
    _goods_vehicle(b, p, (p.uniform(1.9, 2.05), p.uniform(2.0, 2.7), length), 0.25)


def lorry(b: Builder, p: AssetSampler, length: float) -> None:
    """Add a lorry or bus of this length, 2.9 - 3.6 m high."""
    _goods_vehicle(b, p, (p.uniform(2.3, 2.55), p.uniform(2.9, 3.6), length), 0.4, bus=p.chance(0.46))


def _goods_vehicle(
    b: Builder, p: AssetSampler, size: tuple[float, float, float], clear: float, bus: bool = False
) -> None:
    """Add a box on wheels, ``clear`` m above the ground, with a cab or, as a bus, with windows along its sides."""
    width, height, length = size
    body = paint(p)
    side = body
    if bus:
        windows = Pattern((p.uniform(1.2, 1.8), 10.0), (0.9, 0.12), _GLASS, start=(0.0, -height * 0.33), gloss=0.3)
        side = body.replace(pattern=windows)
    elif p.chance(0.5):
        side = p.material(p.colour(80, 235, 0.4), (0.1, 0.6), (40, 120))
    cab = 0.0 if bus else p.uniform(1.3, 1.9)
    b.box(side, (0, -cab / 2), (width, height - clear, length - cab), clear)
    if cab:
        b.box(body, (0, length / 2 - cab / 2), (width * 0.96, height * 0.45, cab), clear)
        glass = Material(image=p.random_image(), colour=_GLASS, gain=0.05, gloss=0.3)
        b.box(glass, (0, length / 2 - cab / 2), (width * 0.95, height * 0.32, cab), clear + height * 0.45,
              taper=(0.06, 0.35, 0))  # fmt: skip
        b.box(body, (0, length / 2 - cab * 0.62), (width * 0.88, 0.1, cab * 0.7), clear + height * 0.77 - 0.05)
    wheel, radius = p.material((30, 30, 32), (0.0, 0.15)), 0.36 if height < 2.8 else 0.48
    for z in (length * 0.33, -length * 0.3):
        for s in (-1, 1):
            b.rod(wheel, (s * (width / 2 - 0.25), radius, z), (s * (width / 2 + 0.01), radius, z), radius, shade=1)
    for s in (-1, 1):
        tail = Material(colour=(165, 22, 20), gain=0.05, glow=0.3)
        b.box(tail, (s * width * 0.42, -length / 2), (0.16, 0.3, 0.05), clear + 0.15, shade=0)


Vehicle = tuple[Callable[[Builder, AssetSampler, float], None], float]
"""Builder of a vehicle of a given length, and that length, m."""


def draw_vehicle(p: AssetSampler, longest: float = 12.0) -> Vehicle:
    """Draw which vehicle comes next, not above this length."""
    kind = p.rng.random()
    if kind > 0.93 and longest > 7:
        return lorry, p.uniform(7, longest)
    return (van, p.uniform(*VAN_LENGTHS)) if kind > 0.85 else (car, p.uniform(*CAR_LENGTHS))


def cycle(b: Builder, p: AssetSampler) -> None:
    """Add a parked bicycle: wheels, frame and handlebar from thin rods."""
    m, r = p.material(p.colour(20, 160, 0.8), (0.0, 0.2)), 0.34
    for z in (-0.52, 0.52):
        ends = [(0.0, r + r * math.sin(a), z + r * math.cos(a)) for a in [i * math.pi / 4 for i in range(9)]]
        for start, end in pairwise(ends):
            b.rod(m, start, end, 0.018, shade=0)
    joints = [(0.0, r, -0.52), (0.0, 0.85, -0.22), (0.0, 0.82, 0.36), (0.0, r, 0.52)]
    for start, end in pairwise(joints):
        b.rod(m, start, end, 0.02, shade=2)
    b.rod(m, (0, 0.3, -0.1), (0, 0.82, 0.36), 0.02, shade=0)
    b.rod(m, (-0.28, 1.02, 0.3), (0.28, 1.02, 0.3), 0.015, shade=0)
    b.box(m, (0, -0.24), (0.14, 0.06, 0.25), 0.92)


def tree(b: Builder, p: AssetSampler, at: tuple[float, float], height: float, clear: float = 0.0) -> None:
    """Add a tree of this height: a trunk, and a crown from two or three crossing cut-outs, not below ``clear`` m."""
    crown_base = max(clear, p.uniform(0.15, 0.4) * height)
    bark = p.material((88, 74, 60), (0.2, 0.5), (80, 250))
    b.cylinder(bark, at, p.uniform(0.01, 0.02) * height + 0.03, crown_base + 0.15 * height)
    crown = int(p.rng.choice(p.assets.crowns))
    turn = p.uniform(0, math.pi)
    for i in range(int(p.rng.integers(2, 4))):
        p.billboard(b, crown, at, height - crown_base, turn + i * math.pi / 3, crown_base)


def bush(b: Builder, p: AssetSampler, at: tuple[float, float], height: float) -> None:
    """Add a bush of two crossing cut-outs."""
    turn = p.uniform(0, math.pi)
    cutout = int(p.rng.choice(p.assets.bushes))
    for i in range(2):
        p.billboard(b, cutout, at, height, turn + i * math.pi / 2)


def person(b: Builder, p: AssetSampler, at: tuple[float, float], yaw: float, motion: Motion | None = None) -> None:
    """Somebody 1.5 - 1.95 m tall (some are children), or, if there are photos, now and then something else.

    The size of what a photo shows is not known: any is drawn, so that none is learned.
    """
    place = b.place(at, yaw, motion=motion)
    if len(p.assets.photos) and p.chance(0.1):
        height = 0.3 * (3.5 / 0.3) ** p.rng.random()
        p.billboard(place, int(p.rng.choice(p.assets.photos)), (0, 0), height, widest=2.2)
        return
    height = p.uniform(1.5, 1.95) if p.chance(0.88) else p.uniform(0.9, 1.5)
    p.billboard(place, int(p.rng.choice(p.assets.people)), (0, 0), height)


def lamp_post(b: Builder, p: AssetSampler, at: tuple[float, float], inwards: float) -> None:
    """Add a street lamp; ``inwards``: the sign of the direction in which its arm points, across the street."""
    grey, height = p.material(p.colour(50, 150, 0.1), (0.0, 0.3)), p.uniform(4, 9)
    b.cylinder(grey, at, p.uniform(0.05, 0.11), height)
    arm = p.uniform(0.4, 2.0) * inwards
    b.rod(grey, (at[0], height, at[1]), (at[0] + arm, height + 0.2, at[1]), 0.04)
    b.box(grey, (at[0] + arm, at[1]), (0.5, 0.14, 0.25), height + 0.12)


def sign(b: Builder, p: AssetSampler, at: tuple[float, float], yaw: float) -> None:
    """Add a traffic sign on its post: a round or square plate, 0.6 - 0.9 m."""
    post = p.material((140, 140, 140), (0.0, 0.2))
    height, size = p.uniform(2.0, 2.8), p.uniform(0.55, 0.9)
    b.cylinder(post, at, 0.03, height + size)
    plate = Material(image=p.random_image(), colour=p.colour(90, 200, 0.9), gain=0.25, scale=300)
    place = b.place(at, yaw)
    if p.chance(0.5):
        place.rod(plate, (0, height + size / 2, -0.04), (0, height + size / 2, -0.055), size / 2)
    else:
        place.box(plate, (0, -0.05), (size, size * p.uniform(0.5, 1.4), 0.02), height)


def traffic_light(b: Builder, p: AssetSampler, at: tuple[float, float], yaw: float) -> None:
    """Add a traffic light on its post."""
    post = p.material((60, 64, 60), (0.0, 0.2))
    b.cylinder(post, at, 0.06, 3.2)
    place = b.place(at, yaw)
    place.box(p.material((24, 26, 24), (0.0, 0.1)), (0, -0.12), (0.3, 0.9, 0.2), 2.3)
    lit = int(p.rng.integers(3))
    for i, colour in enumerate(((225, 40, 30), (235, 170, 40), (50, 210, 120))):
        light = Material(colour=colour if i == lit else (40, 40, 40), gain=0.0, glow=0.9 if i == lit else 0.0)
        height = 3.05 - 0.29 * i
        place.rod(light, (0, height, -0.22), (0, height, -0.235), 0.1, shade=0)


def bin_(b: Builder, p: AssetSampler, at: tuple[float, float]) -> None:
    """Add a dustbin: round, or with wheels."""
    m = p.material(p.colour(30, 130, 0.6), (0.0, 0.3))
    if p.chance(0.5):
        b.cylinder(m, at, p.uniform(0.18, 0.3), p.uniform(0.7, 1.0))
    else:
        b.box(m, at, (0.58, p.uniform(0.95, 1.1), 0.7), yaw=p.uniform(-0.4, 0.4), taper=(-0.08, -0.08, -0.08))


def bench(b: Builder, p: AssetSampler, at: tuple[float, float], yaw: float) -> None:
    """Add a bench with a back."""
    wood, iron = p.material((130, 95, 60), (0.2, 0.5), (100, 300)), p.material((50, 50, 52), (0, 0.2))
    place, width = b.place(at, yaw), p.uniform(1.3, 1.9)
    place.box(wood, (0, 0), (width, 0.06, 0.45), 0.42)
    place.wall(wood, (0, 0.24), (width, 0.35), 0.52, lean=-0.15)
    for side in (-1, 1):
        place.box(iron, (side * width * 0.42, 0), (0.06, 0.45, 0.42))


def enclosure(b: Builder, p: AssetSampler, length: float) -> None:
    """Add a hedge, a garden wall or a board fence along z."""
    kind, thick = p.rng.integers(3), p.uniform(0.3, 0.8)
    if kind == 0:
        m, height = p.material((70, 105, 45), (0.4, 0.8), (150, 400)), p.uniform(0.9, 2.1)
    elif kind == 1:
        m, height = p.material(p.colour(90, 180, 0.2), (0.2, 0.5)), p.uniform(0.6, 1.3)
        joints = Pattern((0.4, 0.16), (0.96, 0.92), p.similar((170, 165, 155)), -0.6)
        m = m.replace(pattern=joints) if p.chance(0.6) else m
    else:
        boards = Pattern((p.uniform(0.1, 0.25), 50.0), (0.9, 1.0), (30, 28, 26), -0.9)
        m = p.material(p.colour(70, 190, 0.3), (0.1, 0.4)).replace(pattern=boards)
        height, thick = p.uniform(1.1, 2.0), 0.06
    b.box(m, (0, 0), (thick, height, length))


def house(b: Builder, p: AssetSampler, width: float, depth: float, height: float, gable: bool) -> None:
    """Add a house whose front, ``width`` wide, stands at the origin and looks towards -z."""
    storey = p.uniform(2.7, 3.5)
    storeys = max(1, round(height / storey))
    shop = storeys > 1 and p.chance(0.45)
    raised = 0.0 if shop else p.uniform(0.0, 1.2)  # the ground floor above the pavement
    height = storeys * storey + raised
    colour = p.colour(85, 215, 0.12 if p.chance(0.8) else 0.4)
    count = max(1, round(width / p.uniform(1.8, 3.6)))
    period = width / count
    wide, high = min(p.uniform(0.8, 1.6), period * 0.75), p.uniform(1.1, 1.9)
    duty = (wide / period, high / storey)
    glass = p.similar(_GLASS, 18)
    windows = Pattern((period, storey), duty, glass, 1.0,
                      (-width / 2 + period * (1 - duty[0]) / 2, height / 2 - raised - p.uniform(0.75, 1.0) - high),
                      p.uniform(0.04, 0.14) if p.chance(0.7) else 0.0, p.uniform(0.1, 0.5))  # fmt: skip
    if p.chance(0.15):  # an office: bands of glass
        windows = Pattern((period, storey), (0.94, 0.6), glass, 1.0, windows.start, 0.0, p.uniform(0.3, 0.6))
    front = p.material(colour, (0.08, 0.5), (40, 160)).replace(pattern=windows)
    b.box(front, (0, depth / 2), (width, height, depth), shade=2)
    roof = p.material(p.colour(50, 130, 0.15) if p.chance(0.6) else (130, 70, 50), (0.2, 0.5), (60, 160))
    if gable:
        tiles = Pattern((0.3, 0.35), (0.93, 0.9), (25, 20, 20), -0.5)
        size = (width + 0.3, p.uniform(0.25, 0.5) * depth, depth + 0.8)
        b.box(roof.replace(pattern=tiles), (0, depth / 2), size, height, taper=(0, 0.99, 0.99), shade=2)
    else:
        b.box(roof, (0, depth / 2), (width + 0.2, p.uniform(0.2, 0.6), depth + p.uniform(0.1, 0.5)), height, shade=2)
    plinth = p.material(p.colour(60, 150, 0.15), (0.1, 0.4))
    door = p.material(p.colour(30, 150, 0.5), (0.05, 0.3)).replace(
        pattern=Pattern((0.5, 0.9), (0.7, 0.7), p.colour(20, 120, 0.3), 0.5)
    )
    if shop:  # glass behind a step forward, an awning now and then
        panes = Pattern((period * 2, 9.0), (0.88, 0.26), p.similar((60, 62, 62), 25), 1.0,
                       (-width / 2 + 0.12 * period, -0.9), 0.05, p.uniform(0.2, 0.5))  # fmt: skip
        b.box(plinth.replace(pattern=panes), (0, 0.05), (width, storey, 0.3), shade=1)
        if p.chance(0.4):
            cloth = p.material(p.colour(80, 200, 0.8), (0.0, 0.3)).replace(
                pattern=Pattern((0.5, 50), (0.5, 1.0), p.colour(150, 240, 0.3))
            )
            b.wall(cloth, (0, -0.7), (width * 0.9, 1.7), storey - 0.95, lean=1.05)
        board = Material(
            image=p.random_image(), colour=p.colour(60, 220, 0.7), gain=0.8, scale=120, glow=p.uniform(0, 0.3)
        )
        b.box(board, (0, -0.12), (width * p.uniform(0.4, 0.9), p.uniform(0.4, 0.8), 0.12), storey, shade=0)
    else:
        b.box(plinth, (0, 0.02), (width, max(raised, p.uniform(0.3, 0.8)), 0.14), shade=1)
    place, wide = p.uniform(-0.4, 0.4) * width, p.uniform(0.95, 1.5)
    b.box(door, (place, 0.0), (wide, p.uniform(2.05, 2.4), 0.32), raised, shade=0)
    steps = round(raised / 0.17)
    for i in range(steps):
        b.box(plinth, (place, -0.15 - 0.15 * (steps - i)), (wide + 0.2, raised * (i + 1) / steps, 0.3), shade=0)
    if p.chance(0.35):
        for level in range(1, storeys):
            for i in range(count):
                if p.chance(0.4):
                    x = -width / 2 + (i + 0.5) * period
                    slab = (min(period * 0.9, 2.4), 0.14, 1.1)
                    b.box(plinth, (x, -0.45), slab, raised + level * storey)
                    rail = plinth.replace(pattern=Pattern((0.14, 50.0), (0.4, 1.0), p.similar(colour, 30)))
                    b.wall(rail, (x, -0.98), (slab[0], 0.95), raised + level * storey + 0.1, shade=0)
    elif p.chance(0.5):
        for level in range(1, storeys + 1):
            b.box(plinth, (0, 0.0), (width, 0.16, 0.3), raised + level * storey - 0.2, shade=0)
