"""Sources of ``stereo_player_node``: pairs from files, or a drive through a virtual world. No ROS import."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from fg_depth_ros.data.datasets.stereo import open_stereo
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.files import FileError, expand_home
from fg_depth_ros.geometry import StereoRig

NO_WORLD = "off"
WORLDS = (NO_WORLD, "street", "indoor")
"""Virtual worlds that can be played (those of ``synthesis.world.drive``, imported when needed); ``off`` plays files."""
WORLD_SIZE = (640, 384)
_LOADED_PAIRS = 4  # decoded pairs held in memory: a short loop then costs no decoding


class CalibrationMissing(FileError):
    """Pairs without a calibration, and none was given."""


class PairSource:
    """The pairs that ``open_stereo`` opens, or the Motorcycle pair, loaded on demand.

    Args:
        pairs: a folder, bag or video, or ``motorcycle`` for the pair that scikit-image ships.
        side_by_side: each image or video has the left view in its left half.
        width, height: of the published images, px; 0 follows the other, or keeps the size on disk.
        with_truth: load ground truth, if any.
        focal, baseline: px of the images on disk, and m, for pairs without a calibration file; 0 refuses such pairs.
        rectify: whether images are rectified by their calibration, as of ``open_stereo``.

    Raises:
        FileError: nothing there, no pair in it, or no pair has a calibration and ``focal`` is 0.
    """

    def __init__(
        self, pairs: str, *, width: int = 0, height: int = 0, with_truth: bool = True, focal: float = 0.0,
        baseline: float = 0.0, side_by_side: bool = False, rectify: str = "auto",
    ) -> None:  # fmt: skip
        place = expand_home(pairs, "pairs")
        self.samples: list[StereoSample] = open_stereo(place, side_by_side=side_by_side, rectify=rectify)
        self._width, self._height = width, height
        self._with_truth = with_truth
        self._focal, self._baseline = focal, baseline
        self._loaded: OrderedDict[int, StereoSample] = OrderedDict()
        if all(sample.rig is None for sample in self.samples) and not (focal > 0.0 and baseline > 0.0):
            raise CalibrationMissing(
                f"{pairs}: no calibration next to its {len(self.samples)} pair(s), so nothing says how many metres "
                "a pixel of disparity is; add a calib.txt or rig.json there, or give focal (pixels) and "
                "baseline (metres)"
            )

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def has_truth(self) -> bool:
        """Whether some pair has ground truth, and it is loaded."""
        return self._with_truth and any(sample.has_truth for sample in self.samples)

    def load(self, index: int) -> StereoSample:
        """Load the pair number ``index``, resized. Raises FileError, also where images and calibration do not fit."""
        if index in self._loaded:
            self._loaded.move_to_end(index)
            return self._loaded[index]
        pair = self._load(self.samples[index])
        self._loaded[index] = pair
        while len(self._loaded) > _LOADED_PAIRS:
            self._loaded.popitem(last=False)
        return pair

    def _load(self, sample: StereoSample) -> StereoSample:
        left, right = sample.images()
        height, width = left.shape[:2]
        rig = sample.rig or self._assumed_rig(sample, width, height)
        if (rig.width, rig.height) != (width, height):
            raise FileError(
                f"{_shown(sample)} is {width}x{height}, but its calibration is for {rig.width}x{rig.height}: "
                "calibrate for the size of the images, or resize them together"
            )
        depth = replace(sample, rig=rig).true_depth() if self._with_truth else None
        return StereoSample(sample.name, left, right, rig, depth=depth).resized(*self._size(width, height))

    def _assumed_rig(self, sample: StereoSample, width: int, height: int) -> StereoRig:
        if not (self._focal > 0.0 and self._baseline > 0.0):
            raise FileError(f"{_shown(sample)}: no calibration for this pair; give focal (pixels) and baseline (m)")
        cx, cy = (width - 1) / 2, (height - 1) / 2
        return StereoRig(width, height, self._focal, self._focal, cx, cy, cx, self._baseline)

    def _size(self, width: int, height: int) -> tuple[int, int]:
        if self._width and self._height:
            return self._width, self._height
        if self._width:
            return self._width, max(1, round(height * self._width / width))
        if self._height:
            return max(1, round(width * self._height / height)), self._height
        return width, height


def _shown(sample: StereoSample) -> str:
    return str(sample.left) if isinstance(sample.left, Path) else sample.name


def write_drive(
    folder: str | Path, world: str, *, width: int = 0, height: int = 0, frames: int = 20, seed: int = 0,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> None:  # fmt: skip
    """Render a drive through a virtual world into ``folder``, for a ``PairSource``; with true disparity.

    Args:
        folder: is made where it is missing.
        world: one of ``WORLDS`` but ``off``; another ``seed`` is another world.
        width, height: of the images in pixels; 0 follows the other in the shape of ``WORLD_SIZE``.
        frames: number of pairs, 0.1 s apart.
        track: wraps the numbers of the frames, for a progress bar.

    Raises:
        FileError: the folder cannot be written to, or holds pairs.
        ValueError: an unknown world, or less than one frame.
    """
    from fg_depth_ros.synthesis.world.drive import WorldDrive, drive_rig  # needs PyTorch
    from fg_depth_ros.synthesis.world.folder import write_world

    width = width or (round(height * WORLD_SIZE[0] / WORLD_SIZE[1]) if height else WORLD_SIZE[0])
    height = height or max(1, round(width * WORLD_SIZE[1] / WORLD_SIZE[0]))
    rig = drive_rig(world, width, height)
    write_world(folder, rig, WorldDrive(world, rig, seed, frames=frames).frame, frames, track)


def encode_image(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Convert H x W x 3 uint8 RGB to the array of an Image of this encoding.

    Bayer encodings keep one of the three colours per pixel; the name gives the first row's first two
    and the second row's first two colours. 8UC3 is OpenCV's order, blue first. mono16 uses the whole range
    (255 becomes 65535). Raises ValueError: the encoding is not one of ``ENCODINGS``.
    """
    if encoding == "rgb8":
        return rgb
    if encoding in _CONVERSIONS:
        return cv2.cvtColor(rgb, _CONVERSIONS[encoding])
    if encoding == "mono16":
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.uint16) * np.uint16(257)
    if encoding in _BAYER:
        mosaic = np.empty(rgb.shape[:2], np.uint8)
        for position, channel in enumerate(_BAYER[encoding]):
            row, column = divmod(position, 2)
            mosaic[row::2, column::2] = rgb[row::2, column::2, channel]
        return mosaic
    raise ValueError(f"encoding '{encoding}' cannot be played: choose one of {', '.join(ENCODINGS)}")


_CONVERSIONS = {
    "bgr8": cv2.COLOR_RGB2BGR,
    "8UC3": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGB2RGBA,
    "bgra8": cv2.COLOR_RGB2BGRA,
    "mono8": cv2.COLOR_RGB2GRAY,
    "8UC1": cv2.COLOR_RGB2GRAY,
}
_BAYER = {
    "bayer_rggb8": (0, 1, 1, 2),
    "bayer_bggr8": (2, 1, 1, 0),
    "bayer_gbrg8": (1, 2, 0, 1),
    "bayer_grbg8": (1, 0, 2, 1),
}
ENCODINGS = ("rgb8", *_CONVERSIONS, "mono16", *_BAYER)
"""Encodings that ``encode_image`` knows."""
