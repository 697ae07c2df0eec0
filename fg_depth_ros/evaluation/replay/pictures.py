"""Pictures of pairs: the left image, an estimate, what it is compared with, and how far they differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.evaluation.reports.page import Picture, jpeg
from fg_depth_ros.geometry.depth_colour import colour_depth

_WIDTH = 320


def picture_of(
    title: str, left: np.ndarray, depth: np.ndarray, name: str, other: np.ndarray | None, *, is_reference: bool,
    labels: np.ndarray | None = None,
) -> Picture:  # fmt: skip
    """Draw a pair.

    ``left``: uint8, RGB or grey. ``depth``: the estimate, H x W m. ``other``: another depth, called ``name``, drawn
    with the relative difference, which is an error where ``is_reference``. ``labels``: of the estimate's pixels
    (``geometry.Label``).
    """
    near, far = visualization.depth_range(other if is_reference and other is not None else depth)
    image = left if left.ndim == 3 else np.dstack([left] * 3)
    prediction = colour_depth(depth, near, far)
    tiles = [("left image", image), (f"prediction, {near:.1f} m yellow to {far:.1f} m violet", prediction)]
    if other is not None:
        what = "error" if is_reference else "difference"
        tiles.append((name, colour_depth(visualization.visible(other), near, far)))
        tiles.append((f"{what} (bright: 25 % or more)", visualization.colour_relative_error(depth, other)))
    if labels is not None:
        tiles.append(("white: trusted; else the reason", visualization.colour_labels(labels)))
    small = [visualization.resized(tile, _WIDTH, smooth=index == 0) for index, (_, tile) in enumerate(tiles)]
    return Picture(title, tuple((text, jpeg(tile)) for (text, _), tile in zip(tiles, small, strict=True)))


class WorstPairs:
    """Pictures of the pairs with the largest errors, for each method at most ``count``."""

    def __init__(self, count: int) -> None:
        self._count = count
        # Method, error (whether it is one by a reference, and its measure), picture.
        self._found: list[tuple[str, tuple[bool, float], Picture]] = []

    def add(
        self, method: str, title: str, measures: Mapping[str, float], left: np.ndarray | None, depth: np.ndarray,
        name: str, other: np.ndarray | None, labels: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Draw a pair if it is among the worst of its method so far and its left image is there.

        Its error, which is added to the title, is ``abs_rel`` of its measures, or without it ``photometric``. The other
        arguments as ``picture_of`` takes them.
        """
        what = "abs_rel" if "abs_rel" in measures else "photometric"
        error = (what == "abs_rel", measures.get(what, float("nan")))
        errors = [known for label, known, _ in self._found if label == method]
        full = len(errors) >= self._count and error <= min(errors, default=error)
        if left is None or not np.isfinite(error[1]) or full:
            return
        title = f"{title}: {what} {error[1]:.3g}"
        picture = picture_of(title, left, depth, name, other, is_reference=error[0], labels=labels)
        self._found.append((method, error, picture))
        self._keep_worst()

    def include(self, other: WorstPairs) -> None:
        """Add what another object found."""
        self._found += other._found
        self._keep_worst()

    @property
    def pictures(self) -> list[Picture]:
        """The worst of each method first, methods in the order of their first pair."""
        return [picture for _, _, picture in self._found]

    def _keep_worst(self) -> None:
        ranked = sorted(self._found, key=lambda found: found[1], reverse=True)
        methods = dict.fromkeys(method for method, _, _ in self._found)
        self._found = [one for method in methods for one in [f for f in ranked if f[0] == method][: self._count]]
