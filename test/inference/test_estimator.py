"""The estimator against analytic scenes and a real pair; every wrong input by name."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from fg_depth_ros.data.datasets.stereo import motorcycle
from fg_depth_ros.geometry import Label, StereoRig
from fg_depth_ros.inference import FilledEstimate, Match, StereoConfig, StereoDepthEstimator

RIG = StereoRig(width=64, height=32, fx=100.0, fy=100.0, cx=31.5, cy=15.5, cx_right=33.5, baseline=0.2)


class FixedMatcher:
    """Answers with given arrays, whatever it sees."""

    name, sha256, device, disparities, block = "fixed", "ab" * 32, "cpu", 64, 1

    def __init__(self, disparity, sigma=None, mirrored=None, vertical=None):
        self.answers = [Match(disparity, sigma, vertical), Match(disparity if mirrored is None else mirrored, sigma)]
        self.calls = 0

    def match(self, left, right, min_disparity=0):
        self.calls += 1
        self.first = min_disparity
        return self.answers[min(self.calls, 2) - 1]


def estimate_with(disparity, sigma=None, mirrored=None, rig=RIG, vertical=None, **options):
    options = {"photometric_check": False, **options}  # these images are blank
    estimator = StereoDepthEstimator(StereoConfig(model="sgbm", **options))
    estimator._method = FixedMatcher(disparity.astype(np.float32), sigma, mirrored, vertical)
    blank = np.zeros((rig.height, rig.width, 3), np.uint8)
    return estimator.estimate(blank, blank, rig)


def test_depth_sigma_and_flow_by_hand():
    # doffs = 33.5 - 31.5 = 2 px; Z = 100 * 0.2 / (8 + 2) = 2 m; sigma_Z = 4 * 0.5 / 20 = 0.1 m
    estimate = estimate_with(np.full((32, 64), 8.0), np.full((32, 64), 0.5, np.float32))
    assert estimate.depth[10, 40] == pytest.approx(2.0)
    assert estimate.depth_sigma[10, 40] == pytest.approx(0.1)
    assert estimate.flow[10, 40].tolist() == [-8.0, 0.0]
    assert estimate.depth.dtype == estimate.depth_sigma.dtype == estimate.flow.dtype == np.float32


def test_labels_name_the_first_reason():
    disparity = np.full((32, 64), 8.0, np.float32)
    disparity[0] = np.nan  # no answer
    disparity[1] = -1.9  # Z = 200 m, beyond max_depth
    disparity[3, 40] = 20.0  # hides the surface that lands on the same right pixel, 40 - 20 = 28 - 8
    sigma = np.full((32, 64), 0.5, np.float32)
    sigma[5, 50] = 3.0
    estimate = estimate_with(disparity, sigma, max_sigma=2.0)
    labels = estimate.labels
    assert (labels[0] == Label.OUT_OF_RANGE).all()
    assert (labels[1] == Label.OUT_OF_RANGE).all()
    assert (labels[4, :8] == Label.LEAVES_IMAGE).all()
    assert labels[4, 8] == Label.VALID
    assert labels[3, 28] == Label.LEFT_RIGHT_MISMATCH
    assert labels[3, 40] == Label.VALID
    assert labels[5, 50] == Label.LOW_CONFIDENCE
    assert np.isnan(estimate.depth[labels != Label.VALID]).all()
    assert np.isfinite(estimate.depth[labels == Label.VALID]).all()
    assert (estimate.mask == (labels == Label.VALID)).all()


@pytest.mark.filterwarnings("error")
def test_low_density_is_explained_by_what_is_out_of_range():
    disparity = np.full((32, 64), np.nan)
    disparity[:4] = 30.0  # Z = 20 / 32 m
    disparity[4:12] = -2.0  # at infinity
    disparity[12:20] = -5.0  # behind it
    disparity[20:24] = -1.9  # Z = 200 m
    estimate = estimate_with(disparity, left_right_check="off", min_depth=1.0, max_depth=20.0)
    assert estimate.low_density
    assert (
        "only 0.0% of the pixels have depth; 100% are 'out of range': 12% nearer than min_depth = 1 m, 62% farther "
        "than max_depth = 20 m, 25% without a match"
    ) in estimate.explain_low_density()


def test_a_match_on_another_row_is_in_the_flow_and_labelled():
    disparity = np.full((32, 64), 8.0, np.float32)
    vertical = np.zeros((32, 64), np.float32)
    vertical[5, 30], vertical[6, 30], vertical[7, 30] = 1.5, -1.5, 0.9
    vertical[8, 4] = 3.0  # leaves the image: the first reason
    estimate = estimate_with(disparity, vertical=vertical)
    assert estimate.flow[5, 30].tolist() == [-8.0, 1.5]
    assert estimate.flow[6, 30].tolist() == [-8.0, -1.5]
    assert [estimate.labels[row, 30] for row in (5, 6, 7)] == [Label.VERTICAL_FLOW] * 2 + [Label.VALID]
    assert estimate.labels[8, 4] == Label.LEAVES_IMAGE
    assert np.isnan(estimate.depth[5, 30]) and np.isfinite(estimate.depth[7, 30])
    assert (estimate_with(disparity, vertical=vertical, max_vertical=0.0).labels[5:8, 30] == Label.VALID).all()
    assert estimate_with(disparity, vertical=vertical, max_vertical=2.0).labels[5, 30] == Label.VALID
    unsupported = dataclasses.replace(estimate, vertical=np.full((32, 64), np.nan, np.float32))
    assert unsupported.labels[7, 30] == Label.VERTICAL_FLOW  # what is no number is on no row


def test_a_match_at_another_size_scales_with_width_and_height():
    found = Match(np.full((8, 16), 3.0, np.float32), None, np.full((8, 16), 2.0, np.float32)).resized(32, 24)
    assert found.disparity.shape == found.vertical.shape == (24, 32)
    np.testing.assert_allclose(found.disparity, 6.0)
    np.testing.assert_allclose(found.vertical, 6.0)


def test_a_flow_network_knows_no_end_of_the_search_and_reports_vertical_flow():
    scene = motorcycle().resized(320, 240)
    (left, right), rig = scene.images(), scene.require_rig()
    estimator = StereoDepthEstimator(StereoConfig("flownet_lite"))
    estimate = estimator.estimate(left, right, rig)
    assert estimate.searched == (np.floor(-rig.doffs), 319.0, 0, False)
    assert StereoDepthEstimator(StereoConfig("flownet_lite", inference_scale="auto")).scale(rig) == 1.0
    assert estimate.depth_sigma is None
    assert np.isfinite(estimate.flow).all() and estimate.flow[..., 1].any()
    truth = scene.truth()
    known = np.isfinite(truth) & estimate.mask
    assert known.mean() > 0.5
    assert np.median(np.abs(estimate.matched - truth)[known]) < 1.0
    lower = np.roll(right, 4, axis=0)  # the right camera sees everything 4 px lower
    shifted = estimator.estimate(left, lower, rig)
    assert np.median(shifted.flow[20:-20, :, 1]) == pytest.approx(4.0, abs=0.5)
    assert (shifted.labels == Label.VERTICAL_FLOW).mean() > 0.5


def test_a_dense_answer_is_completed_and_holes_are_kept():
    matched = np.full((32, 64), 8.0, np.float32)
    matched[3, 40:42] = 20.0  # hides what lands on the right columns 20 to 21
    matched[3, 28] = 7.5
    estimate = estimate_with(matched)
    assert estimate.disparity[3, 28] == 8.0  # the background beside it
    assert estimate.matched[3, 28] == 7.5
    assert np.isnan(estimate.depth[3, 28])  # completed for looks, never called valid
    matched[10, 10] = np.nan
    assert np.isnan(estimate_with(matched).disparity[10, 10])


def test_two_pass_check_compares_both_views():
    right_view = np.full((32, 64), 8.0, np.float32)
    right_view[:, 20:30] = 13.0
    estimate = estimate_with(np.full((32, 64), 8.0), mirrored=right_view[:, ::-1], left_right_check="two_pass")
    assert (estimate.labels[:, 28:38] == Label.LEFT_RIGHT_MISMATCH).all()
    assert (estimate.labels[:, 38:] == Label.VALID).all()
    assert (estimate_with(np.full((32, 64), 8.0), left_right_check="off").labels[:, 8:] == Label.VALID).all()


def test_the_same_scene_at_half_resolution_gives_the_same_metres():
    sample = motorcycle()
    left, right = sample.images()
    size = (left.shape[1] // 2, left.shape[0] // 2)
    small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (left, right)]
    estimator = StereoDepthEstimator()
    full = estimator.estimate(left, right, sample.rig)
    half = estimator.estimate(*small, sample.rig.scaled(*size))
    enlarged = cv2.resize(half.depth, (left.shape[1], left.shape[0]), interpolation=cv2.INTER_NEAREST)
    both = np.isfinite(full.depth) & np.isfinite(enlarged)
    assert both.mean() > 0.5
    assert np.median(np.abs(enlarged[both] / full.depth[both] - 1)) < 0.02


@pytest.mark.parametrize("model", ["sgbm", "flownet_stereo"])
def test_inference_scale_keeps_size_and_metres(model):
    sample = motorcycle()
    left, right = sample.images()
    full = StereoDepthEstimator(StereoConfig(model=model)).estimate(left, right, sample.rig)
    half = StereoDepthEstimator(StereoConfig(model=model, inference_scale=0.5)).estimate(left, right, sample.rig)
    assert half.depth.shape == full.depth.shape
    both = np.isfinite(full.depth) & np.isfinite(half.depth)
    assert np.median(np.abs(half.depth[both] / full.depth[both] - 1)) < 0.02


def test_the_real_pair_in_metres():
    sample = motorcycle()
    estimate = StereoDepthEstimator().estimate(*sample.images(), sample.rig)
    truth = sample.rig.fx * sample.rig.baseline / (sample.truth() + sample.rig.doffs)
    judged = estimate.mask & np.isfinite(truth)
    assert judged.mean() > 0.7
    assert np.median(np.abs(estimate.depth[judged] / truth[judged] - 1)) < 0.01
    wrong = np.abs(estimate.disparity - sample.truth())
    inside = wrong[judged] < estimate.disparity_sigma[judged] * 3
    assert inside.mean() > 0.8  # the uncertainty means something
    assert np.nanmean(wrong[estimate.mask] > 2) < np.nanmean(wrong > 2)  # the mask takes out wrong pixels


# ---- filled from one image -------------------------------------------------------------------------------------


def test_holes_are_filled_in_depth_and_labels_and_nowhere_else():
    disparity = np.full((32, 64), 8.0, np.float32)  # Z = 100 * 0.2 / (8 + 2) = 2 m
    disparity[0] = np.nan
    disparity[1] = -1.9  # 200 m
    estimate = estimate_with(disparity, np.full((32, 64), 0.5, np.float32))
    mono = np.full((32, 64), 5.0, np.float32)
    mono[0, :10] = 90.0  # beyond max_depth
    mono[0, 10] = np.nan
    sigma, before = estimate.depth_sigma, estimate.labels.copy()
    filled = FilledEstimate(estimate, mono)
    assert filled.labels.dtype == np.uint8
    assert (filled.labels[0, 11:] == Label.FILLED_FROM_MONO).all()
    assert (filled.labels[0, :11] == Label.OUT_OF_RANGE).all()  # the reason stays
    assert (filled.labels[1] == Label.FILLED_FROM_MONO).all()
    assert (filled.labels[2:, :8] == Label.FILLED_FROM_MONO).all()  # the match leaves the image
    assert (filled.labels[2:, 8:] == Label.VALID).all()
    assert filled.depth.dtype == np.float32
    assert (filled.depth[filled.labels == Label.FILLED_FROM_MONO] == 5.0).all()
    np.testing.assert_allclose(filled.depth[2:, 8:], 2.0)
    assert np.isnan(filled.depth[0, :11]).all()
    assert (filled.mask == np.isfinite(filled.depth)).all()
    # and the estimate of the pair is what it was
    np.testing.assert_array_equal(estimate.labels, before)
    assert (filled.stereo.mask == (before == Label.VALID)).all()
    np.testing.assert_array_equal(filled.stereo.depth_sigma, sigma)
    assert np.isnan(filled.stereo.depth_sigma[1]).all()


def test_filling_works_nothing_out_twice(monkeypatch):
    estimate = estimate_with(np.full((32, 64), 8.0))
    assert estimate.depth[5, 20] == pytest.approx(2.0)
    monkeypatch.setattr("fg_depth_ros.geometry.hidden_by_nearer", None)
    monkeypatch.setattr("fg_depth_ros.geometry.disparity_to_depth", None)
    assert FilledEstimate(estimate, np.ones((32, 64), np.float32)).depth[5, 2] == 1.0


def test_filling_with_another_size_is_named():
    with pytest.raises(ValueError, match=r"\(32, 60\), the estimate \(32, 64\)"):
        FilledEstimate(estimate_with(np.full((32, 64), 8.0)), np.ones((32, 60), np.float32))


def test_from_the_left_image_alone_everything_in_range_is_filled():
    mono = np.full((32, 64), 5.0, np.float32)
    mono[3] = 0.05
    config = StereoConfig(model="sgbm", max_depth=20.0)
    estimate = FilledEstimate.from_mono(mono, RIG, config, 0.25)
    assert (estimate.labels[3] == Label.OUT_OF_RANGE).all()
    assert (np.delete(estimate.labels, 3, 0) == Label.FILLED_FROM_MONO).all()
    assert (np.delete(estimate.depth, 3, 0) == 5.0).all()
    assert np.isnan(estimate.depth[3]).all()
    assert not estimate.stereo.mask.any()
    assert estimate.stereo.seconds == 0.25


def test_wrong_pairs_are_named():
    estimator = StereoDepthEstimator(StereoConfig(model="sgbm"))
    good = np.zeros((32, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"right image must be .* got \(32, 64, 3\) of float32"):
        estimator.estimate(good, good.astype(np.float32), RIG)
    with pytest.raises(ValueError, match=r"left image must be .* got \(32, 64, 4\)"):
        estimator.estimate(np.zeros((32, 64, 4), np.uint8), good, RIG)
    with pytest.raises(ValueError, match=r"left and right image differ: \(32, 64, 3\) and \(32, 60, 3\)"):
        estimator.estimate(good, good[:, :60], RIG)
    with pytest.raises(ValueError, match="images are 64x30 and the calibration is for 64x32"):
        estimator.estimate(good[:30], good[:30], RIG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "raft"}, "model 'raft' is unknown; choose one of flownet_stereo, flownet2, .*flownet_s, sgbm, bm$"),
        ({"model": "flownet2s"}, "model 'flownet2s' is unknown; .*; did you mean flownet2_s\\?$"),
        ({"model": "depthnet_lite"}, "model 'depthnet_lite' is for depth from one image; choose one of flownet_stereo"),
        ({"max_vertical": -1.0}, "max_vertical not negative, got 1.5, 7.5 and -1.0 px"),
        ({"precision": "int4"}, "precision 'int4' is unknown"),
        ({"left_right_check": "maybe"}, "choose one of one_pass, two_pass, off"),
        ({"min_depth": 5.0, "max_depth": 2.0}, "need 0 < min_depth < max_depth, got 5.0 and 2.0 m"),
        ({"inference_scale": 0.0}, r"inference_scale must be auto or lie in 0.1 \.\. 4, got 0.0"),
        ({"inference_scale": "large"}, "inference_scale must be auto or lie in"),
        ({"max_disparity": 4097}, "got 4097"),
        ({"min_disparity": -5000}, "got -5000"),
        ({"min_disparity": "near"}, "must be auto or lie in -2048 .. 2048 px, got near"),
        ({"max_sigma": -1.0}, "max_sigma and max_vertical not negative"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(StereoConfig(), **options)


@pytest.mark.parametrize(("grey", "fault"), [(0, "images dark"), (255, "images overexposed"), (128, "no texture")])
def test_images_without_content_give_no_depth_whatever_the_network_answers(grey, fault):
    # What the shipped network answers for a black pair is dense: all of it is a guess.
    blank = np.full((96, 128), grey, np.uint8)
    rig = StereoRig(128, 96, 100.0, 100.0, 63.5, 47.5, 63.5, 0.2)
    estimate = StereoDepthEstimator().estimate(blank, blank, rig)
    assert estimate.fault == fault
    assert not estimate.mask.any()
    assert (estimate.labels == Label.UNSUPPORTED).all()
    assert np.isnan(estimate.depth_sigma).all()
    guess = StereoConfig(photometric_check=False, max_sigma=0.0)
    assert StereoDepthEstimator(guess).estimate(blank, blank, rig).mask.any()


@pytest.mark.parametrize("model", ["sgbm", "flownet_stereo"])
@pytest.mark.parametrize("doffs", [20.0, 6.5, 0.0, -9.0])
def test_the_search_follows_the_rig(model, doffs):
    # A wall at 9 m: Z = 300 * 0.12 / (d + doffs), so d = 4 - doffs px; in whole pixels doffs of 6.5 is 36 / 4.5 = 8 m.
    disparity = int(np.ceil(4 - doffs))
    expected = 36.0 / (disparity + doffs)
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (60, 120), dtype=np.uint8)
    scene = cv2.resize(coarse, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    left, right = (np.ascontiguousarray(scene[:, 40 + s : 360 + s]) for s in (0, disparity))
    rig = StereoRig(320, 240, 300.0, 300.0, 159.5, 119.5, 159.5 + doffs, 0.12)
    estimate = StereoDepthEstimator(StereoConfig(model=model)).estimate(left, right, rig)
    assert estimate.mask.mean() > 0.8
    assert np.median(estimate.depth[estimate.mask]) == pytest.approx(expected, rel=0.02)
    assert estimate.searched.first == np.floor(-doffs)
    from_zero = StereoDepthEstimator(StereoConfig(model=model, min_disparity=0)).estimate(left, right, rig)
    assert from_zero.searched.first == 0


def test_a_rounded_calibration_does_not_move_the_search():
    config = StereoConfig()
    assert [config.search_start(doffs) for doffs in (0.0, 1e-4, 0.2, 31.086, -31.086)] == [0, 0, -1, -32, 31]
    assert StereoConfig(min_disparity=7).search_start(31.0) == 7


def test_the_search_range_at_another_scale():
    # 64 disparities at half the size are 126 px from the first to the last at the whole one.
    estimate = estimate_with(np.full((32, 64), 8.0), rig=RIG, min_disparity=-4, inference_scale=0.5)
    assert tuple(estimate.searched) == (-4.0, 122.0, 0, True)


def test_the_search_range_begins_where_the_matcher_does():
    rig = StereoRig(70, 32, 100.0, 100.0, 35.0, 16.0, 35.0, 0.2)
    for first in range(-70, 71):
        estimator = StereoDepthEstimator(StereoConfig("sgbm", min_disparity=first, inference_scale=0.75))
        matcher = estimator._method = FixedMatcher(np.zeros((24, 52), np.float32))
        estimator.match(*(np.zeros((32, 70), np.uint8),) * 2)
        assert estimator.search_range(rig).first == pytest.approx(matcher.first * 70 / 52)


@pytest.mark.parametrize(
    ("min_depth", "min_disparity", "scale"),
    [
        # RIG: fx B = 20 px m, doffs 2 px; the search of 64 px begins at infinity, at -2 px.
        (0.5, "auto", 1.0),  # 20 / 0.5 = 40 px from infinity
        (0.2, "auto", 0.63),  # 100 px by 63 steps
        (0.2, 8, 0.7),  # 98 px, of which the first 8 are not searched
        (0.01, "auto", 0.25),  # 2000 px
    ],
)
def test_the_scale_follows_the_nearest_depth(min_depth, min_disparity, scale):
    options = {"inference_scale": "auto", "min_depth": min_depth, "min_disparity": min_disparity}
    config = StereoConfig(model="sgbm", **options)
    assert config.scale(RIG, 64) == pytest.approx(scale, abs=1e-3)
    assert dataclasses.replace(config, inference_scale=0.4).scale(RIG, 64) == 0.4
    estimator = StereoDepthEstimator(dataclasses.replace(config, max_disparity=64))
    if scale > 0.25:
        assert estimator.nearest_depth(RIG) <= max(min_depth, 20 / 64) * 1.04  # whole pixels of this small image


def test_near_objects_at_the_scale_that_reaches_them():
    # A wall at 1 m: Z = 260 px * 1 m / d, so 260 px of disparity, of which the network searches 192.
    scene = cv2.resize(motorcycle().images()[0], (1280, 860))[200:680]
    left, right = (np.ascontiguousarray(scene[:, first : first + 960]) for first in (0, 260))
    rig = StereoRig(960, 480, 260.0, 260.0, 479.5, 239.5, 479.5, 1.0)
    config = StereoConfig(min_depth=0.9, max_sigma=0.0)
    near = StereoDepthEstimator(dataclasses.replace(config, inference_scale="auto")).estimate(left, right, rig)
    assert near.mask.mean() > 0.5 and np.median(near.depth[near.mask]) == pytest.approx(1.0, rel=0.02)
    assert near.searched.last >= 260 / 0.9 - 1
    far = StereoDepthEstimator(config).estimate(left, right, rig)
    assert far.mask.mean() < 0.02  # none, rather than wrong ones


def test_what_the_check_costs_a_real_pair():
    sample = motorcycle()
    images, truth = sample.images(), sample.truth()
    checked = StereoDepthEstimator().estimate(*images, sample.rig)
    right = np.abs(checked.matched - truth) <= 2.0
    without = dataclasses.replace(checked, support=None)
    assert checked.fault is None
    assert (right & checked.mask).sum() >= 0.99 * (right & without.mask).sum()
