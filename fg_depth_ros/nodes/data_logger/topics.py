"""Topics of any type as serialized bytes: found in the graph, subscribed to when they appear."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from fg_depth_ros.data.bags.storage import DISPARITY, IMAGES
from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.nodes.common.codes import FaultSubject, RecorderFault
from fg_depth_ros.nodes.common.diagnostics import WARN, Faults
from fg_depth_ros.nodes.common.message_classes import message_class
from fg_depth_ros.nodes.common.message_loss import MessageLoss
from fg_depth_ros.nodes.common.qos import given_overrides, naming_overrides, subscription_events
from fg_depth_ros.recording.definitions import Message, Topic, qos_yaml

TOPIC_FAULTS = (FaultSubject.TOPICS,)
_WARN_SECONDS = 5.0  # before a topic without publishers is worth a warning
_LATCHED = 500  # messages of a latched topic, of all publishers, that are recorded again in the next episode
_LATCHED_BYTES = 4 << 20  # of them together: they are all written at once, in addition to the pairs


@dataclass
class Use:
    """How a topic is used: whether it is recorded, and what is called with its bytes."""

    record: bool
    callback: Callable[[bytes], None] | None = None


class _Latched:
    """The newest messages of a latched topic, within the bounds above; the last one whatever its size."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self._bytes = 0

    def add(self, data: bytes) -> None:
        """Keep a message, and let go of the oldest ones that are too many or too large with it."""
        self.messages.append(data)
        self._bytes += len(data)
        while len(self.messages) > 1 and (len(self.messages) > _LATCHED or self._bytes > _LATCHED_BYTES):
            self._bytes -= len(self.messages.popleft())


class _Offer(NamedTuple):
    """What every publisher of a topic offers: a subscription that asks for more would not match the others."""

    reliable: bool
    latched: bool

    @classmethod
    def of(cls, publishers: Sequence[Any]) -> _Offer:
        profiles = [info.qos_profile for info in publishers]
        return cls(
            all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in profiles),
            all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles),
        )


@dataclass
class _Subscribed:
    topic: Topic
    offer: _Offer
    subscription: Any
    latched: _Latched | None  # what the next episode begins with
    loss: MessageLoss


class GraphTopics:
    """Subscribes to topics by name alone, with the type and QoS of their publishers.

    For the executor's thread, but for ``latched``.

    Args:
        wanted: returns the topics to subscribe to now: resolved name -> Use.
        depth: messages that the middleware keeps while the node is busy.
        now: the node's time, ns; 0 while it is not known.
        record: called with every message to record.
    """

    def __init__(
        self,
        node: Node,
        wanted: Callable[[], Mapping[str, Use]],
        depth: int,
        now: Callable[[], int],
        record: Callable[[Topic, Message], None],
        faults: Faults,
    ) -> None:
        self._node, self._wanted, self._depth, self._now, self._record = node, wanted, depth, now, record
        self._faults = faults
        self._lock = threading.Lock()  # of what ``latched`` reads
        self._subscribed: dict[str, _Subscribed] = {}
        self._lost_before = 0  # by earlier subscriptions
        self._uses: Mapping[str, Use] = {}
        self._waiting: dict[str, tuple[float, str]] = {}  # since when, and why
        self.received: Counter[str] = Counter()

    def update(self) -> None:
        """Subscribe to topics that have appeared, unsubscribe from those no longer wanted; call it repeatedly.

        A topic whose publishers now are of another type, offer less than was asked for, or have become latched, is
        subscribed to again.
        """
        self._uses = self._wanted()
        for name in list(self._subscribed):
            if name not in self._uses:
                self._unsubscribe(name)
            elif (changed := self._change(name)) is not None:
                self._node.get_logger().warning(f"{name}: subscribed again: {changed}")
                self._unsubscribe(name)
        for name in self._uses:
            if name not in self._subscribed:
                self._try(name)
        self._waiting = {name: entry for name, entry in self._waiting.items() if name in self._uses}
        late = [why for since, why in self._waiting.values() if time.monotonic() - since > _WARN_SECONDS]
        if late:
            self._faults.report(FaultSubject.TOPICS, WARN, "; ".join(late), RecorderFault.WAITING)
        else:
            self._faults.clear(FaultSubject.TOPICS)

    def latched(self) -> list[tuple[Topic, bytes]]:
        """Return the last messages of latched topics, for an episode that begins. Any thread may call it.

        Not images: one of long ago would pass for a new one.
        """
        with self._lock:
            return [
                (found.topic, data)
                for name, found in self._subscribed.items()
                if found.latched is not None and self._is_recorded(name)
                for data in found.latched.messages
            ]

    def values(self) -> dict[str, str]:
        """Return keys for a DiagnosticStatus."""
        values = {f"{name} received": str(count) for name, count in sorted(self.received.items())}
        values |= {
            f"{name}{keys.LOST_ON_THE_WAY}": str(found.loss.lost) for name, found in sorted(self._subscribed.items())
        }
        return values | {f"{name} waits": why for name, (_, why) in sorted(self._waiting.items())}

    @property
    def lost(self) -> int:
        """Number of messages of recorded topics that were lost on the way so far."""
        lost = (found.loss.lost for name, found in self._subscribed.items() if self._is_recorded(name))
        return self._lost_before + sum(lost)

    def _is_recorded(self, name: str) -> bool:
        return (use := self._uses.get(name)) is not None and use.record

    def _unsubscribe(self, name: str) -> None:
        with self._lock:
            found = self._subscribed.pop(name)
        self._lost_before += found.loss.lost if self._is_recorded(name) else 0
        self._node.destroy_subscription(found.subscription)

    def _change(self, name: str) -> str | None:
        """Return why the subscription does not suit the publishers there are now; None: it does."""
        found, publishers = self._subscribed[name], self._node.get_publishers_info_by_topic(name)
        types = {info.topic_type for info in publishers}
        if not publishers or (found.topic.msgtype in types and len(types) > 1):  # until the earlier ones are gone
            return None
        if found.topic.msgtype not in types:
            return f"it was {found.topic.msgtype} and is now {' and '.join(sorted(types))}"
        offer = _Offer.of(publishers)
        if found.offer.reliable and not offer.reliable:
            return "a publisher is best-effort now"
        if found.offer.latched and not offer.latched:
            return "a publisher is no longer latched"
        if offer.latched and not found.offer.latched:
            return "it is latched now"
        return None

    def _try(self, name: str) -> None:
        publishers = self._node.get_publishers_info_by_topic(name)
        since = self._waiting.get(name, (time.monotonic(), ""))[0]
        types = sorted({info.topic_type for info in publishers})
        if not publishers:
            self._waiting[name] = (since, f"{name}: nobody publishes it yet")
            return
        try:
            if len(types) > 1:
                raise ValueError(f"it is published as {' and as '.join(types)}: rename one of them")
            self._subscribe(name, types[0], publishers)
        except ValueError as error:
            self._waiting[name] = (since - _WARN_SECONDS, f"{name} is not recorded: {error}")
            return
        if self._waiting.pop(name, None) is not None:
            self._node.get_logger().info(f"{name} ({types[0]}) has appeared")

    def _subscribe(self, name: str, kind: str, publishers: Sequence[Any]) -> None:
        offer = _Offer.of(publishers)
        repeated = _Latched() if offer.latched and kind not in (*IMAGES, DISPARITY) else None
        qos = QoSProfile(
            depth=max(self._depth, _LATCHED) if repeated is not None else self._depth,
            reliability=ReliabilityPolicy.RELIABLE if offer.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if offer.latched else DurabilityPolicy.VOLATILE,
        )
        events, loss = subscription_events(self._node, name), MessageLoss()
        events.message_lost = loss.on_lost
        message = message_class(kind)
        with naming_overrides(name, "subscription"):
            subscription = self._node.create_subscription(
                message,
                name,
                loss.counting(functools.partial(self._on_message, name)),
                raw=True,
                event_callbacks=events,
                qos_profile=qos,
                qos_overriding_options=given_overrides(self._node, name),
            )
        qos = subscription.qos_profile
        offered = qos_yaml(int(qos.history), qos.depth, int(qos.reliability), int(qos.durability))
        with self._lock:
            self._subscribed[name] = _Subscribed(Topic(name, kind, offered), offer, subscription, repeated, loss)

    def _on_message(self, name: str, data: bytes) -> None:
        found, use = self._subscribed.get(name), self._uses.get(name)
        if found is None or use is None:
            return  # it was unsubscribed meanwhile
        if use.record:
            self.received[name] += 1
            if found.latched is not None:
                with self._lock:
                    found.latched.add(data)
            if now := self._now():
                self._record(found.topic, Message(name, now, data))
        if use.callback is not None:
            use.callback(data)
