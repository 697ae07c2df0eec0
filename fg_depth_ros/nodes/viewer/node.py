"""``viewer_node``: subscribes to a depth node's topics and shows what arrives. ``fg-depth view`` runs it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from stereo_msgs.msg import DisparityImage

from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.data.io import messages
from fg_depth_ros.data.io.video_packets import IMAGE_TRANSPORTS, split_transport
from fg_depth_ros.evaluation.reports.live_view import CLOUD, DEPTH, DISPARITY, MASK, SIGMA, LiveView
from fg_depth_ros.nodes.common.frames import subscribe_frames
from fg_depth_ros.nodes.common.message_classes import message_class
from fg_depth_ros.nodes.common.qos import input_qos, sensor_data, subscription_events
from fg_depth_ros.nodes.common.running import run_node
from fg_depth_ros.nodes.common.video import PacketSubscriber

OUTPUTS = frozenset({DISPARITY, DEPTH, SIGMA, MASK, CLOUD})
"""What is shown of a node."""
METHOD = "node"
"""Label of the node in the view."""
SILENT_SECONDS = 5.0  # before a topic from which nothing came is worth a word
_PLAUSIBLE = 60.0  # s; a larger latency is that of stamps of another clock
_LATENCIES = {keys.latency(name, percent) for name in keys.LATENCIES for percent in (50, 95)}
_LEVELS = {DiagnosticStatus.OK: "INFO", DiagnosticStatus.WARN: "WARN"}
Say = Callable[[str, str], None]


class ViewerNode(Node):
    """Subscribes to the outputs of a depth node, its left image, its diagnostics and, if any, frames.

    Args:
        view: shows what comes.
        namespace: of the depth node.
        left: topic of the left image; compressed or video where its name ends as image_transport names that.
        say: called with a line for people and its style.
    """

    def __init__(self, view: LiveView, namespace: str, left: str, say: Say) -> None:
        super().__init__("viewer_node", namespace=namespace, enable_rosout=False, start_parameter_services=False)
        self._view, self._say = view, say
        self._arrived: set[str] = set()
        self._bad: set[str] = set()
        self._silent: list[str] = []
        self._messages: dict[str, tuple[Any, str]] = {}  # by status: level and text
        self._parents: dict[str, str] = {}  # of frames
        self._root, self._camera_frame = "", ""
        self._began = time.monotonic()
        self._left: PacketSubscriber | None = None
        self._topics: dict[str, tuple[type, Callable[[Any, str], None]]] = {
            "depth/image_rect": (Image, self._show_depth),
            "disparity": (DisparityImage, self._show_disparity),
            "depth/sigma": (Image, lambda m, topic: view.log_sigma(METHOD, messages.float_array(m, topic))),
            "mask/labels": (Image, lambda m, topic: view.log_labels(METHOD, messages.image_to_array(m, topic))),
            "points2": (PointCloud2, self._show_cloud),
            "depth/camera_info": (CameraInfo, self._show_camera),
        }
        for topic, (kind, show) in self._topics.items():
            callback = functools.partial(self._on_message, topic, show)
            events = subscription_events(self, topic)
            self.create_subscription(kind, topic, callback, sensor_data(), event_callbacks=events)
        self._subscribe_left(left)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._show_diagnostics, QoSProfile(depth=10))
        self._subscribe_frames()
        self.create_timer(1.0, self._look_for_silence, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _subscribe_left(self, topic: str) -> None:
        def show(message: Any, topic: str) -> None:
            self._view.log_left(messages.image_to_array(message, topic))

        transport = split_transport(topic)[1]
        try:
            kind = message_class(IMAGE_TRANSPORTS[transport])
        except ValueError as error:
            self._say(f"{topic} is not shown: {error}", "red")
            return
        self._topics[topic] = kind, show
        self._left = PacketSubscriber(self, kind, topic, input_qos(False, every=transport != "raw"))
        self._left.registerCallback(functools.partial(self._on_message, topic, show))

    def _subscribe_frames(self) -> None:
        try:
            subscribe_frames(self, self.show_frames)
        except ValueError as error:
            self._say(f"frames are not shown: /tf: {error}", "yellow")

    def _on_message(self, topic: str, show: Callable[[Any, str], None], message: Any) -> None:
        self._arrived.add(topic)
        self._view.at(stamp=messages.stamp_ns(message.header))
        try:
            show(message, topic)
        except messages.MessageError as error:
            if str(error) not in self._bad:
                self._bad.add(str(error))
                self._say(f"not shown: {error}", "red")

    def _show_depth(self, message: Image, topic: str) -> None:
        self._view.log_depth(METHOD, messages.depth_to_array(message, topic))
        latency = (self.get_clock().now().nanoseconds - messages.stamp_ns(message.header)) * 1e-9
        if 0.0 <= latency < _PLAUSIBLE:
            self._view.log_latency("from the stamp to this window", latency)

    def _show_disparity(self, message: DisparityImage, topic: str) -> None:
        self._view.log_disparity(METHOD, messages.disparity_to_array(message, topic))

    def _show_cloud(self, message: PointCloud2, topic: str) -> None:
        self._place_camera(message.header.frame_id)
        self._view.log_cloud(METHOD, *messages.cloud_to_arrays(message, topic), frame=message.header.frame_id)

    def _show_camera(self, message: CameraInfo, topic: str) -> None:
        self._place_camera(message.header.frame_id)
        matrix = np.asarray(message.p).reshape(3, 4)[:, :3]
        self._view.log_camera(matrix, message.width, message.height, message.header.frame_id)

    def _show_diagnostics(self, array: DiagnosticArray) -> None:
        own = self.get_namespace().strip("/")
        self._view.at(stamp=messages.stamp_ns(array.header))
        for status in array.status:
            if status.name.partition(": ")[0].rpartition("/")[0] != own:
                continue
            for item in status.values:
                name = item.key.rpartition(" (")[0]  # without the unit
                with contextlib.suppress(ValueError):  # a node of another package may say "n/a"
                    if item.key.endswith(keys.RATE):
                        self._view.log_rate(name, float(item.value))
                    elif item.key in _LATENCIES:
                        self._view.log_latency(name, 1e-3 * float(item.value))
            said = (status.level, status.message)
            if self._messages.get(status.name) != said:
                self._messages[status.name] = said
                self._view.log_message(f"{status.name}: {status.message}", _LEVELS.get(status.level, "ERROR"))

    def show_frames(self, message: Any, static: bool) -> None:
        """Show the transforms of a TFMessage; ``static``: of /tf_static."""
        for each in message.transforms:
            parent, child = each.header.frame_id, each.child_frame_id
            self._parents[child] = parent
            if not static:
                self._view.at(stamp=messages.stamp_ns(each.header))
            shift, turn = each.transform.translation, each.transform.rotation
            self._view.log_frame(
                parent, child, (shift.x, shift.y, shift.z), (turn.x, turn.y, turn.z, turn.w), static=static
            )
        if self._camera_frame:
            self._place_camera(self._camera_frame)

    def _place_camera(self, frame: str) -> None:
        """Show the cloud from the root of the frames that the camera's frame hangs on."""
        self._camera_frame, root, passed = frame, frame, {frame}
        while (parent := self._parents.get(root)) is not None and parent not in passed:  # a loop has no root
            passed.add(parent)
            root = parent
        if root != self._root:
            self._root = root
            self._view.set_root(root, is_optical=root == frame)

    def _look_for_silence(self) -> None:
        if time.monotonic() - self._began < SILENT_SECONDS:
            return
        if self._left is not None and (problem := self._left.stream.problem) and problem not in self._bad:
            self._bad.add(problem)
            self._say(f"not shown: {problem}", "red")
        silent = [topic for topic in self._topics if topic not in self._arrived]
        if silent == self._silent:
            return
        self._silent = silent
        names = {topic: self.resolve_topic_name(topic) for topic in silent}
        nobody = [name for name in names.values() if not self.count_publishers(name)]
        quiet = [name for name in names.values() if name not in nobody]
        if nobody:
            self._say(
                f"nobody publishes {', '.join(nobody)}: start the node (and its camera), or give --namespace, --left "
                "or ROS_DOMAIN_ID as it has them",
                "yellow",
            )
        if quiet:
            self._say(f"nothing came yet from {', '.join(quiet)}", "yellow")


def show_topics(view: LiveView, namespace: str, left: str, say: Say, goes_on: Callable[[], bool]) -> None:
    """Run a viewer_node until KeyboardInterrupt, or until ``goes_on()``, asked several times a second, is false.

    Signals are the caller's.
    """

    def spin(node: ViewerNode, executor: SingleThreadedExecutor) -> None:
        while goes_on():
            executor.spin_once(timeout_sec=0.2)

    def make() -> ViewerNode:
        return ViewerNode(view, namespace, left, say)

    run_node("viewer_node", make, spin, [], handlers=SignalHandlerOptions.NO)
