"""Masks on scenes whose occlusions can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fg_depth_ros.geometry import Label, hidden_by_nearer, label_pixels, leaves_image, left_right_mismatch

NAN = np.nan


def bar_scene() -> tuple[np.ndarray, np.ndarray]:
    """A wall at 2 px with a bar of columns 8-11 at 5 px, 16 columns wide, both views.

    In the right view the bar stands on columns 3-6; the wall pixels that project there are left columns 5-8, of
    which 5, 6, 7 are wall: hidden.
    """
    left = np.full((2, 16), 2.0, dtype=np.float32)
    left[:, 8:12] = 5.0
    right = np.full((2, 16), 2.0, dtype=np.float32)
    right[:, 3:7] = 5.0
    return left, right


def test_match_outside_the_right_image():
    disparity = np.array([[0.5, 1.0, 2.5, 3.0, -0.5, NAN], [NAN] * 5 + [-0.1]], dtype=np.float32)
    expected = [[True, False, True, False, False, False], [False] * 5 + [True]]
    assert leaves_image(disparity).tolist() == expected


def test_hidden_pixels_of_the_bar_scene():
    left, _ = bar_scene()
    for row in hidden_by_nearer(left, 1.5):
        assert np.flatnonzero(row).tolist() == [5, 6, 7]


def test_left_right_check_finds_the_same_pixels_and_leaves_the_border_alone():
    left, right = bar_scene()
    for row in left_right_mismatch(left, right, 1.5):
        assert np.flatnonzero(row).tolist() == [5, 6, 7]
    # columns 0 and 1 have their match outside: not this check's business
    assert leaves_image(left)[0].tolist() == [True, True] + [False] * 14


def test_left_right_check_with_missing_answers():
    left, right = bar_scene()
    left[0, 13] = NAN
    right[1, 12] = NAN  # seen from left column 14
    mismatch = left_right_mismatch(left, right, 1.5)
    assert np.flatnonzero(mismatch[0]).tolist() == [5, 6, 7, 13]
    assert np.flatnonzero(mismatch[1]).tolist() == [5, 6, 7, 14]


def test_left_right_check_refuses_two_sizes():
    with pytest.raises(ValueError, match="sizes must agree"):
        left_right_mismatch(np.zeros((2, 3)), np.zeros((2, 4)), 1.0)


def test_hidden_pixels_at_half_pixel_disparities():
    left, _ = bar_scene()
    left[:, 8:12] = 5.5  # the bar covers 2.0 ... 6.0 of the right row: 3.5 px of wall, left columns 4.5 ... 8
    for row in hidden_by_nearer(left, 1.5):
        assert np.flatnonzero(row).tolist() == [4, 5, 6, 7]  # a pixel hidden by half counts


@pytest.mark.parametrize("slope", [-0.6, -0.2, 0.0, 0.3, 0.55])
def test_a_slanted_surface_hides_nothing_of_itself(slope):
    disparity = np.tile(np.float32(30) + slope * np.arange(60, dtype=np.float32), (3, 1))
    assert not hidden_by_nearer(disparity, 1.5).any()


def test_small_steps_stay_below_the_threshold_and_nan_takes_no_part():
    left, _ = bar_scene()
    left[:, 8:12] = 3.0
    assert not hidden_by_nearer(left, 1.5).any()
    assert not hidden_by_nearer(np.full((3, 4), NAN, np.float32), 1.5).any()
    left[:, 8:12] = NAN
    assert not hidden_by_nearer(left, 1.5).any()


@pytest.mark.parametrize("step", [1.0, 0.5, 1 / 16])  # of the disparities; the smaller, the fewer hit a column exactly
def test_hidden_agrees_with_a_slow_z_buffer_on_random_maps(step):
    rng = np.random.default_rng(3)
    disparity = (rng.integers(0, 9 / step, (20, 40)) * step).astype(np.float32)
    disparity[rng.random(disparity.shape) < 0.1] = NAN
    expected = np.zeros(disparity.shape, bool)
    for y in range(20):
        nearest = {}
        columns = {}
        for x in np.flatnonzero(np.isfinite(disparity[y])):
            column = x - disparity[y, x]
            if column >= 0:
                columns[x] = {math.floor(column), math.ceil(column)}
                for each in columns[x]:
                    nearest[each] = max(nearest.get(each, 0), disparity[y, x])
        for x, covered in columns.items():
            expected[y, x] = all(nearest[each] > disparity[y, x] + 1.5 for each in covered)
    assert expected.any()
    np.testing.assert_array_equal(hidden_by_nearer(disparity, 1.5), expected)


def test_labels_name_the_strongest_reason():
    depth = np.array([[1.0, NAN, 0.05, 90.0, 2.0, 2.0, 2.0, NAN, 2.0, 2.0, 2.0]])
    flags = {
        "leaves": [0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0],
        "mismatch": [0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 1],
        "off_row": [0, 0, 0, 0, 1, 1, 0, 1, 0, 1, 1],
        "unsupported": [0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 0],
        "unsure": [0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0],
    }
    masks = {name: np.array([values], dtype=bool) for name, values in flags.items()}
    labels = label_pixels(depth, min_depth=0.1, max_depth=80.0, **masks)
    assert labels.dtype == np.uint8
    assert [Label(value).name for value in labels[0]] == [
        "VALID",
        "OUT_OF_RANGE",
        "OUT_OF_RANGE",
        "OUT_OF_RANGE",
        "LEAVES_IMAGE",
        "LEFT_RIGHT_MISMATCH",
        "LOW_CONFIDENCE",
        "OUT_OF_RANGE",
        "UNSUPPORTED",
        "VERTICAL_FLOW",
        "LEFT_RIGHT_MISMATCH",
    ]


def test_labels_refuse_a_mask_of_another_size():
    with pytest.raises(ValueError, match="LEAVES_IMAGE"):
        label_pixels(np.ones((2, 2)), min_depth=0, max_depth=9, leaves=np.zeros((2, 3), bool))
