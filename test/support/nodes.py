"""For the node tests: a scene whose depth is known, and a stereo_depth_node with somebody who talks to it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from stereo_msgs.msg import DisparityImage

from fg_depth_ros.data.io import messages
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.nodes.common.environment import use_shared_memory_profile
from fg_depth_ros.nodes.stereo_depth.node import StereoDepthNode
from support.waiting import wait_until

# Fast DDS reads it when a process makes its first participant; without it large images are lost.
use_shared_memory_profile()

KINDS: dict[str, type] = {
    "depth/image_rect": Image,
    "depth/camera_info": CameraInfo,
    "disparity": DisparityImage,
    "disparity/image_color": Image,
    "depth/sigma": Image,
    "mask/image": Image,
    "mask/labels": Image,
    "flow/image": Image,
    "flow/image_color": Image,
    "points2": PointCloud2,
}
# These need more than a pair and the stereo model.
OTHER_KINDS: dict[str, type] = dict.fromkeys(
    ("temporal_flow/image", "temporal_flow/image_color", "mono_depth/image_rect"), Image
)

# Quick and without weights; 64 disparities keep the blind stripe on the left narrow. A pair that waits on a busy
# machine is no stall and no silent camera, except in the tests about them.
QUICK = {"model": "sgbm", "max_disparity": 64, "flow_model": "dis", "mono_timeout": 30.0, "stall_timeout": 30.0}


@dataclass(frozen=True)
class Scene:
    """A wall with a random texture, parallel to the image: one disparity everywhere, one depth."""

    left: np.ndarray
    right: np.ndarray
    rig: StereoRig
    disparity: float

    @property
    def depth(self) -> float:
        return self.rig.fx * self.rig.baseline / (self.disparity + self.rig.doffs)

    def half(self) -> Scene:
        """The same wall seen by the same cameras with half as many pixels a side."""
        size = (self.rig.width // 2, self.rig.height // 2)
        small = (cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in (self.left, self.right))
        return Scene(*small, self.rig.scaled(*size), self.disparity / 2)


def wall(disparity: int = 12, width: int = 320, height: int = 240, doffs: float = 0.0, seed: int = 0) -> Scene:
    """A wall at `disparity` px; 3.0 m away for the defaults."""
    random = np.random.default_rng(seed)
    wide = width + abs(disparity)
    coarse = random.integers(0, 256, (height // 2, wide // 2 + 1, 3), dtype=np.uint8)
    texture = cv2.resize(coarse, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)[:, :wide]
    centre = (width - 1) / 2
    rig = StereoRig(width, height, 300.0, 300.0, centre, (height - 1) / 2, cx_right=centre + doffs, baseline=0.12)
    first = max(-disparity, 0)
    left, right = texture[:, first : first + width], texture[:, first + disparity : first + disparity + width]
    return Scene(np.ascontiguousarray(left), np.ascontiguousarray(right), rig, float(disparity))


def camera_info(rig: StereoRig, right: bool) -> CameraInfo:
    projection = rig.P_right() if right else rig.P_left()
    info = CameraInfo(width=rig.width, height=rig.height, distortion_model="plumb_bob", d=[0.0] * 5)
    info.header.frame_id = "right_eye" if right else "left_eye"
    info.k = projection[:, :3].reshape(-1).tolist()
    info.r = np.eye(3).reshape(-1).tolist()
    info.p = projection.reshape(-1).tolist()
    return info


def pair_messages(scene: Scene, encoding: str = "rgb8") -> dict[str, Any]:
    """The four messages of a scene, by input name."""

    def image(array: np.ndarray, frame: str) -> Image:
        grey = encoding in ("mono8", "8UC1")
        pixels = cv2.cvtColor(array, cv2.COLOR_RGB2GRAY) if grey else array
        return messages.fill_image(Image(), pixels, encoding, Header(frame_id=frame))

    return {
        "left/camera_info": camera_info(scene.rig, False),
        "right/camera_info": camera_info(scene.rig, True),
        "left/image_rect": image(scene.left, "left_eye"),
        "right/image_rect": image(scene.right, "right_eye"),
    }


def compressed_image(
    array: np.ndarray, header: Header | None = None, *, kind: str = "jpeg", quality: int = 95
) -> CompressedImage:
    """A JPEG or PNG CompressedImage, named as image_transport names it, of a grey or RGB array."""
    grey = array.ndim == 2
    pixels = array if grey else cv2.cvtColor(array, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == "jpeg" else []
    done, data = cv2.imencode(".jpg" if kind == "jpeg" else f".{kind}", pixels, options)
    if not done:
        raise ValueError(f"an array of {array.dtype} {array.shape} cannot be compressed as {kind}")
    names = ("mono8", "") if grey else ("rgb8", " bgr8")
    message = CompressedImage(format=f"{names[0]}; {kind} compressed{names[1]}")
    if header is not None:
        message.header = header
    messages.fill_data(message, data)
    return message


def compressed_video(packet: bytes, header: Header) -> CompressedImage:
    """A packet of H.264 as a CompressedImage."""
    message = CompressedImage(header=header, format="h264")
    messages.fill_data(message, np.frombuffer(packet, np.uint8))
    return message


class RecordingLogger:
    """A node's logger that remembers (unlike /rosout, which misses what is said before it is connected)."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def info(self, text: str, **options: Any) -> None:
        self.lines.append(text)

    debug = warning = error = info


class User:
    """Publishes pairs, listens to outputs, reads diagnostics. Spins in a thread of its own."""

    def __init__(
        self, context: Context, namespace: str = "", compressed: bool = False, topics: Mapping[str, str] | None = None,
        latched: bool = False,
    ) -> None:  # fmt: skip
        """``topics``: input name -> the topic to publish it on, where that is another one.

        ``latched``: keep the last camera_infos for those who subscribe later.
        """
        self.context = context
        self.node = Node("user", context=context, namespace=namespace)
        self.seen: dict[str, list[Any]] = {}
        self.logged: list[str] = []
        self.statuses: list[dict[str, DiagnosticStatus]] = []
        self._compressed = compressed
        suffix, image = ("/compressed", CompressedImage) if compressed else ("", Image)
        inputs = {
            "left/camera_info": (CameraInfo, ""),
            "right/camera_info": (CameraInfo, ""),
            "left/image_rect": (image, suffix),
            "right/image_rect": (image, suffix),
        }
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL) if latched else 5
        self._publishers = {
            name: self.node.create_publisher(
                kind, f"{(topics or {}).get(name, name)}{end}", kept if kind is CameraInfo else 5
            )
            for name, (kind, end) in inputs.items()
        }
        self._subscriptions: dict[str, Any] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 10)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self.executor.spin()

    def close(self) -> None:
        self.executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()

    def _diagnose(self, array: DiagnosticArray) -> None:
        self.statuses.append({status.name.rpartition(": ")[2]: status for status in array.status})

    def listen(self, *topics: str) -> None:
        """Subscribe to outputs; what comes is in `seen[topic]`."""
        for topic in topics:
            seen = self.seen.setdefault(topic, [])
            kind = CompressedImage if "/compressed" in topic else (KINDS | OTHER_KINDS)[topic]
            self._subscriptions[topic] = self.node.create_subscription(kind, topic, seen.append, 50)

    def unlisten(self, topic: str) -> None:
        # In the thread that spins: it may be about to wait for this very subscription.
        self.executor.create_task(self.node.destroy_subscription, self._subscriptions.pop(topic))

    def heard(self) -> bool:
        """Whether the node listens to all inputs."""
        return all(publisher.get_subscription_count() > 0 for publisher in self._publishers.values())

    def publish(self, name: str, message: Any) -> None:
        """Publish one message of an input as it is; bytes are taken for a serialized one."""
        self._publishers[name].publish(message)

    def send(self, pair: dict[str, Any], stamp: float | None = None, **offsets: float) -> int:
        """Publish the messages of a pair with one stamp (default: now), ns; `offsets` (s) by input, `/` as `_`."""
        now = self.node.get_clock().now().nanoseconds if stamp is None else round(stamp * 1e9)
        for name, message in pair.items():
            at = now + round(offsets.get(name.replace("/", "_"), 0.0) * 1e9)
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(at, 10**9)
            if self._compressed and isinstance(message, Image):
                array = messages.image_to_array(message)
                message = compressed_image(array, message.header, kind="png")
            self._publishers[name].publish(message)
        return now

    def send_until(
        self, pair: dict[str, Any], done: Callable[[], Any], *, period: float = 0.1, **offsets: float
    ) -> Any:
        """Publish the pair every ``period`` seconds until ``done()`` is true; returns that."""
        return wait_until(done, period=period, step=lambda: self.send(pair, **offsets), describe=self._last_lines)

    def wait(self, done: Callable[[], Any]) -> Any:
        """Wait until ``done()`` is true; returns that."""
        return wait_until(done, describe=self._last_lines)

    def _last_lines(self) -> str:
        return f"the log says {self.logged[-8:]}"

    def answered(self, stamp: int) -> bool:
        """Whether depth of the pair with this stamp (ns) has come."""
        return any(messages.stamp_ns(message.header) == stamp for message in list(self.seen["depth/image_rect"]))

    def log_has(self, text: str) -> bool:
        return any(text in line for line in list(self.logged))

    def status(self, name: str = "pairs") -> DiagnosticStatus | None:
        """The newest status of that name."""
        return self.statuses[-1].get(name) if self.statuses else None

    def level(self, name: str = "pairs") -> int:
        """0 OK, 1 WARN, 2 ERROR; -1 before the first status."""
        status = self.status(name)
        return -1 if status is None else ord(status.level)

    def values(self, name: str = "pairs") -> dict[str, str]:
        status = self.status(name)
        return {} if status is None else {value.key: value.value for value in status.values}

    def has(self, reason: str, *words: str, name: str = "pairs") -> bool:
        """Whether the newest status of that name has this reason, and these words in its message."""
        status = self.status(name)
        return self.values(name).get("reason") == reason and all(word in status.message for word in words)

    def accounted(self) -> bool:
        """Whether every pair or left image that the node took was published or dropped, by its newest status."""
        values = self.values()
        taken = ("pairs matched", "mono fallback received")
        gone = (("pairs published", "pairs dropped"), ("mono fallback published", "mono fallback dropped"))
        return all(
            int(values.get(name, -1)) == sum(int(values.get(key, 0)) for key in keys)
            for name, keys in zip(taken, gone, strict=True)
        )

    def fresh_depth(self, pair: dict[str, Any]) -> np.ndarray:
        """Depth of a pair sent from now on, metres."""
        seen, clock = self.seen["depth/image_rect"], self.node.get_clock()
        begun = clock.now().nanoseconds

        def sent_since(message: Any) -> bool:  # an earlier pair may bear a stamp of the future
            return begun <= messages.stamp_ns(message.header) <= clock.now().nanoseconds

        return messages.depth_to_array(self.send_until(pair, lambda: next(filter(sent_since, list(seen)), None)))


class Bench(User):
    """A User with the node in the same process (they still talk over DDS), each with its own executor."""

    def __init__(
        self, domain: int, *, build: Any = None, namespace: str = "", user_namespace: str = "",
        topics: Mapping[str, str] | None = None, latched: bool = False, **values: Any,
    ) -> None:  # fmt: skip
        """``topics``: input name -> the topic that it is remapped to."""
        self.owner = Context()
        rclpy.init(context=self.owner, domain_id=domain)
        given = [Parameter(name, value=value) for name, value in {**QUICK, **values}.items()]
        options: dict[str, Any] = {} if build is None else {"build": build}
        if topics:
            rules = (word for name, topic in topics.items() for word in ("-r", f"{name}:={topic}"))
            options["cli_args"] = ["--ros-args", *rules]
        self.depth_node = StereoDepthNode(context=self.owner, parameter_overrides=given, namespace=namespace, **options)
        self._node_executor = SingleThreadedExecutor(context=self.owner)
        self._node_executor.add_node(self.depth_node)
        self._node_thread = threading.Thread(target=self._spin_node, daemon=True)
        compressed = values.get("image_transport") == "compressed"
        super().__init__(self.owner, user_namespace or namespace, compressed, topics, latched)
        logger = RecordingLogger(self.logged)
        self.depth_node.get_logger = lambda: logger
        self._node_thread.start()

    def _spin_node(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._node_executor.spin()

    def close(self) -> None:
        super().close()
        self._node_executor.shutdown()
        self._node_thread.join(5.0)
        self.depth_node.destroy_node()
        rclpy.shutdown(context=self.owner)

    def set(self, **values: Any) -> list[Any]:
        """Set parameters from the node's own thread; returns the results."""
        results: list[Any] = []
        changes = [Parameter(name, value=value) for name, value in values.items()]
        self.depth_node._post(lambda: results.append(self.depth_node.set_parameters_atomically(changes)))
        return self.wait(lambda: results)


@contextlib.contextmanager
def bench(domain: int, **options: Any) -> Iterator[Bench]:
    """A Bench for the length of a test."""
    made = Bench(domain, **options)
    try:
        yield made
    finally:
        made.close()


def share_near(depth: np.ndarray, metres: float, tolerance: float = 0.02) -> float:
    """Share of the answered pixels whose depth is within `tolerance` (relative) of the truth."""
    answered = np.isfinite(depth)
    return float(np.mean(np.abs(depth[answered] / metres - 1.0) < tolerance)) if answered.any() else 0.0
