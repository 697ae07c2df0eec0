"""Virtual worlds: exact disparity, occlusion, flow and poses; light; true-life sizes; every sample by its number."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.world import (
    HEIGHT,
    STILL,
    WIDTH,
    directions,
    renderer,
    rig,
    scene,
    small_assets,
    small_atlas,
    small_cutouts,
)

from fg_depth_ros.geometry import StereoRig, warp_right_to_left
from fg_depth_ros.synthesis.world import furniture
from fg_depth_ros.synthesis.world import street_objects as things
from fg_depth_ros.synthesis.world.asset_library import AssetSampler
from fg_depth_ros.synthesis.world.generator import WorldGenerator
from fg_depth_ros.synthesis.world.primitives import Builder, Light, Material, Motion, Path, Pattern, turned
from fg_depth_ros.synthesis.world.rendering import Renderer
from fg_depth_ros.synthesis.world.shading import covered

M = Material(gain=0.0)


def generator(kind: str = "mixed", size: tuple[int, int] = (128, 64), **options: object) -> WorldGenerator:
    return WorldGenerator(small_atlas(), small_cutouts(), *size, kind=kind, **options)  # type: ignore[arg-type]


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample has two cameras that are alike."""
    monkeypatch.setattr("fg_depth_ros.synthesis.world.generator.CameraPair.draw", lambda rng, width: STILL)


def test_what_cannot_be_rendered_is_named() -> None:
    with pytest.raises(ValueError, match=r"kind of world is 'forest'; choose one of mixed, street, indoor"):
        generator("forest")
    offset = replace(rig(), cx_right=53.0)
    with pytest.raises(ValueError, match=r"principal columns differ by 5 px.*set cx_right = cx"):
        generator(rig=offset)
    with pytest.raises(ValueError, match=r"the rig is for 96x64 px, which 128x64 has not the shape of"):
        generator(rig=rig())


@pytest.mark.parametrize("kind", ["street", "indoor"])
def test_shapes_ranges_and_the_law_of_disparity(kind: str) -> None:
    g = generator(kind, seed=3)
    for start in (0, 3):
        batch = g.batch(range(start, start + 3))
        assert batch.left.shape == batch.right.shape == (3, 3, 64, 128) and batch.left.dtype == torch.uint8
        assert batch.depth.shape == batch.disparity.shape == batch.occluded.shape == (3, 1, 64, 128)
        assert (batch.second, batch.flow, batch.pose) == (None, None, None)
        assert (batch.depth > 0.05).all()
        expected = (batch.focal * batch.baseline).view(3, 1, 1, 1) / batch.depth
        torch.testing.assert_close(batch.disparity, expected)
        assert (batch.disparity[torch.isinf(batch.depth)] == 0).all()
        for number, focal in enumerate(batch.focal.tolist(), start):
            least, most = g.scene(number).view.field_of_view
            assert least - 0.1 < math.degrees(2 * math.atan(64 / focal)) < most + 0.1
        assert ((batch.baseline >= 0.06) & (batch.baseline <= 0.7)).all()
        assert 0 < batch.occluded.float().mean() < 0.5
        assert (batch.left.float().std((1, 2, 3)) > 8).all()  # something can be seen
    if kind == "indoor":
        assert torch.isfinite(batch.depth).float().mean() > 0.8


def test_a_table_top_fills_the_picture_from_near() -> None:
    g = generator("indoor", seed=3)
    tables = [i for i in range(40) if g.scene(i).view.nearest]
    assert 4 <= len(tables) <= 18  # a quarter
    for index in tables:
        batch, view = g.views([index]), g.scene(index).view
        assert view.nearest is not None and 0.27 < view.nearest < 2.0
        middle = batch.depth[0, 0, 16:48, 32:96]
        assert middle.min() > 0.25 and middle.median() < 9
        pair = g.batch([index])
        assert pair.disparity.quantile(0.98) < 0.35 * 128  # little is too near for both cameras
    lenses = [math.degrees(2 * math.atan(64 / float(g.views([i]).focal[0]))) for i in tables]
    assert min(lenses) < 30 and 45 < max(lenses) < 90.1


def test_a_sample_depends_on_seed_number_and_size_alone() -> None:
    first = generator(seed=5).batch([3, 4], with_motion=True)
    again = generator(seed=5).batch([4], with_motion=True)
    for one, other in zip(first, again, strict=True):
        assert one is not None and other is not None
        assert one[1:].numpy().tobytes() == other.numpy().tobytes()
    assert not torch.equal(generator(seed=6).batch([4]).left, again.left)
    assert not torch.equal(first.left[0], first.left[1])
    views = generator(seed=5).views([4])
    assert torch.equal(views.left, again.left) and torch.equal(views.depth, again.depth)
    # The world is the same in another size: the same cameras look at the same things.
    larger = generator(seed=5, size=(256, 128)).batch([4])
    torch.testing.assert_close(larger.baseline, again.baseline)
    small, large = again.depth[0, 0], larger.depth[0, 0, ::2, ::2]
    assert ((small - large).abs() < 0.1 * small).float().mean() > 0.8


@pytest.mark.parametrize("seed", [0, 5])
def test_a_batch_rendered_at_once_is_what_its_samples_are(seed: int) -> None:
    """As a GPU does it; streets and rooms, with and without mirrors, sun and lamps in one batch."""
    g = generator(seed=seed, size=(96, 48))
    samples = [g.sample(i) for i in range(5)]
    together = Renderer(samples, g.assets, torch.device("cpu")).pairs(with_motion=True)
    for n in range(5):
        alone = g.batch([n], with_motion=True)
        for name in ("depth", "disparity", "occluded", "flow", "pose"):
            one, other = getattr(together, name)[n], getattr(alone, name)[0]
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4, equal_nan=True)
        for name in ("left", "right", "second"):
            difference = (getattr(together, name)[n].float() - getattr(alone, name)[0].float()).abs()
            assert difference.mean() < 0.05 and (difference > 2).float().mean() < 1e-3


def test_a_given_rig_is_used_at_the_size_of_the_pictures() -> None:
    g = generator("street", rig=StereoRig(256, 128, 200.0, 200.0, 127.5, 63.5, 127.5, 0.4))
    batch = g.batch([0, 1])
    assert batch.focal.tolist() == [100.0, 100.0]
    np.testing.assert_allclose(batch.baseline.numpy(), 0.4)


@pytest.mark.parametrize("kind", ["street", "indoor"])
def test_the_right_view_warped_by_the_truth_is_the_left_view(kind: str, still: None) -> None:
    g, errors = generator(kind, size=(192, 96), seed=1), []
    for index in range(6):
        batch = g.batch([index])
        warped, valid = warp_right_to_left(batch.right.float(), batch.disparity)
        seen = (~batch.occluded & valid.bool()).expand_as(warped)
        error = (warped - batch.left.float()).abs()
        errors.append(error[seen].mean().item() / max(error[~seen].mean().item(), 1e-6))
        assert error[seen].median() < 3  # of 255
    assert np.median(errors) < 0.6  # what is hidden fits worse


def test_a_box_hides_exactly_the_strip_beside_it() -> None:
    b = Builder()
    b.wall(M, (0, 8.0), (60, 60), base=-30)  # 80 * 0.5 / 8 = 5 px
    b.box(M, (0, 3.95), (0.99, 40, 0.3), base=-20)  # its front at 3.8 m: 10.526 px
    batch = renderer(scene(b), baseline=0.5).pairs()
    disparity, hidden = batch.disparity[0, 0, 32].numpy(), batch.occluded[0, 0, 32].numpy()
    np.testing.assert_allclose(disparity[[5, 48]], [5.0, 80 * 0.5 / 3.8], rtol=1e-5)
    # In the left picture the box covers 48 +- 80 * 0.495 / 3.8 = 37.58 .. 58.42, in the right one 27.05 .. 47.89.
    # The wall at x shows up at x - 5, so x = 32.05 .. 52.89 is hidden, of which 33 .. 37 is not the box itself.
    assert hidden[:5].all() and not hidden[5:32].any()
    assert hidden[33:38].all() and not hidden[38:].any()


@pytest.mark.parametrize("kind", ["street", "indoor"])
def test_occlusion_against_brute_force(kind: str, still: None) -> None:
    """The right camera's ray to every point of the left picture: is something in its way?"""
    g, fine = generator(kind, size=(160, 80), seed=8), 8
    for index in range(2):
        batch, sample = g.batch([index]), g.sample(index)
        # The right view eight times finer along the row holds a ray right to each match.
        wide = replace(sample.rig, width=160 * fine, fx=sample.rig.fx * fine, cx=sample.rig.cx * fine)
        world = replace(sample.scene, path=_Beside(sample.scene.path, sample.rig.baseline))  # type: ignore[arg-type]
        right = renderer(world, with_rig=wide, assets=g.assets).views().depth[0, 0].numpy()
        depth, force = batch.depth[0, 0].numpy(), float(batch.focal[0]) * float(batch.baseline[0])
        target = np.arange(160) - force / depth
        column = np.clip(np.rint(target * fine), 0, 160 * fine - 1).astype(int)
        in_the_way = force * (1 / np.take_along_axis(right, column, 1) - 1 / depth) > 0.5
        truth = (target < 0) | (target > 159) | in_the_way
        found = batch.occluded[0, 0].numpy()
        assert truth.mean() > 0.01
        assert (truth == found).mean() > 0.97
        assert (truth & found).sum() > 0.8 * found.sum()
        assert (truth & found).sum() > 0.6 * truth.sum()  # a hidden strip's edge falls between two columns


class _Beside:
    """The way of a camera's right neighbour."""

    def __init__(self, path: Path, baseline: float) -> None:
        self.path, self.baseline = path, baseline

    def pose(self, time: float) -> np.ndarray:
        pose = self.path.pose(time)
        pose[:3, 3] += pose[:3, 0] * self.baseline
        return pose


# ---- motion ----------------------------------------------------------------------------------------------------


def test_flow_of_what_stands_still_is_the_projection_of_its_points() -> None:
    b = Builder()
    b.floor(M, (0, 0), (400, 400))
    b.box(M, (1, 9), (2, 1, 2))
    b.cylinder(M, (-2, 7), 0.4, 2.5)
    path = Path(height=1.5, look=0.1, pitch=-0.05, speed=6.0, curvature=0.1, sway=(0.1, 0.05, 0.1, 0.1, 0.1))
    batch = renderer(scene(b, path)).pairs(0.7, with_motion=True)
    assert batch.flow is not None and batch.pose is not None
    depth, pose = batch.depth[0, 0].double().numpy(), batch.pose[0].double().numpy()
    x, y = directions()
    solid = np.isfinite(depth)
    points = np.stack([x, y, np.ones_like(x), 1 / depth])[:, solid] * depth[solid]
    moved = pose @ points
    expected = np.stack([80 * moved[0] / moved[2] + 48, 80 * moved[1] / moved[2] + 32])
    expected -= np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)))[:, solid]
    np.testing.assert_allclose(batch.flow[0].numpy()[:, solid], expected, atol=2e-3)
    # The sky moves as the camera turns, whatever way it goes.
    turn = pose[:3, :3] @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    expected = np.stack([80 * turn[0] / turn[2] + 48, 80 * turn[1] / turn[2] + 32]).reshape(2, HEIGHT, WIDTH)
    expected -= np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)))
    np.testing.assert_allclose(batch.flow[0].numpy()[:, ~solid], expected[:, ~solid], atol=1e-3)
    assert (~solid).sum() > 500


def test_the_pose_is_that_of_the_next_camera() -> None:
    b = Builder()
    b.floor(M, (0, 0), (40, 40))
    batch = renderer(scene(b, Path(speed=5.0))).pairs(with_motion=True)
    # Half a metre ahead in 0.1 s: what stood at z = 4 stands at 3.5.
    expected = np.eye(4)
    expected[2, 3] = -0.5
    assert batch.pose is not None
    np.testing.assert_allclose(batch.pose[0].numpy(), expected, atol=1e-6)
    # On an arc to the right of 10 m radius, 0.5 m turn it by 0.05 rad: what lay ahead then lies to the left.
    batch = renderer(scene(b, Path(speed=5.0, curvature=0.1))).pairs(with_motion=True)
    assert batch.pose is not None
    np.testing.assert_allclose(batch.pose[0, :3, :3].numpy(), turned(-0.05), atol=1e-6)
    place = [10 * (1 - math.cos(0.05)), 0, 10 * math.sin(0.05)]
    np.testing.assert_allclose(batch.pose[0, :3, 3].numpy(), -turned(-0.05) @ place, atol=1e-6)


def test_flow_of_what_moves_by_itself() -> None:
    b = Builder()
    b.place((0.0, 5.0), motion=Motion((2.0, 0.0, -10.0))).wall(M, (0, 0), (1, 1), base=1.0)
    b.place((2.0, 6.0), motion=Motion(turn=math.pi)).wall(M, (0, 0), (1, 1), base=1.0)
    batch = renderer(scene(b)).pairs(with_motion=True)
    assert batch.flow is not None
    flow, depth = batch.flow[0].numpy(), batch.depth[0, 0].numpy()
    # In 0.1 s from (X, Y, 5) to (X + 0.2, Y, 4).
    moved = np.isclose(depth, 5.0)
    x, y = directions()
    np.testing.assert_allclose(flow[0][moved], (80 * (x * 5 + 0.2) / 4 - 80 * x)[moved], atol=1e-3)
    np.testing.assert_allclose(flow[1][moved], (80 * y * 5 / 4 - 80 * y)[moved], atol=1e-3)
    # Turned by 18 degrees about the vertical through its middle, to the right: its right side comes nearer.
    turning = np.isclose(depth, 6.0) & (y == 0)
    across = (x * 6 - 2)[turning]
    c, s = math.cos(0.1 * math.pi), math.sin(0.1 * math.pi)
    expected = 80 * (2 + across * c) / (6 - across * s) - (80 * x)[turning]
    np.testing.assert_allclose(flow[0][turning], expected, atol=1e-3)
    assert turning.sum() > 8 and moved.sum() > 100


def test_frames_are_as_far_apart_as_asked_and_say_what_the_second_hides() -> None:
    b = Builder()
    b.wall(M, (0, 8), (40, 20), base=-2.0)
    b.place((0.0, 4.0), motion=Motion((2.0, 0.0, 0.0))).wall(M, (0, 0), (1, 1), base=1.0)
    frames = renderer(scene(b, Path(speed=0.0))).frames(0.25)
    moved = frames.flow[0, 0] > 1
    # Half a metre to the right at 4 m and 80 px of focal length: 10 px. What it covers afterwards is hidden.
    assert frames.flow[0, 0][moved].numpy() == pytest.approx(10.0, abs=1e-3) and frames.valid.all()
    rows, columns = torch.nonzero(moved, as_tuple=True)
    hidden = torch.zeros_like(moved)
    hidden[rows.min() : rows.max() + 1, columns.max() + 1 : columns.max() + 11] = True
    assert torch.equal(frames.occluded[0, 0], hidden)


def test_the_next_picture_taken_along_the_flow_is_this_one(still: None) -> None:
    g, errors = generator(size=(192, 96), seed=3), []
    for index in range(5):
        batch = g.batch([index], with_motion=True)
        assert batch.second is not None and batch.flow is not None
        flow = batch.flow[0]
        ys, xs = torch.meshgrid(torch.arange(96.0), torch.arange(192.0), indexing="ij")
        u, v = xs + flow[0], ys + flow[1]
        inside = (u >= 0) & (u <= 191) & (v >= 0) & (v <= 95) & torch.isfinite(flow).all(0)
        grid = torch.stack([u / 191 * 2 - 1, v / 95 * 2 - 1], -1).nan_to_num(0)[None]
        there = torch.nn.functional.grid_sample(batch.second.float(), grid, align_corners=True)
        errors.append((there[0] - batch.left[0].float()).abs().mean(0)[inside].median().item())
        still_error = (batch.second[0].float() - batch.left[0].float()).abs().mean(0)[inside].median().item()
        assert errors[-1] <= still_error
    assert np.median(errors) < 4


# ---- light -----------------------------------------------------------------------------------------------------


def test_coverage_is_the_exact_mean_over_a_pixel() -> None:
    rng = np.random.default_rng(0)
    at, blur, duty = rng.uniform(-3, 3, 50), rng.uniform(0.01, 3, 50), rng.uniform(0.05, 0.95, 50)
    expected = [
        (((a + np.linspace(-0.5, 0.5, 20001) * w) % 1) < d).mean() for a, w, d in zip(at, blur, duty, strict=True)
    ]
    found = covered(*(torch.from_numpy(values) for values in (at, blur, duty)))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_far_patterns_melt_into_their_mean() -> None:
    b = Builder()
    stripes = Pattern((0.5, 0.5), (0.5, 1.0), (250.0, 250.0, 250.0))
    b.floor(Material(gain=0.0, colour=(50.0, 50.0, 50.0), pattern=stripes), (0, 0), (4000, 4000), shade=0)
    row = renderer(scene(b)).views().left[0, 0].float()
    assert row[60].std() > 40  # 4.3 m away a stripe is 4.7 px wide
    # 120 m away, 0.17 px; the mean of 50 and 250 over that of the whole
    assert row[33].std() < 8
    assert row[33].mean().item() == pytest.approx(row[50:].mean().item(), rel=0.1)


def _brightness(b: Builder, light: Light) -> np.ndarray:
    world = replace(scene(b, Path(speed=0.0, height=3.0, pitch=-0.5)), light=light)
    return renderer(world).views().left[0].float().mean(0).numpy()


def test_a_box_throws_its_shadow_away_from_the_sun() -> None:
    ground, b = Builder(), Builder()
    for one in (ground, b):
        one.floor(M, (0, 0), (200, 200), shade=0)
    b.box(M, (0, 5.0), (0.8, 1.0, 0.8))
    # The sun stands 45 degrees high at the left: the shadow reaches 1 m to the right, from x = 0.4 to 1.4.
    light = Light(towards=(-math.sqrt(0.5), -math.sqrt(0.5), 0.0), sun=(0.8, 0.8, 0.8), sky=(0.4, 0.4, 0.4))

    def at(picture: np.ndarray, x: float, z: float) -> float:
        down, ahead = 3.0, z  # to the camera: turned down by 0.5 rad
        deep = ahead * math.cos(0.5) + down * math.sin(0.5)
        low = down * math.cos(0.5) - ahead * math.sin(0.5)
        return float(picture[round(32 + 80 * low / deep), round(48 + 80 * x / deep)])

    lit, plain = _brightness(b, light), _brightness(ground, light)
    shaded = at(lit, 1.0, 5.0) / at(lit, 2.6, 5.0)
    # Scattered light 0.4 without, and 0.8 * cos 45 = 0.57 with the sun; darker still beside the box.
    assert 0.25 < shaded < 0.43
    assert at(lit, -2.0, 5.0) == pytest.approx(at(lit, 2.6, 5.0), rel=0.03)
    assert at(lit, 1.0, 3.8) == pytest.approx(at(lit, 2.0, 3.8), rel=0.03)
    assert at(plain, 1.0, 5.0) == pytest.approx(at(plain, 2.6, 5.0), rel=0.03)
    cloudy = _brightness(b, Light(sky=(1.0, 1.0, 1.0)))
    assert at(cloudy, 1.2, 5.0) == pytest.approx(at(cloudy, 2.6, 5.0), rel=0.05)  # 0.8 m beside it
    assert at(cloudy, 0.5, 5.0) < 0.85 * at(cloudy, 2.6, 5.0)  # 0.1 m beside it


def test_a_wet_floor_shows_what_stands_on_it() -> None:
    b = Builder()
    b.floor(Material(gain=0.0, colour=(20.0, 20.0, 20.0), mirror=0.9), (0, 0), (100, 100), shade=0)
    b.wall(Material(gain=0.0, colour=(240.0, 30.0, 30.0)), (0, 6.0), (2.0, 1.0), base=0.5, shade=0)
    picture = renderer(scene(b, Path(speed=0.0, height=1.0))).views().left[0].float().numpy()
    # The wall's image lies 0.5 .. 1.5 m below the floor: 1.5 .. 2.5 m below the eyes, at 6 m.
    red = picture[0] - picture[2]
    assert red[np.arange(HEIGHT) < 32 + 80 * 1.0 / 6][28:32, 48].mean() > 60  # the wall itself
    assert red[53:63, 48].mean() > 60
    assert abs(red[48:51, 48].mean()) < 15  # the floor before and beside it
    assert abs(red[53:63, 10].mean()) < 15


# ---- sizes -----------------------------------------------------------------------------------------------------


def _measured(build, eyes: float, focal: float) -> tuple[float, float, float]:
    """Width, lowest and highest point of a thing 20 m away, m, measured in its picture: pixels * Z / f."""
    b = Builder()
    build(b.place((0.0, 20.0)))
    camera = StereoRig(192, 128, focal, focal, 96.0, 64.0, 96.0, 0.1)
    depth = renderer(scene(b, Path(speed=0.0, height=eyes)), with_rig=camera).views().depth[0, 0].double().numpy()
    seen = np.isfinite(depth)
    x, y = np.meshgrid((np.arange(192) - 96) / focal, (np.arange(128) - 64) / focal)
    across, heights = (x[seen] * depth[seen]), eyes - y[seen] * depth[seen]
    return float(np.ptp(across)), float(heights.min()), float(heights.max())


@pytest.mark.parametrize(
    ("build", "widths", "heights"),
    [
        (lambda b, p: things.car(b, p, 4.2), (1.55, 2.25), (1.38, 1.85)),
        (lambda b, p: things.van(b, p, 5.5), (1.85, 2.1), (2.0, 2.7)),
        (lambda b, p: things.lorry(b, p, 9.0), (2.25, 2.6), (2.9, 3.6)),
        (lambda b, p: things.person(b, p, (0, 0), 0.0), (0.2, 1.6), (0.9, 1.95)),
        (furniture.chair, (0.35, 0.5), (0.78, 1.06)),
        (lambda b, p: furniture.table(b, p, 0.9, 0.6, 0.74), (0.88, 1.1), (0.73, 1.2)),
        (lambda b, p: furniture.shelf(b, p, 1.0, 0.3, 2.0), (0.98, 1.02), (1.98, 2.05)),
        (lambda b, p: furniture.door(b, p, M), (0.9, 1.2), (2.05, 2.2)),
    ],
)
def test_things_have_their_true_sizes(build, widths, heights) -> None:
    large = heights[1] > 2.5
    eyes, focal = (1.8, 600.0) if large else (1.05, 1100.0)
    pixel = 20 / focal
    for seed in range(4):
        sampler = AssetSampler(np.random.default_rng(seed), small_assets())
        width, low, high = _measured(lambda b, sampler=sampler: build(b, sampler), eyes, focal)
        assert widths[0] - 2 * pixel < width < widths[1] + 2 * pixel
        assert -pixel < low < 2 * pixel
        assert heights[0] - 2 * pixel < high < heights[1] + pixel


def test_streets_lie_at_the_height_below_the_camera() -> None:
    """Measured back from depth and pose, most of the lower half of a street's picture is its ground."""
    g = generator("street", seed=4)
    grounds = []
    for index in range(6):
        sample, depth = g.sample(index), g.views([index]).depth[0, 0].double().numpy()
        r, pose = sample.rig, sample.scene.path.pose(0.0)
        x, y = np.meshgrid(np.arange(128), np.arange(64))
        with np.errstate(invalid="ignore"):
            points = np.stack([(x - r.cx) / r.fx * depth, (y - r.cy) / r.fy * depth, depth], -1)
            heights = -(points @ pose[:3, :3].T + pose[:3, 3])[..., 1]
        solid = np.isfinite(depth)
        assert heights[solid].min() > -0.1 and heights[solid].max() < 60
        grounds.append((np.abs(heights[32:]) < 0.2)[solid[32:]].mean())
        assert 0.3 <= -pose[1, 3] <= 2.2
    assert np.mean(grounds) > 0.4
