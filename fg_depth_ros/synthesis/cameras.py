"""Model the two cameras of a synthetic rig: exposure, response, blur, noise, and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

_MEAN_LIGHT = 105.0  # of 255: what automatic exposure makes of the mean of a left picture
_EXPOSURE_RANGE = (0.4, 3.0)


@dataclass(frozen=True)
class CameraPair:
    """The two cameras of one sample: shared traits, and small differences between left and right.

    Tuples hold (left, right). ``blur``: deviation of the point spread, px; ``gains``: per colour; ``offset`` and
    ``gamma`` of the response; ``noise``: deviation at full light; ``vignette``: loss towards the corners; ``grey``:
    one channel; ``row_offset`` (px) and ``row_tilt`` (px per column): how the right camera is misrectified.
    """

    blur: tuple[float, float]
    gains: tuple[tuple[float, ...], tuple[float, ...]]
    offset: tuple[float, float]
    gamma: tuple[float, float]
    noise: float
    vignette: float
    grey: bool
    row_offset: float
    row_tilt: float

    @classmethod
    def draw(cls, rng: np.random.Generator, width: int) -> CameraPair:
        """Draw cameras for pictures of ``width`` px; half of the rigs have well-matched ones."""
        blur = rng.uniform(0.2, 0.8) if rng.random() < 0.85 else rng.uniform(0.8, 1.8)
        differ = rng.random() < 0.5
        exposure = float(np.exp(rng.normal(0, 0.2)))
        gains = []
        for _ in range(2):
            own = np.exp(rng.normal(0, 0.12)) if differ else 1.0
            gains.append(tuple(exposure * own * np.exp(rng.normal(0, 0.04 if differ else 0.01, 3))))
        gamma = float(np.exp(rng.normal(0, 0.2)))
        tilted = rng.random() < 0.35
        return cls(
            blur=(blur, blur * (np.exp(rng.normal(0, 0.2)) if differ else 1.0)),
            gains=(gains[0], gains[1]),
            offset=(rng.normal(0, 0.02), rng.normal(0, 0.02)) if differ else (0.0, 0.0),
            gamma=(gamma, gamma * float(np.exp(rng.normal(0, 0.06 if differ else 0.01)))),
            noise=rng.uniform(0, 0.012) if rng.random() < 0.7 else rng.uniform(0.012, 0.04),
            vignette=rng.uniform(0, 0.25) if rng.random() < 0.3 else 0.0,
            grey=rng.random() < 0.12,
            row_offset=float(np.clip(rng.normal(0, 0.35), -0.9, 0.9)) if tilted else 0.0,
            row_tilt=float(rng.normal(0, 0.5)) / width if tilted else 0.0,
        )


def auto_exposure(light: torch.Tensor) -> torch.Tensor:
    """Return the factor, N x 1 x 1 x 1, that brings left pictures to a usual brightness; ``light``: N x H x W x 3."""
    mean = light.clamp(max=255).mean((1, 2, 3), keepdim=True)
    return (_MEAN_LIGHT / mean.clamp(min=1)).clamp(*_EXPOSURE_RANGE)


def expose(colour: torch.Tensor, cameras: Sequence[CameraPair], view: int, seeds: Sequence[int]) -> torch.Tensor:
    """Convert light to the image of camera ``view`` (0 left, 1 right): blur, response, vignetting, noise, 8 bits.

    N x H x W x 3 float light, 0..255, to N x 3 x H x W uint8, with N cameras and N seeds of the noise.
    """
    n, h, w, _ = colour.shape
    device = colour.device
    image = colour.permute(0, 3, 1, 2) / 255
    frames = []
    for i in range(n):
        c, frame = cameras[i], image[i : i + 1]
        frame = gaussian_blur(frame, c.blur[view])
        gains = torch.tensor(c.gains[view], device=device, dtype=torch.float32).view(1, 3, 1, 1)
        frame = (frame * gains + c.offset[view]).clamp(0, 1) ** c.gamma[view]
        if c.vignette > 0:
            ys = torch.linspace(-1, 1, h, device=device).view(1, 1, h, 1)
            xs = torch.linspace(-1, 1, w, device=device).view(1, 1, 1, w)
            frame = frame * (1 - c.vignette * (xs * xs + ys * ys))
        if c.grey:
            frame = frame.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        generator = torch.Generator(device).manual_seed(seeds[i])
        noise = torch.randn((1, 1 if c.grey else 3, h, w), generator=generator, device=device)
        frames.append(frame + noise * (c.noise * (0.4 + 0.6 * frame.clamp(0, 1).sqrt())))
    return (torch.cat(frames).clamp(0, 1) * 255).round().to(torch.uint8)


def gaussian_blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Separable Gaussian of deviation ``sigma`` px on N x C x H x W, borders replicated."""
    radius = max(1, int(np.ceil(2.5 * sigma)))
    k = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device) / sigma) ** 2)
    k = (k / k.sum()).float()
    c = image.shape[1]
    image = F.pad(image, (radius, radius, radius, radius), mode="replicate")
    image = F.conv2d(image, k.view(1, 1, 1, -1).expand(c, 1, 1, -1).contiguous(), groups=c)
    return F.conv2d(image, k.view(1, 1, -1, 1).expand(c, 1, -1, 1).contiguous(), groups=c)
