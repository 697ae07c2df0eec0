"""Calibration files as the data sets publish them -> the rig computed by hand."""

from __future__ import annotations

import json

import pytest

from fg_depth_ros.data.io.calibration import is_named_grey, read_calibration, write_rig
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig

MIDDLEBURY = """cam0=[3979.911 0 1244.772; 0 3979.911 1019.507; 0 0 1]
cam1=[3979.911 0 1369.115; 0 3979.911 1019.507; 0 0 1]
doffs=124.343
baseline=193.001
width=2964
height=1988
ndisp=280
isint=0
"""
KITTI = """calib_time: 09-Jan-2012 13:57:47
S_rect_02: 1.242000e+03 3.750000e+02
P_rect_02: 7.0e+02 0 6.0e+02 4.2e+01 0 7.0e+02 1.7e+02 0.2 0 0 1 0.0027
P_rect_03: 7.0e+02 0 6.0e+02 -3.43e+02 0 7.0e+02 1.7e+02 2.2 0 0 1 0.0027
"""
DRIVE = """roi: 26 1369 70 441
P1: 645 0 662 0 0 645 264 0 0 0 1 0
P1_roi: 645 0 636 0 0 645 194 0 0 0 1 0
P2: 645 0 662 -368.295 0 645 264 0 0 0 1 0
P2_roi: 645 0 636 -368.295 0 645 194 0 0 0 1 0
"""


def ros_yaml(shift: float, width: int = 640) -> str:
    data = [500.0, 0, 320, shift, 0, 500.0, 240, 0, 0, 0, 1, 0]
    return f"""image_width: {width}
image_height: 480
camera_name: narrow
projection_matrix: {{rows: 3, cols: 4, data: {data}}}
"""


def write(folder, text, name="calib.txt"):
    (folder / name).write_text(text)
    return folder / name


def test_middlebury_file(tmp_path):
    rig = read_calibration(write(tmp_path, MIDDLEBURY), 2964, 1988)
    assert (rig.fx, rig.fy, rig.cx, rig.cy) == (3979.911, 3979.911, 1244.772, 1019.507)
    assert rig.doffs == pytest.approx(124.343)
    assert rig.baseline == pytest.approx(0.193001)


def test_middlebury_file_for_quarter_size_images_is_the_motorcycle_rig(tmp_path):
    rig = read_calibration(write(tmp_path, MIDDLEBURY), 741, 497)
    assert rig.fx == pytest.approx(994.978, abs=1e-3)
    assert rig.doffs == pytest.approx(31.086, abs=1e-3)
    assert rig.cx == pytest.approx((1244.772 + 0.5) / 4 - 0.5)
    assert (rig.width, rig.height) == (741, 497)


def test_middlebury_file_without_doffs_and_size(tmp_path):
    text = "\n".join(line for line in MIDDLEBURY.splitlines() if line[:5] not in ("doffs", "width", "heigh"))
    assert read_calibration(write(tmp_path, text), 2964, 1988).doffs == pytest.approx(124.343)
    with pytest.raises(FileError, match="does not state the image size"):
        read_calibration(tmp_path / "calib.txt")


def test_kitti_file_refers_both_cameras_to_each_other(tmp_path):
    rig = read_calibration(write(tmp_path, KITTI), 1242, 375)
    assert rig.baseline == pytest.approx((42 + 343) / 700)
    assert (rig.fx, rig.cx, rig.cy, rig.doffs) == (700, 600, 170, 0)


def test_kitti_object_file_prefers_the_colour_cameras(tmp_path):
    row = "0 700 170 0 0 0 1 0"
    text = "".join(f"P{i}: 700 0 600 {s} {row}\n" for i, s in enumerate((0, -380, 42, -343)))
    assert read_calibration(write(tmp_path, text), 1242, 375).baseline == pytest.approx(385 / 700)


def test_cropped_projections_and_their_size(tmp_path):
    rig = read_calibration(write(tmp_path, DRIVE))
    assert (rig.width, rig.height) == (1344, 372)
    assert (rig.cx, rig.cy) == (636, 194)
    assert rig.baseline == pytest.approx(0.571)


def test_the_published_drive_and_kitti_files(public_data):
    rig = read_calibration(public_data / "drive/calib.txt", 1344, 372)
    assert rig.fx == pytest.approx(645.24, abs=0.01)
    assert (rig.cx, rig.cy) == (pytest.approx(635.96, abs=0.01), pytest.approx(194.13, abs=0.01))
    assert rig.baseline == pytest.approx(0.5707, abs=1e-4)
    rig = read_calibration(public_data / "kitti2015_scene_flow/calib_cam/000002.txt", 1242, 375)
    assert rig.baseline == pytest.approx((44.85728 + 339.5242) / 721.5377)


@pytest.mark.parametrize(
    ("name", "grey"),
    [
        ("image_00/data/0.png", True),
        ("2011_09_26_drive_0001_sync/image_00/data/0000000000.png", True),
        ("sequences/00/image_0/000000.png", True),
        ("/kitti/camera_gray_left/image_raw", True),
        ("/kitti/camera_color_left/image_raw", False),
        ("grey_pairs/left/0.png", True),
        ("sequences/00/image_2/000000.png", False),
        ("grey/image_02/data/0.png", False),
        ("image_000.png", False),
        ("greystone/left/0.png", False),
        ("left.png", False),
    ],
)
def test_names_of_kittis_grey_cameras(name, grey):
    assert is_named_grey(name) == grey


@pytest.mark.parametrize("given", ["left.yaml", "right.yaml", "."])
def test_ros_camera_pair(tmp_path, given):
    write(tmp_path, ros_yaml(0), "left.yaml")
    write(tmp_path, ros_yaml(-60), "right.yaml")
    rig = read_calibration(tmp_path / given, 320, 240)
    assert (rig.fx, rig.baseline) == (250.0, pytest.approx(0.12))


def test_own_format_round_trip_and_rescaling(tmp_path):
    rig = StereoRig(640, 480, 500, 501, 320, 240, 324, 0.12)
    write_rig(tmp_path / "rig.json", rig)
    assert read_calibration(tmp_path / "rig.json") == rig
    assert read_calibration(tmp_path) == rig
    assert read_calibration(tmp_path / "rig.json", 320, 240) == rig.scaled(320, 240)
    short = write(tmp_path, json.dumps({"fx": 500, "cx": 320, "cy": 240, "baseline": 0.12}), "short.json")
    assert read_calibration(short, 640, 480).doffs == 0


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("calib.txt", MIDDLEBURY.replace("baseline=193.001\n", ""), ["no line for 'baseline'"]),
        ("calib.txt", MIDDLEBURY.replace("193.001", "0"), ["baseline is 0"]),
        ("calib.txt", MIDDLEBURY.replace("193.001", "wide"), ["'baseline' is 'wide'"]),
        ("calib.txt", MIDDLEBURY.replace("0 0 1]", "0 1]"), ["'cam0' has 8 number(s), expected 9"]),
        ("calib.txt", KITTI.replace("-3.43e+02", "3.43e+02"), ["baseline is negative", "swapped"]),
        ("calib.txt", KITTI.replace("-3.43e+02", "4.2e+01"), ["baseline is zero"]),
        ("calib.txt", "hello: world\n", ["not a stereo calibration", "P_rect_02"]),
        ("rig.json", "{", ["not valid JSON"]),
        ("rig.json", "[1]", ["holds a list"]),
        ("rig.json", '{"fx": 500}', ["lacks the field(s)", "baseline"]),
        ("left.yaml", "a: [", ["not valid YAML"]),
        ("left.yaml", "image_width: 3", ["lacks projection_matrix, image_height"]),
        ("left.yaml", ros_yaml(0), ["right.yaml: no such file"]),
        ("camera.yaml", ros_yaml(0), ["has no 'left'"]),
    ],
)
def test_unusable_calibrations_are_named_with_the_way_out(tmp_path, name, text, words):
    path = write(tmp_path, text, name)
    with pytest.raises(FileError) as caught:
        read_calibration(path, 1242, 375)
    for word in [str(tmp_path), *words]:
        assert word in str(caught.value)


def test_ros_pair_that_is_swapped(tmp_path):
    write(tmp_path, ros_yaml(-60), "left.yaml")
    write(tmp_path, ros_yaml(0), "right.yaml")
    with pytest.raises(FileError, match=r"left\.yaml: .*swapped"):
        read_calibration(tmp_path / "left.yaml")


def test_images_of_another_shape_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"calibrated for 2964x1988 pixels, the images have 640x480.*cropped"):
        read_calibration(write(tmp_path, MIDDLEBURY), 640, 480)


def test_missing_binary_and_empty_folder(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_calibration(tmp_path / "gone.txt")
    (tmp_path / "calib.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="not a text file"):
        read_calibration(tmp_path / "calib.bin")
    with pytest.raises(FileError, match=r"no rig\.json"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("name", ["rig.json", "left.yaml"])
def test_nesting_and_size_beyond_a_calibration_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text("[" * 20_000 + "]" * 20_000)
    with pytest.raises(FileError, match=rf"{name}: not valid .* recursion"):
        read_calibration(path)
    path.write_text(" " * (1 << 20) + "{}")
    with pytest.raises(FileError, match=rf"{name}: has 1048578 bytes, and such a file may have 1048576"):
        read_calibration(path)
