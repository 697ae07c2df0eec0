"""Scores of published disparity and depth, against truth or, without it, by how well the two images agree.

Arrays in, rows of measures out.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fg_depth_ros.evaluation.metrics import DepthMetrics, Metrics, StereoMetrics, predicted_depth, ratio
from fg_depth_ros.evaluation.replay.config import ALL, FILLED, MASKED, Kind
from fg_depth_ros.files import atomic_write
from fg_depth_ros.geometry import (
    Label,
    StereoRig,
    depth_to_disparity,
    fill_holes_kitti,
    hidden_by_nearer,
    leaves_image,
    left_right_mismatch,
    scale_between,
    warp_right_to_left,
)

_LEFT_RIGHT_PX = 1.5


@dataclass(frozen=True)
class PublishedPair:
    """The estimate for one pair, as arrays of H x W (x 3); what may be None was not published.

    ``depth`` and ``truth``: m (float32, NaN none). ``dense``: disparity ``x_left - x_right`` in px before any mask
    (float32, NaN no prediction); ``disparity``: after the node's masks. ``left``, ``right``: uint8 grey or RGB.
    ``labels``: one ``geometry.Label`` a pixel. ``right_disparity``: disparity of the right view, px.
    """

    name: str
    rig: StereoRig
    depth: np.ndarray
    dense: np.ndarray | None = None
    disparity: np.ndarray | None = None
    truth: np.ndarray | None = None
    left: np.ndarray | None = None
    right: np.ndarray | None = None
    labels: np.ndarray | None = None
    right_disparity: np.ndarray | None = None

    @property
    def prediction(self) -> np.ndarray:
        """Image disparity of the method itself, as far as it was published, H x W pixels."""
        if self.dense is not None:
            return self.dense
        return depth_to_disparity(self.depth, self.rig) if self.disparity is None else self.disparity


@dataclass
class _StereoRow(Metrics):
    """Disparity and depth of one method's prediction, against truth."""

    disparity: StereoMetrics = field(default_factory=StereoMetrics)
    depth: DepthMetrics = field(default_factory=DepthMetrics)
    pixels: int = 0

    def compute(self) -> dict[str, float]:
        depth, density = self.depth.compute(), ratio(100.0 * self.disparity.answered, self.pixels)
        return {
            **self.disparity.compute(), "density": density, "abs_rel": depth["abs_rel"], "rmse": depth["rmse"],
            "delta_1": depth["delta_1"],
        }  # fmt: skip


@dataclass
class _DepthRow(Metrics):
    """Depth from single images, against a reference."""

    depth: DepthMetrics
    scales: list[float] = field(default_factory=list)

    def compute(self) -> dict[str, float]:
        return {**self.depth.compute(), "scale": float(np.median(self.scales)) if self.scales else float("nan")}


@dataclass
class _Agreement(Metrics):
    """Measures that need no truth."""

    pixels: int = 0
    answered: int = 0
    with_depth: int = 0
    seen_by_both: int = 0
    difference: float = 0.0
    matched_back: int = 0
    returned: int = 0
    labelled: dict[str, int] = field(default_factory=dict)

    def compute(self) -> dict[str, float]:
        values = {
            "density": ratio(100.0 * self.answered, self.pixels),
            "depth_density": ratio(100.0 * self.with_depth, self.pixels),
            "seen_by_both": ratio(100.0 * self.seen_by_both, self.pixels),
            "photometric": ratio(self.difference, self.seen_by_both),
        }
        if self.matched_back:
            values["left_right"] = 100.0 * self.returned / self.matched_back
        return values | {f"label_{name}": ratio(100.0 * n, self.pixels) for name, n in self.labelled.items()}


@dataclass
class _PairScore:
    """Sums of one pair, and the checksum of the prediction that they are of."""

    checksum: int = 0
    rows: dict[str, Metrics] = field(default_factory=dict)
    agreement: _Agreement = field(default_factory=_Agreement)


class ReplayScores:
    """Scores of many pairs by name; only pixels with truth between ``min_depth`` and ``max_depth`` m are compared.

    A pair that is played again counts once, with its last prediction: neither loops nor drops change its weight.

    With truth, up to three rows:

    - ``ALL``: the method's own prediction on every pixel with truth; a pixel without one is wrong in every percentage;
    - ``FILLED``: the same with its holes filled the KITTI devkit's way (only if there are holes);
    - ``MASKED``: what the node published; ``density`` says how much of the pixels with truth that is.

    Without truth, one row: density, ``seen_by_both`` (percent of pixels whose match lies in the right image and is
    hidden by nothing nearer) and ``photometric`` (mean absolute difference of grey, 0 to 255, between those pixels and
    their matches; it says that the matches look alike, not that they are right). With the disparity of the right view,
    ``left_right``: percent of the pixels matched inside the image whose match comes back to within 1.5 px; with labels,
    ``label_<name>``: percent of all pixels that have it.
    """

    def __init__(self, min_depth: float = 1e-3, max_depth: float = 80.0) -> None:
        self._range = (min_depth, max_depth)
        self._pairs: dict[str, _PairScore] = {}

    @property
    def names(self) -> set[str]:
        """Names of the pairs."""
        return set(self._pairs)

    def add(self, pair: PublishedPair) -> None:
        """Score one pair.

        The same prediction as before is not computed again: a looped replay then leaves the processor to the node that
        is measured. Raises ValueError: depth, disparity and truth differ in size; the message gives the sizes.
        """
        self._check(pair)
        checksum = zlib.crc32(pair.prediction.tobytes(), zlib.crc32(pair.depth.tobytes()))
        before = self._pairs.get(pair.name)
        if before is not None and before.checksum == checksum:
            return
        if pair.truth is None:
            self._pairs[pair.name] = _PairScore(checksum, agreement=self._agree(pair))
        else:
            self._pairs[pair.name] = _PairScore(checksum, self._compare(pair, pair.truth))

    def add_depth(self, name: str, depth: np.ndarray, reference: np.ndarray) -> None:
        """Score the depth of a single image, H x W m both, NaN = none: one row with ``scale``, the median factor."""
        row = _DepthRow(DepthMetrics(*self._range))
        row.depth.update(depth, reference)
        scale = scale_between(depth, reference, np.isfinite(reference), least=1)
        row.scales = [] if scale is None else [scale]
        self._pairs[name] = _PairScore(rows={ALL: row})

    def include(self, other: ReplayScores, prefix: str = "") -> None:
        """Add the pairs of another object, their names with ``prefix`` before them."""
        self._pairs.update({prefix + name: score for name, score in other._pairs.items()})

    def rows(self, names: Collection[str] | None = None) -> dict[str, dict[str, float]]:
        """Compute the measures by row, over all pairs (or those of ``names``); ``ALL`` alone where none has truth."""
        chosen = [self._pairs[name] for name in (self._pairs if names is None else names) if name in self._pairs]
        totals: dict[str, Metrics] = {}
        with_truth = any(score.rows for score in chosen)
        for score in chosen:
            for name, row in (score.rows if with_truth else {ALL: score.agreement}).items():
                if name in totals:
                    totals[name] += row
                else:
                    totals[name] = deepcopy(row)
        rows = {name: row.compute() for name, row in totals.items()}
        if FILLED in rows and rows[ALL]["density"] == 100.0:
            del rows[FILLED]
        return rows

    def methods(self, model: str, names: Collection[str] | None = None) -> dict[str, dict[str, float]]:
        """Compute the same by what ``method_names`` calls the rows."""
        rows = self.rows(names)
        return {method: rows[row] for row, method in method_names(model, rows).items()}

    def write(self, path: Path) -> None:
        """Write the sums per pair as JSON, for ``read``."""
        pairs = {name: {**asdict(score), "checksum": 0} for name, score in self._pairs.items()}
        with atomic_write(path) as unfinished:
            unfinished.write_text(json.dumps(pairs), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> ReplayScores:
        """Read what ``write`` wrote. Raises OSError or ValueError for anything else."""
        scores = cls()
        try:
            for name, pair in json.loads(path.read_text(encoding="utf-8")).items():
                rows: dict[str, Metrics] = {
                    row: _StereoRow(_stereo(v["disparity"]), _depth(v["depth"]), v["pixels"])
                    for row, v in pair["rows"].items()
                }
                scores._pairs[name] = _PairScore(0, rows, _Agreement(**pair["agreement"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: no scores of replay_evaluator_node ({error!r})") from error
        return scores

    @staticmethod
    def _check(pair: PublishedPair) -> None:
        size = (pair.rig.height, pair.rig.width)
        arrays = {"depth": pair.depth, "disparity": pair.disparity, "flow": pair.dense, "true depth": pair.truth}
        for what, array in arrays.items():
            if array is not None and array.shape != size:
                raise ValueError(
                    f"pair '{pair.name}': the {what} is {array.shape[1]}x{array.shape[0]} and the camera "
                    f"{size[1]}x{size[0]}; truth and prediction must have the size of the left image"
                )

    def _compare(self, pair: PublishedPair, truth: np.ndarray) -> dict[str, Metrics]:
        near, far = self._range
        truth = np.where((truth > near) & (truth < far), truth, np.float32(np.nan))  # as DepthMetrics counts it
        expected = depth_to_disparity(truth, pair.rig)
        pixels = int(np.isfinite(expected).sum())
        rows: dict[str, Metrics] = {}
        published = depth_to_disparity(pair.depth, pair.rig) if pair.disparity is None else pair.disparity
        filled = fill_holes_kitti(pair.prediction)
        for name, disparity, depth in (
            (ALL, pair.prediction, predicted_depth(pair.prediction, pair.rig)),
            (FILLED, filled, predicted_depth(filled, pair.rig)),
            (MASKED, published, pair.depth),
        ):
            row = rows[name] = _StereoRow(depth=DepthMetrics(*self._range), pixels=pixels)
            row.disparity.update(disparity, expected, valid_only=name == MASKED)
            row.depth.update(
                depth, np.where(np.isfinite(depth), truth, np.float32(np.nan)) if name == MASKED else truth
            )
        return rows

    @staticmethod
    def _agree(pair: PublishedPair) -> _Agreement:
        disparity = pair.prediction
        result = _Agreement(
            pixels=pair.depth.size,
            answered=int(np.isfinite(disparity).sum()),
            with_depth=int(np.isfinite(pair.depth).sum()),
        )
        if pair.labels is not None:
            counts = np.bincount(pair.labels.reshape(-1), minlength=len(Label))
            result.labelled = {label.name.lower(): int(counts[label]) for label in Label}
        if pair.right_disparity is not None:
            matched = np.isfinite(disparity) & ~leaves_image(disparity)
            mismatch = left_right_mismatch(disparity, pair.right_disparity, _LEFT_RIGHT_PX)
            result.matched_back, result.returned = int(matched.sum()), int((matched & ~mismatch).sum())
        if pair.left is None or pair.right is None:
            return result
        left, right = _grey(pair.left), _grey(pair.right)
        warped, valid = warp_right_to_left(right, disparity)
        counted = valid & ~hidden_by_nearer(disparity, _LEFT_RIGHT_PX)
        result.seen_by_both = int(counted.sum())
        result.difference = float(np.abs(warped[counted] - left[counted]).sum(dtype=np.float64))
        return result


def measures_of(kind: Kind) -> set[str]:
    """Return the names of all measures that methods of a kind can have, with truth or without."""
    if kind == "mono":
        return set(_DepthRow(DepthMetrics()).compute())
    return {*_StereoRow().compute(), *_Agreement(matched_back=1).compute()}


def method_names(model: str, rows: Collection[str]) -> dict[str, str]:
    """Name rows: ``model``, or where it has holes ``model unfilled`` and ``filled``; ``model masked``."""
    ends = {ALL: " unfilled" if FILLED in rows else "", FILLED: " filled", MASKED: " masked"}
    return {row: model + ends[row] for row in rows}


def _grey(image: np.ndarray) -> np.ndarray:
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return grey.astype(np.float32)


def _stereo(values: dict[str, Any]) -> StereoMetrics:
    # JSON knows no numbers as keys.
    return StereoMetrics(**{**values, "bad": {float(key): count for key, count in values["bad"].items()}})


def _depth(values: dict[str, Any]) -> DepthMetrics:
    return DepthMetrics(**{**values, "within": {int(key): count for key, count in values["within"].items()}})
