"""A short run of ``fuzzing.py``; that file's command line makes the long one."""

from __future__ import annotations

import pytest
from support.fuzzing import fuzz_files, fuzz_messages


def test_mutated_messages_lead_to_counted_refusals_and_nothing_else() -> None:
    pytest.importorskip("rclpy")
    outcome = fuzz_messages(1500)
    assert not outcome.failures and outcome.longest < 5, outcome
    assert outcome.reasons["ok"] > 100 and len(outcome.reasons) >= 4, outcome


def test_mutated_files_lead_to_refusals_and_nothing_else(tmp_path) -> None:
    outcome = fuzz_files(200, tmp_path)
    assert not outcome.failures and outcome.longest < 5, outcome
    assert len(outcome.reasons) >= 16, outcome
