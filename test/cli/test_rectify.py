"""Raw pairs on the command line: ``fg-depth rectify``, and commands that rectify what they read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from support.bags import raw_bag
from support.raw_cameras import MATRICES, ROTATION, SIZE, TRANSLATION, RawRig, share_true

from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.datasets.stereo import open_stereo
from fg_depth_ros.data.io.formats import read_camera_image, read_image, read_kitti_disparity, write_image
from fg_depth_ros.geometry import StereoRig, disparity_to_depth
from fg_depth_ros.geometry.rectification import Rectification
from fg_depth_ros.networks import create_model
from fg_depth_ros.networks.checkpoint import ModelCard, save_checkpoint

WORLD = RawRig("plumb_bob")
EXPECTED = Rectification.from_camera_info(*(WORLD.camera_info(side) for side in (0, 1)))


def truth():
    return WORLD.true_depth(EXPECTED.rig.P_left()[:, :3], SIZE)


@pytest.fixture
def folder(tmp_path):
    """Two raw pairs without a calibration beside them, and that in another folder."""
    for side, name in enumerate(("left", "right")):
        (tmp_path / "recorded" / name).mkdir(parents=True)
        for frame in ("1", "2"):
            write_image(tmp_path / "recorded" / name / f"{frame}.png", WORLD.raw_image(side))
    chain = {}
    for side, k in enumerate(MATRICES):
        chain[f"cam{side}"] = {
            "camera_model": "pinhole", "distortion_model": "radtan", "resolution": list(SIZE),
            "intrinsics": [float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])],
            "distortion_coeffs": WORLD.distortion(side)[:4].tolist(),
        }  # fmt: skip
    chain["cam1"]["T_cn_cnm1"] = np.block([[ROTATION, TRANSLATION[:, None]], [np.zeros(3), 1]]).tolist()
    (tmp_path / "camchain.yaml").write_text(yaml.safe_dump(chain))
    return tmp_path / "recorded"


def test_rectified_pairs_and_their_camera_infos_are_written(run, folder, tmp_path):
    out = tmp_path / "pairs"
    status, text = run("rectify", folder, "--calib", tmp_path / "camchain.yaml", "--out", out)
    assert status == 0, text
    assert "2 pairs in" in text
    assert "320x240 px" in text
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["left.yaml", "left/1.png", "left/2.png", "right.yaml", "right/1.png", "right/2.png"]
    for side, name in enumerate(("left", "right")):
        np.testing.assert_array_equal(
            read_image(out / name / "2.png")[..., 0], EXPECTED.apply(WORLD.raw_image(side), side)
        )
        info = yaml.safe_load((out / f"{name}.yaml").read_text())
        assert (info["distortion_coefficients"]["data"], info["camera_name"]) == ([0.0] * 5, name)
        np.testing.assert_allclose(
            np.reshape(info["projection_matrix"]["data"], (3, 4)), WORLD.rectified()[2 + side], atol=1e-6
        )
    again = open_stereo(out)  # and is not rectified again
    np.testing.assert_array_equal(again[0].images(), open_stereo(folder, tmp_path / "camchain.yaml")[0].images())
    assert isinstance(again[0].rig, StereoRig)


def test_images_of_16_bits_stay_so(run, folder, tmp_path):
    for side, name in enumerate(("left", "right")):
        write_image(folder / name / "1.png", WORLD.raw_image(side).astype(np.uint16) * 16)
    status, text = run("rectify", folder, "--calib", tmp_path / "camchain.yaml", "--out", tmp_path / "pairs")
    assert status == 0, text
    expected = EXPECTED.apply(WORLD.raw_image(1).astype(np.uint16) * 16, 1)
    np.testing.assert_array_equal(read_camera_image(tmp_path / "pairs" / "right" / "1.png")[..., 0], expected)


def test_what_cannot_be_rectified_is_said(run, folder, tmp_path):
    calib = ("--calib", tmp_path / "camchain.yaml")
    status, text = run("rectify", folder, "--out", tmp_path / "pairs")
    assert (status, "recorded: has no calibration, and a rectified pair has one" in text) == (1, True)
    status, text = run("rectify", folder, *calib, "--out", folder)
    assert (status, "where the raw pairs are, and they would be lost" in text) == (1, True)
    (folder / "left" / "1.png").write_bytes(b"damaged")
    status, text = run("rectify", folder, *calib, "--out", tmp_path / "pairs")
    assert (status, "1: skipped" in text, "1 pair in" in text) == (1, True, True)


def test_two_cameras_are_not_mixed_in_one_folder(run, folder, tmp_path):
    """The run that was stopped is repeated; pairs or a camera of another one are refused, and nothing changes."""
    out, chain = tmp_path / "pairs", tmp_path / "camchain.yaml"
    given = ("rectify", folder, "--out", out, "--calib")
    assert run(*given, chain)[0] == 0
    (out / "left" / "2.png").unlink()
    (out / "right.yaml").unlink()
    assert run(*given, chain)[0] == 0
    assert len(list(out.rglob("*.png"))) == 4
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    wide = yaml.safe_load(chain.read_text())
    wide["cam1"]["T_cn_cnm1"][0][3] *= 2
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(wide))
    status, text = run(*given, tmp_path / "wide.yaml")
    assert (status, f"{out}/left.yaml: is of another camera; name another folder" in text) == (1, True), text
    for side in ("left", "right"):
        (folder / side / "2.png").rename(folder / side / "3.png")
    status, text = run(*given, chain)
    assert (status, f"{out}/left: holds other pictures already; name another folder" in text) == (1, True), text
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    for path in out.glob("*.yaml"):
        path.unlink()
    (folder / "left" / "3.png").rename(folder / "left" / "2.png")
    (folder / "right" / "3.png").rename(folder / "right" / "2.png")
    assert run(*given, chain)[0] == 1  # pictures of the same names without a camera are not those of a stopped run


def test_a_raw_bag_is_rectified(run, tmp_path):
    status, text = run("rectify", raw_bag(tmp_path / "bag", "image_rect"), "--out", tmp_path / "pairs")
    assert status == 0, text
    found = read_image(tmp_path / "pairs" / "left" / "100000000.png")[..., 0]
    np.testing.assert_array_equal(found, EXPECTED.apply(WORLD.raw_image(0), 0))


def test_infer_rectifies_files_folders_and_bags(run, folder, tmp_path):
    bag, calib = raw_bag(tmp_path / "bag"), ("--calib", tmp_path / "camchain.yaml")
    files = (folder / "left" / "1.png", folder / "right" / "1.png")
    for given, name in (((*files, *calib), "1"), (("--pairs", folder, *calib), "2"), (("--pairs", bag), "100000000")):
        status, text = run("infer", *given, "--model", "sgbm", "--out", tmp_path / "out")
        assert status == 0, text
        assert share_true(np.load(tmp_path / "out" / f"{name}_depth.npy"), truth()) > 0.97, given
    status, text = run("infer", "--pairs", bag, "--rectify", "off", "--model", "sgbm", "--out", tmp_path / "raw")
    assert share_true(np.load(tmp_path / "raw" / "100000000_depth.npy"), truth()) < 0.2


def test_a_bag_from_raw_images_holds_rectified_ones(run, folder, tmp_path):
    calib = ("--calib", tmp_path / "camchain.yaml")
    status, text = run("bag", "from-images", folder, *calib, "--out", tmp_path / "bag")
    assert status == 0, text
    first = open_bag_pairs(tmp_path / "bag")[0]
    np.testing.assert_array_equal(first.raw_images()[1], EXPECTED.apply(WORLD.raw_image(1), 1))
    status, text = run("bag", "from-images", folder, *calib, "--rectify", "off", "--out", tmp_path / "raw")
    np.testing.assert_array_equal(open_bag_pairs(tmp_path / "raw")[0].raw_images()[1], WORLD.raw_image(1))


def test_check_and_replay_read_raw_bags(run, tmp_path):
    bag = raw_bag(tmp_path / "bag", count=3)
    status, text = run("bag", "check", bag)
    assert status == 0, text
    options = ("--model", "none", "--baseline", "sgbm", "--out")
    assert run("replay", bag, *options, tmp_path / "auto")[0] == 0
    assert run("replay", bag, "--rectify", "off", *options, tmp_path / "off")[0] == 0
    errors = []
    for name in ("auto", "off"):
        report = json.loads((tmp_path / name / "report.json").read_text())
        errors.append(next(row["metrics"]["density"] for row in report["rows"] if "density" in row["metrics"]))
    assert errors[0] > errors[1]  # rows of raw images do not match


def test_finetune_learns_from_rectified_images_of_raw_bags(run, tmp_path):
    bag, weights = raw_bag(tmp_path / "bag", count=20), tmp_path / "parent.safetensors"
    network = create_model("depthnet_lite", focal=120.0, width=96, height=64, channels=[16, 16, 32, 32])
    save_checkpoint(weights, network, ModelCard("depthnet_lite", dict(network.options)))
    shares = []
    for rectify in ("auto", "off"):
        cache = tmp_path / f"cache_{rectify}"
        status, text = run(
            "finetune", "--bags", bag, "--rectify", rectify, "--weights", weights, "--steps", 1, "--size", "96x64",
            "--workers", 0, "--batch", 1, "--teacher", "sgbm", "--guard", 0.05, "--cache", cache,
            "--out", tmp_path / rectify,
        )  # fmt: skip
        assert status in (0, 2), text  # whether one step of random weights is better does not matter here
        taught = read_kitti_disparity(min(cache.rglob("*_left.png")))
        shares.append(share_true(disparity_to_depth(taught, EXPECTED.rig), truth()))
    assert shares[0] > 0.95 and shares[1] < 0.2
