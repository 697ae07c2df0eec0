"""Evaluation of the pairs of one bag: scores of every method, figures of each pair, pictures of the worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from fg_depth_ros.data.bags.truth import DepthReader
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.replay.config import ALL, MASKED, ReplayConfig
from fg_depth_ros.evaluation.replay.methods import Loaded
from fg_depth_ros.evaluation.replay.pictures import WorstPairs
from fg_depth_ros.evaluation.replay.scores import PublishedPair, ReplayScores
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig, warp_right_to_left
from fg_depth_ros.inference import MonoDepthEstimator, StereoDepthEstimator, StereoEstimate

ITSELF = "itself"
"""Reference of stereo without truth: its own images and its own disparity of the right view."""
RELATIVE, PIXELS = "abs(Z / reference - 1)", "left-right difference, px"
_EDGES = {RELATIVE: np.geomspace(1e-3, 10.0, 41), PIXELS: np.geomspace(0.01, 100.0, 41)}


@dataclass
class Histogram:
    """Counts of errors; the first and the last bin hold what lies beyond the edges, too."""

    measure: str
    counts: np.ndarray = field(default_factory=lambda: np.zeros(40, np.int64))

    def add(self, errors: np.ndarray) -> None:
        """Count errors; what is not finite is left out."""
        edges = _EDGES[self.measure]
        inside = np.clip(errors[np.isfinite(errors)], edges[0], edges[-1])
        self.counts += np.histogram(inside, edges)[0]

    def to_dict(self) -> dict[str, Any]:
        """Return measure, edges (one more than counts) and counts, for a report."""
        edges = [float(f"{edge:.6g}") for edge in _EDGES[self.measure]]
        return {"measure": self.measure, "edges": edges, "counts": self.counts.tolist()}


@dataclass
class MethodScore:
    """Sum one method's errors over the pairs with, or without, truth."""

    scores: ReplayScores
    histogram: Histogram
    against: dict[str, None] = field(default_factory=dict)
    """Reference that each pair was compared with, in the order of the pairs."""
    pairs: int = 0

    def include(self, other: MethodScore, prefix: str) -> None:
        """Add the sums of another one of the same method."""
        self.scores.include(other.scores, prefix)
        self.histogram.counts += other.histogram.counts
        self.against |= other.against
        self.pairs += other.pairs


class BagEvaluation:
    """Everything measured on one bag, called ``name``. Of each method two scores: against truth, and without any."""

    def __init__(self, name: str, config: ReplayConfig) -> None:
        self.name, self.config = name, config
        self.scores: dict[tuple[str, bool], MethodScore] = {}
        """By label of the method, and whether there is truth."""
        self.seconds: dict[str, list[float]] = {}
        self.series: list[dict[str, Any]] = []
        self.worst = WorstPairs(config.worst)

    @property
    def has_truth(self) -> bool:
        """Whether any of its pairs has."""
        return any(with_truth for _, with_truth in self.scores)

    def add(self, sample: StereoSample, methods: Sequence[Loaded]) -> None:
        """Estimate and score one pair. Raises OutOfMemory.

        Raises FileError: it cannot be read, or a method refuses it; nothing was counted then.
        """
        (left, right), rig = sample.raw_images(), sample.require_rig()
        kind = sample.depth.kind if isinstance(sample.depth, DepthReader) else ""
        pair = _Pair(sample.name, (sample.stamp or 0) * 1e-9, rig, left, right, sample.true_depth(), kind)
        first_stereo: tuple[str, np.ndarray] | None = None
        monos: list[tuple[Loaded, np.ndarray]] = []
        stereos: list[tuple[Loaded, StereoEstimate]] = []
        seconds: dict[str, float] = {}
        for loaded in methods:
            estimator = loaded.estimator
            try:
                if isinstance(estimator, MonoDepthEstimator):
                    found = estimator.estimate(left, rig.fx, rig.fy)
                    monos.append((loaded, found.depth))
                    seconds[loaded.label] = found.seconds
                else:
                    estimate = estimator.estimate(left, right, rig)
                    stereos.append((loaded, estimate))
                    first_stereo = first_stereo or (loaded.label, estimate.depth)
                    seconds[loaded.label] = estimate.seconds
            except ValueError as error:  # one pair does not end the replay
                raise FileError(f"{loaded.label}: {error}") from error
        if self.config.timings:
            for label, value in seconds.items():
                self.seconds.setdefault(label, []).append(value)
        for loaded, estimate in stereos:
            self._add_stereo(pair, loaded, estimate, monos)
        for loaded, depth in monos:
            self._add_mono(pair, loaded, depth, first_stereo)

    def _add_stereo(
        self, pair: _Pair, loaded: Loaded, estimate: StereoEstimate, monos: list[tuple[Loaded, np.ndarray]]
    ) -> None:
        published = PublishedPair(
            pair.name, pair.rig, estimate.depth, estimate.disparity,
            np.where(estimate.mask, estimate.matched, np.float32(np.nan)), pair.truth, pair.left, pair.right,
        )  # fmt: skip
        one = ReplayScores(self.config.min_depth, self.config.max_depth)
        score = self._score(loaded, pair.truth is not None, RELATIVE if pair.truth is not None else PIXELS)
        if pair.truth is not None:
            one.add(published)
            score.histogram.add(self._relative(estimate.depth, pair.truth))
            other: tuple[str, np.ndarray | None] = (pair.kind, pair.truth)
        else:
            mirrored = _of_right_view(loaded.estimator, pair, estimate)
            one.add(replace(published, labels=estimate.labels, right_disparity=mirrored))
            warped, inside = warp_right_to_left(mirrored, estimate.matched)
            score.histogram.add(np.abs(warped - estimate.matched)[inside])
            other = (monos[0][0].label, monos[0][1]) if monos else ("", None)
        score.scores.include(one)
        rows = one.rows()
        measures = rows[ALL]
        if MASKED in rows:
            measures |= {f"masked_{name}": rows[MASKED][name] for name in ("abs_rel", "density")}
        self._note(pair, loaded, score, measures, pair.kind or ITSELF)
        self._draw(pair, loaded, measures, estimate.depth, other, None if pair.kind else estimate.labels)

    def _add_mono(
        self, pair: _Pair, loaded: Loaded, depth: np.ndarray, first_stereo: tuple[str, np.ndarray] | None
    ) -> None:
        against, reference = (pair.kind, pair.truth) if pair.truth is not None else first_stereo or ("", None)
        if reference is None:
            return
        one = ReplayScores(self.config.min_depth, self.config.max_depth)
        one.add_depth(pair.name, depth, reference)
        score = self._score(loaded, pair.truth is not None, RELATIVE)
        score.scores.include(one)
        score.histogram.add(self._relative(depth, reference))
        measures = one.rows()[ALL]
        self._note(pair, loaded, score, measures, against)
        self._draw(pair, loaded, measures, depth, (against, reference))

    def _relative(self, depth: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Return the errors of the pixels that ``DepthMetrics`` counts, as it clamps them; NaN = no depth."""
        near, far = self.config.min_depth, self.config.max_depth
        counted = (reference > near) & (reference < far)
        return np.abs(np.clip(depth[counted], near, far) / reference[counted] - 1)

    def _score(self, loaded: Loaded, with_truth: bool, measure: str) -> MethodScore:
        key = (loaded.label, with_truth)
        if key not in self.scores:
            self.scores[key] = MethodScore(
                ReplayScores(self.config.min_depth, self.config.max_depth), Histogram(measure)
            )
        return self.scores[key]

    def _note(self, pair: _Pair, loaded: Loaded, score: MethodScore, measures: dict[str, float], against: str) -> None:
        score.pairs += 1
        score.against[against] = None
        entry: dict[str, Any] = {
            "set": self.name, "method": loaded.label, "name": pair.name, "stamp": pair.stamp, "against": against,
            **measures,
        }  # fmt: skip
        if self.config.timings:
            entry["latency_ms"] = 1e3 * self.seconds[loaded.label][-1]
        self.series.append(entry)

    def _draw(
        self, pair: _Pair, loaded: Loaded, measures: dict[str, float], depth: np.ndarray,
        other: tuple[str, np.ndarray | None], labels: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        title = f"{loaded.label}, {self.name}, {pair.stamp:.3f} s"
        self.worst.add(loaded.label, title, measures, pair.left, depth, *other, labels)


class _Pair(NamedTuple):
    """A pair that is evaluated. ``truth``: depth, H x W m, or None; ``kind``: what it was measured by; ``stamp``: s."""

    name: str
    stamp: float
    rig: StereoRig
    left: np.ndarray
    right: np.ndarray
    truth: np.ndarray | None
    kind: str


def _of_right_view(estimator: Any, pair: _Pair, estimate: StereoEstimate) -> np.ndarray:
    """Return the disparity of the right view, estimated where it is not known yet."""
    assert isinstance(estimator, StereoDepthEstimator)
    if estimate.right_disparity is not None:
        return estimate.right_disparity
    return estimator.match_right(pair.left, pair.right, pair.rig.doffs, estimator.scale(pair.rig))
