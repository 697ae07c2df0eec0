"""viewer_node shows what a depth node publishes, and says what does not come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from stereo_msgs.msg import DisparityImage
from support.nodes import camera_info, compressed_image, compressed_video, wall
from support.viewing import image_of, read_view
from support.waiting import wait_until

from fg_depth_ros.data.io import messages
from fg_depth_ros.geometry import Label, organised_points
from fg_depth_ros.inference import SearchRange
from fg_depth_ros.nodes.stereo_depth.outputs import cloud_message, disparity_message
from fg_depth_ros.nodes.viewer import node as viewer_node

STAMP = 1_700_000_000_500_000_000
KINDS: dict[str, type] = {
    "left/image_rect": Image,
    "left/image_rect/compressed": CompressedImage,
    "depth/image_rect": Image,
    "depth/sigma": Image,
    "mask/labels": Image,
    "disparity": DisparityImage,
    "points2": PointCloud2,
    "depth/camera_info": CameraInfo,
    "/diagnostics": DiagnosticArray,
}


class Live:
    """A viewer_node in namespace /front that writes a file, beside somebody who publishes."""

    def __init__(self, path: Path, left: str = "left/image_rect") -> None:
        from fg_depth_ros.evaluation.reports.live_view import LiveView

        self.path, self.said = path, list[str]()
        self.view = LiveView("live", {"node": viewer_node.OUTPUTS}, "time", has_messages=True)
        self.view.save(path)
        self.node = viewer_node.ViewerNode(self.view, "/front", left, lambda text, style: self.said.append(text))
        self.source = Node("source", namespace="/front")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.publishers: dict[str, Any] = {}

    def publish(self, outputs: dict[str, Any]) -> None:
        for topic in outputs:
            if topic not in self.publishers:
                self.publishers[topic] = self.source.create_publisher(KINDS[topic], topic, QoSProfile(depth=2))
        wait_until(lambda: all(each.get_subscription_count() for each in self.publishers.values()), step=self.spin)
        for topic, message in outputs.items():
            self.publishers[topic].publish(message)

    def spin(self) -> None:
        self.executor.spin_once(timeout_sec=0.05)

    def logged(self) -> dict[str, Any]:
        self.view.close()
        return read_view(self.path)


@pytest.fixture
def live(tmp_path: Path, ros_domain: int, request: pytest.FixtureRequest) -> Iterator[Live]:
    module = pytest.importorskip("rerun", reason="rerun, the extra 'viewer', is not installed")
    module.set_strict_mode(True)
    rclpy.init(domain_id=ros_domain)
    found = Live(tmp_path / "live.rrd", getattr(request, "param", "left/image_rect"))
    try:
        yield found
    finally:
        found.executor.shutdown()
        found.node.destroy_node()
        found.source.destroy_node()
        rclpy.try_shutdown()


def header() -> Header:
    found = Header(frame_id="left_eye")
    found.stamp.sec, found.stamp.nanosec = divmod(STAMP, 10**9)
    return found


def test_what_is_published_is_shown_with_its_values(live: Live) -> None:
    scene = wall(12)
    rig = scene.rig
    depth = np.full((rig.height, rig.width), 3.0, np.float32)
    depth[:, :12] = np.nan
    labels = np.where(np.isnan(depth), Label.LEAVES_IMAGE, Label.VALID).astype(np.uint8)
    disparity = np.where(np.isnan(depth), np.nan, 12.0).astype(np.float32)
    info = camera_info(rig, right=False)
    info.header = header()
    live.publish(
        {
            "left/image_rect": messages.fill_image(Image(), scene.left, "rgb8", header()),
            "depth/image_rect": messages.fill_depth(Image(), depth, "32FC1", header()),
            "depth/sigma": messages.fill_depth(Image(), depth / 100, "32FC1", header()),
            "mask/labels": messages.fill_image(Image(), labels, "8UC1", header()),
            "disparity": disparity_message(disparity, rig, header(), SearchRange(0, 63, 0), increment=0.1),
            "points2": cloud_message(organised_points(depth, rig, 4), scene.left[::4, ::4], header()),
            "depth/camera_info": info,
        }
    )
    wait_until(lambda: len(live.node._arrived) == 7, step=live.spin, describe=lambda: live.node._arrived)
    logged = live.logged()
    (found,) = logged["/node/depth"]
    assert found.at["time"] == STAMP
    np.testing.assert_array_equal(image_of(found, np.float32), depth)
    np.testing.assert_array_equal(image_of(logged["/node/disparity"][0], np.float32), disparity)
    np.testing.assert_allclose(image_of(logged["/node/sigma"][0], np.float32), depth / 100)
    np.testing.assert_array_equal(image_of(logged["/node/mask"][-1], np.uint8), labels)
    assert logged["/node/share/leaves_image"][-1].values["scalars"] == [pytest.approx(100 * 12 / 320)]
    cloud = next(row.values["positions"] for row in logged["/world/node/cloud"] if "positions" in row.values)
    assert len(cloud) == 60 * (80 - 3), "every fourth pixel of every fourth row, without the 12 columns"
    assert {point[2] for point in cloud} == {3.0}
    assert logged["/left"][0].values["media_type"] == ["image/jpeg"]
    assert logged["/world/camera"][0].values["parent_frame"] == ["left_eye"]
    assert "/latency/from the stamp to this window" not in logged, "the stamp is of another clock"


@pytest.mark.parametrize("live", ["left/image_rect/compressed"], indirect=True)
def test_the_left_image_may_be_compressed_or_video(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="video is decoded by PyAV (extra 'video')")
    from support.video import Encoder

    topic, scene, shown = "left/image_rect/compressed", wall(), []
    monkeypatch.setattr(live.view, "log_left", shown.append)

    def publish_until(message: CompressedImage, done: Callable[[], bool]) -> None:
        def step() -> None:
            live.publish({topic: message})
            live.spin()

        wait_until(done, step=step)

    png = compressed_image(scene.left, header(), kind="png")
    publish_until(png, lambda: len(shown) > 0)
    np.testing.assert_array_equal(shown[-1], scene.left)
    packet = Encoder(320, 240).add(scene.left)[0].data
    publish_until(compressed_video(packet, header()), lambda: not np.array_equal(shown[-1], scene.left))
    grey, sent = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(int) for image in (shown[-1], scene.left))
    assert np.abs(grey - sent).mean() < 6.0
    monkeypatch.setattr(viewer_node, "SILENT_SECONDS", 0.0)
    broken = compressed_video(packet[: len(packet) // 2], header())
    said = f"not shown: {topic}: the video is damaged, and no key frame has come since"
    publish_until(broken, lambda: any(text.startswith(said) for text in live.said))


def test_rates_latencies_and_messages_come_from_the_diagnostics_of_the_namespace(live: Live) -> None:
    def status(name: str, rate: str) -> DiagnosticStatus:
        figures = {
            "output rate (Hz)": rate,
            "pipeline 50 % (ms)": "41.5",
            "pipeline 99 % (ms)": "80",
            "state": "active",
        }
        values = [KeyValue(key=key, value=value) for key, value in figures.items()]
        return DiagnosticStatus(name=name, level=DiagnosticStatus.WARN, message="images dark", values=values)

    array = DiagnosticArray(header=header())
    array.status = [status("rear/stereo_depth_node: pairs", "3.00"), status("front/stereo_depth_node: pairs", "9.50")]
    array.status.insert(0, status("front/camera: stream", "n/a"))  # of another package
    live.publish({"/diagnostics": array})
    wait_until(lambda: live.node._messages, step=live.spin)
    logged = live.logged()
    assert [row.values["scalars"] for row in logged[r"/rates/output\ rate"][1:]] == [[9.5]]
    assert [row.values["scalars"] for row in logged[r"/latency/pipeline\ 50\ \%"][1:]] == [[pytest.approx(41.5)]] * 2
    assert r"/latency/pipeline\ 99\ \%" not in logged
    assert [row.values for row in logged["/messages"]] == [
        {"text": [f"front/{name}: images dark"], "level": ["WARN"]}
        for name in ("camera: stream", "stereo_depth_node: pairs")
    ]


def test_the_cloud_is_seen_from_the_root_of_the_frames(live: Live) -> None:
    def transform(parent: str, child: str) -> SimpleNamespace:
        found = header()
        found.frame_id = parent
        place = SimpleNamespace(
            translation=SimpleNamespace(x=0.5, y=0.0, z=0.0), rotation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
        )
        return SimpleNamespace(header=found, child_frame_id=child, transform=place)

    live.node._place_camera("left_eye")
    live.node.show_frames(SimpleNamespace(transforms=[transform("head", "left_eye")]), True)
    live.node.show_frames(SimpleNamespace(transforms=[transform("base_link", "head"), transform("x", "y")]), False)
    logged = live.logged()
    roots = [row.values["frame"] for row in logged["/world"] if "frame" in row.values]
    assert roots == [["left_eye"], ["head"], ["base_link"]]
    assert logged["/tf/head"][0].at["time"] == STAMP
    assert logged["/tf/left_eye"][0].at == {}, "static"
    assert logged["/tf/head"][0].values["translation"] == [[0.5, 0.0, 0.0]]


def test_topics_that_nobody_publishes_and_bad_messages_are_named(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_node, "SILENT_SECONDS", 0.0)
    bad = messages.fill_image(Image(), np.zeros((4, 4), np.uint8), "mono8", header())
    live.publish({"depth/image_rect": bad})
    quiet = live.source.create_publisher(DisparityImage, "disparity", 2)
    wait_until(lambda: any("no depth image" in text for text in live.said), step=live.spin)
    wait_until(lambda: any("/front/disparity" in text for text in live.said[-1:]), step=live.spin)
    assert quiet.get_subscription_count() == 1
    nobody = [text for text in live.said if text.startswith("nobody publishes")][-1]
    for topic in ("left/image_rect", "depth/sigma", "mask/labels", "points2", "depth/camera_info"):
        assert f"/front/{topic}" in nobody
    assert "give --namespace, --left or ROS_DOMAIN_ID" in nobody
    assert live.said[-1] == "nothing came yet from /front/disparity"
    assert "not shown: depth/image_rect: encoding 'mono8' is no depth image" in "\n".join(live.said)
    assert any(text.startswith("frames are not shown: /tf") for text in live.said) or _has_tf2()


def _has_tf2() -> bool:
    from fg_depth_ros.nodes.common.message_classes import message_class

    try:
        message_class("tf2_msgs/msg/TFMessage")
    except ValueError:
        return False
    return True
