"""Speed figures are figures of the model that was asked for; what cannot run says why."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fg_depth_ros.evaluation.bench import BenchError, bench_models, measure
from fg_depth_ros.networks import ModelCard, create_model, save_checkpoint


@pytest.mark.serial
def test_a_row_is_of_the_model_and_size_that_were_asked_for() -> None:
    report = bench_models(["sgbm"], [(256, 128)], ["float32", "bfloat16"], repeats=3, threads=1)
    (row,) = report.rows  # a classical method knows no precision
    assert (row["set"], row["method"], row["threads"], row["sha256"]) == ("256x128", "sgbm", 1, None)
    small = row["metrics"]
    assert 0 < small["latency_p50_ms"] <= small["latency_p95_ms"]
    assert small["throughput_hz"] == pytest.approx(1e3 / small["latency_p50_ms"], rel=0.6)
    assert small["memory_mib"] > 0 or math.isnan(small["memory_mib"])
    assert report.model == {"name": "sgbm", "sha256": None}

    job = {"model": "sgbm", "width": 768, "height": 384, "precision": "float32", "repeats": 3}
    large = measure({**job, "weights": "", "device": "auto", "threads": 0})["metrics"]
    # Nine times the pixels over the same search range.
    assert large["latency_p50_ms"] > 2 * small["latency_p50_ms"]


_JOB = {"model": "sgbm", "width": 64, "height": 64, "repeats": 1, "weights": "", "device": "cpu", "threads": 0}


def test_memory_that_was_freed_before_is_not_counted() -> None:
    peak = np.ones((320, 2**20), np.uint8)
    del peak
    memory = measure(_JOB)["metrics"]["memory_mib"]
    assert memory < 200 or math.isnan(memory)


def test_memory_is_unknown_where_its_peak_cannot_be_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "write_text", refused)
    assert math.isnan(measure(_JOB)["metrics"]["memory_mib"])


def test_models_of_every_kind_are_measured(tmp_path: Path) -> None:
    network = create_model("depthnet_lite", focal=100.0, width=96, height=64)
    weights = tmp_path / "lite.safetensors"
    card = save_checkpoint(weights, network, ModelCard("depthnet_lite", network.options))  # type: ignore[arg-type]
    job = {"width": 96, "height": 64, "precision": "float32", "repeats": 2, "device": "cpu", "threads": 0}
    mono = measure({**job, "model": "depthnet_lite", "weights": str(weights)})
    assert (mono["sha256"], mono["device"]) == (card.sha256, "cpu")
    assert mono["metrics"]["latency_p50_ms"] > 0
    flow = measure({**job, "model": "farneback", "weights": ""})
    assert flow["sha256"] == ""
    assert flow["metrics"]["latency_p50_ms"] > 0


@pytest.mark.parametrize(
    ("model", "precision", "device", "message"),
    [
        ("flownet_stereo", "auto", "cpu", r"flownet_stereo at 64x64 \(cpu\): .*missing.safetensors"),
        ("depthnet_lite", "float32", "auto", r"depthnet_lite at 64x64 \(float32\): .*missing.safetensors"),
        ("flownet_lite", "auto", "auto", r"flownet_lite at 64x64: .*missing.safetensors"),
    ],
)
def test_what_cannot_run_is_named_with_the_reason(
    tmp_path: Path, model: str, precision: str, device: str, message: str
) -> None:
    weights = str(tmp_path / "missing.safetensors")
    with pytest.raises(BenchError, match=message):
        bench_models([model], [(64, 64)], [precision], weights=weights, device=device)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": ("sgbm", "nothing")}, "model 'nothing' is unknown; .*sgbm"),
        ({"precisions": ("auto", "int4")}, "precision 'int4' is unknown; .*did you mean int8"),
        ({"engines": ("auto", "abacus")}, "engine 'abacus' is unknown; choose one of auto, torch, "),
    ],
)
def test_what_is_unknown_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("fg_depth_ros.evaluation.bench._in_own_process", lambda job: pytest.fail("it has begun"))
    with pytest.raises(ValueError, match=message):
        bench_models(**given)


def test_engines_and_precisions_are_compared_with_pytorch_in_float32() -> None:
    sizes, precisions = [(128, 96)], ["float32", "bfloat16"]
    report = bench_models(["flownet_stereo"], sizes, precisions, 2, engines=["torch", "tensorrt"], device="cpu")
    exact, half = report.rows
    assert (exact["method"], exact["engine"], exact["precision"]) == (
        "flownet_stereo torch float32", "torch", "float32",
    )  # fmt: skip
    assert exact["metrics"]["epe_float32"] == 0
    assert 0 < half["metrics"]["epe_float32"] < 1
    assert "compile_s" not in exact["metrics"]  # nothing is compiled
    assert len(report.settings["left_out"]) == 2
    assert all("tensorrt" in text for text in report.settings["left_out"])


@pytest.mark.slow
def test_an_engine_that_compiles_is_timed_without_and_with_the_cache() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an extra (engines)")
    pytest.importorskip("onnx", reason="onnx is an extra (engines)")
    (row,) = bench_models(["depthnet_lite"], [(128, 96)], ["float32"], 2, engines=["openvino"], device="cpu").rows
    assert row["engine"] == "openvino"
    assert 0 < row["metrics"]["compile_cached_s"] < row["metrics"]["compile_s"]
    assert row["metrics"]["abs_rel_float32"] < 1e-3
