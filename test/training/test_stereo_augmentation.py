"""Augmentation of rendered pairs: disparity stays exact under every change of geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fg_depth_ros.networks.flow import warp
from fg_depth_ros.synthesis.stereo import StereoBatch, StereoSceneGenerator
from fg_depth_ros.synthesis.textures import TextureAtlas
from fg_depth_ros.training.stereo.augmentation import LARGEST_SHIFT, StereoAugmentation

SIZE = (160, 96)
GEOMETRY = {"shifted": 0.0, "unlike": 0.0, "erased": 0.0, "noise": 0.0}


@pytest.fixture(scope="module")
def scene():
    return StereoSceneGenerator(TextureAtlas.build([], 8, size=128), 200, 120, seed=5).batch([0])


def ramp(disparity):
    """Return a pair of a smooth picture that moves by a constant disparity."""
    x = torch.arange(200.0).expand(120, 200)
    y = torch.arange(120.0).view(-1, 1).expand(120, 200)
    views = [(60 + 0.5 * (x + shift) + 0.3 * y).expand(1, 3, -1, -1) for shift in (0.0, disparity)]
    exact = torch.full((1, 1, 120, 200), disparity)
    return StereoBatch(*(view.round().to(torch.uint8) for view in views), exact, torch.zeros(1, 1, 120, 200).bool())


@pytest.mark.parametrize("seed", range(8))
def test_the_right_image_read_at_the_disparity_is_the_left_one(seed):
    augment = StereoAugmentation(*SIZE, misaligned=0.0, **GEOMETRY)
    pair = augment(ramp(12.0), np.random.default_rng(seed))
    assert pair.left.shape == (1, 3, SIZE[1], SIZE[0])
    assert pair.disparity.min() == pair.disparity.max()  # the stretch alone
    flow = torch.cat([-pair.disparity, torch.zeros_like(pair.disparity)], 1)
    seen = warp(pair.right.float(), flow)
    difference = (seen - pair.left.float()).abs()[~pair.occluded.expand(-1, 3, -1, -1)]
    assert difference.mean() < 1.0  # grey levels; a pixel of error in disparity is worth 0.5 / scale of them


def test_a_shifted_pair_has_larger_disparities_that_are_still_exact():
    same = StereoAugmentation(*SIZE, misaligned=0.0, **GEOMETRY)
    moved = StereoAugmentation(*SIZE, misaligned=0.0, **GEOMETRY | {"shifted": 1.0})
    shifts = []
    for seed in range(12):
        before, after = (a(ramp(12.0), np.random.default_rng(seed)) for a in (same, moved))
        assert torch.equal(before.left, after.left)
        shifts.append(float((after.disparity - before.disparity).mean()))
        flow = torch.cat([-after.disparity, torch.zeros_like(after.disparity)], 1)
        seen = warp(after.right.float(), flow)
        assert (seen - after.left.float()).abs()[~after.occluded.expand(-1, 3, -1, -1)].mean() < 1.0  # as unshifted
    assert 0 <= min(shifts) < 12
    assert 36 < max(shifts) <= LARGEST_SHIFT


@pytest.mark.parametrize("seed", range(4))
def test_a_slanted_surface_stays_smooth_and_its_edge_sharp(seed):
    """A ground of 0.6 px a row, and a box in front of it: no disparity between the two, no steps on the ground."""
    y = torch.arange(120.0).view(-1, 1).expand(120, 200)
    exact = (5 + 0.6 * y)[None, None].clone()
    exact[..., 20:60, 60:140] = 90.0
    image = torch.zeros(1, 3, 120, 200, dtype=torch.uint8)
    pair = StereoBatch(image, image, exact, torch.zeros(1, 1, 120, 200).bool())
    found = StereoAugmentation(*SIZE, misaligned=0.0, **GEOMETRY)(pair, np.random.default_rng(seed)).disparity[0, 0]
    box = found > found.max() - 1e-3
    assert (found[box.any(1)][:, box.any(0)] == found.max()).float().mean() > 0.99
    beside = ~box.any(0).roll(2) & ~box.any(0).roll(-2)
    ground = found[:, beside].numpy()
    assert np.ptp(ground, 1).max() < 0.02
    assert np.abs(np.diff(ground[:, 0], 2)).max() < 0.03  # OpenCV reads at 1/32 px


def test_sizes_change_between_uses(scene):
    augment = StereoAugmentation(*SIZE, **GEOMETRY)
    factors = [float(augment(ramp(12.0), np.random.default_rng(seed)).disparity[0, 0, 0, 0]) / 12 for seed in range(40)]
    assert 0.7 < min(factors) < 0.95 < 1.2 < max(factors) < 1.5


def test_a_misaligned_right_camera_sees_other_rows():
    pair = ramp(0.0)
    aligned = StereoAugmentation(*SIZE, misaligned=0.0, **GEOMETRY)
    askew = StereoAugmentation(*SIZE, misaligned=1.0, **GEOMETRY)
    shifts = []
    for seed in range(12):
        same, other = aligned(pair, np.random.default_rng(seed)), askew(pair, np.random.default_rng(seed))
        assert torch.equal(same.left, same.right)
        shifts.append(float((other.right.float() - other.left.float()).abs().mean()))
    assert max(shifts) > 0.1
    assert max(shifts) < 2.5  # two rows of 0.3 grey levels each, scaled, and the recolouring of both


def test_patches_are_erased_in_the_right_image_alone(scene):
    kept = StereoAugmentation(*SIZE, unlike=0.0, erased=0.0)(scene, np.random.default_rng(1))
    painted = StereoAugmentation(*SIZE, unlike=0.0, erased=1.0)(scene, np.random.default_rng(1))
    assert torch.equal(kept.left, painted.left)
    changed = (kept.right != painted.right).any(1).float().mean()
    assert 0.02 < changed < 0.95
    assert torch.equal(kept.disparity, painted.disparity)  # an answer is wanted there too


def test_cameras_may_be_unlike(scene):
    alike = StereoAugmentation(*SIZE, misaligned=0.0, **GEOMETRY)
    unlike = StereoAugmentation(*SIZE, misaligned=0.0, **GEOMETRY | {"unlike": 1.0})
    pair = StereoBatch(scene.left, scene.left, scene.disparity, scene.occluded)
    for seed in range(4):
        same, other = alike(pair, np.random.default_rng(seed)), unlike(pair, np.random.default_rng(seed))
        assert torch.equal(same.left, same.right)
        assert not torch.equal(other.left, other.right)


def test_each_camera_has_noise_of_its_own():
    flat = torch.full((1, 3, 200, 200), 120, dtype=torch.uint8)
    pair = StereoBatch(flat, flat, torch.full((1, 1, 200, 200), 5.0), torch.zeros(1, 1, 200, 200).bool())
    augment = StereoAugmentation(*SIZE, misaligned=0.0, **GEOMETRY | {"noise": 3.0})
    for seed in range(4):
        seen = augment(pair, np.random.default_rng(seed))
        noise = [view.float() - view.float().mean((2, 3), keepdim=True) for view in (seen.left, seen.right)]
        deviations = [float(view.std()) for view in noise]
        assert 0.1 < min(deviations) <= max(deviations) < 3.2
        assert abs(float((noise[0] * noise[1]).mean())) < 0.05 * deviations[0] * deviations[1]
        assert abs(float(seen.left.float().mean() - seen.right.float().mean())) < 0.05


def test_no_exposure_is_drawn_that_clips_most_of_a_picture(scene):
    bright = torch.full((1, 3, 200, 200), 235, dtype=torch.uint8)
    pair = StereoBatch(bright, bright, torch.full((1, 1, 200, 200), 5.0), torch.zeros(1, 1, 200, 200).bool())
    augment = StereoAugmentation(*SIZE, **GEOMETRY | {"unlike": 1.0})
    for seed in range(12):
        seen = augment(pair, np.random.default_rng(seed))
        assert max(float((view[:, 1] == 255).float().mean()) for view in seen[:2]) <= 0.1


def test_what_the_cut_moves_out_of_the_right_image_is_occluded():
    pair = StereoAugmentation(*SIZE, misaligned=0.0, **GEOMETRY)(ramp(20.0), np.random.default_rng(0))
    reach = float(pair.disparity[0, 0, 0, 0])
    columns = np.flatnonzero(pair.occluded[0, 0, 10].numpy())
    assert columns.tolist() == list(range(int(np.ceil(reach))))


def test_the_same_generator_gives_the_same_pair(scene):
    augment = StereoAugmentation(*SIZE)
    first, second = (augment(scene, np.random.default_rng(9)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
