"""The whole messages of an MCAP file that may be cut off or damaged anywhere, in the order of the file."""

from __future__ import annotations

import io
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, Schema

from fg_depth_ros.recording.mcap_file import (
    CHUNK_HEAD,
    MAGIC,
    MESSAGE_HEAD,
    RECORD_HEAD,
    Index,
    Line,
    Stored,
    message_indexes,
)

_PIECE = 1 << 16
_SKIPPED = {Opcode.MESSAGE_INDEX, Opcode.CHUNK_INDEX, Opcode.ATTACHMENT, Opcode.ATTACHMENT_INDEX, Opcode.METADATA,
            Opcode.METADATA_INDEX, Opcode.STATISTICS, Opcode.SUMMARY_OFFSET}  # fmt: skip


class _Damage(Exception):
    """What cannot be read further, and whether the file merely ends there."""

    def __init__(self, text: str, cut: bool = False) -> None:
        super().__init__(text)
        self.cut = cut


class Part(NamedTuple):
    """Messages that stand together. ``chunk``: their chunk, when it and its message index are whole."""

    messages: list[Stored]
    end: int
    chunk: ChunkIndex | None = None
    places: dict[int, list[tuple[int, int]]] | None = None
    problem: _Damage | None = None  # nothing can be read behind it


class McapWalk:
    """Iterate once; afterwards the attributes say how it ended.

    ``ended``: the end of the data was reached, nothing is lost. Else ``problem`` says why not, ``cut`` whether the file
    just ends, and ``lost`` how many bytes hold no whole message. A damaged chunk of another recorder is passed over.
    ``packed``: there are zstd chunks. Of a file that ``McapFile`` wrote also ``index``, up to the last chunk with room
    for its message index behind it, and ``repairs``: place and bytes of message indexes that are not what the chunk
    before says.
    """

    def __init__(self, path: Path, own: bool = False) -> None:
        """``own``: written by ``McapFile``."""
        self.path = path
        self.repairs: list[tuple[int, bytes]] = []
        self._own = own
        self.index = Index()
        self.ended = self.cut = self.packed = False
        self.problem, self.lost = "", 0
        self._schemas: dict[int, Schema] = {}
        self._lines: dict[int, Line] = {}
        self._good = 0  # byte behind the last thing that is of use

    def __iter__(self) -> Iterator[Part]:
        """Raises OSError where the file cannot be read, and nothing for what is in it."""
        with self.path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            try:
                self._head(file, size)
                yield from self._parts(file, size)
            except _Damage as damage:
                self.problem, self.cut = self.problem or str(damage), damage.cut
                self.lost += size - self._good

    def _head(self, file: BinaryIO, size: int) -> None:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise _Damage("does not begin as an MCAP file", cut=MAGIC.startswith(magic))
        if self._record(file, size)[0] != Opcode.HEADER:
            raise _Damage("has no header")
        self._good = self.index.end = file.tell()

    def _parts(self, file: BinaryIO, size: int) -> Iterator[Part]:
        while True:
            at = file.tell()
            kind, length = self._record_head(file, size)
            if kind in (Opcode.DATA_END, Opcode.FOOTER):
                self.ended = not self.problem
                return
            if kind == Opcode.CHUNK:
                try:
                    part = self._chunk(file, size, at)
                except _Damage as damage:
                    end = at + RECORD_HEAD.size + length
                    if self._own or not self._goes_on(file, size, end):
                        raise
                    self.problem = self.problem or str(damage)
                    self.lost += end - self._good
                    self._good = end
                    continue
                self._take(part)
                yield part
                if part.problem is not None:
                    raise part.problem
                continue
            if at + RECORD_HEAD.size + length > size:
                raise _Damage(f"is cut off in the record at byte {at}", cut=True)
            if kind in _SKIPPED:
                file.seek(length, io.SEEK_CUR)
            else:
                records = file.read(length)
                whole = RECORD_HEAD.pack(kind, length) + records
                messages, _, problem = self._records(memoryview(whole), at)
                if problem is not None:
                    raise problem
                part = Part(messages, file.tell())
                self._take(part)
                if messages:
                    yield part
            self._good = file.tell()

    def _goes_on(self, file: BinaryIO, size: int, at: int) -> bool:
        """Whether a whole record begins at this byte, where the file then stands."""
        file.seek(min(at, size))
        try:
            _, length = self._record_head(file, size)
        except _Damage:
            return False
        file.seek(at)
        return at + RECORD_HEAD.size + length <= size

    def _take(self, part: Part) -> None:
        if part.chunk is not None and part.places is not None:
            self.index.add(part.chunk, part.places, part.end)
            for line in {message.line for message in part.messages}:
                self._name(line)

    def _name(self, line: Line) -> None:
        if line not in self.index.lines:
            number = next(number for number, known in self._lines.items() if known == line)
            self.index.lines[line] = number
            key = (line.msgtype, line.schema_encoding, line.schema)
            self.index.schemas.setdefault(
                key, next((n for n, s in self._schemas.items() if (s.name, s.encoding, s.data) == key), 0)
            )

    def _chunk(self, file: BinaryIO, size: int, at: int) -> Part:
        """A chunk and the message index behind it."""
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
        content = file.read(min(packed, size - start))
        self.packed |= name == "zstd"
        whole = len(content) == packed
        data = _unpacked(content, name)
        if whole and (len(data) != expected or (crc and zlib.crc32(data) != crc)):
            raise _Damage(f"is damaged: the chunk at byte {at} fails its checksum")
        messages, places, problem = self._records(memoryview(data), at)
        if not whole:
            used = sum(MESSAGE_HEAD.size + len(message.data) for message in messages)
            self._good = min(size, start + used) if not name else size - min(len(data) - used, size - start)
            return Part(messages, size, problem=_Damage(f"is cut off in the chunk at byte {at}", cut=True))
        if problem is not None:
            return Part(messages, end, problem=problem)
        file.seek(end)
        index, offsets = message_indexes(places, end)
        self._good = end
        if not self._own or end + len(index) > size:
            return Part(messages, end)
        if file.read(len(index)) != index:
            self.repairs.append((end, index))
        self._good = end + len(index)
        return Part(
            messages, self._good,
            ChunkIndex(
                chunk_length=end - at, chunk_start_offset=at, compression=name, compressed_size=packed,
                message_end_time=last, message_index_length=len(index), message_index_offsets=offsets,
                message_start_time=first, uncompressed_size=expected,
            ),
            places,
        )  # fmt: skip

    def _records(
        self, data: memoryview, at: int
    ) -> tuple[list[Stored], dict[int, list[tuple[int, int]]], _Damage | None]:
        """Whole messages of a run of records, where each stands, and what ended the run before its end."""
        messages: list[Stored] = []
        places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        offset = 0
        try:
            while offset < len(data):
                kind, length = RECORD_HEAD.unpack_from(data, offset)
                content = data[offset + RECORD_HEAD.size : offset + RECORD_HEAD.size + length]
                if len(content) < length:
                    raise _Damage(f"is cut off behind byte {at}", cut=True)
                if kind == Opcode.MESSAGE:
                    _, _, number, _, logged, published = MESSAGE_HEAD.unpack_from(data, offset)
                    body = content[MESSAGE_HEAD.size - RECORD_HEAD.size :]
                    messages.append(Stored(self._lines[number], logged, published, body))
                    places[number].append((logged, offset))
                elif kind == Opcode.SCHEMA:
                    schema = Schema.read(_stream(content))
                    self._schemas[schema.id] = schema
                elif kind == Opcode.CHANNEL:
                    self._learn(Channel.read(_stream(content)))
                else:
                    raise _Damage(f"is damaged behind byte {at}: no record begins with {kind}")
                offset += RECORD_HEAD.size + length
        except _Damage as damage:
            return messages, places, damage
        except Exception as error:  # damaged data breaks a parser in any way
            return messages, places, _Damage(f"is damaged behind byte {at} ({type(error).__name__})")
        return messages, places, None

    def _learn(self, channel: Channel) -> None:
        schema = self._schemas.get(channel.schema_id) or Schema(id=0, data=b"", encoding="", name="")
        self._lines[channel.id] = Line(
            channel.topic, schema.name, schema.encoding, schema.data, channel.message_encoding,
            tuple(channel.metadata.items()),
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

    def _record(self, file: BinaryIO, size: int) -> tuple[int, bytes]:
        at = file.tell()
        kind, length = self._record_head(file, size)
        if file.tell() + length > size:
            raise _Damage(f"is cut off in the record at byte {at}", cut=True)
        return kind, file.read(length)


def _stream(content: memoryview) -> ReadDataStream:
    return ReadDataStream(io.BytesIO(content))


def _unpacked(content: bytes, compression: str) -> bytes:
    """A chunk's content as far as it can be unpacked."""
    if not compression:
        return content
    unpacker: Any
    if compression == "zstd":
        import zstandard

        unpacker = zstandard.ZstdDecompressor().decompressobj()
    elif compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]  # comes with rosbags

        unpacker = LZ4FrameDecompressor()
    else:
        raise _Damage(f"has chunks of '{compression}', which this cannot unpack (known: none, zstd, lz4)")
    pieces = []
    try:
        for begin in range(0, len(content), _PIECE):
            pieces.append(unpacker.decompress(content[begin : begin + _PIECE]))
    except Exception:  # each library's own error: what came before it counts
        pass
    return b"".join(pieces)
