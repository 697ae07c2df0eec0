"""stereo_depth_node in this process: what it publishes, for whom, and what can be changed while it runs."""

from __future__ import annotations

import copy
import itertools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
import torch
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from support import flownet_reference
from support.nodes import KINDS, Bench, camera_info, pair_messages, share_near, wall
from support.waiting import LIMIT, response_to, wait_until

from fg_depth_ros.data.io import messages
from fg_depth_ros.geometry import Label
from fg_depth_ros.inference import (
    FlowConfig,
    FlowEstimator,
    ModelError,
    OutOfMemory,
    StereoConfig,
    StereoDepthEstimator,
)
from fg_depth_ros.networks import ModelCard, create_model, import_checkpoint, save_checkpoint
from fg_depth_ros.nodes.common.codes import FaultCode
from fg_depth_ros.nodes.common.diagnostics import fault_codes
from fg_depth_ros.nodes.common.input_topics import input_topics
from fg_depth_ros.nodes.common.missing_pairs import images_beside
from fg_depth_ros.nodes.common.topics import INPUTS

SCENE = wall()
PAIR = pair_messages(SCENE)


def test_all_outputs_of_a_known_scene(make: Callable[..., Bench]) -> None:
    scene = wall(disparity=12, doffs=3.0)
    b = make()
    b.listen(*(topic for topic in KINDS if topic != "depth/sigma"))

    def common() -> set[int]:
        return set.intersection(*({messages.stamp_ns(m.header) for m in list(b.seen[topic])} for topic in b.seen))

    stamp = max(b.send_until(pair_messages(scene), common))
    found = {t: next(m for m in b.seen[t] if messages.stamp_ns(m.header) == stamp) for t in b.seen}
    assert {message.header.frame_id for message in found.values()} == {"left_eye"}

    # f * B / (d + doffs) = 300 * 0.12 / 15
    assert scene.depth == pytest.approx(2.4)
    depth = messages.depth_to_array(found["depth/image_rect"])
    assert depth.shape == (240, 320)
    assert np.isfinite(depth).mean() > 0.7
    assert share_near(depth, 2.4) > 0.97

    disparity = found["disparity"]
    values = messages.float_array(disparity.image)
    known = np.isfinite(depth)
    np.testing.assert_array_equal(np.isfinite(values), known)
    assert np.median(values[known]) == pytest.approx(15.0, abs=0.1)  # 12 px between the images + doffs
    np.testing.assert_allclose(disparity.f * disparity.t / values[known], depth[known], rtol=1e-5)
    # searched: 64 disparities from floor(-3) on, in the message moved by doffs
    assert (disparity.min_disparity, disparity.max_disparity) == (0.0, 63.0)
    assert disparity.delta_d == 1 / 16

    flow = messages.float_array(found["flow/image"])
    assert flow.shape == (240, 320, 2)
    assert np.median(flow[known][:, 0]) == pytest.approx(-12.0, abs=0.1)
    assert not flow[known][:, 1].any()
    assert messages.image_to_array(found["flow/image_color"]).shape == (240, 320, 3)

    mask = messages.image_to_array(found["mask/image"])
    assert found["mask/image"].encoding == "mono8"
    np.testing.assert_array_equal(mask, np.where(known, 255, 0))
    labels = np.frombuffer(found["mask/labels"].data, np.uint8).reshape(240, 320)
    assert found["mask/labels"].encoding == "8UC1"
    np.testing.assert_array_equal(labels == Label.VALID, known)

    points, colours = messages.cloud_to_arrays(found["points2"])
    assert points.shape == (120, 160, 3)
    np.testing.assert_array_equal(points[..., 2], depth[::2, ::2])
    row, column = np.argwhere(np.isfinite(points[..., 2]))[1000]
    x = (2 * column - scene.rig.cx) * depth[2 * row, 2 * column] / 300.0
    assert points[row, column, 0] == pytest.approx(x, rel=1e-4, abs=1e-5)
    np.testing.assert_array_equal(colours, scene.left[::2, ::2])

    info = found["depth/camera_info"]
    assert list(info.p) == list(camera_info(scene.rig, False).p)
    assert (info.width, info.height) == (320, 240)


def test_only_what_somebody_listens_to_is_made(make: Callable[..., Bench]) -> None:
    matched: list[int] = []

    class Counting(StereoDepthEstimator):
        def estimate(self, *args: Any) -> Any:
            matched.append(1)
            estimate = super().estimate(*args)
            made.append(estimate)
            return estimate

    made: list[Any] = []
    b = make(build=Counting)
    b.wait(lambda: b.values().get("reason") == "idle")
    for _ in range(5):
        b.send(PAIR)
    assert not b.heard()  # the inputs are not even subscribed to
    assert matched == []

    b.listen("flow/image")
    b.send_until(PAIR, lambda: b.seen["flow/image"])
    assert b.heard()
    assert matched
    assert not {"labels", "depth", "mask"} & made[-1].__dict__.keys()  # nobody asked for depth
    b.unlisten("flow/image")
    b.wait(lambda: not b.heard())
    b.wait(lambda: b.accounted())  # the worker may be busy with the last pair
    count = len(matched)
    unheard = b.send(PAIR)
    assert not b.heard()
    assert len(matched) == count
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.97
    assert not b.answered(unheard)


def test_for_the_camera_info_of_depth_alone_nothing_is_matched(make: Callable[..., Bench]) -> None:
    matched: list[int] = []

    class Counting(StereoDepthEstimator):
        def estimate(self, *args: Any) -> Any:
            matched.append(1)
            return super().estimate(*args)

    b = make(build=Counting)
    b.listen("depth/camera_info")
    b.send_until(PAIR, lambda: len(b.seen["depth/camera_info"]) >= 3)
    info = b.seen["depth/camera_info"][-1]
    assert info.header.frame_id == "left_eye" and messages.stamp_ns(info.header) > 0
    assert list(info.p) == list(camera_info(SCENE.rig, False).p)
    b.wait(lambda: b.accounted() and int(b.values()["pairs published"]) >= 3)
    assert matched == []
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.97


def test_a_network_gives_its_uncertainty_and_its_hash(make: Callable[..., Bench], tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "fresh.safetensors"
    card = save_checkpoint(weights, create_model("flownet_stereo"), ModelCard("flownet_stereo"))
    b = make(model="flownet_stereo", depth_weights=str(weights), max_depth=10000.0, left_right_check="off")
    b.listen("depth/sigma", "depth/image_rect")
    b.send_until(PAIR, lambda: b.seen["depth/sigma"] and b.seen["depth/image_rect"])
    sigma = b.seen["depth/sigma"][-1]
    assert (sigma.encoding, sigma.width, sigma.height) == ("32FC1", 320, 240)
    values = messages.float_array(sigma)
    assert (values[np.isfinite(values)] > 0).all()
    b.wait(lambda: b.values("model").get("weights sha256") == card.sha256)
    assert b.values("model")["weights"] == str(weights)


def test_a_published_flow_network_gives_depth_and_its_real_vertical_flow(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    torch.save(flownet_reference.public_tensors("FlowNet2S", width=1 / 32), tmp_path / "FlowNet2-S.pth")
    network, card = import_checkpoint(tmp_path / "FlowNet2-S.pth")
    weights = str(tmp_path / "flownet2_s.safetensors")
    card = save_checkpoint(weights, network, card)
    runs = {"engine": "torch", "precision": "float32"}
    expected = FlowEstimator(FlowConfig("flownet2_s", weights, **runs)).estimate(SCENE.left, SCENE.right).flow
    limit = float(np.median(np.abs(expected[..., 1])))
    assert limit > 0
    b = make(
        model="flownet2_s", depth_weights=weights, max_vertical=limit, left_right_check="off", photometric_check=False,
        min_depth=0.01, max_depth=10000.0, **runs,
    )  # fmt: skip
    topics = ("flow/image", "mask/labels", "disparity", "depth/image_rect")
    b.listen(*topics, "depth/sigma")
    no_sigma = "model flownet2_s gives no uncertainty; use flownet_stereo"
    b.send_until(PAIR, lambda: all(b.seen[topic] for topic in topics) and b.log_has(no_sigma))
    flow = messages.float_array(b.seen["flow/image"][-1])
    np.testing.assert_allclose(flow, expected, atol=1e-4)
    labels = np.frombuffer(b.seen["mask/labels"][-1].data, np.uint8).reshape(240, 320)
    off_row = labels == Label.VERTICAL_FLOW
    assert (np.abs(flow[..., 1][off_row]) > limit).all()
    assert (np.abs(flow[..., 1][labels == Label.VALID]) <= limit).all()
    in_range = np.isin(labels, (Label.VALID, Label.VERTICAL_FLOW))
    np.testing.assert_array_equal(off_row[in_range], (np.abs(flow[..., 1]) > limit)[in_range])
    assert off_row.any()
    window = b.seen["disparity"][-1].valid_window
    assert (window.width, window.height) == (320, 240)
    b.wait(lambda: b.values("model").get("weights sha256") == card.sha256)
    for name, advice in (("depthnet_lite", "set mono_model to it"), ("flownet2s", "did you mean flownet2_s?")):
        (refused,) = b.set(model=name)
        assert not refused.successful and advice in refused.reason


def test_sgbm_gives_no_uncertainty_and_says_so(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/sigma")
    b.send_until(PAIR, lambda: b.log_has("depth/sigma is not published: model sgbm gives no uncertainty"))
    assert b.seen["depth/sigma"] == []


def test_depth_is_the_same_at_half_resolution(make: Callable[..., Bench]) -> None:
    scene = wall(disparity=16, width=640, height=480, doffs=2.0)
    b = make()
    b.listen("depth/image_rect")
    full = b.fresh_depth(pair_messages(scene))
    half = b.fresh_depth(pair_messages(scene.half()))
    assert (full.shape, half.shape) == ((480, 640), (240, 320))
    assert scene.half().depth == pytest.approx(scene.depth) == pytest.approx(2.0)
    assert np.nanmedian(full) == pytest.approx(2.0, rel=0.01)
    assert np.nanmedian(half) == pytest.approx(2.0, rel=0.02)


def test_names_follow_the_namespace_and_depth_comes_in_millimetres(make: Callable[..., Bench]) -> None:
    b = make(namespace="robot/front", depth_encoding="16UC1")
    b.listen("depth/image_rect")
    depth = b.fresh_depth(PAIR)
    assert b.seen["depth/image_rect"][-1].encoding == "16UC1"
    assert np.nanmedian(depth) == pytest.approx(3.0, abs=0.02)
    b.wait(b.status)
    assert b.status().name == "robot/front/stereo_depth_node: pairs"


def test_compressed_images(make: Callable[..., Bench]) -> None:
    b = make(image_transport="compressed")
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.97


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_compressed_outputs_are_those_of_the_raw_ones(make: Callable[..., Bench], encoding: str) -> None:
    b = make(publish_compressed=True, depth_encoding=encoding, jpeg_quality=90)
    packed = ["depth/image_rect/compressedDepth", "mask/labels/compressed", "disparity/image_color/compressed"]
    raw = [topic.rpartition("/")[0] for topic in packed]
    b.listen(*raw, *packed)

    def common() -> set[int]:
        return set.intersection(*({messages.stamp_ns(m.header) for m in list(b.seen[topic])} for topic in b.seen))

    stamp = max(b.send_until(PAIR, common))
    found = {t: next(m for m in b.seen[t] if messages.stamp_ns(m.header) == stamp) for t in b.seen}
    assert {message.header.frame_id for message in found.values()} == {"left_eye"}
    assert [found[topic].format for topic in packed] == [
        f"{encoding}; compressedDepth png", "8UC1; png compressed 8UC1", "rgb8; jpeg compressed bgr8",
    ]  # fmt: skip
    depth, small = (messages.depth_to_array(found[topic[0]]) for topic in (raw, packed))
    # 3 m: 9 / (2 * 6561.6) m by half a step of inverse depth over 0.1 to 80 m; millimetres are kept
    np.testing.assert_allclose(small, depth, atol=0.7e-3 if encoding == "32FC1" else 0.0, rtol=0.0)
    labels, small_labels = (messages.image_to_array(found[topic[1]]) for topic in (raw, packed))
    np.testing.assert_array_equal(small_labels, labels)
    colours, small_colours = (messages.image_to_array(found[topic[2]]).astype(int) for topic in (raw, packed))
    assert np.abs(small_colours - colours).mean() < 4.0
    # the wall is at 12 px of the 63 that are searched: violet-blue in viridis; what has no disparity is black
    known = np.isfinite(depth)
    assert not colours[~known].any()
    red, green, blue = np.median(colours[known], axis=0)
    assert blue > 100 and blue > max(red, green)


def test_compressed_outputs_lie_beside_the_raw_ones_wherever_these_are_remapped(make: Callable[..., Bench]) -> None:
    b = make(publish_compressed=True, topics={"depth/image_rect": "/front/depth", "mask/image": "/front/valid"})
    wanted = {"/front/depth/compressedDepth", "/front/valid/compressed", "/mask/labels/compressed"}
    b.wait(lambda: all(b.node.count_publishers(topic) for topic in wanted))
    assert b.node.count_publishers("/depth/image_rect/compressedDepth") == 0


def test_a_compressed_output_alone_is_made_and_nothing_else(make: Callable[..., Bench]) -> None:
    made: list[Any] = []

    class Noting(StereoDepthEstimator):
        def estimate(self, *args: Any) -> Any:
            made.append(super().estimate(*args))
            return made[-1]

    b = make(build=Noting, publish_compressed=True, mono_model="depthnet_lite")
    b.wait(lambda: b.values().get("reason") == "idle")
    assert made == []
    b.listen("flow/image_color/compressed")
    b.send_until(PAIR, lambda: b.seen["flow/image_color/compressed"])
    assert not {"labels", "depth", "mask"} & made[-1].__dict__.keys()
    pixels = messages.image_to_array(b.seen["flow/image_color/compressed"][-1])
    assert pixels.shape == (240, 320, 3)
    b.unlisten("flow/image_color/compressed")
    b.wait(lambda: not b.heard())


def test_a_thinned_cloud_holds_the_means_of_the_points_in_the_box(make: Callable[..., Bench]) -> None:
    b = make(cloud_decimation=1)
    b.listen("points2", "depth/image_rect")

    def newest_cloud(organised: bool) -> Any:
        """A cloud whose depth image has come, too."""
        stamps = {messages.stamp_ns(m.header) for m in list(b.seen["depth/image_rect"])}
        clouds = [m for m in list(b.seen["points2"]) if messages.stamp_ns(m.header) in stamps]
        return next((m for m in clouds[::-1] if (m.height > 1) == organised), None)

    whole = b.send_until(PAIR, lambda: newest_cloud(True))
    assert (whole.height, whole.width, whole.is_dense) == (240, 320, False)
    (result,) = b.set(cloud_min_x=-0.5, cloud_max_x=0.7, cloud_max_y=0.4, cloud_voxel=0.1)
    assert result.successful
    small = b.send_until(PAIR, lambda: newest_cloud(False))
    points, colours = messages.cloud_to_arrays(small)
    assert (small.height, small.is_dense) == (1, True)

    stamp = messages.stamp_ns(small.header)
    depth = messages.depth_to_array(
        next(m for m in list(b.seen["depth/image_rect"]) if messages.stamp_ns(m.header) == stamp)
    )
    found: dict[tuple[int, ...], list[np.ndarray]] = {}
    for row, column in np.argwhere(np.isfinite(depth)):
        z = depth[row, column]
        ray = np.array([(column - SCENE.rig.cx) / 300, (row - SCENE.rig.cy) / 300, 1.0]).astype(np.float32)
        point = ray * z
        if -0.5 <= point[0] <= np.float32(0.7) and point[1] <= np.float32(0.4):
            cell = tuple(np.floor(point * np.float32(10)).astype(int).tolist())
            found.setdefault(cell, []).append(np.concatenate([point, SCENE.left[row, column]]))
    expected = np.array([np.mean(np.float64(found[cell]), axis=0) for cell in sorted(found)])
    assert expected.shape == (points.shape[1], 6)
    np.testing.assert_allclose(points[0], expected[:, :3], atol=1e-5)
    assert np.abs(colours[0] - expected[:, 3:]).max() <= 0.5 + 1e-9


def test_a_box_without_points_and_one_that_is_none(make: Callable[..., Bench]) -> None:
    b = make(cloud_min_z=500.0, cloud_voxel=0.05)
    b.listen("points2")
    empty = b.send_until(PAIR, lambda: b.seen["points2"] and b.seen["points2"][-1])
    assert (empty.height, empty.width, len(empty.data)) == (1, 0, 0)
    (result,) = b.set(cloud_max_z=400.0)
    assert not result.successful
    assert "cloud_min_z = 500 m is not below cloud_max_z = 400 m" in result.reason


def test_a_box_in_a_frame_that_is_not_known_is_no_box(make: Callable[..., Bench]) -> None:
    b = make(cloud_frame="base_link", cloud_max_z=1.0)
    b.listen("points2", "depth/image_rect")
    b.send_until(PAIR, lambda: b.has("no transform"))
    assert b.seen["depth/image_rect"] and not b.seen["points2"]
    assert "its box is in frame 'base_link' (cloud_frame)" in b.status().message
    # the camera looks forward, 0.4 m above base_link: x forward, y left, z up
    shift, turn = SimpleNamespace(x=0.0, y=0.0, z=0.4), SimpleNamespace(x=-0.5, y=0.5, z=-0.5, w=0.5)
    transform = SimpleNamespace(
        header=Header(frame_id="base_link"), child_frame_id="left_eye",
        transform=SimpleNamespace(translation=shift, rotation=turn),
    )  # fmt: skip
    outputs = b.depth_node._outputs
    outputs._frames.add(SimpleNamespace(transforms=[transform]), False)  # stamped 0: long before the pairs
    outputs._no_frames = ""  # as with tf2_msgs
    b.send_until(PAIR, lambda: b.has("no transform", "from 'left_eye' are more than 1 s away from the pair"))
    assert not b.seen["points2"]
    outputs._frames.add(SimpleNamespace(transforms=[transform]), True)
    cloud = b.send_until(PAIR, lambda: b.seen["points2"] and b.seen["points2"][-1])
    points, _ = messages.cloud_to_arrays(cloud)
    assert cloud.header.frame_id == "left_eye"
    assert points[0, :, 1].min() >= -0.6 - 1e-6  # at most 1 m above the ground: 0.6 m above the camera
    assert points[0, :, 1].min() < -0.55
    b.send_until(PAIR, lambda: b.values().get("reason") == "ok")


def test_grey_and_colour_may_be_mixed(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/image_rect")
    grey = pair_messages(SCENE, "mono8")
    assert share_near(b.fresh_depth(grey), SCENE.depth) > 0.97
    assert share_near(b.fresh_depth({**PAIR, "right/image_rect": grey["right/image_rect"]}), SCENE.depth) > 0.97


def test_depth_that_16uc1_cannot_hold_is_out_of_range_everywhere(make: Callable[..., Bench]) -> None:
    # Z = 300 * 3.6 / 12 = 90 m, and 16UC1 ends at 65.535 m
    far = {name: copy.deepcopy(message) for name, message in PAIR.items()}
    far["right/camera_info"].p[3] = -300.0 * 3.6
    b = make(max_depth=200.0, depth_encoding="32FC1")
    b.listen("depth/image_rect", "mask/image", "mask/labels", "points2", "disparity")
    assert share_near(b.fresh_depth(far), 90.0) > 0.97
    b.set(depth_encoding="16UC1")

    def newest() -> set[int]:  # stamps that all topics have, after the change
        heard = [{messages.stamp_ns(m.header) for m in list(b.seen[topic])} for topic in b.seen]
        changed = {messages.stamp_ns(m.header) for m in b.seen["depth/image_rect"] if m.encoding == "16UC1"}
        return changed.intersection(*heard)

    stamp = max(b.send_until(far, lambda: len(newest()) > 1 and newest()))  # the first was in work at the change
    found = {t: next(m for m in b.seen[t] if messages.stamp_ns(m.header) == stamp) for t in b.seen}
    assert not messages.view(found["depth/image_rect"]).any()
    assert not messages.view(found["mask/image"]).any()
    assert (messages.view(found["mask/labels"]) != Label.VALID).all()
    assert np.isnan(messages.cloud_to_arrays(found["points2"])[0]).all()
    assert np.isnan(messages.float_array(found["disparity"].image)).all()
    # No depth at all, pair after pair, is said with its cause.
    b.send_until(far, lambda: b.status() and FaultCode.HARDLY_ANY_DEPTH in fault_codes(b.status()))
    assert b.log_has("farther than max_depth = 65.535 m")
    b.send_until(PAIR, lambda: b.level() == 0)


def test_the_search_begins_where_the_rig_sees_infinity(make: Callable[..., Bench]) -> None:
    scene = wall(disparity=-16, doffs=20.0)  # 300 * 0.12 / (-16 + 20) = 9 m
    b = make()
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(pair_messages(scene)), 9.0) > 0.97
    (result,) = b.set(min_disparity=0)
    assert result.successful
    b.send_until(pair_messages(scene), lambda: b.status() and FaultCode.RANGE_LIMITED in fault_codes(b.status()))
    (result,) = b.set(min_disparity="near")
    assert not result.successful
    assert "choose one of auto, -2048 to 2048" in result.reason


def test_the_camera_info_follows_the_image_unless_it_is_remapped_itself(ros_domain: int) -> None:
    context = Context()
    rclpy.init(context=context, domain_id=ros_domain)
    rules = ["left/image_rect:=/eyes/l/image", "right/image_rect:=/eyes/r/image", "right/camera_info:=/calibration/r"]
    arguments = ["--ros-args", *(word for rule in rules for word in ("-r", rule))]
    for transport, suffix in (("raw", ""), ("compressed", "/compressed")):
        node = Node("some_node", context=context, namespace="robot", cli_args=arguments)
        assert input_topics(node, {"image_transport": transport}) == {
            "left/image_rect": f"/eyes/l/image{suffix}",
            "right/image_rect": f"/eyes/r/image{suffix}",
            "left/camera_info": "/eyes/l/camera_info",
            "right/camera_info": "/calibration/r",
        }
        node.destroy_node()
    given = [w if not w.endswith("image") else f"{w}/compressed" for w in arguments]  # the compressed topic itself
    node = Node("some_node", context=context, namespace="robot", cli_args=given)
    topics = input_topics(node, {"image_transport": "compressed"})
    assert (topics["left/image_rect"], topics["left/camera_info"]) == (
        "/eyes/l/image/compressed",
        "/eyes/l/camera_info",
    )
    node.destroy_node()
    own = ["left/image_rect/compressed:=/eyes/l/h264", "left/camera_info:=/eyes/l/camera_info"]  # a driver's own name
    named = ["--ros-args", *(word for rule in own for word in ("-r", rule))]
    node = Node("some_node", context=context, namespace="robot", cli_args=named)
    topics = input_topics(node, {"image_transport": "compressed"})
    assert (topics["left/image_rect"], topics["left/camera_info"]) == ("/eyes/l/h264", "/eyes/l/camera_info")
    node.destroy_node()
    plain = Node("some_node", context=context, namespace="robot")
    assert input_topics(plain, {"image_transport": "raw"}) == {name: f"/robot/{name}" for name in INPUTS}
    plain.destroy_node()
    chained = Node("n", context=context, cli_args=[*arguments, "-r", "/eyes/l/camera_info:=/elsewhere"])
    assert input_topics(chained, {"image_transport": "raw"})["left/camera_info"] == "/elsewhere"
    chained.destroy_node()
    one_namespace = ["-r", "left/image_rect:=/eyes/l", "-r", "right/image_rect:=/eyes/r"]
    together = Node("n", context=context, cli_args=["--ros-args", *one_namespace])
    topics = input_topics(together, {"image_transport": "raw"})  # one camera_info cannot be of both
    assert (topics["left/camera_info"], topics["right/camera_info"]) == ("/left/camera_info", "/right/camera_info")
    together.destroy_node()
    rclpy.shutdown(context=context)


def test_a_topic_that_might_be_meant_is_named(make: Callable[..., Bench]) -> None:
    b = make(stall_timeout=0.5)
    for name in ("left/image_rect_color", "left/image_raw", "other/image_raw"):
        b.node.create_publisher(Image, name, 1)
    b.node.create_publisher(CameraInfo, "left/anything", 1)
    b.node.destroy_publisher(next(p for p in b.node.publishers if p.topic_name == "/left/image_rect"))
    b.listen("depth/image_rect")
    b.wait(
        lambda: b.log_has("on /left/image_rect (it has no publisher: remap it to /left/image_raw or /left/image_rect")
    )
    assert images_beside(b.depth_node, "/left/image_rect") == ["/left/image_raw", "/left/image_rect_color"]
    assert images_beside(b.depth_node, "/left/image_rect/compressed") == []


def test_points_have_the_colours_of_image_rect_color_where_that_is_the_input(make: Callable[..., Bench]) -> None:
    b = make(topics={f"{side}/image_rect": f"{side}/image_rect_color" for side in ("left", "right")})
    b.listen("points2", "depth/image_rect")
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.97
    cloud = b.send_until(PAIR, lambda: b.seen["points2"] and b.seen["points2"][-1])
    np.testing.assert_array_equal(messages.cloud_to_arrays(cloud)[1], SCENE.left[::2, ::2])
    assert (SCENE.left[..., 0] != SCENE.left[..., 1]).any()  # so the test can tell
    inputs = {each.topic_name for each in b.depth_node.subscriptions}
    assert {"/left/image_rect_color", "/right/image_rect_color", "/left/camera_info", "/right/camera_info"} <= inputs
    assert "/left/image_rect" not in inputs


def test_block_matching_with_the_names_of_stereo_image_proc(make: Callable[..., Bench]) -> None:
    b = make(model="bm", correlation_window_size=9, use_system_default_qos=True, use_color=False)
    b.listen("depth/image_rect", "points2", "disparity")
    assert share_near(b.fresh_depth(PAIR), 3.0) > 0.97
    b.wait(lambda: b.seen["points2"] and b.seen["disparity"])
    assert [field.name for field in b.seen["points2"][-1].fields] == ["x", "y", "z"]
    assert b.seen["disparity"][-1].delta_d == 1 / 16
    assert b.seen["disparity"][-1].valid_window.y_offset == 4  # half the window
    (left,) = [each for each in b.depth_node.subscriptions if each.topic_name == "/left/image_rect"]
    assert left.qos_profile.reliability == ReliabilityPolicy.SYSTEM_DEFAULT
    (result,) = b.set(correlation_window_size=8)
    assert not result.successful
    assert "must be odd, got 8: choose 7 or 9" in result.reason
    (result,) = b.set(stereo_algorithm=1, disparity_range=48)
    assert result.successful
    b.wait(lambda: b.values("model").get("model") == "sgbm")
    assert b.depth_node.parameters["max_disparity"] == 48
    assert not b.log_has("not used by")


def test_the_override_of_one_input_is_of_no_other(make: Callable[..., Bench]) -> None:
    overrides = {"qos_overrides./left/image_rect.subscription.reliability": "reliable"}
    b = make(model="bm", use_system_default_qos=True, **overrides)
    b.listen("depth/image_rect")
    b.wait(lambda: all(b.node.get_subscriptions_info_by_topic(f"/{name}") for name in INPUTS))
    asked = {name: b.node.get_subscriptions_info_by_topic(f"/{name}")[0].qos_profile.reliability for name in INPUTS}
    assert asked.pop("left/image_rect") == ReliabilityPolicy.RELIABLE
    assert set(asked.values()) == {ReliabilityPolicy.BEST_EFFORT}, "the default of DDS"


def test_options_of_a_matcher_that_does_not_run_are_named(make: Callable[..., Bench]) -> None:
    b = make(model="flownet_stereo", P1=100.0)
    b.wait(lambda: b.log_has("max_disparity, P1: of the models sgbm and bm, not used by flownet_stereo"))
    (result,) = b.set(speckle_size=10)
    assert result.successful
    b.wait(lambda: b.log_has("speckle_size: of the models sgbm and bm, not used by flownet_stereo"))


def test_approximate_stamps(make: Callable[..., Bench]) -> None:
    b = make(approximate_sync=True, sync_slop=0.02)
    b.listen("depth/image_rect")
    b.send_until(PAIR, lambda: b.seen["depth/image_rect"], right_image_rect=0.015, right_camera_info=0.015)
    apart: list[int] = []

    def send_apart() -> None:
        apart.append(b.send(PAIR, right_image_rect=0.025, right_camera_info=0.025))

    wait_until(lambda: int(b.values().get("left/image_rect without partner", 0)) > 2, period=0.1, step=send_apart)
    assert not any(b.answered(stamp) for stamp in apart)


def test_images_that_are_lost_while_others_form_pairs_are_named(make: Callable[..., Bench]) -> None:
    b = make(flow_model="off", mono_model="off")
    b.listen("depth/image_rect")
    b.send_until(PAIR, lambda: b.seen["depth/image_rect"])
    rest = {name: message for name, message in PAIR.items() if name != "right/image_rect"}
    turns = itertools.count(1)
    wait_until(
        lambda: b.has(FaultCode.IMAGES_LOST),
        step=lambda: b.send(rest if next(turns) % 15 else PAIR),
        period=0.05,
        describe=b.status,
    )
    assert b.level() == 1
    text = b.status().message
    assert re.search(r"^only \d+ images of \d+ camera_infos came on /right/image_rect: ", text)
    assert "check that the driver publishes them, and the network between" in text
    b.send_until(PAIR, lambda: b.level() == 0)
    assert b.log_has("recovered after")


INFOS = {name: message for name, message in PAIR.items() if name.endswith("camera_info")}
IMAGES = {name: message for name, message in PAIR.items() if name.endswith("image_rect")}


def test_a_camera_info_that_came_once_holds_after_nobody_listened(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/image_rect")
    b.wait(b.heard)
    b.send(INFOS)
    assert share_near(b.fresh_depth(IMAGES), SCENE.depth) > 0.97
    b.unlisten("depth/image_rect")
    b.wait(lambda: b.values().get("reason") == "idle")
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(IMAGES), SCENE.depth) > 0.97


def durability(b: Bench, name: str) -> list[DurabilityPolicy]:
    """Of the node's subscriptions of an input."""
    return [info.qos_profile.durability for info in b.node.get_subscriptions_info_by_topic(f"/{name}")]


@pytest.mark.parametrize("system_default", [False, True])
def test_a_latched_camera_info_is_received_however_long_ago_it_was_sent(
    make: Callable[..., Bench], system_default: bool
) -> None:
    b = make(latched=True, use_system_default_qos=system_default)
    b.send(INFOS)
    b.wait(lambda: b.values().get("reason") == "idle")
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(IMAGES), SCENE.depth) > 0.97
    assert durability(b, "left/camera_info") == [DurabilityPolicy.TRANSIENT_LOCAL]
    # Another publisher does not latch: its messages must not be missed.
    other = b.node.create_publisher(CameraInfo, "left/camera_info", 5)
    b.wait(lambda: durability(b, "left/camera_info") == [DurabilityPolicy.VOLATILE])
    assert durability(b, "right/camera_info") == [DurabilityPolicy.TRANSIENT_LOCAL]
    b.node.destroy_publisher(other)
    b.wait(lambda: durability(b, "left/camera_info") == [DurabilityPolicy.TRANSIENT_LOCAL])


def test_an_overridden_durability_of_a_camera_info_goes_first(make: Callable[..., Bench]) -> None:
    b = make(latched=True, **{"qos_overrides./left/camera_info.subscription.durability": "volatile"})
    b.listen("depth/image_rect")
    b.wait(lambda: durability(b, "right/camera_info") == [DurabilityPolicy.TRANSIENT_LOCAL])
    assert durability(b, "left/camera_info") == [DurabilityPolicy.VOLATILE]


def test_diagnostics_tell_rates_latencies_drops_and_model(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/image_rect")
    b.send_until(PAIR, lambda: len(b.seen["depth/image_rect"]) >= 10, period=0.05)
    seen = b.seen["depth/image_rect"]
    b.wait(lambda: b.accounted() and int(b.values()["pairs published"]) == len(seen))
    assert b.level() == 0
    values = b.values()
    assert values["reason"] == "ok"
    assert values["state"] == "active"
    for name in ("inference", "processing", "pipeline"):
        p50, p95, p99 = (float(values[f"{name} {percent} % (ms)"]) for percent in (50, 95, 99))
        assert 0 < p50 <= p95 <= p99
    assert float(values["inference 50 % (ms)"]) <= float(values["processing 50 % (ms)"])
    assert float(values["input rate (Hz)"]) > 0
    assert float(values["left/image_rect rate (Hz)"]) > 0
    model = b.values("model")
    assert (model["model"], model["weights sha256"], model["device"]) == ("sgbm", "none", "cpu")
    assert float(model["process memory (MiB)"]) > 10


def test_diagnostics_come_once_a_second(make: Callable[..., Bench]) -> None:
    b = make()
    b.wait(lambda: len(b.statuses) >= 2)
    node = b.depth_node
    (timer,) = (timer for timer in node.timers if timer.callback == node._publish_diagnostics)
    assert timer.timer_period_ns == 10**9


# ---- while it runs --------------------------------------------------------------------------------------------


def test_a_change_takes_effect_and_a_bad_one_is_refused(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/image_rect")
    assert np.isfinite(b.fresh_depth(PAIR)).any()
    (result,) = b.set(max_depth=2.5)  # the wall is at 3 m
    assert result.successful
    b.send_until(PAIR, lambda: not np.isfinite(messages.depth_to_array(b.seen["depth/image_rect"][-1])).any())
    (result,) = b.set(max_depth=1e6)
    assert not result.successful
    assert "1000000.0" in result.reason
    assert "10000.0" in result.reason  # the limit
    (result,) = b.set(min_depth=5.0)  # above max_depth
    assert not result.successful
    assert "5.0" in result.reason
    assert "2.5" in result.reason
    (result,) = b.set(depth_weights="/nowhere/weights.safetensors", model="flownet_stereo")
    assert not result.successful
    assert "/nowhere/weights.safetensors" in result.reason
    assert b.depth_node.parameters["model"] == "sgbm"
    (result,) = b.set(max_depth=80)
    assert result.successful
    b.send_until(PAIR, lambda: np.isfinite(messages.depth_to_array(b.seen["depth/image_rect"][-1])).any())


REFUSED = (
    ("device", "tpu", "device 'tpu' cannot be used here (there is no device of this name); use auto, cpu or cuda:N"),
    ("device", "cuda:99", "device 'cuda:99' cannot be used here ("),
    ("device", "meta", "device 'meta' cannot be used here ("),
    ("device", "", "device '' cannot be used here ("),
    ("engine", "tensorflow", "parameter engine = 'tensorflow' is unknown: choose one of auto, torch"),
    ("precision", "int4", "parameter precision = 'int4' is unknown: choose one of auto, float32"),
    ("precision", "float61", "parameter precision = 'float61' is unknown: choose one of auto, float32"),
    ("model", "raft", "parameter model = 'raft' is unknown: choose one of flownet_stereo"),
    ("model", "flownet_s", "no weights of 'flownet_s' come with the package"),
    ("flow_model", "raft", "parameter flow_model = 'raft' is unknown: choose one of flownet_lite, dis"),
    ("mono_model", "depthnet_r50", "no weights of 'depthnet_r50' come with the package"),
    ("depth_weights", "/nowhere/w.safetensors", "parameter depth_weights = '/nowhere/w.safetensors': there is no"),
    ("flow_weights", "/nowhere/w.safetensors", "parameter flow_weights = '/nowhere/w.safetensors': there is no"),
    ("mono_weights", "/nowhere/w.safetensors", "parameter mono_weights = '/nowhere/w.safetensors': there is no"),
    ("max_disparity", -64, "max_disparity"),
    ("correlation_window_size", 8, "correlation_window_size must be odd, got 8: choose 7 or 9"),
    ("correlation_window_size", -5, "parameter correlation_window_size = -5 px is out of range"),
    ("inference_scale", -1.0, "parameter inference_scale = -1.0 is out of range"),
    ("cloud_decimation", 0, "cloud_decimation"),
    ("depth_encoding", "64FC1", "parameter depth_encoding = '64FC1' is unknown: choose one of 32FC1, 16UC1"),
    ("min_depth", 500.0, "need 0 < min_depth < max_depth, got 500.0 and 80.0 m"),
    ("autostart", False, "read-only"),
)  # fmt: skip
"""Parameter, a value that cannot be used, and the reason."""


@pytest.mark.parametrize("model", ["sgbm", "flownet_stereo"])
def test_ros2_param_set_says_at_once_why_a_value_cannot_be_used(make: Callable[..., Bench], model: str) -> None:
    b = make(model=model)
    b.listen("depth/image_rect")
    assert np.isfinite(b.fresh_depth(PAIR)).any()
    change = b.node.create_client(SetParameters, "/stereo_depth_node/set_parameters")
    assert change.wait_for_service(LIMIT)
    before = b.depth_node.parameters.values()
    request = SetParameters.Request()
    request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value, _ in REFUSED]
    for (name, value, reason), result in zip(REFUSED, response_to(change, request).results, strict=True):
        assert (name, value, result.successful) == (name, value, False)
        assert reason in result.reason
    assert b.depth_node.parameters.values() == before
    assert not b.has("swap failed", name="model")


def test_an_engine_that_does_not_run_on_the_device_is_refused_at_once(make: Callable[..., Bench]) -> None:
    b = make(device="cpu", engine="torch")
    (result,) = b.set(engine="onnxruntime", precision="float16")
    assert not result.successful
    assert "engine 'onnxruntime' does not compute in float16 on this cpu; choose one of auto, float32" in result.reason
    assert b.depth_node.parameters["engine"] == "torch"
    (result,) = b.set(mono_model="off", flow_model="off", engine="onnxruntime", precision="float16")
    assert result.successful  # nothing that runs has an engine


def test_a_model_without_weights_at_the_start_does_not_keep_the_engine_from_being_set(
    make: Callable[..., Bench],
) -> None:
    b = make(mono_model="depthnet_r50")  # none come with the package; it is not needed yet
    (result,) = b.set(engine="torch")
    assert result.successful
    (result,) = b.set(mono_weights="")  # no change
    assert result.successful


def test_a_model_is_swapped_beside_the_running_one(make: Callable[..., Bench], tmp_path: Path) -> None:
    weights = tmp_path / "new.safetensors"
    weights.write_bytes(b"anything")
    begun, finish = threading.Event(), threading.Event()
    built: list[StereoConfig] = []

    class Slow(StereoDepthEstimator):
        """Stands in for a network: takes a while to load, and answers as sgbm does."""

        def __init__(self, config: StereoConfig) -> None:
            built.append(config)
            if config.weights:
                begun.set()
                assert finish.wait(LIMIT)
            super().__init__(StereoConfig(model="sgbm", max_disparity=64))
            self.config = config

        def warm_up(self, width: int, height: int, doffs: float = 0.0) -> None:
            assert self.config.weights  # the first model is loaded before a camera is known
            assert (width, height) == (320, 240)

    b = make(build=Slow)
    b.listen("depth/image_rect")
    b.fresh_depth(PAIR)
    (result,) = b.set(model="flownet_stereo", depth_weights=str(weights))
    assert result.successful
    b.wait(begun.is_set)
    for _ in range(3):  # the running one goes on
        b.fresh_depth(PAIR)
    finish.set()
    b.send_until(PAIR, lambda: b.values("model").get("weights") == str(weights))
    assert [config.weights for config in built] == ["", str(weights)]


def test_the_old_model_stays_when_the_new_one_cannot_be_had(make: Callable[..., Bench], tmp_path: Path) -> None:
    weights = tmp_path / "corrupt.safetensors"
    weights.write_bytes(b"this is no checkpoint")
    b = make()
    b.listen("depth/image_rect")
    b.fresh_depth(PAIR)
    (result,) = b.set(model="flownet_stereo", depth_weights=str(weights))
    assert result.successful  # the file is there; what is in it turns out later
    b.send_until(PAIR, lambda: b.values("model").get("swap") == "failed")
    assert b.log_has(str(weights))
    assert (b.depth_node.parameters["model"], b.depth_node.parameters["depth_weights"]) == ("sgbm", "")
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.97
    b.wait(lambda: b.level("model") == 1)
    assert (b.values("model")["reason"], b.values("model")["faults"]) == ("swap failed", "swap failed")


def test_weights_are_read_when_they_are_set_and_not_for_a_threshold(make: Callable[..., Bench], tmp_path: Path) -> None:
    files, hashes, link = [tmp_path / name for name in ("1", "2")], [], tmp_path / "current.safetensors"
    for file in files:
        model = create_model("flownet_stereo", features=[8, 8, 8], aggregate=[8, 8, 8], refine=8, max_disparity=64)
        hashes.append(save_checkpoint(file, model, ModelCard("flownet_stereo", model.options)).sha256)
    link.symlink_to(files[0])
    b = make(model="flownet_stereo", depth_weights=str(link))
    runs = lambda: b.depth_node._models.stereo.estimator  # noqa: E731
    b.wait(lambda: runs() is not None)
    link.unlink()
    link.symlink_to(files[1])  # as fg-depth promote does
    (result,) = b.set(max_depth=60.0)
    assert result.successful
    assert (runs().config.max_depth, runs().model_sha256) == (60.0, hashes[0])
    b.set(depth_weights=str(link))
    b.wait(lambda: runs().model_sha256 == hashes[1])
    link.unlink()
    (result,) = b.set(max_depth=30.0)
    assert result.successful
    assert (runs().config.max_depth, runs().model_sha256) == (30.0, hashes[1])
    assert b.depth_node._models.stereo.swap_state == "loaded"
    b.set(depth_weights=str(link))
    b.wait(lambda: b.has("swap failed", str(link), name="model"))
    assert "set back" not in b.status("model").message


def test_what_was_accepted_beside_weights_that_cannot_be_loaded_stays(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    weights = tmp_path / "corrupt.safetensors"
    weights.write_bytes(b"this is no checkpoint")
    begun, go_on = threading.Event(), threading.Event()

    class Slow(StereoDepthEstimator):
        def __init__(self, config: StereoConfig) -> None:
            if config.weights:
                begun.set()
                assert go_on.wait(LIMIT)
            super().__init__(config)

    b = make(build=Slow)
    b.set(max_depth=40.0)
    b.set(model="flownet_stereo", depth_weights=str(weights), min_depth=0.5)
    assert begun.wait(LIMIT)
    (result,) = b.set(max_sigma=3.0)
    assert result.successful
    go_on.set()
    text = "the model was not swapped, sgbm still runs (set back: model, depth_weights): "
    b.wait(lambda: b.has("swap failed", text, str(weights), name="model"))
    wanted = {"model": "sgbm", "min_depth": 0.5, "max_depth": 40.0, "max_sigma": 3.0}
    config = b.depth_node._models.stereo.estimator.config
    assert {name: b.depth_node.parameters[name] for name in wanted} == wanted
    assert {name: getattr(config, name) for name in wanted} == wanted
    assert b.depth_node.parameters["depth_weights"] == ""


@pytest.mark.parametrize("again", [{"depth_weights": ""}, {"max_sigma": 7.5}])
def test_a_failed_swap_is_over_when_a_parameter_of_the_model_is_set(
    make: Callable[..., Bench], tmp_path: Path, again: dict[str, Any]
) -> None:
    weights = tmp_path / "corrupt.safetensors"
    weights.write_bytes(b"this is no checkpoint")
    b = make()
    b.set(model="flownet_stereo", depth_weights=str(weights))
    b.wait(lambda: b.has("swap failed", name="model"))
    b.set(**again)  # the value that it has
    b.wait(lambda: b.level("model") == 0 and b.values("model")["swap"] == "loaded")


def test_an_option_of_block_matching_that_cannot_be_used_is_set_back_too(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fg_depth_ros.nodes.stereo_depth.node._SWAP_FAULT_SECONDS", 0.0)

    class SmallWindows(StereoDepthEstimator):
        def __init__(self, config: StereoConfig) -> None:
            if config.block_matching.correlation_window_size == 245:
                raise ValueError("the window is too large")
            super().__init__(config)

    b = make(build=SmallWindows, speckle_size=50)
    (result,) = b.set(correlation_window_size=245)
    assert result.successful  # for another camera, maybe
    b.wait(lambda: b.has("swap failed", "the window is too large", name="model"))
    parameters = b.depth_node.parameters
    assert (parameters["correlation_window_size"], parameters["speckle_size"]) == ("auto", 50)
    before = len(b.statuses)
    b.wait(lambda: len(b.statuses) >= before + 3)
    assert (b.values("model")["swap"], b.values("model")["reason"]) == ("failed", "swap failed")
    (result,) = b.set(max_depth=20.0)
    assert result.successful
    b.wait(lambda: b.values("model")["swap"] == "loaded" and b.level("model") == 0)
    assert parameters["max_depth"] == b.depth_node._models.stereo.estimator.config.max_depth == 20.0


def test_out_of_memory_goes_on_with_smaller_images(make: Callable[..., Bench]) -> None:
    class Small(StereoDepthEstimator):
        """A device with room for half the size."""

        def estimate(self, *args: Any) -> Any:
            if self.config.inference_scale > 0.6:
                raise OutOfMemory("2 GiB wanted, 1 GiB free")
            return super().estimate(*args)

    b = make(build=Small)
    b.listen("depth/image_rect")
    depth = b.fresh_depth(PAIR)
    assert np.nanmedian(depth) == pytest.approx(3.0, rel=0.05)
    assert depth.shape == (240, 320)
    b.wait(lambda: b.level("model") == 2 and b.values("model").get("inference_scale") == "0.562")
    assert "2 GiB wanted" in b.status("model").message
    assert "inference_scale 0.562" in b.status("model").message
    b.wait(lambda: int(b.values().get("dropped: out of memory", 0)) == 2)  # at 1.0 and at 0.75
    assert b.values("model")["inference_scale"] == "0.562"
    (result,) = b.set(inference_scale=0.5)
    assert result.successful
    b.wait(lambda: b.level("model") == 0)


@pytest.mark.parametrize("way_out", ["scale", "device", "cleanup"])
def test_what_follows_out_of_memory_ends_as_the_fault_says(make: Callable[..., Bench], way_out: str) -> None:
    is_free = threading.Event()

    class Small(StereoDepthEstimator):
        """A GPU with room for half the size, until other programs free theirs."""

        def estimate(self, *args: Any) -> Any:
            if self.config.inference_scale > 0.6 and self.config.device == "auto" and not is_free.is_set():
                raise OutOfMemory("2 GiB wanted, 1 GiB free")
            return super().estimate(*args)

    b = make(build=Small)
    b.listen("depth/image_rect")
    b.fresh_depth(PAIR)
    b.wait(lambda: b.level("model") == 2 and b.values("model").get("inference_scale") == "0.562")
    b.set(max_depth=70.0)  # the same model on the same device
    b.wait(lambda: b.depth_node._models.stereo.estimator.config.max_depth == 70.0)
    assert b.depth_node._models.stereo.estimator.config.inference_scale == 0.562
    assert b.depth_node.faults["memory"] is not None
    if way_out == "scale":
        is_free.set()
        b.set(inference_scale=1.0)  # as it reads
    elif way_out == "device":
        b.set(device="cpu")
    else:
        is_free.set()
        for name in ("deactivate", "cleanup", "configure", "activate"):
            transition(b, name)
    b.send_until(PAIR, lambda: b.level("model") == 0 and b.values("model")["inference_scale"] == "1")
    assert b.depth_node.parameters["inference_scale"] == 1.0


@pytest.mark.parametrize(("value", "scale", "nearest"), [(1.5, "1.5", 0.857), ("auto", "0.262", 0.15)])
def test_the_scale_in_use_and_the_nearest_depth_are_in_the_status(
    make: Callable[..., Bench], value: float | str, scale: str, nearest: float
) -> None:
    # Z = 36 px m / d, with 64 px searched at the matched size: 63 / 1.5 px, or down to min_depth = 0.15 m, 240 px.
    b = make(inference_scale=value, min_depth=0.15)
    b.listen("depth/image_rect")
    depth = b.fresh_depth(PAIR)
    assert np.nanmedian(depth) == pytest.approx(3.0, rel=0.05)
    b.wait(lambda: "nearest depth (m)" in b.values("model"))
    assert b.values("model")["inference_scale"] == scale
    assert float(b.values("model")["nearest depth (m)"]) == pytest.approx(nearest, rel=0.02)


def test_what_is_published_during_a_swap_is_of_the_running_model(make: Callable[..., Bench]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(StereoDepthEstimator):
        def __init__(self, config: StereoConfig) -> None:
            if config.model != "sgbm":
                begun.set()
                assert go_on.wait(LIMIT)
                raise ModelError("not wanted any more")
            super().__init__(config)

    b = make(build=Slow)
    b.listen("disparity", "depth/image_rect", "depth/sigma")
    b.fresh_depth(PAIR)
    b.set(model="flownet_stereo")
    assert begun.wait(LIMIT)
    b.seen["disparity"].clear()
    b.logged.clear()
    b.send_until(PAIR, lambda: b.seen["disparity"] and b.log_has("model sgbm gives no uncertainty"))
    assert b.seen["disparity"][-1].delta_d == 1 / 16
    go_on.set()
    b.wait(lambda: b.depth_node.parameters["model"] == "sgbm")


def test_what_the_time_budget_does_is_said(make: Callable[..., Bench]) -> None:
    b = make(inference_scale="auto", min_depth=0.5, time_budget=1e-6)  # for which no scale is fast enough
    b.listen("depth/image_rect")
    b.send_until(PAIR, lambda: b.values("model").get("reason") == FaultCode.OVER_TIME_BUDGET)
    assert b.log_has("inference_scale auto is 0.25 from now on: time_budget is 1e-06 s, and pairs took")
    assert b.values("model")["inference_scale"] == "0.25"
    (result,) = b.set(time_budget=0.0)
    assert result.successful
    b.send_until(PAIR, lambda: b.level("model") == 0 and b.values("model")["inference_scale"] != "0.25")


@pytest.mark.parametrize("end", ["set", "cleanup"])
def test_the_time_budget_is_no_fault_any_more_when_it_ends_without_a_pair(make: Callable[..., Bench], end: str) -> None:
    b = make(inference_scale="auto", min_depth=0.5, time_budget=1e-6)
    b.listen("depth/image_rect")
    b.send_until(PAIR, lambda: b.values("model").get("reason") == FaultCode.OVER_TIME_BUDGET)
    b.unlisten("depth/image_rect")
    b.wait(lambda: b.values().get("reason") == "idle")
    if end == "set":
        b.set(time_budget=0.0)
    else:
        for name in ("deactivate", "cleanup"):
            transition(b, name)
    b.wait(lambda: b.level("model") == 0)


# ---- lifecycle ------------------------------------------------------------------------------------------------


def transition(b: Bench, name: str) -> None:
    """Let the node go through a transition."""
    done: list[Any] = []
    b.depth_node._post(lambda: done.append(getattr(b.depth_node, f"trigger_{name}")()))
    b.wait(lambda: done)
    assert "SUCCESS" in str(done[0])


def test_lifecycle_without_autostart(make: Callable[..., Bench]) -> None:
    b = make(autostart=False)
    b.wait(lambda: b.values().get("state") == "unconfigured")

    for _ in range(2):
        transition(b, "configure")
        transition(b, "activate")
        b.listen("depth/image_rect")
        assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.97
        transition(b, "deactivate")
        assert not b.heard() or b.wait(lambda: not b.heard())
        b.seen["depth/image_rect"].clear()
        transition(b, "activate")
        b.fresh_depth(PAIR)
        transition(b, "deactivate")
        transition(b, "cleanup")
        b.unlisten("depth/image_rect")
    transition(b, "shutdown")


def test_a_deactivated_node_has_no_faults_of_its_last_pair(make: Callable[..., Bench]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Blocking(StereoDepthEstimator):
        def estimate(self, *args: Any) -> Any:
            begun.set()
            assert go_on.wait(LIMIT)
            raise RuntimeError("a defect")

    b = make(build=Blocking)
    b.listen("depth/image_rect")
    b.send_until(PAIR, begun.is_set)
    asked = threading.Event()

    def deactivate() -> None:
        asked.set()
        b.depth_node.trigger_deactivate()

    b.depth_node._post(deactivate)
    b.wait(asked.is_set)
    go_on.set()
    b.wait(lambda: b.values().get("state") == "inactive")
    assert b.values()["dropped: internal error"] == "1"
    assert b.values()["faults"] == ""


@pytest.mark.parametrize(("way", "state"), [("cleanup", "unconfigured"), ("shutdown", "finalized")])
def test_a_node_that_was_stopped_stays_so_when_a_parameter_is_set(
    make: Callable[..., Bench], way: str, state: str
) -> None:
    b = make()
    b.wait(lambda: b.values().get("state") == "active")
    if way == "cleanup":
        transition(b, "deactivate")
    transition(b, way)
    b.wait(lambda: b.values()["state"] == state)
    (result,) = b.set(max_depth=20.0)
    assert result.successful
    seen, settled = len(b.statuses), []
    b.depth_node._post(lambda: settled.append(True))  # behind whatever the change has posted
    b.wait(lambda: settled and len(b.statuses) >= seen + 2)
    assert b.values()["state"] == state
    assert "model" not in b.values("model")


def test_frames_are_listened_to_no_longer_than_the_node_is_configured(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fg_depth_ros.nodes.common.frames.message_class", lambda name: Image)  # of any type
    b = make(autostart=False, cloud_frame="base_link")
    node, found = b.depth_node, []

    def cycle() -> None:
        node.trigger_configure()
        here = len(list(node.subscriptions))
        node.trigger_cleanup()
        found.append((here, len(list(node.subscriptions))))

    node._post(lambda: [cycle() for _ in range(2)])
    b.wait(lambda: len(found) == 2)
    assert found[0] == found[1]
    assert found[0][0] >= found[0][1] + 2


def test_a_file_that_is_no_checkpoint_fails_configure_and_can_be_replaced(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    weights = tmp_path / "corrupt.safetensors"
    weights.write_bytes(b"\0" * 100)
    b = make(model="flownet_stereo", depth_weights=str(weights))
    b.wait(lambda: b.level() == 2)
    assert b.status().message.startswith("not configured: ")
    assert str(weights) in b.status().message
    assert b.values()["state"] == "unconfigured"
    b.depth_node._post(b.depth_node.trigger_configure)  # by the user, in vain as well
    (result,) = b.set(model="sgbm")  # autostart tries again
    assert result.successful
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.97
    assert "active with sgbm on cpu (sha256 -)" in "".join(map(str, b.logged))
    b.wait(lambda: b.level() == 0)


def test_missing_weights_fail_configure_and_are_named(make: Callable[..., Bench]) -> None:
    b = make(model="flownet_stereo", depth_weights="/nowhere/w.safetensors")
    b.wait(lambda: b.level() == 2)
    assert "/nowhere/w.safetensors" in b.status().message
    assert "there is no such file" in b.status().message


def test_weights_of_another_architecture_fail_configure(make: Callable[..., Bench], tmp_path: Path) -> None:
    weights = tmp_path / "other.safetensors"
    save_checkpoint(weights, torch.nn.Linear(3, 2), ModelCard("flownet_stereo"))
    b = make(model="flownet_stereo", depth_weights=str(weights))
    b.wait(lambda: b.level() == 2)
    assert b.status().message.startswith("not configured: ")
    assert str(weights) in b.status().message
    assert b.values()["state"] == "unconfigured"


def test_a_start_value_out_of_range_fails_configure_until_it_is_replaced(make: Callable[..., Bench]) -> None:
    b = make(max_depth=-3.0)
    b.wait(lambda: b.level() == 2)
    assert "parameter max_depth = -3.0 m is out of range: choose 0.02 to 10000 m" in b.status().message
    (result,) = b.set(max_depth=20.0)
    assert result.successful
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.97


def test_a_wrong_quality_of_service_of_an_input_is_named_and_leaves_the_node_up(make: Callable[..., Bench]) -> None:
    b = make(**{"qos_overrides./right/camera_info.subscription.reliability": "best-effort"})
    node, subscriptions = b.depth_node, []

    def count() -> int:
        before = len(subscriptions)
        node._post(lambda: subscriptions.append(len(list(node.subscriptions))))
        return b.wait(lambda: subscriptions[before:])[0]

    before = count()
    b.listen("depth/image_rect")
    named = "qos_overrides./right/camera_info.subscription", "`best-effort`"
    b.wait(lambda: b.has(FaultCode.NOT_CONFIGURED, *named) and b.level() == b.level("model") == 2)
    seen = len(b.statuses)
    b.wait(lambda: len(b.statuses) >= seen + 2)
    assert count() == before
    assert b.has(FaultCode.NOT_CONFIGURED, *named)


def test_inputs_that_could_not_be_subscribed_are_tried_again(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = make()
    create = b.depth_node.create_subscription

    def create_subscription(kind: type, topic: str, *args: Any, **kwargs: Any) -> Any:
        if topic == "/left/camera_info":
            raise RuntimeError("out of handles")
        return create(kind, topic, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(b.depth_node, "create_subscription", create_subscription)
        b.listen("depth/image_rect")
        b.wait(lambda: b.has(FaultCode.NOT_CONFIGURED, "/left/camera_info", "out of handles"))
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.97
    b.wait(lambda: b.level() == b.level("model") == 0)


def test_a_wrong_quality_of_service_of_an_output_fails_configure_and_is_named(make: Callable[..., Bench]) -> None:
    b = make(**{"qos_overrides./points2.publisher.durability": "latched"})
    node, publishers = b.depth_node, []

    def configure() -> None:
        node.trigger_configure()
        publishers.append(len(list(node.publishers)))

    b.wait(lambda: b.has(FaultCode.NOT_CONFIGURED, "qos_overrides./points2.publisher", "`latched`"))
    assert b.level() == 2
    assert b.values()["state"] == "unconfigured"
    assert "model" not in b.values("model")  # nothing stays loaded
    for _ in range(2):
        node._post(configure)
    b.wait(lambda: len(publishers) == 2)
    assert publishers[0] == publishers[1]
    b.wait(lambda: b.has(FaultCode.NOT_CONFIGURED) and b.values()["state"] == "unconfigured")
