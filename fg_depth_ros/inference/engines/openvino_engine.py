"""OpenVINO on CPUs."""

from __future__ import annotations

import contextlib
import io
import platform
import tempfile
from collections import defaultdict
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from fg_depth_ros.inference.engines.base import Run, Size, cpu_threads
from fg_depth_ros.inference.engines.program import Program

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}
_INT8_MEASURED = ("x86_64", "AMD64")  # where int8 is known to be faster


class OpenVinoEngine:
    """Compiles the ONNX form of a program for the CPU; the bytes are OpenVINO's own."""

    name = "openvino"

    def missing(self) -> str | None:
        """See ``Engine``."""
        absent = [name for name in ("openvino", "onnx") if find_spec(name) is None]
        return f"is not installed: pip install {' '.join(absent)}" if absent else None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        """See ``Engine``: half precision and int8 where the processor computes in it."""
        if device.type != "cpu":
            return ()
        int8 = ("int8",) if "INT8" in _capabilities() and platform.machine() in _INT8_MEASURED else ()
        return (*int8, *_floats())

    def unsupported(self, device: torch.device) -> str:
        """See ``Engine``."""
        return "OpenVINO runs on the CPU here"

    def version(self) -> str:
        """See ``Engine``."""
        return metadata.version("openvino")

    def build(self, program: Program, size: Size, precision: str) -> bytes:
        """See ``Engine``."""
        onnx = program.onnx(size, int8=precision == "int8")
        if precision == "float32":
            model = _core().read_model(io.BytesIO(onnx))
        else:
            model = _core().read_model(*save_model(onnx))
        blob: bytes = _core().compile_model(model, "CPU", _settings(precision)).export_model().getvalue()
        return blob

    def load(self, blob: bytes, program: Program, precision: str, device: torch.device) -> Run:
        """See ``Engine``."""
        return _runner(_core().import_model(io.BytesIO(blob), "CPU", _settings(precision)), program)


def load_model_file(path: Path, program: Program) -> Run:
    """Return a function that runs an IR file (.xml, with .bin next to it) of a program in float32."""
    return _runner(_core().compile_model(path, "CPU", _settings("float32")), program)


def _runner(compiled: Any, program: Program) -> Run:
    request = compiled.create_infer_request()

    def run(*images: np.ndarray) -> tuple[np.ndarray, ...]:
        # The request's buffers are used again by the next run.
        outputs = request.infer([image[None] for image in images], share_inputs=True, share_outputs=True)
        return tuple(outputs[i].copy() for i in range(len(program.outputs)))

    return run


# Where a search for what computes places ends: what these return is in half precision anyway.
_LEARNED = {"Const", "Convolution", "GroupConvolution", "MatMul", "Parameter"}
_ELEMENTWISE = {"Add", "Clamp", "Divide", "Multiply", "Subtract"}


def save_model(onnx: bytes) -> tuple[bytes, bytes]:
    """Return the contents of the two files of OpenVINO's IR, .xml and .bin, for an ONNX file.

    In half precision it keeps float32 for places to sample at, and for fields less their local mean: 8 bits would round
    a column of a wide image by pixels. The mark is an attribute that the library knows by the name "precise" and takes
    from a file alone; a version that does not know it ignores it.
    """
    import openvino

    model = _core().read_model(io.BytesIO(onnx))
    with contextlib.suppress(ImportError):  # not public: first join operations, so that no mark is lost later
        from openvino._offline_transformations import apply_moc_transformations

        apply_moc_transformations(model, cf=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        openvino.save_model(model, path, compress_to_fp16=False)
        tree = ElementTree.parse(path)
        layers = {layer.get("id", ""): layer for layer in tree.iterfind("layers/layer")}
        sources: dict[str, dict[str | None, str]] = defaultdict(dict)
        consumers: dict[str, list[str]] = defaultdict(list)
        for edge in tree.iterfind("edges/edge"):
            begin, end = edge.get("from-layer", ""), edge.get("to-layer", "")
            sources[end][edge.get("to-port")] = begin
            consumers[begin].append(end)
        kind = {name: layer.get("type") for name, layer in layers.items()}
        exact = {name for name in layers if kind[name] in ("GridSample", "AvgPool")}
        search = [source for name in exact for port, source in sources[name].items()
                  if kind[name] == "AvgPool" or port == "1"]  # fmt: skip
        while search:
            name = search.pop()
            if name not in exact and kind[name] not in _LEARNED:
                exact.add(name)
                search += sources[name].values()
        exact |= {end for name in exact for end in consumers[name] if kind[end] in _ELEMENTWISE}
        for name in exact:
            layer = layers[name]
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.SubElement(layer, "rt_info")
            ElementTree.SubElement(info, "attribute", {"name": "precise", "version": "0"})
        tree.write(path)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _capabilities() -> list[str]:
    return list(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _floats() -> tuple[str, ...]:
    """Return the floating-point precisions of the processor, the fastest first."""
    return (*(name for name, word in _CAPABILITIES.items() if word in _capabilities()), "float32")


def _settings(precision: str) -> dict[str, Any]:
    return {
        # Of int8 networks what is not rounded is computed in the fastest float.
        "INFERENCE_PRECISION_HINT": _HINTS[_floats()[0] if precision == "int8" else precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": cpu_threads(),
        "ENABLE_CPU_PINNING": False,  # several processes would be bound to the same cores
    }
