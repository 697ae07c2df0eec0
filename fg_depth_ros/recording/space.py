"""Disk quota: what recordings may take, what must stay free, and which episodes are removed first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fg_depth_ros.recording import manifest
from fg_depth_ros.recording.episodes import part_name


class Shortage(NamedTuple):
    """Why there is no room: a code for programs and a text for people."""

    code: str
    text: str


class Space:
    """Limits the recordings of a folder to ``quota`` bytes (0: no limit) with ``floor`` bytes of its disk free.

    Only finished episodes that name themselves in their episode.json are ever removed, in the order they were finished.
    """

    def __init__(
        self,
        root: Path,
        quota: int,
        floor: int,
        free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        """Read nothing yet. ``free`` returns the free bytes of the disk with a path."""
        self.root, self.quota, self.floor, self._free = root, quota, floor, free
        self.used = 0  # by recordings other than the one being written, at the last refresh
        self._episodes: list[tuple[str, int]] = []
        self._fresh = False

    def invalidate(self) -> None:
        """Read the folder again before the next answer: there is another episode."""
        self._fresh = False

    def free(self) -> int:
        """Return the free bytes on the disk of the recordings. Raises OSError."""
        return self._free(self.root)

    def capacity(self, written: int = 0) -> int:
        """Return the bytes that recordings may take where all finished ones are removed. Raises OSError.

        ``written``: bytes of the episode being written, which is not in ``used``.
        """
        removable = sum(size for _, size in self._episodes)
        by_floor = self.free() - self.floor + removable + written
        return min(self.quota - self.used + removable, by_floor) if self.quota else by_floor

    def refresh(self, current: str = "") -> None:
        """Read the folder: all recordings but the episode ``current``. Raises OSError."""
        order = {line["name"]: place for place, line in enumerate(manifest.read(self.root)) if "name" in line}
        found = sorted(manifest.finished(self.root), key=lambda item: (order.get(item[0].name, -1), item[0].name))
        self._episodes = [(path.name, _bytes(path)) for path, _ in found]
        self.used = sum(size for _, size in self._episodes)
        for path in self.root.iterdir():
            if path.name.startswith(".") and path.name.endswith(".removed"):  # a crash came between
                shutil.rmtree(path, ignore_errors=True)
            elif part_name(path) not in (None, current):
                self.used += _bytes(path)
        self._fresh = True

    def room_for(
        self, size: int, *, current: str = "", written: int = 0, keep: str = "", remove: bool = True
    ) -> Shortage | None:
        """Make room for ``size`` bytes; returns None, or why there is none. Raises OSError: the folder cannot be read.

        Args:
            size: bytes to write.
            current: the episode being written, ``written`` bytes long so far.
            keep: a finished episode that is not removed, as the current one continues it.
            remove: False only checks.
        """
        if not self._fresh:
            self.refresh(current)
        if self._shortage(size + written, size) is None:
            return None
        self.refresh(current)
        shortage = self._shortage(size + written, size)
        if shortage is None:
            return None
        doomed, freed = [], 0
        for name, taken in self._episodes:
            if name != keep and self._shortage(size + written - freed, size - freed) is not None:
                doomed.append((name, taken))
                freed += taken
        if self._shortage(size + written - freed, size - freed) is not None:
            return shortage  # what would not be enough is not given up
        if not remove:
            return None
        for name, taken in doomed:
            self._remove(name, taken, shortage.text)
        return self._shortage(size + written, size)

    def _shortage(self, more: int, size: int) -> Shortage | None:
        if self.quota and self.used + more > self.quota:
            return Shortage(
                "quota",
                f"quota: the recordings in {self.root} take {self.used + more - size:,} bytes and need {size:,} more, "
                f"of {self.quota:,}; move some elsewhere, or raise the quota",
            )
        free = self.free()
        if free - size < self.floor:
            return Shortage(
                "free space",
                f"free space: {free:,} bytes are free on the disk of {self.root}, at least {self.floor:,} must stay; "
                "make room on it, or lower free_floor",
            )
        return None

    def _remove(self, name: str, size: int, why: str) -> None:
        doomed = self.root / f".{name}.removed"
        with suppress(FileNotFoundError):  # the user has removed it
            os.rename(self.root / name, doomed)  # never half of it under its name
            shutil.rmtree(doomed, ignore_errors=True)
            manifest.append_removed(self.root, name, why)
        self._episodes = [episode for episode in self._episodes if episode[0] != name]
        self.used -= size


def _bytes(folder: Path) -> int:
    total = 0
    with suppress(OSError):  # it was finished or removed meanwhile
        for entry in os.scandir(folder):
            total += entry.stat(follow_symlinks=False).st_size
    return total
