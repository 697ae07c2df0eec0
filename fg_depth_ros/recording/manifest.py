"""``manifest.jsonl`` of a recording folder: a line per episode that was finished or removed, in that order."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fg_depth_ros.data.bags.folders import EPISODE_FILE
from fg_depth_ros.files import FileError, read_bytes

SCHEMA = "fg_depth_episode/1"
NAME = "manifest.jsonl"

_LOG = logging.getLogger(__name__)


def append(root: Path, line: dict[str, Any]) -> None:
    """Add a line and wait until the disk holds it. Raises OSError: it was not added."""
    descriptor = os.open(root / NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # a recovery may write at the same time
        size = os.fstat(descriptor).st_size
        # Behind half a line, which a power cut may leave, a new line begins.
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        content = b"\n" * torn + json.dumps(line).encode() + b"\n"
        try:
            written = os.write(descriptor, content)
            if written < len(content):
                os.write(descriptor, content[written:])
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def append_removed(root: Path, name: str, why: str) -> None:
    """Add a line for a removed episode. Raises OSError."""
    append(root, {"schema": SCHEMA, "removed": name, "why": why})


def read(root: Path) -> list[dict[str, Any]]:
    """Return every line in order; a line of another schema is skipped with a warning. Raises OSError."""
    try:
        content = (root / NAME).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for number, text in enumerate(content.splitlines(), 1):
        line = _parsed(text)
        if line is not None:
            lines.append(line)
        elif text.strip():
            _LOG.warning("%s, line %d: not a line of %s; skipped", root / NAME, number, SCHEMA)
    return lines


def read_episode(folder: Path) -> dict[str, Any] | None:
    """Return ``episode.json`` of a folder; None if there is none of this schema."""
    try:
        return _parsed(read_bytes(folder / EPISODE_FILE).decode("utf-8"))
    except (FileError, UnicodeDecodeError):
        return None


def finished(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the finished episodes of a folder by name: those whose episode.json has the folder's own name.

    A folder that was renamed by hand is no longer one of them, so nothing removes it. Raises OSError.
    """
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for name in names:
        line = read_episode(root / name)
        if line is not None and line.get("name") == name:
            yield root / name, line


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and line.get("schema") == SCHEMA else None
