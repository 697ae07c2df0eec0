"""File formats: exact round trips, hand-written bytes, and the message of every unusable file."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fg_depth_ros.data.io import formats
from fg_depth_ros.files import FileError, WriteError

# One temporary folder for all examples of a property: every example overwrites its file.
reuse_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
float32 = st.floats(width=32, allow_nan=True, allow_infinity=True)


@reuse_folder
@given(values=hnp.arrays(np.float32, shapes, elements=float32))
def test_pfm_round_trip_is_exact(tmp_path: Path, values):
    formats.write_pfm(tmp_path / "a.pfm", values)
    np.testing.assert_array_equal(formats.read_pfm(tmp_path / "a.pfm"), values)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" "])
def test_pfm_data_begins_behind_the_end_of_the_header(tmp_path, end):
    values = np.array([[1.5, -2.0], [3.0, 10.0]], np.float32)
    values.view("u1")[1, 0] = 10  # the first byte of the data, which is bottom-up, is a line feed, too
    (tmp_path / "a.pfm").write_bytes(b"Pf" + end + b"2 2" + end + b"-1.0" + end + values[::-1].tobytes())
    np.testing.assert_array_equal(formats.read_pfm(tmp_path / "a.pfm"), values)


def test_pfm_rows_are_bottom_up_and_both_byte_orders_are_read(tmp_path):
    path = tmp_path / "a.pfm"
    path.write_bytes(b"Pf\n2 2\n-1.0\n" + struct.pack("<4f", 3, 4, 1, np.inf))
    np.testing.assert_array_equal(formats.read_pfm(path), [[1, np.inf], [3, 4]])
    path.write_bytes(b"Pf 2 2 1.000 " + struct.pack(">4f", 3, 4, 1, 2))
    np.testing.assert_array_equal(formats.read_pfm(path), [[1, 2], [3, 4]])
    colour = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    formats.write_pfm(path, colour)
    np.testing.assert_array_equal(formats.read_pfm(path), colour)


@reuse_folder
@given(data=st.data(), shape=shapes)
def test_flo_round_trip_is_exact_and_unknown_stays_unknown(tmp_path, data, shape):
    values = st.floats(-1e4, 1e4, width=32)
    flow = data.draw(hnp.arrays(np.float32, (*shape, 2), elements=values))
    unknown = data.draw(hnp.arrays(bool, shape))
    flow[unknown] = np.nan
    formats.write_flo(tmp_path / "a.flo", flow)
    np.testing.assert_array_equal(formats.read_flo(tmp_path / "a.flo"), flow)


def test_flo_bytes_written_by_hand(tmp_path):
    path = tmp_path / "a.flo"
    path.write_bytes(struct.pack("<fii6f", 202021.25, 3, 1, 1, 2, 3, 4, 1e10, 0))
    np.testing.assert_array_equal(formats.read_flo(path), [[[1, 2], [3, 4], [np.nan, np.nan]]])


@reuse_folder
@given(values=hnp.arrays(np.uint16, shapes))
def test_kitti_disparity_round_trip_is_exact(tmp_path, values):
    disparity = np.where(values > 0, values / np.float32(256), np.nan).astype(np.float32)
    formats.write_kitti_disparity(tmp_path / "a.png", disparity)
    np.testing.assert_array_equal(formats.read_kitti_disparity(tmp_path / "a.png"), disparity)


def test_kitti_disparity_stores_256ths_and_keeps_small_values_known(tmp_path):
    path = tmp_path / "a.png"
    formats.write_kitti_disparity(path, np.array([[1.5, 0.0001, np.nan, 0.0, -3.0, 255.996]]))
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tolist() == [[384, 1, 0, 0, 0, 65535]]
    with pytest.raises(ValueError, match=r"300 px does not fit.*\.pfm"):
        formats.write_kitti_disparity(path, np.array([[300.0]]))


@reuse_folder
@given(data=st.data(), shape=shapes)
def test_kitti_flow_round_trip_is_exact(tmp_path, data, shape):
    stored = data.draw(hnp.arrays(np.int32, (*shape, 2), elements=st.integers(-32768, 32767)))
    flow = (stored / 64).astype(np.float32)
    flow[data.draw(hnp.arrays(bool, shape))] = np.nan
    formats.write_kitti_flow(tmp_path / "a.png", flow)
    np.testing.assert_array_equal(formats.read_kitti_flow(tmp_path / "a.png"), flow)


def test_kitti_flow_channels_are_u_v_valid(tmp_path):
    path = tmp_path / "a.png"
    formats.write_kitti_flow(path, np.array([[[1.0, -2.0], [np.nan, 5.0]]]))
    bgr = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert bgr[..., ::-1].tolist() == [[[32768 + 64, 32768 - 128, 1], [0, 0, 0]]]
    with pytest.raises(ValueError, match="512 px"):
        formats.write_kitti_flow(path, np.array([[[600.0, 0.0]]]))


def test_png_depth_is_millimetres(tmp_path):
    path = tmp_path / "depth.png"
    formats.write_png_depth(path, np.array([[1.2344, np.nan, 65.535, 70.0, -1.0, np.inf]]))
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tolist() == [[1234, 0, 65535, 0, 0, 0]]
    np.testing.assert_allclose(
        formats.read_png_depth(path), [[1.234, np.nan, 65.535, np.nan, np.nan, np.nan]], rtol=1e-6
    )


def test_images_are_rgb_whatever_the_file(tmp_path):
    image = np.zeros((2, 3, 3), np.uint8)
    image[..., 0] = 200  # red
    formats.write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(formats.read_image(tmp_path / "a.png"), image)
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    formats.write_image(tmp_path / "g.png", grey)
    np.testing.assert_array_equal(formats.read_image(tmp_path / "g.png"), np.dstack([grey] * 3))
    np.testing.assert_array_equal(formats.read_grey(tmp_path / "g.png"), grey)
    assert formats.image_size(tmp_path / "a.png") == (3, 2)
    formats.write_image(tmp_path / "a.bmp", image)
    assert formats.image_size(tmp_path / "a.bmp") == (3, 2)


@pytest.mark.parametrize(("bits", "suffix"), [(10, ".png"), (12, ".png"), (12, ".tiff"), (14, ".png"), (16, ".png")])
def test_images_of_more_than_8_bits_use_the_whole_range(tmp_path, bits, suffix):
    """White of a 12-bit camera is 4095; of 16 bits it would be 15 of 255, nearly black."""
    white = 2**bits - 1
    image = np.array([[0, white // 2, white]], np.uint16)
    formats.write_image(tmp_path / f"a{suffix}", image)
    grey = np.array([[[0] * 3, [127] * 3, [255] * 3]], np.uint8)
    np.testing.assert_allclose(formats.read_image(tmp_path / f"a{suffix}"), grey, atol=1)
    stored = formats.read_camera_image(tmp_path / f"a{suffix}")
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, np.dstack([image] * 3))


def test_pixels_that_no_camera_has_are_refused_by_their_type(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tiff"), np.ones((2, 2), np.int16))
    with pytest.raises(FileError, match=r"a\.tiff: its pixels are int16"):
        formats.read_image(tmp_path / "a.tiff")


def test_ply_holds_the_finite_points_and_their_colours(tmp_path):
    points = np.array([[[1, 2, 3], [np.nan] * 3], [[4, 5, 6], [7, 8, np.inf]]], dtype=np.float32)
    colours = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert formats.write_ply(tmp_path / "a.ply", points, colours) == 2
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 2\n" in header
    assert b"property uchar blue\n" in header
    assert body == struct.pack("<3f3B3f3B", 1, 2, 3, 0, 1, 2, 4, 5, 6, 6, 7, 8)
    assert formats.write_ply(tmp_path / "b.ply", points) == 2
    with pytest.raises(ValueError, match="points and colours"):
        formats.write_ply(tmp_path / "c.ply", points, colours[:1])


READERS = ["read_image", "read_grey", "read_pfm", "read_flo", "read_kitti_disparity", "read_kitti_flow"]


@pytest.mark.parametrize("reader", READERS)
def test_missing_empty_and_foreign_files_are_named(tmp_path, reader):
    read = getattr(formats, reader)
    with pytest.raises(FileError, match=r"gone\.bin: no such file; check the path"):
        read(tmp_path / "gone.bin")
    (tmp_path / "empty.bin").write_bytes(b"")
    with pytest.raises(FileError, match=r"empty\.bin: the file is empty"):
        read(tmp_path / "empty.bin")
    (tmp_path / "text.bin").write_text("<html>404 not found</html>")
    with pytest.raises(FileError, match=r"text\.bin: .*(magic number|no PFM header|is no image)"):
        read(tmp_path / "text.bin")
    with pytest.raises(FileError, match=r"is a folder; give a file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pfm", b"Pf\n2 2\n-1.0\n" + bytes(15), "truncated: 2x2 pixels need 16 bytes of data, found 15"),
        ("a.pfm", b"Pf\n2 2\n-1.0\n" + bytes(17), "too long: 2x2 pixels need 16 bytes of data, found 17"),
        ("a.pfm", b"Pf\n0 2\n-1.0\n", "header claims 0x2"),
        ("a.pfm", b"Pf\n999999999 999999999\n-1.0\n", "header claims 999999999x"),
        ("a.flo", struct.pack("<fii", 202021.25, 2, 2) + bytes(31), "need 32 bytes of data, found 31"),
        ("a.flo", struct.pack("<f", 202021.25), "truncated: 4 bytes"),
        ("a.flo", struct.pack("<fii", 202021.25, -1, 5), "header claims -1x5"),
        ("a.flo", struct.pack("<fii", 1.5, 2, 2), r"magic number is 1.5, a .flo file has 202021.25"),
    ],
)
def test_damaged_float_files(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileError) as caught:
        (formats.read_pfm if name.endswith("pfm") else formats.read_flo)(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("kept", [0.1, 0.6, 0.99])
def test_truncated_images_are_refused_even_where_a_part_could_be_decoded(tmp_path, ending, kept):
    path = tmp_path / f"a.{ending}"
    formats.write_image(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = path.read_bytes()
    assert formats.read_image(path).shape == (64, 64, 3)
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(FileError, match=rf"a\.{ending}: truncated: .*fetch it again"):
        formats.read_image(path)


def claimed(content: bytes, width: int, height: int) -> bytes:
    """A PNG whose header states another size."""
    head = struct.pack(">II", width, height) + content[24:29]
    return content[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + content[33:]


@pytest.mark.parametrize("size", [(30_000, 30_000), (9000, 9000)])
def test_an_image_too_large_for_memory_is_refused_by_its_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    formats.write_image(path, np.zeros((4, 4, 3), np.uint8))
    path.write_bytes(claimed(path.read_bytes(), *size))
    for read in (formats.read_image, formats.read_grey, formats.read_kitti_disparity, formats.image_size):
        with pytest.raises(
            FileError, match=rf"bomb\.png: header claims {size[0]}x{size[1]} pixels, and at most 67108864 are decoded"
        ):
            read(path)


def test_pipes_and_devices_are_refused(tmp_path):
    pipe, link = tmp_path / "pipe.png", tmp_path / "link.png"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (pipe, link):
        for read in (formats.read_image, formats.image_size, formats.read_pfm):
            with pytest.raises(FileError, match=rf"{path.name}: is a pipe or a device"):
                read(path)


def test_the_stored_pixels_count_and_not_the_orientation_beside_them(tmp_path):
    """EXIF 6 asks viewers to turn the picture; a calibration is of the pixels as they are stored."""
    path = tmp_path / "turned.jpg"
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 8:] = 255
    formats.write_image(path, image)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:])
    assert cv2.imread(str(path)).shape == (16, 8, 3)
    assert formats.image_size(path) == (16, 8)
    assert formats.read_image(path).shape == (8, 16, 3)
    assert formats.read_grey(path).shape == (8, 16)


def test_a_picture_is_no_measurement(tmp_path):
    path = tmp_path / "photo.png"
    formats.write_image(path, np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(FileError, match=r"3 channel\(s\) of uint8, this format has 1 of uint16"):
        formats.read_kitti_disparity(path)
    with pytest.raises(FileError, match=r"this format has 3 of uint16"):
        formats.read_kitti_flow(path)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_writers_refuse_what_is_no_flow(tmp_path, shape):
    for write in (formats.write_flo, formats.write_kitti_flow):
        with pytest.raises(ValueError, match="HxWx2"):
            write(tmp_path / "a.flo", np.zeros(shape))


def test_public_kitti_and_middlebury_files_are_read(public_data):
    flow = formats.read_flo(public_data / "flow/RubberWhale/flow10.flo")
    assert flow.shape == (388, 584, 2)
    assert 0.9 < np.isfinite(flow).mean() <= 1.0
    assert np.nanmax(np.abs(flow)) < 20
    flow = formats.read_kitti_flow(public_data / "kitti2015_scene_flow/flow_occ/000002_10.png")
    truth = formats.read_kitti_disparity(public_data / "kitti2015_scene_flow/disp_occ_0/000002_10.png")
    assert flow.shape[:2] == truth.shape == (375, 1242)
    assert 0.1 < np.isfinite(truth).mean() < 0.4


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", lambda path: formats.write_image(path, np.zeros((9, 9, 3), np.uint8))),
        ("a.pfm", lambda path: formats.write_pfm(path, np.zeros((9, 9)))),
        ("a.flo", lambda path: formats.write_flo(path, np.zeros((9, 9, 2)))),
        ("a.ply", lambda path: formats.write_ply(path, np.ones((9, 3)))),
    ],
)
def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch, name, write):
    def full(path, content):
        path.open("wb").write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(WriteError, match=rf"{name}: cannot be written \(No space left on device\)"):
        write(tmp_path / name)
    assert not list(tmp_path.iterdir())
