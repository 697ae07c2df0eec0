"""The drop-in cv_bridge against bytes written by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from fg_depth_ros.compat.cv_bridge import CvBridge, CvBridgeError


def image(encoding: str, width: int, height: int, data: bytes, *, step: int = 0, big: bool = False) -> Image:
    message = Image(width=width, height=height, encoding=encoding, is_bigendian=int(big))
    message.step = step or len(data) // height
    message.data.frombytes(data)
    return message


@pytest.mark.parametrize(
    ("encoding", "dtype", "channels"),
    [
        ("mono8", "uint8", 1),
        ("mono16", "uint16", 1),
        ("rgb8", "uint8", 3),
        ("bgra8", "uint8", 4),
        ("rgba16", "uint16", 4),
        ("bayer_grbg8", "uint8", 1),
        ("bayer_rggb16", "uint16", 1),
        ("yuv422", "uint8", 2),
        ("yuv422_yuy2", "uint8", 2),
        ("8UC1", "uint8", 1),
        ("8SC2", "int8", 2),
        ("16UC1", "uint16", 1),
        ("16SC4", "int16", 4),
        ("32SC1", "int32", 1),
        ("32FC2", "float32", 2),
        ("64FC3", "float64", 3),
        ("32F", "float32", 1),
    ],
)
def test_layout_of_every_kind_of_encoding(encoding: str, dtype: str, channels: int) -> None:
    bridge = CvBridge()
    assert bridge.encoding_to_dtype_with_channels(encoding) == (dtype, channels)
    assert bridge.cvtype2_to_dtype_with_channels(bridge.encoding_to_cvtype2(encoding)) == (dtype, channels)


@pytest.mark.parametrize("encoding", ["", "mono12", "8UC0", "32U", "rgb32", "nv12", "8uc3"])
def test_unknown_encodings_are_refused_by_name(encoding: str) -> None:
    with pytest.raises(CvBridgeError, match=f"encoding '{encoding}' is unknown"):
        CvBridge().imgmsg_to_cv2(image(encoding, 1, 1, b"\0"))


@pytest.mark.parametrize("big", [False, True])
def test_both_byte_orders_of_16_bit(big: bool) -> None:
    data = struct.pack(">4H" if big else "<4H", 1, 256, 1000, 65535)
    found = CvBridge().imgmsg_to_cv2(image("16UC1", 2, 2, data, big=big))
    assert found.dtype == np.uint16
    assert found.dtype.isnative
    assert found.tolist() == [[1, 256], [1000, 65535]]


@pytest.mark.parametrize("big", [False, True])
def test_both_byte_orders_of_float(big: bool) -> None:
    data = struct.pack(">2f" if big else "<2f", 1.5, -0.25)
    found = CvBridge().imgmsg_to_cv2(image("32FC2", 1, 1, data, big=big))
    assert found.shape == (1, 1, 2)
    assert found.tolist() == [[[1.5, -0.25]]]


def test_padding_at_the_end_of_rows_is_left_out() -> None:
    found = CvBridge().imgmsg_to_cv2(image("mono8", 3, 2, bytes([1, 2, 3, 99, 4, 5, 6, 99]), step=4))
    assert found.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_the_result_is_a_copy() -> None:
    message = image("mono8", 2, 1, bytes([1, 2]))
    CvBridge().imgmsg_to_cv2(message)[0, 0] = 77
    assert list(message.data) == [1, 2]


@pytest.mark.parametrize(
    ("source", "data", "target", "expected"),
    [
        ("rgb8", [10, 20, 30], "bgr8", [30, 20, 10]),
        ("bgr8", [10, 20, 30], "rgba8", [30, 20, 10, 255]),
        ("rgba8", [10, 20, 30, 40], "bgr8", [30, 20, 10]),
        ("bgra8", [10, 20, 30, 40], "rgba8", [30, 20, 10, 40]),
        ("mono8", [7], "rgb8", [7, 7, 7]),
        # 0.299 R + 0.587 G + 0.114 B
        ("rgb8", [255, 0, 0], "mono8", 76),
        ("bgr8", [255, 0, 0], "mono8", 29),
        # 8 bits become 16 by repeating the byte
        ("mono8", [0x12], "mono16", 0x1212),
        ("rgb8", [255, 0, 1], "rgb16", [65535, 0, 257]),
    ],
)
def test_colour_conversions(source: str, data: list[int], target: str, expected: int | list[int]) -> None:
    found = CvBridge().imgmsg_to_cv2(image(source, 1, 1, bytes(data)), target)
    assert found[0, 0].tolist() == expected


def test_16_bit_grey_becomes_8_bit_over_the_full_range() -> None:
    data = struct.pack("<4H", 0, 257, 32896, 65535)
    assert CvBridge().imgmsg_to_cv2(image("mono16", 4, 1, data), "mono8").tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        # neutral chroma (128): the grey value is (Y - 16) * 255 / 219
        ("yuv422", [128, 16, 128, 235]),
        ("yuv422_yuy2", [16, 128, 235, 128]),
    ],
)
def test_both_byte_orders_of_yuv422(encoding: str, data: list[int]) -> None:
    found = CvBridge().imgmsg_to_cv2(image(encoding, 2, 1, bytes(data)), "rgb8")
    assert found.tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_chroma_of_yuv422_is_red_where_v_is_high() -> None:
    # BT.601: Y 81, U 90, V 240 is pure red
    found = CvBridge().imgmsg_to_cv2(image("yuv422", 2, 1, bytes([90, 81, 240, 81])), "rgb8")
    assert np.abs(found[0, 0].astype(int) - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize(
    ("encoding", "positions"),
    [
        ("bayer_rggb8", {"r": (0, 0), "b": (1, 1)}),
        ("bayer_bggr8", {"r": (1, 1), "b": (0, 0)}),
        ("bayer_gbrg8", {"r": (1, 0), "b": (0, 1)}),
        ("bayer_grbg8", {"r": (0, 1), "b": (1, 0)}),
    ],
)
@pytest.mark.parametrize("target", ["rgb8", "bgr8", "rgba8"])
def test_bayer_mosaics_of_one_colour(encoding: str, positions: dict, target: str) -> None:
    mosaic = np.full((8, 8), 60, np.uint8)  # green everywhere but at the red and blue sites
    (y, x), (v, u) = positions["r"], positions["b"]
    mosaic[y::2, x::2] = 200
    mosaic[v::2, u::2] = 20
    found = CvBridge().imgmsg_to_cv2(image(encoding, 8, 8, mosaic.tobytes()), target)
    expected = [200, 60, 20] if target != "bgr8" else [20, 60, 200]
    assert found[4, 4].tolist() == expected + ([255] if target == "rgba8" else [])


@pytest.mark.parametrize(
    ("source", "target"), [("32FC1", "mono8"), ("rgb8", "8UC1"), ("mono8", "bayer_rggb8"), ("rgb8", "yuv422")]
)
def test_impossible_conversions_are_refused(source: str, target: str) -> None:
    data = bytes(12)
    with pytest.raises(CvBridgeError, match=f"{source} cannot be converted to {target}"):
        CvBridge().imgmsg_to_cv2(image(source, {"32FC1": 3, "rgb8": 4, "mono8": 12}[source], 1, data), target)


@pytest.mark.parametrize(
    ("width", "height", "step", "size", "text"),
    [
        (4, 2, 12, 23, "truncated: 23 bytes, but 2 rows of 12 bytes"),
        (4, 2, 12, 25, "too long: 25 bytes"),
        (4, 2, 11, 22, "step is 11 bytes, but a row of 4 rgb8 pixels takes 12"),
        (0, 2, 0, 0, "0x2 pixels"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_the_numbers(
    width: int, height: int, step: int, size: int, text: str
) -> None:
    message = Image(width=width, height=height, encoding="rgb8", step=step)
    message.data.frombytes(bytes(size))
    with pytest.raises(CvBridgeError, match=text):
        CvBridge().imgmsg_to_cv2(message)


@pytest.mark.parametrize("kind", ["8UC1", "16UC1", "32FC1", "64FC1", "8UC3", "16SC2", "32FC4", "32SC3"])
def test_arrays_come_back_as_they_went(kind: str) -> None:
    bridge = CvBridge()
    dtype, channels = bridge.encoding_to_dtype_with_channels(kind)
    shape = (3, 5) if channels == 1 else (3, 5, channels)
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    message = bridge.cv2_to_imgmsg(array)
    assert (message.encoding, message.height, message.width) == (kind, 3, 5)
    assert message.step == 5 * channels * np.dtype(dtype).itemsize
    np.testing.assert_array_equal(bridge.imgmsg_to_cv2(message), array)


def test_an_array_of_the_other_byte_order_is_marked_so() -> None:
    message = CvBridge().cv2_to_imgmsg(np.array([[1, 2]], dtype=">u2"))
    assert message.is_bigendian
    assert bytes(message.data) == b"\x00\x01\x00\x02"


def test_a_header_and_an_encoding_are_taken_over() -> None:
    message = CvBridge().cv2_to_imgmsg(np.zeros((1, 1, 3), np.uint8), "bgr8", Header(frame_id="camera"))
    assert (message.encoding, message.header.frame_id) == ("bgr8", "camera")
    with pytest.raises(CvBridgeError, match="mono8, but image has incompatible type 8UC3"):
        CvBridge().cv2_to_imgmsg(np.zeros((1, 1, 3), np.uint8), "mono8")
    with pytest.raises(TypeError, match="list is no NumPy array"):
        CvBridge().cv2_to_imgmsg([1, 2])


def test_a_view_with_gaps_is_copied_right() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)[::2, ::3]
    assert list(CvBridge().cv2_to_imgmsg(array).data) == [0, 3, 12, 15]


def test_png_keeps_every_bit() -> None:
    bridge = CvBridge()
    array = np.random.default_rng(0).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    message = bridge.cv2_to_compressed_imgmsg(array, "png")
    assert message.format == "png"
    np.testing.assert_array_equal(bridge.compressed_imgmsg_to_cv2(message), array)
    np.testing.assert_array_equal(bridge.compressed_imgmsg_to_cv2(message, "rgb8"), array[..., ::-1])


def test_what_cannot_be_decoded_or_encoded_is_refused() -> None:
    with pytest.raises(CvBridgeError, match="0 bytes of format 'jpeg'"):
        CvBridge().compressed_imgmsg_to_cv2(CompressedImage(format="jpeg"))
    with pytest.raises(CvBridgeError, match="as nonsense"):
        CvBridge().cv2_to_compressed_imgmsg(np.zeros((2, 2), np.uint8), "nonsense")
