"""Depth of planes, boxes, cylinders and balls against closed forms, and the parts of rows they are looked for in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.world import HEIGHT, WIDTH, depth_of, directions, rig, scene, small_assets

from fg_depth_ros.synthesis.world.outlines import Outlines, spans_of
from fg_depth_ros.synthesis.world.primitives import Builder, Material, Path, turned
from fg_depth_ros.synthesis.world.ray_casting import Shot, View, cast_rays

M = Material()


def test_the_ground_is_at_height_over_slope():
    b = Builder()
    b.floor(M, (0, 0), (4000, 4000))
    depth = depth_of(b)
    _, y = directions()
    below = y > 0
    # Z * y = 1.5 m below the camera
    np.testing.assert_allclose(depth[below], 1.5 / y[below], rtol=1e-5)
    assert np.isinf(depth[~below]).all()


def test_a_pitched_camera_sees_the_ground_where_trigonometry_says():
    b = Builder()
    b.floor(M, (0, 0), (4000, 4000))
    depth = depth_of(b, pitch=-0.2)  # looks down
    _, y = directions()
    # The ray's fall per unit of depth is sin(0.2) + y cos(0.2).
    fall = math.sin(0.2) + y * math.cos(0.2)
    below = fall > 0.01
    np.testing.assert_allclose(depth[below], 1.5 / fall[below], rtol=1e-4)


def test_an_upright_wall_at_an_angle():
    b = Builder()
    yaw = 0.6
    b.wall(M, (0.0, 5.0), (100, 100), base=-50, yaw=yaw)
    x, _ = directions()
    # Through (0, 5), along (cos yaw, -sin yaw): Z = 5 - X tan(yaw), with X = x Z.
    np.testing.assert_allclose(depth_of(b), 5 / (1 + x * math.tan(yaw)), rtol=1e-5)


def test_a_rect_ends_where_it_should():
    b = Builder()
    b.wall(M, (0.0, 4.0), (2.02, 1.02), base=0.99)  # |X| < 1.01, heights 0.99 .. 2.01, seen from 1.5
    x, y = directions()
    inside = (np.abs(x * 4) < 1.01) & (np.abs(y * 4) < 0.51)
    depth = depth_of(b)
    np.testing.assert_array_equal(np.isfinite(depth), inside)
    np.testing.assert_allclose(depth[inside], 4.0, rtol=1e-6)


def test_a_hole_shows_what_lies_behind():
    b = Builder()
    b.wall(M, (0.0, 4.0), (100.0, 100.0), base=-48.5, hole_u0=-0.0101, hole_u1=0.0101, hole_v0=-0.0051, hole_v1=0.0051)
    b.wall(M, (0.0, 9.0), (100.0, 100.0), base=-48.5)
    x, y = directions()
    hole = (np.abs(x * 4) < 0.505) & (np.abs(y * 4) < 0.255)
    np.testing.assert_allclose(depth_of(b), np.where(hole, 9.0, 4.0), rtol=1e-6)


def _box_truth(x, y, low, high):
    """Naive slab test, pixel by pixel, camera at the origin; low, high: corners (y down)."""
    truth = np.full(x.shape, np.inf)
    for index in np.ndindex(x.shape):
        d = np.array([x[index], y[index], 1.0])
        enter, leave = -np.inf, np.inf
        for axis in range(3):
            if d[axis] == 0:
                if not low[axis] <= 0 <= high[axis]:
                    enter = np.inf
                continue
            a, c = sorted((low[axis] / d[axis], high[axis] / d[axis]))
            enter, leave = max(enter, a), min(leave, c)
        if 0 < enter <= leave:
            truth[index] = enter
    return truth


def test_a_box_against_the_slab_test():
    b = Builder()
    b.box(M, (0.8, 5.0), (1.5, 1.2, 2.0), base=0.0)
    x, y = directions()
    truth = _box_truth(x, y, (0.05, 0.3, 4.0), (1.55, 1.5, 6.0))
    depth = depth_of(b)
    np.testing.assert_array_equal(np.isfinite(depth), np.isfinite(truth))
    np.testing.assert_allclose(depth[np.isfinite(truth)], truth[np.isfinite(truth)], rtol=1e-5)


def test_a_box_seen_past_three_of_its_faces_and_turned():
    b = Builder()
    b.box(M, (-1.0, 6.0), (1.0, 0.8, 3.0), base=0.0, yaw=0.5)
    x, y = directions()
    depth = depth_of(b)
    axes = turned(0.5)
    start = axes.T @ (np.zeros(3) - [-1.0, 1.1, 6.0])  # its middle lies 1.1 m below the camera
    half = np.array([0.5, 0.4, 1.5])
    for row, column in ((45, 36), (50, 40), (52, 30), (45, 44), (20, 36), (45, 80)):
        d = axes.T @ np.array([x[row, column], y[row, column], 1.0])
        near, far = (-half - start) / d, (half - start) / d
        enter, leave = np.minimum(near, far).max(), np.maximum(near, far).min()
        expected = enter if enter <= leave else np.inf
        assert depth[row, column] == pytest.approx(expected, rel=1e-5), (row, column)
    assert 100 < np.isfinite(depth).sum() < 3000


def test_a_tapering_box_is_a_roof():
    b = Builder()
    # A ridge along x: front and back come together above the middle. Its slope towards the camera rises 2 m in 1 m.
    b.box(M, (0.0, 6.0), (8.0, 2.0, 2.0), base=0.0, taper=(0.0, 1.0, 1.0))
    depth = depth_of(b, height=1.0)
    _, y = directions()
    # The near slope: Z = 5 at height 0 (1 m below the camera), Z = 6 at height 2: Z = 5.5 - Y / 2 with Y = y Z.
    row = y[:, 48]
    z = 5.5 / (1 + row / 2)
    seen = np.abs(z * row) < 1.0
    np.testing.assert_allclose(depth[seen, 48], z[seen], rtol=1e-5)
    assert np.isinf(depth[~seen & (row < 0), 48]).all()


def test_a_standing_cylinder_and_its_top():
    b = Builder()
    b.cylinder(M, (0.5, 6.0), radius=0.8, height=1.0)
    x, y = directions()
    depth = depth_of(b)
    truth = np.full(x.shape, np.inf)
    for index in np.ndindex(x.shape):
        dx, dy = x[index], y[index]
        # |(dx t - 0.5, t - 6)| = 0.8, nearer solution, between 0.5 m and 1.5 m below the camera
        a, half_b, c = dx * dx + 1, -(0.5 * dx + 6), 0.25 + 36 - 0.64
        root = half_b * half_b - a * c
        if root >= 0:
            t = (-half_b - math.sqrt(root)) / a
            if 0.5 <= dy * t <= 1.5:
                truth[index] = t
        if dy > 0 and (t := 0.5 / dy) < truth[index] and (dx * t - 0.5) ** 2 + (t - 6) ** 2 <= 0.64:
            truth[index] = t
    different = np.isfinite(depth) != np.isfinite(truth)
    assert different.sum() <= 2  # of the rounding right at the silhouette
    both = np.isfinite(depth) & np.isfinite(truth)
    assert both.sum() > 200
    np.testing.assert_allclose(depth[both], truth[both], rtol=1e-4)


def test_a_rod_through_the_picture_keeps_its_thickness_far_away():
    b = Builder()
    b.rod(M, (-500.0, 1.5, 30.0), (500.0, 1.5, 30.0), radius=0.5)
    depth = depth_of(b)
    _, y = directions()
    # A level cylinder across at 30 m: nearest point of the ray (y, 1) t to the axis (0, 30).
    expected = np.full(HEIGHT, np.inf)
    for row in range(HEIGHT):
        s = y[row, 0]
        a, half_b, c = 1 + s * s, -30.0, 900 - 0.25
        if half_b * half_b - a * c >= 0:
            expected[row] = (30 - math.sqrt(half_b * half_b - a * c)) / a
    np.testing.assert_allclose(depth[:, 10], expected, rtol=1e-5)
    assert np.isfinite(expected).sum() == 3


def test_a_ball():
    b = Builder()
    b.ellipsoid(M, (0.0, 5.0), (0.5, 1.0, 2.0), base=0.5)  # its middle at eye height
    x, y = directions()
    # (x t / 0.5)^2 + (y t)^2 + ((t - 5) / 2)^2 = 1
    a = 4 * x**2 + y**2 + 0.25
    root = 1.25**2 - a * (25 / 4 - 1)
    hit = root >= 0
    depth = depth_of(b)
    assert (np.isfinite(depth) != hit).sum() == 0
    np.testing.assert_allclose(depth[hit], (1.25 - np.sqrt(root[hit])) / a[hit], rtol=1e-4)


def test_the_nearest_wins_and_a_decal_lies_on_its_wall():
    b = Builder()
    b.wall(M, (0, 6.0), (50, 50), base=-25)
    b.wall(M, (0, 6.0), (1, 1), base=1.0, order=1)
    b.box(M, (2.0, 4.5), (1, 1, 1), base=1.0)
    world = scene(b, Path(speed=0.0, height=1.5))
    shot = _shot(world)
    found = cast_rays(shot, small_assets().cutouts, torch.device("cpu"))
    item = found.item[0].numpy()
    assert item[32, 48] == 1 and item[5, 5] == 0 and item[32, 88] == 2
    np.testing.assert_allclose(found.depth[0].numpy()[item == 1], 6.0, rtol=1e-6)
    np.testing.assert_allclose(found.depth[0].numpy()[item == 0], 6.0, rtol=1e-6)


def _shot(world) -> Shot:
    pose = world.path.pose(0.0)
    r = rig()
    return Shot.of([world.at(0.0)], [View(pose[:3, :3], pose[:3, 3], r.fx, r.fy, r.cx, r.cy)], WIDTH, HEIGHT)


def test_the_camera_inside_a_box_sees_nothing_of_it():
    b = Builder()
    b.box(M, (0, 0), (3, 3, 3))
    b.wall(M, (0, 8.0), (50, 50), base=-25)
    np.testing.assert_allclose(depth_of(b), 8.0, rtol=1e-6)


def test_a_batch_is_what_its_samples_are():
    scenes = []
    for seed in range(3):
        rng, b = np.random.default_rng(seed), Builder()
        for _ in range(12 + seed):
            at = (rng.uniform(-4, 4), rng.uniform(1, 15))
            b.box(M, at, tuple(rng.uniform(0.2, 2, 3)), yaw=rng.uniform(0, 3))
            b.cylinder(M, at, rng.uniform(0.05, 0.5), rng.uniform(1, 3))
        scenes.append(scene(b))
    shots = [_shot(world) for world in scenes]
    together = Shot.of([world.rows for world in scenes], [shot.views[0] for shot in shots], WIDTH, HEIGHT)
    cutouts, cpu = small_assets().cutouts, torch.device("cpu")
    found = cast_rays(together, cutouts, cpu)
    for n, shot in enumerate(shots):
        alone = cast_rays(shot, cutouts, cpu)
        assert torch.equal(found.depth[n], alone.depth[0])
        assert torch.isfinite(alone.depth).float().mean() > 0.1


def test_a_cut_out_is_where_its_mask_is():
    assets = small_assets()
    b = Builder()
    b.wall(M, (0, 2.0), (2.0, 2.0), base=0.5, cutout=assets.outlines[0])
    depth = depth_of(b)
    mask = assets.cutouts.masks.view(-1, assets.cutouts.stride)[assets.outlines[0]][: 64 * 64].view(64, 64).numpy()
    truth = np.zeros((HEIGHT, WIDTH), bool)
    for row in range(HEIGHT):
        for column in range(8, 89):
            # 2 m at 2 m of distance: 80 px for 64 texels, centred on (48, 32); a texel's middle lies half a texel in.
            u, v = (np.clip(((at - middle) / 80 + 0.5) * 64 - 0.5, 0, 63) for at, middle in ((column, 48), (row, 32)))
            i, j = min(int(v), 62), min(int(u), 62)
            upper, lower = mask[i : i + 2, j : j + 2].astype(float) @ (1 - (u - j), u - j)
            truth[row, column] = upper * (1 - (v - i)) + lower * (v - i) > 127.5
    assert truth.sum() > 200
    assert (np.isfinite(depth) != truth).sum() <= 3  # rounding right at the threshold
    np.testing.assert_allclose(depth[np.isfinite(depth)], 2.0, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_spans_cover_convex_outlines_against_a_naive_test(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform([-20, -20, 1], [120, 90, 3], (1, 8, 3))
    points[..., :2] *= points[..., 2:]
    edges = np.array([[i, j] for i in range(8) for j in range(i)])
    spans = spans_of(
        Outlines.of(points, edges, 0.05, np.zeros(1, int)), np.zeros(1, int), WIDTH, HEIGHT, torch.device("cpu")
    )
    covered = np.zeros((HEIGHT, WIDTH), bool)
    for y, x0, length in zip(spans.y.tolist(), spans.x0.tolist(), spans.length.tolist(), strict=True):
        covered[y, x0 : x0 + length] = True
    flat = points[0, :, :2] / points[0, :, 2:]
    inside = np.zeros_like(covered)
    for i in range(8):  # the hull is the union of all triangles
        for j in range(i):
            for k in range(j):
                inside |= _in_triangle(flat[[i, j, k]])
    assert not (inside & ~covered).any()
    assert (covered & ~inside).sum() <= 4 * HEIGHT  # a margin of one pixel and rounding on both sides


def _in_triangle(corners: np.ndarray) -> np.ndarray:
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    sides = []
    for a, b in ((0, 1), (1, 2), (2, 0)):
        (ax, ay), (bx, by) = corners[a], corners[b]
        sides.append((bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0)
    return (sides[0] == sides[1]) & (sides[1] == sides[2])


def test_a_wall_that_passes_the_camera_is_seen_up_to_the_edge():
    b = Builder()
    b.wall(M, (-1.0, 0.0), (40.6, 3.0), yaw=math.pi / 2)  # beside the camera, from 20.3 m behind to 20.3 m ahead
    depth = depth_of(b)
    x, _ = directions()
    row = depth[32]
    seen = x[32] < -1 / 20.3
    np.testing.assert_allclose(row[seen], -1 / x[32][seen], rtol=1e-4)
    assert np.isinf(row[~seen]).all()


def test_a_mirrored_view_sees_a_thing_as_far_below_as_it_stands_above():
    view = View(turned(0.0), np.array([0.0, -0.5, 0.0]), 80, 80, 48, 32)
    b = Builder()
    b.wall(M, (0.0, 5.0), (1.0, 0.5), base=0.203)  # seen from 0.5 m; its image reaches from -0.203 to -0.703 m
    world = scene(b)
    shot = Shot.of([world.rows], [view.mirrored(0.0)], WIDTH, HEIGHT)
    found = cast_rays(shot, small_assets().cutouts, torch.device("cpu")).depth[0].numpy()
    _, y = directions()
    below = y[:, 48] * 5
    np.testing.assert_array_equal(np.isfinite(found[:, 48]), (below >= 0.703) & (below <= 1.203))
    np.testing.assert_allclose(found[np.isfinite(found)], 5.0, rtol=1e-6)
