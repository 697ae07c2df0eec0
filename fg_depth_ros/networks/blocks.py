"""Building blocks of the compact networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def conv_norm(cin: int, cout: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Make a convolution without bias, batch norm and, with ``relu``, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def planar(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Apply a 1 x 1 convolution as one matrix product; the result is channels first, for a softmax over taps."""
    n, _, h, w = x.shape
    product = torch.bmm(conv.weight.flatten(1).expand(n, -1, -1), x.flatten(2))
    if conv.bias is not None:
        product = product.add_(conv.bias.view(-1, 1))
    return product.view(n, -1, h, w)


def index_of_best(logits: torch.Tensor) -> torch.Tensor:
    """Return the index of the first largest of N x C x H x W over the channels, N x 1 x H x W of the same type.

    With comparisons instead of ``argmax``, which inference engines run as a slow top-k of every pixel.
    """
    indices = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype).view(1, -1, 1, 1)
    return torch.where(logits == logits.amax(1, keepdim=True), indices, logits.shape[1]).amin(1, keepdim=True)


class Residual(nn.Module):
    """Residual block of two 3 x 3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(channels, channels), conv_norm(channels, channels, relu=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return N x C x H x W for N x C x H x W; may change ``x``."""
        return self.body(x).add_(x).relu_()


def double(x: torch.Tensor) -> torch.Tensor:
    """Double the resolution by repeating every value."""
    with torch.autocast(x.device.type, enabled=False):  # which makes it float32 on GPUs, and what follows, too
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


def double_bilinear(x: torch.Tensor) -> torch.Tensor:
    """Double the resolution by bilinear interpolation; N x C x H x W to N x C x 2H x 2W.

    As ``F.interpolate`` without ``align_corners``, in products and sums, which engines join into one pass.
    """
    n, c, h, w = x.shape
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    near, rows = 0.75 * padded[:, :, 1:-1], (padded[:, :, :-2], padded[:, :, 2:])
    tall = [near + 0.25 * row for row in rows]
    parts = [0.75 * row[..., 1:-1] + 0.25 * column for row in tall for column in (row[..., :-2], row[..., 2:])]
    return F.pixel_shuffle(torch.stack(parts, 2).view(n, 4 * c, h, w), 2)


def convolve_parts(layers: nn.Sequential, *parts: torch.Tensor) -> torch.Tensor:
    """Apply ``conv_norm(..., relu=False)`` to parts of its channels, as to their concatenation.

    The sum of a convolution of each, so that nothing is copied, and that no odd number of channels slows all down.
    """
    conv, norm = layers
    assert isinstance(conv, nn.Conv2d)
    weights = conv.weight.split([part.shape[1] for part in parts], 1)
    sums = [F.conv2d(part, w, None, conv.stride, conv.padding) for part, w in zip(parts, weights, strict=True)]
    total = sums[0]
    for each in sums[1:]:
        total = total + each
    if conv.bias is not None:
        total = total + conv.bias.view(1, -1, 1, 1)
    found: torch.Tensor = norm(total)
    return found


class Encoder(nn.Module):
    """Image -> features at 1/2, 1/4 (with context from below), 1/8 and 1/16."""

    def __init__(self, half: int, channels: Sequence[int]) -> None:
        super().__init__()
        quarter, eighth, sixteenth = channels
        self.stem = nn.Sequential(conv_norm(3, half, 5, 2), conv_norm(half, half))
        self.quarter = nn.Sequential(conv_norm(half, quarter, stride=2), Residual(quarter))
        self.eighth = nn.Sequential(conv_norm(quarter, eighth, stride=2), Residual(eighth))
        self.sixteenth = nn.Sequential(conv_norm(eighth, sixteenth, stride=2), Residual(sixteenth))
        self.from_sixteenth = conv_norm(sixteenth, eighth, 1, relu=False)
        self.from_eighth = conv_norm(eighth, quarter, 1, relu=False)
        self.smooth = nn.Conv2d(quarter, quarter, 3, padding=1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the features at 1/2, 1/4, 1/8 and 1/16 of N x 3 x H x W."""
        half = self.stem(image)
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        eighth = double(self.from_sixteenth(sixteenth)).add_(eighth).relu_()
        quarter = double(self.from_eighth(eighth)).add_(quarter).relu_()
        return half, self.smooth(quarter), eighth, sixteenth


def upsample_convex(fields: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Double the resolution, each new value a learned convex mix of the 3 x 3 old ones around it (RAFT, Teed 2020).

    ``fields``: N x C x H x W, values kept as they are; all mixed alike. ``mask``: N x 36 x H x W logits; channel ``tap
    * 4 + sub``. Returns N x C x 2H x 2W.
    """
    n, c, h, w = fields.shape
    weights = torch.softmax(mask.float().contiguous().view(n, 9, 4, h, w), 1)  # contiguous: twice as fast here
    padded = F.pad(fields, (1, 1, 1, 1), mode="replicate").unsqueeze(2)
    taps = [
        (weights[:, None, 3 * dy + dx], padded[..., dy : dy + h, dx : dx + w]) for dy in range(3) for dx in range(3)
    ]
    mixed = taps[0][0] * taps[0][1]
    for weight, tap in taps[1:]:
        mixed = torch.addcmul(mixed, weight, tap)
    return F.pixel_shuffle(mixed.reshape(n, 4 * c, h, w), 2)
