"""Quality of service of the topics: defaults, what users may override, and the log lines where it does not fit."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
    qos_profile_system_default,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

_PACKETS = 30  # of video that wait while the node is busy: a second
_OVERRIDES = QoSOverridingOptions(
    (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
)


def overridable(qos: QoSProfile) -> dict[str, Any]:
    """Return arguments of a publisher or subscription with this profile, whose policies users may override.

    rclpy writes the overrides into the profile: each topic gets a copy of its own.
    """
    return {"qos_profile": copy.copy(qos), "qos_overriding_options": _OVERRIDES}


def sensor_data(depth: int = 1) -> QoSProfile:
    """Return best effort with depth 1: a queue in front of a slow consumer only adds latency."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


def input_qos(system_default: bool, *, every: bool = False) -> QoSProfile:
    """Return the profile of an input: of sensor data, or the middleware's default.

    ``every``: each message counts, as those of video do, where one that is replaced costs all up to the next key frame.
    """
    return qos_profile_system_default if system_default else sensor_data(_PACKETS if every else 1)


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
