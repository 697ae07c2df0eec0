"""Speed figures are figures of the model that was asked for; what cannot run says why."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fg_depth_ros.evaluation.bench import BenchError, bench_models


def test_a_row_per_size_and_larger_images_take_longer() -> None:
    report = bench_models(["sgbm"], [(256, 128), (640, 480)], ["float32", "bfloat16"], repeats=3, threads=1)
    assert [(row["set"], row["method"]) for row in report.rows] == [("256x128", "sgbm"), ("640x480", "sgbm")]
    small, large = (row["metrics"] for row in report.rows)
    # Nine times the pixels; the search range is the same.
    assert large["latency_p50_ms"] > 2 * small["latency_p50_ms"]
    for metrics in (small, large):
        assert 0 < metrics["latency_p50_ms"] <= metrics["latency_p95_ms"]
        assert metrics["throughput_hz"] == pytest.approx(1e3 / metrics["latency_p50_ms"], rel=0.6)
        assert metrics["memory_mib"] > 0 or math.isnan(metrics["memory_mib"])
    assert report.rows[0]["threads"] == 1
    assert report.model == {"name": "sgbm", "sha256": None}


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("nothing", "", "nothing at 64x64, float32 on cpu: unknown model 'nothing'; known: .*sgbm"),
        ("flownet_stereo", "missing.safetensors", "missing.safetensors"),
    ],
)
def test_what_cannot_run_is_named_with_the_reason(tmp_path: Path, model: str, weights: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        bench_models([model], [(64, 64)], weights=str(tmp_path / weights) if weights else "", device="cpu")
