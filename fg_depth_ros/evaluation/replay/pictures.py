"""A pair in one picture: the left image, the answer, what it is compared with, and how far they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fg_depth_ros.evaluation.reports import figures
from fg_depth_ros.evaluation.reports.page import Picture, jpeg

_WIDTH = 320
_WORST_RELATIVE = 0.25  # error that is drawn brightest


def picture_of(
    title: str, left: np.ndarray, depth: np.ndarray, name: str, other: np.ndarray | None, *, is_reference: bool,
    labels: np.ndarray | None = None,
) -> Picture:  # fmt: skip
    """Left image, depth (H x W m), and, where there is one, another depth called ``name`` and the relative difference.

    ``is_reference``: the other one is what the answer is judged by: the difference is its error. ``labels``: of the
    answer's pixels (``geometry.Label``), shown where they are given.
    """
    shown = other if is_reference and other is not None else depth
    known = shown[np.isfinite(shown) & (shown > 0)]
    near, far = (float(d) for d in np.percentile(known, (2, 98))) if known.size else (1.0, 10.0)
    far = max(far, near * 1.01)
    image = left if left.ndim == 3 else np.dstack([left] * 3)
    tiles = [("left image", image), (f"answer, {near:.1f} m red to {far:.1f} m blue", _depth(depth, near, far))]
    if other is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            difference = figures.visible(np.abs(depth / other - 1).astype(np.float32))
        zero = np.where(np.isfinite(figures.visible(other)), np.float32(0), np.float32(np.nan))
        what = "error" if is_reference else "difference"
        tiles.append((name, _depth(figures.visible(other), near, far)))
        tiles.append((f"{what} (bright: 25 % or more)", figures.colour_error(difference, zero, _WORST_RELATIVE)))
    if labels is not None:
        tiles.append(("white: trusted; else the reason", figures.colour_labels(labels)))
    small = [figures.resized(tile, _WIDTH, smooth=index == 0) for index, (_, tile) in enumerate(tiles)]
    return Picture(title, tuple((text, jpeg(tile)) for (text, _), tile in zip(tiles, small, strict=True)))


def _depth(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    return figures.colour_depth(depth, near, far)


@dataclass(frozen=True)
class Worst:
    """A pair that a method answers badly, with its picture.

    ``error``: whether it was judged by a reference, and the measure; the larger is the worse.
    """

    label: str
    error: tuple[bool, float]
    picture: Picture


def worst_of(found: Sequence[Worst], count: int) -> list[Worst]:
    """Of each method the ``count`` worst, the worst first, methods in the order in which they come first."""
    labels = dict.fromkeys(worst.label for worst in found)
    ranked = sorted(found, key=lambda worst: worst.error, reverse=True)
    return [worst for label in labels for worst in [w for w in ranked if w.label == label][:count]]
