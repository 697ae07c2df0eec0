"""Quality of service of the topics: defaults, what users may override, and the log lines where it does not fit."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

OVERRIDES = QoSOverridingOptions(
    (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
)


def sensor_data() -> QoSProfile:
    """Return best effort with depth 1: a queue in front of a slow consumer only adds latency."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def _policy(event: Any) -> str:
    try:
        return qos_policy_name_from_kind(event.last_policy_kind).lower()
    except (KeyError, ValueError):
        return str(event.last_policy_kind)


def subscription_events(node: Node, topic: str) -> SubscriptionEventCallbacks:
    """Return callbacks that log publishers with an incompatible QoS."""

    def incompatible(event: Any) -> None:
        policy, name = _policy(event), node.resolve_topic_name(topic)
        node.get_logger().error(
            f"{name}: a publisher offers an incompatible {policy}, nothing will be received from it: "
            f"change the publisher, or set the parameter qos_overrides.{name}.subscription.{policy}"
        )

    return SubscriptionEventCallbacks(incompatible_qos=incompatible)


def publisher_events(node: Node, topic: str) -> PublisherEventCallbacks:
    """Return callbacks that log subscribers with an incompatible QoS."""

    def incompatible(event: Any) -> None:
        policy, name = _policy(event), node.resolve_topic_name(topic)
        node.get_logger().error(
            f"{name}: a subscriber asks for an incompatible {policy}, nothing will be sent to it: change "
            f"the subscriber, or set the parameter qos_overrides.{name}.publisher.{policy}"
        )

    return PublisherEventCallbacks(incompatible_qos=incompatible)
