"""The one place where ROS messages become arrays and arrays become messages. Images are H x W x C here.

Invalid pixels: NaN in floating point images (REP 117), 0 in millimetres (REP 118).
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header
from stereo_msgs.msg import DisparityImage

from fg_depth_ros.data.io import encodings
from fg_depth_ros.data.io.camera_images import (
    CAMERA_ENCODINGS,
    MONO16_WHITE,
    MessageError,
    compressed_to_array,
    depth_to_array,
    float_array,
    image_to_array,
)
from fg_depth_ros.geometry import StereoRig

__all__ = [
    "CAMERA_ENCODINGS",
    "MONO16_WHITE",
    "MessageError",
    "array_to_compressed",
    "array_to_image",
    "cloud_message",
    "cloud_to_arrays",
    "compressed_to_array",
    "depth_image",
    "depth_to_array",
    "disparity_message",
    "fill_image",
    "float_array",
    "image_to_array",
    "scaled_camera_info",
    "stamp_ns",
]


def stamp_ns(header: Header) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


# ---- messages -> arrays --------------------------------------------------------------------------


def cloud_to_arrays(message: PointCloud2, topic: str = "points2") -> tuple[np.ndarray, np.ndarray]:
    """Points (H x W x 3 float32 metres, NaN invalid) and colours (H x W x 3 uint8 RGB) of a cloud with x y z
    rgb.

    Raises MessageError when a field is missing or the data does not fit.
    """
    offsets = {field.name: field.offset for field in message.fields}
    if not {"x", "y", "z", "rgb"} <= offsets.keys():
        raise MessageError("unknown encoding", f"{topic}: fields are {sorted(offsets)}: x, y, z and rgb are needed")
    height, width, step = message.height, message.width, message.point_step
    if len(message.data) != height * message.row_step or message.row_step < width * step:
        raise MessageError(
            "malformed cloud",
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


# ---- arrays -> messages --------------------------------------------------------------------------


def fill_image(message: Image, array: np.ndarray, encoding: str, header: Header | None = None) -> Image:
    """Fill `message` with an H x W or H x W x C array whose dtype and channels are those of `encoding`.

    Returns the message. Raises ValueError when array and encoding do not fit.
    """
    form = encodings.layout(encoding)
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
    _fill(message, array)
    return message


def array_to_image(array: np.ndarray, encoding: str, header: Header | None = None) -> Image:
    """A new Image; see fill_image."""
    return fill_image(Image(), array, encoding, header)


def array_to_compressed(
    array: np.ndarray, header: Header | None = None, *, kind: str = "jpeg", quality: int = 95
) -> CompressedImage:
    """A JPEG or PNG CompressedImage (named as image_transport names it) of a uint8 H x W or H x W x 3 RGB
    array.
    """
    grey = array.ndim == 2
    pixels = array if grey else cv2.cvtColor(array, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == "jpeg" else []
    done, data = cv2.imencode(".jpg" if kind == "jpeg" else f".{kind}", pixels, options)
    if not done:
        raise ValueError(f"an array of {array.dtype} {array.shape} cannot be compressed as {kind}")
    names = ("mono8", "") if grey else ("rgb8", " bgr8")
    message = CompressedImage(format=f"{names[0]}; {kind} compressed{names[1]}")
    if header is not None:
        message.header = header
    _fill(message, data)
    return message


def depth_image(depth: np.ndarray, encoding: str, header: Header) -> Image:
    """A depth image of float32 metres H x W (NaN invalid) as 32FC1, or as 16UC1 millimetres.

    In 16UC1 what is invalid, or farther than the 65.535 m that fit, is 0 (REP 118).
    """
    if encoding == "16UC1":
        millimetres = np.rint(depth * np.float32(1000.0))
        millimetres = np.where((millimetres >= 1) & (millimetres <= 65535), millimetres, 0)
        return array_to_image(millimetres.astype(np.uint16), encoding, header)
    return array_to_image(np.ascontiguousarray(depth, dtype=np.float32), encoding, header)


def disparity_message(
    disparity: np.ndarray,
    rig: StereoRig,
    header: Header,
    *,
    min_depth: float,
    max_depth: float,
    increment: float,
) -> DisparityImage:
    """A DisparityImage of image disparities `x_left - x_right` (float32 px H x W, NaN invalid).

    The message's disparity is `x_left - x_right - (cx_left - cx_right)`, so that `Z = f * t / d`; hence
    `doffs` is added. `min_disparity` and `max_disparity` are those of `max_depth` and `min_depth` (metres),
    `increment` (px) is the smallest step. Invalid pixels stay NaN.
    """
    message = DisparityImage(header=header)
    fill_image(message.image, np.asarray(disparity + np.float32(rig.doffs), np.float32), "32FC1", header)
    message.f = float(rig.fx)
    message.t = float(rig.baseline)
    message.min_disparity = float(rig.fx * rig.baseline / max_depth)
    message.max_disparity = float(rig.fx * rig.baseline / min_depth)
    message.delta_d = float(increment)
    message.valid_window = RegionOfInterest(width=rig.width, height=rig.height)
    return message


def scaled_camera_info(info: CameraInfo, width: int, height: int, header: Header | None = None) -> CameraInfo:
    """CameraInfo of the same camera after its published image was resized to `width` x `height`.

    Binning and region of interest are folded into K and P first (the result has none); pixel centres are at
    integers, so a principal point moves as `c' = (c + 0.5) * s - 0.5`. `P[3]` scales as fx does, so the
    baseline stays.
    """
    roi, binning = info.roi, (max(info.binning_x, 1), max(info.binning_y, 1))
    now = ((roi.width or info.width) // binning[0], (roi.height or info.height) // binning[1])
    scale = (width / now[0] / binning[0], height / now[1] / binning[1])

    def moved(matrix: Any, columns: int) -> list[float]:
        rows = np.array(matrix, dtype=np.float64).reshape(3, columns)
        if rows.any():
            for row, offset in ((0, roi.x_offset), (1, roi.y_offset)):
                rows[row] *= scale[row]
                rows[row, 2] += (0.5 - offset) * scale[row] - 0.5
        return rows.reshape(-1).tolist()

    result = CameraInfo(header=header if header is not None else info.header, width=width, height=height)
    result.distortion_model, result.d, result.r = info.distortion_model, info.d, info.r
    result.k, result.p = moved(info.k, 3), moved(info.p, 4)
    return result


def cloud_message(points: np.ndarray, colours: np.ndarray, header: Header) -> PointCloud2:
    """An organised PointCloud2 with x, y, z (float32 metres) and rgb, 16 bytes a point.

    `points`: H x W x 3 float32, NaN where there is none (REP 117); `colours`: uint8 H x W grey or H x W x 3
    RGB.
    """
    height, width = points.shape[:2]
    cells = np.empty((height, width, 4), np.float32)
    cells[..., :3] = points
    wide = colours.astype(np.uint32)
    packed = wide * 0x010101 if wide.ndim == 2 else wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    cells[..., 3] = packed.view(np.float32)
    message = PointCloud2(header=header, height=height, width=width, point_step=16, row_step=16 * width)
    message.fields = [
        PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate(("x", "y", "z", "rgb"))
    ]
    message.is_bigendian = sys.byteorder == "big"
    message.is_dense = False
    _fill(message, cells)
    return message


def _fill(message: Any, array: np.ndarray) -> None:
    # frombytes copies the block; assigning the array would check every element (2000 times slower).
    del message.data[:]
    message.data.frombytes(np.ascontiguousarray(array).data.cast("B"))
