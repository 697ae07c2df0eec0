"""Every layout of stereo pairs that users have, from one small pair, with its calibration."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import yaml
from support.pair_folders import FAR, planes, small_rig, write_pairs

from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.data.datasets.depth import open_depth_sets
from fg_depth_ros.data.datasets.layouts import NoPairsError
from fg_depth_ros.data.datasets.stereo import LAYOUTS, open_stereo, open_stereo_sets
from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.files import FileError

LEFT, RIGHT, _ = planes(0)
SIZE = LEFT.shape[1::-1]


def save(folder, *names, images=(LEFT, RIGHT)):
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, image)


def write_rig(folder):
    (folder / "rig.json").write_text(json.dumps(small_rig().to_dict()))


def assert_is_the_pair(sample):
    left, right = sample.images()
    np.testing.assert_array_equal(left, LEFT)
    np.testing.assert_array_equal(right, RIGHT)
    np.testing.assert_array_equal(left[0, FAR:], right[0, :-FAR])  # x_left - x_right is positive
    assert sample.rig == small_rig()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.left)
@pytest.mark.parametrize("upper", [False, True])
def test_every_layout_of_the_table(tmp_path, layout, upper):
    names = [side.replace("*", "0001") + ".png" for side in (layout.left, layout.right)]
    if upper and "/" in names[0]:  # names of folders in any case
        names = [f"{side.rpartition('/')[0].upper()}/{side.rpartition('/')[2]}" for side in names]
    save(tmp_path / "set", *names)
    write_rig(tmp_path / "set")
    (sample,) = open_stereo(tmp_path / "set")
    assert_is_the_pair(sample)
    assert sample.name == ("0001" if layout.left.count("*") == 1 else "0001_0001" if "*" in layout.left else "set")


def test_hidden_files_are_no_images_and_a_calibration_that_is_given_comes_first(tmp_path):
    save(tmp_path, "left/a.png", "right/a.png")
    (tmp_path / "left/._b.png").write_bytes(b"resource fork")
    write_rig(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/rig.json").write_text(json.dumps({**small_rig().to_dict(), "baseline": 0.3}))
    assert_is_the_pair(open_stereo(tmp_path)[0])
    for given in (tmp_path / "other", tmp_path / "other/rig.json"):
        (sample,) = open_stereo(tmp_path, given)
        assert sample.rig.baseline == 0.3


@pytest.mark.parametrize(
    ("left", "right", "name"),
    [("Left/a.png", "Right/a.png", "a"), ("LEFT/a.png", "right/a.PNG", "a"), ("left/a.png", "right/a.bmp", "a"),
     ("left/left_07.png", "right/right_07.png", "07"), ("left/7_L.png", "right/7_R.png", "7"),
     ("left01.png", "right01.png", "01"), ("left-01.png", "right-01.png", "01"), ("01.left.png", "01.right.png", "01"),
     ("01_l.png", "01_r.png", "01"), ("01-L.png", "01-R.png", "01"), ("f_left_3.png", "f_right_3.png", "f_3"),
     ("mav0/cam0/data/14.png", "mav0/cam1/data/14.png", "14"), ("training/left/a.png", "training/right/a.png", "a"),
     ("desk/im0.png", "desk/im1.png", "desk"), ("desk/left.png", "desk/right.png", "desk")],
)  # fmt: skip
def test_spellings(tmp_path, left, right, name):
    save(tmp_path, left, right)
    write_rig(tmp_path)
    (sample,) = open_stereo(tmp_path)
    assert_is_the_pair(sample)
    assert sample.name == name


@pytest.mark.parametrize(
    "others",
    [("left_arm/a.png", "right_arm/a.png"), ("front_left/a.png", "front_right/a.png"), ("left/a_disp.txt",),
     ("im1L.png", "im2R.png"), ("cam01.png", "cam11.png"), ("upleft.png", "upright.png")],
)  # fmt: skip
def test_words_within_names_are_no_sides(tmp_path, others):
    for other in others:
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / other, RIGHT) if other.endswith("png") else (tmp_path / other).write_text("")
    with pytest.raises(NoPairsError, match="no stereo pairs found"):
        open_stereo(tmp_path)
    save(tmp_path, "cam0/a.png", "cam1/a.png")
    write_rig(tmp_path)
    (sample,) = open_stereo(tmp_path)
    assert_is_the_pair(sample)


def test_names_without_anything_in_common_are_paired_by_order_where_counts_agree(tmp_path, caplog):
    for k in (9, 10):
        save(tmp_path, f"left/a{k}.png", f"right/b{k + 100}.png", images=planes(k)[:2])
    samples = open_stereo(tmp_path)
    assert "no names in common (such as a10.png and b109.png): the 2 images are paired by their order" in caplog.text
    for sample, k in zip(samples, (9, 10), strict=True):
        assert sample.name == f"a{k}"
        np.testing.assert_array_equal(sample.images()[1], planes(k)[1])
    (tmp_path / "right/b110.png").unlink()
    with pytest.raises(FileError, match=r"their 2 and 1 images have no name in common .*the counts differ"):
        open_stereo(tmp_path)


def test_several_cameras_are_refused_with_what_was_found(tmp_path):
    save(tmp_path, "left/a.png", "right/a.png")
    save(tmp_path, "cam0/a.png", "cam1/a.png")
    with pytest.raises(FileError, match=r"several cameras or layouts: left/a\.png \+ right/a\.png, 1 pair.*; cam0/a"):
        open_stereo(tmp_path)
    for name in ("back", "front"):
        save(tmp_path / "rig", f"{name}/left/a.png", f"{name}/right/a.png")
    with pytest.raises(NoPairsError, match="rig: no stereo pairs found, but in back, front there are: give one"):
        open_stereo(tmp_path / "rig")
    assert list(open_stereo_sets([tmp_path / "rig"])) == ["back", "front"]


def test_grey_cameras_of_kitti_have_a_rig_of_their_own(tmp_path):
    rows = {0: (76.5, 0), 1: (80.5, -20), 2: (76.5, 9), 3: (80.5, -8)}
    for name in ("image_0/7.png", "image_1/7.png", "image_2/7.png", "image_3/7.png"):
        save(tmp_path, name, images=(LEFT,))
    (tmp_path / "calib.txt").write_text(
        "".join(f"P{k}: 200 0 {cx} {tx} 0 200 47.5 0 0 0 1 0\n" for k, (cx, tx) in rows.items())
    )
    assert open_stereo(tmp_path)[0].rig.baseline == pytest.approx(0.085)
    for name in ("image_2/7.png", "image_3/7.png"):
        (tmp_path / name).unlink()
        (tmp_path / name).parent.rmdir()
    assert open_stereo(tmp_path)[0].rig.baseline == pytest.approx(0.1)


# ---- videos, and both views in one image -------------------------------------------------------------------------


def smooth(seed):
    """A pair of disparity FAR that survives the compression of a video."""
    wall = cv2.GaussianBlur(planes(seed, SIZE[0] + FAR, SIZE[1])[0], (0, 0), 6).astype(np.float32)
    wall = cv2.normalize(wall, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.ascontiguousarray(wall[:, : SIZE[0]]), np.ascontiguousarray(wall[:, FAR:])


def write_video(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    codec = cv2.VideoWriter.fourcc(*{".mp4": "mp4v", ".avi": "MJPG"}[path.suffix])
    writer = cv2.VideoWriter(str(path), codec, 10, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame[:, :, ::-1])
    writer.release()


def assert_frames(samples, pairs):
    assert len(samples) == len(pairs)
    for k in (*range(len(pairs)), 0, len(pairs) - 1, 1):  # in any order
        for image, expected in zip(samples[k].images(), pairs[k], strict=True):
            assert np.abs(image.astype(int) - expected).mean() < 8
        assert samples[k].rig == small_rig()


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
@pytest.mark.parametrize("names", [("left", "right"), ("walk_L", "walk_R"), ("left/walk", "right/walk")])
def test_two_videos(tmp_path, ending, names):
    pairs = [smooth(k) for k in range(5)]
    for side, name in enumerate(names):
        write_video(tmp_path / f"{name}{ending}", [pair[side] for pair in pairs])
    write_rig(tmp_path)
    assert_frames(open_stereo(tmp_path), pairs)
    write_video(tmp_path / f"{names[1]}{ending}", [pair[1] for pair in pairs[:3]])
    with pytest.raises(FileError, match="has 5 frames and .* 3"):
        open_stereo(tmp_path)


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_a_video_with_both_views(tmp_path, ending):
    pairs = [smooth(k) for k in range(4)]
    path = tmp_path / f"walk{ending}"
    write_video(path, [np.hstack(pair) for pair in pairs])
    write_rig(tmp_path)
    assert_frames(open_stereo(path, side_by_side=True), pairs)
    assert_frames(open_stereo(tmp_path, side_by_side=True), pairs)
    with pytest.raises(FileError, match="is one file, and a pair is two.*--side-by-side"):
        open_stereo(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FileError, match=f"walk{ending}: "):
        open_stereo(path, side_by_side=True)


def test_images_with_both_views(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", np.hstack([LEFT, RIGHT]))
    write_rig(tmp_path)
    samples = open_stereo(tmp_path, side_by_side=True)
    assert [sample.name for sample in samples] == ["a", "b"]
    assert_is_the_pair(samples[1])
    write_image(tmp_path / "b.png", LEFT[:, :-1])
    with pytest.raises(FileError, match="159 px wide, so its halves are not alike"):
        open_stereo(tmp_path / "b.png", side_by_side=True)


def test_pairs_in_the_folder_of_a_bag_are_refused_with_what_was_found(tmp_path):
    folder = write_pairs(tmp_path / "set", ("a", "b"))
    bag = write_stereo_bag(tmp_path / "bag", [(10**9, LEFT, RIGHT)], small_rig())
    (bag / "metadata.yaml").rename(folder / "metadata.yaml")
    recording = next(bag.glob("*.mcap")).rename(folder / "drive_0.mcap")
    for read in (open_stereo, lambda path: open_depth_sets([path])):
        with pytest.raises(FileError, match=r"holds 2 stereo pair\(s\) in left/\* and right/\*, and a recording"):
            read(folder)
    assert len(open_stereo(recording)) == 1, "as the message advises"
    (folder / "right" / "a.png").unlink()
    (folder / "right" / "b.png").unlink()
    with pytest.raises(FileError, match=r"holds images of pairs .*and a recording \(drive_0\.mcap\): give "):
        open_stereo(folder)


def test_pairs_beside_another_programs_metadata_are_pairs(tmp_path):
    folder = write_pairs(tmp_path / "set", ("a", "b"))
    (folder / "metadata.yaml").write_text("licence: CC-BY\n")
    assert [sample.name for sample in open_stereo(folder)] == ["a", "b"]
    assert [len(samples) for samples in open_depth_sets([folder]).values()] == [2]


def test_a_picture_beside_a_recording_is_no_pair(tmp_path):
    bag = write_stereo_bag(tmp_path / "bag", [(10**9, LEFT, RIGHT)], small_rig())
    write_image(bag / "preview.png", LEFT)
    assert len(open_stereo(bag)) == 1


def test_a_bag(tmp_path):
    frames = [(1_000_000_000, LEFT, RIGHT)]
    write_stereo_bag(tmp_path / "bag", frames, small_rig())
    (sample,) = open_stereo(tmp_path / "bag")
    assert_is_the_pair(sample)
    assert sample.name == open_bag_pairs(tmp_path / "bag")[0].name
    assert list(open_stereo_sets([tmp_path])) == ["bag"]
    with pytest.raises(FileError, match="is a bag"):
        open_stereo(tmp_path / "bag", side_by_side=True)


# ---- raw cameras -------------------------------------------------------------------------------------------------

K = [np.array([[150, 0, 80.2], [0, 151, 46.1], [0, 0, 1]]), np.array([[148, 0, 77.5], [0, 148, 49.0], [0, 0, 1]])]
RADTAN = [np.array([-0.28, 0.07, 2e-4, 1e-5]), np.array([-0.25, 0.06, -1e-4, 3e-5])]
EQUIDISTANT = [np.array([0.003, 7e-4, -2e-3, 2e-4]), np.array([0.002, 4e-4, -1e-3, 1e-4])]
PITCH = cv2.Rodrigues(np.array([0.03, 0.0, 0.0]))[0]  # of the right camera: 4 px at this focal length
BASELINE, DISTANCE = 0.11, 1.5
BODY = cv2.Rodrigues(np.array([0.4, -1.2, 0.7]))[0]  # EuRoC's cameras are turned against the body


def raw_image(side, lens):
    """What a raw camera sees of a textured wall ahead of the left one; left frame to right frame: PITCH, -BASELINE."""
    v, u = np.mgrid[: SIZE[1], : SIZE[0]].astype(np.float64)
    pixels = np.stack([u, v], axis=-1).reshape(-1, 1, 2)
    undistort = cv2.fisheye.undistortPoints if lens is EQUIDISTANT else cv2.undistortPoints
    rays = cv2.convertPointsToHomogeneous(undistort(pixels, K[side], lens[side])).reshape(-1, 3)
    centre = np.zeros(3)
    if side:
        rays, centre = rays @ PITCH, PITCH.T @ np.array([BASELINE, 0, 0])
    points = centre + rays * ((DISTANCE - centre[2]) / rays[:, 2])[:, None]
    x, y = points[:, 0], points[:, 1]
    grey = 128 + 50 * np.sin(23 * x + 5 * np.sin(9 * y)) + 50 * np.sin(31 * y + 4 * np.sin(7 * x))
    return np.repeat(grey.reshape(SIZE[1], SIZE[0], 1), 3, 2).round().astype(np.uint8)


def pose(rotation, translation):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def camera(side, lens, distortion, radial):
    k = K[side]
    return {
        "resolution": list(SIZE), "intrinsics": [float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])],
        "distortion_model": "equidistant" if lens is EQUIDISTANT else radial, distortion: lens[side].tolist(),
    }  # fmt: skip


@pytest.mark.parametrize("lens", [RADTAN, EQUIDISTANT], ids=["radtan", "equidistant"])
@pytest.mark.parametrize("form", ["euroc", "tum_vi"])
def test_raw_cameras_are_rectified_by_their_calibration(tmp_path, lens, form):
    names = ["mav0/cam0/data/14.png", "mav0/cam1/data/14.png"]
    save(tmp_path, *names, images=[raw_image(side, lens) for side in (0, 1)])
    right_of_left = pose(PITCH, [-BASELINE, 0, 0])
    if form == "euroc":
        body = pose(BODY, [0.3, 0.1, -0.2])
        for side, to_body in enumerate((body, body @ np.linalg.inv(right_of_left))):
            values = camera(side, lens, "distortion_coefficients", "radial-tangential")
            values["T_BS"] = {"cols": 4, "rows": 4, "data": to_body.ravel().tolist()}
            (tmp_path / f"mav0/cam{side}/sensor.yaml").write_text("%YAML:1.0\n" + yaml.safe_dump(values))
    else:
        chain = {f"cam{side}": camera(side, lens, "distortion_coeffs", "radtan") for side in (0, 1)}
        chain["cam0"]["camera_model"] = "pinhole"
        chain["cam1"]["T_cn_cnm1"] = right_of_left.tolist()
        (tmp_path / "dso").mkdir()
        (tmp_path / "dso/camchain.yaml").write_text(yaml.safe_dump(chain))
    (sample,) = open_stereo(tmp_path)
    rig = sample.rig
    assert rig.baseline == pytest.approx(BASELINE, abs=1e-4)
    left, right = (image.astype(np.float32) for image in sample.images())
    expected = rig.fx * BASELINE / DISTANCE - rig.doffs
    x, y = np.meshgrid(np.arange(SIZE[0], dtype=np.float32), np.arange(SIZE[1], dtype=np.float32))
    inside = np.s_[12:-12, 25:-12]

    def difference(disparity):
        matched = cv2.remap(right, x - np.float32(disparity), y, cv2.INTER_LINEAR)
        return np.abs(left - matched)[inside].mean()

    assert difference(expected) < 4
    assert difference(expected) < 0.4 * min(difference(-expected), difference(expected + 2), difference(expected - 2))


def test_a_damaged_calibration_of_raw_cameras_is_named(tmp_path):
    save(tmp_path, "cam0/data/1.png", "cam1/data/1.png")
    (tmp_path / "cam0/sensor.yaml").write_text("resolution: [160, 96]\n")
    with pytest.raises(FileError, match=r"cam1/sensor\.yaml"):
        open_stereo(tmp_path)
    (tmp_path / "cam1/sensor.yaml").write_text("resolution: [160, 96]\n")
    with pytest.raises(
        FileError, match=r"cam0/sensor\.yaml: not the calibration of two cameras \(KeyError\('T_BS'\)\)"
    ):
        open_stereo(tmp_path)


def test_distorted_images_that_are_named_rectified_stay_as_they_are(tmp_path):
    save(tmp_path / "rectified", "left/a.png", "right/a.png")
    for side, cx, tx in (("left", 76.5, 0), ("right", 80.5, -20)):
        (tmp_path / "rectified" / f"{side}.yaml").write_text(
            f"image_width: 160\nimage_height: 96\ndistortion_coefficients: {{data: [-0.3, 0.1, 0, 0, 0]}}\n"
            f"projection_matrix: {{data: [200, 0, {cx}, {tx}, 0, 200, 47.5, 0, 0, 0, 1, 0]}}\n"
        )
    (sample,) = open_stereo(tmp_path / "rectified")
    assert_is_the_pair(sample)
    (tmp_path / "rectified").rename(tmp_path / "raw")
    with pytest.raises(FileError, match=r"raw/left\.yaml: left camera_info: k has 0 numbers.*set rectify to off"):
        open_stereo(tmp_path / "raw")
    assert_is_the_pair(open_stereo(tmp_path / "raw", rectify="off")[0])


def test_the_docs_have_the_table(repository):
    lines = ["| data | left | right | may lie in |", "|---|---|---|---|"]
    for layout in LAYOUTS:
        inside = ", ".join(f"`{name}/`" for name in layout.inside)
        lines.append(f"| {layout.family} | `{layout.left}` | `{layout.right}` | {inside} |")
    assert "\n".join(lines) in (repository / "docs/data.md").read_text(encoding="utf-8")


def test_a_set_of_plain_folders_keeps_its_truth(tmp_path):
    sample = open_stereo(write_pairs(tmp_path))[0]
    assert sample.has_truth
    assert sample.rig == small_rig()
