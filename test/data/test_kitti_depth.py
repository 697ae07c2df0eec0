"""Eigen's test on KITTI raw: sweeps projected by hand, by a plain loop, and against the stereo truth of real scenes."""

from __future__ import annotations

import numpy as np
import pytest
from support.kitti_raw import CAMERAS, DATE, DRIVE, LIDAR, write_frames, write_raw, write_sweep

from fg_depth_ros.data.datasets.kitti_depth import EIGEN, EIGEN_IMPROVED, LidarCamera, open_eigen, read_velodyne
from fg_depth_ros.data.io.calibration import read_calibration
from fg_depth_ros.data.io.formats import read_kitti_disparity, write_kitti_disparity
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import disparity_to_depth

FRAME = f"{DATE}/{DRIVE} 69 l"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["nonsense"], "frames.txt, line 1: 'nonsense' is no frame; 'DATE/DRIVE_sync FRAME l' is expected"),
        ([FRAME, f"{DATE}/{DRIVE} 69 x"], "frames.txt, line 2: .* is no frame"),
        (
            [f"{DATE}/{DRIVE} 71 l"],
            r"0000000071.bin: missing \(.*frames.txt, line 1\); fetch the drive's velodyne_points",
        ),
        ([f"{DATE}/other_sync 69 l"], "other_sync.*bin: missing"),
        ([" "], "frames.txt: holds no frame"),
    ],
)
def test_a_bad_list_of_frames_is_named_with_its_line(tmp_path, lines, message):
    frames = write_frames(tmp_path / "frames.txt", *lines)
    with pytest.raises(FileError, match=message):
        open_eigen(write_raw(tmp_path / "raw"), frames)


def test_missing_and_damaged_files_are_named(tmp_path):
    raw, frames = write_raw(tmp_path / "raw"), write_frames(tmp_path / "frames.txt")
    with pytest.raises(FileError, match="/nowhere: no such folder; give the folder that holds KITTI's dates"):
        open_eigen("/nowhere", frames)
    with pytest.raises(FileError, match="/nowhere: no such folder"):
        open_eigen(raw, frames, "/nowhere")
    with pytest.raises(ValueError, match="rule 'velodyne' is unknown; choose one of published, camera"):
        open_eigen(raw, frames, rule="velodyne")
    sweep = raw / DATE / DRIVE / "velodyne_points/data/0000000069.bin"
    sweep.write_bytes(sweep.read_bytes()[:-3])
    with pytest.raises(FileError, match=r"0000000069\.bin: 29 bytes are no whole number of points"):
        open_eigen(raw, frames)["KITTI Eigen"][0].truth()
    (raw / DATE / DRIVE / "image_02/data/0000000070.png").unlink()
    with pytest.raises(FileError, match=r"image_02/data/0000000070\.png: missing \(.*line 2\)"):
        open_eigen(raw, frames)
    (raw / DATE / "calib_velo_to_cam.txt").write_text(LIDAR.replace("T:", "Q:"))
    with pytest.raises(FileError, match=r"calib_velo_to_cam\.txt: no line for 'T'"):
        open_eigen(raw, frames)


def camera(tmp_path, number=2):
    for name, text in (("cameras.txt", CAMERAS), ("lidar.txt", LIDAR)):
        (tmp_path / name).write_text(text)
    return LidarCamera.read(tmp_path / "cameras.txt", tmp_path / "lidar.txt", number)


def test_a_point_lands_where_it_does_by_hand(tmp_path):
    """A point 10 m ahead of the first camera, on its axis: u = 76.5 + 200 * 0.06 / 10 = 77.7, v = 47.5 (even: 48)."""
    points = np.array([[10.25, 0, 0]], np.float32)
    for rule, row, column, depth in (("camera", 48, 78, 10.0), ("published", 47, 77, 10.25)):
        found = camera(tmp_path).depth(points, rule)
        assert found.shape == (96, 160) and found.dtype == np.float32
        assert np.argwhere(np.isfinite(found)).tolist() == [[row, column]]
        assert found[row, column] == pytest.approx(depth, rel=1e-6)
    # camera 3 stands 0.44 m to the right of the first: u = 76.5 - 200 * 0.44 / 10 = 67.7
    assert np.argwhere(np.isfinite(camera(tmp_path, 3).depth(points, "camera"))).tolist() == [[48, 68]]


def test_of_several_points_in_a_pixel_the_nearest_counts_and_nothing_from_behind(tmp_path):
    far, near = [20.25, -0.18, 0], [10.25, -0.059, 0]  # u = 78.9 and 78.88 px
    behind, beyond = [-5, 0, 0], [10.25, 8, 0]
    for points in ([far, near, behind, beyond], [behind, near, beyond, far]):
        found = camera(tmp_path).depth(np.array(points, np.float32), "camera")
        assert np.argwhere(np.isfinite(found)).tolist() == [[48, 79]]
        assert found[48, 79] == pytest.approx(10.0, rel=1e-6)


@pytest.mark.parametrize("rule", ["published", "camera"])
def test_projection_equals_a_plain_loop(tmp_path, rule):
    random = np.random.default_rng(0)
    points = random.uniform([-5, -8, -4], [30, 8, 4], (400, 3)).astype(np.float32)
    expected: dict[tuple[int, int], float] = {}
    for x, y, z in points.astype(float):
        forward = x - 0.25
        if x >= 0 and forward > 0:
            u, v = 76.5 + (200 * -y + 12) / forward, 47.5 + 200 * -z / forward
            shift = 1 if rule == "published" else 0
            pixel = (round(v) - shift, round(u) - shift)
            if 0 <= pixel[0] < 96 and 0 <= pixel[1] < 160:
                value = x if rule == "published" else forward
                expected[pixel] = min(value, expected.get(pixel, np.inf))
    found = camera(tmp_path).depth(points, rule)
    assert len(expected) > 50
    assert {tuple(p) for p in np.argwhere(np.isfinite(found)).tolist()} == set(expected)
    for pixel, depth in expected.items():
        assert found[pixel] == pytest.approx(depth, rel=1e-5)


def test_frames_of_a_list_with_both_truths(tmp_path):
    raw, frames = write_raw(tmp_path / "raw"), write_frames(tmp_path / "frames.txt")
    depth = np.full((96, 160), np.nan, np.float32)
    depth[50, 60] = 12.5
    path = tmp_path / "annotated/val" / DRIVE / "proj_depth/groundtruth/image_02/0000000070.png"
    path.parent.mkdir(parents=True)
    write_kitti_disparity(path, depth)
    sets = open_eigen(raw, frames, tmp_path / "annotated", "camera")
    assert list(sets) == ["KITTI Eigen", "KITTI Eigen improved"]
    swept, improved = sets.values()
    assert [sample.name for sample in swept] == [f"{DRIVE}_0000000069", f"{DRIVE}_0000000070"]
    assert {s.protocol for s in swept} == {EIGEN} and {s.protocol for s in improved} == {EIGEN_IMPROVED}
    assert (EIGEN.crop, EIGEN.min_depth, EIGEN.max_depth) == ("garg", 1e-3, 80.0)
    assert swept[0].fx == 200 and swept[0].image_rgb().shape == (96, 160, 3)
    assert swept[0].pair.rig.baseline == pytest.approx(0.5)
    assert [np.isfinite(sample.truth()).sum() for sample in swept] == [2, 1]
    assert swept[1].truth()[57, 78] == pytest.approx(10.0)
    assert improved[0].truth() is None
    np.testing.assert_array_equal(improved[1].truth(), depth)


def test_right_camera_of_a_list(tmp_path):
    raw = write_raw(tmp_path / "raw")
    (sample,) = open_eigen(raw, write_frames(tmp_path / "f.txt", f"{DATE}/{DRIVE} 70 r"), rule="camera")["KITTI Eigen"]
    assert sample.pair is None and sample.name.endswith("_r")
    assert sample.image.parent.parent.name == "image_03"
    assert np.argwhere(np.isfinite(sample.truth())).tolist() == [[57, 68]]


def test_sweeps_of_real_scenes_agree_with_their_stereo_truth(public_data):
    folder = public_data / "kitti2015_scene_flow"
    if not (folder / "velodyne").is_dir():
        pytest.skip(f"no sweeps in {folder}")
    for scene in ("000002", "000003", "000007"):
        calibration = folder / "calib_cam" / f"{scene}.txt"
        lidar = LidarCamera.read(calibration, folder / "calib_velo" / f"{scene}.txt", 2)
        points = read_velodyne(folder / "velodyne" / f"{scene}.bin")
        truth = disparity_to_depth(
            read_kitti_disparity(folder / "disp_noc_0" / f"{scene}_10.png"), read_calibration(calibration)
        )
        assert truth.shape == (lidar.height, lidar.width)
        swept, published = lidar.depth(points, "camera"), lidar.depth(points)
        both = np.isfinite(swept) & np.isfinite(truth)
        assert both.sum() > 5000
        assert np.median(np.abs(swept[both] / truth[both] - 1)) < 0.01
        moved = np.roll(published, (1, 1), (0, 1))  # the rule's shift, undone
        both &= np.isfinite(moved)
        assert np.median(moved[both] - swept[both]) == pytest.approx(0.27, abs=0.05)


def test_a_sweep_is_read_as_it_was_written(tmp_path):
    write_sweep(tmp_path / "a.bin", [(1, 2, 3), (4, 5, 6)])
    np.testing.assert_array_equal(read_velodyne(tmp_path / "a.bin"), [[1, 2, 3], [4, 5, 6]])
    with pytest.raises(FileError, match="no such file"):
        read_velodyne(tmp_path / "b.bin")
