"""Augmentation of a pair of frames with known flow: moved, turned, scaled, deformed, recoloured, noisy, partly covered.

The kinds and ranges are those of FlowNet (Dosovitskiy et al. 2015, section 4.2 "data augmentation"). The paper does not
say how much smaller the transform between the two frames is; the deviations used here (3 % of the width, 0.03 rad, 3 %
of scale, 2 % of colour, contrast, gamma and brightness) are those of the public training definitions of FlowNet. At
that strength hardly a pixel moves by less than 5 px; ``weakest`` and ``deformation`` add what they leave out.

Every sample's transform is a function of (seed, number of the sample) alone, whatever batch and process it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch

from fg_depth_ros.networks.flow import pixel_grid, sample_bilinear
from fg_depth_ros.synthesis.chairs import FlowBatch
from fg_depth_ros.training.flow.config import FlowAugmentation

_TRIES = 20
_ITERATIONS = 4  # of the inverse of a deformation; each leaves a quarter of the error at most
_SMOOTH = 1.0  # px; flow that differs by more between neighbours is an edge, and what lies between is no motion
_KNOT_SPACING = (48.0, 192.0)  # px; of a deformation
_STREAM = 11  # second word of the seeds, so that a sample's scene and its transform are drawn apart


class AugmentedFlowBatch(NamedTuple):
    """A batch that a flow network is trained on.

    ``first``/``second`` N x 3 x H x W float32 RGB in [0, 1], ``flow`` N x 2 x H x W float32 px (0 where unknown),
    ``valid`` and ``occluded`` N x 1 x H x W bool as in ``FlowBatch``.
    """

    first: torch.Tensor
    second: torch.Tensor
    flow: torch.Tensor
    valid: torch.Tensor
    occluded: torch.Tensor


class Augmenter:
    """Draws a transform for every sample and applies it, on whatever device the batch lies."""

    def __init__(self, augmentation: FlowAugmentation, width: int, height: int, seed: int = 0) -> None:
        """``width``, ``height``: of what comes out, px; ``seed``: of the run."""
        self.augmentation, self.width, self.height, self.seed = augmentation, width, height, seed

    def __call__(self, batch: FlowBatch, numbers: Sequence[int]) -> AugmentedFlowBatch:
        """Transform the samples with these numbers. Raises ValueError: pictures smaller than what is to come out."""
        source_height, source_width = batch.first.shape[-2:]
        if source_width < self.width or source_height < self.height:
            raise ValueError(
                f"pictures of {source_width}x{source_height} are smaller than {self.width}x{self.height}, which are to "
                "be cut out of them"
            )
        size = (self.height, self.width)
        first, second, colours, covers, exposures, deformations = [], [], [], [], [], []
        for number in numbers:
            rng = np.random.default_rng([self.seed, _STREAM, number])
            kind = self.augmentation
            if kind.weakest < 1:
                kind = replace(kind, relative=kind.relative * float(np.exp(rng.uniform(np.log(kind.weakest), 0))))
            windows = _draw_windows(rng, kind, (self.width, self.height), (source_width, source_height))
            first.append(windows[0])
            second.append(windows[1])
            colours.append(_draw_colours(rng, kind))
            covers.append(_draw_covers(rng, kind, self.width, self.height))
            exposures.append(float(rng.uniform(0, 0.5)) if rng.random() < kind.blur else 0.0)
            deformations.append(_draw_deformation(rng, kind.deformation, size) if kind.deformation else None)
        pairs = transform(batch, np.stack(first), np.stack(second), size, deformations)
        if any(exposures):
            pairs = blur(pairs, exposures)
        images = [
            self._expose(image, [c[view] for c in colours], numbers, view) for view, image in enumerate(pairs[:2])
        ]
        pairs = pairs._replace(first=images[0], second=images[1])
        return cover(pairs, covers) if self.augmentation.erase else pairs

    def _expose(
        self, image: torch.Tensor, colours: Sequence[_Colours], numbers: Sequence[int], view: int
    ) -> torch.Tensor:
        """Recolour frames N x 3 x H x W and add noise, which is drawn on their device."""

        def per_sample(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, device=image.device, dtype=torch.float32).view(len(values), -1, 1, 1)

        gains = torch.tensor(np.stack([c.gains for c in colours]), device=image.device, dtype=torch.float32)
        image = (image * gains[:, :, None, None]) ** per_sample([c.gamma for c in colours])
        image = image + per_sample([c.brightness for c in colours])
        image = 0.5 + (image - 0.5) * per_sample([c.contrast for c in colours])
        if self.augmentation.noise:
            noise = torch.empty_like(image)
            for i, number in enumerate(numbers):
                words = np.random.SeedSequence([self.seed, _STREAM, number, view]).generate_state(1, np.uint64)
                generator = torch.Generator(image.device).manual_seed(int(words[0]) & 0x7FFF_FFFF_FFFF_FFFF)
                noise[i].normal_(generator=generator)
            image = image + noise * per_sample([c.noise for c in colours])
        return image.clamp(0, 1)


def transform(
    batch: FlowBatch, first: np.ndarray, second: np.ndarray, size: tuple[int, int],
    deformations: Sequence[np.ndarray | None] = (),
) -> AugmentedFlowBatch:  # fmt: skip
    """See both frames through other windows, ``size`` (height, width) px large.

    With ``A`` and ``B`` the windows of first and second frame (``first``, ``second``: N x 3 x 3 affine maps from pixels
    (x, y, 1) of the new frame to pixels of the old one), the new frames are ``first'(p) = first(A p)`` and
    ``second'(q) = second(B q)``; a match ``x <-> x + f(x)`` becomes ``p <-> q`` with ``x = A p`` and
    ``q = B^-1 (x + f(x))``, hence ``f'(p) = B^-1 (A p + f(A p)) - p``.

    ``deformations``: g of each second frame, 2 x H x W px of the new frame, or None. With it
    ``second'(q) = second(B (q + g(q)))``, and ``q = r - g(q)`` with r the match without it. That is iterated: from one
    pixel to the next g changes by less than a third of a pixel.

    Between pixels the flow is interpolated where the four around agree within 1 px, and taken from the nearest one
    elsewhere: a mixture of two motions would be neither. Frames come with the border continued; ``valid`` is False
    outside the old first frame; ``occluded`` also where the match has left the new second frame or the old one.
    """
    height, width = size
    device = batch.first.device
    a = torch.as_tensor(first, dtype=torch.float32, device=device)
    b = torch.as_tensor(second, dtype=torch.float32, device=device)
    back = torch.as_tensor(np.linalg.inv(second), dtype=torch.float32, device=device)
    here = torch.stack(pixel_grid(height, width, device)).expand(len(a), -1, -1, -1)
    places = _apply(a, here)
    flow, valid, occluded = _read_truth(batch, places)
    matches = places + flow
    moved, seen = _apply(back, matches), here
    if any(field is not None for field in deformations):
        none = np.zeros((2, height, width), np.float32)
        fields = torch.from_numpy(np.stack([none if field is None else field for field in deformations])).to(device)
        seen, straight = here + fields, moved
        for _ in range(_ITERATIONS):
            moved = straight - sample_bilinear(fields, moved)
    inside = _inside(places, batch.first.shape[-2:])
    hidden = occluded | ~_inside(moved, size) | ~_inside(matches, batch.first.shape[-2:])
    valid = valid & inside
    return AugmentedFlowBatch(
        sample_bilinear(batch.first.float(), places) / 255,
        sample_bilinear(batch.second.float(), _apply(b, seen)) / 255,
        torch.where(valid, moved - here, torch.zeros_like(flow)),
        valid,
        hidden & valid,
    )


def blur(pairs: AugmentedFlowBatch, exposures: Sequence[float]) -> AugmentedFlowBatch:
    """Blur both frames along the flow, as exposures of these parts of the time between them do.

    The mean of 7 places along the way; the second frame is blurred by the flow at the same pixel, which is right inside
    a surface and not at its edge, where the mixture of the two is arbitrary anyway.
    """
    height, width = pairs.first.shape[-2:]
    here = torch.stack(pixel_grid(height, width, pairs.flow.device))
    way = pairs.flow * torch.tensor(exposures, device=pairs.flow.device, dtype=torch.float32).view(-1, 1, 1, 1)
    frames = []
    for frame in pairs[:2]:
        places = [sample_bilinear(frame, here + part * way) for part in np.linspace(-0.5, 0.5, 7).tolist()]
        frames.append(torch.stack(places).mean(0))
    return pairs._replace(first=frames[0], second=frames[1])


def cover(pairs: AugmentedFlowBatch, patches: Sequence[Sequence[tuple[int, int, int, int]]]) -> AugmentedFlowBatch:
    """Cover patches of the second frames with their mean colour; what matches there counts as occluded.

    ``patches``: of every sample, (x, y, width, height) px, inside the frame.
    """
    second, occluded = pairs.second.clone(), pairs.occluded.clone()
    height, width = second.shape[-2:]
    ys = torch.arange(height, device=second.device).view(height, 1)
    xs = torch.arange(width, device=second.device).view(1, width)
    for i, boxes in enumerate(patches):
        mean = pairs.second[i].mean((1, 2)).view(3, 1, 1)
        for x, y, across, down in boxes:
            second[i, :, y : y + down, x : x + across] = mean
            match_x, match_y = (xs + pairs.flow[i, 0]).round(), (ys + pairs.flow[i, 1]).round()
            under = (match_x >= x) & (match_x < x + across) & (match_y >= y) & (match_y < y + down)
            occluded[i, 0] |= under & pairs.valid[i, 0]
    return pairs._replace(second=second, occluded=occluded)


class _Colours(NamedTuple):
    """Colour change of one frame."""

    gains: np.ndarray
    gamma: float
    brightness: float
    contrast: float
    noise: float


def _draw_windows(
    rng: np.random.Generator, kind: FlowAugmentation, size: tuple[int, int], source: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw windows of both frames, 3 x 3 each, new pixels to old ones; both inside the picture."""
    mirror = -1.0 if rng.random() < kind.mirror else 1.0
    width = source[0]
    for _ in range(_TRIES):
        scale, angle = rng.uniform(*kind.scale), np.radians(rng.uniform(-kind.rotation, kind.rotation))
        room = _room(scale, angle, size, source)
        if min(room) >= 0:
            break
    else:  # nothing that turns or shrinks has room
        scale, angle = 1.0, 0.0
        room = _room(scale, angle, size, source)
    limit = [min(kind.translation * width, r) for r in room]
    shift = rng.uniform(-1, 1, 2) * limit
    first = _window(scale, angle, shift, mirror, size, source)
    for _ in range(_TRIES if kind.relative else 0):
        deviations = 0.03 * kind.relative * rng.normal(size=4)
        other_scale, other_angle = scale * np.exp(deviations[0]), angle + deviations[1]
        other_shift = shift + deviations[2:] * width
        room = _room(other_scale, other_angle, size, source)
        if abs(other_shift[0]) <= room[0] and abs(other_shift[1]) <= room[1]:
            return first, _window(other_scale, other_angle, other_shift, mirror, size, source)
    return first, first


def _room(scale: float, angle: float, size: tuple[int, int], source: tuple[int, int]) -> tuple[float, float]:
    """Return how far the window can move along x and y inside the picture, px; negative: it is too large."""
    across, down = (size[0] - 1) / scale, (size[1] - 1) / scale
    c, s = abs(np.cos(angle)), abs(np.sin(angle))
    return (source[0] - 1 - across * c - down * s) / 2, (source[1] - 1 - across * s - down * c) / 2


def _window(
    scale: float, angle: float, shift: np.ndarray, mirror: float, size: tuple[int, int], source: tuple[int, int]
) -> np.ndarray:
    """Map from the new frame to the old one: about the middles, scaled by 1 / scale, turned, shifted."""
    c, s = np.cos(angle) / scale, np.sin(angle) / scale
    linear = np.array([[c, -s], [s, c]]) @ np.diag([mirror, 1.0])
    new_middle, old_middle = (np.array(size) - 1) / 2, (np.array(source) - 1) / 2
    if scale == 1.0 and angle == 0.0 and not np.any(shift):
        old_middle = new_middle + np.floor(old_middle - new_middle)  # whole pixels: nothing is interpolated
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = old_middle + shift - linear @ new_middle
    return matrix


def _draw_colours(rng: np.random.Generator, kind: FlowAugmentation) -> tuple[_Colours, _Colours]:
    """Draw the colours of both frames: the same, but for a small difference."""
    (least, most), (flat, steep) = np.log(kind.colour), np.log(kind.gamma)
    gains = np.exp(rng.uniform(least, most, 3))
    gamma, contrast = np.exp(rng.uniform(flat, steep)), np.exp(rng.uniform(*kind.contrast))
    brightness, noise = rng.normal(0, kind.brightness), rng.uniform(0, kind.noise)
    differ = 0.02 * kind.relative * rng.normal(size=6)
    first = _Colours(gains, float(gamma), brightness, float(contrast), noise)
    gamma, contrast = gamma * np.exp(differ[3]), contrast * np.exp(differ[5])
    return first, _Colours(gains * np.exp(differ[:3]), float(gamma), brightness + differ[4], float(contrast), noise)


def _draw_deformation(rng: np.random.Generator, largest: float, size: tuple[int, int]) -> np.ndarray | None:
    """Draw a smooth field 2 x H x W px between knots 48 to 192 px apart, or None; its amplitude is log-uniform."""
    if rng.random() < 0.5:
        return None
    amplitude = largest * float(np.exp(rng.uniform(np.log(0.02), 0)))
    spacing = float(np.exp(rng.uniform(*np.log(_KNOT_SPACING))))
    knots = [max(2, round(side / spacing) + 1) for side in size]
    values = amplitude * rng.uniform(-1, 1, (*knots, 2)).astype(np.float32)
    field = cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(field.transpose(2, 0, 1))


def _draw_covers(
    rng: np.random.Generator, kind: FlowAugmentation, width: int, height: int
) -> list[tuple[int, int, int, int]]:
    """Draw patches (x, y, width, height): sides between 1/16 and 1/4 of the frame's height."""
    if rng.random() >= kind.erase:
        return []
    patches = []
    for _ in range(int(rng.integers(1, 4))):
        across, down = (max(1, int(rng.uniform(1 / 16, 1 / 4) * height)) for _ in range(2))
        across = min(across, width)
        patches.append(
            (int(rng.integers(0, width - across + 1)), int(rng.integers(0, height - down + 1)), across, down)
        )
    return patches


def _apply(matrix: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Apply N x 3 x 3 affine maps to points N x 2 x H x W."""
    linear, shift = matrix[:, :2, :2], matrix[:, :2, 2]
    return torch.einsum("nij,njhw->nihw", linear, points) + shift[:, :, None, None]


def _inside(points: torch.Tensor, size: tuple[int, int] | torch.Size) -> torch.Tensor:
    """Return N x 1 x H x W bool: within half a pixel of the picture's pixels."""
    x, y = points[:, :1], points[:, 1:]
    return (x >= -0.5) & (x <= size[1] - 0.5) & (y >= -0.5) & (y <= size[0] - 0.5)


def _gather(field: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Read N x C x H x W at whole pixels N x 2 x h x w (x, y), clamped to the picture."""
    n, c, h, w = field.shape
    index = at[:, 1].clamp(0, h - 1) * w + at[:, 0].clamp(0, w - 1)
    flat = index.view(n, 1, -1).expand(-1, c, -1)
    return field.flatten(2).gather(2, flat).view(n, c, *at.shape[-2:])


def _read_truth(batch: FlowBatch, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return flow, validity and occlusion at N x 2 x h x w px; flow is interpolated only where smooth."""
    known = torch.where(batch.valid, batch.flow, torch.zeros_like(batch.flow))
    truth = torch.cat([known, batch.valid.to(known.dtype), batch.occluded.to(known.dtype)], 1)
    nearest = _gather(truth, places.round().long())
    # A pixel and those at its right and below: what lies between them is smooth. The last ones have no such partners.
    right, below = truth[:, :3].roll(-1, 3), truth[:, :3].roll(-1, 2)
    around = torch.stack([truth[:, :3], right, below, right.roll(-1, 2)])
    high, low = around.amax(0), around.amin(0)
    smooth = (low[:, 2:] > 0) & ((high - low)[:, :2].amax(1, keepdim=True) <= _SMOOTH)
    smooth[..., -1, :] = False
    smooth[..., :, -1] = False
    between = _gather(smooth, places.floor().long())
    flow = torch.where(between, sample_bilinear(known, places), nearest[:, :2])
    return flow, nearest[:, 2:3] > 0.5, nearest[:, 3:] > 0.5
