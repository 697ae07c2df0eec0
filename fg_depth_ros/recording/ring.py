"""Ring buffer of the seconds before a trigger, bounded in time and in bytes."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from fg_depth_ros.recording.definitions import Message, Topic

_OVERHEAD = 350  # bytes that a message takes beside its data: Python's objects
BACK = 1_000_000_000  # ns that messages may come out of order before it is a clock that was set back


class Group(NamedTuple):
    """Messages that are recorded or dropped together: a pair (with its stamp, ns) or another message (stamp None)."""

    recorded: int
    stamp: int | None
    items: tuple[tuple[Topic, Message], ...]

    @property
    def size(self) -> int:
        """Total bytes of the messages' data."""
        return sum(len(message.data) for _, message in self.items)

    @property
    def memory(self) -> int:
        """Bytes that the group takes in memory, roughly."""
        return self.size + _OVERHEAD * len(self.items)


class Ring:
    """The newest groups, oldest first."""

    def __init__(self) -> None:
        self.bytes = 0
        self.pairs = 0
        self._groups: deque[Group] = deque()

    @property
    def seconds(self) -> float:
        """Time between the first and the last group, s."""
        return (self._groups[-1].recorded - self._groups[0].recorded) / 1e9 if self._groups else 0.0

    def add(self, group: Group) -> None:
        """Append a group."""
        self._groups.append(group)
        self.bytes += group.memory
        self.pairs += group.stamp is not None

    def trim(self, span: int, limit: int) -> int:
        """Drop groups more than ``span`` ns before the last one, then the oldest beyond ``limit`` bytes of memory.

        Those of a later time than the last one go, too: the clock was set back. Returns the number of dropped pairs.
        """
        before = self.pairs
        while self._groups:
            first, last = self._groups[0].recorded, self._groups[-1].recorded
            if last - span <= first <= last + BACK and self.bytes <= limit:
                break
            group = self._groups.popleft()
            self.bytes -= group.memory
            self.pairs -= group.stamp is not None
        return before - self.pairs

    def take(self) -> list[Group]:
        """Remove and return all groups, oldest first."""
        groups = list(self._groups)
        self._groups.clear()
        self.bytes = self.pairs = 0
        return groups
