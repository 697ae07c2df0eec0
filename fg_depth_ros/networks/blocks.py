"""Building blocks of the compact networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

_FLAT = 0.03  # slope of the brightness, of 1 in two pixels, at which the contrast of a pixel is 1/2


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


def convolve_together(x: torch.Tensor, *layers: nn.Conv2d) -> tuple[torch.Tensor, ...]:
    """Apply 3 x 3 convolutions to the same input as one, in float32: few channels cost as much as many."""
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return F.conv2d(x, weight, bias, padding=1).float().split([layer.out_channels for layer in layers], 1)


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


class PixelComparison(nn.Module):
    """Compares two images pixel by pixel, at full resolution, once the second is warped to the first.

    What is compared is the slope of the brightness, as in OpenCV's block matchers, squeezed into -1 .. 1 so that weak
    texture counts as well: ``s / (|s| + 0.03)``.
    """

    sobel: torch.Tensor
    differences: torch.Tensor

    def __init__(self, axes: str, offsets: Sequence[tuple[int, int]]) -> None:
        """Choose what is compared with what.

        Args:
            axes: of the slopes: ``x`` (along the row), ``y`` or both.
            offsets: rows and columns from the match to what a pixel is compared with.
        """
        super().__init__()
        across = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])) / 12  # of the mean colour
        slopes = torch.stack([across if axis == "x" else across.T for axis in axes]).unsqueeze(1)
        self.register_buffer("sobel", slopes.repeat(1, 3, 1, 1), persistent=False)
        self.padding = tuple(max(abs(offset[axis]) for offset in offsets) for axis in (0, 1))
        self.register_buffer("differences", _difference_kernel(len(axes), offsets, self.padding), persistent=False)

    @property
    def channels(self) -> int:
        """Number of channels of the comparison."""
        return len(self.differences)

    @torch.no_grad()
    def forward(self, pair: torch.Tensor, warp: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Compare every pixel of the first images with its match and the pixels next to that.

        Args:
            pair: 2N x 3 x H x W, the first images in front.
            warp: what warps N x C x H x W of the second images to the first; no gradient flows into it.

        Returns:
            N x 4 A (1 + K) x H/2 x W/2 for A axes and K offsets: for each axis the absolute value of a pixel's own
            contrast, then for each offset and axis how much it differs from the pixel there; each for the four pixels
            of a cell.
        """
        with torch.autocast(pair.device.type, enabled=False):
            slope = F.conv2d(pair.float(), self.sobel, padding=1)
            first, second = (slope / (slope.abs() + _FLAT)).chunk(2)
            return F.conv2d(torch.cat([first, warp(second)], 1), self.differences, None, 2, self.padding).abs()


def _difference_kernel(axes: int, offsets: Sequence[tuple[int, int]], padding: Sequence[int]) -> torch.Tensor:
    """Return the kernel that takes the differences of ``PixelComparison``, 4 A (1 + K) x 2A x 2 + 2P x 2 + 2Q.

    As one convolution of stride 2 it is faster in an engine than shifted images that are concatenated.
    """
    down, across = padding
    # What, axis, row and column in the cell; image, axis, place.
    kernel = torch.zeros(1 + len(offsets), axes, 2, 2, 2, axes, 2 + 2 * down, 2 + 2 * across)
    for axis in range(axes):
        for row in range(2):
            for column in range(2):
                of_pixel = kernel[:, axis, row, column, :, axis]
                of_pixel[:, 0, down + row, across + column] = 1
                for k, (dy, dx) in enumerate(offsets, 1):
                    of_pixel[k, 1, down + row + dy, across + column + dx] = -1
    return kernel.flatten(4, 5).flatten(0, 3)
