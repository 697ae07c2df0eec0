"""The prior-flow mask: which of the teacher's predictions a depth network may learn from.

FG-Depth (Zhu et al., ICRA 2023, M_fp) takes it in place of the auto-mask of Monodepth2: what is decided by the flow
is known before the first step and does not depend on the network's output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fg_depth_ros.training.depth.batch import TeacherPrediction
from fg_depth_ros.training.depth.config import MaskConfig

REFERENCE_WIDTH = 1024
"""Px of width that ``MaskConfig.max_disparity`` is given for."""


def mask_checks(
    prediction: TeacherPrediction, focal: Tensor, baseline: Tensor, config: MaskConfig
) -> dict[str, Tensor]:
    """Return what passes each check that is switched on, by its name; N x 1 x H x W bool, False without a prediction.

    ``focal``: N float32 px, of the pairs' size; ``baseline``: N float32 m. Raises ValueError: the left-right check is
    on and the right view was not predicted.
    """
    disparity = prediction.disparity
    width = disparity.shape[-1]
    checks = {"min_disparity": torch.isfinite(disparity) & (disparity > config.min_disparity)}
    if config.max_depth:
        # Z < Z_max as d > f B / Z_max, which needs no division by a disparity of 0.
        farthest = (focal * baseline.abs()).view(-1, 1, 1, 1) / config.max_depth
        checks["max_depth"] = disparity > farthest
    if config.max_disparity:
        checks["max_disparity"] = disparity < config.max_disparity * width / REFERENCE_WIDTH
    match = torch.arange(width, device=disparity.device, dtype=disparity.dtype) - disparity
    inside = match_inside(disparity)
    if config.inside:
        checks["inside"] = inside
    if config.vertical:
        checks["vertical"] = prediction.vertical.abs() < config.vertical
    if config.left_right:
        if prediction.right_disparity is None:
            raise ValueError(
                "the left-right check of the flow mask needs the right view's disparity: predict it, or "
                "switch the check off with left_right=0"
            )
        column = torch.where(inside, match, torch.zeros_like(match)).round().long()
        difference = (disparity - prediction.right_disparity.gather(3, column)).abs()
        checks["left_right"] = inside & (difference <= config.left_right)
    return checks


def prior_flow_mask(
    prediction: TeacherPrediction, focal: Tensor, baseline: Tensor, config: MaskConfig | None = None
) -> Tensor:
    """Return the pixels that pass every check, N x 1 x H x W bool. Arguments and errors as ``mask_checks``."""
    checks = mask_checks(prediction, focal, baseline, config or MaskConfig())
    return torch.stack(list(checks.values())).all(0)


def masked(prediction: TeacherPrediction, focal: Tensor, baseline: Tensor, config: MaskConfig) -> TeacherPrediction:
    """Return the prediction without a disparity (NaN) where a check fails. Arguments and errors as ``mask_checks``.

    At the size that it was predicted for: the bounds are px of that.
    """
    usable = prior_flow_mask(prediction, focal, baseline, config)
    return prediction._replace(disparity=torch.where(usable, prediction.disparity, torch.nan))


def match_inside(disparity: Tensor) -> Tensor:
    """Return where the match lies in the other image, N x 1 x H x W bool; False for NaN."""
    width = disparity.shape[-1]
    match = torch.arange(width, device=disparity.device, dtype=disparity.dtype) - disparity
    return (match >= 0) & (match <= width - 1)
