"""Samples by number: sizes, focal lengths and depths by hand, order, shares, and what has vanished meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from support.distill import HEIGHT, RIG, WIDTH, made_pair, wall, write_walls

from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.geometry.resize import size_with_area
from fg_depth_ros.inference import NetworkMono
from fg_depth_ros.networks import create_model
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.dataset import (
    MixedDataset,
    PairDataset,
    ResizeCrop,
    SceneDataset,
    load_sample,
)
from fg_depth_ros.training.depth.pairs import TrainingPair, open_pair_sets, prepare_set
from fg_depth_ros.training.depth.teacher import PredictionCache, Teacher

MASK = MaskConfig(max_disparity=0)


def rig(width, height, fx):
    return StereoRig(width, height, fx, fx, width / 2, height / 2, width / 2, 0.5)


@pytest.mark.parametrize(
    ("width", "height", "resized", "focal"),
    [
        (
            1344,
            372,
            (704, 192),
            645.24 * 704 / 1344,
        ),  # as many pixels: 666x184; 32 columns a side are cut off
        (1242, 375, (640, 192), 645.24 * 640 / 1242),
        (640, 480, (640, 480), 500.0),  # 384x288, enlarged to 640 columns; the middle 192 rows
        (1344, 300, (845, 192), 645.24 * 845 / 1344),  # 704x160, enlarged to 192 rows; the middle 640 columns
    ],
)
def test_a_picture_becomes_one_of_the_training(width, height, resized, focal):
    one = rig(width, height, 500.0 if width == 640 else 645.24)
    fit = ResizeCrop.of(one, 640, 192)
    assert (fit.resized_width, fit.resized_height) == resized
    assert fit.focal(one) == pytest.approx(focal)
    field = np.tile(np.arange(width, dtype=np.float32), (height, 1))
    cut = fit.field(field)
    assert cut.shape == (192, 640)
    # The column in the middle stays the one in the middle.
    assert cut[0, 319:321].mean() == pytest.approx((width - 1) / 2, abs=1.5)
    assert fit.image(np.zeros((height, width, 3), np.uint8)).shape == (192, 640, 3)


def test_the_training_sees_what_inference_will_show():
    network = NetworkMono(create_model("depthnet_lite", focal=300.0, width=320, height=96), "depthnet_lite")
    for width, height in ((1242, 375), (640, 192), (1344, 372), (1280, 720)):
        assert network.input_size(width, height) == size_with_area(width, height, 320 * 96)
    for width, height in ((1242, 375), (640, 192), (1344, 372)):
        fit = ResizeCrop.of(rig(width, height, 500.0), 320, 96)
        assert (fit.resized_width, fit.resized_height) == network.input_size(width, height)
    narrow = replace(rig(621, 375, 250.0), fy=500.0)
    fit = ResizeCrop.of(narrow, 320, 96)
    assert (fit.resized_width, fit.resized_height) == network.input_size(621, 375, pixel_aspect=narrow.pixel_aspect)
    assert fit.focal(narrow) == pytest.approx(500 * fit.resized_height / 375, rel=0.05)  # square pixels
    assert ResizeCrop.of(rig(640, 192, 500.0), 320, 96).cropped_share == 0
    assert ResizeCrop(320, 96, 640, 96).cropped_share == 0.5


def teach(tmp_path, pairs):
    teacher = Teacher("sgbm")
    cache = PredictionCache(tmp_path / "cache", teacher)
    return prepare_set("set", pairs, teacher, cache, MASK)[0], cache


def dataset(usable, cache, seed=0):
    return PairDataset(usable, partial(load_sample, cache=cache, mask=MASK, width=96, height=64), cache, seed)


def test_a_sample_at_half_the_size_has_the_depth_of_the_whole(tmp_path):
    """Disparity 8 px at 200 px * 0.1 m is 2.5 m; at 96 of 160 columns both are 0.6 of it."""
    left, right = wall(8)
    (one,), cache = teach(tmp_path, [made_pair(left, right, truth=np.full((HEIGHT, WIDTH), 8, np.float32))])
    pairs, prediction = load_sample(one, cache, MASK, 96, 64)
    assert pairs.left.shape == pairs.right.shape == (1, 3, 64, 96) and pairs.left.dtype == torch.uint8
    np.testing.assert_array_equal(
        pairs.left[0].permute(1, 2, 0), cv2.resize(left, (96, 64), interpolation=cv2.INTER_AREA)
    )
    assert pairs.focal.tolist() == pytest.approx([120.0]) and pairs.baseline.tolist() == pytest.approx([0.1])
    torch.testing.assert_close(pairs.truth, torch.full((1, 1, 64, 96), 2.5))
    mask = torch.isfinite(prediction.disparity)
    assert mask.float().mean() > 0.6
    assert (prediction.disparity[mask] - 4.8).abs().median() < 0.05
    assert (120.0 * 0.1 / prediction.disparity[mask] - 2.5).abs().median() < 0.03
    assert not load_sample(TrainingPair(one.pair), None, MASK, 96, 64)[1]  # without a key nobody was asked


def test_the_bounds_of_the_mask_are_pixels_of_the_pair_not_of_the_training(tmp_path):
    """The right view says 3 px less: more than 1.5 px of the pair, and less of a picture of four tenths of its size."""
    (one,), cache = teach(tmp_path, [made_pair(*wall(8))])
    whole = cache.load(one.key)
    apart = whole._replace(right_disparity=whole.disparity - 3)
    for known, share in ((whole, 0.5), (apart, 0.0)):
        with_known = SimpleNamespace(load=lambda key, known=known: known)
        _, prediction = load_sample(one, with_known, MASK, 64, 32)
        assert torch.isfinite(prediction.disparity).float().mean() >= share
    assert not torch.isfinite(prediction.disparity).any()


def test_different_principal_columns_do_not_change_the_depth(tmp_path):
    """Image disparity 3 with doffs 5: the levelled pair has 8, and both depths are 2.5 m."""
    moved = replace(RIG, cx_right=RIG.cx + 5)
    truth = np.full((HEIGHT, WIDTH), 3, np.float32)
    (one,), cache = teach(tmp_path, [made_pair(*wall(3), rig=moved, truth=truth)])
    pairs, prediction = load_sample(one, cache, MASK, WIDTH, HEIGHT)
    torch.testing.assert_close(pairs.truth, torch.full((1, 1, HEIGHT, WIDTH), 2.5))
    known = torch.isfinite(prediction.disparity)
    assert (prediction.disparity[known] - 8).abs().median() < 0.05
    levelled = pairs.right[0, 0].numpy()
    np.testing.assert_array_equal(levelled[:, 30:100], pairs.left[0, 0, :, 38:108].numpy())


def test_every_pair_comes_once_a_pass_in_a_new_order(tmp_path):
    usable, cache = teach(tmp_path, open_pair_sets([write_walls(tmp_path / "walls")])["walls"])
    source = dataset(usable, cache, seed=4)
    passes = []
    for start in (0, 5, 10):
        samples, counts = source.samples(range(start, start + 5))
        assert counts.used == 0 and not counts.skipped
        passes.append([round(float(pairs.truth[0, 0, 0, 0]), 3) for pairs, _ in samples])
    assert all(sorted(one) == sorted(passes[0]) for one in passes) and len(set(passes[0])) == 5
    assert passes[0] != passes[1] or passes[1] != passes[2]
    again = dataset(usable, cache, seed=4).samples([7])[0][0][0]
    torch.testing.assert_close(again.truth[0, 0, 0, 0].item(), passes[1][2], rtol=0, atol=1e-3)


def test_what_was_read_is_not_read_again(tmp_path):
    usable, cache = teach(tmp_path, open_pair_sets([write_walls(tmp_path / "walls", (8, 9))])["walls"])
    loaded = []

    def load(one):
        loaded.append(one.pair.name)
        return load_sample(one, cache, MASK, 96, 64)

    source = PairDataset(usable, load)
    for numbers in ([0, 1], [2, 3]):
        source.samples(numbers)
        assert sorted(loaded) == ["000", "001"]


def test_a_pair_that_vanishes_while_training_is_replaced_and_counted(tmp_path):
    folder = write_walls(tmp_path / "walls", (8, 9, 10))
    usable, cache = teach(tmp_path, open_pair_sets([folder])["walls"])
    (folder / "left" / "001.png").unlink()
    kept = next(cache.folder.glob("002-*_right.png"))
    kept.write_bytes(kept.read_bytes()[:-10])
    samples, counts = dataset(usable, cache).samples(range(3))
    assert [round(float(pairs.truth[0, 0, 0, 0]), 3) for pairs, _ in samples] == [2.5, 2.5, 2.5]
    assert counts.skipped["unreadable"] >= 2
    assert not list(cache.folder.glob("002-*.json"))  # a damaged answer is asked for again in the next run
    (folder / "left" / "000.png").unlink()
    with pytest.raises(FileError, match="none of the 3 pairs can be read any more"):
        dataset(usable, cache).samples([0])


class Scenes:
    """Stands for rendered scenes: scene i is i + 1 m away."""

    def batch(self, indices):
        from fg_depth_ros.synthesis.world.generator import WorldBatch

        n = len(indices)
        depth = 1 + torch.tensor(indices, dtype=torch.float32).view(-1, 1, 1, 1).repeat(1, 1, 2, 2)
        depth[:, :, 0, 0] = float("inf")
        image = torch.zeros(n, 3, 2, 2, dtype=torch.uint8)
        ones = torch.ones(n)
        return WorldBatch(image, image, depth, 1 / depth, torch.zeros(n, 1, 2, 2, dtype=torch.bool), 100 * ones, ones)


def test_the_sky_is_at_infinity():
    pairs = SceneDataset([Scenes()]).pairs([3, 5])
    assert torch.isposinf(pairs.truth[:, 0, 0, 0]).all()
    assert pairs.truth[:, 0, 1, 1].tolist() == [4.0, 6.0]


def test_shapes_come_by_turns_of_a_batch():
    class Views(Scenes):
        def __init__(self, name):
            self.name = name

        def batch(self, indices):
            asked.append((self.name, list(indices)))
            return super().batch(indices)

    asked = []
    source = SceneDataset([Views("wide"), Views("square")], turn=2)
    for numbers in ([0, 1], [2, 3], [4, 5]):
        source.pairs(numbers)
    assert asked == [("wide", [0, 1]), ("square", [2, 3]), ("wide", [4, 5])]


def test_scenes_in_several_shapes_are_rendered_once_and_used_several_times():
    class Counted(Scenes):
        def batch(self, indices):
            rendered.update(indices)
            return super().batch(indices)

    def dataset():
        return SceneDataset([Counted(), Counted()], turn=2, uses=4, pool=6, seed=1)

    def shown(source, number):
        return source.pairs([2 * number, 2 * number + 1]).truth[:, 0, 1, 1].tolist()

    rendered: Counter[int] = Counter()
    source = dataset()
    seen = [shown(source, number) for number in range(400)]
    assert set(rendered.values()) == {1}  # by one of the two shapes, too
    assert 800 / len(rendered) == pytest.approx(4, rel=0.15)
    resumed = dataset()
    assert [shown(resumed, number) for number in range(390, 400)] == seen[390:]


def test_scenes_and_files_keep_their_share_and_each_comes_once():
    class Files:
        def samples(self, numbers):
            seen.extend(numbers)
            return list(numbers), "counts"

    seen: list[int] = []
    scenes = SceneDataset([Scenes()])
    mixture = MixedDataset(Files(), scenes, 0.25)
    drawn = [mixture.batch(range(start, start + 6)) for start in range(0, 24, 6)]
    assert seen == list(range(18))
    shown = torch.cat([d.scenes.truth[:, 0, 1, 1] for d in drawn if d.scenes is not None])
    assert shown.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert not any(len(d.scene_numbers) for d in drawn)
    later = MixedDataset(Files(), scenes, 0.25, render_here=False).batch(range(8))
    assert later.scenes is None and later.scene_numbers.tolist() == [0, 1]
    assert MixedDataset(None, scenes, 0.25).batch([4, 5]).scenes.truth[:, 0, 1, 1].tolist() == [5.0, 6.0]
    assert len(MixedDataset(Files(), None, 0.25).batch(range(9)).loaded) == 9
    with pytest.raises(ValueError, match="nothing to train on"):
        MixedDataset(None, None, 0.5)
