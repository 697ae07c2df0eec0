"""A pool of rendered scenes, each used several times: rendering costs far more than another crop and other colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

Scene = TypeVar("Scene")
Render = Callable[[list[int]], Sequence[Sequence[Scene]]]
"""Renders the scenes with these numbers; returns one or more views of each."""
_LANES = 4  # independent pools; numbers of worker processes that do not divide this render scenes twice
_STREAM = 13  # second word of the seed: apart from the streams of the generators, which have the same seed and numbers


class ScenePool(Generic[Scene]):
    """Make batches from a sliding window of rendered scenes.

    The batch with the index ``b`` belongs to lane ``b % 4``, and every lane has a window of its own, so that 2 or 4
    workers share the rendering. What a batch holds is a function of its index, its numbers and the seed alone: a
    resumed run, or one with another number of workers, sees the same batches.

    Args:
        render: renders scenes by number.
        use: makes a sample from a scene with a random generator.
        collate: makes a batch of samples.
        size: scene numbers in the window of a lane.
        uses: samples that each scene number gives on average.
        seed: of the choice of scenes and of their use.
    """

    def __init__(
        self,
        render: Render[Scene],
        use: Callable[[Scene, np.random.Generator], Any],
        collate: Callable[[Sequence[Any]], Any],
        *,
        size: int,
        uses: int,
        seed: int,
    ) -> None:
        if min(size, uses) < 1:
            raise ValueError(f"a pool needs at least one scene and one use of it, got {size} and {uses}")
        self.render, self.use, self.collate = render, use, collate
        self.size, self.uses, self.seed = size, uses, seed
        self._scenes: dict[int, Sequence[Scene]] = {}

    def batch(self, numbers: list[int], index: int | None = None) -> Any:
        """Return the batch with this index, which is made of these consecutive sample numbers.

        None: the index that follows from the numbers where all batches have the same length.
        """
        index = numbers[0] // len(numbers) if index is None else index
        lane, first = index % _LANES, numbers[0] // (_LANES * self.uses)
        window = [(first + i) * _LANES + lane for i in range(self.size)]
        for number in [n for n in self._scenes if n % _LANES == lane and n < window[0]]:
            del self._scenes[number]
        rng = np.random.default_rng([self.seed, numbers[0]])
        chosen = rng.choice(window, len(numbers), replace=len(numbers) > len(window))
        missing = sorted({int(n) for n in chosen} - self._scenes.keys())
        if missing:
            self._scenes.update(zip(missing, self.render(missing), strict=True))
        return self.collate([self._sample(int(n), rng) for n in chosen])

    def _sample(self, number: int, rng: np.random.Generator) -> Any:
        views = self._scenes[number]
        return self.use(views[int(rng.integers(len(views)))], rng)


class MixedScenes(Generic[Scene]):
    """Scenes of a generator, and a share of scenes from the virtual world, by number.

    Args:
        own: renders the scenes of the generator.
        world: renders those of the virtual world.
        share: of the numbers that are scenes of the world, 0 .. 1.
        seed: of the choice.
    """

    def __init__(self, own: Render[Scene], world: Render[Scene], *, share: float, seed: int) -> None:
        self.own, self.world, self.share, self.seed = own, world, share, seed

    def __call__(self, numbers: list[int]) -> list[Sequence[Scene]]:
        """Return the views of each number."""
        worldly = [n for n in numbers if np.random.default_rng([self.seed, _STREAM, n]).random() < self.share]
        others = [n for n in numbers if n not in worldly]
        rendered: dict[int, Sequence[Scene]] = {}
        for render, chosen in ((self.world, worldly), (self.own, others)):
            if chosen:
                rendered.update(zip(chosen, render(chosen), strict=True))
        return [rendered[n] for n in numbers]
