"""Every folder layout, from small scenes written here and from the public sets where they are at hand."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from support.bags import bag_of
from support.kitti_raw import DATE, DRIVE, write_raw
from support.pair_folders import FAR, NEAR, planes, small_rig, write_pairs

from fg_depth_ros.data.bags.storage import IMAGE
from fg_depth_ros.data.datasets import stereo as datasets
from fg_depth_ros.data.datasets.layouts import by_number, list_images
from fg_depth_ros.data.datasets.stereo import (
    MOTORCYCLE,
    motorcycle,
    open_pair,
    open_stereo,
    open_stereo_folder,
    open_stereo_sets,
    read_disparity,
)
from fg_depth_ros.data.io.formats import write_image, write_kitti_disparity, write_pfm
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig

LEFT, RIGHT, TRUTH = planes(0)


def save(folder, left_name, right_name):
    for name, image in ((left_name, LEFT), (right_name, RIGHT)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, image)


def assert_is_the_pair(sample, *, rig=None, truth=TRUTH):
    left, right = sample.images()
    np.testing.assert_array_equal(left, LEFT)
    np.testing.assert_array_equal(right, RIGHT)
    assert sample.rig == rig
    if truth is None:
        assert sample.truth() is None
    else:
        np.testing.assert_allclose(sample.truth(), truth, atol=1e-6)


@pytest.mark.parametrize("top", [".", "training"])
def test_kitti_layout_takes_first_frames_and_knows_what_is_occluded(tmp_path, top):
    folder = tmp_path / top
    for name in ("000001_10.png", "000001_11.png", "000000_10.png"):
        save(folder, f"image_2/{name}", f"image_3/{name}")
    seen = TRUTH.copy()
    seen[5:9, 5:9] = np.nan
    for name, disparity in (("disp_occ_0", TRUTH), ("disp_noc_0", seen)):
        (folder / name).mkdir()
        write_kitti_disparity(folder / name / "000001_10.png", disparity)
    (folder / "calib_cam_to_cam").mkdir()
    (folder / "calib_cam_to_cam/000001.txt").write_text(
        "P_rect_02: 200 0 76.5 0 0 200 47.5 0 0 0 1 0\nP_rect_03: 200 0 80.5 -20 0 200 47.5 0 0 0 1 0\n"
    )
    samples = open_stereo_folder(tmp_path)
    assert [sample.name for sample in samples] == ["000000_10", "000001_10"]
    assert_is_the_pair(samples[1], rig=small_rig())
    assert samples[1].occluded().sum() == 16
    assert samples[0].truth() is None
    assert samples[0].occluded() is None
    assert samples[0].rig is None


def test_frames_that_are_left_out_in_kittis_layout_are_those_of_its_scenes_and_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    kitti, own = tmp_path / "kitti", tmp_path / "own"
    for frame in (9, 10, 11):
        save(kitti, f"colored_0/000003_{frame:02d}.png", f"colored_1/000003_{frame:02d}.png")
        save(own, f"image_2/frame_{frame}.png", f"image_3/frame_{frame}.png")
    assert [sample.name for sample in open_stereo_folder(kitti)] == ["000003_10"]
    assert "of KITTI's scenes only frame 10 is read (left out: 2 of 3 pairs)" in caplog.text
    caplog.clear()
    assert {sample.name for sample in open_stereo_folder(own)} == {"frame_9", "frame_10", "frame_11"}
    assert not caplog.text


def test_kitti_layout_with_non_occluded_truth_only(tmp_path):
    save(tmp_path, "image_2/a.png", "image_3/a.png")
    (tmp_path / "disp_noc_0").mkdir()
    write_kitti_disparity(tmp_path / "disp_noc_0/a.png", TRUTH)
    (sample,) = open_stereo_folder(tmp_path)
    assert_is_the_pair(sample)
    assert sample.occluded() is None


def test_middlebury_views_in_third_size(tmp_path):
    save(tmp_path, "Cones/view1.png", "Cones/view5.png")
    stored = (TRUTH * 3).astype(np.uint8)
    stored[0] = 0
    write_image(tmp_path / "Cones/disp1.png", stored)
    write_image(tmp_path / "Cones/disp5.png", np.full(TRUTH.shape, FAR * 3, np.uint8))
    (tmp_path / "Cones/dmin.txt").write_text("30")
    (sample,) = open_stereo_folder(tmp_path)
    expected = TRUTH.copy()
    expected[0] = np.nan
    rig = sample.rig
    assert_is_the_pair(sample, rig=rig, truth=expected)
    assert (rig.fx, rig.doffs, rig.baseline) == (pytest.approx(3740 / 3), pytest.approx(10), 0.160)
    # Where the right view claims the wall stands before the square, the two views contradict each other; the match of
    # the leftmost columns is outside the right image.
    outside = np.arange(TRUTH.shape[1]) < TRUTH
    assert outside.any()
    np.testing.assert_array_equal(sample.occluded()[1:], (outside | (TRUTH == NEAR))[1:])
    (tmp_path / "Cones/dmin.txt").write_text("thirty")
    with pytest.raises(FileError, match=r"dmin\.txt: holds 'thirty'"):
        open_stereo_folder(tmp_path)


def test_middlebury_2014_and_eth3d_layout(tmp_path):
    scene = tmp_path / "Desk"
    save(scene, "im0.png", "im1.png")
    stored = TRUTH.copy()
    stored[0] = np.inf
    write_pfm(scene / "disp0GT.pfm", stored)
    mask = np.full(TRUTH.shape, 255, np.uint8)
    mask[3, 4] = 128
    write_image(scene / "mask0nocc.png", mask)
    (scene / "calib.txt").write_text(
        "cam0=[200 0 76.5; 0 200 47.5; 0 0 1]\ncam1=[200 0 80.5; 0 200 47.5; 0 0 1]\n"
        "doffs=4\nbaseline=100\nwidth=160\nheight=96\n"
    )
    expected = np.where(np.isinf(stored), np.nan, stored)
    for folder in (tmp_path, scene):  # the set, or one scene of it
        (sample,) = open_stereo_folder(folder)
        assert sample.name == "Desk"
        assert_is_the_pair(sample, rig=small_rig(), truth=expected)
        assert np.argwhere(sample.occluded()).tolist() == [[3, 4]]


def test_drive_layout(tmp_path):
    save(tmp_path, "I1_000007.png", "I2_000007.png")
    (tmp_path / "calib.txt").write_text(
        "roi: 0 159 0 95\nP1_roi: 200 0 76.5 0 0 200 47.5 0 0 0 1 0\nP2_roi: 200 0 80.5 -20 0 200 47.5 0 0 0 1 0\n"
    )
    (sample,) = open_stereo_folder(tmp_path)
    assert sample.name == "000007"
    assert_is_the_pair(sample, rig=small_rig(), truth=None)


def test_kitti_raw_layout_of_a_drive_a_date_and_all(tmp_path):
    raw = write_raw(tmp_path / "raw")
    drive = raw / DATE / DRIVE
    (raw / DATE / "2011_09_26_drive_0003_extract" / "image_02" / "data").mkdir(parents=True)
    # P_rect_02 and P_rect_03 hold 12 and -88 px m: 100 / 200 = 0.5 m apart
    rig = StereoRig(160, 96, 200.0, 200.0, 76.5, 47.5, 76.5, 0.5)
    for folder, prefix in ((drive, ""), (raw / DATE, f"{DRIVE}_"), (raw, f"{DRIVE}_")):
        samples = open_stereo_folder(folder)
        assert [sample.name for sample in samples] == [f"{prefix}0000000069", f"{prefix}0000000070"]
        assert_is_the_pair(samples[0], rig=rig, truth=None)
    (drive / "image_03/data/0000000070.png").unlink()
    assert [sample.name for sample in open_stereo_folder(drive)] == ["0000000069"]
    (raw / DATE / "calib_cam_to_cam.txt").unlink()
    (drive / "image_02/data/0000000070.png").unlink()
    assert open_stereo_folder(drive)[0].rig is None


def write_kitti_calibration(folder):
    """calib_cam_to_cam.txt of four cameras: the grey ones are 0.53715 m apart, those of colour 0.53273 m."""
    row = "200 0 76.5 {} 0 200 47.5 0 0 0 1 0\n"
    shifts = {"00": 0, "01": -107.43, "02": 12, "03": -94.546}  # px m
    text = "".join(f"S_rect_{n}: 160 96\nP_rect_{n}: {row.format(shift)}" for n, shift in shifts.items())
    (folder / "calib_cam_to_cam.txt").write_text(text)
    return folder / "calib_cam_to_cam.txt"


@pytest.mark.parametrize(("left", "right", "baseline"), [("00", "01", 0.53715), ("02", "03", 0.53273)])
def test_a_pair_of_kittis_grey_cameras_gets_their_baseline_from_a_file_that_is_given(tmp_path, left, right, baseline):
    files = [f"image_{number}/data/0000000000.png" for number in (left, right)]
    save(tmp_path, *files)
    sample = open_pair(*(tmp_path / file for file in files), write_kitti_calibration(tmp_path))
    assert sample.rig.baseline == pytest.approx(baseline)


def test_the_shipped_pair_is_opened_by_its_name():
    (sample,) = open_stereo(MOTORCYCLE)
    assert (sample.name, sample.rig) == ("Motorcycle", motorcycle().rig)
    for given in ({"calibration": Path("calib.txt")}, {"side_by_side": True}):
        with pytest.raises(FileError, match="motorcycle: is two images with their calibration: leave .* out"):
            open_stereo(MOTORCYCLE, **given)


@pytest.mark.parametrize(("colour", "baseline"), [("gray", 0.53715), ("color", 0.53273)])
def test_so_does_a_bag_of_them(tmp_path, colour, baseline):
    pytest.importorskip("rosbags")
    bag = bag_of(tmp_path / "bag", {f"/kitti/camera_{colour}_{side}/image_raw": IMAGE for side in ("left", "right")})
    (sample,) = open_stereo(bag, write_kitti_calibration(tmp_path))
    assert sample.rig.baseline == pytest.approx(baseline)


def test_plain_folders_with_truth_and_rig(tmp_path):
    samples = open_stereo_folder(write_pairs(tmp_path))
    assert [sample.name for sample in samples] == ["a", "b"]
    expected = TRUTH.copy()
    expected[:4] = np.nan
    assert_is_the_pair(samples[0], rig=small_rig(), truth=expected)


@pytest.mark.parametrize("stem", ["", "desk_"])
@pytest.mark.parametrize("ending", ["pfm", "npy", "png"])
def test_plain_pairs_side_by_side(tmp_path, stem, ending):
    save(tmp_path, f"{stem}left.png", f"{stem}right.bmp")
    path = tmp_path / f"{stem}disp.{ending}"
    {"pfm": write_pfm, "npy": np.save, "png": write_kitti_disparity}[ending](path, TRUTH)
    (tmp_path / "rig.json").write_text(json.dumps(small_rig().to_dict()))
    (sample,) = open_stereo_folder(tmp_path)
    assert sample.name == (stem.rstrip("_") or tmp_path.name)
    assert_is_the_pair(sample, rig=small_rig())


def test_pairs_at_another_size_than_the_calibration_get_a_rescaled_rig(tmp_path):
    save(tmp_path, "left.png", "right.png")
    (tmp_path / "rig.json").write_text(json.dumps(small_rig().scaled(320, 192).to_dict()))
    (sample,) = open_stereo_folder(tmp_path)
    for name, value in small_rig().to_dict().items():
        assert getattr(sample.rig, name) == pytest.approx(value)


def test_sets_are_named_by_their_folders_and_a_folder_of_sets_stands_for_them(tmp_path):
    write_pairs(tmp_path / "sets/indoor")
    write_pairs(tmp_path / "sets/outdoor", ("c",))
    (tmp_path / "sets/notes").mkdir()
    write_pairs(tmp_path / "other/indoor", ("d",))
    sets = open_stereo_sets([tmp_path / "sets", tmp_path / "other/indoor"])
    assert {name: [s.name for s in samples] for name, samples in sets.items()} == {
        "sets/indoor": ["a", "b"],
        "outdoor": ["c"],
        "other/indoor": ["d"],
    }
    with pytest.raises(FileError, match="notes: the folder is empty"):
        open_stereo_sets([tmp_path / "sets/notes"])


def test_sets_of_one_name_are_all_there(tmp_path):
    folders = [write_pairs(tmp_path / place / "training", (place,)) for place in "abc"]
    sets = open_stereo_sets([*folders, folders[0] / ".." / "training"])
    assert {name: [s.name for s in samples] for name, samples in sets.items()} == {
        f"{place}/training": [place] for place in "abc"
    }


def test_a_broken_set_among_others_is_reported_not_left_out(tmp_path):
    write_pairs(tmp_path / "good")
    for name in ("a", "b"):
        (write_pairs(tmp_path / "bad", (name,)) / f"right/{name}.png").unlink()
    with pytest.raises(FileError, match=r"right/a\.png: missing"):
        open_stereo_sets([tmp_path])


def test_missing_folder_and_unknown_layout(tmp_path):
    with pytest.raises(FileError, match="gone: no such folder"):
        open_stereo_folder(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="empty: the folder is empty; give the one that holds the pairs"):
        open_stereo_folder(tmp_path / "empty")
    with pytest.raises(FileError, match=r"no stereo pairs found\. Common layouts: image_2/\*") as told:
        open_stereo_folder(tmp_path)
    assert len(str(told.value)) - len(str(tmp_path)) < 300
    assert all(word in str(told.value) for word in ("left/* and right/*", "*_left and *_right", "docs/data.md"))


@pytest.mark.parametrize(
    ("left", "right"),
    [("image_2/a.png", "image_3/a.png"), ("S/view1.png", "S/view5.png"), ("S/im0.png", "S/im1.png"),
     ("I1_0.png", "I2_0.png"), ("left/a.png", "right/a.png"), ("a_left.png", "a_right.png")],
)  # fmt: skip
def test_a_left_image_without_its_right_one_is_named(tmp_path, left, right):
    save(tmp_path, left, right)
    (tmp_path / right).unlink()
    with pytest.raises(FileError) as caught:
        open_stereo_folder(tmp_path)
    assert f"{right}: missing" in str(caught.value)


def test_images_of_two_sizes_are_refused(tmp_path):
    write_pairs(tmp_path, ("a",))
    write_image(tmp_path / "right/a.png", RIGHT[:90])
    with pytest.raises(FileError, match=r"left/a\.png is 160x96 pixels and .*right/a\.png 160x90.*one size"):
        open_stereo_folder(tmp_path)[0].images()


def test_truth_of_another_size_is_refused(tmp_path):
    write_pairs(tmp_path, ("a",))
    write_pfm(tmp_path / "disp/a.pfm", TRUTH[:, :150])
    with pytest.raises(FileError, match=r"true disparity is 150x96 pixels and .*160x96"):
        open_stereo_folder(tmp_path)[0].truth()


def test_an_unreadable_image_is_named(tmp_path):
    write_pairs(tmp_path, ("a",))
    (tmp_path / "left/a.png").write_text("not an image")
    (sample,) = open_stereo_folder(tmp_path)
    with pytest.raises(FileError, match=r"left/a\.png: is no image, or a damaged one"):
        sample.images()


def test_disparity_arrays_that_are_none(tmp_path):
    np.save(tmp_path / "flow.npy", np.zeros((3, 4, 2), np.float32))
    with pytest.raises(FileError, match=r"shape \(3, 4, 2\)"):
        read_disparity(tmp_path / "flow.npy")
    (tmp_path / "bad.npy").write_bytes(b"nonsense")
    with pytest.raises(FileError, match=r"bad\.npy: not a readable"):
        read_disparity(tmp_path / "bad.npy")


def test_pairs_are_in_the_order_of_the_numbers_in_their_names(tmp_path):
    names = [f"{drive}_frame{k}" for drive in ("a", "b") for k in (0, 2, 9, 10, 100)]
    for name in reversed(names):
        save(tmp_path, f"left/{name}.png", f"right/{name}.png")
    assert [sample.name for sample in open_stereo_folder(tmp_path)] == names
    assert [image.stem for image in list_images(tmp_path / "left")] == names
    assert sorted(["1²2", "01", "1", "b", "B"], key=by_number) == ["01", "1", "1²2", "B", "b"]


def test_motorcycle_is_the_documented_sample():
    sample = motorcycle()
    left, right = sample.images()
    truth = sample.truth()
    assert left.shape == right.shape == (500, 741, 3)
    assert truth.shape == (500, 741)
    assert (sample.rig.fx, sample.rig.doffs, sample.rig.baseline) == (994.978, pytest.approx(31.086), 0.193001)
    assert 0.92 < np.isfinite(truth).mean() < 0.93
    assert np.nanmax(truth) < 60
    skimage_left, _, skimage_truth = pytest.importorskip("skimage.data").stereo_motorcycle()
    np.testing.assert_array_equal(left, skimage_left)
    np.testing.assert_array_equal(truth[np.isfinite(truth)], skimage_truth[np.isfinite(skimage_truth)])


def test_motorcycle_without_scikit_image_says_so(monkeypatch):
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileError, match="install scikit-image"):
        motorcycle()


def test_public_sets(public_data):
    sets = open_stereo_sets([public_data / "stereo", public_data / "drive", public_data / "kitti2015_scene_flow"])
    counts = {"drive": 112, "kitti2015": 12, "kitti2015_scene_flow": 3, "middlebury2005": 6, "middlebury2006": 10}
    assert {name: len(samples) for name, samples in sets.items()} == counts
    art = sets["middlebury2005"][0]
    assert art.name == "Art"
    assert art.rig.doffs == pytest.approx(200 / 3)
    assert 0.05 < art.occluded().mean() < 0.3
    assert sets["drive"][0].rig.fx == pytest.approx(645.24, abs=0.01)
    assert sets["kitti2015_scene_flow"][0].rig.baseline == pytest.approx(0.5327, abs=1e-4)
    assert sets["kitti2015"][0].truth().shape == (375, 1242)


def test_a_left_image_without_a_right_one_is_left_out_and_said(tmp_path, caplog):
    folder = write_pairs(tmp_path / "set", ("a", "b", "c"))
    (folder / "right" / "b.png").unlink()
    assert [sample.name for sample in open_stereo_folder(folder)] == ["a", "c"]
    assert "right/b.png: missing: " in caplog.text and "(left out: 1 of 3 pairs)" in caplog.text
    for name in ("a", "c"):
        (folder / "right" / f"{name}.png").unlink()
    with pytest.raises(FileError, match=r"right/a\.png: missing: .*left/a\.png has no right image"):
        open_stereo_folder(folder)
