"""Engines: what computes a network. PyTorch, OpenVINO, ONNX Runtime, TensorRT, behind one interface.

A ``Program`` is a network as engines take it: uint8 images in, float32 arrays out. An ``Engine`` builds it for one size
and precision into bytes, which the cache keeps, and loads those into a function. ``EngineRunner`` does both on demand
and goes on with PyTorch where an engine fails. No engine is imported before it is used.
"""

from fg_depth_ros.inference.engines.base import ENGINES, FLOATS, PRECISIONS, Engine, EngineError, OutOfMemory
from fg_depth_ros.inference.engines.cache import EngineCache
from fg_depth_ros.inference.engines.program import Program
from fg_depth_ros.inference.engines.runner import EngineRunner, compiling_beside
from fg_depth_ros.inference.engines.selection import Selection, select_engine
from fg_depth_ros.inference.engines.torch_engine import inference_mode

__all__ = [
    "ENGINES", "FLOATS", "PRECISIONS", "Engine", "EngineCache", "EngineError", "EngineRunner", "OutOfMemory", "Program",
    "Selection", "compiling_beside", "inference_mode", "select_engine",
]  # fmt: skip
