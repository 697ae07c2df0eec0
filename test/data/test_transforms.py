"""Transforms from files and bags against hand-computed points."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

from support.truth import SECOND, TF, static, stereo_bag, with_messages

from fg_depth_ros.data.bags.storage import BagStorage
from fg_depth_ros.data.bags.truth import bag_transforms
from fg_depth_ros.data.io.transforms import Transform, chain, read_transforms
from fg_depth_ros.files import FileError

HALF = 2**-0.5
# REP 103: an optical frame (x right, y down, z forward) in a body frame (x forward, y left, z up).
OPTICAL = (-0.5, 0.5, -0.5, 0.5)


def moved(matrix, point):
    return (matrix @ np.append(point, 1.0))[:3]


# ---- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("{", "no YAML"),
        ("- 3", "holds list; a transform is a mapping of parent, child"),
        ("parent: a\nchild: b\n", "translation, rotation missing; a transform is"),
        ("child: b\ntranslation: [0, 0, 0]\nrotation: [0, 0, 0, 1]", "parent missing"),
        ("{parent: a, child: b, translation: [0, 0, 0], rotation: [0, 0, 0, 1], yaw: 3}", "yaw unknown"),
        ("{parent: a, child: b, translation: [0, x, 0], rotation: [0, 0, 0, 1]}", r"translation is \[0, 'x', 0\]"),
        ("{parent: a, child: b, translation: 3, rotation: [0, 0, 0, 1]}", "translation is 3"),
        ("{parent: a, child: b, translation: [0, 0], rotation: [0, 0, 0, 1]}", "a -> b: translation"),
        ("{parent: a, child: b, translation: [0, 0, .nan], rotation: [0, 0, 0, 1]}", "a -> b: translation"),
        ("{parent: a, child: b, translation: [0, 0, 0], rotation: [0, 0, 0, 0]}", "has length 0 and a quaternion"),
        ("{parent: a, child: b, translation: [0, 0, 0], rotation: [90, 0, 0, 1]}", "has length 90 and a quaternion"),
        ("{parent: a, child: b, translation: {x: 1, y: 2}, rotation: [0, 0, 0, 1]}", "translation is"),
    ],
)
def test_what_is_no_transform_is_named_with_the_file(tmp_path, text, message):
    path = tmp_path / "lidar.yaml"
    path.write_text(text)
    with pytest.raises(FileError, match=rf"lidar\.yaml.*{message}"):
        read_transforms(path)


def test_a_missing_way_names_both_frames_and_what_they_are_connected_to():
    known = [
        Transform("base", "lidar", np.eye(4)),
        Transform("base", "imu", np.eye(4)),
        Transform("mast", "camera", np.eye(4)),
    ]
    with pytest.raises(FileError, match=(
        "drive: no transform from frame 'lidar' to frame 'camera': 'lidar' is connected to base, imu; other frames: "
        "camera, mast. Give a file with the transform of parent 'camera' and child 'lidar'"
    )):  # fmt: skip
        chain(known, "camera", "lidar", "drive")
    with pytest.raises(FileError, match="'lidar' is connected to nothing; other frames: none"):
        chain([], "camera", "lidar", "drive")


def test_a_damaged_message_is_named(tmp_path):
    bag = with_messages(stereo_bag(tmp_path / "bag"), [("/tf_static", TF, SECOND, b"\0\1\0\0\xff\xff\xff\xff")])
    with pytest.raises(FileError, match="/tf_static: no whole tf2_msgs/msg/TFMessage .* give the transforms in a file"):
        bag_transforms(BagStorage(bag))


# ---- transforms ------------------------------------------------------------------------------------------------


def test_a_file_turns_then_moves_the_childs_points_into_the_parent(tmp_path):
    path = tmp_path / "lidar.yaml"
    path.write_text(f"parent: base\nchild: /lidar\ntranslation: [1, 2, 3]\nrotation: [0, 0, {HALF}, {HALF}]\n")
    (found,) = read_transforms(path)
    assert (found.parent, found.child) == ("base", "lidar")
    # A quarter turn about z takes x to y.
    np.testing.assert_allclose(moved(found.matrix, (5, 0, 0)), (1, 7, 3), atol=1e-12)


def test_lists_and_letters_are_read_too(tmp_path):
    one = "{frame_id: a, child_frame_id: b, translation: {x: 1, y: 0, z: 0}, rotation: {x: 0, y: 0, z: 0, w: 1}}"
    other = "{parent: b, child: c, translation: [0, 0, 2], rotation: [0, 0, 0, 1]}"
    for text in (f"- {one}\n- {other}\n", f"transforms:\n- {one}\n- {other}\n"):
        (tmp_path / "t.yaml").write_text(text)
        matrix = chain(read_transforms(tmp_path / "t.yaml"), "a", "c", "")
        np.testing.assert_allclose(moved(matrix, (0, 0, 0)), (1, 0, 2))


def test_a_chain_goes_up_and_down_and_back_again():
    turn = Transform.of("base", "lidar", (0, 0, 2), (0, 0, HALF, HALF), "")
    camera = Transform.of("base", "camera", (1, 0, 1), OPTICAL, "")
    forth = chain([turn, camera], "camera", "lidar", "")
    # 10 m along the LiDAR's x is base (0, 10, 2): 10 m left of, 1 m behind and 1 m above the camera.
    np.testing.assert_allclose(moved(forth, (10, 0, 0)), (-10, -1, -1), atol=1e-12)
    back = chain([turn, camera], "lidar", "camera", "")
    np.testing.assert_allclose(back @ forth, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(chain([turn], "lidar", "lidar", ""), np.eye(4))


def test_a_bags_static_transforms_are_read_and_the_last_of_one_counts(tmp_path):
    bag = with_messages(
        stereo_bag(tmp_path / "bag"),
        [
            ("/robot/tf_static", TF, SECOND, static("base", "lidar", (1, 0, 0))),
            ("/robot/tf_static", TF, 2 * SECOND, static("base", "lidar", (2, 0, 0))),
            ("/robot/tf_static", TF, 2 * SECOND, static("base", "camera", (0, 0, 3))),
        ],
    )
    found = {each.child: each.matrix[:3, 3].tolist() for each in bag_transforms(BagStorage(bag))}
    assert found == {"lidar": [2, 0, 0], "camera": [0, 0, 3]}
    assert bag_transforms(BagStorage(stereo_bag(tmp_path / "none"))) == []
