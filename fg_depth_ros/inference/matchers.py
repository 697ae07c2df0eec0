"""Methods that answer a rectified pair with disparity: networks and the classical one, behind one interface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import nn

from fg_depth_ros.inference.running import (
    PRECISIONS,
    Method,
    ModelError,
    OutOfMemory,
    as_tensor,
    choose_device,
    fold_batch_norm,
    load_network,
    running,
)
from fg_depth_ros.networks import STEREO_MODELS
from fg_depth_ros.networks.flow import pad_to_multiple
from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE

__all__ = [
    "CLASSICAL",
    "PRECISIONS",
    "Match",
    "Matcher",
    "ModelError",
    "NetworkMatcher",
    "OutOfMemory",
    "SgbmMatcher",
    "choose_device",
    "create_matcher",
    "fold_batch_norm",
    "known_models",
    "widened",
]

CLASSICAL = ("sgbm",)


@dataclass(frozen=True)
class Match:
    """Answer of a matcher: ``disparity`` H x W float32 px (x_left - x_right, NaN = none) and ``sigma``, one standard
    deviation of its error, H x W float32 px, or None where the method does not know."""

    disparity: np.ndarray
    sigma: np.ndarray | None


class Matcher(Method, Protocol):
    """Finds the disparity of a rectified pair.

    The search covers ``min_disparity`` to ``min_disparity`` + the method's range, px.
    """

    def match(self, left: np.ndarray, right: np.ndarray, min_disparity: int = 0) -> Match:
        """H x W x 3 uint8 RGB or H x W uint8 images of one size."""
        ...


def known_models() -> tuple[str, ...]:
    """Names that ``create_matcher`` takes."""
    return (*sorted(STEREO_MODELS), *CLASSICAL)


def create_matcher(
    model: str,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    max_disparity: int = 192,
) -> Matcher:
    """A matcher by name.

    Args:
        model: name of a network or of a classical method.
        weights: path of a weights file; none = the shipped ones.
        device: ``auto`` (a GPU if there is one), or a name torch knows (``cpu``, ``cuda:0``).
        precision: ``float32``, ``bfloat16`` or ``float16``, of the network.
        max_disparity: search range of the classical methods, px; a network's is fixed by its weights.

    Raises:
        ModelError: unknown model, weights that do not exist or do not fit, unknown device or precision.
    """
    if model not in known_models():
        raise ModelError(f"unknown model '{model}'; known: {', '.join(known_models())}")
    if model == "sgbm":
        return SgbmMatcher(max_disparity)
    return NetworkMatcher.load(model, weights, device, precision)


class NetworkMatcher:
    """A stereo network, wherever it lies and whatever weights it has."""

    def __init__(self, network: nn.Module, name: str, sha256: str = "", precision: torch.dtype = torch.float32) -> None:
        """``network``: in evaluation mode, on its device; not changed."""
        self._network, self._precision = network, precision
        self._device = next(network.parameters()).device
        self.name, self.sha256, self.device = name, sha256, str(self._device)

    @classmethod
    def load(cls, model: str, weights: str | Path | None, device: str, precision: str) -> NetworkMatcher:
        """As ``create_matcher``: a network with weights, made fast for inference."""
        network, card = load_network(model, weights, device, precision, STEREO_MODELS, "stereo")
        return cls(network, model, card.sha256, PRECISIONS[precision])

    def match(self, left: np.ndarray, right: np.ndarray, min_disparity: int = 0) -> Match:
        """See ``Matcher``. Raises OutOfMemory."""
        height, width = left.shape[:2]
        left, right, first = widened(left, right, min_disparity)
        view = (0, 0, slice(height), slice(first, first + width))
        with running(self._device, self._precision, width, height):
            pair = (as_tensor(image, self._device) for image in (left, right))
            answer = self._network(*pad_to_multiple(SIZE_MULTIPLE, *pair))
            disparity = answer.disparity[view].float() + min_disparity
            sigma = 2**0.5 * answer.log_scale[view].float().exp()  # Laplace: sqrt(2) b
            return Match(disparity.cpu().numpy(), sigma.cpu().numpy())


class SgbmMatcher:
    """OpenCV's semi-global block matching (Hirschmueller 2008) with its stock parameters for 5 x 5 blocks."""

    name, sha256, device = "sgbm", "", "cpu"

    def __init__(self, max_disparity: int = 192) -> None:
        """``max_disparity``: search range in px, rounded up to a multiple of 16."""
        block = 5
        self._matcher = cv2.StereoSGBM.create(
            minDisparity=0,
            numDisparities=-(-max_disparity // 16) * 16,
            blockSize=block,
            P1=8 * 3 * block * block,
            P2=32 * 3 * block * block,
            disp12MaxDiff=1,
            uniquenessRatio=10,
            speckleWindowSize=100,
            speckleRange=2,
            mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
        )

    def match(self, left: np.ndarray, right: np.ndarray, min_disparity: int = 0) -> Match:
        """See ``Matcher``."""
        # OpenCV answers only columns whose whole search range lies in the image; borders give the others a chance.
        front = self._matcher.getNumDisparities() + max(min_disparity, 0)
        back = max(-min_disparity, 0)
        pair = (cv2.copyMakeBorder(i, 0, 0, front, back, cv2.BORDER_REPLICATE) for i in (left, right))
        self._matcher.setMinDisparity(min_disparity)
        fixed_point = self._matcher.compute(*pair)[:, front : front + left.shape[1]]
        disparity = fixed_point.astype(np.float32) / 16
        disparity[fixed_point < 16 * min_disparity] = np.nan
        return Match(disparity, None)


def widened(left: np.ndarray, right: np.ndarray, min_disparity: int) -> tuple[np.ndarray, np.ndarray, int]:
    """A pair whose disparities are smaller by ``min_disparity``, by borders on opposite sides; nothing is lost.

    Returns the two images, and the column of the left one where the original begins.
    """
    before, after = max(-min_disparity, 0), max(min_disparity, 0)
    if before == after:
        return left, right, 0

    def bordered(image: np.ndarray, front: int, back: int) -> np.ndarray:
        return cv2.copyMakeBorder(np.ascontiguousarray(image), 0, 0, front, back, cv2.BORDER_REPLICATE)

    return bordered(left, before, after), bordered(right, after, before), before
