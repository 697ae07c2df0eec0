"""Batches: named tuples of tensors whose first dimension counts the samples; made of images, joined and taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

Batch = TypeVar("Batch", bound="tuple[Any, ...]")


def cat_batches(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches of one kind field by field; a field that one of them lacks is None."""
    make: Any = type(batches[0])
    fields = zip(*batches, strict=True)
    whole: Batch = make(*(None if any(part is None for part in field) else torch.cat(field) for field in fields))
    return whole


def split_batch(batch: Batch) -> list[Batch]:
    """Separate a batch into batches of one sample each."""
    make: Any = type(batch)
    return [make(*(field[i : i + 1] for field in batch)) for i in range(len(batch[0]))]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the tensors of a batch on the device; None stays None."""
    make: Any = type(batch)
    there: Batch = make(*(None if tensor is None else tensor.to(device) for tensor in batch))
    return there


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Return H x W x C as 1 x C x H x W of the same type (not divided by 255)."""
    # Copied where it is read-only: images of a bag lie in the message.
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]


def to_image(images: torch.Tensor) -> np.ndarray:
    """Return the first of N x 3 x H x W images as H x W x 3 on the CPU, of the same type."""
    return np.ascontiguousarray(images[0].permute(1, 2, 0).cpu().numpy())
