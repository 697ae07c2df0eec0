"""For the tests of data_logger_node: the node, and somebody who plays the cameras and reads what was recorded."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.storage import BagStorage
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.nodes.data_logger.node import DataLoggerNode
from support.nodes import RecordingLogger, Scene, User, pair_messages, wall
from support.waiting import wait_until

# Small and short, and no matter how full the disk of the machine is.
QUICK = {"before": 0.6, "after": 0.3, "free_floor": 0.0, "stall_timeout": 0.5, "cooldown": 0.2}


def small_wall(seed: int = 0, disparity: int = 12) -> Scene:
    return wall(disparity=disparity, seed=seed).half()


class LoggerBench(User):
    """A User with the logger in the same process; they talk over DDS, each with an executor and a thread of its own.

    With ``use_sim_time`` the pairs make the time: each is 0.05 s after the one before, whatever the machine does.
    """

    def __init__(self, domain: int, root: Path, *, latched: bool = False, **values: Any) -> None:
        self.root = root
        self.owner = Context()
        rclpy.init(context=self.owner, domain_id=domain)
        self.logger_node: DataLoggerNode | None = None
        super().__init__(self.owner, compressed=values.get("image_transport") == "compressed", latched=latched)
        self.values_given = values
        self.pair = pair_messages(small_wall())
        self.sent: list[int] = []
        self.called = self.answered = 0  # when a service was called and had answered, ns
        self.time = 1_000_000_000_000  # simulated, ns
        self._clock = self.node.create_publisher(Clock, "/clock", 10) if values.get("use_sim_time") else None
        self.begin()

    def begin(self) -> None:
        """Start the logger."""
        given = {"root": str(self.root), **QUICK, **self.values_given}
        self.logger_node = DataLoggerNode(
            context=self.owner, parameter_overrides=[Parameter(name, value=value) for name, value in given.items()]
        )
        logger = RecordingLogger(self.logged)
        self.logger_node.get_logger = lambda: logger
        self._node_executor = SingleThreadedExecutor(context=self.owner)
        self._node_executor.add_node(self.logger_node)
        self._node_thread = threading.Thread(target=self._spin_node, daemon=True)
        self._node_thread.start()
        self.wait(self.heard)

    def end(self) -> None:
        """Stop the logger; it completes its episode."""
        if self.logger_node is not None:
            self._node_executor.shutdown()
            self._node_thread.join(5.0)
            self.logger_node.destroy_node()
            self.logger_node = None

    def close(self) -> None:
        self.end()
        super().close()
        rclpy.shutdown(context=self.owner)

    def _spin_node(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._node_executor.spin()

    def send(self, pair: dict[str, Any], stamp: float | None = None, **offsets: float) -> int:
        """As User.send, and remembers the stamp."""
        self.sent.append(super().send(pair, stamp, **offsets))
        return self.sent[-1]

    def now(self) -> int:
        """The time of the logger and the cameras, ns."""
        return self.node.get_clock().now().nanoseconds if self._clock is None else self.time

    def advance(self, seconds: float) -> None:
        """Let simulated time pass; returns when the logger knows."""
        assert self._clock is not None and self.logger_node is not None
        self.time += round(seconds * 1e9)
        clock = self.logger_node.get_clock()
        message = Clock(clock=Time(nanoseconds=self.time).to_msg())
        wait_until(
            lambda: clock.now().nanoseconds == self.time, step=lambda: self._clock.publish(message), period=0.001
        )

    def play(self, done: Any, pair: dict[str, Any] | None = None) -> Any:
        """Play pairs at 20 Hz (or as fast as a busy logger takes them) until `done()` is true; returns that."""

        def step() -> None:
            inputs = self.logger_node.inputs if self.logger_node else None
            matched = inputs.matched if inputs else 0
            if self._clock is not None:
                self.advance(0.05)
            self.send(pair or self.pair, None if self._clock is None else self.time * 1e-9)
            if inputs:
                with contextlib.suppress(AssertionError):  # not every pair is one for the logger
                    wait_until(lambda: inputs.matched > matched, 0.5, period=0.002)

        return wait_until(done, step=step, period=0.05 if self._clock is None else 0.0, describe=self._last_lines)

    def play_pairs(self, count: int, pair: dict[str, Any] | None = None) -> None:
        """Play so many pairs."""
        end = len(self.sent) + count
        self.play(lambda: len(self.sent) >= end, pair=pair)

    def play_until_written(self, count: int, pair: dict[str, Any] | None = None) -> None:
        """Play pairs until so many are on the disk."""
        assert self.logger_node is not None
        recorder = self.logger_node.recorder
        self.play(lambda: recorder.counters()["written"] >= count, pair=pair)

    def call(self, service: str, playing: bool = True) -> Any:
        """The answer of `~/service`; meanwhile the cameras go on, if `playing`."""
        client = self.node.create_client(Trigger, f"data_logger_node/{service}")
        (self.play if playing else self.wait)(client.service_is_ready)
        self.called = self.now()
        future = client.call_async(Trigger.Request())
        (self.play if playing else self.wait)(future.done)
        self.answered = self.now()
        return future.result()

    def told(self) -> str:
        """What the status says in words."""
        status = self.status("recording")
        return "" if status is None else status.message

    def lines(self) -> list[dict[str, Any]]:
        """The manifest's lines of finished episodes."""
        path = self.root / "manifest.jsonl"
        lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if "pairs" in line]

    def episodes(self, count: int, playing: bool = True, pair: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The manifest's lines, as soon as there are so many."""
        done = lambda: len(self.lines()) >= count  # noqa: E731
        if playing:
            self.play(done, pair=pair)
        else:
            self.wait(done)
        return self.lines()

    def pairs(self, line: dict[str, Any]) -> list[StereoSample]:
        """The pairs of a finished episode, found as any reader of bags finds them."""
        return open_bag_pairs(self.root / line["name"])

    def messages(self, line: dict[str, Any], topic: str) -> list[bytes]:
        """The messages of a topic in a finished episode, as they lie there."""
        return [message.data for message in BagStorage(self.root / line["name"]).scan([topic])]

    def settled(self) -> dict[str, int]:
        """The recorder's account once nothing waits for the disk."""
        assert self.logger_node is not None
        recorder = self.logger_node.recorder
        return self.wait(lambda: recorder.counters() if recorder.counters()["in_queue"] == 0 else None)


@contextlib.contextmanager
def logger_bench(domain: int, root: Path, **values: Any) -> Iterator[LoggerBench]:
    """A LoggerBench for the length of a test."""
    made = LoggerBench(domain, root, **values)
    try:
        yield made
    finally:
        made.close()


def balanced(account: dict[str, int]) -> bool:
    """Whether every pair that was offered is somewhere."""
    return account["offered"] == sum(count for name, count in account.items() if name != "offered")
