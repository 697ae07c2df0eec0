"""Estimators on a CUDA device against PyTorch in float32 on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fg_depth_ros.data.datasets.stereo import motorcycle
from fg_depth_ros.inference import open_estimator
from fg_depth_ros.inference.engines.selection import INSTALLABLE

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

MODELS = ("flownet_stereo", "flownet_lite", "depthnet_lite")
SIZES = ((640, 480), (400, 300))  # the second is no multiple of what the networks take
LIMITS = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.3}  # px in the mean
PER_CENT = {"float32": 0.2, "float16": 0.3, "bfloat16": 1.5}  # of depth; cuDNN's float32 is TF32


def answer(model: str, size: tuple[int, int], estimator: Any) -> np.ndarray:
    """Return disparity, flow, or depth in per cent."""
    left, right = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in motorcycle().images())
    if model == "flownet_stereo":
        return np.asarray(estimator.match(left, right).disparity)
    if model == "flownet_lite":
        return np.asarray(estimator.estimate(left, right).flow)
    return 100 * np.log(estimator.estimate(left, fx=float(size[0])).depth)


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "tensorrt"])
@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_gives_the_numbers_of_the_cpu(
    model: str, engine: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FG_DEPTH_CACHE", str(tmp_path))
    if (missing := INSTALLABLE[engine].missing()) is not None:
        pytest.skip(f"{engine} {missing}")
    if engine == "onnxruntime":
        runtime = pytest.importorskip("onnxruntime")
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            pytest.skip("the installed ONNX Runtime is for CPUs alone")
    if precision not in INSTALLABLE[engine].precisions(torch.device("cuda")):
        pytest.skip(f"{engine} does not compute in {precision}")
    on_gpu = open_estimator(model, device="cuda", engine=engine, precision=precision)
    here = open_estimator(model, device="cpu", engine="torch", precision="float32")
    for size in (*SIZES, SIZES[0]):
        difference = np.abs(answer(model, size, on_gpu) - answer(model, size, here)).mean()
        assert on_gpu.engine_failure is None
        assert on_gpu.engine == engine
        assert difference <= (PER_CENT if model == "depthnet_lite" else LIMITS)[precision]
