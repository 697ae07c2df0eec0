"""Starting a network from weights of one with other sizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


@torch.no_grad()
def grow_from(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Put weights of a network of the same kind and other sizes into ``network``, as far as they overlap.

    The leading corner of a tensor goes into the leading corner of the one with its name. What the new tensor has
    beyond stays as it was, except that old channels do not listen to new ones yet (zero): where everything grew, the
    network computes what the smaller one did, beside what the new channels are going to learn (after Net2Net, Chen et
    al. 2016, with fresh instead of copied channels). Where something shrank, training has to mend it.

    Args:
        network: changed in place.
        weights: tensors by name, as of ``state_dict()``.

    Returns:
        Names of the network's tensors that keep their own values: nothing of that name and rank was found.
    """
    fresh = []
    for name, target in network.state_dict().items():
        source = weights.get(name)
        if source is None or source.dim() != target.dim():
            fresh.append(name)
            continue
        common = tuple(slice(min(a, b)) for a, b in zip(source.shape, target.shape, strict=True))
        if source.dim() > 1:
            target[common[0]] = 0
        target[common] = source[common]
    return fresh
