"""Weights on disk: safetensors with a description, nothing that could run code.

A file holds the tensors of one network and, as metadata, one JSON document: the network's name and options, what it
was trained on and how, its figures, its licence, and a SHA-256 over names, shapes and contents of the tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_METADATA_KEY = "fg_depth"


class CheckpointError(ValueError):
    """Weights that cannot be used; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class ModelCard:
    """What a weights file says of itself.

    ``name`` and ``options`` build the network (``create_model``); ``sha256`` identifies the weights;
    ``description`` is free: training data, command, seed, hours, figures, licence.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    description: dict[str, Any] = field(default_factory=dict)


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over the names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], document: dict[str, Any]) -> None:
    """Write tensors and a JSON document; the file appears under its name only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    clean = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        save_file(clean, partial, metadata={_METADATA_KEY: json.dumps(document)})
        partial.chmod(0o644)  # safetensors makes files that only their owner can read
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote.

    Raises:
        CheckpointError: missing, unreadable, truncated, or not written by this package.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"weights file {path} does not exist; give the path of a .safetensors file")
    try:
        with safe_open(path, "pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); it may be truncated or of another "
            "format: fetch or export it again"
        ) from error
    try:
        document = json.loads(metadata[_METADATA_KEY])
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} has no fg_depth description; it was not written by fg_depth_ros") from error
    return tensors, document


def save_checkpoint(path: str | Path, model: torch.nn.Module, card: ModelCard) -> ModelCard:
    """Write a network's weights with its card; returns the card with its hash filled in."""
    tensors = model.state_dict()
    card = ModelCard(card.name, card.options, fingerprint(tensors), card.description)
    save_tensors(path, tensors, {"model": vars(card)})
    return card


def load_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], ModelCard]:
    """Read weights and their card.

    Raises:
        CheckpointError: as ``load_tensors``, or the contents do not match the stored hash.
    """
    tensors, document = load_tensors(path)
    try:
        card = ModelCard(**document["model"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no network (its description has {sorted(document)})") from error
    found = fingerprint(tensors)
    if found != card.sha256:
        raise CheckpointError(f"{path} is damaged: contents hash to {found[:12]}, its card says {card.sha256[:12]}")
    return tensors, card
