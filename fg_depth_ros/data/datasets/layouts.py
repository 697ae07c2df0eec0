"""Base of the readers of data set folders: recognise a layout, find images, read files later."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from fg_depth_ros.data.io.calibration import describes_raw, read_calibration
from fg_depth_ros.data.io.formats import IMAGE_SUFFIXES, image_size
from fg_depth_ros.data.samples import ArrayReader
from fg_depth_ros.files import FileError, distinct_names
from fg_depth_ros.geometry import StereoRig

Sample = TypeVar("Sample")


class NoPairsError(FileError):
    """A folder in which no known layout was recognised."""


@dataclass(frozen=True)
class Layout(Generic[Sample]):
    """Layout of one kind of data set in a folder. To add a data set, add a layout to the tuple of its task."""

    description: str
    """For the error that lists the known layouts."""
    read: Callable[[Path], list[Sample] | dict[str, list[Sample]]]
    """Returns the samples of a folder, or those of its parts by what is added to its name; empty for another layout."""
    inside: tuple[str, ...] = ("training",)
    """Folders in which the data set may lie instead."""


def open_layouts(folder: Path, layouts: Sequence[Layout[Sample]], what: str) -> dict[str, list[Sample]]:
    """Open one data set by the first layout that fits; ``what`` is looked for, such as ``stereo pairs``.

    Returns the samples, ``in_order``, by what is added to the data set's name ("" for a set in one part).
    Raises NoPairsError: no layout fits. Raises FileError: no such folder; a file is missing or damaged.
    """
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; give the folder that holds the pairs")
    for layout in layouts:
        for candidate in (folder, *(folder / name for name in layout.inside)):
            found = layout.read(candidate) if candidate.is_dir() else []
            parts = found if isinstance(found, dict) else {"": found}
            if any(parts.values()):
                return {part: in_order(samples) for part, samples in parts.items()}
    known = ", ".join(layout.description for layout in layouts)
    raise NoPairsError(f"{folder}: no {what} found. Known layouts: {known}")


def collect_sets(
    paths: Iterable[str | Path], open_parts: Callable[[Path], dict[str, list[Sample]]]
) -> dict[str, list[Sample]]:
    """Apply ``open_parts`` to folders, or, where it raises NoPairsError, to the folders right inside them.

    ``open_parts`` returns the parts of one data set as ``open_layouts`` does. A folder counts once. Sets are named by
    their folders, with as many upper folders as make the names differ.
    """
    found: dict[Path, dict[str, list[Sample]]] = {}
    for path in map(Path, paths):
        try:
            found[path.resolve()] = open_parts(path)
        except NoPairsError:
            inside: dict[Path, dict[str, list[Sample]]] = {}
            for child in sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []:
                with suppress(NoPairsError):
                    inside[path.resolve() / child.name] = open_parts(child)
            if not inside:
                raise
            found.update(inside)
    return {
        name + part: samples
        for name, parts in zip(distinct_names(list(found)), found.values(), strict=True)
        for part, samples in parts.items()
    }


def list_images(folder: Path, pattern: str = "*") -> list[Path]:
    """List the images right in a folder whose names match, sorted ``by_number``."""
    images = [p for p in folder.glob(pattern) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    return sorted(images, key=lambda path: by_number(path.name))


def in_order(samples: Iterable[Sample]) -> list[Sample]:
    """Return samples in the order ``by_number`` of their names."""
    return sorted(samples, key=lambda sample: by_number(sample.name))  # type: ignore[attr-defined]


def by_number(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key that sorts names by the values of the numbers in them: frame9 before frame10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def find_image(folder: Path, stem: str) -> Path | None:
    """Find the image of this name and any ending, or None."""
    return next(iter(list_images(folder, f"{stem}.*")), None)


def find_scenes(folder: Path, stem: str) -> list[tuple[Path, Path]]:
    """List (scene, its image of this name): the folder itself if it is a scene, else the scenes right inside it."""
    places = [folder] if find_image(folder, stem) else sorted(p for p in folder.iterdir() if p.is_dir())
    return [(place, image) for place in places if (image := find_image(place, stem)) is not None]


def partner_of(left: Path, right: Path, kind: str = "right") -> Path:
    """Return ``right``. Raises FileError where it is no file, saying that ``left`` has no ``kind`` image."""
    if not right.is_file():
        raise FileError(f"{right}: missing: {left} has no {kind} image; fetch it or remove {left.name}")
    return right


def reader_of(function: Callable[[Path], np.ndarray], *candidates: Path) -> ArrayReader | None:
    """Make a reader of the first of these files that exists, to be called when its content is needed; None: none."""
    path = next((path for path in candidates if path.is_file()), None)
    return None if path is None else lambda: function(path)


def combined(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], first: ArrayReader | None, second: ArrayReader | None
) -> ArrayReader | None:
    """Make a reader that combines what two files say of every pixel; None where one of them is missing."""
    if first is None or second is None:
        return None

    def read() -> np.ndarray:
        one, other = first(), second()
        if one.shape[:2] != other.shape[:2]:
            sizes = " and ".join(f"{array.shape[1]}x{array.shape[0]}" for array in (one, other))
            raise FileError(f"two files of truth of one image are {sizes} pixels: they must agree; fetch them again")
        return function(one, other)

    return read


def rig_of(calibration: Path | None, image: Path) -> StereoRig | None:
    """Read the rig for the size of an image; None without a calibration of rectified images.

    Where the image cannot be read, the rig has the size that the calibration states; None where it states none.
    """
    if calibration is None or describes_raw(calibration):
        return None
    try:
        size = image_size(image)
    except FileError:  # the pair says so when it is read, and the others of the folder can be
        with suppress(FileError):
            return read_calibration(calibration)
        return None
    return read_calibration(calibration, *size)
