"""``FlowEstimator``: two frames in, optical flow out, with a network or a classical method.

The node, the command line and the evaluation use this one object, so that all of them give the same numbers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import nn

from fg_depth_ros.inference import classical_flow
from fg_depth_ros.inference.classical_flow import resize_flow
from fg_depth_ros.inference.running import PRECISIONS, Method, MethodRunner, as_tensor, load_network, running
from fg_depth_ros.networks import FLOW_MODELS

CLASSICAL_FLOW: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "dis": classical_flow.dis,
    "farneback": classical_flow.farneback,
    "lucas_kanade": classical_flow.lucas_kanade,
    "horn_schunck": classical_flow.horn_schunck,
}


def known_flow_models() -> tuple[str, ...]:
    """Names that ``FlowConfig`` takes: networks, then classical methods."""
    return (*sorted(FLOW_MODELS), *CLASSICAL_FLOW)


@dataclass(frozen=True)
class FlowConfig:
    """How to estimate flow. Raises ValueError for values out of range, naming the way out."""

    model: str = "flownet_lite"
    """Network or classical method; empty = the network that ``weights`` belongs to."""
    weights: str = ""
    """Path of a weights file; empty = the shipped weights."""
    device: str = "auto"
    """auto, cpu, cuda:N; classical methods run on the CPU."""
    precision: str = "float32"
    """float32, bfloat16 or float16."""
    inference_scale: float = 1.0
    """The images are resized by this factor; below 1 it is faster and reaches farther, above 1 it is finer."""
    variational: bool = False
    """Refine the answer on the full images: the ``+v`` of the FlowNet paper."""

    def __post_init__(self) -> None:
        names = (*known_flow_models(), "") if self.weights else known_flow_models()
        for name, value, known in (("model", self.model, names), ("precision", self.precision, tuple(PRECISIONS))):
            if value not in known:
                raise ValueError(f"{name} '{value}' is unknown; choose one of {', '.join(filter(None, known))}")
        if self.weights and self.model in CLASSICAL_FLOW:
            raise ValueError(f"'{self.model}' has no weights; leave {self.weights} out or set the model to its network")
        if not 0.1 <= self.inference_scale <= 4:
            raise ValueError(f"inference_scale must lie in 0.1 .. 4, got {self.inference_scale}")


@dataclass(frozen=True)
class FlowEstimate:
    """Answer for one pair of frames.

    ``flow``: H x W x 2 float32 px, u to the right and v down: ``first(x, y) <-> second(x + u, y + v)``; NaN = none.
    ``seconds``: time it took.
    """

    flow: np.ndarray
    seconds: float


class FlowMethod(Method, Protocol):
    """Finds the flow between two frames."""

    def flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8 RGB or H x W uint8 images of one size to flow H x W x 2 float32 px."""
        ...


class NetworkFlow:
    """A flow network, wherever it lies and whatever weights it has."""

    def __init__(self, network: nn.Module, name: str, sha256: str = "", precision: torch.dtype = torch.float32) -> None:
        """``network``: in evaluation mode, on its device, its forward as ``networks.flow`` describes; not changed."""
        self._network, self._precision = network, precision
        self._device = next(network.parameters()).device
        self.name, self.sha256, self.device = name, sha256, str(self._device)

    @classmethod
    def load(cls, model: str, weights: str | Path | None, device: str, precision: str) -> NetworkFlow:
        """A network with weights, made fast for inference. Raises ModelError."""
        network, card = load_network(model, weights, device, precision, FLOW_MODELS, "flow")
        return cls(network, card.name, card.sha256, PRECISIONS[precision])

    def flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See ``FlowMethod``. Raises OutOfMemory."""
        height, width = first.shape[:2]
        with running(self._device, self._precision, width, height):
            answer = self._network(*(as_tensor(image, self._device) for image in (first, second)))
            found: np.ndarray = answer.flow[0].float().permute(1, 2, 0).contiguous().cpu().numpy()
            return found


class ClassicalFlow:
    """A method without learning; it looks at grey values."""

    sha256, device = "", "cpu"

    def __init__(self, name: str) -> None:
        """``name``: one of ``CLASSICAL_FLOW``."""
        self.name = name

    def flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See ``FlowMethod``."""
        return CLASSICAL_FLOW[self.name](_grey(first), _grey(second))


class FlowEstimator(MethodRunner[FlowMethod]):
    """Estimates optical flow with one model.

    Example::

        from fg_depth_ros.inference import FlowEstimator

        estimator = FlowEstimator()
        flow = estimator.estimate(first, second).flow  # two 480 x 640 x 3 uint8 RGB arrays
        print(flow[240, 320], "px")
    """

    def __init__(self, config: FlowConfig | None = None) -> None:
        """Load the model.

        Raises:
            ModelError: weights or device that cannot be used.
        """
        self.config = config or FlowConfig()
        c = self.config
        if c.model in CLASSICAL_FLOW:
            super().__init__(ClassicalFlow(c.model))
        else:
            super().__init__(NetworkFlow.load(c.model, c.weights, c.device, c.precision))

    def refined(self) -> FlowEstimator:
        """An estimator with the same model and the variational refinement; nothing is loaded again."""
        other = copy.copy(self)
        other.config = replace(self.config, variational=True)
        return other

    def warm_up(self, width: int, height: int) -> None:
        """One run on empty frames of this size, so that the first real one is not slow."""
        self.estimate(*(np.zeros((height, width, 3), np.uint8),) * 2)

    def estimate(self, first: np.ndarray, second: np.ndarray) -> FlowEstimate:
        """Flow from one frame to another.

        Args:
            first, second: H x W x 3 uint8 RGB, or H x W uint8; of one size.

        Raises:
            ValueError: images of other type or of different size.
            OutOfMemory: the device cannot hold a pair of this size.
        """
        _check_frames(first, second)
        began = time.perf_counter()
        flow = self._at_scale(first, second)
        if self.config.variational:
            flow = classical_flow.refine(_grey(first), _grey(second), flow)
        return FlowEstimate(flow, time.perf_counter() - began)

    def _at_scale(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        scale = self.config.inference_scale
        if scale == 1:
            return self._method.flow(first, second)
        height, width = first.shape[:2]
        size = (max(16, round(width * scale)), max(16, round(height * scale)))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = (cv2.resize(np.ascontiguousarray(image), size, interpolation=method) for image in (first, second))
        return resize_flow(self._method.flow(*small), width, height)


def _grey(image: np.ndarray) -> np.ndarray:
    image = np.ascontiguousarray(image)
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _check_frames(first: np.ndarray, second: np.ndarray) -> None:
    for which, image in (("first", first), ("second", second)):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(
                f"the {which} image must be H x W or H x W x 3 of uint8, got {image.shape} of {image.dtype}"
            )
        if not image.size:
            raise ValueError(f"the {which} image is empty: {image.shape}")
    if first.shape != second.shape:
        raise ValueError(
            f"first and second image differ: {first.shape} and {second.shape}; flow needs two frames of one camera"
        )
