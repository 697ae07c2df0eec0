"""Offline replay: every pair of recorded bags through the estimators of the node, the same numbers each time.

Several processes (torchrun) share the bags; each of them returns the same result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fg_depth_ros.data.bags.checks import open_checked_bag
from fg_depth_ros.data.bags.folders import bag_names, bag_sha256, find_bags
from fg_depth_ros.data.bags.pairs import StereoBag
from fg_depth_ros.data.bags.truth import DepthReader, TruthOptions
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.distributed import process_rank, shared_map
from fg_depth_ros.evaluation.replay.config import ALL, ALL_BAGS, WITHOUT_TRUTH, ReplayConfig
from fg_depth_ros.evaluation.replay.methods import Loaded, load_methods
from fg_depth_ros.evaluation.replay.pairs import BagEvaluation, Histogram, MethodScore
from fg_depth_ros.evaluation.replay.pictures import WorstPairs
from fg_depth_ros.evaluation.replay.scores import ReplayScores, method_names
from fg_depth_ros.evaluation.reports.page import Picture
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.progress import Track, no_progress


@dataclass(frozen=True)
class Replay:
    """Result of a replay.

    ``report``: rows of the set ``all``, of all bags without truth where others have it, and of every bag; its series:
    one entry per pair and method, in the order of bags and stamps. ``worst``: pictures, the worst of each method first.
    ``leads``: whether this process is the one that writes files.
    """

    report: Report
    worst: list[Picture]
    leads: bool


@dataclass
class _BagResult:
    """Results of one bag, sent between processes. ``left_out``: why the bag could not be used; empty: it was."""

    evaluation: BagEvaluation
    facts: dict[str, Any] = field(default_factory=dict)
    damaged: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    left_out: str = ""
    methods: list[dict[str, Any]] = field(default_factory=list)


def replay(config: ReplayConfig, track: Track = no_progress) -> Replay:
    """Estimate and score every pair of every bag with every method.

    A bag that cannot be used, or whose calibration changes, is named in the report's settings (``left_out``) and the
    others are used; so are damaged pairs (``damaged``), and what else is wrong with a bag (``warnings``).

    Raises FileError: no bag that can be used, with what is wrong with each; nothing to compare with. Raises ModelError,
    ValueError: weights, a device or a setting that cannot be used. Raises OutOfMemory: the device cannot hold a pair.
    Raises DistributedError: processes that cannot work together.
    """
    bags = find_bags(config.bags)
    named = list(zip(bag_names(bags), bags, strict=True))
    with _same_rounding(not config.timings):
        results = shared_map(named, lambda part: list(_replay_bags(part, config, track)) if part else [])
    used = [result for result in results if not result.left_out]
    if not used:
        reasons = [result.left_out for result in results]
        raise FileError(reasons[0] if len(reasons) == 1 else "no bag can be used: " + "; ".join(reasons))
    report = _report(config, results, used)
    if not any(row["kind"] == "accuracy" for row in report.rows):
        raise FileError(
            f"{', '.join(config.bags)}: no true depth, and no stereo method to compare depth networks with: add one"
            if not any(method.kind == "stereo" for method in config.methods)
            else f"{', '.join(config.bags)}: no pair could be evaluated: {used[0].damaged[:1]}"
        )
    worst = WorstPairs(config.worst)
    for result in used:
        worst.include(result.evaluation.worst)
    return Replay(report, worst.pictures, leads=process_rank()[0] == 0)


@contextmanager
def _same_rounding(enabled: bool) -> Iterator[None]:
    """Use one thread a process: the number of threads decides in which order a network's sums are made."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if enabled else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _replay_bags(named: Sequence[tuple[str, Path]], config: ReplayConfig, track: Track) -> Iterator[_BagResult]:
    methods = load_methods(
        config.methods, device=_device(config.device), engine=config.engine, precision=config.precision,
        min_depth=config.min_depth, max_depth=config.max_depth,
    )  # fmt: skip
    truth = TruthOptions(
        config.truth_topic, config.lidar_topic, config.transform, config.lidar_slop, config.camera_frame
    )
    for name, bag in named:
        result = _BagResult(BagEvaluation(name, config))
        try:
            pairs, problems = open_checked_bag(bag, truth=truth, **config.topics.given())
            if reasons := [problem.text for problem in problems if problem.severity == "leave out"]:
                raise FileError("; ".join(reasons))
            result.warnings = [{"name": name, "text": problem.text.removeprefix(f"{bag}: ")} for problem in problems]
            result.facts = _facts(name, bag, pairs)
            _replay_pairs(result, pairs.samples[:: config.every][: config.first or None], methods, track)
        except FileError as error:
            result.left_out = str(error)
        result.methods = [loaded.identity for loaded in methods]  # now: an engine that failed has been replaced
        yield result


def _replay_pairs(
    result: _BagResult, samples: list[StereoSample], methods: Sequence[Loaded], track: Track
) -> None:  # fmt: skip
    name, evaluated = result.evaluation.name, 0
    warm: StereoRig | None = None
    for sample in track(samples, name, len(samples)):
        rig = sample.require_rig()
        if result.evaluation.config.timings and rig != warm:  # of rigs before nothing compiled may be left
            warm = rig
            for loaded in methods:
                loaded.estimator.warm_up_for(rig)
        try:
            result.evaluation.add(sample, methods)
            evaluated += 1
        except FileError as error:
            result.damaged.append({"set": name, "name": sample.name, "reason": str(error)})
    if not evaluated:
        raise FileError(f"{name}: none of {len(samples)} pairs can be used; the first: {result.damaged[0]['reason']}")
    result.facts |= {"replayed": evaluated, "damaged": len(result.damaged)}


def _facts(name: str, bag: Path, pairs: StereoBag) -> dict[str, Any]:
    rig = pairs.samples[0].require_rig()
    readers = [sample.depth for sample in pairs.samples if isinstance(sample.depth, DepthReader)]
    truth = f"{readers[0].kind}, {readers[0].place.topic}" if readers else None
    size = f"{rig.width}x{rig.height}"
    facts = {"name": name, "sha256": bag_sha256(bag), "size": size, "pairs": len(pairs.samples), "truth": truth}
    facts |= {"unpaired": list(pairs.unpaired), "repeated": pairs.repeated, "jumps": pairs.jumps}
    return facts | {"pairs_with_truth": len(readers), "unread": pairs.unread._asdict()}


def _device(device: str) -> str:
    """Give each process of a launcher its own GPU where ``auto`` is asked for."""
    import torch

    if device == "auto" and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return device


def _report(config: ReplayConfig, results: Sequence[_BagResult], used: Sequence[_BagResult]) -> Report:
    identities = _identities(used)
    settings = {
        "no_answer": "wrong", "aggregate": "pooled", "min_depth_m": config.min_depth, "max_depth_m": config.max_depth,
        "every": config.every, "first": config.first, "engine": config.engine, "precision": config.precision,
        "methods": identities, "bags": [result.facts for result in used],
        "left_out": [{"name": r.evaluation.name, "reason": r.left_out} for r in results if r.left_out],
        "damaged": [entry for result in used for entry in result.damaged],
        "warnings": [entry for result in used for entry in result.warnings],
    }  # fmt: skip
    report = Report(
        "replay",
        model={name: identities[0][name] for name in ("name", "sha256", "device", "engine", "precision")},
        settings=settings,
        series=[entry for result in used for entry in result.evaluation.series],
        **({} if config.timings else {"created": None}),  # type: ignore[arg-type]
    )
    labels = [method.label for method in config.methods]
    evaluations = [result.evaluation for result in used]
    _add_accuracy(report, ALL_BAGS, labels, evaluations, overall=True)
    without_truth = [one for one in evaluations if not one.has_truth]
    if 0 < len(without_truth) < len(evaluations):
        _add_accuracy(report, WITHOUT_TRUTH, labels, without_truth, overall=True)
    _add_timing(report, ALL_BAGS, labels, evaluations, overall=True)
    for one in evaluations:
        _add_accuracy(report, one.name, labels, [one])
        _add_timing(report, one.name, labels, [one])
    return report


def _identities(used: Sequence[_BagResult]) -> list[dict[str, Any]]:
    """Return what the report says of each method: its first failure, and all values of what differs between bags.

    Engine and precision do where the engine failed on the way, or in one of several processes.
    """
    found = []
    for identities in zip(*(result.methods for result in used), strict=True):
        values = {name: list(dict.fromkeys(one[name] for one in identities if one[name])) for name in identities[0]}
        values["engine_failure"] = values["engine_failure"][:1]
        found.append({name: ", ".join(known) or None for name, known in values.items()})
    return found


def _add_accuracy(
    report: Report, set_name: str, labels: Sequence[str], evaluations: Sequence[BagEvaluation], overall: bool = False
) -> None:
    for label in labels:
        score = _joined(label, True, evaluations) or _joined(label, False, evaluations)
        if score is None:
            continue
        rows = score.scores.rows()
        for part, method in method_names(label, rows).items():
            details = {"histogram": score.histogram.to_dict()} if part == ALL else {}
            report.add_row(
                set_name, method, rows[part], kind="accuracy", label=label, part=part, overall=overall,
                against=" and ".join(score.against), pairs=score.pairs, **details,
            )  # fmt: skip


def _add_timing(
    report: Report, set_name: str, labels: Sequence[str], evaluations: Sequence[BagEvaluation], overall: bool = False
) -> None:
    for label in labels:
        seconds = [value for one in evaluations for value in one.seconds.get(label, [])]
        if seconds:
            figures = {f"inference_p{p}_ms": 1e3 * float(np.percentile(seconds, p)) for p in (50, 95, 99)}
            rate = {"throughput_hz": len(seconds) / sum(seconds)}
            report.add_row(
                set_name, label, figures | rate, kind="timing", label=label, part=ALL, overall=overall,
                pairs=len(seconds),
            )  # fmt: skip


def _joined(label: str, with_truth: bool, evaluations: Sequence[BagEvaluation]) -> MethodScore | None:
    """Add up one method's scores, pairs in the order of the bags; None if there are none."""
    found = [(one, one.scores[label, with_truth]) for one in evaluations if (label, with_truth) in one.scores]
    if not found:
        return None
    total = MethodScore(ReplayScores(), Histogram(found[0][1].histogram.measure))
    for one, score in found:
        total.include(score, f"{one.name}/")
    return total
