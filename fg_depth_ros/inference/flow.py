"""``FlowEstimator``: two frames in, optical flow out, with a network or a classical method.

The node, the command line and the evaluation use this one object, so that all of them give the same numbers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import nn

from fg_depth_ros.geometry.resize import resize_flow, resize_image, scaled_size
from fg_depth_ros.inference import classical_flow
from fg_depth_ros.inference.config import AUTO, FlowConfig
from fg_depth_ros.inference.estimator import Estimator, Method, NetworkMethod, check_images, load_network
from fg_depth_ros.networks import FLOW_MODELS
from fg_depth_ros.networks.flow import FlowPrediction


@dataclass(frozen=True)
class FlowEstimate:
    """Flow of one pair of frames, and the time it took.

    ``flow``: H x W x 2 float32 px, u to the right and v down: ``first(x, y) <-> second(x + u, y + v)``; NaN = none.
    """

    flow: np.ndarray
    seconds: float


class FlowMethod(Method, Protocol):
    """Finds the flow between two frames."""

    def flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Estimate the flow of H x W x 3 uint8 RGB or H x W uint8 images of one size: H x W x 2 float32 px."""
        ...


class NetworkFlow(NetworkMethod):
    """A flow network; its forward as ``networks.flow`` describes."""

    def __init__(
        self, network: nn.Module, name: str, sha256: str = "", engine: str = "torch", precision: str = "float32"
    ) -> None:
        def to_tensors(prediction: FlowPrediction) -> tuple[torch.Tensor, ...]:
            return (prediction.flow,)

        super().__init__(network, name, sha256, engine, precision, ("first", "second"), ("flow",), to_tensors)

    def flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the flow between two images of one size, H x W x 3 uint8 RGB or H x W uint8; H x W x 2 float32 px.

        Raises OutOfMemory.
        """
        (found,) = self.runner.run(first, second)
        return np.ascontiguousarray(found[0].transpose(1, 2, 0))


class ClassicalFlow:
    """One of ``config.CLASSICAL_FLOW``, the functions of ``classical_flow``; works on grey values."""

    sha256, device = "", "cpu"
    runner = None

    def __init__(self, name: str) -> None:
        self.name = name

    def flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """See ``FlowMethod``."""
        method = getattr(classical_flow, self.name)
        return np.asarray(method(_grey(first), _grey(second)))


class FlowEstimator(Estimator[FlowConfig, FlowMethod]):
    """Estimates optical flow with one model.

    Example::

        from fg_depth_ros.inference import FlowEstimator

        estimator = FlowEstimator()
        flow = estimator.estimate(first, second).flow  # two 480 x 640 x 3 uint8 RGB arrays
        print(flow[240, 320], "px")
    """

    def __init__(self, config: FlowConfig | None = None) -> None:
        """Load the model. Raises ModelError: weights or device that cannot be used."""
        c = config or FlowConfig()
        if c.model in c.classical:
            super().__init__(c, ClassicalFlow(c.model))
            return
        network, card = load_network(c.model, c.weights, c.device, FLOW_MODELS, "flow")
        super().__init__(c, NetworkFlow(network, card.name, card.sha256, c.engine, c.precision))

    def refined(self) -> FlowEstimator:
        """Return an estimator with the same model and the variational ``+v``; nothing is loaded again."""
        return self.with_config(replace(self.config, refinement="variational"))

    def warm_up(self, width: int, height: int, doffs: float = 0.0) -> None:
        """Run once on empty frames of this size, px; ``doffs`` does not matter. Raises OutOfMemory."""
        self.estimate(*(np.zeros((height, width, 3), np.uint8),) * 2)

    def _result(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self._at_scale(left, right)

    def estimate(self, first: np.ndarray, second: np.ndarray) -> FlowEstimate:
        """Estimate the flow from one frame to another.

        Args:
            first, second: H x W x 3 uint8 RGB, or H x W uint8; of one size.

        Raises:
            ValueError: images of other type or of different size.
            OutOfMemory: the device cannot hold a pair of this size.
        """
        check_images(first=first, second=second)
        if first.shape != second.shape:
            raise ValueError(
                f"first and second image differ: {first.shape} and {second.shape}; flow needs two frames of one camera"
            )
        began = time.perf_counter()
        flow = self._at_scale(first, second)
        if self.config.refinement == "variational":
            flow = classical_flow.refine(_grey(first), _grey(second), flow)
        elif self.config.refinement == AUTO and self.model_name == "flownet_lite":
            flow = classical_flow.refine(_grey(first), _grey(second), flow, at_half=0, at_full=1)
        return FlowEstimate(flow, time.perf_counter() - began)

    def _at_scale(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        scale = float(self.config.inference_scale)
        if scale == 1:
            return self._method.flow(first, second)
        height, width = first.shape[:2]
        size = scaled_size(width, height, scale)
        small = (resize_image(image, *size) for image in (first, second))
        return resize_flow(self._method.flow(*small), width, height)


def _grey(image: np.ndarray) -> np.ndarray:
    image = np.ascontiguousarray(image)
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
