"""Samples from memory: what is computed from what, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fg_depth_ros.data.samples import DepthSample, FlowSample, StereoSample
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig

RIG = StereoRig(8, 4, 10.0, 10.0, 3.5, 1.5, 3.5, 0.2)  # depth is 2 m px / disparity
GREY = np.arange(32, dtype=np.uint8).reshape(4, 8)
DEPTH = np.full((4, 8), 4.0, np.float32)


def test_disparity_and_depth_follow_from_each_other():
    of_depth = StereoSample("a", GREY, GREY, RIG, depth=DEPTH)
    of_disparity = StereoSample("a", GREY, GREY, RIG, lambda: np.full((4, 8), 0.5, np.float32))
    for sample in (of_depth, of_disparity):
        assert sample.has_truth
        np.testing.assert_allclose(sample.truth(), 0.5)
        np.testing.assert_allclose(sample.true_depth(), 4.0)
        np.testing.assert_allclose(DepthSample.of_pair(sample).truth(), 4.0)
    without_rig = StereoSample("a", GREY, GREY, depth=DEPTH)
    assert not without_rig.has_truth and without_rig.truth() is None
    nothing = StereoSample("a", GREY, GREY, RIG)
    assert nothing.truth() is None and nothing.true_depth() is None and nothing.occluded() is None
    assert not DepthSample.of_pair(nothing).has_truth


def test_grey_images_stay_grey_where_raw_ones_are_asked_for():
    sample = StereoSample("a", GREY, lambda: GREY)
    assert [image.shape for image in sample.raw_images()] == [(4, 8)] * 2
    for image in sample.images():
        np.testing.assert_array_equal(image, np.dstack([GREY] * 3))


def test_sizes_that_differ_are_refused():
    with pytest.raises(FileError, match=r"a \(left\) is 8x4 pixels and a \(right\) 8x3"):
        StereoSample("a", GREY, GREY[:3]).images()
    with pytest.raises(FileError, match=r"a \(first\) is 8x4 pixels and a \(second\) 7x4"):
        FlowSample("a", GREY, GREY[:, 1:]).images()
    with pytest.raises(FileError, match="a: true depth is 8x3 pixels and its image 8x4"):
        StereoSample("a", GREY, GREY, RIG, depth=DEPTH[:3]).true_depth()
    with pytest.raises(FileError, match="a: no calibration"):
        StereoSample("a", GREY, GREY).require_rig()


def test_resizing_keeps_metres_and_scales_the_rig():
    depth = DEPTH.copy()
    depth[:, 4:] = 9.0
    small = StereoSample("a", GREY, GREY, RIG, depth=depth, stamp=7).resized(4, 2)
    assert small.rig == RIG.scaled(4, 2) and small.stamp == 7
    assert small.images()[0].shape == (2, 4, 3)
    np.testing.assert_array_equal(small.true_depth(), [[4, 4, 9, 9]] * 2)  # no mean across the edge
    np.testing.assert_allclose(small.truth(), RIG.fx / 2 * RIG.baseline / small.true_depth())
