"""Ring buffer of the seconds before a trigger, bounded in time and in bytes."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from fg_depth_ros.recording.definitions import Message, Topic


class Group(NamedTuple):
    """Messages that are recorded or dropped together: a pair (with its stamp, ns) or another message (stamp None)."""

    recorded: int
    stamp: int | None
    items: tuple[tuple[Topic, Message], ...]

    @property
    def size(self) -> int:
        """Total bytes of the messages."""
        return sum(len(message.data) for _, message in self.items)


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
        self.bytes += group.size
        self.pairs += group.stamp is not None

    def trim(self, oldest: int, limit: int) -> int:
        """Drop groups before ``oldest`` (ns), then the oldest beyond ``limit`` bytes; return the number of pairs."""
        before = self.pairs
        while self._groups and (self._groups[0].recorded < oldest or self.bytes > limit):
            group = self._groups.popleft()
            self.bytes -= group.size
            self.pairs -= group.stamp is not None
        return before - self.pairs

    def take(self) -> list[Group]:
        """Remove and return all groups, oldest first."""
        groups = list(self._groups)
        self._groups.clear()
        self.bytes = self.pairs = 0
        return groups
