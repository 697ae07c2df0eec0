"""Choose the engine and precision that run a network here, with the reason."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

from fg_depth_ros.inference.engines.base import Engine
from fg_depth_ros.inference.engines.onnxruntime_engine import OnnxRuntimeEngine, TensorRtEngine
from fg_depth_ros.inference.engines.openvino_engine import OpenVinoEngine
from fg_depth_ros.inference.engines.torch_engine import TorchEngine

VARIABLE = "FG_DEPTH_ENGINE"
TORCH = TorchEngine()
INSTALLABLE: dict[str, Engine] = {
    engine.name: engine for engine in (TORCH, OpenVinoEngine(), OnnxRuntimeEngine(), TensorRtEngine())
}
"""Every engine by name."""


class Selection(NamedTuple):
    """Chosen engine and precision. ``problem``: why the engine that was asked for is not taken, or None."""

    engine: Engine
    precision: str
    reason: str
    problem: str | None = None


def select_engine(engine: str, precision: str, device: torch.device, *, int8: bool = False) -> Selection:
    """Choose for a device.

    ``auto`` takes OpenVINO on a CPU where it is installed, else PyTorch, or the engine that ``FG_DEPTH_ENGINE`` of the
    environment names; and the fastest precision of that engine, ``int8`` only where the weights are calibrated for it.
    An engine that is not installed is replaced by PyTorch, with a ``problem``. Raises ValueError: an engine that does
    not run on this device or in this precision.
    """
    asked = engine
    if engine == "auto":
        engine = os.environ.get(VARIABLE) or "auto"
        if engine not in ("auto", *INSTALLABLE):
            raise ValueError(f"{VARIABLE} = '{engine}' is unknown; set it to one of auto, {', '.join(INSTALLABLE)}")
    if engine == "auto":
        return _automatic(precision, device, int8)
    chosen = INSTALLABLE[engine]
    missing = chosen.missing()
    if missing is not None:
        possible = "auto" if precision == "int8" else precision
        precision = _precision(TORCH, possible, device, int8)
        return Selection(TORCH, precision, "instead of a missing engine", f"engine {engine} {missing}")
    if asked != "auto":
        return Selection(chosen, _precision(chosen, precision, device, int8), "as set")
    try:
        return Selection(chosen, _precision(chosen, precision, device, int8), f"as {VARIABLE} says")
    except ValueError as error:
        raise ValueError(f"{error}; the engine is what {VARIABLE} in the environment says: unset it") from error


def _automatic(precision: str, device: torch.device, int8: bool) -> Selection:
    openvino = INSTALLABLE["openvino"]
    if device.type != "cpu":
        reason = "the other engines are not measured on GPUs yet"
    elif (missing := openvino.missing()) is not None:
        reason = f"OpenVINO is faster on a CPU, but it {missing}"
    elif precision not in ("auto", *openvino.precisions(device)):
        reason = f"OpenVINO does not compute in {precision} on this CPU"
    else:
        return Selection(openvino, _precision(openvino, precision, device, int8), "choice of auto")
    return Selection(TORCH, _precision(TORCH, precision, device, int8), reason)


def _precision(engine: Engine, precision: str, device: torch.device, int8: bool) -> str:
    known = engine.precisions(device)
    if not known:
        raise ValueError(
            f"engine '{engine.name}' does not run on {device}: {engine.unsupported(device)}; set engine to torch or "
            "auto, or another device"
        )
    if precision == "int8" in known and not int8:
        raise ValueError("these weights are not calibrated for int8: 'fg-depth quantize' makes weights that are")
    known = tuple(name for name in known if int8 or name != "int8")
    if precision != "auto" and precision not in known:
        raise ValueError(
            f"engine '{engine.name}' does not compute in {precision} on this {device.type}; choose one of auto, "
            f"{', '.join(known)}"
        )
    return known[0] if precision == "auto" else precision
