"""Completion of what the right camera cannot see, on a scene worked out by hand."""

from __future__ import annotations

import numpy as np

from fg_depth_ros.geometry import complete_occluded, fill_holes_kitti


def test_half_occlusions_take_the_background():
    # Background at 2 px, a box at 6 px on columns 10..14. The box lands on right columns 4..8, which the background
    # of columns 6..10 would have: of these, 6..9 lie beside the box and are hidden; columns 0 and 1 leave the image.
    truth = np.full((3, 20), 2.0, np.float32)
    truth[:, 10:15] = 6.0
    guess = truth.copy()
    guess[:, :2] = 3.5  # leaves the image: 1 - 3.5 < 0
    completed = complete_occluded(guess)
    np.testing.assert_array_equal(completed, truth)
    guess[:, 8] = 4.0  # a wrong answer where nothing can be matched: lands on 4, behind the box
    assert (complete_occluded(guess)[:, 8] == 2.0).all()


def test_holes_are_filled_and_the_input_is_kept():
    disparity = np.full((2, 12), 3.0, np.float32)
    disparity[:, 6:8] = np.nan
    before = disparity.copy()
    completed = complete_occluded(disparity)
    assert (completed == 3.0).all()
    np.testing.assert_array_equal(disparity, before)
    assert completed.dtype == np.float32


def test_holes_are_enclosed_along_the_row_and_then_along_the_column():
    nan = np.nan
    disparity = np.array(
        [
            [nan, 5.0, nan, nan, 3.0, nan, 4.0, nan],
            [nan, nan, nan, nan, nan, nan, nan, nan],
            [7.0, 1.0, 7.0, nan, np.inf, 2.0, nan, 9.0],
        ],
        np.float32,
    )
    first, last = [5, 5, 3, 3, 3, 3, 4, 4], [7, 1, 7, 2, 2, 2, 2, 9]
    middle = np.minimum(first, last)
    np.testing.assert_array_equal(fill_holes_kitti(disparity), np.array([first, middle, last], np.float32))
    assert np.isnan(fill_holes_kitti(np.full((2, 3), nan, np.float32))).all()
