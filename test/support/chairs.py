"""Small materials for rendered pairs of frames."""

from __future__ import annotations

import cv2
import numpy as np

from fg_depth_ros.synthesis.chairs import ChairsGenerator
from fg_depth_ros.synthesis.cutouts import CutoutAtlas
from fg_depth_ros.synthesis.textures import TextureAtlas

WIDTH, HEIGHT = 128, 96


def small_atlas():
    return TextureAtlas.build([], patterns=6, size=128, seed=1)


def small_cutouts():
    return CutoutAtlas.build([], outlines=24, size=64, seed=1)


def small_generator(**options):
    return ChairsGenerator(small_atlas(), small_cutouts(), **({"width": WIDTH, "height": HEIGHT, "seed": 5} | options))


def stamp(colour=(200, 40, 40), side=40, hidden=(0, 255, 0)):
    """A disc with alpha; what lies under the transparent part is green."""
    image = np.zeros((side, side, 4), np.uint8)
    image[:, :, :3] = hidden
    ys, xs = np.mgrid[:side, :side] - (side - 1) / 2
    disc = np.hypot(xs, ys) < side / 2
    image[disc] = [*colour, 255]
    return image


def save_rgba(path, image):
    assert cv2.imwrite(str(path), np.ascontiguousarray(image[:, :, [2, 1, 0, 3]]))
