"""Small stereo pairs on disk with exact truth, for tests: two fronto-parallel planes with random texture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fg_depth_ros.data.io.formats import write_image, write_pfm
from fg_depth_ros.geometry import StereoRig

FAR, NEAR = 6, 14  # disparities in pixels


def small_rig(width: int = 160, height: int = 96) -> StereoRig:
    """A rig whose cameras have different principal columns (doffs 4 px): Z = 200 * 0.1 / (d + 4) metres."""
    return StereoRig(width, height, 200.0, 200.0, width / 2 - 3.5, height / 2 - 0.5, width / 2 + 0.5, 0.1)


def planes(seed: int, width: int = 160, height: int = 96) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right (uint8 RGB) and the true disparity of a square in front of a wall."""
    random = np.random.default_rng(seed)

    def texture() -> np.ndarray:
        return random.integers(0, 256, (height, width + NEAR, 3), dtype=np.uint8)

    wall, square = texture(), texture()
    left, right = wall[:, :width].copy(), wall[:, FAR : FAR + width].copy()
    truth = np.full((height, width), FAR, np.float32)
    rows, first, last = slice(height // 4, height * 3 // 4), width * 3 // 8, width * 5 // 8
    left[rows, first:last] = square[rows, first:last]
    right[rows, first - NEAR : last - NEAR] = square[rows, first:last]
    truth[rows, first:last] = NEAR
    return left, right, truth


def write_pairs(
    folder: Path, names: tuple[str, ...] = ("a", "b"), *, truth: bool = True, rig: bool = True, size=(160, 96)
) -> Path:
    """A plain folder (left/ right/ [disp/] [rig.json]) with one pair per name; pairs differ. Returns it."""
    for part in ("left", "right", *(["disp"] if truth else [])):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        left, right, disparity = planes(seed, *size)
        write_image(folder / "left" / f"{name}.png", left)
        write_image(folder / "right" / f"{name}.png", right)
        if truth:
            disparity[:4] = np.inf  # unknown, as Middlebury writes it
            write_pfm(folder / "disp" / f"{name}.pfm", disparity)
    if rig:
        (folder / "rig.json").write_text(json.dumps(small_rig(*size).to_dict()))
    return folder
