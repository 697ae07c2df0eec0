"""Training of the stereo network on synthetic scenes: ``fg-depth train stereo``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.stereo import StereoTask
from fg_depth_ros.synthesis.stereo import StereoBatch, StereoSceneGenerator
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
from fg_depth_ros.synthesis.world.generator import WorldGenerator
from fg_depth_ros.training.batches import cat_batches, split_batch, to_image
from fg_depth_ros.training.callbacks import Evaluate, Validation
from fg_depth_ros.training.content import content_of_files
from fg_depth_ros.training.loop import VALIDATION_SEED, TrainingModule, fit, photo_sources
from fg_depth_ros.training.scene_pool import MixedScenes, ScenePool
from fg_depth_ros.training.stereo.augmentation import MARGIN, StereoAugmentation
from fg_depth_ros.training.stereo.config import StereoTraining
from fg_depth_ros.training.stereo.losses import stereo_loss
from fg_depth_ros.training.stream import DataStream, scene_numbers


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
        extra: metrics of the network on anything else, such as real pairs.

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
    scenes = [rendered_stereo_sample(held_out.batch([i])) for i in range(config.validation_scenes)]
    card = {
        "licence": module.parent.get("licence") or "Apache-2.0",  # fine-tuned weights stay under their licence
        "data": f"rendered scenes, {100 * config.world_share:g} % of the virtual world, the others layered; each used "
        f"{config.uses} times on average",
        "photo_sources": photo_sources(photos),
    }

    def open_stream(device: torch.device) -> DataStream:
        wide, high = (int(MARGIN * side) for side in (config.width, config.height))
        renderer = scene_renderer(atlas, wide, high, world=config.world_share, seed=config.seed, device=device)
        pool = ScenePool(
            renderer, StereoAugmentation(config.width, config.height), cat_batches,
            size=config.pool, uses=config.uses, seed=config.seed,
        )  # fmt: skip
        if device.type == "cpu":
            return DataStream(pool.batch, config.batch, config.workers)
        module.device_renderer = pool.batch
        return DataStream(scene_numbers, config.batch)

    validation = Validation(StereoTask().validation({"synthetic": scenes}), "synthetic/epe", extra)
    return fit(module, validation, card, open_stream, content_of_files(photos=photos))


def scene_renderer(
    atlas: TextureAtlas, width: int, height: int, *, world: float, seed: int, device: torch.device
) -> MixedScenes[StereoBatch]:
    """Return what renders pairs (N = 1) by number: layered scenes with their mirror images, and a share of the world.

    Args:
        atlas: pictures for surfaces.
        width, height: of the scenes, px.
        world: share of numbers that are scenes of the virtual world, 0 .. 1.
        seed: of all scenes.
        device: where they are rendered and stay.
    """
    layered = StereoSceneGenerator(atlas, width, height, seed, device)
    streets_and_rooms = WorldGenerator(atlas, None, width, height, seed, device)

    def from_layers(numbers: list[int]) -> list[list[StereoBatch]]:
        pairs = split_batch(layered.batch(numbers, mirrored=True))
        return [[pairs[i], pairs[i + len(numbers)]] for i in range(len(numbers))]

    def from_world(numbers: list[int]) -> list[list[StereoBatch]]:
        batch = streets_and_rooms.batch(numbers)
        return [[pair] for pair in split_batch(StereoBatch(batch.left, batch.right, batch.disparity, batch.occluded))]

    return MixedScenes(from_layers, from_world, share=world, seed=seed)


def rendered_stereo_sample(scene: StereoBatch) -> StereoSample:
    """Return a rendered pair (N = 1) as a sample."""
    left, right = to_image(scene.left), to_image(scene.right)
    return StereoSample("scene", left, right, disparity=scene.disparity[0, 0].cpu().numpy())
