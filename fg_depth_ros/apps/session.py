"""One measured session: player, depth node and evaluator as separate processes over DDS.

No ROS import: this is the parent of the nodes.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fg_depth_ros.apps.processes import ProcessGroup
from fg_depth_ros.evaluation.replay.scores import ReplayScores
from fg_depth_ros.evaluation.reports.report import Report, read_report
from fg_depth_ros.nodes.players.source import MOTORCYCLE

START_SECONDS = 90.0  # importing torch and reading weights from a cold disk on a busy machine
END_SECONDS = 60.0  # beyond the time that playing takes


class SessionError(RuntimeError):
    """The session cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Session:
    """What is run and measured.

    `count` pairs are played at `rate` Hz, the first `warm_up` of them count for everything but latency.
    `truth`: the pairs have true depth. `judge`: measure accuracy too (otherwise rates and latencies only).
    `snapshot`: keep one pair with all that was published for it, the one named `snapshot_pair` if it can be had.
    `depth` and `player` are further parameters of these nodes.
    """

    model: str
    count: int
    rate: float
    pairs: str = MOTORCYCLE
    set_name: str = "replay"
    warm_up: int = 3
    truth: bool = True
    judge: bool = True
    snapshot: bool = False
    snapshot_pair: str = ""
    depth: Mapping[str, Any] = field(default_factory=dict)
    player: Mapping[str, Any] = field(default_factory=dict)

    def run(self, group: ProcessGroup, tell: Callable[[str], None] = lambda text: None) -> SessionResult:
        """Start the three nodes in `group`, which the caller stops, and wait for the evaluator's report.

        `tell` gets a line about the state whenever it may have changed.

        Raises:
            SessionError: the depth node refuses its model or a parameter.
            ChildDied, ChildTimeout: a node ended, or something did not happen in time.
        """
        watch = Watch()
        folder = group.log_dir
        report, snapshot, scores = folder / "report.json", folder / "pair.npz", folder / "scores.json"
        group.start(
            f"{self.model} depth node",
            "fg_depth_ros.nodes.stereo_depth.node",
            {"model": self.model, **self.depth},
            on_line=watch.depth_line,
        )
        evaluator = group.start(
            "evaluator",
            "fg_depth_ros.nodes.evaluator.node",
            {
                "pairs": self.count,
                "warm_up": self.warm_up,
                "truth": self.truth,
                "judge": self.judge,
                "set_name": self.set_name,
                "report": str(report),
                "scores": str(scores) if self.judge else "",
                "snapshot": str(snapshot) if self.snapshot else "",
                "snapshot_pair": self.snapshot_pair,
                "live": "json",
                "patience": START_SECONDS + 30.0,
            },
            on_line=watch.evaluator_line,
        )
        tell("starting")
        group.wait_until(
            lambda: watch.check() and watch.depth_active and watch.evaluator_ready,
            START_SECONDS,
            f"the {self.model} depth node to load its model",
        )
        player = group.start(
            "player",
            "fg_depth_ros.nodes.players.stereo_player",
            {
                "pairs": self.pairs,
                "rate": self.rate,
                "count": self.count,
                "publish_truth": self.truth,
                "wait_for_subscribers": self._subscribers,
                "wait_timeout": 20.0,
                **self.player,
            },
        )

        def ended() -> bool:
            watch.check()
            tell(watch.text())
            return not evaluator.running

        group.wait_until(
            ended,
            self.count / self.rate + END_SECONDS,
            f"the evaluator to see {self.count} pairs",
            may_end=(evaluator, player),
            poll=0.1,
        )
        group.check(may_end=(evaluator, player))
        evaluator.drain()
        judged = ReplayScores.read(scores) if self.judge else ReplayScores()
        return SessionResult(self.model, read_report(report), judged, snapshot, watch.text())

    @property
    def _subscribers(self) -> int:
        """Subscribers of the image topics: without truth the evaluator, too, listens to the images."""
        return 2 if self.judge and not self.truth else 1


@dataclass(frozen=True)
class SessionResult:
    """What came of it. `scores` are the report's accuracy rows pair by pair; `snapshot` is the path of a pair
    (see replay_snapshot), if one was wanted and came back complete; `last_words` the last state in words."""

    model: str
    report: Report
    scores: ReplayScores
    snapshot: Path
    last_words: str

    @property
    def timing(self) -> dict[str, Any]:
        """The report's row of rates, latencies and drops."""
        return next(row for row in self.report.rows if row.get("kind") == "timing")


class Watch:
    """What the children say, read from their output in the readers' threads."""

    def __init__(self) -> None:
        self.depth_active = False
        self.evaluator_ready = False
        self._refusal = ""
        self._live: dict[str, Any] = {}
        self._lock = threading.Lock()

    def depth_line(self, line: str) -> None:
        if "not configured: " in line:
            self._refusal = line.split("not configured: ", 1)[1]
        elif ": active with " in line:
            self.depth_active = True

    def evaluator_line(self, line: str) -> None:
        if not line.startswith("{"):
            return
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            self.evaluator_ready |= event.get("event") == "ready"
            if event.get("event") == "live":
                with self._lock:
                    self._live = event

    def check(self) -> bool:
        """True; raises SessionError when the depth node refuses its model."""
        if self._refusal:
            raise SessionError(f"the depth node was not configured: {self._refusal}")
        return True

    def text(self) -> str:
        with self._lock:
            live = dict(self._live)
        if not live:
            return "waiting for the first pair"
        rate, latency = live.get("rate_hz") or 0.0, live.get("latency_ms") or 0.0
        return (
            f"{rate:4.1f} Hz, latency {latency:4.0f} ms, {live['delivered']} of {live['sent']} pairs delivered, "
            f"{live['dropped']} dropped"
        )
