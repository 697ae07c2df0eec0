"""Training of the stereo network on synthetic scenes: ``fg-depth train stereo``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.stereo import StereoTask
from fg_depth_ros.synthesis.stereo import StereoBatch, StereoSceneGenerator
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
from fg_depth_ros.synthesis.world.generator import WorldGenerator
from fg_depth_ros.training.callbacks import Evaluate, Validation
from fg_depth_ros.training.loop import VALIDATION_SEED, TrainingModule, fit, photo_sources
from fg_depth_ros.training.scene_pool import ScenePool
from fg_depth_ros.training.stereo.augmentation import MARGIN, StereoAugmentation
from fg_depth_ros.training.stereo.config import StereoTraining
from fg_depth_ros.training.stereo.losses import stereo_loss
from fg_depth_ros.training.stream import DataStream, image_of


class StereoModule(TrainingModule):
    """The stereo network in training."""

    def losses(self, batch: StereoBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return ``stereo_loss`` of the network's prediction."""
        prediction = self.predict(batch.left.float() / 255, batch.right.float() / 255)
        return stereo_loss(prediction, batch.disparity, int(self.model.max_disparity))  # type: ignore[arg-type]


def train_stereo(config: StereoTraining, extra: Evaluate | None = None) -> Path:
    """Train a stereo network, or resume it; return the path of the best weights.

    Args:
        config: what to do.
        extra: figures of the network on anything else, such as real pairs.

    Raises:
        FileError: photo folders that cannot be used.
        CheckpointError: a state in ``out`` that belongs to another training.
        FloatingPointError: a loss that is not finite.
    """
    photos = list_photos(config.photos)
    pl.seed_everything(config.seed, verbose=False)
    atlas = TextureAtlas.build(photos, config.patterns, seed=config.seed)
    module = StereoModule(config, config.options)
    generator = partial(StereoSceneGenerator, atlas, config.width, config.height)
    held_out = generator(config.seed + VALIDATION_SEED)
    scenes = [_sample(held_out.batch([i])) for i in range(config.validation_scenes)]
    card = {
        "licence": "Apache-2.0",
        "data": f"rendered scenes, {100 * config.world:g} % of the virtual world, the others layered; each used "
        f"{config.uses} times on average",
        "photo_sources": photo_sources(photos),
    }

    def open_stream(device: torch.device) -> DataStream:
        wide, high = (int(MARGIN * side) for side in (config.width, config.height))
        renderer = SceneRenderer(atlas, wide, high, world=config.world, seed=config.seed, device=device)
        pool = ScenePool(
            renderer, StereoAugmentation(config.width, config.height), _collate,
            size=config.pool, uses=config.uses, seed=config.seed,
        )  # fmt: skip
        return module.scene_stream(pool.batch, config.batch, device)

    validation = Validation(StereoTask().validation({"synthetic": scenes}), "synthetic/epe", extra)
    return fit(module, validation, card, open_stream)


class SceneRenderer:
    """Layered scenes, and a share of scenes from the virtual world, by number.

    Args:
        atlas: pictures for surfaces.
        width, height: of the scenes, px.
        world: share of numbers that are scenes of the virtual world, 0 .. 1.
        seed: of all scenes.
        device: where they are rendered and stay.
    """

    def __init__(
        self, atlas: TextureAtlas, width: int, height: int, *, world: float, seed: int, device: torch.device
    ) -> None:
        self.share, self.seed = world, seed
        self.layered = StereoSceneGenerator(atlas, width, height, seed, device)
        self.world = WorldGenerator(atlas, None, width, height, seed, device) if world else None

    def __call__(self, numbers: list[int]) -> list[list[StereoBatch]]:
        """Return the pairs (N = 1) of each number: a layered scene and its mirror image, or one of the world."""
        worldly = [n for n in numbers if np.random.default_rng([self.seed, n]).random() < self.share]
        rendered: dict[int, list[StereoBatch]] = {}
        if self.world is not None and worldly:
            batch = self.world.batch(worldly)
            pairs = _split(StereoBatch(batch.left, batch.right, batch.disparity, batch.occluded))
            rendered.update({n: [pair] for n, pair in zip(worldly, pairs, strict=True)})
        layered = [n for n in numbers if n not in rendered]
        if layered:
            pairs = _split(self.layered.batch(layered, mirrored=True))
            rendered.update({n: [pairs[i], pairs[i + len(layered)]] for i, n in enumerate(layered)})
        return [rendered[n] for n in numbers]


def _split(batch: StereoBatch) -> list[StereoBatch]:
    return [StereoBatch(*(field[i : i + 1] for field in batch)) for i in range(len(batch.left))]


def _collate(pairs: Sequence[StereoBatch]) -> StereoBatch:
    return StereoBatch(*(torch.cat(field) for field in zip(*pairs, strict=True)))


def _sample(scene: StereoBatch) -> StereoSample:
    """Return a rendered pair (N = 1) as a sample."""
    left, right = image_of(scene.left), image_of(scene.right)
    return StereoSample("scene", left, right, disparity=scene.disparity[0, 0].cpu().numpy())
