"""Messages of a bag, read ahead of the time when they are due. No ROS import."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from fg_depth_ros.data.bags.storage import RawMessage

AHEAD_BYTES = 64 << 20


class ReadAhead:
    """Iterates over messages that a thread reads ahead, so that a slow disk does not make them late.

    Args:
        messages: read in a thread of its own.
        limit: bytes that wait at most; one message may wait whatever its size.
    """

    def __init__(self, messages: Iterator[RawMessage], limit: int = AHEAD_BYTES) -> None:
        self._limit = limit
        self._waiting: deque[RawMessage] = deque()
        self._bytes = 0
        self._ended, self._closed = False, False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(messages,), name="bag reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[RawMessage]:
        """Every message, in its order. What went wrong with reading is raised after the last one."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                message = self._waiting.popleft()
                self._bytes -= len(message.data)
                self._changed.notify_all()
            yield message
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Read no further."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _read(self, messages: Iterator[RawMessage]) -> None:
        try:
            for message in messages:
                size = len(message.data)
                with self._changed:
                    while self._waiting and self._bytes + size > self._limit and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
                    self._waiting.append(message)
                    self._bytes += size
                    self._changed.notify_all()
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
