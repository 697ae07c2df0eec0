"""The thread of ``replay_evaluator_node`` that computes the metrics."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from fg_depth_ros.data.io import messages
from fg_depth_ros.evaluation.live.pair_ledger import PairEntry
from fg_depth_ros.evaluation.live.report import PairSeries, evaluate_pair
from fg_depth_ros.evaluation.replay.pictures import WorstPairs
from fg_depth_ros.evaluation.replay.scores import ReplayScores
from fg_depth_ros.geometry.rectification import Rectification
from fg_depth_ros.nodes.evaluator.pair_messages import published_pair

_QUEUE = 16  # pairs
_END_SECONDS = 10.0  # that the end waits for what is queued, and then for the pair in work
_PICTURES = 6  # of the worst pairs


class EvaluationWorker:
    """Evaluates complete pairs in a thread of its own.

    ``scores`` and ``worst`` are its results, to be read after ``stop``; the figures of each pair go into ``series``.
    ``not_evaluated``: pairs that could not be evaluated, or were left when it stopped; ``failures``: the reasons, each
    of which is given to ``log_error`` once.
    """

    def __init__(self, series: PairSeries, log_error: Callable[[str], object]) -> None:
        self.scores, self.worst = ReplayScores(), WorstPairs(_PICTURES)
        self.not_evaluated = 0
        self.failures: set[str] = set()
        self._series, self._log_error = series, log_error
        self._queue: queue.Queue[tuple[PairEntry, Rectification] | None] = queue.Queue(maxsize=_QUEUE)
        self._thread = threading.Thread(target=self._run, name="evaluation", daemon=True)
        self._thread.start()

    def submit(self, entry: PairEntry, rectification: Rectification) -> None:
        """Queue a pair; one that finds the queue full counts as not evaluated."""
        try:
            self._queue.put_nowait((entry, rectification))
        except queue.Full:
            self.not_evaluated += 1

    def count_failure(self, text: str) -> None:
        """Count a pair that cannot be evaluated, and log the first of equal reasons."""
        self.not_evaluated += 1
        if text not in self.failures:
            self.failures.add(text)
            self._log_error(f"a pair could not be evaluated: {text}")

    def stop(self) -> None:
        """Evaluate what is queued; pairs that are left after some seconds count as not evaluated."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_END_SECONDS)
            self._thread.join(_END_SECONDS)
        if not self._thread.is_alive():
            return
        left = 0
        with contextlib.suppress(queue.Empty):
            while True:
                left += self._queue.get_nowait() is not None
        self.not_evaluated += left
        self._queue.put(None)
        self._thread.join(_END_SECONDS)  # the report reads what it writes
        self.not_evaluated += self._thread.is_alive()

    def _run(self) -> None:
        white = messages.LearnedWhite()
        while (job := self._queue.get()) is not None:
            try:
                evaluate_pair(self.scores, self._series, self.worst, job[0], published_pair(*job, white))
            except ValueError as error:  # a malformed message, or sizes that differ
                self.count_failure(str(error))
