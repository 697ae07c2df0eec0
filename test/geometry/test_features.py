"""What matched features say of the two cameras: a synthetic wall, a real pair with doffs, and public pairs."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from fg_depth_ros.data.io.formats import read_image
from fg_depth_ros.geometry.features import FeatureMatches, match_features


@pytest.fixture(scope="module")
def wall():
    """A textured wall at 12 px."""
    random = np.random.default_rng(0)
    texture = cv2.resize(random.integers(0, 256, (120, 166, 3), dtype=np.uint8), (332, 240))
    return np.ascontiguousarray(texture[:, :320]), np.ascontiguousarray(texture[:, 12:])


@pytest.fixture(scope="module")
def motorcycle():
    """The Motorcycle pair, whose principal columns differ by 31 px: swapped, a quarter of it still lies in front."""
    data = pytest.importorskip("skimage.data")
    return data.stereo_motorcycle()[:2]


def test_matches_are_counted_by_what_they_contradict(wall):
    found = match_features(*wall, 0.0)
    assert found.count >= 40
    assert (found.as_given, found.swapped) == (found.count, 0)
    assert abs(found.vertical) < 0.3
    # 12 px are neither beyond 20 px nor below -20 px: nothing is said
    undecided = match_features(*wall, 20.0)
    assert (undecided.as_given, undecided.swapped, undecided.problem) == (0, 0, None)


@pytest.mark.parametrize("doffs", [-31.086, 0.0, 31.086])
def test_swapped_cameras_are_found_whatever_the_principal_columns(motorcycle, doffs):
    left, right = motorcycle
    # The pair has doffs 31.086; columns cut off the right image give it others.
    cut = round(31.086 - doffs)
    width = left.shape[1] - cut
    left, right = left[:, :width], right[:, cut:] if cut else right
    assert match_features(left, right, doffs).problem is None
    assert "swapped" in match_features(right, left, doffs).problem


def test_swapped_images_of_a_far_scene_say_nothing_where_principal_columns_converge(wall):
    """12 px and doffs 20 are 32 px from infinity, swapped 8 px: both in front. Doffs 5: 17 px, swapped -7 px."""
    left, right = wall
    assert match_features(right, left, 20.0).problem is None
    assert "swapped" in match_features(right, left, 5.0).problem


def test_cameras_that_are_upside_down_are_found(motorcycle):
    left, right = motorcycle
    turned_left, turned_right = (np.ascontiguousarray(image[::-1, ::-1]) for image in motorcycle)
    assert "upside down" in match_features(left, turned_right, 31.086).problem
    assert "upside down" in match_features(turned_left, right, 31.086).problem
    assert "swapped" in match_features(turned_left, turned_right, 31.086).problem


def test_a_vertical_shift_is_measured(wall):
    left, right = wall
    assert match_features(left, np.roll(right, 3, axis=0), 0.0).vertical == pytest.approx(3.0, abs=0.3)


def test_several_pairs_decide_together():
    few = FeatureMatches(matched=15, count=15, swapped=14, as_given=1)
    assert few.problem is None
    assert "swapped" in (few + few + few).problem
    assert (few + FeatureMatches(vertical=1.0) + FeatureMatches()).vertical == 1.0


def test_images_without_features_say_nothing():
    grey = np.full((100, 120), 90, np.uint8)
    assert match_features(grey, grey, 0.0) == FeatureMatches()


def test_public_pairs_are_told_from_swapped_ones():
    root = os.environ.get("FG_DEPTH_DATA")
    if not root:
        pytest.skip("FG_DEPTH_DATA names no folder with public sets")
    lefts = sorted((Path(root) / "stereo" / "kitti2015" / "image_2").glob("*_10.png"))
    lefts += sorted((Path(root) / "stereo").glob("middlebury200*/*/view1.png"))
    assert len(lefts) > 20
    for path in lefts:
        other = path.with_name("view5.png") if path.name == "view1.png" else path.parents[1] / "image_3" / path.name
        left, right = read_image(path), read_image(other)
        assert match_features(left, right, 0.0).problem is None, path
        assert "swapped" in (match_features(right, left, 0.0).problem or ""), path
