"""Synthetic pairs: exact geometry in both views, determinism, and the texture atlas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import warp_right_to_left
from fg_depth_ros.synthesis.cameras import CameraPair
from fg_depth_ros.synthesis.layered_scenes import FIELDS, Outline, Scene, set_
from fg_depth_ros.synthesis.stereo import StereoSceneGenerator
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos, procedural_texture

WIDTH, HEIGHT = 192, 96


@pytest.fixture(scope="module")
def atlas():
    return TextureAtlas.build([], patterns=6, size=128, seed=1)


@pytest.fixture(scope="module")
def generator(atlas):
    return StereoSceneGenerator(atlas, WIDTH, HEIGHT, seed=5)


def layer(**values):
    row = np.zeros(len(FIELDS))
    set_(
        row, cx=WIDTH / 2, cy=HEIGHT / 2, ru=1e3, rv=1e3, gain=1.0, tex_scale=1.0, shade_r=128, shade_g=128, shade_b=128
    )
    set_(row, **values)
    return row


def render(generator, monkeypatch, *layers):
    """Exact disparity of the left and (flipped back) right view of a scene given by hand."""
    monkeypatch.setattr(generator.sampler, "draw", lambda rng: Scene(np.stack(layers), 100.0))
    monkeypatch.setattr("fg_depth_ros.synthesis.stereo.CameraPair.draw", _level_camera)
    batch = generator.batch([0], mirrored=True)
    return batch, batch.disparity[0, 0].numpy(), batch.disparity[1, 0].flip(-1).numpy()


def _level_camera(rng, width):
    even = (1.0, 1.0, 1.0)
    return CameraPair((0.3, 0.3), (even, even), (0.0, 0.0), (1.0, 1.0), 0.0, 0.0, False, 0.0, 0.0)


def test_a_slanted_plane_is_exact_in_both_views(generator, monkeypatch):
    # d(x, y) = 20 + 0.25 (x - 96) + 0.1 (y - 48); in the right view x = (x_r + 20 - 24 + 0.1 (y - 48)) / 0.75
    _, left, right = render(generator, monkeypatch, layer(a=40.0, b=0.25, c=0.1))
    xs, ys = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    np.testing.assert_allclose(left, 40 + 0.25 * (xs - 96) + 0.1 * (ys - 48), atol=1e-3)
    x = (xs + 40 - 24 + 0.1 * (ys - 48)) / 0.75
    np.testing.assert_allclose(right, x - xs, atol=1e-3)


def test_a_curved_surface_agrees_between_the_views(generator, monkeypatch):
    _, left, right = render(generator, monkeypatch, layer(a=30.0, wave=4.0, wave_u=0.05, wave_v=0.02))
    xs, ys = np.meshgrid(np.arange(WIDTH, dtype=float), np.arange(HEIGHT, dtype=float))
    x = xs + right  # the left place that the right pixel shows
    expected = 30 + 4 * np.sin(0.05 * (x - 96) + 0.02 * (ys - 48))
    np.testing.assert_allclose(right, expected, atol=0.02)
    np.testing.assert_allclose(left, 30 + 4 * np.sin(0.05 * (xs - 96) + 0.02 * (ys - 48)), atol=1e-3)


def test_a_box_hides_exactly_the_strip_beside_it(generator, monkeypatch):
    box = layer(a=30.0, outline=Outline.ELLIPSE, p=200.0, ru=20.2, rv=20.2)
    batch, left, right = render(generator, monkeypatch, layer(a=10.0), box)
    row = 48
    inside = np.arange(WIDTH)[left[row] == 30]
    assert inside.min() == 76 and inside.max() == 116  # |x - 96| < 20.2
    right_inside = np.arange(WIDTH)[np.isclose(right[row], 30)]
    assert right_inside.min() == 46 and right_inside.max() == 86
    hidden = batch.occluded[0, 0, row].numpy()
    # Background at x lands on x - 10; the box covers 46 .. 86 there, so x = 56 .. 96, of which the box itself shows
    # from 76 on; and x < 10 leaves the image.
    assert hidden[:10].all()
    assert not hidden[11:55].any()
    assert hidden[57:75].all()
    assert not hidden[77:].any()


def test_right_view_warped_by_the_truth_is_the_left_view(generator, monkeypatch):
    """Photo-consistency of everything that is seen by both cameras, on random scenes."""
    monkeypatch.setattr("fg_depth_ros.synthesis.stereo.CameraPair.draw", _level_camera)
    errors = []
    for index in range(8):
        batch = generator.batch([index])
        warped, valid = warp_right_to_left(batch.right.float(), batch.disparity)
        seen = (~batch.occluded & valid.bool()).expand_as(warped)
        errors.append((warped - batch.left.float()).abs()[seen].median().item())
    assert np.median(errors) < 3  # of 255


def test_a_reflection_lies_at_its_own_depth(generator, monkeypatch):
    """A mirror at 20 px that shows a picture at 7 px: the right view, moved by 7 px, is the left one."""
    mirror = layer(a=20.0, gain=0.0, mirror=1.0, mirror_image=1.0, mirror_disparity=7.0)
    batch, left, _ = render(generator, monkeypatch, mirror)
    assert (left == 20).all()
    seen, there = batch.left[0, :, :, 7:].float(), batch.right[0, :, :, :-7].float()
    assert (seen - there).abs().mean() < 4  # noise and rounding
    assert (batch.left[0, :, :, 20:].float() - batch.right[0, :, :, :-20].float()).abs().mean() > 8


def test_samples_depend_on_seed_and_index_alone(atlas):
    first = StereoSceneGenerator(atlas, WIDTH, HEIGHT, seed=5).batch([3, 4])
    again = StereoSceneGenerator(atlas, WIDTH, HEIGHT, seed=5).batch([3])
    other = StereoSceneGenerator(atlas, WIDTH, HEIGHT, seed=6).batch([3])
    assert torch.equal(first.left[:1], again.left)
    assert torch.allclose(first.disparity[:1], again.disparity, atol=1e-4)
    assert not torch.equal(again.left, other.left)


def test_mirrored_samples_are_valid_pairs(generator):
    batch = generator.batch([1, 2], mirrored=True)
    assert batch.left.shape == (4, 3, HEIGHT, WIDTH)
    assert torch.equal(batch.left[2:], batch.right[:2].flip(-1))
    assert torch.equal(batch.right[2:], batch.left[:2].flip(-1))
    assert (batch.disparity >= 0).all()


def test_scenes_are_varied(generator):
    batches = [generator.batch([i]) for i in range(40)]
    largest = np.array([b.disparity.max().item() for b in batches])
    assert largest.min() < 25 and largest.max() > 60  # a wide range of baselines
    hidden = np.array([b.occluded.float().mean().item() for b in batches])
    assert 0.01 < hidden.mean() < 0.4
    flat = [np.abs(np.diff(b.disparity[0, 0].numpy(), axis=1)) for b in batches]
    assert np.mean([(d > 1).mean() > 0.002 for d in flat]) > 0.8  # edges, not planes alone


def test_atlas_interpolates_and_mirrors_at_borders():
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 2, 64, 0).repeat(3, 2)
    atlas = TextureAtlas([ramp], size=64, levels=2)
    points = torch.tensor([0.0, 10.5, 63.0, 64.0, -3.0])
    values = atlas.sample(torch.zeros(5, dtype=torch.int64), points, torch.full((5,), 20.0), torch.ones(5))
    assert torch.allclose(values[:, 0], torch.tensor([0.0, 21.0, 126.0, 124.0, 6.0]))
    coarse = atlas.sample(
        torch.zeros(1, dtype=torch.int64), torch.tensor([10.5]), torch.tensor([20.0]), torch.tensor([2.0])
    )
    assert coarse[0, 0].item() == pytest.approx(21.0, abs=1)


def test_procedural_textures_have_contrast():
    rng = np.random.default_rng(0)
    spread = [procedural_texture(rng, 64).std() for _ in range(30)]
    assert np.median(spread) > 12


def test_photo_folders_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(FileError, match="photo folder .*nowhere does not exist"):
        list_photos([tmp_path / "nowhere"])
    with pytest.raises(FileError, match=f"no photo .* below {tmp_path}"):
        list_photos([tmp_path])
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a photo")
    with pytest.raises(FileError, match=r"broken\.jpg"):
        TextureAtlas.build(list_photos([tmp_path]), patterns=0)
    with pytest.raises(ValueError, match="no picture for the surfaces: give photos or at least one pattern, got 0"):
        TextureAtlas.build([], patterns=0)
