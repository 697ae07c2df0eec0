"""From recordings to better weights, and the proof of it: ``fg-depth finetune``.

A depth network learns by distillation (``training.distill``), a stereo network by self-supervision
(``training.self_supervised``). Here is what both share: they go on from known weights, are stopped and chosen by one
part of the recordings, are judged before and after by another one, and make weights only when these are better.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fg_depth_ros.data.io.formats import FileError
from fg_depth_ros.networks import load_checkpoint
from fg_depth_ros.networks.checkpoint import save_tensors
from fg_depth_ros.networks.registry import weights_path
from fg_depth_ros.training.depth.config import DistillTraining
from fg_depth_ros.training.depth.distill import train_distill
from fg_depth_ros.training.depth.pair_preparation import Track, first_process
from fg_depth_ros.training.depth.pair_sources import best_size
from fg_depth_ros.training.depth.validation import SELECTED as DEPTH_SELECTED
from fg_depth_ros.training.depth.validation import Draw
from fg_depth_ros.training.finetune.bags import BagMaterial
from fg_depth_ros.training.finetune.config import DepthFinetuning, StereoFinetuning
from fg_depth_ros.training.finetune.self_supervised import SELECTED as STEREO_SELECTED
from fg_depth_ros.training.finetune.self_supervised import train_self_supervised
from fg_depth_ros.training.loop import Training, Watch

SCHEMA = "fg_depth_finetune/1"
BETTER, NOT_BETTER = "weights.safetensors", "not_better.safetensors"
_LOG = logging.getLogger(__name__)
_PIXELS = 640 * 192
_DEPTH_PAIRS, _STEREO_PAIRS = 48, 16  # of all bags together that select the weights
_VALIDATIONS = 20
_MADE_OF = "material.json"


@dataclass(frozen=True)
class Outcome:
    """What a fine-tuning came to."""

    path: Path
    """The weights: ``weights.safetensors``, or ``not_better.safetensors``."""
    better: bool
    """Whether they are better than those they began with, on the part that chooses."""
    document: dict[str, Any]
    """As ``finetune.json`` has it."""


def finetune_depth(
    config: DepthFinetuning,
    material: BagMaterial,
    watch: Watch | None = None,
    draw: Draw | None = None,
    track: Track = lambda items, what, count: items,
) -> Outcome | None:
    """Fine-tune a depth network, or resume it.

    Args:
        config: what to do; what is 0 in it is chosen by the recordings.
        material: the recordings, as ``gather_bags`` finds them.
        watch, draw, track: as ``train_distill`` takes them.

    Returns:
        What came out; None in all but the first process.

    Raises:
        FileError: ``out`` holds a fine-tuning on other bags.
        ValueError: settings that do not fit, or weights of no depth network.
        CheckpointError: weights that cannot be read.
    """
    width, height = best_size(material.rig, _PIXELS)
    values = {one.name: getattr(config, one.name) for one in fields(DistillTraining)}
    values |= _pace(config, material, _DEPTH_PAIRS)
    values |= {
        "data": material.paths,
        "model": config.model or load_checkpoint(weights_path(config.weights))[1].name,
        "width": config.width or width,
        "height": config.height or height,
    }
    training = DistillTraining(**values)
    _claim(training, material)
    best = train_distill(training, watch, draw, track, material.division, _source(material))
    return _conclude(training, material, best, "depth", DEPTH_SELECTED)


def finetune_stereo(
    config: StereoFinetuning, material: BagMaterial, track: Track = lambda items, what, count: items
) -> Outcome | None:
    """Fine-tune a stereo network by self-supervision, or resume it.

    Args, returns and raises as ``finetune_depth``.
    """
    config = replace(config, **_pace(config, material, _STEREO_PAIRS))
    _claim(config, material)
    best = train_self_supervised(config, material.division, _source(material), track)
    return _conclude(config, material, best, "stereo", STEREO_SELECTED)


def _pace(config: Training, material: BagMaterial, pairs: int) -> dict[str, Any]:
    """Return how often and on how many pairs of a bag a run of this length is validated, where that is not given."""
    minutes = max(1.0, 60 * config.hours / _VALIDATIONS) if config.hours else 10.0
    return {
        "validation_scenes": config.validation_scenes or max(2, math.ceil(pairs / len(material.division.held_out))),
        "validate_minutes": config.validate_minutes or minutes,
        "validate_steps": config.validate_steps or (max(1, config.steps // _VALIDATIONS) if config.steps else 0),
    }


def _source(material: BagMaterial) -> dict[str, Any]:
    return {"bags": material.card(), "split": asdict(material.split)}


def _claim(config: Training, material: BagMaterial) -> None:
    """Refuse to go on with a run on other recordings: what was trained on there might be judged by here."""
    made_of = {
        "model": config.model,
        "parent": load_checkpoint(weights_path(config.weights))[1].sha256,
        "size": f"{config.width}x{config.height}",
        **{f"split {key}": value for key, value in asdict(material.split).items()},
        "bags": {bag["name"]: bag["sha256"] for bag in material.bags if bag["parts"]},
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
    elif first_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_json(path, made_of)


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return f"bags that came, went or changed: {', '.join(names)}"


def _conclude(config: Training, material: BagMaterial, best: Path, kind: str, selected: str) -> Outcome | None:
    """Name the weights for what they are, and write down all that is known of them."""
    if not first_process():
        return None
    out = Path(config.out)
    rows = [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]
    before = rows[0]
    chosen = load_checkpoint(best)[1] if best.is_file() else None
    better = chosen is not None and chosen.description["steps"] > 0
    source = best if better else out / "last.safetensors"
    tensors, card = load_checkpoint(source)
    steps = card.description["steps"]
    after = next((row for row in reversed(rows) if row["step"] == steps), card.description["validation"])
    names = {bag["name"] for bag in material.bags}
    told: dict[str, Any] = {
        "better": better,
        "selected": {"measure": selected, "before": before[selected], "after": after[selected], "step": steps},
        "figures": {"before": _by_part(before, names), "after": _by_part(after, names)},
    }
    name, other = (BETTER, NOT_BETTER) if better else (NOT_BETTER, BETTER)
    document = {
        "schema": SCHEMA, "kind": kind, "weights": name, "sha256": card.sha256, "model": card.name, **told,
        "steps": rows[-1]["step"], "hours": rows[-1]["hours"], "command": card.description["command"],
        "parent": {"weights": config.weights, "sha256": card.description["parent"].get("sha256")},
        "teacher": card.description.get("teacher"), "split": asdict(material.split), "bags": material.bags,
        "left_out_pairs": _left_out(card.description["sets"]),
    }  # fmt: skip
    save_tensors(out / name, tensors, {"model": {**vars(card), "description": {**card.description, "finetune": told}}})
    (out / other).unlink(missing_ok=True)
    _write_json(out / "finetune.json", document)
    if not better:
        _LOG.warning(
            "no weights of this run are better than %s (%s %.4f before, %.4f after %d steps): kept as %s",
            config.weights, selected, before[selected], after[selected], steps, out / name,
        )  # fmt: skip
    return Outcome(out / name, better, document)


def _by_part(figures: Mapping[str, float], bags: Collection[str]) -> dict[str, dict[str, dict[str, float]]]:
    """``watched_drive/teacher_abs_rel`` -> ``["held_out"]["drive"]["teacher/abs_rel"]``, and the means as ``all``.

    Names of bags may hold slashes; those of measures do not. What is of no bag (rendered scenes, other data sets) is in
    ``other``.
    """
    parts: dict[str, dict[str, dict[str, float]]] = {}
    for key, value in figures.items():
        name, slash, measure = key.rpartition("/")
        if not slash:
            continue
        part = "stopping" if name in bags else "other"
        if part == "other" and name.removeprefix("watched_") in bags:
            part, name = "held_out", name.removeprefix("watched_")
        measure = measure.replace("teacher_", "teacher/")
        parts.setdefault(part, {}).setdefault(name, {})[measure] = value
    for part in ("stopping", "held_out"):
        sets = list(parts.get(part, {}).values())
        measures = dict.fromkeys(measure for found in sets for measure in found)
        parts.setdefault(part, {})["all"] = {
            measure: _mean([found[measure] for found in sets if measure in found]) for measure in measures
        }
    return parts


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _left_out(sets: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, int]]:
    """Pairs that could not be used, by bag and reason."""
    found: dict[str, dict[str, int]] = {}
    for part in sets.values():
        for name, counts in part.items():
            for reason, count in counts["skipped"].items():
                by_reason = found.setdefault(name, {})
                by_reason[reason] = by_reason.get(reason, 0) + count
    return found


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    """The file appears under its name only when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(_finite(document), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """Numbers that JSON cannot hold become None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
