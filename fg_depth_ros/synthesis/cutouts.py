"""Cut-outs with alpha: photos of things, and outlines drawn by chance, in one mip-mapped atlas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from fg_depth_ros.data.io.formats import read_rgba
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry.resize import resize_image
from fg_depth_ros.synthesis.outlines import draw_outline
from fg_depth_ros.synthesis.textures import TextureAtlas, list_pictures

CUTOUT_SUFFIXES = {".png", ".tif", ".tiff", ".webp"}
_REACH = 0.94  # of the square's side that a cut-out fills with its longer side
_SEEN = 32  # alpha from which a texel's own colour is trusted


def list_cutouts(folders: Sequence[str | Path]) -> list[Path]:
    """List all files below the folders that can hold a picture with alpha; see ``list_pictures``."""
    return list_pictures(folders, CUTOUT_SUFFIXES, "cut-out")


class CutoutAtlas:
    """Square masks, the first of them with colours of their own.

    ``masks``: M uint8, all mip levels one after the other (mask-major, finest first), 255 = opaque. ``colours``: RGB
    of the photo cut-outs, mask ``i`` belongs to image ``i``; they continue beyond the mask's edge, so that no foreign
    colour bleeds in. ``count``: number of masks; ``photos``: of photo cut-outs, which come first. The others as of
    ``TextureAtlas``.
    """

    def __init__(self, photos: Sequence[np.ndarray], outlines: Sequence[np.ndarray], levels: int = 6) -> None:
        """Build from S x S x 4 cut-outs and S x S masks, uint8, S a power of two.

        Raises ValueError: other sides, none.
        """
        sides = {image.shape[:2] for image in [*photos, *outlines]}
        if len(sides) != 1 or (size := next(iter(sides))[0]) & (size - 1):
            raise ValueError(f"cut-outs and outlines must be squares of one side, a power of two; got {sorted(sides)}")
        self.colours = TextureAtlas([image[:, :, :3] for image in photos], size, levels)
        self.size, self.levels, self.stride = size, levels, self.colours.stride
        self.offsets = self.colours.offsets.tolist()
        self.photos, self.count = len(photos), len(photos) + len(outlines)
        flat = np.empty((self.count, self.stride), np.uint8)
        for row, mask in zip(flat, [*(image[:, :, 3] for image in photos), *outlines], strict=True):
            for level, offset in enumerate(self.offsets):
                side = size >> level
                small = mask if level == 0 else cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
                row[offset : offset + side * side] = small.reshape(-1)
        self.masks = torch.from_numpy(flat.reshape(-1))

    @classmethod
    def build(cls, photos: Sequence[Path] = (), outlines: int = 256, size: int = 256, seed: int = 0) -> CutoutAtlas:
        """Build it of photo cut-outs and drawn ``outlines``, by ``seed``. Raises FileError: a file without alpha."""
        rng = np.random.default_rng(seed)
        return cls([_squared(path, size) for path in photos], [draw_outline(rng, size) for _ in range(outlines)])

    def to(self, device: torch.device | str) -> CutoutAtlas:
        """Move the texels to ``device``; returns this atlas."""
        if self.masks.device != torch.device(device):
            self.masks, self.colours = self.masks.to(device), self.colours.to(device)
        return self


def _squared(path: Path, size: int) -> np.ndarray:
    """Read a cut-out into the middle of a square, S x S x 4 uint8, its colours continued beyond its edge."""
    image = read_rgba(path)
    x, y, w, h = cv2.boundingRect((image[:, :, 3] >= _SEEN).astype(np.uint8))
    if w < 2 or h < 2:
        raise FileError(f"{path}: is transparent everywhere, so there is nothing to cut out; remove it")
    image = image[y : y + h, x : x + w]
    image = np.dstack([spread_colours(image[:, :, :3], image[:, :, 3] < _SEEN), image[:, :, 3]])
    scale = size * _REACH / max(w, h)
    w, h = max(2, round(w * scale)), max(2, round(h * scale))
    image = resize_image(image, w, h)
    left, top = (size - w) // 2, (size - h) // 2
    square = cv2.copyMakeBorder(image, top, size - h - top, left, size - w - left, cv2.BORDER_REPLICATE)
    inside = np.zeros((size, size), bool)
    inside[top : top + h, left : left + w] = True
    square[~inside, 3] = 0
    return square


def spread_colours(rgb: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Give every hidden texel (bool) of S x S x 3 the colour of the nearest other one: its own is arbitrary."""
    _, labels = cv2.distanceTransformWithLabels(hidden.astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    colour_of = np.zeros((labels.max() + 1, 3), np.uint8)
    colour_of[labels[~hidden]] = rgb[~hidden]
    return colour_of[labels]
