"""ROS 1 recordings as if ROS 2 had made them: rosbags reads the file and turns every message into CDR."""

from __future__ import annotations

import copy
import io
import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Container, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from fg_depth_ros.files import FileError

_LOG = logging.getLogger(__name__)
_HEADER = "std_msgs/msg/Header"  # ROS 1's has seq in addition, which rosbags leaves out
_RENAMED = {"tf/msg/tfMessage": "tf2_msgs/msg/TFMessage"}
_NO_MEMBER = "structure_needs_at_least_one_member"  # of an empty message of ROS 2
_SAME = {"char": "uint8", "byte": "int8"}  # names of one type


class Ros1Types:
    """Turns serialized messages of ROS 1 into CDR, by the definitions that were recorded with them."""

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._names: dict[tuple[str, str], str] = {}

    def add(self, kind: str, definition: str) -> str:
        """Learn a type (``sensor_msgs/msg/Image``) by its definition in ROS 1; return what ROS 2 calls it.

        Raises ValueError: the definition cannot be read, or ROS 2 has another type of this name.
        """
        if (kind, definition) not in self._names:
            found, name = _definitions(definition, kind), _RENAMED.get(kind, kind)
            new = {}
            for each, fields in found.items():
                each = _RENAMED.get(each, each)
                if each == _HEADER:
                    continue
                if (known := self._store.fielddefs.get(each)) is None:
                    new[each] = fields
                elif _layout(known) != _layout(fields):
                    raise ValueError(f"{each} is defined otherwise than in ROS 2")
            if new:
                self._store.register(new)
            self._names[kind, definition] = name
        return self._names[kind, definition]

    def to_cdr(self, data: bytes | memoryview, name: str) -> bytes:
        """Convert a message of a type that was added. Raises rosbags' errors: damaged data."""
        return bytes(self._store.ros1_to_cdr(data, name))


@lru_cache(maxsize=256)
def _definitions(text: str, kind: str) -> Any:
    from rosbags.typesys import get_types_from_msg

    try:
        return get_types_from_msg(text, kind)
    except Exception as error:  # what a stranger wrote breaks a parser in any way
        raise ValueError(f"its definition cannot be read ({error})") from error


def _layout(definition: Any) -> list[Any]:
    """Return the types of the fields of a message, in their order, without the names."""

    def plain(desc: Any) -> Any:
        kind, what = desc
        if isinstance(what, str):
            return int(kind), what
        if isinstance(what[0], str):  # a base type and its limit
            return int(kind), _SAME.get(what[0], what[0])
        return int(kind), plain(what[0]), what[1]

    return [plain(desc) for name, desc in definition[1] if name != _NO_MEMBER]


class Ros1Reader:
    """The messages of a ROS 1 bag (format 2.0), as a ``storage.BagStorage`` reads them.

    Where the file has no index, as a recorder that was killed leaves it (``.bag.active``), its whole chunks are used.
    ``problem``: why not all of the file is; "" where it is whole. ``lost``: bytes that are not used.
    """

    def __init__(self, path: Path) -> None:
        """Open a file. Raises FileError: it is none, or holds no whole message. OSError: it cannot be read."""
        from rosbags.rosbag1 import Reader

        _limit_chunks()
        self.problem, self.lost = "", 0
        self._chunk = -1, b""  # place and content of the one read last
        self._reader: Any = Reader(path)
        try:
            self._reader.open()
        except Exception as error:  # damaged data breaks a parser in any way
            self._reader = Reader(path)
            self._scan(path, " ".join(str(error).split()) or type(error).__name__)
        types, self._names, self.qos = Ros1Types(), {}, {}
        self.topics: dict[str, str] = {}
        self.counts: dict[str, int] = defaultdict(int)
        for line in self._reader.connections:
            topic = "/" + line.topic.lstrip("/")
            try:
                name = types.add(line.msgtype, line.msgdef.data)
            except ValueError as error:
                _LOG.warning("%s: %s (%s) is left out: %s", path, topic, line.msgtype, error)
                continue
            if self.topics.setdefault(topic, name) != name:
                _LOG.warning("%s: %s is a %s and a %s: the first is read", path, topic, self.topics[topic], name)
                continue
            self._names[line.id] = topic, name
            self.counts[topic] += line.msgcount
            if line.ext.latching:
                self.qos[topic] = [_latched()]
        self._types = types

    def messages(
        self, topics: Container[str], start: int = -(1 << 63), stop: int = 1 << 64
    ) -> Iterator[tuple[str, int, bytes]]:
        """See ``storage.BagStorage``."""
        chosen = [line for line in self._reader.connections if self._names.get(line.id, ("", ""))[0] in topics]
        # A view with fewer entries: rosbags goes through all of them to find a time.
        view = copy.copy(self._reader)
        place, content = self._chunk
        view.current_chunk = place, io.BytesIO(content)
        view.indexes = {line.id: _between(self._reader.indexes[line.id], start, stop) for line in chosen}
        for line, recorded, data in view.messages(chosen) if chosen else ():
            topic, name = self._names[line.id]
            place, chunk = view.current_chunk
            if place != self._chunk[0]:  # kept for the other image of a pair
                self._chunk = place, chunk.getvalue()
            yield topic, recorded, self._types.to_cdr(data, name)

    def _scan(self, path: Path, reason: str) -> None:
        """Index the whole chunks of a file that has no index of its own."""
        from rosbags.rosbag1.reader import Header, IndexData, RecordType, read_uint32

        file, size = path.open("rb"), path.stat().st_size
        if not file.readline(20).startswith(b"#ROSBAG V2.0"):
            raise FileError(f"{path}: cannot be read ({reason}); is it a ROS 1 bag? Those of format 2.0 are read")
        reader, good = self._reader, file.tell()
        reader.bio = file
        indexes: dict[int, list[Any]] = defaultdict(list)
        lines: dict[int, Any] = {}
        try:
            while good < size:
                file.seek(good)
                kind = Header.read(file).get_uint8("op")
                end = file.tell() + read_uint32(file) + 4
                if end > size:
                    break
                if kind == RecordType.CHUNK:
                    file.seek(good)
                    chunk = reader.read_chunk()
                    file.seek(chunk.datapos)
                    content = io.BytesIO(chunk.decompressor(file.read(chunk.datasize)))
                    length = len(content.getbuffer())
                    reader.chunks[good], reader.bio = chunk, content
                    found: list[tuple[int, Any]] = []
                    while (at := content.tell()) < length:
                        header = Header.read(content)
                        if header.get_uint8("op") == RecordType.CONNECTION:
                            content.seek(at)
                            line = reader.read_connection()
                            lines.setdefault(line.id, line)
                        else:
                            content.seek(read_uint32(content), io.SEEK_CUR)
                            number, time = header.get_uint32("conn"), header.get_time("time")
                            if number in lines and content.tell() <= length:
                                found.append((number, IndexData(time, good, at)))
                    for number, entry in found:
                        indexes[number].append(entry)
                    reader.bio = file
                good = end
        except Exception as error:  # damaged data breaks a parser in any way: what came before it counts
            reason = " ".join(str(error).split()) or type(error).__name__
        reader.bio = file
        reader.indexes = {number: sorted(indexes[number], key=lambda entry: entry.time) for number in lines}
        reader.connections = [line._replace(msgcount=len(indexes[line.id])) for line in lines.values()]
        count = sum(map(len, indexes.values()))
        if not count:
            raise FileError(f"{path}: cannot be read: no whole message in its {size} bytes ({reason}); fetch it again")
        self.lost = size - good
        self.problem = f"{reason}; the {count} whole messages are used, {self.lost} of {size} bytes are not"


def _between(entries: list[Any], start: int, stop: int) -> list[Any]:
    first, last = (bisect_left(entries, time, key=lambda entry: entry.time) for time in (start, stop))
    return entries[first:last]


def _latched() -> Any:
    """Return the profile of ROS 2 that serves late subscribers as a latched topic of ROS 1 does."""
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    never = QosTime(0, 0)
    return Qos(
        QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, never, never,
        QosLiveliness.AUTOMATIC, never, False,
    )  # fmt: skip


@lru_cache(maxsize=1)
def _limit_chunks() -> None:
    """Let rosbags unpack no chunk to more than LARGEST_CHUNK."""
    from rosbags.rosbag1.reader import decompressors

    from fg_depth_ros.data.bags.mcap import LARGEST_CHUNK, decompress

    def bounded(name: str, content: bytes) -> bytes:
        found = decompress(content, name, LARGEST_CHUNK)
        if len(found) > LARGEST_CHUNK:
            raise ValueError(f"a chunk unpacks to more than the {LARGEST_CHUNK} bytes that are read")
        return found

    decompressors.update({name: partial(bounded, name) for name in ("bz2", "lz4")})
