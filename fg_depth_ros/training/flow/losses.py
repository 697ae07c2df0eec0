"""Losses of the flow networks: the two published multi-scale end-point errors, and a robust one.

Everything here takes the predictions of all levels in px of the full image (``FlowPrediction.levels``). A mean is taken
over the known pixels of a sample first and over the samples then, so that several processes with a part of the batch
each get, on average, the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from fg_depth_ros.networks.flow import FlowPrediction
from fg_depth_ros.training.stereo.losses import hypothesis_distribution

FLOW_SCALE = 20.0
"""Px of one unit of the published networks' output; their losses are taken in these units."""
FINEST = (0.005, 0.01, 0.02, 0.08, 0.32)
_LONGEST = 400.0  # px; what a camera that passes by close to things sees move further teaches nothing
_LINEAR_UP_TO = 3.0  # px at the finest level; larger errors weigh ever less


def level_weights(weighting: str, levels: int) -> tuple[float, ...]:
    """Return the weights of the levels, finest first.

    ``finest``: .005 .01 .02 .08 .32, as ClementPinard/FlowNetPytorch takes them from the paper. ``flownet2``: .32 /
    2^i, as NVIDIA/flownet2-pytorch. Raises ValueError: unknown weighting, or more levels than it has weights for.
    """
    if weighting == "flownet2":
        return tuple(0.32 / 2**i for i in range(levels))
    if weighting != "finest":
        raise ValueError(f"unknown weighting '{weighting}'; known: finest, flownet2")
    if levels > len(FINEST):
        raise ValueError(f"the weighting 'finest' is for {len(FINEST)} levels, the network has {levels}: use flownet2")
    return FINEST[:levels]


def multiscale_epe(
    levels: Sequence[torch.Tensor], flow: torch.Tensor, valid: torch.Tensor, weights: Sequence[float], *,
    reduction: str = "sum", sparse: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Return the weighted sum of the levels' end-point errors, a scalar in units of ``FLOW_SCALE`` px.

    ``levels``: finest first, N x 2 x h x w px of the full image; ``flow``: N x 2 x H x W px; ``valid``: N x 1 x H x W
    bool. The truth of a level's cell is the mean over its known pixels, and it counts by the part of it that is known.
    Where everything is known this is the average pooling of the public code. ``reduction`` ``sum``: summed over the
    pixels of a level and divided by N (ClementPinard); ``mean``: mean over the known pixels of each sample, then over
    the samples.

    With ``sparse`` (ClementPinard's way for LiDAR truth) it is the component-wise largest magnitude in the cell
    (``sparse_max_pool``) and counts fully if anything in the cell is known; the finest level is compared at full
    resolution instead, each of its cells standing for its pixels.
    """
    if len(weights) != len(levels):
        raise ValueError(f"{len(levels)} levels need as many weights, got {len(weights)}")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction is '{reduction}': choose sum or mean")
    total = flow.new_zeros(())
    for index, (level, weight) in enumerate(zip(levels, weights, strict=True)):
        predicted = level.float()
        if sparse and index == 0:
            predicted, target, known = F.interpolate(predicted, flow.shape[-2:]), flow, valid.to(flow.dtype)
        elif sparse:
            target, known = sparse_max_pool(flow, valid, level.shape[-2:])
        else:
            target, known = pool_known(flow, valid, level.shape[-2:])
        error = length(predicted - target) * known / FLOW_SCALE
        summed = error.sum((1, 2, 3))
        if reduction == "mean":
            summed = summed / known.sum((1, 2, 3)).clamp(min=1e-6)
        total = total + weight * summed.mean()
    return total


def robust_loss(prediction: FlowPrediction, flow: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return the loss of the compact network: all levels at full resolution, and the choice of coarse displacements.

    Levels: ``c ln(1 + e / c)`` of the end-point error e of the prediction, enlarged, weighted 1, 1/2, 1/4, ...
    from the finest, with c = 3, 6, 12, ... px: fractions of a pixel count at the finest level, what is far off at the
    others. Averaged truth would mix the motions at an edge; enlarged predictions are compared with each.
    Choice: cross entropy of the displacements' logits against a normal distribution around the truth in the middle of
    the cell; cells whose truth lies outside the window are left out.
    """
    if prediction.levels is None:
        raise ValueError("robust_loss needs the prediction of a network in training mode")
    known = valid.to(flow.dtype)
    loss = flow.new_zeros(())
    for index, level in enumerate(prediction.levels):
        predicted = level.float()
        if predicted.shape[-2:] != flow.shape[-2:]:
            predicted = F.interpolate(predicted, flow.shape[-2:], mode="bilinear", align_corners=False)
        error = length(predicted - flow)
        linear = _LINEAR_UP_TO * 2**index
        loss = loss + 0.5**index * _mean_of_known(linear * torch.log1p(error / linear), known)
    if prediction.coarse is not None:
        loss = loss + _choice(prediction.coarse, flow, known)
    return loss


def _choice(logits: torch.Tensor, flow: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of N x K*K x h x w logits (channel iy * K + ix) against the true displacement."""
    side = round(logits.shape[1] ** 0.5)
    radius = side // 2
    step = flow.shape[-1] // logits.shape[-1]
    middle = (..., slice(step // 2, None, step), slice(step // 2, None, step))
    across, down = (flow[middle] / step + radius).split(1, 1)
    within = known[middle] * ((across >= 0) & (across <= 2 * radius) & (down >= 0) & (down <= 2 * radius))
    target = hypothesis_distribution(down, side).unsqueeze(2) * hypothesis_distribution(across, side).unsqueeze(1)
    entropy = -(target.flatten(1, 2) * F.log_softmax(logits.float(), 1)).sum(1, keepdim=True)
    return _mean_of_known(entropy, within)


def flow_loss(
    prediction: FlowPrediction, flow: torch.Tensor, valid: torch.Tensor, kind: str, *, sparse: bool = False
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss ``kind`` (finest, flownet2 or lite), and its parts ``loss`` and ``epe`` (px), detached.

    With ``lite`` flow of more than 400 px counts as unknown.
    """
    if prediction.levels is None:
        raise ValueError("flow_loss needs the prediction of a network in training mode")
    if kind == "lite":
        valid = valid & (length(flow) <= _LONGEST)
        loss = robust_loss(prediction, flow, valid)
    else:
        weights = level_weights(kind, len(prediction.levels))
        reduction = "sum" if kind == "finest" else "mean"
        loss = multiscale_epe(prediction.levels, flow, valid, weights, reduction=reduction, sparse=sparse)
    with torch.no_grad():
        epe = _mean_of_known(length(prediction.flow.float() - flow), valid.to(flow.dtype))
    return loss, {"loss": loss.detach(), "epe": epe}


def length(vectors: torch.Tensor) -> torch.Tensor:
    """Return the lengths of N x 2 x H x W vectors, N x 1 x H x W, to 1e-6; the gradient at 0 is 0.

    ``torch.linalg.vector_norm`` over so short a dimension took a fifth of a training step on a CPU.
    """
    across, down = vectors.split(1, 1)
    return torch.sqrt(across.square() + down.square() + 1e-12)


def pool_known(flow: torch.Tensor, valid: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean over every cell's known pixels, N x 2 x h x w px, and the known part, N x 1 x h x w 0 .. 1."""
    known = F.adaptive_avg_pool2d(valid.to(flow.dtype), (size[0], size[1]))
    total = F.adaptive_avg_pool2d(torch.where(valid, flow, torch.zeros_like(flow)), (size[0], size[1]))
    return total / known.clamp(min=1e-6), known


def sparse_max_pool(flow: torch.Tensor, valid: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool as ClementPinard/FlowNetPytorch does for sparse truth.

    Returns largest positive plus largest negative value of every cell's known pixels, for each component, N x 2 x h x w
    px, and 1 where any is known, N x 1 x h x w.
    """
    known = torch.where(valid, flow, torch.zeros_like(flow))
    up = F.adaptive_max_pool2d(known.clamp(min=0), (size[0], size[1]))
    down = F.adaptive_max_pool2d((-known).clamp(min=0), (size[0], size[1]))
    return up - down, F.adaptive_max_pool2d(valid.to(flow.dtype), (size[0], size[1]))


def _mean_of_known(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the mean over the known pixels of each sample, then over the samples; N x 1 x H x W both."""
    return ((values * known).sum((1, 2, 3)) / known.sum((1, 2, 3)).clamp(min=1e-6)).mean()
