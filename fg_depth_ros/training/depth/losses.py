"""Losses of a depth network that learns from stereo pairs: the photometric baseline and the flow distillation.

Sources: the photometric error, the auto-mask, the smoothness and the full-resolution multi-scale are those of
Monodepth2 (Godard et al., ICCV 2019, section 3); ``L_dr``, ``L_fp`` and the prior-flow mask those of FG-Depth (Zhu et
al., ICRA 2023), ``L_dr`` in the logarithmic form of Depth Hints (Watson et al., ICCV 2019); the self-distillation that
of EPCDepth (Peng et al., ICCV 2021, section 3.2).

The network answers in the canonical camera, so its disparity in a pair is ``focal_canonical * |baseline| * inverse``
px, whatever the focal length of the pair; that is needed for metres only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fg_depth_ros.geometry.warp import warp_right_to_left
from fg_depth_ros.networks.depth import DepthPrediction, depth_of
from fg_depth_ros.training.depth.batch import DistillBatch, per_pixel
from fg_depth_ros.training.depth.config import DepthLossConfig

_SSIM_SHARE = 0.85
_C1, _C2 = 0.01**2, 0.03**2
_NOISE = 1e-5  # decides between equal identity errors, as where nothing has any texture
_NOTHING = 1e-7  # keeps an empty mask from dividing by 0


def depth_loss(
    prediction: DepthPrediction,
    batch: DistillBatch,
    focal_canonical: float,
    config: DepthLossConfig,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a training-mode prediction.

    What stands in ``batch.disparity`` outside ``batch.mask`` has no influence, NaN included.

    Args:
        prediction: of ``batch.seen``; ``levels`` are needed where ``config.scales`` > 1.
        batch: N samples, H x W px.
        focal_canonical: the network's focal length, px.
        config: the terms.
        generator: of the noise of the auto-mask; None for torch's own.

    Returns:
        The loss, and its parts (detached scalars): ``loss``; every term that counts, before its weight; ``mask``, the
        part of the pixels in the prior-flow mask; ``abs_rel`` of the finest level against the flow's depth there.

    Raises:
        ValueError: fewer levels than ``config.scales``.
    """
    levels = (prediction.inverse, *(prediction.levels or (prediction.inverse,))[1:])
    if len(levels) < config.scales:
        raise ValueError(
            f"the prediction has {len(levels)} level(s) and {config.scales} are to learn: set scales to "
            f"{len(levels)}, or put the network into training mode"
        )
    levels = tuple(level.float() for level in levels[: config.scales])
    size = batch.target.shape[-2:]
    full = [_enlarged(level, size) for level in levels]
    guide = _Guide.of(batch, focal_canonical)
    terms: dict[str, list[Tensor]] = {}
    errors = []
    for k, (level, inverse) in enumerate(zip(levels, full, strict=True)):
        needs_warp = config.photometric or config.flow_photometric or config.self_distillation
        warped = warp_source(batch.source, guide.to_disparity * inverse, batch.baseline) if needs_warp else None
        if warped is not None and (config.photometric or config.self_distillation):
            errors.append(photometric_error(warped, batch.target))
        if config.photometric:
            terms.setdefault("photometric", []).append(
                _masked_photometric(errors[-1], batch, config.photometric_mask, generator)
            )
        if config.regression:
            depth = depth_of(inverse, focal_canonical, guide.focal)
            compare = regression_loss if config.regression_of == "metres" else ratio_loss
            terms.setdefault("regression", []).append(compare(depth, guide.depth, batch.mask))
        if config.flow_photometric and warped is not None:
            terms.setdefault("flow_photometric", []).append(flow_photometric_loss(warped, guide.warped, batch.mask))
        if config.smoothness:
            image = F.interpolate(batch.target, level.shape[-2:], mode="area")
            terms.setdefault("smoothness", []).append(smoothness_loss(level, image) / 2**k)
    means = {name: torch.stack(values).mean() for name, values in terms.items()}
    if config.self_distillation:
        depths = [depth_of(inverse, focal_canonical, guide.focal) for inverse in full]
        means["self_distillation"] = self_distillation_loss(depths, errors)
    loss = torch.stack([getattr(config, name) * value for name, value in means.items()]).sum()
    parts = {name: value.detach() for name, value in means.items()}
    with torch.no_grad():
        relative = (depth_of(full[0], focal_canonical, guide.focal) - guide.depth).abs() / guide.depth
        parts |= {"loss": loss.detach(), "mask": batch.mask.float().mean(), "abs_rel": _mean(relative, batch.mask)}
    return loss, parts


@dataclass(frozen=True)
class _Guide:
    """What the flow says, and how the network's answers become comparable with it."""

    to_disparity: Tensor  # canonical inverse depth times this = disparity, px
    focal: Tensor  # px, in a shape that goes with a picture
    depth: Tensor  # N x 1 x H x W m, 1 outside the mask
    warped: Tensor  # the source warped by the flow

    @classmethod
    def of(cls, batch: DistillBatch, focal_canonical: float) -> _Guide:
        focal, baseline = per_pixel(batch.focal), per_pixel(batch.baseline).abs()
        # Outside the mask a disparity may be 0 or NaN: whatever is computed from 1 instead is never looked at.
        disparity = torch.where(batch.mask, batch.disparity, torch.ones_like(batch.disparity))
        depth = torch.where(batch.mask, focal * baseline / disparity, torch.ones_like(disparity))
        shift = torch.where(batch.mask, disparity, torch.zeros_like(disparity))
        warped = warp_source(batch.source, shift, batch.baseline)
        return cls(focal_canonical * baseline, focal, depth, warped)


def warp_source(source: Tensor, disparity: Tensor, baseline: Tensor) -> Tensor:
    """What the target camera would see: ``out(x) = source(x - sign(baseline) * disparity)``, bilinear along the row.

    Beyond the source's sides its border is continued; there is no gradient.

    Args:
        source: N x C x H x W.
        disparity: N x 1 x H x W px, >= 0.
        baseline: N or N x H, metres; its sign counts alone.
    """
    columns = torch.arange(source.shape[-1], device=source.device, dtype=disparity.dtype)
    match = (columns - per_pixel(baseline).sign() * disparity).clamp(0, source.shape[-1] - 1)
    return warp_right_to_left(source, columns - match)[0]


def photometric_error(first: Tensor, second: Tensor) -> Tensor:
    """``pe = .85 (1 - SSIM) / 2 + .15 |a - b|``, means over the channels, N x 1 x H x W; Monodepth2, equation 2.

    Args:
        first, second: N x C x H x W in [0, 1].
    """
    structure = ((1 - ssim(first, second)) / 2).clamp(0, 1).mean(1, keepdim=True)
    return _SSIM_SHARE * structure + (1 - _SSIM_SHARE) * (first - second).abs().mean(1, keepdim=True)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of 3 x 3 windows, the border reflected; N x C x H x W in, the same out, 1 = alike.

    Wang et al. 2004, equation 13, with means instead of a Gaussian window, as Monodepth2 takes it.
    """
    a, b = (F.pad(image, (1, 1, 1, 1), mode="reflect") for image in (first, second))
    mean_a, mean_b = _window_means(a), _window_means(b)
    both, squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    covariance = _window_means(a * b) - both
    spreads = _window_means(a * a + b * b) - squares  # the sum of both variances, which alone is needed
    return (2 * both + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (spreads + _C2))


def _window_means(padded: Tensor) -> Tensor:
    """Means of 3 x 3 windows. Sums of slices: a quarter of the time that ``avg_pool2d`` takes on a CPU."""
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def _masked_photometric(error: Tensor, batch: DistillBatch, mask: str, generator: torch.Generator | None) -> Tensor:
    if mask == "flow":
        return _mean(error, batch.mask)
    if mask == "none":
        return error.mean()
    return auto_masked(error, photometric_error(batch.source, batch.target), generator).mean()


def auto_masked(error: Tensor, identity: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The smaller of both errors at every pixel, all N x 1 x H x W: where the source as it is fits better, the warp
    gets no gradient. Monodepth2, equation 5; a noise of 1e-5 on ``identity`` decides where both are equal.
    """
    device = generator.device if generator is not None else identity.device
    noise = torch.randn(identity.shape, generator=generator, device=device).to(identity.device)
    return torch.minimum(error, identity + _NOISE * noise)


def regression_loss(depth: Tensor, guide: Tensor, mask: Tensor) -> Tensor:
    """``L_dr = sum m log(|D_hat - D| + 1) / (sum m + 1e-7)``, over all samples alike.

    Args:
        depth: N x 1 x H x W m, of the network.
        guide: N x 1 x H x W m, of the flow; anything outside the mask.
        mask: N x 1 x H x W bool.
    """
    known = torch.where(mask, guide, depth.detach())
    return _mean(torch.log1p((known - depth).abs()), mask)


def ratio_loss(depth: Tensor, guide: Tensor, mask: Tensor) -> Tensor:
    """``sum m |log(D_hat / D)| / (sum m + 1e-7)``; as ``regression_loss`` else."""
    known = torch.where(mask, guide, depth.detach())
    return _mean((torch.log(known) - torch.log(depth)).abs(), mask)


def flow_photometric_loss(by_depth: Tensor, by_flow: Tensor, mask: Tensor) -> Tensor:
    """``L_fp``: photometric error between the source warped by depth and by flow, mean over the mask.

    Both are the one source image, so neither exposure nor occlusion differs between them. Outside the mask both are
    made alike before they are compared: a window at the mask's edge then sees only what is known.

    Args:
        by_depth, by_flow: N x C x H x W; gradients reach ``by_depth`` alone.
        mask: N x 1 x H x W bool.
    """
    reference = by_flow.detach()
    return _mean(photometric_error(torch.where(mask, by_depth, reference), reference), mask)


def smoothness_loss(inverse: Tensor, image: Tensor) -> Tensor:
    """``|d_x u*| exp(-|d_x I|) + |d_y u*| exp(-|d_y I|)``, means over pixels; ``u*`` is the inverse depth by its mean
    over the picture. Monodepth2, equation 3.

    Args:
        inverse: N x 1 x H x W.
        image: N x C x H x W in [0, 1].
    """
    normalised = inverse / (inverse.mean((2, 3), keepdim=True) + _NOTHING)
    total = inverse.new_zeros(())
    for axis in (2, 3):
        edges = image.diff(dim=axis).abs().mean(1, keepdim=True)
        total = total + (normalised.diff(dim=axis).abs() * torch.exp(-edges)).mean()
    return total


def self_distillation_loss(depths: list[Tensor], errors: list[Tensor]) -> Tensor:
    """Mean over levels and pixels of ``log(|D_best - D_k| + 1)``; the best level of a pixel has the smallest error.

    The best level's own part is 0, so the worse ones learn from it (EPCDepth, section 3.2).

    Args:
        depths: of every level, N x 1 x H x W m.
        errors: photometric errors of the levels, N x 1 x H x W.
    """
    stacked = torch.stack(depths)
    best = torch.stack(errors).argmin(0, keepdim=True)
    label = stacked.gather(0, best).detach()
    return torch.log1p((label - stacked).abs()).mean()


def _enlarged(level: Tensor, size: torch.Size) -> Tensor:
    if level.shape[-2:] == size:
        return level
    return F.interpolate(level, size, mode="bilinear", align_corners=False)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the mask's pixels; 0 where it has none. What lies outside it gets no gradient, NaN included."""
    known = torch.where(mask, values, torch.zeros_like(values))
    return known.sum() / (mask.sum() + _NOTHING)
