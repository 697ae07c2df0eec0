"""Messages to arrays and back, against bytes and numbers written by hand."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from support.nodes import compressed_image

from fg_depth_ros.data.io import formats, messages
from fg_depth_ros.data.io.messages import MessageError
from fg_depth_ros.geometry import StereoRig, depth_to_disparity, disparity_to_depth
from fg_depth_ros.inference import SearchRange
from fg_depth_ros.nodes.stereo_depth.outputs import cloud_message, disparity_message

RIG = StereoRig(width=4, height=2, fx=100.0, fy=101.0, cx=1.5, cy=0.5, cx_right=4.5, baseline=0.2)
NAN = float("nan")


def image(encoding: str, width: int, height: int, data: bytes, *, step: int = 0, big: bool = False) -> Image:
    message = Image(width=width, height=height, encoding=encoding, is_bigendian=int(big))
    message.step = step or len(data) // height
    message.data.frombytes(data)
    return message


# ---- cameras' images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "data", "expected"),
    [
        ("mono8", [1, 2], [1, 2]),
        ("8UC1", [1, 2], [1, 2]),
        ("rgb8", [1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]),
        ("bgr8", [1, 2, 3, 4, 5, 6], [[3, 2, 1], [6, 5, 4]]),
        ("8UC3", [1, 2, 3, 4, 5, 6], [[3, 2, 1], [6, 5, 4]]),
        ("rgba8", [1, 2, 3, 9, 4, 5, 6, 9], [[1, 2, 3], [4, 5, 6]]),
        ("bgra8", [1, 2, 3, 9, 4, 5, 6, 9], [[3, 2, 1], [6, 5, 4]]),
        ("yuv422", [128, 16, 128, 235], [[0, 0, 0], [255, 255, 255]]),
        ("uyvy", [128, 16, 128, 235], [[0, 0, 0], [255, 255, 255]]),
        ("yuv422_yuy2", [16, 128, 235, 128], [[0, 0, 0], [255, 255, 255]]),
        ("yuyv", [16, 128, 235, 128], [[0, 0, 0], [255, 255, 255]]),
        ("16UC1", [0, 0, 255, 255], [0, 255]),
        ("rgb16", [255, 255, 0, 0, 0, 128, 0, 0, 255, 255, 0, 128], [[255, 0, 128], [0, 255, 128]]),
        ("bgr16", [255, 255, 0, 0, 0, 128, 0, 0, 255, 255, 0, 128], [[128, 0, 255], [128, 255, 0]]),
        ("16UC3", [255, 255, 0, 0, 0, 128, 0, 0, 255, 255, 0, 128], [[128, 0, 255], [128, 255, 0]]),
        ("rgba16", [255, 255, 0, 0, 0, 128, 9, 9, *[0] * 8], [[255, 0, 128], [0, 0, 0]]),
        ("bgra16", [255, 255, 0, 0, 0, 128, 9, 9, *[0] * 8], [[128, 0, 255], [0, 0, 0]]),
    ],
)
def test_every_encoding_becomes_grey_or_rgb(encoding: str, data: list[int], expected: list) -> None:
    found = messages.image_to_array(image(encoding, 2, 1, bytes(data)))
    assert found.dtype == np.uint8
    assert found.tolist() == [expected]


@pytest.mark.parametrize("big", [False, True])
def test_mono16_in_both_byte_orders(big: bool) -> None:
    data = struct.pack(">3H" if big else "<3H", 0, 32896, 65535)
    assert messages.image_to_array(image("mono16", 3, 1, data, big=big)).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(("named", "other"), [("yuv422", "yuv422_yuy2"), ("yuv422_yuy2", "yuv422"), ("uyvy", "yuyv")])
def test_packed_colours_in_the_wrong_order_are_refused(named: str, other: str) -> None:
    random = np.random.default_rng(0)
    grey = np.clip(random.normal(128, 50, (48, 64)), 0, 255).astype(np.uint8)
    colour = np.clip(random.normal(128, 8, (48, 64)), 0, 255).astype(np.uint8)
    grey_first = named in ("yuv422_yuy2", "yuyv")
    right = np.stack((grey, colour) if grey_first else (colour, grey), axis=-1)
    found = messages.image_to_array(image(named, 64, 48, right.tobytes()))
    assert np.corrcoef(cv2.cvtColor(found, cv2.COLOR_RGB2GRAY).ravel(), grey.ravel())[0, 1] > 0.99
    with pytest.raises(messages.MessageError, match=f"order of .*, and not of {named}; check the pixel format"):
        messages.image_to_array(image(named, 64, 48, np.ascontiguousarray(right[..., ::-1]).tobytes()))
    flat = np.full((48, 64, 2), 128, np.uint8)  # nothing to tell
    flat[::3] += 3
    assert messages.image_to_array(image(named, 64, 48, flat.tobytes())).shape == (48, 64, 3)


def test_the_white_level_is_the_bits_that_hold_the_largest_value() -> None:
    def grey(*values: int) -> np.ndarray:
        return np.array([values], np.uint16)

    levels = {3: 1023, 1023: 1023, 1024: 4095, 4095: 4095, 4096: 16383, 16384: 65535, 65535: 65535}
    assert {value: formats.white_level(grey(0, value)) for value in levels} == levels
    assert formats.white_level(grey(900), grey(3000)) == 4095
    assert formats.white_level(np.zeros((1, 1), np.uint8)) == 0


def test_a_learned_white_level_is_one_for_a_moment_and_is_never_lowered() -> None:
    white = messages.LearnedWhite()
    eight = np.array([[7]], np.uint8)
    assert white.to_uint8(eight)[0] is eight
    assert white.level == 0
    dark, bright = np.array([[682]], np.uint16), np.array([[1023]], np.uint16)
    assert [image.tolist() for image in white.to_uint8(dark, bright)] == [[[170]], [[255]]]  # 682 / 1023 = 2 / 3
    assert white.to_uint8(np.array([[4095]], np.uint16))[0].tolist() == [[255]]
    assert white.to_uint8(dark)[0].tolist() == [[42]]  # 682 / 4095 * 255 = 42.5, rounded to even
    assert white.level == 4095


def test_mono16_of_a_12_bit_camera_uses_the_whole_range() -> None:
    data = struct.pack("<3H", 0, 2048, 5000)
    found = messages.image_to_array(image("mono16", 3, 1, data), mono16_white=4095)
    assert found.tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    ("encoding", "red", "blue"),
    [
        ("bayer_rggb8", (0, 0), (1, 1)),
        ("bayer_bggr8", (1, 1), (0, 0)),
        ("bayer_gbrg8", (1, 0), (0, 1)),
        ("bayer_grbg8", (0, 1), (1, 0)),
    ],
)
def test_bayer_mosaics(encoding: str, red: tuple[int, int], blue: tuple[int, int]) -> None:
    mosaic = np.full((6, 6), 60, np.uint8)
    mosaic[red[0] :: 2, red[1] :: 2] = 200
    mosaic[blue[0] :: 2, blue[1] :: 2] = 20
    found = messages.image_to_array(image(encoding, 6, 6, mosaic.tobytes()))
    assert found.shape == (6, 6, 3)
    assert found[3, 3].tolist() == [200, 60, 20]


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_bayer_mosaic_of_16_bits_is_the_one_of_8_bits(pattern: str, bits: int) -> None:
    small = np.random.default_rng(1).integers(0, 256, (8, 10)).astype(np.uint8)
    white = 2**bits - 1
    deep = np.rint(small * (white / 255)).astype(np.uint16)
    expected = messages.image_to_array(image(f"bayer_{pattern}8", 10, 8, small.tobytes())).astype(int)
    sent = image(f"bayer_{pattern}16", 10, 8, deep.tobytes())
    assert np.abs(messages.image_to_array(sent, mono16_white=white) - expected).max() <= 1  # both are rounded
    kept = messages.image_to_array(sent, mono16_white=None)
    assert kept.dtype == np.uint16
    assert formats.white_level(kept) == white


# Full white, black, and the pure colours of ITU-R BT.601 in studio range, by its definition (Y, Cb, Cr).
PRIMARIES = {
    (235, 128, 128): (255, 255, 255), (16, 128, 128): (0, 0, 0),
    (81, 90, 240): (255, 0, 0), (145, 54, 34): (0, 255, 0), (41, 240, 110): (0, 0, 255),
}  # fmt: skip


@pytest.mark.parametrize("counted", [False, True])  # the rows of colours in the message's height
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(("encoding", "order"), [("nv12", (1, 2)), ("nv21", (2, 1))])
def test_half_size_colours_below_the_grey_values(
    encoding: str, order: tuple[int, int], padding: int, counted: bool
) -> None:
    # Two by two pixels of each colour, side by side.
    yuv = np.repeat(np.array(list(PRIMARIES), np.uint8), 2, 0)
    colours = np.array(list(PRIMARIES), np.uint8)[:, list(order)].reshape(-1)
    rows = np.stack([yuv[:, 0], yuv[:, 0], colours])
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=77).tobytes()
    sent = image(encoding, 10, 3 if counted else 2, data, step=10 + padding)
    found = messages.image_to_array(sent)
    assert found.shape == (2, 10, 3)
    expected = np.repeat(np.array(list(PRIMARIES.values())), 2, 0)
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_nv12_is_i420_with_its_colours_interleaved() -> None:
    planes = np.random.default_rng(0).integers(16, 236, (12, 16)).astype(np.uint8)  # 8 rows, 2 of Cb, 2 of Cr
    expected = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)
    blue, red = planes[8:10].reshape(-1), planes[10:].reshape(-1)
    interleaved = np.stack([blue, red], -1).reshape(4, 16)
    sent = image("nv12", 16, 8, np.vstack([planes[:8], interleaved]).tobytes(), step=16)
    np.testing.assert_array_equal(messages.image_to_array(sent), expected)


def test_every_encoding_of_the_list_is_tested_above() -> None:
    assert set(messages.CAMERA_ENCODINGS) == {
        *("mono8", "8UC1", "mono16", "16UC1", "rgb8", "bgr8", "8UC3", "rgba8", "bgra8"),
        *("rgb16", "bgr16", "16UC3", "rgba16", "bgra16", "nv12", "nv21"),
        *("yuv422", "uyvy", "yuv422_yuy2", "yuyv"),
        *(f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)),
    }


def test_padded_rows_are_read_without_the_padding() -> None:
    data = bytes([1, 2, 3, 99, 99, 4, 5, 6, 99, 99])
    assert messages.image_to_array(image("rgb8", 1, 2, data, step=5)).tolist() == [[[1, 2, 3]], [[4, 5, 6]]]


@pytest.mark.parametrize("encoding", ["32FC1", "nv24", "rgb32", "", "jpeg"])
def test_other_encodings_are_refused_by_name(encoding: str) -> None:
    with pytest.raises(MessageError, match=rf"left/image_rect: encoding '{encoding}' is not supported.*mono8") as e:
        messages.image_to_array(image(encoding, 1, 1, bytes(4)), "left/image_rect")
    assert e.value.reason == "unknown encoding"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (image("mono8", 4, 2, bytes(7), step=4), "left: the data is truncated: 7 bytes, but 2 rows of 4 bytes"),
        (image("mono8", 4, 2, bytes(9), step=4), "left: the data is too long: 9 bytes"),
        (image("mono8", 4, 2, bytes(6), step=3), "left: step is 3 bytes, but a row of 4 mono8 pixels takes 4"),
        (image("yuv422", 3, 1, bytes(6)), "left: width is 3, but yuv422 stores pixels in pairs"),
        (image("nv12", 4, 2, bytes(8), step=4), "left: 2 rows are none of nv12"),
        (image("nv21", 4, 4, bytes(20), step=4), "left: the data is truncated: 20 bytes, but 6 rows of 4 bytes"),
        (image("nv12", 3, 2, bytes(9), step=3), "left: width is 3, but nv12 stores pixels in pairs"),
        (Image(encoding="mono8"), "left: the image is 0x0 pixels"),
    ],
)
def test_malformed_images_are_refused_with_the_numbers(message: Image, text: str) -> None:
    with pytest.raises(MessageError, match=text) as error:
        messages.image_to_array(message, "left")
    assert error.value.reason == "malformed image"


# ---- compressed images ----------------------------------------------------------------------------------------


def test_png_comes_back_exactly_and_jpeg_nearly() -> None:
    gradient = np.linspace(0, 255, 48 * 64).reshape(48, 64)
    rgb = np.stack([gradient, gradient[::-1], np.full_like(gradient, 90)], -1).astype(np.uint8)
    png = compressed_image(rgb, kind="png")
    assert png.format == "rgb8; png compressed bgr8"
    np.testing.assert_array_equal(messages.image_to_array(png), rgb)
    jpeg = compressed_image(rgb)
    assert np.abs(messages.image_to_array(jpeg).astype(int) - rgb).mean() < 3
    np.testing.assert_array_equal(messages.image_to_array(compressed_image(rgb[..., 0], kind="png")), rgb[..., 0])


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_gbrg8"])
def test_a_compressed_bayer_pattern_has_the_colours_of_the_raw_one(encoding: str) -> None:
    mosaic = np.random.default_rng(0).integers(0, 256, (8, 12), dtype=np.uint8)
    packed = compressed_image(mosaic, kind="png")
    packed.format = f"{encoding}; png compressed "
    raw = messages.fill_image(Image(), mosaic, encoding)
    np.testing.assert_array_equal(messages.image_to_array(packed), messages.image_to_array(raw))


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "rgb8"])
def test_what_is_compressed_is_read_again(encoding: str) -> None:
    shape = (9, 14, 3) if encoding == "rgb8" else (9, 14)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = messages.fill_image(Image(), pixels, encoding, Header(frame_id="eye"))
    packed = messages.fill_compressed(CompressedImage(), image)
    assert packed.header.frame_id == "eye"
    assert packed.format == f"{encoding}; png compressed {'bgr8' if encoding == 'rgb8' else encoding}"
    np.testing.assert_array_equal(messages.image_to_array(packed), pixels)
    smooth = np.full(shape, (200, 30, 90) if encoding == "rgb8" else 77, np.uint8)
    jpeg = messages.fill_compressed(CompressedImage(), messages.fill_image(Image(), smooth, encoding), 90)
    assert jpeg.format.split()[1] == "jpeg" and bytes(jpeg.data[:2]) == b"\xff\xd8"
    assert np.abs(messages.image_to_array(jpeg).astype(int) - smooth).max() <= 3


def test_a_compressed_image_too_large_for_memory_is_refused_by_its_header() -> None:
    data = compressed_image(np.zeros((4, 4, 3), np.uint8), kind="png").data
    head = bytes(data)[:16] + struct.pack(">II", 30_000, 30_000) + bytes(data)[24:29]
    data = head + struct.pack(">I", zlib.crc32(head[12:])) + bytes(data)[33:]
    message = CompressedImage(format="png", data=data)
    with pytest.raises(MessageError, match="left: the compressed image .* claims .* pixels, and at most 67108864"):
        messages.image_to_array(message, "left")


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_compressed_image_that_is_cut_off_is_refused(kind: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    whole = compressed_image(rgb, kind=kind)
    part = CompressedImage(format=whole.format, data=whole.data[: len(whole.data) // 2])
    with pytest.raises(MessageError, match="right: the compressed image .* is cut off"):
        messages.image_to_array(part, "right")


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_zeros_behind_a_compressed_image_do_not_matter(kind: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    whole = compressed_image(rgb, kind=kind)
    padded = CompressedImage(format=whole.format, data=bytes(whole.data) + bytes(5000))
    assert np.array_equal(messages.image_to_array(padded), messages.image_to_array(whole))
    filled = CompressedImage(format=whole.format, data=bytes(whole.data)[: len(whole.data) // 2] + bytes(5000))
    with pytest.raises(MessageError, match="is cut off"):
        messages.image_to_array(filled)
    with pytest.raises(MessageError, match="is no JPEG or PNG image"):
        messages.image_to_array(CompressedImage(format="jpeg", data=bytes(5000)))


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_data_that_a_camera_appends_to_an_image_does_not_matter(kind: str, tmp_path: Path) -> None:
    """As files of images and messages of them are read alike."""
    rgb = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    whole = bytes(compressed_image(rgb, kind=kind).data)
    for data in (whole + bytes(range(1, 256)) * 15, whole + bytes(5000)):
        (tmp_path / f"image.{kind}").write_bytes(data)
        message = CompressedImage(format=f"bgr8; {kind} compressed bgr8", data=data)
        np.testing.assert_array_equal(messages.image_to_array(message), formats.read_image(tmp_path / f"image.{kind}"))


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(MessageError, match=r"right: .*5 bytes.*h264") as caught:
        messages.image_to_array(CompressedImage(format="h264", data=b"abcde"), "right")
    assert caught.value.reason == "malformed image"


def test_16_bit_png_is_scaled() -> None:
    _, data = cv2.imencode(".png", np.array([[0, 65535]], np.uint16))
    message = CompressedImage(format="mono16; png compressed", data=data.tobytes())
    assert messages.image_to_array(message).tolist() == [[0, 255]]


# ---- depth ----------------------------------------------------------------------------------------------------


def test_depth_in_metres_and_in_millimetres() -> None:
    depth = np.array([[1.2344, NAN, 0.0004], [65.535, 65.536, 80.0]], np.float32)
    header = Header(frame_id="left")
    metres = messages.fill_depth(Image(), depth, "32FC1", header)
    assert (metres.encoding, metres.width, metres.height, metres.step) == ("32FC1", 3, 2, 12)
    assert metres.header.frame_id == "left"
    np.testing.assert_array_equal(messages.depth_to_array(metres), depth)
    millimetres = messages.fill_depth(Image(), depth, "16UC1", header)
    assert (millimetres.encoding, millimetres.step) == ("16UC1", 6)
    assert struct.unpack("<6H", bytes(millimetres.data)) == (1234, 0, 0, 65535, 0, 0)
    expected = np.array([[1.234, NAN, NAN], [65.535, NAN, NAN]], np.float32)
    np.testing.assert_allclose(messages.depth_to_array(millimetres), expected, rtol=1e-6)


def test_an_image_of_another_kind_is_no_depth() -> None:
    with pytest.raises(MessageError, match="truth: encoding 'rgb8' is no depth image"):
        messages.depth_to_array(image("rgb8", 1, 1, bytes(3)), "truth")


# ---- arrays to images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "array"),
    [
        ("32FC1", np.array([[1.5, NAN]], np.float32)),
        ("32FC2", np.array([[[1.5, -2.0], [0.0, 3.0]]], np.float32)),
        ("16UC1", np.array([[1, 65535]], np.uint16)),
        ("rgb8", np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)),
        ("mono8", np.array([[0, 255]], np.uint8)),
        ("8UC1", np.array([[0, 6]], np.uint8)),
    ],
)
def test_arrays_become_images_byte_for_byte(encoding: str, array: np.ndarray) -> None:
    message = messages.fill_image(Image(), array, encoding)
    assert (message.encoding, message.height, message.width) == (encoding, 1, 2)
    assert message.step == len(message.data) == array.nbytes
    assert not message.is_bigendian
    assert bytes(message.data) == array.tobytes()


def test_filling_again_replaces_the_pixels() -> None:
    message = messages.fill_image(Image(), np.zeros((8, 8), np.uint8), "mono8")
    messages.fill_image(message, np.array([[7]], np.uint8), "mono8")
    assert (message.width, message.height, list(message.data)) == (1, 1, [7])


def test_a_view_is_copied_in_its_own_order() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)[:, ::-2]
    assert list(messages.fill_image(Image(), array, "mono8").data) == [3, 1, 7, 5, 11, 9]


def test_an_array_that_does_not_fit_its_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match=r"float64 \(2, 2\) is no 32FC1 image: it takes float32 with 1"):
        messages.fill_image(Image(), np.zeros((2, 2)), "32FC1")
    with pytest.raises(ValueError, match=r"is no rgb8 image"):
        messages.fill_image(Image(), np.zeros((2, 2), np.uint8), "rgb8")


# ---- DisparityImage -------------------------------------------------------------------------------------------


def test_a_valid_disparity_beyond_the_search_is_within_the_range_of_its_message() -> None:
    """The refinement of a network may pass the ends of the search; readers drop what is out of the message's range."""
    disparity = np.full((480, 640), 30.0, np.float32)
    disparity[0, :2], disparity[1] = (61.5, 14.75), np.nan
    message = disparity_message(disparity, RIG, Header(), SearchRange(16, 60, 0), increment=0.1)
    np.testing.assert_array_equal(np.isfinite(messages.disparity_to_array(message)), np.isfinite(disparity))
    assert (message.min_disparity, message.max_disparity) == (14.75 + RIG.doffs, 61.5 + RIG.doffs)
    nothing = np.full((480, 640), np.nan, np.float32)
    found = disparity_message(nothing, RIG, Header(), SearchRange(16, 60, 0), increment=0.1)
    assert (found.min_disparity, found.max_disparity) == (16 + RIG.doffs, 60 + RIG.doffs)


def test_disparity_message_fills_every_field() -> None:
    # doffs = 4.5 - 1.5 = 3; f * t = 20
    disparity = np.array([[7.0, 0.0, NAN, 1.0], [2.0, 2.0, 2.0, 2.0]], np.float32)
    header = Header(frame_id="left")
    header.stamp.sec = 5
    message = disparity_message(disparity, RIG, header, SearchRange(-3, 60, 0), increment=0.0625)
    values = messages.float_array(message.image)
    np.testing.assert_array_equal(values, disparity + 3.0)
    assert message.header == message.image.header == header
    assert message.f == 100.0
    assert math.isclose(message.t, 0.2, rel_tol=1e-6)
    assert message.min_disparity == 0.0  # -3 + doffs: infinity
    assert message.max_disparity == 63.0
    assert message.delta_d == 0.0625
    # what a reader of the message makes of it is what we make of it
    np.testing.assert_allclose(message.f * message.t / values, disparity_to_depth(disparity, RIG), rtol=1e-6)
    assert message.f * message.t / values[0, 0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("first", "count", "border", "window"),
    [
        # By hand from stereo_image_proc's disparity_node: left = count + first + border - 1, top = border,
        # right = 639 - (border + first, or max(border, -first) below 0), bottom = 479 - border; size = differences.
        (0, 64, 7, (70, 7, 562, 465)),
        (16, 64, 7, (86, 7, 530, 465)),
        (-32, 128, 2, (97, 2, 510, 475)),
        (0, 1024, 2, (640, 2, 0, 475)),  # nowhere; a width below 0 does not fit the message
    ],
)
def test_the_valid_window_is_that_of_stereo_image_proc(first, count, border, window) -> None:
    rig = StereoRig(640, 480, 500.0, 500.0, 320.0, 240.0, 320.0, 0.1)
    searched = SearchRange(first, first + count - 1, border)
    found = disparity_message(np.zeros((480, 640), np.float32), rig, Header(), searched, increment=0.1).valid_window
    assert (found.x_offset, found.y_offset, found.width, found.height) == window


def test_a_method_without_a_range_is_valid_everywhere() -> None:
    rig = StereoRig(640, 480, 500.0, 500.0, 320.0, 240.0, 330.0, 0.1)
    searched = SearchRange(-10.0, 639.0, 0, limited=False)
    found = disparity_message(np.zeros((480, 640), np.float32), rig, Header(), searched, increment=0.1)
    window = found.valid_window
    assert (window.x_offset, window.y_offset, window.width, window.height) == (0, 0, 640, 480)
    assert (found.min_disparity, found.max_disparity) == (0.0, 649.0)


# ---- PointCloud2 ----------------------------------------------------------------------------------------------


def test_a_cloud_byte_for_byte() -> None:
    points = np.array([[[1.0, 2.0, 3.0], [NAN, NAN, NAN]]], np.float32)
    colours = np.array([[[255, 128, 1], [0, 0, 7]]], np.uint8)
    cloud = cloud_message(points, colours, Header(frame_id="left"))
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (1, 2, 16, 32)
    assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
        ("x", 0, 7, 1),
        ("y", 4, 7, 1),
        ("z", 8, 7, 1),
        ("rgb", 12, 7, 1),
    ]
    assert not cloud.is_dense
    assert struct.unpack("<3f", bytes(cloud.data[:12])) == (1.0, 2.0, 3.0)
    assert struct.unpack("<I", bytes(cloud.data[12:16])) == (0xFF8001,)
    back, rgb = messages.cloud_to_arrays(cloud)
    np.testing.assert_array_equal(back, points)
    np.testing.assert_array_equal(rgb, colours)


@pytest.mark.parametrize(
    ("coloured", "padded", "step", "offsets"),
    [  # as stereo_image_proc lays them out with avoid_point_cloud_padding and without
        (True, False, 16, {"x": 0, "y": 4, "z": 8, "rgb": 12}),
        (False, False, 12, {"x": 0, "y": 4, "z": 8}),
        (True, True, 32, {"x": 0, "y": 4, "z": 8, "rgb": 16}),
        (False, True, 16, {"x": 0, "y": 4, "z": 8}),
    ],
)
def test_a_cloud_with_and_without_colours_and_padding(
    coloured: bool, padded: bool, step: int, offsets: dict[str, int]
) -> None:
    points = np.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], np.float32)
    colours = np.array([[[255, 128, 1], [0, 0, 7]]], np.uint8) if coloured else None
    cloud = cloud_message(points, colours, Header(), padded=padded)
    assert (cloud.point_step, cloud.row_step, len(cloud.data)) == (step, 2 * step, 2 * step)
    assert {field.name: field.offset for field in cloud.fields} == offsets
    assert struct.unpack_from("<3f", bytes(cloud.data), step) == (4.0, 5.0, 6.0)
    if coloured:
        assert struct.unpack_from("<I", bytes(cloud.data), offsets["rgb"]) == (0xFF8001,)
        np.testing.assert_array_equal(messages.cloud_to_arrays(cloud)[1], colours)


def test_a_grey_cloud_repeats_the_grey() -> None:
    cloud = cloud_message(np.zeros((1, 1, 3), np.float32), np.array([[9]], np.uint8), Header())
    assert struct.unpack("<I", bytes(cloud.data[12:16])) == (0x090909,)


def test_a_cloud_that_does_not_fit_is_refused() -> None:
    cloud = cloud_message(np.zeros((2, 2, 3), np.float32), np.zeros((2, 2), np.uint8), Header())
    cloud.data = cloud.data[:-1]
    with pytest.raises(MessageError, match="63 bytes do not hold 2 rows of 32 bytes"):
        messages.cloud_to_arrays(cloud)
    with pytest.raises(MessageError, match="x, y, z and rgb are needed"):
        messages.cloud_to_arrays(PointCloud2())


def test_depth_and_disparity_agree_through_the_messages() -> None:
    depth = np.array([[2.0, 4.0, 5.0, 1.0]] * 2, np.float32)
    message = disparity_message(depth_to_disparity(depth, RIG), RIG, Header(), SearchRange(0, 63, 0), increment=0.1)
    np.testing.assert_allclose(message.f * message.t / messages.float_array(message.image), depth, rtol=1e-5)
