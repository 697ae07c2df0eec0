"""The demo's picture: the pair, the outputs received over topics, and their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fg_depth_ros.evaluation.reports import visualization
from fg_depth_ros.evaluation.reports.plots import plain
from fg_depth_ros.files import atomic_write
from fg_depth_ros.geometry import Label, depth_to_disparity, organised_points, warp_right_to_left
from fg_depth_ros.geometry.depth_colour import colour_depth, colour_disparity
from fg_depth_ros.nodes.evaluator.pair_messages import Snapshot

MAX_ERROR = 4.0  # px, where the error's colours end
MAX_DIFFERENCE = 40.0  # grey levels of 255, likewise
_INK = "#1f2933"


def draw_demo(path: Path, snapshots: Mapping[str, Snapshot], lines: Sequence[str], *, title: str) -> Path:
    """Write the sheet as PNG; ``path``, whose folder is made, is returned.

    ``snapshots``: one pair as each method answered it, the first method is shown in full. ``lines`` stand at the foot.
    """
    (name, first), *others = snapshots.items()
    reference = first.disparity if first.truth is None else depth_to_disparity(first.truth, first.rig)
    known = reference[np.isfinite(reference)]
    top = float(np.ceil(np.quantile(known, 0.995))) if known.size else 1.0

    sheet = _Sheet(first.rig.height / first.rig.width, rows=3 if others else 2, foot=len(lines))
    sheet.write(title, lines)

    def disparity(axes: Axes, method: str, shot: Snapshot) -> None:
        colours = colour_disparity(shot.disparity, top)
        _picture(axes, colours, f"{method}: disparity")
        _colour_bar(axes, "viridis", Normalize(0, top), "px")
        holes = ~np.isfinite(shot.disparity)
        if holes.any():
            _legend(axes, {"no prediction": colours[holes][0]})

    _picture(sheet.panel(0, 0), first.left, f"left image of {first.name}, {first.rig.width} x {first.rig.height} px")
    disparity(sheet.panel(0, 1), name, first)
    if others:  # what goes in and comes out on the left, then a column per method
        _depth(sheet.panel(1, 0), first, name)
        _cloud(sheet.panel(2, 0), first, name)
        disparity(sheet.panel(0, 2), *others[0])
        for column, (method, shot) in enumerate(((name, first), others[0]), start=1):
            _error(sheet.panel(1, column), shot, method)
            _labels(sheet.panel(2, column), shot, method)
    else:
        _depth(sheet.panel(0, 2), first, name)
        _error(sheet.panel(1, 0), first, name)
        _labels(sheet.panel(1, 1), first, name)
        _cloud(sheet.panel(1, 2), first, name)
    with atomic_write(path) as unfinished:
        sheet.figure.savefig(unfinished, format="png")
    return path


class _Sheet:
    """Panels of the image's shape on a grid, placed in inches so that nothing depends on the shape."""

    PANEL, GAP_X, GAP_Y, EDGE, HEAD, LINE = 4.9, 0.75, 0.62, 0.3, 0.95, 0.25

    def __init__(self, shape: float, rows: int, foot: int) -> None:
        self._tall = float(np.clip(self.PANEL * shape, 1.2, 7.5))
        self._width = 2 * self.EDGE + 3 * self.PANEL + 3 * self.GAP_X - 0.2
        self._height = self.HEAD + rows * self._tall + (rows - 1) * self.GAP_Y + 0.6 + self.LINE * foot
        self.figure = Figure(figsize=(self._width, self._height), dpi=110, facecolor="white")
        FigureCanvasAgg(self.figure)

    def panel(self, row: int, column: int) -> Axes:
        """Add axes at this place of the grid."""
        left = self.EDGE + column * (self.PANEL + self.GAP_X)
        bottom = self._height - self.HEAD - (row + 1) * self._tall - row * self.GAP_Y
        width, height = self.PANEL / self._width, self._tall / self._height
        return self.figure.add_axes((left / self._width, bottom / self._height, width, height))

    def write(self, title: str, lines: Sequence[str]) -> None:
        """Write the heading, and the lines at the foot."""
        x = self.EDGE / self._width
        self.figure.text(
            x, 1 - 0.36 / self._height, plain(title), fontsize=18, fontweight="bold", color=_INK, va="center"
        )
        for index, line in enumerate(reversed(lines)):
            y = (0.22 + index * self.LINE) / self._height
            self.figure.text(x, y, plain(line), fontsize=11.5, color=_INK, family="monospace", va="center")


def _picture(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, interpolation="antialiased", aspect="auto")
    axes.set_title(plain(title), fontsize=12, color=_INK, loc="left", pad=5)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor("#d5dae0")


def _colour_bar(axes: Axes, colours: str, norm: Normalize, unit: str, ticks: Sequence[float] | None = None) -> None:
    inset = axes.inset_axes((1.015, 0.0, 0.022, 1.0))
    bar = axes.figure.colorbar(ScalarMappable(norm, colours), cax=inset, ticks=ticks)
    bar.outline.set_edgecolor("#d5dae0")
    inset.tick_params(labelsize=9, colors=_INK, length=2)
    inset.set_title(unit, fontsize=9, color=_INK, pad=4)
    if ticks is not None:
        inset.set_yticklabels([f"{tick:g}" for tick in ticks])
        inset.minorticks_off()


def _depth(axes: Axes, shot: Snapshot, name: str) -> None:
    known = shot.depth[np.isfinite(shot.depth)]
    near, far = (np.quantile(known, (0.005, 0.98)).tolist()) if known.size else (1.0, 2.0)
    far = max(far, near * 1.01)
    _picture(axes, colour_depth(shot.depth, near, far), f"{name}: depth, black where masked")
    # Equal steps of colour are equal steps of 1/Z, as in the picture; near is at the bright end.
    norm = FuncNorm((lambda z: -1.0 / np.maximum(z, 1e-6), lambda i: -1.0 / np.minimum(i, -1e-6)), near, far)
    inverse = np.linspace(1.0 / near, 1.0 / far, 6)
    ticks = sorted({float(f"{1.0 / value:.2g}") for value in inverse if near <= 1.0 / value <= far})
    _colour_bar(axes, "viridis_r", norm, "m", [tick for tick in ticks if near <= tick <= far])


def _error(axes: Axes, shot: Snapshot, name: str) -> None:
    if shot.truth is None:
        _difference(axes, shot, name)
        return
    truth = depth_to_disparity(shot.truth, shot.rig)
    known = np.isfinite(truth)
    with np.errstate(invalid="ignore"):
        good = np.abs(shot.disparity - truth) <= 2.0
    bad = 100.0 * (1.0 - good[known].mean()) if known.any() else float("nan")
    colours = visualization.colour_error(shot.disparity, truth, MAX_ERROR)
    _picture(axes, colours, f"{name}: error of the disparity, bad-2 {bad:.1f} %")
    _colour_bar(axes, "inferno", Normalize(0, MAX_ERROR), "px", [0, 1, 2, 3, 4])
    kinds = {"no truth": ~known, "no prediction": known & ~np.isfinite(shot.disparity)}
    _legend(axes, {text: colours[where][0] for text, where in kinds.items() if where.any()})


def _difference(axes: Axes, shot: Snapshot, name: str) -> None:
    """Draw, without truth, how much the left image differs from the right one brought over by the disparity."""
    if shot.right is None:
        _picture(axes, shot.left, f"{name}: nothing to compare with")
        return
    left, right = (image.astype(np.float32).mean(axis=2) for image in (shot.left, shot.right))
    warped, valid = warp_right_to_left(right, shot.disparity)
    seen = np.where(valid, warped, np.float32(np.nan))
    colours = visualization.colour_error(seen, left, MAX_DIFFERENCE)
    mean = float(np.abs(seen - left)[valid].mean()) if valid.any() else float("nan")
    _picture(axes, colours, f"{name}: grey difference of matches, mean {mean:.1f}")
    _colour_bar(axes, "inferno", Normalize(0, MAX_DIFFERENCE), "grey")
    if not valid.all():
        _legend(axes, {"no match in the right image": colours[~valid][0]})


def _labels(axes: Axes, shot: Snapshot, name: str) -> None:
    valid = 100.0 * (shot.labels == Label.VALID).mean()
    _picture(axes, visualization.colour_labels(shot.labels), f"{name}: mask, {valid:.1f} % valid")
    found = [label for label in Label if (shot.labels == label).any()]
    colours = visualization.colour_labels(np.array([found], np.uint8))[0]
    _legend(axes, {visualization.LABEL_NAMES[label]: colour for label, colour in zip(found, colours, strict=True)})


def _legend(axes: Axes, entries: Mapping[str, np.ndarray]) -> None:
    """Write one line under the panel."""
    if not entries:
        return
    handles = [
        Patch(facecolor=(colour / 255.0).tolist(), edgecolor="#b0b7bf", label=text) for text, colour in entries.items()
    ]
    axes.legend(
        handles=handles, fontsize=8, loc="upper left", bbox_to_anchor=(-0.012, 0.0), ncol=len(entries), frameon=False,
        borderpad=0.3, handlelength=1.1, handletextpad=0.4, columnspacing=1.1, labelcolor=_INK,
    )  # fmt: skip


def _cloud(axes: Axes, shot: Snapshot, name: str) -> None:
    # The message's cloud is decimated; the picture shows every pixel of the same depth.
    depth, yaw, pitch = shot.depth, 25.0, 12.0
    known = depth[np.isfinite(depth)]
    if known.size and np.quantile(known, 0.95) > 4.0 * np.quantile(known, 0.05):
        # A street reaches far: seen from 25 degrees aside it would be a line. What is far goes, the angle shrinks.
        depth = np.where(depth < 3.0 * np.median(known), depth, np.float32(np.nan))
        yaw, pitch = 8.0, 8.0
    view = visualization.cloud_view(
        organised_points(depth, shot.rig), shot.left, shot.rig.width, shot.rig.height, yaw, pitch
    )
    valid = int(np.isfinite(shot.points[..., 2]).sum())
    _picture(axes, view, f"{name}: {valid:,} points of points2, from the side")
