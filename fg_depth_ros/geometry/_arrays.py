"""Lets one formula serve numpy arrays and torch tensors without importing torch for numpy users."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

ArrayT = TypeVar("ArrayT")  # numpy.ndarray or torch.Tensor; what goes in comes out


def array_module(values: Any) -> Any:
    """Return the module (numpy or torch) that computes with ``values``. Raises TypeError for anything else."""
    if isinstance(values, np.ndarray):
        return np
    if type(values).__module__.split(".")[0] == "torch":
        import torch

        return torch
    raise TypeError(f"expected a numpy array or a torch tensor, got {type(values).__name__}")


def as_float32(values: Any) -> Any:
    """Convert ``values`` to float32 (no copy where it already is), same library, same device."""
    xp = array_module(values)
    return values.astype(np.float32, copy=False) if xp is np else values.to(xp.float32)
