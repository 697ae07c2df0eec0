"""How long a running node takes for its pairs."""

from __future__ import annotations

from collections import OrderedDict, deque

from fg_depth_ros.evaluation.live.pair_ledger import EARLY, PairLedger, percentiles
from fg_depth_ros.evaluation.live.report import PairSeries

_RECENT = 20  # pairs


class LatencyMeter:
    """Measures the time from when a pair was sent to the publication of its depth and to its arrival, s.

    Announcement and depth of a pair may come in either order. ``published`` and ``arrival``: latencies of the pairs
    after the first ``warm_up`` ones; ``published`` stays empty where the middleware does not tell when it was.
    """

    def __init__(self, ledger: PairLedger, series: PairSeries, warm_up: int) -> None:
        self.published: list[float] = []
        self.arrival: list[float] = []
        self._ledger, self._series, self._warm_up = ledger, series, warm_up
        self._recent: deque[float] = deque(maxlen=_RECENT)
        # Depth of pairs that were not announced yet: when it was published, where that is known, and arrived.
        self._early: OrderedDict[int, tuple[int | None, int]] = OrderedDict()

    @property
    def recent_ms(self) -> float:
        """Median time to the arrival over the last pairs, ms; NaN without any."""
        return 1e3 * percentiles(self._recent)["p50"]

    def on_depth(self, stamp: int, published: int | None, arrived: int) -> None:
        """Note the depth of a pair, whose stamp is given; times in ns."""
        self._early[stamp] = (published, arrived)
        self.on_pair(stamp)
        while len(self._early) > EARLY:
            self._early.popitem(last=False)

    def on_pair(self, stamp: int) -> None:
        """Measure the pair with this stamp, ns, if it was announced and has its depth."""
        pair = self._ledger.find(stamp)
        if pair is None or stamp not in self._early:
            return
        published, arrived = self._early.pop(stamp)
        arrival = (arrived - pair.sent) * 1e-9
        latency = arrival if published is None else (published - pair.sent) * 1e-9
        self._recent.append(arrival)
        self._series.note(pair.number, {"latency_ms": 1e3 * latency})
        if pair.number > self._warm_up:
            self.arrival.append(arrival)
            if published is not None:
                self.published.append(latency)
