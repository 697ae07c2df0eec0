"""The whole loop as docs/loop.sh walks it: play, record, kill, recover, fine-tune, replay, promote, swap, roll back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("rclpy", reason="the nodes need ROS")

from fg_depth_ros.networks import ModelCard, create_model, load_checkpoint, save_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.ros, pytest.mark.timeout(900)]


@pytest.fixture
def parent(tmp_path):
    """A small depth network that has learned nothing."""
    torch.manual_seed(0)
    network = create_model("depthnet_lite", focal=64.0, width=96, height=64, channels=[8, 16, 24, 32])
    path = tmp_path / "parent.safetensors"
    save_checkpoint(path, network, ModelCard("depthnet_lite", dict(network.options)))
    return path


def test_the_walk(tmp_path, repository, ros_domain, parent, run):
    pairs = tmp_path / "pairs"
    size = ("--size", "192x128", "--patterns", "8")
    status, text = run("synth", "world", "--kind", "indoor", "--drive", "--count", 44, *size, "--out", pairs)
    assert status == 0, text
    walk = tmp_path / "walk"
    settings = {
        "PAIRS": str(pairs), "BEGIN": "0:12", "TRAIN": "12:36", "HELD_OUT": "36:", "SPEED": "0.15",
        "WEIGHTS": str(parent),
        "MODEL": "sgbm", "LENGTH": "--steps 30 --validate-steps 10", "PYTHON": sys.executable,
        "TUNE": "--teacher sgbm --batch 2 --zoom 1 --guard 0.1", "ROS_DOMAIN_ID": str(ros_domain),
        # Which pairs are recorded, and so what is learned from them, differs from run to run.
        "PROMOTE": "--metric abs_rel",
    }  # fmt: skip
    ended = subprocess.run(
        ["bash", str(repository / "docs" / "loop.sh"), str(walk)], env={**os.environ, **settings}, cwd=repository,
        capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    logs = "\n".join(f"-- {log.name}\n{log.read_text()[-2000:]}" for log in walk.glob("*.log"))
    assert ended.returncode == 0, f"{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}\n{logs}"

    lines = [json.loads(line) for line in (walk / "recordings" / "manifest.jsonl").read_text().splitlines()]
    triggers = [(line["trigger"], line["recovered"]) for line in lines]
    # The kill hits an episode that has begun; on a busy machine others may have been completed before.
    assert [recovered for _, recovered in triggers].count(True) == 1, triggers
    assert {trigger for trigger, _ in triggers[:-1]} <= {"interval", "disagreement"}, triggers
    assert triggers[-1] == ("continuous", False)
    assert all(line["pairs"] > 0 and line["weights"]["stereo"]["model"] == "sgbm" for line in lines)
    assert not list((walk / "recordings").glob(".episode_*"))

    tuned = walk / "tuned" / "weights.safetensors"
    old, new = (load_checkpoint(path)[1] for path in (parent, tuned))
    assert new.description["parent"]["sha256"] == old.sha256
    figures = json.loads((walk / "tuned" / "finetune.json").read_text())["figures"]
    assert _abs_rel(figures["after"]) < _abs_rel(figures["before"])

    report = json.loads((walk / "report" / "report.json").read_text())
    by_hash = {method["sha256"]: method["label"] for method in report["settings"]["methods"]}
    rows = [row for row in report["rows"] if row["set"] == "all" and row["kind"] == "accuracy"]
    errors = {row["method"]: row["metrics"].get("abs_rel") for row in rows}
    assert errors[by_hash[new.sha256]] < errors[by_hash[old.sha256]]
    assert "<html" in (walk / "report" / "report.html").read_text()

    history = json.loads(next((walk / "store" / "depthnet_lite").glob("history.json")).read_text())
    assert new.sha256 in json.dumps(history)
    running = [line for line in (walk / "depth.log").read_text().splitlines() if "now running depthnet_lite" in line]
    hashes = [old.sha256 if old.sha256 in line else new.sha256 if new.sha256 in line else "" for line in running]
    assert hashes == [old.sha256, new.sha256, old.sha256], running
    assert load_checkpoint(Path(walk / "store" / "depthnet_lite" / "current.safetensors"))[1].sha256 == old.sha256


def _abs_rel(figures):
    return next(value for name, value in figures["held_out"]["all"].items() if name.endswith("abs_rel"))
