"""Everything a stopped training needs to go on, in one safetensors file (nothing is ever unpickled)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fg_depth_ros.networks.checkpoint import CheckpointError, load_tensors, save_tensors


def save_state(
    path: Path, networks: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer, document: dict[str, Any]
) -> None:
    """Write networks, the optimizer's tensors and a JSON document, atomically."""
    tensors = {f"{key}.{name}": t for key, net in networks.items() for name, t in net.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    save_tensors(path, tensors, {"training": document})


def load_state(path: Path, networks: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore what ``save_state`` wrote; returns the document.

    Raises:
        CheckpointError: unreadable, or made by a training of other networks.
    """
    tensors, stored = load_tensors(path)
    if "training" not in stored:
        raise CheckpointError(f"{path} is not the state of a training; give the state.safetensors of an output folder")
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
    return dict(stored["training"])
