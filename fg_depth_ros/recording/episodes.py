"""An episode on disk: written under a hidden name, complete when it appears under its own name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from fg_depth_ros.data.bags.mcap import Channel, McapIndex, StoredMessage
from fg_depth_ros.files import FileLock, atomic_write, sync_path, write_json
from fg_depth_ros.recording import manifest
from fg_depth_ros.recording.definitions import Message, Topic, channel_of, type_hash
from fg_depth_ros.recording.mcap_writer import DurableFile, McapWriter

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


OpenFile = Callable[[Path], DurableFile]


def episode_name(prefix: str, recorded: int, kind: str) -> str:
    """Return ``episode_20261123T013000.123Z_motion``: time of the first message (ns since 1970, as UTC) and kind."""
    moment = _EPOCH + timedelta(milliseconds=recorded // 1_000_000)
    return f"{prefix}_{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z_{kind}"


def part_folder(root: Path, name: str) -> Path:
    """Return the folder of an episode until it is complete."""
    return root / f".{name}.part"


def part_name(folder: Path) -> str | None:
    """Return the name of the episode whose part a folder holds; None: it is no such folder."""
    name = folder.name
    return name[1 : -len(".part")] if name.startswith(".") and name.endswith(".part") and len(name) > 6 else None


def storage_file(folder: Path, name: str) -> Path:
    """Return the MCAP file of an episode in its folder."""
    return folder / f"{name}_0.mcap"


class EpisodeLock(FileLock):
    """Lock that an episode is being written or recovered; its file goes with it."""

    def __init__(self, root: Path, name: str) -> None:
        """Acquire the lock. Raises as ``FileLock``."""
        super().__init__(root / f".{name}.lock")

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._descriptor >= 0:
            with suppress(OSError):
                self.path.unlink()
        super().release()


class Episode:
    """The episode being written. After an OSError: ``finish`` what is safe, or ``abandon`` it for the recovery."""

    def __init__(self, root: Path, name: str, draft: dict[str, Any], open_file: OpenFile = DurableFile) -> None:
        """Create the episode's folder and file. Raises OSError.

        ``draft``: keys of its manifest line that are known now.
        """
        self.root, self.name, self.draft = root, _unused(root, name), dict(draft)
        self.draft.update(schema=manifest.SCHEMA, name=self.name)
        self.pairs, self.began, self.ended = 0, 0, 0
        self.listed = True
        self.unknown_types: set[str] = set()
        self._channels: dict[Topic, Channel] = {}
        self._lock = EpisodeLock(root, self.name)
        folder = part_folder(root, self.name)
        file: DurableFile | None = None
        try:
            folder.mkdir()
            file = open_file(storage_file(folder, self.name))
            self._mcap = McapWriter(file, zstd=draft.get("storage") == "zstd")
            _write_draft(folder, self.draft)
            sync_path(root)
        except OSError:
            if file is not None:
                file.close()
            shutil.rmtree(folder, ignore_errors=True)
            self._lock.release()
            raise

    @property
    def size(self) -> int:
        """Size of its file so far, bytes."""
        return self._mcap.file.size

    @property
    def messages(self) -> int:
        """Number of messages written so far."""
        return self._mcap.index.messages

    @property
    def first_recorded(self) -> int:
        """Time when its first message was received, ns; 0 before there is one."""
        return self._mcap.index.first

    def describe(self, changes: dict[str, Any]) -> None:
        """Add keys of its manifest line that are known now, so that the recovery has them. Raises OSError."""
        self.draft.update(changes)
        _write_draft(part_folder(self.root, self.name), self.draft)

    def write(self, items: Sequence[tuple[Topic, Message]], stamps: Sequence[int] = ()) -> None:
        """Append messages as one chunk, among them the pairs of these stamps (ns). Raises OSError: none was written."""
        self._mcap.write([StoredMessage(self._channel(topic), m.recorded, m.recorded, m.data) for topic, m in items])
        for stamp in stamps:
            self.began = stamp if not self.pairs else self.began
            self.ended = stamp
            self.pairs += 1

    def sync(self) -> None:
        """Wait until the disk holds everything written. Raises OSError, also where the folder is gone."""
        self._mcap.file.sync()

    def finish(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Complete it under its own name, list it and return the manifest's line.

        On OSError it stays a part: ``abandon`` it.

        ``listed`` is False where the line could not be added, which the recovery does.
        """
        self._mcap.finish()
        self.draft.update(changes, pairs=self.pairs, began_ns=self.began, ended_ns=self.ended)
        line = complete(self.root, self.name, self._mcap.index, self._mcap.file.sha256, self.size, self.draft)
        try:
            manifest.append(self.root, line)
        except OSError:
            self.listed = False
        self.abandon()
        return line

    def abandon(self) -> None:
        """Close the file and release the lock; a part without a message is removed."""
        self._mcap.file.close()
        if not self.messages:
            shutil.rmtree(part_folder(self.root, self.name), ignore_errors=True)
        self._lock.release()

    def _channel(self, topic: Topic) -> Channel:
        channel = self._channels.get(topic)
        if channel is None:
            channel = self._channels[topic] = channel_of(topic)
            if not channel.schema:
                self.unknown_types.add(topic.msgtype)
        return channel


def complete(root: Path, name: str, index: McapIndex, sha256: str, size: int, draft: dict[str, Any]) -> dict[str, Any]:
    """Complete a part whose MCAP file is whole; return the line for the manifest. Raises OSError."""
    folder, file = part_folder(root, name), f"{name}_0.mcap"
    line = {
        "schema": manifest.SCHEMA, "name": name, "trigger": "manual", "detail": "", "began_ns": 0, "ended_ns": 0,
        "recorded_ns": [index.first, index.last], "pairs": 0, "images": [],
        "messages": index.count_by_topic(), "bytes": size, "files": {file: sha256}, "rig": None, "weights": {},
        "software": {}, "storage": "raw", "drops": {}, "input_drops": {}, "other_drops": {}, "recovered": False,
        "continues": None,
    }  # fmt: skip
    line.update(
        {key: value for key, value in draft.items() if key not in ("recorded_ns", "messages", "bytes", "files")}
    )
    for unfinished in folder.glob(".*"):  # of a write that a power cut interrupted
        shutil.rmtree(unfinished, ignore_errors=True)
    with atomic_write(folder / "metadata.yaml") as metadata:
        metadata.write_text(metadata_yaml({file: index}), encoding="utf-8")
    _write_draft(folder, line)
    os.rename(folder, root / name)
    sync_path(root)
    return line


def metadata_yaml(files: dict[str, McapIndex]) -> str:
    """Return rosbag2's ``metadata.yaml``, version 8, of MCAP files by name; readable from ROS 2 Humble on."""
    counts: dict[Channel, int] = {}
    for index in files.values():
        for channel, count in index.count_by_channel().items():
            counts[channel] = counts.get(channel, 0) + count

    def span(indexes: Sequence[McapIndex]) -> dict[str, Any]:
        some = [index for index in indexes if index.messages]
        first = min((index.first for index in some), default=0)
        last = max((index.last for index in some), default=0)
        return {
            "duration": {"nanoseconds": last - first},
            "starting_time": {"nanoseconds_since_epoch": first},
            "message_count": sum(index.messages for index in indexes),
        }

    information = {
        "version": 8,
        "storage_identifier": "mcap",
        "relative_file_paths": list(files),
        **span(list(files.values())),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": channel.topic,
                    "type": channel.msgtype,
                    "serialization_format": channel.encoding,
                    "offered_qos_profiles": channel.qos,
                    "type_description_hash": type_hash(channel.msgtype),
                },
                "message_count": count,
            }
            for channel, count in counts.items()
        ],
        "compression_format": "",
        "compression_mode": "",
        "files": [{"path": name, **span([index])} for name, index in files.items()],
        "custom_data": None,
        "ros_distro": "fg_depth_ros",
    }
    return yaml.safe_dump({"rosbag2_bagfile_information": information}, sort_keys=False)


def _write_draft(folder: Path, content: dict[str, Any]) -> None:
    write_json(folder / manifest.EPISODE_FILE, content, indent=1)


def _unused(root: Path, name: str) -> str:
    """Return the name, or the first free one of NAME_2, NAME_3, ...: a clock that jumped back gives a name twice."""
    choice, number = name, 1
    while any(os.path.lexists(path) for path in (root / choice, part_folder(root, choice), root / f".{choice}.lock")):
        number += 1
        choice = f"{name}_{number}"
    return choice
