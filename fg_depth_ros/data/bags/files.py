"""The files of a recording: which belong together, unpacked where they are compressed as a whole, and metadata.yaml."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from fg_depth_ros.files import LARGEST_TEXT, FileError, read_bytes

ROS1 = ".bag"
STORAGE = (".mcap", ".db3")
_ZSTD = ".zstd"
PACKED = tuple(f"{ending}{_ZSTD}" for ending in STORAGE)
"""Endings of files that a recorder compressed as a whole (``--compression-mode file``)."""
METADATA = "metadata.yaml"
_SPLIT = re.compile(r"(?P<name>.+)_(?P<number>0|[1-9]\d*)")  # as rosbag2 numbers the files of one recording
_KEEP_FREE = 1 << 28  # bytes
_PIECE = 1 << 20
_SHOWN = 4  # names in a message

_LOG = logging.getLogger(__name__)


def is_bag(path: str | Path) -> bool:
    """Return whether a path looks like a recording of ROS, whole or not, rather than a folder of images.

    A folder does with metadata.yaml, or with the files of one recording and no pictures next to them.
    """
    path = Path(path)
    if not path.is_dir():
        return path.suffix == ROS1 or path.name.endswith((*STORAGE, *PACKED))
    return (path / METADATA).is_file() or (len(recordings(path)) == 1 and not _has_pictures(path))


def _has_pictures(folder: Path) -> bool:
    from fg_depth_ros.data.io.formats import IMAGE_SUFFIXES
    from fg_depth_ros.data.io.video import VIDEO_SUFFIXES

    return any(file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES for file in folder.iterdir())


def storage_files(path: str | Path) -> list[Path]:
    """Return the files of a bag that hold its messages, sorted by name; the path itself where it is one file."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.name.endswith((*STORAGE, *PACKED)))


def recordings(folder: Path) -> list[list[Path]]:
    """Group the storage files of a folder by the recording that they are of, each in the order it was written.

    Files belong together that are numbered as rosbag2 does it (``drive_0.mcap``, ``drive_1.mcap``, ...): from 0 on, or
    under the name of their folder. Of a file that is there packed and unpacked, the unpacked one counts.
    """
    groups: dict[tuple[str, str], dict[int, Path]] = defaultdict(dict)
    single: list[list[Path]] = []
    there = {file.name for file in storage_files(folder)}
    for file in storage_files(folder):
        name = unpacked_name(file.name)
        if name != file.name and name in there:
            continue
        stem, ending = os.path.splitext(name)
        if (match := _SPLIT.fullmatch(stem)) is not None:
            groups[match["name"], ending][int(match["number"])] = file
        else:
            single.append([file])
    for (name, _), files in groups.items():
        ordered = [files[number] for number in sorted(files)]
        if 0 in files or name == folder.resolve().name:
            single.append(ordered)
        else:
            single += [[file] for file in ordered]
    return sorted(single)


def unpacked_name(name: str) -> str:
    """Return the name of a storage file once it is unpacked."""
    return name.removesuffix(_ZSTD)


@dataclass(frozen=True)
class Metadata:
    """Description of a recording in rosbag2's metadata.yaml; it may be wrong. ``problem``: why there is none."""

    files: tuple[str, ...] = ()
    """Names of the files, as they are unpacked."""
    topics: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Type and number of messages by topic."""
    qos: Mapping[str, list[Any]] = field(default_factory=dict)
    """Offered profiles of rosbags by topic."""
    problem: str = ""

    @classmethod
    def read(cls, folder: Path) -> Metadata | None:
        """Read the file of a folder; None: there is none."""
        import yaml
        from rosbags.rosbag2.metadata import parse_qos

        if not (folder / METADATA).is_file():
            return None
        try:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            content = yaml.load(read_bytes(folder / METADATA, LARGEST_TEXT), loader)["rosbag2_bagfile_information"]
            topics, qos = {}, {}
            for line in content["topics_with_message_count"]:
                said = line["topic_metadata"]
                topics[str(said["name"])] = str(said["type"]), int(line["message_count"])
                with suppress(Exception):  # none that rosbags knows: that of the file stays
                    qos[str(said["name"])] = parse_qos(said.get("offered_qos_profiles") or [])
            files = tuple(unpacked_name(PurePath(str(name)).name) for name in content["relative_file_paths"])
        except Exception as error:  # what another program wrote breaks a parser in any way
            text = " ".join(str(error).split())[:200] + (" is missing" if isinstance(error, KeyError) else "")
            return cls(problem=f"cannot be read ({text or type(error).__name__})")
        return cls(files, topics, qos)


def bag_files(folder: Path, metadata: Metadata | None) -> tuple[list[Path], list[str]]:
    """Return the files of the one recording in a folder, in the order they were written, and what is wrong with it.

    Files that metadata.yaml names count, further splits of the same recording, and, where it names none that is there,
    the only recording there is. Raises FileError: no file, or several recordings.
    """
    groups, problems = recordings(folder), []
    if metadata is not None and metadata.files:
        by_name = {unpacked_name(file.name): file for group in groups for file in group}
        problems = [f"{name} is not there" for name in metadata.files if name not in by_name]
        named = [group for group in groups if any(unpacked_name(file.name) in metadata.files for file in group)]
        others = [group for group in groups if group not in named]
        if not named and len(groups) == 1:
            named, others = groups, []
        files = [file for group in named for file in group]
        read = [file.name for file in files if unpacked_name(file.name) not in metadata.files]
        problems += [f"{name} is not named, and read too" for name in read]
        problems += [f"{file.name} is not named, and not read" for group in others for file in group]
        groups = [files] if files else groups
    if not groups:
        raise FileError(f"{folder}: holds no .mcap and no .db3 file: no bag; give the folder with {METADATA}")
    if len(groups) > 1:
        raise FileError(listed(folder, [group[0] for group in groups]))
    return groups[0], problems


def recorded_in(folder: Path) -> list[Path]:
    """Return the first file of every recording right in a folder, ROS 1's among them, sorted."""
    ros1 = [file for file in folder.iterdir() if file.suffix == ROS1]
    return sorted([*(group[0] for group in recordings(folder)), *ros1])


def listed(folder: Path, found: list[Path]) -> str:
    """Say which recordings a folder holds, and that one is to be given."""
    names = ", ".join([file.name for file in found[:_SHOWN]] + (["..."] if len(found) > _SHOWN else []))
    several = f"{len(found)} recordings ({names}): give one of them"
    return f"{folder}: holds {several if len(found) > 1 else f'a recording ({names}): give it'}"


class UnpackedFiles:
    """Files that cannot be read as they are, in a temporary folder that goes with this object.

    These are files that were compressed as a whole, and SQLite files with a write-ahead log beside them.
    """

    def __init__(self) -> None:
        self._there: dict[Path, Path] = {}
        self._folder: Path | None = None

    def of(self, path: Path) -> Path:
        """Return the unpacked file of a packed one, as far as that is whole; any other file as it is.

        Of a SQLite file with a write-ahead log it is a copy that has the messages of the log, too.

        Raises FileError: it is no zstd file, or there is no room for it.
        """
        packed = path.name.endswith(PACKED)
        if not packed and not _has_log(path):
            return path
        if path not in self._there:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="fg_depth_bag_"))
                weakref.finalize(self, _remove, self._folder, os.getpid())
            target = self._folder / str(len(self._there)) / unpacked_name(path.name)
            target.parent.mkdir()
            (_unpack if packed else _copy_with_log)(path, target)
            self._there[path] = target
        return self._there[path]


def _unpack(path: Path, target: Path) -> None:
    import zstandard

    with path.open("rb") as packed, target.open("wb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        try:
            while piece := stream.read(_PIECE):
                if shutil.disk_usage(target.parent).free < _KEEP_FREE:
                    raise FileError(
                        f"{path}: no room to unpack it in {tempfile.gettempdir()}; set TMPDIR to a folder with more, "
                        f"or unpack it yourself (zstd -d {path.name})"
                    )
                file.write(piece)
        except zstandard.ZstdError as error:
            if not file.tell():
                raise FileError(f"{path}: cannot be read (no zstd file: {error}); fetch it again") from error
        # What was unpacked before damage, or before the file ends, is used; its reader says how much that is.


def _log_of(path: Path) -> Path:
    """Return the path of SQLite's write-ahead log of a file."""
    return path.with_name(f"{path.name}-wal")


def _has_log(path: Path) -> bool:
    """Return whether a recorder that was killed, or still runs, left messages in a write-ahead log."""
    log = _log_of(path)
    return path.suffix == ".db3" and log.is_file() and log.stat().st_size > 0


def _copy_with_log(path: Path, target: Path) -> None:
    """Copy a SQLite file and its write-ahead log, and write the messages of the log into the copy.

    rosbags opens files as immutable, so without those of the log; SQLite itself would write into the folder of both.
    """
    import sqlite3

    log = _log_of(path)
    needed = path.stat().st_size + 2 * log.stat().st_size + _KEEP_FREE
    if shutil.disk_usage(target.parent).free < needed:
        raise FileError(
            f"{path}: no room in {tempfile.gettempdir()} for a copy with the messages of {log.name} beside it; set "
            f"TMPDIR to a folder with more, or write them into the file yourself (sqlite3 {path.name} 'PRAGMA "
            "wal_checkpoint(TRUNCATE)')"
        )
    for source, copy in ((log, _log_of(target)), (path, target)):
        shutil.copyfile(source, copy)
    try:
        with closing(sqlite3.connect(target)) as base:
            base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.DatabaseError as error:
        _LOG.warning("%s: read without the messages of %s, which cannot be read (%s)", path, log.name, error)
    else:
        _LOG.info("%s: read with the messages of %s, from a copy", path, log.name)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not a forked process, whose parent still reads
        shutil.rmtree(folder, ignore_errors=True)
