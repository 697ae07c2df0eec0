"""Depth images of compressed_depth_image_transport, against bytes that are put together here by hand."""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from fg_depth_ros.data.io import compressed_depth
from fg_depth_ros.data.io.compressed_depth import DepthQuantisation
from fg_depth_ros.data.io.messages import MessageError, MessageFault, depth_to_array

PNG, RVL = "; compressedDepth png", "; compressedDepth rvl"


def png(values: np.ndarray) -> bytes:
    """A PNG of 16-bit grey, unfiltered (PNG specification, 2nd edition, chapters 5, 9 and 11)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rvl(values: np.ndarray) -> bytes:
    """RVL as the paper's figures have it, a value at a time."""
    nibbles: list[int] = []

    def put(number: int) -> None:
        while number > 7:
            nibbles.append(number & 7 | 8)
            number >>= 3
        nibbles.append(number)

    left, previous = values.reshape(-1).tolist(), 0
    while left:
        zeros = next((i for i, v in enumerate(left) if v), len(left))
        others = next((i for i, v in enumerate(left[zeros:]) if not v), len(left) - zeros)
        put(zeros)
        put(others)
        for value in left[zeros : zeros + others]:
            step, previous = value - previous, value
            put(2 * step if step >= 0 else -2 * step - 1)
        left = left[zeros + others :]
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)]
    return struct.pack(f"<II{len(words)}I", values.shape[1], values.shape[0], *words)


def message(form: str, data: bytes) -> SimpleNamespace:
    return SimpleNamespace(format=form, data=np.frombuffer(data, np.uint8))


def read(form: str, data: bytes) -> np.ndarray:
    return compressed_depth.decode(np.frombuffer(data, np.uint8), form)


def header(a: float = 0.0, b: float = 0.0) -> bytes:
    return struct.pack("<iff", 0, a, b)


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["16UC1" + PNG, "16UC1; compressedDepth", "16UC1; compressedDepth ", "16UC1", "mono16"]
)
def test_millimetres_of_every_name(form: str) -> None:
    values = np.array([[0, 1, 1500], [65535, 300, 0]], np.uint16)
    np.testing.assert_array_equal(read(form, header() + png(values)), values)
    metres = depth_to_array(message(form, header() + png(values)))
    assert metres.dtype == np.float32
    np.testing.assert_allclose(metres, [[np.nan, 0.001, 1.5], [65.535, 0.3, np.nan]], rtol=1e-6)


def test_metres_are_a_over_q_minus_b() -> None:
    # the sender's defaults: quantisation 100 and 10 m, so A = 100 * 101, B = 1 - A / 10
    a, b = 10100.0, -1009.0
    values = np.array([[0, 1, 9091], [4041, 65535, 1]], np.uint16)
    metres = depth_to_array(message("32FC1" + PNG, header(a, b) + png(values)))
    np.testing.assert_allclose(metres, [[np.nan, 10.0, 1.0], [2.0, 10100 / 66544, 10.0]], rtol=1e-6)


def test_rvl_by_hand() -> None:
    # 2 zeros, 2 others: +5 is 10 = nibbles A 1, +2 is 4; then 1 zero, 0 others; the first nibble is a word's highest
    data = header() + struct.pack("<II", 5, 1) + bytes([0x00, 0x41, 0xA1, 0x22])
    assert read("16UC1" + RVL, data).tolist() == [[0, 0, 5, 7, 0]]


def test_rvl_of_noise_with_holes() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 65536, (48, 64), dtype=np.uint16)
    values[random.random(values.shape) < 0.3] = 0
    values[:10] = 0
    np.testing.assert_array_equal(read("16UC1" + RVL, header() + rvl(values)), values)
    metres = read("32FC1" + RVL, header(10100.0, -1009.0) + rvl(values))
    np.testing.assert_array_equal(np.isnan(metres), values == 0)
    for whole in (np.zeros((3, 5), np.uint16), np.full((3, 5), 700, np.uint16)):
        np.testing.assert_array_equal(read("16UC1" + RVL, header() + rvl(whole)), whole)


@pytest.mark.parametrize(
    ("form", "data", "said"),
    [
        ("rgb8; jpeg compressed bgr8", header() + png(np.ones((2, 2), np.uint16)), "its format is no"),
        ("16UC1; compressedDepth zstd", header() + b"1234", "packed as 'zstd'"),
        ("16UC1" + PNG, header(), "shorter than its header"),
        ("16UC1" + PNG, header() + b"\x89PNG", "claims 0x0 pixels"),
        ("16UC1" + PNG, header() + png(np.ones((90, 90), np.uint16))[:-14], "cut off"),
        ("32FC1" + PNG, header(0.0, 0.0) + png(np.ones((2, 2), np.uint16)), "quantisation A = 0"),
        ("32FC1" + PNG, header(np.nan, 0.0) + png(np.ones((2, 2), np.uint16)), "quantisation A = nan"),
        ("16UC1" + RVL, header() + b"1234", "shorter than the size"),
        ("16UC1" + RVL, header() + struct.pack("<II", 1 << 30, 1 << 30), "pixels"),
        ("16UC1" + RVL, header() + struct.pack("<II", 4, 4), "cut off"),
        ("16UC1" + RVL, header() + struct.pack("<II", 4, 4) + bytes([0, 0, 0, 0x33]), "cut off"),
        ("16UC1" + RVL, header() + struct.pack("<IIIII", 4, 4, *[0x88888888] * 3), "cut off"),
        ("16UC1" + RVL, header() + struct.pack("<IIII", 4, 4, 0x88888888, 0x88811111), "more than 30 bits"),
        ("16UC1" + RVL, header() + rvl(np.arange(1, 101, dtype=np.uint16).reshape(10, 10))[:-8], "cut off"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_topic(form: str, data: bytes, said: str) -> None:
    with pytest.raises(
        MessageError, match=f"^/d/compressedDepth: the compressed depth image .*{said}.*check"
    ) as caught:
        depth_to_array(message(form, data), "/d/compressedDepth")
    assert caught.value.reason == MessageFault.MALFORMED_IMAGE


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_millimetres_are_kept() -> None:
    values = np.random.default_rng(1).integers(0, 65536, (40, 60), dtype=np.uint16)
    values[:, :7] = 0
    data = compressed_depth.encode_millimetres(values, 1)
    assert data[:12] == bytes(12) and data[12:16] == b"\x89PNG"
    np.testing.assert_array_equal(read("16UC1" + PNG, data), values)


def test_metres_are_wrong_by_half_a_step_of_inverse_depth() -> None:
    nearest, farthest = 0.1, 80.0
    steps = DepthQuantisation.between(nearest, farthest)
    assert steps.a == pytest.approx(65534 / (1 / 0.1 - 1 / 80), rel=1e-6)
    depth = np.geomspace(nearest, farthest, 40_000).astype(np.float32).reshape(200, 200)
    data = compressed_depth.encode_metres(depth, steps, 1)
    assert struct.unpack("<iff", data[:12]) == (0, steps.a, steps.b)
    found = read("32FC1" + PNG, data)
    bound = depth**2 / (2 * (steps.a - depth / 2))
    assert np.all(np.abs(found - depth) <= bound * 1.02 + 1e-6)
    assert bound[depth <= 1].max() < 0.08e-3
    assert bound[depth <= 10].max() < 8e-3
    # the whole of 16 bits is used, so the bound is as small as it can be
    assert np.abs(found - depth).max() > 0.8 * bound.max()


def test_what_is_no_depth_stays_none() -> None:
    depth = np.array([[np.nan, np.inf, -np.inf, 0.0, -1.0], [0.05, 0.0999, 81.0, 1e9, 1e-30]], np.float32)
    kept = np.array([[0.1, 1.0, 79.9, 80.0, 5.0]], np.float32)
    data = compressed_depth.encode_metres(np.vstack([depth, kept]), DepthQuantisation.between(0.1, 80.0), 1)
    found = read("32FC1" + PNG, data)
    assert np.isnan(found[:2]).all()
    np.testing.assert_allclose(found[2:], kept, rtol=0.007)


def test_a_narrow_range_is_finer() -> None:
    depth = np.full((4, 4), 1.2345, np.float32)
    errors = []
    for farthest in (80.0, 1.5):
        data = compressed_depth.encode_metres(depth, DepthQuantisation.between(1.0, farthest), 1)
        errors.append(abs(float(read("32FC1" + PNG, data)[0, 0]) - 1.2345))
    assert errors[1] < 5e-6 and errors[0] < 12e-6
