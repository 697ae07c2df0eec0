"""Hands the newest item from one thread to another."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestSlot(Generic[T]):
    """Holds at most one item for a worker thread: a newer one replaces the one that waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> T | None:
        """Store an item. Returns the one that it replaced, if any."""
        with self._changed:
            replaced, self._item = self._item, item
            self._changed.notify()
        return replaced

    def get(self, timeout: float | None = None) -> T | None:
        """Wait for an item and remove it. None after ``timeout`` seconds, or once the slot is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed, timeout)
            item, self._item = self._item, None
            return None if self._closed else item

    def close(self) -> T | None:
        """Let ``get`` return None from now on. Returns the item that still waited."""
        with self._changed:
            self._closed = True
            item, self._item = self._item, None
            self._changed.notify_all()
        return item
