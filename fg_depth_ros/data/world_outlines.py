"""Which part of each picture row the outline of a convex body covers: what ray casting has to look at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

_MARGIN = 1.0  # px to both sides: rounding
_FAR = 1e9  # px


class Outlines(NamedTuple):
    """Edges of the bodies' pictures: S line pieces.

    ``owner``: S int64, which body; ``ends``: S x 4, column and row of both ends, px.
    """

    owner: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, edges: np.ndarray, near: float) -> Outlines:
        """From G x K x 3 projected points (column * z, row * z, z) and E x 2 edges between them.

        What lies nearer than ``near`` (z) is cut off; the cut's own outline is added.
        """
        before = points[..., 2] > near
        whole = before.all(1)
        flat = points[whole, :, :2] / points[whole, :, 2:]
        ends = [flat[:, edges].reshape(-1, 4)]
        owners = [np.repeat(np.nonzero(whole)[0], len(edges))]
        for g in np.nonzero(before.any(1) & ~whole)[0]:
            a, b = points[g, edges[:, 0]], points[g, edges[:, 1]]
            front_a, front_b = before[g, edges[:, 0]], before[g, edges[:, 1]]
            crossing = front_a != front_b
            with np.errstate(divide="ignore", invalid="ignore"):
                cut = a + (b - a) * ((near - a[:, 2]) / (b[:, 2] - a[:, 2]))[:, None]
            a, b = np.where(front_a[:, None], a, cut), np.where(front_b[:, None], b, cut)
            kept = front_a | front_b
            at = cut[crossing]
            i, j = np.triu_indices(len(at), 1)
            starts, stops = np.concatenate([a[kept], at[i]]), np.concatenate([b[kept], at[j]])
            ends.append(np.concatenate([starts[:, :2] / starts[:, 2:], stops[:, :2] / stops[:, 2:]], 1))
            owners.append(np.full(len(starts), g))
        return cls(np.concatenate(owners), np.clip(np.concatenate(ends), -_FAR, _FAR))

    def only(self, wanted: np.ndarray) -> Outlines:
        """Those of the bodies for which ``wanted`` (G bool) holds."""
        kept = wanted[self.owner]
        return Outlines(self.owner[kept], self.ends[kept])


class Spans(NamedTuple):
    """Parts of picture rows, R in all, int64 each: of body ``item``, in row ``y`` of its picture, columns ``x0`` to
    ``x0 + length - 1``."""

    item: torch.Tensor
    y: torch.Tensor
    x0: torch.Tensor
    length: torch.Tensor


def spans_of(
    outlines: Outlines,
    sample: np.ndarray,
    width: int,
    height: int,
    device: torch.device,
    window: np.ndarray | None = None,
) -> Spans:
    """The pixels within outlines, row by row.

    Args:
        outlines: of bodies 0 .. G - 1.
        sample: G, which picture a body is in.
        width, height: of the pictures, px.
        device: where to work.
        window: N x 2 (y0, y1), the only rows of each picture; None: all of them.
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
