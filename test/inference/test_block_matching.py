"""The classical matchers against OpenCV called as stereo_image_proc calls it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fg_depth_ros.data.datasets.stereo import motorcycle
from fg_depth_ros.inference import BlockMatcher, BlockMatching, StereoConfig, StereoDepthEstimator

# The defaults of stereo_image_proc's disparity node.
UPSTREAM = BlockMatching(
    correlation_window_size=15, prefilter_cap=31, texture_threshold=10, uniqueness_ratio=15.0,
    speckle_size=100, speckle_range=4, disp12_max_diff=0, P1=200.0, P2=400.0, sgbm_mode=0,
)  # fmt: skip
RANGE = 64


@pytest.mark.parametrize("model", ["sgbm", "bm"])
@pytest.mark.parametrize(
    "values",
    [
        {"min_disparity": -2048}, {"min_disparity": 1900}, {"max_disparity": 2049},
        {"min_disparity": 1, "max_disparity": 2048}, {"min_disparity": -1100, "inference_scale": 2.0},
    ],
)  # fmt: skip
def test_a_range_that_fixed_point_cannot_hold_is_refused(model: str, values: dict) -> None:
    with pytest.raises(ValueError, match=f"{model} finds disparities of -2047 to 2047 px, and would search from "):
        StereoConfig(model=model, **values)
    StereoConfig(**values)  # of no use to a network


def test_the_ends_of_fixed_point_are_searched() -> None:
    random = np.random.default_rng(0).integers(0, 256, (40, 5000), np.uint8)
    left, right = random[:, :400], random[:, 2040:2440]  # 2040 px to the left, beyond the image
    for first, last in ((-2047, -2032), (2032, 2047)):
        found = BlockMatcher("sgbm", 16).match(left, right, first).disparity
        answered = found[np.isfinite(found)]
        assert answered.size < found.size and (answered >= first).all() and (answered <= last).all()
    with pytest.raises(ValueError, match="would search from -2048 to -2033 px"):
        BlockMatcher("sgbm", 16).match(left, right, -2048)


@pytest.fixture(scope="module")
def grey() -> tuple[np.ndarray, np.ndarray]:
    left, right = motorcycle().resized(741, 500).images()
    return cv2.cvtColor(left, cv2.COLOR_RGB2GRAY), cv2.cvtColor(right, cv2.COLOR_RGB2GRAY)


def as_upstream(name: str, left: np.ndarray, right: np.ndarray, o: BlockMatching, first: int) -> np.ndarray:
    """Set OpenCV's matcher up one setter after the other, as that node does; NaN where it has no match."""
    matcher = cv2.StereoBM.create() if name == "bm" else cv2.StereoSGBM.create(1, 1, 10)
    if name == "bm":
        matcher.setPreFilterSize(9)
        matcher.setTextureThreshold(o.texture_threshold)
    else:
        matcher.setMode(o.sgbm_mode)
        matcher.setP1(int(o.P1))
        matcher.setP2(int(o.P2))
        matcher.setDisp12MaxDiff(o.disp12_max_diff)
    matcher.setPreFilterCap(int(o.prefilter_cap))
    matcher.setBlockSize(int(o.correlation_window_size))
    matcher.setMinDisparity(first)
    matcher.setNumDisparities(RANGE)
    matcher.setUniquenessRatio(int(o.uniqueness_ratio))
    matcher.setSpeckleWindowSize(o.speckle_size)
    matcher.setSpeckleRange(int(o.speckle_range))
    disparity = matcher.compute(left, right).astype(np.float32) / 16
    disparity[disparity < first] = np.nan
    return disparity


@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize("name", ["bm", "sgbm"])
def test_with_the_options_of_stereo_image_proc_the_disparity_is_its_disparity(
    name: str, first: int, grey: tuple[np.ndarray, np.ndarray]
) -> None:
    config = StereoConfig(model=name, max_disparity=RANGE, min_disparity=first, block_matching=UPSTREAM)
    found = StereoDepthEstimator(config).match(*grey).disparity
    expected = as_upstream(name, *grey, UPSTREAM, first)
    inner = np.s_[20:-20, RANGE + first + 20 : -20]  # where the whole range lies in the right image
    agree = (np.isnan(found) == np.isnan(expected)) & ~(np.abs(found - expected) > 0)
    # Local matching knows nothing of the borders that were added; paths of the semi-global one begin there.
    assert agree[inner].mean() > (0.999 if name == "bm" else 0.95)
    assert np.isfinite(expected[inner]).mean() > 0.3


@pytest.mark.parametrize("name", ["bm", "sgbm"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("correlation_window_size", 9), ("prefilter_cap", 45), ("texture_threshold", 2000),
        ("uniqueness_ratio", 60.0), ("speckle_size", 1000), ("speckle_range", 1), ("disp12_max_diff", 100),
        ("P1", 3000.0), ("P2", 600.0), ("sgbm_mode", 0),
    ],
)  # fmt: skip
def test_every_option_reaches_the_matchers_that_have_it(
    name: str, option: str, value: float, grey: tuple[np.ndarray, np.ndarray]
) -> None:
    left, right = (image[150:400, 150:600] for image in grey)
    plain = BlockMatcher(name, RANGE).match(left, right).disparity
    changed = BlockMatcher(name, RANGE, BlockMatching(**{option: value})).match(left, right).disparity
    only = {"bm": {"texture_threshold"}, "sgbm": {"disp12_max_diff", "P1", "P2", "sgbm_mode"}}
    foreign = only["sgbm" if name == "bm" else "bm"]
    assert np.array_equal(plain, changed, equal_nan=True) == (option in foreign)


@pytest.mark.parametrize("name", ["bm", "sgbm"])
def test_grey_images_give_the_same_with_one_and_with_three_channels(
    name: str, grey: tuple[np.ndarray, np.ndarray]
) -> None:
    colour = [np.repeat(image[..., None], 3, -1) for image in grey]
    matcher = BlockMatcher(name, RANGE)
    found = matcher.match(*colour).disparity
    np.testing.assert_array_equal(found, matcher.match(*grey).disparity)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"correlation_window_size": 4}, r"correlation_window_size must be auto or lie in 5 \.\. 255, got 4"),
        ({"correlation_window_size": 8}, "correlation_window_size must be odd, got 8: choose 7 or 9"),
        ({"prefilter_cap": "high"}, r"prefilter_cap must be auto or lie in 1 \.\. 63, got high"),
        ({"sgbm_mode": 4}, r"sgbm_mode must lie in 0 \.\. 3, got 4"),
        ({"P1": float("nan")}, r"P1 must lie in 0 \.\. 4000, got nan"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BlockMatching(**options)  # type: ignore[arg-type]


def test_a_window_larger_than_the_images_is_named() -> None:
    image = np.zeros((20, 60), np.uint8)
    with pytest.raises(
        ValueError, match="60x20 pixels, and bm compares windows of 21: set correlation_window_size lower"
    ):
        BlockMatcher("bm", 16, BlockMatching(correlation_window_size=21)).match(image, image)
