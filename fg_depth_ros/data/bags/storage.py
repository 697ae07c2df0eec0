"""The messages of a ROS 2 bag without ROS: MCAP or SQLite, a folder or one file, whole or cut off.

Read by the rosbags library. A recorder that was killed leaves an MCAP file without its index, and a folder without
metadata.yaml; everything before the cut is whole and is read.
"""

from __future__ import annotations

import heapq
import io
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fg_depth_ros.data.io.formats import FileError

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"

_LOG = logging.getLogger(__name__)
_ENDINGS = (".mcap", ".db3")
# https://mcap.dev/spec: magic bytes at both ends; a record is its kind in one byte, its length in eight, its content.
_MAGIC = b"\x89MCAP0\r\n"
_RECORD_HEAD = 9
_KINDS = range(0x01, 0x10)
_FOOTER, _DATA_END = 0x02, 0x0F
# A footer that says that there is no index: readers then go through the records one by one.
_PLAIN_END = bytes([_FOOTER]) + (20).to_bytes(8, "little") + bytes(20) + _MAGIC


@lru_cache(maxsize=1)
def message_types() -> Any:
    """rosbags' store of message types. The types of images are the same in every release of ROS 2."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_HUMBLE)


def is_bag(path: str | Path) -> bool:
    """Whether a path looks like a recording of ROS, whole or not, rather than a folder of images."""
    path = Path(path)
    return path.suffix in (*_ENDINGS, ".bag") or (
        path.is_dir()
        and ((path / "metadata.yaml").is_file() or any(file.suffix in _ENDINGS for file in path.iterdir()))
    )


class RawMessage(NamedTuple):
    """A message as it was stored: its topic, the time it was recorded (ns), and its bytes (CDR)."""

    topic: str
    recorded: int
    data: bytes


class OfferedQos(NamedTuple):
    """How a topic was published when it was recorded; of several publishers, what suits every subscriber."""

    reliable: bool
    transient_local: bool
    depth: int


class BagStorage:
    """The messages of one bag. Files stay open; a copy in another process opens them anew."""

    def __init__(self, path: str | Path) -> None:
        """``path``: the bag's folder, or one ``.mcap`` or ``.db3`` file.

        Raises:
            FileError: no such bag, a format that is none of ROS 2's, nothing in it that can be read, or the library
                rosbags is not installed.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        self._open()

    @property
    def topics(self) -> dict[str, str]:
        """Type by topic, such as ``sensor_msgs/msg/Image``."""
        return {c.topic: c.msgtype for reader, _ in self._readers for c in reader.connections}

    @property
    def offered_qos(self) -> dict[str, OfferedQos]:
        """By topic, for those of which the bag says it."""
        found = {}
        for reader, _ in self._readers:
            for c in reader.connections:
                if profiles := c.ext.offered_qos_profiles:
                    found[c.topic] = OfferedQos(
                        any(profile.reliability.name != "BEST_EFFORT" for profile in profiles),
                        any(profile.durability.name == "TRANSIENT_LOCAL" for profile in profiles),
                        max(profile.depth for profile in profiles),
                    )
        return found

    def scan(self, topics: Iterable[str]) -> Iterator[RawMessage]:
        """Every message of these topics, once, in no promised order between topics.

        What is damaged, and what lies behind it, is left out with a warning.
        """
        wanted = list(topics)
        for reader, indexed in self._readers:
            # Without an index rosbags wants messages in the order of time, which each topic by itself has.
            for part in [wanted] if indexed else [[topic] for topic in wanted]:
                yield from self._read(reader, part)

    def replay(self, topics: Iterable[str]) -> Iterator[RawMessage]:
        """Every message of these topics, once, in the order of the times they were recorded.

        What is damaged, and what lies behind it, is left out with a warning.
        """
        wanted = list(topics)
        streams = []
        for reader, indexed in self._readers:
            # Readers without an index go through a file from its start: two of them cannot share its position.
            parts = [(reader, wanted)] if indexed else [(_opened_again(reader), [topic]) for topic in wanted]
            streams += [self._read(*part) for part in parts]
        return heapq.merge(*streams, key=lambda message: message.recorded)

    def _read(self, reader: Any, topics: list[str]) -> Iterator[RawMessage]:
        chosen = [c for c in reader.connections if c.topic in topics]
        if not chosen:
            return
        expected, found, reason = sum(c.msgcount for c in chosen), 0, "data overwritten"
        try:
            for connection, recorded, data in reader.messages(connections=chosen):
                found += 1
                yield RawMessage(connection.topic, recorded, data)
        except Exception as error:  # damaged data breaks a parser in any way
            reason = _reason(error)
        if found < expected:
            _LOG.warning(
                "%s: damaged (%s): only %d of %d messages of %s can be read; fetch it again",
                self.path, reason, found, expected, ", ".join(topics),
            )  # fmt: skip

    def at(self, topic: str, recorded: int) -> Iterator[bytes]:
        """The messages of a topic that were recorded at this time, ns. Raises FileError where the data is damaged."""
        with self._lock:
            if self._process != os.getpid():  # files that are open in two processes share one position
                self._open()
            for reader, _ in self._readers:
                chosen = [c for c in reader.connections if c.topic == topic]
                try:
                    if chosen:
                        yield from (d for _, _, d in reader.messages(chosen, start=recorded, stop=recorded + 1))
                except Exception as error:  # damaged data breaks a parser in any way
                    raise FileError(
                        f"{self.path}, {topic} at {recorded} ns: damaged ({_reason(error)}); fetch it again"
                    ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _open(self) -> None:
        self._readers = _open_readers(self.path)
        self._process = os.getpid()


def _open_readers(path: Path) -> list[tuple[Any, bool]]:
    """Open readers of a bag, and whether each has an index."""
    try:
        from rosbags.rosbag2 import Reader
    except ImportError as error:
        raise FileError(
            f"{path}: reading bags needs the library rosbags ({error}); pip install 'fg_depth_ros[data]'"
        ) from error
    if not path.exists():
        raise FileError(f"{path}: no such bag; give its folder, or its .mcap or .db3 file")
    if path.is_file() and path.suffix not in _ENDINGS:
        hint = "a ROS 1 bag: rosbags-convert makes a ROS 2 bag of it" if path.suffix == ".bag" else "no ROS 2 bag"
        raise FileError(f"{path}: {hint}; a bag is a folder, a .mcap or a .db3 file")
    if path.is_dir() and (path / "metadata.yaml").is_file():
        reader = Reader(path)
        try:
            reader.open()
            return [(reader, _has_index(reader))]
        except Exception as error:  # one damaged file is enough: then each by itself, below
            if not _files(path):
                raise FileError(f"{path}: cannot be read ({_reason(error)}); record it without compression") from error
            _LOG.warning(
                "%s: not read as its metadata.yaml says (%s); its files are read instead", path, _reason(error)
            )
    files = [path] if path.is_file() else _files(path)
    if not files:
        raise FileError(f"{path}: holds no .mcap and no .db3 file: no bag; give the folder with metadata.yaml")
    return [_open_file(file) for file in files]


def _has_index(reader: Any) -> bool:
    """Whether messages can be found without going through all of them; SQLite always can."""
    files = getattr(reader.storage, "storages", [reader.storage])
    return all(getattr(file, "chunks", True) for file in files)


def _opened_again(reader: Any) -> Any:
    """Another reader of the same file, with a position of its own."""
    path = reader.path
    again = type(reader)(_WholePart(path._path, path._whole) if isinstance(path, _WholePart) else path)
    again.open()
    return again


def _files(folder: Path) -> list[Path]:
    """A bag's files in the order they were written: bag_2 before bag_10."""
    found = [file for file in folder.iterdir() if file.suffix in _ENDINGS]
    return sorted(found, key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)])


def _open_file(path: Path) -> tuple[Any, bool]:
    from rosbags.rosbag2 import Reader

    reader = Reader(path)
    try:
        reader.open()
        return reader, _has_index(reader)
    except Exception as error:  # damaged data breaks a parser in any way
        if path.suffix != ".mcap":
            raise FileError(
                f"{path}: cannot be read ({_reason(error)}); a cut-off SQLite bag can be saved in part with "
                f"'sqlite3 {path.name} .recover'; record MCAP, which survives a cut"
            ) from error
        first = error
    whole, size = _whole_records(path), path.stat().st_size
    reader = Reader(_WholePart(path, whole))  # type: ignore[arg-type]
    try:
        reader.open()
    except Exception as error:
        raise FileError(
            f"{path}: cannot be read ({_reason(first)}), nor can its first {whole} of {size} bytes ({_reason(error)}); "
            "fetch it again"
        ) from error
    if not reader.message_count:
        raise FileError(f"{path}: no whole message in its {size} bytes ({_reason(first)}); fetch it again")
    _LOG.warning(
        "%s: cut off or damaged behind byte %d of %d (%s): the %d messages before are used",
        path, whole, size, _reason(first), reader.message_count,
    )  # fmt: skip
    return reader, False


def _whole_records(path: Path) -> int:
    """Bytes of an MCAP file up to the end of its last whole record of data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        end = len(file.read(len(_MAGIC)))
        while True:
            file.seek(end)
            head = file.read(_RECORD_HEAD)
            after = end + _RECORD_HEAD + int.from_bytes(head[1:], "little")
            if len(head) < _RECORD_HEAD or head[0] not in _KINDS or head[0] in (_FOOTER, _DATA_END) or after > size:
                return end
            end = after


class _WholePart(io.RawIOBase):
    """The first bytes of an MCAP file, closed as the format asks. Passes as a path where rosbags wants one."""

    suffix = ".mcap"

    def __init__(self, path: Path, whole: int) -> None:
        self._path, self._whole, self._at = path, whole, 0
        self._file: BinaryIO | None = None

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        return True

    def is_dir(self) -> bool:
        return False

    def open(self, mode: str = "rb") -> io.BufferedReader:
        self._file = self._path.open(mode)  # type: ignore[assignment]
        return io.BufferedReader(self)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._whole + len(_PLAIN_END)}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        assert self._file is not None
        if self._at < self._whole:
            self._file.seek(self._at)
            content = self._file.read(min(len(buffer), self._whole - self._at))
        else:
            begin = self._at - self._whole
            content = _PLAIN_END[begin : begin + len(buffer)]
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
