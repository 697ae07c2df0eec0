"""Write files and folders so that they are complete or absent; name them, and what is wrong with one."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

_LOG = logging.getLogger(__name__)
_UNFINISHED = ".unfinished"
_YOUNG = 10.0  # s; a younger temporary folder may not be locked yet
_CLAIMED: set[Path] = set()  # folders, by this process
_HELD: set[Path] = set()  # locks of this process that the file system does not know
_NO_LOCKS = {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK}  # of a file system without locks
_LARGEST_FILE = 1 << 30  # of those that are read as a whole, bytes
LARGEST_TEXT = 1 << 20
"""Largest size of a text that a person writes, such as a calibration, bytes."""


class FileError(ValueError):
    """A file that is missing, unreadable or of the wrong kind; the message names it and what to do."""


class WriteError(OSError, FileError):
    """A file that cannot be written; also an OSError, with ``errno``, ``strerror`` and ``filename``."""

    def __str__(self) -> str:
        return (
            f"{self.filename}: cannot be written ({self.strerror}); free space, fix the permissions or choose another "
            "folder"
        )


def expand_home(path: str | Path, name: str) -> Path:
    """Replace ``~`` by the home folder. Raises FileError, naming the parameter ``name``: there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FileError(
            f"{name} '{path}': ~ stands for no folder ({error}); give the path without it, or set HOME"
        ) from error


def open_file(path: str | Path) -> BinaryIO:
    """Open a file to read its bytes. Raises FileError: it is missing, empty or unreadable, a folder, pipe or device."""
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise FileError(f"{path}: is a folder; give a file")
        if not stat.S_ISREG(status.st_mode):
            raise FileError(f"{path}: is a pipe or a device, whose data may never come or end; give a file")
        if not status.st_size:
            raise FileError(f"{path}: the file is empty; fetch it again")
        return path.open("rb")
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def read_bytes(path: str | Path, limit: int = _LARGEST_FILE) -> bytes:
    """Read the whole file. Raises FileError: as ``open_file``, or it is larger than ``limit`` bytes."""
    with open_file(path) as file:
        size = file.seek(0, io.SEEK_END)
        if size > limit:
            raise FileError(f"{path}: has {size} bytes, and such a file may have {limit}; is it the right one?")
        file.seek(0)
        try:
            return file.read()
        except OSError as error:
            raise FileError(f"{path}: cannot be read ({error.strerror}); check the disk") from error


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits. Raises OSError: it cannot be read."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def refuse_present(folder: Path, what: str, pattern: str = "[!.]*", own: Collection[str] = ()) -> None:
    """Raise FileError where a folder that ``what`` is written to holds such files, by their pattern, already.

    ``own``: names of files that may be there, as those of the same work that was stopped.
    """
    if any(path.name not in own for path in folder.glob(pattern)):
        raise FileError(f"{folder}: holds {what} already; name another folder, or remove them")


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Name absolute paths by their last part, with as many folders before it as make the names differ."""
    names = [path.name for path in paths]
    for count in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        names = [
            "/".join(path.parts[-count:]) if names.count(name) > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]
    return names


def unused_name(name: str, taken: Collection[str], prefix: str) -> str:
    """Return the name, with ``prefix`` before it as often as it takes to be none of those that are ``taken``."""
    while name in taken:
        name = prefix + name
    return name


@contextmanager
def atomic_write(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Replace a file, or make a folder, in one step.

    Yields a path of the same name in a hidden temporary folder next to ``path``. The caller creates a file or a folder
    there; when the block ends it is renamed to ``path``. After an exception ``path`` is unchanged; the temporary folder
    is removed in every case. What a killed process left next to ``path`` is removed by the next one that writes there.

    Args:
        path: the file (may exist) or folder (must not exist); missing parent folders are made.
        sync: wait until the disk holds the content and the name, so that a power cut leaves the old or the new file.
            False is for many small files that can be made again.

    Raises:
        WriteError: the content cannot be written or renamed. An OSError about a file elsewhere passes unchanged.
    """
    path = Path(path)
    folder = path.parent
    unfinished = path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder.absolute())
        with (
            tempfile.TemporaryDirectory(prefix=f".{path.name[:100]}.", suffix=_UNFINISHED, dir=folder) as temporary,
            _locked(Path(temporary)),
        ):
            unfinished = Path(temporary, path.name)
            yield unfinished
            if sync:
                for each in (unfinished, *unfinished.rglob("*")):
                    sync_path(each)
            os.replace(unfinished, path)
        if sync:
            sync_path(folder)
    except OSError as error:
        about = None if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
        # A WriteError names the file that was meant, unless that lies in the temporary folder.
        here = (unfinished.parent if isinstance(error, WriteError) else folder).absolute()
        if about is not None and not (about.is_relative_to(here) or here.is_relative_to(about)):
            raise
        raise WriteError(error.errno, error.strerror, str(path)) from error


def write_json(path: str | Path, value: Any, indent: int = 2, *, sync: bool = True) -> None:
    """Write a value as JSON, in one step; ``sync`` and what is raised as for ``atomic_write``."""
    with atomic_write(path, sync=sync) as unfinished:
        unfinished.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a file, and wait until the disk holds it. Raises OSError.

    An incomplete last line, which a power cut or a full disk left, is cut off first.
    """
    with Path(path).open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def claim_folder(folder: str | Path, what: str) -> Iterator[None]:
    """Make a folder, and keep other processes from claiming it; this one may claim it again inside.

    Raises FileError: another process has claimed it; ``what`` it does, such as ``a training``, is in the message.
    Raises WriteError: it cannot be written.
    """
    path = Path(folder).absolute()
    if path in _CLAIMED:
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock")
    except BlockingIOError:
        raise FileError(
            f"{path}: {what} that still runs writes there; wait for its end, or name another folder"
        ) from None
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(path)) from error
    _CLAIMED.add(path)
    try:
        yield
    finally:
        _CLAIMED.discard(path)
        lock.release()


class FileLock:
    """Lock of a file, held by one owner at a time; the kernel releases it when the process ends.

    A file system without locks (Lustre, FUSE) does not keep other processes from it; a warning says so once per folder.
    """

    def __init__(self, path: Path) -> None:
        """Make the file where it is missing, and acquire the lock.

        Raises BlockingIOError: it is held. Raises OSError: the file cannot be made.
        """
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._unlocked = path.absolute()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS and self._unlocked not in _HELD:
                _HELD.add(self._unlocked)
                _warn_unlocked(self._unlocked.parent)
                return
            os.close(self._descriptor)
            if error.errno in _NO_LOCKS:
                raise BlockingIOError(errno.EWOULDBLOCK, "held by this process", str(path)) from None
            raise

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            _HELD.discard(self._unlocked)
            os.close(descriptor)


@lru_cache(maxsize=64)
def _warn_unlocked(folder: Path) -> None:
    text = "%s: its file system has no locks, so nothing keeps two processes from writing there: run one at a time"
    _LOG.warning(text, folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Show other processes that a temporary folder is in use."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@lru_cache(maxsize=64)
def _remove_leftovers(folder: Path) -> None:
    """Remove, once per process, what killed processes left in a folder."""
    with suppress(OSError):
        for leftover in folder.glob(f".*{_UNFINISHED}"):
            descriptor = os.open(leftover, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - leftover.stat().st_mtime > _YOUNG:
                    shutil.rmtree(leftover, ignore_errors=True)
            except BlockingIOError:  # in use
                continue
            finally:
                os.close(descriptor)


def sync_path(path: str | Path) -> None:
    """Wait until the disk holds the content of a file, or the names in a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
