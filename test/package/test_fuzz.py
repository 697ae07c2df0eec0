"""A short run of ``fuzzing.py``; that file's command line makes the long one."""

from __future__ import annotations

import pytest
from support.fuzzing import fuzz_files, fuzz_messages, fuzz_node, fuzz_parameters


def test_mutated_messages_lead_to_counted_refusals_and_nothing_else() -> None:
    pytest.importorskip("rclpy")
    outcome = fuzz_messages(1500)
    assert not outcome.failures and outcome.longest < 5, outcome
    assert outcome.reasons["ok"] > 100 and len(outcome.reasons) >= 4, outcome


def test_mutated_files_lead_to_refusals_and_nothing_else(tmp_path) -> None:
    outcome = fuzz_files(200, tmp_path)
    assert not outcome.failures and outcome.longest < 5, outcome
    assert len(outcome.reasons) >= 16, outcome


def test_mutated_parameter_files_lead_to_refusals_with_reasons_and_nothing_else(tmp_path) -> None:
    pytest.importorskip("rclpy")
    outcome = fuzz_parameters(150, tmp_path)
    assert not outcome.failures and outcome.longest < 5, outcome
    assert set(outcome.reasons) == {"ok", "start values refused", "refused by ROS"}, outcome


@pytest.mark.ros
def test_a_node_that_is_sent_mutated_messages_lives_on_and_accounts_for_every_pair(tmp_path, ros_domain) -> None:
    pytest.importorskip("rclpy")
    outcome = fuzz_node(120, tmp_path, ros_domain)
    assert not outcome.failures, outcome
    assert outcome.reasons["ok"] and len(outcome.reasons) >= 3, outcome
