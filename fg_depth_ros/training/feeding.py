"""Rendered scenes for a training loop: by worker processes on a CPU, by the GPU itself where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import IterableDataset, get_worker_info

from fg_depth_ros.data.synthetic import StereoBatch, StereoSceneGenerator


class SceneFeed(IterableDataset[StereoBatch]):
    """Endless batches of synthetic pairs, half of them mirrored.

    Every process takes its own share of one sequence of scene numbers, so a run is the same for any number of
    workers and goes on where it stopped. With ``render=False`` the numbers alone come out, for rendering on the
    training device.
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
        self.generator, self.scenes, self.start, self.render = generator, batch // 2, start, render
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[StereoBatch | torch.Tensor]:  # type: ignore[override]
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            torch.set_num_threads(1)
        number = self.start + worker
        while True:
            first = (number * self.ranks + self.rank) * self.scenes
            numbers = list(range(first, first + self.scenes))
            yield self.generator.batch(numbers, mirrored=True) if self.render else torch.tensor(numbers)
            number += workers
