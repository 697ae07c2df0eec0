"""Is this a pair that depth can be had from? Every pair is checked for its form, now and then for its
content.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from fg_depth_ros.data.io.messages import MONO16_WHITE, MessageError, MessageFault, image_to_array
from fg_depth_ros.geometry import RigError, StereoRig
from fg_depth_ros.nodes.common.synchronizing import LeftView, Pair

# What the feature check needs before it dares to judge.
_MIN_MATCHES = 40
_SWAPPED_BELOW = 0.1  # share of matches on the right side of infinity
_VERTICAL_LIMIT_PX = 1.5
_RECHECK_SECONDS = 30.0


@dataclass(frozen=True)
class CheckedPair:
    """A pair that passed: uint8 images of one kind (both H x W, or both H x W x 3 RGB) and their rig."""

    left: np.ndarray
    right: np.ndarray
    rig: StereoRig


@dataclass(frozen=True)
class CheckedLeft:
    """A left image that passed, uint8 H x W or H x W x 3 RGB; of its rig only the left camera is known."""

    left: np.ndarray
    rig: StereoRig


@dataclass(frozen=True)
class Geometry:
    """What feature matches say about a pair. `vertical`: median row difference, px; None when too few
    matched.
    """

    matches: int
    in_front: float
    vertical: float | None


class PairChecker:
    """Turns a pair of messages into images and rig, or says what is wrong with it and what to do.

    `topic(input name)` gives the resolved name of an input. Not thread-safe (the worker owns it).
    """

    def __init__(self, topic: Callable[[str], str], *, compressed: bool = False) -> None:
        self.topic, self._compressed = topic, compressed
        self._rig_key: tuple[Any, ...] | None = None
        self._rig: StereoRig | None = None
        self._look_again = 0.0
        self.geometry: Geometry | None = None

    def check(self, pair: Pair, mono16_white: int = MONO16_WHITE) -> CheckedPair:
        """The pair's images and rig. Raises MessageError with the reason."""
        rig = self._rig_of(pair)
        decode = image_to_array
        topics = (self.topic("left/image_rect"), self.topic("right/image_rect"))
        left = decode(pair.left, topics[0], mono16_white=mono16_white)
        right = decode(pair.right, topics[1], mono16_white=mono16_white)
        if left.shape[:2] != right.shape[:2]:
            raise MessageError(
                MessageFault.IMAGE_SIZE,
                f"{topics[0]} is {_size(left)} pixels and {topics[1]} {_size(right)}: both images of a "
                "rectified pair have one size; set both cameras to the same resolution",
            )
        self._fits(left, rig)
        if left.ndim != right.ndim:
            left, right = (cv2.cvtColor(i, cv2.COLOR_GRAY2RGB) if i.ndim == 2 else i for i in (left, right))
        checked = CheckedPair(left, right, rig)
        if self._look_again == 0.0:
            self.look(checked)
        return checked

    def check_left(self, view: LeftView, mono16_white: int = MONO16_WHITE) -> CheckedLeft:
        """The left image of a moment without a right one. Raises MessageError with the reason."""
        decode = image_to_array
        topic = self.topic("left/camera_info")
        try:
            rig = StereoRig.from_camera_info(view.left_info, _any_right(view.left_info))
        except RigError as error:
            raise MessageError(MessageFault.CAMERA_INFO, f"{error} (from {topic})") from error
        left = decode(view.left, self.topic("left/image_rect"), mono16_white=mono16_white)
        self._fits(left, rig)
        return CheckedLeft(left, rig)

    def _fits(self, left: np.ndarray, rig: StereoRig) -> None:
        if left.shape[:2] != (rig.height, rig.width):
            raise MessageError(
                MessageFault.IMAGE_SIZE,
                f"{self.topic('left/image_rect')} is {_size(left)} pixels, but {self.topic('left/camera_info')} "
                f"describes {rig.width}x{rig.height}: publish the camera_info of the resized image (scaled K and P, "
                "or binning and roi), or publish the image at its calibrated size",
            )

    def _rig_of(self, pair: Pair) -> StereoRig:
        key = tuple(
            (
                *(i.width, i.height, *i.p, i.binning_x, i.binning_y),
                *(i.roi.x_offset, i.roi.y_offset, i.roi.width, i.roi.height),
            )
            for i in (pair.left_info, pair.right_info)
        )
        if self._rig is not None and key == self._rig_key:
            return self._rig
        self._rig, self._rig_key = None, key
        self._look_again = 0.0
        try:
            self._rig = StereoRig.from_camera_info(pair.left_info, pair.right_info)
        except RigError as error:
            names = f"{self.topic('left/camera_info')} and {self.topic('right/camera_info')}"
            raise MessageError(MessageFault.CAMERA_INFO, f"{error} (from {names})") from error
        return self._rig

    def look(self, pair: CheckedPair) -> None:
        """Look at the pictures themselves. It takes a while: `check` does it with the first pair of a rig, and
        with every pair as long as it finds them swapped; whoever has the time calls it again, and it does so
        every half minute.

        Raises MessageError when nearly every feature says that left and right are swapped.
        """
        if time.monotonic() < self._look_again:
            return
        self._look_again = 0.0
        self.geometry = feature_geometry(pair.left, pair.right, pair.rig.doffs)
        if self.geometry.matches >= _MIN_MATCHES and self.geometry.in_front < _SWAPPED_BELOW:
            raise MessageError(
                MessageFault.SWAPPED_CAMERAS,
                f"{self.topic('left/image_rect')} and {self.topic('right/image_rect')} seem to be "
                f"swapped: of {self.geometry.matches} matched features {self.geometry.in_front:.0%} move "
                "to the left from the left to the right image, as they must; exchange the two cameras' "
                "topics",
            )
        self._look_again = time.monotonic() + _RECHECK_SECONDS

    def rectification_problem(self) -> str | None:
        """Why the last look says that rows do not agree, or None."""
        vertical = self.geometry.vertical if self.geometry else None
        if vertical is None or abs(vertical) <= _VERTICAL_LIMIT_PX:
            return None
        return (
            f"features lie {vertical:+.1f} px lower in {self.topic('right/image_rect')} than in "
            f"{self.topic('left/image_rect')} (median; at most {_VERTICAL_LIMIT_PX} px is fine): publish "
            "rectified images, or calibrate the pair again"
        )

    def range_problem(self, rig: StereoRig, min_disparity: int) -> str | None:
        """Why far things are not searched, or None: infinity lies at an image disparity of ``-doffs``."""
        nearest_zero = rig.doffs + min_disparity
        if nearest_zero <= 1.0:
            return None
        return (
            f"nothing beyond {rig.fx * rig.baseline / nearest_zero:.1f} m is searched: the principal points of "
            f"{self.topic('left/camera_info')} and {self.topic('right/camera_info')} differ by {rig.doffs:.1f} px, "
            f"so infinity lies at {-rig.doffs:.1f} px and the search begins at {min_disparity}; set min_disparity to "
            f"{math.floor(-rig.doffs)} if the scene reaches farther"
        )


def feature_geometry(left: np.ndarray, right: np.ndarray, doffs: float) -> Geometry:
    """Match ORB features between two uint8 images (H x W or H x W x 3 RGB) of a pair with principal offset
    `doffs`.

    A point in front of both cameras has `d + doffs > 0`. Features count whose row differs by at most 3 % of
    the height, since a rectified pair's rows agree.
    """
    grey = [i if i.ndim == 2 else cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (left, right)]
    # So many pixels are plenty, and keep this within some ten milliseconds.
    scale = min(1.0, (200_000 / grey[0].size) ** 0.5)
    if scale < 1.0:
        grey = [cv2.resize(i, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for i in grey]
    orb = cv2.ORB.create(500)
    (points, marks), (others, other_marks) = (orb.detectAndCompute(np.ascontiguousarray(i), None) for i in grey)
    if marks is None or other_marks is None:
        return Geometry(0, 0.0, None)
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(marks, other_marks)
    moved = (
        np.array([np.subtract(points[m.queryIdx].pt, others[m.trainIdx].pt) for m in pairs if m.distance < 48]).reshape(
            -1, 2
        )
        / scale
    )
    on_row = moved[np.abs(moved[:, 1]) <= 0.03 * left.shape[0]]
    if len(on_row) == 0:
        return Geometry(0, 0.0, None)
    # Half a pixel: features are no better, and far points are everywhere near infinity.
    in_front = float(np.mean(on_row[:, 0] + doffs > -0.5))
    vertical = float(np.median(-on_row[:, 1])) if len(on_row) >= _MIN_MATCHES else None
    return Geometry(len(on_row), in_front, vertical)


def _any_right(left_info: Any) -> SimpleNamespace:
    """A right camera for a left one whose own is not known: the same, a metre beside it."""
    projection = list(left_info.p)
    projection[3] = -projection[0]
    fields = ("width", "height", "binning_x", "binning_y", "roi")
    return SimpleNamespace(p=projection, **{name: getattr(left_info, name) for name in fields})


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
