"""Depth, warping and clouds against hand-computed numbers and an analytic scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fg_depth_ros.data.datasets.stereo import motorcycle
from fg_depth_ros.geometry import (
    StereoRig,
    depth_sigma,
    depth_to_disparity,
    disparity_to_depth,
    organised_points,
    warp_right_to_left,
)

RIG = StereoRig(640, 480, 500.0, 400.0, 320.0, 240.0, 324.0, 0.12)  # f * B = 60 px m, doffs 4 px


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_depth_of_hand_computed_disparities(kind):
    disparity = kind([[56.0, 26.0, 2.0, -4.0, -5.0, float("nan")]])
    depth = disparity_to_depth(disparity, RIG)
    assert str(depth.dtype).endswith("float32")
    np.testing.assert_allclose(np.asarray(depth), [[1.0, 2.0, 10.0, np.nan, np.nan, np.nan]], rtol=1e-6)
    back = depth_to_disparity(depth, RIG)
    np.testing.assert_allclose(np.asarray(back), [[56, 26, 2, np.nan, np.nan, np.nan]], rtol=1e-5)


def test_depth_that_is_no_depth_has_no_disparity():
    assert np.isnan(depth_to_disparity(np.array([0.0, -1.0, np.inf, np.nan]), RIG)).all()


def test_anything_but_arrays_and_tensors_is_refused():
    with pytest.raises(TypeError, match="list"):
        disparity_to_depth([1.0], RIG)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_sigma_of_depth_is_the_slope_times_sigma_of_disparity(kind):
    sigma = depth_sigma(kind([1.0, 2.0, 10.0]), kind([0.5, 0.5, 0.3]), RIG)
    np.testing.assert_allclose(np.asarray(sigma), [0.5 / 60, 2.0 / 60, 0.5], rtol=1e-6)
    # and the slope is the true one: finite difference around 2 m (26 px)
    ends = disparity_to_depth(np.array([25.9, 26.1]), RIG)
    assert (ends[0] - ends[1]) / 0.2 * 0.5 == pytest.approx(2.0 / 60, rel=1e-3)


def test_motorcycle_depth_matches_its_calibration():
    sample = motorcycle()
    truth = sample.truth()
    depth = disparity_to_depth(truth, sample.rig)
    # Middlebury 2014 documents Z = baseline * f / (d + doffs), in mm with the millimetre baseline.
    row, column = 250, 300
    expected = 193.001 * 994.978 / (truth[row, column] + 31.086) / 1000.0
    assert depth[row, column] == pytest.approx(expected, rel=1e-5)
    assert np.nanmin(depth) > 2.0
    assert np.nanmax(depth) < 5.1
    assert np.isnan(depth[np.isnan(truth)]).all()


def test_metres_do_not_depend_on_the_image_size():
    sample = motorcycle()
    truth = sample.truth()[:, :740]
    rig = StereoRig.from_dict({**sample.rig.to_dict(), "width": 740})
    half = truth[::2, ::2] / 2  # the same surfaces, seen with half the pixels
    np.testing.assert_allclose(
        disparity_to_depth(half, rig.scaled(370, 250)), disparity_to_depth(truth, rig)[::2, ::2], rtol=1e-5
    )


def test_cloud_points_are_the_back_projected_pixels():
    depth = np.full((480, 640), 2.0, dtype=np.float32)
    depth[0, 0], depth[0, 2] = np.nan, np.inf
    points = organised_points(depth, RIG)
    assert points.shape == (480, 640, 3)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points[240, 320], [0, 0, 2])
    np.testing.assert_allclose(points[340, 420], [100 * 2 / 500, 100 * 2 / 400, 2], rtol=1e-6)
    assert np.isnan(points[0, 0]).all()
    assert np.isnan(points[0, 2]).all()
    np.testing.assert_array_equal(organised_points(depth, RIG, stride=3), points[::3, ::3])


def test_cloud_refuses_a_depth_of_another_size():
    with pytest.raises(ValueError, match=r"320x240.*640x480.*scaled"):
        organised_points(np.ones((240, 320), np.float32), RIG)
    with pytest.raises(ValueError, match="stride is 0"):
        organised_points(np.ones((480, 640), np.float32), RIG, stride=0)


def test_projecting_the_cloud_into_the_right_camera_lands_on_the_match():
    sample = motorcycle()
    truth = sample.truth()
    points = organised_points(disparity_to_depth(truth, sample.rig), sample.rig)[::37, ::41].reshape(-1, 3)
    pixel = np.c_[points, np.ones(len(points))] @ sample.rig.P_right().T
    rows, columns = np.mgrid[0:500:37, 0:741:41]
    known = np.isfinite(points[:, 2])
    matched = (columns - truth[::37, ::41]).reshape(-1)[known]
    np.testing.assert_allclose((pixel[:, 0] / pixel[:, 2])[known], matched, atol=1e-3)
    np.testing.assert_allclose((pixel[:, 1] / pixel[:, 2])[known], rows.reshape(-1)[known], atol=1e-3)


def ramp() -> np.ndarray:
    return np.tile(np.arange(8, dtype=np.float32) * 10, (3, 1))


def test_warping_a_ramp_interpolates_and_tells_what_is_outside():
    disparity = np.full((3, 8), 1.5, dtype=np.float32)
    disparity[1, 4] = np.nan
    disparity[2, 7] = -0.5  # match at 7.5, outside
    warped, valid = warp_right_to_left(ramp(), disparity)
    np.testing.assert_allclose(warped[0], [0, 0, 5, 15, 25, 35, 45, 55])
    assert valid[0].tolist() == [False] * 2 + [True] * 6
    assert not valid[1, 4]
    assert warped[1, 4] == 0
    assert not valid[2, 7]
    assert warped[2, 7] == 0


def test_torch_numpy_and_channels_warp_alike():
    rng = np.random.default_rng(1)
    image = rng.random((6, 9, 3)).astype(np.float32)
    disparity = rng.uniform(-2, 5, (6, 9)).astype(np.float32)
    expected, valid = warp_right_to_left(image, disparity)
    single, _ = warp_right_to_left(image[..., 1], disparity)
    np.testing.assert_array_equal(single, expected[..., 1])
    got, got_valid = warp_right_to_left(
        torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(disparity)[None, None]
    )
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(got_valid[0, 0].numpy(), valid)


def test_torch_warping_is_differentiable_in_the_disparity():
    image = torch.from_numpy(ramp())[None, None]
    disparity = torch.full((1, 1, 3, 8), 1.5, requires_grad=True)
    warped, valid = warp_right_to_left(image, disparity)
    warped.sum().backward()
    # The ramp rises by 10 per pixel, so moving the match left by one pixel lowers the value by 10.
    np.testing.assert_allclose(disparity.grad[valid].numpy(), -10.0)
    assert (disparity.grad[~valid] == 0).all()


def test_warping_with_true_disparity_reproduces_the_left_photo():
    sample = motorcycle()
    left, right = sample.images()
    warped, valid = warp_right_to_left(right, sample.truth())
    unaligned = np.abs(right.astype(float) - left)[valid].mean()
    assert np.abs(warped - left)[valid].mean() < 0.25 * unaligned


@pytest.mark.parametrize(
    ("image", "disparity"),
    [
        (np.zeros((4, 5)), np.zeros((4, 6))),
        (np.zeros((4, 5)), np.zeros((1, 4, 5))),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5)),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 1, 4, 6)),
    ],
)
def test_warping_refuses_shapes_that_do_not_fit(image, disparity):
    with pytest.raises(ValueError, match="disparity"):
        warp_right_to_left(image, disparity)
