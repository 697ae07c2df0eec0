"""Messages of a pair into rectified images and their rig."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo

from fg_depth_ros.data.io.formats import MONO16_WHITE
from fg_depth_ros.data.io.messages import LearnedWhite, MessageError, MessageFault, image_to_array
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.geometry.rectification import Rectification
from fg_depth_ros.nodes.common.rectifying import PairRectifier
from fg_depth_ros.nodes.common.synchronizing import StereoMessages


class StereoImages(NamedTuple):
    """Decoded, rectified images of one kind, uint8, both H x W or both H x W x 3 RGB, and their rig.

    Without a right image only the left camera of the rig is known.
    """

    left: np.ndarray
    right: np.ndarray | None
    rig: StereoRig
    left_info: Any
    """camera_info of ``left``, rectified as it is."""


class PairDecoder:
    """Decodes messages, checks their form (encodings, sizes, calibration) and rectifies raw images. Not thread-safe.

    ``topics``: input name -> resolved topic, for messages and for what they say of the images (``raw_sides``).
    """

    def __init__(self, topics: Mapping[str, str]) -> None:
        self._topics = topics
        self._rectifier = PairRectifier(topics)
        self._used: Rectification | None = None
        self._white = LearnedWhite()
        self.used_white = 0
        """White level of the newest images of 16 bits; 0 before the first ones."""

    @property
    def doubts(self) -> str | None:
        """What is unusual about the calibration of the newest pair."""
        return self._rectifier.doubts

    @property
    def white(self) -> int:
        """White level of 16-bit grey that was learned, 0 before the first such image."""
        return self._white.level

    @property
    def rectified_inside(self) -> str:
        """Which images of the newest pair were rectified here: yes (both), no, left only, right only."""
        left, right = (False, False) if self._used is None else self._used.sides
        return "yes" if left and right else "left only" if left else "right only" if right else "no"

    def decode(
        self, messages: StereoMessages, mono16_white: int | str = MONO16_WHITE, rectify: str = "auto"
    ) -> StereoImages:
        """Return images and rig; the same rig object until the calibration changes. Raises MessageError.

        ``mono16_white``: value of 16-bit grey that becomes 255; AUTO = learned from the images, and only ever raised.
        ``rectify``: whether to rectify (one of ``RECTIFY``).
        """
        if messages.right is not None:
            rectification = self._rectifier.for_pair(messages.left_info, messages.right_info, rectify)
        else:
            rectification = self._rectifier.for_left(messages.left_info, rectify)
        self._used, rig = rectification, rectification.rig
        white = None if isinstance(mono16_white, str) else mono16_white
        left = image_to_array(messages.left, self._topics["left/image_rect"], mono16_white=white)
        right = None
        if messages.right is not None:
            right = image_to_array(messages.right, self._topics["right/image_rect"], mono16_white=white)
            if left.shape[:2] != right.shape[:2]:
                raise MessageError(
                    MessageFault.IMAGE_SIZE,
                    f"{self._topics['left/image_rect']} is {_size(left)} pixels and "
                    f"{self._topics['right/image_rect']} {_size(right)}: both images of a rectified pair have one "
                    "size; set both cameras to the same resolution",
                )
        if white is None:  # one for both, or they would differ in brightness
            pair = [image for image in (left, right) if image is not None]
            left, *rest = self._white.to_uint8(*pair)
            right = rest[0] if rest else None
        self.used_white = self._white.level if white is None else white
        if right is not None and left.ndim != right.ndim:
            left, right = (cv2.cvtColor(i, cv2.COLOR_GRAY2RGB) if i.ndim == 2 else i for i in (left, right))
        if left.shape[:2] != (rig.height, rig.width):
            raise MessageError(
                MessageFault.IMAGE_SIZE,
                f"{self._topics['left/image_rect']} is {_size(left)} pixels, but {self._topics['left/camera_info']} "
                f"describes {rig.width}x{rig.height}: publish the camera_info of the resized image (scaled K and P, "
                "or binning and roi), or publish the image at its calibrated size",
            )
        left_info = _rectified_info(messages.left_info) if rectification.sides[0] else messages.left_info
        left = rectification.apply(left, 0)
        return StereoImages(left, None if right is None else rectification.apply(right, 1), rig, left_info)


def _rectified_info(info: CameraInfo) -> CameraInfo:
    """Return the camera_info of an image that was rectified by this one."""
    fields = {name: getattr(info, name) for name in info.get_fields_and_field_types()}
    matrix = np.asarray(info.p).reshape(3, 4)[:, :3]
    fields |= {"distortion_model": "plumb_bob", "d": np.zeros(5), "k": matrix.reshape(-1), "r": np.eye(3).reshape(-1)}
    return CameraInfo(**fields)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
