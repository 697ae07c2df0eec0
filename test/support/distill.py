"""Stereo pairs that a flow method can match, for tests of the distillation: one textured wall, or a moving one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from fg_depth_ros.data.io.formats import write_image, write_pfm
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.synthesis.textures import fractal_noise
from fg_depth_ros.training.depth.config import PRESETS, MaskConfig

WIDTH, HEIGHT = 160, 96
RIG = StereoRig(WIDTH, HEIGHT, 200.0, 200.0, 79.5, 47.5, 79.5, 0.1)
"""Depth is 20 m px / disparity."""
MASK = MaskConfig(max_disparity=0)
TINY = {
    "model": "depthnet_lite",
    "weights": "",
    "width": 96,
    "height": 64,
    "batch": 2,
    "workers": 0,
    "patterns": 4,
    "outlines": 4,
    "validation_scenes": 2,
    "validate_minutes": 60.0,
    "teacher": "sgbm",
    "mask": MASK,
}
"""Settings of a training that is over in seconds."""
ONLY_REGRESSION = replace(PRESETS["flow_mask_dr"], photometric=0.0)


def wall(disparity: int, seed: int = 0, down: int = 0, width: int = WIDTH, height: int = HEIGHT):
    """Left and right picture (uint8 RGB) of a wall: left(x, y) <-> right(x - disparity, y + down), exactly."""
    size = 2 ** int(np.ceil(np.log2(max(width, height) + 64)))
    noise = fractal_noise(np.random.default_rng(seed), size, 0.9)
    sheet = np.clip(128 + 45 * noise, 0, 255).astype(np.uint8)
    left = sheet[32 : 32 + height, 32 : 32 + width]
    right = sheet[32 - down : 32 - down + height, 32 + disparity : 32 + disparity + width]
    return tuple(np.repeat(np.ascontiguousarray(image)[..., None], 3, -1) for image in (left, right))


def write_walls(folder: Path, disparities=(8, 9, 10, 11, 12), truth: bool = True, rig: StereoRig = RIG) -> Path:
    """A plain folder with one pair per disparity, named 000, 001, ...; returns it."""
    for part in ("left", "right", *(["disp"] if truth else [])):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i, disparity in enumerate(disparities):
        left, right = wall(disparity, seed=i, width=rig.width, height=rig.height)
        write_image(folder / "left" / f"{i:03d}.png", left)
        write_image(folder / "right" / f"{i:03d}.png", right)
        if truth:
            write_pfm(folder / "disp" / f"{i:03d}.pfm", np.full(left.shape[:2], disparity, np.float32))
    (folder / "rig.json").write_text(json.dumps(rig.to_dict()))
    return folder


def swap(folder: Path) -> Path:
    """Left and right of a folder change places."""
    (folder / "left").rename(folder / "other")
    (folder / "right").rename(folder / "left")
    (folder / "other").rename(folder / "right")
    return folder


def made_pair(left, right, rig=RIG, truth=None, name="made"):
    """A pair that lies in memory."""
    return StereoSample(name, left, right, rig, truth)


def blurred(image):
    return cv2.GaussianBlur(image, (5, 5), 0)
