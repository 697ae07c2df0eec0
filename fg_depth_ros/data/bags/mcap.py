"""The records of an MCAP file, read as far as they are whole: the file may be cut off or damaged anywhere.

Record layout: https://mcap.dev/spec. The library mcap packs and parses single records; its own reader needs a file that
was closed.
"""

from __future__ import annotations

import bz2
import io
import struct
import zlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fg_depth_ros.data.bags.ros1 import Ros1Types

try:
    from mcap.data_stream import ReadDataStream, RecordBuilder
    from mcap.opcode import Opcode
    from mcap.records import Channel as ChannelRecord
    from mcap.records import ChunkIndex, MessageIndex, Schema
except ImportError as error:
    raise ImportError(f"MCAP files need the library mcap ({error}); pip install 'fg_depth_ros[data]'") from error

MAGIC = b"\x89MCAP0\r\n"
QOS_KEY = "offered_qos_profiles"
ROS1_ENCODING = "ros1"
# A chunk's record up to its content: kind, length, first and last time, size and CRC of the content.
CHUNK_HEAD = struct.Struct("<BQQQQI")
# A message's record up to its data: kind, length, channel, sequence number, times recorded and published.
MESSAGE_HEAD = struct.Struct("<BQHIQQ")
RECORD_HEAD = struct.Struct("<BQ")
LARGEST_CHUNK = 1 << 28
"""Bytes of the largest chunk that is unpacked (256 MiB; rosbag2 fills one to 0.75 MiB)."""
_PIECE = 1 << 16
_SEGMENTS_IN_MEMORY = 4
_SKIPPED = {Opcode.MESSAGE_INDEX, Opcode.CHUNK_INDEX, Opcode.ATTACHMENT, Opcode.ATTACHMENT_INDEX, Opcode.METADATA,
            Opcode.METADATA_INDEX, Opcode.STATISTICS, Opcode.SUMMARY_OFFSET}  # fmt: skip


class Channel(NamedTuple):
    """A topic of an MCAP file: its type with the text of its definition, and metadata such as the offered QoS."""

    topic: str
    msgtype: str
    schema_encoding: str = ""
    schema: bytes = b""
    encoding: str = "cdr"
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def qos(self) -> str:
        """Offered QoS profiles as YAML; "" where the file has none."""
        return dict(self.metadata).get(QOS_KEY, "")


class StoredMessage(NamedTuple):
    """A message of a channel: when it was recorded and published (ns), and its serialized bytes (CDR)."""

    channel: Channel
    recorded: int
    published: int
    data: bytes | memoryview


Places = dict[int, list[tuple[int, int]]]
"""(time recorded in ns, offset in the chunk) of a chunk's messages by channel number."""


@dataclass
class McapIndex:
    """Index of an MCAP file up to byte ``end``, after its last whole chunk and that chunk's message index."""

    channels: dict[Channel, int] = field(default_factory=dict)
    schemas: dict[tuple[str, str, bytes], int] = field(default_factory=dict)
    chunks: list[ChunkIndex] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    first: int = 0
    last: int = 0
    end: int = 0

    @property
    def messages(self) -> int:
        """Number of messages."""
        return sum(self.counts.values())

    def count_by_channel(self) -> dict[Channel, int]:
        """Return the number of messages of each channel."""
        return {channel: self.counts[number] for channel, number in self.channels.items()}

    def count_by_topic(self) -> dict[str, int]:
        """Return the number of messages of each topic."""
        counts: Counter[str] = Counter()
        for channel, number in self.channels.items():
            counts[channel.topic] += self.counts[number]
        return dict(counts)

    def add(self, chunk: ChunkIndex, places: Places, end: int) -> None:
        """Add a whole chunk with its message index, which ends at byte ``end``."""
        if not self.messages:
            self.first, self.last = chunk.message_start_time, chunk.message_end_time
        self.first = min(self.first, chunk.message_start_time)
        self.last = max(self.last, chunk.message_end_time)
        for number, found in places.items():
            self.counts[number] += len(found)
        self.chunks.append(chunk)
        self.end = end


def message_indexes(places: Places, at: int) -> tuple[bytes, dict[int, int]]:
    """Pack the message index records that follow a chunk.

    ``at``: byte of the file where the first record begins. Returns the records, and where each channel's record begins.
    """
    builder, offsets = RecordBuilder(), {}
    for number, found in places.items():
        offsets[number] = at + builder.count
        MessageIndex(number, found).write(builder)
    return builder.end(), offsets


class _Damage(Exception):
    """Data that cannot be read; ``cut``: the file ends there."""

    def __init__(self, text: str, cut: bool = False) -> None:
        super().__init__(text)
        self.cut = cut


class Segment(NamedTuple):
    """Messages of one chunk, or one record outside of chunks, from byte ``start`` to ``end``.

    ``chunk`` and ``places`` are given when the chunk and its message index are whole. ``problem``: what ended it.
    """

    messages: list[StoredMessage]
    start: int
    end: int
    chunk: ChunkIndex | None = None
    places: Places | None = None
    problem: _Damage | None = None


class McapScanner:
    """Iterates over the whole messages of an MCAP file in the order of the file. Iterate once.

    After that: ``ended``: the end of the data was reached and nothing is lost; ``problem``: why not, in words; ``cut``:
    the file merely ends there; ``lost``: bytes that hold no whole message; ``compressed``: some chunks are, with zstd;
    ``index``, ``repairs`` (with ``resumable``): the index up to the last whole chunk, and (byte, content) of message
    indexes that do not agree with the chunk before them; ``undeclared``: it ended at a message of a channel that
    nothing before it declares. Damage is passed over up to the next chunk, as far as the file's index says where that
    is and what its topics are; or it ends a ``resumable`` iteration.
    """

    def __init__(self, path: Path, *, resumable: bool = False) -> None:
        """Open nothing yet.

        With ``resumable``, writing will go on after the last whole chunk: see ``recording.McapWriter``.
        """
        self.path = path
        self.repairs: list[tuple[int, bytes]] = []
        self._resumable = resumable
        self.index = McapIndex()
        self.ended = self.cut = self.compressed = self.undeclared = False
        self.problem, self.lost = "", 0
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._good = 0  # byte after the last useful record
        self._at = 0  # byte where the current one begins

    def __iter__(self) -> Iterator[Segment]:
        """Raise OSError where the file cannot be read, and nothing for its content."""
        with self.path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            try:
                self._read_head(file, size)
                while True:
                    try:
                        yield from self._segments(file, size)
                        break
                    except _Damage as damage:
                        chunks = self._summary.chunk_indexes if self._summary is not None else []
                        following = min(
                            (c.chunk_start_offset for c in chunks if c.chunk_start_offset > self._at), default=0
                        )
                        if self._resumable or not following:
                            raise
                        self._pass_over(damage, following)
                        file.seek(following)
            except _Damage as damage:
                self.problem, self.cut = self.problem or str(damage), damage.cut
                self.lost += size - self._good

    def read_segment(self, start: int) -> list[StoredMessage]:
        """Read the messages of a segment again, after the iteration. Raises OSError."""
        with self.path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(start)
            try:
                kind, length = self._record_head(file, size)
                if kind == Opcode.CHUNK:
                    return self._chunk(file, size, start).messages
                return self._record(file, start, kind, length).messages
            except _Damage:  # changed since
                return []

    def _read_head(self, file: BinaryIO, size: int) -> None:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise _Damage("does not begin as an MCAP file", cut=MAGIC.startswith(magic))
        kind, length = self._record_head(file, size)
        if file.tell() + length > size:
            raise _Damage(f"is cut off in the record at byte {len(MAGIC)}", cut=True)
        if kind != Opcode.HEADER:
            raise _Damage("has no header")
        file.seek(length, io.SEEK_CUR)
        self._good = self.index.end = file.tell()

    def _segments(self, file: BinaryIO, size: int) -> Iterator[Segment]:
        while True:
            at = self._at = file.tell()
            kind, length = self._record_head(file, size)
            if kind in (Opcode.DATA_END, Opcode.FOOTER):
                self.ended = not self.problem
                return
            if kind == Opcode.CHUNK:
                try:
                    segment = self._chunk(file, size, at)
                except _Damage as damage:
                    end = at + RECORD_HEAD.size + length
                    if self._resumable or not self._continues(file, size, end):
                        raise
                    self._pass_over(damage, end)
                    continue
                self._add_to_index(segment)
                yield segment
                if segment.problem is not None:
                    if self._resumable or not self._continues(file, size, segment.end):
                        raise segment.problem
                    self._pass_over(segment.problem, segment.end)
                continue
            if at + RECORD_HEAD.size + length > size:
                raise _Damage(f"is cut off in the record at byte {at}", cut=True)
            if kind in _SKIPPED:
                file.seek(length, io.SEEK_CUR)
            else:
                segment = self._record(file, at, kind, length)
                if segment.problem is not None:
                    raise segment.problem
                if segment.messages:
                    yield segment
            self._good = file.tell()

    def _continues(self, file: BinaryIO, size: int, at: int) -> bool:
        """Return whether a whole record begins at byte ``at``, where the file then stands."""
        file.seek(min(at, size))
        try:
            _, length = self._record_head(file, size)
        except _Damage:
            return False
        file.seek(at)
        return at + RECORD_HEAD.size + length <= size

    def _pass_over(self, damage: _Damage, end: int) -> None:
        """Note damage after which the file goes on at byte ``end``. What it declared is taken from the index."""
        self.problem = self.problem or str(damage)
        self.lost += max(0, end - self._good)
        self._good = end
        summary = self._summary
        if summary is not None:
            self._schemas = summary.schemas | self._schemas
            for number in summary.channels.keys() - self._channels.keys():
                self._add_channel(summary.channels[number])

    @cached_property
    def _summary(self) -> Any:
        """The file's index as the library mcap reads it; None: it has no usable one."""
        from mcap.reader import SeekingReader

        try:
            with self.path.open("rb") as file:
                return SeekingReader(file).get_summary()
        except Exception:  # damaged data breaks a parser in any way
            return None

    def _add_to_index(self, segment: Segment) -> None:
        if segment.chunk is None or segment.places is None:
            return
        self.index.add(segment.chunk, segment.places, segment.end)
        for channel in {message.channel for message in segment.messages} - self.index.channels.keys():
            self.index.channels[channel] = next(n for n, known in self._channels.items() if known == channel)
            key = (channel.msgtype, channel.schema_encoding, channel.schema)
            self.index.schemas.setdefault(
                key, next((n for n, s in self._schemas.items() if (s.name, s.encoding, s.data) == key), 0)
            )

    def _record(self, file: BinaryIO, at: int, kind: int, length: int) -> Segment:
        """Read a record outside of chunks, whose head has been read."""
        messages, _, problem = self._parse(memoryview(RECORD_HEAD.pack(kind, length) + file.read(length)), at)
        return Segment(messages, at, file.tell(), problem=problem)

    def _chunk(self, file: BinaryIO, size: int, at: int) -> Segment:
        """Read a chunk and the message index after it."""
        file.seek(at)
        head = file.read(CHUNK_HEAD.size)
        if len(head) < CHUNK_HEAD.size:
            raise _Damage(f"is cut off in the chunk at byte {at}", cut=True)
        _, length, first, last, expected, crc = CHUNK_HEAD.unpack(head)
        name = file.read(int.from_bytes(file.read(4), "little") & 0xFF).decode("ascii", "replace")
        packed = int.from_bytes(file.read(8), "little")
        start, end = file.tell(), at + RECORD_HEAD.size + length
        if start > size or packed > max(0, end - start):
            raise _Damage(f"is cut off or damaged in the chunk at byte {at}", cut=start >= size)
        self.compressed |= name == "zstd"
        if max(packed, expected) > LARGEST_CHUNK:
            raise _Damage(
                f"has a chunk of {max(packed, expected)} bytes at byte {at}, and at most {LARGEST_CHUNK} "
                "are read: record with smaller chunks"
            )
        content = file.read(min(packed, size - start))
        whole = len(content) == packed
        try:
            data = decompress(content, name, expected)
        except ValueError as error:
            raise _Damage(str(error)) from error
        if whole and (len(data) != expected or (crc and zlib.crc32(data) != crc)):
            raise _Damage(f"is damaged: the chunk at byte {at} fails its checksum")
        messages, places, problem = self._parse(memoryview(data), at)
        used = sum(MESSAGE_HEAD.size + len(message.data) for message in messages)
        if not whole:
            self._good = min(size, start + used) if not name else size - min(len(data) - used, size - start)
            return Segment(messages, at, size, problem=_Damage(f"is cut off in the chunk at byte {at}", cut=True))
        if problem is not None:
            if problem.cut:  # the record, not the file
                problem = _Damage(f"is damaged in the chunk at byte {at}")
            self._good = self._good if name else start + used
            return Segment(messages, at, end, problem=problem)
        file.seek(end)
        index, offsets = message_indexes(places, end)
        self._good = end
        if not self._resumable or end + len(index) > size:
            return Segment(messages, at, end)
        if file.read(len(index)) != index:
            self.repairs.append((end, index))
        self._good = end + len(index)
        chunk = ChunkIndex(
            chunk_length=end - at, chunk_start_offset=at, compression=name, compressed_size=packed,
            message_end_time=last, message_index_length=len(index), message_index_offsets=offsets,
            message_start_time=first, uncompressed_size=expected,
        )  # fmt: skip
        return Segment(messages, at, self._good, chunk, places)

    def _parse(self, data: memoryview, at: int) -> tuple[list[StoredMessage], Places, _Damage | None]:
        """Parse a run of records: its whole messages, their places, and what ended the run before its end."""
        messages: list[StoredMessage] = []
        places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        offset = 0
        try:
            while offset < len(data):
                kind, length = RECORD_HEAD.unpack_from(data, offset)
                content = data[offset + RECORD_HEAD.size : offset + RECORD_HEAD.size + length]
                if len(content) < length:
                    raise _Damage(f"is cut off after byte {at}", cut=True)
                if kind == Opcode.MESSAGE:
                    _, _, number, _, recorded, published = MESSAGE_HEAD.unpack_from(data, offset)
                    if number not in self._channels:
                        self.undeclared = True
                        raise _Damage(f"is damaged after byte {at}: nothing declares channel {number}")
                    body = content[MESSAGE_HEAD.size - RECORD_HEAD.size :]
                    messages.append(StoredMessage(self._channels[number], recorded, published, body))
                    places[number].append((recorded, offset))
                elif kind == Opcode.SCHEMA:
                    schema = Schema.read(_stream(content))
                    self._schemas[schema.id] = schema
                elif kind == Opcode.CHANNEL:
                    self._add_channel(ChannelRecord.read(_stream(content)))
                else:
                    raise _Damage(f"is damaged after byte {at}: no record begins with {kind}")
                offset += RECORD_HEAD.size + length
        except _Damage as damage:
            return messages, places, damage
        except Exception as error:  # damaged data breaks a parser in any way
            return messages, places, _Damage(f"is damaged after byte {at} ({type(error).__name__})")
        return messages, places, None

    def _add_channel(self, record: ChannelRecord) -> None:
        schema = self._schemas.get(record.schema_id) or Schema(id=0, data=b"", encoding="", name="")
        self._channels[record.id] = Channel(
            record.topic, schema.name, schema.encoding, schema.data, record.message_encoding,
            tuple(record.metadata.items()),
        )  # fmt: skip

    def _record_head(self, file: BinaryIO, size: int) -> tuple[int, int]:
        at = file.tell()
        head = file.read(RECORD_HEAD.size)
        if len(head) < RECORD_HEAD.size:
            raise _Damage(f"ends at byte {size} without an index", cut=True)
        kind, length = RECORD_HEAD.unpack(head)
        if not 0 < kind <= max(Opcode):
            raise _Damage(f"is damaged at byte {at}: no record begins with {kind}")
        return kind, length


class PartialMcap:
    """The whole messages of an MCAP file without a usable index, found by time.

    The file is scanned when this is made, and opened for each reading, so any thread may use it. ``topics``,
    ``counts``, ``qos``: type, number of messages and offered profiles of rosbags by topic; ``foreign``: encodings of
    messages that are neither ROS 2's CDR nor ROS 1's, and left out; ``problem``, ``lost``: see ``McapScanner``.
    """

    def __init__(self, path: Path) -> None:
        """Scan the file. Raises OSError, ImportError."""
        from rosbags.rosbag2.metadata import parse_qos

        self._scanner = McapScanner(path)
        self._ros1 = Ros1Types()
        self._messages: dict[str, list[tuple[int, int, int]]] = defaultdict(list)  # topic: (recorded, segment, nth)
        self.topics: dict[str, str] = {}
        self.qos: dict[str, list[Any]] = {}
        self.foreign: set[str] = set()
        for segment in self._scanner:
            for number, message in enumerate(segment.messages):
                channel = message.channel
                kind = self._kind(channel)
                if not kind:
                    self.foreign.add(channel.encoding)
                    continue
                self._messages[channel.topic].append((message.recorded, segment.start, number))
                if channel.topic not in self.topics:
                    self.topics[channel.topic], self.qos[channel.topic] = kind, []
                    with suppress(Exception):  # none that rosbags knows: the player takes its default
                        self.qos[channel.topic] = parse_qos(channel.qos)
        self.counts = {topic: len(found) for topic, found in self._messages.items()}
        self.problem, self.lost = self._scanner.problem, self._scanner.lost

    def _kind(self, channel: Channel) -> str:
        """Return the type of a channel's messages; "" where they cannot be read."""
        if channel.encoding == "cdr":
            return channel.msgtype
        if channel.encoding != ROS1_ENCODING:
            return ""
        package, _, name = channel.msgtype.partition("/")
        with suppress(ValueError):  # a type that only ROS 1 has so
            return self._ros1.add(f"{package}/msg/{name}", channel.schema.decode("utf-8", "replace"))
        return ""

    def messages(
        self, topics: Container[str], start: int = -(1 << 63), stop: int = 1 << 64
    ) -> Iterator[tuple[str, int, bytes]]:
        """Yield (topic, recorded in ns, bytes) in the order of times from ``start`` to before ``stop``.

        Raises OSError.
        """
        found = sorted(
            (place, topic)
            for topic, places in self._messages.items()
            if topic in topics
            for place in places
            if start <= place[0] < stop
        )
        segments: OrderedDict[int, list[StoredMessage]] = OrderedDict()
        for (recorded, segment, number), topic in found:
            if segment not in segments:
                segments[segment] = self._scanner.read_segment(segment)
                while len(segments) > _SEGMENTS_IN_MEMORY:
                    segments.popitem(last=False)
            if number < len(segments[segment]):  # else the file has changed since
                message = segments[segment][number]
                ros1 = message.channel.encoding == ROS1_ENCODING
                yield (
                    topic,
                    recorded,
                    self._ros1.to_cdr(message.data, self.topics[topic]) if ros1 else bytes(message.data),
                )


def _stream(content: memoryview) -> ReadDataStream:
    return ReadDataStream(io.BytesIO(content))


def decompress(content: bytes, compression: str, size: int) -> bytes:
    """Decompress a chunk's content as far as it is whole, to a little more than ``size`` bytes at most.

    Raises ValueError: unknown compression.
    """
    if not compression:
        return content
    stream: Any
    if compression == "zstd":
        import zstandard

        stream = zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True)
    elif compression == "lz4":
        from lz4.frame import LZ4FrameFile  # type: ignore[import-untyped]  # comes with rosbags

        stream = LZ4FrameFile(io.BytesIO(content))
    elif compression == "bz2":  # of ROS 1
        stream = bz2.BZ2File(io.BytesIO(content))
    else:
        raise ValueError(f"has chunks of '{compression}', which this cannot unpack (known: none, zstd, lz4)")
    pieces, found = [], 0
    try:
        while found <= size and (piece := stream.read(_PIECE)):
            pieces.append(piece)
            found += len(piece)
    except Exception:  # each library's own error: what came before it counts
        pass
    return b"".join(pieces)


def add_checksums(path: Path) -> None:
    """Write the CRCs of the uncompressed chunks of a complete MCAP file. Raises OSError."""
    with path.open("r+b") as file:
        at, kind = len(MAGIC), int(Opcode.HEADER)
        while kind not in (Opcode.DATA_END, Opcode.FOOTER):
            file.seek(at)
            head = file.read(CHUNK_HEAD.size + 4)
            kind, length = RECORD_HEAD.unpack_from(head)
            if kind == Opcode.CHUNK and head.endswith(bytes(4)):
                content = file.read(int.from_bytes(file.read(8), "little"))
                file.seek(at)
                file.write(CHUNK_HEAD.pack(*CHUNK_HEAD.unpack_from(head)[:-1], zlib.crc32(content)))
            at += RECORD_HEAD.size + length
