"""The interface of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from fg_depth_ros.inference.engines.program import Program

ENGINES = ("auto", "torch", "openvino", "onnxruntime", "tensorrt")
FLOATS = ("float32", "bfloat16", "float16")
PRECISIONS = ("auto", *FLOATS, "int8")

Size = tuple[int, int]
"""Width and height of the images, px."""
Run = Callable[..., tuple[np.ndarray, ...]]
"""Takes the program's images, H x W x 3 uint8 RGB, contiguous; returns its outputs, 1 x C x H x W float32, its own."""


class EngineError(RuntimeError):
    """An engine that cannot run a network; the message says why."""


class OutOfMemory(RuntimeError):
    """The device has too little memory for images of this size."""


class Engine(Protocol):
    """Runs programs. Building and loading raise whatever the engine's library raises."""

    name: str

    def missing(self) -> str | None:
        """Return what the engine lacks here, such as "is not installed: pip install ..."; None where it can be used."""
        ...

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        """Return the precisions that it computes in on a device, the one that ``auto`` takes first; empty: none.

        ``int8`` is for weights that are calibrated for it (``networks.quantization``).
        """
        ...

    def unsupported(self, device: torch.device) -> str:
        """Return why it has no precisions on a device, with what to do about it where something can be done."""
        ...

    def version(self) -> str:
        """Return the version of its library."""
        ...

    def build(self, program: Program, size: Size, precision: str) -> bytes:
        """Build a program for images of one size; empty if there is nothing to keep."""
        ...

    def load(self, blob: bytes, program: Program, precision: str, device: torch.device) -> Run:
        """Return a function that runs what ``build`` made."""
        ...


def cpu_threads() -> int:
    """Return how many threads an engine uses on the CPU: as many as PyTorch, so that one setting is for all."""
    return torch.get_num_threads()
