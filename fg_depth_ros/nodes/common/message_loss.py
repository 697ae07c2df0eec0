"""Messages that were sent and never came, counted by the receiver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rclpy.subscription


class MessageLoss:
    """Counts, for one subscription, the gaps in the publishers' sequence numbers (DDS-RTPS 8.3.5.4); where the
    middleware gives none, what it reports as lost itself. For the executor's thread.
    """

    def __init__(self) -> None:
        self._last: dict[bytes, int] = {}  # by publisher
        self._gaps = self._told = 0

    @property
    def lost(self) -> int:
        """Messages so far. What a publisher sent before its first message that came is not known, and not counted."""
        return self._gaps if self._last else self._told

    def came(self, info: Any) -> None:
        """A message came; `info` is what rclpy says about it."""
        number = info.get("publication_sequence_number")
        if number is None:
            return
        publisher = bytes((info.get("publisher_gid") or {}).get("data", b""))
        last = self._last.get(publisher)
        if last is not None and number < last:
            self._gaps = max(self._gaps - 1, 0)  # late, and counted as lost when the one behind it came
            return
        self._gaps += 0 if last is None else max(number - last - 1, 0)
        self._last[publisher] = number

    def told(self, event: Any) -> None:
        """The middleware's own word, an event of the subscription."""
        self._told += event.total_count_change

    def counting(self, callback: Callable[[bytes], None]) -> Callable[..., None]:
        """`callback`, as a subscription calls it, with this count kept."""

        def with_info(data: bytes, info: Any) -> None:
            self.came(info)
            callback(data)

        # Humble knows no message info.
        return with_info if hasattr(rclpy.subscription, "MessageInfo") else callback
