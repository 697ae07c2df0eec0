"""Rectification of the pairs on a node's topics, computed again when their calibration changes."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from fg_depth_ros.data.io.messages import MessageError, MessageFault
from fg_depth_ros.geometry import RigError, camera_info_doubts
from fg_depth_ros.geometry.rectification import Rectification, raw_sides

_NOTICEABLE = (0.01, 0.01, 1e-5, 1e-5)  # of P and K, px, and of R and D, which move a pixel about as far


class PairRectifier:
    """Gives the rectification that two camera_infos ask for; the same object until one changes noticeably.

    A camera that calibrates itself, or focuses, changes its numbers a little with every image. Not thread-safe.

    ``topics``: input name -> resolved topic, for messages and for what they say of the images (``raw_sides``).
    ``rectify`` of its functions is one of ``geometry.rectification.RECTIFY``.
    """

    def __init__(self, topics: Mapping[str, str]) -> None:
        self._topics = topics
        self._images = topics["left/image_rect"], topics["right/image_rect"]
        self._key: tuple[str, _Calibration, _Calibration] | None = None  # of the pair's, left camera first
        self._pair: Rectification | None = None
        self._left_key: tuple[str, _Calibration] | None = None  # of a left camera whose pair was not seen
        self._left: Rectification | None = None
        self.doubts: str | None = None
        """What is unusual about the calibration of the newest pair."""

    def for_pair(self, left: Any, right: Any, rectify: str) -> Rectification:
        """Return the rectification of a pair by its camera_infos. Raises MessageError, naming their topics."""
        key = (rectify, _Calibration(left), _Calibration(right))
        if self._pair is None or key != self._key:
            self._pair, self._key = None, key
            names = f"{self._topics['left/camera_info']} and {self._topics['right/camera_info']}"
            try:
                raw = raw_sides(left, right, self._images, rectify)
                self._pair = Rectification.from_camera_info(left, right, raw)
                doubts = camera_info_doubts(left, right, raw)
                self.doubts = f"{'; '.join(doubts)} (from {names})" if doubts else None
            except RigError as error:
                raise MessageError(MessageFault.CAMERA_INFO, f"{error} (from {names})") from error
        return self._pair

    def for_left(self, info: Any, rectify: str) -> Rectification:
        """Return the rectification of a left image alone: the pair's if known, else one from its own camera_info.

        Raises MessageError, naming its topic.
        """
        key = (rectify, _Calibration(info))
        if self._pair is not None and self._key is not None and key == self._key[:2]:
            return self._pair
        if self._left is None or key != self._left_key:
            self._left, self._left_key = None, key
            # For the right camera, which is not known, the same one a metre beside it.
            projection = list(info.p)
            projection[3] -= projection[0]
            fields = ("width", "height", "binning_x", "binning_y", "roi", "d", "r")
            right = SimpleNamespace(p=projection, **{name: getattr(info, name) for name in fields})
            try:
                raw = raw_sides(info, right, self._images, rectify)[0], False
                self._left = Rectification.from_camera_info(info, right, raw)
            except RigError as error:
                text = f"{error} (from {self._topics['left/camera_info']})"
                raise MessageError(MessageFault.CAMERA_INFO, text) from error
        return self._left


class _Calibration:
    """All that the rectification of a camera follows from; equal to one that differs by less than can be seen."""

    def __init__(self, info: Any) -> None:
        binning = info.binning_x, info.binning_y
        self._exact = (info.width, info.height, info.distortion_model, *binning, info.roi)
        self._numbers = [np.asarray(values, np.float64) for values in (info.p, info.k, info.r, info.d)]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Calibration)
            and self._exact == other._exact
            and all(
                mine.tobytes() == theirs.tobytes()  # nearly always, and NaN equals itself only there
                or (mine.shape == theirs.shape and np.allclose(mine, theirs, rtol=0.0, atol=limit, equal_nan=True))
                for mine, theirs, limit in zip(self._numbers, other._numbers, _NOTICEABLE, strict=True)
            )
        )
