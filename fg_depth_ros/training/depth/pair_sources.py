"""Samples for a depth training by number: pairs from disk with the teacher's kept answers, and rendered scenes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch

from fg_depth_ros.data.io.formats import FileError
from fg_depth_ros.geometry import StereoRig, disparity_to_depth
from fg_depth_ros.synthesis.world.generator import WorldBatch, WorldGenerator
from fg_depth_ros.training.depth.batch import PairBatch, Taught
from fg_depth_ros.training.depth.pair_checks import BadPair, PairCounts, as_tensor, checked_images, level_pair
from fg_depth_ros.training.depth.pair_preparation import Lesson
from fg_depth_ros.training.depth.teacher import TeachingCache

_UNIT = 32  # px; networks want multiples of it, and inference resizes to them
_KEPT_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Fit:
    """How a picture of another size becomes one of the training: resized, then cut around its middle."""

    width: int
    height: int
    resized_width: int
    resized_height: int

    @classmethod
    def of(cls, rig: StereoRig, width: int, height: int) -> Fit:
        """Resized as ``NetworkMono.input_size`` does it for a network of this size, and enlarged from there where that
        does not cover the training's width or height. What is left over is cut off."""
        wide, tall = best_size(rig, width * height)
        cover = max(1.0, width / wide, height / tall)
        return cls(width, height, max(width, round(wide * cover)), max(height, round(tall * cover)))

    @property
    def cut_off(self) -> float:
        """Part of the picture that is cut off."""
        return 1 - self.width * self.height / (self.resized_width * self.resized_height)

    def focal(self, rig: StereoRig) -> float:
        """fx in px afterwards."""
        return rig.fx * self.resized_width / rig.width

    def image(self, image: np.ndarray) -> np.ndarray:
        """H x W x 3 uint8, averaged over areas."""
        return self._cut(cv2.resize(image, (self.resized_width, self.resized_height), interpolation=cv2.INTER_AREA))

    def field(self, field: np.ndarray) -> np.ndarray:
        """H x W float32, the nearest value: a mean across an edge would be the depth of nothing."""
        size = (self.resized_width, self.resized_height)
        return self._cut(cv2.resize(field, size, interpolation=cv2.INTER_NEAREST_EXACT))

    def _cut(self, picture: np.ndarray) -> np.ndarray:
        x, y = (self.resized_width - self.width) // 2, (self.resized_height - self.height) // 2
        return np.ascontiguousarray(picture[y : y + self.height, x : x + self.width])


def best_size(rig: StereoRig, pixels: float) -> tuple[int, int]:
    """Width and height, multiples of 32 px, of about as many pixels and the shape of the rig's pictures."""
    wide, tall = math.sqrt(pixels * rig.width / rig.height), math.sqrt(pixels * rig.height / rig.width)
    return max(_UNIT, round(wide / _UNIT) * _UNIT), max(_UNIT, round(tall / _UNIT) * _UNIT)


def load_lesson(
    lesson: Lesson, cache: TeachingCache | None, width: int, height: int
) -> tuple[PairBatch, Taught | None]:
    """One pair at the training's size, and what the teacher said of it, 1 x ... each.

    Raises:
        BadPair: the images cannot be used.
        FileError: the true depth or a kept answer cannot be read.
    """
    left, right, known_rig = checked_images(lesson.pair)
    left, right, rig = level_pair(left, right, known_rig)
    fit = Fit.of(rig, width, height)
    disparity = lesson.pair.truth()
    if disparity is None:
        truth = np.full((height, width), np.nan, np.float32)
    else:
        truth = fit.field(disparity_to_depth(disparity, known_rig))
    pairs = PairBatch(
        as_tensor(fit.image(left)), as_tensor(fit.image(right)), torch.tensor([fit.focal(rig)], dtype=torch.float32),
        torch.tensor([rig.baseline], dtype=torch.float32), torch.from_numpy(truth)[None, None],
    )  # fmt: skip
    if not lesson.key or cache is None:
        return pairs, None
    full = cache.taught(lesson.key)
    across, down = fit.resized_width / rig.width, fit.resized_height / rig.height
    assert full.right_disparity is not None
    fields = ((full.disparity, across), (full.vertical, down), (full.right_disparity, across))
    return pairs, Taught(
        *(torch.from_numpy(fit.field(field[0, 0].numpy()) * np.float32(scale))[None, None] for field, scale in fields)
    )


Loader = Callable[["Lesson", "TeachingCache | None", int, int], tuple[PairBatch, "Taught | None"]]
"""Makes a sample, 1 x ... each, of a lesson; what it takes and raises is that of ``load_lesson``."""


class LessonSource:
    """Pairs on disk as endless numbered samples of one size: every pass through them is in another order.

    What was read stays in memory until that holds half a gigabyte.
    """

    def __init__(
        self,
        lessons: Sequence[Lesson],
        cache: TeachingCache | None,
        width: int,
        height: int,
        seed: int = 0,
        load: Loader = load_lesson,
    ) -> None:
        """``cache``: what the lessons' keys belong to; ``load``: makes a sample of a lesson."""
        self.lessons, self.cache, self.width, self.height, self.seed = list(lessons), cache, width, height, seed
        self.load = load
        self._read: dict[int, tuple[PairBatch, Taught | None]] = {}
        self._bytes = 0

    def samples(self, numbers: Sequence[int]) -> tuple[list[tuple[PairBatch, Taught | None]], PairCounts]:
        """The samples with these numbers, each a function of (seed, number) alone, and what had to be left out.

        In place of a pair that can no longer be read stands the next one of the same pass.

        Raises:
            FileError: no pair can be read any more.
        """
        counts, found = PairCounts(), []
        for number in numbers:
            passed, position = divmod(number, len(self.lessons))
            order = np.random.default_rng([self.seed, 0, passed]).permutation(len(self.lessons))
            for k in range(len(order)):
                which = int(order[(position + k) % len(order)])
                try:
                    found.append(self._sample(which))
                    break
                except (BadPair, FileError) as error:
                    reason = error.reason if isinstance(error, BadPair) else "unreadable"
                    counts.skip(self.lessons[which].pair.name, reason, str(error))
            else:
                raise FileError(f"none of the {len(order)} pairs can be read any more; the last: {counts.examples}")
        return found, counts

    def _sample(self, which: int) -> tuple[PairBatch, Taught | None]:
        if which in self._read:
            return self._read[which]
        lesson = self.lessons[which]
        try:
            sample = self.load(lesson, self.cache, self.width, self.height)
        except FileError:
            if self.cache is not None:
                self.cache.forget(lesson.key)  # looked at anew when the next run begins
            raise
        size = sum(t.nbytes for part in sample if part is not None for t in part if t is not None)
        if self._bytes + size <= _KEPT_BYTES:
            self._read[which] = sample
            self._bytes += size
        return sample


class RenderedSource:
    """Rendered scenes as pairs by number, in one shape or in several by turns."""

    def __init__(self, renderers: Sequence[WorldGenerator], turn: int = 1, with_right: bool = True) -> None:
        """What is rendered.

        Args:
            renderers: one for every shape of the pictures.
            turn: so many numbers in a row are of one shape, as many as a batch has where there are several shapes.
            with_right: False where nobody looks at the right picture: half the work, and the left one stands in.
        """
        self.renderers, self.turn, self.with_right = list(renderers), turn, with_right

    def pairs(self, numbers: Sequence[int]) -> PairBatch:
        """The scenes with these numbers, of one turn; the sky has no depth to learn."""
        renderer = self.renderers[numbers[0] // self.turn % len(self.renderers)]
        scenes = renderer.batch(numbers) if self.with_right else renderer.views(numbers)
        truth = torch.where(torch.isfinite(scenes.depth) & (scenes.depth > 0), scenes.depth, torch.nan)
        right = scenes.right if isinstance(scenes, WorldBatch) else scenes.left
        return PairBatch(scenes.left, right, scenes.focal.float(), scenes.baseline.float(), truth.float())


class Drawn(NamedTuple):
    """What a batch is made of, as it comes from a worker.

    ``numbers``: int64, of the samples. ``read``: samples from disk. ``scenes``: rendered pairs. ``to_render``: int64,
    numbers of scenes that the training device is to render. ``counts``: pairs that had to be left out.
    """

    numbers: torch.Tensor
    read: list[tuple[PairBatch, Taught | None]]
    scenes: PairBatch | None
    to_render: torch.Tensor
    counts: PairCounts


class Mixture:
    """Samples by number: a fixed share of rendered scenes, the others from disk."""

    def __init__(
        self, lessons: LessonSource | None, scenes: RenderedSource | None, share: float, render_here: bool = True
    ) -> None:
        """What is mixed.

        Args:
            lessons, scenes: one of both at least.
            share: part of the samples that is rendered, where there are both.
            render_here: False where the training device renders.
        """
        if lessons is None and scenes is None:
            raise ValueError("nothing to train on")
        self.lessons, self.scenes, self.render_here = lessons, scenes, render_here
        self.share = 1.0 if lessons is None else 0.0 if scenes is None else share

    def draw(self, numbers: Sequence[int]) -> Drawn:
        """The samples with these numbers."""
        rendered, files = [], []
        for number in numbers:
            before, after = math.floor(number * self.share), math.floor((number + 1) * self.share)
            if after > before:
                rendered.append(before)
            else:
                files.append(number - before)
        read, counts = self.lessons.samples(files) if self.lessons is not None and files else ([], PairCounts())
        here = self.scenes is not None and self.render_here and rendered
        return Drawn(
            torch.tensor(numbers),
            read,
            self.scenes.pairs(rendered) if here else None,  # type: ignore[union-attr]
            torch.tensor([] if here else rendered, dtype=torch.int64),
            counts,
        )
