"""A network as engines take it, and its ONNX form."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fg_depth_ros.inference.engines.base import Size
from fg_depth_ros.networks.checkpoint import fingerprint
from fg_depth_ros.networks.quantization import Ranges, quantized

OPSET = 17
_EXPORTING = threading.Lock()  # the exporter has state for the whole process
_PACKAGE = Path(__file__).resolve().parents[2]


class Program(nn.Module):
    """A network with uint8 images as its input and named float32 outputs.

    Args:
        network: in evaluation mode; takes N x 3 x H x W float RGB in [0, 1] for every input.
        inputs: names of the images.
        outputs: names of what ``to_tensors`` returns.
        to_tensors: turns the network's prediction into tensors N x C x H x W.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Sequence[str],
        outputs: Sequence[str],
        to_tensors: Callable[[Any], tuple[Tensor, ...]],
    ) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs, self._to_tensors = network, tuple(inputs), tuple(outputs), to_tensors
        self.training = network.training

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Run the network on N x H x W x 3 uint8 RGB images."""
        # Permuted after the batch dimension is there: the strides then say that the pixels lie channels last.
        prediction = self.network(*(image.permute(0, 3, 1, 2).to(torch.float32).div(255) for image in images))
        return tuple(tensor.float() for tensor in self._to_tensors(prediction))

    @property
    def ranges(self) -> Ranges:
        """Return the activation ranges of the convolutions for 8 bits; empty: not calibrated for int8."""
        return getattr(self.network, "int8_ranges", {})

    def identity(self) -> str:
        """Return a hash of all that its numbers depend on: weights, ranges for int8, and the code."""
        tensors = {**self.network.state_dict(), **dict(self.network.named_buffers())}
        options = str(getattr(self.network, "options", ""))
        parts = (fingerprint(tensors), type(self.network).__name__, options, json.dumps(dict(self.ranges)))
        return hashlib.sha256("\n".join([*parts, *self.inputs, *self.outputs, _code()]).encode()).hexdigest()

    def onnx(self, size: Size, dynamic: bool = False, int8: bool = False) -> bytes:
        """Export for N = 1 images of a size. Needs the package ``onnx``.

        ``dynamic``: that size is an example. ``int8``: with the rounding to 8 bits, for calibrated weights.
        """
        if int8:
            network = quantized(self.network, self.ranges)
            return Program(network, self.inputs, self.outputs, self._to_tensors).onnx(size, dynamic)
        width, height = size
        device = next(self.network.parameters()).device
        images = tuple(torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device) for _ in self.inputs)
        axes = {name: {1: "height", 2: "width"} for name in self.inputs}
        axes |= {name: {2: "height", 3: "width"} for name in self.outputs}
        # The exporter that traces; PyTorch before 2.5 has no other. Its annotation does not know that it takes files.
        export: Any = torch.onnx.export
        legacy = {"dynamo": False} if "dynamo" in inspect.signature(export).parameters else {}
        file = io.BytesIO()
        with _EXPORTING, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes that tracing makes constants: they are
            export(
                self, images, file, opset_version=OPSET, input_names=list(self.inputs),
                output_names=list(self.outputs), dynamic_axes=axes if dynamic else None,
                training=torch.onnx.TrainingMode.PRESERVE, **legacy,
            )  # fmt: skip
        return file.getvalue()


@cache
def _code() -> str:
    """Return a hash of the code of networks, methods and engines: what other code made is not taken from the cache."""
    digest = hashlib.sha256()
    for path in sorted([*(_PACKAGE / "networks").rglob("*.py"), *(_PACKAGE / "inference").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
