"""The one way in which tests wait: for an event, with a limit that only a failing test reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
LIMIT = 60.0  # s


def wait_until(
    condition: Callable[[], Found],
    limit: float = LIMIT,
    *,
    period: float = 0.02,
    step: Callable[[], object] | None = None,
    describe: Callable[[], object] | None = None,
) -> Found:
    """Return the first true value of ``condition()``.

    Args:
        condition: tried every ``period`` seconds.
        limit: seconds after which the test fails.
        period: seconds between two tries.
        step: called after every try that failed, for example to send another pair.
        describe: its value is in the message of a failure.
    """
    end = time.monotonic() + limit
    while not (found := condition()):
        if time.monotonic() > end:
            state = f": {describe()}" if describe is not None else ""
            raise AssertionError(f"waited {limit:.0f} s in vain{state}")
        if step is not None:
            step()
        time.sleep(period)
    return found
