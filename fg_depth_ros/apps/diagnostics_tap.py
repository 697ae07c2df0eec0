"""`python -m fg_depth_ros.apps.diagnostics_tap`: what nodes say on /diagnostics, one JSON object a line.

For a parent process that has no ROS itself: {"status name": {"level": 0, "message": "...", "values": {...}}}.
"""

from __future__ import annotations

import json
import sys

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile


def as_json(array: DiagnosticArray) -> str:
    """A DiagnosticArray as one line."""
    return json.dumps(
        {
            status.name: {
                "level": ord(status.level),
                "message": status.message,
                "values": {item.key: item.value for item in status.values},
            }
            for status in array.status
        }
    )


def main(args: list[str] | None = None) -> int:
    """Listen until it is interrupted."""
    rclpy.init(args=args)
    try:
        node = rclpy.create_node("diagnostics_tap")

        def told(array: DiagnosticArray) -> None:
            sys.stdout.write(as_json(array) + "\n")
            sys.stdout.flush()

        node.create_subscription(DiagnosticArray, "/diagnostics", told, QoSProfile(depth=100))
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
