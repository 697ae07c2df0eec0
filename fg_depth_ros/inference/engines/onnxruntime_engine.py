"""ONNX Runtime, and TensorRT through it."""

from __future__ import annotations

import contextlib
import os
import shutil
from importlib import import_module, metadata
from importlib.util import find_spec

import numpy as np
import torch

from fg_depth_ros.inference.engines.base import EngineError, Run, Size, cpu_threads
from fg_depth_ros.inference.engines.cache import plan_folder
from fg_depth_ros.inference.engines.program import Program

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}  # by type of device


class OnnxRuntimeEngine:
    """Runs the ONNX form of a program on the CPU, or on an NVIDIA GPU where ``onnxruntime-gpu`` is installed."""

    name = "onnxruntime"

    def missing(self) -> str | None:
        """See ``Engine``."""
        absent = [name for name in ("onnxruntime", "onnx") if find_spec(name) is None]
        return f"is not installed: pip install {' '.join(absent)}" if absent else None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        """See ``Engine``."""
        import onnxruntime

        return ("float32",) if _PROVIDERS.get(device.type) in onnxruntime.get_available_providers() else ()

    def unsupported(self, device: torch.device) -> str:
        """See ``Engine``."""
        import onnxruntime

        there = ", ".join(onnxruntime.get_available_providers())
        advice = "; pip install onnxruntime-gpu in place of onnxruntime" if device.type == "cuda" else ""
        return f"the installed ONNX Runtime has {there}{advice}"

    def version(self) -> str:
        """See ``Engine``."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def build(self, program: Program, size: Size, precision: str) -> bytes:
        """See ``Engine``: the ONNX file."""
        return program.onnx(size)

    def load(self, blob: bytes, program: Program, precision: str, device: torch.device) -> Run:
        """See ``Engine``. Raises EngineError: the installed ONNX Runtime has nothing for this device."""
        import onnxruntime

        providers = self._providers(blob, precision, device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_threads()
        session = onnxruntime.InferenceSession(blob, options, providers=providers)
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if wanted not in session.get_providers():
            raise EngineError(f"ONNX Runtime could not start {wanted}: {self.unsupported(device)}")

        def run(*images: np.ndarray) -> tuple[np.ndarray, ...]:
            inputs = {name: image[None] for name, image in zip(program.inputs, images, strict=True)}
            return tuple(session.run(None, inputs))

        return run

    def _providers(
        self, blob: bytes, precision: str, device: torch.device
    ) -> list[str | tuple[str, dict[str, object]]]:  # fmt: skip
        if device.type == "cuda":
            return [(_PROVIDERS["cuda"], {"device_id": device.index or 0})]
        return [_PROVIDERS["cpu"]]


class TensorRtEngine(OnnxRuntimeEngine):
    """TensorRT as a provider of ``onnxruntime-gpu``; it keeps its plans in the cache folder by itself."""

    name = "tensorrt"

    def missing(self) -> str | None:
        """See ``Engine``."""
        install = "pip install onnx onnxruntime-gpu tensorrt"
        if super().missing() is not None:
            return f"is not installed: {install}"
        import onnxruntime

        if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
            return f"needs an ONNX Runtime with TensorRT, and the installed one is without: {install}"
        return None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        """See ``Engine``."""
        return ("float32", "float16") if device.type == "cuda" else ()  # in half it may round sampling coordinates

    def unsupported(self, device: torch.device) -> str:
        """See ``Engine``."""
        return "TensorRT runs on NVIDIA GPUs"

    def load(self, blob: bytes, program: Program, precision: str, device: torch.device) -> Run:
        """See ``OnnxRuntimeEngine``. A plan that cannot be loaded, such as a torn file, is made again."""
        try:
            return super().load(blob, program, precision, device)
        except Exception:  # of whatever kind the library has
            plans = plan_folder(blob)
            if not any(plans.glob("*")):
                raise
            shutil.rmtree(plans, ignore_errors=True)
            return super().load(blob, program, precision, device)

    def version(self) -> str:
        """See ``Engine``."""
        with contextlib.suppress(metadata.PackageNotFoundError):  # JetPack has the libraries alone
            return f"{super().version()} {metadata.version('tensorrt')}"
        return super().version()

    def _providers(
        self, blob: bytes, precision: str, device: torch.device
    ) -> list[str | tuple[str, dict[str, object]]]:  # fmt: skip
        with contextlib.suppress(ImportError):
            import_module("tensorrt")  # loads the libraries, which lie next to it and not where the linker looks
        options: dict[str, object] = {"device_id": device.index or 0, "trt_fp16_enable": precision == "float16"}
        folder = plan_folder(blob)  # the names of its plans tell neither weights nor sizes apart
        with contextlib.suppress(OSError):  # without a folder it makes a plan at every start
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
            options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(folder)}
        return [("TensorrtExecutionProvider", options), *super()._providers(blob, precision, device)]
