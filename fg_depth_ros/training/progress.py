"""One live line of a training: step, rate, error and the time that is left."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_PLAIN_EVERY = 60.0


class ProgressLine(pl.Callback):
    """A bar on a terminal; in a log file a line a minute. The module has ``progress``, ``steps_done``, ``latest``."""

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
        """Show the newest figures."""
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        began, progress0, steps0 = self._began
        steps, done = module.steps_done - steps0, module.progress - progress0
        rate = steps / max(now - began, 1e-6)
        left = (now - began) / done * (1 - module.progress) if done > 0 else float("nan")
        figures = " ".join(f"{name} {float(value):.2f}" for name, value in module.latest.items())
        text = f"step {module.steps_done} {rate:.2f}/s {figures} left {left / 60:.0f} min"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=module.progress, description=text)
        elif now - self._last_print > _PLAIN_EVERY:
            self._last_print = now
            self._console.print(f"{100 * module.progress:5.1f} % {text}", highlight=False, soft_wrap=True)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Close the bar."""
        if self._bar:
            self._bar.stop()
