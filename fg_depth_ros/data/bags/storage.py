"""The messages of a bag without ROS: MCAP or SQLite, a folder or one file, or ROS 1's .bag; whole or cut off.

Read by the rosbags library; by ``data.bags.mcap`` where an MCAP file has no index, as a recorder that was killed leaves
it. All messages come out as ROS 2's (CDR), and all times in ns.
"""

from __future__ import annotations

import heapq
import logging
import os
import threading
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fg_depth_ros.data.bags.files import PACKED, ROS1, STORAGE, Metadata, UnpackedFiles, bag_files
from fg_depth_ros.data.bags.topics import STAMPS
from fg_depth_ros.data.io.video_packets import FFMPEG, VIDEO
from fg_depth_ros.files import FileError, open_file

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
DISPARITY = "stereo_msgs/msg/DisparityImage"
IMAGES = (IMAGE, COMPRESSED, FFMPEG, VIDEO)
"""Types of images of a camera, the most direct one first."""

_VIDEO_FIELDS = {
    FFMPEG: "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\nuint8 flags\n"
            "bool is_bigendian\nuint8[] data",
    VIDEO: "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format",
}  # fmt: skip
_LOG = logging.getLogger(__name__)
_STAMPED = (IMAGE, COMPRESSED, INFO)  # begin with a header
_UNITS = {"us": 10**3, "ms": 10**6, "s": 10**9}
_WALL_CLOCK = 10**18  # ns; an earlier stamp may be of any clock
_NEAR = 10**9 * 86400 * 30  # ns between a stamp and the time that it was recorded at
_RECOVER = "; fg-depth recover makes a bag of what is whole"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no CDR begins so


@lru_cache(maxsize=1)
def message_types() -> Any:
    """Return rosbags' store of message types. The types of images are the same in every release of ROS 2."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    types = get_typestore(Stores.ROS2_HUMBLE)
    for name, fields in _VIDEO_FIELDS.items():
        types.register(get_types_from_msg(fields, name))
    return types


class RawMessage(NamedTuple):
    """A message: its topic, the time it was recorded (ns), and its bytes (CDR), as they were stored by ROS 2."""

    topic: str
    recorded: int
    data: bytes


class OfferedQos(NamedTuple):
    """QoS that a topic was published with when it was recorded; of several publishers, what suits every subscriber."""

    reliable: bool
    transient_local: bool
    depth: int


class Unread(NamedTuple):
    """Loss of a bag: messages that its index names and that cannot be read, and bytes without a whole message."""

    messages: int = 0
    bytes: int = 0


class _Reader(Protocol):
    """An open bag, or one file of it."""

    topics: dict[str, str]
    """Type by topic."""
    counts: dict[str, int]
    """Messages by topic."""
    problem: str
    """Why not all of the file is read, with what is lost; "" where it is whole, or seems to be so far."""
    lost: int
    """Bytes without a whole message, as far as that is known."""
    qos: dict[str, list[Any]]
    """Offered profiles of rosbags by topic."""

    def messages(self, topics: Container[str], start: int = ..., stop: int = ...) -> Iterator[tuple[str, int, bytes]]:
        """Yield (topic, time recorded in ns, bytes) in the order of the times, from ``start`` to before ``stop``."""


class BagStorage:
    """The messages of one bag. Files stay open; a copy in another process opens them again."""

    def __init__(self, path: str | Path, stamps: str = "header") -> None:
        """Open a folder, or one file.

        ``stamps``: whether what reads the messages takes their times from their ``header``, or when they were
        ``recorded``. Raises FileError: no bag, several, or nothing readable in it; another word.
        """
        if stamps not in STAMPS:
            raise FileError(f"stamps is '{stamps}': choose one of {', '.join(STAMPS)}")
        self.path, self.stamps = Path(path), stamps
        self._lock = threading.Lock()
        self._unpacked = UnpackedFiles()
        self._missing: dict[tuple[int, str], int] = {}  # messages by number of the file and topic
        self._open()

    @property
    def topics(self) -> dict[str, str]:
        """Type by topic, such as ``sensor_msgs/msg/Image``."""
        return {topic: kind for reader in self._readers for topic, kind in reader.topics.items()}

    @property
    def counts(self) -> dict[str, int]:
        """Messages by topic, by the index of each file, or those that are whole where it has none."""
        counts: Counter[str] = Counter()
        for reader in self._readers:
            counts.update(reader.counts)
        return dict(counts)

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

    @property
    def unread(self) -> Unread:
        """What could not be read so far: of the topics that were scanned to the end, and of the files."""
        lost = self._left_out + sum(reader.lost for reader in self._readers)
        return Unread(sum(self._missing.values()), lost)

    def scan(self, topics: Iterable[str]) -> Iterator[RawMessage]:
        """Yield every message of these topics once; those of a damaged chunk are left out, with a warning.

        Of a damaged file of another kind than MCAP, those after the damage are left out, too.
        """
        wanted = list(topics)
        for number in range(len(self._readers)):
            yield from self._read(number, wanted)

    def replay(self, topics: Iterable[str]) -> Iterator[RawMessage]:
        """Yield every message of these topics once, in the order of the times they were recorded; else as ``scan``."""
        wanted = list(topics)
        return heapq.merge(
            *(self._read(number, wanted) for number in range(len(self._readers))),
            key=lambda message: message.recorded,
        )

    def _read(self, number: int, topics: list[str]) -> Iterator[RawMessage]:
        reader = self._readers[number]
        chosen = [topic for topic in topics if topic in reader.topics]
        found: Counter[str] = Counter()
        reason = ""
        try:
            for topic, recorded, data in reader.messages(chosen) if chosen else ():
                found[topic] += 1
                yield RawMessage(topic, recorded * self._unit, _plain(data))
        except Exception as error:  # damaged data breaks a parser in any way
            reason = _reason(error)
        missing = {(number, topic): max(0, reader.counts[topic] - found[topic]) for topic in chosen}
        self._missing |= missing
        if lost := sum(missing.values()):
            expected = sum(reader.counts[topic] for topic in chosen)
            _LOG.warning(
                "%s: damaged (%s): only %d of %d messages of %s can be read; fetch it again%s",
                self.path, reason or reader.problem or "data overwritten", expected - lost, expected,
                ", ".join(chosen), _RECOVER if reader.lost else "",
            )  # fmt: skip

    def at(self, topic: str, recorded: int) -> list[bytes]:
        """Return the messages of a topic that were recorded at this time, ns. Raises FileError: the data is damaged."""
        found: list[bytes] = []
        with self._lock:
            if self._process != os.getpid():  # files that are open in two processes share one position
                self._open()
            stored = recorded // self._unit
            for reader in self._readers:
                try:
                    if topic in reader.topics:
                        found += [_plain(data) for _, _, data in reader.messages([topic], stored, stored + 1)]
                except Exception as error:  # damaged data breaks a parser in any way
                    raise self._damaged(topic, recorded, _reason(error)) from error
            problems = [reader.problem for reader in self._readers if topic in reader.topics and reader.problem]
        if problems and not found:
            raise self._damaged(topic, recorded, problems[0])
        return found

    def _damaged(self, topic: str, recorded: int, reason: str) -> FileError:
        return FileError(f"{self.path}, {topic} at {recorded} ns: damaged ({reason}); fetch it again")

    @cached_property
    def _unit(self) -> int:
        """Unit of the times recorded, ns: some recorders write s, ms or us where ns are due.

        Only what the stamps of the messages prove counts, when they are dates.
        """
        from fg_depth_ros.data.bags.messages import stamp_of

        for reader in self._readers:
            for topic in (topic for topic, kind in reader.topics.items() if kind in _STAMPED):
                try:
                    _, recorded, data = next(iter(reader.messages([topic])))
                    stamp = stamp_of(_plain(data)) or 0
                except Exception:  # none, or damaged, which is said when it is read
                    continue
                if stamp < _WALL_CLOCK:
                    continue
                for name, unit in _UNITS.items():
                    if abs(recorded * unit - stamp) < _NEAR:
                        text = "%s: its messages were recorded in %s, not ns (%d at the stamp %d ns): taken so"
                        _LOG.warning(text, self.path, name, recorded, stamp)
                        return unit
                return 1
        return 1

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "stamps": self.stamps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _open(self) -> None:
        self._readers, self._left_out = _open_readers(self.path, self._unpacked)
        self._process = os.getpid()


class _IndexedReader:
    """A file of ROS 2 that rosbags reads. A damaged chunk of an MCAP file is left out once it was met."""

    def __init__(self, reader: Any) -> None:
        """Take over an open ``rosbags.rosbag2.Reader`` of one file."""
        self._reader = reader
        self._chunks: list[Any] = getattr(reader.storage, "chunks", [])  # of MCAP, those that are read
        self.problem, self.lost = "", 0
        # Unpacked by BagStorage, as message by message says whether it is packed: rosbags knows no limit.
        reader.storage.metadata = reader.storage.metadata._replace(compression_mode=None)
        self.topics = {c.topic: c.msgtype for c in reader.connections}
        self.qos = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
        self.counts = {topic: sum(c.msgcount for c in reader.connections if c.topic == topic) for topic in self.topics}

    def messages(
        self, topics: Container[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """See ``_Reader``."""
        chosen = [c for c in self._reader.connections if c.topic in topics]
        at, done = start, 0  # time recorded of the last message, and how many of that time there were
        while True:
            chunks = len(self._chunks)
            try:
                found = self._reader.messages(chosen, start=at, stop=stop)
                for connection, recorded, data in islice(found, done, None):
                    at, done = recorded, done + 1 if recorded == at else 1
                    yield connection.topic, recorded, data
                return
            except Exception as error:  # damaged data breaks a parser in any way
                # Another reading may have left the chunk out meanwhile.
                if len(self._chunks) == chunks and not self._leave_out_damaged(at):
                    raise
                self.problem = self.problem or _reason(error)

    def _leave_out_damaged(self, at: int | None) -> bool:
        """Leave out the first damaged chunk from a time on, ns; return whether there is one."""
        from rosbags.rosbag2.storage_mcap import msgsrc

        for chunk in sorted(self._chunks, key=lambda chunk: chunk.message_start_time):
            if at is not None and chunk.message_end_time < at:
                continue
            try:
                for _ in msgsrc(chunk, {}, 0, 0, self._reader.storage.bio):
                    pass
            except Exception:  # damaged data breaks a parser in any way
                self._chunks.remove(chunk)
                self.lost += chunk.chunk_length
                return True
        return False


def _plain(data: bytes) -> bytes:
    """Unpack a message that was compressed by itself (``--compression-mode message``)."""
    from fg_depth_ros.data.bags.mcap import LARGEST_CHUNK, decompress

    if data[:4] != _ZSTD_MAGIC:
        return data
    message = decompress(data, "zstd", LARGEST_CHUNK)
    if len(message) > LARGEST_CHUNK:
        raise ValueError(f"a message unpacks to more than the {LARGEST_CHUNK} bytes that are read")
    return message


def _open_readers(path: Path, unpacked: UnpackedFiles) -> tuple[list[_Reader], int]:
    """Open the files of a bag; return them, and the bytes of those that cannot be read."""
    try:
        import rosbags.rosbag2  # noqa: F401

        _limit_chunks()
    except ImportError as error:
        raise FileError(
            f"{path}: reading bags needs the library rosbags ({error}); pip install 'fg_depth_ros[data]'"
        ) from error
    if not path.exists():
        raise FileError(f"{path}: no such bag; give its folder, or its .mcap, .db3 or .bag file")
    if not path.is_dir():
        if not path.name.endswith((*STORAGE, *PACKED, ROS1)):
            raise FileError(f"{path}: no bag; a bag is a folder, a .mcap, .db3 or (ROS 1) .bag file")
        return [_opened(path, unpacked)], 0
    metadata = Metadata.read(path)
    files, problems = bag_files(path, metadata)
    readers, failures, lost = [], [], 0
    for file in files:
        try:
            readers.append(_opened(file, unpacked))
        except FileError as error:
            failures.append(error)
            lost += file.stat().st_size if file.is_file() else 0
    if not readers:
        raise failures[0]
    for failure in failures:
        _LOG.warning("%s", failure)
    if metadata is not None:
        if metadata.problem:
            problems.append(f"it {metadata.problem}")
        elif not any(reader.problem for reader in readers) and not failures and not problems:
            problems += _differences(metadata, readers)
        if problems:
            _LOG.warning("%s: not read as its metadata.yaml says: %s; the files count", path, "; ".join(problems))
        for reader in readers:
            reader.qos |= {topic: qos for topic, qos in metadata.qos.items() if topic in reader.topics}
    return readers, lost


def _differences(metadata: Metadata, readers: Sequence[_Reader]) -> list[str]:
    """Say what the files of a bag hold otherwise than its metadata.yaml states it."""
    found = []
    kinds = {topic: kind for reader in readers for topic, kind in reader.topics.items()}
    counts: Counter[str] = Counter()
    for reader in readers:
        counts.update(reader.counts)
    for topic, kind in kinds.items():
        stated, count = metadata.topics.get(topic, (kind, -1))
        if count < 0:
            found.append(f"{topic} is not named")
        elif stated != kind:
            found.append(f"{topic}: {stated} stated, {kind} there")
        elif count != counts[topic]:
            found.append(f"{topic}: {count} message{'s' if count != 1 else ''} stated, {counts[topic]} there")
    return found + [f"{topic} is not there" for topic, (_, n) in metadata.topics.items() if n and topic not in kinds]


def _opened(path: Path, unpacked: UnpackedFiles) -> _Reader:
    """Open one file. Raises FileError: nothing in it can be read."""
    try:
        with open_file(path):
            pass
        reader = _open_ros1(path) if path.suffix == ROS1 else _open_file(unpacked.of(path), path)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or _reason(error)})") from error
    if reader.problem:
        _LOG.warning("%s: cut off or damaged: %s", path, reader.problem)
    return reader


def _open_ros1(path: Path) -> _Reader:
    from fg_depth_ros.data.bags.ros1 import Ros1Reader

    return Ros1Reader(path)


def _has_index(reader: Any) -> bool:
    """Return whether messages are found without reading all; in SQLite always, in MCAP by an index of each chunk."""
    chunks = [getattr(file, "chunks", None) for file in getattr(reader.storage, "storages", [reader.storage])]
    return all(found is None or (found and all(chunk.message_index_offsets for chunk in found)) for found in chunks)


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


def _describe_as_stated(reader: Any) -> None:
    """Let the files of a bag describe their topics as metadata.yaml does: rosbags reads nothing where the two differ.

    The text of a QoS does between versions of ROS, and where a recorder's options override it.
    """
    stated = {(line.topic, line.msgtype): line for line in reader.connections}
    for file in getattr(reader.storage, "storages", ()):
        for place, line in enumerate(file.connections):
            if like := stated.get((line.topic, line.msgtype)):
                file.connections[place] = line._replace(ext=like.ext, digest=like.digest)


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


def _open_file(path: Path, shown: Path) -> _Reader:
    """Open a file of ROS 2; ``shown``: how it is called in messages."""
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
                f"{shown}: cannot be read ({first}); a cut-off SQLite bag can be saved in part with "
                f"'sqlite3 {path.name} .recover'; record MCAP, which survives a cut"
            ) from error
    try:
        from fg_depth_ros.data.bags.mcap import PartialMcap

        found = PartialMcap(path)
    except ImportError as error:
        raise FileError(f"{shown}: cannot be read ({_reason(error)})") from error
    size, count = path.stat().st_size, sum(found.counts.values())
    if found.foreign and not count:
        raise FileError(
            f"{shown}: its messages are encoded as {', '.join(sorted(found.foreign))}, and those of ROS 2 as cdr; "
            "convert it to a ROS 2 bag with the program that recorded it"
        )
    if not count:
        raise FileError(
            f"{shown}: cannot be read: no whole message in its {size} bytes ({found.problem or first}); where that "
            "is damage, fetch it again"
        )
    if found.problem:
        used = f"the {count} whole messages are used, {found.lost} of {size} bytes are not"
        found.problem = f"it {found.problem}; {used}{_RECOVER}"
    return found


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
