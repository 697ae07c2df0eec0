"""Recordings for a fine-tuning: found, checked, opened, split by time; what is left out is named with the reason."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        twin = first_of.setdefault(bag["sha256"], name) if bag["sha256"] else name
        if twin != name:
            problem = {"severity": "leave out", "text": f"the same recording as {twin}"}
            bag = {**bag, "usable": False, "problems": [*bag["problems"], problem]}
        bags.append({"name": name, **bag, "parts": {}})
        if bag["usable"]:
            sets[name] = pairs
    if process_rank()[0] == 0:
        _log_problems(bags)
    if not sets:
        reasons = "; ".join(problem_text(bag) for bag in bags)
        raise FileError(f"none of {len(bags)} bag(s) can be used: {reasons}")
    parts, counts = split_by_time(sets, split)
    for bag in bags:
        bag["parts"] = counts.get(bag["name"], {})
    return Recordings(parts, bags, split)


def problem_text(bag: Mapping[str, Any], severity: str = "leave out") -> str:
    """Return the problems of a checked bag of this severity, in one line."""
    return "; ".join(problem["text"] for problem in bag["problems"] if problem["severity"] == severity)


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


def split_by_time(
    sets: Mapping[str, Sequence[StereoSample]], split: TimeSplit
) -> tuple[PairSplit, dict[str, dict[str, int]]]:
    """Split the pairs of bags, in the order of time, into three parts that have no moment in common.

    Bags whose stamps are dates are kept apart from each other, too: an episode that another one continues, or the same
    pairs in two bags. A bag too short to be cut is trained on. Returns the parts (``validation`` is the stopping part,
    ``test`` the held-out one), and how many pairs of every bag are in which part, the guard included. Raises FileError:
    a part that no pair is in; the message says what to do.
    """
    stamps = {name: np.array([pair.stamp for pair in pairs], np.int64) for name, pairs in sets.items()}
    by_bag = _parts_of_bags(list(sets), split.held_out) if split.kind == "bag" else {}
    parts = {
        name: np.full(len(times), by_bag[name]) if by_bag else _parts_of_time(times, split)
        for name, times in stamps.items()
    }
    _keep_apart(stamps, parts, round(split.guard * 1e9))
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


def _parts_of_time(stamps: np.ndarray, split: TimeSplit) -> np.ndarray:
    """Return the part of every pair of one bag, by where its stamp lies between the first and the last one.

    All are for training where the guard leaves one of three parts without a pair.
    """
    since, span = stamps - stamps[0], max(1, int(stamps[-1] - stamps[0]))
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


def _parts_of_bags(names: Sequence[str], share: float) -> dict[str, int]:
    """Return the part of every bag: the hash of its name as a number in 0 .. 1; one of three at least is in each."""
    numbers = {name: int(hashlib.sha256(name.encode()).hexdigest()[:13], 16) / 16**13 for name in names}
    order = sorted(names, key=numbers.__getitem__)
    wanted, both = (sum(numbers[name] < limit for name in order) for limit in (share, 2 * share))
    held = max(1, min(wanted, len(order) - 2))
    stopping = max(1, min(both - held, len(order) - held - 1))
    return {
        name: _HELD_OUT if i < held else _STOPPING if i < held + stopping else _TRAINING for i, name in enumerate(order)
    }


def _keep_apart(stamps: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray], guard: int) -> None:
    """Move pairs to the guard that are too near in time to one of a part that comes first, in any bag."""
    dated = [name for name, times in stamps.items() if len(times) and times[0] >= _WALL_CLOCK]
    groups = [dated, *([name] for name in stamps if name not in dated)]
    for group in filter(None, groups):
        times = np.concatenate([stamps[name] for name in group])
        part = np.concatenate([parts[name] for name in group])
        for above, below in ((_HELD_OUT, _STOPPING), (_HELD_OUT, _TRAINING), (_STOPPING, _TRAINING)):
            fixed = np.sort(times[part == above])
            if len(fixed):
                place = np.searchsorted(fixed, times)
                before = np.abs(times - fixed[np.maximum(place - 1, 0)])
                after = np.abs(times - fixed[np.minimum(place, len(fixed) - 1)])
                part[(np.minimum(before, after) <= guard) & (part == below)] = _GUARD
        ends = np.cumsum([len(stamps[name]) for name in group])[:-1]
        for name, new in zip(group, np.split(part, ends), strict=True):
            parts[name][:] = new
