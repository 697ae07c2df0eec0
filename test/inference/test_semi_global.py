"""The refinement of a network's disparity, on pairs whose disparity is known exactly."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator
from fg_depth_ros.inference.semi_global import REACH, refine

HEIGHT, WIDTH = 96, 160


def textured_pair(disparity, channels=3):
    """Return a pair of noise, smooth over some pixels, whose left image sees the right one moved by a disparity."""
    rng = np.random.default_rng(5)
    right = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.float32), (0, 0), 1.2)
    right = np.clip(128 + 3 * (right - 128), 0, 255)
    xs, ys = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
    left = cv2.remap(right, xs - disparity, ys, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    left, right = (np.clip(image, 0, 255).astype(np.uint8) for image in (left, right))
    return (left, right) if channels == 3 else (np.array(left[..., 0]), np.array(right[..., 0]))


def slanted():
    return np.tile(np.linspace(12, 30, WIDTH, dtype=np.float32), (HEIGHT, 1)) + np.float32(0.3)


def inner(field):
    return field[8:-8, 40:-8]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("error", [-1.4, 0.8])
def test_a_prediction_beside_the_truth_comes_nearer(channels, error):
    truth = slanted()
    refined = refine(*textured_pair(truth, channels), truth + np.float32(error))
    assert refined.dtype == np.float32 and refined.shape == truth.shape
    assert np.abs(inner(refined - truth)).mean() < 0.4 * abs(error)


def test_a_prediction_at_a_smaller_size_is_corrected_farther():
    truth = slanted()
    pair, found = textured_pair(truth), truth + 3.2
    assert np.abs(inner(refine(*pair, found) - truth)).mean() > 2.5  # that much is no correction at full size
    assert np.abs(inner(refine(*pair, found, scale=0.5) - truth)).mean() < 0.8


def test_nothing_is_corrected_by_more_than_the_reach():
    rng = np.random.default_rng(6)
    pair = rng.integers(0, 256, (2, HEIGHT, WIDTH), dtype=np.uint8)  # unrelated
    found = slanted()
    assert np.abs(refine(*pair, found) - found).max() <= 0.7 * REACH + 1e-5


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_without_texture_the_prediction_stays(grey):
    flat = np.full((HEIGHT, WIDTH), grey, np.uint8)
    np.testing.assert_array_equal(refine(flat, flat, slanted()), slanted())


def test_pixels_whose_match_lies_outside_the_right_image_stay():
    truth = np.full((HEIGHT, WIDTH), 30.25, np.float32)
    found = truth + 1
    changed = refine(*textured_pair(truth), found) != found
    assert not changed[:, :31].any() and changed[:, 40:-8].mean() > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (40, 5), (6, 6), (7, 300)])
def test_small_images(shape):
    image = np.zeros(shape, np.uint8)
    assert refine(image, image, np.ones(shape, np.float32)).shape == shape


def test_images_that_are_views_of_others():
    """A mirrored view, as for the match of the right image, is not contiguous."""
    truth = slanted()
    left, right = textured_pair(truth)
    mirrored = refine(right[:, ::-1], left[:, ::-1], truth[:, ::-1])
    np.testing.assert_array_equal(
        mirrored, refine(*map(np.ascontiguousarray, (right[:, ::-1], left[:, ::-1], truth[:, ::-1])))
    )


def test_the_estimator_refines_what_a_stereo_network_finds():
    left, right = textured_pair(slanted())
    plain, refined = (
        StereoDepthEstimator(StereoConfig(refinement=kind, engine="torch", precision="float32"))
        for kind in ("off", "semi_global")
    )
    found = plain.match(left, right)
    np.testing.assert_array_equal(refined.match(left, right).disparity, refine(left, right, found.disparity))
    np.testing.assert_array_equal(refined.match(left, right).sigma, found.sigma)
    half = plain.match(left, right, scale=0.5).disparity
    np.testing.assert_array_equal(refined.match(left, right, scale=0.5).disparity, refine(left, right, half, 0.5))
    right_view = refine(right[:, ::-1], left[:, ::-1], plain.match_right(left, right)[:, ::-1])[:, ::-1]
    np.testing.assert_array_equal(refined.match_right(left, right), right_view)


@pytest.mark.parametrize("model", ["sgbm", "bm", "flownet_lite"])
def test_other_methods_are_not_refined(model):
    """A classical method is that itself; a flow network's match lies on another row."""
    pair = textured_pair(slanted())
    kinds = (StereoDepthEstimator(StereoConfig(model, refinement=kind)) for kind in ("off", "semi_global"))
    found = [estimator.match(*pair).disparity for estimator in kinds]
    np.testing.assert_array_equal(*found)


def test_an_unknown_refinement_is_named():
    with pytest.raises(ValueError, match="refinement 'sgbm' is unknown; choose one of semi_global, off"):
        StereoConfig(refinement="sgbm")
