"""Samples from memory: what is computed from what, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fg_depth_ros.data.datasets.stereo import HalfImage, RectifiedImage, open_stereo_folder
from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.data.samples import DepthSample, FlowSample, StereoSample, frame_slice
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.geometry.rectification import Rectification

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


def test_a_grey_and_a_colour_image_are_both_read_in_colour():
    colour = np.dstack([GREY, GREY + 1, GREY + 2])
    for sides in ((GREY, colour), (colour, GREY)):
        found = StereoSample("a", *sides).raw_images()
        for image, side in zip(found, sides, strict=True):
            np.testing.assert_array_equal(image, side if side is colour else np.dstack([GREY] * 3))


def test_images_of_more_than_8_bits_have_one_white_for_both(tmp_path):
    """Left 12 bits, and right so dark that its own values would fit into 10: 800 of 4095 is 50 of 255."""
    left, right = np.full((4, 8), 4095, np.uint16), np.full((4, 8), 800, np.uint16)
    write_image(tmp_path / "left.png", left)
    write_image(tmp_path / "right.png", right)
    whole = np.hstack([left, right])
    rectification = Rectification.of_rectified(RIG)
    for sides in (
        (tmp_path / "left.png", tmp_path / "right.png"),
        (left, lambda: right),
        (HalfImage(whole, False), HalfImage(whole, True)),
        (RectifiedImage(tmp_path / "left.png", rectification, 0), RectifiedImage(right, rectification, 1)),
    ):
        found = StereoSample("a", *sides).images()
        assert [(image.dtype, int(image.min()), int(image.max())) for image in found] == [
            (np.uint8, 255, 255), (np.uint8, 50, 50)
        ]  # fmt: skip
    assert DepthSample("a", tmp_path / "right.png", 10.0).image_rgb().max() == round(800 / 1023 * 255)


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


def test_a_part_of_the_samples_is_named_as_a_slice():
    assert list(range(10))[frame_slice("-3:")] == [7, 8, 9] and list(range(3))[frame_slice("")] == [0, 1, 2]
    for text in ("80", "a:b", "1:2:3"):
        with pytest.raises(ValueError, match=f"frames '{text}' are not FIRST:LAST, such as 0:80"):
            frame_slice(text)


def test_the_16_bit_images_of_a_folder_have_one_white(tmp_path, caplog):
    """A camera of 12 bits: most of its pairs would fit into 10."""
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
    largest = [1000] * 5 + [1100] * 2
    for number, value in enumerate(largest):
        for side in ("left", "right"):
            write_image(tmp_path / side / f"{number}.png", np.full((4, 8), value, np.uint16))
    (tmp_path / "rig.json").write_text(json.dumps(RIG.to_dict()))
    samples = open_stereo_folder(tmp_path)
    expected = [round(value * 255 / 4095) for value in largest]
    assert [int(sample.raw_images()[0].max()) for sample in samples] == expected
    assert [int(sample.images()[1].max()) for sample in samples] == expected
    assert [int(DepthSample.of_pair(sample).image_rgb().max()) for sample in samples] == expected
    assert int(replace(samples[0], name="other").images()[0].max()) == expected[0]
    assert "clipped" not in caplog.text


def test_a_white_that_is_too_low_for_an_image_is_said(caplog):
    bright = np.full((4, 8), 4000, np.uint16)
    (left, _) = StereoSample("a", bright, bright, white=lambda: 1023).raw_images()
    assert left.max() == 255
    assert "a: values need 12 bits, but the other images seemed to have 10" in caplog.text
