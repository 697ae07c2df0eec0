"""Streets to drive through: road, pavements, houses, parked and moving vehicles, people, trees. Metres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fg_depth_ros.synthesis.world import street_objects as things
from fg_depth_ros.synthesis.world.asset_library import AssetSampler
from fg_depth_ros.synthesis.world.primitives import Builder, Light, Material, Motion, Path, Pattern, Scene, Sky

_AHEAD = 150.0  # m that are built before the end of the way
_BEHIND = 14.0
_CURB = (0.08, 0.16)


@dataclass(frozen=True)
class _Course:
    """The middle line of a street: an arc that begins at the origin and leads forward."""

    curvature: float

    def at(self, along: float, aside: float) -> tuple[tuple[float, float], float]:
        """Place (x, z) and direction (yaw) at an arc length and an offset to the right."""
        angle = along * self.curvature
        if abs(self.curvature) < 1e-9:
            return (aside, along), 0.0
        x = (1 - math.cos(angle)) / self.curvature + aside * math.cos(angle)
        return (x, math.sin(angle) / self.curvature - aside * math.sin(angle)), angle

    def motion(self, speed: float, aside: float) -> Motion:
        """Return the motion along the course at ``speed`` (m/s; below 0 backwards), at this offset to the right."""
        if abs(self.curvature) < 1e-9:
            return Motion((0.0, 0.0, speed))
        turn = speed * self.curvature / (1 - self.curvature * aside)
        return Motion(turn=turn, pivot=(1 / self.curvature, 0.0, 0.0))


@dataclass(frozen=True)
class _Plan:
    """Cross-section of a street, to one side of its middle: half road, parking, pavement, front of the houses."""

    lane: float
    lanes: int
    parking: float
    pavement: float
    garden: float
    way: float
    curb: float

    @property
    def road(self) -> float:
        """Half width of the lanes that are driven on."""
        return self.lane * self.lanes / 2

    @property
    def edge(self) -> float:
        """Distance at which the pavement begins."""
        return self.road + self.parking

    @property
    def front(self) -> float:
        """Distance at which the houses stand."""
        return self.edge + self.pavement + self.garden


def draw_street(p: AssetSampler, way: float = 0.0) -> Scene:
    """Draw a random street with a camera in it that drives ``way`` metres."""
    b, rng = Builder(), p.rng
    style = str(rng.choice(["city", "suburb", "country"], p=[0.5, 0.35, 0.15]))
    course = _Course(0.0 if p.chance(0.5) else float(rng.normal(0, 1 / 90)))
    course = _Course(float(np.clip(course.curvature, -1 / 45, 1 / 45)))
    plan = _Plan(
        lane=p.uniform(2.7, 3.7),
        lanes=int(rng.choice([1, 2, 3, 4], p=[0.15, 0.6, 0.1, 0.15])),
        parking=p.uniform(2.0, 2.4) if p.chance(0.65) and style != "country" else 0.0,
        pavement=p.uniform(1.5, 4.0) if style != "country" else p.uniform(0.5, 1.5),
        garden={"city": p.uniform(0, 0.4), "suburb": p.uniform(2, 9), "country": p.uniform(8, 40)}[style],
        way=way,
        curb=p.uniform(*_CURB) if style != "country" else 0.02,
    )
    _ground(b, p, course, plan, style)
    on_pavement = p.chance(0.1) and plan.pavement > 1.6  # a robot on the pavement instead of a car in its lane
    path = _path(p, course, plan, on_pavement)
    for side in (-1, 1):
        _houses(b, p, course, plan, side, style)
        _pavement(b, p, course, plan, side, path, on_pavement)
        _parked(b, p, course, plan, side)
    _traffic(b, p, course, plan, path, on_pavement)
    light, sky = _weather(p)
    return Scene(np.stack(b.rows), tuple(b.motions), light, sky, path, p.random_image())


def _path(p: AssetSampler, course: _Course, plan: _Plan, on_pavement: bool) -> Path:
    if on_pavement:
        side = 1 if p.chance(0.5) else -1
        aside = side * (plan.edge + plan.pavement * p.uniform(0.35, 0.6))
        height, speed = plan.curb + p.uniform(0.3, 1.3), p.uniform(0.4, 1.8)
    else:
        aside = plan.lane * (0.0 if plan.lanes == 1 else (0.5 if plan.lanes % 2 == 0 else 1.0)) + p.uniform(-0.35, 0.35)
        # Behind the windscreen or on the roof of a car: Cityscapes 1.2 m, nuScenes 1.5, KITTI 1.65, Argoverse 1.7,
        # Waymo 2.1; some are lorries.
        height = float(np.clip(p.rng.normal(1.6, 0.22), 0.9, 2.2)) if p.chance(0.9) else p.uniform(1.8, 2.8)
        speed = p.uniform(2.0, 15.0)
    (x, z), _ = course.at(0.0, aside)
    curvature = course.curvature / (1 - course.curvature * aside)
    return Path(
        x, z, p.uniform(-0.07, 0.07), height,
        pitch=float(p.rng.normal(0, 0.035)), roll=float(p.rng.normal(0, 0.02)), speed=speed, curvature=curvature,
        sway=(0.05, 0.012, 0.01, 0.004, 0.004),
    )  # fmt: skip


def _stretches(course: _Course, start: float, end: float) -> list[tuple[float, float]]:
    """Middle and length of straight pieces that follow the course to a few centimetres."""
    step = 40.0 if course.curvature == 0 else max(4.0, min(40.0, math.sqrt(8 * 0.05 / abs(course.curvature)) * 1.6))
    count = max(1, math.ceil((end - start) / step))
    step = (end - start) / count
    return [(start + (i + 0.5) * step, step) for i in range(count)]


def _ground(b: Builder, p: AssetSampler, course: _Course, plan: _Plan, style: str) -> None:
    grey = p.colour(62, 135, 0.04)
    wet = p.uniform(0.15, 0.5) if p.chance(0.15) else 0.0
    asphalt = p.material(grey, (0.08, 0.35), (60, 220), mirror=wet)
    if p.chance(0.12) and style == "city":  # paving stones
        asphalt = asphalt.replace(pattern=Pattern((0.2, 0.2), (0.9, 0.9), (45, 42, 40), -0.6))
    grass = p.material((95, 110, 60), (0.3, 0.7), (60, 200))
    plain = asphalt if style == "city" else grass
    end = plan.way + _AHEAD + 250
    b.floor(plain, (0, end / 2 - 100), (900, end + 400), -0.01 if plain is grass else 0.0, shade=0)
    white = p.similar((215, 213, 205), 10)
    lines = p.chance(0.85) and plan.lanes > 1
    wide, long = p.uniform(0.1, 0.16) / plan.lane, p.uniform(0.35, 1.0)
    dash = Pattern((plan.lane, p.uniform(4, 12)), (wide, long), white, p.uniform(0.6, 1))
    edges = p.chance(0.5)
    flags = p.material(p.colour(105, 185, 0.1), (0.1, 0.4), (60, 200))
    tile = p.uniform(0.25, 0.7)
    flags = flags.replace(pattern=Pattern((tile, tile * p.uniform(0.5, 1)), (0.97, 0.97), (70, 68, 65), -0.5))
    kerb = p.material(p.colour(120, 190, 0.05), (0.1, 0.3))
    line = Material(colour=white, gain=0.1, scale=150)
    for middle, length in _stretches(course, -_BEHIND - 6, plan.way + _AHEAD):
        (x, z), yaw = course.at(middle, 0.0)
        longer = length + abs(course.curvature) * length * (plan.edge + 6) + 0.02
        if style != "city":
            b.floor(asphalt, (x, z), (2 * plan.edge, longer), yaw=yaw, order=1, shade=0)
        if lines:
            # The pattern runs on from piece to piece: it is measured from each piece's own middle.
            start = -plan.lane / 2 * (plan.lanes % 2) - dash.duty[0] * plan.lane / 2, middle
            on = asphalt.replace(pattern=Pattern(dash.period, dash.duty, dash.colour, dash.strength, start))
            inside = 2 * plan.road - (0.6 if plan.lanes > 1 else 0.0)
            b.floor(on, (x, z), (inside, length), yaw=yaw, order=2, shade=0)
        for side in (-1, 1):
            if edges:
                (ex, ez), _ = course.at(middle, side * (plan.road - 0.2))
                b.floor(line, (ex, ez), (0.12, longer), yaw=yaw, order=3, shade=0)
            aside = plan.edge + plan.pavement / 2
            (sx, sz), _ = course.at(middle, side * aside)
            b.box(flags, (sx, sz), (plan.pavement, plan.curb + 0.3, longer), -0.3, yaw, shade=0)
            (kx, kz), _ = course.at(middle, side * (plan.edge - 0.06))
            if plan.curb > 0.05:
                b.box(kerb, (kx, kz), (0.14, plan.curb + 0.31, longer), -0.3, yaw, shade=0)
            if style == "suburb":
                (gx, gz), _ = course.at(middle, side * (plan.edge + plan.pavement + 15))
                b.box(grass, (gx, gz), (30, plan.curb + 0.31, longer), -0.3, yaw, shade=0)
    if p.chance(0.35):  # a zebra crossing
        (x, z), yaw = course.at(p.uniform(6, 40), 0)
        stripes = asphalt.replace(pattern=Pattern((1.0, 90.0), (0.5, 1.0), white, 0.9, (0.0, -45.0)))
        b.floor(stripes, (x, z), (2 * plan.road, p.uniform(2.5, 4)), yaw=yaw, order=4, shade=0)
    for _ in range(int(p.rng.integers(0, 8))):  # mended places and covers
        (x, z), yaw = course.at(p.uniform(3, 60), p.uniform(-1, 1) * plan.road)
        patch = p.material(p.similar(grey, 18), (0.1, 0.4), (60, 220))
        b.floor(patch, (x, z), (p.uniform(0.5, 2.5), p.uniform(0.5, 5)), yaw=yaw, order=1.5, shade=0)


def _houses(b: Builder, p: AssetSampler, course: _Course, plan: _Plan, side: int, style: str) -> None:
    if p.chance({"city": 0.15, "suburb": 0.25, "country": 0.5}[style]):
        _forest(b, p, course, plan, side)
        return
    along, far = -_BEHIND - p.uniform(0, 8), plan.way + _AHEAD
    low, high = {"city": (7, 22), "suburb": (3.2, 8), "country": (3.2, 9)}[style]
    while along < far:
        width = p.uniform(9, 26) if style == "city" else p.uniform(7, 14)
        depth, height = p.uniform(8, 14), p.uniform(low, high)
        (x, z), yaw = course.at(along + width / 2, side * (plan.front + p.uniform(0, 0.3)))
        # A house's front looks towards its own -z: across the street.
        place = b.place((x, z), yaw + side * math.pi / 2, plan.curb)
        things.house(place, p, width, depth, height, gable=style != "city" or p.chance(0.3))
        gap = 0.02 if style == "city" else p.uniform(2, 9) if style == "suburb" else p.uniform(15, 60)
        along += width + (p.uniform(6, 14) if p.chance(0.12) else gap) + abs(course.curvature) * width * plan.front
        if style != "city" and plan.garden > 2.5:
            if p.chance(0.6):
                (hx, hz), hyaw = course.at(along - width / 2, side * (plan.edge + plan.pavement + 0.3))
                things.enclosure(b.place((hx, hz), hyaw, plan.curb), p, width * p.uniform(0.7, 1.0))
            if p.chance(0.6):
                (tx, tz), _ = course.at(along + p.uniform(-width, 0), side * (plan.front - p.uniform(1.2, 2)))
                things.tree(b, p, (tx, tz), p.uniform(3, 10))


def _forest(b: Builder, p: AssetSampler, course: _Course, plan: _Plan, side: int) -> None:
    along = -5.0
    while along < plan.way + _AHEAD:
        at, _ = course.at(along, side * (plan.edge + plan.pavement + p.uniform(2, 16)))
        if p.chance(0.7):
            things.tree(b, p, at, p.uniform(9, 22))
        else:
            things.bush(b, p, at, p.uniform(0.8, 2.5))
        along += p.uniform(1.5, 7)
    if p.chance(0.6):  # bushes close to the pavement, as along parks and railways
        along, aside, height = -5.0, p.uniform(0.5, 2.0), p.uniform(1.0, 3.5)
        while along < plan.way + 50:
            at, _ = course.at(along, side * (plan.edge + plan.pavement + aside + p.uniform(0, 0.8)))
            things.bush(b, p, at, height * p.uniform(0.7, 1.3))
            along += height * p.uniform(0.4, 0.8)
    # What can be seen between the trees: more of them, far away.
    for middle, length in _stretches(course, 0, plan.way + _AHEAD):
        (x, z), yaw = course.at(middle, side * (plan.edge + 35))
        wood = p.material((60, 85, 45), (0.5, 0.9), (15, 40))
        b.wall(wood, (x, z), (length * 1.7 + 4, p.uniform(12, 22)), yaw=yaw + math.pi / 2, shade=0)


def _clear(path: Path, on_pavement: bool, at: tuple[float, float], margin: float, way: float) -> bool:
    """Return whether a place is far enough from a camera on the pavement; a car's lane is free anyhow."""
    if not on_pavement:
        return True
    for time in np.linspace(-1, (way + 6) / path.speed, 24):
        pose = path.pose(float(time))
        if math.hypot(pose[0, 3] - at[0], pose[2, 3] - at[1]) < margin:
            return False
    return True


def _pavement(
    b: Builder, p: AssetSampler, course: _Course, plan: _Plan, side: int, path: Path, on_pavement: bool
) -> None:
    """Lamps, trees, signs, bins, benches, cycles and people on one side."""
    inner, outer = plan.edge + 0.3, plan.edge + plan.pavement - 0.3
    lamps, trees = p.uniform(12, 35), p.uniform(6, 20) if p.chance(0.5) else 1e9
    far = plan.way + _AHEAD

    def place(along: float, aside: float, margin: float) -> Builder | None:
        at, yaw = course.at(along, side * aside)
        return b.place(at, yaw, plan.curb) if _clear(path, on_pavement, at, margin, plan.way) else None

    for step, what in ((lamps, "lamp"), (trees, "tree"), (p.uniform(5, 25), "small"), (p.uniform(4, 25), "people")):
        following, end = p.uniform(-2, step), far if what in ("lamp", "tree") else plan.way + 70
        while following < end:
            along, aside = following, inner if what in ("lamp", "tree") else p.uniform(inner, max(inner + 0.1, outer))
            spot = place(along, aside, 2.2 if what == "tree" else 0.7)
            following += step * p.uniform(0.5, 1.5) if what in ("small", "people") else step
            if spot is None:
                continue
            if what == "lamp":
                things.lamp_post(spot, p, (0, 0), -side)
            elif what == "tree":
                things.tree(spot, p, (0, 0), p.uniform(5, 16), clear=p.uniform(2.2, 3.0))
            elif what == "people":
                pace = p.uniform(0.5, 1.7) * (1 if p.chance(0.5) else -1) * (0 if p.chance(0.25) else 1)
                if _clear(path, on_pavement, course.at(along, side * aside)[0], 1.2, plan.way):
                    motion = None if on_pavement else course.motion(pace, side * aside)
                    things.person(spot, p, (0, 0), p.uniform(-0.5, 0.5), motion)
            else:
                _street_furniture(spot, p, side)


def _street_furniture(spot: Builder, p: AssetSampler, side: int) -> None:
    kind = int(p.rng.integers(8))
    if kind <= 1:
        things.sign(spot, p, (0, 0), p.uniform(-0.2, 0.2))
    elif kind == 2:
        things.bin_(spot, p, (0, 0))
    elif kind == 3:
        things.bench(spot, p, (0, 0), side * math.pi / 2)
    elif kind == 4:
        things.cycle(spot.place((0, 0), p.uniform(0, 3)), p)
    elif kind == 5:
        for i in range(int(p.rng.integers(2, 7))):
            spot.cylinder(
                p.material((120, 120, 118), (0, 0.3)), (0, i * 1.4), p.uniform(0.05, 0.1), p.uniform(0.6, 1.1)
            )
    elif kind == 6:
        things.bush(spot, p, (0, 0), p.uniform(0.5, 1.5))
    else:
        things.traffic_light(spot, p, (0, 0), p.uniform(-0.1, 0.1))


def _parked(b: Builder, p: AssetSampler, course: _Course, plan: _Plan, side: int) -> None:
    if plan.parking == 0:
        return
    density, along = p.uniform(0.3, 0.95), -6.0 - p.uniform(0, 5)
    while along < plan.way + 0.8 * _AHEAD:
        build, length = things.draw_vehicle(p, longest=6.2)
        if p.chance(density):
            at, yaw = course.at(along + length / 2, side * (plan.road + plan.parking / 2 + p.uniform(-0.1, 0.15)))
            turned = yaw + (math.pi if side < 0 else 0.0) + p.uniform(-0.03, 0.03)
            build(b.place(at, turned), p, length)
        along += length + p.uniform(0.6, 2.0)


def _traffic(b: Builder, p: AssetSampler, course: _Course, plan: _Plan, path: Path, on_pavement: bool) -> None:
    """Vehicles that move, lane by lane at one speed, and somebody who crosses."""
    for lane in range(plan.lanes):
        aside = (lane + 0.5 - plan.lanes / 2) * plan.lane
        oncoming = aside < -0.1
        if plan.lanes == 1 and not on_pavement:
            break  # it is the camera's own
        # Nobody in the camera's direction is slower than the camera.
        speed = (
            -p.uniform(3, 14) if oncoming else path.speed * p.uniform(1.0, 1.3) if not on_pavement else p.uniform(3, 14)
        )
        along = p.uniform(6, 60)
        while along < 90 + plan.way * (1 if not oncoming else 2.5) and p.chance(0.55):
            build, length = things.draw_vehicle(p)
            at, yaw = course.at(along + length / 2, aside)
            place = b.place(at, yaw + (math.pi if oncoming else 0.0), motion=course.motion(speed, aside))
            build(place, p, length)
            along += length + p.uniform(5, 40)
    if not p.chance(0.3):
        return
    along, aside = p.uniform(12, 45), p.uniform(-1, 1) * plan.road
    at, yaw = course.at(along, aside)
    pace = p.uniform(0.7, 1.6) * (1 if p.chance(0.5) else -1)
    meets = aside + pace * along / path.speed
    if abs(meets - path.x) > 1.5 or plan.way == 0:
        motion = Motion((pace * math.cos(yaw), 0.0, -pace * math.sin(yaw)))
        things.person(b, p, at, p.uniform(-0.4, 0.4), motion)


def _weather(p: AssetSampler) -> tuple[Light, Sky]:
    """Sun or clouds, and the colour of the light."""
    near, far = (2e3, 1e4) if p.chance(0.75) else (150, 2e3)  # m; clear days, and mist
    haze = float(np.exp(p.rng.uniform(np.log(near), np.log(far))))
    image = p.random_image()
    if p.chance(0.6):
        high, round_ = p.uniform(0.25, 1.3), p.uniform(0, 2 * math.pi)
        towards = (math.cos(high) * math.sin(round_), -math.sin(high), math.cos(high) * math.cos(round_))
        warm = 0.25 * max(0.0, 0.8 - high)
        strong = p.uniform(0.6, 1.0)
        sun = (strong, strong * (1 - 0.3 * warm), strong * (1 - warm))
        sky = (p.uniform(0.38, 0.5), p.uniform(0.4, 0.52), p.uniform(0.45, 0.58))
        return Light(towards, sun, sky, haze=haze), Sky(
            p.similar((95, 140, 215), 15), p.similar((200, 212, 228), 12), image, p.uniform(0, 0.9)
        )
    dusk = p.chance(0.2)
    grey = p.uniform(40, 150) if dusk else p.uniform(150, 240)
    bright = p.uniform(0.2, 0.65) if dusk else p.uniform(0.65, 1.0)
    return Light(sky=(bright, bright, bright * 1.03), haze=haze), Sky(
        p.similar((grey * 0.9,) * 3, 5), p.similar((grey,) * 3, 5), image, p.uniform(0, 0.5)
    )
