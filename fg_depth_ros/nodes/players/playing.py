"""What the player nodes share: they wait for their subscribers, and run until the end of what they play."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher

from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import RigError
from fg_depth_ros.nodes.common.running import run_node

CLOCK_RATE = 40.0  # Hz of /clock, as `ros2 bag play --clock`
SETTLE_SECONDS = 1.0


class SubscriberWait:
    """Waits until topics have their subscribers.

    The two ends of a topic discover each other one after the other, and no event tells a publisher that a subscriber
    has discovered it. So everything must have been complete for ``SETTLE_SECONDS``.
    """

    def __init__(
        self, node: Node, counts: Mapping[Publisher, int], timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin to wait for so many subscribers of each publisher; ``timeout``: seconds, 0 waits on."""
        self._node, self._counts, self._timeout, self._clock = node, counts, timeout, clock
        self._begun = clock()
        self._complete: float | None = None
        self._done = not any(counts.values())

    def check(self) -> bool:
        """Return whether all subscribers are there; call it several times a second.

        Raises TimeoutError: they have not appeared in time; the message names topics and numbers.
        """
        if self._done:
            return True
        now = self._clock()
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


def subscriber_counts(
    pair: Sequence[Publisher], publishers: Mapping[str, Publisher], count: int, topics: Sequence[str]
) -> dict[Publisher, int]:
    """Return the number of subscribers to wait for by publisher.

    ``pair``: publishers of the stereo pair; ``publishers``: of all topics by the names that ``topics`` may use.
    ``count`` and ``topics`` are the parameters ``wait_for_subscribers`` and ``wait_for_topics``.

    Raises ValueError: an entry of ``topics`` is no TOPIC=NUMBER, or not a topic that is played.
    """
    counts = dict.fromkeys(pair, count)
    for entry in filter(None, topics):
        topic, _, number = entry.rpartition("=")
        if not topic or not number.isdecimal():
            raise ValueError(f"parameter wait_for_topics: '{entry}' is no TOPIC=NUMBER, such as left/camera_info=2")
        if topic not in publishers:
            raise ValueError(
                f"parameter wait_for_topics: {topic} is not played; there are {', '.join(sorted(publishers))}"
            )
        counts[publishers[topic]] = int(number)
    return counts


def run_player(name: str, make: Callable[[], Any], args: list[str] | None) -> int:
    """Run a player until its end, Ctrl-C or shutdown; returns the exit code, 1 when nothing could be played.

    ``make`` makes the node, with ``finished``, ``failure`` and ``wait_until_acknowledged(seconds)``; FileError,
    RigError and ValueError end it with one line. ``name``: of the logger for what is wrong before there is a node.
    """
    failure = ""

    def spin(node: Any, executor: SingleThreadedExecutor) -> None:
        nonlocal failure
        while not node.finished:
            executor.spin_once(timeout_sec=0.1)
        failure = node.failure
        node.wait_until_acknowledged(2.0)
        # Best-effort subscribers acknowledge nothing: give the last messages time to be read.
        time.sleep(0.5)

    started = run_node(name, make, spin, args, refusals=(FileError, RigError, ValueError))
    return 1 if failure or not started else 0
