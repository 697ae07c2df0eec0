"""Image encodings of sensor_msgs: the memory layout behind each name, and conversion between them.

Conversions follow cv_bridge (`bayer_rggb8` is OpenCV's BayerBG, `yuv422` is UYVY, 8 <-> 16 bit scales by
257).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

_DEPTHS = {
    "8U": np.uint8,
    "8S": np.int8,
    "16U": np.uint16,
    "16S": np.int16,
    "32S": np.int32,
    "32F": np.float32,
    "64F": np.float64,
}
_GENERIC = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)(?:C([1-9][0-9]*))?")

_COLOURS = {"mono": 1, "rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}
_BAYER = {"bayer_rggb": "BG", "bayer_bggr": "RG", "bayer_gbrg": "GR", "bayer_grbg": "GB"}
_YUV = {"yuv422": "UYVY", "uyvy": "UYVY", "yuv422_yuy2": "YUY2", "yuyv": "YUY2"}


class EncodingError(ValueError):
    """An image whose encoding, step or size cannot be what it says; the message names the numbers."""


@dataclass(frozen=True)
class Layout:
    """How an encoding lies in memory. `colour` is the family (`rgb`, `bayer_rggb`, `uyvy`, ...), None for
    plain data.
    """

    dtype: np.dtype[Any]
    channels: int
    colour: str | None


def layout(encoding: str) -> Layout:
    """The layout of a sensor_msgs encoding name. Raises EncodingError for a name that is none."""
    if encoding in _YUV:
        return Layout(np.dtype(np.uint8), 2, encoding)
    for bits, dtype in (("8", np.uint8), ("16", np.uint16)):
        family = encoding.removesuffix(bits)
        if family != encoding and family in _COLOURS:
            return Layout(np.dtype(dtype), _COLOURS[family], family)
        if family != encoding and family in _BAYER:
            return Layout(np.dtype(dtype), 1, family)
    if match := _GENERIC.fullmatch(encoding):
        return Layout(np.dtype(_DEPTHS[match[1]]), int(match[2] or 1), None)
    raise EncodingError(f"encoding '{encoding}' is unknown")


def generic_name(dtype: np.dtype[Any], channels: int) -> str:
    """`8UC3` and the like. Raises EncodingError for a dtype that no encoding has."""
    for name, known in _DEPTHS.items():
        if dtype.newbyteorder("=") == np.dtype(known):
            return f"{name}C{channels}"
    raise EncodingError(f"an array of {dtype} has no image encoding: use one of {', '.join(_DEPTHS)}")


def view(message: Any) -> np.ndarray:
    """The pixels of a sensor_msgs/Image, H x W or H x W x C, in this machine's byte order.

    No copy is made unless the byte order has to be turned; the array then shares the message's memory.
    Raises EncodingError when encoding, width, height, step and the amount of data do not fit together.
    """
    form = layout(message.encoding)
    width, height, step, size = int(message.width), int(message.height), int(message.step), len(message.data)
    pixel = form.channels * form.dtype.itemsize
    if width == 0 or height == 0:
        raise EncodingError(f"the image is {width}x{height} pixels: it holds nothing")
    if step < width * pixel:
        raise EncodingError(
            f"step is {step} bytes, but a row of {width} {message.encoding} pixels takes {width * pixel}"
        )
    if size != height * step:
        found = "truncated" if size < height * step else "too long"
        raise EncodingError(
            f"the data is {found}: {size} bytes, but {height} rows of {step} bytes (step) are {height * step}"
        )
    if form.colour in _YUV and width % 2:
        raise EncodingError(f"width is {width}, but {message.encoding} stores pixels in pairs: it must be even")
    shape: tuple[int, ...] = (height, width)
    strides: tuple[int, ...] = (step, pixel)
    if form.channels > 1:
        shape, strides = (*shape, form.channels), (*strides, form.dtype.itemsize)
    order: Literal[">", "<"] = ">" if message.is_bigendian else "<"
    buffer = bytes(message.data) if isinstance(message.data, list) else message.data
    pixels: np.ndarray = np.ndarray(shape, form.dtype.newbyteorder(order), buffer, 0, strides)
    return pixels if pixels.dtype.isnative else pixels.astype(form.dtype)


def convert(pixels: np.ndarray, source: str, target: str) -> np.ndarray:
    """Pixels of encoding `source` as encoding `target`, as cv_bridge does it.

    Raises EncodingError when there is no such conversion.
    """
    if source == target:
        return pixels
    have, want = layout(source), layout(target)
    if have.colour is None or want.colour is None:
        if have.channels != want.channels or (have.colour is None and want.colour is not None):
            raise EncodingError(f"{source} cannot be converted to {target}")
        return _rescaled(pixels, want.dtype) if have.colour is not None else pixels.astype(want.dtype)
    if want.colour in _BAYER or want.colour in _YUV:
        raise EncodingError(f"{source} cannot be converted to {target}")
    if have.colour == want.colour:
        return _rescaled(pixels, want.dtype)
    return _rescaled(_recoloured(np.ascontiguousarray(pixels), have.colour, want.colour, source, target), want.dtype)


def _recoloured(pixels: np.ndarray, have: str, want: str, source: str, target: str) -> np.ndarray:
    goal = "GRAY" if want == "mono" else want.upper()
    if have in _BAYER:
        # OpenCV's demosaicing has no RGBA everywhere; RGB first, then the alpha channel.
        three = goal.removesuffix("A")
        out = cv2.cvtColor(pixels, getattr(cv2, f"COLOR_Bayer{_BAYER[have]}2{three}"))
        return out if three == goal else cv2.cvtColor(out, getattr(cv2, f"COLOR_{three}2{goal}"))
    begin = f"YUV2{goal}_{_YUV[have]}" if have in _YUV else f"{'GRAY' if have == 'mono' else have.upper()}2{goal}"
    code = getattr(cv2, f"COLOR_{begin}", None)
    if code is None:
        raise EncodingError(f"{source} cannot be converted to {target}")
    return cv2.cvtColor(pixels, code)


def _rescaled(pixels: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Full range to full range between 8 and 16 bits (0..255 and 0..65535), rounded."""
    if pixels.dtype == dtype:
        return pixels
    if pixels.dtype == np.uint16 and dtype == np.uint8:
        return scaled_to_uint8(pixels, 65535)
    if pixels.dtype == np.uint8 and dtype == np.uint16:
        return pixels.astype(np.uint16) * np.uint16(257)
    return pixels.astype(dtype)


def scaled_to_uint8(pixels: np.ndarray, white: int) -> np.ndarray:
    """uint16 pixels as uint8, `white` and everything above becoming 255 (rounded to nearest)."""
    return cv2.convertScaleAbs(pixels, alpha=255.0 / white)
