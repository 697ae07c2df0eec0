"""Losses between views, of every self-supervised training: warped source, photometric error, smoothness.

The photometric error and the smoothness are those of Monodepth2 (Godard et al., ICCV 2019, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fg_depth_ros.geometry.warp import warp_right_to_left

_SSIM_SHARE = 0.85
_C1, _C2 = 0.01**2, 0.03**2
_EPSILON = 1e-7  # keeps an empty mask from dividing by 0


def warp_source(source: Tensor, disparity: Tensor, baseline: Tensor) -> Tensor:
    """Warp the source to the target view: ``out(x) = source(x - sign(baseline) * disparity)``, bilinear along the row.

    Beyond the source's sides its border is continued, without a gradient. ``source``: N x C x H x W; ``disparity``: N x
    1 x H x W px, >= 0; ``baseline``: N or N x H, metres; its sign counts alone.
    """
    columns = torch.arange(source.shape[-1], device=source.device, dtype=disparity.dtype)
    match = (columns - baseline.sign().reshape(len(baseline), 1, -1, 1) * disparity).clamp(0, source.shape[-1] - 1)
    return warp_right_to_left(source, columns - match)[0]


def photometric_error(first: Tensor, second: Tensor) -> Tensor:
    """Return ``.85 (1 - SSIM) / 2 + .15 |a - b|`` of images in [0, 1], N x 1 x H x W (Monodepth2, equation 2)."""
    structure = ((1 - ssim(first, second)) / 2).clamp(0, 1).mean(1, keepdim=True)
    return _SSIM_SHARE * structure + (1 - _SSIM_SHARE) * (first - second).abs().mean(1, keepdim=True)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity of 3 x 3 windows, border reflected; N x C x H x W in and out, 1 = alike.

    Wang et al. 2004, equation 13, with means instead of a Gaussian window, as Monodepth2 takes it.
    """
    a, b = (F.pad(image, (1, 1, 1, 1), mode="reflect") for image in (first, second))
    mean_a, mean_b = _window_means(a), _window_means(b)
    both, squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    covariance = _window_means(a * b) - both
    spreads = _window_means(a * a + b * b) - squares  # the sum of both variances, which alone is needed
    return (2 * both + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (spreads + _C2))


def _window_means(padded: Tensor) -> Tensor:
    """Return means of 3 x 3 windows. Sums of slices: a quarter of the time that ``avg_pool2d`` takes on a CPU."""
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def smoothness_loss(inverse: Tensor, image: Tensor) -> Tensor:
    """Return ``|d_x u*| exp(-|d_x I|) + |d_y u*| exp(-|d_y I|)``, means over pixels (Monodepth2, equation 3).

    ``u*`` is the inverse depth (or disparity), N x 1 x H x W, by its mean over the picture; I: N x C x H x W in [0, 1].
    """
    normalised = inverse / (inverse.mean((2, 3), keepdim=True) + _EPSILON)
    total = inverse.new_zeros(())
    for axis in (2, 3):
        edges = image.diff(dim=axis).abs().mean(1, keepdim=True)
        total = total + (normalised.diff(dim=axis).abs() * torch.exp(-edges)).mean()
    return total


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the mask; 0 if it is empty. Values outside get no gradient, NaN included."""
    known = torch.where(mask, values, torch.zeros_like(values))
    return known.sum() / (mask.sum() + _EPSILON)
