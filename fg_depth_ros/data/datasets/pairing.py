"""Finds the left and right images, or videos, of a folder by how the names of the two cameras differ."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fg_depth_ros.data.datasets.layouts import NoPairsError, by_number
from fg_depth_ros.data.io.formats import IMAGE_SUFFIXES
from fg_depth_ros.data.io.video import VIDEO_SUFFIXES
from fg_depth_ros.files import FileError

_LOG = logging.getLogger(__name__)
_NO_IMAGE = {"depth", "disp", "disparity", "mask", "flow", "conf", "confidence"}  # words in names of other things
_NAMED = 3  # of what is missing
_SCENE_AND_FRAME = re.compile(r"\d{6}_(\d\d)")  # of KITTI 2012 and 2015


@dataclass(frozen=True)
class PairPattern:
    """Naming of the images of two cameras below one folder.

    A pattern is folders and a name without its ending, such as ``cam0/data/*`` or ``*_left``. Folders are whole names,
    in any case; ``*`` is what names the pair, and ``_`` next to a word is any of ``_ - .`` and a space, or nothing
    between a word and a number. A pattern without ``*`` is one pair, named by its folder.
    """

    family: str
    """Patterns of one family are alternatives: the first that is there counts."""
    left: str
    right: str
    inside: tuple[str, ...] = ("training",)
    """Folders in which they may lie instead; with a ``*``, each of them holds a part of the set."""
    frame: str = ""
    """Of pairs that are all named as KITTI's scenes, such as 000003_10, only those of this frame count, if any."""
    loose: bool = False
    """Left images alone are no stereo set that is incomplete: single cameras have such names, too."""
    common: bool = False
    """Named in the error where no pattern applies."""


class FoundPair(NamedTuple):
    """The two files of a pair, or of a video."""

    name: str
    left: Path
    right: Path
    place: Path
    """The folder below which the pattern applies."""


@dataclass
class _Found:
    """Files that one pattern found in a folder."""

    pattern: PairPattern
    pairs: list[FoundPair]
    missing: list[str]
    other_frames: int = 0


def find_pairs(folder: Path, patterns: Sequence[PairPattern]) -> tuple[PairPattern, list[FoundPair]]:
    """Find the pairs of one camera in a folder, and the pattern of their names.

    Files without a partner are left out, with a warning. Raises NoPairsError: no pattern applies. Raises FileError: no
    such folder; several patterns apply, naming them; no pair is complete.
    """
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; give the folder that holds the pairs")
    search = _Search(patterns)
    found = search.apply(folder)
    if not any(each.pairs for each in found):
        found += search.apply(folder, inside=True)
    complete = [each for each in found if each.pairs]
    if len(complete) > 1:
        several = "; ".join(
            f"{_shown(each, folder)}, {len(each.pairs)} pair(s) in {each.pattern.left} and {each.pattern.right}"
            for each in complete
        )
        raise FileError(f"{folder}: holds pairs of several cameras or layouts: {several}; keep one of them there")
    if complete:
        (each,) = complete
        if each.missing:
            pairs, count = len(each.pairs), len(each.missing)
            _LOG.warning("%s (left out: %d of %d pairs)", "; ".join(each.missing[:_NAMED]), count, pairs + count)
        if each.other_frames:
            _LOG.info(
                "%s: of KITTI's scenes only frame %s is read (left out: %d of %d pairs)",
                folder, each.pattern.frame, each.other_frames, len(each.pairs) + each.other_frames,
            )  # fmt: skip
        return each.pattern, each.pairs
    strict = next((each.missing[0] for each in found if each.missing and not each.pattern.loose), None)
    if strict is not None:
        raise FileError(strict)
    loose = next((each.missing[0] for each in found if each.missing), None)
    if loose is not None:
        raise NoPairsError(loose)
    inside = [p.name for p in search.listed(folder)[0] if any(each.pairs for each in search.apply(p))]
    if inside:
        raise NoPairsError(f"{folder}: no stereo pairs found, but in {', '.join(inside)} there are: give one of these")
    if not any(folder.iterdir()):
        raise NoPairsError(f"{folder}: the folder is empty; give the one that holds the pairs")
    common = "; ".join(f"{each.left} and {each.right} ({each.family})" for each in patterns if each.common)
    raise NoPairsError(f"{folder}: no stereo pairs found. Common layouts: {common}. All layouts: docs/data.md")


def _shown(found: _Found, folder: Path) -> str:
    first = found.pairs[0]
    return f"{first.left.relative_to(folder)} + {first.right.relative_to(folder)}"


def list_media(folder: Path) -> list[Path]:
    """List the images and videos right in a folder, sorted."""
    return _listed(folder)[1]


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the folders, and the images and videos, right in a folder, sorted; without what is hidden."""
    with os.scandir(folder) as entries:
        seen = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    media = [folder / name for name, inner in seen if not inner and _suffix(name) in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    return [folder / name for name, inner in seen if inner], media


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def is_video(path: Path) -> bool:
    """Return whether a file is named as a video."""
    return _suffix(path.name) in VIDEO_SUFFIXES


class _Search:
    """Applies patterns to folders, each of which is listed once."""

    def __init__(self, patterns: Sequence[PairPattern]) -> None:
        self.listed = cache(_listed)
        self._patterns = patterns
        self._names = [_Names.of(each) for each in patterns if "/" not in each.left and "*" in each.left]

    def apply(self, folder: Path, inside: bool = False) -> list[_Found]:
        """Apply the patterns right in a folder, or ``inside``; the first of a family that finds pairs counts."""
        found: list[_Found] = []
        for pattern in self._patterns:
            if any(each.pairs and each.pattern.family == pattern.family for each in found):
                continue
            for where in pattern.inside if inside else ("",):
                each = _Found(pattern, [], [])
                for place in sorted(p for p in folder.glob(where) if p.is_dir()) if where else [folder]:
                    self._look(place, place.name if "*" in where else "", each)
                if each.pairs or each.missing:
                    found.append(each)
                    break
        return found

    def _look(self, place: Path, part: str, found: _Found) -> None:
        """Add what a pattern finds in one place; ``part`` names this part of the set."""
        pattern = found.pattern
        left_folder, right_folder = self._follow(place, pattern.left), self._follow(place, pattern.right)
        if left_folder is None or right_folder is None:
            return
        own = _Names.of(pattern)
        lefts, rights = (self.listed(side)[1] for side in (left_folder, right_folder))
        if left_folder == right_folder:
            matched = _joined(own.keys(lefts, own.left), own.keys(rights, own.right))
        else:
            matched = _match_folders(lefts, rights, self._names)
        if pattern.frame:
            of_frame = _of_frame(matched, pattern.frame)
            found.other_frames += len(matched) - len(of_frame)
            matched = of_frame
        if not any(left for _, left, _ in matched):
            return
        for key, left, right in matched:
            if left is not None and right is not None:
                name = "_".join(filter(None, (part, key))) or place.resolve().name
                found.pairs.append(FoundPair(name, left, right, place))
            elif left is not None:
                expected = right_folder / (left.name if left_folder != right_folder else own.partner(left))
                found.missing.append(f"{expected}: missing: {left} has no right image; fetch it or remove {left.name}")
            elif right is not None:
                found.missing.append(f"{right}: has no left image; fetch it or remove {right.name}")

    def _follow(self, place: Path, pattern: str) -> Path | None:
        """Follow the folders of a pattern, in any case; None: they are not there."""
        for name in pattern.split("/")[:-1]:
            fitting = [p for p in self.listed(place)[0] if p.name.lower() == name.lower()]
            if not fitting:
                return None
            place = next((p for p in fitting if p.name == name), fitting[0])
        return place


_Matched = list[tuple[str, Path | None, Path | None]]


def _match_folders(lefts: list[Path], rights: list[Path], names: Sequence[_Names]) -> _Matched:
    """Match the files of two folders: by equal names, by names that differ in the side, by their order."""
    left_keys, right_keys = ({path: path.stem for path in files} for files in (lefts, rights))
    if not rights or set(left_keys.values()) & set(right_keys.values()):
        return _joined(left_keys, right_keys)
    for each in names:
        sides = each.keys(lefts, each.left), each.keys(rights, each.right)
        if set(sides[0].values()) & set(sides[1].values()):
            return _joined(*sides)
    if not lefts:
        return []
    where = f"{lefts[0].parent} and {rights[0].parent}"
    first = f"such as {lefts[0].name} and {rights[0].name}"
    if len(lefts) != len(rights):
        raise FileError(
            f"{where}: their {len(lefts)} and {len(rights)} images have no name in common ({first}), and the counts "
            "differ: nothing tells which belong together; give the images of a pair one name"
        )
    _LOG.warning(
        "%s: no names in common (%s): the %d images are paired by their order; check that they belong together",
        where, first, len(lefts),
    )  # fmt: skip
    ordered = (sorted(files, key=lambda path: by_number(path.stem)) for files in (lefts, rights))
    return [(left.stem, left, right) for left, right in zip(*ordered, strict=True)]


def _of_frame(matched: _Matched, frame: str) -> _Matched:
    """Return what is of one frame, where all are named as KITTI's scenes and some are of it; else all."""
    named = [_SCENE_AND_FRAME.fullmatch(key) for key, _, _ in matched]
    if not all(named):
        return matched
    return [each for each, name in zip(matched, named, strict=True) if name and name[1] == frame] or matched


def _joined(lefts: Mapping[Path, str], rights: Mapping[Path, str]) -> _Matched:
    """Join files by their key; of several that fit, one with the same ending."""
    matched: _Matched = []
    unused, by_key = dict(rights), defaultdict(list)
    for path, key in rights.items():
        by_key[key].append(path)
    for left, key in lefts.items():
        fitting = [path for path in by_key[key] if is_video(path) == is_video(left)]
        right = next((path for path in fitting if path.suffix == left.suffix), fitting[0] if fitting else None)
        matched.append((key, left, right))
        for path in fitting:
            unused.pop(path, None)
    return matched + [(key, None, path) for path, key in unused.items()]


class _Names(NamedTuple):
    """Difference of the file names of two cameras in one folder."""

    left: re.Pattern[str]
    right: re.Pattern[str]
    other: str
    """The word for the right side."""

    @classmethod
    def of(cls, pattern: PairPattern) -> _Names:
        left, right = (side.split("/")[-1] for side in (pattern.left, pattern.right))
        return cls(_compiled(left), _compiled(right), right.strip("*_"))

    def keys(self, files: Iterable[Path], side: re.Pattern[str]) -> dict[Path, str]:
        """Return what names the pair, of the files of one side."""
        found = ((path, side.fullmatch(path.stem)) for path in files)
        keys = {path: "_".join(filter(None, (match["before"], match["after"]))) for path, match in found if match}
        return {path: key for path, key in keys.items() if not _NO_IMAGE & set(re.split(r"[\W_]", key.lower()))}

    def partner(self, left: Path) -> str:
        """Return the name of the right file of a left one."""
        match = self.left.fullmatch(left.stem)
        assert match is not None
        word = self.other.lower() if match["word"].islower() else self.other
        return left.stem[: match.start("word")] + word + left.stem[match.end("word") :] + left.suffix


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile the last part of a pattern, with groups before, word, after."""
    word = pattern.strip("*_")
    glued = len(word) > 1 and word.isalpha()  # left0001, but neither im1L nor cam01
    end, begin = (r"(?:[-_. ]|(?<=\d))", r"(?:[-_. ]|(?=\d))") if glued else ("[-_. ]", "[-_. ]")
    before = f"(?P<before>.+?){end}" if pattern.startswith("*") else "(?P<before>)"
    after = f"{begin}(?P<after>.+)" if pattern.endswith("*") else "(?P<after>)"
    return re.compile(f"{before}(?P<word>{re.escape(word)}){after}", re.IGNORECASE)
