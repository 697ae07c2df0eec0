"""Write files and folders so that they are complete or absent, and name what is wrong with a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FileError(ValueError):
    """A file that is missing, unreadable or of the wrong kind; the message names it and what to do."""


class WriteError(OSError, FileError):
    """A file that cannot be written; also an OSError, with ``errno``, ``strerror`` and ``filename``."""

    def __str__(self) -> str:
        return (
            f"{self.filename}: cannot be written ({self.strerror}); free space, fix the permissions or choose another "
            "folder"
        )


@contextmanager
def atomic_write(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Replace a file, or make a folder, in one step.

    Yields a path of the same name in a hidden temporary folder beside ``path``. The caller creates a file or a folder
    there; when the block ends it is renamed to ``path``. After an exception ``path`` is unchanged; the temporary folder
    is removed in every case.

    Args:
        path: the file (may exist) or folder (must not exist); missing parent folders are made.
        sync: wait until the disk holds the content and the name, so that a power cut leaves the old or the new file.
            False is for many small files that can be made again.

    Raises:
        WriteError: the content cannot be written or renamed. An OSError about a file elsewhere passes unchanged.
    """
    path = Path(path)
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:100]}.", dir=folder) as temporary:
            unfinished = Path(temporary, path.name)
            yield unfinished
            if sync:
                for each in (unfinished, *unfinished.rglob("*")):
                    sync_path(each)
            os.replace(unfinished, path)
        if sync:
            sync_path(folder)
    except WriteError:
        raise
    except OSError as error:
        about = None if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
        here = folder.absolute()
        if about is not None and not (about.is_relative_to(here) or here.is_relative_to(about)):
            raise
        raise WriteError(error.errno, error.strerror, str(path)) from error


def sync_path(path: str | Path) -> None:
    """Wait until the disk holds the content of a file, or the names in a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
