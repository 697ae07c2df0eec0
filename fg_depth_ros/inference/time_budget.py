"""The size at which pairs are matched within a given time."""

from __future__ import annotations

import math

import numpy as np

from fg_depth_ros.inference.config import SMALLEST_AUTO

_PAIRS = 20  # whose median counts
_RESERVE = 0.95  # of the budget is aimed at


class TimeBudget:
    """Lowers the factor on the size of pairs, all of one size, until they are matched within ``seconds``.

    It is never raised again, so that depth does not change from pair to pair with the load of the machine.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.factor = 1.0
        """Largest factor that may be used."""
        self.taken = 0.0
        """Median time of the newest pairs that were counted, s."""
        self._taken_at = 1.0  # factor that it belongs to
        self._times: list[float] = []
        self._observed = 1.0  # factor that these belong to

    @property
    def exceeded(self) -> bool:
        """Whether pairs take longer even at the smallest factor."""
        return self._taken_at <= SMALLEST_AUTO and self.taken > self.seconds

    def observe(self, factor: float, seconds: float) -> None:
        """Count a pair that was matched at this factor in this time; after enough pairs the factor is chosen again."""
        if factor != self._observed:
            self._observed, self._times = factor, []
        self._times.append(seconds)
        if len(self._times) < _PAIRS:
            return
        self.taken, self._taken_at, self._times = float(np.median(self._times)), factor, []
        if self.taken > self.seconds:
            # The time grows with the number of pixels.
            fitting = factor * math.sqrt(_RESERVE * self.seconds / self.taken)
            self.factor = max(SMALLEST_AUTO, math.floor(1000 * fitting) / 1000)
