"""``fg-depth replay`` as a user runs it, alone and in several processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

from support.bags import bag_of, damage_chunks, large, storage_file, write
from support.replay import use_fixed
from support.truth import SECOND, depth_message, stereo_bag, with_messages

from fg_depth_ros.inference.engines.openvino_engine import OpenVinoEngine
from fg_depth_ros.networks import ModelCard, create_model, save_checkpoint
from fg_depth_ros.networks.registry import load_model

IMAGE = "sensor_msgs/msg/Image"


def test_what_cannot_be_replayed_is_said_in_a_line(tmp_path, run):
    status, text = run("replay", tmp_path / "nowhere", "--out", tmp_path)
    assert status == 1 and "nowhere: no such bag or folder" in text
    bag_of(tmp_path / "bare", {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE})
    status, text = run("replay", tmp_path / "bare", "--out", tmp_path / "out", "--model", "sgbm")
    assert status == 1 and "no camera_info for /left/image_rect" in text
    bag = stereo_bag(tmp_path / "bag", 1)
    status, text = run("replay", bag, "--out", tmp_path / "out", "--weights", tmp_path / "lost.safetensors")
    assert status == 1 and "lost.safetensors does not exist" in text
    status, text = run("replay", bag, "--out", tmp_path / "out", "--model", "none")
    assert status == 1 and "nothing to replay with: name weights (--weights)" in text
    (tmp_path / "file").write_text("")
    status, text = run("replay", bag, "--out", tmp_path / "file" / "out", "--model", "sgbm")
    assert (status, text) == (
        1, f"fg-depth: {tmp_path}/file: is a file, not a folder; name another one",
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_report_and_page_are_written_and_what_was_left_out_is_told(tmp_path, run, monkeypatch):
    use_fixed(monkeypatch)
    stereo_bag(tmp_path / "drives/a", 2)
    storage_file(stereo_bag(tmp_path / "drives/b", 2)).write_bytes(b"x" * 500)
    write(tmp_path / "drives/c", (SECOND, 2 * SECOND, SECOND))
    good = depth_message(3 * SECOND, np.zeros((96, 160), np.uint8), "mono8")
    broken = replace(good, height=97)
    messages = [(f"/{side}/image_rect", IMAGE, 3 * SECOND, m) for side, m in (("left", broken), ("right", good))]
    shutil.move(with_messages(stereo_bag(tmp_path / "d", 1), messages), tmp_path / "drives/d")
    weights = tmp_path / "mine.safetensors"
    model = create_model("depthnet_lite", width=64, height=32)
    card = save_checkpoint(weights, model, ModelCard("depthnet_lite", {"width": 64, "height": 32}))
    status, text = run("replay", tmp_path / "drives", "--out", tmp_path / "out", "--weights", weights)
    assert status == 0
    labels = ["flownet_stereo (shipped)", "depthnet_efficient (shipped)", f"mine {card.sha256[:8]}"]
    for words in (
        *labels,
        "against: true depth",
        "left out: b: ",
        "left out: d, pair 3000000000: ",
        "c: 2 images repeat the",
        "out/report.html",
    ):
        assert words in text
    values = json.loads((tmp_path / "out/report.json").read_text())
    assert [method["label"] for method in values["settings"]["methods"]] == labels
    assert values["command"] == "replay" and values["created"]
    page = (tmp_path / "out/report.html").read_text()
    assert "Worst pairs" in page and "Latency" in page and "Left out" in page
    assert "Warnings" in page and "2 images repeat the stamp" in page
    status, _ = run("replay", tmp_path / "drives", "--out", tmp_path / "two", "--baseline", "sgbm", "--no-mono")
    values = json.loads((tmp_path / "two/report.json").read_text())
    assert [method["label"] for method in values["settings"]["methods"]] == ["flownet_stereo (shipped)", "sgbm"]


def test_what_a_damaged_chunk_hides_is_counted(tmp_path, run):
    bag, _ = large(tmp_path / "bag", 6)
    size, lost = damage_chunks(bag, (1,))
    out = tmp_path / "out"
    status, text = run("replay", bag, "--out", out, "--model", "none", "--baseline", "sgbm", "--first", 1)
    assert status == 0, text
    assert f"bag: evaluated without {len(lost)} messages and {size:,} bytes that cannot be read" in text
    (facts,) = json.loads((out / "report.json").read_text())["settings"]["bags"]
    assert facts["unread"] == {"messages": len(lost), "bytes": size}
    assert facts["pairs"] == 6 - len({stamp for _, stamp in lost})


def test_an_engine_that_does_not_run_is_told(tmp_path, run, monkeypatch):
    monkeypatch.setattr(OpenVinoEngine, "missing", lambda self: "is not installed: pip install openvino")
    bag = stereo_bag(tmp_path / "bag", 1)
    status, text = run("replay", bag, "--out", tmp_path / "out", "--engine", "openvino", "--model", "flownet_stereo")
    assert status == 0, text
    assert "flownet_stereo (shipped): engine openvino is not installed: pip install openvino" in text
    network, card = load_model("flownet_stereo")
    next(network.parameters()).data *= 1 + 1e-6
    save_checkpoint(tmp_path / "other.safetensors", network, card)
    status, text = run(
        "promote", tmp_path / "other.safetensors", "--bags", bag, "--engine", "openvino", "--margin-latency", 0,
        "--store", tmp_path / "store",
    )  # fmt: skip
    assert status == 0, text
    for label in ("in use", "candidate"):
        assert f"{label}: engine openvino is not installed: pip install openvino" in text


# ---- several processes -----------------------------------------------------------------------------------------


_REPLAY_AND_FAIL = """
import os, sys
from fg_depth_ros import cli
from fg_depth_ros.distributed import shared_map
sys.argv = ["fg-depth", "replay", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code, stop.code
def work(part):
    if 3 in part:
        raise ValueError("three is no good")
    return [10 * x for x in part]
assert shared_map([1, 2], work) == [10, 20]
try:
    shared_map([1, 2, 4, 3], work)
except ValueError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one_and_hear_of_each_others_failures(tmp_path, repository):
    stereo_bag(tmp_path / "drives/a", 2)
    stereo_bag(tmp_path / "drives/b", 1, truth=False)
    storage_file(stereo_bag(tmp_path / "drives/c", 1)).write_bytes(b"x" * 500)
    stereo_bag(tmp_path / "drives/d", 2, seed=5)

    def start(out, script=("-m", "fg_depth_ros.cli", "replay"), **environment):
        options = ("--model", "sgbm", "--model", "depthnet_lite", "--no-timings", "--out", str(tmp_path / out))
        return subprocess.Popen(
            [sys.executable, *script, str(tmp_path / "drives"), *options],
            cwd=repository, env={**os.environ, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    shared["OMP_NUM_THREADS"] = "1"  # as torchrun sets it
    children = [start("two", ("-c", _REPLAY_AND_FAIL), RANK=str(k), **shared) for k in range(2)]
    children.append(start("one", OMP_NUM_THREADS="2"))
    said = [child.communicate(timeout=300)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], said
    one, two = ((tmp_path / name / "report.json").read_bytes() for name in ("one", "two"))
    assert one == two
    assert [bag["name"] for bag in json.loads(one)["settings"]["bags"]] == ["a", "b", "d"]
    assert "report:" in said[0] and "report:" not in said[1]  # only the first one writes
    assert "DistributedError process 1: three is no good" in said[0]
    assert "ValueError three is no good" in said[1]


def free_port():
    """A port that nothing uses, below those that the system gives to whoever asks for any."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return str(port)
    raise AssertionError("none of 100 ports is free")
