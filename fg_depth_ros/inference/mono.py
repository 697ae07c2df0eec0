"""``MonoDepthEstimator``: one image and its focal length in, metric depth out.

The node, the command line and the evaluation use this one object, so that all of them give the same numbers.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from fg_depth_ros.geometry.resize import resize_image, size_with_area
from fg_depth_ros.inference.config import MonoConfig
from fg_depth_ros.inference.estimator import Estimator, NetworkMethod, check_images, load_network
from fg_depth_ros.networks import DEPTH_MODELS, depth_of
from fg_depth_ros.networks.depth import DepthPrediction


@dataclass(frozen=True)
class MonoEstimate:
    """Depth from one image, and the time it took."""

    depth: np.ndarray  # H x W float32 m along the optical axis (REP 118), of every pixel, not masked
    seconds: float


class NetworkMono(NetworkMethod):
    """A ``DepthNetwork`` as a method."""

    def __init__(
        self, network: nn.Module, name: str, sha256: str = "", engine: str = "torch", precision: str = "float32"
    ) -> None:
        def to_tensors(prediction: DepthPrediction) -> tuple[torch.Tensor, ...]:
            return (prediction.inverse,)

        super().__init__(network, name, sha256, engine, precision, ("image",), ("inverse",), to_tensors)

    @property
    def camera(self) -> str:
        """The camera that the network fits, in words."""
        width, height, focal = (getattr(self._network, name) for name in ("width", "height", "focal"))
        view = 2 * math.degrees(math.atan(width / (2 * focal)))
        return f"{width}x{height} px, focal length {focal:.0f} px ({view:.0f} degrees across)"

    def input_size(self, width: int, height: int, scale: float = 1.0, pixel_aspect: float = 1.0) -> tuple[int, int]:
        """Return width and height, px, that an image of this size is resized to.

        Its own shape, as far as the network's multiples allow, and about as many pixels as the network was trained at,
        with a factor ``scale`` on the sides. ``pixel_aspect``: fy / fx of the image; the network sees square
        pixels.
        """
        network, unit = self._network, int(self._network.size_multiple)  # type: ignore[arg-type]
        pixels = int(network.width) * int(network.height) * scale**2  # type: ignore[arg-type]
        return size_with_area(width * pixel_aspect, height, pixels, unit)

    def depth(self, image: np.ndarray, fx: float, fy: float | None = None, scale: float = 1.0) -> np.ndarray:
        """Estimate depth, H x W float32 m, of H x W x 3 uint8 RGB or H x W uint8.

        ``fx``, ``fy``: px, None = ``fx``; ``scale``: factor on the size of the network's input. Raises OutOfMemory.
        """
        height, width = image.shape[:2]
        size = self.input_size(width, height, scale, 1.0 if fy is None else fy / fx)
        (small,) = self.runner.run(resize_image(image, *size))
        # Inverse depth is what varies smoothly over a surface; depth would be smeared towards the far side.
        found = cv2.resize(small[0, 0], (width, height), interpolation=cv2.INTER_LINEAR)
        focal: float = float(self._network.focal)  # type: ignore[arg-type]
        return np.asarray(depth_of(found, focal, fx * size[0] / width), dtype=np.float32)  # type: ignore[arg-type]


class MonoDepthEstimator(Estimator[MonoConfig, NetworkMono]):
    """Estimates metric depth from single images with one model.

    Example::

        from fg_depth_ros.inference import MonoDepthEstimator

        depth = MonoDepthEstimator().estimate(image, fx=525.0).depth  # a 480 x 640 x 3 uint8 RGB array
        print(depth[240, 320], "m")
    """

    def __init__(self, config: MonoConfig | None = None) -> None:
        """Load the model. Raises ModelError: weights or device that cannot be used."""
        c = config or MonoConfig()
        network, card = load_network(c.model, c.weights, c.device, DEPTH_MODELS, "depth")
        super().__init__(c, NetworkMono(network, card.name, card.sha256, c.engine, c.precision))

    @property
    def camera(self) -> str:
        """The camera that the model fits, in words; depth of another one is scaled by its focal length."""
        return self._method.camera

    def warm_up(self, width: int, height: int, doffs: float = 0.0) -> None:
        """Run once on an empty image of this size, px; ``doffs`` does not matter. Raises OutOfMemory."""
        self.estimate(np.zeros((height, width, 3), np.uint8), float(width))

    def _result(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self._depth(left, float(left.shape[1]))

    def estimate(self, image: np.ndarray, fx: float, fy: float | None = None) -> MonoEstimate:
        """Estimate the depth of every pixel.

        Args:
            image: H x W x 3 uint8 RGB, or H x W uint8.
            fx: focal length of this image, px.
            fy: the same along the columns, where pixels are not square; None: ``fx``.

        Raises:
            ValueError: an image of another type, or a focal length that is not positive.
            OutOfMemory: the device cannot hold an image of this size.
        """
        check_images(input=image)
        for name, focal in (("fx", fx), ("fy", fx if fy is None else fy)):
            if not (math.isfinite(focal) and focal > 0):
                raise ValueError(
                    f"{name} must be a positive number of pixels, got {focal}; take it from the camera's calibration"
                )
        began = time.perf_counter()
        depth = self._depth(image, fx, fy)
        return MonoEstimate(depth, time.perf_counter() - began)

    def _depth(self, image: np.ndarray, fx: float, fy: float | None = None) -> np.ndarray:
        return self._method.depth(image, fx, fy, float(self.config.inference_scale))
