"""Training of the stereo network on synthetic scenes: ``fg-depth train stereo``.

Lightning runs the loop (devices, precision, several processes under torchrun, logging); what is particular to this
training is here: scenes drawn without end, a schedule over steps or hours, an average of the weights, validation on
a fixed synthetic set and on real folders, and a state that a killed run goes on from.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from fg_depth_ros.data.synthetic import StereoBatch, StereoSceneGenerator
from fg_depth_ros.data.textures import TextureAtlas, list_photos
from fg_depth_ros.networks.checkpoint import ModelCard, load_checkpoint, save_checkpoint, save_tensors
from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE
from fg_depth_ros.networks.growing import grow_from
from fg_depth_ros.networks.registry import create_model, load_model, weights_path
from fg_depth_ros.training.feeding import SceneFeed
from fg_depth_ros.training.losses import stereo_loss
from fg_depth_ros.training.progress import ProgressLine
from fg_depth_ros.training.state import load_state, save_state

_LOG = logging.getLogger(__name__)
_VALIDATION_SEED = 1_000_003
_EMA_DECAY = 0.998

Watch = Callable[[torch.nn.Module], dict[str, float]]


@dataclass(frozen=True)
class StereoTraining:
    """One training run. Stored with the weights it makes."""

    out: str = "runs/stereo"
    """Folder for state, weights and logs; a run found there goes on."""
    photos: tuple[str, ...] = ()
    """Folders of pictures for the surfaces; without any, procedural textures alone."""
    patterns: int = 160
    """Procedural textures beside the photos."""
    model: str = "flownet_stereo"
    weights: str = ""
    """Weights to start from; empty for fresh ones."""
    grow: bool = False
    """The weights are of a smaller net of the kind: ``model`` in its default sizes begins with what of them fits."""
    width: int = 448
    height: int = 224
    batch: int = 4
    """Pairs per process and step, even."""
    steps: int = 0
    """Length in steps; 0 = by hours alone."""
    hours: float = 0.0
    """Length in hours of training time, kept over restarts; 0 = by steps alone. The earlier end counts."""
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    precision: str = "32"
    """Lightning's words: 32, bf16-mixed, 16-mixed."""
    workers: int = 1
    """Processes that render scenes (CPU); on a GPU the device renders."""
    validate_minutes: float = 10.0
    validation_scenes: int = 24

    def __post_init__(self) -> None:
        if self.steps <= 0 and self.hours <= 0:
            raise ValueError("a training needs a length: give steps or hours")
        if self.grow and not self.weights:
            raise ValueError("growing needs weights to start from")
        if self.width % SIZE_MULTIPLE or self.height % SIZE_MULTIPLE:
            raise ValueError(f"width and height must be multiples of {SIZE_MULTIPLE}, got {self.width}x{self.height}")
        if self.batch < 2 or self.batch % 2:
            raise ValueError(f"batch must be even and at least 2, got {self.batch}")


class StereoModule(pl.LightningModule):
    """The network, the running average of its weights, and the schedule."""

    def __init__(self, config: StereoTraining) -> None:
        super().__init__()
        self.config = config
        self.parent: dict[str, Any] = {}
        if config.weights and not config.grow:
            self.model, card = load_model(config.weights)
            self.parent = {"sha256": card.sha256, **card.description}
        else:
            self.model = create_model(config.model)
        if config.grow:
            tensors, card = load_checkpoint(weights_path(config.weights))
            fresh = grow_from(self.model, tensors)
            self.parent = {"sha256": card.sha256, "grown": {"fresh": fresh}, **card.description}
        self.options: dict[str, Any] = dict(self.model.options)  # type: ignore[arg-type]
        self.model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.steps_done, self.seconds_done, self._tick = 0, 0.0, time.monotonic()
        self.generator: StereoSceneGenerator | None = None
        self.latest: dict[str, torch.Tensor] = {}

    @property
    def progress(self) -> float:
        """Part of the run that is done, 0 .. 1."""
        by_steps = self.steps_done / self.config.steps if self.config.steps else 0.0
        by_time = self.seconds_done / (3600 * self.config.hours) if self.config.hours else 0.0
        return min(1.0, max(by_steps, by_time))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its rate follows ``progress``."""
        return torch.optim.AdamW(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Set the learning rate; end the epoch when the run is over (all processes by the same clock)."""
        now = time.monotonic()
        self.seconds_done, self._tick = self.seconds_done + now - self._tick, now
        progress = torch.tensor(self.progress, device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.broadcast(progress, 0)
        rate = self.config.learning_rate * schedule(float(progress))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        if float(progress) >= 1.0:
            self.trainer.should_stop = True
            return -1
        return None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> StereoBatch:
        """Scene numbers are rendered here, on the device; rendered pairs are moved."""
        if isinstance(batch, torch.Tensor):
            if self.generator is None:
                raise RuntimeError("no generator to render scenes with")
            return self.generator.batch(batch.tolist(), mirrored=True)
        moved: StereoBatch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def training_step(self, batch: StereoBatch, batch_idx: int) -> torch.Tensor:
        """One step; a loss that is not finite ends the run with the batch saved."""
        prediction = self.model(batch.left.float() / 255, batch.right.float() / 255)
        loss, self.latest = stereo_loss(
            prediction,
            batch.disparity,
            int(self.model.max_disparity),  # type: ignore[arg-type]
        )
        if not torch.isfinite(loss):
            path = Path(self.config.out) / "bad_batch.safetensors"
            save_tensors(path, batch._asdict(), {"step": self.steps_done})
            raise FloatingPointError(f"the loss of step {self.steps_done} is {loss.item()}; its batch is in {path}")
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average; log."""
        self.steps_done += 1
        decay = min(_EMA_DECAY, (1 + self.steps_done) / (10 + self.steps_done))
        with torch.no_grad():
            for mean, value in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                if mean.dtype.is_floating_point:
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)
        if self.steps_done % 50 == 0:
            for name, value in self.latest.items():
                self.log(f"train/{name}", value, rank_zero_only=True)


def schedule(progress: float) -> float:
    """Factor of the learning rate: 4 % linear warm-up, then a cosine to 1 %."""
    warm = 0.04
    if progress < warm:
        return 0.05 + 0.95 * progress / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


class Keeper(pl.Callback):
    """Validates, keeps the best and the last weights, and the state to go on from."""

    def __init__(
        self, config: StereoTraining, photos: Sequence[Path], validation: list[StereoBatch], watch: Watch | None
    ) -> None:
        self.config, self.photos, self.validation, self.watch = config, photos, validation, watch
        self.out = Path(config.out)
        self.best = math.inf
        self._next = time.monotonic() + 60 * config.validate_minutes

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Every ``validate_minutes``, on the first process."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 60 * self.config.validate_minutes
            self.keep(trainer, module)  # type: ignore[arg-type]

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The end of the run."""
        self.keep(trainer, module)  # type: ignore[arg-type]

    def keep(self, trainer: pl.Trainer, module: StereoModule) -> None:
        """Validate the averaged weights and write everything down."""
        if not trainer.is_global_zero:
            return
        figures = validate_synthetic(module.average, self.validation, module.device)
        if self.watch:
            figures.update(self.watch(module.average))
        if trainer.logger:
            trainer.logger.log_metrics({f"val/{k}": v for k, v in figures.items()}, module.steps_done)
        card = ModelCard(self.config.model, module.options, "", self.describe(module, trainer.world_size, figures))
        save_checkpoint(self.out / "last.safetensors", module.average, card)
        if figures["synthetic/epe"] < self.best:
            self.best = figures["synthetic/epe"]
            save_checkpoint(self.out / "best.safetensors", module.average, card)
        document = {"steps": module.steps_done, "seconds": module.seconds_done, "best": self.best}
        save_state(
            self.out / "state.safetensors",
            {"model": module.model, "average": module.average},
            trainer.optimizers[0],
            document,
        )
        with open(self.out / "validation.jsonl", "a") as log:
            log.write(json.dumps({"step": module.steps_done, "hours": module.seconds_done / 3600, **figures}) + "\n")
        _LOG.info("step %d: %s", module.steps_done, ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))

    def describe(self, module: StereoModule, processes: int, figures: dict[str, float]) -> dict[str, Any]:
        """The card's history of the weights."""
        sources: dict[str, int] = {}
        for photo in self.photos:
            sources[photo.parent.name] = sources.get(photo.parent.name, 0) + 1
        return {
            "licence": "Apache-2.0",
            "data": "synthetic layered scenes (fg_depth_ros.data.synthetic), rendered while training",
            "photo_sources": sources,
            "command": shlex.join(["fg-depth", *sys.argv[1:]]),
            "config": asdict(self.config),
            "processes": processes,
            "steps": module.steps_done,
            "pairs": module.steps_done * self.config.batch * processes,
            "hours": round(module.seconds_done / 3600, 3),
            "parent": module.parent,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "validation": {k: round(v, 4) for k, v in figures.items()},
        }


@torch.no_grad()
def validate_synthetic(
    model: torch.nn.Module, batches: Sequence[StereoBatch], device: torch.device
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
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    photos = list_photos(config.photos)
    pl.seed_everything(config.seed, verbose=False)
    atlas = TextureAtlas.build(photos, config.patterns, seed=config.seed)
    module = StereoModule(config)
    held_out = StereoSceneGenerator(atlas, config.width, config.height, config.seed + _VALIDATION_SEED)
    validation = [held_out.batch([i]) for i in range(config.validation_scenes)]
    keeper = Keeper(config, photos, validation, watch)
    trainer = pl.Trainer(
        default_root_dir=out,
        logger=TensorBoardLogger(str(out), name="", version="tensorboard"),
        callbacks=[keeper, ProgressLine()],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        max_epochs=-1 if config.hours else None,
        max_steps=config.steps or -1,
        precision=config.precision,  # type: ignore[arg-type]
        gradient_clip_val=config.clip,
        use_distributed_sampler=False,
        devices="auto" if torch.cuda.is_available() else _local_processes(),
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
    )
    start = 0
    if (out / "state.safetensors").exists():
        optimizer = module.configure_optimizers()
        document = load_state(out / "state.safetensors", {"model": module.model, "average": module.average}, optimizer)
        module.steps_done, module.seconds_done = document["steps"], document["seconds"]
        keeper.best, start = document["best"], document["steps"]
        module.configure_optimizers = lambda: optimizer  # type: ignore[method-assign]
        _LOG.info("going on at step %d of %s", start, out)
    on_gpu = torch.cuda.is_available()
    generator = StereoSceneGenerator(
        atlas, config.width, config.height, config.seed, trainer.strategy.root_device if on_gpu else "cpu"
    )
    module.generator = generator
    feed = SceneFeed(
        generator, config.batch, start=start, rank=trainer.global_rank, ranks=trainer.world_size, render=not on_gpu
    )
    workers = 0 if on_gpu else config.workers
    loader = DataLoader(feed, batch_size=None, num_workers=workers, prefetch_factor=3 if workers else None)
    module._tick = time.monotonic()
    trainer.fit(module, loader)
    return out / "best.safetensors"


def _local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
