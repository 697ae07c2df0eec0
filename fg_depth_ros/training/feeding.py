"""Batches for a training loop: scenes rendered by workers on a CPU or by the GPU itself, or pairs from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import IterableDataset, get_worker_info

from fg_depth_ros.data.io.formats import FileError
from fg_depth_ros.data.samples import FlowSample
from fg_depth_ros.synthesis.chairs import FlowBatch
from fg_depth_ros.synthesis.stereo import StereoSceneGenerator


class Feed(IterableDataset[Any]):
    """Endless batches made from the numbers 0, 1, 2, ...

    Every process takes its own share of one sequence of numbers, so a run is the same for any number of workers and
    goes on where it stopped. Batch ``b`` of rank ``r`` in ``R`` processes is made from the ``count`` numbers that
    begin at ``(b * R + r) * count``: in one step, R processes see what one process with R times the count sees.
    """

    def __init__(
        self, make: Callable[[list[int]], Any], count: int, *, start: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        """``make``: from ``count`` numbers to a batch; ``start``: batches that this rank has consumed before."""
        self.make, self.count, self.start, self.rank, self.ranks = make, count, start, rank, ranks

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            torch.set_num_threads(1)
        batch = self.start + worker
        while True:
            first = (batch * self.ranks + self.rank) * self.count
            yield self.make(list(range(first, first + self.count)))
            batch += workers


class SceneFeed(Feed):
    """Endless batches of synthetic stereo pairs, half of them mirrored.

    With ``render=False`` the scene numbers alone come out, for rendering on the training device.
    """

    def __init__(
        self, generator: StereoSceneGenerator, batch: int, *, start: int = 0, rank: int = 0, ranks: int = 1,
        render: bool = True,
    ) -> None:  # fmt: skip
        """``batch``: pairs in a batch, even; ``start``: batches that this rank has consumed before."""
        if batch < 2 or batch % 2:
            raise ValueError(
                f"the batch size must be even (every scene gives a pair and its mirror image), got {batch}"
            )
        self.generator = generator
        make = self._render if render else torch.tensor
        super().__init__(make, batch // 2, start=start, rank=rank, ranks=ranks)

    def _render(self, numbers: list[int]) -> Any:
        return self.generator.batch(numbers, mirrored=True)


class FolderPairs:
    """Pairs on disk as endless numbered samples of one size: every pass through them is in another order."""

    def __init__(self, samples: Sequence[FlowSample], width: int, height: int, seed: int = 0) -> None:
        """``width``, ``height``: of the window that is cut out at a place drawn by the number, px; a smaller picture is
        continued at the right and below, where its flow is not known."""
        self.samples, self.width, self.height, self.seed = list(samples), width, height, seed

    def batch(self, numbers: Sequence[int]) -> FlowBatch:
        """The samples with these numbers, each a function of (seed, number) alone.

        Raises:
            FileError: a file that cannot be read.
        """
        cut = []
        for number in numbers:
            passed, position = divmod(number, len(self.samples))
            order = np.random.default_rng([self.seed, 0, passed]).permutation(len(self.samples))
            cut.append(self._window(self.whole(self.samples[order[position]]), number))
        return FlowBatch(*(torch.cat(field) for field in zip(*cut, strict=True)))

    def _window(self, whole: FlowBatch, number: int) -> FlowBatch:
        height, width = whole.first.shape[-2:]
        across, down = max(0, self.width - width), max(0, self.height - height)
        if across or down:
            frames = [F.pad(f.float(), (0, across, 0, down), mode="replicate").to(torch.uint8) for f in whole[:2]]
            whole = FlowBatch(*frames, *(F.pad(field, (0, across, 0, down)) for field in whole[2:]))
        rng = np.random.default_rng([self.seed, 1, number])
        x = int(rng.integers(0, width + across - self.width + 1))
        y = int(rng.integers(0, height + down - self.height + 1))
        return FlowBatch(*(field[..., y : y + self.height, x : x + self.width] for field in whole))

    @staticmethod
    def whole(sample: FlowSample) -> FlowBatch:
        """One pair at its own size; ``occluded`` is False everywhere where the set does not say."""
        first, second = (torch.from_numpy(np.ascontiguousarray(i)).permute(2, 0, 1)[None] for i in sample.images())
        truth, hidden = sample.truth(), sample.occluded()
        if truth is None:
            raise FileError(f"{sample.name}: no true flow beside {sample.first}; a training needs it")
        flow = torch.from_numpy(np.ascontiguousarray(truth)).permute(2, 0, 1)[None]
        valid = torch.isfinite(flow).all(1, keepdim=True)
        occluded = torch.zeros_like(valid) if hidden is None else torch.from_numpy(hidden)[None, None] & valid
        return FlowBatch(first, second, torch.where(valid, flow, torch.zeros_like(flow)), valid, occluded)


def known_pairs(sets: Mapping[str, Sequence[FlowSample]]) -> list[FlowSample]:
    """The samples that have true flow.

    Raises:
        FileError: there are none.
    """
    samples = [sample for each in sets.values() for sample in each if sample.has_truth]
    if not samples:
        raise FileError(f"data sets ({', '.join(sets)}) hold no pair with true flow; a training needs it")
    return samples


def evenly(samples: Sequence[Any], count: int) -> set[int]:
    """Places of up to ``count`` samples, spread evenly."""
    count = min(count, len(samples))
    return {(2 * i + 1) * len(samples) // (2 * count) for i in range(count)}
