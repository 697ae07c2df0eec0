"""``bag_player_node``: plays ROS 2 bags without rosbag2, on the topics that they were recorded from."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import rclpy
import rclpy.publisher
from rclpy.exceptions import InvalidTopicNameException
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.validate_full_topic_name import validate_full_topic_name
from rosgraph_msgs.msg import Clock

from fg_depth_ros.data.bags.folders import find_bags
from fg_depth_ros.data.bags.pairs import find_topics
from fg_depth_ros.data.bags.storage import BagStorage, OfferedQos, RawMessage
from fg_depth_ros.files import FileError
from fg_depth_ros.nodes.common.message_classes import message_class
from fg_depth_ros.nodes.common.qos import naming_overrides, overridable, publisher_events
from fg_depth_ros.nodes.players.parameters import BAG_PLAYER
from fg_depth_ros.nodes.players.playing import CLOCK_RATE, PlayerNode, SubscriberWait, run_player

CLOCK_TOPIC = "/clock"
AHEAD_BYTES = 64 << 20
_LATCHED_DEPTH = 500  # of a latched topic: what all of its publishers keep, such as those of /tf_static
_LEAST_DEPTH = 10  # of a queue: messages that are caught up come in bursts
_LATE_SECONDS = 0.1
_ROUND_GAP = 0.02  # s between two rounds, at least
_PAUSE = 60 * 10**9  # ns without a message; a longer one is told
_JUMP = 3600 * 10**9  # ns; a longer pause is taken for a clock that was set forward, and
_JUMP_LEFT = 10**9  # ns of it are left
_CDR_HEAD = 4  # bytes that every serialized message begins with


class ReadAhead:
    """Iterates over messages that a thread reads ahead, so that a slow disk does not delay them.

    ``limit``: bytes that wait at most; one message may wait whatever its size.
    """

    def __init__(self, messages: Iterator[RawMessage], limit: int = AHEAD_BYTES) -> None:
        self._limit = limit
        self._waiting: deque[RawMessage] = deque()
        self._bytes = 0
        self._ended, self._closed = False, False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(messages,), name="bag reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[RawMessage]:
        """Yield every message in its order; an error of reading is raised after the last one."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                message = self._waiting.popleft()
                self._bytes -= len(message.data)
                self._changed.notify_all()
            yield message
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop reading."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _read(self, messages: Iterator[RawMessage]) -> None:
        try:
            for message in messages:
                size = len(message.data)
                with self._changed:
                    while self._waiting and self._bytes + size > self._limit and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
                    self._waiting.append(message)
                    self._bytes += size
                    self._changed.notify_all()
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


class PlayedClock:
    """The recording's time for ``/clock``. Thread-safe.

    It stands still until it is started, and never passes the message that is due next.
    """

    def __init__(self, rate: float, publish: Callable[[int], None]) -> None:
        """Stand still. ``rate``: seconds of the recording per second; ``publish`` is called with the time in ns."""
        self._rate, self._publish = rate, publish
        self._lock = threading.Lock()
        self._origin: tuple[int, int] | None = None  # time of the recording, and time.monotonic_ns() then
        self._limit: int | None = None
        self._last: int | None = None

    def stand(self, at: int) -> None:
        """Stand still at a time of the recording, ns."""
        with self._lock:
            self._origin, self._limit, self._last = None, at, None

    def run(self, origin: int, begun: int) -> None:
        """Run from ``origin``, which was at ``begun`` of time.monotonic_ns()."""
        with self._lock:
            self._origin = (origin, begun)

    def wait_for(self, message: int) -> None:
        """Set the time of the next message, which the clock does not pass."""
        with self._lock:
            self._limit = message

    def reach(self, message: int) -> None:
        """Publish the time of a message that is about to be played, unless it was published already."""
        with self._lock:
            if self._last is None or message > self._last:
                self._last = message
                self._publish(message)

    def tick(self) -> None:
        """Publish the current time, once the first message is known."""
        with self._lock:
            if self._limit is None:
                return
            now = self._limit
            if self._origin is not None:
                origin, begun = self._origin
                now = min(self._limit, origin + round((time.monotonic_ns() - begun) * self._rate))
            self._last = now if self._last is None else max(now, self._last)
            self._publish(self._last)


class BagPlayerNode(PlayerNode):
    """Publishes the messages of bags as they were stored, at the times they were recorded.

    ``late``: number of messages more than a tenth of a second after their time (none is left out for that).

    Raises FileError: no bag, none that can be read, or no topic in them that can be played. ValueError: a parameter is
    out of range.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(BAG_PLAYER, **kwargs)
        self.late, self._worst = 0, 0.0
        self._broken: set[str] = set()
        self._played_to: int | None = None  # on /clock
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._bags = self._open()
        self._on_topic = self._create_publishers()
        self._subscribers = SubscriberWait(self, self._pair_topics(), self._on_topic)
        self._time = PlayedClock(self.parameters["rate"], self._publish_clock)
        self._clock_publisher = None
        if self.parameters["publish_clock"]:
            with naming_overrides(CLOCK_TOPIC, "publisher"):
                self._clock_publisher = self.create_publisher(Clock, CLOCK_TOPIC, **overridable(QoSProfile(depth=10)))
            self.create_timer(1.0 / CLOCK_RATE, self._time.tick, clock=self._steady)
        self._thread = threading.Thread(target=self._run, name="bag player", daemon=True)
        self._thread.start()

    # ---- what is played ------------------------------------------------------------------------------------

    def _open(self) -> list[BagStorage]:
        names = [name for name in self.parameters["bags"] if name]
        if not names:
            raise FileError("parameter bags is empty: name the bag to play, or a folder of bags")
        opened, last = [], ""
        for path in find_bags(names):
            try:
                opened.append(BagStorage(path))
            except FileError as error:
                last = str(error)
                self.get_logger().error(f"a bag is left out: {error}")
        if not opened:
            raise FileError(f"no bag of {', '.join(names)} can be played; the last one: {last}")
        return opened

    def _create_publishers(self) -> dict[str, rclpy.publisher.Publisher]:
        kinds: dict[str, str] = {}
        offered: dict[str, OfferedQos] = {}
        for bag in self._bags:
            for topic, kind in bag.topics.items():
                if kinds.setdefault(topic, kind) != kind:
                    self.get_logger().error(
                        f"{bag.path}: {topic} is a {kind} here and a {kinds[topic]} in the bags before: left out here"
                    )
            offered |= {topic: qos for topic, qos in bag.offered_qos.items() if topic not in offered}
        publishers = {}
        for topic in self._chosen(kinds):
            try:
                kind = message_class(kinds[topic])
                validate_full_topic_name(topic)
            except (ValueError, InvalidTopicNameException) as error:
                self.get_logger().error(f"{topic} is left out: {' '.join(str(error).split())}")
                continue
            events, qos = publisher_events(self, topic), _profile(offered.get(topic))
            with naming_overrides(self.resolve_topic_name(topic), "publisher"):
                publishers[topic] = self.create_publisher(kind, topic, event_callbacks=events, **overridable(qos))
        if not publishers:
            raise FileError(f"{self._names}: no topic that can be played; the bags have {', '.join(sorted(kinds))}")
        self._kinds = kinds
        return publishers

    def _chosen(self, kinds: dict[str, str]) -> list[str]:
        wanted = [name if name.startswith("/") else f"/{name}" for name in self.parameters["topics"] if name]
        if missing := [name for name in wanted if name not in kinds]:
            raise ValueError(
                f"parameter topics: {', '.join(missing)} is in none of the bags; they have {', '.join(sorted(kinds))}"
            )
        chosen = wanted or sorted(kinds)
        if self.parameters["publish_clock"] and CLOCK_TOPIC in chosen:
            self.get_logger().info("the bag's /clock is left out: this player publishes its own (publish_clock)")
            chosen = [name for name in chosen if name != CLOCK_TOPIC]
        return chosen

    @property
    def _names(self) -> str:
        return ", ".join(str(bag.path) for bag in self._bags)

    # ---- playing -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.get_logger().info(
                f"playing {len(self._on_topic)} topic(s) of {self._names} at {self.parameters['rate']:g} times the "
                "recorded speed"
            )
            again, gap = True, 0.0
            while again and not self._closing.is_set():
                before = self.published
                for bag in self._bags:
                    self._closing.wait(gap)
                    gap = self._play(bag)
                again = self.parameters["loop"] and not self._enough
                if self.published == before and not (self.failure or self._closing.is_set()):
                    self.failure = f"{self._names}: no message of {', '.join(self._on_topic)} can be read"
                    break
        except Exception as error:  # an ended context, or a defect: the end must be reported in any case
            if not self._closing.is_set() and self.context.ok():
                self.failure = repr(error)
        self._report_end()

    def _play(self, bag: BagStorage) -> float:
        """Play one bag. Returns the seconds to wait before the next one."""
        topics = [name for name, kind in bag.topics.items() if self._kinds[name] == kind and name in self._on_topic]
        messages = ReadAhead(bag.replay(topics))
        rate, shift, origin, begun = self.parameters["rate"], 0, None, 0
        times, last = 0, -1
        try:
            for message in messages:
                if self._closing.is_set() or self._enough:
                    break
                if origin is None:
                    origin = message.recorded
                    shift = self._shift(origin)
                    self._time.stand(origin + shift)
                    if not self._has_subscribers():
                        break
                    begun = time.monotonic_ns()
                    self._time.run(origin + shift, begun)
                elif (pause := message.recorded - last) > _PAUSE:
                    self._report_pause(bag, message.recorded, pause)
                    if pause > _JUMP:
                        origin += pause - _JUMP_LEFT
                        self._time.run(origin + shift, begun)
                self._time.wait_for(message.recorded + shift)
                if not self._until(begun + round((message.recorded - origin) / rate)):
                    break
                self._time.reach(message.recorded + shift)
                self._publish(bag, message)
                times += message.recorded != last
                last = message.recorded
                self._played_to = last + shift
        finally:
            messages.close()
        return max(_ROUND_GAP, 0.0 if origin is None else (last - origin) / max(times - 1, 1) * 1e-9 / rate)

    def _report_pause(self, bag: BagStorage, recorded: int, pause: int) -> None:
        """Tell of a pause of so many ns before the message that was recorded then."""
        if pause > _JUMP:
            text = f"the time recorded jumps by {pause * 1e-9:.2g} s at {recorded} ns, as that of a clock that was set"
            self.get_logger().warning(f"{bag.path}: {text}: {_JUMP_LEFT * 1e-9:g} s of it are waited for")
        else:
            wait = pause * 1e-9 / self.parameters["rate"]
            text = f"nothing was recorded for {pause * 1e-9:.3g} s: the next message is in {wait:.3g} s"
            self.get_logger().info(f"{bag.path}: {text}")

    def _shift(self, origin: int) -> int:
        """Return what is added to the times of a bag that begins at ``origin`` for ``/clock``, ns."""
        if self.parameters["restart_clock"] or self._played_to is None:
            return 0
        return max(0, self._played_to - origin)

    def _until(self, due: int) -> bool:
        """Wait until ``due`` of time.monotonic_ns(); False when the node is closed meanwhile."""
        ahead = (due - time.monotonic_ns()) * 1e-9
        if ahead > 0:
            return not self._closing.wait(ahead)
        if -ahead > _LATE_SECONDS:
            self.late += 1
            self._worst = max(self._worst, -ahead)
            self.get_logger().warning(
                f"{-ahead:.1f} s behind the recording's time; everything is played, as fast as it goes: lower rate, or "
                "play fewer topics",
                throttle_duration_sec=5.0,
            )
        return True

    def _publish(self, bag: BagStorage, message: RawMessage) -> None:
        try:
            if len(message.data) < _CDR_HEAD:
                raise ValueError(f"{len(message.data)} bytes are no message")
            self._on_topic[message.topic].publish(bytes(message.data))
        except (ValueError, TypeError) as error:
            if message.topic not in self._broken:
                self._broken.add(message.topic)
                self.get_logger().error(
                    f"{bag.path}, {message.topic} at {message.recorded} ns is left out, and others like it: {error}"
                )
            return
        self.published += 1

    @property
    def _enough(self) -> bool:
        count = self.parameters["count"]
        return bool(self.failure) or 0 < count <= self.published

    def _pair_topics(self) -> list[str]:
        """Return the topics of the stereo pair; all topics if there is none."""
        try:
            return [topic for topic in find_topics({topic: self._kinds[topic] for topic in self._on_topic}) if topic]
        except FileError:
            return list(self._on_topic)

    def _has_subscribers(self) -> bool:
        """Wait for the subscribers. Returns False when they did not appear, or the node is closed."""
        try:
            while not self._subscribers.check():
                if self._closing.wait(0.05):
                    return False
        except TimeoutError as error:
            self.failure = str(error)
            return False
        return True

    def _publish_clock(self, at: int) -> None:
        if self._clock_publisher is not None and self.context.ok():
            message = Clock()
            message.clock.sec, message.clock.nanosec = divmod(at, 1_000_000_000)
            self._clock_publisher.publish(message)

    # ---- the end -------------------------------------------------------------------------------------------

    def _report_end(self) -> None:
        if self.failure:
            self.get_logger().error(self.failure)
        elif self.context.ok():
            late = f"{self.late} of them late, by up to {self._worst:.1f} s" if self.late else "all in time"
            self.get_logger().info(f"played {self.published} message(s), {late}; the end of {self._names}")
        self.finished = True

    def destroy_node(self) -> None:
        """Stop playing, then destroy the node."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(5.0)
        super().destroy_node()


def _profile(offered: OfferedQos | None) -> QoSProfile:
    """Return the QoS as it was recorded; reliable where the bag does not say."""
    offered = offered or OfferedQos(True, False, _LEAST_DEPTH)
    return QoSProfile(
        depth=max(offered.depth, _LATCHED_DEPTH if offered.transient_local else _LEAST_DEPTH),
        reliability=ReliabilityPolicy.RELIABLE if offered.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if offered.transient_local else DurabilityPolicy.VOLATILE,
    )


def main(args: list[str] | None = None) -> int:
    """Play until the end, Ctrl-C or shutdown. Returns the exit code: 1 when nothing could be played."""
    return run_player("bag_player_node", BagPlayerNode, args)


if __name__ == "__main__":
    sys.exit(main())
