"""Images on their way to the disk: PNG keeps every pixel, JPEG nearly, and nothing else is touched."""

from __future__ import annotations

import logging
from typing import Any

import cv2
import numpy as np
import pytest

from fg_depth_ros.data.bags.storage import COMPRESSED, IMAGE, INFO, message_types
from fg_depth_ros.data.io.messages import CAMERA_ENCODINGS, image_to_array, layout
from fg_depth_ros.recording.definitions import Message, Topic
from fg_depth_ros.recording.transcode import compress, image_encoder

LEFT = Topic("/left/image_rect", IMAGE, "some qos")
PACKED = ("bayer", "yu", "uyvy", "nv")  # colours that take more than a pixel to make
STAMP = (1_700_000_000, 123_456_789)


def header(frame: str = "eye") -> Any:
    types = message_types().types
    stamp = types["builtin_interfaces/msg/Time"](sec=STAMP[0], nanosec=STAMP[1])
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


def image(encoding: str, width: int = 46, height: int = 36, padding: int = 0, order: str = "<") -> bytes:
    """A serialized Image with a smooth picture in it (JPEG keeps it nearly), rows padded with noise."""
    form = layout(encoding)
    y, x = np.mgrid[:height, :width]
    channels = [(40 + 3 * x + 2 * y), (200 - 2 * x + y), (90 + x - y), np.full_like(x, 255)]
    pixels = np.stack(channels[: form.channels], -1).astype(np.uint8)
    if form.dtype.itemsize == 2:
        pixels = (pixels.astype(np.uint16) * 250 + 7).astype(f"{order}u2")
    rows = pixels.reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=113)
    message = message_types().types[IMAGE](
        header=header(), height=height, width=width, encoding=encoding, is_bigendian=int(order == ">"),
        step=rows.shape[1], data=np.ascontiguousarray(rows).reshape(-1),
    )  # fmt: skip
    return bytes(message_types().serialize_cdr(message, IMAGE))


def decoded(data: bytes) -> Any:
    return message_types().deserialize_cdr(data, COMPRESSED)


def raw_pixels(data: bytes) -> np.ndarray:
    return image_to_array(message_types().deserialize_cdr(data, IMAGE))


# ---- what is left as it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["raw", "zstd"])
def test_other_storages_need_no_encoder(storage: str) -> None:
    assert image_encoder(storage, 95, {LEFT.name}) is None


def test_other_topics_and_other_types_are_not_touched() -> None:
    encode = image_encoder("png", 95, {LEFT.name})
    assert encode is not None
    for topic in (
        Topic("/depth/image_rect", IMAGE),
        Topic("/left/image_rect", INFO),
        LEFT._replace(msgtype=COMPRESSED),
    ):
        message = Message(topic.name, 5, image("mono8"))
        assert encode(topic, message) == (topic, message)


@pytest.mark.parametrize("broken", [b"", image("mono8")[:60], image("mono8")[:-20], image("32FC1")])
def test_a_broken_or_foreign_image_is_recorded_as_it_is_and_named_once(
    broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    encode = image_encoder("jpeg", 95, {LEFT.name})
    assert encode is not None
    message = Message(LEFT.name, 5, broken)
    with caplog.at_level(logging.WARNING):
        assert encode(LEFT, message) == (LEFT, message)
        assert encode(LEFT, message) == (LEFT, message)
    assert len(caplog.records) == 1
    assert LEFT.name in caplog.text


@pytest.mark.parametrize("encoding", [e for e in CAMERA_ENCODINGS if e.startswith(PACKED)])
def test_a_png_never_stands_for_a_mosaic_or_packed_yuv(encoding: str) -> None:
    assert compress(image(encoding), "png") is None


# ---- what is packed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", [e for e in CAMERA_ENCODINGS if not e.startswith(PACKED)])
def test_png_gives_every_pixel_back(encoding: str, padding: int) -> None:
    data = image(encoding, padding=padding)
    packed = compress(data, "png")
    assert packed is not None
    message = decoded(packed)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == STAMP
    assert message.header.frame_id == "eye"
    assert message.data[:4].tobytes() == b"\x89PNG"
    assert np.array_equal(image_to_array(message), raw_pixels(data))


@pytest.mark.parametrize("order", ["<", ">"])
def test_png_keeps_all_sixteen_bits(order: str) -> None:
    data = image("mono16", order=order)
    for storage in ("png", "jpeg"):  # a JPEG has eight
        packed = compress(data, storage)
        assert packed is not None
        stored = cv2.imdecode(decoded(packed).data, cv2.IMREAD_UNCHANGED)
        y, x = np.mgrid[:36, :46]
        assert np.array_equal(stored, ((40 + 3 * x + 2 * y).astype(np.uint8).astype(np.uint16) * 250 + 7))


@pytest.mark.parametrize("encoding", [e for e in CAMERA_ENCODINGS if "16" in e])
def test_sixteen_bits_are_kept_where_a_jpeg_has_eight(encoding: str) -> None:
    data = image(encoding)
    packed = compress(data, "jpeg", 100)
    if encoding.startswith(PACKED):
        assert packed is None
        return
    assert packed is not None
    raw = image_to_array(message_types().deserialize_cdr(data, IMAGE), mono16_white=None)
    np.testing.assert_array_equal(image_to_array(decoded(packed), mono16_white=None), raw)


@pytest.mark.parametrize("encoding", [e for e in CAMERA_ENCODINGS if "16" not in e])
def test_jpeg_gives_nearly_every_pixel_back(encoding: str) -> None:
    data = image(encoding)
    packed = compress(data, "jpeg", 100)
    assert packed is not None
    message = decoded(packed)
    assert message.data[:2].tobytes() == b"\xff\xd8"
    expected = raw_pixels(data).astype(float)
    if not encoding.startswith(PACKED):  # there the picture is noise of colours
        assert np.abs(image_to_array(message) - expected).mean() < 3.0
    assert image_to_array(message).shape == expected.shape


def test_a_lower_quality_is_smaller() -> None:
    good, poor = (compress(image("rgb8", 320, 240), "jpeg", quality) for quality in (98, 30))
    assert good is not None
    assert poor is not None
    assert len(poor) < 0.6 * len(good) < 0.6 * len(image("rgb8", 320, 240))


@pytest.mark.parametrize(
    ("encoding", "storage", "text"),
    [
        ("rgb8", "png", "rgb8; png compressed bgr8"),
        ("bgr8", "jpeg", "bgr8; jpeg compressed bgr8"),
        ("mono8", "jpeg", "mono8; jpeg compressed "),
        ("mono16", "jpeg", "mono16; png compressed "),
        ("8UC3", "png", "rgb8; png compressed bgr8"),
        ("bayer_rggb8", "jpeg", "rgb8; jpeg compressed bgr8"),
        ("rgb16", "png", "rgb16; png compressed bgr16"),
        ("16UC1", "jpeg", "mono16; png compressed "),
    ],
)
def test_the_format_is_named_as_image_transport_does(encoding: str, storage: str, text: str) -> None:
    packed = compress(image(encoding), storage)
    assert packed is not None
    assert decoded(packed).format == text


def test_the_encoder_renames_topic_and_type_and_keeps_time_and_qos() -> None:
    encode = image_encoder("png", 95, {LEFT.name})
    assert encode is not None
    topic, message = encode(LEFT, Message(LEFT.name, 77, image("rgb8")))
    assert topic == Topic("/left/image_rect/compressed", COMPRESSED, "some qos")
    assert (message.topic, message.recorded) == (topic.name, 77)
    assert np.array_equal(image_to_array(decoded(message.data)), raw_pixels(image("rgb8")))
