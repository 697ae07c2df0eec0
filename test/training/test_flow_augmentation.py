"""Augmentation of flow pairs against analytic motions: what is transformed must stay true."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning")

from fg_depth_ros.synthesis.chairs import FlowBatch
from fg_depth_ros.training.flow.augmentation import AugmentedFlowBatch, Augmenter, blur, cover, transform
from fg_depth_ros.training.flow.config import AUGMENTATIONS, FlowAugmentation

SIZE = (96, 128)  # height, width
# The second frame sees the first one's point x at M x.
MOTION = np.array([[1.05, -0.08, 3.0], [0.06, 0.97, -5.0], [0, 0, 1]])


def affine_flow(motion, height, width):
    """The flow of an affine motion, written out."""
    ys, xs = np.mgrid[:height, :width].astype(np.float64)
    u = motion[0, 0] * xs + motion[0, 1] * ys + motion[0, 2] - xs
    v = motion[1, 0] * xs + motion[1, 1] * ys + motion[1, 2] - ys
    return np.stack([u, v])


def coordinates_batch(flow, valid=None, occluded=None):
    """Frames whose red and green say where a pixel lies (px / 255), so that a window can be read off its answer."""
    _, height, width = flow.shape
    ys, xs = np.mgrid[:height, :width]
    frame = np.stack([xs, ys, np.full_like(xs, 100)]).astype(np.uint8)
    frame = torch.from_numpy(frame)[None]
    true = torch.ones((1, 1, height, width), dtype=torch.bool)
    valid = true if valid is None else valid
    occluded = ~true if occluded is None else occluded
    return FlowBatch(frame, frame.clone(), torch.from_numpy(flow).float()[None], valid, occluded)


def window(scale=1.0, degrees=0.0, shift=(0.0, 0.0)):
    angle = np.radians(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    middle = (np.array(SIZE[::-1]) - 1) / 2
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle + shift - linear @ middle
    return matrix


def test_ranges_and_sizes_that_cannot_be_are_named():
    with pytest.raises(ValueError, match=r"scale must be a range .* got \(2.0, 1.0\)"):
        FlowAugmentation(scale=(2.0, 1.0))
    with pytest.raises(ValueError, match="erase is a probability, got 1.5"):
        FlowAugmentation(erase=1.5)
    with pytest.raises(ValueError, match="blur is a probability, got -1"):
        FlowAugmentation(blur=-1)
    with pytest.raises(ValueError, match="weakest is a part of the strength, above 0 and up to 1, got 0"):
        FlowAugmentation(weakest=0)
    with pytest.raises(ValueError, match="deformation must be between 0 and 6 px, got 7"):
        FlowAugmentation(deformation=7)
    batch = coordinates_batch(np.zeros((2, 40, 60)))
    with pytest.raises(ValueError, match="pictures of 60x40 are smaller than 64x32"):
        Augmenter(AUGMENTATIONS["paper"], 64, 32)(batch, [0])


def test_an_affine_flow_stays_exact_under_any_two_windows():
    """With windows A and B the motion M becomes B^-1 M A."""
    a, b = window(1.4, 12.0, (6.0, -4.0)), window(1.33, 9.5, (3.5, -1.0))
    pairs = transform(coordinates_batch(affine_flow(MOTION, *SIZE)), a[None], b[None], SIZE)
    expected = affine_flow(np.linalg.inv(b) @ MOTION @ a, *SIZE)
    error = np.abs(pairs.flow[0].numpy() - expected)
    assert pairs.valid.all()
    assert error.max() < 1e-3


def test_the_frames_show_what_the_flow_says():
    """Both frames hold their old coordinates as colours: those of matches must differ by the old flow."""
    a, b = window(1.4, 12.0, (6.0, -4.0)), window(1.33, 9.5, (3.5, -1.0))
    batch = coordinates_batch(affine_flow(MOTION, *SIZE))
    pairs = transform(batch, a[None], b[None], SIZE)
    y, x = 40, 70
    u, v = pairs.flow[0, :, y, x].tolist()
    old_first = 255 * pairs.first[0, :2, y, x].numpy()
    np.testing.assert_allclose(old_first, (a @ [x, y, 1])[:2], atol=1e-3)
    read = torch.nn.functional.grid_sample(
        pairs.second,
        torch.tensor([[[[2 * (x + u) / (SIZE[1] - 1) - 1, 2 * (y + v) / (SIZE[0] - 1) - 1]]]]),
        align_corners=True,
    )
    old_second = 255 * read[0, :2, 0, 0].numpy()
    np.testing.assert_allclose(old_second, (MOTION @ [*old_first, 1])[:2], atol=1e-2)


def test_a_deformed_frame_shows_what_the_flow_says():
    """Coordinates as colours again, at every pixel whose match is in the frame."""
    a, b = window(1.4, 12.0, (6.0, -4.0)), window(1.33, 9.5, (3.5, -1.0))
    batch = coordinates_batch(affine_flow(MOTION, *SIZE))
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    field = np.stack([3 * np.sin(ys / 20), 2 * np.cos(xs / 25)]).astype(np.float32)
    plain, pairs = (transform(batch, a[None], b[None], SIZE, fields) for fields in ((), [field]))
    assert (plain.flow - pairs.flow).abs().max() > 2.5
    grid = pairs.flow[0] + torch.from_numpy(np.stack([xs, ys]))
    span = torch.tensor([SIZE[1] - 1, SIZE[0] - 1]).view(2, 1, 1)
    read = torch.nn.functional.grid_sample(
        pairs.second, (2 * grid / span - 1).permute(1, 2, 0)[None], align_corners=True
    )
    first, second = (255 * frame[0, :2].numpy() for frame in (pairs.first, read))
    expected = np.einsum("ij,jhw->ihw", MOTION, np.stack([*first, np.ones(SIZE)]))[:2]
    inside = ((grid >= 1) & (grid <= span - 1)).all(0)  # the border of a frame mixes with nothing
    shown = ((expected >= 1) & (expected <= np.array(SIZE[::-1]).reshape(2, 1, 1) - 2)).all(0)
    seen = (inside & ~pairs.occluded[0, 0]).numpy() & shown
    assert seen.mean() > 0.5
    assert np.abs(second - expected)[:, seen].max() < 0.05


def test_weak_transforms_leave_small_motions():
    """In a still scene most pixels move by several with the paper's strength, many by less than one with the wide."""
    still = coordinates_batch(np.zeros((2, 160, 200)))

    def moved(name):
        augmenter = Augmenter(AUGMENTATIONS[name], 112, 96)
        flow = torch.cat([augmenter(still, [number]).flow for number in range(40)])
        return float((flow.square().sum(1).sqrt() < 1).float().mean())

    assert moved("paper") < 0.15
    assert moved("wide") > 0.3


def test_no_motion_is_invented_at_an_edge():
    """Left half still, right half 12 px to the right: every answer is one of the two motions."""
    flow = np.zeros((2, *SIZE))
    flow[0, :, SIZE[1] // 2 :] = 12.0
    a = window(1.7, 0.0, (0.3, 0.2))
    pairs = transform(coordinates_batch(flow), a[None], a[None], SIZE)
    u = pairs.flow[0, 0].numpy()
    near = np.minimum(np.abs(u), np.abs(u - 1.7 * 12.0))
    assert near.max() < 1e-3
    columns = (a @ np.stack([np.arange(SIZE[1]), np.zeros(SIZE[1]), np.ones(SIZE[1])]))[0]
    np.testing.assert_array_equal(u[5] > 10, np.rint(columns) >= SIZE[1] // 2)


def test_what_is_unknown_or_leaves_is_marked():
    flow = np.full((2, *SIZE), np.nan)
    flow[:, :, :100] = 0.0
    flow[0, 20, 10] = -30.0  # leaves the old picture
    flow[0, 50, 50] = 60.0  # stays in it
    valid = torch.from_numpy(np.isfinite(flow).all(0))[None, None]
    occluded = torch.zeros_like(valid)
    occluded[..., 7, 9] = True
    shifted = window(shift=(10.0, 0.0))
    pairs = transform(coordinates_batch(flow, valid, occluded), shifted[None], shifted[None], SIZE)
    assert pairs.valid[0, 0, :, :90].all()
    assert not pairs.valid[0, 0, :, 90:].any()
    assert (pairs.flow[0, :, :, 90:] == 0).all()  # no NaN may reach a loss
    hidden = [tuple(p) for p in pairs.occluded[0, 0].nonzero().tolist()]
    # (20, 0): its match leaves; (50, 40) moves to 100 within both frames. Column 9 of row 7 was cut off by the shift.
    assert hidden == [(20, 0)]
    back = transform(coordinates_batch(flow, valid, occluded), np.eye(3)[None], shifted[None], SIZE)
    expected = np.zeros(SIZE, bool)
    expected[:, :10] = True  # the second frame's window begins ten columns later
    expected[20, 10] = expected[50, 50] = False
    expected[20, 10] = True
    np.testing.assert_array_equal(back.occluded[0, 0].numpy(), expected & valid[0, 0].numpy())


def test_a_sample_is_the_same_in_any_batch():
    batch = coordinates_batch(affine_flow(MOTION, 96, 128))
    twice = FlowBatch(*(torch.cat([field, field]) for field in batch))
    augmenter = Augmenter(
        FlowAugmentation(erase=0.5, mirror=0.5, blur=0.5, weakest=0.1, deformation=2.0), 64, 48, seed=3
    )
    alone = [augmenter(batch, [n]) for n in (5, 9)]
    together = augmenter(twice, [5, 9])
    for i, single in enumerate(alone):
        for one, all_of_them in zip(single, together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[i], rtol=0, atol=1e-6)
    assert (alone[0].first - alone[1].first).abs().max() > 0.1
    other_seed = Augmenter(
        FlowAugmentation(erase=0.5, mirror=0.5, blur=0.5, weakest=0.1, deformation=2.0), 64, 48, seed=4
    )(batch, [5])
    assert (alone[0].first - other_seed.first).abs().max() > 0.1


def test_the_window_never_leaves_the_picture_and_spans_the_ranges():
    """The first window is read off a frame that holds its coordinates, the other off a still scene's flow."""
    quiet = FlowAugmentation(noise=0, contrast=(0, 0), colour=(1, 1), gamma=(1, 1), brightness=0)
    augmenter = Augmenter(quiet, 112, 80, seed=1)
    batch = coordinates_batch(np.zeros((2, 96, 128)))
    scales, angles, relative = [], [], []
    for number in range(300):
        pairs = augmenter(batch, [number])
        maps = []
        for field in (255 * pairs.first[0, :2].double(), pairs.flow[0].double()):
            across, down = (field[:, 40, 80] - field[:, 40, 30]) / 50, (field[:, 60, 50] - field[:, 20, 50]) / 40
            torch.testing.assert_close(across[0], down[1], atol=2e-3, rtol=0)  # turned and scaled, not sheared
            torch.testing.assert_close(across[1], -down[0], atol=2e-3, rtol=0)
            maps.append(complex(*across))
        scales.append(1 / abs(maps[0]))
        angles.append(np.degrees(np.angle(maps[0])))
        relative.append(1 + maps[1])
        assert pairs.valid.all()  # the whole first window lies in the picture
    assert 0.9 <= min(scales) < 1.0 and 1.9 < max(scales) <= 2.0 + 1e-2
    assert -17.1 < min(angles) < -14 and 14 < max(angles) < 17.1
    logs = np.log(relative)
    assert 0.015 < np.std(logs.real) < 0.035 and 0.015 < np.std(logs.imag) < 0.035  # 3 %, less where there is no room


def test_the_colours_change_as_drawn():
    """A grey frame under one effect at a time."""
    still = {"translation": 0, "rotation": 0, "scale": (1, 1), "relative": 0}
    plain = {"noise": 0.0, "contrast": (0, 0), "colour": (1, 1), "gamma": (1, 1), "brightness": 0.0}
    flow = np.zeros((2, 64, 64))
    batch = coordinates_batch(flow)._replace(first=torch.full((1, 3, 64, 64), 102, dtype=torch.uint8))  # 0.4

    def values(number=0, **changed):
        return Augmenter(FlowAugmentation(**still, **{**plain, **changed}), 64, 64)(batch, [number]).first[0]

    torch.testing.assert_close(values(), torch.full((3, 64, 64), 0.4))
    torch.testing.assert_close(values(gamma=(1.5, 1.5)), torch.full((3, 64, 64), 0.4**1.5))
    torch.testing.assert_close(values(colour=(0.5, 0.5)), torch.full((3, 64, 64), 0.2))
    torch.testing.assert_close(values(contrast=(-0.8, -0.8)), torch.full((3, 64, 64), 0.5 - 0.1 * np.exp(-0.8)))
    noises = torch.stack([values(n, noise=0.04) for n in range(40)])
    deviations = noises.flatten(1).std(1)
    assert 0.03 < deviations.max() < 0.042 and deviations.min() < 0.01
    brightness = torch.stack([values(n, brightness=0.2)[0, 0, 0] for n in range(200)]) - 0.4
    assert 0.15 < brightness.std() < 0.25  # clipped at black on one side
    gains = torch.stack([values(n, colour=(0.5, 2.0))[:, 0, 0] for n in range(100)]) / 0.4
    assert 0.5 <= gains.min() < 0.55 and 1.8 < gains.max() <= 2.0
    assert (gains.std(1) > 0.01).all()  # each channel its own


def test_without_augmentation_the_middle_is_cut_out_unchanged():
    batch = coordinates_batch(affine_flow(MOTION, *SIZE))
    pairs = Augmenter(AUGMENTATIONS["none"], 64, 33)(batch, [7])
    x, y = (128 - 64) // 2, (96 - 33) // 2
    expected = batch.first[..., y : y + 33, x : x + 64].float() / 255
    torch.testing.assert_close(pairs.first, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(pairs.flow, batch.flow[..., y : y + 33, x : x + 64], rtol=0, atol=1e-4)


def test_mirrored_frames_have_mirrored_flow():
    flow = np.zeros((2, 64, 64))
    flow[0], flow[1] = 5.0, 2.0
    mirrored = {name: getattr(AUGMENTATIONS["none"], name) for name in AUGMENTATIONS["none"].__dataclass_fields__}
    pairs = Augmenter(FlowAugmentation(**{**mirrored, "mirror": 1.0}), 64, 64)(coordinates_batch(flow), [0])
    torch.testing.assert_close(pairs.flow[0, :, 30, 30], torch.tensor([-5.0, 2.0]))
    assert round(255 * pairs.first[0, 0, 0, 0].item()) == 63


def test_blur_spreads_an_edge_over_the_way_of_the_exposure():
    edge = (torch.arange(64) >= 32).float().expand(1, 3, 48, 64)
    flow = torch.zeros(1, 2, 48, 64)
    flow[:, 0] = 24.0
    known = torch.ones(1, 1, 48, 64, dtype=torch.bool)
    pairs = AugmentedFlowBatch(edge, edge.clone(), flow, known, ~known)
    sharp, blurred = blur(pairs, [0.0]), blur(pairs, [0.5])
    torch.testing.assert_close(sharp.first, edge)
    row = blurred.first[0, 0, 20]
    # Twelve pixels: six before and six behind the edge see some of both sides, more and more.
    assert row[:26].max() == 0 and row[38:].min() == pytest.approx(1)
    assert (row[26:38].diff() >= 0).all() and row[28] > 0 and row[35] < 1
    torch.testing.assert_close(blurred.second, blurred.first)


def test_covered_patches_are_flat_and_count_as_occluded():
    flow = np.zeros((2, *SIZE))
    flow[0] = 10.0
    none = transform(coordinates_batch(flow), np.eye(3)[None], np.eye(3)[None], SIZE)
    pairs = cover(none, [[(40, 20, 8, 5)]])
    mean = none.second[0].mean((1, 2))
    torch.testing.assert_close(pairs.second[0, :, 20:25, 40:48], mean.view(3, 1, 1).expand(3, 5, 8))
    torch.testing.assert_close(pairs.first, none.first)
    newly = (pairs.occluded & ~none.occluded)[0, 0]
    assert newly.sum() == 40 and newly[20:25, 30:38].all()  # ten pixels to the left in the first frame
    torch.testing.assert_close(pairs.flow, none.flow)
