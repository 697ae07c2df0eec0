"""Recordings for a fine-tuning: found, checked, opened, split by time; what is left out is named with the reason."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from fg_depth_ros.data.bags.checks import check_bag
from fg_depth_ros.data.bags.files import storage_files
from fg_depth_ros.data.bags.folders import bag_names, find_bags
from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.distributed import own_share_first, process_rank
from fg_depth_ros.files import FileError, write_json
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.progress import Track, no_progress
from fg_depth_ros.training.depth.pairs import PairSplit
from fg_depth_ros.training.finetune.config import TimeSplit

_LOG = logging.getLogger(__name__)
_TRAINING, _STOPPING, _HELD_OUT, _GUARD = range(4)
_PARTS = ("training", "stopping", "held_out", "guard")
_WALL_CLOCK = 10**18  # ns; a stamp before September 2001 is no date, and two such clocks are not one
_GAP = 3  # periods; a longer pause counts as this
_COMPARED = 5  # pairs of two bags, of those with the same stamps, that tell whether the bags are of one recording


@dataclass(frozen=True)
class Recordings:
    """Recordings that are ready to be learned from."""

    pairs: PairSplit
    """``validation`` is the stopping part, ``test`` the held-out one."""
    bags: list[dict[str, Any]]
    """Check of every bag that was found: ``BagCheck.to_dict()`` with ``name`` and ``parts`` (pairs by part; empty: left
    out)."""
    split: TimeSplit

    @property
    def used(self) -> list[dict[str, Any]]:
        """Return the bags that are used."""
        return [bag for bag in self.bags if bag["parts"]]

    @property
    def rig(self) -> StereoRig:
        """Return the camera that most pairs to train on were taken with."""
        counts: dict[StereoRig, int] = {}
        for pairs in self.pairs.training.values():
            rig = pairs[0].rig
            assert rig is not None
            counts[rig] = counts.get(rig, 0) + len(pairs)
        return max(counts, key=counts.__getitem__)

    def card(self) -> list[dict[str, Any]]:
        """Return the entries for the card of the weights."""
        stored = ("name", "sha256", "pairs", "seconds", "usable", "parts", "problems")
        return [{key: bag[key] for key in stored} for bag in self.bags]


def open_recordings(
    paths: Sequence[str | Path], split: TimeSplit, options: Mapping[str, Any] | None = None, notes: str | Path = "",
    track: Track = no_progress,
) -> Recordings:  # fmt: skip
    """Find, check, open and split the bags among these paths and below them.

    Under torchrun every process begins with its own share of the bags and finds what the others noted. ``options``: of
    ``data.bags.open_bag_pairs``. ``notes``: folder for the results of the checks, so that nothing is checked twice;
    empty = nowhere. Raises FileError: no bag, none that can be used, or too few pairs for the parts.
    """
    found = find_bags(paths)
    order = own_share_first(len(found))
    checked: dict[int, tuple[dict[str, Any], list[StereoSample]]] = {}
    for i in track(order, "checking bags", len(order)):
        checked[i] = _checked(found[i], dict(options or {}), Path(notes) if notes else None)
    sets: dict[str, list[StereoSample]] = {}
    bags: list[dict[str, Any]] = []
    first_of: dict[str, str] = {}
    for i, name in enumerate(bag_names(found)):
        bag, pairs = checked[i]
        bags.append({"name": name, **bag, "parts": {}})
        twin = first_of.setdefault(bag["sha256"], name) if bag["sha256"] else name
        if twin != name:
            _leave_out(bags[-1], f"the same recording as {twin}")
        elif bag["usable"]:
            sets[name] = pairs
    overlaps = _overlaps(sets)
    for part, whole in overlaps:
        if part in sets and {pair.stamp for pair in sets[part]} <= {pair.stamp for pair in sets[whole]}:
            _leave_out(next(bag for bag in bags if bag["name"] == part), f"all its pairs are in {whole}, too")
            del sets[part]
    if process_rank()[0] == 0:
        _log_problems(bags)
    if not sets:
        reasons = "; ".join(problem_text(bag) for bag in bags)
        raise FileError(f"none of {len(bags)} bag(s) can be used: {reasons}")
    parts, counts = split_by_time(sets, split, {bag["name"]: bag["sha256"] for bag in bags}, overlaps)
    for bag in bags:
        bag["parts"] = counts.get(bag["name"], {})
    return Recordings(parts, bags, split)


def problem_text(bag: Mapping[str, Any], severity: str = "leave out") -> str:
    """Return the problems of a checked bag of this severity, in one line."""
    return "; ".join(problem["text"] for problem in bag["problems"] if problem["severity"] == severity)


def _leave_out(bag: dict[str, Any], text: str) -> None:
    problem = {"severity": "leave out", "text": text}
    bag |= {"usable": False, "problems": [*bag["problems"], problem]}


def _log_problems(bags: Sequence[Mapping[str, Any]]) -> None:
    for bag in bags:
        if not bag["usable"]:
            _LOG.warning("left out: %s: %s", bag["name"], problem_text(bag))
        elif warned := problem_text(bag, "warn"):
            _LOG.warning("%s: %s", bag["name"], warned)


def _checked(path: Path, options: Mapping[str, Any], notes: Path | None) -> tuple[dict[str, Any], list[StereoSample]]:
    """Return the results of the check, from the notes where they are there, and the pairs of a bag that can be used."""
    note = notes / f"{path.name}-{_key(path, options)}.json" if notes else None
    if note is not None and note.is_file():
        try:
            return json.loads(note.read_text()), open_bag_pairs(path, **options)
        except (ValueError, FileError):
            pass  # damaged since then: checked again
    check = check_bag(path, **options)
    bag = check.to_dict()
    if note is not None and check.usable:  # what cannot be read now may be readable next time
        write_json(note, bag, indent=1)
    return bag, list(check.samples)


def _key(path: Path, options: Mapping[str, Any]) -> str:
    """Return a hash that identifies a bag as it is now, and the way it is opened."""
    known = {key: value.to_dict() if isinstance(value, StereoRig) else value for key, value in options.items()}
    text = json.dumps([str(path.resolve()), known], sort_keys=True)
    try:
        for file in storage_files(path):
            status = file.stat()
            text += f" {file.name} {status.st_size} {status.st_mtime_ns}"
    except OSError as error:
        text += f" {error}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _overlaps(sets: Mapping[str, Sequence[StereoSample]]) -> list[tuple[str, str]]:
    """Return the names of every two bags that hold pairs of one recording, the one with fewer pairs first.

    Their pairs with the same stamp have the same images. Stamps alone say nothing: two runs of a simulation share them.
    """
    found = []
    stamps = {name: _stamps(pairs) for name, pairs in sets.items()}
    for (first, a), (second, b) in combinations(stamps.items(), 2):
        if a[0] > b[-1] or b[0] > a[-1]:
            continue
        both = np.intersect1d(a, b, assume_unique=True)
        count = min(_COMPARED, len(both))
        chosen = both[[(2 * i + 1) * len(both) // (2 * count) for i in range(count)]]
        places = zip(np.searchsorted(a, chosen), np.searchsorted(b, chosen), strict=True)
        if count and all(_same_images(sets[first][i], sets[second][k]) for i, k in places):
            found.append((second, first) if len(b) <= len(a) else (first, second))
    return found


def _same_images(one: StereoSample, other: StereoSample) -> bool:
    try:
        images = zip(one.unscaled_images(), other.unscaled_images(), strict=True)
        return all(np.array_equal(a, b) for a, b in images)
    except FileError:
        return True  # what cannot be read tells nothing apart


def _stamps(pairs: Sequence[StereoSample]) -> np.ndarray:
    return np.array([pair.stamp for pair in pairs], np.int64)


def split_by_time(
    sets: Mapping[str, Sequence[StereoSample]],
    split: TimeSplit,
    digests: Mapping[str, str] | None = None,
    overlaps: Sequence[tuple[str, str]] = (),
) -> tuple[PairSplit, dict[str, dict[str, int]]]:
    """Split the pairs of bags, in the order of time, into three parts that have no moment in common.

    Bags whose stamps are dates are kept apart from each other, too: an episode that another one continues, or the same
    pairs in two bags. A bag too short to be cut is trained on. ``digests``: SHA-256 of every bag, hex, for a split of
    whole bags. ``overlaps``: names of bags that hold pairs of one recording, and so have a common clock whatever their
    stamps are. Returns the parts (``validation`` is the stopping part, ``test`` the held-out one), and how many pairs
    of every bag are in which part, the guard included. Raises FileError: a part that no pair is in; the message says
    what to do.
    """
    stamps = {name: _with_clock_set(_stamps(pairs)) for name, pairs in sets.items()}
    by_bag = {}
    if split.kind == "bag":
        by_bag = _parts_of_bags({name: (digests or {})[name] for name in sets}, split.held_out)
    parts = {
        name: np.full(len(times), by_bag[name]) if by_bag else _parts_of_time(times, split)
        for name, times in stamps.items()
    }
    for names in _clocks(stamps, overlaps):
        _keep_apart({name: stamps[name] for name in names}, parts, round(split.guard * 1e9))
    counts = {
        name: {what: int(np.count_nonzero(part == k)) for k, what in enumerate(_PARTS)} for name, part in parts.items()
    }
    for what in _PARTS[:3]:
        if not any(count[what] for count in counts.values()):
            total = sum(map(len, stamps.values()))
            raise FileError(
                f"the {total} pairs of {len(sets)} bag(s) leave none for the {what.replace('_', '-')} part (split "
                f"'{split.kind}', held out {split.held_out:g}, guard {split.guard:g} s): record more, choose another "
                "split, or a smaller guard"
            )
    chosen = [
        {
            name: [pair for pair, part in zip(pairs, parts[name], strict=True) if part == k]
            for name, pairs in sets.items()
            if (parts[name] == k).any()
        }
        for k in (_TRAINING, _STOPPING, _HELD_OUT)
    ]
    return PairSplit(*chosen), counts  # type: ignore[arg-type]


def _with_clock_set(stamps: np.ndarray) -> np.ndarray:
    """Move stamps of before the clock was set to directly before the first date; bags without a date keep theirs.

    A computer without a battery for its clock begins at 0 or at a date of long ago.
    """
    unset = int(np.searchsorted(stamps, _WALL_CLOCK))
    if not 0 < unset < len(stamps):
        return stamps
    jump = stamps[unset] - stamps[unset - 1] - round(float(np.median(np.diff(stamps))))
    return np.concatenate([stamps[:unset] + jump, stamps[unset:]])


def _clocks(stamps: Mapping[str, np.ndarray], overlaps: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Group the names of bags by the clock of their stamps: dates have one, and so have overlapping bags."""
    clock = {name: "" if len(times) and times[-1] >= _WALL_CLOCK else name for name, times in stamps.items()}
    for pair in overlaps:
        one, other = (clock.get(name, name) for name in pair)
        clock = {name: other if its == one else its for name, its in clock.items()}
    return [[name for name in clock if clock[name] == its] for its in dict.fromkeys(clock.values())]


def _parts_of_time(stamps: np.ndarray, split: TimeSplit) -> np.ndarray:
    """Return the part of every pair of one bag, by how much was recorded before it.

    A pause, or a clock that was set forward, counts as three periods. All are for training where the guard leaves one
    of three parts without a pair.
    """
    steps = np.diff(stamps)
    longest = int(_GAP * np.median(steps)) if len(steps) else 0
    since = np.append(0, np.cumsum(np.minimum(steps, longest)))
    span = max(1, int(since[-1]))
    if split.kind == "end":
        done = since / span
        part = np.where(
            done >= 1 - split.held_out, _HELD_OUT, np.where(done >= 1 - 2 * split.held_out, _STOPPING, _TRAINING)
        )
    else:
        period = max(3, round(1 / split.held_out))
        turn = np.minimum(since * (2 * period) // span, 2 * period - 1) % period
        part = np.where(turn == period // 2, _HELD_OUT, np.where(turn == period - 1, _STOPPING, _TRAINING))
    apart = part.copy()
    _keep_apart({"": stamps}, {"": apart}, round(split.guard * 1e9))
    return part if len(np.unique(apart[apart != _GUARD])) == 3 else np.full(len(stamps), _TRAINING)


def _parts_of_bags(digests: Mapping[str, str], share: float) -> dict[str, int]:
    """Return the part of every bag: its hash as a number in 0 .. 1; of three or more, one at least is in each part."""
    numbers = {name: int(digest[:13], 16) / 16**13 for name, digest in digests.items()}
    order = sorted(digests, key=numbers.__getitem__)
    wanted, both = (sum(numbers[name] < limit for name in order) for limit in (share, 2 * share))
    held = max(1, min(wanted, len(order) - 2))
    stopping = max(1, min(both - held, len(order) - held - 1))
    if (held, stopping) != (wanted, both - wanted) and process_rank()[0] == 0:
        _LOG.warning(
            "--split bag: by their hashes %d of %d bags would be held out and %d for early stopping; as every part "
            "needs one, %s held out and %s for early stopping, which may change when bags are added",
            wanted, len(order), both - wanted, ", ".join(order[:held]), ", ".join(order[held : held + stopping]),
        )  # fmt: skip
    return {
        name: _HELD_OUT if i < held else _STOPPING if i < held + stopping else _TRAINING for i, name in enumerate(order)
    }


def _keep_apart(stamps: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray], guard: int) -> None:
    """Move pairs to the guard that are too near in time to one of a part that comes first, in any bag of one clock."""
    times = np.concatenate(list(stamps.values()))
    part = np.concatenate([parts[name] for name in stamps])
    for above, below in ((_HELD_OUT, _STOPPING), (_HELD_OUT, _TRAINING), (_STOPPING, _TRAINING)):
        fixed = np.sort(times[part == above])
        if len(fixed):
            place = np.searchsorted(fixed, times)
            before = np.abs(times - fixed[np.maximum(place - 1, 0)])
            after = np.abs(times - fixed[np.minimum(place, len(fixed) - 1)])
            part[(np.minimum(before, after) <= guard) & (part == below)] = _GUARD
    ends = np.cumsum([len(times) for times in stamps.values()])[:-1]
    for name, new in zip(stamps, np.split(part, ends), strict=True):
        parts[name][:] = new
