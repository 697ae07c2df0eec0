"""Fine-tune a network on recordings, and compare it with the weights before: ``fg-depth finetune``.

bags -> samples -> training pairs -> dataset -> module: ``bags.open_recordings`` checks, opens and splits the bags once;
``depth.distill`` or ``finetune.stereo`` checks their pairs, streams them and trains. Here is what both share: they
start from known weights, are stopped and selected by one part of the recordings, are evaluated before and after by
another one, and make weights only if these are better by both together: one part is few pairs, and so a noisy measure.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from fg_depth_ros.distributed import process_rank
from fg_depth_ros.evaluation.metrics import mean_metrics
from fg_depth_ros.evaluation.reports.report import json_ready
from fg_depth_ros.files import FileError, write_json
from fg_depth_ros.geometry.resize import size_with_area
from fg_depth_ros.networks import load_checkpoint
from fg_depth_ros.networks.checkpoint import save_tensors
from fg_depth_ros.networks.registry import weights_path
from fg_depth_ros.progress import Track, no_progress
from fg_depth_ros.training.callbacks import Evaluate, read_validations
from fg_depth_ros.training.config import Training
from fg_depth_ros.training.depth.config import DistillTraining
from fg_depth_ros.training.depth.distill import train_distill
from fg_depth_ros.training.depth.validation import MONITOR as DEPTH_MONITOR
from fg_depth_ros.training.finetune.bags import Recordings
from fg_depth_ros.training.finetune.config import DepthFinetuning, StereoFinetuning
from fg_depth_ros.training.finetune.stereo import MONITOR as STEREO_MONITOR
from fg_depth_ros.training.finetune.stereo import train_self_supervised
from fg_depth_ros.training.loop import claim_out

SCHEMA = "fg_depth_finetune/1"
BETTER, NOT_BETTER = "weights.safetensors", "not_better.safetensors"
_LOG = logging.getLogger(__name__)
_PIXELS = 640 * 192
_DEPTH_PAIRS, _STEREO_PAIRS = 48, 16  # of all bags together that select the weights
_VALIDATIONS = 20
_MADE_OF = "material.json"
_TEST_PREFIXES = ("test:", "watched_")
"""Prefixes of the JSON keys of the held-out metrics; the second one was written by version 0.1."""


@dataclass(frozen=True)
class Outcome:
    """The result of a fine-tuning."""

    path: Path
    """The weights: ``weights.safetensors``, or ``not_better.safetensors``."""
    better: bool
    """Whether they are better than those to start from, by the mean of the stopping and the held-out part."""
    document: dict[str, Any]
    """The content of ``finetune.json``."""


def finetune_depth(
    config: DepthFinetuning, recordings: Recordings, extra: Evaluate | None = None, track: Track = no_progress
) -> Outcome | None:
    """Fine-tune a depth network, or resume it; None in all but the first process.

    ``config``: what is 0 in it is chosen by the recordings. ``extra``, ``track``: as ``train_distill`` takes them.
    Raises FileError: ``out`` holds a fine-tuning on other bags. Raises ValueError: settings that do not fit, or weights
    of no depth network. Raises CheckpointError: weights that cannot be read.
    """
    rig = recordings.rig
    width, height = size_with_area(rig.width * rig.pixel_aspect, rig.height, _PIXELS)
    values = {one.name: getattr(config, one.name) for one in fields(DistillTraining)}
    values |= _pace(config, recordings, _DEPTH_PAIRS)
    values |= {
        "data": tuple(bag["path"] for bag in recordings.used),
        "width": config.width or width,
        "height": config.height or height,
    }
    training = _OnRecordings(**values)
    with claim_out(training):
        _check_same_run(training, recordings)
        best = train_distill(training, extra, track, recordings.pairs, _source(recordings))
        return _conclude(training, recordings, best, "depth", DEPTH_MONITOR)


def finetune_stereo(config: StereoFinetuning, recordings: Recordings, track: Track = no_progress) -> Outcome | None:
    """Fine-tune a stereo network by self-supervision, or resume it; returns and raises as ``finetune_depth``."""
    config = replace(config, **_pace(config, recordings, _STEREO_PAIRS))
    with claim_out(config):
        _check_same_run(config, recordings)
        best = train_self_supervised(config, recordings.pairs, _source(recordings), track)
        return _conclude(config, recordings, best, "stereo", STEREO_MONITOR)


class _OnRecordings(DistillTraining):
    """Configuration of a training on recordings, which ``_check_same_run`` compares by their content."""

    MAY_CHANGE = DistillTraining.MAY_CHANGE | {"data"}


def _pace(config: Training, recordings: Recordings, pairs: int) -> dict[str, Any]:
    """Return how often and on how many pairs of a bag a run of this length is validated, where that is not given."""
    minutes = max(1.0, 60 * config.hours / _VALIDATIONS) if config.hours else 10.0
    return {
        "validation_scenes": config.validation_scenes or max(2, math.ceil(pairs / len(recordings.pairs.validation))),
        "validate_minutes": config.validate_minutes or minutes,
        "validate_steps": config.validate_steps or (max(1, config.steps // _VALIDATIONS) if config.steps else 0),
    }


def _source(recordings: Recordings) -> dict[str, Any]:
    return {"bags": recordings.card(), "split": asdict(recordings.split)}


def _check_same_run(config: Training, recordings: Recordings) -> None:
    """Refuse to resume a run on other recordings: pairs that it trained on might be held out here."""
    made_of = {
        "model": config.model,
        "parent": load_checkpoint(weights_path(config.weights))[1].sha256,
        "size": f"{config.width}x{config.height}",
        **{f"split {key}": value for key, value in asdict(recordings.split).items()},
        "bags": {bag["name"]: bag["sha256"] for bag in recordings.used},
    }
    path = Path(config.out) / _MADE_OF
    if (Path(config.out) / "state.safetensors").exists():
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError):
            raise FileError(
                f"{config.out}: holds a training that is no fine-tuning, or its {_MADE_OF} is gone; choose another out"
            ) from None
        other = [key for key in made_of if before.get(key) != made_of[key]]
        if other:
            raise FileError(
                f"{config.out}: holds a fine-tuning with other {', '.join(other)}: "
                f"{'; '.join(f'{before.get(key)} there, {made_of[key]} now' for key in other if key != 'bags')}"
                f"{_changed(before.get('bags') or {}, made_of['bags']) if 'bags' in other else ''}; choose another out"
            )
        _check_same_parts(Path(config.out), recordings)
    elif process_rank()[0] == 0:
        write_json(path, made_of)


def _check_same_parts(out: Path, recordings: Recordings) -> None:
    """Refuse to resume a run of an earlier version that divided the same bags in another way."""
    path = out / "last.safetensors"
    known = load_checkpoint(path)[1].description.get("bags", []) if path.is_file() else []
    before = {bag["name"]: bag["parts"] for bag in known if "parts" in bag}
    for bag in recordings.used:
        if before.get(bag["name"], bag["parts"]) != bag["parts"]:
            raise FileError(
                f"{out}: holds a fine-tuning with other parts of {bag['name']}: {before[bag['name']]} there, "
                f"{bag['parts']} now: it was begun by a version that divides bags otherwise; choose another out"
            )


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return f"bags added, removed or changed: {', '.join(names)}"


def _conclude(config: Training, recordings: Recordings, best: Path, kind: str, monitor: str) -> Outcome | None:
    """Name the weights by whether they are better, and write the report."""
    if process_rank()[0] != 0:
        return None
    out = Path(config.out)
    rows = read_validations(out)
    before = next((row for row in reversed(rows) if row["step"] == config.start_step), rows[0])
    chosen = load_checkpoint(best)[1] if best.is_file() else None
    trained = chosen is not None and chosen.description["steps"] > config.start_step
    last = load_checkpoint(out / "last.safetensors")
    tensors, card = load_checkpoint(best) if trained else last
    steps = card.description["steps"]
    after = next((row for row in reversed(rows) if row["step"] == steps), card.description["validation"])
    names = {bag["name"] for bag in recordings.used}
    metrics = {when: _by_part(row, names) for when, row in (("before", before), ("after", after))}
    evaluated = {
        when: _mean_over_parts(row[monitor], metrics[when], monitor)
        for when, row in (("before", before), ("after", after))
    }
    better = steps > config.start_step and evaluated["after"] < evaluated["before"]
    result: dict[str, Any] = {
        "better": better,
        "selected": {"measure": monitor, "before": before[monitor], "after": after[monitor], "step": steps},
        "judged": {"measure": monitor, **evaluated},  # key in the files of earlier runs
        "figures": metrics,
    }
    name, other = (BETTER, NOT_BETTER) if better else (NOT_BETTER, BETTER)
    document = {
        "schema": SCHEMA, "kind": kind, "weights": name, "sha256": card.sha256, "model": card.name, **result,
        "steps": last[1].description["steps"], "hours": last[1].description["hours"],
        "command": card.description["command"],
        "parent": {"weights": config.weights, "sha256": card.description["parent"].get("sha256")},
        "teacher": card.description.get("teacher"), "split": asdict(recordings.split), "bags": recordings.bags,
        "left_out_pairs": _left_out(card.description["sets"]),
    }  # fmt: skip
    save_tensors(
        out / name, tensors, {"model": {**vars(card), "description": {**card.description, "finetune": result}}}
    )
    (out / other).unlink(missing_ok=True)
    write_json(out / "finetune.json", json_ready(document))
    if not better:
        _LOG.warning(
            "no weights of this run are better than %s (%s, mean of the stopping and the held-out part, %.4f before, "
            "%.4f after %d steps): kept as %s",
            config.weights, monitor, evaluated["before"], evaluated["after"], steps, out / name,
        )  # fmt: skip
    return Outcome(out / name, better, document)


def _mean_over_parts(selecting: float, parts: Mapping[str, Mapping[str, Mapping[str, float]]], measure: str) -> float:
    """Return the mean of the selecting metric and of the held-out part's; the first alone without the second."""
    bags = [values for name, values in parts["held_out"].items() if name != "all"]
    held_out = [value for values in bags for key, value in values.items() if key.rpartition("/")[2] == measure]
    return float(np.mean([selecting, np.mean(held_out)])) if held_out else selecting


def _by_part(metrics: Mapping[str, float], bags: Collection[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Sort metrics by part, set and measure, with the means as ``all``.

    ``test:drive/teacher_abs_rel`` -> ``["held_out"]["drive"]["teacher/abs_rel"]``. Names of bags may hold slashes,
    those of measures do not. Metrics of no bag (rendered scenes, other data sets) are in ``other``.
    """
    parts: dict[str, dict[str, dict[str, float]]] = {"stopping": {}, "held_out": {}}
    for key, value in metrics.items():
        name, slash, measure = key.rpartition("/")
        if not slash:
            continue
        part = "stopping" if name in bags else "other"
        for prefix in _TEST_PREFIXES:
            if part == "other" and name.startswith(prefix) and name.removeprefix(prefix) in bags:
                part, name = "held_out", name.removeprefix(prefix)
        parts.setdefault(part, {}).setdefault(name, {})[measure.replace("teacher_", "teacher/")] = value
    for part in ("stopping", "held_out"):
        parts[part]["all"] = mean_metrics(list(parts[part].values()))
    return parts


def _left_out(sets: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, int]]:
    """Return the pairs that could not be used, by bag and reason."""
    found: dict[str, dict[str, int]] = {}
    for part in sets.values():
        for name, counts in part.items():
            for reason, count in counts["skipped"].items():
                by_reason = found.setdefault(name, {})
                by_reason[reason] = by_reason.get(reason, 0) + count
    return found
