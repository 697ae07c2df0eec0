"""Disparity and depth in colours: look-up tables, cheap enough for a running node. Pictures are H x W x 3 uint8 RGB."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

_UNKNOWN = (0, 0, 0)  # nothing to show
_VIRIDIS = cv2.COLORMAP_VIRIDIS  # its lightness rises all along: read in grey and by the colour-blind


def colour_disparity(disparity: np.ndarray, max_disparity: float | None = None) -> np.ndarray:
    """Colour disparity H x W px in the viridis map: 0 dark violet, the largest (by default) yellow, NaN black."""
    known = np.isfinite(disparity)
    if max_disparity is None:
        max_disparity = float(np.max(disparity, where=known, initial=0.0))
    return map_colours(disparity, known, 0.0, max_disparity, colour_table())


def colour_depth(depth: np.ndarray, min_depth: float, max_depth: float) -> np.ndarray:
    """Colour depth H x W metres by its inverse like a disparity (near = yellow, far = violet). NaN is black."""
    known = np.isfinite(depth) & (depth > 0)
    inverse = 1.0 / np.where(known, depth, 1.0)
    return map_colours(inverse, known, 1.0 / max_depth, 1.0 / min_depth, colour_table())


def map_colours(values: np.ndarray, known: np.ndarray, low: float, high: float, table: np.ndarray) -> np.ndarray:
    """Colour H x W values from ``low`` (first row of ``table``, 256 x 3 uint8) to ``high``; not ``known`` is black."""
    span = max(high - low, 1e-9)
    scaled = (np.where(known, values, low) - low) * (255.0 / span)
    colours = table[np.clip(scaled, 0.0, 255.0).astype(np.uint8)]
    colours[~known] = _UNKNOWN
    return colours


@lru_cache
def colour_table(name: int = _VIRIDIS) -> np.ndarray:
    """Return a colour map of OpenCV (``cv2.COLORMAP_*``; default: of depth) as 256 x 3 uint8 RGB."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(ramp, name)[:, 0, ::-1])
