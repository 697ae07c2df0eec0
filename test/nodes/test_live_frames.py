"""Frames of /tf and /tf_static as a robot publishes them, to the nodes that use them; where tf2_msgs is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs comes with a ROS installation; there are no wheels of it")

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header
from support.nodes import Bench, pair_messages, wall
from support.waiting import wait_until

from fg_depth_ros.data.io import messages
from fg_depth_ros.geometry import organised_points
from fg_depth_ros.nodes.common.message_classes import message_class
from fg_depth_ros.nodes.viewer.node import ViewerNode

TFMessage = message_class("tf2_msgs/msg/TFMessage")
Quaternion, Transform, TransformStamped, Vector3 = (
    message_class(f"geometry_msgs/msg/{name}") for name in ("Quaternion", "Transform", "TransformStamped", "Vector3")
)

SCENE = wall()
PAIR = pair_messages(SCENE)
OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # x, y, z, w: the camera looks along x of its mount
STRAIGHT = (0.0, 0.0, 0.0, 1.0)
LEFTWARD = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))  # turned by 90 degrees to the left
# Of points (right, down, forward) of a camera that looks along x, or along y, in a frame with x forward, y left, z up.
AHEAD = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)
TO_THE_LEFT = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)


def frame(parent: str, child: str, shift: Sequence[float], turn: Sequence[float], stamp: int = 0) -> Any:
    header = Header(frame_id=parent)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
    x, y, z, w = map(float, turn)
    place = Transform(
        translation=Vector3(**dict(zip("xyz", shift, strict=True))), rotation=Quaternion(x=x, y=y, z=z, w=w)
    )
    return TransformStamped(header=header, child_frame_id=child, transform=place)


class Robot:
    """Publishes frames: base_link -> mast once, before the node is there; mast -> left_eye as long as it moves."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("robot", context=self.context)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.static = self.node.create_publisher(TFMessage, "/tf_static", latched)
        self.moving = self.node.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))
        self.static.publish(TFMessage(transforms=[frame("base_link", "mast", (0.5, 0.0, 1.0), STRAIGHT)]))

    def close(self) -> None:
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def move(self, shift: Sequence[float], turn: Sequence[float]) -> None:
        """Publish the place of the camera at the mast, now, beside another frame's."""
        now = self.node.get_clock().now().nanoseconds
        other = frame("base_link", "wheel", (0.0, 0.3, 0.1), STRAIGHT, now)
        mount, eye = frame("mast", "mount", shift, turn, now), frame("mount", "left_eye", (0.0, 0.0, 0.0), OPTICAL, now)
        self.moving.publish(TFMessage(transforms=[other, mount]))
        self.moving.publish(TFMessage(transforms=[eye]))


@pytest.fixture
def robot(ros_domain: int) -> Iterator[Robot]:
    made = Robot(ros_domain)
    yield made
    made.close()


def cut(b: Bench, low: Sequence[float], high: Sequence[float], turn: np.ndarray, shift: Sequence[float]) -> Any:
    """The newest cloud, if it has the points of its own depth image that lie in the box, in the camera's frame."""
    if not b.seen["points2"]:
        return None
    cloud = b.seen["points2"][-1]
    stamp = messages.stamp_ns(cloud.header)
    depth = next((m for m in list(b.seen["depth/image_rect"]) if messages.stamp_ns(m.header) == stamp), None)
    if depth is None:
        return None
    points = organised_points(messages.depth_to_array(depth), SCENE.rig, 2)
    points = points[np.isfinite(points[..., 2])]
    placed = points @ turn.T + np.array(shift)
    expected = points[((placed >= low) & (placed <= high)).all(axis=1)]
    found, _ = messages.cloud_to_arrays(cloud)
    same = found.shape == (1, *expected.shape) and np.allclose(found[0], expected, atol=1e-5)
    return cloud if same and 0 < len(expected) < len(points) else None


def test_the_view_has_the_robots_frames(robot: Robot) -> None:
    logged: dict[tuple[str, str], list[Any]] = {}
    roots: list[str] = []

    class View:
        def at(self, **when: int) -> None:
            pass

        def log_frame(self, parent: str, child: str, shift: Any, turn: Any, *, static: bool) -> None:
            logged.setdefault((parent, child), []).append((static, shift, turn))

        def set_root(self, root: str, is_optical: bool) -> None:
            roots.append(root)

    said: list[str] = []
    rclpy.init()  # the viewer is a process of its own
    viewer = ViewerNode(View(), "", "left/image_rect", lambda text, style: said.append(text))
    executor = SingleThreadedExecutor()
    executor.add_node(viewer)
    viewer._place_camera("left_eye")
    links = {("base_link", "mast"), ("base_link", "wheel"), ("mast", "mount"), ("mount", "left_eye")}

    def step() -> None:
        robot.move((0.1, 0.0, 0.2), LEFTWARD)
        executor.spin_once(timeout_sec=0.05)

    wait_until(lambda: logged.keys() >= links, step=step, describe=lambda: (logged.keys(), said))
    assert logged["base_link", "mast"][0] == (True, (0.5, 0.0, 1.0), STRAIGHT)
    assert logged["mast", "mount"][0][:2] == (False, (0.1, 0.0, 0.2))
    assert logged["mast", "mount"][0][2] == pytest.approx(LEFTWARD)
    assert roots[-1] == "base_link" and not said
    executor.shutdown()
    viewer.destroy_node()
    rclpy.try_shutdown()


def test_the_box_of_the_cloud_follows_the_robots_frames(make: Callable[..., Bench], robot: Robot) -> None:
    low, high = (-10.0, -10.0, 1.1), (10.0, 0.2, 10.0)
    box = {"cloud_min_z": low[2], "cloud_max_y": high[1]}
    b = make(cloud_frame="base_link", **box)
    b.listen("points2", "depth/image_rect")
    # Only base_link -> mast is known: no box, and no cloud.
    b.send_until(PAIR, lambda: b.has("no transform", "no transform leads there from 'left_eye' on /tf and /tf_static"))
    assert b.seen["depth/image_rect"] and not b.seen["points2"]

    def place(shift: Sequence[float], turn: Sequence[float], matrix: np.ndarray, expected: Sequence[float]) -> Any:
        def sent() -> Any:
            robot.move(shift, turn)
            return cut(b, low, high, matrix, expected)

        return b.send_until(PAIR, sent)

    cloud = place((0.1, 0.0, 0.2), STRAIGHT, AHEAD, (0.6, 0.0, 1.2))
    assert cloud.header.frame_id == "left_eye"
    place((0.1, 0.0, -0.3), STRAIGHT, AHEAD, (0.6, 0.0, 0.7))
    place((0.0, -3.5, 0.0), LEFTWARD, TO_THE_LEFT, (0.5, -3.5, 1.0))
    b.send_until(PAIR, lambda: robot.move((0.0, -3.5, 0.0), LEFTWARD) or b.values().get("reason") == "ok")
    # The robot's /tf ends: a second later the camera's place is not known any more.
    b.send_until(PAIR, lambda: b.has("no transform", "are more than 1 s away from the pair"))
    count = len(b.seen["points2"])
    last = b.send(PAIR)
    b.wait(lambda: b.answered(last))
    assert len(b.seen["points2"]) == count
