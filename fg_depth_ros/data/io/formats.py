"""Readers and writers of the file formats that stereo and flow data come in.

Everything is H x W (x C), rows top-down, numpy. "Unknown" is NaN in memory, whatever the file uses for it.
Images are read as they are stored: an orientation in their metadata, which calibrations do not know, is not applied.
A reader raises FileError naming the file, what is wrong with it and what to do. A file that is written appears under
its name when it is complete, and WriteError says why it is not.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import cv2
import numpy as np

from fg_depth_ros.files import FileError, atomic_write, open_file, read_bytes

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"}
_FLO_MAGIC = 202021.25
_FLO_UNKNOWN = 1e9  # Middlebury: a flow component beyond this is unknown
_FLO_UNKNOWN_WRITTEN = 1.6666667e9
_NO_IMAGE = "is no image, or a damaged one; give a PNG or JPEG, or fetch it again"
_LARGEST_SIDE = 100_000  # a header that claims more is a damaged header
_AFTER_END = 4096  # bytes that a camera may append to the end mark of an image, without zeros
LARGEST_IMAGE = 1 << 26
"""Pixels of the largest image that is decoded (67 megapixels): its pixels take at most 0.6 GB."""
MONO16_WHITE = 65535
_WHITE_LEVELS = (1023, 4095, 16383, MONO16_WHITE)
_HEADERS = Lock()  # around what Pillow keeps for a whole process


def read_image(path: str | Path) -> np.ndarray:
    """Read an image by OpenCV, uint8 RGB HxWx3 (grey is repeated, alpha dropped; 16 bits by ``white_level``)."""
    image = read_camera_image(path)
    return scaled_to_uint8(image, white_level(image))


def read_camera_image(path: str | Path) -> np.ndarray:
    """Read an image by OpenCV, RGB HxWx3: uint8, or uint16 where it has 16 bits (grey is repeated, alpha dropped).

    Both images of a pair are to be scaled by one ``white_level``.
    """
    decoded = _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded.dtype not in (np.uint8, np.uint16):
        raise FileError(f"{path}: its pixels are {decoded.dtype}, and those of a camera have 8 or 16 bits; convert it")
    return np.ascontiguousarray(decoded[:, :, ::-1])


def white_level(*images: np.ndarray) -> int:
    """Return the largest value of the camera's bits (10, 12, 14 or 16) that hold all values of 16-bit images.

    Those of uint8 do not count; 0 without any other.
    """
    largest = [int(image.max()) for image in images if image.dtype == np.uint16 and image.size]
    return next(level for level in _WHITE_LEVELS if level >= max(largest)) if largest else 0


def scaled_to_uint8(pixels: np.ndarray, white: int) -> np.ndarray:
    """Scale uint16 to uint8, ``white`` and everything above becoming 255 (rounded to nearest); leave other types."""
    return cv2.convertScaleAbs(pixels, alpha=255.0 / white) if pixels.dtype == np.uint16 else pixels


def read_rgba(path: str | Path) -> np.ndarray:
    """Read an image with transparency, uint8 HxWx4 RGB and alpha (255 opaque). Raises FileError: it has no alpha."""
    decoded = _decode(path, cv2.IMREAD_UNCHANGED)
    if decoded.ndim != 3 or decoded.shape[2] != 4:
        raise FileError(f"{path}: has no transparency (alpha), so nothing is cut out in it; save it with alpha")
    if decoded.dtype == np.uint16:
        decoded = (decoded >> 8).astype(np.uint8)
    return np.ascontiguousarray(decoded[:, :, [2, 1, 0, 3]])


def read_grey(path: str | Path) -> np.ndarray:
    """Read an image by OpenCV, grey uint8 HxW."""
    return _decode(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write uint8 RGB HxWx3 or uint8/uint16 HxW in the format of the path's ending (.png is lossless)."""
    _encode(path, image[:, :, ::-1] if image.ndim == 3 else image)


def image_size(path: str | Path) -> tuple[int, int]:
    """Read the (width, height) of an image from its header. Raises FileError: unreadable, or too large to decode."""
    with open_file(path) as file:
        head = file.read(24)
        if head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR":  # at once, for folders of many
            return _checked_size(path, int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))
        file.seek(0)
        size = header_size(file)
    if size is None:
        raise FileError(f"{path}: {_NO_IMAGE}")
    return _checked_size(path, *size)


def header_size(file: BinaryIO) -> tuple[int, int] | None:
    """Read the (width, height) of an image from its header; None where it is none. Nothing is decoded."""
    from PIL import Image

    with _HEADERS:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # so that a size beyond it is told, too
        try:
            with Image.open(file) as image:
                return image.size
        except Exception:  # damaged data breaks a parser in any way
            return None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def is_cut_off(content: bytes) -> bool:
    """Tell whether a JPEG or PNG image lacks its end mark: OpenCV decodes such a one to a partly grey picture.

    Zeros after the image, as of a driver that sends its whole buffer, do not matter, nor do a few other bytes.
    """
    end = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND\xaeB`\x82"}.get(content[:2])
    return end is not None and end not in content.rstrip(b"\0")[-_AFTER_END:]


def read_pfm(path: str | Path) -> np.ndarray:
    """Read a portable float map: float32 HxW ("Pf") or HxWx3 ("PF"), as stored (Middlebury writes inf for unknown).

    The header's scale gives only the byte order, by its sign (negative: little-endian); rows lie bottom-up. The data
    begins one character behind it, or two where its line ends as on Windows (CR LF).
    """
    content = read_bytes(path)
    header = re.match(rb"(P[fF])\s+(\d+)\s+(\d+)\s+([-+]?[0-9.]+(?:[eE][-+]?\d+)?)(?:\r\n|\s)", content)
    if header is None:
        raise FileError(f"{path}: no PFM header (starts with {content[:8]!r}, expected b'Pf'); not a .pfm file")
    kind, width, height, scale = header[1], int(header[2]), int(header[3]), float(header[4])
    shape = (height, width, 3) if kind == b"PF" else (height, width)
    _check_size(path, width, height)
    values = _array(path, content, header.end(), "<f4" if scale < 0 else ">f4", shape)
    if len(content) - header.end() > values.nbytes:  # or every value may be shifted by a byte
        raise FileError(
            f"{path}: too long: {width}x{height} pixels need {values.nbytes} bytes of data, found "
            f"{len(content) - header.end()}; fetch it again, as binary"
        )
    return np.ascontiguousarray(values[::-1], dtype=np.float32)


def write_pfm(path: str | Path, values: np.ndarray) -> None:
    """Write float HxW or HxWx3 as a little-endian PFM, unchanged (NaN stays NaN)."""
    values = np.asarray(values)
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] == 3):
        raise ValueError(f"a PFM holds HxW or HxWx3 values, got shape {values.shape}")
    kind = "PF" if values.ndim == 3 else "Pf"
    header = f"{kind}\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
    _write(path, header + values[::-1].astype("<f4").tobytes())


def read_flo(path: str | Path) -> np.ndarray:
    """Read Middlebury optical flow: float32 HxWx2 (u, v) in pixels, NaN where unknown (|component| > 1e9)."""
    content = read_bytes(path)
    if len(content) < 12:
        raise FileError(f"{path}: truncated: {len(content)} bytes, a .flo header alone has 12; fetch it again")
    magic = float(np.frombuffer(content, "<f4", 1)[0])
    if magic != _FLO_MAGIC:
        raise FileError(f"{path}: magic number is {magic:g}, a .flo file has {_FLO_MAGIC}; not a .flo file")
    width, height = (int(value) for value in np.frombuffer(content, "<i4", 2, offset=4))
    _check_size(path, width, height)
    flow = _array(path, content, 12, "<f4", (height, width, 2)).astype(np.float32)
    known = (np.abs(flow) <= _FLO_UNKNOWN).all(axis=2)
    flow[~known] = np.nan
    return flow


def write_flo(path: str | Path, flow: np.ndarray) -> None:
    """Write flow HxWx2 (u, v; px) as .flo; a pixel with a NaN is written as unknown."""
    _check_flow(flow)
    written = np.where(np.isfinite(flow).all(axis=2, keepdims=True), flow, _FLO_UNKNOWN_WRITTEN).astype("<f4")
    header = np.float32(_FLO_MAGIC).astype("<f4").tobytes()
    header += np.array([flow.shape[1], flow.shape[0]], dtype="<i4").tobytes()
    _write(path, header + written.tobytes())


def read_kitti_disparity(path: str | Path) -> np.ndarray:
    """Read a KITTI disparity (or, in metres, depth) PNG: uint16 / 256, 0 = unknown. float32 HxW, NaN unknown."""
    return _read_parts(path, 256.0)


def write_kitti_disparity(path: str | Path, disparity: np.ndarray) -> None:
    """Write HxW px as uint16 = 256 d; NaN and d <= 0, which the format cannot hold, become 0 = unknown.

    Raises ValueError above 65535/256 px, the format's largest value.
    """
    known = np.isfinite(disparity) & (disparity > 0)
    largest = float(np.max(disparity, where=known, initial=0.0))
    if round(largest * 256.0) > 65535:
        raise ValueError(f"{path}: disparity {largest:g} px does not fit KITTI's PNG (at most 255.99); use .pfm")
    stored = np.rint(np.where(known, disparity, 0.0) * 256.0)
    stored[known] = np.maximum(stored[known], 1.0)  # a known value must not read as unknown
    _encode(path, stored.astype(np.uint16))


def read_kitti_flow(path: str | Path) -> np.ndarray:
    """Read a KITTI flow PNG: (uint16 - 2^15) / 64, third channel valid. float32 HxWx2 (u, v; px), NaN unknown."""
    stored = _decode_png16(path, channels=3)[:, :, ::-1]  # OpenCV hands the channels over in reverse
    flow = (stored[:, :, :2].astype(np.float32) - 32768.0) / np.float32(64.0)
    flow[stored[:, :, 2] == 0] = np.nan
    return flow


def write_kitti_flow(path: str | Path, flow: np.ndarray) -> None:
    """Write flow HxWx2 (u, v; px); NaN becomes invalid. Raises ValueError beyond the format's +-512 px."""
    _check_flow(flow)
    known = np.isfinite(flow).all(axis=2)
    stored = np.rint(np.where(known[..., None], flow, 0.0) * 64.0 + 32768.0)
    if stored.min() < 0 or stored.max() > 65535:
        raise ValueError(f"{path}: flow beyond +-512 px does not fit KITTI's PNG; use .flo")
    stored[~known] = 0.0
    channels = np.dstack([known.astype(np.uint16), stored[:, :, 1], stored[:, :, 0]])
    _encode(path, channels.astype(np.uint16))


def write_png_depth(path: str | Path, depth: np.ndarray) -> None:
    """Write HxW metres as a uint16 PNG in millimetres (REP 118), 0 where NaN or beyond 65.535 m."""
    known = np.isfinite(depth) & (depth > 0)
    millimetres = np.rint(np.where(known, depth, 0.0) * 1000.0)
    millimetres[millimetres > 65535] = 0
    _encode(path, millimetres.astype(np.uint16))


def read_png_depth(path: str | Path) -> np.ndarray:
    """Read a uint16 PNG in millimetres as float32 HxW metres, NaN where 0."""
    return _read_parts(path, 1000.0)


def write_ply(path: str | Path, points: np.ndarray, colours: np.ndarray | None = None) -> int:
    """Write the finite points of (..., 3) metres, with uint8 RGB colours, as binary PLY; return their number."""
    if points.shape[-1] != 3 or (colours is not None and colours.shape != points.shape):
        found = None if colours is None else colours.shape
        raise ValueError(f"points and colours must both be (..., 3), got {points.shape} and {found}")
    flat = points.reshape(-1, 3)
    keep = np.isfinite(flat).all(axis=1)
    columns = {f"float {name}": flat[keep, index].astype("<f4") for index, name in enumerate("xyz")}
    if colours is not None:
        paint = colours.reshape(-1, 3)[keep].astype("u1")
        columns |= {f"uchar {name}": paint[:, index] for index, name in enumerate(("red", "green", "blue"))}
    vertices = np.rec.fromarrays(list(columns.values()))
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    lines += [*(f"property {column}" for column in columns), "end_header", ""]
    _write(path, "\n".join(lines).encode() + vertices.tobytes())
    return len(vertices)


def _decode(path: str | Path, flags: int) -> np.ndarray:
    content = read_bytes(path)
    if is_cut_off(content):
        raise FileError(f"{path}: truncated: the image has no end after {len(content)} bytes; fetch it again")
    size = header_size(io.BytesIO(content))
    if size is None:
        raise FileError(f"{path}: {_NO_IMAGE}")
    _checked_size(path, *size)
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error is reported once, below
    try:
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if decoded is None:
        raise FileError(f"{path}: {_NO_IMAGE}")
    return np.asarray(decoded)


def _decode_png16(path: str | Path, channels: int) -> np.ndarray:
    decoded = _decode(path, cv2.IMREAD_UNCHANGED)
    found = 1 if decoded.ndim == 2 else decoded.shape[2]
    if decoded.dtype != np.uint16 or found != channels:
        raise FileError(
            f"{path}: holds {found} channel(s) of {decoded.dtype}, this format has {channels} of uint16; "
            "is it a picture instead of a measurement?"
        )
    return decoded


def _read_parts(path: str | Path, unit: float) -> np.ndarray:
    """Read a uint16 PNG of parts of a unit as float32 HxW, NaN where 0."""
    stored = _decode_png16(path, channels=1)
    return np.where(stored > 0, stored.astype(np.float32) / np.float32(unit), np.float32(np.nan))


def _encode(path: str | Path, image: np.ndarray) -> None:
    path = Path(path)
    done, encoded = cv2.imencode(path.suffix or ".png", np.ascontiguousarray(image))
    if not done:
        raise ValueError(f"{path}: {image.dtype} {image.shape} cannot be encoded as {path.suffix}")
    _write(path, encoded.tobytes())


def _write(path: str | Path, content: bytes) -> None:
    with atomic_write(path, sync=False) as unfinished:
        unfinished.write_bytes(content)


def _check_size(path: str | Path, width: int, height: int) -> None:
    if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        raise FileError(f"{path}: header claims {width}x{height} pixels; the file is damaged, fetch it again")


def _checked_size(path: str | Path, width: int, height: int) -> tuple[int, int]:
    if width * height > LARGEST_IMAGE:
        raise FileError(
            f"{path}: header claims {width}x{height} pixels, and at most {LARGEST_IMAGE} are decoded; crop it"
        )
    return width, height


def _array(path: str | Path, content: bytes, offset: int, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    needed = count * np.dtype(kind).itemsize
    if len(content) - offset < needed:
        raise FileError(
            f"{path}: truncated: {shape[1]}x{shape[0]} pixels need {needed} bytes of data, "
            f"found {len(content) - offset}; fetch it again"
        )
    return np.frombuffer(content, kind, count, offset=offset).reshape(shape)


def _check_flow(flow: np.ndarray) -> None:
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"flow is HxWx2 (u, v), got shape {flow.shape}")
