"""Rules of the recording triggers: periods, limits, and how often each kind may fire.

All times are nanoseconds of one clock, which may jump back (a simulation that starts again); a rule then starts again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

KINDS = ("interval", "motion", "disagreement", "low_confidence", "calibration", "manual")
"""Kinds of triggers; ``continuous`` recording needs none."""


class PeriodicTimer:
    """Is due once in a period; the first period begins with the first call of ``due``."""

    def __init__(self) -> None:
        self._last: int | None = None

    def due(self, now: int, seconds: float) -> bool:
        """Return whether ``seconds`` have passed since this was true last (or since the first call)."""
        if self._last is None or now < self._last:
            self._last = now
            return False
        if now - self._last < seconds * 1e9:
            return False
        self._last = now
        return True


class RateLimiter:
    """Passes on at most one trigger of each kind per ``cooldown`` seconds, and counts.

    A condition that lasts (a robot that goes on moving) triggers again and again. Each trigger that is passed on
    prolongs the episode, so ``cooldown`` should not be longer than the seconds recorded after a trigger if such an
    episode is to be one piece. Manual triggers are always passed on. ``fire`` is called with (kind, detail).
    """

    def __init__(self, fire: Callable[[str, str], None]) -> None:
        self._fire = fire
        self._last: dict[str, int] = {}
        self.fired: Counter[str] = Counter()
        self.suppressed: Counter[str] = Counter()

    def call(self, kind: str, detail: str, now: int, cooldown: float = 0.0) -> bool:
        """Trigger an episode. Returns whether it was passed on. Raises ValueError: a kind that is not in KINDS."""
        if kind not in KINDS:
            raise ValueError(f"trigger '{kind}' is unknown: choose one of {', '.join(KINDS)}")
        last = self._last.get(kind)
        if kind != "manual" and last is not None and 0 <= now - last < cooldown * 1e9:
            self.suppressed[kind] += 1
            return False
        self._last[kind] = now
        self.fired[kind] += 1
        self._fire(kind, detail)
        return True

    def values(self) -> Mapping[str, str]:
        """Return keys for diagnostics: how often each kind fired, and how often it was suppressed."""
        values = {f"triggered: {kind}": str(self.fired[kind]) for kind in KINDS if self.fired[kind]}
        values |= {f"suppressed by cooldown: {kind}": str(count) for kind, count in sorted(self.suppressed.items())}
        return values


def above(figure: float | None, limit: float, what: str, unit: str = "") -> str | None:
    """Return the detail of a trigger whose figure exceeds its limit (``flow 3.1 px, above 2 px``), else None.

    A limit of 0 disables the trigger; a figure of None (nothing could be measured) or NaN does not fire.
    """
    if not limit or figure is None or not figure > limit:
        return None
    return f"{what} {figure:.3g}{unit}, above {limit:g}{unit}"


def below(figure: float | None, limit: float, what: str, unit: str = "") -> str | None:
    """Return the detail of a trigger whose figure is below its limit, else None; as ``above``."""
    if not limit or figure is None or not figure < limit:
        return None
    return f"{what} {figure:.3g}{unit}, below {limit:g}{unit}"
