"""Training of the stereo network on synthetic scenes: ``fg-depth train stereo``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from fg_depth_ros.evaluation.metrics import StereoTally
from fg_depth_ros.synthesis.stereo import StereoBatch, StereoSceneGenerator
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
from fg_depth_ros.training.callbacks import ExtraEvaluate, Validation
from fg_depth_ros.training.loop import VALIDATION_SEED, TrainingModule, fit, photo_sources
from fg_depth_ros.training.stereo.config import StereoTraining
from fg_depth_ros.training.stereo.losses import stereo_loss
from fg_depth_ros.training.stream import DataStream

_MEASURES = ("epe", "bad_1", "bad_2")


class StereoModule(TrainingModule):
    """The stereo network in training."""

    def losses(self, batch: StereoBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return ``stereo_loss`` of the network's prediction."""
        prediction = self.model(batch.left.float() / 255, batch.right.float() / 255)
        return stereo_loss(prediction, batch.disparity, int(self.model.max_disparity))  # type: ignore[arg-type]


@torch.no_grad()
def evaluate_scenes(scenes: Sequence[StereoBatch], network: torch.nn.Module, device: torch.device) -> dict[str, float]:
    """Return EPE (px), bad-1 and bad-2 (%) over all pixels of rendered scenes, hidden ones included."""
    tally = StereoTally()
    for scene in scenes:
        found = network(scene.left.to(device).float() / 255, scene.right.to(device).float() / 255).disparity
        for disparity, truth in zip(found.float().cpu(), scene.disparity.cpu(), strict=True):
            tally.add(disparity[0].numpy(), truth[0].numpy())
    metrics = tally.metrics()
    return {f"synthetic/{name}": metrics[name] for name in _MEASURES}


def train_stereo(config: StereoTraining, extra: ExtraEvaluate | None = None) -> Path:
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
    module = StereoModule(config)
    generator = partial(StereoSceneGenerator, atlas, config.width, config.height)
    held_out = generator(config.seed + VALIDATION_SEED)
    scenes = [held_out.batch([i]) for i in range(config.validation_scenes)]
    card = {
        "licence": "Apache-2.0",
        "data": "synthetic layered scenes (fg_depth_ros.synthesis.stereo), rendered while training",
        "photo_sources": photo_sources(photos),
    }

    def open_stream(device: torch.device) -> DataStream:
        render = partial(generator(config.seed, device).batch, mirrored=True)
        return module.scene_stream(render, config.batch // 2, device)

    validation = Validation(partial(evaluate_scenes, scenes), "synthetic/epe", extra)
    return fit(module, validation, card, open_stream)
