"""What stereo pairs without labels say of a stereo network's answers in both views.

The photometric error (.85 SSIM + .15 L1) and the smoothness are those of ``depth_losses``; the left-right consistency
is that of Godard et al., CVPR 2017, equation 5, and pixels that only one camera sees are found by it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fg_depth_ros.training.depth.losses import photometric_error, smoothness_loss, warp_source

_LEAST_SEEN = 16  # px; fewer say nothing of an exposure
_SPREAD = (0.5, 2.0)  # contrasts beyond this are not the camera's
_REACH = 3.0  # tolerances; what differs by more is hidden or lost, and is not pulled together


class View(NamedTuple):
    """One view's answer, seen from the other one. N x 1 x H x W each.

    ``inside``: the match lies in the other image. ``difference``: px, between this view's disparity and the other
    one's at the match. ``visible``: both cameras see the pixel, as far as the two answers say. ``error``: photometric,
    of the other image warped here, its exposure made alike; of no meaning where the pixel is not visible.
    """

    inside: Tensor
    difference: Tensor
    visible: Tensor
    error: Tensor


def look_across(target: Tensor, source: Tensor, own: Tensor, other: Tensor, side: int, tolerance: float) -> View:
    """One view against the other one.

    Args:
        target, source: N x 3 x H x W in [0, 1]; ``target`` is the view that ``own`` belongs to.
        own, other: N x 1 x H x W px, disparity of the target's and of the source's view, both positive.
        side: 1 where the source camera stands to the right of the target camera, -1 to the left.
        tolerance: px, largest difference of the views at a visible pixel.
    """
    width = own.shape[-1]
    sign = own.new_full((len(own),), float(side))
    columns = torch.arange(width, device=own.device, dtype=own.dtype)
    match = columns - side * own.detach()
    inside = (match >= 0) & (match <= width - 1)
    difference = (own - warp_source(other, own, sign)).abs()
    visible = inside & (difference.detach() <= tolerance)
    warped = exposed_alike(warp_source(source, own, sign), target, visible)
    # A window at the edge of what is visible then sees only what is known.
    return View(inside, difference, visible, photometric_error(torch.where(visible, warped, target), target))


def exposed_alike(warped: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """``warped`` with the mean and the spread of ``target`` over the visible pixels, channel by channel.

    Two cameras rarely expose alike; what is left after this is not the exposure's. The factors get no gradient.

    Args:
        warped, target: N x C x H x W.
        visible: N x 1 x H x W bool; an image with too few of them stays as it is.
    """
    count = visible.sum((2, 3), keepdim=True)

    def moments(image: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.where(visible, image, torch.zeros_like(image)).detach()
        mean = known.sum((2, 3), keepdim=True) / count.clamp(min=1)
        squares = torch.where(visible, (image.detach() - mean).square(), torch.zeros_like(image))
        return mean, (squares.sum((2, 3), keepdim=True) / count.clamp(min=1)).sqrt()

    mean_warped, spread_warped = moments(warped)
    mean_target, spread_target = moments(target)
    contrast = ((spread_target + 1e-3) / (spread_warped + 1e-3)).clamp(*_SPREAD)
    alike = ((warped - mean_warped) * contrast + mean_target).clamp(0, 1)
    return torch.where(count >= _LEAST_SEEN, alike, warped)


def stereo_terms(left: Tensor, right: Tensor, of_left: Tensor, of_right: Tensor, tolerance: float) -> dict[str, Tensor]:
    """The terms of a self-supervised loss, before their weights; scalars, means of both views.

    ``photometric``: over the visible pixels. ``left_right``: px, over pixels inside whose views differ by less than
    three tolerances. ``smoothness``: of both disparities. ``visible``: part of all pixels, no term.

    Args:
        left, right: N x 3 x H x W in [0, 1].
        of_left, of_right: N x 1 x H x W px, disparity of the two views, both positive.
        tolerance: px.
    """
    views = [
        look_across(left, right, of_left, of_right, 1, tolerance),
        look_across(right, left, of_right, of_left, -1, tolerance),
    ]
    near = [view.inside & (view.difference.detach() <= _REACH * tolerance) for view in views]
    terms = {
        "photometric": [_mean(view.error, view.visible) for view in views],
        "left_right": [_mean(view.difference, where) for view, where in zip(views, near, strict=True)],
        "smoothness": [smoothness_loss(of_left, left), smoothness_loss(of_right, right)],
        "visible": [view.visible.float().mean() for view in views],
    }
    return {name: torch.stack(values).mean() for name, values in terms.items()}


def distance_from(parent: list[Tensor], now: list[Tensor]) -> Tensor:
    """Squared distance of parameters from those they began with, by the squared length of these: 0 = unchanged."""
    apart = torch.stack([(new - old).square().sum() for new, old in zip(now, parent, strict=True)]).sum()
    length = torch.stack([old.square().sum() for old in parent]).sum()
    return apart / length


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean there; 0 where it is nowhere."""
    return torch.where(where, values, torch.zeros_like(values)).sum() / where.sum().clamp(min=1)
