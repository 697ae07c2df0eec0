"""The four inputs of data_logger_node as serialized bytes: matched to pairs, checked for a new calibration."""

from __future__ import annotations

import copy
import functools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo

from fg_depth_ros.compat.message_filters import SimpleFilter
from fg_depth_ros.data.bags.messages import stamp_of
from fg_depth_ros.data.bags.storage import INFO
from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.data.io.messages import stamp_ns
from fg_depth_ros.data.io.video_packets import IMAGE_TRANSPORTS
from fg_depth_ros.geometry import RigError, StereoRig
from fg_depth_ros.nodes.common.clock import clock_has_ended
from fg_depth_ros.nodes.common.codes import FaultCode, FaultSubject, RecorderFault
from fg_depth_ros.nodes.common.diagnostics import ERROR, WARN, Faults, RateMeter
from fg_depth_ros.nodes.common.input_topics import input_topics, input_types
from fg_depth_ros.nodes.common.message_loss import MessageLoss
from fg_depth_ros.nodes.common.missing_pairs import explain_no_pair
from fg_depth_ros.nodes.common.parameters import DeclaredParameters
from fg_depth_ros.nodes.common.qos import CameraInfoSubscription, naming_overrides, overridable, subscription_events
from fg_depth_ros.nodes.common.synchronizing import PairSynchronizer, StereoMessages
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.common.video import VideoStream
from fg_depth_ros.recording.definitions import Message, Topic

INPUT_FAULTS = (
    FaultSubject.SUBSCRIPTION,
    FaultSubject.TIME,
    FaultSubject.INPUT,
    FaultSubject.CAMERA_INFO,
    FaultSubject.PAIRS,
)


class SerializedMessage:
    """A message (CDR) that is not deserialized, but for its stamp; ``recorded``: when it was received, ns.

    Raises ValueError: fewer bytes than a header has.
    """

    __slots__ = ("data", "header", "recorded")

    def __init__(self, data: bytes, recorded: int) -> None:
        stamp = stamp_of(data)
        if stamp is None:
            raise ValueError(f"{len(data)} bytes are no message with a header")
        self.data, self.recorded = data, recorded
        seconds, nanoseconds = divmod(stamp, 1_000_000_000)
        # A real Time: the real message_filters takes nothing else.
        self.header = SimpleNamespace(stamp=Time(sec=seconds, nanosec=nanoseconds))

    def stamped_as(self, image: SerializedMessage) -> SerializedMessage:
        """Return this camera_info, where it was taken again for a later image, with the stamp and time of that."""
        if stamp_of(self.data) == stamp_ns(self.header):
            return self
        again = copy.copy(self)
        again.data = self.data[:4] + image.data[4:12] + self.data[12:]
        again.recorded = image.recorded
        return again


class LoggerInputs:
    """Subscribes to the inputs and matches pairs. All methods are for the executor's thread.

    Args:
        now: the node's time, ns; 0 while it is not known (simulated time without a /clock).
        on_pair: called with (pair of SerializedMessage, its four (Topic, Message)).
        on_calibration: called with a text before the first pair of a new calibration.
    """

    def __init__(
        self,
        node: Node,
        parameters: DeclaredParameters,
        now: Callable[[], int],
        on_pair: Callable[[StereoMessages, list[tuple[Topic, Message]]], None],
        on_calibration: Callable[[str], None],
        faults: Faults,
    ) -> None:
        self._node, self._parameters, self._now, self._faults = node, parameters, now, faults
        self._on_pair, self._on_calibration = on_pair, on_calibration
        self.drops: Counter[str] = Counter()
        self.rig: StereoRig | None = None
        self._infos: tuple[bytes, bytes] | None = None  # of the pair before, without their stamps
        self._calibration: tuple[Any, ...] | None = None
        self._rates = {name: RateMeter() for name in INPUTS}
        self._loss = {name: MessageLoss() for name in INPUTS}
        self._types, self.topics = input_types(parameters), input_topics(node, parameters)
        image = IMAGE_TRANSPORTS[parameters["image_transport"]]
        self._recorded = {name: Topic(self.topics[name], image if name in INPUTS[:2] else INFO) for name in INPUTS}
        self._video, self._video_left, self._video_lost = VideoStream(self.topics[INPUTS[0]]), None, 0
        self._sources = {name: SimpleFilter() for name in INPUTS}
        self._sync = PairSynchronizer(
            list(self._sources.values()),
            self._matched,
            approximate=parameters["approximate_sync"],
            slop=parameters["sync_slop"],
            queue_size=parameters["sync_queue_size"],
            on_error=self._on_error,
        )
        self._opened = time.monotonic()
        self.ended = False
        """Whether no pair arrives since simulated time has ended."""
        self._camera_infos: dict[str, CameraInfoSubscription] = {}
        problems = []
        for name in INPUTS:
            try:
                self._subscribe(name)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            self._faults.report(FaultSubject.SUBSCRIPTION, ERROR, "; ".join(problems), FaultCode.NOT_CONFIGURED)

    @property
    def matched(self) -> int:
        """Number of pairs so far."""
        return self._sync.matched

    @property
    def lost(self) -> int:
        """Number of messages of the inputs that were lost on the way so far."""
        return sum(loss.lost for loss in self._loss.values())

    def left_image(self, pair: StereoMessages) -> Any:
        """Deserialize the left image of a pair; of video, return the newest one.

        Raises ValueError: the video has none. RuntimeError: the message is malformed.
        """
        if (problem := self._video.problem) is not None:
            raise ValueError(problem)
        if self._video.is_video:
            return self._video_left
        return deserialize_message(pair.left.data, self._types[INPUTS[0]])

    def check(self) -> None:
        """Report when no pair arrives, and follow the publishers; call it several times a second."""
        for name, subscription in self._camera_infos.items():
            if subscription.follow():
                self._loss[name].begin_again()
        waited = time.monotonic() - max(self._opened, self._sync.last_match)
        self.ended = False
        if waited < self._parameters["stall_timeout"]:
            self._faults.clear(FaultSubject.PAIRS)
            return
        self.ended = clock_has_ended(self._node)
        if self.ended:
            self._faults.forget(FaultSubject.PAIRS)
            return
        topics = self.topics
        why = explain_no_pair(
            self._sync.unpaired, lambda name: int(self._node.count_publishers(topics[name])), topics.__getitem__
        )
        self._faults.report(
            FaultSubject.PAIRS, WARN, f"no stereo pair for {waited:.0f} s: {why}", self._sync.stall_code
        )

    def values(self) -> dict[str, str]:
        """Return keys for a DiagnosticStatus: pairs formed, and rate and losses by input."""
        values = {keys.PAIRS_FORMED: str(self._sync.matched)}
        for name in INPUTS:
            values[f"{name}{keys.RATE}"] = f"{self._rates[name].rate():.2f}"
            values[f"{name} received"] = str(self._sync.received(name))
            values[f"{name}{keys.WITHOUT_PARTNER}"] = str(self._sync.unmatched(name))
            values[f"{name}{keys.LOST_ON_THE_WAY}"] = str(self._loss[name].lost)
        for reason, count in sorted(self.drops.items()):
            values[f"{keys.DROPPED_BEFORE_RECORDER}{reason}"] = str(count)
        return values

    def _subscribe(self, name: str) -> None:
        """Subscribe to an input. Raises ValueError."""
        qos = QoSProfile(depth=self._parameters["input_depth"], reliability=ReliabilityPolicy.BEST_EFFORT)
        events = subscription_events(self._node, self.topics[name])
        events.message_lost = self._loss[name].on_lost
        callback = self._loss[name].counting(functools.partial(self._on_message, name))
        if name.endswith("camera_info"):
            self._camera_infos[name] = CameraInfoSubscription(
                self._node, self.topics[name], callback, qos, events=events, raw=True
            )
            return
        with naming_overrides(self.topics[name], "subscription"):
            self._node.create_subscription(
                self._types[name],
                self.topics[name],
                callback,
                raw=True,
                event_callbacks=events,
                **overridable(qos),
            )

    def _on_message(self, name: str, data: bytes) -> None:
        self._rates[name].tick()
        try:
            message = SerializedMessage(data, self._now())
            if name == INPUTS[0]:
                self._follow_video(data)
        except (ValueError, RuntimeError) as error:
            self._drop_malformed(name, error)
        else:
            self._sources[name].signalMessage(message)

    def _drop_malformed(self, name: str, error: Exception) -> None:
        self._faults.report(
            FaultSubject.INPUT,
            WARN,
            f"{self.topics[name]}: {error}; check the driver that publishes it",
            RecorderFault.INPUT,
            log_every_text=True,
        )
        self.drops["malformed message"] += 1

    def _follow_video(self, data: bytes) -> None:
        """Decode the left camera's video where the motion trigger looks at it: an image needs those before it.

        Raises RuntimeError: the message is malformed; the video begins again.
        """
        if self._parameters["image_transport"] == "raw":
            return
        if not self._parameters["motion_flow"]:
            self._video = VideoStream(self.topics[INPUTS[0]])
            return
        before, self._video_lost = self._video_lost, self._loss[INPUTS[0]].lost
        try:
            message = deserialize_message(data, self._types[INPUTS[0]])
        except (ValueError, RuntimeError):
            self._video = VideoStream(self.topics[INPUTS[0]])
            raise
        for image in self._video.add(message, lost=self._video_lost > before):
            self._video_left = image

    def _matched(self, pair: StereoMessages) -> None:
        pair = replace(
            pair,
            left_info=pair.left_info.stamped_as(pair.left),
            right_info=pair.right_info.stamped_as(pair.right),
        )
        messages = [pair.left, pair.right, pair.left_info, pair.right_info]
        if not all(message.recorded for message in messages):
            self.drops["no time"] += 1
            text = "nothing is recorded: use_sim_time is true, and nobody publishes /clock"
            self._faults.report(FaultSubject.TIME, WARN, text, FaultCode.NO_CLOCK)
            return
        self._faults.clear(FaultSubject.TIME)
        self._faults.clear(FaultSubject.INPUT)
        if not self._check_calibration(pair):
            return
        parts = [
            (self._recorded[name], Message(self.topics[name], message.recorded, message.data))
            for name, message in zip(INPUTS, messages, strict=True)
        ]
        self._on_pair(pair, parts)

    def _check_calibration(self, pair: StereoMessages) -> bool:
        """Take in the calibration of a pair. Returns False where a camera_info cannot be read; that is reported."""
        # The bytes after the stamp are compared first: they nearly always agree, and nothing has to be decoded.
        infos = (pair.left_info.data[12:], pair.right_info.data[12:])
        if infos == self._infos:
            return True
        decoded = []
        for name, info in zip(INPUTS[2:], (pair.left_info, pair.right_info), strict=True):
            try:
                decoded.append(deserialize_message(info.data, CameraInfo))
            except (ValueError, RuntimeError) as error:
                self._drop_malformed(name, error)
                return False
        self._infos = infos
        calibration = tuple(map(_calibration, decoded))
        if calibration == self._calibration:
            return True  # padding between fields may hold anything
        before, self._calibration = self._calibration, calibration
        names = f"{self.topics[INPUTS[2]]} and {self.topics[INPUTS[3]]}"
        try:
            self.rig = StereoRig.from_camera_info(*decoded)
            self._faults.clear(FaultSubject.CAMERA_INFO)
        except RigError as error:
            self.rig = None
            self._faults.report(
                FaultSubject.CAMERA_INFO,
                WARN,
                f"recorded without a rig: {error} (from {names})",
                RecorderFault.CAMERA_INFO,
                log_every_text=True,
            )
        if before is not None:
            self._node.get_logger().info(f"{names}: another calibration, which begins a new episode")
            self._on_calibration("another calibration")
        return True

    def _on_error(self, error: Exception) -> None:
        self.drops["internal error"] += 1
        self._node.get_logger().error(f"a pair could not be processed: {error!r}; please report this")


def _calibration(info: CameraInfo) -> tuple[Any, ...]:
    """Return all fields of a camera_info but its stamp."""
    roi = info.roi
    return (
        *(info.header.frame_id, info.width, info.height, info.distortion_model, info.binning_x, info.binning_y),
        *(roi.x_offset, roi.y_offset, roi.width, roi.height, roi.do_rectify),
        *(tuple(values) for values in (info.d, info.k, info.r, info.p)),
    )
