"""One bag's pairs, estimated by every method and judged: sums, figures of each pair, and pictures of the worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fg_depth_ros.data.bags.truth import DepthReader
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.metrics import DepthMetrics
from fg_depth_ros.evaluation.replay.methods import Loaded
from fg_depth_ros.evaluation.replay.pictures import Worst, picture_of, worst_of
from fg_depth_ros.evaluation.replay.scores import ALL, MASKED, PublishedPair, ReplayScores
from fg_depth_ros.geometry import StereoRig, scale_between, warp_right_to_left
from fg_depth_ros.inference import MonoDepthEstimator, StereoDepthEstimator, StereoEstimate

ITSELF = "itself"
"""What a stereo answer is judged against without truth: its own images and its own answer for the right view."""
RELATIVE, PIXELS = "abs(Z / reference - 1)", "left-right difference, px"
_EDGES = {RELATIVE: np.geomspace(1e-3, 10.0, 41), PIXELS: np.geomspace(0.01, 100.0, 41)}


@dataclass
class Histogram:
    """Counts of errors; the first and the last bin hold what lies beyond the edges, too."""

    measure: str
    counts: np.ndarray = field(default_factory=lambda: np.zeros(40, np.int64))

    def add(self, errors: np.ndarray) -> None:
        """Count these; what is not finite is left out."""
        edges = _EDGES[self.measure]
        inside = np.clip(errors[np.isfinite(errors)], edges[0], edges[-1])
        self.counts += np.histogram(inside, edges)[0]

    def to_dict(self) -> dict[str, Any]:
        """For a report: measure, edges (one more than counts), counts."""
        edges = [float(f"{edge:.6g}") for edge in _EDGES[self.measure]]
        return {"measure": self.measure, "edges": edges, "counts": self.counts.tolist()}


@dataclass
class MonoScores:
    """Sums of depth from single images, by pair."""

    min_depth: float
    max_depth: float
    pairs: dict[str, tuple[DepthMetrics, float | None]] = field(default_factory=dict)

    def add(self, name: str, depth: np.ndarray, reference: np.ndarray) -> None:
        """Judge one pair, H x W m both, NaN = none."""
        metric = DepthMetrics(self.min_depth, self.max_depth)
        metric.update(depth, reference)
        self.pairs[name] = (metric, scale_between(depth, reference, np.isfinite(reference), least=1))

    def include(self, other: MonoScores, prefix: str = "") -> None:
        """Take over what another one judged, its pairs' names with ``prefix`` before them."""
        self.pairs.update({prefix + name: pair for name, pair in other.pairs.items()})

    def rows(self) -> dict[str, dict[str, float]]:
        """Measures over all pairs, every pixel counted alike; empty when nothing was judged."""
        if not self.pairs:
            return {}
        total = DepthMetrics(self.min_depth, self.max_depth)
        for metric, _ in self.pairs.values():
            total += metric
        scales = [scale for _, scale in self.pairs.values() if scale is not None]
        return {ALL: {**total.compute(), "scale": float(np.median(scales)) if scales else float("nan")}}

    def methods(self, model: str) -> dict[str, dict[str, float]]:
        """The same, named for a table of methods."""
        rows = self.rows()
        return {model: rows[ALL]} if rows else {}


@dataclass
class Score:
    """One method's sums on some pairs that were judged against one kind of thing."""

    scores: ReplayScores | MonoScores
    histogram: Histogram
    against: dict[str, None] = field(default_factory=dict)
    """In the order in which they came."""
    pairs: int = 0

    def include(self, other: Score, prefix: str) -> None:
        """Take over another one's sums, of the same method."""
        self.scores.include(other.scores, prefix)  # type: ignore[arg-type]
        self.histogram.counts += other.histogram.counts
        self.against |= other.against
        self.pairs += other.pairs


@dataclass(frozen=True)
class Judging:
    """How pairs are judged: range of true depth, m; whether times are kept; pictures a method."""

    min_depth: float
    max_depth: float
    timings: bool
    worst: int


@dataclass
class BagJudge:
    """Everything measured on one bag, called ``name``. Of each method two sums: against truth, and without any."""

    name: str
    judging: Judging
    scores: dict[tuple[str, bool], Score] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    series: list[dict[str, Any]] = field(default_factory=list)
    worst: list[Worst] = field(default_factory=list)

    def add(self, sample: StereoSample, methods: Sequence[Loaded]) -> None:
        """Estimate and judge one pair.

        Raises:
            FileError: images or truth that cannot be read; nothing was counted then.
            OutOfMemory: the device cannot hold a pair of this size.
        """
        (left, right), rig = sample.raw_images(), sample.require_rig()
        truth = sample.true_depth()
        kind = sample.depth.kind if isinstance(sample.depth, DepthReader) else ""
        pair = _Pair(sample, left, right, truth, kind)
        trusted: tuple[str, np.ndarray] | None = None
        monos: list[tuple[Loaded, np.ndarray]] = []
        stereos: list[tuple[Loaded, StereoEstimate]] = []
        for loaded in methods:
            estimator = loaded.estimator
            if isinstance(estimator, MonoDepthEstimator):
                found = estimator.estimate(left, rig.fx)
                monos.append((loaded, found.depth))
                self._time(loaded, sample, found.seconds)
            else:
                estimate = estimator.estimate(left, right, rig)
                stereos.append((loaded, estimate))
                self._time(loaded, sample, estimate.seconds)
                trusted = trusted or (loaded.label, estimate.matched_depth)
        for loaded, estimate in stereos:
            self._judge_stereo(pair, loaded, estimate, monos)
        for loaded, depth in monos:
            self._judge_mono(pair, loaded, depth, trusted)

    def _time(self, loaded: Loaded, sample: StereoSample, seconds: float) -> None:
        if self.judging.timings:
            self.seconds.setdefault(loaded.label, []).append(seconds)

    def _judge_stereo(
        self, pair: _Pair, loaded: Loaded, estimate: StereoEstimate, monos: list[tuple[Loaded, np.ndarray]]
    ) -> None:
        published = PublishedPair(
            pair.name, pair.rig, estimate.depth, estimate.disparity,
            np.where(estimate.matched_mask, estimate.matched, np.float32(np.nan)), pair.truth, pair.left, pair.right,
        )  # fmt: skip
        one = ReplayScores(self.judging.min_depth, self.judging.max_depth)
        score = self._score(loaded, one, pair.truth is not None, RELATIVE if pair.truth is not None else PIXELS)
        if pair.truth is not None:
            one.add(published)
            score.histogram.add(_relative(estimate.depth, pair.truth))
            other: tuple[str, np.ndarray | None] = (pair.kind, pair.truth)
        else:
            mirrored = _of_right_view(loaded.estimator, pair, estimate)
            one.add(replace(published, labels=estimate.labels, right_disparity=mirrored))
            warped, inside = warp_right_to_left(mirrored, estimate.matched)
            score.histogram.add(np.abs(warped - estimate.matched)[inside])
            other = (monos[0][0].label, monos[0][1]) if monos else ("", None)
        score.scores.include(one)  # type: ignore[arg-type]
        rows = one.rows()
        measures = rows[ALL]
        if MASKED in rows:
            measures |= {f"masked_{name}": rows[MASKED][name] for name in ("abs_rel", "density")}
        self._note(pair, loaded, score, measures, pair.kind or ITSELF)
        self._picture(pair, loaded, estimate.depth, other, measures, None if pair.kind else estimate.labels)

    def _judge_mono(
        self, pair: _Pair, loaded: Loaded, depth: np.ndarray, trusted: tuple[str, np.ndarray] | None
    ) -> None:
        against, reference = (pair.kind, pair.truth) if pair.truth is not None else trusted or ("", None)
        if reference is None:
            return
        one = MonoScores(self.judging.min_depth, self.judging.max_depth)
        one.add(pair.name, depth, reference)
        score = self._score(loaded, one, pair.truth is not None, RELATIVE)
        score.scores.include(one)  # type: ignore[arg-type]
        score.histogram.add(_relative(depth, reference))
        measures = one.rows()[ALL]
        self._note(pair, loaded, score, measures, against)
        self._picture(pair, loaded, depth, (against, reference), measures)

    def _score(self, loaded: Loaded, one: ReplayScores | MonoScores, with_truth: bool, measure: str) -> Score:
        key = (loaded.label, with_truth)
        if key not in self.scores:
            self.scores[key] = Score(empty_like(one, self.judging), Histogram(measure))
        return self.scores[key]

    def _note(self, pair: _Pair, loaded: Loaded, score: Score, measures: dict[str, float], against: str) -> None:
        score.pairs += 1
        score.against[against] = None
        entry: dict[str, Any] = {
            "set": self.name, "method": loaded.label, "name": pair.name, "stamp": pair.stamp, "against": against,
            **measures,
        }  # fmt: skip
        if self.judging.timings:
            entry["latency_ms"] = 1e3 * self.seconds[loaded.label][-1]
        self.series.append(entry)

    def _picture(
        self, pair: _Pair, loaded: Loaded, depth: np.ndarray, other: tuple[str, np.ndarray | None],
        measures: dict[str, float], labels: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        if not self.judging.worst:
            return
        what = "abs_rel" if "abs_rel" in measures else "photometric"
        error = (what == "abs_rel", measures[what])
        mine = [worst for worst in self.worst if worst.label == loaded.label]
        if not np.isfinite(error[1]) or (len(mine) >= self.judging.worst and error <= min(w.error for w in mine)):
            return
        title = f"{loaded.label}, {self.name}, {pair.stamp:.3f} s: {what} {error[1]:.3g}"
        picture = picture_of(title, pair.left, depth, *other, is_reference=error[0], labels=labels)
        self.worst = worst_of([*self.worst, Worst(loaded.label, error, picture)], self.judging.worst)


@dataclass(frozen=True)
class _Pair:
    sample: StereoSample
    left: np.ndarray
    right: np.ndarray
    truth: np.ndarray | None
    kind: str

    @property
    def name(self) -> str:
        return self.sample.name

    @property
    def stamp(self) -> float:
        return (self.sample.stamp or 0) * 1e-9

    @property
    def rig(self) -> StereoRig:
        return self.sample.require_rig()


def empty_like(scores: ReplayScores | MonoScores, judging: Judging) -> ReplayScores | MonoScores:
    """New sums of the same kind."""
    return type(scores)(judging.min_depth, judging.max_depth)


def _relative(depth: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return np.abs(depth / reference - 1)[np.isfinite(reference) & np.isfinite(depth)]


def _of_right_view(estimator: Any, pair: _Pair, estimate: StereoEstimate) -> np.ndarray:
    """The answer for the right view: that of the mirrored pair, whose left image the right one is."""
    assert isinstance(estimator, StereoDepthEstimator)
    if estimate.right_disparity is not None:
        return estimate.right_disparity
    return np.asarray(estimator.match(pair.right[:, ::-1], pair.left[:, ::-1]).disparity[:, ::-1])
