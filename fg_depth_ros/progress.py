"""Progress of loops: functions take a ``Track``, and their caller decides where progress is shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Track(Protocol):
    """Callable that shows the progress of a loop."""

    def __call__(self, items: Iterable[Item], what: str, count: int, /) -> Iterable[Item]:
        """Return the items, and show how many of ``count`` have been taken; ``what``: label of the loop."""
        ...


def no_progress(items: Iterable[Item], what: str, count: int) -> Iterable[Item]:
    """Show nothing; the default ``Track``."""
    return items
