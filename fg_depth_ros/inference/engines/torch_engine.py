"""PyTorch: the reference, the fallback, and the engine on GPUs."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from fg_depth_ros.inference.engines.base import OutOfMemory, Run, Size
from fg_depth_ros.inference.engines.program import Program

# What PyTorch, cuDNN, cuBLAS and the drivers of PCs and Jetsons say when memory runs out.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "_STATUS_ALLOC_FAILED",
    "NVML_SUCCESS == r",
    "NvMapMemAlloc",
)


class TorchEngine:
    """Runs a program as it is, below float32 by automatic mixed precision; one load serves every size."""

    name = "torch"

    def missing(self) -> str | None:
        """See ``Engine``: never missing."""
        return None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        """See ``Engine``."""
        if device.type == "cuda":
            return ("float16", "bfloat16", "float32")
        return ("float32", "bfloat16", "float16")

    def unsupported(self, device: torch.device) -> str:
        """See ``Engine``: it runs on every device that PyTorch has."""
        return "PyTorch has no such device"

    def version(self) -> str:
        """See ``Engine``."""
        return str(torch.__version__)

    def build(self, program: Program, size: Size, precision: str) -> bytes:
        """See ``Engine``: nothing to build."""
        return b""

    def load(self, blob: bytes, program: Program, precision: str, device: torch.device) -> Run:
        """See ``Engine``; the function raises OutOfMemory."""

        def run(*images: np.ndarray) -> tuple[np.ndarray, ...]:
            height, width = images[0].shape[:2]
            with inference_mode(device, precision, width, height):
                outputs = program(*(torch.from_numpy(image).to(device).unsqueeze(0) for image in images))
                return tuple(output.cpu().numpy() for output in outputs)

        return run


@contextmanager
def inference_mode(device: torch.device, precision: str, width: int, height: int) -> Iterator[None]:
    """Run networks without gradients and in a precision: below float32 by automatic mixed precision.

    Raises OutOfMemory, which names the size of the images, where the device has too little memory for the code inside.
    """
    lower = precision != "float32"
    dtype = getattr(torch, precision) if lower else torch.bfloat16
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=lower):
            yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # else the error keeps what was computed so far
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory(f"{device} has too little memory for images of {width}x{height} px") from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error means that the device has too little memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)
