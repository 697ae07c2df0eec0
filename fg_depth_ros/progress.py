"""Showing how far a loop is: what works takes a ``Track``, and who calls it decides where the progress is seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Track(Protocol):
    """What shows the progress of a loop."""

    def __call__(self, items: Iterable[Item], what: str, count: int, /) -> Iterable[Item]:
        """Return the items; ``what`` is done with them, and how many they are, is shown while they are taken."""
        ...


def no_progress(items: Iterable[Item], what: str, count: int) -> Iterable[Item]:
    """Show nothing; the default ``Track``."""
    return items
