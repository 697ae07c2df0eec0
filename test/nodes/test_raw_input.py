"""Raw stereo input to stereo_depth_node: rectified inside, by the name of the topic and the calibration."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header
from support.nodes import Bench
from support.raw_cameras import SIZE, RawRig, share_true

from fg_depth_ros.data.io.messages import MessageError, fill_image
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.nodes.common.synchronizing import StereoMessages
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.stereo_depth.decoding import PairDecoder

RAW = {f"{side}/image_rect": f"{side}/image_raw" for side in ("left", "right")}


def raw_pair(model: str = "plumb_bob") -> dict[str, Any]:
    """The four messages of a world seen through distorted lenses, by input name."""
    world, found = RawRig(model), {}
    for index, side in enumerate(("left", "right")):
        info = world.camera_info(index, CameraInfo)
        info.header.frame_id = f"{side}_eye"
        found[f"{side}/camera_info"] = info
        header = Header(frame_id=f"{side}_eye")
        found[f"{side}/image_rect"] = fill_image(Image(), world.raw_image(index), "mono8", header)
    return found


PAIRS = {model: raw_pair(model) for model in ("plumb_bob", "equidistant")}
WORLD = RawRig("plumb_bob")
PAIR = PAIRS["plumb_bob"]


def true_depth(model: str = "plumb_bob") -> np.ndarray:
    projection = np.array(PAIRS[model]["left/camera_info"].p).reshape(3, 4)
    return RawRig(model).true_depth(projection[:, :3], SIZE)


def decoder(**topics: str) -> PairDecoder:
    return PairDecoder({name: f"/{topics.get(name[: -len('/image_rect')], name)}" for name in INPUTS})


def as_pair(found: dict[str, Any]) -> StereoMessages:
    return StereoMessages(*(found[name] for name in INPUTS))


RAW_DECODER = {"left": "left/image_raw", "right": "right/image_raw"}


@pytest.mark.parametrize("model", PAIRS)
def test_depth_of_raw_images_is_true_and_its_camera_info_is_rectified(make: Callable[..., Bench], model: str) -> None:
    b = make(topics=RAW)
    b.listen("depth/image_rect", "depth/camera_info", "points2")
    depth = b.fresh_depth(PAIRS[model])
    assert np.isfinite(depth).mean() > 0.5
    assert share_true(depth, true_depth(model)) > 0.97
    info = b.send_until(PAIRS[model], lambda: b.seen["depth/camera_info"])[-1]
    left = PAIRS[model]["left/camera_info"]
    assert (info.width, info.height, info.distortion_model, list(info.d)) == (*SIZE, "plumb_bob", [0.0] * 5)
    np.testing.assert_array_equal(info.r, np.eye(3).ravel())
    np.testing.assert_array_equal(info.p, left.p)
    np.testing.assert_array_equal(np.reshape(info.k, (3, 3)), np.reshape(left.p, (3, 4))[:, :3])
    assert info.header.frame_id == "left_eye"
    b.send_until(PAIRS[model], lambda: b.values().get("rectified inside") == "yes")
    assert b.level() == 0, b.status()


def test_named_rectified_images_pass_whatever_d_says_and_the_parameter_changes_that(make: Callable[..., Bench]) -> None:
    b = make()  # left/image_rect
    b.listen("depth/image_rect", "depth/camera_info")
    assert share_true(b.fresh_depth(PAIR), true_depth()) < 0.2
    b.send_until(PAIR, lambda: b.values().get("rectified inside") == "no")
    assert list(b.seen["depth/camera_info"][-1].d) == list(PAIR["left/camera_info"].d)
    assert b.set(rectify="on")[0].successful
    assert share_true(b.fresh_depth(PAIR), true_depth()) > 0.97
    assert not b.set(rectify="sometimes")[0].successful
    assert b.set(rectify=False)[0].successful  # `ros2 param set ... rectify off`, as ROS reads it
    b.send_until(PAIR, lambda: b.values().get("rectified inside") == "no")
    assert b.depth_node.get_parameter("rectify").value == "off"


def test_compressed_raw_images_are_rectified(make: Callable[..., Bench]) -> None:
    b = make(topics=RAW, image_transport="compressed")
    b.listen("depth/image_rect")
    assert share_true(b.fresh_depth(PAIR), true_depth()) > 0.97


def test_a_left_image_alone_is_rectified_as_in_a_pair(make: Callable[..., Bench]) -> None:
    messages = as_pair(PAIR)
    alone = StereoMessages(messages.left, None, messages.left_info, None, "the right camera is silent")
    fresh, known = decoder(**RAW_DECODER), decoder(**RAW_DECODER)
    pair = known.decode(messages)
    for each in (fresh, known):
        images = each.decode(alone)
        np.testing.assert_array_equal(images.left, pair.left)
        assert images.right is None
        assert list(images.left_info.d) == [0.0] * 5
        np.testing.assert_allclose(images.rig.P_left(), pair.rig.P_left())
    assert fresh.rectified_inside == "left only"
    assert fresh.decode(alone).rig is fresh.decode(alone).rig, "the maps are computed once"


def test_maps_are_computed_again_when_the_calibration_changes() -> None:
    own = decoder(**RAW_DECODER)
    first = own.decode(as_pair(PAIR))
    again = own.decode(as_pair(PAIR))
    assert again.rig is first.rig
    changed = copy.deepcopy(PAIR)
    changed["left/camera_info"].d[0] = -0.1
    other = own.decode(as_pair(changed))
    assert other.rig is not first.rig
    assert not np.array_equal(other.left, first.left)
    np.testing.assert_array_equal(other.right, first.right)
    np.testing.assert_array_equal(own.decode(as_pair(PAIR)).left, first.left)


def test_a_calibration_that_trembles_is_the_same_one_until_that_can_be_seen() -> None:
    own, pair = decoder(**RAW_DECODER), copy.deepcopy(PAIR)
    first = own.decode(as_pair(pair))

    def trembling(k: int, by: float) -> StereoMessages:
        moved = copy.deepcopy(pair)
        for side in ("left", "right"):
            info = moved[f"{side}/camera_info"]
            info.k[0] += k * by
            info.p[0] += k * by
            info.d[0] += k * by * 1e-4
        return as_pair(moved)

    assert all(own.decode(trembling(k, 1e-6)).rig is first.rig for k in (1, -1, 2, 3))
    drifting = [own.decode(trembling(k, 0.004)).rig for k in range(1, 7)]
    assert drifting[1] is first.rig is not drifting[2], "0.012 px"
    assert drifting[2] is drifting[4] is not drifting[5], "again as far from that"


def test_a_region_of_interest_of_raw_images() -> None:
    pair = copy.deepcopy(PAIR)
    for side in ("left", "right"):
        image, info = pair[f"{side}/image_rect"], pair[f"{side}/camera_info"]
        pixels = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width)
        pair[f"{side}/image_rect"] = fill_image(Image(), np.ascontiguousarray(pixels[40:200, 20:300]), "mono8")
        info.roi = RegionOfInterest(x_offset=20, y_offset=40, width=280, height=160)
    images = decoder(**RAW_DECODER).decode(as_pair(pair))
    whole = decoder(**RAW_DECODER).decode(as_pair(PAIR))
    inside = np.s_[20:-20, 20:-20]
    difference = images.left[inside].astype(int) - whole.left[40:200, 20:300][inside]
    assert np.abs(difference).max() <= 1
    assert StereoRig.from_camera_info(images.left_info, pair["right/camera_info"]) == images.rig


def test_what_is_no_calibrated_raw_pair_names_topic_value_and_way_out(make: Callable[..., Bench]) -> None:
    bad = {}
    for name, changes in {
        "unknown model": {"distortion_model": "fov"},
        "d not finite": {"d": [float("inf")] * 5},
        "k missing": {"k": [0.0] * 9},
        "uncalibrated": {"p": [0.0] * 12},
    }.items():
        bad[name] = copy.deepcopy(PAIR)
        for field, value in changes.items():
            setattr(bad[name]["left/camera_info"], field, value)
    bad["other model"] = copy.deepcopy(PAIR)
    bad["other model"]["right/camera_info"].distortion_model = "equidistant"
    bad["other model"]["right/camera_info"].d = [0.1] * 4
    bad["no baseline"] = copy.deepcopy(PAIR)
    bad["no baseline"]["right/camera_info"].p[3] = 0.0
    words = {
        "unknown model": "distortion_model is 'fov'", "d not finite": "d is [inf", "k missing": "k is all zeros",
        "uncalibrated": "p is all zeros", "other model": "'plumb_bob' and right 'equidistant'",
        "no baseline": "as a stereo pair",
    }  # fmt: skip
    own = decoder(**RAW_DECODER)
    for name, pair in bad.items():
        for _ in range(2):
            with pytest.raises(MessageError, match=r"calibrat.*\(from /left/camera_info and /right") as caught:
                own.decode(as_pair(pair))
        assert words[name] in str(caught.value)
        assert caught.value.reason == "camera_info"
    b = make(topics=RAW)
    b.listen("depth/image_rect")
    b.send_until(bad["k missing"], lambda: b.has("camera_info", "k is all zeros", "set rectify to off"))
    assert share_true(b.fresh_depth(PAIR), true_depth()) > 0.97


def test_rows_that_differ_after_rectification_are_blamed_on_the_calibration(make: Callable[..., Bench]) -> None:
    moved = copy.deepcopy(PAIR)
    moved["right/camera_info"].k[5] += 6.0  # px: the camera has moved since
    b = make(topics=RAW)
    b.listen("depth/image_rect")
    b.send_until(moved, lambda: b.has("not rectified", "does not fit the cameras", "calibrate the pair again"))
