"""Quality of service of the topics: defaults, what users may override, and the log lines where it does not fit."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
    qos_profile_system_default,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

_PACKETS = 30  # of video that wait while the node is busy: a second
_POLICIES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
_OVERRIDES = QoSOverridingOptions(_POLICIES)


def overridable(qos: QoSProfile) -> dict[str, Any]:
    """Return arguments of a publisher or subscription with this profile, whose policies users may override.

    rclpy writes the overrides into the profile: each topic gets a copy of its own.
    """
    return {"qos_profile": copy.copy(qos), "qos_overriding_options": _OVERRIDES}


def given_overrides(node: Node, topic: str) -> QoSOverridingOptions:
    """Return the policies that the user overrides for a topic (resolved) that may be subscribed to again.

    No others are declared: a parameter would keep the policy of the first subscription for the next ones.
    """
    given = getattr(node, "_parameter_overrides", {})  # rclpy has no public way to read them
    name = f"qos_overrides.{topic}.subscription."
    return QoSOverridingOptions([kind for kind in _POLICIES if name + kind.name.lower() in given])


def sensor_data(depth: int = 1) -> QoSProfile:
    """Return best effort with depth 1: a queue in front of a slow consumer only adds latency."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


def input_qos(system_default: bool, *, every: bool = False) -> QoSProfile:
    """Return the profile of an input: of sensor data, or the middleware's default.

    ``every``: each message counts, as those of video do, where one that is replaced costs all up to the next key frame.
    """
    return qos_profile_system_default if system_default else sensor_data(_PACKETS if every else 1)


@contextlib.contextmanager
def naming_overrides(topic: str, end: str) -> Iterator[None]:
    """Let what goes wrong within, where a publisher or subscription is made, name its topic and the remedy.

    ``topic``: resolved; ``end``: publisher or subscription. Raises ValueError for any exception.
    """
    try:
        yield
    except Exception as error:  # of rclpy, of a kind for each mistake
        raise ValueError(
            f"no {end} of {topic}: {error}; where qos_overrides.{topic}.{end} is given, check its values (such as "
            "reliability: reliable) and start the node again"
        ) from error


def _log_incompatible(node: Node, topic: str, text: str, end: str) -> Callable[[Any], None]:
    def log(event: Any) -> None:
        name, policy = node.resolve_topic_name(topic), str(event.last_policy_kind)
        with contextlib.suppress(KeyError, ValueError):
            policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        way_out = f"or set the parameter qos_overrides.{name}.{end}.{policy}"
        node.get_logger().error(f"{name}: {text.format(policy=policy)}, {way_out}")

    return log


def subscription_events(node: Node, topic: str) -> SubscriptionEventCallbacks:
    """Return callbacks that log publishers with an incompatible QoS."""
    text = "a publisher offers an incompatible {policy}, nothing will be received from it: change the publisher"
    return SubscriptionEventCallbacks(incompatible_qos=_log_incompatible(node, topic, text, "subscription"))


def publisher_events(node: Node, topic: str) -> PublisherEventCallbacks:
    """Return callbacks that log subscribers with an incompatible QoS."""
    text = "a subscriber asks for an incompatible {policy}, nothing will be sent to it: change the subscriber"
    # Without the defaults: every event costs time in every wait, and a subscriber of another type logs that itself.
    return PublisherEventCallbacks(
        incompatible_qos=_log_incompatible(node, topic, text, "publisher"), use_default_callbacks=False
    )


class CameraInfoSubscription:
    """A subscription to a camera_info: latched where all publishers of the topic are, so that it gets their last one.

    A camera_info that was sent once, at the start of its driver, comes to no other subscription, and one of a publisher
    that does not latch comes to no latched one: call ``follow`` periodically. The user's overrides go first; raises
    ValueError where they cannot be used.

    Args:
        topic: resolved.
        qos: profile while not all publishers latch.
        events: callbacks; default: ``subscription_events``.
        raw: whether ``callback`` gets serialized messages.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        callback: Callable[..., None],
        qos: QoSProfile,
        *,
        events: SubscriptionEventCallbacks | None = None,
        raw: bool = False,
    ) -> None:
        self._node, self._topic, self._callback, self._qos, self._raw = node, topic, callback, qos, raw
        self._events = subscription_events(node, topic) if events is None else events
        self._overrides = given_overrides(node, topic)
        self._latched = False
        self._subscription = self._subscribe()

    def follow(self) -> bool:
        """Subscribe again if the publishers have become latched ones, or no longer are; return whether it was so."""
        offers = [info.qos_profile for info in self._node.get_publishers_info_by_topic(self._topic)]
        latched = all(
            offer.durability == DurabilityPolicy.TRANSIENT_LOCAL and offer.reliability == ReliabilityPolicy.RELIABLE
            for offer in offers
        )
        if not offers or latched == self._latched:
            return False
        self.destroy()
        self._latched = latched
        self._subscription = self._subscribe()
        return True

    def destroy(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def is_kept(self, info: Any) -> bool:
        """Tell by rclpy's message info whether a message had been published before it was subscribed to."""
        return self._latched and 0 < info.get("source_timestamp", 0) < self._since

    def _subscribe(self) -> Subscription:
        qos = copy.copy(self._qos)
        if self._latched:
            qos.reliability, qos.durability = ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL
        self._since = time.time_ns()
        with naming_overrides(self._topic, "subscription"):
            return self._node.create_subscription(
                CameraInfo, self._topic, self._callback, qos,
                event_callbacks=self._events, qos_overriding_options=self._overrides, raw=self._raw,
            )  # fmt: skip
