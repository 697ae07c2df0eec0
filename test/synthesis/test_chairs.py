"""Rendered pairs: exact flow and occlusion by hand and against a naive rendering, edges, and whole batches."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from support.chairs import HEIGHT, WIDTH, small_atlas, small_cutouts, small_generator

from fg_depth_ros.networks.flow import warp
from fg_depth_ros.synthesis.affine_motion import about, shifted, stretched
from fg_depth_ros.synthesis.chairs import ChairsGenerator
from fg_depth_ros.synthesis.chairs_scenes import Layer
from fg_depth_ros.synthesis.cutouts import CutoutAtlas


@pytest.fixture(scope="module")
def atlas():
    return small_atlas()


@pytest.fixture(scope="module")
def cutouts():
    return small_cutouts()


@pytest.fixture(scope="module")
def generator():
    return small_generator()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backgrounds": 7}, "backgrounds are 7 of 6 photos"),
        ({"backgrounds": 0}, "backgrounds are 0 of 6 photos"),
        ({"width": 0}, "frames of 0x384 pixels"),
        ({"extras": -1}, "extras is -1"),
    ],
)
def test_a_generator_that_cannot_work_says_why(atlas, cutouts, options, message):
    with pytest.raises(ValueError, match=message):
        ChairsGenerator(atlas, cutouts, **options)


# ---- geometry --------------------------------------------------------------------------------------------------

FLAT = {"own_colour": False, "gain": 0.0, "shade": (0.0, 0.0, 0.0), "image": 0}


def square(x0, y0, side, motion, shade=0.0):
    """A flat square that covers pixels x0 .. x0 + side - 1; mask 0 fills its unit square."""
    # The area of the pixel x reaches from x - 1/2 to x + 1/2.
    to_mask = stretched(1 / side, 1 / side) @ shifted(0.5 - x0, 0.5 - y0)
    return Layer(motion, np.eye(3), to_mask=to_mask, mask=0, **{**FLAT, "shade": (shade,) * 3})


def ground(motion, shade=0.0):
    return Layer(motion, np.eye(3) / 128, to_mask=np.eye(3), mask=-1, **{**FLAT, "shade": (shade,) * 3})


@pytest.fixture
def render(atlas, monkeypatch):
    """Renders a scene given by hand. The only mask is full but for its outermost texels."""
    full = np.full((64, 64), 255, np.uint8)

    def call(*layers, width=WIDTH, height=HEIGHT):
        generator = ChairsGenerator(atlas, CutoutAtlas([], [full]), width, height)
        monkeypatch.setattr(generator, "scene", lambda index: list(layers))
        return generator.batch([0])

    return call


def test_flow_and_occlusion_of_a_square_by_hand(render):
    # The world moves by (-3, 0); a square on 40 .. 59 moves by (10, 4) to 50 .. 69, rows 30 .. 49 to 34 .. 53.
    batch = render(ground(shifted(-3, 0)), square(40, 30, 20, shifted(10, 4)))
    assert batch.flow.dtype == torch.float32 and batch.flow.shape == (1, 2, HEIGHT, WIDTH)
    inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    inside[30:50, 40:60] = True
    expected = torch.where(inside, torch.tensor([10.0, 4.0]).view(2, 1, 1), torch.tensor([-3.0, 0.0]).view(2, 1, 1))
    torch.testing.assert_close(batch.flow[0], expected, atol=1e-5, rtol=0)
    # Of the background, x - 3 within 50 .. 69 and y within 34 .. 53 gets hidden, unless the square hides it already;
    # x < 3 leaves the picture.
    hidden = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    hidden[34:54, 53:73] = True
    hidden[30:50, 40:60] = False
    hidden[:, :3] = True
    torch.testing.assert_close(batch.occluded[0, 0], hidden)
    assert batch.valid.all() and batch.valid.shape == (1, 1, HEIGHT, WIDTH)


def test_the_topmost_piece_is_seen_and_hides_the_lower_one(render):
    low, high = square(20, 20, 30, shifted(0, 0)), square(60, 20, 30, shifted(-30, 0))
    batch = render(ground(np.eye(3)), low, high)
    row = 30
    np.testing.assert_array_equal(batch.flow[0, 0, row, 60:90], -30)
    np.testing.assert_array_equal(batch.flow[0, 0, row, 20:50], 0)
    # The upper square comes to 30 .. 59 and covers the lower one from 30 to 49, and bare background from 50 to 59.
    assert np.flatnonzero(batch.occluded[0, 0, row].numpy()).tolist() == list(range(30, 60))
    swapped = render(ground(np.eye(3)), high, low)
    # Beneath, it hides background alone; its own part behind the lower square (x - 30 in 20 .. 49) is not seen.
    assert np.flatnonzero(swapped.occluded[0, 0, row].numpy()).tolist() == list(range(50, 80))


def test_flow_is_the_affine_map_to_a_thousandth_of_a_pixel(render):
    world = about((200.0, -40.0), 0.1, 1.05, (7.3, -2.1))
    chair = about((70.0, 40.0), -0.4, 0.9, (-11.7, 5.2))
    batch = render(ground(world), square(40, 20, 50, chair))
    for x, y, motion in ((3, 4, world), (120, 90, world), (45, 25, chair), (80, 66, chair)):
        there = motion @ [x, y, 1]
        np.testing.assert_allclose(batch.flow[0, :, y, x], there[:2] - [x, y], atol=1e-3)


def test_edges_mix_colours_by_the_covered_area(render):
    # Shades: background 128 - 100, square 128 + 100; its left edge cuts column 40 at a quarter, the upper one row 30.
    layer = square(40, 30, 20, shifted(0.5, 0), shade=100.0)
    layer = replace(layer, to_mask=layer.to_mask @ shifted(-0.25, -0.5))
    batch = render(ground(np.eye(3), shade=-100.0), layer)
    image = batch.first[0, 0].float()
    assert image[40, 39] == 28 and image[40, 41] == 228
    assert image[40, 40] == pytest.approx(28 + 0.75 * 200, abs=1)
    assert image[40, 60] == pytest.approx(28 + 0.25 * 200, abs=1)
    assert image[30, 45] == pytest.approx(28 + 0.5 * 200, abs=1)
    # In the second frame it lies half a pixel further right: column 40 is covered by a quarter.
    assert batch.second[0, 0, 40, 40].item() == pytest.approx(28 + 0.25 * 200, abs=1)
    # What is seen is what covers half or more.
    row = batch.flow[0, 0, 40].numpy()
    assert np.flatnonzero(row == 0.5).tolist() == list(range(40, 60))


def test_magnified_edges_stay_one_pixel_wide(atlas, monkeypatch):
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    generator = ChairsGenerator(atlas, CutoutAtlas([], [mask]), 512, 384)
    layer = replace(square(0, 0, 320, np.eye(3), shade=100.0))  # five pixels per texel
    monkeypatch.setattr(generator, "scene", lambda index: [ground(np.eye(3), shade=-100.0), layer])
    row = generator.batch([0]).first[0, 0, 160].float()
    mixed = np.flatnonzero((row > 30) & (row < 226))
    assert len(mixed) <= 4  # two edges
    assert (row > 128).sum() == pytest.approx(160, abs=1)


# ---- whole scenes ----------------------------------------------------------------------------------------------


def naive_pair(generator, index):
    """Topmost layer of both frames and the flow, pixel by pixel, from the masks' finest texels."""
    scene = generator.scene(index)
    size, stride = generator.cutouts.size, generator.cutouts.stride
    masks = generator.cutouts.masks.view(-1, stride)[:, : size * size].view(-1, size, size).numpy()
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    places = np.stack([xs.ravel(), ys.ravel(), np.ones(xs.size)])
    labels = []
    for second in (False, True):
        label = np.zeros(xs.size, int)
        for k, layer in enumerate(scene[1:], 1):
            u, v, _ = layer.to_mask @ (np.linalg.inv(layer.motion) if second else np.eye(3)) @ places
            within = (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
            value = masks[layer.mask, (v.clip(0, 0.999) * size).astype(int), (u.clip(0, 0.999) * size).astype(int)]
            label[within & (value >= 128)] = k
        labels.append(label.reshape(HEIGHT, WIDTH))
    there = np.einsum("nij,jn->in", np.array([p.motion for p in scene])[labels[0].ravel()], places)
    return labels, (there - places)[:2].reshape(2, HEIGHT, WIDTH)


def test_random_scenes_agree_with_a_naive_rendering(generator):
    for index in range(6):
        batch = generator.batch([index])
        (first, second), flow = naive_pair(generator, index)
        wrong = np.abs(batch.flow[0].numpy() - flow).max(0) > 1e-3
        # Masks are filtered before they are compared with one half: edges may differ by two pixels, and what is
        # thinner than that may be there or not; nothing else.
        rendered = np.abs(np.diff(batch.flow[0].numpy(), axis=2, prepend=0)).max(0) > 0.3
        changes = (np.diff(first, axis=1, prepend=first[:, :1]) != 0) | (np.diff(first, axis=0, prepend=first[:1]) != 0)
        edges = cv2.dilate((changes | rendered).astype(np.uint8), np.ones((5, 5))).astype(bool)
        assert edges.mean() < 0.6
        assert not wrong[~edges].any()
        assert wrong.mean() < 0.03
        x = np.rint(np.arange(WIDTH) + flow[0]).astype(int)
        y = np.rint(np.arange(HEIGHT)[:, None] + flow[1]).astype(int)
        outside = (x < 0) | (x >= WIDTH) | (y < 0) | (y >= HEIGHT)
        hidden = outside | (second[y.clip(0, HEIGHT - 1), x.clip(0, WIDTH - 1)] > first)
        assert (batch.occluded[0, 0].numpy() != hidden)[~wrong].mean() < 0.03


def test_the_second_frame_warped_back_is_the_first_one(generator):
    """Photo-consistency of what both frames show; warped the wrong way it is not there."""
    right, wrong = [], []
    for index in range(10):
        batch = generator.batch([index])
        seen = ~batch.occluded[:, 0]
        first, second = batch.first.float(), batch.second.float()
        right.append((warp(second, batch.flow) - first).abs().mean(1)[seen].median().item())
        wrong.append((warp(second, -batch.flow) - first).abs().mean(1)[seen].median().item())
    assert np.median(right) < 3  # of 255
    assert np.median(wrong) > 4 * np.median(right)


def test_hidden_pixels_are_those_that_do_not_fit(generator):
    seen_error, hidden_error = [], []
    for index in range(10):
        batch = generator.batch([index])
        error = (warp(batch.second.float(), batch.flow) - batch.first.float()).abs().mean(1)
        hidden = batch.occluded[:, 0]
        seen_error.append(error[~hidden].mean().item())
        hidden_error.append(error[hidden].mean().item() if hidden.any() else np.nan)
    assert np.nanmean(hidden_error) > 4 * np.mean(seen_error)


def test_pairs_depend_on_seed_and_number_alone(generator, atlas, cutouts):
    first = generator.batch([3, 4])
    again = ChairsGenerator(atlas, cutouts, WIDTH, HEIGHT, seed=5).batch([4])
    other = ChairsGenerator(atlas, cutouts, WIDTH, HEIGHT, seed=6).batch([4])
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one[1:], two)
    assert not torch.equal(again.first, other.first)
    assert not torch.equal(first.first[0], first.first[1])


def test_a_batch_rendered_at_once_is_the_pairs_rendered_alone(generator):
    """The way of a GPU: whole frames, images of several mip levels and scenes of several lengths in one batch."""
    numbers = range(5)
    together = generator._render([generator.scene(i) for i in numbers])
    alone = generator.batch(numbers)
    torch.testing.assert_close(together.flow, alone.flow, atol=1e-3, rtol=0)
    assert (together.occluded == alone.occluded).float().mean() > 0.9999
    for a, b in ((together.first, alone.first), (together.second, alone.second)):
        assert ((a.int() - b.int()).abs() > 1).float().mean() < 1e-4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_renders_the_same_pairs(generator):
    on_gpu = small_generator(device="cuda").batch(range(4))
    here = generator.batch(range(4))
    assert ((on_gpu.flow.cpu() - here.flow).abs() > 1e-3).float().mean() < 1e-3
    assert ((on_gpu.first.cpu().int() - here.first.int()).abs() > 2).float().mean() < 1e-3


def test_a_smaller_picture_shows_the_same_scene(atlas, cutouts):
    large = ChairsGenerator(atlas, cutouts, 128, 96, seed=5).batch([0, 1, 2]).flow
    small = ChairsGenerator(atlas, cutouts, 64, 48, seed=5).batch([0, 1, 2]).flow
    shrunk = torch.nn.functional.avg_pool2d(large, 2) / 2
    assert (shrunk - small).abs().median() < 0.05
    assert ((shrunk - small).norm(dim=1) < 0.5).float().mean() > 0.85
