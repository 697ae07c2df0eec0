"""Read /diagnostics of nodes for programs without ROS: the states and codes of ``nodes.common.codes``.

As a program it needs ROS:

    python -m fg_depth_ros.apps.node_status                                   # every report as one line of JSON
    python -m fg_depth_ros.apps.node_status stereo_depth_node state=active --timeout 120
    python -m fg_depth_ros.apps.node_status data_logger_node episode!=none

With a node's name it waits until the node's keys have these values. Exit status 1, with the reason, when the node
refuses its configuration or the time is up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from typing import Any, NamedTuple

from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.nodes.common.codes import FaultCode, NodeState


class Status(NamedTuple):
    """One DiagnosticStatus of a node."""

    message: str
    values: dict[str, str]


class NodeStatusMonitor:
    """The last statuses of all nodes that report. Thread-safe.

    A node is named without the first slash; its namespace may be left out, where no node without one has that name.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[str, dict[str, Status]] = {}  # node -> part
        self._reports: dict[str, int] = {}

    def on_line(self, line: str) -> None:
        """Take in a line that the program wrote; other lines are ignored, also JSON of another form."""
        with contextlib.suppress(ValueError):
            report = json.loads(line)
            if isinstance(report, dict) and all(map(_is_status, report.values())):
                self.update(report)

    def update(self, report: dict[str, Any]) -> None:
        """Take in one report: {"node: part": {"message": "...", "values": {...}}}."""
        with self._lock:
            for name in {name.partition(": ")[0] for name in report}:
                self._reports[name] = self._reports.get(name, 0) + 1
            for name, status in report.items():
                node, _, part = name.partition(": ")
                self._statuses.setdefault(node, {})[part] = Status(status["message"], status["values"])

    def reports(self, node: str) -> int:
        """Return how many reports of a node came so far."""
        with self._lock:
            return self._reports.get(self._full_name(node), 0)

    def values(self, node: str) -> dict[str, str]:
        """Return the keys of all statuses of a node, without its ``reason`` and ``faults``; empty before the first."""
        with self._lock:
            parts = self._statuses.get(self._full_name(node), {})
            merged = {key: value for status in parts.values() for key, value in status.values.items()}
        return {key: value for key, value in merged.items() if key not in (keys.REASON, keys.FAULTS)}

    def is_active(self, node: str) -> bool:
        """Return whether the node reports ``state`` active."""
        return self.values(node).get(keys.STATE) == NodeState.ACTIVE

    def refusal(self, node: str) -> str | None:
        """Return the message of a node that refuses its configuration; None while it does not."""
        with self._lock:
            for status in self._statuses.get(self._full_name(node), {}).values():
                if status.values.get(keys.REASON) == FaultCode.NOT_CONFIGURED:
                    return status.message
        return None

    def _full_name(self, node: str) -> str:
        if node in self._reports:
            return node
        return next((name for name in self._reports if name.endswith(f"/{node}")), node)


def _is_status(value: Any) -> bool:
    """Return whether a value of a report has the form that ``update`` takes."""
    return isinstance(value, dict) and isinstance(value.get("message"), str) and isinstance(value.get("values"), dict)


class Condition(NamedTuple):
    """A key of a node's diagnostics that has a value, or has not."""

    key: str
    value: str
    equal: bool = True

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse ``KEY=VALUE`` or ``KEY!=VALUE``. Raises argparse.ArgumentTypeError."""
        key, sign, value = text.partition("=")
        if not sign or not key.rstrip("!"):
            raise argparse.ArgumentTypeError(f"'{text}' is no condition: give KEY=VALUE or KEY!=VALUE")
        return cls(key.removesuffix("!"), value, not key.endswith("!"))

    def holds(self, values: dict[str, str]) -> bool:
        """Return whether the key is there and fulfils the condition."""
        return self.key in values and (values[self.key] == self.value) is self.equal


def main(args: list[str] | None = None) -> int:
    """Print reports, or wait for conditions. Returns the exit code."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import QoSProfile
    from rclpy.utilities import remove_ros_args

    words = sys.argv if args is None else ["node_status", *args]
    parser = argparse.ArgumentParser(prog="node_status", description="Print or wait for the state of nodes.")
    parser.add_argument("node", nargs="?", help="full name without the first slash; empty prints all reports")
    parser.add_argument("conditions", nargs="*", type=Condition.parse, help="KEY=VALUE or KEY!=VALUE; all must hold")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait")
    options = parser.parse_args(remove_ros_args(words)[1:])
    monitor = NodeStatusMonitor()

    def on_report(array: DiagnosticArray) -> None:
        report = {
            status.name: {"message": status.message, "values": {item.key: item.value for item in status.values}}
            for status in array.status
        }
        monitor.update(report)
        if options.node is None:
            with contextlib.suppress(OSError):  # the reader has ended
                sys.stdout.write(json.dumps(report) + "\n")
                sys.stdout.flush()

    rclpy.init(args=words)
    own = rclpy.create_node("node_status", enable_rosout=False, start_parameter_services=False)
    try:
        own.create_subscription(DiagnosticArray, "/diagnostics", on_report, QoSProfile(depth=100))
        if options.node is None:
            rclpy.spin(own)
        return _wait(own, monitor, options) if options.node else 0
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130 if options.node else 0
    finally:
        own.destroy_node()  # before its context: rclpy's clean-up at exit may crash otherwise
        rclpy.try_shutdown()


def _wait(own: Any, monitor: NodeStatusMonitor, options: argparse.Namespace) -> int:
    import rclpy

    end = time.monotonic() + options.timeout
    while time.monotonic() < end:
        rclpy.spin_once(own, timeout_sec=0.2)
        values = monitor.values(options.node)
        if (refusal := monitor.refusal(options.node)) is not None:
            sys.stderr.write(f"{options.node}: {refusal}\n")
            return 1
        if values and all(condition.holds(values) for condition in options.conditions):
            return 0
    found = {condition.key: values.get(condition.key) for condition in options.conditions} if values else "no report"
    sys.stderr.write(f"{options.node}: waited {options.timeout:g} s in vain; last: {found}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
