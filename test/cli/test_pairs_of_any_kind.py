"""Commands that take pairs take every kind of them: folders, videos, both views in one image, bags."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from support.pair_folders import planes, small_rig, write_pairs
from support.viewing import image_of, read_view

from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.data.datasets.stereo import open_stereo
from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.nodes.players.source import PairSource


@pytest.fixture
def kinds(tmp_path):
    """Arguments of one pair with its rig, by kind."""
    left, right, _ = planes(0)
    (tmp_path / "video").mkdir()
    height, width = left.shape[:2]
    writer = cv2.VideoWriter(str(tmp_path / "video/a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (2 * width, height))
    writer.write(np.hstack([left, right])[:, :, ::-1])
    writer.release()
    write_image(tmp_path / "both/a.png", np.hstack([left, right]))
    write_image(tmp_path / "names/a_L.png", left)
    write_image(tmp_path / "names/a_R.png", right)
    for folder in ("video", "both", "names"):
        (tmp_path / folder / "rig.json").write_text(json.dumps(small_rig().to_dict()))
    (pair,) = open_stereo(write_pairs(tmp_path / "plain", ("a",)))
    write_stereo_bag(tmp_path / "bag", [replace(pair, stamp=1_000_000_000)], small_rig())
    return {
        "names": [tmp_path / "names"], "video": [tmp_path / "video/a.avi", "--side-by-side"],
        "both": [tmp_path / "both", "--side-by-side"], "bag": [tmp_path / "bag"],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["names", "video", "both", "bag"])
def test_infer_and_from_images(kinds, kind, run, tmp_path):
    options = kinds[kind]
    status, text = run("infer", "--pairs", *options, "--model", "sgbm", "--out", tmp_path / "out")
    assert status == 0, text
    assert "% valid" in text and "swapped" not in text
    status, text = run("bag", "from-images", *options, "--out", tmp_path / "again")
    assert status == 0, text
    (pair,) = open_bag_pairs(tmp_path / "again")
    assert pair.rig == small_rig()
    if kind != "video":
        np.testing.assert_array_equal(pair.images()[1], planes(0)[1])
    source = PairSource(str(options[0]), side_by_side="--side-by-side" in options)
    assert (len(source), source.load(0).rig) == (1, small_rig())


@pytest.mark.parametrize("kind", ["names", "video", "both", "bag"])
def test_view(kinds, kind, run, tmp_path):
    pytest.importorskip("rerun", reason="rerun, the extra 'viewer', is not installed")
    status, text = run("view", *kinds[kind], "--model", "sgbm", "--save", tmp_path / "look.rrd")
    assert (status, text.splitlines()[-1]) == (0, "1 of 1 pairs shown"), text
    logged = read_view(tmp_path / "look.rrd")
    depth = image_of(logged["/sgbm/depth"][0], np.float32)
    assert depth.shape == planes(0)[0].shape[:2]
    assert np.isfinite(depth).mean() > 0.5
    assert logged["/sgbm/depth"][0].at.get("time") == (1_000_000_000 if kind == "bag" else None)


def test_infer_names_topics_of_a_bag_and_one_image_with_both_views(kinds, run, tmp_path):
    (bag,) = kinds["bag"]
    options = ("--model", "sgbm", "--out", tmp_path / "out")
    status, text = run("infer", "/left/image_rect", "/right/image_rect", "--pairs", bag, *options)
    assert status == 0, text
    status, text = run("infer", "/left/image_rect", "/behind/image", "--pairs", bag, *options)
    assert status == 1 and "/behind/image" in text
    image = kinds["both"][0] / "a.png"
    status, text = run("infer", image, "--side-by-side", *options)
    assert status == 0 and "a: " in text
    for wrong in ([image], [image, "--pairs", kinds["both"][0]], []):
        assert run("infer", *wrong, *options)[0] == 2


def test_infer_says_that_the_views_of_an_image_are_swapped(kinds, run, tmp_path):
    left, right = (cv2.GaussianBlur(image, (0, 0), 1.5) for image in planes(0, 480, 320)[:2])
    write_image(tmp_path / "swapped/a.png", np.hstack([right, left]))
    status, text = run("infer", "--pairs", tmp_path / "swapped", "--side-by-side", "--model", "sgbm", "--out", tmp_path)
    assert status == 0 and "left and right seem to be swapped" in text


def test_evaluate_stereo_of_a_bag_by_its_depth(kinds, run, tmp_path):
    options = ("--no-motorcycle", "--model", "sgbm", "--json", tmp_path / "report.json")
    status, text = run("evaluate", "stereo", "--data", kinds["bag"][0], "--left", "/left/image_rect", *options)
    assert status == 0, text
    row = json.loads((tmp_path / "report.json").read_text())["rows"][0]
    assert row["set"] == "bag" and row["metrics"]["epe"] < 1.5
