"""Frames of ``/tf`` and ``/tf_static``, by ``tf2_msgs`` alone: of tf2_ros there are no wheels."""

from __future__ import annotations

import bisect
import operator
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from fg_depth_ros.data.io.messages import stamp_ns
from fg_depth_ros.data.io.transforms import Transform, chain
from fg_depth_ros.files import FileError
from fg_depth_ros.nodes.common.message_classes import message_class

_STAMP = operator.itemgetter(0)
MAX_AGE = 1.0
"""Seconds between a moving transform and the time it is wanted for."""
_KEPT = 10_000_000_000  # ns of moving transforms, as tf2 keeps them: a pair may be matched for seconds
_BACK = 1_000_000_000  # ns that they may come out of order


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
    """The transforms to each frame, from messages: the static one, or moving ones of the last seconds. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._static: dict[str, Transform] = {}  # by child
        self._moving: dict[str, list[tuple[int, Transform]]] = {}  # by child, with their stamps, ns, in their order

    def add(self, message: Any, static: bool) -> None:
        """Take over the transforms of a TFMessage; what is no transform is left out."""
        for each in message.transforms:
            try:
                found = Transform.from_message(each, "/tf")
            except FileError:
                continue
            with self._lock:
                if static:
                    self._static[found.child] = found
                    self._moving.pop(found.child, None)
                else:
                    self._static.pop(found.child, None)
                    self._add_moving(stamp_ns(each.header), found)

    def _add_moving(self, stamp: int, found: Transform) -> None:
        """Add a moving transform; drop those that are too old, or all where time went back (a recording again)."""
        kept = self._moving.setdefault(found.child, [])
        if kept and stamp < kept[-1][0] - _BACK:
            kept.clear()
        bisect.insort(kept, (stamp, found), key=_STAMP)
        del kept[: bisect.bisect_left(kept, kept[-1][0] - _KEPT, key=_STAMP)]

    def connected(self, target: str, source: str) -> bool:
        """Tell whether transforms lead from frame ``source`` to ``target``, at whatever time."""
        with self._lock:
            newest = [moving[-1][1] for moving in self._moving.values()]
            return _chain([*self._static.values(), *newest], target, source) is not None

    def between(self, target: str, source: str, stamp: int) -> np.ndarray | None:
        """Return the 4 x 4 that takes points of frame ``source`` into ``target``; None where no transforms lead there.

        Of moving transforms the one nearest to ``stamp``, ns, counts, within ``MAX_AGE``; they are not interpolated.
        """
        with self._lock:
            nearest = [_nearest(moving, stamp) for moving in self._moving.values()]
            usable = [found for at, found in nearest if abs(at - stamp) <= MAX_AGE * 1e9]
            usable += self._static.values()
        return _chain(usable, target, source)


def _nearest(moving: list[tuple[int, Transform]], stamp: int) -> tuple[int, Transform]:
    place = bisect.bisect_left(moving, stamp, key=_STAMP)
    return min(moving[max(place - 1, 0) : place + 1], key=lambda entry: abs(entry[0] - stamp))


def _chain(transforms: Iterable[Transform], target: str, source: str) -> np.ndarray | None:
    try:
        return chain(transforms, target, source, "/tf")
    except FileError:
        return None
