"""The decision about new weights, by numbers made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fg_depth_ros.evaluation.replay.config import ALL, FILLED, MASKED
from fg_depth_ros.evaluation.replay.promotion import Margins, decide

GOOD = {"abs_rel": 0.100, "delta_1": 0.90, "density": 100.0}


def row(set_name: str, label: str, pairs: int = 10, part: str = ALL, kind: str = "accuracy", **metrics: Any) -> dict:
    return {
        "set": set_name, "label": label, "part": part, "overall": set_name.startswith("all"), "kind": kind,
        "pairs": pairs, "metrics": metrics,
    }  # fmt: skip


def both(set_name: str = "all", part: str = ALL, pairs: int = 10, **changes: Any) -> list[dict]:
    """Rows of both, the candidate's with changes."""
    return [row(set_name, "old", part=part, **GOOD), row(set_name, "new", pairs, part, **{**GOOD, **changes})]


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"over_all": -0.1}, "margins must be 0 or more, got -0.1, 0.1 and 1.5"),
        ({"per_bag": math.nan}, "margins must be 0 or more"),
        ({"metrics": ("abs_rel", "beauty")}, "unknown measure beauty: choose among abs_rel, "),
    ],
)
def test_margins_out_of_range_are_refused(values, why) -> None:
    with pytest.raises(ValueError, match=why):
        Margins(**values)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row("all", "new", **GOOD)],
        [row("all", "old", density=100.0), row("all", "new", density=100.0)],
        [row("all", "old", abs_rel=math.nan), row("all", "new", abs_rel=0.1)],
        [row("all", "old", kind="timing", inference_p50_ms=1.0)],
    ],
)
def test_a_report_without_figures_of_the_weights_in_use_decides_nothing(rows) -> None:
    with pytest.raises(ValueError, match="no figure of 'old' that decides"):
        decide(rows, "new", "old")


# ---- decisions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"abs_rel": 0.080}, None),
        ({"abs_rel": 0.102}, None),  # 2 % worse, as much as may be
        ({"abs_rel": 0.1021}, "all, all pixels: abs_rel is 0.1021, 0.1 in use: 2.1 % worse, at most 2 % is accepted"),
        ({"delta_1": 0.882}, None),
        ({"delta_1": 0.881}, "delta_1 is 0.881, 0.9 in use: 2.1 % worse"),
        ({"abs_rel": math.nan}, "abs_rel could not be measured, and is 0.1 in use"),
        ({"abs_rel": None}, "abs_rel could not be measured"),
        ({"abs_rel": math.inf}, "abs_rel could not be measured"),
        ({"abs_rel": 0.01, "density": 97.0}, "density is 97, 100 in use: 3.0 % worse"),
        ({"abs_rel": 0.01, "pairs": 9}, "9 pairs were evaluated, 10 of the other"),
    ],
)
def test_over_all_bags(changes, reason) -> None:
    decision = decide(both(**changes), "new", "old")
    assert decision.accepted == (reason is None)
    assert len(decision.reasons) == (reason is not None)
    if reason is not None:
        assert reason in decision.reasons[0]


def test_one_bag_may_be_worse_by_its_own_margin_only() -> None:
    rows = both(abs_rel=0.05) + both("rain", abs_rel=0.109) + both("night", abs_rel=0.111)
    decision = decide(rows, "new", "old")
    assert decision.reasons == [
        "night, all pixels: abs_rel is 0.111, 0.1 in use: 11.0 % worse, at most 10 % is accepted"
    ]
    assert decide(rows, "new", "old", Margins(per_bag=0.2)).accepted
    worse = {(c.set, c.measure): c.worse for c in decision.table}
    assert worse["all", "abs_rel"] == pytest.approx(-0.5)
    assert worse["rain", "abs_rel"] == pytest.approx(0.09)
    assert worse["rain", "delta_1"] == 0.0


def test_all_bags_without_truth_have_the_margin_of_all_bags() -> None:
    rows = both() + both("all without truth", abs_rel=0.103) + both("rain") + both("night", abs_rel=0.103)
    decision = decide(rows, "new", "old")
    (reason,) = decision.reasons
    assert reason.startswith("all without truth, all pixels: abs_rel is 0.103, 0.1 in use: 3.0 % worse, at most 2 %")
    assert {(c.set, c.overall) for c in decision.table} == {
        ("all", True), ("all without truth", True), ("rain", False), ("night", False),
    }  # fmt: skip


def test_every_comparison_says_of_how_many_pairs_it_is() -> None:
    rows = [row(name, label, pairs, **GOOD) for name, pairs in (("all", 7), ("rain", 3)) for label in ("old", "new")]
    assert {(c.set, c.pairs) for c in decide(rows, "new", "old").table} == {("all", 7), ("rain", 3)}


def test_masked_rows_count_and_filled_ones_do_not() -> None:
    rows = both() + both(part=MASKED, abs_rel=0.2) + both(part=FILLED, abs_rel=9.0)
    (reason,) = decide(rows, "new", "old").reasons
    assert reason.startswith("all, masked: abs_rel is 0.2, 0.1 in use: 100.0 % worse")


def test_a_bag_may_be_called_all() -> None:
    of_the_bag = [each | {"overall": False} for each in both(abs_rel=0.109)]
    assert decide(both() + of_the_bag, "new", "old").accepted
    (reason,) = decide(both(abs_rel=0.109) + [each | {"overall": False} for each in both()], "new", "old").reasons
    assert reason.startswith("all, all pixels: abs_rel is 0.109, 0.1 in use: 9.0 % worse, at most 2 %")


def test_what_has_no_row_is_refused() -> None:
    rows = [*both(), row("rain", "old", **GOOD)]
    assert decide(rows, "new", "old").reasons == ["rain, all pixels: it has no prediction that could be evaluated"]


def test_without_truth_the_images_decide() -> None:
    figures = {"photometric": 5.0, "left_right": 90.0, "seen_by_both": 80.0, "depth_density": 80.0, "label_valid": 80.0}
    rows = [row("all", "old", **figures), row("all", "new", **{**figures, "photometric": 5.2, "left_right": 88.0})]
    reasons = decide(rows, "new", "old").reasons
    assert [reason.split(" is ")[0].split(": ")[1] for reason in reasons] == ["photometric", "left_right"]


def test_latency_is_a_factor_and_may_be_ignored() -> None:
    def rows(ms: float) -> list[dict]:
        return both() + [row("all", k, kind="timing", inference_p50_ms=v) for k, v in (("old", 10.0), ("new", ms))]

    assert decide(rows(15.0), "new", "old").accepted
    (reason,) = decide(rows(16.0), "new", "old").reasons
    assert reason == "all, timing: inference_p50_ms is 16, 10 in use: 60.0 % worse, at most 50 % is accepted"
    assert decide(rows(100.0), "new", "old", Margins(latency=0.0)).accepted
    assert decide(rows(100.0)[:2], "new", "old").accepted  # not measured


def test_named_measures_replace_the_usual_ones() -> None:
    rows = [row("all", "old", **GOOD, epe=1.0), row("all", "new", **{**GOOD, "abs_rel": 0.5}, epe=1.01)]
    assert decide(rows, "new", "old", Margins(metrics=("epe",))).accepted
    assert not decide(rows, "new", "old", Margins(metrics=("epe", "abs_rel"))).accepted
    # The share of answered pixels is looked at all the same.
    rows[1]["metrics"]["density"] = 50.0
    assert "density" in decide(rows, "new", "old", Margins(metrics=("epe",))).reasons[0]


def test_figures_of_zero_are_compared_too() -> None:
    rows = [row("all", k, abs_rel=0.0, density=100.0) for k in ("old", "new")]
    assert decide(rows, "new", "old").accepted
    rows[1]["metrics"]["abs_rel"] = 0.01
    assert not decide(rows, "new", "old").accepted
