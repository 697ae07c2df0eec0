"""``stereo_player_node``: plays stereo pairs, from files or of a virtual world, as a calibrated stereo camera."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from fg_depth_ros.data.datasets.stereo import MOTORCYCLE
from fg_depth_ros.data.io.messages import fill_image
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import RigError, StereoRig
from fg_depth_ros.nodes.common.qos import OVERRIDES
from fg_depth_ros.nodes.players.parameters import STEREO_PLAYER
from fg_depth_ros.nodes.players.playing import CLOCK_RATE, SubscriberWait, run_player, subscriber_counts
from fg_depth_ros.nodes.players.source import NO_WORLD, PairSource, encode_image, write_drive

SIMULATED_START = 1_000_000_000  # ns; a stamp of zero would read as "no stamp"


@dataclass(frozen=True)
class PairMessages:
    """One pair as messages, without stamps."""

    name: str
    left: Image
    right: Image
    left_info: CameraInfo
    right_info: CameraInfo
    truth: Image | None

    def stamp(self, stamp: Time) -> None:
        """Write one stamp into every header."""
        for message in (self.left, self.right, self.left_info, self.right_info, self.truth):
            if message is not None:
                message.header.stamp = stamp


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


class StereoPlayerNode(Node):
    """Publishes the pairs of a ``PairSource``.

    ``finished``: there is no more to play; ``failure``: why it ended with an error.

    Topics: ``left/image_rect``, ``right/image_rect``, ``left/camera_info``, ``right/camera_info``; where wanted
    ``ground_truth/depth`` (32FC1, metres, NaN unknown) and ``/clock``; and ``published_pair`` (std_msgs/Header:
    each pair's stamp and, as frame_id, its name), which lists every pair that was sent.

    Raises:
        FileError, RigError: nothing playable in the folder.
        ValueError: a parameter that is out of range.
    """

    def __init__(self) -> None:
        super().__init__("stereo_player_node")
        self.parameters = STEREO_PLAYER.declare(self)
        if self.parameters.problems:
            raise ValueError("; ".join(self.parameters.problems))
        if self.parameters["restart_clock"] and not self.parameters["publish_clock"]:
            raise ValueError("parameter restart_clock = true needs publish_clock = true: wall time cannot restart")
        self._rendered: tempfile.TemporaryDirectory[str] | None = None
        self.source = PairSource(
            self._pairs(),
            width=self.parameters["width"],
            height=self.parameters["height"],
            with_truth=self.parameters["publish_truth"],
            focal=self.parameters["focal"],
            baseline=self.parameters["baseline"],
        )
        self.finished = False
        self.failure = ""
        self.published = 0
        self._index = 0
        self._broken: set[int] = set()
        self._prepared: tuple[int, PairMessages] | None = None
        self._wall = RosClock(clock_type=ClockType.SYSTEM_TIME)
        self._simulated_since = time.monotonic_ns()
        self._create_publishers()
        self._prepare()  # a folder in which nothing can be read fails here, not in the first callback
        self._subscribers = SubscriberWait(self, self._wanted_subscribers(), self.parameters["wait_timeout"])
        steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self.parameters["rate"], self._tick, clock=steady)
        if self.parameters["publish_clock"]:
            self.create_timer(1.0 / CLOCK_RATE, self._publish_clock, clock=steady)
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
        frames = self.parameters["world_frames"]
        self.get_logger().info(f"rendering {frames} frames of a virtual world ({world})")
        self._rendered = tempfile.TemporaryDirectory(prefix="fg_depth_world_")
        write_drive(
            self._rendered.name,
            world,
            width=self.parameters["width"],
            height=self.parameters["height"],
            frames=frames,
            seed=self.parameters["world_seed"],
        )
        return self._rendered.name

    def destroy_node(self) -> None:
        """Also removes what was rendered."""
        if self._rendered is not None:
            self._rendered.cleanup()
        super().destroy_node()

    def _create_publishers(self) -> None:
        stream = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(
            depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        all_pairs = QoSProfile(
            depth=1000, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )

        def publisher(kind: type, topic: str, qos: QoSProfile) -> rclpy.publisher.Publisher:
            return self.create_publisher(kind, topic, qos, qos_overriding_options=OVERRIDES)

        self._left = publisher(Image, "left/image_rect", stream)
        self._right = publisher(Image, "right/image_rect", stream)
        self._left_info = publisher(CameraInfo, "left/camera_info", stream)
        self._right_info = publisher(CameraInfo, "right/camera_info", stream)
        self._published_pair = publisher(Header, "published_pair", all_pairs)
        self._truth = publisher(Image, "ground_truth/depth", latched) if self.source.has_truth else None
        self._clock_publisher = None
        if self.parameters["publish_clock"]:
            self._clock_publisher = publisher(Clock, "/clock", QoSProfile(depth=1))

    def _tick(self) -> None:
        if self.finished or not self._has_subscribers():
            return
        assert self._prepared is not None
        index, messages = self._prepared
        self._publish(messages)
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

    def _wanted_subscribers(self) -> dict[rclpy.publisher.Publisher, int]:
        pair = {
            "left/image_rect": self._left,
            "right/image_rect": self._right,
            "left/camera_info": self._left_info,
            "right/camera_info": self._right_info,
        }
        others = {"published_pair": self._published_pair, "ground_truth/depth": self._truth}
        publishers = {topic: publisher for topic, publisher in {**pair, **others}.items() if publisher is not None}
        wanted, topics = self.parameters["wait_for_subscribers"], self.parameters["wait_for_topics"]
        return subscriber_counts(list(pair.values()), publishers, wanted, topics)

    def _has_subscribers(self) -> bool:
        try:
            return self._subscribers.check()
        except TimeoutError as error:
            self._finish(str(error), failed=True)
            return False

    def _publish(self, messages: PairMessages) -> None:
        stamp = self._now()
        messages.stamp(stamp)
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=stamp))
        # First, so that a subscriber that counts pairs knows of it before its depth can arrive.
        self._published_pair.publish(Header(stamp=stamp, frame_id=messages.name))
        self._left_info.publish(messages.left_info)
        self._right_info.publish(messages.right_info)
        self._left.publish(messages.left)
        self._right.publish(messages.right)
        if self._truth is not None and messages.truth is not None:
            self._truth.publish(messages.truth)
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

    def _messages(self, index: int) -> PairMessages:
        pair = self.source.load(index)
        (left, right), depth = pair.images(), pair.true_depth()
        encoding = self.parameters["encoding"]
        left_frame, right_frame = self.parameters["left_frame_id"], self.parameters["right_frame_id"]
        left_info, right_info = camera_infos(pair.require_rig(), left_frame, right_frame)

        def image(array: np.ndarray, encoding: str, frame: str) -> Image:
            message = fill_image(Image(), array, encoding)
            message.header.frame_id = frame
            return message

        return PairMessages(
            pair.name,
            image(encode_image(left, encoding), encoding, left_frame),
            image(encode_image(right, encoding), encoding, right_frame),
            left_info,
            right_info,
            None if depth is None else image(depth, "32FC1", left_frame),
        )

    def _finish(self, why: str, *, failed: bool = False) -> None:
        self.finished = True
        if failed:
            self.failure = why
            self.get_logger().error(why)
        else:
            self.get_logger().info(why)

    def wait_until_acknowledged(self, seconds: float) -> None:
        """Wait until reliable subscribers have everything, at most this long."""
        for publisher in (self._left, self._right, self._published_pair, self._truth):
            if publisher is not None:
                publisher.wait_for_all_acked(Duration(seconds=seconds))


def main(args: list[str] | None = None) -> int:
    """Play until the end, Ctrl-C or shutdown. Returns the exit code: 1 when nothing could be played."""
    return run_player("stereo_player_node", StereoPlayerNode, args)


if __name__ == "__main__":
    sys.exit(main())
