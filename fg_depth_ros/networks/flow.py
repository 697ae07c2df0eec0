"""Prediction, padding and warping of all networks for optical flow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

IMAGE_MEAN = (0.45, 0.432, 0.411)
"""Red, green and blue, of 1, that the FlowNets subtract from their input."""


class FlowPrediction(NamedTuple):
    """Prediction of a flow network for N pairs of frames.

    ``flow``: N x 2 x H x W float32 px, u to the right and v down: ``first(x, y) <-> second(x + u, y + v)``.
    ``levels`` (training): the predictions at all resolutions, finest first, N x 2 x h x w each, px of the full image.
    ``coarse`` (training, networks that search a window): N x K*K x h x w logits of the displacements there.
    """

    flow: torch.Tensor
    levels: tuple[torch.Tensor, ...] | None = None
    coarse: torch.Tensor | None = None


def pad_to_multiple(multiple: int, *images: torch.Tensor) -> list[torch.Tensor]:
    """Pad images N x C x H x W at the right and below, by replication, to multiples of ``multiple``."""
    height, width = images[0].shape[-2:]
    across, down = -width % multiple, -height % multiple
    if not across and not down:
        return list(images)
    return [F.pad(image, (0, across, 0, down), mode="replicate") for image in images]


def pixel_grid(
    height: int, width: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the columns and the rows of all pixels, H x W each."""
    sides = (torch.arange(side, device=device, dtype=dtype) for side in (height, width))
    ys, xs = torch.meshgrid(*sides, indexing="ij")
    return xs, ys


def scaled_grid(height: int, width: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the columns and the rows of all pixels, H x W each, scaled to -1 .. 1 as ``F.grid_sample`` takes them."""
    xs, ys = pixel_grid(height, width, device)
    return 2 / max(width - 1, 1) * xs - 1, 2 / max(height - 1, 1) * ys - 1


def warp(second: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Read N x C x H x W where the flow (N x 2 x H x W px) points to: result(x, y) = second(x + u, y + v); bilinear."""
    height, width = second.shape[-2:]
    here = torch.stack(scaled_grid(height, width, flow.device))
    # Scaled first, by a constant of the whole size, then added to the scaled grid: an engine joins other forms, or
    # takes the factor for that of an int8 tensor, and rounds the result.
    scale = torch.stack([torch.full_like(here[0], 2 / max(side - 1, 1)) for side in (width, height)])
    places = (flow.float() * scale + here).permute(0, 2, 3, 1)
    return sample_at(second.float(), places, "border").to(second.dtype)


def sample_bilinear(field: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Read N x C x H x W at places between its pixels, N x 2 x h x w px (column, row); N x C x h x w, bilinear."""
    h, w = field.shape[-2:]
    grid = torch.stack([2 * places[:, 0] / max(w - 1, 1) - 1, 2 * places[:, 1] / max(h - 1, 1) - 1], -1)
    return sample_at(field, grid, "border")


def sample_at(field: torch.Tensor, grid: torch.Tensor, padding_mode: str) -> torch.Tensor:
    """Read N x C x H x W at N x h x w x 2 scaled places, -1 .. 1 from the first to the last pixel; bilinear."""
    return F.grid_sample(field, grid, mode="bilinear", padding_mode=padding_mode, align_corners=True)
