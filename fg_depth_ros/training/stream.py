"""Endless batches by number, the same for any number of processes, and resumable at any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info


class DataStream(IterableDataset[Any]):
    """Endless batches made from the numbers 0, 1, 2, ...

    Every process takes its own share of one sequence of numbers, so a run is the same for any number of workers and is
    resumed where it stopped, by any number of processes. Batch ``b`` of rank ``r`` in ``R`` processes is made from the
    ``count`` numbers that begin ``(b * R + r) * count`` after the first one: in one step, R processes see what one
    process with R times the count sees.

    Args:
        make: makes a batch from ``count`` numbers.
        count: numbers per batch.
        workers: processes that call ``make``; 0: this one.
    """

    def __init__(self, make: Callable[[list[int]], Any], count: int, workers: int = 0) -> None:
        self.make, self.count, self.workers = make, count, workers
        self.begin_at(0)

    def begin_at(self, first: int, rank: int = 0, ranks: int = 1) -> None:
        """Set where the sequence begins, and the share of this process; without it: at 0, and all of it.

        ``first``: how many numbers all processes together have consumed before, a multiple of ``count``. ``rank``:
        number of this process, of ``ranks``.
        """
        self._first, self._rank, self._ranks = first, rank, ranks

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            torch.set_num_threads(1)
        batch = worker
        while True:
            first = self._first + (batch * self._ranks + self._rank) * self.count
            yield self.make(list(range(first, first + self.count)))
            batch += workers


def scene_numbers(numbers: list[int]) -> torch.Tensor:
    """Make a batch that is the numbers of its scenes (int64) alone; the training device renders them."""
    return torch.tensor(numbers, dtype=torch.int64)


def shuffled(number: int, count: int, seed: int) -> np.ndarray:
    """Return the indices 0 .. count - 1 in the order in which ``number`` and its successors take them.

    The first one is the index of sample ``number`` in endless passes through ``count`` items, each pass in another
    order; the others are those that can stand in for it.
    """
    epoch, position = divmod(number, count)
    return np.roll(np.random.default_rng([seed, 0, epoch]).permutation(count), -position)


def evenly(samples: Sequence[Any], count: int) -> list[int]:
    """Return the ascending indices of up to ``count`` samples, spread evenly."""
    count = min(count, len(samples))
    return [(2 * i + 1) * len(samples) // (2 * count) for i in range(count)]
