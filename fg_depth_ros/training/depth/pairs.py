"""Stereo pairs to train on: opened, split, checked once, and predicted by the teacher, before a training begins."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fg_depth_ros.data.bags.pairs import BagImage
from fg_depth_ros.data.datasets.layouts import collect_sets, list_images
from fg_depth_ros.data.datasets.stereo import open_stereo
from fg_depth_ros.data.samples import StereoSample, frame_slice
from fg_depth_ros.distributed import own_share_first, process_rank
from fg_depth_ros.files import FileError
from fg_depth_ros.progress import Track, no_progress
from fg_depth_ros.training.batches import to_tensor
from fg_depth_ros.training.depth.batch import TeacherPrediction
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.pair_checks import (
    REASONS,
    BadPair,
    check_pair,
    checked_images,
    rectification_check,
    remove_doffs,
)
from fg_depth_ros.training.depth.teacher import PredictionCache, Teacher
from fg_depth_ros.training.stream import evenly

_LOG = logging.getLogger(__name__)

_GIVE_UP_AFTER = 20
"""A set of which the first pairs are all bad is refused after as many, not after hours."""


class TrainingPair(NamedTuple):
    """A pair to train on, and the key of the teacher's cached prediction (empty: not predicted beforehand)."""

    pair: StereoSample
    key: str = ""


class PairSplit(NamedTuple):
    """Pairs by the name of their set: to train on, to validate and select by, to test with."""

    training: dict[str, list[StereoSample]]
    validation: dict[str, list[StereoSample]]
    test: dict[str, list[StereoSample]]


@dataclass
class PairCounts:
    """Pairs that were used and pairs that were left out, by reason."""

    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """First pair with each fault, and its description."""

    def skip(self, name: str, reason: str, detail: str = "") -> None:
        """Count a pair that is left out."""
        self.skipped[reason] += 1
        self.examples.setdefault(reason, f"{name}: {detail}" if detail else name)

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(self.used + other.used, self.skipped + other.skipped, {**other.examples, **self.examples})

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for a card."""
        return {"used": self.used, "skipped": dict(self.skipped), "examples": dict(self.examples)}

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> PairCounts:
        """Return the counts that ``as_dict`` gave."""
        return cls(counts["used"], Counter(counts["skipped"]), dict(counts["examples"]))

    def reasons(self) -> list[str]:
        """Return one line for every reason, the most frequent one first."""
        return [
            f"{count} x {reason}: {REASONS[reason]} (first: {self.examples[reason]})"
            for reason, count in self.skipped.most_common()
        ]

    def summary(self) -> str:
        """Return how many were used, and in one line a reason why the others were not."""
        return "\n  ".join([f"{self.used} pairs used, {self.skipped.total()} left out", *self.reasons()])

    def require_used(self, set_name: str, complete: bool) -> None:
        """Raise FileError if all pairs so far were left out: all of a set (``complete``), or a number of first ones."""
        seen = self.used + self.skipped.total()
        if self.used or not seen or not (complete or seen >= _GIVE_UP_AFTER):
            return
        what = f"none of its {seen} pairs" if complete else f"none of the first {seen} pairs"
        raise FileError(f"{set_name}: {what} can be trained on. {'; '.join(self.reasons())}")


# ---- open and split


def open_pair_sets(paths: Sequence[str | Path], bag: Mapping[str, Any] | None = None) -> dict[str, list[StereoSample]]:
    """Return calibrated pairs by the name of their folder or bag.

    ``paths``: folders in a layout that ``open_stereo_folder`` knows, or of such folders; bags, opened with the options
    ``bag`` of ``open_bag_pairs``. Raises FileError: what cannot be opened, has no calibration, or is not synchronised.
    """
    return collect_sets(paths, lambda path: {"": _opened(path, bag or {})})


def _opened(path: Path, bag: Mapping[str, Any]) -> list[StereoSample]:
    pairs = open_stereo(path, **bag)
    check_synchronised(str(path), pairs)
    if any(pair.rig is None for pair in pairs):
        raise FileError(
            f"{path}: no calibration next to the images, and depth in metres needs focal length and baseline: put a "
            "rig.json, calib.txt or left.yaml and right.yaml there"
        )
    return pairs


def split_frames(
    sets: Mapping[str, Sequence[StereoSample]], frames: str = "", held_out: str = "", test: str = ""
) -> PairSplit:
    """Split every set into parts that have no pair in common; parts as ``frame_slice`` takes them.

    ``frames``: what is used at all. ``held_out``: the validation part; empty = the last tenth of ``frames`` without
    those of ``test``, together, since neighbours look alike. ``test``: the test part; empty = nothing. Raises
    FileError: a set that has no pair left to train on. Raises ValueError: frames that are no range.
    """
    split = PairSplit({}, {}, {})
    for name, pairs in sets.items():
        numbers = range(len(pairs))
        chosen = numbers[frame_slice(frames)]
        testing = set(numbers[frame_slice(test)]) if test else set()
        others = [i for i in chosen if i not in testing]
        validating = numbers[frame_slice(held_out)] if held_out else others[-max(1, len(others) // 10) :]
        training = [i for i in others if i not in validating]
        if not training:
            raise FileError(
                f"{name}: of its {len(pairs)} pairs none is left to train on, with frames '{frames}', held out "
                f"'{held_out or 'the last tenth'}' and test frames '{test}'; give more pairs or choose others"
            )
        split.training[name] = [pairs[i] for i in training]
        for part, wanted in ((split.validation, set(validating) - testing), (split.test, testing)):
            if wanted:
                part[name] = [pairs[i] for i in sorted(wanted)]
    return split


def check_synchronised(set_name: str, pairs: Sequence[StereoSample]) -> None:
    """Refuse images on disk that are no pairs of one moment: other counts or other stamps of the two cameras.

    Applies to samples that name their files (``left``, ``right``), with KITTI's ``timestamps.txt`` above them if there.
    Raises FileError: naming the folders and what to do.
    """
    files = [(p.left, p.right) for p in pairs if isinstance(p.left, Path) and isinstance(p.right, Path)]
    folders = {(left.parent, right.parent) for left, right in files if left.parent != right.parent}
    for left, right in sorted(folders):
        counts = [len(list_images(folder)) for folder in (left, right)]
        if counts[0] != counts[1]:
            raise FileError(
                f"{set_name}: {left} holds {counts[0]} images and {right} {counts[1]}: the cameras were not recorded "
                "together, so equal names need not be equal moments; pair the images by their stamps first"
            )
        _check_stamps(set_name, left.parent / "timestamps.txt", right.parent / "timestamps.txt")
    used = {path for both in files for path in both}
    for folder in sorted({left.parent for left, right in files if left.parent == right.parent}):
        stray = [p for p in list_images(folder) if p not in used and re.match(r"I2_|(.*_)?right$", p.stem)]
        if stray:
            raise FileError(
                f"{set_name}: {stray[0]} and {len(stray) - 1} more right images have no left one: the cameras were not "
                "recorded together; pair the images by their stamps first, or remove these"
            )


def _check_stamps(set_name: str, left: Path, right: Path) -> None:
    if left == right or not (left.is_file() and right.is_file()):
        return
    stamps = [_stamps(path) for path in (left, right)]
    if len(stamps[0]) != len(stamps[1]):
        raise FileError(f"{set_name}: {left} has {len(stamps[0])} stamps and {right} {len(stamps[1])}; pair them first")
    if len(stamps[0]) < 2:
        return
    period = float(np.median(np.diff(stamps[0])))
    apart = np.abs(stamps[0] - stamps[1])
    if np.median(apart) > period / 4:
        raise FileError(
            f"{set_name}: the stamps in {left} and {right} lie {1000 * float(np.median(apart)):.0f} ms apart (median) "
            f"at a period of {1000 * period:.0f} ms: these are not pairs of one moment; pair the images by their stamps"
        )


def _stamps(path: Path) -> np.ndarray:
    """Return the seconds of KITTI's lines such as ``2011-09-26 13:02:25.964389445``; within one recording."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    try:
        return np.array([np.datetime64(line.replace(" ", "T"), "ns").astype(np.int64) for line in lines]) / 1e9
    except ValueError as error:
        raise FileError(f"{path}: not a list of stamps ({error}); remove it or write it again") from None


# ---- prepare


@dataclass(frozen=True)
class PreparedPairs:
    """The usable pairs and the counts of all, by part of a split and set."""

    parts: dict[str, dict[str, list[TrainingPair]]]
    counts: dict[str, dict[str, PairCounts]]

    @property
    def training(self) -> list[TrainingPair]:
        """Return the pairs to train on, of all sets."""
        return [one for pairs in self.parts["training"].values() for one in pairs]

    @property
    def total(self) -> PairCounts:
        """Return the counts of all parts and sets together."""
        return sum((counts for sets in self.counts.values() for counts in sets.values()), start=PairCounts())

    def few(self, part: str, count: int, prefix: str = "") -> dict[str, list[TrainingPair]]:
        """Return up to ``count`` pairs of every set of a part, spread evenly; ``prefix`` stands before the names."""
        return {prefix + name: [pairs[i] for i in evenly(pairs, count)] for name, pairs in self.parts[part].items()}

    def card(self) -> dict[str, dict[str, Any]]:
        """Return the counts for a card."""
        return {part: {name: c.as_dict() for name, c in sets.items()} for part, sets in self.counts.items()}


def prepare_pairs(
    split: PairSplit, teacher: Teacher | None = None, cache: PredictionCache | None = None,
    mask: MaskConfig | None = None, track: Track = no_progress, skip_unusable: bool = False,
) -> PreparedPairs:  # fmt: skip
    """Check every pair once, have the teacher predict it, and return what can be trained on.

    The results are in the cache, so a second run checks nothing twice. Under torchrun every process begins with its own
    share of a set and finds the others' results in the cache. ``teacher``: None if there is none, or where it
    predicts while training: then only the images are checked; else ``cache`` is needed. ``skip_unusable``: leave out a
    set of which no pair can be used, with a warning, instead of raising FileError.
    """
    prepared = PreparedPairs({}, {})
    for part, sets in split._asdict().items():
        results = {
            name: prepare_set(name, pairs, teacher, cache, mask, track, skip_unusable) for name, pairs in sets.items()
        }
        prepared.parts[part] = {name: usable for name, (usable, _) in results.items() if usable}
        prepared.counts[part] = {name: counts for name, (_, counts) in results.items()}
    if process_rank()[0] == 0 and any(prepared.counts.values()):
        _LOG.info("%s", prepared.total.summary())
    return prepared


def prepare_set(
    name: str, pairs: Sequence[StereoSample], teacher: Teacher | None = None, cache: PredictionCache | None = None,
    mask: MaskConfig | None = None, track: Track = no_progress, skip_unusable: bool = False,
) -> tuple[list[TrainingPair], PairCounts]:  # fmt: skip
    """Prepare one set as ``prepare_pairs`` does; return the usable pairs and the counts."""
    counts = PairCounts()
    checked: dict[int, TrainingPair | BadPair] = {}
    order = own_share_first(len(pairs))
    for i in track(order, f"checking {name}", len(order)):
        found = checked[i] = _checked(pairs[i], teacher, cache, mask or MaskConfig())
        if isinstance(found, BadPair):
            counts.skip(f"{name}/{pairs[i].name}", found.reason, str(found))
        else:
            counts.used += 1
        complete = len(checked) == len(pairs)
        try:
            if complete or not skip_unusable:  # processes that gave up early would not agree on the sets
                counts.require_used(name, complete)
        except FileError as error:
            if not skip_unusable:
                raise
            if process_rank()[0] == 0:
                _LOG.warning("left out: %s", error)
    return [one for i in range(len(pairs)) if isinstance(one := checked[i], TrainingPair)], counts


def _checked(
    pair: StereoSample, teacher: Teacher | None, cache: PredictionCache | None, mask: MaskConfig
) -> TrainingPair | BadPair:
    """Return the pair or what is wrong with it, from the cache where that knows it."""
    key = cache.key(pair.name, _identity(pair)) if cache is not None else ""
    known = cache.notes(key) if cache is not None else None
    if known is not None and known["mask"] == asdict(mask):
        return BadPair(known["reason"], known["detail"]) if known["reason"] else TrainingPair(pair, key)
    prediction: TeacherPrediction | None = None
    notes: dict[str, Any] = {"pair": pair.name, "mask": asdict(mask), "reason": "", "detail": ""}
    result: TrainingPair | BadPair = TrainingPair(pair, key)
    try:
        left, right, rig = checked_images(pair)
        check = rectification_check(left, right, rig.doffs)
        left, right, rig = remove_doffs(left, right, rig)
        if teacher is not None:
            prediction = cache.load_if_there(key) if cache is not None and known is not None else None
            prediction = prediction or teacher.predict(to_tensor(left), to_tensor(right))
        notes["share"] = check_pair(check, prediction, rig, mask)
    except BadPair as bad:
        result = bad
        notes |= {"reason": bad.reason, "detail": str(bad)}
    if cache is not None and notes["reason"] != "unreadable":  # what cannot be read now may be readable next time
        cache.save(key, notes, prediction)
    return result


def _identity(pair: StereoSample) -> str:
    """Return a text that identifies the content of a pair: its rig, its name, and its files as they are now."""
    known = json.dumps([pair.name, pair.rig.to_dict() if pair.rig else None])
    left, right = pair.left, pair.right
    try:
        if isinstance(left, Path) and isinstance(right, Path):
            return known + _file_identity(left) + _file_identity(right)
        if isinstance(left, BagImage) and isinstance(right, BagImage):
            bag = Path(left.bag.path)
            files = sorted(bag.iterdir()) if bag.is_dir() else [bag]
            places = [left.place, right.place, left.rectification.sides]
            return known + "".join(map(_file_identity, files)) + repr(places)
        return known + hashlib.sha256(b"".join(image.tobytes() for image in pair.images())).hexdigest()
    except (FileError, OSError) as error:
        return f"{known} {error}"


def _file_identity(path: Path) -> str:
    status = path.stat()
    return f" {path.resolve()} {status.st_size} {status.st_mtime_ns}"
