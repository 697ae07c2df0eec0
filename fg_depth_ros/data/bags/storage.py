"""The messages of a ROS 2 bag without ROS: MCAP or SQLite, a folder or one file, whole or cut off.

Read by the rosbags library; by ``data.bags.mcap`` where an MCAP file has no index, as a recorder that was killed leaves
it.
"""

from __future__ import annotations

import heapq
import logging
import os
import re
import threading
from collections.abc import Container, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fg_depth_ros.files import FileError

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"

_LOG = logging.getLogger(__name__)
_ENDINGS = (".mcap", ".db3")
_PACKED = (".mcap.zstd", ".db3.zstd")


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


class _Reader(Protocol):
    """An open bag, or one file of it."""

    topics: dict[str, str]
    """Type by topic."""
    counts: dict[str, int]
    """Messages by topic."""
    qos: dict[str, list[Any]]
    """Offered profiles of rosbags by topic."""

    def messages(self, topics: Container[str], start: int = ..., stop: int = ...) -> Iterator[tuple[str, int, bytes]]:
        """Yield (topic, time recorded in ns, bytes) in the order of the times, from ``start`` to before ``stop``."""


class BagStorage:
    """The messages of one bag. Files stay open; a copy in another process opens them anew."""

    def __init__(self, path: str | Path) -> None:
        """Open a folder, or one ``.mcap`` or ``.db3`` file. Raises FileError: no bag, or nothing readable in it."""
        self.path = Path(path)
        self._lock = threading.Lock()
        self._open()

    @property
    def topics(self) -> dict[str, str]:
        """Type by topic, such as ``sensor_msgs/msg/Image``."""
        return {topic: kind for reader in self._readers for topic, kind in reader.topics.items()}

    @property
    def offered_qos(self) -> dict[str, OfferedQos]:
        """Offered QoS by topic, for those topics of which the bag has it."""
        return {
            topic: OfferedQos(
                any(profile.reliability.name != "BEST_EFFORT" for profile in profiles),
                any(profile.durability.name == "TRANSIENT_LOCAL" for profile in profiles),
                max(profile.depth for profile in profiles),
            )
            for reader in self._readers
            for topic, profiles in reader.qos.items()
            if profiles
        }

    def scan(self, topics: Iterable[str]) -> Iterator[RawMessage]:
        """Yield every message of these topics once; damaged ones and those behind them are left out, with a warning."""
        wanted = list(topics)
        for reader in self._readers:
            yield from self._read(reader, wanted)

    def replay(self, topics: Iterable[str]) -> Iterator[RawMessage]:
        """Yield every message of these topics once, in the order of the times they were recorded; else as ``scan``."""
        wanted = list(topics)
        return heapq.merge(
            *(self._read(reader, wanted) for reader in self._readers), key=lambda message: message.recorded
        )

    def _read(self, reader: _Reader, topics: list[str]) -> Iterator[RawMessage]:
        chosen = [topic for topic in topics if topic in reader.topics]
        expected, found, reason = sum(reader.counts[topic] for topic in chosen), 0, "data overwritten"
        try:
            for topic, recorded, data in reader.messages(chosen) if chosen else ():
                found += 1
                yield RawMessage(topic, recorded, data)
        except Exception as error:  # damaged data breaks a parser in any way
            reason = _reason(error)
        if found < expected:
            _LOG.warning(
                "%s: damaged (%s): only %d of %d messages of %s can be read; fetch it again",
                self.path, reason, found, expected, ", ".join(chosen),
            )  # fmt: skip

    def at(self, topic: str, recorded: int) -> Iterator[bytes]:
        """Yield the messages of a topic that were recorded at this time, ns. Raises FileError: the data is damaged."""
        with self._lock:
            if self._process != os.getpid():  # files that are open in two processes share one position
                self._open()
            for reader in self._readers:
                try:
                    if topic in reader.topics:
                        yield from (data for _, _, data in reader.messages([topic], recorded, recorded + 1))
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


class _IndexedReader:
    """A bag that rosbags reads."""

    def __init__(self, reader: Any) -> None:
        """Take over an open ``rosbags.rosbag2.Reader``."""
        self._reader = reader
        self._packed = reader.compression_mode == "message"
        if self._packed:  # unpacked here: rosbags knows no limit
            reader.storage.metadata = reader.storage.metadata._replace(compression_mode=None)
        self.topics = {c.topic: c.msgtype for c in reader.connections}
        self.qos = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
        self.counts = {topic: sum(c.msgcount for c in reader.connections if c.topic == topic) for topic in self.topics}

    def messages(
        self, topics: Container[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """See ``_Reader``."""
        chosen = [c for c in self._reader.connections if c.topic in topics]
        for connection, recorded, data in self._reader.messages(chosen, start=start, stop=stop):
            yield connection.topic, recorded, _unpacked(data) if self._packed else data


def _unpacked(data: bytes) -> bytes:
    from fg_depth_ros.data.bags.mcap import LARGEST_CHUNK, decompress

    message = decompress(data, "zstd", LARGEST_CHUNK)
    if len(message) > LARGEST_CHUNK:
        raise ValueError(f"a message unpacks to more than the {LARGEST_CHUNK} bytes that are read")
    return message


def _open_readers(path: Path) -> list[_Reader]:
    try:
        from rosbags.rosbag2 import Reader

        _limit_chunks()
    except ImportError as error:
        raise FileError(
            f"{path}: reading bags needs the library rosbags ({error}); pip install 'fg_depth_ros[data]'"
        ) from error
    if not path.exists():
        raise FileError(f"{path}: no such bag; give its folder, or its .mcap or .db3 file")
    if not path.is_dir() and path.suffix not in _ENDINGS:
        if path.name.endswith(_PACKED):
            raise FileError(f"{path}: {_unpack_first([path])}")
        hint = "a ROS 1 bag: rosbags-convert makes a ROS 2 bag of it" if path.suffix == ".bag" else "no ROS 2 bag"
        raise FileError(f"{path}: {hint}; a bag is a folder, a .mcap or a .db3 file")
    files = _files(path) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise FileError(f"{file}: is a pipe or a device, whose data may never end; give a file")
    if path.is_dir() and (path / "metadata.yaml").is_file():
        reader = Reader(path)
        try:
            reader.open()
            _describe_as_stated(reader)
            if _has_index(reader):
                return [_IndexedReader(reader)]
        except Exception as error:  # one damaged file is enough: then each by itself, below
            if not files:
                packed = [file for file in path.iterdir() if file.name.endswith(_PACKED)]
                way_out = _unpack_first(packed) if packed else "fetch it again"
                raise FileError(f"{path}: cannot be read ({_reason(error)}); {way_out}") from error
            _LOG.warning(
                "%s: not read as its metadata.yaml says (%s); its files are read instead", path, _reason(error)
            )
        else:
            if reader.compression_mode == "message":
                raise FileError(
                    f"{path}: compressed messages without an index; unpack it with ros2 bag convert, or record it "
                    "without compression"
                )
    if not files:
        if packed := [file for file in path.iterdir() if file.name.endswith(_PACKED)]:
            raise FileError(f"{path}: {_unpack_first(packed)}")
        raise FileError(f"{path}: holds no .mcap and no .db3 file: no bag; give the folder with metadata.yaml")
    return [_open_file(file) for file in files]


def _unpack_first(packed: list[Path]) -> str:
    """Say how to read files that a recorder compressed as a whole (``--compression-mode file``)."""
    return (
        "its files are compressed as a whole, and read only where metadata.yaml says so and nothing is cut off: unpack "
        f"them (zstd -d -c {min(packed).name} > {min(packed).stem}, which keeps what is there), then give the .mcap or "
        ".db3 file"
    )


def _has_index(reader: Any) -> bool:
    """Whether messages can be found without reading all of them; SQLite always can, MCAP by an index of each chunk."""
    chunks = [getattr(file, "chunks", None) for file in getattr(reader.storage, "storages", [reader.storage])]
    return all(found is None or (found and all(chunk.message_index_offsets for chunk in found)) for found in chunks)


def _describe_as_stated(reader: Any) -> None:
    """Let the files of a bag describe their topics as metadata.yaml does: rosbags reads nothing where the two differ.

    The text of a QoS does between versions of ROS, and where a recorder's options override it.
    """
    stated = {(line.topic, line.msgtype): line for line in reader.connections}
    for file in getattr(reader.storage, "storages", ()):
        for place, line in enumerate(file.connections):
            if like := stated.get((line.topic, line.msgtype)):
                file.connections[place] = line._replace(ext=like.ext, digest=like.digest)


def indexed_messages(path: Path) -> int | None:
    """Count the messages that a bag's index leads to; None: it has no usable one, or one that states another number."""
    from rosbags.rosbag2 import Reader

    _limit_chunks()
    try:
        with Reader(path) as reader:
            _describe_as_stated(reader)
            found = sum(1 for _ in reader.messages())
            return found if found == sum(line.msgcount for line in reader.connections) else None
    except Exception:  # damaged data breaks a parser in any way
        return None


@lru_cache(maxsize=1)
def _limit_chunks() -> None:
    """Let rosbags unpack no chunk to more than its header says, nor a larger one than LARGEST_CHUNK."""
    from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

    from fg_depth_ros.data.bags.mcap import LARGEST_CHUNK, decompress

    def bounded(name: str, content: bytes, size: int) -> bytes:
        if size > LARGEST_CHUNK:
            raise ValueError(f"a chunk has {size} bytes, and {LARGEST_CHUNK} are read")
        return decompress(content, name, size)

    DECOMPRESSORS.update({name: partial(bounded, name) for name in DECOMPRESSORS})


def _files(folder: Path) -> list[Path]:
    """Return a bag's files in the order they were written: bag_2 before bag_10."""
    found = [file for file in folder.iterdir() if file.suffix in _ENDINGS]
    return sorted(found, key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)])


def _open_file(path: Path) -> _Reader:
    from rosbags.rosbag2 import Reader

    reader = Reader(path)
    first = "no index"
    try:
        reader.open()
        if _has_index(reader):
            return _IndexedReader(reader)
    except Exception as error:  # damaged data breaks a parser in any way
        first = _reason(error)
        if path.suffix != ".mcap":
            raise FileError(
                f"{path}: cannot be read ({first}); a cut-off SQLite bag can be saved in part with "
                f"'sqlite3 {path.name} .recover'; record MCAP, which survives a cut"
            ) from error
    try:
        from fg_depth_ros.data.bags.mcap import PartialMcap

        found = PartialMcap(path)
    except (OSError, ImportError) as error:
        raise FileError(f"{path}: cannot be read ({_reason(error)})") from error
    size, count = path.stat().st_size, sum(found.counts.values())
    if found.foreign and not count:
        raise FileError(
            f"{path}: its messages are encoded as {', '.join(sorted(found.foreign))}, and those of ROS 2 as cdr; "
            "convert it to a ROS 2 bag with the program that recorded it"
        )
    if not count:
        raise FileError(
            f"{path}: cannot be read: no whole message in its {size} bytes ({found.problem or first}); fetch it again"
        )
    if found.problem:
        _LOG.warning(
            "%s: cut off or damaged (it %s): the %d whole messages are used, %d of %d bytes are not",
            path, found.problem, count, found.lost, size,
        )  # fmt: skip
    return found


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
