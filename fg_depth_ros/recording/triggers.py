"""When an episode is worth recording: rules over time and figures, and who may call how often.

All times are nanoseconds of one clock, which may jump back (a simulation that starts again): then a rule starts anew,
and never waits for the old time to come back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

KINDS = ("interval", "motion", "disagreement", "low_confidence", "calibration", "manual")
"""What may call for an episode; `continuous` recording needs no trigger."""


class Every:
    """True once in a period: `due(now, seconds)`. The first period begins with the first question."""

    def __init__(self) -> None:
        self._last: int | None = None

    def due(self, now: int, seconds: float) -> bool:
        """Whether `seconds` have passed since the last time that this was true (or since the beginning)."""
        if self._last is None or now < self._last:
            self._last = now
            return False
        if now - self._last < seconds * 1e9:
            return False
        self._last = now
        return True


class TriggerDesk:
    """Lets a call for an episode through, at most one of a kind per `cooldown` seconds, and counts.

    A condition that lasts (a robot that keeps moving) calls again and again. Each call that goes through prolongs the
    episode, so `cooldown` should not be longer than the seconds kept after a trigger if such an episode is to be one
    piece. Manual calls always go through: somebody waits for them.

    Args:
        fire: called with (kind, detail); its episode is the recorder's matter.
    """

    def __init__(self, fire: Callable[[str, str], None]) -> None:
        self._fire = fire
        self._last: dict[str, int] = {}
        self.fired: Counter[str] = Counter()
        self.held_back: Counter[str] = Counter()

    def call(self, kind: str, detail: str, now: int, cooldown: float = 0.0) -> bool:
        """Ask for an episode. Returns whether the call went through.

        Raises ValueError for a kind that is not in KINDS.
        """
        if kind not in KINDS:
            raise ValueError(f"trigger '{kind}' is unknown: choose one of {', '.join(KINDS)}")
        last = self._last.get(kind)
        if kind != "manual" and last is not None and 0 <= now - last < cooldown * 1e9:
            self.held_back[kind] += 1
            return False
        self._last[kind] = now
        self.fired[kind] += 1
        self._fire(kind, detail)
        return True

    def values(self) -> Mapping[str, str]:
        """Key -> value for diagnostics: how often each kind called, and how often it was held back."""
        values = {f"triggered: {kind}": str(self.fired[kind]) for kind in KINDS if self.fired[kind]}
        values |= {f"held back by cooldown: {kind}": str(count) for kind, count in sorted(self.held_back.items())}
        return values


def above(figure: float | None, limit: float, what: str, unit: str = "") -> str | None:
    """The detail of a trigger whose figure passes its limit (`flow 3.1 px, above 2 px`); else None.

    A limit of 0 switches the trigger off; a figure of None (nothing could be measured) or NaN fires nothing.
    """
    if not limit or figure is None or not figure > limit:
        return None
    return f"{what} {figure:.3g}{unit}, above {limit:g}{unit}"


def below(figure: float | None, limit: float, what: str, unit: str = "") -> str | None:
    """The same for a figure that falls short of its limit."""
    if not limit or figure is None or not figure < limit:
        return None
    return f"{what} {figure:.3g}{unit}, below {limit:g}{unit}"
