"""Correlation layers in plain PyTorch: the 2-D window of FlowNetC and the row search of rectified stereo.

Both compare feature vectors of two images by their scalar product divided by the number of channels (FlowNet,
Dosovitskiy et al. 2015, eq. 1 with patch size 1). No compiled extension, static shapes, exportable to ONNX.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def correlate_window(first: torch.Tensor, second: torch.Tensor, radius: int = 20, stride: int = 2) -> torch.Tensor:
    """Correlate every place of ``first`` with a square window of displacements in ``second``, N x C x H x W both.

    ``radius``: largest displacement in both directions, feature pixels, a multiple of ``stride``, the step between
    them.

    Returns N x K*K x H x W with K = 2 * radius / stride + 1; channel ``iy * K + ix`` compares ``first[y, x]`` with
    ``second[y + dy, x + dx]``, dy and dx running from -radius to radius. Zero where the window leaves the image.
    Features in bfloat16 or float16 are multiplied and summed in float32, and the result stays float32. Raises
    ValueError: shapes differ, or no multiple.
    """
    _check(first, second)
    if radius < 0 or stride < 1 or radius % stride:
        raise ValueError(f"radius {radius} must be a non-negative multiple of stride {stride}")
    if first.dtype in (torch.bfloat16, torch.float16):
        first, second = first.float(), second.float()
    side = 2 * radius // stride + 1
    with torch.autocast(first.device.type, enabled=False):
        # Measured on one CPU core: products are 8 times faster for FlowNetC's window (20 times with the gradient),
        # and of equal speed where a row holds a dozen windows; beyond that they compute too many unused products.
        if -(-first.shape[-1] // stride) + side <= 12 * side:
            return _window_by_products(first, second, radius, stride)
        return _window_by_shifts(first, second, radius, stride)


def _window_by_shifts(first: torch.Tensor, second: torch.Tensor, radius: int, stride: int) -> torch.Tensor:
    """Multiply whole maps, once per displacement."""
    height, width = first.shape[-2:]
    padded = F.pad(second, (radius,) * 4)
    offsets = range(0, 2 * radius + 1, stride)
    maps = [(first * padded[..., dy : dy + height, dx : dx + width]).mean(1) for dy in offsets for dx in offsets]
    return torch.stack(maps, 1)


def _window_by_products(first: torch.Tensor, second: torch.Tensor, radius: int, stride: int) -> torch.Tensor:
    """Multiply matrices, once per row and vertical displacement: all pairs of columns, of which a band is used.

    Columns that are compared have the same remainder by the stride, so each remainder makes a product of its own.
    Within it, column x meets x + k for k = 0 .. K - 1. In the flattened product that pair lies at
    x * long + x + k: reading it with rows longer by one lines the band up as the first K columns.
    """
    n, c, h, w = first.shape
    side = 2 * radius // stride + 1
    columns = -(-w // stride)
    long = columns + side - 1
    # One column more than there are, so that the longer rows find enough to read.
    rows_first = F.pad(first / c, (0, stride * (columns + 1) - w)).view(n, c, h, columns + 1, stride)
    rows_first = rows_first.permute(2, 0, 4, 3, 1).contiguous()  # H x N x remainder x column x C
    rows_second = F.pad(second, (radius, stride * long - w - radius, radius, radius))
    rows_second = rows_second.view(n, c, h + 2 * radius, long, stride).permute(2, 0, 4, 1, 3).contiguous()
    bands = []
    for dy in range(0, 2 * radius + 1, stride):
        flat = torch.matmul(rows_first, rows_second[dy : dy + h]).flatten(-2)[..., : columns * (long + 1)]
        bands.append(flat.view(h, n, stride, columns, long + 1)[..., :side])
    lined_up = torch.stack(bands).permute(2, 0, 5, 1, 4, 3)  # N x dy x dx x H x column x remainder
    return lined_up.reshape(n, side * side, h, columns * stride)[..., :w]


def correlate_row(left: torch.Tensor, right: torch.Tensor, disparities: int) -> torch.Tensor:
    """Correlate every place of the left features with the places of the same row it can match in the right ones.

    ``left``, ``right``: N x C x H x W features of a rectified pair. Returns N x D x H x W for ``disparities`` D;
    channel d compares ``left[y, x]`` with ``right[y, x - d]``, zero where x - d < 0. Raises ValueError: shapes differ,
    or D is below one.

    A row is cut into blocks of about as many columns as there are disparities. One matrix product per block compares
    its columns with all that any of them can match. With the right columns in reverse order the used diagonals run
    forward, and reading the flattened product with rows shorter by one lines them up.
    """
    _check(left, right)
    if disparities < 1:
        raise ValueError(f"the number of disparities must be positive, got {disparities}")
    n, c, h, w = left.shape
    blocks = _blocks(int(w), disparities)
    block = -(-w // blocks)
    long = block + disparities
    width = blocks * block
    rows_left = F.pad(left / c, (0, width - w)).permute(0, 2, 3, 1).reshape(n, h, blocks, block, c)
    # Column x of the reversed and padded right rows lies at width - x; that of index 0 is never used.
    reversed_right = F.pad(right.flip(-1), (1 + width - w, disparities))
    windows = [reversed_right[..., width - i * block - block : width - i * block + disparities] for i in range(blocks)]
    rows_right = torch.stack(windows, 1).permute(0, 3, 1, 2, 4)
    flat = torch.matmul(rows_left, rows_right).view(n, h, blocks, block * long)
    # In a block, the product of column x with x - d lies at x * long + (block - x) + d.
    lined_up = flat[..., block:].view(n, h, blocks, block, long - 1)
    return lined_up[..., :disparities].reshape(n, h, width, disparities)[:, :, :w].permute(0, 3, 1, 2)


def _blocks(width: int, disparities: int) -> int:
    """Return into how many blocks a row is cut: such that they are even, where that needs at most twice as many."""
    least = -(-width // disparities)
    return next((count for count in range(least, 2 * least + 1) if width % count == 0), least)


def correlate_near(left: torch.Tensor, right: torch.Tensor, radius: int) -> torch.Tensor:
    """Correlate places of the same row within ``radius`` columns R; the right features are warped to the left view.

    N x C x H x W to N x (2R + 1) x H x W; channel k compares ``left[y, x]`` with ``right[y, x - (k - R)]``, so a
    maximum at k asks for k - R pixels more disparity. Zero outside the image.
    """
    _check(left, right)
    width = left.shape[-1]
    left, padded = left.contiguous(), F.pad(right, (radius, radius))  # shifts along rows need contiguous rows
    maps = [(left * padded[..., 2 * radius - k : 2 * radius - k + width]).mean(1) for k in range(2 * radius + 1)]
    return torch.stack(maps, 1)


def _check(first: torch.Tensor, second: torch.Tensor) -> None:
    if first.shape != second.shape or first.dim() != 4:
        raise ValueError(
            f"correlation needs two N x C x H x W maps of one shape, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
