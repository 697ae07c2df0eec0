"""Rectification against a forward model and a rendered world; camera_infos that it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from support.raw_cameras import LENSES, SIZE, RawRig, share_true

from fg_depth_ros.geometry import RigError, camera_info_doubts
from fg_depth_ros.geometry.rectification import RawCamera, Rectification, is_named_rectified, raw_sides
from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator

RAW = ("/left/image_raw", "/right/image_raw")
RECTIFIED = ("/left/image_rect", "/right/image_rect")


def infos(model="plumb_bob"):
    return [RawRig(model).camera_info(side) for side in (0, 1)]


# ---- depth of a world -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", LENSES)
def test_depth_of_a_rendered_distorted_world_is_true(model):
    world = RawRig(model)
    rectification = Rectification.from_camera_info(*infos(model))
    rig, images = rectification.rig, [world.raw_image(side) for side in (0, 1)]
    estimator = StereoDepthEstimator(StereoConfig(model="sgbm", max_disparity=64))
    truth = world.true_depth(rig.P_left()[:, :3], SIZE)
    depth = estimator.estimate(*(rectification.apply(image, side) for side, image in enumerate(images)), rig).depth
    assert np.isfinite(depth).mean() > 0.5
    assert share_true(depth, truth) > 0.97
    raw = estimator.estimate(*images, rig).depth
    assert np.mean(np.isfinite(raw)) * share_true(raw, truth) < 0.25  # so the test can tell


def test_colour_is_rectified_as_grey_is():
    grey = RawRig("plumb_bob").raw_image(0)
    rectification = Rectification.from_camera_info(*infos())
    colour = rectification.apply(np.repeat(grey[..., None], 3, 2), 0)
    np.testing.assert_array_equal(colour[..., 1], rectification.apply(grey, 0))
    with pytest.raises(RigError, match="the right image is 160x240 pixels and the calibration for 320x240"):
        rectification.apply(grey[:, :160], 1)


# ---- maps -------------------------------------------------------------------------------------------------------


def decoded(maps):
    """Float maps of fixed-point ones, H x W x 2: 5 bits of a pixel's fraction each way."""
    whole, fraction = maps
    return whole + np.stack([fraction & 31, fraction >> 5 & 31], axis=-1) / 32


def test_a_pixel_of_the_rectified_image_comes_from_where_the_forward_model_puts_it():
    world = RawRig("equidistant")
    found = Rectification.from_camera_info(*infos("equidistant"))
    for side, projection in enumerate((found.rig.P_left(), found.rig.P_right())):
        ray = np.linalg.inv(projection[:, :3]) @ [70.0, 50.0, 1.0]
        x, y, z = world.rectified()[side].T @ ray
        (expected,) = world.project(side, np.array([[x / z, y / z]]))
        np.testing.assert_allclose(decoded(found.maps[side])[50, 70], expected, atol=1 / 32)


# ---- region of interest and binning -----------------------------------------------------------------------------


def window(cameras, **more):
    return [SimpleNamespace(**{**vars(camera), **more}) for camera in cameras]


def test_a_region_of_interest_gives_that_part_of_the_rectified_image():
    """As image_geometry reads it: the same window in the raw and in the rectified image."""
    raw = RawRig("plumb_bob").raw_image(0)
    whole = Rectification.from_camera_info(*infos()).apply(raw, 0)
    roi = SimpleNamespace(x_offset=60, y_offset=40, width=200, height=150)
    part = Rectification.from_camera_info(*window(infos(), roi=roi))
    assert (part.size, part.rig.width, part.rig.height) == ((200, 150), 200, 150)
    found = part.apply(np.ascontiguousarray(raw[40:190, 60:260]), 0)
    inside = np.s_[20:-20, 20:-20]  # the raw window has no pixels for its rectified border
    difference = np.abs(found[inside].astype(int) - whole[40:190, 60:260][inside])
    assert difference.max() <= 1


def test_binning_gives_the_binned_rectified_image():
    cameras = window(infos(), binning_x=2, binning_y=2)
    half = Rectification.from_camera_info(*cameras)
    assert half.size == (160, 120)
    # A raw image sampled at the even pixels is what `c' = c / binning` describes.
    raw = RawRig("plumb_bob").raw_image(0)
    whole = Rectification.from_camera_info(*infos())
    np.testing.assert_allclose(decoded(half.maps[0]), decoded(whole.maps[0])[::2, ::2] / 2, atol=1 / 32)
    assert half.apply(np.ascontiguousarray(raw[::2, ::2]), 0).shape == (120, 160)


# ---- what is raw ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("topic", "rectified"), [
    ("/left/image_rect", True), ("left/image_rect_color", True), ("/left/image_rect/compressed", True),
    ("/camera/infra1/image_rect_raw", True), ("/zed/zed_node/left/color/rect/image", True),
    ("/zed/zed_node/left_rectified/image", True), ("/left_image_rect", True),
    ("/left/image_raw", False), ("/zed/zed_node/left/color/raw/image", False), ("/left/image", False),
    ("/rect_robot/left/image_raw", False), ("/rect/left/image", False), ("/rect/image_raw", False),
    ("/left/image_raw/compressed", False), ("/left/rectangle", False), ("/direct/image", False),
    ("/left/image_not_rectified", False), ("/left/image_to_rectify", False), ("/rect/non_rect", False),
    ("/left/unrectified/image", False), ("/left/image_rect2", True),
])  # fmt: skip
def test_a_topic_is_named_as_rectified_by_whole_words_of_its_end(topic, rectified):
    assert is_named_rectified(topic) == rectified


def test_auto_takes_names_before_the_calibration():
    distorted, plain = infos(), window(infos(), d=[0.0] * 5, r=np.eye(3).ravel())
    assert raw_sides(*distorted, RAW, "auto") == (True, True)
    assert raw_sides(*distorted, RECTIFIED, "auto") == (False, False)  # drivers leave the raw D there
    assert raw_sides(*distorted, (RECTIFIED[0], RAW[1]), "auto") == (False, True)
    assert raw_sides(*plain, RAW, "auto") == (False, False)
    assert raw_sides(*window(plain, r=[0.0] * 9, d=[]), RAW, "auto") == (False, False)
    assert raw_sides(plain[0], distorted[1], RAW, "auto") == (True, True)  # P of the pair is of both
    turned = window(plain, r=cv2.Rodrigues(np.array([0, 0, 0.001]))[0].ravel())
    assert raw_sides(*turned, RAW, "auto") == (True, True)
    assert raw_sides(*plain, RECTIFIED, "on") == (True, True)
    assert raw_sides(*distorted, RAW, "off") == (False, False)


def test_a_pair_with_one_raw_image_rectifies_that_one():
    left, right = infos()
    del left.k, left.d, left.r
    found = Rectification.from_camera_info(left, right, (False, True))
    assert found.sides == (False, True)
    image = RawRig("plumb_bob").raw_image(1)
    assert found.apply(image, 0) is image
    assert not np.array_equal(found.apply(image, 1), image)


# ---- what cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "words"), [
    ({"distortion_model": "fov"}, ["left camera_info: distortion_model is 'fov', which is none of plumb_bob"]),
    ({"distortion_model": ""}, ["distortion_model is ''"]),
    ({"d": [0.1, float("nan"), 0, 0, 0]}, ["left camera_info: d is [0.1, nan", "finite"]),
    ({"d": [0.1, 0.1, 0.1]}, ["d has 3 numbers, plumb_bob takes 4, 5, 8, 12, 14"]),
    ({"d": [0.1] * 5, "distortion_model": "equidistant"}, ["d has 5 numbers, equidistant takes 4"]),
    ({"k": [0.0] * 9}, ["left camera_info: k is all zeros", "calibrate"]),
    ({"k": []}, ["k has 0 numbers"]),
    ({"k": [float("nan")] * 9}, ["k is [nan", "finite"]),
    ({"r": [0.0] * 9}, ["r is all zeros", "stereo pair"]),
    ({"r": [2.0] * 9}, ["r is [2.0", "no rotation matrix"]),
])  # fmt: skip
def test_what_rectification_cannot_use_is_named_with_the_way_out(changes, words):
    left, right = infos()
    left = SimpleNamespace(**{**vars(left), **changes})
    with pytest.raises(RigError) as caught:
        Rectification.from_camera_info(left, right)
    for word in [*words, "set rectify to off"]:
        assert word in str(caught.value)
    assert Rectification.from_camera_info(left, right, (False, False)).sides == (False, False)


def test_models_of_two_kinds_and_pairs_without_baseline_are_refused():
    left, right = infos("plumb_bob")[0], infos("equidistant")[1]
    right.p = infos("plumb_bob")[1].p
    with pytest.raises(RigError, match="left camera_info has distortion_model 'plumb_bob' and right 'equidistant'"):
        Rectification.from_camera_info(left, right)
    left, right = infos()
    right.p[3] = 0.0  # each calibrated alone
    with pytest.raises(RigError, match="baseline is zero.*calibrate both cameras together as a stereo pair"):
        Rectification.from_camera_info(left, right)
    right.p = [0.0] * 12
    with pytest.raises(RigError, match="right camera_info: p is all zeros: the camera is not calibrated"):
        Rectification.from_camera_info(left, right)


def test_zeros_behind_the_coefficients_do_not_matter():
    full = RawCamera.of_model(np.eye(3), "plumb_bob", [-0.2, 0.1, 0, 0, 0, 0, 0])
    assert full.distortion.tolist() == [-0.2, 0.1, 0, 0]
    assert RawCamera.of_model(np.eye(3), "equidistant", [0.1, 0, 0, 0, 0]).distortion.tolist() == [0.1, 0, 0, 0]
    assert RawCamera.of_model(np.eye(3), "", []).distortion.tolist() == [0, 0, 0, 0]


def test_a_matrix_that_repeats_k_is_no_doubt_where_the_pair_is_rectified_here():
    cameras = infos()
    for camera, shift in zip(cameras, (0.0, -25.0), strict=True):
        camera.k = infos()[0].k
        camera.p = np.insert(np.reshape(camera.k, (3, 3)), 3, [shift, 0, 0], axis=1).ravel().tolist()
    assert any("p repeats k" in doubt for doubt in camera_info_doubts(*cameras))
    assert not any("p repeats k" in doubt for doubt in camera_info_doubts(*cameras, (True, True)))
