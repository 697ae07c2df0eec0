"""The files of a run: the best and the last weights, and the state that it is resumed from."""

from __future__ import annotations

import math
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fg_depth_ros.networks.checkpoint import CheckpointError, ModelCard, load_tensors, save_checkpoint, save_tensors
from fg_depth_ros.training.config import Training
from fg_depth_ros.training.content import Content, content_changes

if TYPE_CHECKING:
    from fg_depth_ros.training.loop import TrainingModule


class Checkpoint:
    """Write ``best.safetensors``, ``last.safetensors`` and ``state.safetensors`` into the folder of a run.

    Lightning's ``ModelCheckpoint`` is not used: it pickles, and it saves the weights in training, not their average.
    Here nothing is ever unpickled, and a resumed run continues at the exact step with both.

    Args:
        config: of the run.
        card: licence and data for the card of the weights.
        content: fingerprints of the data of the run.
    """

    def __init__(self, config: Training, card: Mapping[str, Any], content: Content) -> None:
        self.config, self.card, self.content, self.folder = config, card, content, Path(config.out)
        self.best = math.inf

    @property
    def state_path(self) -> Path:
        """Return the path of the state file."""
        return self.folder / "state.safetensors"

    def save(
        self, module: TrainingModule, optimizer: torch.optim.Optimizer, processes: int, metrics: Mapping[str, float],
        monitor: str, counters: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Write the averaged weights as the last ones, as the best ones if they are, and the state.

        Args:
            module: what is trained.
            optimizer: of the module.
            processes: how many train together.
            metrics: of the validation.
            monitor: the metric that is lowest for the best weights.
            counters: what else ``load`` is to return.
        """
        card = ModelCard(self.config.model, module.options, "", self._describe(module, processes, metrics))
        save_checkpoint(self.folder / "last.safetensors", module.average, card)
        if metrics[monitor] < self.best:
            self.best = metrics[monitor]
            save_checkpoint(self.folder / "best.safetensors", module.average, card)
        self.save_state(module, optimizer, counters)

    def save_state(self, module: TrainingModule, optimizer: torch.optim.Optimizer, counters: Mapping[str, Any]) -> None:
        """Write the state alone; arguments as for ``save``."""
        document: dict[str, Any] = {
            "steps": module.steps_done, "pairs": module.pairs_done, "seconds": module.seconds_done, "best": self.best,
            "config": self.config.stored(), "parent": module.parent.get("sha256", ""),
            "content": self.content, **counters,
        }  # fmt: skip
        module.on_save_checkpoint(document)
        save_state(self.state_path, {"model": module.model, "average": module.average}, optimizer, document)

    def load(self, module: TrainingModule, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Restore what ``save`` wrote; return the counters.

        Raises:
            CheckpointError: unreadable, or the state of another training.
        """
        tensors, document = read_state(self.state_path)
        self._check_same_training(document, module)
        restore(self.state_path, tensors, {"model": module.model, "average": module.average}, optimizer)
        module.on_load_checkpoint(document)
        module.steps_done, module.seconds_done = document["steps"], document["seconds"]
        self.best = document["best"]
        return document

    def _check_same_training(self, document: Mapping[str, Any], module: TrainingModule) -> None:
        """Raise CheckpointError where the configuration, the data or the weights to start from are others."""
        if "config" not in document:  # a state of an earlier version
            return
        before, parents = document["config"], (document["parent"], module.parent.get("sha256", ""))
        changes = self.config.changes(before)
        if parents[0] != parents[1]:
            names = (before["weights"], self.config.weights)
            was, now = (f"'{n}' ({p[:12]})" if p else "none" for n, p in zip(names, parents, strict=True))
            changes.append(f"weights were {was} and are {now}")
        if "content" in document:  # states of earlier versions have none
            changes += content_changes(document["content"], self.content)
        if changes:
            raise CheckpointError(
                f"{self.folder} holds another training: {'; '.join(changes)}. Give what was given then to resume it, "
                "or another --out"
            )

    def _describe(self, module: TrainingModule, processes: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Return the card's history of the weights."""
        return {
            **self.card,
            "command": shlex.join(["fg-depth", *sys.argv[1:]]),
            "config": self.config.stored(),
            "processes": processes,
            "steps": module.steps_done,
            "pairs": module.pairs_done,
            "hours": round(module.seconds_done / 3600, 3),
            "parent": module.parent,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "validation": {name: round(value, 4) for name, value in metrics.items()},
            **module.describe(),
        }


def save_state(
    path: Path, networks: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer, document: dict[str, Any]
) -> None:
    """Write networks, the optimizer's tensors and a JSON document to one safetensors file, atomically."""
    tensors = {f"{key}.{name}": t for key, net in networks.items() for name, t in net.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    save_tensors(path, tensors, {"training": document})


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the document that ``save_state`` wrote. Raises CheckpointError: unreadable."""
    tensors, stored = load_tensors(path)
    if "training" not in stored:
        raise CheckpointError(f"{path} is not the state of a training; give the state.safetensors of an output folder")
    return tensors, dict(stored["training"])


def restore(
    path: Path, tensors: Mapping[str, torch.Tensor], networks: Mapping[str, torch.nn.Module],
    optimizer: torch.optim.Optimizer,
) -> None:  # fmt: skip
    """Load the tensors of a state (``path``) into networks and optimizer. Raises CheckpointError: they do not fit."""
    try:
        for key, net in networks.items():
            prefix = f"{key}."
            net.load_state_dict({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} belongs to a training with other networks or options: {error}") from error
