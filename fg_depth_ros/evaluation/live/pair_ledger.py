"""A ledger of all pairs that were sent: which messages arrived for each, and when.

Keys are stamps in nanoseconds, times are wall-clock nanoseconds, messages are opaque.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np

REMEMBERED = 512  # stamps of closed pairs, to distinguish a late answer from one that no pair was sent for
EARLY = 8  # stamps whose answers arrived before the announcement


@dataclass
class PairEntry:
    """One sent pair. ``parts``: messages that arrived for it; ``arrivals``: when each did (wall-clock ns)."""

    stamp: int
    sent: int
    name: str = ""
    number: int = 0
    parts: dict[str, object] = field(default_factory=dict)
    arrivals: dict[str, int] = field(default_factory=dict)


class PairLedger:
    """Matches answers to sent pairs by stamp, so that every pair is accounted for.

    A pair is *delivered* once the part ``answer`` has arrived, *dropped* when it had not arrived ``timeout`` seconds
    after the pair was sent, *late* when it arrived after that (it then counts as delivered, and as late).
    ``sent == delivered + dropped + pending`` holds at any time.

    Args:
        answer: name of the part that makes a pair delivered.
        wanted: further parts that ``completed`` waits for.
        timeout: seconds.
        limit: pairs to count; 0 is no limit. Pairs announced after that are ignored.
    """

    def __init__(self, answer: str, wanted: Collection[str], timeout: float, limit: int = 0) -> None:
        self.answer = answer
        self.wanted = frozenset(wanted) | {answer}
        self.timeout_ns = int(timeout * 1e9)
        self.limit = limit
        self.sent = 0
        self.delivered = 0
        self.dropped = 0
        self.late = 0
        self.unknown = 0  # answers whose stamp was not announced
        self.delivered_at: list[int] = []
        self._open: OrderedDict[int, PairEntry] = OrderedDict()
        self._closed: OrderedDict[int, tuple[bool, PairEntry]] = OrderedDict()  # stamp -> delivered, pair
        self._early: OrderedDict[int, dict[str, tuple[object, int]]] = OrderedDict()

    @property
    def pending(self) -> int:
        """Number of pairs whose answer has neither arrived nor is overdue."""
        return len(self.pending_numbers)

    @property
    def pending_numbers(self) -> set[int]:
        """Numbers of the pairs whose answer has neither arrived nor is overdue."""
        return {entry.number for entry in self._open.values() if self.answer not in entry.parts}

    @property
    def finished(self) -> bool:
        """Whether all of ``limit`` pairs are closed."""
        return self.limit > 0 and self.sent >= self.limit and not self._open

    def announce(self, stamp: int, sent: int, name: str = "") -> PairEntry | None:
        """Add a pair with this stamp that was sent at ``sent``. Returns its entry if everything wanted has arrived."""
        if self.limit and self.sent >= self.limit:
            return None
        early = self._early.pop(stamp, {})
        if (older := self._open.get(stamp)) is not None:
            # A looping source whose clock starts again: the older one is closed. What arrived with its stamp may
            # be the new one's, and is the same.
            self._close(older)
            early = {p: (m, older.arrivals[p]) for p, m in older.parts.items() if p != self.answer} | early
        self.sent += 1
        self._closed.pop(stamp, None)
        self._open[stamp] = PairEntry(stamp, sent, name, self.sent)
        complete = None
        for part, (message, wall) in early.items():
            complete = self.add(stamp, part, message, wall) or complete
        return complete

    def add(self, stamp: int, part: str, message: object, wall: int) -> PairEntry | None:
        """Add a message that arrived at ``wall``. Returns the pair's entry when it is complete now, else None."""
        entry = self._open.get(stamp)
        if entry is None:
            self._add_without_entry(stamp, part, message, wall)
            return None
        if part == self.answer and part not in entry.parts:
            self.delivered += 1
            self.delivered_at.append(wall)
        entry.parts[part] = message
        entry.arrivals[part] = wall
        if self.wanted <= entry.parts.keys():
            del self._open[stamp]
            self._remember(entry, delivered=True)
            return entry
        return None

    def find(self, stamp: int) -> PairEntry | None:
        """Return the pair with this stamp, open or closed not long ago; None for one that was not announced."""
        return self._open.get(stamp) or self._closed.get(stamp, (False, None))[1]

    def nearest(self, stamp: int, slop: int) -> int:
        """Return the stamp of the open pair nearest to ``stamp``; ``stamp`` itself where none is within ``slop`` ns."""
        near = min(self._open, key=lambda other: abs(other - stamp), default=stamp)
        return near if abs(near - stamp) <= slop else stamp

    def expire(self, now: int) -> list[PairEntry]:
        """Close overdue pairs. Returns those that were delivered without every wanted part."""
        overdue = [entry for entry in self._open.values() if now - entry.sent > self.timeout_ns]
        return [entry for entry in overdue if self._close(entry)]

    def rate(self, window: int = 20) -> float:
        """Return answers per second over the last ``window`` answers (NaN before the second)."""
        times = self.delivered_at[-window:]
        if len(times) < 2 or times[-1] <= times[0]:
            return float("nan")
        return (len(times) - 1) / ((times[-1] - times[0]) * 1e-9)

    def _close(self, entry: PairEntry) -> bool:
        del self._open[entry.stamp]
        delivered = self.answer in entry.parts
        self.dropped += not delivered
        self._remember(entry, delivered)
        return delivered

    def _add_without_entry(self, stamp: int, part: str, message: object, wall: int) -> None:
        if part == self.answer and stamp in self._closed:
            delivered, closed = self._closed[stamp]
            if not delivered:
                self._closed[stamp] = (True, closed)
                self.dropped -= 1
                self.delivered += 1
                self.late += 1
            return
        # Another message for a closed pair may be the next round of a looping source, not announced yet.
        if self.limit and self.sent >= self.limit:
            return
        early = self._early.setdefault(stamp, {})
        early[part] = (message, wall)
        while len(self._early) > EARLY:
            _, forgotten = self._early.popitem(last=False)
            self.unknown += self.answer in forgotten

    def _remember(self, entry: PairEntry, delivered: bool) -> None:
        # Without the messages, which may be megabytes.
        self._closed[entry.stamp] = (delivered, replace(entry, parts={}))
        while len(self._closed) > REMEMBERED:
            self._closed.popitem(last=False)


def percentiles(values: Collection[float]) -> dict[str, float]:
    """Return median, 95th and 99th percentile (NaN when empty)."""
    if not values:
        return {"p50": float("nan"), "p95": float("nan"), "p99": float("nan")}
    p50, p95, p99 = np.percentile(np.asarray(list(values), dtype=np.float64), [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}
