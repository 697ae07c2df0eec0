"""The counters that a depth node reports on /diagnostics, compared with what was sent and what arrived."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from fg_depth_ros.data.io import diagnostic_keys as keys

_COUNTS = (keys.PAIRS_MATCHED, keys.PAIRS_PUBLISHED, keys.MONO_PUBLISHED)
_LATENCIES = {
    keys.latency(name, percent): f"{name}_p{percent}_ms" for name in keys.LATENCIES for percent in keys.PERCENTILES
}
NEVER_REACHED, LOST_AFTER = "never reached the node", "lost between the node and the evaluator"


class NodeCounters:
    """The newest figures of one depth node."""

    def __init__(self) -> None:
        self.model: dict[str, Any] = {}  # name, sha256 and device; empty before the first report
        self.latencies: dict[str, float] = {}  # the node's own percentiles, such as inference_p50_ms
        self._counts: dict[str, int] = {}
        self._before: dict[str, int] | None = None
        self._updated = float("-inf")

    def start(self) -> None:
        """Subtract from now on what was counted before the first pair. Later calls do nothing."""
        if self._before is None:
            self._before = dict(self._counts)

    def update(self, values: Mapping[str, str]) -> None:
        """Take in the key-value pairs of one DiagnosticStatus; those of other nodes are ignored."""
        if keys.MODEL in values and keys.SHA256 in values:
            sha256: str | None = values[keys.SHA256]
            sha256 = None if sha256 == "none" else sha256
            self.model = {"name": values[keys.MODEL], "sha256": sha256, "device": values.get(keys.DEVICE)}
            self.model |= {name: values[name] for name in (keys.ENGINE, keys.PRECISION) if name in values}
        if keys.PAIRS_MATCHED not in values:
            return
        self._updated = time.monotonic()
        for key, value in values.items():
            if key in _COUNTS or key.startswith(keys.DROPPED):
                self._counts[key] = int(value)
            elif key in _LATENCIES:
                self.latencies[_LATENCIES[key]] = float(value)

    @property
    def has_reports(self) -> bool:
        """Whether the node has reported at all."""
        return bool(self._counts)

    def updated_after(self, moment: float) -> bool:
        """Return whether the node has reported after this moment of ``time.monotonic``."""
        return self._updated > moment

    def explain(self, sent: int, delivered: int, dropped: int) -> tuple[dict[str, int], int]:
        """Return the number of drops by reason, and the number of dropped pairs that no reason explains.

        Besides the node's own reasons there are pairs that it never matched although they were sent, and pairs that it
        published although they did not arrive. Left images that it published alone are the answer to pairs, too; those
        that it dropped are of pairs that it never matched.
        """
        counts = {key: value - (self._before or {}).get(key, 0) for key, value in self._counts.items()}
        reasons = {
            key.removeprefix(keys.DROPPED): count
            for key, count in counts.items()
            if key.startswith(keys.DROPPED) and count > 0
        }
        if keys.PAIRS_MATCHED in counts and dropped:
            mono = counts.get(keys.MONO_PUBLISHED, 0)
            reasons[NEVER_REACHED] = max(0, sent - counts[keys.PAIRS_MATCHED] - mono)
            reasons[LOST_AFTER] = max(0, counts.get(keys.PAIRS_PUBLISHED, 0) + mono - delivered)
        reasons = {reason: count for reason, count in reasons.items() if count > 0}
        return reasons, max(0, dropped - sum(reasons.values()))


class CountersByNode:
    """The figures of all depth nodes that report."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeCounters] = {}
        self._started = False

    def start(self) -> None:
        """Subtract from now on what was counted before the first pair. Later calls do nothing."""
        self._started = True
        for counters in self._nodes.values():
            counters.start()

    def update(self, node: str, values: Mapping[str, str]) -> None:
        """Take in the key-value pairs of one DiagnosticStatus of a node, which may be of another kind."""
        if node not in self._nodes:
            self._nodes[node] = NodeCounters()
            if self._started:
                self._nodes[node].start()
        self._nodes[node].update(values)

    def of(self, publishers: Collection[str]) -> NodeCounters:
        """Return the counters of the depth node among these; if there is none (a relay), of the only one."""
        found = {node: counters for node, counters in self._nodes.items() if counters.has_reports}
        own = [counters for node, counters in found.items() if node in publishers] or list(found.values())
        return own[0] if len(own) == 1 else NodeCounters()
