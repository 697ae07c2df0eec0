"""``fg-depth distill`` as a user meets it: weights from folders and bags, one clear line when something is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

pytest.importorskip("pytorch_lightning")
from support.distill import RIG, swap, wall, write_walls

from fg_depth_ros.data.io.formats import read_image
from fg_depth_ros.networks import load_checkpoint
from fg_depth_ros.training.depth.config import PRESETS

TINY = (
    "--model",
    "depthnet_lite",
    "--weights",
    "",
    "--size",
    "96x64",
    "--batch",
    "2",
    "--workers",
    "0",
    "--teacher",
    "sgbm",
    "--max-disparity",
    "0",
    "--steps",
    "1",
)


def description(out):
    return load_checkpoint(out / "last.safetensors")[1].description


def test_a_folder_becomes_weights_pictures_and_figures(run, tmp_path):
    data, out = write_walls(tmp_path / "walls"), tmp_path / "run"
    status, text = run(
        "distill", "--data", data, "--out", out, *TINY, "--frames", "0:4", "--test-frames", "4:", "--no-graft",
        "--loss", "flow_mask_dr", "--smoothness", "0.01", "--cache", tmp_path / "kept", "--real", data,
    )  # fmt: skip
    assert status == 0, text
    assert str(out / "best.safetensors") in text
    said = description(out)
    config = said["config"]
    assert config["losses"] == asdict(replace(PRESETS["flow_mask_dr"], smoothness=0.01))
    assert (config["losses"]["regression"], config["losses"]["flow_photometric"]) == (1.0, 0.0)
    assert config["graft"] is False and config["mask"]["max_disparity"] == 0
    assert said["data"] == "3 pairs of walls"
    row = json.loads((out / "validation.jsonl").read_text().splitlines()[-1])
    assert {"walls/abs_rel", "test:walls/abs_rel"} <= row.keys()
    # Walls of 8 to 12 px, the held-out one of 11. One answer for all is off by answer / Z - 1; 1 / Z goes with px.
    assert (1 + row["real_walls/abs_rel"]) / 10 == pytest.approx((1 + row["walls/abs_rel"]) / 11, rel=0.01)
    assert read_image(out / "pictures" / "0000001.png").shape[1] > 4 * 300
    assert len(list((tmp_path / "kept" / "sgbm").glob("*_left.png"))) == 5


def test_a_bag_becomes_weights(run, tmp_path):
    pytest.importorskip("rosbags")
    from fg_depth_ros.data.bags.writing import write_stereo_bag

    pairs = [((i + 1) * 100_000_000, *wall(8 + i, seed=i)) for i in range(4)]  # a stamp of 0 is none
    bag = write_stereo_bag(tmp_path / "drive", pairs, RIG)
    for out in (tmp_path / "one", tmp_path / "two"):
        status, text = run("distill", "--data", bag, "--out", out, *TINY, "--cache", tmp_path / "kept")
        assert status == 0, text
        assert description(out)["data"] == "3 pairs of drive"
        assert description(out)["camera"] == {"focal": 120.0, "width": 96, "height": 64, "baselines": [0.1]}
    assert len(list((tmp_path / "kept" / "sgbm").glob("*.json"))) == 4  # the second run found what the first one kept


def test_what_was_left_out_is_said(run, tmp_path, caplog):
    data = write_walls(tmp_path / "walls")
    cut = data / "left" / "001.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    with caplog.at_level("INFO"):
        status, text = run("distill", "--data", data, "--out", tmp_path / "run", *TINY)
    assert status == 0, text
    said = caplog.text
    assert "4 pairs used, 1 left out" in said
    assert "1 x unreadable: an image cannot be read: fetch it again or remove the pair (first: walls/001: " in said
    assert "while training: 2 pairs used, 0 left out" in said
    before = description(tmp_path / "run")["counts"]["before"]
    assert before["skipped"] == {"unreadable": 1} and "001.png: truncated" in before["examples"]["unreadable"]


def test_the_command_says_in_one_line_what_is_wrong(run, tmp_path):
    def fails(*arguments):
        status, text = run("distill", "--out", tmp_path / "run", *arguments)
        assert status != 0
        return text

    walls = write_walls(tmp_path / "walls")
    assert "nothing to train on: give --data, folders or bags" in fails("--steps", "1")
    assert "give --steps or --hours" in fails("--data", walls)
    assert "unknown loss 'all'; known: auto_mask, flow_mask" in fails("--data", walls, "--steps", 1, "--loss", "all")
    status, text = run("distill", "--data", walls, "--steps", 1, "--width", 96, "--out", tmp_path / "w")
    assert status == 2 and "--width" in text  # --size is both
    assert "size '640' is not WIDTHxHEIGHT" in fails("--data", walls, "--steps", 1, "--size", "640")
    assert "width and height must be multiples of 32, got 100x64" in fails(
        "--data", walls, "--steps", 1, "--size", "100x64"
    )
    assert "frames 'first' are not FIRST:LAST" in fails("--data", walls, "--steps", 1, "--frames", "first")
    assert "unknown teacher 'me'" in fails("--data", walls, "--steps", 1, "--teacher", "me")
    assert "no such folder" in fails("--data", tmp_path / "none", "--steps", 1)
    assert not (tmp_path / "run").exists()
    text = fails("--data", swap(walls), *TINY)
    assert "walls: none of its 4 pairs can be trained on. 4 x swapped" in text and "Traceback" not in text
