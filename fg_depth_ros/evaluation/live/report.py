"""The report of replay_evaluator_node: a line per pair, and pictures of the worst pairs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from fg_depth_ros.evaluation.live.node_counters import NodeCounters
from fg_depth_ros.evaluation.live.pair_ledger import PairEntry, PairLedger, percentiles
from fg_depth_ros.evaluation.replay.pictures import WorstPairs
from fg_depth_ros.evaluation.replay.scores import PublishedPair, ReplayScores
from fg_depth_ros.evaluation.reports.report import Report

SERIES_PAIRS = 100_000


class PairSeries:
    """Figures of each pair by its number; only the newest ``limit`` pairs are kept. Thread-safe."""

    def __init__(self, limit: int = SERIES_PAIRS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._pairs: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def sent(self, number: int, stamp: int, name: str) -> None:
        """Add a pair that was sent. ``stamp``: ns."""
        with self._lock:
            self._pairs[number] = {"name": name or str(stamp), "stamp": stamp * 1e-9}
            while len(self._pairs) > self._limit:
                self._pairs.popitem(last=False)

    def note(self, number: int, figures: Mapping[str, float]) -> None:
        """Add measured figures to a pair; does nothing when it is no longer kept."""
        with self._lock:
            if number in self._pairs:
                self._pairs[number].update(figures)

    def entries(self, set_name: str, method: str, pending: Collection[int] = ()) -> list[dict[str, Any]]:
        """Return entries for ``Report.series``; a pair without depth is ``dropped``, unless it is ``pending``."""
        with self._lock:
            return [
                {"set": set_name, "method": method, **pair, **({} if "latency_ms" in pair else {"dropped": True})}
                for number, pair in self._pairs.items()
                if "latency_ms" in pair or number not in pending
            ]


def live_report(
    settings: Mapping[str, Any],
    ledger: PairLedger,
    scores: ReplayScores,
    counters: NodeCounters,
    series: PairSeries,
    latencies: Mapping[str, Sequence[float]],
    not_evaluated: int,
) -> Report:
    """Make the report of everything that was measured so far.

    ``settings``: parameters of the evaluator; ``latencies``: seconds by what they are of, "published" or "arrival";
    ``not_evaluated``: pairs that were delivered and could not be evaluated.
    """
    name, set_name = counters.model.get("name") or "published", settings["set_name"]
    report = Report(
        command="replay_evaluator_node",
        model=counters.model,
        settings={
            "pixels": "all with truth" if settings["truth"] else "all, no truth",
            "no_answer": "wrong",
            "aggregate": "pooled",
            "warm_up_pairs": settings["warm_up"],
            "timeout_s": settings["timeout"],
        },
        series=series.entries(set_name, name, ledger.pending_numbers),
    )
    for method, metrics in scores.methods(name).items():
        report.add_row(set_name, method, metrics, kind="accuracy", pairs=len(scores.names))
    drops, unaccounted = counters.explain(ledger.sent, ledger.delivered, ledger.dropped)
    timing: dict[str, float] = {
        "pairs_sent": ledger.sent,
        "pairs_delivered": ledger.delivered,
        "pairs_dropped": ledger.dropped,
        "pairs_late": ledger.late,
        "pairs_pending": ledger.pending,
        "pairs_unaccounted": unaccounted,
        "pairs_not_evaluated": not_evaluated,
        "rate_hz": ledger.rate(window=len(ledger.delivered_at)),
    }
    for what, values in latencies.items():
        if values:
            timing.update({f"{what}_{key}_ms": 1e3 * value for key, value in percentiles(values).items()})
    timing.update(counters.latencies)
    report.add_row(set_name, name, timing, kind="timing", drops=drops)
    return report


def evaluate_pair(
    scores: ReplayScores, series: PairSeries, worst: WorstPairs, entry: PairEntry, pair: PublishedPair
) -> None:
    """Add a pair's errors to the scores, and its figures to the series. Raises ValueError where sizes do not fit."""
    scores.add(pair)
    measures = next(iter(scores.rows([pair.name]).values()))
    series.note(entry.number, {name: value for name, value in measures.items() if np.isfinite(value)})
    title = f"{entry.stamp * 1e-9:.3f} s"
    worst.add("", title, measures, pair.left, pair.depth, "truth", pair.truth, pair.labels)
