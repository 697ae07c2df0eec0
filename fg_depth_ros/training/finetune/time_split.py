"""Recordings divided by time: neighbours in time look alike, so parts that judge a training must lie apart from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from fg_depth_ros.data.io.formats import FileError
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.training.depth.pair_preparation import Division
from fg_depth_ros.training.finetune.config import TimeSplit

_TRAIN, _STOP, _JUDGE, _GUARD = 0, 1, 2, 3
_PARTS = ("training", "stopping", "held_out", "guard")
_WALL_CLOCK = 10**18  # ns; a stamp before September 2001 is no date, and two such clocks are not one


def divide_by_time(
    sets: Mapping[str, Sequence[StereoSample]], split: TimeSplit
) -> tuple[Division, dict[str, dict[str, int]]]:
    """The pairs of bags in three parts that have no moment in common.

    Bags whose stamps are dates keep apart from each other, too: an episode that another one continues, or the same
    pairs in two bags. A bag too short to be cut is trained on.

    Args:
        sets: pairs by the name of their bag, in the order of time.
        split: how.

    Returns:
        The parts (``held_out`` of the division is the stopping part, ``watched`` the held-out one), and how many pairs
        of every bag are in which part, the guard included.

    Raises:
        FileError: a part that no pair is in; the message says what to do.
    """
    stamps = {name: np.array([int(pair.name) for pair in pairs], np.int64) for name, pairs in sets.items()}
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
        for k in (_TRAIN, _STOP, _JUDGE)
    ]
    return Division(*chosen), counts  # type: ignore[arg-type]


def _parts_of_time(stamps: np.ndarray, split: TimeSplit) -> np.ndarray:
    """The part of every pair of one bag, by where its stamp lies between the first and the last one."""
    since, span = stamps - stamps[0], max(1, int(stamps[-1] - stamps[0]))
    if split.kind == "end":
        done = since / span
        part = np.where(done >= 1 - split.held_out, _JUDGE, np.where(done >= 1 - 2 * split.held_out, _STOP, _TRAIN))
    else:
        period = max(3, round(1 / split.held_out))
        turn = np.minimum(since * (2 * period) // span, 2 * period - 1) % period
        part = np.where(turn == period // 2, _JUDGE, np.where(turn == period - 1, _STOP, _TRAIN))
    return part if len(np.unique(part)) == 3 else np.full(len(stamps), _TRAIN)


def _parts_of_bags(names: Sequence[str], share: float) -> dict[str, int]:
    """The part of every bag: the hash of its name as a number in 0 .. 1; at least one bag is in each part."""
    numbers = {name: int(hashlib.sha256(name.encode()).hexdigest()[:13], 16) / 16**13 for name in names}
    order = sorted(names, key=numbers.__getitem__)
    judged = max(1, sum(numbers[name] < share for name in order))
    stopping = max(1, sum(numbers[name] < 2 * share for name in order) - judged)
    return {name: _JUDGE if i < judged else _STOP if i < judged + stopping else _TRAIN for i, name in enumerate(order)}


def _keep_apart(stamps: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray], guard: int) -> None:
    """Give pairs to the guard that are too near to a pair of a part with more to say, in their bag or in another."""
    dated = [name for name, times in stamps.items() if len(times) and times[0] >= _WALL_CLOCK]
    groups = [dated, *([name] for name in stamps if name not in dated)]
    for group in filter(None, groups):
        times = np.concatenate([stamps[name] for name in group])
        part = np.concatenate([parts[name] for name in group])
        for above, below in ((_JUDGE, _STOP), (_JUDGE, _TRAIN), (_STOP, _TRAIN)):
            fixed = np.sort(times[part == above])
            if len(fixed):
                place = np.searchsorted(fixed, times)
                before = np.abs(times - fixed[np.maximum(place - 1, 0)])
                after = np.abs(times - fixed[np.minimum(place, len(fixed) - 1)])
                part[(np.minimum(before, after) <= guard) & (part == below)] = _GUARD
        ends = np.cumsum([len(stamps[name]) for name in group])[:-1]
        for name, new in zip(group, np.split(part, ends), strict=True):
            parts[name][:] = new
