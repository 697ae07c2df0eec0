"""The end of simulated time."""

from __future__ import annotations

from rclpy.node import Node

CLOCK_ENDED_TEXT = (
    "no stereo pair, and /clock has no publisher any more: the recording or the simulation has ended; start it again"
)
"""What a status says after ``clock_has_ended``."""


def clock_has_ended(node: Node) -> bool:
    """Return whether simulated time ran and has no publisher any more: a recording was played to its end."""
    clock = node.get_clock()
    return bool(clock.ros_time_is_active and clock.now().nanoseconds and not node.count_publishers("/clock"))
