"""One MCAP file that is whole up to its last chunk at every moment, and that forgets what could not be written.

The records are those of https://mcap.dev/spec, packed by the library mcap. Its writer is not used: after a write that
failed it no longer knows what is in the file, and it copies every message several times.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fg_depth_ros import __version__

try:
    from mcap.data_stream import RecordBuilder
    from mcap.opcode import Opcode
    from mcap.records import (
        Channel,
        ChunkIndex,
        DataEnd,
        Footer,
        Header,
        MessageIndex,
        Schema,
        Statistics,
        SummaryOffset,
    )
except ImportError as error:
    raise ImportError(f"recording needs the library mcap ({error}); pip install 'fg_depth_ros[data]'") from error

MAGIC = b"\x89MCAP0\r\n"
QOS_KEY = "offered_qos_profiles"
# A chunk's record up to its content: kind, length, first and last time, size and CRC of the content.
CHUNK_HEAD = struct.Struct("<BQQQQI")
# A message's record up to its data: kind, length, channel, sequence number, times recorded and published.
MESSAGE_HEAD = struct.Struct("<BQHIQQ")
RECORD_HEAD = struct.Struct("<BQ")
_ZSTD_LEVEL = 1  # level 3 takes twice the time for a few per cent of an image
_PIECES_AT_ONCE = 512  # of IOV_MAX, 1024 on Linux


class Line(NamedTuple):
    """What an MCAP file knows of a topic: its type with the definition's text, and the QoS it was offered with."""

    topic: str
    msgtype: str
    schema_encoding: str = ""
    schema: bytes = b""
    encoding: str = "cdr"
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def qos(self) -> str:
        """The offered profiles, YAML; "" where the file does not say."""
        return dict(self.metadata).get(QOS_KEY, "")


class Stored(NamedTuple):
    """A message with its line; times in ns, data as serialized (CDR)."""

    line: Line
    logged: int
    published: int
    data: bytes | memoryview


@dataclass
class Index:
    """What is in an MCAP file up to ``end``, the byte behind its last whole chunk and that chunk's message index."""

    lines: dict[Line, int] = field(default_factory=dict)
    schemas: dict[tuple[str, str, bytes], int] = field(default_factory=dict)
    chunks: list[ChunkIndex] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    first: int = 0
    last: int = 0
    end: int = 0

    @property
    def messages(self) -> int:
        """Messages of all lines."""
        return sum(self.counts.values())

    def count_by_line(self) -> dict[Line, int]:
        """Messages of each line."""
        return {line: self.counts[number] for line, number in self.lines.items()}

    def count_by_topic(self) -> dict[str, int]:
        """Messages of each topic."""
        counts: Counter[str] = Counter()
        for line, number in self.lines.items():
            counts[line.topic] += self.counts[number]
        return dict(counts)

    def add(self, chunk: ChunkIndex, indexes: dict[int, list[tuple[int, int]]], end: int) -> None:
        """Take in a chunk that is whole in the file. ``indexes``: (time, offset) of its messages by channel."""
        if not self.messages:
            self.first, self.last = chunk.message_start_time, chunk.message_end_time
        self.first = min(self.first, chunk.message_start_time)
        self.last = max(self.last, chunk.message_end_time)
        for number, places in indexes.items():
            self.counts[number] += len(places)
        self.chunks.append(chunk)
        self.end = end


class DurableFile:
    """A file without a buffer of its own: what ``write`` has taken the kernel holds. Hashes what it writes."""

    def __init__(self, path: Path, keep: int | None = None) -> None:
        """``keep``: open the file that is there and go on behind its first ``keep`` bytes; None: a new one.

        Raises OSError.
        """
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        flags = os.O_RDWR | os.O_CLOEXEC | (0 if keep is not None else os.O_CREAT | os.O_EXCL)
        self._descriptor = os.open(path, flags, 0o644)
        try:
            while keep is not None and self.size < keep:
                content = os.pread(self._descriptor, min(1 << 20, keep - self.size), self.size)
                if not content:
                    raise OSError(f"{path}: ends at byte {self.size}, expected at least {keep}")
                self._hash.update(content)
                self.size += len(content)
            self.truncate()
        except OSError:
            self.close()
            raise

    @property
    def sha256(self) -> str:
        """Of everything that was written whole, in hex digits."""
        return self._hash.hexdigest()

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append all of it; on OSError some of it may be in the file behind ``size``, until ``truncate``."""
        left: list[Any] = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        while left:
            written = os.writev(self._descriptor, left[:_PIECES_AT_ONCE])
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]
        for piece in pieces:
            self._hash.update(piece)
            self.size += len(piece)

    def truncate(self) -> None:
        """Cut off what a failed write left behind ``size``. Raises OSError."""
        os.ftruncate(self._descriptor, self.size)
        os.lseek(self._descriptor, self.size, os.SEEK_SET)

    def sync(self) -> None:
        """Wait until the disk holds it. Raises OSError, also where the file is no longer under its name."""
        os.fsync(self._descriptor)
        there, ours = os.stat(self.path), os.fstat(self._descriptor)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise FileNotFoundError(f"{self.path}: another file stands in its place")

    def close(self) -> None:
        """Give the file back; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class McapFile:
    """Writes chunks of messages, each in the kernel's hands when ``write`` returns, and the summary at the end."""

    def __init__(self, file: DurableFile, *, zstd: bool = False, index: Index | None = None) -> None:
        """``index``: of what ``file`` holds already, when it goes on; a new file gets its head here. Raises OSError."""
        self.file = file
        self.index = index or Index()
        self._zstd = zstd
        if index is None:
            builder = RecordBuilder()
            Header("ros2", f"fg_depth_ros {__version__}").write(builder)
            self.file.write([MAGIC, builder.end()])
            self.index.end = self.file.size

    def write(self, messages: Sequence[Stored]) -> None:
        """Append these messages as one chunk: all of them, or, when OSError is raised, none."""
        if not messages:
            return
        lines, schemas = dict(self.index.lines), dict(self.index.schemas)
        pieces: list[bytes | memoryview] = []
        places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        size = 0
        for message in messages:
            number = lines.get(message.line)
            if number is None:
                head = b"".join(_declare(message.line, lines, schemas))
                number = lines[message.line]
                pieces.append(head)
                size += len(head)
            places[number].append((message.logged, size))
            pieces += [
                MESSAGE_HEAD.pack(
                    Opcode.MESSAGE, MESSAGE_HEAD.size - RECORD_HEAD.size + len(message.data), number,
                    (self.index.counts[number] + len(places[number])) & 0xFFFFFFFF, message.logged, message.published,
                ),
                message.data,
            ]  # fmt: skip
            size += MESSAGE_HEAD.size + len(message.data)
        times = [message.logged for message in messages]
        chunk, written = self._chunk(pieces, size, min(times), max(times))
        tail, chunk.message_index_offsets = message_indexes(places, self.file.size + chunk.chunk_length)
        chunk.message_index_length = len(tail)
        try:
            self.file.write([*written, tail])
        except OSError:
            with suppress(OSError):
                self.file.truncate()
            raise
        self.index.lines, self.index.schemas = lines, schemas
        self.index.add(chunk, places, self.file.size)

    def finish(self) -> None:
        """Write the index that readers look for, and wait for the disk. Raises OSError: the messages stay as they are.

        The file stays open.
        """
        try:
            self.file.write([self._summary(), MAGIC])
        except OSError:
            with suppress(OSError):
                self.file.truncate()
            raise
        self.file.sync()

    def _chunk(
        self, pieces: list[bytes | memoryview], size: int, first: int, last: int
    ) -> tuple[ChunkIndex, list[bytes | memoryview]]:
        """A chunk record in pieces, and what the index says of it."""
        crc = 0
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
        content, compression = pieces, b""
        if self._zstd:
            import zstandard

            packer = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj(size=size)
            content, compression = [*(packer.compress(piece) for piece in pieces), packer.flush()], b"zstd"
        packed = sum(len(piece) for piece in content)
        names = struct.pack("<I", len(compression)) + compression + struct.pack("<Q", packed)
        length = CHUNK_HEAD.size + len(names) + packed
        head = CHUNK_HEAD.pack(Opcode.CHUNK, length - RECORD_HEAD.size, first, last, size, crc)
        index = ChunkIndex(
            chunk_length=length, chunk_start_offset=self.file.size, compression=compression.decode(),
            compressed_size=packed, message_end_time=last, message_index_length=0, message_index_offsets={},
            message_start_time=first, uncompressed_size=size,
        )  # fmt: skip
        return index, [head, names, *content]

    def _summary(self) -> bytes:
        """From the end of the data to the footer (the specification's "Summary section")."""
        builder = RecordBuilder()
        DataEnd(0).write(builder)
        start = self.file.size + builder.count
        data_end, offsets = builder.end(), []
        index = self.index
        statistics = Statistics(
            attachment_count=0, channel_count=len(index.lines), channel_message_counts=dict(index.counts),
            chunk_count=len(index.chunks), message_count=index.messages, message_end_time=index.last,
            message_start_time=index.first, metadata_count=0, schema_count=len(index.schemas),
        )  # fmt: skip
        groups: list[tuple[Opcode, list[Any]]] = [
            (Opcode.SCHEMA, [_schema(key, number) for key, number in index.schemas.items()]),
            (Opcode.CHANNEL, [_channel(line, number, index.schemas) for line, number in index.lines.items()]),
            (Opcode.STATISTICS, [statistics]),
            (Opcode.CHUNK_INDEX, index.chunks),
        ]
        for kind, records in groups:
            begin = builder.count
            for record in records:
                record.write(builder)
            if records:
                offsets.append(SummaryOffset(kind, start + begin, builder.count - begin))
        offset_start = start + builder.count
        for offset in offsets:
            offset.write(builder)
        summary = builder.end()
        footer = struct.pack("<BQQQ", Opcode.FOOTER, 20, start, offset_start)
        crc = zlib.crc32(footer, zlib.crc32(summary))
        Footer(summary_start=start, summary_offset_start=offset_start, summary_crc=crc).write(builder)
        return data_end + summary + builder.end()


def message_indexes(places: dict[int, list[tuple[int, int]]], at: int) -> tuple[bytes, dict[int, int]]:
    """The message index records behind a chunk, and where in the file each stands when the first begins at ``at``."""
    builder, offsets = RecordBuilder(), {}
    for number, found in places.items():
        offsets[number] = at + builder.count
        MessageIndex(number, found).write(builder)
    return builder.end(), offsets


def _declare(line: Line, lines: dict[Line, int], schemas: dict[tuple[str, str, bytes], int]) -> Iterator[bytes]:
    """Give a line its number; the records that say so."""
    builder = RecordBuilder()
    key = (line.msgtype, line.schema_encoding, line.schema)
    if key not in schemas:
        schemas[key] = _free(schemas.values())
        _schema(key, schemas[key]).write(builder)
    lines[line] = _free(lines.values())
    _channel(line, lines[line], schemas).write(builder)
    yield builder.end()


def _free(numbers: Any) -> int:
    taken = set(numbers)
    return next(number for number in itertools.count(1) if number not in taken)


def _schema(key: tuple[str, str, bytes], number: int) -> Schema:
    return Schema(id=number, name=key[0], encoding=key[1], data=key[2])


def _channel(line: Line, number: int, schemas: dict[tuple[str, str, bytes], int]) -> Channel:
    schema = schemas[line.msgtype, line.schema_encoding, line.schema]
    return Channel(
        id=number, topic=line.topic, message_encoding=line.encoding, metadata=dict(line.metadata), schema_id=schema
    )
