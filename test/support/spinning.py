"""A node in the test's own process whose messages a thread takes in, beside processes under test."""

from __future__ import annotations

import threading

import rclpy
from rclpy.executors import SingleThreadedExecutor

from fg_depth_ros.apps.processes import ProcessGroup


class SpinningNode:
    """A node with a context of its own, spun by a thread until it is closed. ``group``: the processes under test."""

    def __init__(self, group: ProcessGroup, name: str) -> None:
        self.group = group
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node(name, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def start(self) -> None:
        """Spin from now on; the node has its subscriptions."""
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(5)
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def _spin(self) -> None:
        while not self._closing.is_set():
            self.executor.spin_once(timeout_sec=0.05)
