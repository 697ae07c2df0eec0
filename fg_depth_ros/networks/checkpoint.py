"""Weights on disk: safetensors with a description, nothing that could run code.

A file holds the tensors of one network and, as metadata, one JSON document: the network's name and options, what it
was trained on and how, its figures, its licence, and a SHA-256 over names, shapes and contents of the tensors;
since 0.2 also a SHA-256 over the network's name, its options and the first hash.
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

from fg_depth_ros.files import atomic_write

_METADATA_KEY = "fg_depth"
# Layers whose weights have the inputs in the first dimension and the outputs in the second one.
_TRANSPOSED = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)


class CheckpointError(ValueError):
    """Weights that cannot be used; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class ModelCard:
    """Description of a network in its weights file.

    ``name`` and ``options`` build the network (``create_model``); ``sha256`` identifies the weights;
    ``description`` is free: training data, command, seed, hours, figures, licence.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of all that decides what the network computes: its weights, options and ranges for int8."""
        int8 = self.description.get("int8")
        ranges = int8.get("ranges") if isinstance(int8, dict) else None
        return _hash_of([self.name, self.options, self.sha256, ranges])


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 (hex) over the names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], document: dict[str, Any]) -> None:
    """Write tensors and a JSON document; the file appears under its name only when it is complete."""
    clean = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with atomic_write(path) as unfinished:
        save_file(clean, unfinished, metadata={_METADATA_KEY: json.dumps(document)})
        unfinished.chmod(0o644)  # safetensors makes files that only their owner can read


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote. Raises CheckpointError: missing, truncated, or not written by this package."""
    path = Path(path)
    if not os.path.isfile(path):  # Path.is_file() raises for names that are too long
        what = "is a folder, a pipe or a device" if os.path.exists(path) else "does not exist"
        raise CheckpointError(f"weights file {path} {what}; give the path of a .safetensors file")
    if path.suffix in (".pth", ".pt", ".tar"):
        raise CheckpointError(
            f"{path} is a PyTorch checkpoint; 'fg-depth import {path.name} --out NAME.safetensors' makes weights of "
            "published ones"
        )
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
        if not isinstance(document, dict):
            raise ValueError("it is no object")
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has no fg_depth description; it was not written by fg_depth_ros") from error
    return tensors, document


def save_checkpoint(path: str | Path, model: torch.nn.Module, card: ModelCard) -> ModelCard:
    """Write a network's weights with its card; returns the card with its hash filled in."""
    tensors = model.state_dict()
    card = ModelCard(card.name, card.options, fingerprint(tensors), card.description)
    save_tensors(path, tensors, {"model": vars(card), "sha256": _sha256(card)})
    return card


def load_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], ModelCard]:
    """Read weights and their card.

    Raises CheckpointError: as ``load_tensors``, a hash does not match, or a value is not finite.
    """
    tensors, document = load_tensors(path)
    try:
        card = ModelCard(**document["model"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds no network (its description has {sorted(document)})") from error
    for field_, kind in (("name", str), ("options", dict), ("sha256", str), ("description", dict)):
        if not isinstance(getattr(card, field_), kind):
            raise CheckpointError(
                f"{path} is damaged: {field_} of its card is {getattr(card, field_)!r}; fetch it again"
            )
    found = fingerprint(tensors)
    if found != card.sha256:
        raise CheckpointError(f"{path} is damaged: contents hash to {found[:12]}, its card says {card.sha256[:12]}")
    if document.get("sha256", _sha256(card)) != _sha256(card):  # files of 0.1 have none
        raise CheckpointError(f"{path} is damaged: the name or the options in its card were changed; fetch it again")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path} cannot be used: values of {name} are not finite; train again, or fetch others"
            )
    return tensors, card


def _sha256(card: ModelCard) -> str:
    """Hash what a network is built from."""
    return _hash_of([card.name, card.options, card.sha256])


def _hash_of(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def load_partial(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Copy weights of a network of the same kind and other sizes into ``network``, as far as they overlap.

    The leading corner of a tensor is copied to the leading corner of the one with its name. The rest keeps its values,
    except that old channels get no input from new ones (zero): where every layer is larger, the network first computes
    what the smaller one did (after Net2Net, Chen et al. 2016, with fresh instead of copied channels). Not so after a
    concatenation whose first part has grown: the channels of the others are not where they were. Returns the names of
    the network's tensors that keep their own values: no tensor of that name and rank was found.
    """
    fresh, modules = [], dict(network.named_modules())
    for name, target in network.state_dict().items():
        source = weights.get(name)
        if source is None or source.dim() != target.dim():
            fresh.append(name)
            continue
        common = tuple(slice(min(a, b)) for a, b in zip(source.shape, target.shape, strict=True))
        if source.dim() > 1:
            outputs = 1 if isinstance(modules[name.rpartition(".")[0]], _TRANSPOSED) else 0
            target.narrow(outputs, 0, common[outputs].stop).zero_()
        target[common] = source[common]
    return fresh
