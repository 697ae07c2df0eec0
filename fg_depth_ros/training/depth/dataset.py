"""Samples of a depth training by number: pairs from disk with the teacher's cached predictions, and rendered scenes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig, disparity_to_depth
from fg_depth_ros.geometry.resize import resize_image, resize_nearest, size_with_area
from fg_depth_ros.synthesis.world.generator import WorldBatch, WorldGenerator
from fg_depth_ros.training.batches import cat_batches, split_batch, to_tensor
from fg_depth_ros.training.depth.batch import PairBatch, TeacherPrediction
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.flow_mask import masked
from fg_depth_ros.training.depth.pair_checks import BadPair, checked_images, remove_doffs
from fg_depth_ros.training.depth.pairs import PairCounts, TrainingPair
from fg_depth_ros.training.depth.teacher import PredictionCache
from fg_depth_ros.training.scene_pool import ScenePool
from fg_depth_ros.training.stream import shuffled

_MEMORY_BYTES = 512 * 2**20

Sample = tuple[PairBatch, TeacherPrediction | None]
"""One pair (1 x ... each), and what the teacher predicted for it beforehand."""


@dataclass(frozen=True)
class ResizeCrop:
    """Change of a picture of another size to that of the training: resized, then cropped around its middle."""

    width: int
    height: int
    resized_width: int
    resized_height: int

    @classmethod
    def of(cls, rig: StereoRig, width: int, height: int) -> ResizeCrop:
        """Resize as ``NetworkMono.input_size`` does for a network of this size, and further where that is too small."""
        wide, tall = size_with_area(rig.width * rig.pixel_aspect, rig.height, width * height)
        cover = max(1.0, width / wide, height / tall)
        return cls(width, height, max(width, round(wide * cover)), max(height, round(tall * cover)))

    @property
    def cropped_share(self) -> float:
        """Return the part of the picture that is cut off."""
        return 1 - self.width * self.height / (self.resized_width * self.resized_height)

    def focal(self, rig: StereoRig) -> float:
        """Return fx in px afterwards."""
        return rig.fx * self.resized_width / rig.width

    def image(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop H x W x 3 uint8, as inference resizes."""
        return self._crop(resize_image(image, self.resized_width, self.resized_height))

    def field(self, field: np.ndarray) -> np.ndarray:
        """Resize and crop H x W float32 by the nearest value: a mean across an edge would be the depth of nothing."""
        return self._crop(resize_nearest(field, self.resized_width, self.resized_height))

    def _crop(self, picture: np.ndarray) -> np.ndarray:
        x, y = (self.resized_width - self.width) // 2, (self.resized_height - self.height) // 2
        return np.ascontiguousarray(picture[y : y + self.height, x : x + self.width])


def load_whole(one: TrainingPair) -> PairBatch:
    """Load a pair at its own size, infinity at disparity 0, with its true depth. Raises BadPair, FileError."""
    left, right, original = checked_images(one.pair)
    left, right, rig = remove_doffs(left, right, original)
    disparity = one.pair.truth()
    unknown = np.full(left.shape[:2], np.nan, np.float32)
    truth = unknown if disparity is None else disparity_to_depth(disparity, original)
    focal, baseline = (torch.tensor([value], dtype=torch.float32) for value in (rig.fx, rig.baseline))
    return PairBatch(to_tensor(left), to_tensor(right), focal, baseline, torch.from_numpy(truth)[None, None])


def load_sample(
    one: TrainingPair, cache: PredictionCache | None, mask: MaskConfig, width: int, height: int
) -> Sample:  # fmt: skip
    """Load a pair at the training's size, and what the teacher predicted for it, masked. Raises BadPair, FileError."""
    whole = load_whole(one)
    rig = one.pair.rig
    assert rig is not None
    fit = ResizeCrop.of(rig, width, height)
    left, right = (to_tensor(fit.image(image[0].permute(1, 2, 0).numpy())) for image in (whole.left, whole.right))
    truth = torch.from_numpy(fit.field(whole.truth[0, 0].numpy()))[None, None]
    pairs = PairBatch(left, right, torch.tensor([fit.focal(rig)], dtype=torch.float32), whole.baseline, truth)
    if not one.key or cache is None:
        return pairs, None
    full = masked(cache.load(one.key), torch.tensor([rig.fx]), whole.baseline, mask)
    fields = ((full.disparity, fit.resized_width / rig.width), (full.vertical, fit.resized_height / rig.height))
    scaled = [
        torch.from_numpy(fit.field(field[0, 0].numpy()) * np.float32(scale))[None, None] for field, scale in fields
    ]
    return pairs, TeacherPrediction(*scaled)


class PairDataset:
    """Pairs on disk as endless numbered samples: every pass through them is in another order, drawn by ``seed``.

    Loaded samples stay in memory until that holds half a gigabyte. ``load``: loads a sample of a pair; ``cache``: what
    the pairs' keys belong to.
    """

    def __init__(
        self, pairs: Sequence[TrainingPair], load: Callable[[TrainingPair], Sample],
        cache: PredictionCache | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.pairs, self.load, self.cache, self.seed = list(pairs), load, cache, seed
        self._loaded: dict[int, Sample] = {}
        self._bytes = 0

    def samples(self, numbers: Sequence[int]) -> tuple[list[Sample], PairCounts]:
        """Return the samples with these numbers, each a function of (seed, number) alone, and what was left out.

        A pair that can no longer be read is replaced by the next one of the same pass. Raises FileError: no pair can be
        read any more.
        """
        counts, found = PairCounts(), []
        for number in numbers:
            for index in map(int, shuffled(number, len(self.pairs), self.seed)):
                try:
                    found.append(self._sample(index))
                    break
                except (BadPair, FileError) as error:
                    reason = error.reason if isinstance(error, BadPair) else "unreadable"
                    counts.skip(self.pairs[index].pair.name, reason, str(error))
            else:
                raise FileError(f"none of the {len(self.pairs)} pairs can be read any more: {counts.examples}")
        return found, counts

    def _sample(self, index: int) -> Sample:
        if index in self._loaded:
            return self._loaded[index]
        one = self.pairs[index]
        try:
            sample = self.load(one)
        except FileError:
            if self.cache is not None:
                self.cache.forget(one.key)  # checked again when the next run begins
            raise
        size = sum(t.nbytes for part in sample if part is not None for t in part if t is not None)
        if self._bytes + size <= _MEMORY_BYTES:
            self._loaded[index] = sample
            self._bytes += size
        return sample


class SceneDataset:
    """Rendered scenes as pairs by number, in one shape or in several (a renderer for each) by turns.

    ``turn``: so many numbers in a row are of one shape, as many as a batch has. ``with_right``: False where the right
    images are not used: half the work, and the left ones stand in. ``uses``: samples that each scene gives on average,
    drawn from a pool of ``pool`` scenes for each shape and lane with the ``seed``; 1: every number is a scene.
    """

    def __init__(
        self, renderers: Sequence[WorldGenerator], turn: int = 1, with_right: bool = True, *, uses: int = 1,
        pool: int = 32, seed: int = 0,
    ) -> None:  # fmt: skip
        self.renderers, self.turn, self.with_right, self.uses = list(renderers), turn, with_right, uses
        self._pools = [
            ScenePool(partial(self._views, shape), lambda pair, _: pair, cat_batches, size=pool, uses=uses, seed=seed)
            for shape in range(len(self.renderers))
        ]

    def pairs(self, numbers: Sequence[int], index: int = 0) -> PairBatch:
        """Render the scenes with these numbers, of one turn, or draw from the pool; the sky is at infinity.

        ``index``: of the batch that they are for.
        """
        turn, shape = divmod(numbers[0] // self.turn, len(self.renderers))
        if self.uses == 1:
            return self._render(shape, numbers)
        if len(self.renderers) == 1:
            return self._pools[shape].batch(list(numbers), index)
        return self._pools[shape].batch([turn * self.turn + i for i in range(len(numbers))], turn)

    def _views(self, shape: int, numbers: Sequence[int]) -> list[list[PairBatch]]:
        # The shapes count through different scenes.
        scenes = self._render(shape, [number * len(self.renderers) + shape for number in numbers])
        return [[scene] for scene in split_batch(scenes)]

    def _render(self, shape: int, numbers: Sequence[int]) -> PairBatch:
        renderer = self.renderers[shape]
        scenes = renderer.batch(numbers) if self.with_right else renderer.views(numbers)
        right = scenes.right if isinstance(scenes, WorldBatch) else scenes.left
        return PairBatch(scenes.left, right, scenes.focal.float(), scenes.baseline.float(), scenes.depth.float())


class MixedBatch(NamedTuple):
    """Raw batch as it comes from a worker.

    ``numbers``: int64, of the samples. ``loaded``: samples from disk. ``scenes``: rendered pairs. ``scene_numbers``:
    int64, of scenes that the training device is to render. ``counts``: pairs that had to be left out.
    """

    numbers: torch.Tensor
    loaded: list[Sample]
    scenes: PairBatch | None
    scene_numbers: torch.Tensor
    counts: PairCounts


class MixedDataset:
    """Samples by number: a fixed share of rendered scenes, the others from disk.

    ``share`` counts if there are both pairs and scenes. ``render_here``: False where the training device renders.
    """

    def __init__(
        self, pairs: PairDataset | None, scenes: SceneDataset | None, share: float, render_here: bool = True
    ) -> None:
        if pairs is None and scenes is None:
            raise ValueError("nothing to train on")
        self.pairs, self.scenes, self.render_here = pairs, scenes, render_here
        self.share = 1.0 if pairs is None else 0.0 if scenes is None else share

    def batch(self, numbers: Sequence[int]) -> MixedBatch:
        """Return the samples with these numbers."""
        rendered, files = [], []
        for number in numbers:
            before, after = math.floor(number * self.share), math.floor((number + 1) * self.share)
            if after > before:
                rendered.append(before)
            else:
                files.append(number - before)
        loaded, counts = self.pairs.samples(files) if self.pairs is not None and files else ([], PairCounts())
        here = self.scenes is not None and self.render_here and rendered
        index = numbers[0] // len(numbers)
        scenes = self.scenes.pairs(rendered, index) if here else None  # type: ignore[union-attr]
        scene_numbers = torch.tensor([] if here else rendered, dtype=torch.int64)
        return MixedBatch(torch.tensor(numbers), loaded, scenes, scene_numbers, counts)
