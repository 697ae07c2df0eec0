"""Bags that are cut off or damaged: what is whole is used, and the rest is said."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

import zstandard
from support.bags import SECOND, bag_of, damage_chunks, large, pack, pairs_at, split, storage_file, write
from support.pair_folders import small_rig

from fg_depth_ros.data.bags import mcap
from fg_depth_ros.data.bags.checks import check_bag
from fg_depth_ros.data.bags.files import is_bag
from fg_depth_ros.data.bags.folders import bag_sha256
from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.storage import IMAGE, INFO, BagStorage, message_types
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.files import FileError


def test_what_is_whole_of_a_cut_off_file_is_used_and_said(tmp_path, caplog):
    bag, pairs = large(tmp_path / "bag")
    content = storage_file(bag).read_bytes()
    counts = []
    for part in (0.95, 0.6, 0.3):
        (tmp_path / "cut.mcap").write_bytes(content[: int(len(content) * part)])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            samples = open_bag_pairs(tmp_path / "cut.mcap")
        assert "cut.mcap: cut off or damaged" in caplog.text
        counts.append(len(samples))
        for sample, (stamp, left, right) in zip(samples, pairs, strict=False):
            assert sample.name == str(stamp)
            for image, expected in zip(sample.images(), (left, right), strict=True):
                np.testing.assert_array_equal(image, expected)
    assert 8 > counts[0] >= 6 and counts[0] > counts[1] > counts[2] >= 1


def killed_sqlite(folder, stamps, in_log):
    """What a recorder with a write-ahead log leaves when it is killed: the last messages are in NAME.db3-wal."""
    whole = storage_file(write(folder.with_name("whole"), stamps, storage="sqlite3"))
    first = stamps[-in_log]
    source = sqlite3.connect(whole)
    columns = "topic_id, timestamp, data"
    rows = source.execute(f"SELECT {columns} FROM messages WHERE timestamp >= ? ORDER BY id", (first,)).fetchall()
    source.execute("DELETE FROM messages WHERE timestamp >= ?", (first,))
    source.commit()
    source.execute("PRAGMA journal_mode=WAL")
    source.execute("PRAGMA wal_autocheckpoint=0")
    source.executemany(f"INSERT INTO messages({columns}) VALUES (?, ?, ?)", rows)
    source.commit()
    folder.mkdir()
    for file in whole.parent.glob("*.db3*"):  # before it is closed, which ends the log
        shutil.copy(file, folder)
    source.close()
    return storage_file(folder)


def test_the_write_ahead_log_of_a_sqlite_bag_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    stamps = [SECOND * k for k in range(1, 9)]
    file = killed_sqlite(tmp_path / "killed", stamps, in_log=5)
    before = {path: path.read_bytes() for path in file.parent.iterdir()}
    assert before[file.with_name(f"{file.name}-wal")]
    samples = open_bag_pairs(file.parent)
    assert [sample.stamp for sample in samples] == stamps
    np.testing.assert_array_equal(samples[7].images()[1], pairs_at(*stamps)[7][2])
    assert [sample.stamp for sample in open_bag_pairs(file)] == stamps
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == before
    assert list((tmp_path / "temporary").iterdir())
    del samples
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_no_room_for_a_copy_with_the_write_ahead_log_is_said(tmp_path, monkeypatch):
    file = killed_sqlite(tmp_path / "killed", [SECOND, 2 * SECOND], in_log=1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(FileError, match=rf"{file.name}: .*{file.name}-wal .*set TMPDIR"):
        open_bag_pairs(file)


def test_the_folder_of_a_recorder_that_was_killed_is_read(tmp_path, caplog):
    """No metadata.yaml, no index, and half a message at the end."""
    bag, _ = large(tmp_path / "bag")
    (bag / "metadata.yaml").unlink()
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[:-5000])
    assert is_bag(bag)
    assert len(open_bag_pairs(bag)) >= 6
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 9}")
    with caplog.at_level(logging.WARNING):
        assert len(open_bag_pairs(bag)) >= 6
    assert "not read as its metadata.yaml says" in caplog.text


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_damage_in_the_middle_costs_what_it_hides(tmp_path, caplog, byte):
    bag, _ = large(tmp_path / "bag")
    file = storage_file(bag)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600_000] = 600_000 * byte  # more than a message
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        samples = open_bag_pairs(bag)
    assert 1 <= len(samples) < 8
    assert re.search(r"damaged \(.*\): only \d+ of 32 messages of /left/image_rect, /right/image_rect", caplog.text)


@pytest.mark.parametrize("head", [False, True])
def test_a_damaged_chunk_costs_no_other_one(tmp_path, caplog, head):
    bag, pairs = large(tmp_path / "bag", 12)
    every = [
        (message.topic, message.recorded, message.data) for message in BagStorage(bag).replay(BagStorage(bag).topics)
    ]
    assert len(every) == 48
    size, lost = damage_chunks(bag, (1, 3), head=head)
    assert 0 < len(lost) < 24
    storage = BagStorage(bag)
    for read in (storage.replay, storage.scan):  # the second one knows of the damage
        with caplog.at_level(logging.WARNING):
            found = [(message.topic, message.recorded, message.data) for message in read(storage.topics)]
        assert found == [message for message in every if message[:2] not in lost]
    assert storage.unread.messages == len(lost)
    # Without its head a chunk has no checksum, and its content is not known to be damaged.
    assert size / 3 < storage.unread.bytes <= size if head else storage.unread.bytes == size
    whole = 48 - len(lost)
    assert f"only {whole} of 48 messages of" in caplog.text
    assert "fetch it again; fg-depth recover makes a bag of what is whole" in caplog.text
    stamps = {stamp for _, stamp in lost}
    expected = [pair for pair in pairs if pair[0] not in stamps]
    samples = open_bag_pairs(bag)
    assert [sample.stamp for sample in samples] == [stamp for stamp, *_ in expected]
    for sample, (_, *images) in zip(samples, expected, strict=True):
        np.testing.assert_array_equal(sample.images(), images)
    check = check_bag(bag)
    assert (check.usable, check.pairs) == (True, len(expected))
    assert check.to_dict()["unread"] == {"messages": len(lost), "bytes": storage.unread.bytes}


def test_one_reading_leaves_a_chunk_out_while_another_goes_on(tmp_path):
    bag, _ = large(tmp_path / "bag", 12)
    _, lost = damage_chunks(bag, (2,))
    storage = BagStorage(bag)
    first = storage.replay(storage.topics)
    next(first)
    assert len(list(storage.replay(storage.topics))) == 48 - len(lost)
    assert len(list(first)) == 48 - len(lost) - 1


def test_what_is_cut_off_is_counted(tmp_path):
    bag, _ = large(tmp_path / "bag")
    file = storage_file(bag)
    assert BagStorage(file).unread == (0, 0)
    file.write_bytes(file.read_bytes()[:-1_000_000])
    messages, lost = BagStorage(file).unread
    assert messages == 0  # nothing says how many there were
    assert 0 < lost < 1_000_000
    split(large(tmp_path / "other")[0], tmp_path / "drive")
    (tmp_path / "drive/drive_1.mcap").write_bytes(b"rubbish")
    assert BagStorage(tmp_path / "drive").unread == (0, 7)


def test_a_cut_off_sqlite_bag_says_how_to_save_it(tmp_path):
    bag, _ = large(tmp_path / "bag", 4)
    bag = write_stereo_bag(tmp_path / "db", pairs_at(*range(1, 9)), small_rig(), storage="sqlite3")
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(FileError, match=r"\.db3: cannot be read .*'sqlite3 .*\.db3 \.recover'; record MCAP"):
        open_bag_pairs(file)


def test_an_image_that_is_cut_off_costs_that_pair_alone(tmp_path):
    bag = write(tmp_path / "bag", compressed="png")
    samples = open_bag_pairs(bag)
    data = BagStorage(bag).at("/left/image_rect/compressed", 11 * SECOND)[0]
    file = storage_file(bag)
    content = file.read_bytes()
    at = content.index(data) + data.index(b"IEND")
    # The checksum of the chunk is cleared with it: 0 says that there is none.
    chunk = content.index(b"\x06", 8)
    content = content[:at] + b"XXXX" + content[at + 4 :]
    content = content[: chunk + 9 + 24] + bytes(4) + content[chunk + 9 + 28 :]
    file.write_bytes(content)
    samples = open_bag_pairs(bag)
    samples[0].images()
    with pytest.raises(
        FileError, match="/left/image_rect/compressed at 11000000000 ns: the compressed image .* cut off"
    ):
        samples[1].images()


def test_damage_that_comes_later_is_named(tmp_path):
    bag, _ = large(tmp_path / "bag")
    samples = open_bag_pairs(bag)
    file = storage_file(bag)
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(600_000 * b"\xff")
    failed = []
    for sample in samples:
        try:
            sample.images()
        except FileError as error:
            failed.append(str(error))
    assert 1 <= len(failed) <= 3  # the damage reaches into two chunks
    assert re.search(r"bag, /(left|right)/image_rect at \d+ ns: (damaged \(|the message is gone)", failed[0])


# ---- what asks for too much memory, and what is of others -----------------------------------------------------------


def mcap_of(path, encoding="cdr", profile="ros2"):
    """An MCAP file of one message."""
    from mcap.writer import Writer

    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start(profile, "test")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        writer.add_message(writer.register_channel("/chatter", encoding, schema), 1, b"x", 1)
        writer.finish()
    return path


@pytest.mark.parametrize("stated", [1 << 20, 1 << 32])
def test_a_chunk_is_not_unpacked_beyond_its_header_and_the_limit(tmp_path, stated):
    path = mcap_of(tmp_path / "bomb.mcap")
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content, 9)  # of the header, behind the magic
    packed = zstandard.ZstdCompressor().compress(bytes(1 << 29))
    chunk = struct.pack("<QQQII4sQ", 1, 1, stated, 0, 4, b"zstd", len(packed)) + packed
    path.write_bytes(content[: 17 + length] + struct.pack("<BQ", 6, len(chunk)) + chunk)
    tracemalloc.start()
    with pytest.raises(
        FileError,
        match=r"no whole message .*(checksum|at most 268435456 are read: record with smaller chunks)",
    ):
        BagStorage(path)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_the_reader_of_indexed_files_has_the_same_limits(tmp_path):
    from rosbags.rosbag2 import storage_mcap

    BagStorage(write(tmp_path / "bag"))
    content = zstandard.ZstdCompressor().compress(bytes(1 << 24))
    assert len(storage_mcap.DECOMPRESSORS["zstd"](content, 1 << 24)) == 1 << 24
    assert len(storage_mcap.DECOMPRESSORS["zstd"](content, 1 << 16)) < 1 << 18
    with pytest.raises(ValueError, match="a chunk has 4294967296 bytes, and 268435456 are read"):
        storage_mcap.DECOMPRESSORS["zstd"](content, 1 << 32)


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mcap")
    (tmp_path / "zero.mcap").symlink_to("/dev/zero")
    (tmp_path / "bag").mkdir()
    os.mkfifo(tmp_path / "bag" / "pipe.mcap")
    for path in (tmp_path / "pipe.mcap", tmp_path / "zero.mcap", tmp_path / "bag"):
        with pytest.raises(FileError, match=r"(pipe|zero)\.mcap: is a pipe or a device"):
            BagStorage(path)
        with pytest.raises(FileError, match=r"(pipe|zero)\.mcap: is a pipe or a device"):
            bag_sha256(path)


OTHER_QOS = (
    "- {history: 3, depth: 7, reliability: 1, durability: 2, deadline: {sec: 0, nsec: 0}, lifespan: {sec: 0, nsec: 0}, "
    "liveliness: 1, liveliness_lease_duration: {sec: 0, nsec: 0}, avoid_ros_namespace_conventions: false}"
)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_is_read_whose_metadata_states_another_qos(tmp_path, storage):
    bag = write(tmp_path / "bag", storage=storage)
    metadata = bag / "metadata.yaml"
    text = metadata.read_text()
    changed = re.sub(r"offered_qos_profiles: .*", f"offered_qos_profiles: '{OTHER_QOS}'", text)
    assert changed != text
    metadata.write_text(changed)
    found = BagStorage(bag)
    assert {qos.depth for qos in found.offered_qos.values()} == {7}
    assert len(list(found.scan(found.topics))) == 12


def test_another_encoding_is_named(tmp_path):
    path = mcap_of(tmp_path / "other.mcap", "protobuf", "")
    with pytest.raises(
        FileError, match=r"other\.mcap: its messages are encoded as protobuf, and those of ROS 2 as cdr"
    ):
        BagStorage(path)


def test_compressed_messages_are_unpacked_up_to_the_limit(tmp_path, monkeypatch, caplog):
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    source = BagStorage(write(tmp_path / "bag"))
    packed = Writer(tmp_path / "packed", version=8, storage_plugin=StoragePlugin.SQLITE3)
    packed.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with packed:
        lines = {
            name: packed.add_connection(name, kind, typestore=message_types()) for name, kind in source.topics.items()
        }
        for message in source.scan(source.topics):
            packed.write(lines[message.topic], message.recorded, message.data)
    found = BagStorage(tmp_path / "packed")
    assert sorted(found.scan(found.topics)) == sorted(source.scan(source.topics))
    monkeypatch.setattr(mcap, "LARGEST_CHUNK", 1000)
    assert not list(found.scan(["/left/image_rect"]))
    assert "a message unpacks to more than the 1000 bytes that are read" in caplog.text


def test_chunks_without_a_message_index_are_read(tmp_path, caplog):
    from mcap.reader import make_reader
    from mcap.writer import IndexType, Writer

    whole = write(tmp_path / "whole")
    path = tmp_path / "without.mcap"
    with storage_file(whole).open("rb") as source, path.open("wb") as target:
        writer = Writer(target, index_types=IndexType.CHUNK)
        writer.start(profile="ros2", library="test")
        numbers = {}
        for schema, channel, message in make_reader(source).iter_messages():
            if channel.id not in numbers:
                kind = writer.register_schema(schema.name, schema.encoding, schema.data)
                numbers[channel.id] = writer.register_channel(channel.topic, "cdr", kind, channel.metadata)
            writer.add_message(numbers[channel.id], message.log_time, message.data, message.publish_time)
        writer.finish()
    found = open_bag_pairs(path)
    assert [sample.name for sample in found] == [sample.name for sample in open_bag_pairs(whole)]
    assert len(found) == 3
    assert not caplog.records


def test_a_packed_file_that_is_none_and_one_that_finds_no_room_are_named(tmp_path, monkeypatch):
    from fg_depth_ros.data.bags import files

    broken = tmp_path / "broken.mcap.zstd"
    broken.write_bytes(b"x" * 1000)
    with pytest.raises(FileError, match=r"broken\.mcap\.zstd: cannot be read \(no zstd file: .*fetch it again"):
        BagStorage(broken)
    packed = pack(storage_file(write(tmp_path / "bag")))
    monkeypatch.setattr(files, "_KEEP_FREE", 1 << 60)
    with pytest.raises(FileError, match=rf"no room to unpack it in .*set TMPDIR.*zstd -d {packed.name}"):
        BagStorage(packed)


# In a process of its own: one with threads, as this one may have, must not fork.
_FORKS = """
import gc, multiprocessing, os, sys, tempfile
from fg_depth_ros.data.bags.pairs import open_bag_pairs

def reads(samples):
    assert samples[1].images()[0].shape == (96, 160, 3)
    samples.clear()
    gc.collect()

samples = open_bag_pairs(sys.argv[1])
assert len(os.listdir(tempfile.gettempdir())) == 1
child = multiprocessing.get_context("fork").Process(target=reads, args=(samples,))
child.start()
child.join()
assert child.exitcode == 0
assert samples[2].images()[0].shape == (96, 160, 3)
del samples
gc.collect()
assert not os.listdir(tempfile.gettempdir())
"""


def test_what_was_unpacked_goes_with_the_bag_and_stays_for_forked_processes(tmp_path):
    (tmp_path / "temporary").mkdir()
    bag = write(tmp_path / "bag")
    pack(storage_file(bag))
    environ = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run([sys.executable, "-c", _FORKS, str(bag)], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_camera_info_topic_without_a_message_is_told_from_one_that_is_not_there(tmp_path):
    kinds = {
        "/left/image_rect": IMAGE,
        "/right/image_rect": IMAGE,
        "/left/camera_info": INFO,
        "/right/camera_info": INFO,
    }
    bag = bag_of(tmp_path / "bag", kinds, {"/right/camera_info": []})
    with pytest.raises(FileError, match="/right/camera_info holds no message that can be read"):
        open_bag_pairs(bag)
