"""The loop that every training here goes through; what is trained and on what is the caller's.

Lightning runs it (devices, precision, several processes under torchrun, logging). Added to that: data drawn without
end, a schedule over steps or hours, an average of the weights, validation, and a state that a killed run goes on from.
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
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, IterableDataset

from fg_depth_ros.networks.checkpoint import (
    CheckpointError,
    ModelCard,
    load_checkpoint,
    load_partial,
    save_checkpoint,
    save_tensors,
)
from fg_depth_ros.networks.registry import create_model, load_model, weights_path
from fg_depth_ros.training.config import Training, one_cycle
from fg_depth_ros.training.progress import ProgressLine
from fg_depth_ros.training.state import load_state, save_state

_LOG = logging.getLogger(__name__)
_EMA_DECAY = 0.998
_LOG_EVERY = 50
_PATIENT_UNTIL = 1 / 3  # part of the run
VALIDATION_SEED = 1_000_003
"""Added to a run's seed for the scenes that it is judged by."""

Watch = Callable[[torch.nn.Module], dict[str, float]]
Judge = Callable[[torch.nn.Module, torch.device], dict[str, float]]
FeedOpener = Callable[[torch.device, int, int, int], tuple["IterableDataset[Any]", int]]


class TrainingModule(pl.LightningModule):
    """A network, the running average of its weights, and the schedule."""

    def __init__(self, config: Training, options: Mapping[str, Any] | None = None) -> None:
        """``options``: of the network, where it starts with fresh weights.

        Raises:
            CheckpointError: weights that cannot be used, or of another network than ``config.model``.
            ValueError: options that the network does not take.
        """
        super().__init__()
        self.config = config
        self.model, self.parent = _starting_network(config, options or {})
        self.options: dict[str, Any] = dict(self.model.options)  # type: ignore[arg-type]
        self.model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.steps_done, self.seconds_done, self._tick = 0, 0.0, time.monotonic()
        self.enough = False
        """Whether the run ends before its length, as no validation gets better."""
        self.latest: dict[str, torch.Tensor] = {}

    @abstractmethod
    def losses(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch and its parts (detached scalars)."""

    @abstractmethod
    def render(self, numbers: list[int]) -> Any:
        """The batch of these scenes, on the training device."""

    def rate_factor(self, progress: float) -> float:
        """What the learning rate is multiplied by at this part of the run."""
        return one_cycle(progress)

    @property
    def progress(self) -> float:
        """Part of the run that is done, 0 .. 1."""
        if self.enough:
            return 1.0
        by_steps = self.steps_done / self.config.steps if self.config.steps else 0.0
        by_time = self.seconds_done / (3600 * self.config.hours) if self.config.hours else 0.0
        return min(1.0, max(by_steps, by_time))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its rate follows ``progress``."""
        return torch.optim.AdamW(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )

    def start_clock(self) -> None:
        """Training time is counted from here on."""
        self._tick = time.monotonic()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Set the learning rate; end the epoch when the run is over (all processes by the same clock)."""
        now = time.monotonic()
        self.seconds_done, self._tick = self.seconds_done + now - self._tick, now
        progress = torch.tensor(self.progress, device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.broadcast(progress, 0)
        rate = self.config.learning_rate * self.rate_factor(float(progress))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        if float(progress) >= 1.0:
            self.trainer.should_stop = True
            return -1
        return None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Scene numbers are rendered here, on the device; rendered pairs are moved."""
        if isinstance(batch, torch.Tensor):
            return self.render(batch.tolist())
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """One step; a loss that is not finite ends the run with the batch saved."""
        loss, self.latest = self.losses(batch)
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
        if self.steps_done == 1 or self.steps_done % _LOG_EVERY == 0:
            self._log_latest()

    def _log_latest(self) -> None:
        """Write the figures of the step, means over all processes, under the number of steps done in all runs."""
        names = sorted(self.latest)
        figures = torch.stack([self.latest[name].float() for name in names]) if names else torch.zeros(0)
        figures = figures.to(self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(figures)
            figures = figures / self.trainer.world_size
        if self.trainer.is_global_zero and self.logger:
            written = {f"train/{name}": value for name, value in zip(names, figures.tolist(), strict=True)}
            written["train/rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
            self.logger.log_metrics(written, self.steps_done)


def _starting_network(config: Training, options: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network to train, and the description of the weights that it begins with."""
    if not config.weights:
        return create_model(config.model, **options), {}
    if not config.load_partial:
        model, card = load_model(config.weights)
        if card.name != config.model:
            raise CheckpointError(
                f"{config.weights} holds a network '{card.name}' and '{config.model}' is to be trained: name its own "
                "model, or load_partial"
            )
        return model, {"sha256": card.sha256, **card.description}
    tensors, card = load_checkpoint(weights_path(config.weights))
    model = create_model(config.model, **options)
    fresh = load_partial(model, tensors)
    if len(fresh) == len(model.state_dict()):
        raise CheckpointError(f"nothing in {config.weights}, a network '{card.name}', fits '{config.model}'")
    parent = {"model": card.name, "sha256": card.sha256, "grown": {"fresh": fresh}, **card.description}
    return model, parent


class Keeper(pl.Callback):
    """Validates, keeps the best and the last weights, and the state to go on from."""

    def __init__(
        self, config: Training, judge: Judge, select: str, source: Mapping[str, Any], watch: Watch | None = None
    ) -> None:
        """What it judges by.

        Args:
            config: of the run.
            judge: figures of a network on the fixed validation set.
            select: the figure that decides which weights are the best (the lowest).
            source: what the card says of licence and data.
            watch: figures on anything else; written down, not selected by.
        """
        self.config, self.judge, self.select, self.source, self.watch = config, judge, select, source, watch
        self.out = Path(config.out)
        self.best = math.inf
        self.waited, self._least, self._kept = 0, math.inf, -1
        self._next = time.monotonic() + 60 * config.validate_minutes

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Every ``validate_minutes``, on the first process, between two steps.

        Not at the end of a step: callbacks come before the module there, which has neither counted the step nor moved
        the average yet.
        """
        every, steps = self.config.validate_steps, int(module.steps_done)  # type: ignore[arg-type]
        if time.monotonic() >= self._next or (every and steps and steps % every == 0 and steps != self._kept):
            self._next = time.monotonic() + 60 * self.config.validate_minutes
            self.keep(trainer, module)  # type: ignore[arg-type]

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The end of the run."""
        if module.steps_done != self._kept:  # type: ignore[attr-defined]
            self.keep(trainer, module)  # type: ignore[arg-type]

    def keep(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """Validate the averaged weights and write everything down."""
        if not trainer.is_global_zero:
            return
        figures = self.judge(module.average, module.device)
        if self.watch:
            figures.update(self.watch(module.average))
        if trainer.logger:
            trainer.logger.log_metrics({f"val/{k}": v for k, v in figures.items()}, module.steps_done)
        card = ModelCard(self.config.model, module.options, "", self.describe(module, trainer.world_size, figures))
        save_checkpoint(self.out / "last.safetensors", module.average, card)
        self._kept = module.steps_done
        if figures[self.select] < self.best:
            self.best = figures[self.select]
            save_checkpoint(self.out / "best.safetensors", module.average, card)
        self._wait(module, figures[self.select])
        document = {
            "steps": module.steps_done, "seconds": module.seconds_done, "best": self.best, "least": self._least,
            "waited": self.waited,
        }  # fmt: skip
        save_state(
            self.out / "state.safetensors",
            {"model": module.model, "average": module.average},
            trainer.optimizers[0],
            document,
        )
        with open(self.out / "validation.jsonl", "a") as log:
            log.write(json.dumps({"step": module.steps_done, "hours": module.seconds_done / 3600, **figures}) + "\n")
        _LOG.info("step %d: %s", module.steps_done, ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))

    def go_on(self, module: TrainingModule, document: Mapping[str, Any]) -> None:
        """Take up what ``keep`` wrote down."""
        self.best, self._kept, self.waited = document["best"], document["steps"], document.get("waited", 0)
        self._least = document.get("least", math.inf)
        self._lose_patience(module)

    def _wait(self, module: TrainingModule, figure: float) -> None:
        """Count the validations that bring nothing.

        Trained weights are compared with trained ones alone, and the beginning does not count: a learning rate at its
        highest makes good weights worse before it makes them better.
        """
        if not module.steps_done:
            return
        self.waited += 1
        if figure < self._least or module.progress < _PATIENT_UNTIL:
            self._least, self.waited = min(figure, self._least), 0
        self._lose_patience(module)

    def _lose_patience(self, module: TrainingModule) -> None:
        """End the run where it has waited long enough for a better figure."""
        if self.config.patience and self.waited >= self.config.patience:
            module.enough = True  # the first process tells the others how far the run is
            _LOG.info("no better %s in %d validations: the run ends", self.select, self.waited)

    def describe(self, module: TrainingModule, processes: int, figures: dict[str, float]) -> dict[str, Any]:
        """The card's history of the weights."""
        return {
            **self.source,
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


def photo_sources(photos: Sequence[Path]) -> dict[str, int]:
    """Number of photos by the name of their folder."""
    sources: dict[str, int] = {}
    for photo in photos:
        sources[photo.parent.name] = sources.get(photo.parent.name, 0) + 1
    return sources


def run(config: Training, module: TrainingModule, keeper: Keeper, open_feed: FeedOpener) -> Path:
    """Train (or go on with) ``module``; returns the path of the best weights.

    Args:
        config: what to do.
        module: the network.
        keeper: validates and writes.
        open_feed: (device, batches consumed before, rank, ranks) -> the batches of this process and how many worker
            processes make them. ``device`` is where scenes are rendered: the GPU, or ``cpu``.

    Raises:
        CheckpointError: a state in ``out`` that belongs to another training.
        FloatingPointError: a loss that is not finite.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    on_gpu = torch.cuda.is_available()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # processes of torchrun on this machine
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
        devices=here or ("auto" if on_gpu else 1),
        num_nodes=int(os.environ["WORLD_SIZE"]) // here if here else 1,
        accelerator="gpu" if on_gpu else "cpu",
    )
    start = 0
    if (out / "state.safetensors").exists():
        optimizer = module.configure_optimizers()
        document = load_state(out / "state.safetensors", {"model": module.model, "average": module.average}, optimizer)
        module.steps_done, module.seconds_done = document["steps"], document["seconds"]
        keeper.go_on(module, document)
        start = document["steps"]
        module.configure_optimizers = lambda: optimizer  # type: ignore[method-assign]
        _LOG.info("going on at step %d of %s", start, out)
    device = trainer.strategy.root_device if on_gpu else torch.device("cpu")
    feed, workers = open_feed(device, start, trainer.global_rank, trainer.world_size)
    loader = DataLoader(feed, batch_size=None, num_workers=workers, prefetch_factor=3 if workers else None)
    module.start_clock()
    trainer.fit(module, loader)
    return out / "best.safetensors"
