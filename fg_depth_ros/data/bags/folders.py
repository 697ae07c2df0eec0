"""Find bags below folders, name them, and identify them by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from fg_depth_ros.data.bags.files import METADATA, ROS1, is_bag, storage_files
from fg_depth_ros.files import FileError, distinct_names, open_file

EPISODE_FILE = "episode.json"
"""File of the recorder about an episode's files, with their SHA-256."""
_BLOCK = 1 << 20


def find_bags(paths: Sequence[str | Path]) -> list[Path]:
    """Find every bag among these paths and below them, each once, in the order given and sorted below a folder.

    A folder with ``metadata.yaml`` is one bag. So is a folder with the files of one recording alone, as a recorder that
    was killed leaves it (``files.recordings``); if there are several, pictures next to it, or bags below, each file
    is a bag of its own. What begins with a dot is being written, and is skipped. Raises FileError: a path that is not
    there, cannot be read, or has no bag.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileError(f"{path}: no such bag or folder; check the path")
        try:
            bags = list(_below(path, frozenset()))
        except OSError as error:
            raise FileError(
                f"{error.filename or path}: cannot be read ({error.strerror}); check its permissions"
            ) from error
        if not bags:
            raise FileError(
                f"{path}: no bag there or below (metadata.yaml, .mcap, .db3, .bag); give the recording folder"
            )
        for bag in bags:
            found.setdefault(bag.resolve(), bag)
    return list(found.values())


def _below(path: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Yield the bags of a path. ``above``: the folders it lies in, against circular links."""
    real = path.resolve()
    if real in above:
        return
    if not path.is_dir() or (path / METADATA).is_file():
        if is_bag(path):
            yield path
        return
    inside = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    files = [child for child in inside if not child.is_dir() and is_bag(child)]
    lower = [bag for child in inside if child.is_dir() for bag in _below(child, above | {real})]
    if is_bag(path) and not lower and not any(file.suffix == ROS1 for file in files):
        yield path
    else:
        yield from sorted([*files, *lower])


def bag_names(bags: Sequence[Path]) -> list[str]:
    """Name bags by their folder or file, with as many folders before it as make the names differ.

    One called ``all`` has its folder before it, too: in results that name stands for all bags.
    """
    paths = [bag.resolve() for bag in bags]
    named = [path if path.is_dir() else path.with_suffix("") for path in paths]
    names = distinct_names(named)
    # A file and a folder next to it may differ in the suffix alone.
    names = [path.name if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]
    return ["/".join(path.parts[-2:]) if name == "all" else name for name, path in zip(names, named, strict=True)]


def bag_sha256(path: str | Path) -> str:
    """Hash the bytes of a bag's storage files, sorted by name: SHA-256, hex. Raises FileError: none, or unreadable."""
    digest = hashlib.sha256()
    try:
        files = storage_files(path)
        if not files:
            raise FileError(f"{path}: holds no .mcap and no .db3 file: no bag; give the folder with metadata.yaml")
        for file in files:
            with open_file(file) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
    except OSError as error:
        raise FileError(
            f"{error.filename or path}: cannot be read ({error.strerror}); check its path and permissions"
        ) from error
    return digest.hexdigest()
