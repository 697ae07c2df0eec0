"""``stereo_player_node``: plays stereo pairs, from files or of a virtual world, as a calibrated stereo camera."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from fg_depth_ros.data.datasets.stereo import MOTORCYCLE
from fg_depth_ros.data.io.messages import fill_image
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import RigError, StereoRig
from fg_depth_ros.nodes.common.qos import naming_overrides, overridable
from fg_depth_ros.nodes.common.topics import INPUTS, TRUTH_TOPICS
from fg_depth_ros.nodes.players.parameters import STEREO_PLAYER
from fg_depth_ros.nodes.players.playing import CLOCK_RATE, PlayerNode, SubscriberWait, run_player
from fg_depth_ros.nodes.players.source import NO_WORLD, PairSource, encode_image, write_drive

TRUTH = TRUTH_TOPICS["raw"]
SIMULATED_START = 1_000_000_000  # ns; a stamp of zero would read as "no stamp"


def camera_infos(rig: StereoRig, left_frame: str, right_frame: str) -> tuple[CameraInfo, CameraInfo]:
    """Make the CameraInfo of both cameras of a rectified rig.

    REP 104: no distortion, R the identity, and ``P_right[3] = -fx * baseline``.
    """
    infos = []
    for frame, projection in ((left_frame, rig.P_left()), (right_frame, rig.P_right())):
        info = CameraInfo(width=rig.width, height=rig.height, distortion_model="plumb_bob")
        info.header.frame_id = frame
        info.d = [0.0] * 5
        info.k = projection[:, :3].reshape(-1).tolist()
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = projection.reshape(-1).tolist()
        infos.append(info)
    return infos[0], infos[1]


class StereoPlayerNode(PlayerNode):
    """Publishes the pairs of a ``PairSource``.

    Topics: ``left/image_rect``, ``right/image_rect``, ``left/camera_info``, ``right/camera_info``; where wanted
    ``ground_truth/depth`` (32FC1, metres, NaN unknown) and ``/clock``; and ``published_pair`` (std_msgs/Header:
    each pair's stamp and, as frame_id, its name), which lists every pair that was sent.

    Raises FileError, RigError: nothing playable in the folder. ValueError: a parameter that is out of range.
    """

    _rendered: tempfile.TemporaryDirectory[str] | None = None

    def __init__(self) -> None:
        super().__init__(STEREO_PLAYER)
        if self.parameters["restart_clock"] and not self.parameters["publish_clock"]:
            raise ValueError("parameter restart_clock = true needs publish_clock = true: wall time cannot restart")
        names = ("width", "height", "focal", "baseline", "side_by_side", "rectify")
        options = {name: self.parameters[name] for name in names}
        self.source = PairSource(self._pairs(), with_truth=self.parameters["publish_truth"], **options)
        self._index = 0
        self._broken: set[int] = set()
        self._prepared: tuple[int, dict[str, Any]] | None = None
        self._wall = RosClock(clock_type=ClockType.SYSTEM_TIME)
        self._simulated_since = time.monotonic_ns()
        self._create_publishers()
        self._prepare()  # a folder in which nothing can be read fails here, not in the first callback
        self._subscribers = SubscriberWait(self, INPUTS, self._on_topic)
        self.create_timer(1.0 / self.parameters["rate"], self._tick, clock=self._steady)
        if self.parameters["publish_clock"]:
            self.create_timer(1.0 / CLOCK_RATE, self._publish_clock, clock=self._steady)
        self.get_logger().info(f"playing {len(self.source)} pair(s) of {self._name} at {self.parameters['rate']:g} Hz")

    @property
    def _name(self) -> str:
        """Name of the input, for messages."""
        world = self.parameters["world"]
        return str(self.parameters["pairs"]) if world == NO_WORLD else f"a virtual world ({world})"

    def _pairs(self) -> str:
        """Return the folder to play; that of a virtual world is rendered first, and removed with the node."""
        world, pairs = self.parameters["world"], self.parameters["pairs"]
        if world == NO_WORLD:
            return str(pairs)
        if pairs != MOTORCYCLE:
            raise ValueError(
                f"parameters world = '{world}' and pairs = '{pairs}' name two things to play: leave one of them out"
            )
        frames, seed = self.parameters["world_frames"], self.parameters["world_seed"]
        self.get_logger().info(f"rendering {frames} frames of a virtual world ({world})")
        self._rendered = tempfile.TemporaryDirectory(prefix="fg_depth_world_")
        width, height = self.parameters["width"], self.parameters["height"]
        write_drive(self._rendered.name, world, width=width, height=height, frames=frames, seed=seed)
        return self._rendered.name

    def destroy_node(self) -> None:
        """Destroy the node and remove rendered files."""
        if self._rendered is not None:
            self._rendered.cleanup()
        super().destroy_node()

    def _create_publishers(self) -> None:
        stream = QoSProfile(depth=5)
        latched = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        all_pairs = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        topics = {
            **{name: (CameraInfo if name.endswith("camera_info") else Image, stream) for name in INPUTS},
            "published_pair": (Header, all_pairs),
            **({TRUTH: (Image, latched)} if self.source.has_truth else {}),
        }
        if self.parameters["publish_clock"]:
            topics["/clock"] = (Clock, QoSProfile(depth=1))
        for name, (kind, qos) in topics.items():
            with naming_overrides(self.resolve_topic_name(name), "publisher"):
                self._on_topic[name] = self.create_publisher(kind, name, **overridable(qos))
        self._clock_publisher = self._on_topic.pop("/clock", None)

    def _tick(self) -> None:
        if self.finished or not self._has_subscribers():
            return
        assert self._prepared is not None
        index, messages = self._prepared
        self._publish(self.source.samples[index].name, messages)
        self._index = index + 1
        count = self.parameters["count"]
        if count and self.published >= count:
            self._finish(f"played all {count} pairs that were asked for")
            return
        try:
            self._prepare()
        except FileError as error:
            self._finish(str(error), failed=True)
        if self._index >= len(self.source) and not self.parameters["loop"]:
            self._finish(f"played {self.published} pair(s), the end of {self._name}")

    def _has_subscribers(self) -> bool:
        try:
            return self._subscribers.check()
        except TimeoutError as error:
            self._finish(str(error), failed=True)
            return False

    def _publish(self, name: str, messages: Mapping[str, Any]) -> None:
        stamp = self._now()
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=stamp))
        # First, so that a subscriber that counts pairs knows of it before its depth can arrive.
        self._on_topic["published_pair"].publish(Header(stamp=stamp, frame_id=name))
        for topic, message in messages.items():
            message.header.stamp = stamp
            self._on_topic[topic].publish(message)
        self.published += 1

    def _now(self) -> Time:
        if not self.parameters["publish_clock"]:
            return self._wall.now().to_msg()
        now = time.monotonic_ns()
        if self._index >= len(self.source) and self.parameters["restart_clock"]:
            self._simulated_since = now
        seconds, rest = divmod(SIMULATED_START + now - self._simulated_since, 1_000_000_000)
        return Time(sec=seconds, nanosec=rest)

    def _publish_clock(self) -> None:
        # Between the last pair of a round and the first of the next, time that restarts stands still.
        waits = self.parameters["restart_clock"] and self._index >= len(self.source)
        if self._clock_publisher is not None and self.published and not waits:
            self._clock_publisher.publish(Clock(clock=self._now()))

    def _prepare(self) -> None:
        """Make the next pair's messages ahead of its time.

        Pairs that cannot be read are reported once and left out. Raises FileError when none is left.
        """
        while len(self._broken) < len(self.source):
            index = self._index % len(self.source)
            if self._prepared is not None and self._prepared[0] == index:
                return
            if index not in self._broken:
                try:
                    self._prepared = (index, self._messages(index))
                    return
                except (FileError, RigError) as error:
                    self._broken.add(index)
                    self.get_logger().error(f"pair '{self.source.samples[index].name}' is left out: {error}")
                    last_error = error
            self._index += 1
        raise FileError(f"{self._name}: no pair of it can be played; the last one: {last_error}")

    def _messages(self, index: int) -> dict[str, Any]:
        """Return the messages of a pair by topic, without stamps, in the order of publication."""
        pair = self.source.load(index)
        (left, right), depth = pair.images(), pair.true_depth()
        encoding = self.parameters["encoding"]
        left_frame, right_frame = self.parameters["left_frame_id"], self.parameters["right_frame_id"]
        left_info, right_info = camera_infos(pair.require_rig(), left_frame, right_frame)

        def image(array: np.ndarray, encoding: str, frame: str) -> Image:
            message = fill_image(Image(), array, encoding)
            message.header.frame_id = frame
            return message

        return {
            "left/camera_info": left_info,
            "right/camera_info": right_info,
            "left/image_rect": image(encode_image(left, encoding), encoding, left_frame),
            "right/image_rect": image(encode_image(right, encoding), encoding, right_frame),
            **({} if depth is None else {TRUTH: image(depth, "32FC1", left_frame)}),
        }

    def _finish(self, why: str, *, failed: bool = False) -> None:
        self.finished = True
        if failed:
            self.failure = why
            self.get_logger().error(why)
        else:
            self.get_logger().info(why)


def main(args: list[str] | None = None) -> int:
    """Play until the end, Ctrl-C or shutdown. Returns the exit code: 1 when nothing could be played."""
    return run_player("stereo_player_node", StereoPlayerNode, args)


if __name__ == "__main__":
    sys.exit(main())
