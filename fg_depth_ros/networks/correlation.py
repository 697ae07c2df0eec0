"""Correlation layers in plain PyTorch: the 2-D window of FlowNetC and the row search of rectified stereo.

Both compare feature vectors of two images by their scalar product divided by the number of channels (FlowNet,
Dosovitskiy et al. 2015, eq. 1 with patch size 1). No compiled extension, static shapes, exportable to ONNX.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def correlate_window(first: torch.Tensor, second: torch.Tensor, radius: int = 20, stride: int = 2) -> torch.Tensor:
    """Correlate every place of ``first`` with a square window of displacements in ``second``.

    Args:
        first, second: N x C x H x W features.
        radius: largest displacement in both directions, feature pixels.
        stride: step between displacements; ``radius`` must be a multiple of it.

    Returns:
        N x K*K x H x W with K = 2 * radius / stride + 1; channel ``iy * K + ix`` compares ``first[y, x]`` with
        ``second[y + dy, x + dx]``, dy and dx running from -radius to radius. Zero where the window leaves the image.

    Raises:
        ValueError: shapes differ, or the radius is not a multiple of the stride.
    """
    _check(first, second)
    if radius < 0 or stride < 1 or radius % stride:
        raise ValueError(f"radius {radius} must be a non-negative multiple of stride {stride}")
    height, width = first.shape[-2:]
    padded = F.pad(second, (radius,) * 4)
    offsets = range(0, 2 * radius + 1, stride)
    maps = [(first * padded[..., dy : dy + height, dx : dx + width]).mean(1) for dy in offsets for dx in offsets]
    return torch.stack(maps, 1)


def correlate_row(left: torch.Tensor, right: torch.Tensor, disparities: int) -> torch.Tensor:
    """Correlate every place of the left features with the places of the same row it can match in the right ones.

    Args:
        left, right: N x C x H x W features of a rectified pair.
        disparities: number of hypotheses D; disparity d = 0 .. D - 1 feature pixels.

    Returns:
        N x D x H x W; channel d compares ``left[y, x]`` with ``right[y, x - d]``. Zero where x - d < 0.

    Raises:
        ValueError: shapes differ, or ``disparities`` is below one.

    One matrix product per row compares all pairs of columns. With the right columns in reverse order the wanted
    diagonals run forward, and reading the flattened product with rows shorter by one lines them up.
    """
    _check(left, right)
    if disparities < 1:
        raise ValueError(f"the number of disparities must be positive, got {disparities}")
    n, c, h, w = left.shape
    rows_left = (left / c).permute(0, 2, 3, 1)
    rows_right = F.pad(right.flip(-1), (0, disparities)).permute(0, 2, 1, 3)
    long = w + disparities
    flat = torch.matmul(rows_left, rows_right).view(n, h, w * long)
    # The product of column x with x - d lies at x * long + (w - 1 - x) + d.
    lined_up = flat[..., w - 1 : -1].view(n, h, w, long - 1)
    return lined_up[..., :disparities].permute(0, 3, 1, 2)


def correlate_near(left: torch.Tensor, right: torch.Tensor, radius: int) -> torch.Tensor:
    """Correlate places of the same row within ``radius`` columns.

    Args:
        left, right: N x C x H x W features, the right ones already warped to the left view.
        radius: largest offset R, feature pixels.

    Returns:
        N x (2R + 1) x H x W; channel k compares ``left[y, x]`` with ``right[y, x - (k - R)]``, so a maximum at k
        asks for k - R pixels more disparity. Zero outside the image.
    """
    _check(left, right)
    width = left.shape[-1]
    left, padded = left.contiguous(), F.pad(right, (radius, radius))  # shifts along rows want rows in one piece
    maps = [(left * padded[..., 2 * radius - k : 2 * radius - k + width]).mean(1) for k in range(2 * radius + 1)]
    return torch.stack(maps, 1)


def _check(first: torch.Tensor, second: torch.Tensor) -> None:
    if first.shape != second.shape or first.dim() != 4:
        raise ValueError(
            f"correlation needs two N x C x H x W maps of one shape, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
