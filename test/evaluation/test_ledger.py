"""The account of sent pairs: hand-counted sequences."""

from __future__ import annotations

import math

import pytest

from fg_depth_ros.evaluation.live.pair_ledger import EARLY, PairLedger, percentiles

SECOND = 1_000_000_000


def test_a_pair_is_complete_when_every_wanted_part_came() -> None:
    ledger = PairLedger("depth", ["truth"], timeout=1.0)
    ledger.announce(100, sent=0, name="a")
    assert ledger.add(100, "depth", "D", 10) is None
    assert (ledger.sent, ledger.delivered, ledger.dropped, ledger.pending) == (1, 1, 0, 0)
    entry = ledger.add(100, "truth", "T", 20)
    assert entry is not None
    assert entry.parts == {"depth": "D", "truth": "T"}
    assert entry.arrivals == {"depth": 10, "truth": 20}
    assert (entry.name, entry.number) == ("a", 1)


def test_an_answer_may_come_before_its_announcement() -> None:
    ledger = PairLedger("depth", [], timeout=1.0)
    assert ledger.add(7, "depth", "D", 5) is None
    entry = ledger.announce(7, sent=6)
    assert entry is not None and entry.parts["depth"] == "D"
    assert (ledger.sent, ledger.delivered, ledger.unknown) == (1, 1, 0)


def test_overdue_pairs_are_dropped_and_a_late_answer_takes_that_back() -> None:
    ledger = PairLedger("depth", [], timeout=1.0)
    ledger.announce(1, sent=0)
    ledger.announce(2, sent=SECOND)
    assert ledger.expire(SECOND + 1) == []
    assert (ledger.sent, ledger.delivered, ledger.dropped, ledger.pending) == (2, 0, 1, 1)
    assert ledger.add(1, "depth", "D", 2 * SECOND) is None
    assert (ledger.delivered, ledger.dropped, ledger.late, ledger.pending) == (1, 0, 1, 1)


def test_delivered_without_truth_is_handed_out_when_overdue() -> None:
    ledger = PairLedger("depth", ["truth"], timeout=1.0)
    ledger.announce(1, sent=0)
    ledger.add(1, "depth", "D", 10)
    (entry,) = ledger.expire(2 * SECOND)
    assert entry.parts == {"depth": "D"}
    assert (ledger.delivered, ledger.dropped, ledger.pending) == (1, 0, 0)


def test_the_account_always_adds_up_and_stops_at_the_limit() -> None:
    ledger = PairLedger("depth", [], timeout=0.5, limit=10)
    for number in range(14):
        ledger.announce(number, sent=number * SECOND)
        if number % 3:
            ledger.add(number, "depth", "D", number * SECOND + 1)
        ledger.expire(number * SECOND + 2)
        assert ledger.sent == ledger.delivered + ledger.dropped + ledger.pending
    ledger.expire(100 * SECOND)
    assert (ledger.sent, ledger.delivered, ledger.dropped) == (10, 6, 4)  # 0, 3, 6 and 9 went unanswered
    assert ledger.finished


def test_a_stamp_that_comes_again_is_a_new_pair() -> None:
    ledger = PairLedger("depth", [], timeout=10.0)
    ledger.announce(5, sent=0)
    ledger.announce(5, sent=SECOND)
    assert ledger.add(5, "depth", "D", SECOND + 1) is not None
    assert (ledger.sent, ledger.delivered, ledger.dropped, ledger.pending) == (2, 1, 1, 0)


def test_answers_nobody_asked_for_are_counted_as_unknown() -> None:
    ledger = PairLedger("depth", [], timeout=1.0)
    for stamp in range(EARLY + 3):
        ledger.add(stamp, "depth", "D", 0)
    assert (ledger.unknown, ledger.sent, ledger.delivered) == (3, 0, 0)


def test_rate_and_percentiles() -> None:
    ledger = PairLedger("depth", [], timeout=1.0)
    assert math.isnan(ledger.rate())
    for number in range(5):
        ledger.announce(number, sent=0)
        ledger.add(number, "depth", "D", number * SECOND // 4)
    assert ledger.rate() == pytest.approx(4.0)
    assert percentiles([1.0, 2.0, 3.0])["p50"] == 2.0
    assert math.isnan(percentiles([])["p95"])
