"""What a command cannot use is refused before its work begins, by the name of the option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., tuple[int, str]]


def _fail(*_: Any, **__: Any) -> None:
    raise AssertionError("the work has begun")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repeats", "-1"), "--repeats must be at least 1, got -1"),
        (("--repeats", "0"), "--repeats must be at least 1, got 0"),
        (("--threads", "-3"), "--threads must be 0 or more, got -3"),
    ],
)
def test_bench_refuses_counts_that_are_none(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("fg_depth_ros.evaluation.bench.bench_models", _fail)
    status, text = run("bench", *arguments)
    assert status != 0
    assert message in text
