"""The folder of what engines have built, so that a network is compiled once per machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
from functools import cache
from pathlib import Path

from fg_depth_ros import __version__
from fg_depth_ros.files import atomic_write

VARIABLE = "FG_DEPTH_CACHE"
_LIMIT = 2**30  # bytes of all entries and plans; the longest unused go first
_DIGITS = 16  # of a hash, in names


def cache_folder() -> Path:
    """Return ``FG_DEPTH_CACHE`` of the environment, else ``fg_depth_ros/engines`` in the user's folder for caches."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fg_depth_ros" / "engines"


def plan_folder(blob: bytes) -> Path:
    """Return the folder in which TensorRT keeps its plans of an ONNX file by itself."""
    return cache_folder() / "tensorrt" / hashlib.sha256(blob).hexdigest()[:_DIGITS]


class EngineCache:
    """Entries by name and key, each complete or absent; processes may share the folder.

    A file is one line of JSON (key and SHA-256 of the content), then the content. What is torn, foreign or of another
    key is as good as absent and is replaced. Nothing is raised when the folder cannot be used: ``problem`` says why.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """``folder``: default ``cache_folder()``."""
        self.folder = cache_folder() if folder is None else folder
        self.problem: str | None = None
        """Why the newest entry could not be kept; None when it was."""

    def read(self, name: str, key: str) -> bytes | None:
        """Return an entry, or None."""
        path = self._path(name, key)
        try:
            head, _, content = path.read_bytes().partition(b"\n")
            if json.loads(head) != self._head(key, content):
                return None
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content

    def names(self) -> list[str]:
        """Return the names of all entries, the one that was used last first."""
        found: dict[str, float] = {}
        with contextlib.suppress(OSError):  # another process removes them too
            for path in self.folder.glob("*.engine"):
                name = path.stem.rpartition("-")[0]
                found[name] = max(found.get(name, 0.0), path.stat().st_mtime)
        return sorted(found, key=lambda name: -found[name])

    def write(self, name: str, key: str, content: bytes) -> None:
        """Keep an entry; remove old ones beyond the limit."""
        try:
            with atomic_write(self._path(name, key), sync=False) as unfinished:
                unfinished.write_bytes(json.dumps(self._head(key, content)).encode() + b"\n" + content)
        except OSError as error:
            self.problem = f"nothing is kept, so every start compiles again: {error} (or set {VARIABLE})"
            return
        self.problem = None
        self._trim()

    def _path(self, name: str, key: str) -> Path:
        return self.folder / f"{name}-{key[:_DIGITS]}.engine"

    @staticmethod
    def _head(key: str, content: bytes) -> dict[str, str]:
        return {"key": key, "sha256": hashlib.sha256(content).hexdigest()}

    def _trim(self) -> None:
        with contextlib.suppress(OSError):  # another process removes them too
            paths = [*self.folder.glob("*.engine"), *self.folder.glob(f"tensorrt/{'[0-9a-f]' * _DIGITS}")]
            found = sorted((path.stat().st_mtime, _size(path), path) for path in paths)
            total = sum(size for _, size, _ in found)
            for _, size, path in found[:-1]:
                if total <= _LIMIT:
                    return
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                total -= size


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def cache_key(*parts: object) -> str:
    """Return a hash of these parts, of this package's version and of the processor."""
    return hashlib.sha256("\n".join(map(str, (*parts, __version__, processor()))).encode()).hexdigest()


@cache
def processor() -> str:
    """Return the model and the instruction sets of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    words = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(words))])
