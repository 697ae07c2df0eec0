"""The thread that turns the newest pair into outputs."""

from __future__ import annotations

import threading
import time
import traceback

from rclpy.lifecycle import LifecycleNode

from fg_depth_ros.inference import OutOfMemory
from fg_depth_ros.nodes.diagnostics import ERROR, WARN, Faults, PairStatistics
from fg_depth_ros.nodes.messages import MessageError
from fg_depth_ros.nodes.model_host import ModelHost
from fg_depth_ros.nodes.pair_check import PairChecker
from fg_depth_ros.nodes.parameter_table import DeclaredParameters
from fg_depth_ros.nodes.stereo_outputs import StereoOutputs
from fg_depth_ros.nodes.synchronizing import NewestSlot, Pair

_STOP_SECONDS = 30.0


class StereoWorker:
    """Checks, matches and publishes, one pair at a time. Whatever a pair is like, the thread lives on."""

    def __init__(
        self,
        node: LifecycleNode,
        settings: DeclaredParameters,
        host: ModelHost,
        checker: PairChecker,
        outputs: StereoOutputs,
        statistics: PairStatistics,
        faults: Faults,
    ) -> None:
        self._node, self._settings, self._host = node, settings, host
        self._checker, self._outputs = checker, outputs
        self._statistics, self._faults = statistics, faults
        self._slot: NewestSlot[Pair] = NewestSlot()
        self._thread = threading.Thread(target=self._run, name="stereo worker", daemon=True)
        self._thread.start()

    def put(self, pair: Pair) -> None:
        """Leave a pair to work on; returns at once. An older one that waits is dropped."""
        if self._slot.put(pair) is not None:
            self._statistics.dropped("replaced by newer")

    def stop(self) -> None:
        """End the thread, after the pair in work."""
        if self._slot.close() is not None:
            self._statistics.dropped("stopped")
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while (pair := self._slot.take()) is not None:
            try:
                self._work(pair)
            except Exception as error:
                if not self._node.context.ok():
                    return  # the process is ending, and publishers went before us
                self._statistics.dropped("internal error")
                self._faults.report(
                    "matching",
                    ERROR,
                    f"a pair could not be worked on: {error!r}; please report this",
                    kind=repr(type(error)),
                )
                self._node.get_logger().debug(traceback.format_exc())

    def _work(self, pair: Pair) -> None:
        begun = time.monotonic()
        wanted = self._outputs.wanted()
        if not wanted:
            self._statistics.dropped("nobody listens")
            return
        try:
            checked = self._checker.check(pair, self._settings["mono16_white"])
        except MessageError as error:
            self._statistics.dropped(error.reason)
            self._faults.report("input", ERROR, str(error), kind=error.reason)
            return
        self._faults.clear("input")
        estimator = self._host.estimator
        assert estimator is not None
        self._report("rectification", self._checker.rectification_problem())
        self._report("range", self._checker.range_problem(checked.rig, estimator.config.min_disparity))
        self._host.size = (checked.rig.width, checked.rig.height)
        try:
            estimate = estimator.estimate(checked.left, checked.right, checked.rig)
            self._outputs.publish(wanted, estimate, checked.left, pair)
        except OutOfMemory as error:
            self._statistics.dropped("out of memory")
            self._shrink(error)
            return
        self._faults.clear("matching")
        now = time.monotonic()
        self._statistics.finished(
            inference=estimate.seconds,
            processing=now - begun,
            pipeline=(self._node.get_clock().now().nanoseconds - pair.stamp) * 1e-9,
        )
        try:
            self._checker.look(checked)
        except MessageError as error:  # the next pair will not pass
            self._faults.report("input", ERROR, str(error), kind=error.reason)

    def _report(self, subject: str, problem: str | None) -> None:
        if problem is None:
            self._faults.clear(subject)
        else:
            self._faults.report(subject, WARN, problem, kind=subject)

    def _shrink(self, error: OutOfMemory) -> None:
        scale = self._host.shrink()
        if scale is None:
            text = (
                f"out of memory even at the smallest inference_scale ({error}): set device to cpu, send "
                "smaller images, or free memory"
            )
        else:
            text = (
                f"out of memory ({error}): going on with inference_scale {scale:g}; send smaller images or "
                "free memory, then set inference_scale again"
            )
        self._faults.report("memory", ERROR, text)
