"""``StereoDepthEstimator``: a rectified pair and its rig in, metric depth and all that belongs to it out.

The node, the command line and the evaluation use this one object, so that all of them give the same numbers.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from fg_depth_ros import geometry
from fg_depth_ros.geometry import Label, StereoRig
from fg_depth_ros.inference.matchers import PRECISIONS, Match, Matcher, create_matcher, known_models
from fg_depth_ros.inference.running import MethodRunner

CHECKS = ("one_pass", "two_pass", "off")
# What an estimate works out of its pair: filling changes none of it.
_OF_THE_PAIR = ("disparity", "flow", "matched_labels", "matched_mask", "matched_depth", "depth_sigma", "_raw_depth")


@dataclass(frozen=True)
class EstimatorConfig:
    """How to estimate. Raises ValueError for values out of range, naming the way out."""

    model: str = "flownet_stereo"
    """Network or classical method."""
    weights: str = ""
    """Path of a weights file; empty = the shipped weights."""
    device: str = "auto"
    """auto, cpu, cuda:N."""
    precision: str = "float32"
    """float32, bfloat16 or float16."""
    min_depth: float = 0.1
    """Nearer pixels are out of range, m."""
    max_depth: float = 80.0
    """Farther pixels are out of range, m."""
    left_right_check: str = "one_pass"
    """one_pass: half-occlusions found in the left disparity alone; two_pass: the right view is matched too, at twice
    the time; off."""
    left_right_threshold: float = 1.5
    """Largest difference in that check, px."""
    max_sigma: float = 0.0
    """Pixels less certain than this are low confidence, px of disparity; 0 = off."""
    inference_scale: float = 1.0
    """The images are resized by this factor for matching; below 1 it is faster and reaches larger disparities."""
    min_disparity: int = 0
    """Where the search begins, px of image disparity. Objects at infinity have ``-doffs``: set this to it (rounded
    down) for a rig whose right principal point lies right of the left one."""
    max_disparity: int = 192
    """Search range of the classical methods, px at the matched size."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("model", self.model, known_models()),
            ("precision", self.precision, tuple(PRECISIONS)),
            ("left_right_check", self.left_right_check, CHECKS),
        ):
            if value not in known:
                raise ValueError(f"{name} '{value}' is unknown; choose one of {', '.join(known)}")
        if not 0 < self.min_depth < self.max_depth < math.inf:
            raise ValueError(f"need 0 < min_depth < max_depth, got {self.min_depth} and {self.max_depth} m")
        if not 0.1 <= self.inference_scale <= 4:
            raise ValueError(f"inference_scale must lie in 0.1 .. 4, got {self.inference_scale}")
        if not -1024 <= self.min_disparity <= 1024:
            raise ValueError(f"min_disparity must lie in -1024 .. 1024 px, got {self.min_disparity}")
        if not 16 <= self.max_disparity <= 1024:
            raise ValueError(f"max_disparity must lie in 16 .. 1024 px, got {self.max_disparity}")
        if self.left_right_threshold <= 0 or self.max_sigma < 0:
            raise ValueError(
                f"left_right_threshold must be positive and max_sigma not negative, got {self.left_right_threshold} "
                f"and {self.max_sigma} px"
            )


@dataclass(frozen=True)
class StereoEstimate:
    """Everything known about one pair, in the left camera's view. Depth and masks are worked out when first asked for.

    ``matched``: H x W float32 px, x_left - x_right, what the method answered; NaN where it has no answer.
    ``disparity_sigma``: H x W float32 px, one standard deviation, or None where the method does not know.
    ``seconds``: time the matching took.
    ``filling``: H x W float32 m, depth from the left image alone at the scale of the pair's, for the holes; or None.
    """

    rig: StereoRig
    matched: np.ndarray
    disparity_sigma: np.ndarray | None
    right_disparity: np.ndarray | None
    config: EstimatorConfig
    seconds: float
    filling: np.ndarray | None = None

    @classmethod
    def from_mono(cls, depth: np.ndarray, rig: StereoRig, config: EstimatorConfig, seconds: float) -> StereoEstimate:
        """What the left image alone gives, for lack of a right one: nothing is matched, everything is filled.

        ``depth``: H x W float32 m. Of ``rig`` only the left camera counts.
        """
        nothing = np.full(depth.shape, np.nan, np.float32)
        # Where nothing was matched, nothing can be checked.
        return cls(rig, nothing, None, None, replace(config, left_right_check="off"), seconds, depth)

    def filled(self, depth: np.ndarray) -> StereoEstimate:
        """The same with its holes filled from ``depth`` (H x W float32 m, at the scale of this one) where that lies in
        the range. Disparity, flow and uncertainty stay as they are.

        Raises ValueError when the sizes differ.
        """
        if depth.shape != self.matched.shape:
            raise ValueError(
                f"depth to fill with is {depth.shape}, the estimate {self.matched.shape}: sizes must agree"
            )
        other = replace(self, filling=depth)
        vars(other).update({name: value for name, value in vars(self).items() if name in _OF_THE_PAIR})
        return other

    @cached_property
    def disparity(self) -> np.ndarray:
        """H x W float32 px, x_left - x_right, not masked. A dense answer is completed where the right camera cannot
        see (``geometry.complete_occluded``); a method that leaves holes keeps them, NaN.
        """
        return _completed(self.matched, self.config)

    @cached_property
    def labels(self) -> np.ndarray:
        """H x W uint8, one ``geometry.Label`` a pixel. A hole that is not filled keeps its reason."""
        if self.filling is None:
            return self.matched_labels
        usable = (self.filling >= self.config.min_depth) & (self.filling <= self.config.max_depth)
        return np.where(usable & ~self.matched_mask, np.uint8(Label.FILLED_FROM_MONO), self.matched_labels)

    @cached_property
    def matched_labels(self) -> np.ndarray:
        """The labels before anything is filled, H x W uint8."""
        config, mismatch, unsure = self.config, None, None
        if self.right_disparity is not None:
            mismatch = geometry.left_right_mismatch(self.matched, self.right_disparity, config.left_right_threshold)
        elif config.left_right_check == "one_pass":
            mismatch = geometry.hidden_by_nearer(self.matched, config.left_right_threshold)
        if config.max_sigma > 0 and self.disparity_sigma is not None:
            unsure = self.disparity_sigma > config.max_sigma
        return geometry.label_pixels(
            self._raw_depth,
            min_depth=config.min_depth,
            max_depth=config.max_depth,
            leaves=geometry.leaves_image(self.matched),
            mismatch=mismatch,
            unsure=unsure,
        )

    @cached_property
    def mask(self) -> np.ndarray:
        """H x W bool, True where depth is published."""
        return np.asarray((self.labels == Label.VALID) | (self.labels == Label.FILLED_FROM_MONO))

    @cached_property
    def matched_mask(self) -> np.ndarray:
        """H x W bool, True where the depth comes from the pair."""
        return np.asarray(self.matched_labels == Label.VALID)

    @cached_property
    def depth(self) -> np.ndarray:
        """H x W float32 m along the optical axis (REP 118), NaN where masked."""
        if self.filling is None:
            return self.matched_depth
        return np.where(self.labels == Label.FILLED_FROM_MONO, self.filling, self.matched_depth)

    @cached_property
    def matched_depth(self) -> np.ndarray:
        """The depth before anything is filled, H x W float32 m."""
        return np.where(self.matched_mask, self._raw_depth, np.float32(np.nan))

    @cached_property
    def depth_sigma(self) -> np.ndarray | None:
        """H x W float32 m, one standard deviation, NaN where the depth does not come from the pair; None where the
        method does not know.
        """
        if self.disparity_sigma is None:
            return None
        return geometry.depth_sigma(self.matched_depth, self.disparity_sigma, self.rig)

    @cached_property
    def flow(self) -> np.ndarray:
        """H x W x 2 float32 px, left -> right: (-disparity, 0)."""
        return np.stack([-self.disparity, np.zeros_like(self.disparity)], -1)

    @cached_property
    def _raw_depth(self) -> np.ndarray:
        return geometry.disparity_to_depth(self.matched, self.rig)


class StereoDepthEstimator(MethodRunner[Matcher]):
    """Estimates depth from rectified pairs with one model.

    Example::

        from fg_depth_ros.geometry import StereoRig
        from fg_depth_ros.inference import StereoDepthEstimator

        rig = StereoRig(width=640, height=480, fx=525.0, fy=525.0, cx=319.5, cy=239.5, cx_right=319.5, baseline=0.12)
        estimate = StereoDepthEstimator().estimate(left, right, rig)  # two 480 x 640 x 3 uint8 RGB arrays
        print(estimate.depth[240, 320], "m")
    """

    def __init__(self, config: EstimatorConfig | None = None) -> None:
        """Load the model.

        Raises:
            ModelError: weights or device that cannot be used.
        """
        self.config = config or EstimatorConfig()
        c = self.config
        matcher = create_matcher(
            c.model, weights=c.weights or None, device=c.device, precision=c.precision, max_disparity=c.max_disparity
        )
        super().__init__(matcher)

    def warm_up(self, width: int, height: int) -> None:
        """One run on an empty pair of this size, so that the first real one is not slow."""
        self.match(*(np.zeros((height, width, 3), np.uint8),) * 2)

    def estimate(self, left: np.ndarray, right: np.ndarray, rig: StereoRig) -> StereoEstimate:
        """Match a rectified pair.

        Args:
            left, right: H x W x 3 uint8 RGB, or H x W uint8.
            rig: calibration at that size.

        Raises:
            ValueError: images of other type, of different size, or of another size than the rig's.
            OutOfMemory: the device cannot hold a pair of this size.
        """
        _check_pair(left, right, rig)
        began = time.perf_counter()
        found = self.match(left, right)
        right_disparity = None
        if self.config.left_right_check == "two_pass":
            mirror = self.match(right[:, ::-1], left[:, ::-1])
            right_disparity = mirror.disparity[:, ::-1]
        seconds = time.perf_counter() - began
        return StereoEstimate(rig, found.disparity, found.sigma, right_disparity, self.config, seconds)

    def disparity(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """``StereoEstimate.disparity`` of a pair without calibration; images and errors as for ``match``."""
        return _completed(self.match(left, right).disparity, self.config)

    def match(self, left: np.ndarray, right: np.ndarray) -> Match:
        """What the method answers, at the images' own size, matched at ``inference_scale``; nothing is completed.

        Images as for ``estimate``. Raises OutOfMemory.
        """
        scale, first = self.config.inference_scale, self.config.min_disparity
        height, width = left.shape[:2]
        if scale == 1:
            return self._method.match(left, right, first)
        size = (max(16, round(width * scale)), max(16, round(height * scale)))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = [cv2.resize(np.ascontiguousarray(image), size, interpolation=method) for image in (left, right)]
        found = self._method.match(small[0], small[1], math.floor(first * size[0] / width))
        back = width / size[0]

        def enlarge(field: np.ndarray) -> np.ndarray:
            return cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR) * np.float32(back)

        return Match(enlarge(found.disparity), None if found.sigma is None else enlarge(found.sigma))


def _completed(matched: np.ndarray, config: EstimatorConfig) -> np.ndarray:
    if config.left_right_check == "off" or np.isnan(matched).any():
        return matched
    return geometry.complete_occluded(matched, config.left_right_threshold)


def _check_pair(left: np.ndarray, right: np.ndarray, rig: StereoRig) -> None:
    for side, image in (("left", left), ("right", right)):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(
                f"the {side} image must be H x W or H x W x 3 of uint8, got {image.shape} of {image.dtype}"
            )
    if left.shape != right.shape:
        raise ValueError(f"left and right image differ: {left.shape} and {right.shape}; use a rectified pair")
    if left.shape[:2] != (rig.height, rig.width):
        raise ValueError(
            f"the images are {left.shape[1]}x{left.shape[0]} and the calibration is for {rig.width}x{rig.height}; "
            "scale the rig (StereoRig.scaled) or use the camera_info of these images"
        )
