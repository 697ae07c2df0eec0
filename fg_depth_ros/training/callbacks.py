"""Lightning callbacks of every training: validation with checkpoints and early stopping, and a line of progress."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.files import append_line
from fg_depth_ros.training.checkpoint import Checkpoint
from fg_depth_ros.training.config import Training
from fg_depth_ros.training.content import Content

_LOG = logging.getLogger(__name__)
_VALIDATIONS = "validation.jsonl"
_COUNTED_FROM = 1 / 3  # part of the run
_LINE_EVERY, _BAR_EVERY = 60.0, 0.5  # s
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a run."""

Evaluate = Callable[[torch.nn.Module], dict[str, float]]
"""Evaluate a network on its device and return its metrics by name, such as ``Task.validation``."""


@dataclass(frozen=True)
class Validation:
    """Validation of a network while it is trained."""

    evaluate: Evaluate
    """Metrics on the fixed validation set."""
    monitor: str
    """Metric that selects the best weights (the lowest) and stops the run."""
    extra: Evaluate | None = None
    """Further metrics, of anything else such as real pairs: logged, neither trained on nor selected by.

    Those of a set that is called as one of the validation set's get ``real_`` before their name.
    """
    picture: Callable[[torch.nn.Module], np.ndarray] | None = None
    """Draws predictions for fixed samples, H x W x 3 uint8 RGB."""


class EarlyStopping:
    """Count validations without improvement.

    Lightning's callback of this name counts from the first validation on and keeps its count in a pickled checkpoint.
    Here neither the weights to start from nor the first third of a run count: a learning rate at its highest makes good
    weights worse before it makes them better.

    Args:
        patience: validations without improvement after which the run stops; 0: never.
    """

    def __init__(self, patience: int) -> None:
        self.patience, self.best_score, self.wait_count = patience, math.inf, 0

    def update(self, score: float, progress: float) -> None:
        """Count the validation of trained weights at this part of the run."""
        self.wait_count += 1
        if score < self.best_score or progress < _COUNTED_FROM:
            self.best_score, self.wait_count = min(score, self.best_score), 0

    @property
    def should_stop(self) -> bool:
        """Return whether patience has run out."""
        return 0 < self.patience <= self.wait_count


class ValidationCallback(pl.Callback):
    """Validate the averaged weights, before the first step and now and then, then checkpoint them.

    On the first process alone, between two steps; the others learn of an early stop with the progress of the run.

    Args:
        config: of the run.
        validation: by what.
        card: licence and data for the card of the weights.
        content: fingerprints of the data of the run.
    """

    def __init__(self, config: Training, validation: Validation, card: Mapping[str, Any], content: Content) -> None:
        self.config, self.validation = config, validation
        self.checkpoint, self.stopping = Checkpoint(config, card, content), EarlyStopping(config.patience)
        self._validated = -1  # the step
        self._next = self._next_validation()

    def resume(self, trainer: pl.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Restore module, optimizer, gradient scaler and counters from the state in the folder of the run.

        Raises:
            CheckpointError: a state that belongs to another training.
        """
        document = self.checkpoint.load(module, optimizer)
        pairs = document.get("pairs")
        if pairs is None:  # a state of 0.1.0: taken to be of as many processes
            pairs = module.steps_done * self.config.batch * trainer.world_size
        module.pairs_done = pairs
        self._validated = document.get("validated", document["steps"])
        if scaler := document.get("scaler"):
            trainer.precision_plugin.load_state_dict(scaler)
        self.stopping.wait_count = document.get("wait_count", document.get("waited", 0))  # the second name is older
        self.stopping.best_score = document.get("best_score", document.get("least", math.inf))
        module.stopped_early = self.stopping.should_stop

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Validate the weights to start from."""
        if module.steps_done == self.config.start_step:
            self._validate(trainer, module)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Validate if it is due.

        Not at the end of a step: callbacks run before the module there, which has neither counted the step nor moved
        the average yet.
        """
        every, steps = self.config.validate_steps, int(module.steps_done)  # type: ignore[arg-type]
        if time.monotonic() >= self._next or (every and steps and steps % every == 0 and steps != self._validated):
            self._validate(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Validate the last weights; after a signal, which leaves no time, write the state alone."""
        new = module.steps_done != self._validated
        if module.stop_signal is None and new:
            self._validate(trainer, module)
        if module.stop_signal is not None and trainer.is_global_zero:
            if new:
                self.checkpoint.save_state(module, trainer.optimizers[0], self._counters(trainer))
            _LOG.info("stopped at step %d; the same command resumes it", module.steps_done)

    def _counters(self, trainer: pl.Trainer) -> dict[str, Any]:
        return {
            "best_score": self.stopping.best_score, "wait_count": self.stopping.wait_count,
            "validated": self._validated, "scaler": trainer.precision_plugin.state_dict(),
        }  # fmt: skip

    def _next_validation(self) -> float:
        """Return when, by the clock, the next validation is due."""
        return time.monotonic() + 60 * self.config.validate_minutes if self.config.validate_minutes else math.inf

    def _validate(self, trainer: pl.Trainer, module: Any) -> None:
        self._validated = module.steps_done
        if trainer.is_global_zero:
            with module.stopped_clock():
                self._evaluate(trainer, module)
        self._next = self._next_validation()  # from its end on: one that takes longer would be due after every step

    def _evaluate(self, trainer: pl.Trainer, module: Any) -> None:
        network = module.validation_network()
        metrics = self.validation.evaluate(network)
        if self.validation.extra:
            metrics = {**metrics, **_set_apart(self.validation.extra(network), metrics)}
        self._require_selectable(module.steps_done, metrics[self.validation.monitor])
        if module.steps_done > self.config.start_step:
            self.stopping.update(metrics[self.validation.monitor], module.progress)
            module.stopped_early = self.stopping.should_stop
        self.checkpoint.save(
            module, trainer.optimizers[0], trainer.world_size, metrics, self.validation.monitor,
            self._counters(trainer),
        )  # fmt: skip
        self._log(trainer, module, metrics)

    def _require_selectable(self, step: int, score: float) -> None:
        """Raise FloatingPointError where a score that is not finite leaves the run without best weights."""
        if not math.isfinite(score) and math.isinf(self.checkpoint.best):
            raise FloatingPointError(
                f"{self.validation.monitor} of the validation at step {step} is {score}, so it selects no best "
                "weights: start from weights that predict something, and validate with samples that have a truth in "
                "the range that is evaluated"
            )

    def _log(self, trainer: pl.Trainer, module: Any, metrics: dict[str, float]) -> None:
        row = {"step": module.steps_done, "hours": module.seconds_done / 3600, **metrics}
        append_line(self.checkpoint.folder / _VALIDATIONS, json.dumps(row))
        _LOG.info("step %d: %s", module.steps_done, ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        if module.stopped_early:
            _LOG.info("no better %s in %d validations: stopping", self.validation.monitor, self.stopping.wait_count)
        if trainer.logger:
            trainer.logger.log_metrics({f"val/{k}": v for k, v in metrics.items()}, module.steps_done)
        if self.validation.picture:
            picture = self.validation.picture(module.average)
            folder = self.checkpoint.folder / "pictures"
            folder.mkdir(exist_ok=True)
            write_image(folder / f"{module.steps_done:07d}.png", picture)
            if trainer.logger:
                trainer.logger.experiment.add_image("val/sample", picture, module.steps_done, dataformats="HWC")  # type: ignore[attr-defined]


def read_validations(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of validation.jsonl of a run, without those that a power cut or a full disk damaged."""
    path, rows = folder / _VALIDATIONS, []
    for line in path.read_text(errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            _LOG.warning("%s: a line is damaged and left out: %.60s", path, line)
    return rows


def _set_apart(extra: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """Return further metrics (``SET/METRIC``) under names that take the place of no other metric."""

    def set_of(name: str) -> str:
        return name.rpartition("/")[0] or name

    taken = {set_of(name) for name in metrics}
    return {f"real_{name}" if set_of(name) in taken else name: value for name, value in extra.items()}


class StopSignals(pl.Callback):
    """End the run between two steps on SIGINT (Ctrl-C) or SIGTERM; a second signal ends it at once."""

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Take the signals, which Lightning has taken before; those that are ignored, by nohup say, stay so."""
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: Any) -> None:
            module.stop_signal = signal.Signals(number)
            for each in taken:
                signal.signal(each, signal.default_int_handler)

        taken = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        for number in taken:
            signal.signal(number, stop)


class ProgressLine(pl.Callback):
    """Show a bar on a terminal, in a log file a line a minute: step, rate, metrics, time left."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._last_print = 0.0
        self._began = (0.0, 0.0, 0)

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Open the bar on the first process."""
        self._began = (time.monotonic(), module.progress, module.steps_done)
        if trainer.is_global_zero and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=self._console
            )
            self._bar.add_task("training", total=1.0)
            self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        """Show the newest losses."""
        now = time.monotonic()
        if not trainer.is_global_zero or now - self._last_print <= (_BAR_EVERY if self._bar else _LINE_EVERY):
            return  # reading the losses waits for the device
        self._last_print = now
        began, progress0, steps0 = self._began
        steps, done = module.steps_done - steps0, module.progress - progress0
        words = [f"step {module.steps_done}"]
        if done > 0:  # else nothing is known yet
            left = (now - began) / done * (1 - module.progress)
            words += [f"{steps / max(now - began, 1e-6):.2f}/s", f"left {left / 60:.0f} min"]
        text = " ".join([*words, *(f"{name} {float(value):.2f}" for name, value in module.last_metrics.items())])
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=module.progress, description=text)
        else:
            self._console.print(f"{100 * module.progress:5.1f} % {text}", highlight=False, soft_wrap=True)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Close the bar."""
        if self._bar:
            self._bar.stop()
