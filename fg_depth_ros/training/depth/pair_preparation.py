"""Stereo pairs from folders and bags: opened, looked at once, and answered by the teacher, before a training begins."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from fg_depth_ros.data.bags.pairs import BagImage, open_bag_pairs
from fg_depth_ros.data.bags.storage import is_bag
from fg_depth_ros.data.datasets.stereo import collect_sets, open_stereo_folder
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.files import FileError
from fg_depth_ros.training.depth.batch import Taught
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.pair_checks import (
    BadPair,
    PairCounts,
    as_tensor,
    check_pair,
    check_partners,
    checked_images,
    level_pair,
    refuse_if_useless,
    witness,
)
from fg_depth_ros.training.depth.teacher import Teacher, TeachingCache

_LOG = logging.getLogger(__name__)
Track = Callable[[Iterable[int], str, int], Iterable[int]]
"""Shows how far a loop is: (what to go through, what is done, how many) -> the same things."""


class Lesson(NamedTuple):
    """A pair and the key of what the teacher said of it; no key where the teacher is not asked beforehand."""

    pair: StereoSample
    key: str = ""


def frames_of(text: str) -> slice:
    """``0:80`` -> the first 80, ``80:`` -> all others, empty -> all. Raises ValueError."""
    if not text:
        return slice(None)
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return slice(int(first) if first else None, int(last) if last else None)
    except ValueError:
        raise ValueError(f"frames '{text}' are not FIRST:LAST, such as 0:80 (the last one not included)") from None


def open_pair_sets(paths: Sequence[str | Path], bag: Mapping[str, Any] | None = None) -> dict[str, list[StereoSample]]:
    """Calibrated pairs by the name of their folder or bag.

    Args:
        paths: folders in a layout that ``open_stereo_folder`` knows, or of such folders; bags (.mcap, .db3, or their
            folder).
        bag: options of ``data.bags.open_bag_pairs``: topics, slop.

    Raises:
        FileError: what cannot be opened, has no calibration, or is not synchronised.
    """
    return collect_sets(paths, lambda path: {"": _opened(path, bag or {})})


def _opened(path: Path, bag: Mapping[str, Any]) -> list[StereoSample]:
    pairs: list[StereoSample]
    if is_bag(path):
        pairs = list(open_bag_pairs(path, **bag))
    else:
        pairs = list(open_stereo_folder(path))
        check_partners(str(path), pairs)
    if any(pair.rig is None for pair in pairs):
        raise FileError(
            f"{path}: no calibration beside the images, and depth in metres needs focal length and baseline: put a "
            "rig.json, calib.txt or left.yaml and right.yaml there"
        )
    return pairs


class Division(NamedTuple):
    """Pairs by set: to train on, to judge and select by, to watch."""

    training: dict[str, list[StereoSample]]
    held_out: dict[str, list[StereoSample]]
    watched: dict[str, list[StereoSample]]


def divide(
    sets: Mapping[str, Sequence[StereoSample]], frames: str = "", held_out: str = "", watched: str = ""
) -> Division:
    """Parts of every set that have no pair in common.

    Args:
        sets: pairs by the name of their set.
        frames: what is used at all, as ``frames_of`` takes it.
        held_out: what is judged by; empty = the last tenth of ``frames``, together, since neighbours look alike.
        watched: what is watched; empty = nothing.

    Raises:
        FileError: a set that has no pair left to train on.
        ValueError: frames that are no range.
    """
    division = Division({}, {}, {})
    for name, pairs in sets.items():
        numbers = range(len(pairs))
        chosen = numbers[frames_of(frames)]
        judged = numbers[frames_of(held_out)] if held_out else chosen[-max(1, len(chosen) // 10) :]
        seen = set(numbers[frames_of(watched)]) if watched else set()
        training = [i for i in chosen if i not in judged and i not in seen]
        if not training:
            raise FileError(
                f"{name}: of its {len(pairs)} pairs none is left to train on, with frames '{frames}', held out "
                f"'{held_out or 'the last tenth'}' and watched '{watched}'; give more pairs or choose others"
            )
        division.training[name] = [pairs[i] for i in training]
        for part, wanted in ((division.held_out, set(judged) - seen), (division.watched, seen)):
            if wanted:
                part[name] = [pairs[i] for i in sorted(wanted)]
    return division


def first_process() -> bool:
    """Whether this is the process that tells what is going on, of those that torchrun started."""
    return shard()[0] == 0


def shard() -> tuple[int, int]:
    """Which of how many processes this is, of those that torchrun or another launcher started."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def prepare(
    sets: Mapping[str, Sequence[StereoSample]],
    teacher: Teacher | None,
    cache: TeachingCache | None,
    mask: MaskConfig,
    track: Track,
    skip_useless: bool = False,
) -> tuple[dict[str, list[Lesson]], dict[str, PairCounts]]:
    """Look at every pair once, have the teacher answer, and keep what can be trained on.

    What was found out is in the cache, so a second run looks at nothing twice. Under torchrun every process begins
    with its own share of a set and finds the others' answers in the cache.

    Args:
        sets: pairs by the name of their set.
        teacher: None where the truth teaches: then only the views are checked.
        cache: of this teacher's answers; needed with a teacher.
        mask: the checks of its answers.
        track: shows how far it is.
        skip_useless: a set of which no pair can be used is left out with a warning.

    Returns:
        The usable pairs of every set, and the counts of every set.

    Raises:
        FileError: a set of which no pair can be used.
    """
    rank, ranks = shard()
    counted, usable = {}, {}
    for name, pairs in sets.items():
        looked: dict[int, Lesson | BadPair] = {}
        counts = counted[name] = PairCounts()
        order = sorted(range(len(pairs)), key=lambda i: ((i - rank) % ranks, i))
        for i in track(order, name, len(order)):
            looked[i] = _look(pairs[i], teacher, cache, mask)
            found = looked[i]
            if isinstance(found, BadPair):
                counts.skip(f"{name}/{pairs[i].name}", found.reason, str(found))
            else:
                counts.used += 1
            whole = len(looked) == len(pairs)
            try:
                if whole or not skip_useless:  # processes that gave up early would not agree on the sets
                    refuse_if_useless(name, counts, whole)
            except FileError as error:
                if not skip_useless:
                    raise
                if first_process():
                    _LOG.warning("left out: %s", error)
        if counts.used:
            usable[name] = [lesson for i in range(len(pairs)) if isinstance(lesson := looked[i], Lesson)]
    return usable, counted


def _look(
    pair: StereoSample, teacher: Teacher | None, cache: TeachingCache | None, mask: MaskConfig
) -> Lesson | BadPair:
    key = cache.key(pair.name, _identity(pair)) if cache is not None else ""
    notes = cache.notes(key) if cache is not None else None
    if notes is None or notes["mask"] != asdict(mask):
        notes = _examine(pair, teacher, cache, key, mask)
    return BadPair(notes["reason"], notes["detail"]) if notes["reason"] else Lesson(pair, key)


def _examine(
    pair: StereoSample, teacher: Teacher | None, cache: TeachingCache | None, key: str, mask: MaskConfig
) -> dict[str, Any]:
    taught: Taught | None = None
    notes: dict[str, Any] = {"pair": pair.name, "mask": asdict(mask), "reason": "", "detail": ""}
    try:
        left, right, rig = checked_images(pair)
        seen = witness(left, right, rig.doffs)
        left, right, rig = level_pair(left, right, rig)
        if teacher is not None:
            taught = _known(cache, key) or teacher.teach(as_tensor(left), as_tensor(right))
        notes["share"] = check_pair(seen, taught, rig, mask)
    except BadPair as bad:
        notes |= {"reason": bad.reason, "detail": str(bad)}
    if cache is not None and notes["reason"] != "unreadable":  # what cannot be read now may be readable next time
        cache.keep(key, notes, taught)
    return notes


def _known(cache: TeachingCache | None, key: str) -> Taught | None:
    """A kept answer, whatever mask it was judged by."""
    if cache is None or cache.notes(key) is None:
        return None
    try:
        return cache.taught(key)
    except FileError:
        return None


def _identity(pair: StereoSample) -> str:
    """What tells the content of a pair from all others': its rig, its name, and its files as they are now."""
    known = json.dumps([pair.name, pair.rig.to_dict() if pair.rig else None])
    left, right = pair.left, pair.right
    try:
        if isinstance(left, Path) and isinstance(right, Path):
            return known + _file_identity(left) + _file_identity(right)
        if isinstance(left, BagImage) and isinstance(right, BagImage):
            bag = Path(left.bag.path)
            files = sorted(bag.iterdir()) if bag.is_dir() else [bag]
            return known + "".join(map(_file_identity, files)) + repr([left.place, right.place])
        return known + hashlib.sha256(b"".join(image.tobytes() for image in pair.images())).hexdigest()
    except (FileError, OSError) as error:
        return f"{known} {error}"


def _file_identity(path: Path) -> str:
    status = path.stat()
    return f" {path.resolve()} {status.st_size} {status.st_mtime_ns}"
