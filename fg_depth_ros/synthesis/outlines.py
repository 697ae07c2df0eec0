"""Outlines drawn by chance: masks of things that are no photo, from smooth blobs to thin, chair-like frames."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

_FINE = 4  # drawn this much larger, then averaged: the masks' edges are then covered areas
_REACH = 0.94  # of the half side; the rest stays empty, so that no mip level is cut off at the border


def draw_outline(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw one mask, S x S uint8, 255 within; its longer side fills the square up to a small margin."""
    kind = rng.choice(len(_KINDS), p=[chance for _, chance in _KINDS])
    canvas = np.zeros((size * _FINE, size * _FINE), np.uint8)
    _KINDS[kind][0](rng, canvas)
    return _fill_square(canvas, size)


def _fill_square(canvas: np.ndarray, size: int) -> np.ndarray:
    x, y, w, h = cv2.boundingRect(canvas)
    if w < 2 or h < 2:
        raise ValueError(f"an outline of {w}x{h} pixels was drawn: nothing to see")
    scale = size * _REACH / max(w, h)
    move = np.array([[scale, 0, size / 2 - scale * (x + w / 2)], [0, scale, size / 2 - scale * (y + h / 2)]])
    # Averaged down in two steps: warpAffine alone would skip texels of the fine drawing.
    fine = cv2.warpAffine(canvas, np.vstack([move, [0, 0, 1]])[:2] * _FINE, (size * _FINE, size * _FINE))
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)


def _polygon(canvas: np.ndarray, points: np.ndarray, value: int = 255) -> None:
    """Fill a polygon given in -1 .. 1."""
    half = canvas.shape[0] / 2
    cv2.fillPoly(canvas, [np.rint((points * 0.95 + 1) * half * 16).astype(np.int32)], value, cv2.LINE_AA, shift=4)


def _stroke(canvas: np.ndarray, points: np.ndarray, thickness: float) -> None:
    """Draw a line of round ends through points in -1 .. 1; ``thickness`` in the same units."""
    half = canvas.shape[0] / 2
    places = np.rint((points * 0.9 + 1) * half * 16).astype(np.int32)
    cv2.polylines(canvas, [places], False, 255, max(2, round(thickness * half)), cv2.LINE_AA, shift=4)


def _fitted(points: np.ndarray) -> np.ndarray:
    """Points moved and scaled so that they reach from -1 to 1 in the longer direction."""
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) * (2 / max(float((high - low).max()), 1e-6))


def _radial(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Angles and a smooth radius around them, 0 .. 1."""
    angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    radius = np.ones_like(angle)
    rough = rng.uniform(0.0, 0.5)
    for order in range(2, int(rng.integers(3, 9))):
        radius += rough * rng.normal(0, 1 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.15, None)
    return angle, radius / radius.max()


def _blob(rng: np.random.Generator, canvas: np.ndarray) -> None:
    angle, radius = _radial(rng)
    _polygon(canvas, np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))


def _superellipse(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """From the diamond over the ellipse to the rectangle."""
    power = float(rng.choice([1.0, 2.0, 4.0, 40.0], p=[0.1, 0.35, 0.2, 0.35]))
    angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    radius = (np.abs(c) ** power + np.abs(s) ** power) ** (-1 / power)
    high = float(np.exp(-abs(rng.normal(0, 0.6))))
    _polygon(canvas, np.stack([radius * c, radius * s * high], 1))


def _corners(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw a polygon of few corners, not always convex."""
    count = int(rng.integers(3, 10))
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    radius = rng.uniform(0.35, 1, count)
    _polygon(canvas, _fitted(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)))


def _ring(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw a closed shape with holes."""
    angle, radius = _radial(rng)
    outside = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    _polygon(canvas, outside)
    if rng.random() < 0.6:
        _polygon(canvas, outside * rng.uniform(0.5, 0.92), 0)
    else:
        for _ in range(rng.integers(1, 6)):
            _polygon(canvas, outside * rng.uniform(0.08, 0.3) + rng.uniform(-0.5, 0.5, 2), 0)


def _bars(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw a fence, or a grid."""
    count, thickness = int(rng.integers(2, 9)), rng.uniform(0.02, 0.12)
    for place in np.linspace(-0.9, 0.9, count):
        _stroke(canvas, np.array([[place, -1], [place, 1]]), thickness)
    for place in np.linspace(-0.9, 0.9, int(rng.integers(1, 7))):
        _stroke(canvas, np.array([[-1, place], [1, place]]), thickness * rng.uniform(0.5, 1.5))


def _curve(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw a cable, or a few branches."""
    paths = []
    for _ in range(rng.integers(1, 4)):
        steps = rng.normal(0, 0.25, (int(rng.integers(4, 24)), 2)).cumsum(0)
        path = np.cumsum(steps * 0.3 + rng.normal(0, 0.12, 2), 0)
        path = np.stack([np.convolve(path[:, i], np.ones(3) / 3, "valid") for i in range(2)], 1)
        paths.append(path / max(float(np.abs(path).max()), 1e-3))
    together = _fitted(np.concatenate(paths))
    for path in np.split(together, np.cumsum([len(path) for path in paths])[:-1]):
        _stroke(canvas, path, rng.uniform(0.02, 0.1))


def _foliage(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Leaves around a middle."""
    for _ in range(rng.integers(12, 60)):
        centre = np.clip(rng.normal(0, 0.38, 2), -0.8, 0.8)
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        long, wide, tilt = rng.uniform(0.06, 0.2), rng.uniform(0.3, 0.9), rng.uniform(0, np.pi)
        leaf = np.stack([np.cos(angle), np.sin(angle) * wide], 1) * long
        turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        _polygon(canvas, centre + leaf @ turn)


def _chair(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw a seat, four legs and a back, seen from somewhere above."""
    turn, above = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.6)
    legs, back = rng.uniform(0.6, 1.0), rng.uniform(0.5, 1.1)
    thickness = rng.uniform(0.02, 0.09)

    def seen(x: float, y: float, z: float) -> np.ndarray:
        """Orthographic view of a point; the seat is the square -1 .. 1 at z = 0, z points up."""
        across = x * np.cos(turn) - y * np.sin(turn)
        deep = x * np.sin(turn) + y * np.cos(turn)
        return np.array([across, deep * np.sin(above) - z * np.cos(above)]) * 0.36

    corners = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    _polygon(canvas, np.array([seen(x, y, 0) for x, y in corners]))
    for x, y in corners:
        _stroke(canvas, np.array([seen(x, y, 0), seen(0.95 * x, 0.95 * y, -2 * legs)]), thickness)
    if rng.random() < 0.4:  # rungs between the legs
        low = -legs * rng.uniform(0.6, 1.5)
        _stroke(canvas, np.array([seen(x, y, low) for x, y in [*corners, corners[0]]]), thickness * 0.7)
    lean = rng.uniform(0, 0.4)
    top = [seen(x, -1 - lean, 2 * back) for x in (-1.0, 1.0)]
    foot = [seen(x, -1, 0) for x in (-1.0, 1.0)]
    if rng.random() < 0.45:
        _polygon(canvas, np.array([*foot, top[1], top[0]]))
        return
    _stroke(canvas, np.array([foot[0], top[0], top[1], foot[1]]), thickness * 1.3)
    for part in np.linspace(0, 1, int(rng.integers(2, 8)))[1:-1]:
        if lean < 0.2:  # upright bars, else rungs
            ends = [foot[0] + part * (foot[1] - foot[0]), top[0] + part * (top[1] - top[0])]
        else:
            ends = [foot[0] + part * (top[0] - foot[0]), foot[1] + part * (top[1] - foot[1])]
        _stroke(canvas, np.array(ends), thickness)


_KINDS: tuple[tuple[Callable[[np.random.Generator, np.ndarray], None], float], ...] = (
    (_blob, 0.18),
    (_superellipse, 0.18),
    (_corners, 0.16),
    (_ring, 0.1),
    (_bars, 0.06),
    (_curve, 0.06),
    (_foliage, 0.08),
    (_chair, 0.18),
)
