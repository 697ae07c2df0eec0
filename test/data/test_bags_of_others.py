"""Bags as other recorders and tools leave them: ROS 1, compressed as a whole, told wrongly, with odd clocks."""

from __future__ import annotations

import logging
import pickle
import re
import shutil
import struct

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

from support.bags import SECOND, bag_of, large, pack, raw_bag, split, storage_file, to_ros1, write, write_messages
from support.pair_folders import planes, small_rig, write_pairs
from support.truth import CLOUD, PLACE, TF, cloud, stereo_bag, with_messages

from fg_depth_ros.data.bags.checks import check_bag
from fg_depth_ros.data.bags.files import is_bag
from fg_depth_ros.data.bags.folders import find_bags
from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.storage import COMPRESSED, IMAGE, INFO, BagStorage, message_types
from fg_depth_ros.data.datasets.stereo import open_stereo
from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import disparity_to_depth


def assert_same(found, expected):
    """The same pairs, by stamp, rig and pixels."""
    assert [sample.stamp for sample in found] == [sample.stamp for sample in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.rig == other.rig
        for image, wanted in zip(one.images(), other.images(), strict=True):
            np.testing.assert_array_equal(image, wanted)


# ---- ROS 1 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", "BZ2", "LZ4"])
@pytest.mark.parametrize("form", ["", "png"])
def test_a_ros_1_bag_gives_the_same_pairs(tmp_path, compression, form):
    bag = write(tmp_path / "two", compressed=form)
    path = to_ros1(bag, tmp_path / "one.bag", compression=compression)
    found = open_stereo(path)
    assert_same(found, open_bag_pairs(bag))
    assert_same(pickle.loads(pickle.dumps(found)), open_bag_pairs(bag))
    assert check_bag(path).usable


def test_raw_images_of_a_ros_1_bag_are_rectified_by_d_k_r_and_p(tmp_path):
    bag = raw_bag(tmp_path / "two", count=2)
    assert_same(open_bag_pairs(to_ros1(bag, tmp_path / "one.bag")), open_bag_pairs(bag))


def test_true_depth_and_lidar_of_a_ros_1_bag(tmp_path):
    bag = stereo_bag(tmp_path / "depth")
    (sample, _) = open_bag_pairs(to_ros1(bag, tmp_path / "depth.bag"))
    np.testing.assert_array_equal(sample.true_depth(), disparity_to_depth(planes(0)[2], small_rig()))
    messages = [("/tf_static", TF, SECOND, PLACE), ("/velodyne_points", CLOUD, SECOND, cloud(SECOND, [(11, 0, 0)]))]
    bag = with_messages(stereo_bag(tmp_path / "lidar", truth=False), messages)
    (sample, _) = open_bag_pairs(to_ros1(bag, tmp_path / "lidar.bag", latched=["/tf_static"]))
    assert np.nanmax(sample.true_depth()) == pytest.approx(10.0)


def test_disparity_and_messages_that_ros_2_does_not_know_are_read_by_their_definition(tmp_path):
    types = message_types().types
    roi = types["sensor_msgs/msg/RegionOfInterest"](x_offset=1, y_offset=2, height=3, width=4, do_rectify=True)
    source = write(tmp_path / "two")
    image = BagStorage(source).at("/left/image_rect", 10 * SECOND)[0]
    image = message_types().deserialize_cdr(image, IMAGE)
    kind = "stereo_msgs/msg/DisparityImage"
    disparity = types[kind](
        header=image.header, image=image, f=200.0, t=0.1, valid_window=roi, min_disparity=1.0, max_disparity=64.0,
        delta_d=0.125,
    )  # fmt: skip
    bag = with_messages(source, [("/disparity", kind, SECOND, disparity)])
    own = ("/own", "our_msgs/msg/Own", "Header header\ntime seen\nfloat64[] values", SECOND,
           b"\x05\0\0\0" + bytes(8) + b"\x01\0\0\0a" + bytes(8) + b"\x01\0\0\0" + struct.pack("<d", 2.5))  # fmt: skip
    other = ("/other", "sensor_msgs/msg/Imu", "string what", SECOND, b"\x01\0\0\0a")  # none of ROS 2's
    storage = BagStorage(to_ros1(bag, tmp_path / "one.bag", also=[own, other]))
    (message,) = storage.scan(["/disparity"])
    found = message_types().deserialize_cdr(message.data, kind)
    assert (found.f, found.t, found.valid_window.width, found.delta_d) == (200.0, pytest.approx(0.1), 4, 0.125)
    np.testing.assert_array_equal(found.image.data, image.data)
    (message,) = storage.scan(["/own"])
    assert message.data[:4] == b"\0\1\0\0" and message.data.endswith(np.float64(2.5).tobytes())
    assert "/other" not in storage.topics


def test_a_latched_topic_of_ros_1_is_offered_to_late_subscribers(tmp_path):
    bag = with_messages(write(tmp_path / "two"), [("/tf_static", TF, SECOND, PLACE)])
    qos = BagStorage(to_ros1(bag, tmp_path / "one.bag", latched=["/tf_static"])).offered_qos
    assert qos["/tf_static"].transient_local and qos["/tf_static"].reliable
    assert "/left/image_rect" not in qos


def test_ros_1_and_packed_bags_are_learned_from_and_played_live(tmp_path):
    """As ``finetune`` and ``replay-live`` open them."""
    from fg_depth_ros.apps.live_evaluation import BagInputs
    from fg_depth_ros.training.finetune.bags import open_recordings
    from fg_depth_ros.training.finetune.config import TimeSplit

    folder = tmp_path / "all"
    folder.mkdir()
    source = write(tmp_path / "source", stamps=[k * SECOND // 10 for k in range(1, 41)])
    to_ros1(source, folder / "one.bag")
    other = write(folder / "two", stamps=[k * SECOND // 10 for k in range(501, 541)])
    pack(storage_file(other))
    found = open_recordings([folder], TimeSplit(guard=0.0))
    assert [(bag["name"], bag["usable"], bag["pairs"]) for bag in found.used] == [("one", True, 40), ("two", True, 40)]
    for bag in (folder / "one.bag", other):
        inputs = BagInputs.of(bag)
        assert inputs.topics[:3] == ("/left/image_rect", "/right/image_rect", "/left/camera_info")
        assert inputs.reliable and inputs.transport == "raw"


def test_a_ros_1_bag_that_was_cut_off_gives_what_is_whole(tmp_path, caplog):
    bag, _ = large(tmp_path / "two")
    content = to_ros1(bag, tmp_path / "one.bag").read_bytes()
    cut = tmp_path / "cut.bag"
    cut.write_bytes(content[: len(content) * 6 // 10])
    with caplog.at_level(logging.WARNING):
        found = open_bag_pairs(cut)
    assert 3 <= len(found) < 8
    assert_same(found, open_bag_pairs(bag)[: len(found)])
    assert "cut.bag: cut off or damaged" in caplog.text


def test_what_is_no_ros_1_bag_says_so(tmp_path):
    path = tmp_path / "a.bag"
    for content in (b"x", b"", b"#ROSBAG V1.2\n", b"#ROSBAG V2.0\n", b"#ROSBAG V2.0\n" + bytes(5000)):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"a\.bag: (cannot be read|the file is empty)"):
            open_bag_pairs(path)


def test_an_mcap_file_of_ros_1_messages_is_read(tmp_path):
    from mcap.writer import Writer
    from rosbags.rosbag1 import Reader

    bag = write(tmp_path / "two")
    with Reader(to_ros1(bag, tmp_path / "one.bag")) as reader, (tmp_path / "one.mcap").open("wb") as stream:
        writer = Writer(stream)
        writer.start("ros1", "test")
        numbers = {}
        for line in reader.connections:
            name = line.msgtype.replace("/msg/", "/")
            schema = writer.register_schema(name, "ros1msg", line.msgdef.data.encode())
            numbers[line.topic] = writer.register_channel(line.topic, "ros1", schema)
        for line, recorded, data in reader.messages():
            writer.add_message(numbers[line.topic], recorded, data, recorded)
        writer.finish()
    assert_same(open_bag_pairs(tmp_path / "one.mcap"), open_bag_pairs(bag))


# ---- compressed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("as_file", [True, False])
def test_files_that_are_compressed_as_a_whole_are_read(tmp_path, storage, metadata, as_file):
    bag = write(tmp_path / "bag", storage=storage)
    expected = open_bag_pairs(write(tmp_path / "same", storage=storage))
    packed = pack(storage_file(bag))
    text = (bag / "metadata.yaml").read_text().replace(packed.stem, packed.name)
    (bag / "metadata.yaml").write_text(
        text.replace("compression_format: ''", "compression_format: zstd").replace(
            "compression_mode: ''", "compression_mode: FILE"
        )
    )
    if not metadata:
        (bag / "metadata.yaml").unlink()
    found = open_stereo(packed if as_file else bag)
    assert_same(found, expected)
    assert_same(pickle.loads(pickle.dumps(found[1:])), expected[1:])
    assert check_bag(bag).usable


def test_a_compressed_file_that_was_cut_off_gives_what_is_whole(tmp_path, caplog):
    bag, _ = large(tmp_path / "bag")
    expected = open_bag_pairs(large(tmp_path / "same")[0])
    packed = pack(storage_file(bag))
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size * 6 // 10])
    with caplog.at_level(logging.WARNING):
        found = open_bag_pairs(packed)
    assert 2 <= len(found) < 8
    assert_same(found, expected[: len(found)])
    assert "cut off" in caplog.text


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("metadata", [True, False])
def test_messages_that_are_compressed_each_are_read(tmp_path, storage, metadata):
    import zstandard

    bag = write(tmp_path / "bag")
    source = BagStorage(bag)
    packed = [m._replace(data=zstandard.compress(m.data)) for m in source.replay(source.topics)]
    other = write_messages(tmp_path / "packed", source.topics, packed, storage)
    if metadata:  # as rosbag2 says it
        text = (other / "metadata.yaml").read_text()
        text = text.replace("compression_format: ''", "compression_format: zstd")
        (other / "metadata.yaml").write_text(text.replace("compression_mode: ''", "compression_mode: MESSAGE"))
    else:
        (other / "metadata.yaml").unlink()
    assert_same(open_bag_pairs(other), open_bag_pairs(bag))


# ---- metadata.yaml that does not agree with the files ------------------------------------------------------------


def changed(bag, old, new, count=0):
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(re.sub(old, new, text, count=count))
    assert text != (bag / "metadata.yaml").read_text()
    return bag


@pytest.mark.parametrize(("old", "new", "said"), [
    (r"message_count: 3", "message_count: 5", "/left/image_rect: 5 messages stated, 3 there"),
    (r"message_count: 3", "message_count: 1", "/left/image_rect: 1 message stated, 3 there"),
    (r"bag\.mcap", "drive_0.mcap", r"drive_0\.mcap is not there.*bag\.mcap is not named"),
    (r"name: /left/image_rect", "name: /other", "/left/image_rect is not named"),
    (r"sensor_msgs/msg/Image", "sensor_msgs/msg/Imu", "sensor_msgs/msg/Imu stated, sensor_msgs/msg/Image there"),
    (r"storage_identifier: mcap", "storage_identifier: sqlite3", ""),
    (r"version: 8", "version: 99", ""),
    (r"(?s).*", "rosbag2_bagfile_information: [", "cannot be read"),
    (r"(?s).*", "rosbag2_bagfile_information: {topics_with_message_count: 3}", "cannot be read"),
])  # fmt: skip
def test_the_file_counts_where_metadata_says_otherwise(tmp_path, caplog, old, new, said):
    bag = changed(write(tmp_path / "bag"), old, new, count=1 if "?s" in old else 0)
    with caplog.at_level(logging.WARNING):
        found = open_bag_pairs(bag)
    assert_same(found, open_bag_pairs(write(tmp_path / "same")))
    assert re.search(said, caplog.text)
    assert "only" not in caplog.text  # nothing is damaged
    if said:
        assert "bag: not read as its metadata.yaml says" in caplog.text


def test_splits_that_are_missing_or_not_named_are_said(tmp_path, caplog):
    source = write(tmp_path / "source", stamps=[k * SECOND for k in range(1, 9)])
    bag = split(source, tmp_path / "drive", 4)
    assert_same(open_bag_pairs(bag), open_bag_pairs(source))
    assert not caplog.records
    shutil.copytree(bag, tmp_path / "other")
    (bag / "drive_1.mcap").unlink()
    with caplog.at_level(logging.WARNING):
        assert [sample.stamp // SECOND for sample in open_bag_pairs(bag)] == [1, 2, 5, 6, 7, 8]
    assert "drive_1.mcap is not there" in caplog.text
    assert "drive_1.mcap is not there" in "".join(problem.text for problem in check_bag(bag).problems)
    caplog.clear()
    other = changed(tmp_path / "other", r"  - drive_3.mcap\n", "")
    storage_file(write(tmp_path / "stray")).rename(other / "stray.mcap")
    with caplog.at_level(logging.WARNING):
        assert_same(open_bag_pairs(other), open_bag_pairs(source))
    assert "drive_3.mcap is not named, and read too" in caplog.text
    assert "stray.mcap is not named, and not read" in caplog.text


def test_a_split_that_cannot_be_read_costs_what_it_holds(tmp_path, caplog):
    source = write(tmp_path / "source", stamps=[k * SECOND for k in range(1, 9)])
    bag = split(source, tmp_path / "drive", 4)
    (bag / "drive_2.mcap").write_bytes(b"x" * 100)
    with caplog.at_level(logging.WARNING):
        assert [sample.stamp // SECOND for sample in open_bag_pairs(bag)] == [1, 2, 3, 4, 7, 8]
    assert "drive_2.mcap: cannot be read" in caplog.text


# ---- several recordings in one folder ------------------------------------------------------------------------------


def test_recordings_in_one_folder_are_told_apart(tmp_path):
    folder = tmp_path / "day"
    folder.mkdir()
    for name in ("run1.mcap", "run2.mcap", "2026_05_01.mcap", "2026_05_02.mcap"):
        shutil.copy(storage_file(write(tmp_path / name)), folder / name)
    assert not is_bag(folder)
    assert [bag.name for bag in find_bags([folder])] == ["2026_05_01.mcap", "2026_05_02.mcap", "run1.mcap", "run2.mcap"]
    for read in (open_stereo, open_bag_pairs):
        with pytest.raises(FileError, match=r"day: holds 4 recordings \(2026_05_01\.mcap, .*\): give one of them"):
            read(folder)
    to_ros1(write(tmp_path / "two"), tmp_path / "ones.bag")
    (tmp_path / "ones").mkdir()
    (tmp_path / "ones.bag").rename(tmp_path / "ones" / "a.bag")
    with pytest.raises(FileError, match=r"ones: holds a recording \(a\.bag\): give it"):
        open_stereo(tmp_path / "ones")


def test_a_stray_recording_does_not_make_pictures_a_bag(tmp_path, caplog):
    pictures = write_pairs(tmp_path / "set", ("a", "b"))
    for side in ("left", "right"):
        write_image(tmp_path / "flat" / f"{side}_01.png", planes(0)[0])
    recording = storage_file(write(tmp_path / "bag"))
    for folder in (pictures, tmp_path / "flat"):
        shutil.copy(recording, folder / "stray.mcap")
    assert not is_bag(tmp_path / "flat")
    with caplog.at_level(logging.WARNING):
        assert len(open_stereo(pictures)) == 2 and len(open_stereo(tmp_path / "flat")) == 1
    assert "stray.mcap is not read" in caplog.text
    (tmp_path / "flat" / "right_01.png").unlink()  # a picture that is no pair
    assert len(open_stereo(tmp_path / "flat" / "stray.mcap")) == 3


# ---- clocks ----------------------------------------------------------------------------------------------------

NOW = 1_700_000_000 * SECOND
CAMERAS = {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE, "/left/camera_info": INFO, "/right/camera_info": INFO}


@pytest.mark.parametrize(("unit", "name"), [(SECOND, "s"), (10**6, "ms"), (10**3, "us")])
@pytest.mark.parametrize("ros", [2, 1])
def test_times_of_recording_in_other_units_are_taken_as_ns(tmp_path, caplog, unit, name, ros):
    stamps = [NOW + k * SECOND // 4 for k in range(8)]
    source = BagStorage(write(tmp_path / "source", stamps=stamps))
    messages = [m._replace(recorded=m.recorded // unit) for m in source.replay(source.topics)]
    bag = write_messages(tmp_path / "bag", source.topics, messages)
    if ros == 1:
        # The same numbers in a ROS 1 bag; ``replay`` of the source would be in ns.
        bag = to_ros1_raw(source, messages, tmp_path / "one.bag")
    found = open_bag_pairs(bag)
    assert_same(found, open_bag_pairs(tmp_path / "source"))
    assert f"recorded in {name}, not ns" in caplog.text
    times = [m.recorded for m in BagStorage(bag).replay(["/left/image_rect"])]
    assert times == [stamp // unit * unit for stamp in stamps]


def to_ros1_raw(source, messages, path):
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS1_NOETIC)
    with Writer(path) as writer:
        lines = {t: writer.add_connection(t, kind, typestore=types) for t, kind in source.topics.items()}
        for message in messages:
            data = message_types().cdr_to_ros1(message.data, source.topics[message.topic])
            writer.write(lines[message.topic], message.recorded, bytes(data))
    return path


def test_simulated_time_is_no_other_unit(tmp_path, caplog):
    bag = bag_of(tmp_path / "bag", CAMERAS, {key: [(2 * SECOND, 2 * SECOND)] for key in CAMERAS})
    assert next(iter(BagStorage(bag).replay(["/left/image_rect"]))).recorded == 2 * SECOND
    assert not caplog.records


def test_images_without_stamps_are_paired_by_their_recording_where_it_is_asked_for(tmp_path):
    ms = 10**6
    times = {
        topic: [(k * SECOND + (2 * ms if "right" in topic else 0), 0) for k in (1, 2, 3)] for topic in CAMERAS
    }  # fmt: skip
    bag = bag_of(tmp_path / "bag", CAMERAS, times)
    with pytest.raises(FileError, match=r"/left/image_rect have no stamp.*--stamps recorded"):
        open_bag_pairs(bag)
    with pytest.raises(FileError, match="give a slop of at least 0.002 s"):
        open_bag_pairs(bag, stamps="recorded")
    with pytest.raises(FileError, match="stamps is 'never': choose one of header, recorded"):
        open_bag_pairs(bag, stamps="never")
    found = open_bag_pairs(bag, stamps="recorded", slop=0.005)
    assert [sample.stamp for sample in found] == [SECOND, 2 * SECOND, 3 * SECOND]
    assert {sample.stamp_difference for sample in found} == {0.002}
    assert found[1].images()[0].shape == (96, 160, 3)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again[2].images()[0], found[2].images()[0])


def test_a_clock_that_jumps_back_is_said_and_pairs_nothing_across(tmp_path):
    ms = 10**6
    # Recorded in order; the clock of the stamps goes back by 0.75 s behind the third pair. Right images of the second
    # part are 4 ms later, so that the first part's are nearer to its left ones.
    first, second = [1000 * ms, 1250 * ms, 1500 * ms], [753 * ms, 1003 * ms, 1253 * ms]
    recorded = [(100 + k) * SECOND for k in range(6)]
    left = list(zip(recorded, first + second, strict=True))
    right = list(zip(recorded, [t + 2 * ms for t in first] + [t + 4 * ms for t in second], strict=True))
    times = {topic: right if "right" in topic else left for topic in CAMERAS}
    bag = bag_of(tmp_path / "bag", CAMERAS, times)
    check = check_bag(bag, slop=0.005)
    assert any("jump back 1 time(s), by up to 0.747 s" in problem.text for problem in check.problems)
    at = {stamp: time for time, stamp in left + right}
    for sample in check.samples:
        right_stamp = sample.stamp + round(sample.stamp_difference * 1e9)
        assert at[sample.stamp] == at[right_stamp]


def test_compressed_and_compressed_depth_of_one_topic_are_told_apart(tmp_path):
    kinds = dict(CAMERAS)
    bag = write(tmp_path / "bag", compressed="png")
    source = BagStorage(bag)
    kinds = dict(source.topics)
    messages = list(source.replay(source.topics))
    for side in ("left", "right"):
        kinds[f"/{side}/image_rect/compressedDepth"] = COMPRESSED
        messages += [
            m._replace(topic=f"/{side}/image_rect/compressedDepth")
            for m in source.scan([f"/{side}/image_rect/compressed"])
        ]
    both = write_messages(tmp_path / "both", kinds, sorted(messages, key=lambda m: m.recorded))
    assert_same(open_bag_pairs(both), open_bag_pairs(bag))
    only = {topic: kind for topic, kind in kinds.items() if not topic.endswith("compressed")}
    depth = write_messages(tmp_path / "depth", only, [m for m in messages if m.topic in only])
    with pytest.raises(FileError, match="no pair of image topics"):
        open_bag_pairs(depth)
    with pytest.raises(FileError, match=r"/left/image_rect/compressedDepth.*compressed depth"):
        open_bag_pairs(depth, "/left/image_rect/compressedDepth", "/right/image_rect/compressedDepth")
