"""Frames of ``/tf`` and ``/tf_static``, by ``tf2_msgs`` alone: of tf2_ros there are no wheels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from fg_depth_ros.data.io.messages import stamp_ns
from fg_depth_ros.data.io.transforms import Transform, chain
from fg_depth_ros.files import FileError
from fg_depth_ros.nodes.common.message_classes import message_class

_STALE = 1_000_000_000  # ns between a moving transform and the time it is wanted for


def subscribe_frames(node: Node, on_message: Callable[[Any, bool], None]) -> list[Any]:
    """Call ``on_message(TFMessage, static)`` for every message of the subscriptions that are returned.

    Raises ValueError: tf2_msgs is not installed.
    """
    kind = message_class("tf2_msgs/msg/TFMessage")
    latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    return [
        node.create_subscription(kind, "/tf_static", lambda message: on_message(message, True), latched),
        node.create_subscription(kind, "/tf", lambda message: on_message(message, False), QoSProfile(depth=100)),
    ]


class Frames:
    """The newest transform to each frame, from messages. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, tuple[Transform, int | None]] = {}  # by child; with the stamp of a moving one, ns

    def add(self, message: Any, static: bool) -> None:
        """Take over the transforms of a TFMessage; what is no transform is left out."""
        for each in message.transforms:
            shift, turn = each.transform.translation, each.transform.rotation
            try:
                found = Transform.of(
                    each.header.frame_id, each.child_frame_id, (shift.x, shift.y, shift.z),
                    (turn.x, turn.y, turn.z, turn.w), "/tf",
                )  # fmt: skip
            except FileError:
                continue
            with self._lock:
                self._found[found.child] = found, None if static else stamp_ns(each.header)

    def between(self, target: str, source: str, stamp: int) -> np.ndarray | None:
        """Return the 4 x 4 that takes points of frame ``source`` into ``target``; None where no transforms lead there.

        Moving transforms count within a second of ``stamp``, ns; they are not interpolated.
        """
        with self._lock:
            usable = [t for t, at in self._found.values() if at is None or abs(at - stamp) <= _STALE]
        try:
            return chain(usable, target, source, "/tf")
        except FileError:
            return None
