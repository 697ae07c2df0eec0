"""Augment a rendered stereo scene: crop, scale, and perturb the right camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from fg_depth_ros.synthesis.stereo import StereoBatch

MARGIN = 1.25
"""Factor by which rendered scenes are larger than the training images, in width and height."""
LARGEST_SHIFT = 48.0
"""Largest increase of a pair's disparities, px of the training images."""
_EXPOSURE_ATTEMPTS = 4  # until one clips few pixels
_MOST_CLIPPED = 0.1  # of the pixels of a picture
_LEAST_NOISE = 0.2  # deviation, grey levels
_SMOOTH = 2.0  # px; disparities of neighbours that differ by more belong to two surfaces


@dataclass(frozen=True)
class StereoAugmentation:
    """Random changes of a stereo pair; amounts as in OpenStereo and HSMNet.

    Args:
        width, height: size of the result, px.
        scale: largest factor between rendered and training pixels, and its inverse; stretches x and y by up to 10 %
            against each other.
        misaligned: share of pairs whose right image is shifted by up to 2 px across the rows and turned by up to
            0.1 degree.
        shifted: share of pairs whose disparities all grow by up to ``LARGEST_SHIFT``, as where the principal points
            differ and the search begins at infinity.
        unlike: share of pairs with exposure and colour of their own for each camera; others share one. Many rendered
            pairs come from unlike cameras already.
        erased: share of pairs with one or two patches of 50 to 150 px of the right image painted over.
        noise: largest deviation of the cameras' noise, grey levels, drawn on a logarithmic scale; 0: none. That of the
            rendered cameras is resampled away.
    """

    width: int
    height: int
    scale: float = 1.3
    misaligned: float = 0.25
    shifted: float = 0.3
    unlike: float = 0.2
    erased: float = 0.5
    noise: float = 3.0

    def __call__(self, scene: StereoBatch, rng: np.random.Generator) -> StereoBatch:
        """Return a pair of the size of the training images, N = 1, on the device of the scene.

        Args:
            scene: one rendered pair (N = 1), larger than the result by ``MARGIN`` or more.
            rng: source of all randomness.
        """
        device = scene.left.device
        left, right = (np.ascontiguousarray(view[0].permute(1, 2, 0).cpu().numpy()) for view in scene[:2])
        high, wide = left.shape[:2]
        least = max(self.width / wide, self.height / high)
        scale = float(np.exp(rng.uniform(np.log(max(1 / self.scale, least)), np.log(self.scale))))
        scale_x = max(scale * float(np.exp(rng.uniform(-0.1, 0.1))), least)
        x0 = rng.uniform(0, wide - self.width / scale_x)
        y0 = rng.uniform(0, high - self.height / scale)
        # Pixel centres are at whole numbers, in the scene and in the result.
        left_map = np.array([[1 / scale_x, 0.0, x0 + 0.5 / scale_x - 0.5], [0.0, 1 / scale, y0 + 0.5 / scale - 0.5]])
        right_map = left_map.copy()
        if rng.random() < self.misaligned:
            right_map[1, 2] += np.clip(rng.normal(0, 0.6), -2, 2) / scale
            right_map[1, 0] += np.tan(np.deg2rad(np.clip(rng.normal(0, 0.04), -0.1, 0.1))) / scale
        shift = rng.uniform(0, LARGEST_SHIFT) * (rng.random() < self.shifted)
        right_map[0, 2] += shift / scale_x
        size, cubic = (self.width, self.height), cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP  # linear would blur
        left = cv2.warpAffine(left, left_map, size, flags=cubic, borderMode=cv2.BORDER_REPLICATE)
        right = cv2.warpAffine(right, right_map, size, flags=cubic, borderMode=cv2.BORDER_REPLICATE)
        disparity = _read_disparity(scene.disparity[0, 0].cpu().numpy(), left_map, size)
        disparity = disparity * np.float32(scale_x) + np.float32(shift)
        occluded = _nearest(scene.occluded[0, 0].to(torch.uint8).cpu().numpy(), left_map, size)
        leaves = disparity > np.arange(self.width, dtype=np.float32)  # outside the right image once it is cut
        left, right = self._recolour(left, right, rng)
        if self.noise > 0:
            deviation = float(np.exp(rng.uniform(np.log(_LEAST_NOISE), np.log(max(self.noise, _LEAST_NOISE)))))
            left, right = (_add_noise(view, deviation, rng) for view in (left, right))
        if rng.random() < self.erased:
            self._erase(right, rng)

        def image(view: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1)))[None].to(device)

        hidden = torch.from_numpy((occluded > 0) | leaves)[None, None].to(device)
        return StereoBatch(image(left), image(right), torch.from_numpy(disparity)[None, None].to(device), hidden)

    def _recolour(self, left: np.ndarray, right: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Apply gamma, contrast, brightness and colour balance by a table per camera and channel."""

        def curve(spread: float) -> np.ndarray:
            gamma, contrast = np.exp(rng.normal(0, 0.2 * spread)), np.exp(rng.normal(0, 0.2 * spread))
            bright, tint = rng.normal(0, 0.06 * spread), np.exp(rng.normal(0, 0.06 * spread, 3))
            return np.array([gamma, contrast, bright, *np.log(tint)])

        def apply(view: np.ndarray, c: np.ndarray) -> np.ndarray:
            level = (np.arange(256) / 255)[:, None] ** c[0]
            table = ((level - 0.5) * c[1] + 0.5 + c[2]) * np.exp(c[3:])
            return cv2.LUT(view, np.clip(255 * table + 0.5, 0, 255).astype(np.uint8)[:, None, :])

        most = max(_MOST_CLIPPED, _clipped(left), _clipped(right))
        for _ in range(_EXPOSURE_ATTEMPTS):
            both = curve(1.0)
            left_curve = right_curve = both
            if rng.random() < self.unlike:
                other = curve(0.7), curve(0.7)
                left_curve, right_curve = (np.concatenate([both[:2] * o[:2], both[2:] + o[2:]]) for o in other)
            changed = apply(left, left_curve), apply(right, right_curve)
            if max(map(_clipped, changed)) <= most:
                return changed
        return left, right

    @staticmethod
    def _erase(image: np.ndarray, rng: np.random.Generator) -> None:
        """Paint one or two patches over with the mean colour, as if something stood before this camera alone."""
        colour = image.reshape(-1, 3).mean(0)
        for _ in range(int(rng.integers(1, 3))):
            width, height = rng.integers(50, 151, 2)
            x, y = rng.integers(0, image.shape[1]), rng.integers(0, image.shape[0])
            image[y : y + height, x : x + width] = colour


def _clipped(image: np.ndarray) -> float:
    """Return the share of pixels that are black or white in the green channel."""
    green = image[..., 1]
    return float(np.mean((green == 0) | (green == 255)))


def _add_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add normal noise of this deviation, grey levels, to H x W x 3 uint8; the same to all channels of a grey image."""
    grey = bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())
    noise = rng.standard_normal((*image.shape[:2], 1 if grey else 3), np.float32)
    return np.clip(image + (deviation * noise + 0.5), 0, 255).astype(np.uint8)


def _read_disparity(field: np.ndarray, affine: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Read disparities through an affine map (2 x 3): bilinear within a surface, the nearest at edges."""
    two = np.ones((2, 2), np.uint8)  # a pixel and those at its right and below
    jump = cv2.dilate(field, two, anchor=(0, 0)) - cv2.erode(field, two, anchor=(0, 0))
    first = affine - np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5]])  # the pixel at the left and above: rounded down
    smooth = _nearest((jump <= _SMOOTH).astype(np.uint8), first, size) > 0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    between = cv2.warpAffine(field, affine, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.where(smooth, between, _nearest(field, affine, size))


def _nearest(field: np.ndarray, affine: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(field, affine, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
