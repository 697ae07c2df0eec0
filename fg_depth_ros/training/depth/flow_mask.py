"""The prior-flow mask: which of the teacher's answers a depth network may learn from.

FG-Depth (Zhu et al., ICRA 2023, M_fp) takes it in place of the auto-mask of Monodepth2: what is decided by the flow
is known before the first step and does not depend on what the network says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fg_depth_ros.training.depth.batch import Taught

REFERENCE_WIDTH = 1024
"""Px of width that ``MaskConfig.max_disparity`` is given for."""


@dataclass(frozen=True)
class MaskConfig:
    """The checks that a pixel must pass; 0 (False) switches a check off. No answer never passes."""

    max_depth: float = 80.0
    """Metres: what lies farther is left out; its disparity says little."""
    max_disparity: float = 80.0
    """Px at a width of 1024 px, in proportion at others: what lies nearer is left out. FG-Depth names one bound of 80
    and not its side, so both are here, and either can be switched off."""
    min_disparity: float = 0.0
    """Px of the pair: only larger disparities pass. With 0 those above 0, for infinity has no depth to learn."""
    inside: bool = True
    """The match lies in the other image."""
    vertical: float = 1.0
    """Px of the pair: largest row component of the match; rows of a rectified pair agree."""
    left_right: float = 1.5
    """Px of the pair: largest difference between the two views' answers. Like ``vertical`` it does not change with the
    width: both are errors of a matcher, which come in pixels of what it saw."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{field.name} of the flow mask is {value}: give 0 (no check) or a positive number")


def mask_checks(taught: Taught, focal: Tensor, baseline: Tensor, config: MaskConfig) -> dict[str, Tensor]:
    """What passes each check that is switched on, by its name; N x 1 x H x W bool, False without an answer.

    Args:
        taught: what the teacher says.
        focal: N float32 px, of the pairs' size.
        baseline: N float32 m.
        config: the checks.

    Raises:
        ValueError: the left-right check is wanted and the teacher was not asked for the right view.
    """
    disparity = taught.disparity
    width = disparity.shape[-1]
    checks = {"min_disparity": torch.isfinite(disparity) & (disparity > config.min_disparity)}
    if config.max_depth:
        # Z < Z_max as d > f B / Z_max, which needs no division by a disparity of 0.
        farthest = (focal * baseline.abs()).view(-1, 1, 1, 1) / config.max_depth
        checks["max_depth"] = disparity > farthest
    if config.max_disparity:
        checks["max_disparity"] = disparity < config.max_disparity * width / REFERENCE_WIDTH
    columns = torch.arange(width, device=disparity.device, dtype=disparity.dtype)
    match = columns - disparity
    inside = (match >= 0) & (match <= width - 1)
    if config.inside:
        checks["inside"] = inside
    if config.vertical:
        checks["vertical"] = taught.vertical.abs() < config.vertical
    if config.left_right:
        if taught.right_disparity is None:
            raise ValueError(
                "the left-right check of the flow mask needs the right view's disparity: ask the teacher for it, or "
                "switch the check off with left_right=0"
            )
        column = torch.where(inside, match, torch.zeros_like(match)).round().long()
        difference = (disparity - taught.right_disparity.gather(3, column)).abs()
        checks["left_right"] = inside & (difference <= config.left_right)
    return checks


def prior_flow_mask(taught: Taught, focal: Tensor, baseline: Tensor, config: MaskConfig | None = None) -> Tensor:
    """Pixels that pass every check, N x 1 x H x W bool. Arguments and errors as ``mask_checks``."""
    checks = mask_checks(taught, focal, baseline, config or MaskConfig())
    return torch.stack(list(checks.values())).all(0)
