"""Configuration of every training run; imports neither PyTorch nor Lightning."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


def one_cycle(progress: float) -> float:
    """Return the factor of the learning rate: 4 % linear warm-up, then a cosine to 1 %.

    Args:
        progress: part of the run that is done, 0 .. 1.
    """
    warm = 0.04
    if progress < warm:
        return 0.05 + 0.95 * progress / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


Schedule = tuple[float, Callable[[float], float]]
"""Highest learning rate, and its factor by the part of the run that is done."""
PRECISIONS = ("32", "bf16-mixed", "16-mixed", "auto")


@dataclass(frozen=True)
class Training:
    """Configuration of one training run, whatever it trains; stored with the weights."""

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset({
        "out", "weights", "steps", "hours", "piece_minutes", "precision", "compile", "workers", "validate_minutes",
        "validate_steps", "patience", "cache",
    })  # fmt: skip
    """Fields that a resumed run may have other values of. The weights are compared by their hash.

    Not ``validation_scenes``: the best error so far compares only with that of the same scenes.
    """

    out: str = "runs/training"
    """Folder for weights, state and logs; a run found there is resumed."""
    photos: tuple[str, ...] = ()
    """Folder of pictures for the surfaces of rendered scenes; without any, procedural textures alone."""
    patterns: int = 160
    """Number of procedural textures in addition to the photos."""
    model: str = ""
    """Network to train."""
    weights: str = ""
    """Weights to start from, a model's name or a file; empty: fresh ones."""
    load_partial: bool = False
    """Load as much of the weights as fits a network of other sizes or of a related architecture."""
    freeze: tuple[str, ...] = ()
    """Part of the network that stays as it is, such as encoder (a wrong name lists the parts): a step takes less time,
    and what it knows is kept."""
    width: int = 448
    """Width of the training images, px."""
    height: int = 224
    """Height of the training images, px."""
    batch: int = 4
    """Pairs per process and step."""
    steps: int = 0
    """Length in steps; 0: limited by hours alone; with both, whichever ends first."""
    hours: float = 0.0
    """Length in hours of training time without validations, kept over restarts; 0: limited by steps alone."""
    start_step: int = 0
    """Step of the schedule to begin at, where only the weights of the earlier steps are left."""
    piece_minutes: float = 0.0
    """Stop after this many minutes with the state written; the same command resumes; 0: run to the end."""
    learning_rate: float = 1e-3
    """Highest learning rate."""
    weight_decay: float = 1e-5
    """Weight decay of the optimizer."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    seed: int = 0
    """Seed of weights, scenes and augmentation."""
    precision: str = "32"
    """Precision in Lightning's terms: 32, bf16-mixed, 16-mixed, or auto: bf16-mixed where the device computes in it."""
    compile: bool = False
    """Compile the network by torch.compile: about a fifth less time per step, after minutes for the first one."""
    workers: int = 1
    """Processes that read and render; a GPU renders by itself."""
    validate_minutes: float = 10.0
    """Minutes between validations; 0: by steps alone."""
    validate_steps: int = 0
    """Steps between validations, in addition to the minutes; 0: by minutes alone."""
    validation_scenes: int = 24
    """Number of scenes, or of pairs of each data set, that a validation evaluates."""
    patience: int = 0
    """Validations without improvement, from a third of the run on, after which it stops; 0: never."""

    def __post_init__(self) -> None:
        for name in ("steps", "hours"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} must not be negative, got {getattr(self, name):g}")
        check_choice("precision", self.precision, PRECISIONS)
        if not self.steps and not self.hours:
            raise ValueError("a training needs a length: give --steps or --hours")
        if self.batch < 1:
            raise ValueError(f"--batch must be at least 1, got {self.batch}")
        if self.load_partial and not self.weights:
            raise ValueError("--load-partial needs --weights to start from")
        if self.start_step < 0:
            raise ValueError(f"--start-step is a count, got {self.start_step}; 0 begins at the beginning")
        if not self.validate_minutes >= 0:
            raise ValueError(f"--validate-minutes must not be negative, got {self.validate_minutes}; 0: by steps alone")
        if self.patience < 0 or self.validate_steps < 0:
            raise ValueError(
                f"--patience and --validate-steps are counts, got {self.patience} and {self.validate_steps}; 0 is "
                "without"
            )

    def _require_validation_scenes(self) -> None:
        """Raise ValueError where nothing would select the weights; in some configurations 0 has another meaning."""
        if self.validation_scenes < 1:
            raise ValueError(
                f"--validation-scenes must be at least 1, got {self.validation_scenes}: they select the best weights"
            )

    def stored(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return fields

    def changes(self, before: Mapping[str, Any]) -> list[str]:
        """Compare with the stored fields of the run to resume; return the differences that make it another training.

        Folders and files may be named in another way; fields that only one of the two versions has are left out.
        """
        now = self.stored()
        found = []
        for name in sorted((now.keys() & before.keys()) - self.MAY_CHANGE):
            was, value = before[name], now[name]
            if was != value and _resolved(was) != _resolved(value):
                found.append(f"{name} was {json.dumps(was)} and is {json.dumps(value)}")
        return found

    def _resolve(self, **values: Any) -> None:
        """Replace fields that stood for "choose yourself", so that the stored configuration is explicit."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _resolved(value: Any) -> Any:
    """Return texts as absolute paths, so that two names of one file are equal; other values as they are."""
    if isinstance(value, list):
        return [_resolved(each) for each in value]
    return os.path.realpath(value) if isinstance(value, str) and value else value


def check_choice(what: str, name: str, known: Iterable[str]) -> None:
    """Raise ValueError, naming what is known, unless ``name`` is among it."""
    if name not in known:
        raise ValueError(f"unknown {what} '{name}'; known: {', '.join(sorted(filter(None, known)))}")


def check_multiple(multiple: int, *sizes: tuple[int, int]) -> None:
    """Raise ValueError unless each width and height (px) is a positive multiple of ``multiple``."""
    for width, height in sizes:
        if min(width, height) < multiple or width % multiple or height % multiple:
            raise ValueError(f"width and height must be multiples of {multiple}, got {width}x{height}")
