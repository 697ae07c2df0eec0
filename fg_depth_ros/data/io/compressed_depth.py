"""Depth images as ``compressed_depth_image_transport`` sends them: ``<topic>/compressedDepth``, a CompressedImage.

The data begins with a header of 12 bytes: int32 kind (0), float32 A, float32 B, little-endian. A PNG of 16 bits
follows, or RVL (Wilson, "Fast Lossless Depth Image Compression", ISS 2017) after its width and height (uint32 each).
16UC1 lies there as it is, lossless. Metres (32FC1) are quantised inverse depth, ``q = A / Z + B``, with 0 for invalid.
"""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

import cv2
import numpy as np

from fg_depth_ros.data.io.formats import LARGEST_IMAGE, header_size

SUFFIX = "/compressedDepth"
_HEADER = struct.Struct("<iff")
_SIZE = struct.Struct("<II")  # width, height before RVL
_LAST = 65535
_NIBBLES = np.arange(28, -4, -4, dtype=np.uint32)  # shifts, the first nibble of a word in its highest bits


class DepthQuantisation(NamedTuple):
    """``q = A / Z + B`` of metres; ``between`` spreads q over 1 to 65535."""

    a: float
    b: float

    @classmethod
    def between(cls, nearest: float, farthest: float) -> DepthQuantisation:
        """Return the finest one for depths from ``nearest`` to ``farthest``, m, 0 < nearest < farthest.

        Steps are equal in inverse depth, as those of disparity are: Z is wrong by at most
        ``Z ** 2 / (2 * (A - Z / 2))``, with ``A`` of about 65534 times ``nearest``: for a range of 0.1 to 80 m 0.08 mm
        at 1 m and 8 mm at 10 m.
        """
        a = float(np.float32((_LAST - 1) / (1 / nearest - 1 / farthest)))
        return cls(a, float(np.float32(1 - a / farthest)))


def encode_millimetres(depth: np.ndarray, png_level: int) -> bytes:
    """Return H x W uint16 mm, 0 invalid, as the data of a ``16UC1; compressedDepth png``; lossless."""
    return _HEADER.pack(0, 0.0, 0.0) + _png(depth, png_level)


def encode_metres(depth: np.ndarray, quantisation: DepthQuantisation, png_level: int) -> bytes:
    """Return H x W float32 m as the data of a ``32FC1; compressedDepth png``.

    What is invalid, not above 0, or outside the range of the quantisation becomes invalid (NaN when it is decoded).
    """
    a, b = np.float32(quantisation.a), np.float32(quantisation.b)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.rint(a / depth + b)
        inside = (depth > 0) & (steps >= 1) & (steps <= _LAST)
    quantised = np.where(inside, steps, 0).astype(np.uint16)
    return _HEADER.pack(0, float(a), float(b)) + _png(quantised, png_level)


def decode(data: np.ndarray, form: str) -> np.ndarray:
    """Return the depth image of a message's data (uint8) and format string, H x W.

    Of 16UC1 uint16 mm, 0 invalid; of 32FC1 float32 m, NaN invalid. Older senders name no compression, which is PNG.

    Raises ValueError, saying what is wrong: another encoding or compression, or data that is cut off or damaged.
    """
    encoding, _, rest = form.partition(";")
    words = rest.split()
    encoding, packing = encoding.strip(), words[1] if len(words) > 1 else "png"
    if encoding not in ("16UC1", "mono16", "32FC1") or (words and words[0] != "compressedDepth"):
        raise ValueError("its format is no '16UC1; compressedDepth png' and no '32FC1; compressedDepth png'")
    if packing not in ("png", "rvl"):
        raise ValueError(f"it is packed as '{packing}', and png and rvl are read")
    if data.size <= _HEADER.size:
        raise ValueError("it is shorter than its header")
    _, a, b = _HEADER.unpack_from(data.data)
    stored = _from_png(data[_HEADER.size :]) if packing == "png" else _from_rvl(data[_HEADER.size :])
    if encoding != "32FC1":
        return stored
    if not (np.isfinite(a) and np.isfinite(b) and a > 0):
        raise ValueError(f"its header has the quantisation A = {a:g}, B = {b:g}")
    with np.errstate(divide="ignore"):
        metres = np.float32(a) / (stored.astype(np.float32) - np.float32(b))
    return np.where((stored > 0) & (metres > 0) & np.isfinite(metres), metres, np.float32(np.nan))


def _png(values: np.ndarray, level: int) -> bytes:
    done, data = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, level])
    if not done:
        raise ValueError(f"an array of {values.dtype} {values.shape} is no depth image")
    return data.tobytes()


def _from_png(data: np.ndarray) -> np.ndarray:
    _check_size(*(header_size(io.BytesIO(data.data)) or (0, 0)))
    if b"IEND" not in data[-64:].tobytes():  # OpenCV decodes what is there, and leaves the rest 0
        raise ValueError("its PNG is cut off before its end")
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise ValueError("its PNG is damaged, or has no 16 bits")
    return pixels


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= LARGEST_IMAGE:
        raise ValueError(f"it claims {width}x{height} pixels, and 1 to {LARGEST_IMAGE} are decoded")


def _from_rvl(data: np.ndarray) -> np.ndarray:
    """Decode RVL: numbers in nibbles, the lowest three bits first and a bit for "more"; four bytes hold eight nibbles.

    They are, again and again until the image is full: how many zeros, how many other values, and of each of these the
    difference from the one before, its sign in the lowest bit.
    """
    if data.size < _SIZE.size:
        raise ValueError("it is shorter than the size of its image")
    width, height = _SIZE.unpack_from(data.data)
    _check_size(width, height)
    words = data[_SIZE.size : _SIZE.size + (data.size - _SIZE.size) // 4 * 4].copy().view("<u4")
    nibbles = ((words[:, None] >> _NIBBLES) & np.uint32(15)).reshape(-1)
    last = np.flatnonzero(nibbles < 8)  # of each number
    if not last.size:
        raise ValueError("its RVL is cut off")
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(last[-1] + 1) - np.repeat(first, last - first + 1)
    if place.max() > 9:
        raise ValueError("its RVL is damaged: a number has more than 30 bits")
    numbers = np.add.reduceat((nibbles[: last[-1] + 1] & 7).astype(np.int64) << (3 * place), first)
    pixels, previous = np.zeros(width * height, np.uint16), 0
    at, done = 0, 0
    while done < pixels.size:
        if at + 1 >= numbers.size:
            raise ValueError("its RVL is cut off")
        done, count = done + int(numbers[at]), int(numbers[at + 1])
        coded = numbers[at + 2 : at + 2 + count]
        if done + count > pixels.size or coded.size < count or (not count and done < pixels.size):
            raise ValueError("its RVL is damaged or cut off")
        values = previous + np.cumsum((coded >> 1) ^ -(coded & 1))
        if count:
            previous = int(values[-1])
        pixels[done : done + count] = values.astype(np.uint16)
        at, done = at + 2 + count, done + count
    return pixels.reshape(height, width)
