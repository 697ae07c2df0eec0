"""Recover what a crash, a power cut or a full disk left: valid bags again, with every whole message."""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fg_depth_ros.data.bags.files import METADATA, Metadata, UnpackedFiles, bag_files, storage_files, unpacked_name
from fg_depth_ros.data.bags.mcap import McapIndex, McapScanner, StoredMessage
from fg_depth_ros.data.bags.messages import stamp_of
from fg_depth_ros.data.bags.pairs import find_topics
from fg_depth_ros.data.bags.storage import IMAGES, indexed_messages
from fg_depth_ros.files import FileError, atomic_write
from fg_depth_ros.recording import manifest
from fg_depth_ros.recording.episodes import EpisodeLock, complete, metadata_yaml, part_folder, part_name, storage_file
from fg_depth_ros.recording.mcap_writer import DurableFile, McapWriter

_LOG = logging.getLogger(__name__)
_BATCH = 4 << 20


class Recovered(NamedTuple):
    """Result of one recording: messages it holds now, bytes that held no whole message, a note for people.

    ``done``: False where something is left to do, which ``note`` names.
    """

    name: str
    messages: int
    lost_bytes: int
    note: str
    done: bool = True


def recover(path: str | Path) -> list[Recovered]:
    """Complete recordings that were cut off; what is whole stays as it is, so a second call finds nothing to do.

    Args:
        path: a recording folder: every hidden part in it is completed in place, unless it is being written; lines that
            its manifest lacks are added. Or a bag's folder or MCAP file, also one that is packed (``.mcap.zstd``):
            NAME_recovered is written next to it, the original stays.

    Returns:
        One entry per recording that was checked; for a recording folder only its parts.

    Raises:
        FileError: no such path, one that cannot be read, no MCAP, or several recordings. Nothing else: what goes wrong
            with a recording stands in its entry.
    """
    path = Path(path)
    try:
        return _recovered(path)
    except OSError as error:
        where = error.filename or path
        raise FileError(f"{where}: cannot be read ({error.strerror}); check its permissions") from error


def _recovered(path: Path) -> list[Recovered]:
    if path.is_file() and part_name(path.resolve().parent) is not None:
        path = path.parent  # a file that this recorder writes is completed where it lies
    if path.is_file():
        if not _is_mcap(path):
            raise FileError(f"{path}: only MCAP files can be recovered; {_hint(path)}")
        target = path.with_name(f"{unpacked_name(path.name).removesuffix('.mcap')}_recovered")
        return _guarded(path.name, partial(_copy, path, [path], [], target))
    if not path.is_dir():
        raise FileError(f"{path}: no such folder or file; give the recording folder, a bag's folder or an .mcap file")
    path = path.resolve()
    name = part_name(path)
    if name is not None:
        return _parts(path.parent, [name])
    parts = sorted(name for folder in path.iterdir() if (name := part_name(folder)) and folder.is_dir())
    if not parts and ((path / METADATA).exists() or any(map(_is_mcap, storage_files(path)))):
        files, problems = bag_files(path, Metadata.read(path))
        if not all(map(_is_mcap, files)):
            raise FileError(f"{path}: holds no .mcap file; {_hint(path)}")
        target = path.with_name(f"{path.name}_recovered")
        return _guarded(path.name, partial(_copy, path, files, problems, target))
    return _parts(path, parts)


def _is_mcap(file: Path) -> bool:
    return unpacked_name(file.name).endswith(".mcap")


def _parts(root: Path, names: list[str]) -> list[Recovered]:
    done = [entry for name in names for entry in _guarded(name, partial(_part, root, name))]
    try:
        for leftover in root.iterdir():
            if leftover.name.startswith(".") and leftover.suffix == ".lock":
                _remove_stale(root, leftover)
            elif leftover.name.startswith(".") and leftover.suffix == ".removed":
                shutil.rmtree(leftover, ignore_errors=True)
        add_missing_lines(root)
    except OSError as error:
        done.append(Recovered(manifest.NAME, 0, 0, f"{root}: {error.strerror}; make it writable, try again", False))
    return done


def add_missing_lines(root: Path) -> int:
    """Add the lines of finished episodes that the manifest lacks; return their number. Raises OSError."""
    added = 0
    for _, line in _unlisted(root):
        try:
            lock = EpisodeLock(root, line["name"])
        except BlockingIOError:  # its writer is about to add the line
            continue
        try:
            if any(other["name"] == line["name"] for _, other in _unlisted(root)):
                manifest.append(root, line)
                added += 1
        finally:
            lock.release()
    return added


def _unlisted(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    known = {line.get("name") for line in manifest.read(root)}
    return [found for found in manifest.finished(root) if found[1]["name"] not in known]


def _guarded(name: str, work: Callable[[], Recovered | None]) -> list[Recovered]:
    try:
        entry = work()
        return [entry] if entry is not None else []
    except OSError as error:
        way_out = "make room on the disk, or make it writable, and try again"
        return [Recovered(name, 0, 0, f"left as it is: {error.strerror or error}; {way_out}", False)]


def _remove_stale(root: Path, path: Path) -> None:
    name = path.name[1 : -len(".lock")]
    if not part_folder(root, name).exists():
        with suppress(OSError):
            EpisodeLock(root, name).release()


def _part(root: Path, name: str) -> Recovered | None:
    """Complete one part: where it was merely cut, only its cut chunk and its index are written again."""
    try:
        lock = EpisodeLock(root, name)
    except BlockingIOError:
        return Recovered(name, 0, 0, "is being written; left alone")
    try:
        folder = part_folder(root, name)
        return _complete_part(root, name, folder) if folder.is_dir() else None  # else its writer has completed it
    finally:
        lock.release()


def _complete_part(root: Path, name: str, folder: Path) -> Recovered:
    path = storage_file(folder, name)
    size = path.stat().st_size if path.exists() else 0
    scan = McapScanner(path, resumable=True)
    tail: list[StoredMessage] = []
    stamps = _Stamps()
    if size:
        for part in scan:
            if part.end > scan.index.end:
                tail += part.messages
            stamps.add(part.messages)
        if scan.problem and not scan.cut:
            behind = _complete_anew(root, name, path, scan.index.messages + len(tail))
            if behind is not None:
                return behind
    if not scan.index.messages and not tail:
        if size and scan.problem and not scan.cut:
            note = f"left as it is: {path} {scan.problem}; no message before that. Remove {folder} to be rid of it"
            return Recovered(name, 0, size, note, False)
        shutil.rmtree(folder)
        return Recovered(name, 0, size, "held no whole message; removed")
    if scan.repairs:
        with path.open("r+b") as damaged:
            for place, content in scan.repairs:
                damaged.seek(place)
                damaged.write(content)
    file = DurableFile(path, keep=scan.index.end)
    try:
        mcap = McapWriter(file, zstd=scan.compressed, index=scan.index)
        mcap.write(tail)
        mcap.finish()
    finally:
        file.close()
    _complete(root, name, mcap.index, file, stamps)
    note = f"complete again: it {scan.problem}" if scan.problem else "complete again: nothing was lost"
    return Recovered(name, mcap.index.messages, scan.lost, note)


def _complete_anew(root: Path, name: str, path: Path, before: int) -> Recovered | None:
    """Complete a part whose damage has whole messages after it, by copying these; the damaged file stays until then.

    ``before``: messages before the damage. None: there are no others.
    """
    scan, stamps, messages = McapScanner(path), _Stamps(), 0
    for part in scan:
        messages += len(part.messages)
        stamps.add(part.messages)
    if scan.undeclared and messages:
        note = (
            f"left as it is: {path} {scan.problem}, and only the damage says of which topics the messages after it "
            f"are; copy it to another folder and recover the copy for its {messages} other messages"
        )
        return Recovered(name, messages, scan.lost, note, False)
    if messages <= before:
        return None
    with atomic_write(path) as unfinished:
        index, file = _write_whole(unfinished, [path], zstd=scan.compressed)
    _complete(root, name, index, file, stamps)
    return Recovered(name, messages, scan.lost, f"complete again without what is damaged: it {scan.problem}")


def _complete(root: Path, name: str, index: McapIndex, file: DurableFile, stamps: _Stamps) -> None:
    """Give a part with a whole file its own name, with what its manifest line says of the remaining messages."""
    draft = manifest.read_episode(part_folder(root, name)) or {}
    kinds = {channel.topic: channel.msgtype for channel in index.channels}
    draft.update(stamps.pairs(draft.get("images") or _pair_by_name(kinds)), recovered=True)
    complete(root, name, index, file.sha256, file.size, draft)


class _Stamps:
    """Stamps of images (ns), by topic."""

    def __init__(self) -> None:
        self._by_topic: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, messages: list[StoredMessage]) -> None:
        for message in messages:
            if message.channel.msgtype in IMAGES:
                self._by_topic[message.channel.topic].append(stamp_of(bytes(message.data[:12])) or 0)

    def pairs(self, images: Sequence[str]) -> dict[str, int]:
        """Return the manifest's keys about pairs. ``images``: topics of the left and right image; empty: no pairs."""
        left, *others = (self._by_topic[topic] for topic in images or [""])
        left = left[: min(map(len, others), default=0)]
        return {"pairs": len(left), "began_ns": left[0] if left else 0, "ended_ns": left[-1] if left else 0}


def _pair_by_name(kinds: dict[str, str]) -> Sequence[str]:
    """Return the topics of the images of a pair, for an episode that does not name them. ``kinds``: types by topic."""
    try:
        return find_topics(kinds)[:2]
    except FileError:  # nothing but other messages
        return ()


def _copy(original: Path, files: list[Path], problems: list[str], target: Path) -> Recovered:
    """Copy the whole messages of another recorder's bag to a bag next to the original.

    ``problems``: what ``bag_files`` found wrong with its files.
    """
    if target.exists():
        return Recovered(original.name, 0, 0, f"{target.name} is there already; remove it to recover again")
    unpacked = UnpackedFiles()
    try:
        scans = {file: McapScanner(unpacked.of(file)) for file in files}
    except FileError as error:
        way_out = "; the other files can be recovered once it is moved out of the folder" if len(files) > 1 else ""
        return Recovered(original.name, 0, 0, f"left as it is: {error}{way_out}", False)
    counts = {scan.path: sum(len(part.messages) for part in scan) for scan in scans.values()}
    paths, messages = list(counts), sum(counts.values())
    indexed = indexed_messages(original if original.is_dir() else paths[0])
    if all(scan.ended for scan in scans.values()) and indexed == messages:
        return Recovered(original.name, messages, 0, "; ".join(["is whole; nothing to do", *problems]))
    found = [f"{file.name} {scan.problem}" for file, scan in scans.items() if scan.problem] + problems
    if not found:
        whole = original.is_dir() and all(indexed_messages(file) == count for file, count in counts.items())
        found = [f"its {'metadata.yaml' if whole else 'index'} is damaged"]
    problem = "; ".join(found)
    lost = sum(scan.lost for scan in scans.values())
    if not messages:
        return Recovered(original.name, 0, lost, f"holds no whole message: {problem}; fetch it again", False)
    name = f"{target.name}_0.mcap"
    with atomic_write(target) as unfinished:
        unfinished.mkdir()
        index, _ = _write_whole(unfinished / name, paths, zstd=any(scan.compressed for scan in scans.values()))
        (unfinished / "metadata.yaml").write_text(metadata_yaml({name: index}), encoding="utf-8")
    return Recovered(original.name, messages, lost, f"{problem}: its whole messages are in {target.name}")


def _write_whole(path: Path, files: list[Path], *, zstd: bool) -> tuple[McapIndex, DurableFile]:
    """Write the whole messages of MCAP files to another one; return its index and the closed file. Raises OSError."""
    file = DurableFile(path)
    try:
        mcap = McapWriter(file, zstd=zstd)
        for batch in _batches(files):
            mcap.write(batch)
        mcap.finish()
    finally:
        file.close()
    return mcap.index, file


def _batches(files: list[Path]) -> Iterator[list[StoredMessage]]:
    batch: list[StoredMessage] = []
    size = 0
    for file in files:
        for part in McapScanner(file):
            batch += part.messages
            size += sum(len(message.data) for message in part.messages)
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    yield batch


def _hint(path: Path) -> str:
    if path.suffix == ".db3" or (path.is_dir() and any(file.suffix == ".db3" for file in path.iterdir())):
        return "a cut-off SQLite bag can be saved in part with 'sqlite3 FILE.db3 .recover'"
    return "give the recording folder, a bag's folder or an .mcap file"
