"""The training loop of all tasks; a task provides network, data and validation.

Lightning runs it (devices, precision, several processes under torchrun, logging). Added to that: endless data, a
schedule over steps or hours, an average of the weights, validation of that average, and a state that a killed run is
resumed from.
"""

from __future__ import annotations

import copy
import logging
import os
import signal
import threading
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from fg_depth_ros.distributed import barrier, process_rank
from fg_depth_ros.files import claim_folder
from fg_depth_ros.inference.estimator import keep_freed_memory
from fg_depth_ros.networks.checkpoint import CheckpointError, ModelCard, load_checkpoint, load_partial, save_tensors
from fg_depth_ros.networks.registry import create_model, load_model, weights_path
from fg_depth_ros.training.callbacks import STOP_SIGNALS, ProgressLine, StopSignals, Validation, ValidationCallback
from fg_depth_ros.training.config import Training, one_cycle
from fg_depth_ros.training.content import Content
from fg_depth_ros.training.stream import DataStream

_LOG = logging.getLogger(__name__)
_EMA_DECAY = 0.998
_LOG_EVERY = 50
# Beginnings of warnings that say nothing of a run here: the average is in evaluation mode on purpose.
_IGNORED_WARNINGS = (r".*LeafSpec", r"Found \d+ module\(s\) in eval mode", r"The '\w+' does not have many workers")
VALIDATION_SEED = 1_000_003
"""Added to a run's seed for the scenes that it is validated by."""


class TrainingModule(pl.LightningModule):
    """A network, the running average of its weights, and the schedule.

    Args:
        config: of the run.
        options: of the network, where it starts with fresh weights.

    Raises:
        CheckpointError: weights that cannot be used, or of another network than ``config.model``.
        ValueError: options that the network does not take, or parts to freeze that it does not have.
    """

    def __init__(self, config: Training, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.model, self.parent = _starting_network(config, options or {})
        self.options: dict[str, Any] = dict(self.model.options)  # type: ignore[arg-type]
        self.model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(self.model, config.freeze)
        self.predict = torch.compile(self.model.__call__) if config.compile else self.model.__call__
        """The network as a step runs it; its validation runs the average as it is."""
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.steps_done, self.seconds_done, self._tick = config.start_step, 0.0, time.monotonic()
        self.pairs_done = config.start_step * config.batch
        """Pairs that all processes together have consumed, in all runs."""
        self._piece_start = (self._tick, config.start_step)
        self.stopped_early = False
        self.stop_signal: signal.Signals | None = None
        """Signal that asked for the end of the run after the step in work."""
        self.last_metrics: dict[str, torch.Tensor] = {}
        self.resumed_optimizer: torch.optim.Optimizer | None = None
        self.device_renderer: Callable[..., Any] | None = None
        """What renders scenes from their numbers on the training device; None where the workers of the stream do."""

    @abstractmethod
    def losses(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of a batch and its parts (detached scalars)."""

    def lr_factor(self, progress: float) -> float:
        """Return the factor of the learning rate at this part of the run."""
        return one_cycle(progress)

    def describe(self) -> dict[str, Any]:
        """Return further entries for the card of the weights at a checkpoint."""
        return {}

    def validation_network(self) -> torch.nn.Module:
        """Return the network that a validation evaluates: the average."""
        return self.average

    @property
    def progress(self) -> float:
        """Return the part of the run that is done, 0 .. 1."""
        if self.stopped_early:
            return 1.0
        by_steps = self.steps_done / self.config.steps if self.config.steps else 0.0
        by_time = self.seconds_done / (3600 * self.config.hours) if self.config.hours else 0.0
        return min(1.0, max(by_steps, by_time))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer for Lightning: that of a resumed run with its state, or a new one."""
        return self.make_optimizer() if self.resumed_optimizer is None else self.resumed_optimizer

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW; its rate follows ``progress``."""
        return torch.optim.AdamW(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )

    def on_fit_start(self) -> None:
        """Start the clocks of the training time and of this piece."""
        self._tick, self._piece_start = time.monotonic(), (time.monotonic(), self.steps_done)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Set the learning rate; end the epoch when the run is over (all processes by the same clock)."""
        now = time.monotonic()
        self.seconds_done, self._tick = self.seconds_done + now - self._tick, now
        shared = torch.tensor([self.progress, self._piece_over(now), self.stop_signal or 0], device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.broadcast(shared, 0)
        progress, piece_over, stop_signal = shared.tolist()
        lr = self.config.learning_rate * self.lr_factor(progress)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = lr * group.get("factor", 1.0)
        if stop_signal:
            self.stop_signal = signal.Signals(int(stop_signal))
        if progress >= 1.0 or piece_over or stop_signal:
            self.trainer.should_stop = True
            return -1
        return None

    @contextmanager
    def stopped_clock(self) -> Iterator[None]:
        """Leave what is done meanwhile out of the training time; all processes go by the clock of the first one."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._tick += time.monotonic() - began

    def _piece_over(self, now: float) -> bool:
        """Return whether this piece of the run has had its time, and a step at least."""
        began, step = self._piece_start
        return 0 < 60 * self.config.piece_minutes <= now - began and self.steps_done > step

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device, or render it there from its ``scene_numbers``."""
        if self.device_renderer is not None and isinstance(batch, torch.Tensor):
            return self.device_renderer(batch.tolist())
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss; one that is not finite ends the run with the batch saved."""
        loss, self.last_metrics = self.losses(batch)
        if not torch.isfinite(loss):
            path = Path(self.config.out) / "bad_batch.safetensors"
            save_tensors(path, batch._asdict(), {"step": self.steps_done})
            raise FloatingPointError(f"the loss of step {self.steps_done} is {loss.item()}; its batch is in {path}")
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average; log."""
        self.steps_done += 1
        self.pairs_done += self.config.batch * self.trainer.world_size
        decay = min(_EMA_DECAY, (1 + self.steps_done) / (10 + self.steps_done))
        with torch.no_grad():
            for mean, value in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                if mean.dtype.is_floating_point:
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)
        if self.steps_done == 1 or self.steps_done % _LOG_EVERY == 0:
            self._log_last_metrics()

    def _log_last_metrics(self) -> None:
        """Log the metrics of the step, means over all processes, under the number of steps done in all runs."""
        names = sorted(self.last_metrics)
        metrics = torch.stack([self.last_metrics[name].float() for name in names]) if names else torch.zeros(0)
        metrics = metrics.to(self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(metrics)
            metrics = metrics / self.trainer.world_size
        if self.trainer.is_global_zero and self.logger:
            written = {f"train/{name}": value for name, value in zip(names, metrics.tolist(), strict=True)}
            written["train/lr"] = self.trainer.optimizers[0].param_groups[-1]["lr"]
            self.logger.log_metrics(written, self.steps_done)


def freeze(network: torch.nn.Module, parts: Sequence[str]) -> None:
    """Keep modules as they are in training, the statistics of their batch norms included.

    Args:
        network: to train.
        parts: names of modules in it, with dots, such as ``encoder`` or ``encoder.stem``.

    Raises:
        ValueError: a module that it does not have, or nothing is left to train.
    """
    modules = dict(network.named_modules())
    for name in parts:
        if not name or name not in modules:
            known = ", ".join(child for child, _ in network.named_children())
            raise ValueError(f"freeze: '{name}' is no part of {type(network).__name__}; its parts: {known}")
        modules[name].requires_grad_(False).eval()
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"freeze: nothing of {type(network).__name__} is left to train besides {', '.join(parts)}")


def _starting_network(config: Training, options: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return the network to train, and the description of the weights that it starts from."""
    if not config.weights:
        return create_model(config.model, **options), {}
    if not config.load_partial:
        model, card = load_model(config.weights)
        if card.name != config.model:
            raise CheckpointError(
                f"{config.weights} holds a network '{card.name}' and '{config.model}' is to be trained: name its own "
                'model, or load_partial; "" as weights begins with fresh ones'
            )
        return model, {"sha256": card.sha256, **_history(card)}
    tensors, card = load_checkpoint(weights_path(config.weights))
    model = create_model(config.model, **options)
    fresh = load_partial(model, tensors)
    if len(fresh) == len(model.state_dict()):
        raise CheckpointError(f"nothing in {config.weights}, a network '{card.name}', fits '{config.model}'")
    return model, {"model": card.name, "sha256": card.sha256, "partial": {"fresh": fresh}, **_history(card)}


def _history(card: ModelCard) -> dict[str, Any]:
    """Return the description of weights without what is of these weights alone."""
    return {name: value for name, value in card.description.items() if name != "int8"}


def resolve_precision(name: str, on_gpu: bool) -> str:
    """Return what a precision of ``auto`` stands for on this machine, in Lightning's terms; others as they are."""
    if name != "auto":
        return name
    if on_gpu:
        return "bf16-mixed" if torch.cuda.get_device_capability()[0] >= 8 else "16-mixed"
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bf16-mixed" if any(supported() for supported in known if supported is not None) else "32"


def photo_sources(photos: Sequence[Path]) -> dict[str, int]:
    """Return the number of photos by the name of their folder."""
    sources: dict[str, int] = {}
    for photo in photos:
        sources[photo.parent.name] = sources.get(photo.parent.name, 0) + 1
    return sources


def fit(
    module: TrainingModule,
    validation: Validation,
    card: Mapping[str, Any],
    open_stream: Callable[[torch.device], DataStream],
    content: Content,
) -> Path:
    """Train a module as its configuration says, or resume it; return the path of the best weights.

    Args:
        module: the network.
        validation: by what it is validated.
        card: licence and data for the card of the weights.
        open_stream: opens the batches; given the device where scenes are rendered: the GPU, or ``cpu``.
        content: fingerprints of the data; a run is only resumed with the same.

    Raises:
        CheckpointError: a state in ``out`` that belongs to another training.
        FileError: another training still runs there.
        FloatingPointError: a loss that is not finite, or no finite score in the first validation.
        KeyboardInterrupt: SIGINT or SIGTERM, after the step in work was ended and its state written.
    """
    config, out = module.config, Path(module.config.out)
    on_gpu = torch.cuda.is_available()
    with claim_out(config), _quiet_lightning():
        out.mkdir(parents=True, exist_ok=True)
        if not on_gpu:
            keep_freed_memory()
        callback = ValidationCallback(config, validation, card, content)
        trainer = _make_trainer(config, callback, on_gpu)
        module.pairs_done = config.start_step * config.batch * trainer.world_size
        if callback.checkpoint.state_path.exists():
            module.resumed_optimizer = module.make_optimizer()
            callback.resume(trainer, module, module.resumed_optimizer)
            _LOG.info("resuming %s at step %d", out, module.steps_done)
        stream = open_stream(trainer.strategy.root_device if on_gpu else torch.device("cpu"))
        stream.begin_at(module.pairs_done, trainer.global_rank, trainer.world_size)
        loader = DataLoader(
            stream, batch_size=None, num_workers=stream.workers, prefetch_factor=3 if stream.workers else None,
            worker_init_fn=_ignore_stop_signals,
        )  # fmt: skip
        with _restored_signals():
            trainer.fit(module, loader)
        if module.stop_signal is not None:
            raise KeyboardInterrupt(module.stop_signal.name)
        barrier(str(out.absolute()))
    return out / "best.safetensors"


def _make_trainer(config: Training, callback: ValidationCallback, on_gpu: bool) -> pl.Trainer:
    """Return Lightning's trainer for this process, one of several where torchrun started them."""
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # of torchrun, on this machine
    return pl.Trainer(
        default_root_dir=config.out,
        logger=TensorBoardLogger(config.out, name="", version="tensorboard"),
        callbacks=[callback, StopSignals(), ProgressLine()],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        max_epochs=-1 if config.hours else None,
        max_steps=config.steps or -1,
        precision=resolve_precision(config.precision, on_gpu),  # type: ignore[arg-type]
        gradient_clip_val=config.clip,
        use_distributed_sampler=False,
        devices=local_processes or 1,
        num_nodes=int(os.environ["WORLD_SIZE"]) // local_processes if local_processes else 1,
        accelerator="gpu" if on_gpu else "cpu",
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's messages about itself, unused devices and its own deprecations."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _IGNORED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)


def claim_out(config: Training) -> AbstractContextManager[None]:
    """Keep other trainings out of ``config.out``; once for all processes of a launcher. Raises as ``claim_folder``."""
    return nullcontext() if process_rank()[0] else claim_folder(config.out, "a training")


def _ignore_stop_signals(worker: int) -> None:
    """Let a signal that all processes get, from a terminal or systemd, end the run in its own process alone."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _restored_signals() -> Iterator[None]:
    """Give SIGINT and SIGTERM their handlers back at the end."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
