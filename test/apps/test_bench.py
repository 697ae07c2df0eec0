"""The node's own cost and its account of pairs, measured over DDS between processes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from support.pair_folders import write_pairs

from fg_depth_ros.apps import bench_node as module
from fg_depth_ros.apps.bench_node import WARM_UP_PAIRS, bench_node
from fg_depth_ros.apps.experiment import ExperimentError


@pytest.fixture
def domain(ros_domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A domain that no other test uses; logs of what fails go to the test's own folder."""
    monkeypatch.setattr(module, "free_domain_id", lambda: ros_domain)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return ros_domain


def test_every_pair_is_accounted_for_and_the_overhead_is_what_is_left(domain: int, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs")
    told: list[str] = []
    report = bench_node("sgbm", (320, 192), 5.0, 2.0, pairs=str(folder), on_status=told.append)
    (row,) = report.rows
    metrics = row["metrics"]
    assert (row["set"], row["method"], row["kind"]) == ("320x192 at 5 Hz", "sgbm", "node")
    assert metrics["pairs_sent"] == 10 + WARM_UP_PAIRS
    assert metrics["pairs_delivered"] + metrics["pairs_dropped"] == metrics["pairs_sent"]
    assert sum(row["drops"].values()) == metrics["pairs_dropped"]
    assert metrics["pairs_unaccounted"] == 0
    assert metrics["overhead_p50_ms"] == pytest.approx(metrics["published_p50_ms"] - metrics["inference_p50_ms"])
    assert metrics["overhead_p50_ms"] > 0
    assert any("pairs delivered" in text for text in told)


def test_each_of_several_cameras_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = write_pairs(tmp_path / "pairs")
    report = bench_node("sgbm", (320, 192), 5.0, 1.0, cameras=2, pairs=str(folder))
    assert [row["set"] for row in report.rows] == [f"320x192 at 5 Hz, camera {i} of 2" for i in (1, 2)]
    for row in report.rows:
        assert row["metrics"]["pairs_sent"] == 5 + WARM_UP_PAIRS
        assert row["metrics"]["pairs_unaccounted"] == 0
        assert row["metrics"]["pairs_delivered"] + sum(row["drops"].values()) == row["metrics"]["pairs_sent"]
    with pytest.raises(ValueError, match="cameras is 0"):
        bench_node("sgbm", cameras=0)


@pytest.mark.parametrize(
    ("rate", "seconds", "message"), [(0.0, 1.0, "rate = 0 Hz: give"), (5.0, 0.0, "seconds = 0: give")]
)
def test_what_cannot_be_played_is_refused(rate: float, seconds: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench_node("sgbm", rate=rate, seconds=seconds)


def test_the_threads_are_those_of_the_nodes_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(Exception):
        pass

    def group(folder: Path, environment: dict[str, str]) -> None:
        raise Started(environment["OMP_NUM_THREADS"], environment["OPENCV_FOR_THREADS_NUM"])

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "ProcessGroup", group)
    with pytest.raises(Started, match="'3', '3'"):
        bench_node("sgbm", threads=3)


def test_a_refused_model_is_reported_at_once(domain: int, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="depth_weights = '.*missing.safetensors'"):
        bench_node("flownet_stereo", weights=str(tmp_path / "missing.safetensors"))
