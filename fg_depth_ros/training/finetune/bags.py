"""Recordings for a fine-tuning: found, checked, opened, divided by time; what is left out is named with the reason."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fg_depth_ros.data.bags.checks import check_bag
from fg_depth_ros.data.bags.folders import bag_names, find_bags, storage_files
from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.files import FileError, atomic_write
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.training.depth.pair_preparation import Division, Track, first_process, shard
from fg_depth_ros.training.finetune.time_split import TimeSplit, divide_by_time

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BagMaterial:
    """Recordings that are ready to be learned from."""

    division: Division
    """``held_out`` is the stopping part, ``watched`` the held-out one."""
    bags: list[dict[str, Any]]
    """Of every bag that was found: ``BagCheck.to_dict()`` with ``name`` and ``parts`` (pairs by part; empty where it is
    left out)."""
    split: TimeSplit

    @property
    def paths(self) -> tuple[str, ...]:
        """The bags that are used."""
        return tuple(bag["path"] for bag in self.bags if bag["parts"])

    @property
    def rig(self) -> StereoRig:
        """The camera that most pairs to train on were taken with."""
        counts: dict[StereoRig, int] = {}
        for pairs in self.division.training.values():
            rig = pairs[0].rig
            assert rig is not None
            counts[rig] = counts.get(rig, 0) + len(pairs)
        return max(counts, key=counts.__getitem__)

    def card(self) -> list[dict[str, Any]]:
        """For the weights: what tells the bags from all others, and what became of them."""
        kept = ("name", "sha256", "pairs", "seconds", "usable", "parts", "problems")
        return [{key: bag[key] for key in kept} for bag in self.bags]


def gather_bags(
    paths: Sequence[str | Path],
    split: TimeSplit,
    options: Mapping[str, Any] | None = None,
    notes: str | Path = "",
    track: Track = lambda items, what, count: items,
) -> BagMaterial:
    """Find, check and divide the bags among these paths and below them.

    Under torchrun every process begins with its own share of the bags and finds what the others noted.

    Args:
        paths: bags, or folders of bags.
        split: how they are divided.
        options: of ``data.bags.open_bag_pairs``.
        notes: folder for what the checks found, so that nothing is checked twice; empty = nowhere.
        track: shows how far it is.

    Raises:
        FileError: no bag, none that can be used, or too few pairs for the parts.
    """
    found = find_bags(paths)
    names = bag_names(found)
    rank, ranks = shard()
    order = sorted(range(len(found)), key=lambda i: ((i - rank) % ranks, i))
    checked: dict[int, tuple[dict[str, Any], list[StereoSample]]] = {}
    for i in track(order, "bags", len(order)):
        checked[i] = _checked(found[i], dict(options or {}), Path(notes) if notes else None)
    sets: dict[str, list[StereoSample]] = {}
    bags: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for i, name in enumerate(names):
        bag, pairs = checked[i]
        twin = seen.setdefault(bag["sha256"], name) if bag["sha256"] else name
        if twin != name:
            problem = {"severity": "leave out", "text": f"the same recording as {twin}"}
            bag = {**bag, "usable": False, "problems": [*bag["problems"], problem]}
        bags.append({"name": name, **bag, "parts": {}})
        if bag["usable"]:
            sets[name] = pairs
    _tell(bags)
    if not sets:
        reasons = "; ".join(problem_text(bag) for bag in bags)
        raise FileError(f"none of {len(bags)} bag(s) can be used: {reasons}")
    division, counts = divide_by_time(sets, split)
    for bag in bags:
        bag["parts"] = counts.get(bag["name"], {})
    return BagMaterial(division, bags, split)


def problem_text(bag: Mapping[str, Any], severity: str = "leave out") -> str:
    """The problems of a checked bag of this severity, in one line."""
    return "; ".join(problem["text"] for problem in bag["problems"] if problem["severity"] == severity)


def _tell(bags: Sequence[Mapping[str, Any]]) -> None:
    if not first_process():
        return
    for bag in bags:
        if not bag["usable"]:
            _LOG.warning("left out: %s: %s", bag["name"], problem_text(bag))
        elif warned := problem_text(bag, "warn"):
            _LOG.warning("%s: %s", bag["name"], warned)


def _checked(path: Path, options: Mapping[str, Any], notes: Path | None) -> tuple[dict[str, Any], list[StereoSample]]:
    """What the check found, from the notes where it is there, and the pairs of a bag that can be used."""
    note = notes / f"{path.name}-{_key(path, options)}.json" if notes else None
    if note is not None and note.is_file():
        try:
            return json.loads(note.read_text()), open_bag_pairs(path, **options)
        except (ValueError, FileError):
            pass  # half gone since then: looked at anew
    check = check_bag(path, **options)
    bag = check.to_dict()
    if note is not None and check.usable:  # what cannot be read now may be readable next time
        with atomic_write(note) as unfinished:
            unfinished.write_text(json.dumps(bag, indent=1) + "\n")
    return bag, list(check.samples)


def _key(path: Path, options: Mapping[str, Any]) -> str:
    """What tells a bag as it is now, and the way it is opened, from all others."""
    known = {key: value.to_dict() if isinstance(value, StereoRig) else value for key, value in options.items()}
    text = json.dumps([str(path.resolve()), known], sort_keys=True)
    try:
        for file in storage_files(path):
            status = file.stat()
            text += f" {file.name} {status.st_size} {status.st_mtime_ns}"
    except OSError as error:
        text += f" {error}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
