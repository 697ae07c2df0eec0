"""The MCAP writer, read by the format's own library, and what it does when the disk refuses."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib

import pytest
from support.recording import SmallDisk

from fg_depth_ros.recording.definitions import DEFAULT_QOS, Topic, channel_of, definition, type_hash
from fg_depth_ros.recording.mcap_writer import Channel, DurableFile, McapWriter, StoredMessage

SCAN, IMAGE = (
    Channel("/scan", "a/msg/Scan", "ros2msg", b"float32 x"),
    Channel("/image", "a/msg/Image", "ros2msg", b"int8 y"),
)


def message(line, logged, size=100):
    return StoredMessage(line, logged, logged + 5, bytes([logged % 256]) * size)


def read_back(path):
    """(topic, logged, published, sequence, data) by the mcap library, every checksum verified; and its summary."""
    from mcap.reader import make_reader

    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        found = [
            (channel.topic, m.log_time, m.publish_time, m.sequence, m.data) for _, channel, m in reader.iter_messages()
        ]
        return found, reader.get_summary()


@pytest.mark.parametrize("zstd", [False, True])
def test_the_formats_own_reader_finds_every_message_and_a_right_summary(tmp_path, zstd):
    path = tmp_path / "a.mcap"
    file = DurableFile(path)
    mcap = McapWriter(file, zstd=zstd)
    mcap.write([message(SCAN, 30), message(IMAGE, 10, 5000), message(SCAN, 20)])
    mcap.write([])
    mcap.write([message(IMAGE, 40)])
    mcap.finish()
    digest = file.sha256
    file.close()

    found, summary = read_back(path)
    assert found == [
        ("/image", 10, 15, 1, bytes([10]) * 5000),
        ("/scan", 20, 25, 2, bytes([20]) * 100),
        ("/scan", 30, 35, 1, bytes([30]) * 100),
        ("/image", 40, 45, 2, bytes([40]) * 100),
    ]
    statistics = summary.statistics
    assert statistics.message_count == 4
    assert (statistics.message_start_time, statistics.message_end_time) == (10, 40)
    assert [c.topic for c in summary.channels.values()] == ["/scan", "/image"]
    assert [(s.name, s.encoding, s.data) for s in summary.schemas.values()] == [
        ("a/msg/Scan", "ros2msg", b"float32 x"),
        ("a/msg/Image", "ros2msg", b"int8 y"),
    ]
    assert [statistics.channel_message_counts[number] for number in summary.channels] == [2, 2]
    assert [(c.message_start_time, c.message_end_time, c.compression) for c in summary.chunk_indexes] == [
        (10, 30, "zstd" * zstd),
        (40, 40, "zstd" * zstd),
    ]
    content = path.read_bytes()
    assert digest == hashlib.sha256(content).hexdigest()
    start, _, crc = struct.unpack("<QQI", content[-28:-8])
    assert crc == zlib.crc32(content[start:-12])  # "from the start of the Summary section up to the CRC"
    assert (path.stat().st_size < 3000) == zstd


def test_the_message_index_leads_to_single_messages(tmp_path):
    from mcap.reader import make_reader

    path = tmp_path / "a.mcap"
    mcap = McapWriter(DurableFile(path))
    mcap.write([message(line, time) for time in range(10) for line in (SCAN, IMAGE)])
    mcap.finish()
    with path.open("rb") as file:
        reader = make_reader(file)
        assert reader.get_summary().chunk_indexes[0].message_index_offsets.keys() == {1, 2}
        chosen = reader.iter_messages(topics=["/scan"], starting_at=4, ending_before=6)
        assert [(c.topic, m.log_time) for _, c, m in chosen] == [("/scan", 4), ("/scan", 5)]


@pytest.mark.parametrize("free", [0, 1, 40, 700, 900])
def test_a_chunk_that_does_not_fit_leaves_no_trace(tmp_path, free):
    disk = SmallDisk(10**6)
    path = tmp_path / "a.mcap"
    mcap = McapWriter(disk(path))
    mcap.write([message(SCAN, 1)])
    size, disk.free = path.stat().st_size, free
    with pytest.raises(OSError, match="No space"):
        mcap.write([message(IMAGE, 2, 500), message(SCAN, 3, 500)])
    assert path.stat().st_size == size == mcap.file.size

    disk.free = 10**6  # it goes on as if nothing had been; the channel that was lost is declared again
    mcap.write([message(IMAGE, 4)])
    mcap.finish()
    assert [(topic, logged) for topic, logged, *_ in read_back(path)[0]] == [("/scan", 1), ("/image", 4)]
    assert mcap.file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_many_small_messages_in_one_chunk_and_none_of_them_copied_wrong(tmp_path):
    path = tmp_path / "a.mcap"
    mcap = McapWriter(DurableFile(path))
    mcap.write([message(SCAN, time, size=time % 7) for time in range(2000)])
    mcap.finish()
    assert [data for *_, data in read_back(path)[0]] == [bytes([t % 256]) * (t % 7) for t in range(2000)]


def test_a_file_that_lost_its_name_is_said_at_the_next_sync(tmp_path):
    file = DurableFile(tmp_path / "a.mcap")
    file.write([b"abc"])
    file.sync()
    os.replace(tmp_path / "a.mcap", tmp_path / "b.mcap")
    with pytest.raises(FileNotFoundError):
        file.sync()
    (tmp_path / "a.mcap").write_bytes(b"another")
    with pytest.raises(FileNotFoundError, match="another file"):
        file.sync()


def test_a_new_file_never_takes_the_place_of_another(tmp_path):
    (tmp_path / "a.mcap").write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        DurableFile(tmp_path / "a.mcap")
    with pytest.raises(OSError, match="ends at byte 4, expected at least 5"):
        DurableFile(tmp_path / "a.mcap", keep=5)
    assert (tmp_path / "a.mcap").read_bytes() == b"kept"


def test_going_on_behind_what_is_there(tmp_path):
    path = tmp_path / "a.mcap"
    path.write_bytes(b"0123456789")
    file = DurableFile(path, keep=4)
    file.write([b"ab", b"", b"c"])
    assert path.read_bytes() == b"0123abc"
    assert file.sha256 == hashlib.sha256(b"0123abc").hexdigest()


def test_what_a_bag_says_of_a_known_type():
    line = channel_of(Topic("/left/camera_info", "sensor_msgs/msg/CameraInfo"))
    text = line.schema.decode()
    assert line.schema_encoding == "ros2msg"
    assert "float64[12] p" in text
    assert "MSG: sensor_msgs/RegionOfInterest" in text
    assert "MSG: builtin_interfaces/Time" in text
    assert type_hash("sensor_msgs/msg/CameraInfo").startswith("RIHS01_")
    assert line.qos == DEFAULT_QOS


@pytest.mark.parametrize("qos", ["", "no profile", "{a: 1", "- 3"])
def test_qos_that_no_reader_could_parse_becomes_the_default(qos):
    assert channel_of(Topic("/a", "std_msgs/msg/String", qos)).qos == DEFAULT_QOS


def test_qos_is_kept_as_it_was_offered():
    assert channel_of(Topic("/a", "std_msgs/msg/String", "- history: 3")).qos == "- history: 3"


def test_definitions_of_other_packages_are_found_where_they_are_installed(tmp_path, monkeypatch):
    for package, name, text in [
        ("robot_msgs", "Arm", "# the arm\nstd_msgs/Header header\nJoint[] joints\nuint8 OFF=0\nstring<=5 name"),
        ("robot_msgs", "Joint", "float64 angle  # rad\nother_msgs/Unit unit"),
        ("other_msgs", "Unit", "uint8 value"),
        ("std_msgs", "Header", "builtin_interfaces/Time stamp\nstring frame_id"),
        ("builtin_interfaces", "Time", "int32 sec\nuint32 nanosec"),
        ("robot_msgs", "Torn", "missing_msgs/Part part"),
    ]:
        folder = tmp_path / "two" / "share" / package / "msg"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.msg").write_text(text)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}")
    parts = definition("robot_msgs/msg/Arm").split("=" * 80 + "\n")
    assert parts[0].startswith("# the arm\nstd_msgs/Header header")
    assert [part.splitlines()[0] for part in parts[1:]] == [
        "MSG: std_msgs/Header",
        "MSG: robot_msgs/Joint",
        "MSG: builtin_interfaces/Time",
        "MSG: other_msgs/Unit",
    ]
    assert definition("robot_msgs/msg/Torn") == ""
    assert definition("robot_msgs/msg/../../Arm") == ""
    assert channel_of(Topic("/a", "nowhere_msgs/msg/Thing")).schema_encoding == ""
