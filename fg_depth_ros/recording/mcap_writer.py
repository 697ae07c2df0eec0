"""Write an MCAP file that is whole up to its last chunk at every moment, also after a write that failed.

The records are those of https://mcap.dev/spec, packed by the library mcap. Its writer is not used: after a write that
failed it no longer knows what is in the file, and it copies every message several times.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import Channel as ChannelRecord
from mcap.records import ChunkIndex, DataEnd, Footer, Header, Schema, Statistics, SummaryOffset

from fg_depth_ros import __version__
from fg_depth_ros.data.bags.mcap import (
    CHUNK_HEAD,
    MAGIC,
    MESSAGE_HEAD,
    RECORD_HEAD,
    Channel,
    McapIndex,
    StoredMessage,
    message_indexes,
)

_ZSTD_LEVEL = 1  # level 3 takes twice the time for a few per cent of an image
_PIECES_AT_ONCE = 512  # of IOV_MAX, 1024 on Linux


class DurableFile:
    """An unbuffered file that hashes what is written: when ``write`` returns, the kernel has the data."""

    def __init__(self, path: Path, keep: int | None = None) -> None:
        """Create the file, or open one and continue after its first ``keep`` bytes.

        Raises OSError: it exists already, or is shorter than ``keep``.
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
        """SHA-256 of everything that was written whole, in hex digits."""
        return self._hash.hexdigest()

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append all pieces. Raises OSError: a part of them may be in the file after ``size``, until ``truncate``."""
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

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write all pieces or none. Raises OSError."""
        try:
            self.write(pieces)
        except OSError:
            with suppress(OSError):
                self.truncate()
            raise

    def truncate(self) -> None:
        """Remove what a failed write left after ``size``. Raises OSError."""
        os.ftruncate(self._descriptor, self.size)
        os.lseek(self._descriptor, self.size, os.SEEK_SET)

    def sync(self) -> None:
        """Wait until the disk holds the file. Raises OSError, also where the file is no longer under its name."""
        os.fsync(self._descriptor)
        there, ours = os.stat(self.path), os.fstat(self._descriptor)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise FileNotFoundError(f"{self.path}: another file stands in its place")

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class McapWriter:
    """Writes chunks of messages to a ``DurableFile``, and the summary at the end."""

    def __init__(self, file: DurableFile, *, zstd: bool = False, index: McapIndex | None = None) -> None:
        """Write the head of a new file, which this class does not close. Raises OSError.

        ``zstd``: compress the chunks. ``index``: of what ``file`` holds already; None for a new file.
        """
        self.file = file
        self.index = index or McapIndex()
        self._zstd = zstd
        if index is None:
            builder = RecordBuilder()
            Header("ros2", f"fg_depth_ros {__version__}").write(builder)
            self.file.write([MAGIC, builder.end()])
            self.index.end = self.file.size

    def write(self, messages: Sequence[StoredMessage]) -> None:
        """Append messages as one chunk. Raises OSError: none of them was written."""
        if not messages:
            return
        index = replace(self.index, channels=dict(self.index.channels), schemas=dict(self.index.schemas))
        pieces: list[bytes | memoryview] = []
        places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        size = 0
        for message in messages:
            number = index.channels.get(message.channel)
            if number is None:
                head = _declare(message.channel, index)
                number = index.channels[message.channel]
                pieces.append(head)
                size += len(head)
            places[number].append((message.recorded, size))
            pieces += [
                MESSAGE_HEAD.pack(
                    Opcode.MESSAGE, MESSAGE_HEAD.size - RECORD_HEAD.size + len(message.data), number,
                    (self.index.counts[number] + len(places[number])) & 0xFFFFFFFF, message.recorded, message.published,
                ),
                message.data,
            ]  # fmt: skip
            size += MESSAGE_HEAD.size + len(message.data)
        times = [message.recorded for message in messages]
        chunk, written = self._chunk(pieces, size, min(times), max(times))
        tail, chunk.message_index_offsets = message_indexes(places, self.file.size + chunk.chunk_length)
        chunk.message_index_length = len(tail)
        self.file.append([*written, tail])
        self.index = index
        self.index.add(chunk, places, self.file.size)

    def finish(self) -> None:
        """Write the summary and wait for the disk. Raises OSError: the messages stay. The file stays open."""
        self.file.append([self._summary(), MAGIC])
        self.file.sync()

    def _chunk(
        self, pieces: list[bytes | memoryview], size: int, first: int, last: int
    ) -> tuple[ChunkIndex, list[bytes | memoryview]]:
        """Build a chunk record, in pieces, and its entry in the index."""
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
        """Build the summary section, from the end of the data to the footer."""
        builder = RecordBuilder()
        DataEnd(0).write(builder)
        start = self.file.size + builder.count
        data_end, offsets = builder.end(), []
        index = self.index
        statistics = Statistics(
            attachment_count=0, channel_count=len(index.channels), channel_message_counts=dict(index.counts),
            chunk_count=len(index.chunks), message_count=index.messages, message_end_time=index.last,
            message_start_time=index.first, metadata_count=0, schema_count=len(index.schemas),
        )  # fmt: skip
        groups: list[tuple[Opcode, list[Any]]] = [
            (Opcode.SCHEMA, [_schema_record(key, number) for key, number in index.schemas.items()]),
            (Opcode.CHANNEL, [_channel_record(channel, index) for channel in index.channels]),
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


def _declare(channel: Channel, index: McapIndex) -> bytes:
    """Add a channel to the index, and its schema where that is new; return the records that declare them."""
    builder = RecordBuilder()
    key = (channel.msgtype, channel.schema_encoding, channel.schema)
    if key not in index.schemas:
        index.schemas[key] = _unused_number(index.schemas.values())
        _schema_record(key, index.schemas[key]).write(builder)
    index.channels[channel] = _unused_number(index.channels.values())
    _channel_record(channel, index).write(builder)
    return builder.end()


def _unused_number(numbers: Collection[int]) -> int:
    return next(number for number in itertools.count(1) if number not in numbers)


def _schema_record(key: tuple[str, str, bytes], number: int) -> Schema:
    return Schema(id=number, name=key[0], encoding=key[1], data=key[2])


def _channel_record(channel: Channel, index: McapIndex) -> ChannelRecord:
    schema_id = index.schemas[channel.msgtype, channel.schema_encoding, channel.schema]
    return ChannelRecord(
        id=index.channels[channel], topic=channel.topic, message_encoding=channel.encoding,
        metadata=dict(channel.metadata), schema_id=schema_id,
    )  # fmt: skip
