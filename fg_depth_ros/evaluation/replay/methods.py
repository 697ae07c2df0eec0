"""Methods that a replay compares: stereo methods and depth networks, by the files of their weights or by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fg_depth_ros.evaluation.replay.config import Kind, ReplayMethod
from fg_depth_ros.inference import MonoConfig, MonoDepthEstimator, StereoConfig, StereoDepthEstimator
from fg_depth_ros.inference.config import CLASSICAL_STEREO
from fg_depth_ros.networks import DEPTH_MODELS, CheckpointError, load_checkpoint


def shipped(model: str) -> ReplayMethod:
    """Return a model with the weights that come with the package, or a classical method. Raises ValueError: unknown."""
    if model in CLASSICAL_STEREO:
        return ReplayMethod(model, "stereo", model)
    return ReplayMethod(f"{model} (shipped)", _kind(model, f"model '{model}'"), model)


def of_weights(path: str | Path) -> ReplayMethod:
    """Return the method of a weights file as its card describes it.

    The label is the file's name and the first 8 digits of its hash. Raises CheckpointError: missing, damaged, or of a
    network that gives depth of neither pairs nor single images.
    """
    _, card = load_checkpoint(path)
    return ReplayMethod(f"{Path(path).stem} {card.sha256[:8]}", _kind(card.name, str(path)), card.name, str(path))


def _kind(model: str, where: str) -> Kind:
    if model in StereoConfig.networks:
        return "stereo"
    if model in DEPTH_MODELS:
        return "mono"
    known = ", ".join([*StereoConfig.known_models(), *DEPTH_MODELS])
    raise CheckpointError(f"{where}: '{model}' gives no depth to replay; the models that do: {known}")


class Loaded(NamedTuple):
    """A method with its estimator."""

    method: ReplayMethod
    estimator: StereoDepthEstimator | MonoDepthEstimator

    @property
    def label(self) -> str:
        """Row label in the report."""
        return self.method.label

    @property
    def identity(self) -> dict[str, Any]:
        """Return what a report says of it."""
        sha256 = self.estimator.model_sha256 or None
        return {
            "label": self.label, "kind": self.method.kind, "name": self.estimator.model_name, "sha256": sha256,
            "device": self.estimator.device, "engine": self.estimator.engine or None,
            "precision": self.estimator.precision or None, "engine_failure": self.estimator.engine_failure,
        }  # fmt: skip


def load_methods(
    methods: Sequence[ReplayMethod], *, device: str, engine: str, precision: str, min_depth: float, max_depth: float
) -> list[Loaded]:
    """Make the estimators, as the node does. Raises ValueError: no method, or two of one label. Raises ModelError."""
    labels = [method.label for method in methods]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if not labels or twice:
        problem = f"several methods are called {', '.join(twice)}" if twice else "no method"
        raise ValueError(f"{problem}: give each weights file once, or labels of their own")
    loaded = []
    for method in methods:
        given: dict[str, Any] = {"model": method.model, "weights": method.weights}
        given |= {"device": device, "engine": engine, "precision": precision}
        estimator: StereoDepthEstimator | MonoDepthEstimator
        if method.kind == "mono":
            estimator = MonoDepthEstimator(MonoConfig(**given))
        else:
            estimator = StereoDepthEstimator(StereoConfig(**given, min_depth=min_depth, max_depth=max_depth))
        loaded.append(Loaded(method, estimator))
    return loaded


def unique(methods: Iterable[ReplayMethod]) -> tuple[ReplayMethod, ...]:
    """Return each method once; files of one label (the same weights in two folders) get their path as a label."""
    found: dict[str, ReplayMethod] = {}
    for method in methods:
        other = found.get(method.label)
        if other is not None and other != method:
            method = method._replace(label=f"{method.label} ({method.weights})")
        found[method.label] = method
    return tuple(found.values())
