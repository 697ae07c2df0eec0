"""Drop-in for `cv_bridge` (Python part): the same class, methods and errors, on NumPy and OpenCV alone.

Differences to upstream, all of them defects there: works with NumPy 2 on images of the other byte order,
checks step and size before reading, and a compressed image that cannot be decoded raises instead of returning
None.
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import sensor_msgs.msg

from fg_depth_ros.compat import encodings


class CvBridgeError(TypeError):
    """Raised by CvBridge's methods when a conversion is not possible."""


class CvBridge:
    """Converts between OpenCV images (NumPy arrays) and the image messages of sensor_msgs."""

    def encoding_to_cvtype2(self, encoding: str) -> int:
        """OpenCV's type code (`cv2.CV_8UC3`, ...) of an encoding."""
        form = _layout(encoding)
        depth = encodings.generic_name(form.dtype, 1).removesuffix("1")
        return int(getattr(cv2, f"CV_{depth}")(form.channels))

    def cvtype2_to_dtype_with_channels(self, cvtype: int) -> tuple[str, int]:
        """Name of the NumPy dtype and number of channels of an OpenCV type code."""
        for depth in ("8U", "8S", "16U", "16S", "32S", "32F", "64F"):
            for channels in range(1, 5):
                if getattr(cv2, f"CV_{depth}C{channels}") == cvtype:
                    return _layout(f"{depth}C{channels}").dtype.name, channels
        raise CvBridgeError(f"OpenCV type {cvtype} is unknown")

    def encoding_to_dtype_with_channels(self, encoding: str) -> tuple[str, int]:
        """Name of the NumPy dtype and number of channels of an encoding."""
        form = _layout(encoding)
        return form.dtype.name, form.channels

    def dtype_with_channels_to_cvtype2(self, dtype: np.dtype[Any], n_channels: int) -> str:
        """Generic encoding (`8UC3`, ...) of an array's dtype and channels."""
        try:
            return encodings.generic_name(np.dtype(dtype), n_channels)
        except encodings.EncodingError as error:
            raise CvBridgeError(str(error)) from error

    def imgmsg_to_cv2(self, img_msg: Any, desired_encoding: str = "passthrough") -> np.ndarray:
        """Pixels of a sensor_msgs/Image: H x W for one channel, else H x W x C; an own copy, native byte
        order.

        Raises CvBridgeError for an unknown encoding, data that does not fit, and impossible conversions.
        """
        try:
            pixels = encodings.view(img_msg)
            if desired_encoding != "passthrough":
                pixels = encodings.convert(pixels, img_msg.encoding, desired_encoding)
        except encodings.EncodingError as error:
            raise CvBridgeError(str(error)) from error
        return np.array(pixels, order="C") if _shares(pixels, img_msg) else np.ascontiguousarray(pixels)

    def compressed_imgmsg_to_cv2(self, cmprs_img_msg: Any, desired_encoding: str = "passthrough") -> np.ndarray:
        """Pixels of a sensor_msgs/CompressedImage, as stored (BGR order for colour) or in `desired_encoding`.

        Raises CvBridgeError when the data cannot be decoded or converted.
        """
        data = np.frombuffer(bytes(cmprs_img_msg.data), dtype=np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
        if pixels is None:
            raise CvBridgeError(f"{data.size} bytes of format '{cmprs_img_msg.format}' cannot be decoded")
        if desired_encoding == "passthrough":
            return pixels
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        family = {1: "mono", 3: "bgr", 4: "bgra"}[channels]
        try:
            return encodings.convert(pixels, f"{family}{pixels.dtype.itemsize * 8}", desired_encoding)
        except encodings.EncodingError as error:
            raise CvBridgeError(str(error)) from error

    def cv2_to_imgmsg(self, cvim: np.ndarray, encoding: str = "passthrough", header: Any = None) -> Any:
        """A sensor_msgs/Image with the pixels of an H x W or H x W x C array.

        Raises TypeError for what is no array, CvBridgeError when the array is not of that encoding.
        """
        kind = self.dtype_with_channels_to_cvtype2(_array(cvim).dtype, _channels(cvim))
        if encoding == "passthrough":
            encoding = kind
        elif (form := _layout(encoding)) and encodings.generic_name(form.dtype, form.channels) != kind:
            raise CvBridgeError(f"encoding specified as {encoding}, but image has incompatible type {kind}")
        message = sensor_msgs.msg.Image(height=cvim.shape[0], width=cvim.shape[1], encoding=encoding)
        if header is not None:
            message.header = header
        order = cvim.dtype.byteorder
        message.is_bigendian = int(order == ">" or (order == "=" and sys.byteorder == "big"))
        message.step = cvim.shape[1] * _channels(cvim) * cvim.dtype.itemsize
        message.data.frombytes(np.ascontiguousarray(cvim).tobytes())
        return message

    def cv2_to_compressed_imgmsg(self, cvim: np.ndarray, dst_format: str = "jpg") -> Any:
        """A sensor_msgs/CompressedImage in `dst_format` (a file name extension that OpenCV can write).

        Raises TypeError for what is no array, CvBridgeError when the format cannot hold it.
        """
        try:
            done, data = cv2.imencode(f".{dst_format}", _array(cvim))
        except cv2.error as error:
            raise CvBridgeError(f"cannot encode {cvim.dtype} {cvim.shape} as {dst_format}: {error}") from error
        if not done:
            raise CvBridgeError(f"cannot encode {cvim.dtype} {cvim.shape} as {dst_format}")
        message = sensor_msgs.msg.CompressedImage(format=dst_format)
        message.data.frombytes(data.tobytes())
        return message


def _layout(encoding: str) -> encodings.Layout:
    try:
        return encodings.layout(encoding)
    except encodings.EncodingError as error:
        raise CvBridgeError(str(error)) from error


def _array(image: Any) -> np.ndarray:
    if not isinstance(image, (np.ndarray, np.generic)):
        raise TypeError(f"a {type(image).__name__} is no NumPy array")
    return np.asarray(image)


def _channels(image: np.ndarray) -> int:
    return 1 if image.ndim == 2 else image.shape[2]


def _shares(pixels: np.ndarray, message: Any) -> bool:
    return isinstance(message.data, list) or np.may_share_memory(pixels, np.frombuffer(message.data, dtype=np.uint8))
