"""The one way in which tests wait: for an event, with a limit that only a failing test reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

_ASK_AGAIN = 3.0  # s
Found = TypeVar("Found")
LIMIT = 180.0  # s


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


def response_to(
    client: Any, request: Any, spin: Callable[[], object] | None = None, alive: Callable[[], bool] = lambda: True
) -> Any:
    """Return the response of a service whose request may be repeated; None as soon as its node is not ``alive``.

    Asks again from time to time: DDS loses a response whose reader the service does not know yet. ``spin``: lets the
    client's executor run for a moment, where no thread does.
    """
    asked: list[tuple[float, Any]] = []

    def answered() -> bool:
        if not asked or time.monotonic() - asked[-1][0] > _ASK_AGAIN:
            asked.append((time.monotonic(), client.call_async(request)))
        return any(future.done() for _, future in asked) or not alive()

    wait_until(answered, step=spin, period=0.0 if spin else 0.02)
    return next((future.result() for _, future in asked if future.done()), None)
