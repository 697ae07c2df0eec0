"""``StereoDepthEstimator``: a rectified pair in, disparity out, and what follows from it: masks, metric depth.

The node, the command line and the evaluation use this one object, so that all of them give the same numbers.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fg_depth_ros import geometry
from fg_depth_ros.geometry import Label, PairFault, StereoRig, Support
from fg_depth_ros.geometry.resize import resize_image, scaled_size
from fg_depth_ros.inference import semi_global
from fg_depth_ros.inference.config import AUTO, SMALLEST_AUTO, StereoConfig
from fg_depth_ros.inference.estimator import Estimator, check_images, load_network
from fg_depth_ros.inference.matchers import BlockMatcher, FlowMatcher, Match, Matcher, NetworkMatcher
from fg_depth_ros.inference.time_budget import TimeBudget
from fg_depth_ros.networks import STEREO_MODELS

_FEW_PIXELS = 0.02  # share of valid ones
_CAUSES = {
    Label.OUT_OF_RANGE: "",
    Label.LEFT_RIGHT_MISMATCH: "the two views do not agree: check that the images are rectified, and of one moment",
    Label.LEAVES_IMAGE: (
        "the matches lie outside the right image: check that left and right are not swapped, and min_disparity"
    ),
    Label.VERTICAL_FLOW: (
        "the matches lie on other rows than max_vertical allows: check the rectification, or raise it for a network "
        "that is less exact"
    ),
    Label.LOW_CONFIDENCE: "less certain than max_sigma allows: raise it, or give more light and texture",
    Label.FILLED_FROM_MONO: "",
    Label.UNSUPPORTED: "the images do not support the matches: more light and texture, and check the rectification",
}
"""Likely causes of labels that most pixels have."""


class SearchRange(NamedTuple):
    """Image disparities that were searched, ``first`` to ``last``, px; ``border``: half the matching window, px.

    ``limited``: whether the method ends there; otherwise ``last`` is the largest disparity that fits into the image.
    """

    first: float
    last: float
    border: int
    limited: bool = True


@dataclass(frozen=True)
class StereoEstimate:
    """Everything known about one pair, in the left camera's view. Depth and masks are computed on first access.

    ``matched``: H x W float32 px, x_left - x_right, the method's result; NaN = no match.
    ``disparity_sigma``: H x W float32 px, one standard deviation, or None where the method does not know.
    ``support``: what the images say of the match; None = unknown. ``searched``: None = nothing was.
    ``vertical``: H x W float32 px, how much lower the match lies in the right image; None = on the same row.
    """

    rig: StereoRig
    matched: np.ndarray
    disparity_sigma: np.ndarray | None
    right_disparity: np.ndarray | None
    config: StereoConfig
    seconds: float  # that the matching took
    support: Support | None = None
    searched: SearchRange | None = None
    vertical: np.ndarray | None = None

    @property
    def fault(self) -> PairFault | None:
        """Why the pair as a whole could not be matched; None where nothing speaks against it."""
        return None if self.support is None else self.support.fault

    @property
    def low_density(self) -> bool:
        """Whether too few pixels have depth from the pair (fewer than ``_FEW_PIXELS``)."""
        return bool(self.mask.mean() < _FEW_PIXELS)

    def explain_low_density(self) -> str:
        """Explain how few pixels are valid, and the likely cause, by the commonest label of the other pixels."""
        config, labels = self.config, self.labels
        shares = np.bincount(labels.reshape(-1), minlength=len(Label)) / labels.size
        worst = Label(int(np.argmax(shares[1:])) + 1)
        cause = _CAUSES[worst]
        if worst == Label.OUT_OF_RANGE:
            disparity, at_1_m = self.matched + self.rig.doffs, self.rig.fx * self.rig.baseline
            near = np.mean(disparity > at_1_m / config.min_depth)
            far = np.mean(disparity < at_1_m / config.max_depth)  # or behind infinity
            cause = (
                f"{near:.0%} nearer than min_depth = {config.min_depth:g} m, {far:.0%} farther than max_depth = "
                f"{config.max_depth:g} m, {np.mean(np.isnan(disparity)):.0%} without a match: set them for this scene, "
                "and check baseline and focal length of the calibration"
            )
        elif worst == Label.LOW_CONFIDENCE:
            cause = f"{cause} (max_sigma = {config.max_sigma:g} px)"
        name = worst.name.lower().replace("_", " ")
        return f"only {shares[Label.VALID]:.1%} of the pixels have depth; {shares[worst]:.0%} are '{name}': {cause}"

    @cached_property
    def disparity(self) -> np.ndarray:
        """H x W float32 px, x_left - x_right, not masked.

        A dense result is completed where the right camera cannot see (``geometry.complete_occluded``); a result with
        holes keeps them, NaN.
        """
        return _completed(self.matched, self.config)

    @cached_property
    def labels(self) -> np.ndarray:
        """H x W uint8, one ``geometry.Label`` a pixel."""
        config, mismatch, unsure = self.config, None, None
        if self.right_disparity is not None:
            mismatch = geometry.left_right_mismatch(self.matched, self.right_disparity, config.left_right_threshold)
        elif config.left_right_check == "one_pass":
            mismatch = geometry.hidden_by_nearer(self.matched, config.left_right_threshold)
        if config.max_sigma > 0 and self.disparity_sigma is not None:
            unsure = self.disparity_sigma > config.max_sigma
        leaves = geometry.leaves_image(self.matched)
        unsupported = None if self.support is None else ~self.support.pixels
        off_row = None
        if self.vertical is not None and config.max_vertical > 0:
            off_row = ~(np.abs(self.vertical) <= config.max_vertical)
        labels = geometry.label_pixels(
            self._raw_depth, min_depth=config.min_depth, max_depth=config.max_depth, leaves=leaves, mismatch=mismatch,
            off_row=off_row, unsupported=unsupported, unsure=unsure,
        )  # fmt: skip
        if unsupported is not None and self.fault is not None:
            labels[unsupported] = Label.UNSUPPORTED  # the other checks compared wrong matches
        return labels

    @cached_property
    def mask(self) -> np.ndarray:
        """H x W bool, True where the pair gives depth."""
        return np.asarray(self.labels == Label.VALID)

    @cached_property
    def depth(self) -> np.ndarray:
        """H x W float32 m along the optical axis (REP 118), NaN where masked."""
        return np.where(self.mask, self._raw_depth, np.float32(np.nan))

    @cached_property
    def depth_sigma(self) -> np.ndarray | None:
        """H x W float32 m, one standard deviation, NaN where masked.

        None where the method does not know.
        """
        if self.disparity_sigma is None:
            return None
        return geometry.depth_sigma(self.depth, self.disparity_sigma, self.rig)

    @cached_property
    def flow(self) -> np.ndarray:
        """H x W x 2 float32 px, left -> right: (-disparity, vertical), the second 0 where the method has none."""
        vertical = np.zeros_like(self.disparity) if self.vertical is None else self.vertical
        return np.stack([-self.disparity, vertical], -1)

    @cached_property
    def _raw_depth(self) -> np.ndarray:
        return geometry.disparity_to_depth(self.matched, self.rig)


@dataclass(frozen=True)
class FilledEstimate:
    """An estimate whose holes have depth from the left image alone, where that is in the range.

    Disparity, flow and uncertainty are those of ``stereo``. ``filling``: H x W float32 m, at the scale of its depth.
    Raises ValueError when the sizes differ.
    """

    stereo: StereoEstimate
    filling: np.ndarray

    def __post_init__(self) -> None:
        if self.filling.shape != self.stereo.matched.shape:
            raise ValueError(
                f"depth to fill with is {self.filling.shape}, the estimate {self.stereo.matched.shape}: sizes must "
                "agree"
            )

    @classmethod
    def from_mono(cls, depth: np.ndarray, rig: StereoRig, config: StereoConfig, seconds: float) -> FilledEstimate:
        """Make an estimate from mono depth alone: nothing is matched, everything is filled.

        ``depth``: H x W float32 m. Of ``rig`` only the left camera counts.
        """
        nothing = np.full(depth.shape, np.nan, np.float32)
        # Where nothing was matched, nothing can be checked.
        config = replace(config, left_right_check="off")
        return cls(StereoEstimate(rig, nothing, None, None, config, seconds), depth)

    @property
    def rig(self) -> StereoRig:
        """Calibration of the pair."""
        return self.stereo.rig

    @cached_property
    def labels(self) -> np.ndarray:
        """H x W uint8, one ``geometry.Label`` a pixel. A hole that is not filled keeps its reason."""
        config = self.stereo.config
        usable = (self.filling >= config.min_depth) & (self.filling <= config.max_depth)
        return np.where(usable & ~self.stereo.mask, np.uint8(Label.FILLED_FROM_MONO), self.stereo.labels)

    @cached_property
    def mask(self) -> np.ndarray:
        """H x W bool, True where there is depth, from the pair or filled."""
        return np.asarray((self.labels == Label.VALID) | (self.labels == Label.FILLED_FROM_MONO))

    @cached_property
    def depth(self) -> np.ndarray:
        """H x W float32 m along the optical axis (REP 118), NaN where masked."""
        return np.where(self.labels == Label.FILLED_FROM_MONO, self.filling, self.stereo.depth)


class StereoDepthEstimator(Estimator[StereoConfig, Matcher]):
    """Estimates depth from rectified pairs with one model.

    Example::

        from fg_depth_ros.geometry import StereoRig
        from fg_depth_ros.inference import StereoDepthEstimator

        rig = StereoRig(width=640, height=480, fx=525.0, fy=525.0, cx=319.5, cy=239.5, cx_right=319.5, baseline=0.12)
        estimate = StereoDepthEstimator().estimate(left, right, rig)  # two 480 x 640 x 3 uint8 RGB arrays
        print(estimate.depth[240, 320], "m")
    """

    _budget: TimeBudget | None = None  # of the last pair

    def __init__(self, config: StereoConfig | None = None) -> None:
        """Load the model. Raises ModelError: weights or device that cannot be used."""
        c = config or StereoConfig()
        matcher: Matcher
        if c.model in c.classical:
            matcher = BlockMatcher(c.model, c.max_disparity, c.block_matching)
        else:
            network, card = load_network(c.model, c.weights, c.device, c.networks, "stereo or flow")
            kind = NetworkMatcher if card.name in STEREO_MODELS else FlowMatcher
            matcher = kind(network, card.name, card.sha256, c.engine, c.precision)
        super().__init__(c, matcher)
        self._budgets: dict[tuple[int, int], TimeBudget] = {}  # by width and height of the images

    def with_config(self, config: StereoConfig) -> StereoDepthEstimator:
        """See ``Estimator``; pairs are timed anew."""
        other = super().with_config(config)
        other._budget, other._budgets = None, {}
        return other

    def warm_up(self, width: int, height: int, doffs: float = 0.0) -> None:
        """Run once on an empty pair of this size, px, searched as for a rig of these doffs, px. Raises OutOfMemory."""
        self.match(*(np.zeros((height, width, 3), np.uint8),) * 2, doffs)

    def warm_up_for(self, rig: StereoRig) -> None:
        """Run once on an empty pair of the rig's size, at the ``scale`` of its pairs. Raises OutOfMemory."""
        self.match(*(np.zeros((rig.height, rig.width, 3), np.uint8),) * 2, rig.doffs, self.scale(rig))

    def scale(self, rig: StereoRig) -> float:
        """Return the factor on the size at which pairs of this rig are matched; less where ``time_budget`` asks."""
        reaching, budget = self.config.scale(rig, self._method.disparities), self._budget_for(rig)
        return reaching if budget is None else min(reaching, budget.factor)

    def _budget_for(self, rig: StereoRig) -> TimeBudget | None:
        """Return the budget of images of this size; None where there is none."""
        seconds = self.config.time_budget
        if self.config.inference_scale != AUTO or seconds == 0:
            return None
        return self._budgets.setdefault((rig.width, rig.height), TimeBudget(seconds))

    @property
    def scale_reason(self) -> str:
        """Why ``inference_scale`` auto is what it is; empty where it is not auto."""
        if self.config.inference_scale != AUTO:
            return ""
        if self._budget is not None and self._budget.factor < 1:
            return f"time_budget is {self.config.time_budget:g} s, and pairs took {self._budget.taken:.3f} s"
        return f"min_depth is {self.config.min_depth:g} m"

    @property
    def over_budget(self) -> str | None:
        """Why pairs take longer than ``time_budget``, with what helps; None where they do not."""
        if self._budget is None or not self._budget.exceeded:
            return None
        return (
            f"a pair takes {self._budget.taken:.3f} s even at inference_scale {SMALLEST_AUTO:g}, and time_budget is "
            f"{self.config.time_budget:g} s: set a longer one, send smaller images, or choose model sgbm or a GPU"
        )

    def nearest_depth(self, rig: StereoRig) -> float:
        """Return the depth, m, of the largest disparity searched; 0 where the search ends behind the cameras."""
        disparity = self.search_range(rig).last + rig.doffs
        return rig.fx * rig.baseline / disparity if disparity > 0 else 0.0

    def _result(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        found = self.match(left, right)
        return np.stack([field for field in (found.disparity, found.sigma, found.vertical) if field is not None])

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
        self._budget = self._budget_for(rig)
        scale, searched = self.scale(rig), self.search_range(rig)  # before the budget may choose another scale
        found = self.match(left, right, rig.doffs, scale)
        right_disparity = None
        if self.config.left_right_check == "two_pass":
            right_disparity = self.match_right(left, right, rig.doffs, scale)
        support = (
            geometry.photometric_support(left, right, found.disparity)
            if self.config.photometric_check
            else geometry.unchecked_support(left, right)
        )
        seconds = time.perf_counter() - began
        if self._budget is not None and not (self.runner and self.runner.compiling):
            self._budget.observe(scale, seconds)
        return StereoEstimate(
            rig, found.disparity, found.sigma, right_disparity, self.config, seconds, support=support,
            searched=searched, vertical=found.vertical,
        )  # fmt: skip

    def disparity(self, left: np.ndarray, right: np.ndarray, doffs: float = 0.0) -> np.ndarray:
        """Estimate ``StereoEstimate.disparity`` without calibration; arguments and errors as for ``match``."""
        return _completed(self.match(left, right, doffs).disparity, self.config)

    def match(
        self, left: np.ndarray, right: np.ndarray, doffs: float = 0.0, scale: float | None = None
    ) -> Match:  # fmt: skip
        """Match at a smaller or larger size and return the result at the images' own; nothing is completed.

        Images as for ``estimate``; ``doffs``: of the rig, px, for ``min_disparity`` = auto; ``scale``: factor on the
        size, None = ``inference_scale``, which is 1 here where it is auto. Raises OutOfMemory.
        """
        if scale is None:
            scale = 1.0 if isinstance(self.config.inference_scale, str) else self.config.inference_scale
        first = self.config.search_start(doffs)
        height, width = left.shape[:2]
        if scale == 1:
            found = self._method.match(left, right, first)
        else:
            size = scaled_size(width, height, scale)
            images = resize_image(left, *size), resize_image(right, *size)
            found = self._method.match(*images, first * size[0] // width).resized(width, height)
        if self.config.refinement == "off" or not isinstance(self._method, NetworkMatcher):
            return found
        return replace(found, disparity=semi_global.refine(left, right, found.disparity, scale))

    def match_right(
        self, left: np.ndarray, right: np.ndarray, doffs: float = 0.0, scale: float | None = None
    ) -> np.ndarray:  # fmt: skip
        """Match the right view: return its disparity, ``x_left - x_right``, H x W float32 px, NaN = no match.

        It is that of the mirrored pair, whose left image is the right one. Arguments and errors as for ``match``.
        """
        return self.match(right[:, ::-1], left[:, ::-1], doffs, scale).disparity[:, ::-1]

    def search_range(self, rig: StereoRig) -> SearchRange:
        """Return the image disparities that are searched for a rig."""
        if self._method.disparities is None:
            return SearchRange(float(math.floor(-rig.doffs)), rig.width - 1.0, 0, limited=False)
        width = scaled_size(rig.width, rig.height, self.scale(rig))[0]
        first, factor = self.config.search_start(rig.doffs) * width // rig.width, rig.width / width
        last = first + self._method.disparities - 1
        return SearchRange(first * factor, last * factor, round(self._method.block // 2 * factor))


def _completed(matched: np.ndarray, config: StereoConfig) -> np.ndarray:
    if config.left_right_check == "off" or np.isnan(matched).any():
        return matched
    return geometry.complete_occluded(matched, config.left_right_threshold)


def _check_pair(left: np.ndarray, right: np.ndarray, rig: StereoRig) -> None:
    check_images(left=left, right=right)
    if left.shape != right.shape:
        raise ValueError(f"left and right image differ: {left.shape} and {right.shape}; use a rectified pair")
    if left.shape[:2] != (rig.height, rig.width):
        raise ValueError(
            f"the images are {left.shape[1]}x{left.shape[0]} and the calibration is for {rig.width}x{rig.height}; "
            "scale the rig (StereoRig.scaled) or use the camera_info of these images"
        )
