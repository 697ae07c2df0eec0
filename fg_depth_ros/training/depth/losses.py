"""Losses of a depth network that learns from stereo pairs: the photometric baseline and the flow distillation.

Sources: the photometric error, the auto-mask, the smoothness and the full-resolution multi-scale are those of
Monodepth2 (Godard et al., ICCV 2019, section 3); ``L_dr``, ``L_fp`` and the prior-flow mask those of FG-Depth (Zhu et
al., ICRA 2023), ``L_dr`` in the logarithmic form of Depth Hints (Watson et al., ICCV 2019); the self-distillation that
of EPCDepth (Peng et al., ICCV 2021, section 3.2).

The network predicts in the canonical camera, so its disparity in a pair is ``focal_canonical * |baseline| * inverse``
px, whatever the focal length of the pair; that is needed for metres only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fg_depth_ros.networks.depth import DepthPrediction, depth_of
from fg_depth_ros.training.depth.batch import DistillBatch, per_pixel
from fg_depth_ros.training.depth.config import DepthLossConfig
from fg_depth_ros.training.photometric import masked_mean, photometric_error, smoothness_loss, warp_source

_NOISE = 1e-5  # decides between equal identity errors, as where nothing has any texture
_SKY = 80.0  # m, that the sky is away at least


def depth_loss(
    prediction: DepthPrediction, batch: DistillBatch, focal_canonical: float, config: DepthLossConfig,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Return the loss of a training-mode prediction of ``batch.seen``, and its parts (detached scalars).

    ``levels`` of the prediction are needed where ``config.scales`` > 1, else ValueError is raised. What stands in
    ``batch.disparity`` outside ``batch.mask`` has no influence, NaN included. ``generator``: of the noise of the
    auto-mask. Parts: ``loss``; every term that counts, before its weight; ``mask``, the part of the pixels in the
    prior-flow mask; ``abs_rel`` of the finest level against the flow's depth there.
    """
    levels = (prediction.inverse, *(prediction.levels or (prediction.inverse,))[1:])
    if len(levels) < config.scales:
        raise ValueError(
            f"the prediction has {len(levels)} level(s) and {config.scales} are to learn: set scales to "
            f"{len(levels)}, or put the network into training mode"
        )
    levels = tuple(level.float() for level in levels[: config.scales])
    size = batch.target.shape[-2:]
    full = [level if level.shape[-2:] == size else F.interpolate(level, size, mode="bilinear") for level in levels]
    guide = _Guide.of(batch, focal_canonical)
    terms: dict[str, list[Tensor]] = {}
    errors = []
    needs_warp = config.photometric or config.flow_photometric or config.self_distillation
    for k, (level, inverse) in enumerate(zip(levels, full, strict=True)):
        warped = warp_source(batch.source, guide.to_disparity * inverse, batch.baseline) if needs_warp else None
        if warped is not None and (config.photometric or config.self_distillation):
            errors.append(photometric_error(warped, batch.target))
        if config.photometric:
            terms.setdefault("photometric", []).append(
                _masked_photometric(errors[-1], batch, config.photometric_mask, generator)
            )
        depth = depth_of(inverse, focal_canonical, guide.focal)
        if config.regression:
            compare = regression_loss if config.regression_of == "metres" else ratio_loss
            terms.setdefault("regression", []).append(compare(depth, guide.depth, batch.mask))
        if config.sky:
            terms.setdefault("sky", []).append(sky_loss(depth, torch.isposinf(batch.truth), batch.mask))
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
        parts |= {
            "loss": loss.detach(),
            "mask": batch.mask.float().mean(),
            "abs_rel": masked_mean(relative, batch.mask),
        }
    return loss, parts


@dataclass(frozen=True)
class _Guide:
    """The flow's depth and warp, and the factors that make the network's output comparable with them."""

    to_disparity: Tensor  # canonical inverse depth times this = disparity, px
    focal: Tensor  # px, in a shape that goes with a picture
    depth: Tensor  # N x 1 x H x W m, 1 outside the mask
    warped: Tensor  # the source warped by the flow

    @classmethod
    def of(cls, batch: DistillBatch, focal_canonical: float) -> _Guide:
        focal, baseline = per_pixel(batch.focal), per_pixel(batch.baseline).abs()
        # Outside the mask a disparity may be 0 or NaN: what is computed from 1 instead is not used.
        disparity = torch.where(batch.mask, batch.disparity, torch.ones_like(batch.disparity))
        depth = torch.where(batch.mask, focal * baseline / disparity, torch.ones_like(disparity))
        shift = torch.where(batch.mask, disparity, torch.zeros_like(disparity))
        warped = warp_source(batch.source, shift, batch.baseline)
        return cls(focal_canonical * baseline, focal, depth, warped)


def _masked_photometric(error: Tensor, batch: DistillBatch, mask: str, generator: torch.Generator | None) -> Tensor:
    if mask == "flow":
        return masked_mean(error, batch.mask)
    if mask == "none":
        return error.mean()
    return auto_masked(error, photometric_error(batch.source, batch.target), generator).mean()


def auto_masked(error: Tensor, identity: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return the smaller of both errors at every pixel, all N x 1 x H x W (Monodepth2, equation 5).

    Where the unwarped source fits better, the warp gets no gradient; a noise of 1e-5 on ``identity`` decides where both
    are equal.
    """
    device = generator.device if generator is not None else identity.device
    noise = torch.randn(identity.shape, generator=generator, device=device).to(identity.device)
    return torch.minimum(error, identity + _NOISE * noise)


def regression_loss(depth: Tensor, guide: Tensor, mask: Tensor) -> Tensor:
    """Return ``L_dr = sum m log(|D_hat - D| + 1) / (sum m + 1e-7)``, over all samples alike.

    N x 1 x H x W each: depth of the network and of the flow (``guide``; anything outside the mask), m, and the mask,
    bool.
    """
    known = torch.where(mask, guide, depth.detach())
    return masked_mean(torch.log1p((known - depth).abs()), mask)


def ratio_loss(depth: Tensor, guide: Tensor, mask: Tensor) -> Tensor:
    """Return ``sum m |log(D_hat / D)| / (sum m + 1e-7)``; arguments as ``regression_loss``."""
    known = torch.where(mask, guide, depth.detach())
    return masked_mean((torch.log(known) - torch.log(depth)).abs(), mask)


def sky_loss(depth: Tensor, sky: Tensor, mask: Tensor) -> Tensor:
    """Return ``sum s max(0, log(80 m / D_hat)) / (sum (s or m) + 1e-7)``: the sky is no obstacle.

    N x 1 x H x W each: depth of the network in metres; ``s``, bool, where the sky is; ``m``, bool, the mask of the
    regression. A pixel of the sky counts about as much as one of the mask: with a mean over the sky alone, which is a
    small part of all pixels, whatever may be sky would be put far away.
    """
    missing = (math.log(_SKY) - torch.log(depth)).clamp(min=0)
    return torch.where(sky, missing, torch.zeros_like(missing)).sum() / ((sky | mask).sum() + 1e-7)


def flow_photometric_loss(by_depth: Tensor, by_flow: Tensor, mask: Tensor) -> Tensor:
    """Return ``L_fp``: photometric error between the source warped by depth and by flow, mean over the mask.

    Both are the one source image, so neither exposure nor occlusion differs between them. Outside the mask both are
    made alike before they are compared: a window at the mask's edge then sees only what is known. Gradients reach
    ``by_depth`` alone.
    """
    reference = by_flow.detach()
    return masked_mean(photometric_error(torch.where(mask, by_depth, reference), reference), mask)


def self_distillation_loss(depths: list[Tensor], errors: list[Tensor]) -> Tensor:
    """Return the mean of ``log(|D_best - D_k| + 1)``; the best level of a pixel has the smallest photometric error.

    The best level's own part is 0, so the worse ones learn from it (EPCDepth, section 3.2). Depths (m) and errors of
    every level, N x 1 x H x W each.
    """
    stacked = torch.stack(depths)
    best = torch.stack(errors).argmin(0, keepdim=True)
    label = stacked.gather(0, best).detach()
    return torch.log1p((label - stacked).abs()).mean()
