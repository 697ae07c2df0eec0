"""What the depth node says about itself in /diagnostics, held against what was sent and what arrived.

No ROS import: key-value pairs in.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

_LATENCY = re.compile(r"(inference|processing|pipeline) (\d+) % \(ms\)")
_DROP = "dropped: "
NEVER_REACHED, LOST_AFTER = "never reached the node", "lost between the node and the evaluator"


class NodeAccount:
    """The newest figures of one depth node.

    `model` has name, sha256, device (empty before the node spoke); `latencies` its own percentiles in
    milliseconds, such as `inference_p50_ms`.
    """

    def __init__(self) -> None:
        self.model: dict[str, Any] = {}
        self.latencies: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._before: dict[str, int] | None = None
        self._updated = float("-inf")

    def start(self) -> None:
        """The first pair is sent: what was counted before belongs to somebody else. Later calls do nothing."""
        if self._before is None:
            self._before = dict(self._counts)

    def update(self, values: Mapping[str, str]) -> None:
        """Take in the key-value pairs of one DiagnosticStatus; those of other nodes leave no trace."""
        if "model" in values and "weights sha256" in values:
            sha256 = values["weights sha256"]
            self.model = {
                "name": values["model"],
                "sha256": None if sha256 == "none" else sha256,
                "device": values.get("device"),
            }
        if "pairs matched" not in values:
            return
        self._updated = time.monotonic()
        for key, value in values.items():
            if key in ("pairs matched", "pairs published") or key.startswith(_DROP):
                self._counts[key] = int(value)
            elif match := _LATENCY.fullmatch(key):
                self.latencies[f"{match[1]}_p{match[2]}_ms"] = float(value)

    @property
    def heard(self) -> bool:
        """Whether the node spoke at all."""
        return bool(self._counts)

    def updated_after(self, moment: float) -> bool:
        """Whether the node spoke after this moment (of `time.monotonic`)."""
        return self._updated > moment

    def explain(self, sent: int, delivered: int, dropped: int) -> tuple[dict[str, int], int]:
        """Reasons of the drops with their numbers, and how many of the dropped pairs none of them explains.

        Besides the node's own reasons: pairs that it never matched although they were sent, and pairs that
        it published although they did not arrive.
        """
        counts = {key: value - (self._before or {}).get(key, 0) for key, value in self._counts.items()}
        reasons = {
            key.removeprefix(_DROP): count for key, count in counts.items() if key.startswith(_DROP) and count > 0
        }
        if "pairs matched" in counts and dropped:
            reasons[NEVER_REACHED] = max(0, sent - counts["pairs matched"])
            reasons[LOST_AFTER] = max(0, counts.get("pairs published", 0) - delivered)
        reasons = {reason: count for reason, count in reasons.items() if count > 0}
        return reasons, max(0, dropped - sum(reasons.values()))
