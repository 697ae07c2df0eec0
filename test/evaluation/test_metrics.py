"""Metrics and hole filling against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fg_depth_ros.evaluation.metrics import DepthMetrics, StereoMetrics, crop_mask, mean_metrics
from fg_depth_ros.geometry import fill_holes_kitti

NAN = np.nan
TRUTH = np.array([[10.0, 100.0, 100.0, 10.0, NAN, 50.0, 20.0, 30.0]])
FOUND = np.array([[10.4, 104.0, 106.0, 13.5, 1.00, NAN, 21.2, 32.5]])
# errors            0.4    4.0    6.0   3.5   -    none  1.2   2.5   ; 5 % of truth: .5 5 5 .5 - 2.5 1 1.5


def test_stereo_measures_of_eight_pixels():
    metric = StereoMetrics()
    metric.update(FOUND, TRUTH)
    metrics = metric.compute()
    assert metric.pixels == 7
    assert metrics["epe"] == pytest.approx((0.4 + 4 + 6 + 3.5 + 1.2 + 2.5) / 6)
    expected = {"bad_0.5": 6, "bad_1": 6, "bad_2": 5, "bad_3": 4, "bad_4": 2}  # the one without answer included
    for name, count in expected.items():
        assert metrics[name] == pytest.approx(100 * count / 7), name
    # 4 px on 100 px are within 5 %, so: 6 px on 100, 3.5 px on 10, and the one without answer.
    assert metrics["d1"] == pytest.approx(100 * 3 / 7)
    assert metrics["density"] == pytest.approx(100 * 6 / 7)


def test_valid_only_leaves_the_unanswered_pixel_out():
    metric = StereoMetrics()
    metric.update(FOUND, TRUTH, valid_only=True)
    metrics = metric.compute()
    assert metrics["bad_2"] == pytest.approx(100 * 4 / 6)
    assert metrics["d1"] == pytest.approx(100 * 2 / 6)
    assert metrics["density"] == 100


def test_pooled_counts_pixels_and_the_mean_counts_images():
    small, large = StereoMetrics(), StereoMetrics()
    small.update(np.full((1, 1), 9.0), np.full((1, 1), 4.0))  # 1 pixel, all bad
    large.update(np.full((3, 3), 4.0), np.full((3, 3), 4.0))  # 9 pixels, none bad
    means = mean_metrics([small.compute(), large.compute()])
    assert (means["bad_2"], means["epe"]) == (50, 2.5)
    small += large
    assert (small.compute()["bad_2"], small.compute()["epe"]) == (10, 0.5)


def test_no_truth_gives_no_number():
    metric = StereoMetrics()
    metric.update(np.ones((2, 2)), np.full((2, 2), NAN))
    assert all(math.isnan(value) for value in metric.compute().values())
    assert math.isnan(mean_metrics([metric.compute()])["epe"])


def test_depth_measures_of_five_pixels():
    truth = np.array([[2.0, 4.0, 10.0, 90.0, 8.0, NAN]])
    found = np.array([[2.2, 4.0, 100.0, 90.0, NAN, 1.0]])  # 100 m are clamped to 80
    metric = DepthMetrics()
    metric.update(found, truth)
    metrics = metric.compute()
    assert metric.pixels == 4  # 90 m lie beyond the range
    assert metrics["abs_rel"] == pytest.approx((0.1 + 0 + 7.0) / 3)
    assert metrics["sq_rel"] == pytest.approx((0.04 / 2 + 0 + 4900 / 10) / 3)
    assert metrics["rmse"] == pytest.approx(math.sqrt((0.04 + 4900) / 3))
    assert metrics["rmse_log"] == pytest.approx(math.sqrt((math.log(1.1) ** 2 + math.log(8) ** 2) / 3))
    assert [metrics[f"delta_{k}"] for k in (1, 2, 3)] == [0.5, 0.5, 0.5]
    assert metrics["depth_density"] == 75


def test_garg_crop_of_a_kitti_image():
    mask = crop_mask("garg", 375, 1242)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # the indices that the published evaluation code computes: 153:371, 44:1197
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (153, 371, 44, 1197)
    assert mask.sum() == (371 - 153) * (1197 - 44)
    assert crop_mask("none", 375, 1242).all()


def test_sizes_must_agree():
    for metric in (StereoMetrics(), DepthMetrics()):
        with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
            metric.update(np.zeros((2, 3)), np.zeros((2, 4)))


def test_holes_take_the_farther_neighbour_of_the_row():
    disparity = np.array([[NAN, 7, NAN, NAN, 3, 9, NAN]])
    assert fill_holes_kitti(disparity).tolist() == [[7, 7, 3, 3, 3, 9, 9]]


def test_empty_rows_are_filled_along_the_columns():
    disparity = np.array([[NAN, NAN], [4, NAN], [NAN, NAN], [6, 2], [NAN, NAN]])
    assert fill_holes_kitti(disparity).tolist() == [[4, 4], [4, 4], [4, 2], [6, 2], [6, 2]]


def test_nothing_known_stays_unknown_and_the_input_stays_as_it_was():
    assert np.isnan(fill_holes_kitti(np.full((2, 3), NAN))).all()
    disparity = np.array([[1.0, NAN]])
    fill_holes_kitti(disparity)
    assert np.isnan(disparity[0, 1])
    with pytest.raises(ValueError, match="HxW"):
        fill_holes_kitti(np.zeros((1, 2, 3)))


def devkit_background_interpolation(values: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel: interpolate inside rows, extend rows to both sides, then columns."""
    filled = values.copy()
    height, width = filled.shape
    for y in range(height):
        known = [x for x in range(width) if not np.isnan(values[y, x])]
        for x in range(width):
            if known and np.isnan(values[y, x]):
                before = [k for k in known if k < x]
                after = [k for k in known if k > x]
                ends = ([values[y, before[-1]]] if before else []) + ([values[y, after[0]]] if after else [])
                filled[y, x] = min(ends)
    for x in range(width):
        known = [y for y in range(height) if not np.isnan(filled[y, x])]
        for y in range(height):
            if known and y < known[0]:
                filled[y, x] = filled[known[0], x]
            elif known and y > known[-1]:
                filled[y, x] = filled[known[-1], x]
    return filled


@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.sampled_from([1, 2, 3, NAN])
    )
)
def test_filling_agrees_with_the_definition(disparity):
    expected = devkit_background_interpolation(disparity)
    filled = fill_holes_kitti(disparity)
    known = ~np.isnan(expected)  # an empty row between filled ones is filled here and not in the devkit
    np.testing.assert_array_equal(filled[known], expected[known])
    assert np.isnan(filled).all() == np.isnan(disparity).all()
    assert np.isnan(filled).any() == np.isnan(disparity).all()
