"""The one place where image and cloud messages become arrays, and arrays fill image messages.

Messages are duck typed (fields of sensor_msgs), so the same code serves rclpy and bags that are read without ROS.
Images are H x W (x C). Invalid depth is NaN in floating point images (REP 117), 0 in millimetres (REP 118).
"""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import cv2
import numpy as np

from fg_depth_ros.data.io import compressed_depth
from fg_depth_ros.data.io.formats import (
    LARGEST_IMAGE,
    MONO16_WHITE,
    header_size,
    is_cut_off,
    scaled_to_uint8,
    white_level,
)
from fg_depth_ros.data.io.video_packets import VideoImage

_DEPTHS = {
    "8U": np.uint8, "8S": np.int8, "16U": np.uint16, "16S": np.int16, "32S": np.int32, "32F": np.float32,
    "64F": np.float64,
}  # fmt: skip
_GENERIC = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)(?:C([1-9][0-9]*))?")
_COLOURS = {"mono": 1, "rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}
_BAYER = {"bayer_rggb", "bayer_bggr", "bayer_gbrg", "bayer_grbg"}
_YUV = {"yuv422", "uyvy", "yuv422_yuy2", "yuyv"}
_PLANAR = {"nv12", "nv21"}  # the rows of grey values, then half as many rows of colours, for 2 x 2 pixels each

_GREY = ("mono8", "8UC1", "mono16", "16UC1")
# cv_bridge's conversions: OpenCV names a Bayer pattern by its second row, and plain 8UC3 is OpenCV's blue, green, red.
# yuv422 is UYVY and yuv422_yuy2 is YUYV; newer distributions name them uyvy and yuyv.
_TO_RGB = {
    "rgb8": None,
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,
    "rgb16": None,
    "bgr16": cv2.COLOR_BGR2RGB,
    "rgba16": cv2.COLOR_RGBA2RGB,
    "bgra16": cv2.COLOR_BGRA2RGB,
    "16UC3": cv2.COLOR_BGR2RGB,
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
    "bayer_rggb16": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr16": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg16": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg16": cv2.COLOR_BayerGB2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
}
_SAMPLED_ROWS = 8
# Standard deviation of colours, of 255, and times that of light: 5 to 20 and below 1 in images, 50 and 3 where the two
# are swapped.
_STRONG_COLOUR, _COLOUR_OVER_LIGHT = 24.0, 2.0
CAMERA_ENCODINGS = (*_GREY, *_TO_RGB)
"""Encodings that ``image_to_array`` takes."""
_PNG_LEVEL = 1
_FAST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL]
DEPTH_16UC1 = 65.535
"""Largest depth that 16UC1 holds, m."""


class MessageFault(str, Enum):
    """Fault of a message; a fixed value for programs."""

    UNKNOWN_ENCODING = "unknown encoding"
    MALFORMED_IMAGE = "malformed image"
    MALFORMED_CLOUD = "malformed cloud"
    IMAGE_SIZE = "image size"
    CAMERA_INFO = "camera_info"
    SWAPPED_CAMERAS = "swapped cameras"
    SWAPPED_PAIR = "swapped pair"

    __str__ = str.__str__


class MessageError(ValueError):
    """A message that cannot be used: ``reason`` for programs, the text for people."""

    def __init__(self, reason: MessageFault, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Layout:
    """Memory layout of an encoding. ``colour``: ``rgb``, ``bayer_rggb``, ``uyvy``, ...; None for plain data."""

    dtype: np.dtype[Any]
    channels: int
    colour: str | None


def layout(encoding: str) -> Layout:
    """Return the layout of a sensor_msgs encoding. Raises MessageError for an unknown name."""
    if encoding in _YUV:
        return Layout(np.dtype(np.uint8), 2, encoding)
    if encoding in _PLANAR:
        return Layout(np.dtype(np.uint8), 1, encoding)
    for bits, dtype in (("8", np.uint8), ("16", np.uint16)):
        family = encoding.removesuffix(bits)
        if family != encoding and (family in _COLOURS or family in _BAYER):
            return Layout(np.dtype(dtype), _COLOURS.get(family, 1), family)
    if match := _GENERIC.fullmatch(encoding):
        return Layout(np.dtype(_DEPTHS[match[1]]), int(match[2] or 1), None)
    raise MessageError(MessageFault.UNKNOWN_ENCODING, f"encoding '{encoding}' is unknown")


def stamp_ns(header: Any) -> int:
    """Return a header's stamp, ns."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


# ---- messages -> arrays ----------------------------------------------------------------------------------------------


def view(message: Any, topic: str = "image") -> np.ndarray:
    """Return the pixels of an Image, H x W or H x W x C, in this machine's byte order.

    Of nv12 and nv21 it is 3/2 H x W, as OpenCV takes them; ``height`` may count the rows of colours, or not.

    The array shares the message's memory unless the byte order has to be turned. Raises MessageError, naming ``topic``
    and the numbers, when encoding, width, height, step and the amount of data do not fit together.
    """
    form = layout(message.encoding)
    width, height, step, size = int(message.width), int(message.height), int(message.step), len(message.data)
    pixel, rows = form.channels * form.dtype.itemsize, height
    planar = form.colour in _PLANAR
    if planar and size != height * step:
        rows = height * 3 // 2
    problem = None
    if width == 0 or height == 0:
        problem = f"the image is {width}x{height} pixels: it holds nothing"
    elif step < width * pixel:
        problem = f"step is {step} bytes, but a row of {width} {message.encoding} pixels takes {width * pixel}"
    elif size != rows * step:
        found = "truncated" if size < rows * step else "too long"
        problem = f"the data is {found}: {size} bytes, but {rows} rows of {step} bytes (step) are {rows * step}"
    elif planar and rows % 3:
        problem = f"{rows} rows are none of {message.encoding}: of three, two hold grey values and one colours"
    elif (planar or form.colour in _YUV) and width % 2:
        problem = f"width is {width}, but {message.encoding} stores pixels in pairs: it must be even"
    if problem is not None:
        raise MessageError(MessageFault.MALFORMED_IMAGE, f"{topic}: {problem}; check the driver that publishes it")
    shape: tuple[int, ...] = (rows, width)
    strides: tuple[int, ...] = (step, pixel)
    if form.channels > 1:
        shape, strides = (*shape, form.channels), (*strides, form.dtype.itemsize)
    order: Literal[">", "<"] = ">" if message.is_bigendian else "<"
    buffer = bytes(message.data) if isinstance(message.data, list) else message.data
    pixels: np.ndarray = np.ndarray(shape, form.dtype.newbyteorder(order), buffer, 0, strides)
    return pixels if pixels.dtype.isnative else pixels.astype(form.dtype)


def image_to_array(message: Any, topic: str = "image", *, mono16_white: int | None = MONO16_WHITE) -> np.ndarray:
    """Return the pixels of a camera's Image, CompressedImage or VideoImage: uint8, H x W for grey or H x W x 3 RGB.

    They may share the message's memory. ``mono16_white``: value of 16-bit images that becomes 255, as larger ones do;
    None leaves those uint16. Raises MessageError, naming ``topic``: none of CAMERA_ENCODINGS, or data that is
    empty, cut off or does not fit the sizes.
    """
    if isinstance(message, VideoImage):
        return message.pixels()
    if not hasattr(message, "encoding"):
        return _decompressed(message, topic, mono16_white)
    encoding = message.encoding
    if encoding not in CAMERA_ENCODINGS:
        raise MessageError(
            MessageFault.UNKNOWN_ENCODING,
            f"{topic}: encoding '{encoding}' is not supported: let the driver send one of "
            f"{', '.join(CAMERA_ENCODINGS)}",
        )
    pixels = view(message, topic)
    if encoding in _YUV:
        _check_byte_order(pixels, encoding, topic)
    if (code := _TO_RGB.get(encoding)) is not None:
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), code)
    return pixels if mono16_white is None else scaled_to_uint8(pixels, mono16_white)


def _check_byte_order(pixels: np.ndarray, encoding: str, topic: str) -> None:
    """Raise MessageError where grey values and colours of a packed image (H x W x 2) seem to be swapped.

    A driver that names the wrong order of bytes gives an image that shows the colours as light: flat, and wrong.
    """
    grey_first = encoding in ("yuv422_yuy2", "yuyv")
    sample = pixels[::_SAMPLED_ROWS]
    grey, colour = sample[..., 0 if grey_first else 1], sample[:, ::2, 1 if grey_first else 0]
    light, hue = float(grey.std()), float(colour.std())
    if hue > _STRONG_COLOUR and hue > _COLOUR_OVER_LIGHT * light:
        other = "yuv422 (UYVY)" if grey_first else "yuv422_yuy2 (YUYV)"
        raise MessageError(
            MessageFault.MALFORMED_IMAGE,
            f"{topic}: colours vary more than light does (standard deviation {hue:.0f} and {light:.0f}): the bytes "
            f"seem to be in the order of {other}, and not of {encoding}; check the pixel format of the driver",
        )


def _decompressed(message: Any, topic: str, mono16_white: int | None) -> np.ndarray:
    data = np.frombuffer(message.data, dtype=np.uint8)
    what = f"{topic}: the compressed image ({data.size} bytes, format '{message.format}')"
    if is_cut_off(data.tobytes()):
        raise MessageError(
            MessageFault.MALFORMED_IMAGE, f"{what} is cut off before its end; check the publisher and the network"
        )
    width, height = header_size(io.BytesIO(data.data)) or (0, 0)
    if width * height > LARGEST_IMAGE:
        raise MessageError(
            MessageFault.MALFORMED_IMAGE,
            f"{what} claims {width}x{height} pixels, and at most {LARGEST_IMAGE} are decoded; check the publisher",
        )
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if width else None
    if pixels is None:
        raise MessageError(
            MessageFault.MALFORMED_IMAGE,
            f"{what} is no JPEG or PNG image; check that the publisher uses the compressed image transport",
        )
    if pixels.dtype == np.uint16 and mono16_white is not None:
        pixels = scaled_to_uint8(pixels, mono16_white)
    if pixels.ndim == 2:
        encoding = message.format.partition(";")[0].strip()
        code = _TO_RGB.get(encoding) if encoding.startswith("bayer") else None
        return pixels if code is None else cv2.cvtColor(pixels, code)  # image_transport compresses it as it is
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


class LearnedWhite:
    """White level of a camera's 16-bit grey images, learned from their values and only ever raised. Not thread-safe."""

    level = 0
    """The level so far; 0 before the first such image."""

    def to_uint8(self, *images: np.ndarray) -> list[np.ndarray]:
        """Scale images of one moment (uint16) to uint8 with one level; those of uint8 stay as they are."""
        self.level = max(self.level, white_level(*images))
        return [scaled_to_uint8(image, self.level) for image in images]


def float_array(message: Any, topic: str = "image") -> np.ndarray:
    """Return a 32FC1 (H x W) or 32FC2 (H x W x 2) image as float32. Raises MessageError for anything else."""
    if message.encoding not in ("32FC1", "32FC2"):
        raise MessageError(
            MessageFault.UNKNOWN_ENCODING, f"{topic}: encoding is '{message.encoding}', 32FC1 or 32FC2 was expected"
        )
    return view(message, topic)


def depth_to_array(message: Any, topic: str = "depth") -> np.ndarray:
    """Return a depth image (REP 118) as float32 m, H x W, NaN where invalid.

    It holds metres (32FC1) or millimetres (16UC1 or mono16), in an Image or in a CompressedImage of
    compressed_depth_image_transport; or a DisparityImage, whose depth is ``f * T / d`` by its own fields. Raises
    MessageError, naming ``topic``: another encoding, data that is damaged or does not fit the sizes, or f or T not
    above 0.
    """
    if hasattr(message, "min_disparity"):
        return _depth_of_disparity(message, topic)
    if not hasattr(message, "encoding"):
        values = _decompressed_depth(message, topic)
        return values if values.dtype == np.float32 else _metres(values)
    if message.encoding not in ("32FC1", "16UC1", "mono16"):
        raise MessageError(
            MessageFault.UNKNOWN_ENCODING,
            f"{topic}: encoding '{message.encoding}' is no depth image: 32FC1 (metres) and 16UC1 (mm) are",
        )
    values = view(message, topic)
    return values if message.encoding == "32FC1" else _metres(values)


def disparity_to_array(message: Any, topic: str = "disparity") -> np.ndarray:
    """Return the values of a DisparityImage, ``x_left - x_right - (cx_left - cx_right)``: float32 px, H x W.

    NaN where they are outside its own range, which is how holes are marked. Raises MessageError, naming ``topic``.
    """
    values = float_array(message.image, topic)
    answered = (values >= message.min_disparity) & (values <= message.max_disparity)
    return np.where(answered, values, np.float32(np.nan))


def _depth_of_disparity(message: Any, topic: str) -> np.ndarray:
    focal, baseline = float(message.f), float(message.t)
    if not (focal > 0 and baseline > 0):
        raise MessageError(
            MessageFault.MALFORMED_IMAGE,
            f"{topic}: the DisparityImage has f = {focal:g} px and T = {baseline:g} m, and its depth is f * T / d: let "
            "its publisher fill both",
        )
    disparity = disparity_to_array(message, topic)
    return np.float32(focal * baseline) / np.where(disparity > 0, disparity, np.float32(np.nan))


def _metres(millimetres: np.ndarray) -> np.ndarray:
    return np.where(millimetres > 0, millimetres.astype(np.float32) * np.float32(0.001), np.float32(np.nan))


def _decompressed_depth(message: Any, topic: str) -> np.ndarray:
    data = np.frombuffer(message.data, dtype=np.uint8)
    try:
        return compressed_depth.decode(data, message.format)
    except ValueError as error:
        raise MessageError(
            MessageFault.MALFORMED_IMAGE,
            f"{topic}: the compressed depth image ({data.size} bytes, format '{message.format}') cannot be read: "
            f"{error}; check that its publisher uses compressed_depth_image_transport, and the network",
        ) from error


def cloud_to_arrays(message: Any, topic: str = "points2") -> tuple[np.ndarray, np.ndarray]:
    """Return points (H x W x 3 float32 m, NaN invalid) and colours (uint8 RGB) of a PointCloud2 with x, y, z and rgb.

    Raises MessageError: a field is missing, or the data does not fit the sizes.
    """
    offsets = {field.name: field.offset for field in message.fields}
    if not {"x", "y", "z", "rgb"} <= offsets.keys():
        raise MessageError(
            MessageFault.MALFORMED_CLOUD, f"{topic}: fields are {sorted(offsets)}: x, y, z and rgb are needed"
        )
    height, width, step = message.height, message.width, message.point_step
    if len(message.data) != height * message.row_step or message.row_step < width * step:
        raise MessageError(
            MessageFault.MALFORMED_CLOUD,
            f"{topic}: {len(message.data)} bytes do not hold {height} rows of {message.row_step} bytes "
            f"({width} points of {step})",
        )
    order = ">" if message.is_bigendian else "<"

    def field(name: str, dtype: str) -> np.ndarray:
        strides = (message.row_step, step)
        return np.ndarray((height, width), order + dtype, message.data, offsets[name], strides)

    points = np.stack([field(name, "f4") for name in "xyz"], axis=-1).astype(np.float32)
    packed = field("rgb", "u4")
    return points, np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)


# ---- arrays -> messages ----------------------------------------------------------------------------------------------


def fill_image(message: Any, array: np.ndarray, encoding: str, header: Any = None) -> Any:
    """Fill an empty Image of rclpy with H x W (x C); return it. Raises ValueError: array and encoding do not fit."""
    form = layout(encoding)
    channels = 1 if array.ndim == 2 else array.shape[2]
    if array.ndim not in (2, 3) or array.dtype != form.dtype or channels != form.channels:
        raise ValueError(
            f"an array of {array.dtype} {array.shape} is no {encoding} image: it takes {form.dtype} with "
            f"{form.channels} channel(s)"
        )
    if header is not None:
        message.header = header
    message.height, message.width = array.shape[:2]
    message.encoding = encoding
    message.is_bigendian = int(sys.byteorder == "big")
    message.step = message.width * channels * form.dtype.itemsize
    fill_data(message, array)
    return message


def fill_depth(message: Any, depth: np.ndarray, encoding: str, header: Any = None) -> Any:
    """Fill an empty Image of rclpy with depth, H x W float32 m, NaN where invalid; return it.

    ``encoding``: 32FC1, or 16UC1 millimetres with 0 for what is invalid or beyond 65.535 m (REP 118).
    """
    if encoding == "16UC1":
        millimetres = np.rint(depth * np.float32(1000.0))
        millimetres = np.where((millimetres >= 1) & (millimetres <= 65535), millimetres, 0)
        return fill_image(message, millimetres.astype(np.uint16), encoding, header)
    return fill_image(message, np.ascontiguousarray(depth, dtype=np.float32), encoding, header)


def fill_compressed(message: Any, image: Any, jpeg_quality: int | None = None) -> Any:
    """Fill an empty CompressedImage of rclpy with an Image as on ``<topic>/compressed`` of image_transport; return it.

    ``image``: mono8, 8UC1 or rgb8. ``jpeg_quality``: 1 to 100; None = PNG, lossless.
    """
    pixels, colour = view(image), image.encoding == "rgb8"
    kind, options = ("png", _FAST_PNG) if jpeg_quality is None else ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if colour else pixels
    message.header = image.header
    message.format = f"{image.encoding}; {kind} compressed {'bgr8' if colour else image.encoding}"
    fill_data(message, cv2.imencode(f".{kind}", bgr, options)[1])
    return message


def fill_compressed_depth(message: Any, image: Any, nearest: float, farthest: float) -> Any:
    """Fill an empty CompressedImage of rclpy with a depth Image as on ``<topic>/compressedDepth``; return it.

    Of 16UC1 every value is kept. Of 32FC1 depth from ``nearest`` to ``farthest``, m, is, to a step of
    ``DepthQuantisation.between``; everything else becomes invalid.
    """
    values = view(image)
    if image.encoding == "32FC1":
        steps = compressed_depth.DepthQuantisation.between(nearest, farthest)
        data = compressed_depth.encode_metres(values, steps, _PNG_LEVEL)
    else:
        data = compressed_depth.encode_millimetres(values, _PNG_LEVEL)
    message.header = image.header
    message.format = f"{image.encoding}; compressedDepth png"
    fill_data(message, np.frombuffer(data, np.uint8))
    return message


def fill_data(message: Any, array: np.ndarray) -> None:
    """Fill ``message.data`` (an ``array.array``) with the bytes of an array."""
    # frombytes copies the block; assigning the array would check every element (2000 times slower).
    del message.data[:]
    if array.size:
        message.data.frombytes(np.ascontiguousarray(array).data.cast("B"))
