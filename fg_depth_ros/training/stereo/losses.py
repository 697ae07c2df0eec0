"""Losses of the stereo network."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fg_depth_ros.networks.flownet_stereo import StereoPrediction

_LINEAR_UP_TO = 4.0  # px; larger errors weigh ever less, or the few hopeless pixels would lead the rest
# Deviation of the target distribution over hypotheses, in hypotheses: the expectation over the best one and its
# neighbours is the truth to 0.03 of a hypothesis, where that of a Laplace distribution of scale 0.35 is 0.11 off.
_PEAK_DEVIATION = 0.5


def stereo_loss(
    prediction: StereoPrediction, disparity: torch.Tensor, max_disparity: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of a training-mode prediction against exact disparity.

    Terms: robust L1 of the final and of the middle disparity; cross entropy of the hypotheses against a normal
    distribution around the truth; negative log likelihood of the error under the predicted Laplace scale
    (Kendall & Gal 2017), which leaves the disparity itself untouched.

    Args:
        prediction: of a network in training mode.
        disparity: N x 1 x H x W px; pixels that the right camera does not see count like all others, since a prediction
            is wanted there too.
        max_disparity: pixels from here on are left out.

    Returns:
        The loss and its parts (detached scalars), among them the end-point error ``epe`` in px and ``bad2`` in %.
    """
    if prediction.coarse is None or prediction.middle is None:
        raise ValueError("stereo_loss needs the prediction of a network in training mode")
    within = disparity < max_disparity - 1
    weight = within.to(disparity.dtype)
    total = weight.sum().clamp(min=1)
    error = (prediction.disparity - disparity).abs()
    final = (_robust(error) * weight).sum() / total
    half_truth, half_weight = disparity[..., ::2, ::2], weight[..., ::2, ::2]
    middle = (_robust((prediction.middle - half_truth).abs()) * half_weight).sum() / half_weight.sum().clamp(min=1)
    target = hypothesis_distribution(disparity[..., ::4, ::4] / 4, prediction.coarse.shape[1])
    entropy = -(target * F.log_softmax(prediction.coarse.float(), 1)).sum(1, keepdim=True)
    quarter_weight = weight[..., ::4, ::4]
    coarse = (entropy * quarter_weight).sum() / quarter_weight.sum().clamp(min=1)
    log_scale = prediction.log_scale.clamp(-4, 5)
    likelihood = ((log_scale + error.detach() * torch.exp(-log_scale)) * weight).sum() / total
    loss = final + 0.5 * middle + 1.0 * coarse + 0.1 * likelihood
    parts = {
        "loss": loss,
        "coarse": coarse,
        "epe": error[within].mean(),
        "bad2": 100 * (error[within] > 2).float().mean(),
    }
    return loss, {name: value.detach() for name, value in parts.items()}


def _robust(error: torch.Tensor) -> torch.Tensor:
    """Return the absolute error, growing with its logarithm beyond ``_LINEAR_UP_TO`` px."""
    return _LINEAR_UP_TO * torch.log1p(error / _LINEAR_UP_TO)


def hypothesis_distribution(disparity: torch.Tensor, hypotheses: int) -> torch.Tensor:
    """Return normal distributions over hypotheses 0 .. D - 1 around the truth, N x 1 x h x w -> N x D x h x w."""
    steps = torch.arange(hypotheses, device=disparity.device, dtype=disparity.dtype).view(1, -1, 1, 1)
    return torch.softmax(-0.5 * ((steps - disparity) / _PEAK_DEVIATION) ** 2, 1)
