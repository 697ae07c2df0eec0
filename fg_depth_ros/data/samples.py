"""Samples to train and evaluate on: a stereo pair, two frames with flow, an image with depth.

A sample names its images and truth as files, functions or arrays; nothing is read before it is asked for, nor cached.
What a source cannot know is None.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, TypeVar, cast

import cv2
import numpy as np

from fg_depth_ros.data.io.formats import image_size, read_camera_image, scaled_to_uint8, white_level
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig, depth_to_disparity, disparity_to_depth
from fg_depth_ros.geometry.resize import resize_image, resize_nearest

_LOG = logging.getLogger(__name__)

ArrayReader = Callable[[], np.ndarray]
Image = Path | np.ndarray | ArrayReader
"""A file, pixels (uint8 or uint16, H x W grey or H x W x 3 RGB), or a function that returns them."""
Field = np.ndarray | ArrayReader
"""One value or vector per pixel, or a function that returns it."""
Crop = Literal["none", "garg", "nyu"]
CROPS = ("none", "garg", "nyu")
_WHITE_IMAGES = 12  # of each side, looked at for the white level of 16-bit images
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class StereoSample:
    """A rectified stereo pair, from a folder, a bag, a renderer or memory."""

    name: str
    left: Image = field(repr=False)
    right: Image = field(repr=False)
    rig: StereoRig | None = None
    """Calibration at the size of the images; None: disparity can be evaluated, metres cannot."""
    disparity: Field | None = field(default=None, repr=False)
    """True disparity ``x_left - x_right`` of the left image, H x W px, NaN unknown."""
    occlusion: Field | None = field(default=None, repr=False)
    """Non-zero where the right camera does not see the pixel of the left image, H x W."""
    depth: Field | None = field(default=None, repr=False)
    """True depth of the left image along the optical axis, H x W m; used if there is no disparity."""
    stamp: int | None = None
    """Time of the left image, ns."""
    stamp_difference: float = 0.0
    """Stamp of the right image minus that of the left one, s."""
    pose: np.ndarray | None = field(default=None, repr=False)
    """4 x 4, transforms points from the left camera to the frame of the sequence."""
    white: Callable[[], int] | None = field(default=None, repr=False)
    """Returns the white level of 16-bit images of all pairs of a source; None: by the values of this pair."""

    @property
    def has_truth(self) -> bool:
        """Whether there is true disparity, or true depth and the rig to convert it."""
        return self.disparity is not None or (self.depth is not None and self.rig is not None)

    @property
    def doffs(self) -> float:
        """``doffs`` of the rig, px; 0 without one."""
        return 0.0 if self.rig is None else self.rig.doffs

    def require_rig(self) -> StereoRig:
        """Return the rig. Raises FileError: the pair has no calibration."""
        if self.rig is None:
            raise FileError(
                f"{self.name}: no calibration, and metres need one; put a rig.json or calib.txt next to the pair"
            )
        return self.rig

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """Read both images, uint8 RGB H x W x 3. Raises FileError: one is unreadable, or their sizes differ."""
        left, right = self.raw_images()
        return _rgb(left), _rgb(right)

    def raw_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Read both images as the node takes them, uint8, H x W (grey) or H x W x 3 RGB. Raises as ``images``.

        Those of 16 bits are scaled by ``white``, or by the bits that hold the largest value of both. A grey one next to
        one in colour becomes RGB, too.
        """
        left, right = _eight_bits(self.name, self.white, *self.unscaled_images())
        return (left, right) if left.ndim == right.ndim else (_rgb(left), _rgb(right))

    def unscaled_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Read both images as they are stored, uint8 or uint16, else as ``raw_images``."""
        sides = {f"{self.name} (left)": self.left, f"{self.name} (right)": self.right}
        return _of_one_size(sides, "a rectified pair has one size")

    def truth(self) -> np.ndarray | None:
        """Read or compute the true disparity, float32 H x W px, NaN unknown; None: there is none. Raises FileError."""
        if self.disparity is None:
            depth = self.true_depth() if self.rig is not None else None
            return None if depth is None else depth_to_disparity(depth, self.rig)  # type: ignore[arg-type]
        return self._field("true disparity", self.disparity)

    def true_depth(self) -> np.ndarray | None:
        """Read the true depth of the left image, or compute it from disparity, float32 H x W m; as ``truth``."""
        if self.depth is not None:
            return self._field("true depth", self.depth)
        if self.disparity is None or self.rig is None:
            return None
        return disparity_to_depth(self._field("true disparity", self.disparity), self.rig)

    def occluded(self) -> np.ndarray | None:
        """Read which pixels of the left image the right camera does not see, bool H x W; None where unknown."""
        return None if self.occlusion is None else self._field("occlusion mask", self.occlusion).astype(bool)

    def resized(self, width: int, height: int) -> StereoSample:
        """Read a pair with a rig into memory at another size; metres stay. Raises FileError: no rig, or unreadable."""
        rig, depth = self.require_rig().scaled(width, height), self.true_depth()
        left, right = (resize_image(image, width, height) for image in self.images())
        return StereoSample(
            self.name, left, right, rig, depth=None if depth is None else resize_nearest(depth, width, height),
            stamp=self.stamp, stamp_difference=self.stamp_difference, pose=self.pose,
        )  # fmt: skip

    def _field(self, what: str, source: Field) -> np.ndarray:
        return _field_of(self.name, what, source, self.left, self.rig)


@dataclass(frozen=True, eq=False)
class FlowSample:
    """Two frames of a camera, with true optical flow where it is known."""

    name: str
    first: Image = field(repr=False)
    second: Image = field(repr=False)
    flow: Field | None = field(default=None, repr=False)
    """True flow of the first frame, H x W x 2 px (u, v), NaN unknown."""
    occlusion: Field | None = field(default=None, repr=False)
    """Non-zero where the surface is not visible in the second frame, H x W."""

    @property
    def has_truth(self) -> bool:
        """Whether there is true flow."""
        return self.flow is not None

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """Read both frames, uint8 RGB H x W x 3. Raises FileError: one is unreadable, or their sizes differ."""
        frames = {f"{self.name} (first)": self.first, f"{self.name} (second)": self.second}
        images = _of_one_size(frames, "the frames of a pair have one size")
        first, second = _eight_bits(self.name, None, *images)
        return _rgb(first), _rgb(second)

    def truth(self) -> np.ndarray | None:
        """Read true flow of the first frame, float32 H x W x 2 px, NaN unknown; None: there is none.

        Raises FileError.
        """
        return None if self.flow is None else _field_of(self.name, "true flow", self.flow, self.first)

    def occluded(self) -> np.ndarray | None:
        """Read where the surface is not visible in the second frame, bool H x W; None: unknown. Raises FileError."""
        occlusion = self.occlusion
        return None if occlusion is None else _field_of(self.name, "occlusion mask", occlusion, self.first).astype(bool)


@dataclass(frozen=True)
class DepthProtocol:
    """Evaluated pixels of a data set, and their range of depth."""

    name: str = ""
    """Name of a published protocol; empty: none."""
    crop: Crop = "none"
    """none; garg: of Garg et al., ECCV 2016, for KITTI; nyu: of Eigen et al., NIPS 2014, for NYU."""
    min_depth: float = 1e-3
    """Truth up to this is not evaluated, predictions are clamped to it, m."""
    max_depth: float = 80.0
    """Truth from this on is not evaluated, predictions are clamped to it, m."""

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(f"crop '{self.crop}' is unknown; choose one of {', '.join(CROPS)}")
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(f"need 0 < min_depth < max_depth, got {self.min_depth} and {self.max_depth} m")


@dataclass(frozen=True, eq=False)
class DepthSample:
    """One image with its focal length and, where known, its depth."""

    name: str
    image: Image = field(repr=False)
    fx: float
    """Focal length of this image, px."""
    depth: Field | None = field(default=None, repr=False)
    """True depth along the optical axis, H x W m; the size may differ from the image's, not the shape."""
    pair: StereoSample | None = field(default=None, repr=False)
    """The stereo pair whose left image this is, if any: for stereo methods."""
    protocol: DepthProtocol = DepthProtocol()
    white: Callable[[], int] | None = field(default=None, repr=False)
    """Returns the white level of 16-bit images of all samples of a source; None: by the values of this one."""
    fy: float | None = None
    """Focal length along the columns, px, where pixels are not square; None: ``fx``."""

    def __post_init__(self) -> None:
        for focal in (self.fx, self.fx if self.fy is None else self.fy):
            if not focal > 0:
                raise FileError(f"{self.name}: focal length is {focal} px; give the camera's, a positive number")

    @classmethod
    def of_pair(cls, pair: StereoSample, protocol: DepthProtocol = DepthProtocol()) -> DepthSample:
        """Make a sample of the left image of a pair with a rig."""
        depth = pair.depth if pair.depth is not None or not pair.has_truth else cast(ArrayReader, pair.true_depth)
        rig = pair.require_rig()
        return cls(pair.name, pair.left, rig.fx, depth, pair, protocol, pair.white, rig.fy)

    @property
    def has_truth(self) -> bool:
        """Whether there is true depth."""
        return self.depth is not None

    def image_rgb(self) -> np.ndarray:
        """Read the image, uint8 RGB H x W x 3. Raises FileError where it cannot be read."""
        return _rgb(_eight_bits(self.name, self.white, read_pixels(self.image))[0])

    def truth(self) -> np.ndarray | None:
        """Read the true depth along the axis, float32 H x W m, NaN unknown; None: there is none. Raises FileError."""
        if self.depth is None:
            return None
        depth = np.asarray(_read(self.depth), dtype=np.float32)
        if depth.ndim != 2:
            raise FileError(f"{self.name}: true depth has the shape {depth.shape}; it is H x W")
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def frame_slice(text: str) -> slice:
    """Return the slice for ``FIRST:LAST``, as ``0:80`` or ``80:``; empty -> all. Raises ValueError: another form."""
    if not text:
        return slice(None)
    match = re.fullmatch(r"(-?\d+)?:(-?\d+)?", text.strip())
    if not match:
        raise ValueError(f"frames '{text}' are not FIRST:LAST, such as 0:80 (the last one not included)")
    return slice(*(int(number) if number else None for number in match.groups()))


def _read(source: Field) -> np.ndarray:
    return source if isinstance(source, np.ndarray) else source()


def read_pixels(image: Image) -> np.ndarray:
    """Read an image as its camera sends it, uint8 or uint16, H x W or H x W x 3 RGB. Raises FileError."""
    return read_camera_image(image) if isinstance(image, Path) else _read(image)


def sampled_white_level(sides: Sequence[Sequence[_T]], read: Callable[[_T], np.ndarray]) -> int:
    """Return the white level of 16-bit images by some of each side, spread evenly; 0: they have 8 bits."""
    level = 0
    for side in sides:
        for image in _spread(side):
            try:
                pixels = read(image)
            except ValueError:  # reported when the image is used
                continue
            if pixels.dtype != np.uint16:  # nor are the others
                break
            level = max(level, white_level(pixels))
    return level


def _spread(side: Sequence[_T]) -> Sequence[_T]:
    return side[:: max(1, len(side) // _WHITE_IMAGES)]


class SequenceWhite:
    """White level of the 16-bit images of one sequence, found when it is first called."""

    def __init__(self, *sides: Sequence[Image]) -> None:
        """Take the images of each camera; some of them are read, spread evenly (``sampled_white_level``)."""
        self._sides = [_spread(side) for side in sides]

    def __call__(self) -> int:
        """Return the level; 0: none of the images has 16 bits."""
        return self._level

    @cached_property
    def _level(self) -> int:
        return sampled_white_level(self._sides, read_pixels)


def _eight_bits(name: str, shared: Callable[[], int] | None, *images: np.ndarray) -> list[np.ndarray]:
    """Scale images of one moment to uint8, all with one white level: that which is ``shared`` with others, if any."""
    white = white_level(*images)
    if white and shared is not None:
        own, white = white, shared() or white
        if own > white:
            text = "%s: values need %d bits, but the other images seemed to have %d: what is brighter is clipped"
            _LOG.warning(text, name, own.bit_length(), white.bit_length())
    if white:
        _say_bits(white.bit_length())
    return [scaled_to_uint8(image, white) for image in images]


@cache
def _say_bits(bits: int) -> None:
    _LOG.info("images of 16 bits are taken to be of %d bits by their largest values", bits)


def _rgb(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image


def _of_one_size(images: Mapping[str, Image], rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Read two images, given by what an error calls them where they are no files."""
    first, second = map(read_pixels, images.values())
    if first.shape[:2] != second.shape[:2]:
        names = [str(image) if isinstance(image, Path) else name for name, image in images.items()]
        (h, w), (height, width) = first.shape[:2], second.shape[:2]
        raise FileError(f"{names[0]} is {w}x{h} pixels and {names[1]} {width}x{height}: {rule}")
    return first, second


def _field_of(name: str, what: str, source: Field, image: Image, rig: StereoRig | None = None) -> np.ndarray:
    """Read a field and check that it has the size of its image."""
    values = _read(source)
    if isinstance(image, Path):
        width, height = image_size(image)
    elif rig is not None:
        width, height = rig.width, rig.height
    else:
        height, width = _read(image).shape[:2]
    if values.shape[:2] != (height, width):
        raise FileError(
            f"{name}: {what} is {values.shape[1]}x{values.shape[0]} pixels and "
            f"{image if isinstance(image, Path) else 'its image'} {width}x{height}: they must agree"
        )
    return values
