"""An episode on disk: written under a hidden name, complete when it appears under its own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from fg_depth_ros.data.bags.mcap import Channel, McapIndex, StoredMessage
from fg_depth_ros.recording import manifest
from fg_depth_ros.recording.definitions import Message, Topic, channel_of, type_hash
from fg_depth_ros.recording.mcap_writer import DurableFile, McapWriter

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


OpenFile = Callable[[Path], DurableFile]


def episode_name(prefix: str, recorded: int, kind: str) -> str:
    """``episode_20261123T013000.123Z_motion``: when its first message came (ns since 1970, shown as UTC), the kind."""
    moment = _EPOCH + timedelta(milliseconds=recorded // 1_000_000)
    return f"{prefix}_{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z_{kind}"


def part_folder(root: Path, name: str) -> Path:
    """Where an episode lies until it is complete."""
    return root / f".{name}.part"


def part_name(folder: Path) -> str | None:
    """The episode that a folder holds a part of; None: it is no such folder."""
    name = folder.name
    return name[1 : -len(".part")] if name.startswith(".") and name.endswith(".part") and len(name) > 6 else None


def storage_file(folder: Path, name: str) -> Path:
    """The MCAP file of an episode in its folder."""
    return folder / f"{name}_0.mcap"


class EpisodeLock:
    """Tells other processes that somebody works on an episode; the kernel gives it back when he dies."""

    def __init__(self, root: Path, name: str) -> None:
        """Raises BlockingIOError where another holds it, OSError where there can be no lock."""
        self.path = root / f".{name}.lock"
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                self.path.unlink()
            os.close(descriptor)


class Episode:
    """The episode being written. After an OSError: ``finish`` what is safe, or ``abandon`` it for the recovery."""

    def __init__(self, root: Path, name: str, draft: dict[str, Any], open_file: OpenFile = DurableFile) -> None:
        """``draft``: what the manifest will say, as far as it is known now. Raises OSError."""
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
            write_json(folder / manifest.EPISODE_FILE, self.draft)
            sync_folder(folder)
            sync_folder(root)
        except OSError:
            if file is not None:
                file.close()
            shutil.rmtree(folder, ignore_errors=True)
            self._lock.release()
            raise

    @property
    def size(self) -> int:
        """Bytes of its file so far."""
        return self._mcap.file.size

    @property
    def messages(self) -> int:
        """Messages written so far."""
        return self._mcap.index.messages

    @property
    def first_recorded(self) -> int:
        """When its first message was received, ns; 0 before there is one."""
        return self._mcap.index.first

    def write(self, items: Sequence[tuple[Topic, Message]], stamps: Sequence[int] = ()) -> None:
        """Append messages as one chunk, among them the pairs of these stamps (ns). Raises OSError: none is written."""
        self._mcap.write([StoredMessage(self._channel(topic), m.recorded, m.recorded, m.data) for topic, m in items])
        for stamp in stamps:
            self.began = stamp if not self.pairs else self.began
            self.ended = stamp
            self.pairs += 1

    def sync(self) -> None:
        """Wait until the disk holds everything written. Raises OSError, also where the folder is gone."""
        self._mcap.file.sync()

    def finish(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Complete it under its own name and list it; the manifest's line. On OSError it stays: ``abandon`` it.

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
        """Close the file and let others at it; where it holds no message, it goes."""
        self._mcap.file.close()
        if not self.messages:
            shutil.rmtree(part_folder(self.root, self.name), ignore_errors=True)
        self._lock.release()

    def _channel(self, topic: Topic) -> Channel:
        line = self._channels.get(topic)
        if line is None:
            line = self._channels[topic] = channel_of(topic)
            if not line.schema:
                self.unknown_types.add(topic.msgtype)
        return line


def complete(root: Path, name: str, index: McapIndex, sha256: str, size: int, draft: dict[str, Any]) -> dict[str, Any]:
    """Give a part whose MCAP file is whole its metadata and its name; the line for the manifest. Raises OSError."""
    folder, file = part_folder(root, name), f"{name}_0.mcap"
    line = {
        "schema": manifest.SCHEMA, "name": name, "trigger": "manual", "detail": "", "began_ns": 0, "ended_ns": 0,
        "recorded_ns": [index.first, index.last], "pairs": 0, "messages": index.count_by_topic(), "bytes": size,
        "files": {file: sha256}, "rig": None, "weights": {}, "software": {}, "storage": "raw", "drops": {},
        "recovered": False, "continues": None,
    }  # fmt: skip
    line.update(
        {key: value for key, value in draft.items() if key not in ("recorded_ns", "messages", "bytes", "files")}
    )
    write_text(folder / "metadata.yaml", metadata_yaml({file: index}))
    write_json(folder / manifest.EPISODE_FILE, line)
    sync_folder(folder)
    os.rename(folder, root / name)
    sync_folder(root)
    return line


def metadata_yaml(files: dict[str, McapIndex]) -> str:
    """rosbag2's ``metadata.yaml``, version 8, of MCAP files by name; readable from ROS 2 Humble on."""
    counts: dict[Channel, int] = {}
    for index in files.values():
        for line, count in index.count_by_channel().items():
            counts[line] = counts.get(line, 0) + count

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
                    "name": line.topic,
                    "type": line.msgtype,
                    "serialization_format": line.encoding,
                    "offered_qos_profiles": line.qos,
                    "type_description_hash": type_hash(line.msgtype),
                },
                "message_count": count,
            }
            for line, count in counts.items()
        ],
        "compression_format": "",
        "compression_mode": "",
        "files": [{"path": name, **span([index])} for name, index in files.items()],
        "custom_data": None,
        "ros_distro": "fg_depth_ros",
    }
    return yaml.safe_dump({"rosbag2_bagfile_information": information}, sort_keys=False)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is old or new, never half, also behind a power cut. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.new")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """As ``write_text``."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def sync_folder(folder: Path) -> None:
    """Wait until the disk holds the names in a folder. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unused(root: Path, name: str) -> str:
    """The name, or the first of NAME_2, NAME_3, ... that nothing has: a clock that jumped back gives a name twice."""
    choice, number = name, 1
    while any(os.path.lexists(path) for path in (root / choice, part_folder(root, choice), root / f".{choice}.lock")):
        number += 1
        choice = f"{name}_{number}"
    return choice
