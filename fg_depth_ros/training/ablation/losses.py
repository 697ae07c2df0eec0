"""FG-Depth's ablation in the virtual world: what each loss, mask and the grafting are worth, all else alike.

Every row is a training of the same length from the same initial weights on the same scenes, taught by the same cached
predictions; several seeds, each with scenes and weights of its own. All are evaluated on the same other scenes, with
exact depth. Recorded pairs can take the place of the scenes. (Zhu et al., ICRA 2023, arXiv 2301.08414, ablation study.)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from fg_depth_ros.data.datasets.depth import open_depth_sets
from fg_depth_ros.evaluation.depth import DepthTask
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.files import FileError, atomic_write, write_json
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference.estimator import choose_device
from fg_depth_ros.networks import load_checkpoint
from fg_depth_ros.synthesis.cutouts import CutoutAtlas
from fg_depth_ros.synthesis.textures import TextureAtlas, list_photos
from fg_depth_ros.synthesis.world.drive import sample_of
from fg_depth_ros.synthesis.world.folder import write_world
from fg_depth_ros.synthesis.world.generator import WorldGenerator
from fg_depth_ros.synthesis.world.samples import WORLD_SEED
from fg_depth_ros.training.ablation.config import LABELS, LossAblation
from fg_depth_ros.training.callbacks import read_validations
from fg_depth_ros.training.depth.config import PRESETS, DepthLossConfig, DistillTraining, MaskConfig
from fg_depth_ros.training.depth.distill import train_distill

_LOG = logging.getLogger(__name__)
MEASURES = ("abs_rel", "rmse", "delta_1")
_OUTLINES = 64
_SEEN_LARGER = 2  # scenes are rendered and matched at this times the network's size, as a camera's pictures would be
_TEST = "test:"  # begins the names of the test sets, as the distillation calls them
_VALIDATIONS = 5  # after the first step's: points of the curve
_WIDE, _BASELINE = 0.58, 0.54  # focal length by the width, and m: a car's rig, KITTI's


@dataclass(frozen=True)
class Row:
    """One line of the table: the ``group`` that it stands in, its ``label``, and what its training has of its own."""

    name: str
    group: str
    label: str
    losses: DepthLossConfig
    mask: MaskConfig = field(default_factory=MaskConfig)
    graft: bool = True


def rows_of(config: LossAblation) -> list[Row]:
    """Return all rows of the table, in order."""
    rows = []
    for graft in (False, True):
        word = "with" if graft else "without"
        if config.grafting in (word, "both"):
            rows += [
                Row(
                    f"{name}_{word}_grafting",
                    f"{word} grafting",
                    LABELS.get(name, name),
                    _as_published(name),
                    graft=graft,
                )
                for name in config.losses
            ]
    return rows + (_choices() if config.choices else [])


def _as_published(name: str) -> DepthLossConfig:
    """Return a preset without the term for the sky, which FG-Depth does not have."""
    return replace(PRESETS[name], sky=0.0)


def _choices() -> list[Row]:
    """Return the choices that the paper leaves open, each in place of the default in the whole loss with grafting."""
    whole, mask = _as_published("flow_mask_fd"), MaskConfig()
    far, near = replace(mask, max_disparity=0.0), replace(mask, max_depth=0.0)
    return [
        Row(f"choice_{name}", "choices", label, losses, bounds)
        for name, label, losses, bounds in (
            ("far_bound", "mask: depth < 80 m only", whole, far),
            ("near_bound", "mask: disparity < 80 px of 1024 only", whole, near),
            ("no_bounds", "mask: no bounds", whole, replace(far, max_depth=0.0)),
            ("no_checks", "mask: no left-right check", whole, replace(mask, left_right=0.0)),
            ("ratio", "L_dr of ratios", replace(whole, regression_of="ratio"), mask),
            ("scales", "4 levels", replace(whole, scales=4), mask),
            ("distilled", "4 levels, self-distillation 0.1", replace(whole, scales=4, self_distillation=0.1), mask),
        )
    ]


def run_ablation(config: LossAblation, progress: Callable[[str], None] = _LOG.info) -> Report:
    """Train and evaluate whatever is not finished in ``config.out``; the tables are written again after every training.

    ``progress`` is called with the name of what begins. Returns one row per line of the table: ``metrics`` are means
    over the seeds; ``spread`` their standard deviations, None with one seed; ``seeds`` every seed's own. Raises
    ValueError: the folder holds an ablation with other settings; otherwise as ``train_distill``.
    """
    out = Path(config.out)
    _check_same_run(out, config)
    rows, found = rows_of(config), {}
    for seed in range(config.seeds):
        for row in rows:
            folder = out / f"seed{seed}" / row.name
            if not (folder / "result.json").is_file():
                progress(f"seed {seed}: {row.group}, {row.label.strip()}")
                write_json(folder / "result.json", _train_and_evaluate(config, row, seed, folder))
            found[row.name, seed] = _read_json(folder / "result.json")["curve"]
            report = summary(config, rows, found)
            report.write_json(out / "losses.json")
            with atomic_write(out / "losses.md") as unfinished:
                unfinished.write_text(markdown(report), encoding="utf-8")
    return report


def summary(
    config: LossAblation, rows: Iterable[Row], found: Mapping[tuple[str, int], list[dict[str, float]]]
) -> Report:
    """Return the report of what is finished.

    ``found``: the measures of every validation, with their ``step``, by name of row and seed. In the report, ``curve``
    has their means over the seeds, ``metrics`` those of the last one.
    """
    settings = {**config.fixed, "seeds": config.seeds, "measures": "held-out images, mean over them, 1 mm to 80 m"}
    report = Report(command="ablate losses", model={"name": config.model}, settings=settings)
    for row in rows:
        curves = [found[row.name, seed] for seed in range(config.seeds) if (row.name, seed) in found]
        if not curves:
            continue
        last = [curve[-1] for curve in curves]
        spread = {name: _spread([one[name] for one in last]) for name in MEASURES}
        curve = [
            {"step": points[0]["step"], **{name: _mean([point[name] for point in points]) for name in MEASURES}}
            for points in zip(*curves, strict=True)
        ]
        metrics = {name: curve[-1][name] for name in MEASURES}
        report.add_row(row.group, row.label, metrics, spread=spread, seeds=last, curve=curve)
    return report


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return the measures of a row as ``mean ± standard deviation``."""
    texts = []
    for name in MEASURES:
        mean, spread = row["metrics"][name], row["spread"][name]
        digits = 2 if name == "rmse" else 3
        texts.append(f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}"))
    return texts


def table(report: Report) -> Table:
    """Return the report as a table for a terminal."""
    shown = Table(title="held-out scenes: mean ± standard deviation over the seeds")
    for name in ("", "loss", "AbsRel", "RMSE m", "delta<1.25", "seeds"):
        shown.add_column(name, justify="left" if name in ("", "loss") else "right")
    previous = None
    for row in report.rows:
        if previous not in (None, row["set"]):
            shown.add_section()
        group = "" if row["set"] == previous else row["set"]
        shown.add_row(group, row["method"], *cells(row), str(len(row["seeds"])))
        previous = row["set"]
    return shown


def markdown(report: Report) -> str:
    """Return the report as two tables in Markdown: the measures, and AbsRel on the way there."""
    lines = ["| | loss | AbsRel | RMSE m | delta<1.25 | seeds |", "|---|---|---:|---:|---:|---:|"]
    steps = [f"{point['step']:,}" for point in report.rows[0]["curve"]] if report.rows else []
    curves = ["| | AbsRel at step | " + " | ".join(steps) + " |", "|---|---|" + "---:|" * len(steps)]
    for row in report.rows:
        first = [row["set"], row["method"].replace("  ", "&nbsp;&nbsp;")]
        lines.append("| " + " | ".join([*first, *cells(row), str(len(row["seeds"]))]) + " |")
        curves.append("| " + " | ".join([*first, *(f"{point['abs_rel']:.3f}" for point in row["curve"])]) + " |")
    return "\n".join([*lines, "", *curves]) + "\n"


# ---- one row ---------------------------------------------------------------------------------------------------


def _train_and_evaluate(config: LossAblation, row: Row, seed: int, folder: Path) -> dict[str, Any]:
    """Return the content of ``result.json``: settings of the row, hash of the weights, measures of every validation."""
    rendered = None
    if not config.data:
        sets = open_depth_sets([_scenes(config, "test", config.test_scenes, WORLD_SEED)])
        rendered = DepthTask().validation({f"{_TEST}{name}": samples for name, samples in sets.items()})
    train_distill(_training(config, row, seed, folder), rendered)
    # The last weights count, not the best ones: no row may select by what it is evaluated by.
    validations = {one["step"]: one for one in read_validations(folder)}  # a resumed run repeats its last one
    curve = [_tested(one) for one in validations.values()]
    _, card = load_checkpoint(folder / "last.safetensors")
    own = {"losses": asdict(row.losses), "mask": asdict(row.mask), "graft": row.graft, "seed": seed}
    return {**own, "sha256": card.sha256, "curve": curve}


def _tested(validation: Mapping[str, float]) -> dict[str, float]:
    """Return the step of a validation, and the means over its test sets, by truth or by the teacher."""
    tested = {name: value for name, value in validation.items() if name.startswith(_TEST)}
    means = {
        measure: _mean([value for name, value in tested.items() if name.endswith((f"/{measure}", f"_{measure}"))])
        for measure in MEASURES
    }
    return {"step": validation["step"], **means}


def _training(config: LossAblation, row: Row, seed: int, folder: Path) -> DistillTraining:
    data, cache = config.data, Path(config.out) / "teaching"
    if not data:
        scenes = _scenes(config, f"seed{seed}/scenes", config.scenes, seed)
        data, cache = (str(scenes),), scenes.parent / "teaching"
    return DistillTraining(
        out=str(folder), data=data, frames=config.frames, test_frames=config.test_frames, cache=str(cache),
        model=config.model, weights=config.weights, load_partial=config.load_partial, encoder_rate=config.encoder_rate,
        width=config.width, height=config.height, batch=config.batch, steps=config.steps, schedule=config.schedule,
        learning_rate=config.learning_rate, teacher=config.teacher, teacher_weights=config.teacher_weights,
        precision=config.precision, losses=row.losses, mask=row.mask, graft=row.graft, seed=seed, workers=0,
        validation_scenes=8, validate_minutes=0.0, validate_steps=max(1, config.steps // _VALIDATIONS),
    )  # fmt: skip


def _scenes(config: LossAblation, name: str, count: int, seed: int) -> Path:
    """Return a folder of rendered pairs with true disparity and their rig; render it if it is not there yet."""
    folder = Path(config.out) / name
    if folder.is_dir():
        return folder
    width, height = _SEEN_LARGER * config.width, _SEEN_LARGER * config.height
    atlas = TextureAtlas.build(list_photos(config.photos), config.patterns, seed=seed)
    cutouts = CutoutAtlas.build([], _OUTLINES, seed=seed)
    cx, cy = (width - 1) / 2, (height - 1) / 2
    rig = StereoRig(width, height, _WIDE * width, _WIDE * width, cx, cy, cx, _BASELINE)
    generator = WorldGenerator(atlas, cutouts, width, height, seed, choose_device("auto"), config.world, rig)
    with atomic_write(folder, sync=False) as unfinished:
        write_world(unfinished, rig, lambda number: sample_of(generator.batch([number]), rig, str(number)), count)
    return folder


def _check_same_run(out: Path, config: LossAblation) -> None:
    """Write the settings that the rows have in common, or raise ValueError if they differ from those there."""
    path = out / "settings.json"
    if not path.is_file():
        write_json(path, config.fixed)
    there = _read_json(path)
    now = config.fixed
    differ = [f"{name} {there.get(name)!r}, now {now[name]!r}" for name in now if there.get(name) != now[name]]
    if differ:
        raise ValueError(f"{out} holds an ablation with other settings ({'; '.join(differ)}): choose another folder")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: not readable ({error}); remove it and its row is made again") from error
