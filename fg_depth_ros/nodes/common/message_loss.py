"""Lost messages, counted by the receiver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rclpy.subscription


class MessageLoss:
    """Counts the lost messages of one topic's subscription. For the executor's thread.

    Gaps in the publishers' sequence numbers (DDS-RTPS 8.3.5.4); where rclpy gives none, or not whose they are (before
    Kilted), the middleware's own reports.
    """

    def __init__(self) -> None:
        self._last: dict[bytes, int | None] = {}  # by publisher
        self._gaps = self._reported = 0

    @property
    def lost(self) -> int:
        """Lost messages. What a publisher sent before its first received message is not known and not counted."""
        return self._gaps if self._last else self._reported

    def on_received(self, info: Any) -> None:
        """Count a received message by rclpy's message info."""
        number, gid = info.get("publication_sequence_number"), info.get("publisher_gid")
        if number is None or gid is None:
            return
        publisher = bytes(gid["data"])
        last = self._last.get(publisher)
        if last is not None and number < last:
            self._gaps = max(self._gaps - 1, 0)  # late, and counted as lost when the one after it came
            return
        self._gaps += 0 if last is None else max(number - last - 1, 0)
        self._last[publisher] = number

    def on_lost(self, event: Any) -> None:
        """Count an event ``message_lost`` of the subscription."""
        self._reported += event.total_count_change

    def begin_again(self) -> None:
        """Do not count what was sent up to the next received message: the topic was subscribed to again."""
        self._last = dict.fromkeys(self._last)

    def counting(self, callback: Callable[[bytes], None]) -> Callable[..., None]:
        """Wrap a subscription's callback so that its messages are counted."""

        def count(data: bytes, info: Any) -> None:
            self.on_received(info)
            callback(data)

        return with_info(count)


def with_info(callback: Callable[[Any, Any], None]) -> Callable[..., None]:
    """Return a subscription's callback that calls ``callback(message, info)``; the info is empty on Humble."""

    def with_message_info(message: Any, info: Any) -> None:  # rclpy counts the arguments
        callback(message, info)

    def without(message: Any) -> None:
        callback(message, {})

    return with_message_info if hasattr(rclpy.subscription.Subscription, "CallbackType") else without
