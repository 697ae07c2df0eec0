"""Calibration files of raw cameras, one small file for each format, against one rig computed by OpenCV."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from support.bags import raw_bag
from support.pair_folders import small_rig
from support.raw_cameras import (
    BASELINE,
    MATRICES,
    ROTATION,
    SIZE,
    TO_BODY,
    TO_RIGHT,
    TRANSLATION,
    RawRig,
    camera,
    euroc,
    kalibr,
    share_true,
)

from fg_depth_ros.data.datasets.stereo import open_pair, open_stereo
from fg_depth_ros.data.io.calibration import (
    describes_raw,
    find_calibration,
    open_calibration,
    read_calibration,
    write_camera_files,
)
from fg_depth_ros.data.io.camera_files import FORMATS, format_of, read_rectification
from fg_depth_ros.data.io.formats import write_image, write_pfm
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.geometry.rectification import Rectification, is_named_rectified
from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator

LENS = RawRig("plumb_bob")
FISHEYE = RawRig("equidistant")
EXPECTED = Rectification.from_camera_info(*(LENS.camera_info(side) for side in (0, 1)))


def opencv_matrix(name, array):
    rows, columns = np.atleast_2d(array).shape
    data = ", ".join(repr(float(number)) for number in np.ravel(array))
    return f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {columns}\n   dt: d\n   data: [ {data} ]\n"


def opencv_sample(folder, world):
    """As OpenCV's stereo_calib sample writes them; the extrinsics have R1, R2, P1, P2 and Q, too."""
    lenses = {f"{name}{side + 1}": value for side in (0, 1) for name, value in
              (("M", MATRICES[side]), ("D", world.distortion(side)))}  # fmt: skip
    mark = "fisheye_model: 1\n" if world.fisheye else ""
    text = "".join(opencv_matrix(name, value) for name, value in lenses.items())
    (folder / "intrinsics.yml").write_text(f"%YAML:1.0\n---\n{mark}{text}")
    r1, r2, p1, p2 = world.rectified()
    others = {"R": ROTATION, "T": TRANSLATION.reshape(3, 1), "R1": r1, "R2": r2, "P1": p1, "P2": p2, "Q": np.eye(4)}
    text = "".join(opencv_matrix(name, value) for name, value in others.items())
    (folder / "extrinsics.yml").write_text(f"%YAML:1.0\n---\n{text}")
    return folder / "intrinsics.yml"


def opencv_file(suffix, folder, world):
    """One file by cv2.FileStorage itself, with other names, and the size."""
    path = folder / f"stereo{suffix}"
    storage = cv2.FileStorage(str(path), cv2.FileStorage_WRITE)
    storage.write("image_width", SIZE[0])
    storage.write("image_height", SIZE[1])
    if world.fisheye:
        storage.write("distortion_model", "fisheye")
    for side in (0, 1):
        storage.write(f"cameraMatrix{side + 1}", MATRICES[side])
        storage.write(f"distCoeffs{side + 1}", world.distortion(side).reshape(1, -1))
    storage.write("R", ROTATION)
    storage.write("T", TRANSLATION.reshape(3, 1))
    storage.release()
    return path


def kalibr_imu(folder, world):
    """A chain with an IMU, under a name that says nothing."""
    chain = {f"cam{side}": camera(side, world, "distortion_coeffs", "radtan") for side in (0, 1)}
    chain["cam0"]["T_cam_imu"] = np.linalg.inv(TO_BODY).tolist()
    chain["cam1"]["T_cam_imu"] = (TO_RIGHT @ np.linalg.inv(TO_BODY)).tolist()
    (folder / "result.yaml").write_text(yaml.safe_dump(chain))
    return folder / "result.yaml"


def ros_camera(folder, world, header=""):
    for side, name in enumerate(("left", "right")):
        info = world.camera_info(side)
        values = {
            "image_width": info.width, "image_height": info.height, "camera_name": name,
            "camera_matrix": {"rows": 3, "cols": 3, "data": info.k},
            "distortion_model": info.distortion_model,
            "distortion_coefficients": {"rows": 1, "cols": len(info.d), "data": info.d},
            "rectification_matrix": {"rows": 3, "cols": 3, "data": info.r},
            "projection_matrix": {"rows": 3, "cols": 4, "data": info.p},
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(header + yaml.safe_dump(values))
    return folder / "left.yaml"


def ost(folder, world):
    text = "# oST version 5.0 parameters\n\n\n"
    for side, name in enumerate(("left", "right")):
        info = world.camera_info(side)
        blocks = (("camera matrix", info.k, 3), ("distortion", info.d, 5), ("rectification", info.r, 3),
                  ("projection", info.p, 4))  # fmt: skip
        text += f"[image]\n\nwidth\n{SIZE[0]}\n\nheight\n{SIZE[1]}\n\n[narrow_stereo/{name}]\n\n"
        for title, numbers, columns in blocks:
            rows = np.reshape(numbers, (-1, columns))
            text += f"{title}\n" + "\n".join(" ".join(f"{n:.9f}" for n in row) for row in rows) + "\n\n"
    (folder / "ost.txt").write_text(text)
    return folder / "ost.txt"


def zed(folder, world):
    """Lengths in mm; the section of another resolution must not be taken. 320x240 is no ZED's: as 1280x720 in shape."""
    rotation = cv2.Rodrigues(ROTATION)[0].ravel()
    text = ""
    for side, name in enumerate(("LEFT", "RIGHT")):
        k, d = MATRICES[side], world.distortion(side)
        lens = "".join(f"{key}={value}\n" for key, value in zip(("k1", "k2", "p1", "p2", "k3"), d, strict=True))
        for resolution, scale in (("HD", 1.0), ("2K", 7.0)):
            text += (
                f"[{name}_CAM_{resolution}]\nfx={scale * k[0, 0]}\nfy={scale * k[1, 1]}\ncx={scale * k[0, 2]}\n"
                f"cy={scale * k[1, 2]}\n{lens}\n"
            )
    rx, cv, rz = rotation
    x, y, z = -1000 * TRANSLATION
    text += f"[STEREO]\nBaseline={x}\nTY={y}\nTZ={z}\nCV_HD={cv}\nRX_HD={rx}\nRZ_HD={rz}\nCV_2K=1\nRX_2K=1\nRZ_2K=1\n"
    (folder / "SN1234.conf").write_text(text)
    return folder / "SN1234.conf"


WRITERS = {
    "opencv sample": opencv_sample, "opencv yml": lambda *args: opencv_file(".yml", *args),
    "opencv xml": lambda *args: opencv_file(".xml", *args), "opencv json": lambda *args: opencv_file(".json", *args),
    "euroc": euroc, "kalibr": kalibr, "kalibr with imu": kalibr_imu, "ros": ros_camera,
    "ros with header": lambda *args: ros_camera(*args, header="%YAML:1.0\n---\n"), "ost": ost,
}  # fmt: skip
FISHEYES = ("opencv sample", "opencv yml", "euroc", "kalibr", "kalibr with imu", "ros")


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_rig_and_maps_of_opencv(tmp_path, name):
    path = WRITERS[name](tmp_path, LENS)
    found = open_calibration(path, SIZE)
    assert isinstance(found, Rectification)
    assert found.size == SIZE
    r1, r2, p1, p2 = LENS.rectified()
    np.testing.assert_allclose(found.rig.P_left(), p1, atol=1e-5)
    np.testing.assert_allclose(found.rig.P_right(), p2, atol=1e-5)
    assert found.rig.baseline == pytest.approx(np.linalg.norm(TRANSLATION), abs=1e-6)
    for side, (r, p) in enumerate(((r1, p1), (r2, p2))):
        expected = cv2.initUndistortRectifyMap(MATRICES[side], LENS.distortion(side), r, p, SIZE, cv2.CV_16SC2)
        np.testing.assert_allclose(found.maps[side][0], expected[0], atol=1)
        assert np.mean(found.maps[side][0] != expected[0]) < 1e-3


@pytest.mark.parametrize("name", FISHEYES)
def test_fisheyes_are_told_from_pinholes(tmp_path, name):
    found = read_rectification(WRITERS[name](tmp_path, FISHEYE), SIZE)
    assert all(camera.fisheye for camera in found.cameras)
    assert found.rig.baseline == pytest.approx(np.linalg.norm(TRANSLATION), abs=1e-4)


def test_a_zed_s_factory_calibration(tmp_path):
    path = zed(tmp_path, LENS)
    found = read_rectification(path, (1280, 720))
    expected = Rectification.of(found.cameras[0], found.cameras[1], ROTATION, TRANSLATION, (1280, 720))
    np.testing.assert_array_equal(found.cameras[0].matrix, MATRICES[0])
    assert found.cameras[1].distortion[:5].tolist() == LENS.distortion(1).tolist()
    np.testing.assert_allclose(found.rotations[0], expected.rotations[0], atol=1e-9)
    assert found.rig.baseline == pytest.approx(np.linalg.norm(TRANSLATION), abs=1e-9)
    assert read_rectification(path, (2208, 1242)).cameras[0].matrix[0, 0] == 7 * MATRICES[0][0, 0]
    with pytest.raises(FileError, match=r"calibrated for .*the images have 640x480: another shape"):
        read_rectification(path, (640, 480))
    path.write_text(path.read_text().replace("_CAM_", "_EYE_"))
    assert format_of(path) is None


KITTI_RAW = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_02: 320 240
K_02: {k0}
D_02: {d0}
R_02: 1 0 0 0 1 0 0 0 1
T_02: 0 0 0
S_rect_02: 300 200
R_rect_02: {r0}
P_rect_02: {p0}
S_03: 320 240
K_03: {k1}
D_03: {d1}
S_rect_03: 300 200
R_rect_03: {r1}
P_rect_03: {p1}
"""


def kitti_raw(folder):
    """With the rectified image cropped to 300x200."""
    cameras = [LENS.camera_info(side) for side in (0, 1)]
    for each in cameras:
        each.p[2] -= 10
        each.p[6] -= 20
    values = {f"{n}{i}": " ".join(map(repr, getattr(each, n))) for i, each in enumerate(cameras) for n in "kdrp"}
    (folder / "calib_cam_to_cam.txt").write_text(KITTI_RAW.format(**values))
    return folder / "calib_cam_to_cam.txt"


def test_kitti_raw_drives_are_told_apart_by_the_size_of_their_images(tmp_path):
    path = kitti_raw(tmp_path)
    rectified = open_calibration(path, (300, 200))
    assert isinstance(rectified, StereoRig)
    found = open_calibration(path, SIZE)
    assert (found.size, found.rig) == (SIZE, rectified)
    whole = Rectification.from_camera_info(*(LENS.camera_info(side) for side in (0, 1)))
    image = LENS.raw_image(0)
    np.testing.assert_array_equal(found.apply(image, 0), whole.apply(image, 0)[20:220, 10:310])


def test_a_kitti_drive_that_is_not_rectified_is_rectified_when_it_is_read(tmp_path):
    drive = tmp_path / "2011_09_26" / "2011_09_26_drive_0002_extract"
    for side, name in enumerate(("image_02", "image_03")):
        (drive / name / "data").mkdir(parents=True)
        write_image(drive / name / "data" / "0000000069.png", LENS.raw_image(side))
    kitti_raw(tmp_path / "2011_09_26")
    (sample,) = open_stereo(drive)
    estimator = StereoDepthEstimator(StereoConfig(model="sgbm", max_disparity=64))
    depth = estimator.estimate(*sample.images(), sample.rig).depth
    assert depth.shape == (200, 300)
    assert share_true(depth, LENS.true_depth(sample.rig.P_left()[:, :3], (300, 200))) > 0.97


def test_kitti_odometry_and_object_files_are_of_rectified_images(tmp_path):
    row = "0 700 170 0 0 0 1 0"
    text = "".join(f"P{i}: 700 0 600 {s} {row}\n" for i, s in enumerate((0, -380, 42, -343)))
    (tmp_path / "calib.txt").write_text(f"{text}R0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    assert open_calibration(tmp_path / "calib.txt", (1242, 375)).baseline == pytest.approx(385 / 700)
    with pytest.raises(FileError, match="describes rectified images"):
        open_calibration(tmp_path / "calib.txt", (1242, 375), rectify="on")


# ---- which images are raw -----------------------------------------------------------------------------------------


def test_four_coefficients_without_a_model_may_be_those_of_a_fisheye_lens(tmp_path, caplog):
    path = opencv_sample(tmp_path, FISHEYE)
    read_rectification(path, (640, 480))
    assert caplog.text == ""
    stated = path.read_text()
    path.write_text(stated.replace("fisheye_model: 1\n", ""))
    read_rectification(path, (640, 480))
    assert "intrinsics.yml: states no distortion model" in caplog.text and "add fisheye_model: 1" in caplog.text
    caplog.clear()
    path.write_text(stated.replace("fisheye_model: 1", "fisheye_model: 0"))
    read_rectification(path, (640, 480))
    assert caplog.text == ""


def test_ros_calibrations_are_of_raw_images_by_distortion_and_name(tmp_path, caplog):
    caplog.set_level("INFO")
    path = ros_camera(tmp_path, LENS)
    raw, rig = open_calibration(path, SIZE), open_calibration(path, SIZE, named=True)
    assert isinstance(raw, Rectification)
    assert rig == raw.rig
    (said,) = caplog.messages
    assert said.startswith(f"{path}: is of raw images, but the name of these says rectified")
    assert open_calibration(path, SIZE, rectify="off") == rig
    assert isinstance(open_calibration(path, SIZE, named=True, rectify="on"), Rectification)
    with pytest.raises(FileError, match="rectify is 'maybe': choose one of auto, on, off"):
        open_calibration(path, SIZE, rectify="maybe")
    assert not describes_raw(path)
    assert describes_raw(kalibr(tmp_path, LENS))
    assert open_calibration(kalibr(tmp_path, LENS), SIZE, rectify="off").baseline == pytest.approx(rig.baseline)


@pytest.mark.parametrize(("path", "named"), [
    ("a/b/c/rectified/x.png", True), ("rect/left/x.png", True), ("a/left_rect.png", True),
    ("rect/a/b/c/x.png", False), ("a/direct/x.png", False), ("not_rectified/left/x.png", False),
    ("to_rectify/left/x.png", False), ("rectangle_room/left/x.png", False), ("rectified/unrectified/x.png", False),
])  # fmt: skip
def test_paths_that_say_rectified(tmp_path, path, named):
    assert is_named_rectified((tmp_path / "1" / "2" / path).as_posix(), 3) == named


def test_images_of_another_size_have_their_maps_scaled(tmp_path):
    found = read_rectification(ros_camera(tmp_path, LENS), (160, 120))
    assert (found.size, found.rig.width, found.rig.height) == ((160, 120), 160, 120)
    whole = read_rectification(tmp_path / "left.yaml", SIZE)
    half = found.apply(cv2.resize(LENS.raw_image(0), (160, 120), interpolation=cv2.INTER_AREA), 0)
    expected = cv2.resize(whole.apply(LENS.raw_image(0), 0), (160, 120), interpolation=cv2.INTER_AREA)
    assert np.abs(half.astype(int) - expected)[5:-5, 5:-5].mean() < 4
    with pytest.raises(FileError, match=r"left\.yaml: calibrated for 320x240 pixels, the images have 320x200"):
        read_rectification(tmp_path / "left.yaml", (320, 200))


def test_folders_of_raw_pairs_and_what_is_written_for_their_results(tmp_path):
    for side, name in enumerate(("left", "right")):
        (tmp_path / "raw" / name).mkdir(parents=True)
        write_image(tmp_path / "raw" / name / "1.png", LENS.raw_image(side))
    ros_camera(tmp_path / "raw", LENS)
    (sample,) = open_stereo(tmp_path / "raw")
    estimator = StereoDepthEstimator(StereoConfig(model="sgbm", max_disparity=64))
    depth = estimator.estimate(*sample.images(), sample.rig).depth
    assert share_true(depth, LENS.true_depth(sample.rig.P_left()[:, :3], SIZE)) > 0.97
    files = [tmp_path / "raw" / name / "1.png" for name in ("left", "right")]
    np.testing.assert_array_equal(open_pair(*files, tmp_path / "raw").images(), sample.images())
    assert isinstance(open_stereo(tmp_path / "raw", rectify="off")[0].left, type(files[0]))
    write_camera_files(tmp_path, sample.rig)
    again = open_calibration(tmp_path / "left.yaml", SIZE)
    assert isinstance(again, StereoRig)
    assert again.to_dict() == pytest.approx(sample.rig.to_dict())


@pytest.mark.parametrize("write_calibration", [ros_camera, kalibr])
def test_pairs_with_true_disparity_are_rectified_already(tmp_path, caplog, write_calibration):
    """Also the one without it: the cameras are the same."""
    for name in ("left", "right", "disp"):
        (tmp_path / name).mkdir()
    images = [EXPECTED.apply(LENS.raw_image(side), side) for side in (0, 1)]
    for name, image in zip(("left", "right"), images, strict=True):
        for number in ("1", "2"):
            write_image(tmp_path / name / f"{number}.png", image)
    calibration = write_calibration(tmp_path, LENS)
    assert not isinstance(open_stereo(tmp_path)[0].left, Path)  # raw, as far as the calibration says
    caplog.clear()
    write_pfm(tmp_path / "disp" / "1.pfm", np.ones(SIZE[::-1], np.float32))
    samples = open_stereo(tmp_path)
    for sample in samples:
        for found, image in zip(sample.images(), images, strict=True):
            np.testing.assert_array_equal(found[..., 0], image)
        assert sample.rig == open_stereo(tmp_path, rectify="off")[0].rig
    (said,) = caplog.messages
    assert said.startswith(f"{calibration}: is of raw cameras, but there is true disparity of these pairs")
    with pytest.raises(FileError, match="is true disparity of these pairs, so their images are rectified already"):
        open_stereo(tmp_path, rectify="on")


def test_a_right_image_of_another_size_is_named(tmp_path):
    for name, image in (("left", LENS.raw_image(0)), ("right", LENS.raw_image(1)[:200])):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "1.png", image)
    ros_camera(tmp_path, LENS)
    (sample,) = open_stereo(tmp_path)
    with pytest.raises(FileError, match=r"right/1\.png: the right image is 320x200 pixels and the calibration for 320"):
        sample.images()


def test_a_calibration_file_goes_before_the_camera_infos_of_a_bag(tmp_path):
    bag = raw_bag(tmp_path / "raw")
    write_camera_files(tmp_path, small_rig(*SIZE))
    (sample,) = open_stereo(bag, tmp_path / "left.yaml")
    assert sample.rig == small_rig(*SIZE)
    np.testing.assert_array_equal(sample.raw_images()[0], LENS.raw_image(0))
    np.testing.assert_array_equal(open_stereo(bag, kalibr(tmp_path, LENS))[0].images(), open_stereo(bag)[0].images())


# ---- what cannot be used ------------------------------------------------------------------------------------------


def without(text, word):
    return "\n".join(line for line in text.splitlines() if word not in line)


@pytest.mark.parametrize(("name", "change", "words"), [
    ("opencv sample", lambda text: text.replace("M2:", "other:"), ["lacks the matrix K2", "write K1, D1"]),
    ("opencv yml", lambda text: text.replace("rows: 3", "rows: x"), ["stereo.yml"]),
    ("opencv yml", lambda text: without(text, "image_"), ["does not state the image size"]),
    ("euroc", lambda text: text.replace("intrinsics:", "other:"), ["not the calibration of two cameras", "EuRoC"]),
    ("kalibr", lambda text: text.replace("radtan", "fov"), ["lens pinhole fov is not known"]),
    ("kalibr", lambda text: text.replace("pinhole", "omni"), ["lens omni radtan is not known"]),
    ("ros", lambda text: text.replace("plumb_bob", "fov"), ["distortion_model is 'fov'"]),
    ("ros", lambda text: text.replace("rectification_matrix", "other"), ["lacks rectification_matrix"]),
    ("ost", lambda text: without(text, "distortion"), ["lacks [left] distortion, [right] distortion"]),
])  # fmt: skip
def test_what_a_file_lacks_is_named(tmp_path, name, change, words):
    path = WRITERS[name](tmp_path, LENS)
    path.write_text(change(path.read_text()))
    with pytest.raises(FileError) as caught:
        read_rectification(path)
    for word in [str(tmp_path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", [*WRITERS, "zed", "kitti"])
def test_damaged_files_lead_to_no_other_error(tmp_path, name):
    writer = {**WRITERS, "zed": zed, "kitti": lambda folder, world: kitti_raw(folder)}[name]
    path, random = writer(tmp_path, LENS), np.random.default_rng(0)
    whole, refused = path.read_bytes(), []
    for _ in range(40):
        text = bytearray(whole)
        for _ in range(3):
            place, length = random.integers(0, len(text) - 1), random.integers(0, 40)
            text[place : place + length] = random.choice([b"", b"nan", b"1e308", b"-", b"[", b"\n", b": ", b"x"])
        path.write_bytes(text)
        try:
            open_calibration(path, SIZE, rectify=str(random.choice(["auto", "on", "off"])))
        except FileError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all(str(tmp_path) in text for text in refused)


def test_lengths_in_the_unit_of_another_board_are_named(tmp_path):
    path = opencv_sample(tmp_path, LENS)
    text = (tmp_path / "extrinsics.yml").read_text()
    assert text.count("T: !!") == 1
    before = opencv_matrix("T", TRANSLATION.reshape(3, 1))
    (tmp_path / "extrinsics.yml").write_text(text.replace(before, opencv_matrix("T", 1000 * TRANSLATION.reshape(3, 1))))
    with pytest.raises(FileError, match=r"intrinsics\.yml: .*T is 200\.\d+ long, in the unit of the squares"):
        read_rectification(path, SIZE)


def test_a_file_of_no_known_format_is_refused_by_naming_the_formats(tmp_path):
    (tmp_path / "rig.json").write_text(json.dumps(StereoRig(640, 480, 500, 500, 320, 240, 320, 0.1).to_dict()))
    with pytest.raises(FileError, match="describes no raw cameras: it is none of OpenCV's `stereoCalibrate`, EuRoC"):
        read_rectification(tmp_path / "rig.json")


def test_calibrations_are_found_beside_the_images(tmp_path):
    for name in ("opencv sample", "kalibr", "ost"):
        folder = tmp_path / name
        folder.mkdir()
        assert find_calibration(folder) is None
        assert find_calibration(folder) or WRITERS[name](folder, LENS) == find_calibration(folder)
    assert zed(tmp_path, LENS) == find_calibration(tmp_path)


def test_ros_pairs_and_ost_files_also_give_the_rig_of_their_rectified_images(tmp_path):
    assert read_calibration(ost(tmp_path, LENS)).to_dict() == pytest.approx(
        read_calibration(ros_camera(tmp_path, LENS)).to_dict(), abs=1e-5
    )
    assert read_calibration(tmp_path / "ost.txt").baseline == pytest.approx(BASELINE, rel=1e-3)


def test_the_docs_have_the_table(repository):
    rows = "\n".join(f"| {form.files} | {form.of} |" for form in FORMATS)
    assert rows in (repository / "docs/data.md").read_text(encoding="utf-8")
    assert len(FORMATS) == 7
