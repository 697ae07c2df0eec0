"""Commands that take pairs take every kind of them: folders, videos, both views in one image, bags."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from support.bags import bag_of, to_ros1
from support.pair_folders import planes, small_rig, write_pairs
from support.raw_cameras import BASELINE, RawRig, euroc, kalibr
from support.viewing import image_of, read_view

from fg_depth_ros.cli.app import counted
from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.storage import IMAGE
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.data.datasets.stereo import LAYOUTS, open_stereo
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
    for given in (
        ("/left/image_rect", "/right/image_rect", "--pairs", bag),
        ("--pairs", bag, "--left", "/left/image_rect", "--right", "/right/image_rect"),
        (bag, "--left", "/left/image_rect", "--right", "/right/image_rect"),
    ):
        status, text = run("infer", *given, *options)
        assert status == 0, text
    status, text = run("infer", "/left/image_rect", "/behind/image", "--pairs", bag, *options)
    assert status == 1 and "/behind/image" in text
    image = kinds["both"][0] / "a.png"
    status, text = run("infer", image, "--side-by-side", *options)
    assert status == 0 and "a: " in text


@pytest.mark.parametrize("kind", ["names", "video", "both", "bag"])
def test_infer_takes_pairs_as_its_argument(kinds, kind, run, tmp_path):
    status, text = run("infer", *kinds[kind], "--model", "sgbm", "--out", tmp_path / "out")
    assert status == 0 and "% valid" in text, text


def test_infer_says_what_was_given_and_what_to_do(kinds, run, tmp_path):
    folder, (bag,) = kinds["names"][0], kinds["bag"]
    left, right = folder / "a_L.png", folder / "a_R.png"
    for given, message in (
        ((), "give a folder of pairs, a bag, two images, or, with --side-by-side, one image or video"),
        ((left,), f"{left} is one file, and a pair is two: give the right image after it, or, where its left half"),
        (
            (left, "--pairs", folder),
            f"--pairs {folder} is no bag, whose topics {left} could name: leave one of them out",
        ),
        ((left, right, "--side-by-side"), "--side-by-side is for one image or video with both views: leave it out"),
        ((folder, right), f"{folder} is no image: give two images, or leave {right} out"),
        ((bag, "/right/image"), f"{bag} is no image: give two images, or leave /right/image out"),
        ((left, right, "--left", "/a"), "--left is for bags: leave it out with two images"),
        ((left, right, "--left", "/a", "--slop", "1"), "--left, --slop are for bags: leave them out with two images"),
    ):
        status, text = run("infer", *given, "--model", "sgbm", "--out", tmp_path / "out")
        assert status == 2 and message in " ".join(text.replace("│", " ").split()), text
    assert not (tmp_path / "out").exists()


def test_infer_finds_the_calibration_next_to_two_images(kinds, run, tmp_path):
    folder = kinds["names"][0]
    options = ("--model", "sgbm", "--out", tmp_path / "out")
    status, text = run("infer", folder / "a_L.png", folder / "a_R.png", *options)
    assert status == 0 and "% valid" in text, text
    drive = write_pairs(tmp_path / "drive", ("a",))  # left/, right/ and rig.json
    status, text = run("infer", drive / "left/a.png", drive / "right/a.png", *options)
    assert status == 0 and "% valid" in text, text
    (drive / "rig.json").rename(tmp_path / "rig.json")  # in no folder that is of these two
    status, text = run("infer", drive / "left/a.png", drive / "right/a.png", *options)
    assert status == 0 and "disparity only: no calibration" in text, text


def test_one_pair_that_cannot_be_read_is_named_alone(kinds, run, tmp_path):
    left = kinds["names"][0] / "a_L.png"
    (tmp_path / "text.txt").write_text("hello")
    for right, message in (
        ("gone.png", "no such file; check the path"),
        ("text.txt", "is no image, or a damaged one; give a PNG or JPEG, or fetch it again"),
    ):
        status, text = run("infer", left, tmp_path / right, "--model", "sgbm", "--out", tmp_path / "out")
        assert (status, text) == (1, f"fg-depth: {tmp_path / right}: {message}")


def test_infer_takes_the_pair_that_is_shipped(run, tmp_path):
    for given in (("motorcycle",), ("--pairs", "motorcycle")):
        status, text = run("infer", *given, "--model", "sgbm", "--out", tmp_path / "out")
        assert status == 0 and "Motorcycle: " in text and "% valid" in text, text


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


# ---- every layout of docs/data.md ------------------------------------------------------------------------------------


def lay_out(root, layout, inside):
    """Two pairs in a layout, with their rig; where a pair has a folder of its own, one in each of two. Their number."""
    scenes = "*" in inside and "*" not in layout.left
    place = inside.replace("*/*", "2011_09_26/drive_0002").replace("*_sync", "drive_0002_sync")
    for seed, name in enumerate(("000000_10", "000001_10")):
        folder = root / place.replace("*", f"scene{seed}")
        for pattern, image in zip((layout.left, layout.right), planes(seed), strict=False):
            write_image(folder / f"{pattern.replace('*', name)}.png", image)
    beside = [root / "2011_09_26"] if place.startswith("2011_09_26") else [root]
    if "*_sync" in inside:  # the calibration of a drive is right beside it
        beside.append((root / place).parent)
    for folder in beside:
        (folder / "rig.json").write_text(json.dumps(small_rig().to_dict()))
    return 2 if scenes or "*" in layout.left else 1


@pytest.mark.parametrize(("layout", "inside"), [
    pytest.param(layout, inside, id=f"{layout.left} in {inside or '.'}")
    for layout in LAYOUTS for inside in ("", layout.inside[0])
])  # fmt: skip
def test_every_layout_is_read_by_infer_view_and_from_images(layout, inside, run, tmp_path):
    folder = tmp_path / "set"
    count = lay_out(folder, layout, inside)
    status, text = run("bag", "from-images", folder, "--out", tmp_path / "bag")
    assert status == 0 and f"{counted(count, 'pair')} in" in text, text
    bag = open_bag_pairs(tmp_path / "bag")
    assert {pair.rig for pair in bag} == {small_rig()}
    np.testing.assert_array_equal(bag[-1].images()[1], planes(1)[1])
    if inside:  # the same reader
        return
    status, text = run("infer", "--pairs", folder, "--model", "sgbm", "--out", tmp_path / "out")
    assert status == 0 and text.count("% valid") == count, text
    if importlib.util.find_spec("rerun"):
        status, text = run("view", folder, "--model", "sgbm", "--save", tmp_path / "look.rrd")
        assert (status, text.splitlines()[-1]) == (0, f"{count} of {count} pairs shown"), text


@pytest.mark.parametrize("form", ["euroc", "tum-vi"])
def test_raw_cameras_are_rectified_on_their_way_to_infer_view_and_a_bag(form, run, tmp_path):
    world = RawRig("plumb_bob" if form == "euroc" else "equidistant")
    folder = tmp_path / "MH_01"
    place = folder / "mav0"
    for side in (0, 1):
        for name in ("1403636579763555584", "1403636579813555456"):
            write_image(place / f"cam{side}/data/{name}.png", world.raw_image(side))
    if form == "euroc":
        euroc(place, world)
    else:
        (folder / "dso").mkdir()
        kalibr(folder / "dso", world).rename(folder / "dso/camchain.yaml")
    expected = open_stereo(folder)
    status, text = run("infer", "--pairs", folder, "--model", "sgbm", "--out", tmp_path / "out")
    assert status == 0 and text.count("% valid") == 2, text
    status, text = run("bag", "from-images", folder, "--out", tmp_path / "bag")
    assert status == 0, text
    bag = open_bag_pairs(tmp_path / "bag")
    assert bag[0].rig.baseline == pytest.approx(expected[0].rig.baseline) == pytest.approx(BASELINE, abs=1e-4)
    for found, image in zip(bag[1].images(), expected[1].images(), strict=True):
        np.testing.assert_array_equal(found, image)
    if importlib.util.find_spec("rerun"):
        status, text = run("view", folder, "--model", "sgbm", "--save", tmp_path / "look.rrd")
        assert (status, text.splitlines()[-1]) == (0, "2 of 2 pairs shown"), text


def test_a_video_of_a_zed_is_split_and_read(run, tmp_path):
    """mp4 with both views, named as ZED's tools name it, with the rig beside it and by option."""
    left, right = (cv2.GaussianBlur(image, (0, 0), 2) for image in planes(0, 320, 192)[:2])
    path = tmp_path / "clip/HD720_SN1234_10-00-00.mp4"
    path.parent.mkdir()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 15, (640, 192))
    for _ in range(3):
        writer.write(np.hstack([left, right])[:, :, ::-1])
    writer.release()
    (tmp_path / "rig.json").write_text(json.dumps(small_rig(320, 192).to_dict()))
    calib = ("--side-by-side", "--calib", tmp_path / "rig.json")
    status, text = run("infer", "--pairs", path, *calib, "--model", "sgbm", "--out", tmp_path / "out")
    assert status == 0 and text.count("% valid") == 3, text
    status, text = run("bag", "from-images", path.parent, *calib, "--out", tmp_path / "bag", "--rate", 15)
    assert status == 0 and "3 pairs in" in text, text
    first, second, _ = open_bag_pairs(tmp_path / "bag")
    assert first.rig == small_rig(320, 192) and second.stamp - first.stamp == round(1e9 / 15)
    if importlib.util.find_spec("rerun"):
        status, text = run("view", path, *calib, "--model", "sgbm", "--save", tmp_path / "look.rrd")
        assert (status, text.splitlines()[-1]) == (0, "3 of 3 pairs shown"), text


def test_a_bag_without_camera_info_gets_one_from_a_file(run, tmp_path):
    """As EuRoC's bags are: ROS 1, without calibration."""
    bag = bag_of(tmp_path / "two", {"/cam0/image_raw": IMAGE, "/cam1/image_raw": IMAGE})
    bag = to_ros1(bag, tmp_path / "MH_01.bag")
    (tmp_path / "rig.json").write_text(json.dumps(small_rig().to_dict()))
    status, text = run("bag", "from-images", bag, "--out", tmp_path / "bag")
    assert status == 1 and "no camera_info for /cam0/image_raw" in text and "--calib of infer, view and" in text
    status, text = run("bag", "from-images", bag, "--calib", tmp_path / "rig.json", "--out", tmp_path / "bag")
    assert status == 0, text
    assert open_bag_pairs(tmp_path / "bag")[0].rig == small_rig()


# ---- bags of ROS 1 ---------------------------------------------------------------------------------------------------


def test_every_command_takes_a_ros_1_bag(kinds, run, tmp_path):
    bag = to_ros1(kinds["bag"][0], tmp_path / "drive.bag")
    topics = ("--left", "/left/image_rect", "--right", "/right/image_rect")
    status, text = run("bag", "check", bag)
    assert status == 0 and "1 of 1 bag can be used drive 1 pair in" in text, text
    status, text = run("infer", "/left/image_rect", "/right/image_rect", "--pairs", bag, "--model", "sgbm", "--out",
                       tmp_path / "out")  # fmt: skip
    assert status == 0 and "% valid" in text, text
    options = ("--no-motorcycle", "--model", "sgbm", "--json", tmp_path / "report.json")
    status, text = run("evaluate", "stereo", "--data", bag, *topics, *options)
    assert status == 0, text
    assert json.loads((tmp_path / "report.json").read_text())["rows"][0]["metrics"]["epe"] < 1.5
    status, text = run("replay", bag, "--model", "none", "--baseline", "sgbm", "--out", tmp_path / "replay")
    assert status == 0, text
    status, text = run("bag", "from-images", bag, *topics, "--out", tmp_path / "again")
    assert status == 0, text
    np.testing.assert_array_equal(open_bag_pairs(tmp_path / "again")[0].images()[1], planes(0)[1])
    status, text = run("rectify", bag, "--out", tmp_path / "rectified")
    assert "1 pair in" in text, text
    if importlib.util.find_spec("rerun"):
        status, text = run("view", bag, *topics, "--model", "sgbm", "--save", tmp_path / "look.rrd")
        assert (status, text.splitlines()[-1]) == (0, "1 of 1 pairs shown"), text
