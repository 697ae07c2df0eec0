"""Decide whether weights may replace others, from one report with both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fg_depth_ros.evaluation.replay.config import ALL, MASKED

MAIN = ("abs_rel", "delta_1", "photometric", "left_right", "seen_by_both")
"""Measures that decide unless others are named, where the report has them."""
PREDICTED = ("density", "depth_density")
"""Share of pixels with a prediction; always compared, or a network could do well on the easy pixels only."""
_LATENCY = "inference_p50_ms"
_HIGHER_IS_BETTER = {"delta_1", "delta_2", "delta_3", "left_right", "seen_by_both", *PREDICTED}
_LOWER_IS_BETTER = {
    "abs_rel", "sq_rel", "rmse", "rmse_log", "epe", "bad_0.5", "bad_1", "bad_2", "bad_3", "bad_4", "d1", "photometric",
}  # fmt: skip
MEASURES = _HIGHER_IS_BETTER | _LOWER_IS_BETTER
"""All measures that can decide."""
_PARTS = {ALL: "all pixels", MASKED: "masked"}  # of a report's rows those that are compared, as they are called here
_LEAST = 1e-9  # what is smaller is zero


@dataclass(frozen=True)
class Margins:
    """By how much new weights may be worse, as parts of the current ones' figures.

    ``over_all``: for all bags together, those with truth and those without; ``per_bag``: for each; ``latency``: a
    factor, 0 = not looked at; ``metrics``: measures that decide (default: ``MAIN``). Raises ValueError: out of range,
    or unknown measures.
    """

    over_all: float = 0.02
    per_bag: float = 0.1
    latency: float = 1.5
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.over_all >= 0 and self.per_bag >= 0 and self.latency >= 0):
            raise ValueError(
                f"margins must be 0 or more, got {self.over_all:g}, {self.per_bag:g} and {self.latency:g} (latency)"
            )
        if unknown := [name for name in self.metrics if name not in MEASURES]:
            raise ValueError(f"unknown measure {', '.join(unknown)}: choose among {', '.join(sorted(MEASURES))}")


@dataclass(frozen=True)
class Comparison:
    """One measure of both, of one bag or ``overall``: of all bags, or all without truth.

    ``worse``: by which part of the current figure the candidate is worse; negative: better; NaN where it has no figure.
    ``limit``: the largest that is accepted. ``pairs``: number of pairs that the current figure is of.
    """

    set: str
    part: str
    measure: str
    current: float
    candidate: float
    worse: float
    limit: float
    overall: bool = False
    pairs: int = 0

    @property
    def accepted(self) -> bool:
        """Whether this measure lets the candidate pass."""
        return self.worse <= self.limit + _LEAST


@dataclass(frozen=True)
class Decision:
    """``reasons``: why not, with numbers; empty when it is accepted. ``table``: everything that was compared."""

    accepted: bool
    reasons: list[str] = field(default_factory=list)
    table: list[Comparison] = field(default_factory=list)


def decide(rows: Iterable[Mapping[str, Any]], candidate: str, current: str, margins: Margins | None = None) -> Decision:
    """Compare the rows of the label ``candidate``, which wants to be used, with those of ``current``, which is in use.

    ``rows``: of a replay's report: those of kind "accuracy" by set, those ``overall`` over all bags, and those of kind
    "timing". Raises ValueError: the report has nothing of ``current`` that decides.
    """
    margins = margins or Margins()
    rows = list(rows)
    old, new = (_by_place(rows, label, "accuracy") for label in (current, candidate))
    reasons, table = [], []
    decided = False
    for (overall, set_name, part), row in old.items():
        limit = margins.over_all if overall else margins.per_bag
        other = new.get((overall, set_name, part))
        if other is None:
            reasons.append(f"{set_name}, {part}: it has no prediction that could be evaluated")
            continue
        if other.get("pairs", 0) < row.get("pairs", 0):
            reasons.append(
                f"{set_name}, {part}: {other.get('pairs', 0)} pairs were evaluated, {row['pairs']} of the other"
            )
        main = _shared(margins.metrics or MAIN, row)
        decided |= bool(main)
        for measure in [*main, *(name for name in _shared(PREDICTED, row) if name not in main)]:
            table.append(_compared(part, measure, row, other, limit))
    if not decided:
        wanted = ", ".join(margins.metrics or MAIN)
        raise ValueError(
            f"the report has no figure of '{current}' that decides ({wanted}): evaluate it on bags with pairs"
        )
    table += _latency(rows, candidate, current, margins)
    reasons += [_reason(comparison) for comparison in table if not comparison.accepted]
    return Decision(not reasons, reasons, table)


def _by_place(
    rows: Sequence[Mapping[str, Any]], label: str, kind: str
) -> dict[tuple[bool, str, str], Mapping[str, Any]]:
    """Return the rows of one method by whether they are of all bags, set and part."""
    return {
        (bool(row.get("overall")), str(row["set"]), _PARTS[row["part"]]): row
        for row in rows
        if row.get("kind") == kind and row.get("label") == label and row.get("part") in _PARTS
    }


def _shared(measures: Sequence[str], row: Mapping[str, Any]) -> list[str]:
    return [name for name in measures if math.isfinite(_figure(row, name))]


def _figure(row: Mapping[str, Any], measure: str) -> float:
    value = row["metrics"].get(measure)
    return math.nan if value is None else float(value)


def _compared(
    part: str, measure: str, current: Mapping[str, Any], candidate: Mapping[str, Any], limit: float
) -> Comparison:
    old, new = _figure(current, measure), _figure(candidate, measure)
    more = (old - new) if measure in _HIGHER_IS_BETTER else (new - old)
    if not math.isfinite(new):
        more = math.nan
    worse = 0.0 if abs(more) <= _LEAST else more / max(abs(old), _LEAST)
    overall, pairs = bool(current.get("overall")), current.get("pairs", 0)
    return Comparison(current["set"], part, measure, old, new, worse, limit, overall, pairs)


def _latency(rows: Sequence[Mapping[str, Any]], candidate: str, current: str, margins: Margins) -> list[Comparison]:
    old, new = (
        next((row for (overall, *_), row in _by_place(rows, label, "timing").items() if overall), None)
        for label in (current, candidate)
    )
    if old is None or new is None or margins.latency == 0:
        return []
    return [_compared("timing", _LATENCY, old, new, margins.latency - 1.0)]


def _reason(comparison: Comparison) -> str:
    where = f"{comparison.set}, {comparison.part}: {comparison.measure}"
    if math.isnan(comparison.worse):
        return f"{where} could not be measured, and is {comparison.current:.4g} in use"
    return (
        f"{where} is {comparison.candidate:.4g}, {comparison.current:.4g} in use: {100 * comparison.worse:.1f} % "
        f"worse, at most {100 * comparison.limit:.3g} % is accepted"
    )
