"""Matchers: what finds the disparity of a rectified pair, whether a network or block matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import nn

from fg_depth_ros.geometry.resize import resize_disparity, resize_flow
from fg_depth_ros.inference.config import BlockMatching, check_fixed_point
from fg_depth_ros.inference.estimator import Method, NetworkMethod
from fg_depth_ros.inference.flow import NetworkFlow
from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE, StereoPrediction


@dataclass(frozen=True)
class Match:
    """Result of a matcher.

    ``disparity``: H x W float32 px, x_left - x_right, NaN = no match. ``sigma``: one standard deviation of its error,
    H x W float32 px, or None where the method does not know. ``vertical``: rows from a pixel down to its match, H x W
    float32 px, or None where the method searches along the rows alone.
    """

    disparity: np.ndarray
    sigma: np.ndarray | None
    vertical: np.ndarray | None = None

    def resized(self, width: int, height: int) -> Match:
        """Return the match at another size of the images, px."""
        sigma = None if self.sigma is None else resize_disparity(self.sigma, width, height)
        if self.vertical is None:
            return Match(resize_disparity(self.disparity, width, height), sigma)
        disparity, vertical = np.moveaxis(
            resize_flow(np.stack([self.disparity, self.vertical], -1), width, height), -1, 0
        )
        return Match(disparity, sigma, vertical)


class Matcher(Method, Protocol):
    """Finds the disparity of a rectified pair, from ``min_disparity`` to ``min_disparity`` + ``disparities`` - 1 px.

    A matcher whose ``disparities`` is None searches around ``min_disparity`` in all directions, without a fixed end.
    """

    block: int  # side of the window that is compared, px; 1 if there is none

    @property
    def disparities(self) -> int | None:
        """Number of disparities searched, px; None = no fixed range."""
        ...

    def match(self, left: np.ndarray, right: np.ndarray, min_disparity: int = 0) -> Match:
        """Match H x W x 3 uint8 RGB or H x W uint8 images of one size."""
        ...


class NetworkMatcher(NetworkMethod):
    """A stereo network as a matcher."""

    block = 1

    def __init__(
        self, network: nn.Module, name: str, sha256: str = "", engine: str = "torch", precision: str = "float32"
    ) -> None:
        def to_tensors(prediction: StereoPrediction) -> tuple[torch.Tensor, ...]:
            return prediction.disparity, 2**0.5 * prediction.log_scale.float().exp()  # Laplace: sqrt(2) b

        super().__init__(
            network, name, sha256, engine, precision, ("left", "right"), ("disparity", "sigma"), to_tensors
        )  # fmt: skip

    @property
    def disparities(self) -> int:
        """Number of disparities searched, px."""
        return int(self._network.max_disparity)  # type: ignore[arg-type]

    def match(self, left: np.ndarray, right: np.ndarray, min_disparity: int = 0) -> Match:
        """See ``Matcher``. Raises OutOfMemory."""
        height, width = left.shape[:2]
        left, right, first = widened(left, right, min_disparity)
        disparity, sigma = self.runner.run(*(padded(image, SIZE_MULTIPLE) for image in (left, right)))
        view = (0, 0, slice(height), slice(first, first + width))
        return Match(disparity[view] + np.float32(min_disparity), np.ascontiguousarray(sigma[view]))


class FlowMatcher(NetworkFlow):
    """A flow network as a matcher: disparity is the flow from left to right, reversed."""

    block, disparities = 1, None

    def match(self, left: np.ndarray, right: np.ndarray, min_disparity: int = 0) -> Match:
        """See ``Matcher``. Raises OutOfMemory."""
        width = left.shape[1]
        left, right, first = widened(left, right, min_disparity)
        flow = self.flow(left, right)[:, first : first + width]
        return Match(np.float32(min_disparity) - flow[..., 0], None, np.ascontiguousarray(flow[..., 1]))


class BlockMatcher:
    """OpenCV's block matching: semi-global (``sgbm``, Hirschmueller 2008) or local (``bm``, on grey images).

    ``max_disparity``: search range in px, rounded up to a multiple of 16.
    """

    sha256, device, runner = "", "cpu", None

    def __init__(self, name: str = "sgbm", max_disparity: int = 192, options: BlockMatching | None = None) -> None:
        self.name = name
        o, disparities = options or BlockMatching(), -(-max_disparity // 16) * 16
        self._penalties = int(o.P1), int(o.P2)  # of one channel; sgbm only
        self._matcher: cv2.StereoMatcher
        if name == "bm":
            self.block = o.value("correlation_window_size", 15)
            self._matcher = cv2.StereoBM.create(disparities, self.block)
            self._matcher.setPreFilterCap(o.value("prefilter_cap", 31))
            self._matcher.setTextureThreshold(o.texture_threshold)
            self._matcher.setUniquenessRatio(int(o.uniqueness_ratio))
            self._matcher.setSpeckleWindowSize(o.speckle_size)
            self._matcher.setSpeckleRange(o.value("speckle_range", 32))
            return
        self.block = o.value("correlation_window_size", 5)
        self._matcher = cv2.StereoSGBM.create(
            minDisparity=0, numDisparities=disparities, blockSize=self.block,
            disp12MaxDiff=o.disp12_max_diff, preFilterCap=o.value("prefilter_cap", 15),
            uniquenessRatio=int(o.uniqueness_ratio), speckleWindowSize=o.speckle_size,
            speckleRange=o.value("speckle_range", 2), mode=o.sgbm_mode,
        )  # fmt: skip

    @property
    def disparities(self) -> int:
        """Number of disparities searched, px."""
        return int(self._matcher.getNumDisparities())

    def match(self, left: np.ndarray, right: np.ndarray, min_disparity: int = 0) -> Match:
        """See ``Matcher``. Raises ValueError: the window does not fit into the images, or the range into 16 bits."""
        check_fixed_point(self.name, min_disparity, self.disparities)
        if self.block >= min(left.shape[:2]):
            raise ValueError(
                f"the images are {left.shape[1]}x{left.shape[0]} pixels, and {self.name} compares windows of "
                f"{self.block}: set correlation_window_size lower"
            )
        # OpenCV gives only columns whose whole search range is in the image; borders extend it to all columns.
        front = self.disparities + max(min_disparity, 0)
        back = max(-min_disparity, 0)
        if self.name == "bm" and left.ndim == 3:
            left, right = (cv2.cvtColor(np.ascontiguousarray(i), cv2.COLOR_RGB2GRAY) for i in (left, right))
        if isinstance(self._matcher, cv2.StereoSGBM):  # which adds up the costs of the channels
            channels = left.shape[2] if left.ndim == 3 else 1
            self._matcher.setP1(channels * self._penalties[0])
            self._matcher.setP2(channels * self._penalties[1])
        pair = (cv2.copyMakeBorder(i, 0, 0, front, back, cv2.BORDER_REPLICATE) for i in (left, right))
        self._matcher.setMinDisparity(min_disparity)
        fixed_point = self._matcher.compute(*pair)[:, front : front + left.shape[1]]
        disparity = fixed_point.astype(np.float32) / 16
        disparity[fixed_point < 16 * min_disparity] = np.nan
        return Match(disparity, None)


def widened(left: np.ndarray, right: np.ndarray, min_disparity: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Reduce a pair's disparities by ``min_disparity`` with replicated borders on opposite sides.

    Returns the two images, and the column of the left one where the original begins.
    """
    before, after = max(-min_disparity, 0), max(min_disparity, 0)
    if before == after:
        return left, right, 0

    def bordered(image: np.ndarray, front: int, back: int) -> np.ndarray:
        return cv2.copyMakeBorder(np.ascontiguousarray(image), 0, 0, front, back, cv2.BORDER_REPLICATE)

    return bordered(left, before, after), bordered(right, after, before), before


def padded(image: np.ndarray, multiple: int) -> np.ndarray:
    """Replicate the right and the lower border of an image until its sides are multiples."""
    height, width = image.shape[:2]
    across, down = -width % multiple, -height % multiple
    if not across and not down:
        return image
    return cv2.copyMakeBorder(np.ascontiguousarray(image), 0, down, 0, across, cv2.BORDER_REPLICATE)
