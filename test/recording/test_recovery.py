"""Recordings cut off or damaged at any byte: exactly the whole messages before that, and nothing raises."""

from __future__ import annotations

import errno
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bags import SECOND, damage_chunks, large, pack, split, storage_file, write_messages
from support.bags import write as write_bag
from support.recording import TENTH, config, contents, episodes, pair_messages, quiet

from fg_depth_ros.data.bags.folders import bag_sha256
from fg_depth_ros.data.bags.mcap import MESSAGE_HEAD, McapScanner
from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.storage import FFMPEG, BagStorage
from fg_depth_ros.files import FileError
from fg_depth_ros.recording import Message, Recorder, Topic, manifest, recover
from fg_depth_ros.recording.episodes import Episode, part_folder
from fg_depth_ros.recording.episodes import storage_file as mcap_of
from fg_depth_ros.recording.mcap_writer import DurableFile

STAMPS = [10 * SECOND + k * TENTH for k in range(6)]
MANY = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class Source:
    """An episode as it lies when its recorder was killed, made once, and where in its file each message ends."""

    def __init__(self, folder: Path, storage: str) -> None:
        self.root, self.name = folder / "root", "episode_x_motion"
        self.root.mkdir(parents=True)
        self.pairs = pair_messages(folder, STAMPS)
        episode = Episode(self.root, self.name, {"trigger": "motion", "detail": "3 px", "storage": storage})
        for first in range(0, len(self.pairs), 2):  # two pairs a chunk
            chunk = self.pairs[first : first + 2]
            episode.write([item for _, items in chunk for item in items], [stamp for stamp, _ in chunk])
        self.folder = part_folder(self.root, self.name)
        self.open = episode  # keeps the lock, as a living recorder does
        self.file = mcap_of(self.folder, self.name)
        self.bytes = self.file.read_bytes()
        self.messages = [(m.topic, m.recorded, m.data) for _, items in self.pairs for _, m in items]
        self.chunk_ends = [c.chunk_start_offset + c.chunk_length for c in episode._mcap.index.chunks]
        if storage == "raw":
            at, self.ends = 0, []
            for *_, data in self.messages:
                at = self.bytes.index(data, at) + len(data)
                self.ends.append(at)

    def copy(self, root: Path, content: bytes) -> Path:
        """The part in another recording folder, its file with these bytes. Nobody holds it."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        part = part_folder(root, self.name)
        part.mkdir()
        shutil.copy(self.folder / "episode.json", part)
        mcap_of(part, self.name).write_bytes(content)
        return root


@pytest.fixture(scope="module", params=["raw", "zstd"])
def source(request, tmp_path_factory):
    made = Source(tmp_path_factory.mktemp(request.param), request.param)
    yield made
    made.open.abandon()


def by_topic(messages):
    return sorted(messages, key=lambda message: (message[0], message[1]))


def check(source, root, count):
    """The recording folder holds one episode with exactly the first ``count`` messages, and says so."""
    found = episodes(root)
    if count == 0:
        assert found == []
        return
    (bag,) = found
    assert bag.name == source.name
    assert by_topic(contents(bag)) == by_topic(source.messages[:count])
    line = manifest.read_episode(bag)
    assert manifest.read(root) == [line]
    assert line["recovered"] is True
    assert line["detail"] == "3 px"
    assert sum(line["messages"].values()) == count
    pairs = count // 4 + (count % 4 >= 2)  # the images come first in each pair
    assert line["pairs"] == pairs
    assert (line["began_ns"], line["ended_ns"]) == ((STAMPS[0], STAMPS[pairs - 1]) if pairs else (0, 0))


def expected(source, cut):
    """Messages that end before this byte of the file."""
    if hasattr(source, "ends"):
        return sum(end <= cut for end in source.ends)
    return 8 * sum(end <= cut for end in source.chunk_ends)


@MANY
@given(share=st.floats(0, 1))
def test_cut_anywhere(source, tmp_path, share):
    cut = round(share * len(source.bytes))
    root = source.copy(tmp_path / "root", source.bytes[:cut])
    (entry,) = recover(root)
    assert entry.done
    if hasattr(source, "ends"):
        assert entry.messages == expected(source, cut)
    else:  # as many more as can be unpacked from a chunk that was cut
        assert expected(source, cut) <= entry.messages <= expected(source, cut) + 8
    check(source, root, entry.messages)
    assert recover(root) == []
    check(source, root, entry.messages)


def test_cut_at_the_bytes_that_matter(source, tmp_path):
    ends = {*source.chunk_ends[:2], *getattr(source, "ends", [])[:5], len(source.bytes), 0, 8}
    for cut in sorted(ends | {end - 1 for end in ends if end} | {end + 1 for end in ends}):
        root = source.copy(tmp_path / "root", source.bytes[:cut])
        (entry,) = recover(root)
        assert entry.done
        if cut in source.chunk_ends or hasattr(source, "ends"):
            assert entry.messages == expected(source, cut), cut
        check(source, root, entry.messages)


def test_most_of_a_packed_chunk_that_was_cut_is_found(tmp_path):
    source = Source(tmp_path / "made", "zstd")
    begin, end = source.chunk_ends[0], source.chunk_ends[1]
    cut = end - (end - begin) // 8
    (entry,) = recover(source.copy(tmp_path / "root", source.bytes[:cut]))
    assert entry.messages >= 8 + 4  # of the second chunk's two pairs at least one
    check(source, tmp_path / "root", entry.messages)
    source.open.abandon()


@MANY
@given(share=st.floats(0, 1), bit=st.integers(0, 7), cut=st.booleans())
def test_a_flipped_bit_costs_its_chunk_and_what_follows_at_most(source, tmp_path, share, bit, cut):
    """In the last chunk or behind it, also where the file was cut off behind the damage."""
    begin = source.chunk_ends[1]
    place = min(begin + round(share * (len(source.bytes) - begin)), len(source.bytes) - 1)
    content = bytearray(source.bytes[: source.chunk_ends[2] + (0 if cut else len(source.bytes))])
    place = min(place, len(content) - 1)
    content[place] ^= 1 << bit
    root = source.copy(tmp_path / "root", bytes(content))
    (entry,) = recover(root)
    assert entry.done
    assert entry.messages in (16, 24) or (cut and 16 <= entry.messages <= 24)
    check(source, root, entry.messages)


def damaged_in_the_middle(source):
    """The bytes of its file with one of them flipped in the second of three chunks."""
    content = bytearray(source.bytes)
    content[(source.chunk_ends[0] + source.chunk_ends[1]) // 2] ^= 0xFF
    return bytes(content)


def test_a_damaged_chunk_costs_no_more_than_itself(source, tmp_path):
    root = source.copy(tmp_path / "root", damaged_in_the_middle(source))
    (entry,) = recover(root)
    assert (entry.messages, entry.done) == (16, True)
    assert 0 < entry.lost_bytes < len(source.bytes) / 2
    assert "complete again without what is damaged" in entry.note
    (bag,) = episodes(root)
    assert by_topic(contents(bag)) == by_topic(source.messages[:8] + source.messages[16:])
    (line,) = manifest.read(root)
    assert (line["pairs"], line["began_ns"], line["ended_ns"]) == (4, STAMPS[0], STAMPS[-1])
    assert line["files"] == {f"{source.name}_0.mcap": bag_sha256(bag)}
    assert recover(root) == []


def test_a_damaged_part_stays_as_it_is_while_the_disk_is_full(source, tmp_path, monkeypatch):
    content = damaged_in_the_middle(source)
    root = source.copy(tmp_path / "root", content)

    def full(file, pieces):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(DurableFile, "write", full)
        (entry,) = recover(root)
    assert not entry.done
    assert "make room on the disk" in entry.note
    assert mcap_of(part_folder(root, source.name), source.name).read_bytes() == content
    (entry,) = recover(root)
    assert (entry.messages, entry.done) == (16, True)


def test_a_part_stays_as_it_is_where_only_its_damage_names_a_topic(tmp_path):
    source = Source(tmp_path / "made", "raw")
    for word in (b"one", b"two"):
        source.open.write([(Topic("/words", "std_msgs/msg/String"), Message("/words", STAMPS[-1], word * 1000))])
    content = bytearray(source.file.read_bytes())
    content[content.index(b"one" * 1000)] ^= 0xFF
    root = source.copy(tmp_path / "root", bytes(content))
    (entry,) = recover(root)
    assert (entry.messages, entry.done) == (24, False)
    file = mcap_of(part_folder(root, source.name), source.name)
    assert file.read_bytes() == content
    copy = shutil.copy(file, tmp_path / "copy.mcap")
    (entry,) = recover(copy)
    assert (entry.messages, entry.done) == (24, True)
    source.open.abandon()


@MANY
@given(content=st.binary(max_size=300), whole_chunks=st.integers(0, 3))
def test_rubbish_behind_the_last_chunk(source, tmp_path, content, whole_chunks):
    keep = source.chunk_ends[whole_chunks - 1] if whole_chunks else 0
    root = source.copy(tmp_path / "root", source.bytes[:keep] + content)
    (entry,) = recover(root)
    assert entry.messages == 8 * whole_chunks
    if whole_chunks or entry.done:
        check(source, root, entry.messages)
    else:
        assert "left as it is" in entry.note
        assert part_folder(root, source.name).exists()


def test_a_wrong_message_index_in_the_middle_is_put_right(source, tmp_path):
    sound = source.copy(tmp_path / "sound", source.bytes)
    recover(sound)
    content = bytearray(source.bytes)
    content[source.chunk_ends[0] + 12] ^= 0xFF
    root = source.copy(tmp_path / "root", bytes(content))
    (entry,) = recover(root)
    assert (entry.messages, entry.done) == (24, True)
    check(source, root, 24)
    mended, whole = (mcap_of(episodes(folder)[0], source.name).read_bytes() for folder in (root, sound))
    assert mended == whole
    assert len(open_bag_pairs(episodes(root)[0])) == 6


def test_an_episode_that_was_whole_but_for_its_name(source, tmp_path):
    root = source.copy(tmp_path / "root", source.bytes)
    recover(root)
    (bag,) = episodes(root)
    whole = mcap_of(bag, source.name).read_bytes()
    bag.rename(part_folder(root, source.name))
    (root / manifest.NAME).unlink()
    (entry,) = recover(root)
    assert (entry.messages, entry.lost_bytes, entry.note) == (24, 0, "complete again: nothing was lost")
    assert mcap_of(bag, source.name).read_bytes() == whole
    check(source, root, 24)


def test_a_part_that_is_being_written_is_left_alone(source):
    before = source.file.read_bytes()
    (entry,) = recover(source.root)
    assert "being written" in entry.note
    assert entry.done
    assert source.file.read_bytes() == before
    assert recover(source.folder) == [entry]


def test_a_file_that_is_no_mcap_is_left_and_the_way_out_said(source, tmp_path):
    root = source.copy(tmp_path / "root", b"\x00" + source.bytes[1:])
    (entry,) = recover(root)
    assert not entry.done
    assert "does not begin as an MCAP file" in entry.note
    assert f"Remove {part_folder(root, source.name)}" in entry.note
    assert mcap_of(part_folder(root, source.name), source.name).read_bytes()[1:] == source.bytes[1:]


def test_one_that_cannot_be_completed_does_not_hold_up_the_others(source, tmp_path):
    root = source.copy(tmp_path / "root", source.bytes)
    (root / source.name).mkdir()
    (root / source.name / "in the way").touch()
    shutil.copytree(part_folder(root, source.name), part_folder(root, "episode_y"))
    mcap_of(part_folder(root, "episode_y"), source.name).rename(mcap_of(part_folder(root, "episode_y"), "episode_y"))
    first, second = recover(root)
    assert (first.name, first.done) == (source.name, False)
    assert "left as it is: Directory not empty" in first.note
    assert (second.name, second.messages, second.done) == ("episode_y", 24, True)
    assert len(contents(root / "episode_y")) == 24


def test_leftovers_without_a_recording_go(tmp_path):
    (tmp_path / ".episode_1.part").mkdir()
    (tmp_path / ".episode_1.lock").touch()
    (tmp_path / ".episode_2.lock").touch()
    (tmp_path / ".episode_3.removed").mkdir()
    (entry,) = recover(tmp_path)
    assert (entry.name, entry.messages, entry.note) == ("episode_1", 0, "held no whole message; removed")
    assert list(tmp_path.iterdir()) == []


def test_lines_that_the_manifest_lacks_are_added(source, tmp_path):
    root = source.copy(tmp_path / "root", source.bytes)
    recover(root)
    line = manifest.read_episode(episodes(root)[0])
    (root / manifest.NAME).write_text(json.dumps(line)[:50])
    assert recover(root) == []
    assert manifest.read(root) == [line]


@pytest.mark.parametrize("ending", ["", "/compressed"])
def test_pairs_are_counted_by_the_topics_they_were_recorded_from(tmp_path, ending):
    """Two cameras whose names do not tell the left one, with the images of another pair beside them."""
    names = {"/left/image_rect": "/front/L/image", "/right/image_rect": "/front/R/image"}
    root, copy = tmp_path / "root", tmp_path / "copy"

    def encode(topic, message):
        return renamed(topic, message, f"{topic.name}{ending}")

    recorder = Recorder(config(root), dict, lambda subject, text: None, encode)
    recorder.start()
    pairs = pair_messages(tmp_path, STAMPS)
    recorder.submit_extra(*renamed(*pairs[0][1][0], "/rear/left/image_rect"))  # an episode may begin without a pair
    for stamp, items in pairs:
        recorder.submit_pair(stamp, [renamed(*item, names.get(item[0].name, item[0].name)) for item in items])
        recorder.submit_extra(*renamed(*items[1], "/rear/right/image_rect"))
    quiet(recorder)
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("*.lock"))
    recorder.close()
    recover(copy)
    ((line,), (whole,)) = manifest.read(copy), manifest.read(root)
    same = ("name", "pairs", "began_ns", "ended_ns", "messages", "images")
    assert {key: line[key] for key in same} == {key: whole[key] for key in same}
    assert (line["pairs"], line["began_ns"], line["ended_ns"]) == (len(STAMPS), STAMPS[0], STAMPS[-1])
    assert line["images"] == [f"{name}{ending}" for name in names.values()]


def renamed(topic, message, name):
    return topic._replace(name=name), message._replace(topic=name)


# Other recorders' bags.


def test_pairs_of_video_are_counted(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    episode = Episode(root, "episode_x_motion", {"trigger": "motion", "detail": "", "storage": "raw"})
    for stamp, items in pair_messages(tmp_path, STAMPS):  # a header comes first in a packet, as in an image
        video = [
            (Topic(f"{topic.name}/ffmpeg", FFMPEG), message._replace(topic=f"{topic.name}/ffmpeg"))
            if topic.name.endswith("image_rect") else (topic, message)
            for topic, message in items
        ]  # fmt: skip
        episode.write(video, [stamp])
    episode.abandon()
    recover(root)
    (line,) = manifest.read(root)
    assert (line["pairs"], line["began_ns"], line["ended_ns"]) == (len(STAMPS), STAMPS[0], STAMPS[-1])


def test_a_whole_bag_stays_as_it_is(tmp_path):
    bag = write_bag(tmp_path / "bag")
    (entry,) = recover(bag)
    assert (entry.name, entry.messages, entry.done) == ("bag", 12, True)
    assert "nothing to do" in entry.note
    assert not (tmp_path / "bag_recovered").exists()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_foreign_bag_that_was_cut_is_copied_and_the_original_kept(tmp_path, what):
    bag = write_bag(tmp_path / "bag")
    every = contents(bag)
    file = storage_file(bag)
    content = file.read_bytes()
    last = content.index(every[-1][2])  # the last camera_info lies last in its chunk
    cut = content[: last + 10]
    file.write_bytes(cut)
    (bag / "metadata.yaml").unlink()
    path = bag if what == "folder" else file.rename(tmp_path / "single.mcap")
    target = tmp_path / ("bag_recovered" if what == "folder" else "single_recovered")

    (entry,) = recover(path)
    assert (entry.messages, entry.done) == (11, True)
    assert entry.lost_bytes > 0
    assert target.name in entry.note
    assert by_topic(contents(target)) == by_topic(every[:-1])
    assert (file if what == "folder" else path).read_bytes() == cut
    (again,) = recover(path)
    assert "is there already" in again.note
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_bag_without_chunks_and_without_index(tmp_path):
    """As the mcap library writes it with chunking off, cut in its last message."""
    from mcap.writer import Writer

    path = tmp_path / "plain.mcap"
    writer = Writer(str(path), use_chunking=False)
    writer.start("ros2")
    schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data\n")
    channel = writer.register_channel("/words", "cdr", schema, {"offered_qos_profiles": ""})
    texts = [struct.pack("<4BI", 0, 1, 0, 0, 6) + b"word%d\x00" % k for k in range(5)]
    for k, text in enumerate(texts):
        writer.add_message(channel, k + 1, text, k + 100)
    writer.finish()
    content = path.read_bytes()
    path.write_bytes(content[: content.index(texts[4]) + 5])
    (entry,) = recover(path)
    assert (entry.messages, entry.done) == (4, True)
    assert contents(tmp_path / "plain_recovered") == [("/words", k + 1, texts[k]) for k in range(4)]


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD"])
def test_a_damaged_chunk_of_a_foreign_bag_costs_no_more_than_itself(tmp_path, compression):
    from mcap.writer import CompressionType, Writer

    path = tmp_path / "drive.mcap"
    writer = Writer(str(path), chunk_size=1000, compression=CompressionType[compression])
    writer.start("ros2")
    schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data\n")
    channel = writer.register_channel("/words", "cdr", schema, {"offered_qos_profiles": ""})
    texts = [b"\0\1\0\0" + np.random.default_rng(k).bytes(600) for k in range(12)]  # two a chunk
    for k, text in enumerate(texts):
        writer.add_message(channel, k + 1, text, k + 1)
    writer.finish()
    content = path.read_bytes()
    at = content.index(texts[5][100:500])
    path.write_bytes(content[:at] + b"\xff" * 200 + content[at + 200 :])
    (entry,) = recover(path)
    assert (entry.messages, entry.done) == (10, True)
    assert 1200 < entry.lost_bytes < 1800
    assert "fails its checksum: its whole messages are in drive_recovered" in entry.note
    assert contents(tmp_path / "drive_recovered") == [
        ("/words", k + 1, text) for k, text in enumerate(texts) if k not in (4, 5)
    ]


def test_the_file_of_a_part_is_left_to_its_writer_and_else_completed_in_place(source, tmp_path):
    root = source.copy(tmp_path / "root", source.bytes)
    (entry,) = recover(source.file)  # is being written
    assert (entry.messages, entry.note) == (0, "is being written; left alone")
    assert list(source.folder.glob("*recovered*")) == []
    (entry,) = recover(mcap_of(part_folder(root, source.name), source.name))
    assert entry.done and [folder.name for folder in episodes(root)] == [source.name]


def test_a_damaged_metadata_is_called_so(tmp_path):
    bag = write_bag(tmp_path / "bag")
    (bag / "metadata.yaml").write_text("{{: nonsense")
    (entry,) = recover(bag)
    assert entry.note == "its metadata.yaml is damaged: its whole messages are in bag_recovered"


def test_what_may_not_be_looked_at_is_named(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(FileError, match="locked: cannot be read .Permission denied.; check its permissions"):
        recover(tmp_path / "locked")


def test_what_cannot_be_recovered_is_said(tmp_path):
    with pytest.raises(FileError, match="no such folder or file"):
        recover(tmp_path / "nothing")
    (tmp_path / "bag.db3").write_bytes(b"SQLite format 3")
    with pytest.raises(FileError, match=r"sqlite3 FILE.db3 .recover"):
        recover(tmp_path / "bag.db3")
    (tmp_path / "none.mcap").write_bytes(b"no mcap at all")
    (entry,) = recover(tmp_path / "none.mcap")
    assert (entry.messages, entry.done) == (0, False)
    assert "does not begin as an MCAP file" in entry.note
    sqlite = write_bag(tmp_path / "sqlite", storage="sqlite3")
    with pytest.raises(FileError, match=r"holds no .mcap file"):
        recover(sqlite)


def test_a_broken_record_in_a_chunk_without_a_checksum_costs_the_rest_of_that_chunk(tmp_path):
    source = BagStorage(large(tmp_path / "source")[0])
    bag = write_messages(tmp_path / "bag", source.topics, source.replay(source.topics))
    every, file = contents(bag), storage_file(bag)
    segments = list(McapScanner(file))
    hidden = segments[1].messages[1:]
    content = bytearray(file.read_bytes())
    at = content.index(bytes(hidden[0].data)) - MESSAGE_HEAD.size
    content[at : at + MESSAGE_HEAD.size] = b"\xff" * MESSAGE_HEAD.size
    file.write_bytes(content)
    (entry,) = recover(bag)
    lost = {(message.channel.topic, message.recorded) for message in hidden}
    assert len(lost) < len(segments[1].messages)
    assert by_topic(contents(tmp_path / "bag_recovered")) == by_topic(m for m in every if m[:2] not in lost)
    assert entry.messages == len(every) - len(lost)
    assert 0 < entry.lost_bytes < segments[1].end - segments[1].start
    assert f"is damaged in the chunk at byte {segments[1].start}: " in entry.note


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("numbers", [(0,), (1, 3)])
def test_the_index_says_where_a_file_goes_on_and_what_its_topics_are(tmp_path, numbers, head):
    bag, _ = large(tmp_path / "bag", 12)
    every = contents(bag)
    _, lost = damage_chunks(bag, numbers, head=head)
    (entry,) = recover(bag)
    assert (entry.messages, entry.done) == (len(every) - len(lost), True)
    assert by_topic(contents(tmp_path / "bag_recovered")) == by_topic(m for m in every if m[:2] not in lost)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 9 // 10])


def test_packed_splits_are_copied_with_the_others(tmp_path):
    """As a recorder leaves it that packs the splits it has finished, and is killed in the last one."""
    whole, _ = large(tmp_path / "whole")
    bag = split(whole, tmp_path / "drive", parts=3)
    (bag / "metadata.yaml").unlink()
    packed = pack(bag / "drive_0.mcap")
    cut(bag / "drive_2.mcap")
    (entry,) = recover(bag)
    recovered, every = contents(tmp_path / "drive_recovered"), contents(whole)
    assert entry.messages == len(recovered) > 2 * len(every) // 3
    assert set(recovered) < set(every)
    assert "drive_2.mcap is cut off" in entry.note
    pack(bag / "drive_1.mcap")
    (entry,) = recover(packed)
    assert (entry.name, entry.messages, entry.note) == (packed.name, len(every) // 3, "is whole; nothing to do")


def test_a_packed_bag_that_is_whole_stays_as_it_is(tmp_path):
    bag = split(write_bag(tmp_path / "whole"), tmp_path / "drive")
    description = bag / "metadata.yaml"
    text = description.read_text().replace(".mcap", ".mcap.zstd")
    packed = {"compression_format: ''": "compression_format: zstd", "compression_mode: ''": "compression_mode: FILE"}
    for before, after in packed.items():
        text = text.replace(before, after)
    description.write_text(text)
    for number in range(2):
        pack(bag / f"drive_{number}.mcap")
    (entry,) = recover(bag)
    assert (entry.messages, entry.note) == (12, "is whole; nothing to do")


def test_a_packed_split_that_cannot_be_unpacked_is_named(tmp_path):
    bag = split(large(tmp_path / "whole")[0], tmp_path / "drive")
    (bag / "metadata.yaml").unlink()
    cut(bag / "drive_1.mcap")
    file = pack(bag / "drive_0.mcap")
    file.write_bytes(bytes(file.stat().st_size))
    (entry,) = recover(bag)
    assert not entry.done
    assert f"left as it is: {file.resolve()}: cannot be read (no zstd file" in entry.note
    assert not (tmp_path / "drive_recovered").exists()
    file.unlink()
    (entry,) = recover(bag)
    assert entry.done
    assert entry.messages == len(contents(tmp_path / "drive_recovered")) > 0


def test_several_recordings_in_a_folder_are_not_mixed(tmp_path):
    folder = tmp_path / "drives"
    folder.mkdir()
    for name in ("monday", "tuesday"):
        cut(storage_file(write_bag(tmp_path / name)).rename(folder / f"{name}.mcap"))
    with pytest.raises(FileError, match=r"drives: holds 2 recordings \(monday.mcap, tuesday.mcap\): give one of them"):
        recover(folder)


def test_a_split_that_is_missing_is_named(tmp_path):
    bag = split(large(tmp_path / "whole")[0], tmp_path / "drive", parts=3)
    (bag / "drive_1.mcap").unlink()
    (entry,) = recover(bag)
    assert "drive_1.mcap is not there: its whole messages are in drive_recovered" in entry.note
    assert entry.messages == len(contents(tmp_path / "drive_recovered"))
