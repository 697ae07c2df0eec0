"""Drives through a virtual world, and worlds on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.world import small_atlas, small_cutouts

from fg_depth_ros.data.datasets.stereo import open_stereo_folder
from fg_depth_ros.data.io.formats import read_image, read_kitti_disparity
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.synthesis.world.drive import DRIVES, WorldDrive, drive_rig
from fg_depth_ros.synthesis.world.folder import write_world

SIZE = (96, 48)


def drive(kind: str = "street", seed: int = 1, frames: int = 30) -> WorldDrive:
    return WorldDrive(kind, drive_rig(kind, *SIZE), seed, small_atlas(), small_cutouts(), frames)


def test_what_cannot_be_driven_is_named() -> None:
    with pytest.raises(ValueError, match="no world 'mixed' to drive through; choose one of street, indoor"):
        drive("mixed")
    with pytest.raises(ValueError, match="frames is 0; a drive has at least one"):
        drive(frames=0)
    with pytest.raises(IndexError, match="frame 30 of a drive that has 30"):
        drive().frame(30)
    with pytest.raises(ValueError, match="field of view is 180 degrees"):
        drive_rig("street", 96, 48, 180.0)
    with pytest.raises(ValueError, match=r"baseline is -0\.1 m"):
        drive_rig("street", 96, 48, 80.0, -0.1)


def test_the_rig_has_the_field_of_view_it_was_asked_for() -> None:
    rig = drive_rig("street", 640, 384, 90.0)
    assert rig.fx == pytest.approx(320.0) and rig.baseline == 0.3 and rig.cx == 319.5
    assert drive_rig("indoor", 640, 384).baseline == 0.12
    assert drive_rig("indoor", 640, 384, baseline=0.2).baseline == 0.2


@pytest.mark.parametrize("kind", DRIVES)
def test_frames_depend_on_their_number_alone(kind: str) -> None:
    one, other = drive(kind), drive(kind)
    later = other.frame(7)  # first, and before the frame whose exposure it takes
    for index in (0, 7):
        frame = one.frame(index)
    for name in ("left", "right", "depth", "pose"):
        assert getattr(frame, name).tobytes() == getattr(later, name).tobytes()
    assert not np.array_equal(frame.left, drive(kind, seed=2).frame(7).left)


@pytest.mark.parametrize("kind", DRIVES)
def test_poses_carry_the_points_of_one_frame_to_another(kind: str) -> None:
    """What stands still lies at one place of the first frame, whichever frame it was seen in."""
    way = drive(kind)
    first, later = way.frame(0), way.frame(2)
    assert first.pose is not None and later.pose is not None
    np.testing.assert_allclose(first.pose, np.eye(4), atol=1e-12)
    rig = way.rig
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    seen = np.isfinite(later.depth) & (later.depth < 25)
    z = later.depth[seen].astype(float)
    points = np.stack([(x[seen] - rig.cx) / rig.fx * z, (y[seen] - rig.cy) / rig.fy * z, z, np.ones_like(z)])
    back = later.pose @ points
    u, v = np.rint(back[0] / back[2] * rig.fx + rig.cx), np.rint(back[1] / back[2] * rig.fy + rig.cy)
    inside = (u >= 0) & (u < SIZE[0]) & (v >= 0) & (v < SIZE[1])
    found = first.depth[v[inside].astype(int), u[inside].astype(int)]
    error = np.abs(found - back[2][inside]) / back[2][inside]
    assert np.median(error) < 0.02
    assert inside.sum() > 500


def test_a_street_is_driven_along_smoothly_and_never_through_anything() -> None:
    for seed in range(6):
        way = drive(seed=seed, frames=100)
        poses = np.stack([way.scene.path.pose(0.1 * k) for k in range(100)])
        steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
        assert 0.03 < steps.mean() < 1.6 and np.abs(np.diff(steps)).max() < 0.05
        assert np.abs(np.diff(poses[:, :3, :3], axis=0)).max() < 0.06
    for kind in DRIVES:
        way = drive(kind, seed=3, frames=60)
        nearest = [np.nanmin(way.frame(k).depth) for k in range(0, 60, 12)]
        assert min(nearest) > 0.12


def test_a_folder_is_read_back_as_it_was(tmp_path: Path) -> None:
    way = drive()
    write_world(tmp_path / "world", way.rig, way.frame, 3)
    samples = open_stereo_folder(tmp_path / "world")
    assert [sample.name for sample in samples] == ["000000", "000001", "000002"]
    for index, sample in enumerate(samples):
        frame = way.frame(index)
        left, right = sample.images()
        np.testing.assert_array_equal(left, frame.left)
        np.testing.assert_array_equal(right, frame.right)
        assert sample.rig == way.rig
        truth, expected = sample.truth(), way.rig.fx * way.rig.baseline / frame.depth
        assert truth is not None
        known = expected > 1 / 512
        np.testing.assert_array_equal(np.isfinite(truth), known & (expected < 255.99))
        np.testing.assert_allclose(truth[known], expected[known], atol=1 / 400)
        depth = read_kitti_disparity(tmp_path / "world" / "depth" / f"{sample.name}.png")
        near = frame.depth < 255
        np.testing.assert_allclose(depth[near], frame.depth[near], atol=1 / 400)
        assert np.isnan(depth[frame.depth > 256]).all()
    poses = np.loadtxt(tmp_path / "world" / "poses.txt").reshape(-1, 3, 4)
    np.testing.assert_allclose(poses[2], way.frame(2).pose[:3], atol=1e-8)  # type: ignore[index]
    assert not list((tmp_path / "world").rglob(".*"))


def test_what_is_there_is_not_mixed_with_something_new(tmp_path: Path) -> None:
    rig = StereoRig(8, 4, 10.0, 10.0, 3.5, 1.5, 3.5, 0.1)
    picture = np.zeros((4, 8, 3), np.uint8)
    frame = StereoSample("", picture, picture, rig, depth=np.full((4, 8), np.inf, np.float32))
    with pytest.raises(ValueError, match="count is 0"):
        write_world(tmp_path / "a", rig, lambda number: frame, 0)
    write_world(tmp_path / "a", rig, lambda number: frame, 1)
    assert not (tmp_path / "a" / "poses.txt").exists()
    with pytest.raises(FileError, match=r"a/left: holds pictures already; name another folder"):
        write_world(tmp_path / "a", rig, lambda number: frame, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file.*cannot be written"):
        write_world(tmp_path / "file" / "out", rig, lambda number: frame, 1)


def test_the_command_writes_worlds_and_drives(run, tmp_path: Path) -> None:
    common = ["synth", "world", "--size", "64x32", "--patterns", 4, "--count", 2]
    status, text = run(*common, "--out", tmp_path / "drive", "--kind", "indoor", "--drive", "--baseline", 0.2)
    assert status == 0 and "2 pairs in" in text
    samples = open_stereo_folder(tmp_path / "drive")
    assert len(samples) == 2 and samples[0].rig is not None and samples[0].rig.baseline == 0.2
    assert len((tmp_path / "drive" / "poses.txt").read_text().splitlines()) == 2
    status, text = run(*common, "--out", tmp_path / "worlds", "--kind", "mixed")
    assert status == 0 and not (tmp_path / "worlds" / "poses.txt").exists()
    first, second = (read_image(tmp_path / "worlds" / "left" / f"00000{i}.png") for i in range(2))
    assert first.shape == (32, 64, 3) and not np.array_equal(first, second)
    status, text = run(*common, "--out", tmp_path / "worlds", "--kind", "mixed")
    assert status == 1 and "holds pictures already" in text
    status, text = run(*common, "--out", tmp_path / "other", "--kind", "mixed", "--drive")
    assert status == 1 and "no world 'mixed' to drive through" in text
