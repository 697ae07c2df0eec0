"""The wall paper of synthetic scenes: photos and procedural patterns in one mip-mapped atlas.

An atlas is a flat table of RGB texels, all images and all their mip levels one after another, so that one
gather per tap textures a whole frame whatever surfaces are visible in it, on the CPU as on the GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from fg_depth_ros.data.io.formats import read_image
from fg_depth_ros.files import FileError

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def list_photos(folders: Sequence[str | Path]) -> list[Path]:
    """List all photo files below the folders; see ``list_pictures``."""
    return list_pictures(folders, PHOTO_SUFFIXES, "photo")


def list_pictures(folders: Sequence[str | Path], suffixes: Collection[str], kind: str) -> list[Path]:
    """List files with these suffixes below the folders, sorted, each once. Raises FileError, naming ``kind``: none."""
    pictures: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise FileError(f"{kind} folder {folder} does not exist; name an existing folder of pictures")
        pictures += sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes)
    if folders and not pictures:
        names = ", ".join(map(str, folders))
        raise FileError(f"no {kind} ({', '.join(sorted(suffixes))}) below {names}")
    return list(dict.fromkeys(pictures))


class TextureAtlas:
    """Square RGB images with their mip pyramids.

    ``texels``: M x 3 uint8, the images' levels one after the other (image-major, finest level first); ``count``:
    number of images; ``size``: side of the finest level, px (a power of two); ``levels``: number of mip levels.
    """

    def __init__(self, images: Sequence[np.ndarray], size: int = 512, levels: int = 6) -> None:
        """Build the pyramids of S x S x 3 uint8 images."""
        self.size, self.levels, self.count = size, levels, len(images)
        sides = [size >> level for level in range(levels)]
        self.stride = sum(side * side for side in sides)
        self.offsets = torch.tensor([sum(s * s for s in sides[:i]) for i in range(levels)])
        flat = np.empty((self.count * self.stride, 3), np.uint8)
        at = 0
        for image in images:
            for side in sides:
                level = image if side == size else cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
                flat[at : at + side * side] = level.reshape(-1, 3)
                at += side * side
        self.texels = torch.from_numpy(flat)

    @classmethod
    def build(cls, photos: Sequence[Path], patterns: int = 160, size: int = 512, seed: int = 0) -> TextureAtlas:
        """Build an atlas of photos (square crops) and ``patterns`` procedural images, deterministic by ``seed``.

        Raises FileError: a photo that cannot be read. Raises ValueError: neither photos nor patterns.
        """
        if not photos and patterns < 1:
            raise ValueError(f"no picture for the surfaces: give photos or at least one pattern, got {patterns}")
        rng = np.random.default_rng(seed)
        images = [_square(read_image(path), size) for path in photos]
        images += [procedural_texture(rng, size) for _ in range(patterns)]
        return cls(images, size)

    def to(self, device: torch.device | str) -> TextureAtlas:
        """Move the texels to ``device``; returns this atlas."""
        if self.texels.device != torch.device(device):
            self.texels, self.offsets = self.texels.to(device), self.offsets.to(device)
        return self

    def sample(self, image: torch.Tensor, u: torch.Tensor, v: torch.Tensor, footprint: torch.Tensor) -> torch.Tensor:
        """Look up texels, bilinear with mirrored borders, at points of any shape S; S x 3 float32 in 0..255.

        ``image``: index of the image, S int64. ``u``, ``v``: texel coordinates on the finest level, S float.
        ``footprint``: finest texels per image pixel, S float; chooses the mip level.
        """
        level = footprint.clamp(min=1).log2().round().long().clamp(max=self.levels - 1)
        scale = torch.pow(2.0, -level.to(u.dtype))
        side = torch.bitwise_right_shift(torch.full_like(level, self.size), level)
        base = image * self.stride + self.offsets[level]
        x, y = (_mirror((c + 0.5) * scale - 0.5, side) for c in (u, v))
        x0, y0 = x.floor().long(), y.floor().long()
        wx, wy = (x - x0).unsqueeze(-1), (y - y0).unsqueeze(-1)
        x1, y1 = torch.minimum(x0 + 1, side - 1), torch.minimum(y0 + 1, side - 1)
        row0, row1 = base + y0 * side, base + y1 * side
        t00, t01 = self._take(row0 + x0), self._take(row0 + x1)
        t10, t11 = self._take(row1 + x0), self._take(row1 + x1)
        top = t00 + (t01 - t00) * wx
        return top + (t10 + (t11 - t10) * wx - top) * wy

    def _take(self, index: torch.Tensor) -> torch.Tensor:
        return self.texels[index.reshape(-1)].view(*index.shape, 3).float()


def _mirror(c: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
    """Fold a coordinate into [0, side - 1] by reflection at the borders."""
    last = (side - 1).to(c.dtype)
    return last - (c.remainder(2 * last) - last).abs()


def _square(image: np.ndarray, size: int) -> np.ndarray:
    side = min(image.shape[:2])
    y, x = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    method = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    return cv2.resize(image[y : y + side, x : x + side], (size, size), interpolation=method)


def fractal_noise(rng: np.random.Generator, size: int, slope: float) -> np.ndarray:
    """Gaussian noise with amplitude spectrum 1/f^slope, S x S float32 of zero mean and unit deviation."""
    f = np.fft.rfftfreq(size)[None, :] ** 2 + np.fft.fftfreq(size)[:, None] ** 2
    f[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * f ** (-slope / 2)
    noise = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def procedural_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw one random pattern, S x S x 3 uint8: noise, checks, stripes, dots, bricks, or scribbles."""
    ramp = fractal_noise(rng, size, rng.uniform(0.0, 1.6))
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    period = float(np.exp(rng.uniform(np.log(6), np.log(90))))
    angle = rng.uniform(0, np.pi) if rng.random() < 0.5 else 0.0
    p = (xx * np.cos(angle) + yy * np.sin(angle)) / period
    q = (yy * np.cos(angle) - xx * np.sin(angle)) / (period * rng.uniform(0.4, 1.0))
    kind = rng.choice(["noise", "colour_noise", "checks", "stripes", "dots", "bricks", "scribbles", "cells"])
    mix = rng.uniform(0.0, 0.35)
    if kind == "checks":
        field = np.sign(np.sin(2 * np.pi * p) * np.sin(2 * np.pi * q)) + mix * ramp
    elif kind == "stripes":
        field = np.clip(np.sin(2 * np.pi * p) * rng.uniform(1, 8), -1, 1) + mix * ramp
    elif kind == "dots":
        field = (((p % 1) - 0.5) ** 2 + ((q % 1) - 0.5) ** 2 < rng.uniform(0.02, 0.15)) * 2.0 - 1 + mix * ramp
    elif kind == "bricks":
        shifted = p + 0.5 * (np.floor(q) % 2)
        mortar = ((shifted % 1) < 0.08) | ((q % 1) < 0.16)
        tone = rng.uniform(-1, 1, 997)[(np.floor(shifted) * 31 + np.floor(q) * 17).astype(int) % 997]
        field = np.where(mortar, 1.5, 0.6 * tone) + mix * ramp
    elif kind == "scribbles":
        canvas = np.zeros((size, size), np.uint8)
        for _ in range(int(rng.integers(40, 400))):
            a, b = rng.integers(0, size, 2), rng.integers(-40, 40, 2)
            cv2.line(canvas, tuple(map(int, a)), tuple(map(int, a + b)), int(rng.integers(60, 255)),
                     int(rng.integers(1, 4)), cv2.LINE_AA)  # fmt: skip
        field = canvas.astype(np.float32) / 90 - 1 + mix * ramp
    elif kind == "cells":
        field = np.round(ramp * rng.uniform(0.8, 3)) / 2
    else:  # noise, grey or coloured below
        field = ramp
    base, tint = rng.uniform(40, 215, 3), rng.uniform(-1, 1, 3)
    tint = tint / np.abs(tint).max() if rng.random() < 0.4 else np.ones(3)
    rgb = base + field[..., None] * tint * rng.uniform(15, 70)
    if kind == "colour_noise":
        rgb += np.stack([fractal_noise(rng, size, rng.uniform(0.3, 1.5)) for _ in range(3)], -1) * 40
    return np.clip(rgb, 0, 255).astype(np.uint8)
