"""Room on the disk: what recordings may take, what must stay free, and which episodes go first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fg_depth_ros.recording import manifest
from fg_depth_ros.recording.episodes import part_name


class Space:
    """Keeps the recordings of a folder within ``quota`` bytes (0: any) and ``floor`` bytes of its disk free.

    Only finished episodes that name themselves in their episode.json are ever removed, in the order they were finished.
    """

    def __init__(
        self,
        root: Path,
        quota: int,
        floor: int,
        free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        """``free``: bytes free where a path lies."""
        self.root, self.quota, self.floor, self._free = root, quota, floor, free
        self.used = 0  # by recordings other than the one being written, when last looked
        self._episodes: list[tuple[str, int]] = []
        self._looked = False

    def forget(self) -> None:
        """Look again before the next answer: there is another episode."""
        self._looked = False

    def free(self) -> int:
        """Bytes free on the disk of the recordings. Raises OSError."""
        return self._free(self.root)

    def look(self, current: str = "") -> None:
        """See what is there besides the episode ``current``. Raises OSError."""
        order = {line["name"]: place for place, line in enumerate(manifest.read(self.root)) if "name" in line}
        found = sorted(manifest.finished(self.root), key=lambda item: (order.get(item[0].name, -1), item[0].name))
        self._episodes = [(path.name, _bytes(path)) for path, _ in found]
        self.used = sum(size for _, size in self._episodes)
        for path in self.root.iterdir():
            if path.name.startswith(".") and path.name.endswith(".removed"):  # a crash came between
                shutil.rmtree(path, ignore_errors=True)
            elif part_name(path) not in (None, current):
                self.used += _bytes(path)
        self._looked = True

    def room_for(self, size: int, *, current: str = "", written: int = 0, keep: str = "", remove: bool = True) -> str:
        """Make room for ``size`` bytes; "" or why there is none.

        ``written``: bytes of the episode ``current`` so far. ``keep``: a finished episode that is not removed, as the
        current one continues it. ``remove``: False only asks. Raises OSError.
        """
        if not self._looked:
            self.look(current)
        if not self._lacking(size + written, size):
            return ""
        self.look(current)
        why = self._lacking(size + written, size)
        doomed, freed = [], 0
        for name, taken in self._episodes:
            if name != keep and self._lacking(size + written - freed, size - freed):
                doomed.append((name, taken))
                freed += taken
        if self._lacking(size + written - freed, size - freed):
            return why  # what would not be enough is not given up
        for name, taken in doomed if remove else ():
            self._remove(name, taken, why)
        return self._lacking(size + written, size) if remove else ""

    def _lacking(self, more: int, size: int) -> str:
        if self.quota and self.used + more > self.quota:
            return (
                f"quota: the recordings in {self.root} take {self.used + more - size:,} bytes and need {size:,} more, "
                f"of {self.quota:,}; move some elsewhere, or raise the quota"
            )
        free = self.free()
        if free - size < self.floor:
            return (
                f"free space: {free:,} bytes are free on the disk of {self.root}, at least {self.floor:,} must stay; "
                "make room on it, or lower the floor"
            )
        return ""

    def _remove(self, name: str, size: int, why: str) -> None:
        doomed = self.root / f".{name}.removed"
        with suppress(FileNotFoundError):  # the user was faster
            os.rename(self.root / name, doomed)  # first out of sight: never half of it under its name
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
