"""``fg-depth finetune`` and ``bag check`` as a user meets them: tables, reasons, exit statuses."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("pytorch_lightning")
pytest.importorskip("rosbags")
from support.bags import SECOND, bag_of, write
from support.distill import RIG, wall

from fg_depth_ros.cli.app import REFUSED
from fg_depth_ros.data.bags.storage import IMAGE
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.networks import create_model, load_checkpoint
from fg_depth_ros.networks.checkpoint import ModelCard, save_checkpoint

START = 1_800_000_000 * SECOND
TINY = ("--size", "96x64", "--workers", "0", "--batch", "2", "--teacher", "sgbm", "--guard", "0.05")


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Two good bags, one without calibration."""
    folder = tmp_path_factory.mktemp("bags")
    for name, first in (("ep_a", 0), ("ep_b", 100)):
        numbers = range(first, first + 20)
        pairs = [(START + k * SECOND // 10, *wall(8 + k % 6, seed=k)) for k in numbers]
        write_stereo_bag(folder / name, pairs, RIG)
    bag_of(folder / "ep_c", {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE})
    return folder


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    path = tmp_path_factory.mktemp("parent") / "parent.safetensors"
    network = create_model("depthnet_lite", focal=120.0, width=96, height=64, channels=[16, 16, 32, 32])
    save_checkpoint(path, network, ModelCard("depthnet_lite", dict(network.options)))
    return path


def test_a_mistake_is_one_clear_line(run, tmp_path, bags):
    def refused(message, *arguments):
        status, text = run("finetune", "--out", tmp_path / "out", *arguments)
        assert status == 1 and message in text and "Traceback" not in text, text

    refused("give --steps or --hours", "--bags", bags)
    refused("no such bag or folder; check the path", "--bags", tmp_path / "gone", "--steps", 1)
    refused("unknown loss 'l2'", "--bags", bags, "--steps", 1, "--loss", "l2")
    refused("multiples of 32, got 100x100", "--bags", bags, "--steps", 1, "--size", "100x100")
    refused("--held-out must lie in 0 .. 1/3", "--bags", bags, "--steps", 1, "--held-out", "0.5")
    refused("unknown split 'halves'; known: bag, blocks, end", "--bags", bags, "--steps", 1, "--split", "halves")
    refused("--anchor is for --stereo: add that, or leave it out", "--bags", bags, "--steps", 1, "--anchor", 0.5)
    refused("--zoom is for depth from one image: leave it out with --stereo",
            "--bags", bags, "--steps", 1, "--stereo", "--zoom", 2)  # fmt: skip
    refused("--weights is for depth from one image: leave it out with --stereo; --stereo-weights names the weights to "
            "start from", "--bags", bags, "--steps", 1, "--stereo", "--weights", "depthnet_lite")  # fmt: skip
    refused("--stereo-weights is for --stereo: add that, or leave it out",
            "--bags", bags, "--steps", 1, "--stereo-weights", "w.safetensors")  # fmt: skip
    refused("--loss, --max-depth, --max-disparity, --regression-of are for depth from one image: leave them out with",
            "--bags", bags, "--steps", 1, "--stereo", "--loss", "flow_mask", "--regression-of", "metres",
            "--max-depth", 80, "--max-disparity", 0)  # fmt: skip
    refused("no camera_info for /left/image_rect", "--bags", bags / "ep_c", "--steps", 1)
    refused("unknown model 'flownet_stereo'", "--bags", bags, "--steps", 1, "--weights", "flownet_stereo")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_the_help_shows_the_defaults_and_the_losses(run):
    status, text = run("finetune", "--help")
    assert status == 0
    for option, words in {
        "loss": "auto_mask, flow_mask, flow_mask_dr, flow_mask_fp or flow_mask_fd (the whole). [default: flow_mask_fd]",
        "regression-of": "[default: ratio]",
        "max-depth": "[default: 80.0]",
        "max-disparity": "[default: 0.0]",
    }.items():
        (line,) = [line for line in text.replace("│", " ").split("--") if line.startswith(f"{option} ")]
        assert words in " ".join(line.split())


def test_bags_become_better_weights(run, tmp_path, bags, parent):
    out = tmp_path / "out"
    status, text = run(
        "finetune", "--bags", bags, "--out", out, "--weights", parent, "--steps", 8, *TINY, "--learning-rate", "0.005",
        "--validate-steps", 4, "--validation-scenes", 2, "--patience", 0, "--zoom", 1,
    )  # fmt: skip
    assert status == 0, text
    assert "2 of 3 bags can be used" in text and "ep_c no pairs leave out: no camera_info" in text
    assert "held-out part (blocks), neither trained on nor chosen by" in text
    assert "abs_rel of the stopping part: " in text and f" {out / 'weights.safetensors'} " in text
    document = json.loads((out / "finetune.json").read_text())
    for name in ("ep_a", "ep_b", "all"):
        value = document["figures"]["after"]["held_out"][name]["teacher/abs_rel"]
        assert f"{value:.4f}" in text
        assert value < document["figures"]["before"]["held_out"][name]["teacher/abs_rel"]
    config = load_checkpoint(out / "weights.safetensors")[1].description["config"]
    assert config["losses"]["regression_of"] == "ratio" and config["mask"]["max_disparity"] == 0
    assert (config["width"], config["height"], config["schedule"]) == (96, 64, "one_cycle")
    assert config["data"] == [str(bags / "ep_a"), str(bags / "ep_b")]


def test_weights_that_are_not_better_have_an_exit_status_of_their_own(run, tmp_path, bags):
    out = tmp_path / "out"
    status, text = run(
        "finetune", "--stereo", "--bags", bags / "ep_a", "--out", out, "--steps", 1, "--workers", 0, "--batch", 1,
        "--size", "64x64", "--guard", "0.05", "--learning-rate", "1", "--validation-scenes", 1,
    )  # fmt: skip
    assert status == REFUSED == 3, text
    assert "not better than the initial weights: kept as not_better.safetensors" in text
    assert (out / "not_better.safetensors").is_file() and not (out / "weights.safetensors").exists()
    assert "unexplained of the stopping part" in text and "agreement" in text


def test_bags_are_checked(run, tmp_path, bags):
    status, text = run("bag", "check", bags, "--json", tmp_path / "found.json")
    assert status == 1 and "2 of 3 bags can be used" in text
    assert "ep_c no pairs leave out: no camera_info" in text
    assert "name the camera_info topics (--left-info, --right-info)" in text
    found = json.loads((tmp_path / "found.json").read_text())
    assert [bag["pairs"] for bag in found] == [20, 20, 0] and found[0]["rate"] == pytest.approx(10)
    status, text = run("bag", "check", bags / "ep_a", write(tmp_path / "gap", (SECOND, 2 * SECOND, 9 * SECOND)))
    assert status == 0 and "2 of 2" in text and "160x96 rgb8" in text and "10.0" in text
    status, text = run("bag", "check", tmp_path / "gone")
    assert status == 1 and "no such bag or folder" in text
