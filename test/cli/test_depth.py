"""``fg-depth evaluate depth`` as a user meets it: one table for all methods, and one clear line for every mistake."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.kitti_raw import DATE, DRIVE, write_frames, write_raw, write_sweep
from support.pair_folders import write_pairs

from fg_depth_ros.data.io.formats import read_image, write_image, write_kitti_disparity
from fg_depth_ros.networks import ModelCard, create_model, save_checkpoint


@pytest.fixture
def thin(tmp_path):
    """Weights of an untaught depth network for small images."""
    torch.manual_seed(0)
    options = {"focal": 100.0, "width": 64, "height": 32}
    path = tmp_path / "thin.safetensors"
    save_checkpoint(path, create_model("depthnet_lite", **options), ModelCard("depthnet_lite", options))
    return path


@pytest.fixture
def folder(tmp_path):
    """Two images of 64 x 32 px with depth of 10 m."""
    random = np.random.default_rng(0)
    for name in ("one", "two"):
        for part in ("images", "depth"):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "set/images" / f"{name}.png", random.integers(0, 256, (32, 64, 3), np.uint8))
        write_kitti_disparity(tmp_path / "set/depth" / f"{name}.png", np.full((32, 64), 10, np.float32))
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to evaluate on: give --data or --world"),
        (["--data", "/nowhere"], "/nowhere: no such folder"),
        (["--data", "{empty}"], "neither stereo pairs nor images with depth found"),
        (["--data", "{set}"], "no calibration next to it, and depth in metres needs the focal length"),
        (["--data", "{set}", "--fx", "50", "--unit", "cm"], "unit of depth 'cm' is unknown"),
        (["--data", "{set}", "--fx", "50", "--crop", "middle"], "crop 'middle' is unknown"),
        (["--data", "{set}", "--fx", "50", "--frames", "9"], "frames '9' are not FIRST:LAST"),
        (["--data", "{set}", "--fx", "50", "--model", "depthnet"], "model 'depthnet' is unknown; choose one of"),
        (["--data", "{set}", "--fx", "50", "--weights", "no.safetensors"], "no.safetensors does not exist"),
        (["--data", "{set}", "--fx", "50", "--weights", "{thin}", "--against", "sgbm"], "no sample with true depth"),
        (
            ["--data", "{set}", "--fx", "50", "--weights", "{thin}", "--against", "sgbm"],
            "stereo model instead (--against)",
        ),
        (["--data", "{set}", "--fx", "50", "--frames", "9:12"], "set: --frames 9:12 leaves none of its 2 frames"),
        (["--data", "{set}", "--improved", "{set}"], "--improved belongs to --eigen"),
        (["--data", "{set}", "--data", "{set}", "--eigen", "{thin}"], "--eigen needs one --data"),
        (["--data", "{set}", "--eigen", "frames.txt"], "frames.txt: no such file"),
        (["--world", "sea", "--weights", "{thin}"], "kind of world 'sea' is unknown"),
        (["--data", "a.bag"], "a.bag: no such folder; give the folder that holds the pairs"),
        (["--data", "nyu.mat"], "nyu.mat: no such file"),
    ],
)
def test_every_mistake_is_one_line_with_the_way_out(run, folder, thin, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    places = {"set": folder, "thin": thin, "empty": tmp_path / "empty"}
    status, text = run("evaluate", "depth", *(argument.format(**places) for argument in arguments))
    assert status != 0
    assert message in text
    assert "Traceback" not in text
    assert sorted(tmp_path.rglob("*")) == before


def test_without_weights_and_pairs_the_way_to_some_is_said(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fg_depth_ros.networks.registry.WEIGHTS_DIR", tmp_path)
    status, text = run("evaluate", "depth", "--data", folder, "--fx", 50)
    assert status != 0
    assert "no depth network comes with weights here" in text and "fg-depth distill" in text


def test_images_with_depth_are_judged(run, folder, thin, tmp_path):
    report = tmp_path / "report.json"
    status, text = run(
        "evaluate", "depth", "--data", folder, "--fx", 50, "--weights", thin, "--json", report, "--frames", "1:",
        "--sheets", tmp_path / "sheets", "--max-depth", 20,
    )  # fmt: skip
    assert status == 0, text
    for word in ("AbsRel", "SqRel", "RMSE m", "RMSE log", "delta<1.25^3", "depthnet_lite", "10-20", "40-80"):
        assert word in text
    assert "published" not in text
    content = json.loads(report.read_text())
    assert content["command"] == "evaluate depth" and len(content["model"]["sha256"]) == 64
    (row,) = content["rows"]
    assert (row["set"], row["method"], row["images"], row["pixels"]) == ("set", "depthnet_lite", 1, 32 * 64)
    assert row["protocol"]["max_depth"] == 20
    # an untaught network says 10 m in its own camera, and half of that in one of half the focal length
    assert row["metrics"]["abs_rel"] == pytest.approx(0.5, abs=0.1)
    assert read_image(tmp_path / "sheets/set.png").shape[1] == 6 + 4 * 406
    status, text = run(
        "evaluate", "depth", "--data", folder, "--fx", 50, "--weights", thin, "--median", "--json", report
    )
    assert status == 0, text
    assert json.loads(report.read_text())["rows"][0]["metrics"]["scale"] == pytest.approx(2, abs=0.3)
    assert "scaled by the medians" in text


def test_eigen_rows_of_others_stand_beside_ours_marked_as_published(run, thin, tmp_path):
    raw, report = write_raw(tmp_path / "raw"), tmp_path / "report.json"
    for frame in (69, 70):  # points within Garg's crop
        sweep = raw / DATE / DRIVE / f"velodyne_points/data/{frame:010d}.bin"
        write_sweep(sweep, [(10.25, y / 10, -0.5 - z / 10) for y in range(-20, 20) for z in range(8)])
    annotated = tmp_path / "annotated" / "val" / DRIVE / "proj_depth/groundtruth/image_02/0000000069.png"
    annotated.parent.mkdir(parents=True)
    write_kitti_disparity(annotated, np.full((96, 160), 10, np.float32))
    status, text = run(
        "evaluate", "depth", "--data", raw, "--eigen", write_frames(tmp_path / "frames.txt"), "--weights", thin,
        "--improved", tmp_path / "annotated", "--stereo", "sgbm", "--json", report,
    )  # fmt: skip
    assert status == 0, text
    rows = json.loads(report.read_text())["rows"]
    swept = [row for row in rows if row["set"] == "KITTI Eigen"]
    assert [row["method"] for row in swept][:2] == ["depthnet_lite", "sgbm (stereo)"]
    assert [row["method"] for row in swept if row.get("published")] == [row["method"] for row in swept[2:]]
    assert swept[-1]["method"] == "EPCDepth R50 1024x320 (published)" and swept[-1]["metrics"]["abs_rel"] == 0.0905
    assert swept[0]["images"] == 2 and swept[0]["protocol"]["crop"] == "garg"
    improved = [row for row in rows if row["set"] == "KITTI Eigen improved"]
    assert [(row["method"], row["images"]) for row in improved] == [("depthnet_lite", 1), ("sgbm (stereo)", 1)]
    assert "EPCDepth R18 1024x320 (published) │ 0.0925" in text and "on all 697 frames" in text


def test_a_drive_without_truth_is_judged_against_stereo(run, thin, tmp_path):
    report = tmp_path / "report.json"
    pairs = write_pairs(tmp_path / "pairs", ("a", "b", "c"), truth=False)
    status, text = run(
        "evaluate", "depth", "--data", pairs, "--weights", thin, "--against", "sgbm", "--stereo", "sgbm",
        "--frames", "1:3", "--json", report,
    )  # fmt: skip
    assert status == 0, text
    (row,) = json.loads(report.read_text())["rows"]  # the judge is not judged
    assert (row["set"], row["method"], row["images"]) == ("pairs by sgbm", "depthnet_lite", 2)


def test_rendered_scenes_need_no_files(run, thin, tmp_path):
    report = tmp_path / "report.json"
    status, text = run(
        "evaluate", "depth", "--world", "indoor", "--scenes", 1, "--size", "96x64", "--weights", thin, "--stereo",
        "none", "--patterns", 2, "--json", report,
    )  # fmt: skip
    assert status == 0, text
    (row,) = json.loads(report.read_text())["rows"]
    assert (row["set"], row["images"]) == ("world indoor", 1)
    assert 0 < row["pixels"] <= 96 * 64
