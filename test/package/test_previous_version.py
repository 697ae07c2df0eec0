"""Files of the previous version open with the current code: see test/data_previous_version/README.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from fg_depth_ros.evaluation.reports.report import read_report
from fg_depth_ros.networks.registry import load_model
from fg_depth_ros.networks.weights_store import CURRENT, WeightsStore

FILES = Path(__file__).parents[1] / "data_previous_version"
MODEL = "depthnet_lite"
EPISODE, PART = "episode_19700101T000010.001Z_motion", "episode_19700101T000110.001Z_continuous"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return shutil.copytree(FILES, tmp_path / "files", symlinks=True)


def test_an_episode_and_its_manifest_line(files: Path) -> None:
    pytest.importorskip("rosbags")
    from fg_depth_ros.data.bags.checks import check_bag
    from fg_depth_ros.recording import manifest

    root = files / "recordings"
    (line,) = manifest.read(root)
    ((folder, again),) = manifest.finished(root)
    assert (line["name"], line["trigger"], line["pairs"]) == (EPISODE, "motion", 3) and again == line
    check = check_bag(folder)
    assert check.usable and check.pairs == 3 and check.rig is not None and check.rig.to_dict() == line["rig"]
    left, right = check.samples[0].images()
    assert left.shape == right.shape == (40, 64, 3)


def test_a_part_that_a_killed_recorder_left(files: Path) -> None:
    pytest.importorskip("rosbags")
    from fg_depth_ros.data.bags.checks import check_bag
    from fg_depth_ros.recording import manifest, recover

    root = files / "recordings"
    (found,) = recover(root)
    assert (found.name, found.messages, found.done) == (PART, 12, True)
    assert [line["name"] for line in manifest.read(root)] == [EPISODE, PART]
    check = check_bag(root / PART)
    assert check.usable and check.pairs == 3


def test_the_history_of_promote_and_its_weights(files: Path) -> None:
    store = WeightsStore(files / "store")
    history = store.history(MODEL)
    assert history is not None and (len(history.entries), history.current) == (4, 3)
    assert store.problems(MODEL) == []
    model, card = load_model(files / "store" / MODEL / CURRENT)
    assert card.sha256 == history.entry.sha256
    assert all(torch.isfinite(p).all() for p in model.parameters())
    first = history.entries[1]
    store.rollback(MODEL, "the previous version's")
    assert load_model(files / "store" / MODEL / CURRENT)[1].sha256 == first.sha256
    written = json.loads((files / "store" / MODEL / "history.json").read_text())
    assert [entry["record"] for entry in written["entries"]] == [entry.record for entry in history.entries]


def test_a_report(files: Path) -> None:
    content = json.loads((files / "report.json").read_text())
    report = read_report(files / "report.json")
    assert report.command == "replay" and report.rows == content["rows"]
    report.write_json(files / "again.json")
    assert json.loads((files / "again.json").read_text())["rows"] == content["rows"]
