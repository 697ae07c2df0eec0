"""Training of the stereo network on synthetic scenes: ``fg-depth train stereo``.

Scenes drawn without end, judged on a fixed synthetic set and on real folders; the loop is ``training.loop``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from fg_depth_ros.synthesis.stereo import StereoBatch, StereoSceneGenerator
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
from fg_depth_ros.training.feeding import SceneFeed
from fg_depth_ros.training.loop import VALIDATION_SEED, Keeper, TrainingModule, Watch, photo_sources, run
from fg_depth_ros.training.stereo.config import StereoTraining
from fg_depth_ros.training.stereo.losses import stereo_loss


class StereoModule(TrainingModule):
    """The stereo network in training."""

    def __init__(self, config: StereoTraining) -> None:
        super().__init__(config)
        self.generator: StereoSceneGenerator | None = None

    def render(self, numbers: list[int]) -> StereoBatch:
        """The scenes and their mirror images."""
        if self.generator is None:
            raise RuntimeError("no generator to render scenes with")
        return self.generator.batch(numbers, mirrored=True)

    def losses(self, batch: StereoBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """``stereo_loss`` of the network's prediction."""
        prediction = self.model(batch.left.float() / 255, batch.right.float() / 255)
        return stereo_loss(prediction, batch.disparity, int(self.model.max_disparity))  # type: ignore[arg-type]


@torch.no_grad()
def validate_synthetic(
    batches: Sequence[StereoBatch], model: torch.nn.Module, device: torch.device
) -> dict[str, float]:
    """EPE (px), bad-1, bad-2 (%) over all pixels of the fixed synthetic set."""
    sums = torch.zeros(4, dtype=torch.float64)
    for batch in batches:
        answer = model(batch.left.to(device).float() / 255, batch.right.to(device).float() / 255).disparity
        error = (answer.cpu() - batch.disparity.cpu()).abs()
        sums += torch.tensor([error.sum(), (error > 1).sum(), (error > 2).sum(), error.numel()], dtype=torch.float64)
    epe, bad1, bad2 = (sums[:3] / sums[3]).tolist()
    return {"synthetic/epe": epe, "synthetic/bad1": 100 * bad1, "synthetic/bad2": 100 * bad2}


def train_stereo(config: StereoTraining, watch: Watch | None = None) -> Path:
    """Run (or go on with) a training; returns the path of the best weights.

    Args:
        config: what to do.
        watch: figures of the network on anything else, such as real pairs; written down at every validation, and
            neither trained on nor selected by.

    Raises:
        FileError: photo folders that cannot be used.
        CheckpointError: a state in ``out`` that belongs to another training.
        FloatingPointError: a loss that is not finite.
    """
    photos = list_photos(config.photos)
    pl.seed_everything(config.seed, verbose=False)
    atlas = TextureAtlas.build(photos, config.patterns, seed=config.seed)
    module = StereoModule(config)
    held_out = StereoSceneGenerator(atlas, config.width, config.height, config.seed + VALIDATION_SEED)
    validation = [held_out.batch([i]) for i in range(config.validation_scenes)]
    source: dict[str, Any] = {
        "licence": "Apache-2.0",
        "data": "synthetic layered scenes (fg_depth_ros.synthesis.stereo), rendered while training",
        "photo_sources": photo_sources(photos),
    }
    keeper = Keeper(config, partial(validate_synthetic, validation), "synthetic/epe", source, watch)

    def open_feed(device: torch.device, start: int, rank: int, ranks: int) -> tuple[SceneFeed, int]:
        on_cpu = device.type == "cpu"
        module.generator = StereoSceneGenerator(atlas, config.width, config.height, config.seed, device)
        feed = SceneFeed(module.generator, config.batch, start=start, rank=rank, ranks=ranks, render=on_cpu)
        return feed, config.workers if on_cpu else 0

    return run(config, module, keeper, open_feed)
