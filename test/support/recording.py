"""What the tests of recording share: pairs as messages, a recorder that is quiet again, failing disks."""

from __future__ import annotations

import errno
from pathlib import Path

from fg_depth_ros.data.bags.storage import BagStorage
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.recording import Message, Recorder, RecorderConfig, Topic
from fg_depth_ros.recording.mcap_writer import DurableFile
from support.bags import SECOND, pairs_at
from support.pair_folders import small_rig
from support.waiting import wait_until

TENTH = SECOND // 10
TOPICS = ("/left/image_rect", "/right/image_rect", "/left/camera_info", "/right/camera_info")


def pair_messages(folder: Path, stamps):
    """(stamp, messages of the four topics) of real pairs, as a node gets them; recorded 1 ms after their stamp."""
    bag = BagStorage(write_stereo_bag(folder / "source", pairs_at(*stamps), small_rig()))
    kinds = bag.topics
    found = {stamp: {} for stamp in stamps}
    for message in bag.scan(TOPICS):
        topic = Topic(message.topic, kinds[message.topic])
        found[message.recorded][message.topic] = (topic, Message(message.topic, message.recorded + 10**6, message.data))
    return [(stamp, [items[name] for name in TOPICS]) for stamp, items in found.items()]


def later(items, shift):
    """The same messages, recorded ``shift`` ns later."""
    return [(topic, message._replace(recorded=message.recorded + shift)) for topic, message in items]


def quiet(recorder: Recorder) -> dict[str, int]:
    """Wait until nothing is in the queue; the account, which must add up."""

    def counters() -> dict[str, int] | None:
        found = recorder.counters()
        assert found["offered"] == sum(found.values()) - found["offered"], found
        return found if found["in_queue"] == 0 else None

    return wait_until(counters, period=0.005, describe=recorder.counters)


def config(root: Path, **changes) -> RecorderConfig:
    return RecorderConfig(**{"root": root, "before": 0.25, "after": 0.25, "free_floor_bytes": 0, **changes})


def episodes(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def contents(bag: Path):
    """(topic, recorded, data) of every message by rosbags' reader, in the order of each topic."""
    from rosbags.rosbag2 import Reader

    with Reader(bag) as reader:
        found = [(c.topic, recorded, bytes(data)) for c, recorded, data in reader.messages()]
        assert len(found) == reader.message_count
        return found


class SmallDisk:
    """Opens files of a disk with this many bytes free; ``error`` is what it says when they are used up."""

    def __init__(self, free: int, error: int = errno.ENOSPC) -> None:
        self.free, self.error = free, error

    def __call__(self, path: Path) -> DurableFile:
        disk = self

        class File(DurableFile):
            def write(self, pieces):
                content = b"".join(pieces)
                fits = content[: max(disk.free, 0)]
                disk.free -= len(fits)
                if len(fits) < len(content):
                    import os

                    os.write(self._descriptor, fits)
                    raise OSError(disk.error, os.strerror(disk.error))
                super().write(pieces)

        return File(path)
