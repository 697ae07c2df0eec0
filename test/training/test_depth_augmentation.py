"""Zoom, flips, colour jitter and grafting on batches in which every value tells which sample and row it comes from."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch

from fg_depth_ros.networks.depth import DepthPrediction
from fg_depth_ros.training.depth.augmentation import SHARES, augment, flip, graft, jitter_colours, zoom
from fg_depth_ros.training.depth.batch import DistillBatch
from fg_depth_ros.training.depth.config import ColourJitter, DepthLossConfig
from fg_depth_ros.training.depth.losses import depth_loss

H, W = 10, 6


def marked(n, signs=None):
    """Sample i, row y, column x: i + y / 100 + x / 10,000 in every picture, each with an offset of its own."""
    sample = torch.arange(float(n)).view(n, 1, 1, 1)
    value = sample + torch.arange(H).view(H, 1) / 100 + torch.arange(W) / 10_000
    signs = torch.ones(n) if signs is None else torch.tensor(signs)
    offset = 10 * torch.arange(3.0).view(3, 1, 1)
    return DistillBatch(
        target=value + offset, source=value + offset + 100, seen=value + offset + 200, disparity=value + 300,
        mask=(sample + torch.arange(H).view(H, 1) + torch.arange(W)) % 3 == 0,
        focal=500 + 10 * torch.arange(float(n)), baseline=signs * (0.1 + torch.arange(float(n)) / 100),
        truth=value + 400,
    )  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def origin(batch):
    """Sample and row that every row comes from; all pictures must agree in it."""
    place = batch.disparity - 300
    for name, offset in (("target", 0), ("source", 100), ("seen", 200), ("truth", 400)):
        torch.testing.assert_close(getattr(batch, name)[:, :1] - offset, place, rtol=0, atol=1e-3)
    hundredths = (100 * place[:, 0, :, 0]).round().long()
    return hundredths // 100, hundredths % 100


# ---- zoom ------------------------------------------------------------------------------------------------------


def ramp_pair(n=6, height=40, width=60, disparity=8.0):
    """A wall whose colour is a ramp along the row: the source shows every column 8 px further left."""
    columns = torch.arange(float(width)).expand(n, 1, height, width)
    rows = torch.arange(float(height)).view(height, 1).expand(n, 1, height, width)
    target = torch.cat([columns, rows, columns + rows], 1) / 200
    source = torch.cat([columns + disparity, rows, columns + disparity + rows], 1) / 200
    there = columns >= disparity
    found = torch.where(there, torch.full_like(columns, disparity), torch.zeros(()))
    depth = torch.full_like(columns, 300 * 0.2 / disparity)
    return DistillBatch(target, source, target, found, there, torch.full((n,), 300.0), torch.full((n,), 0.2), depth)


def test_a_zoomed_pair_still_matches_and_keeps_its_metres():
    batch = ramp_pair()
    out = zoom(batch, generator(1), 3.0)
    factor = out.focal / batch.focal
    assert (factor >= 1).all() and (factor <= 3).all() and factor.max() > 1.5
    for n in range(len(factor)):
        step = (out.target[n, 0, 20, 30] - out.target[n, 0, 20, 29]) * 200  # columns of the original in one of the new
        assert float(step) == pytest.approx(1 / float(factor[n]), rel=1e-3)
        seen = out.mask[n, 0]
        assert torch.unique(out.disparity[n, 0][seen]).tolist() == pytest.approx([8 * float(factor[n])])
        assert not out.disparity[n, 0][~seen].any()
        # Depth by focal length, baseline and disparity is what it was.
        depth = out.focal[n] * out.baseline[n] / out.disparity[n, 0][seen]
        torch.testing.assert_close(depth, torch.full_like(depth, 7.5))
        assert torch.unique(out.truth[n]).tolist() == [7.5]
        # The match shows the same colour.
        ys, xs = torch.nonzero(seen, as_tuple=True)
        match = (xs - out.disparity[n, 0][ys, xs]).round().long()
        inner = (ys > 2) & (ys < 37) & (match > 2) & (xs < 57)
        error = (out.source[n, 0][ys, match] - out.target[n, 0][ys, xs])[inner].abs().max()
        assert float(error) * 200 < 0.51  # within the rounding of the column


def test_a_match_that_the_window_cuts_off_teaches_nothing():
    out = zoom(ramp_pair(), generator(1), 3.0)
    columns = torch.arange(60)
    assert (columns - out.disparity)[out.mask.expand_as(out.disparity)].min() >= 0
    assert not out.mask[..., :8].any()
    everywhere = ramp_pair()._replace(mask=torch.ones_like(ramp_pair().mask))
    assert zoom(everywhere, generator(1), 3.0, inside=False).mask.all()  # exact depth needs no other picture


def test_zoom_draws_from_its_generator_alone_and_unknown_truth_stays_unknown():
    batch = ramp_pair()
    batch = batch._replace(truth=torch.where(batch.mask, batch.truth, torch.nan))
    first, second = zoom(batch, generator(2), 2.0), zoom(batch, generator(2), 2.0)
    assert all(torch.equal(a, b) for a, b in zip(first[:7], second[:7], strict=True))
    assert set(first.truth[torch.isfinite(first.truth)].unique().tolist()) == {7.5}
    assert torch.isnan(first.truth).any() or (first.focal > 400).all()
    whole = augment(ramp_pair(), generator(3), flips=0.0, grafting=False)
    assert torch.equal(whole.focal, ramp_pair().focal)
    assert (augment(ramp_pair(), generator(3), zoom_most=2.0, grafting=False).focal > 300).all()


# ---- grafting --------------------------------------------------------------------------------------------------


def test_every_row_of_everything_comes_from_one_sample_and_place():
    shares, rolled = set(), 0
    for seed in range(60):
        batch = marked(4)
        out = graft(batch, generator(seed))
        sample, row = origin(out)
        assert out.focal.shape == out.baseline.shape == (4, H)
        torch.testing.assert_close(out.focal, batch.focal[sample])
        torch.testing.assert_close(out.baseline, batch.baseline[sample])
        for n in range(4):
            expected = (sample[n].view(H, 1) + row[n].view(H, 1) + torch.arange(W)) % 3 == 0
            assert torch.equal(out.mask[n, 0], expected)
            own = sample[n] == n
            # Rows keep their place in the picture, but for a roll of the whole batch.
            start = int(row[n, 0])
            assert row[n].tolist() == [(start + i) % H for i in range(H)] == row[0].tolist()
            kept = int(own.sum())
            assert len(set(sample[n].tolist())) == (2 if 0 < kept < H else 1)
            assert row[n][own].sort().values.tolist() == list(range(kept))  # the upper rows are its own
            assert start in (0, kept)
        shares.add(kept)
        rolled += start > 0
        if kept > 0:
            assert sorted(sample[:, row[0].tolist().index(H - 1)].tolist()) == [0, 1, 2, 3]  # each is given once
    assert shares == {int(r * H) for r in SHARES} == {0, 2, 4, 6, 8}
    assert 12 <= rolled <= 36  # half of those that keep something


def test_flipped_samples_graft_with_flipped_ones_only():
    signs = [1.0, -1, 1, -1, -1]
    for seed in range(40):
        out = graft(marked(5, signs), generator(seed))
        assert torch.equal(out.baseline.sign(), torch.tensor(signs).view(5, 1).expand(5, H))
        sample, _ = origin(out)
        for n in range(5):
            assert {signs[int(s)] for s in sample[n]} == {signs[n]}
        partners = {(n, int(s)) for n in range(5) for s in sample[n] if int(s) != n}
        if partners:
            assert {n for n, _ in partners} == set(range(5))  # nobody is left out


def test_a_sample_that_is_alone_with_its_sign_stays_whole():
    for seed in range(20):
        sample, _ = origin(graft(marked(3, [1.0, -1, 1]), generator(seed)))
        assert set(sample[1].tolist()) == {1}
    sample, _ = origin(graft(marked(1), generator(1)))
    assert set(sample[0].tolist()) == {0}


def test_grafting_twice_keeps_rows_with_their_cameras():
    batch = graft(graft(marked(4), generator(3)), generator(4))
    sample, _ = origin(batch)
    torch.testing.assert_close(batch.focal, 500 + 10.0 * sample)


def test_the_same_generator_grafts_the_same_and_changes_nothing():
    batch = marked(4)
    before = [value.clone() for value in batch]
    first, second = graft(batch, generator(7)), graft(batch, generator(7))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, batch, strict=True))


# ---- flips -----------------------------------------------------------------------------------------------------


def test_a_flip_mirrors_pictures_and_turns_the_baseline():
    batch = marked(3, [1.0, 1, -1])
    out = flip(batch, torch.tensor([True, False, True]))
    for name in ("target", "source", "seen", "disparity", "mask", "truth"):
        given, found = getattr(batch, name), getattr(out, name)
        assert torch.equal(found[0], given[0].flip(-1)) and torch.equal(found[2], given[2].flip(-1))
        assert torch.equal(found[1], given[1])
    torch.testing.assert_close(out.baseline, batch.baseline * torch.tensor([-1.0, 1, -1]))
    assert torch.equal(out.focal, batch.focal)
    back = flip(out, torch.tensor([True, False, True]))
    assert all(torch.equal(a, b) for a, b in zip(back, batch, strict=True))
    rows = graft(batch, generator())
    assert torch.equal(flip(rows, torch.ones(3, dtype=torch.bool)).baseline, -rows.baseline)


def test_a_flipped_pair_still_matches():
    """source(x - d) = target(x) with d = 2; in the mirror source'(x + d) = target'(x)."""
    wide = torch.rand(1, 3, H, 24, generator=generator())
    target, source = wide[..., 2:-2], wide[..., 4:]
    picture = torch.full((1, 1, H, 20), 2.0)
    seen = torch.zeros_like(picture, dtype=torch.bool)
    seen[..., 3:-3] = True
    batch = DistillBatch(target, source, target, picture, seen, torch.tensor([50.0]), torch.tensor([0.4]), picture)
    mirrored = flip(batch, torch.tensor([True]))
    prediction = DepthPrediction(torch.full_like(picture, 0.1))  # 50 px * 0.4 m * 0.1 / m = 2 px
    for one in (batch, mirrored):
        parts = depth_loss(prediction, one, 50.0, DepthLossConfig())[1]
        assert parts["photometric"] < 1e-6 and parts["flow_photometric"] < 1e-6 and parts["regression"] < 1e-5
    trap = mirrored._replace(baseline=-mirrored.baseline)
    assert depth_loss(prediction, trap, 50.0, DepthLossConfig())[1]["photometric"] > 0.1


# ---- colours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("probability", 1.1), ("hue", -0.1), ("contrast", math.nan)])
def test_a_jitter_that_cannot_be_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} of the colour jitter must be within 0 .. 1, got {value}"):
        ColourJitter(**{name: value})


def only(**changes):
    return ColourJitter(
        **{"probability": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | changes
    )


def test_brightness_contrast_and_saturation_are_what_they_say():
    images = 0.2 + 0.5 * torch.rand(64, 3, 5, 7, generator=generator(1))
    factor = (jitter_colours(images, generator(), only(brightness=0.2)) / images).flatten(1)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert 0.8 <= factor.min() < 0.85 and 1.15 < factor.max() <= 1.2
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = (images * weights).sum(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    contrast = (jitter_colours(images, generator(), only(contrast=0.2)) - mean) / (images - mean)
    assert (contrast.flatten(1).median(1).values - 1).abs().max() <= 0.2001
    torch.testing.assert_close(
        contrast.flatten(1).median(1).values, contrast.flatten(1).quantile(0.2, 1), atol=1e-3, rtol=0
    )
    saturated = jitter_colours(images, generator(), only(saturation=0.2))
    torch.testing.assert_close((saturated * weights).sum(1, keepdim=True), grey)  # the brightness stays
    change = (saturated - grey).abs().sum((1, 2, 3)) / (images - grey).abs().sum((1, 2, 3))
    assert 0.8 <= change.min() < 0.85 and 1.15 < change.max() <= 1.2


def test_hue_turns_colours_and_leaves_greys():
    grey = torch.full((16, 3, 2, 2), 0.4)
    torch.testing.assert_close(jitter_colours(grey, generator(), only(hue=0.1)), grey)
    colour = torch.tensor([0.5, 0.35, 0.3]).view(1, 3, 1, 1).expand(64, 3, 2, 2)
    out = jitter_colours(colour, generator(), only(hue=0.1))[:, :, 0, 0]
    was = colorsys.rgb_to_hsv(0.5, 0.35, 0.3)[0]
    turns = torch.tensor([(colorsys.rgb_to_hsv(*rgb)[0] - was + 0.5) % 1 - 0.5 for rgb in out.tolist()])
    assert turns.max() > 0.06 and turns.min() < -0.06 and turns.abs().max() < 0.16  # YIQ's circle is not HSV's
    brightness = (out * torch.tensor([0.299, 0.587, 0.114])).sum(1)
    torch.testing.assert_close(brightness, brightness[:1].expand(64), atol=1e-4, rtol=0)


def test_jitter_comes_with_its_probability_and_stays_within_0_and_1():
    images = torch.rand(400, 3, 2, 2, generator=generator(2))
    out = jitter_colours(images, generator(), ColourJitter())
    changed = (out != images).flatten(1).any(1)
    assert 160 < changed.sum() < 240
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(jitter_colours(images, generator(), ColourJitter(probability=0.0)), images)


# ---- together --------------------------------------------------------------------------------------------------


def test_augment_jitters_what_is_seen_and_nothing_else():
    batch = marked(6)
    for name in ("target", "source", "seen"):
        batch = batch._replace(**{name: (getattr(batch, name) / 300).clamp(0, 1)})
    out = augment(batch, generator(5), flips=0.0, grafting=False)
    for name in ("target", "source", "disparity", "mask", "focal", "baseline", "truth"):
        assert torch.equal(getattr(out, name), getattr(batch, name)), name
    assert not torch.equal(out.seen, batch.seen)
    still = ColourJitter(probability=0.0)
    assert torch.equal(augment(batch, generator(5), flips=0.0, jitter=still, grafting=False).seen, batch.seen)


def test_augment_flips_its_share_and_grafts_within_signs():
    mirrored = 0
    for seed in range(30):
        flipped = augment(marked(8), generator(seed), jitter=ColourJitter(probability=0.0))
        signs = flipped.baseline.sign()
        assert torch.equal(signs, signs[:, :1].expand_as(signs))
        # The columns of every row run the way that the sign of the baseline says.
        run = (flipped.target[:, 0, :, -1] - flipped.target[:, 0, :, 0]).sign()
        assert torch.equal(run, signs)
        mirrored += int((signs[:, 0] < 0).sum())
    assert 90 < mirrored < 150
    assert augment(marked(4), generator(), flips=1.0, grafting=False).baseline.max() < 0
