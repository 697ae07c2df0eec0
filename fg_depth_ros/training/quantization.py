"""Calibrate weights for int8: measure ranges on rendered scenes, and compare the accuracy before they are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fg_depth_ros.evaluation.depth import DepthTask
from fg_depth_ros.evaluation.flow import FlowTask
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.evaluation.stereo import StereoTask
from fg_depth_ros.evaluation.task import Task, evaluate
from fg_depth_ros.files import unused_name
from fg_depth_ros.inference import EngineError, open_estimator
from fg_depth_ros.inference.engines.selection import INSTALLABLE
from fg_depth_ros.inference.estimator import fold_batch_norm
from fg_depth_ros.networks import DEPTH_MODELS, FLOW_MODELS, ModelCard, load_model, save_checkpoint
from fg_depth_ros.networks.quantization import measured_ranges
from fg_depth_ros.synthesis.chairs import ChairsGenerator
from fg_depth_ros.synthesis.stereo import StereoSceneGenerator
from fg_depth_ros.synthesis.textures import TextureAtlas
from fg_depth_ros.synthesis.world.samples import world_samples
from fg_depth_ros.training.flow.dataset import rendered_flow_sample
from fg_depth_ros.training.stereo.train import rendered_stereo_sample

_SIZE = (640, 480)
_SEED = 700_001  # far from those of trainings
_PATTERNS = 160


@dataclass(frozen=True)
class Margin:
    """By how much a metric may be worse in int8: ``points`` of it, and a ``part`` of its value in float32."""

    metric: str
    points: float = 0.0
    part: float = 0.0

    def exceeded(self, full: Mapping[str, float], int8: Mapping[str, float]) -> bool:
        """Tell whether int8 is worse than that; a figure that is none counts as worse."""
        limit = full[self.metric] * (1 + self.part) + self.points
        return not int8[self.metric] <= limit


MARGINS: dict[str, tuple[Margin, ...]] = {
    "stereo": (Margin("bad_1", points=0.3), Margin("d1", points=0.3)),
    "flow": (Margin("epe", points=0.005, part=0.02), Margin("fl_all", points=0.3)),
    "depth": (Margin("abs_rel", part=0.02),),
}
"""By the name of the task; per cent are in points."""


@dataclass(frozen=True)
class Calibration:
    """Result of ``calibrate``.

    ``task``: name of the network's task. ``report``: rows ``float32`` and ``int8`` of every data set. ``worse``: what
    speaks against int8, in words.
    """

    card: ModelCard
    task: str
    report: Report
    worse: list[str]


def calibrate(
    source: str | Path, out: Path, *, photos: Sequence[Path] = (), scenes: int = 32,
    data: Sequence[Path] = (),
) -> Calibration:  # fmt: skip
    """Write weights with the ranges that int8 needs, unless int8 is worse than ``MARGINS`` allow on some data set.

    Args:
        source: name of a model with shipped weights, or path of a weights file.
        out: the file to write; not written where int8 is worse.
        photos: pictures for the surfaces of the rendered scenes.
        scenes: rendered scenes to measure the ranges on; as many others are a data set to compare on.
        data: further data sets with truth to compare on.

    Raises:
        CheckpointError: weights that cannot be used.
        ValueError: a network without convolutions for 8 bits, or no scene.
        EngineError: OpenVINO, which computes int8, is missing.
        ModelError: it computes no int8 on this machine.
        FileError: a data set that cannot be read.
    """
    if scenes < 1:
        raise ValueError(f"scenes must be at least 1, got {scenes}")
    if (missing := INSTALLABLE["openvino"].missing()) is not None:
        raise EngineError(f"int8 needs OpenVINO, which {missing}")
    network, card = load_model(source)
    task = _task(card.name)
    sets = task.open(data)  # before the work: what is missing is found at once
    fold_batch_norm(network)
    with measured_ranges(network) as ranges, torch.inference_mode():
        rendered = _rendered(task, network, photos, 2 * scenes)
        method = task.method_of(network)
        for sample in rendered[:scenes]:
            inputs = task.inputs(sample, [method])
            task.estimate(task.runner(method, inputs), inputs)
    int8: dict[str, Any] = {
        "sha256": card.sha256, "ranges": {name: [round(value, 6) for value in pair] for name, pair in ranges.items()},
        "scenes": scenes, "photos": len(photos),
    }  # fmt: skip
    weights = load_model(source)[0]
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, "weights.safetensors")
        save_checkpoint(trial, weights, _described(card, int8))
        methods = {
            precision: open_estimator(
                card.name, weights=str(trial), device="cpu", engine="openvino", precision=precision
            )
            for precision in ("float32", "int8")
        }
        own = unused_name("rendered", sets, "rendered_")
        report = evaluate(task, {own: rendered[scenes:], **sets}, methods, model={"name": card.name})
    worse = _worse(task, report)
    worse += [failure for method in methods.values() if (failure := method.engine_failure)]
    card = _described(card, int8 | {"figures": _figures(task, report)})
    if not worse:
        card = save_checkpoint(out, weights, card)
    return Calibration(card, task.name, report, worse)


def _described(card: ModelCard, int8: dict[str, Any]) -> ModelCard:
    return replace(card, description={**card.description, "int8": int8})


def _task(name: str) -> Task:
    return FlowTask() if name in FLOW_MODELS else DepthTask() if name in DEPTH_MODELS else StereoTask()


def _rendered(task: Task, network: torch.nn.Module, photos: Sequence[Path], count: int) -> list[Any]:
    """Render samples for a network: layered pairs, Flying Chairs, or the virtual world at the network's size."""
    if task.name == "depth":
        size: tuple[Any, Any] = network.width, network.height
        return list(world_samples("mixed", count, *size, seed=_SEED, photos=photos))
    atlas = TextureAtlas.build(list(photos), _PATTERNS, seed=_SEED)
    if task.name == "flow":
        chairs = ChairsGenerator(atlas, None, *_SIZE, _SEED)
        return [rendered_flow_sample(chairs.batch([i])) for i in range(count)]
    layered = StereoSceneGenerator(atlas, *_SIZE, _SEED)
    return [rendered_stereo_sample(layered.batch([i])) for i in range(count)]


def _figures(task: Task, report: Report) -> list[dict[str, Any]]:
    """Return what the margins are about, of every data set and precision."""
    return [
        {"set": row["set"], "method": row["method"]} | {m.metric: row["metrics"][m.metric] for m in MARGINS[task.name]}
        for row in report.rows if not row.get("published")
    ]  # fmt: skip


def _worse(task: Task, report: Report) -> list[str]:
    """Return in words where int8 exceeds the margins."""
    by_place = {(figures["set"], figures["method"]): figures for figures in _figures(task, report)}
    worse = []
    for name in dict.fromkeys(set_name for set_name, _ in by_place):
        full, int8 = by_place[name, "float32"], by_place[name, "int8"]
        worse += [
            f"{margin.metric} on {name} is {full[margin.metric]:.4g} in float32 and {int8[margin.metric]:.4g} in int8"
            for margin in MARGINS[task.name] if margin.exceeded(full, int8)
        ]  # fmt: skip
    return worse
