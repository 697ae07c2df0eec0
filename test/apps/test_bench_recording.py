"""The recording benchmark: its account against hand-made figures, and one short run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from support.recording import contents

from fg_depth_ros.apps.bench_recording import bench_recording, count_pairs, cpu_seconds
from fg_depth_ros.recording import manifest

INPUTS = ("left/image_rect", "right/image_rect", "left/camera_info", "right/camera_info")


def values(**changes: Any) -> dict[str, str]:
    """What a logger says that got 97 of 100 pairs, dropped 4 and wrote the others."""
    told = {
        "pairs formed": 97,
        "pairs written": 93,
        "pairs not wanted": 0,
        "pairs in ring": 0,
        "pairs in queue": 0,
        "dropped: queue full": 3,
        "dropped before the recorder: no time": 1,
        "pairs in queue, mean": "0.25",
        "pairs in queue, largest": 7,
        "/chatter lost on the way": 50,
        **{f"{name} without partner": 2 for name in INPUTS},
        **{f"{name} lost on the way": 0 for name in INPUTS},
        "right/image_rect lost on the way": 3,
    }
    return {key: str(value) for key, value in {**told, **changes}.items()}


def test_every_pair_has_a_reason() -> None:
    metrics, drops = count_pairs(100, values(), 93)
    assert drops == {"queue full": 3, "no time": 1, "lost on the way": 3}
    assert (metrics["pairs_sent"], metrics["pairs_formed"], metrics["pairs_written"]) == (100, 97, 93)
    assert (metrics["pairs_dropped"], metrics["pairs_unaccounted"]) == (7, 0)
    assert (metrics["queue_mean"], metrics["queue_largest"]) == (0.25, 7)


def test_a_pair_that_nobody_counted_shows() -> None:
    lost = {f"{name} lost on the way": 0 for name in INPUTS}
    assert count_pairs(100, values(**lost), 93)[0]["pairs_unaccounted"] == 3
    assert count_pairs(100, values(), 91)[0]["pairs_unaccounted"] == 2, "said to be written, but not on the disk"


def test_more_lost_messages_than_pairs_explain_no_more_than_the_pairs() -> None:
    metrics, drops = count_pairs(100, values(**{"left/image_rect lost on the way": 9}), 93)
    assert drops["lost on the way"] == 3
    assert metrics["pairs_unaccounted"] == 0


def test_pairs_outside_the_recording_are_no_drops() -> None:
    metrics, _ = count_pairs(100, values(**{"pairs not wanted": 5, "pairs in ring": 2}), 86)
    assert (metrics["pairs_before_recording"], metrics["pairs_unaccounted"]) == (7, 0)


def test_cpu_time_is_that_of_the_process() -> None:
    before = cpu_seconds(os.getpid())
    end = time.process_time() + 0.15
    while time.process_time() < end:
        sum(range(1000))
    spent = time.process_time() - end + 0.15
    assert cpu_seconds(os.getpid()) - before == pytest.approx(spent, abs=0.05)
    with pytest.raises(OSError, match="stat"):
        cpu_seconds(2**22 + 1)


def test_an_unknown_storage_is_refused(run: Any) -> None:
    status, text = run("bench-recording", "--storage", "lz4")
    assert status == 2
    assert "storage 'lz4' is unknown: raw, zstd, png and jpeg are known" in text


def test_what_was_recorded_goes_after_a_failure_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("fg_depth_ros.apps.experiment.Experiment.run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_recording(root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_short_run_accounts_for_every_pair(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, written, recorded = manifest.read, [], []

    def look(root: Path) -> Any:  # at the episodes, before they are removed
        for path in root.rglob("*.mcap"):
            written.append(path.stat().st_size)
            recorded.extend(at for _, at, _ in contents(path.parent))
        return read(root)

    monkeypatch.setattr(manifest, "read", look)
    report = tmp_path / "report.json"
    status, text = run(
        "bench-recording", "--size", "160x120", "--rate", "10", "--seconds", "2", "--no-depth", "--storage", "zstd",
        "--root", tmp_path, "--json", report,
    )  # fmt: skip
    assert status == 0, text
    (row,) = json.loads(report.read_text())["rows"]
    metrics = row["metrics"]
    assert (metrics["pairs_sent"], metrics["pairs_unaccounted"]) == (20, 0)
    assert metrics["pairs_written"] + metrics["pairs_dropped"] == 20
    assert metrics["cpu_logger_percent"] > 0
    assert metrics["megabytes_per_s"] == pytest.approx(sum(written) / 1e6 / ((max(recorded) - min(recorded)) / 1e9))
    assert "pairs unaccounted for" in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"], "what was recorded is removed"
