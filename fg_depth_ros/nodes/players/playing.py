"""Base of the player nodes: they wait for their subscribers, and run until the end of their source."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher

from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import RigError
from fg_depth_ros.nodes.common.parameters import ParameterTable
from fg_depth_ros.nodes.common.running import run_node

CLOCK_RATE = 40.0  # Hz of /clock, as `ros2 bag play --clock`
SETTLE_SECONDS = 1.0


class PlayerNode(Node):
    """Base of the players. ``finished``: there is no more to play; ``failure``: why it ended with an error.

    Raises ValueError: a parameter that is out of range.
    """

    def __init__(self, table: ParameterTable, **kwargs: Any) -> None:
        super().__init__(table.node, **kwargs)
        self.parameters = table.declare(self)
        if self.parameters.problems:
            raise ValueError("; ".join(self.parameters.problems))
        self.finished, self.failure = False, ""
        self.published = 0  # pairs or messages
        self._on_topic: dict[str, Publisher] = {}
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)

    def wait_until_acknowledged(self, seconds: float) -> None:
        """Wait until reliable subscribers have everything, at most this long."""
        end = time.monotonic() + seconds
        for publisher in self._on_topic.values():
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, end - time.monotonic())))


class SubscriberWait:
    """Waits until topics have their subscribers.

    The two ends of a topic discover each other one after the other, and no event tells a publisher that a subscriber
    has discovered it. So everything must have been complete for ``SETTLE_SECONDS``.
    """

    def __init__(self, node: PlayerNode, pair: Iterable[str], publishers: Mapping[str, Publisher]) -> None:
        """Begin to wait for what the parameters ``wait_for_*`` ask for; ``pair``: the topics of the stereo pair.

        Raises ValueError: an entry of wait_for_topics is no TOPIC=NUMBER, or not a topic that is played.
        """
        self._node, self._timeout = node, node.parameters["wait_timeout"]
        self._counts = {publishers[topic]: node.parameters["wait_for_subscribers"] for topic in pair}
        for entry in filter(None, node.parameters["wait_for_topics"]):
            topic, _, number = entry.rpartition("=")
            if not topic or not number.isdecimal():
                raise ValueError(f"parameter wait_for_topics: '{entry}' is no TOPIC=NUMBER, such as left/camera_info=2")
            publisher = publishers.get(topic) or publishers.get(f"/{topic}")
            if publisher is None:
                there = ", ".join(sorted(publishers))
                raise ValueError(f"parameter wait_for_topics: {topic} is not played; there are {there}")
            self._counts[publisher] = int(number)
        self._begun = time.monotonic()
        self._complete: float | None = None
        self._done = not any(self._counts.values())

    def check(self) -> bool:
        """Return whether all subscribers are there; call it several times a second.

        Raises TimeoutError: they have not appeared in time; the message names topics and numbers.
        """
        if self._done:
            return True
        now = time.monotonic()
        missing = {
            publisher.topic_name: (found, wanted)
            for publisher, wanted in self._counts.items()
            if (found := publisher.get_subscription_count()) < wanted
        }
        if not missing:
            self._complete = now if self._complete is None else self._complete
            self._done = now - self._complete >= SETTLE_SECONDS
            return self._done
        self._complete = None
        text = ", ".join(f"{topic} has {found} subscriber(s) of {wanted}" for topic, (found, wanted) in missing.items())
        if self._timeout and now - self._begun > self._timeout:
            raise TimeoutError(
                f"{text} after {now - self._begun:.0f} s: start the subscribers, or lower wait_for_subscribers or "
                "wait_for_topics"
            )
        self._node.get_logger().info(f"waiting: {text}", throttle_duration_sec=5.0, skip_first=True)
        return False


def run_player(name: str, make: Callable[[], PlayerNode], args: list[str] | None) -> int:
    """Run a player until its end, Ctrl-C or shutdown; returns the exit code, 1 when nothing could be played."""
    failure = ""

    def spin(node: PlayerNode, executor: SingleThreadedExecutor) -> None:
        nonlocal failure
        while not node.finished:
            executor.spin_once(timeout_sec=0.1)
        failure = node.failure
        node.wait_until_acknowledged(2.0)
        # Best-effort subscribers acknowledge nothing: give the last messages time to be read.
        time.sleep(0.5)

    started = run_node(name, make, spin, args, refusals=(FileError, RigError, ValueError))
    return 1 if failure or not started else 0
