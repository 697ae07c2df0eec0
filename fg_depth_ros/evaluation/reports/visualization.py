"""Colour disparity, depth, flow, errors, labels and clouds, and lay out sheets of such pictures.

numpy in, uint8 RGB HxWx3 out. Look-up tables only, so the colour functions are cheap enough for a running
node.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from fg_depth_ros.geometry import Label
from fg_depth_ros.geometry.depth_colour import colour_table, map_colours
from fg_depth_ros.geometry.flow_colour import colour_flow
from fg_depth_ros.geometry.resize import resize_image

_FONT = (cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)  # face, scale, thickness
_LEGEND_COLUMN = 210  # px
_NO_TRUTH = (48, 48, 48)
_NO_PREDICTION = (255, 0, 255)
LABEL_COLOURS: dict[Label, tuple[int, int, int]] = {
    Label.VALID: (255, 255, 255),
    Label.OUT_OF_RANGE: (60, 60, 60),
    Label.LEFT_RIGHT_MISMATCH: (222, 50, 45),
    Label.LEAVES_IMAGE: (0, 80, 185),
    Label.VERTICAL_FLOW: (255, 185, 110),
    Label.LOW_CONFIDENCE: (250, 230, 90),
    Label.FILLED_FROM_MONO: (30, 190, 155),
    Label.UNSUPPORTED: (170, 120, 215),
}
"""Colours of a mask; their lightness differs, so that they can be told apart in grey and by the colour-blind."""
LABEL_NAMES = {
    Label.VALID: "valid",
    Label.OUT_OF_RANGE: "no prediction, or out of range",
    Label.LEFT_RIGHT_MISMATCH: "hidden from the right",
    Label.LEAVES_IMAGE: "leaves the image",
    Label.VERTICAL_FLOW: "off its row",
    Label.LOW_CONFIDENCE: "low confidence",
    Label.FILLED_FROM_MONO: "filled from one image",
    Label.UNSUPPORTED: "too little texture",
}
"""Labels of a mask in words."""


def colour_error(prediction: np.ndarray, truth: np.ndarray, max_error: float = 4.0) -> np.ndarray:
    """Colour ``|prediction - truth|`` (H x W, same unit) in the inferno map.

    0: black; from ``max_error`` on: light yellow; no truth: dark grey; truth without prediction: magenta.
    """
    error = np.abs(prediction - truth)
    colours = map_colours(error, np.isfinite(error), 0.0, max_error, colour_table(cv2.COLORMAP_INFERNO))
    colours[~np.isfinite(truth)] = _NO_TRUTH
    colours[np.isfinite(truth) & ~np.isfinite(prediction)] = _NO_PREDICTION
    return colours


def colour_relative_error(depth: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Colour ``|depth / reference - 1|`` (H x W, same unit) as ``colour_error``; a sparse reference is spread."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error = visible(np.abs(depth / reference - 1).astype(np.float32))
    return colour_error(error, np.where(np.isfinite(visible(reference)), np.float32(0), np.float32(np.nan)), 0.25)


def depth_range(depth: np.ndarray, default: tuple[float, float] = (1.0, 10.0)) -> tuple[float, float]:
    """Return the near and the far end of most of these depths (2nd and 98th percentile), m; NaN and 0 are left out."""
    known = depth[np.isfinite(depth) & (depth > 0)]
    near, far = (float(d) for d in np.percentile(known, (2, 98))) if known.size else default
    return near, max(far, near * 1.01)


def colour_labels(labels: np.ndarray) -> np.ndarray:
    """Colour values of ``Label`` (uint8 H x W): valid is white."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for label, colour in LABEL_COLOURS.items():
        table[label] = colour
    return table[labels]


def with_scale(picture: np.ndarray, low: str, middle: str, high: str) -> np.ndarray:
    """Put the colour bar of depth and disparity below a picture, with the values of its ends and middle, with units."""
    strip, (left, right) = np.full((42, picture.shape[1], 3), 255, np.uint8), (8, picture.shape[1] - 8)
    bar = colour_table()[np.linspace(0, 255, max(right - left, 1)).astype(np.uint8)]
    strip[6:16, left : left + len(bar)] = bar
    for text, part in ((low, 0.0), (middle, 0.5), (high, 1.0)):
        (width, _), _ = cv2.getTextSize(text, *_FONT)
        x = left + part * (right - left) - part * width
        _write_text(strip, text, round(x), 34)
    return np.vstack([picture, strip])


def with_label_legend(labels: np.ndarray) -> np.ndarray:
    """Colour values of ``Label`` with the name and the share of each that occurs below the picture."""
    entries, width = [], labels.shape[1]
    for label, colour in LABEL_COLOURS.items():
        if share := float((labels == label).mean()):
            entries.append((f"{label.name.lower().replace('_', ' ')} {100 * share:.1f} %", colour))
    columns = max(1, width // _LEGEND_COLUMN)
    legend = np.full((20 * -(-len(entries) // columns) + 8, width, 3), 255, np.uint8)
    for number, (text, colour) in enumerate(entries):
        row, column = divmod(number, columns)
        x, y = 8 + column * _LEGEND_COLUMN, 6 + 20 * row
        cv2.rectangle(legend, (x, y), (x + 12, y + 12), colour, -1)
        cv2.rectangle(legend, (x, y), (x + 12, y + 12), (0, 0, 0), 1)
        _write_text(legend, text, x + 18, y + 11)
    return np.vstack([colour_labels(labels), legend])


def with_flow_wheel(flow: np.ndarray) -> np.ndarray:
    """Colour flow with the wheel of directions, and the length at its rim, below the picture."""
    lengths = np.hypot(flow[..., 0], flow[..., 1])
    longest = float(np.max(lengths, where=np.isfinite(lengths), initial=0.0))
    steps = np.arange(-28, 29, dtype=np.float32)
    wheel = np.stack(np.meshgrid(steps, steps), -1)
    disc = colour_flow(np.where(np.hypot(*np.moveaxis(wheel, -1, 0))[..., None] <= 28, wheel, np.nan), 28.0)
    disc[(disc == 0).all(-1)] = 255
    strip = np.full((65, flow.shape[1], 3), 255, np.uint8)
    strip[4 : 4 + len(disc), 8 : 8 + len(disc)] = disc[:, : max(0, flow.shape[1] - 8)]
    _write_text(strip, f"rim {longest:.1f} px", 74, 36)
    return np.vstack([colour_flow(flow, longest or None), strip])


def _write_text(picture: np.ndarray, text: str, x: int, y: int) -> None:
    font, size, thickness = _FONT
    cv2.putText(picture, text, (x, y), font, size, (0, 0, 0), thickness, cv2.LINE_AA)


def cloud_view(
    points: np.ndarray, colours: np.ndarray, width: int = 640, height: int = 480, yaw_deg: float = 25.0,
    pitch_deg: float = 12.0,
) -> np.ndarray:  # fmt: skip
    """Draw a cloud as seen by a camera that has moved sideways around it.

    ``points``: (..., 3) metres in the optical frame (x right, y down, z forward), NaN = none; ``colours``: the same
    shape, uint8 RGB. The view turns by ``yaw_deg`` and ``pitch_deg`` about the point at the median depth.
    Nearer points cover farther ones.
    """
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    flat, paint = points.reshape(-1, 3), colours.reshape(-1, 3)
    known = np.isfinite(flat).all(axis=1)
    flat, paint = flat[known].astype(np.float64), paint[known]
    if not len(flat):
        return canvas
    centre = np.median(flat, axis=0)
    yaw, pitch = np.deg2rad(yaw_deg), np.deg2rad(pitch_deg)
    turn_y = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    seen = (flat - centre) @ (turn_x @ turn_y).T
    seen[:, 2] += 1.2 * centre[2]  # a step back, so that what turned aside stays in view
    in_front = seen[:, 2] > 0.05 * centre[2]
    seen, paint = seen[in_front], paint[in_front]
    if not len(seen):
        return canvas
    flat_x, flat_y = seen[:, 0] / seen[:, 2], seen[:, 1] / seen[:, 2]
    low_x, high_x = np.quantile(flat_x, (0.02, 0.98))
    low_y, high_y = np.quantile(flat_y, (0.02, 0.98))
    scale = 0.95 * min(width / max(high_x - low_x, 1e-9), height / max(high_y - low_y, 1e-9))
    column = np.rint((flat_x - (low_x + high_x) / 2) * scale + width / 2).astype(np.int64)
    row = np.rint((flat_y - (low_y + high_y) / 2) * scale + height / 2).astype(np.int64)
    order = np.argsort(-seen[:, 2], kind="stable")  # far first: numpy keeps the last value of a repeated index
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = column[order] + dx, row[order] + dy
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        spot = np.full_like(canvas, 255)
        spot[y[inside], x[inside]] = paint[order][inside]
        gaps = (canvas == 255).all(axis=2)  # the widened dots only close gaps
        canvas[gaps] = spot[gaps]
    return canvas


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], captions: Sequence[str] = (), tile_width: int = 400
) -> np.ndarray:
    """Lay out rows of uint8 RGB pictures under their column titles, each row with its caption, on white.

    Every picture is brought to ``tile_width``. Raises ValueError when a row and the titles differ in number.
    """
    if not rows or any(len(row) != len(titles) for row in rows):
        raise ValueError(f"a sheet needs rows of {len(titles)} pictures, got {[len(row) for row in rows]}")
    gap, line = 6, 22
    width = gap + len(titles) * (tile_width + gap)
    heads = np.full((line, width, 3), 255, dtype=np.uint8)
    for column, title in enumerate(titles):
        place = (gap + column * (tile_width + gap), 16)
        cv2.putText(heads, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    parts = [heads]
    for index, row in enumerate(rows):
        tiles = [resized(picture, tile_width) for picture in row]
        strip = np.full((max(tile.shape[0] for tile in tiles) + gap, width, 3), 255, dtype=np.uint8)
        for column, tile in enumerate(tiles):
            x = gap + column * (tile_width + gap)
            strip[: tile.shape[0], x : x + tile_width] = tile
        for caption in captions[index : index + 1]:
            for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                cv2.putText(strip, caption, (gap + 6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness)
        parts.append(strip)
    return np.vstack(parts)


def resized(picture: np.ndarray, width: int, *, smooth: bool = True) -> np.ndarray:
    """Resize a picture to another width; ``smooth`` False keeps exact colours (sparse measurements)."""
    if picture.shape[1] == width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    if smooth:
        return resize_image(picture, width, height)
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST))


def visible(values: np.ndarray) -> np.ndarray:
    """Spread sparse values H x W (LiDAR) to dots that stay visible in a small picture; the smaller value wins."""
    known = np.isfinite(values)
    if known.mean() > 0.1:
        return values
    # OpenCV's own border is a large finite number, which would win over "unknown".
    far = np.where(known, values, np.float32(np.inf)).astype(np.float32)
    spread = cv2.erode(far, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return np.where(np.isfinite(spread), spread, np.float32(np.nan))
