"""Compute which part of each picture row the outline of a convex body covers, so that ray casting skips the rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

_MARGIN = 1.0  # px to both sides: rounding
_FAR = 1e9  # px


class Outlines(NamedTuple):
    """Edges of the bodies' pictures, S line pieces: ``owner`` S, which body; ``ends`` S x 4, columns and rows, px."""

    owner: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, edges: np.ndarray, near: float, numbers: np.ndarray) -> Outlines:
        """Build outlines from G x K x 3 projected points (column * z, row * z, z) and E x 2 edges between them.

        ``numbers`` G: indices of the bodies. What lies nearer than ``near`` (z) is cut off; the cut's own outline is
        added.
        """
        before = points[..., 2] > near
        whole, some = before.all(1), before.any(1)
        bodies = np.nonzero(whole)[0]
        flat = points[bodies, :, :2] / points[bodies, :, 2:]
        owners, ends = [np.repeat(bodies, len(edges))], [flat[:, edges].reshape(-1, 4)]
        bodies = np.nonzero(some & ~whole)[0]
        if len(bodies):
            a, b = points[bodies][:, edges[:, 0]], points[bodies][:, edges[:, 1]]
            front_a, front_b = a[..., 2] > near, b[..., 2] > near
            with np.errstate(divide="ignore", invalid="ignore"):
                part = (near - a[..., 2]) / (b[..., 2] - a[..., 2])
                cut = a + (b - a) * part[..., None]
            crossing = front_a != front_b
            # What is left of the edges, and the cut's outline: among the lines between all places where they are cut.
            i, j = np.triu_indices(len(edges), 1)
            pairs = np.nonzero(crossing[:, i] & crossing[:, j])
            first, second = cut[pairs[0], i[pairs[1]]], cut[pairs[0], j[pairs[1]]]
            kept = np.nonzero(front_a | front_b)
            starts = np.concatenate([np.where(front_a[..., None], a, cut)[kept], first])
            stops = np.concatenate([np.where(front_b[..., None], b, cut)[kept], second])
            owners.append(bodies[np.concatenate([kept[0], pairs[0]])])
            ends.append(np.concatenate([starts[:, :2] / starts[:, 2:], stops[:, :2] / stops[:, 2:]], 1))
        return cls(numbers[np.concatenate(owners)], np.clip(np.concatenate(ends), -_FAR, _FAR))


class Spans(NamedTuple):
    """Parts of R image rows, int64 each: of body ``item``, in row ``y``, columns ``x0`` to ``x0 + length - 1``."""

    item: torch.Tensor
    y: torch.Tensor
    x0: torch.Tensor
    length: torch.Tensor


def spans_of(
    outlines: Outlines, sample: np.ndarray, width: int, height: int, device: torch.device,
    window: np.ndarray | None = None,
) -> Spans:  # fmt: skip
    """Find the pixels within the outlines of bodies 0 .. G - 1, row by row.

    ``sample``: G, which picture (``width`` x ``height`` px) a body is in. ``window``: N x 2 (y0, y1), the only rows of
    each picture; None: all of them.
    """
    owner, ends = outlines
    low, high = np.minimum(ends[:, 1], ends[:, 3]), np.maximum(ends[:, 1], ends[:, 3])
    top = np.zeros(len(sample)) if window is None else window[sample, 0]
    end = np.full(len(sample), height) if window is None else window[sample, 1]
    first = np.maximum(np.ceil(low), top[owner]).astype(np.int64)
    last = np.minimum(np.floor(high), end[owner] - 1).astype(np.int64)
    kept = last >= first
    owner, ends, first, last = owner[kept], ends[kept], first[kept], last[kept]
    bodies, owner = np.unique(owner, return_inverse=True)
    if not len(bodies):
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return Spans(nothing, nothing, nothing, nothing)
    y0, y1 = np.full(len(bodies), height), np.zeros(len(bodies), np.int64)
    np.minimum.at(y0, owner, first)
    np.maximum.at(y1, owner, last + 1)
    place = np.cumsum(y1 - y0) - (y1 - y0)  # where each body's rows begin
    slope = (ends[:, 2] - ends[:, 0]) / np.where(ends[:, 3] == ends[:, 1], 1.0, ends[:, 3] - ends[:, 1])
    send = lambda values: torch.from_numpy(np.ascontiguousarray(values)).to(device)  # noqa: E731
    count = send(last - first + 1)
    total = int((last - first + 1).sum())
    piece = torch.repeat_interleave(torch.arange(len(count), device=device), count, output_size=total)
    step = torch.arange(total, device=device) - (count.cumsum(0) - count)[piece]
    x = send(ends[:, 0] + (first - ends[:, 1]) * slope)[piece] + send(slope)[piece] * step
    row = send(place[owner] + first - y0[owner])[piece] + step
    rows = int((y1 - y0).sum())
    left = torch.full((rows,), 2 * _FAR, dtype=torch.float64, device=device).scatter_reduce_(0, row, x, "amin")
    right = torch.full((rows,), -2 * _FAR, dtype=torch.float64, device=device).scatter_reduce_(0, row, x, "amax")
    x0 = (left - _MARGIN).ceil().clamp(0, width).long()
    x1 = (right + _MARGIN).floor().clamp(-1, width - 1).long() + 1
    body = torch.repeat_interleave(torch.arange(len(bodies), device=device), send(y1 - y0), output_size=rows)
    y = torch.arange(rows, device=device) - send(place - y0)[body]
    there = (x1 > x0).nonzero()[:, 0]
    return Spans(send(bodies)[body][there], y[there], x0[there], (x1 - x0)[there])
