"""Augmentation of a depth training: zoom, flips, colour jitter, data grafting; in this order.

Every step draws from the generator that it is given and from nothing else, and leaves the batch that it got as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fg_depth_ros.training.depth.batch import DistillBatch
from fg_depth_ros.training.depth.config import ColourJitter

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)
"""Parts of the height that a sample keeps of itself when it is grafted."""
_ROLLED = 0.5
# RGB to brightness and the two colour axes of NTSC (YIQ); a turn of the axes changes the hue alone.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def augment(
    batch: DistillBatch, generator: torch.Generator, *, zoom_most: float = 1.0, flips: float = 0.5,
    jitter: ColourJitter | None = None, grafting: bool = True, inside: bool = True,
) -> DistillBatch:  # fmt: skip
    """Return the batch enlarged (``zoom_most``: largest factor, 1 = none), mirrored, jittered and grafted.

    ``generator``: on the CPU, so that a run draws the same on every device. ``flips``: probability that a sample is
    mirrored. ``inside``: whether pixels whose match a zoom cuts off are masked.
    """
    if zoom_most > 1:
        batch = zoom(batch, generator, zoom_most, inside)
    which = torch.rand(len(batch.target), generator=generator) < flips
    batch = flip(batch, which)
    batch = batch._replace(seen=jitter_colours(batch.seen, generator, jitter or ColourJitter()))
    return graft(batch, generator) if grafting else batch


def zoom(batch: DistillBatch, generator: torch.Generator, most: float, inside: bool = True) -> DistillBatch:
    """Enlarge a window of every pair to the full size, as a longer lens that looks a little aside would show it.

    Focal length and disparity grow with the picture and depth stays, so a network that knows focal lengths sees other
    cameras, and the horizon in other places. Both views show the same window; with ``inside`` a pixel whose match it
    cuts off teaches nothing. Samples are neither mirrored nor grafted yet: baseline > 0, one focal length each.
    ``most``: largest factor, > 1; drawn evenly on a logarithmic scale.
    """
    count, device = len(batch.target), batch.target.device
    draws = torch.rand(count, 3, generator=generator).to(device)
    factor = most ** draws[:, 0]
    aside = (2 * draws[:, 1:] - 1) * (1 - 1 / factor).unsqueeze(1)
    window = torch.zeros(count, 2, 3, device=device)
    window[:, 0, 0] = window[:, 1, 1] = 1 / factor
    window[:, :, 2] = aside
    grid = F.affine_grid(window, list(batch.target.shape), align_corners=False)

    def enlarged(values: Tensor) -> Tensor:
        # Between two depths lies none that anything has: the nearest one is taken. Colours are mixed.
        mode = "bilinear" if values.shape[1] == 3 else "nearest"
        return F.grid_sample(values.float(), grid, mode=mode, padding_mode="border", align_corners=False)

    larger = _of_pictures(batch, enlarged)
    disparity = larger.disparity * factor.view(-1, 1, 1, 1)
    columns = torch.arange(disparity.shape[-1], device=device)
    mask = larger.mask > 0.5
    if inside:
        mask = mask & (columns - disparity >= 0)
    disparity = torch.where(mask, disparity, torch.zeros_like(disparity))
    return larger._replace(disparity=disparity, mask=mask, focal=batch.focal * factor)


def flip(batch: DistillBatch, which: Tensor) -> DistillBatch:
    """Mirror samples (``which``: N bool) left to right.

    The mirrored source camera stands on the other side: the baseline changes its sign, and disparity stays positive.
    """
    which = which.to(batch.target.device)

    def mirrored(values: Tensor) -> Tensor:
        return torch.where(which.view(-1, 1, 1, 1), values.flip(-1), values)

    flipped = _of_pictures(batch, mirrored)
    sign = 1 - 2 * which.to(batch.baseline.dtype)
    return flipped._replace(baseline=batch.baseline * sign.view(-1, *[1] * (batch.baseline.ndim - 1)))


def jitter_colours(images: Tensor, generator: torch.Generator, jitter: ColourJitter) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order, of some of N x 3 x H x W images in [0, 1].

    The hue is turned in the colour plane of YIQ, which keeps the brightness.
    """
    count = len(images)
    # Drawn for every sample whether it is jittered or not, so that a number of a run means the same sample always.
    draws = torch.rand(count, 5, generator=generator)
    chosen = (draws[:, 0] < jitter.probability).to(images.device)
    spans = torch.tensor((jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue))
    changes = ((2 * draws[:, 1:] - 1) * spans).to(images.device)
    brightness, contrast, saturation = (1 + changes[:, i].view(-1, 1, 1, 1) for i in range(3))
    changed = (images * brightness).clamp(0, 1)
    mean = _grey(changed).mean((2, 3), keepdim=True)
    changed = (mean + (changed - mean) * contrast).clamp(0, 1)
    grey = _grey(changed)
    changed = (grey + (changed - grey) * saturation).clamp(0, 1)
    changed = torch.einsum("nij,njhw->nihw", _hue_turns(2 * math.pi * changes[:, 3]), changed).clamp(0, 1)
    return torch.where(chosen.view(-1, 1, 1, 1), changed, images)


def graft(batch: DistillBatch, generator: torch.Generator) -> DistillBatch:
    """Graft rows of other samples (data grafting, EPCDepth, Peng et al., ICCV 2021, section 3.1).

    The height in the picture then says less about the depth.

    One share r of ``SHARES`` is drawn for the batch. The rows from ``int(r * H)`` on come from another sample, in every
    picture of the batch alike; with probability 1/2 all rows are then rolled up by as many. Samples graft only with
    samples whose baselines have their sign everywhere: in a flipped sample matches lie on the other side. A sample that
    is alone with its sign stays as it is. Focal length and baseline come along row by row (N x H afterwards), so
    cameras may differ.
    """
    height = batch.target.shape[-2]
    kept = int(SHARES[int(torch.randint(len(SHARES), (), generator=generator))] * height)
    partner = _partners(batch.baseline, generator).to(batch.target.device)
    rolled = kept if float(torch.rand((), generator=generator)) < _ROLLED else 0

    def grafted(rows: Tensor, axis: int) -> Tensor:
        own, other = rows.narrow(axis, 0, kept), rows[partner].narrow(axis, kept, height - kept)
        return torch.cat([own, other], axis).roll(-rolled, axis)

    def per_row(values: Tensor) -> Tensor:
        return values.reshape(len(values), -1).expand(-1, height)

    pictures = _of_pictures(batch, lambda values: grafted(values, 2))
    return pictures._replace(focal=grafted(per_row(batch.focal), 1), baseline=grafted(per_row(batch.baseline), 1))


def _partners(baseline: Tensor, generator: torch.Generator) -> Tensor:
    """Return for every sample another one of its sign, each taken once, or itself; N int64 on the CPU."""
    signs = baseline.reshape(len(baseline), -1).sign().cpu()
    side = torch.where((signs > 0).all(1), 1, torch.where((signs < 0).all(1), -1, 0))
    partner = torch.arange(len(side))
    for sign in (1, -1):
        members = torch.nonzero(side == sign).flatten()
        circle = members[torch.randperm(len(members), generator=generator)]
        partner[circle] = circle.roll(1)
    return partner


def _of_pictures(batch: DistillBatch, change: Callable[[Tensor], Tensor]) -> DistillBatch:
    """Return the batch with everything that is a picture changed alike."""
    names = ("target", "source", "seen", "disparity", "mask", "truth")
    return batch._replace(**{name: change(getattr(batch, name)) for name in names})


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor(_YIQ[0], device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _hue_turns(angles: Tensor) -> Tensor:
    """Return matrices that turn RGB colours by N angles (radians) about the axis of greys, N x 3 x 3."""
    to_yiq = torch.tensor(_YIQ, device=angles.device, dtype=torch.float64)
    # Rows 2 and 3 of the rounded NTSC numbers do not quite sum to 0; greys are to stay grey.
    to_yiq[1:] -= to_yiq[1:].mean(1, keepdim=True)
    c, s = torch.cos(angles.double()), torch.sin(angles.double())
    turn = torch.zeros(len(angles), 3, 3, device=angles.device, dtype=torch.float64)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = c, -s, s, c
    return (torch.linalg.inv(to_yiq) @ turn @ to_yiq).float()
