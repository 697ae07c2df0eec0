"""Pixels of a camera's image messages, whoever read them: rclpy, or rosbags without ROS.

Messages are duck typed (fields of sensor_msgs/Image and sensor_msgs/CompressedImage). Images are H x W (x C).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from fg_depth_ros.data.io import encodings

CAMERA_ENCODINGS: dict[str, str] = {
    **dict.fromkeys(("mono8", "8UC1"), "grey"),
    "mono16": "grey",
    # Plain three-channel images are OpenCV's, and OpenCV's colours are in the order blue, green, red.
    **dict.fromkeys(("rgb8", "bgr8", "rgba8", "bgra8", "8UC3"), "colour"),
    **dict.fromkeys(("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"), "colour"),
    # yuv422 is UYVY, yuv422_yuy2 is YUYV; newer distributions name them uyvy and yuyv.
    **dict.fromkeys(("yuv422", "yuv422_yuy2", "uyvy", "yuyv"), "colour"),
}
"""Encodings that a camera may send, and what the array becomes."""
MONO16_WHITE = 65535


class MessageError(ValueError):
    """A message that cannot be used. `reason` is a short key for counting, the text says what to do."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def image_to_array(message: Any, topic: str = "image", *, mono16_white: int = MONO16_WHITE) -> np.ndarray:
    """Pixels of a camera's Image: uint8, H x W for grey or H x W x 3 RGB. May share the message's memory.

    `mono16_white` is the value of a mono16 image that becomes 255 (larger ones too).
    Raises MessageError (naming `topic` and the numbers) for an encoding that is not in CAMERA_ENCODINGS and
    for width, height, step and data that do not fit together.
    """
    encoding = message.encoding
    kind = CAMERA_ENCODINGS.get(encoding)
    if kind is None:
        raise MessageError(
            "unknown encoding",
            f"{topic}: encoding '{encoding}' is not supported: let the driver send one of "
            f"{', '.join(CAMERA_ENCODINGS)}",
        )
    try:
        pixels = encodings.view(message)
        if encoding == "mono16":
            return encodings.scaled_to_uint8(pixels, mono16_white)
        if kind == "grey" or encoding == "rgb8":
            return pixels
        return encodings.convert(pixels, "bgr8" if encoding == "8UC3" else encoding, "rgb8")
    except encodings.EncodingError as error:
        raise MessageError("malformed image", f"{topic}: {error}; check the driver that publishes it") from error


def float_array(message: Any, topic: str = "image") -> np.ndarray:
    """A 32FC1 (H x W) or 32FC2 (H x W x 2) image as float32. Raises MessageError for anything else."""
    if message.encoding not in ("32FC1", "32FC2"):
        raise MessageError(
            "unknown encoding", f"{topic}: encoding is '{message.encoding}', 32FC1 or 32FC2 was expected"
        )
    return _view(message, topic)


def depth_to_array(message: Any, topic: str = "depth") -> np.ndarray:
    """A depth image (REP 118: 32FC1 metres, or 16UC1 or mono16 millimetres) as float32 metres H x W, NaN
    invalid.

    Raises MessageError for another encoding and for data that does not fit.
    """
    if message.encoding not in ("32FC1", "16UC1", "mono16"):
        raise MessageError(
            "unknown encoding",
            f"{topic}: encoding '{message.encoding}' is no depth image: 32FC1 (metres) and 16UC1 (mm) are",
        )
    values = _view(message, topic)
    if message.encoding == "32FC1":
        return values
    return np.where(values > 0, values.astype(np.float32) * np.float32(0.001), np.float32(np.nan))


def compressed_to_array(message: Any, topic: str = "image", *, mono16_white: int = MONO16_WHITE) -> np.ndarray:
    """Pixels of a JPEG or PNG CompressedImage, as image_to_array gives them.

    Raises MessageError (naming `topic`) when the data is empty, cut off or no image.
    """
    data = np.frombuffer(message.data, dtype=np.uint8)
    if _cut_off(data):
        raise MessageError(
            "malformed image",
            f"{topic}: the compressed image ({data.size} bytes, format '{message.format}') is cut off "
            "before its end; check the publisher and the network",
        )
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if pixels is None:
        raise MessageError(
            "malformed image",
            f"{topic}: {data.size} bytes of format '{message.format}' are no JPEG or PNG image; check that "
            "the publisher uses the compressed image transport",
        )
    if pixels.dtype == np.uint16:
        pixels = encodings.scaled_to_uint8(pixels, mono16_white if pixels.ndim == 2 else MONO16_WHITE)
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _cut_off(data: np.ndarray) -> bool:
    """Whether a JPEG or PNG stream lacks its end mark. OpenCV decodes such a stream to a picture that is
    part grey.
    """
    head, tail = data[:4].tobytes(), data[-64:].tobytes()
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    return head == b"\x89PNG" and b"IEND" not in tail


def _view(message: Any, topic: str) -> np.ndarray:
    try:
        return encodings.view(message)
    except encodings.EncodingError as error:
        raise MessageError("malformed image", f"{topic}: {error}") from error
