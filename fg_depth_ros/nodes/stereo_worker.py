"""The thread that turns the newest pair into outputs."""

from __future__ import annotations

import threading
import time
import traceback

from rclpy.lifecycle import LifecycleNode

from fg_depth_ros.inference import OutOfMemory
from fg_depth_ros.nodes.diagnostics import ERROR, WARN, Faults, PairStatistics
from fg_depth_ros.nodes.flow_work import RowMonitor, TemporalFlow
from fg_depth_ros.nodes.messages import MessageError
from fg_depth_ros.nodes.model_host import FlowHost, StereoHost
from fg_depth_ros.nodes.pair_check import CheckedPair, PairChecker
from fg_depth_ros.nodes.parameter_table import DeclaredParameters
from fg_depth_ros.nodes.stereo_outputs import TEMPORAL_TOPICS, TOPICS, StereoOutputs
from fg_depth_ros.nodes.synchronizing import NewestSlot, Pair

_STOP_SECONDS = 30.0


class StereoWorker:
    """Checks, matches and publishes, one pair at a time. Whatever a pair is like, the thread lives on."""

    def __init__(
        self,
        node: LifecycleNode,
        settings: DeclaredParameters,
        host: StereoHost,
        flow_host: FlowHost,
        checker: PairChecker,
        outputs: StereoOutputs,
        statistics: PairStatistics,
        faults: Faults,
    ) -> None:
        self._node, self._settings, self._host, self._flow_host = node, settings, host, flow_host
        self._checker, self._outputs = checker, outputs
        self._statistics, self._faults = statistics, faults
        self._temporal, self.rows = TemporalFlow(), RowMonitor(checker.topic)
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
        self._host.size = self._flow_host.size = (checked.rig.width, checked.rig.height)
        inference = 0.0
        try:
            if wanted & TOPICS.keys():
                inference += self._depth(wanted, checked, pair)
        except OutOfMemory as error:
            self._statistics.dropped("out of memory")
            self._shrink(self._host, error)
            return
        inference += self._temporal_flow(wanted, checked, pair)
        self._faults.clear("matching")
        now = time.monotonic()
        self._statistics.finished(
            inference=inference,
            processing=now - begun,
            pipeline=(self._node.get_clock().now().nanoseconds - pair.stamp) * 1e-9,
        )
        self._check_rows(checked)
        try:
            self._checker.look(checked)
        except MessageError as error:  # the next pair will not pass
            self._faults.report("input", ERROR, str(error), kind=error.reason)

    def _depth(self, wanted: set[str], checked: CheckedPair, pair: Pair) -> float:
        """Everything that comes from the stereo pair; seconds in the model."""
        estimator = self._host.estimator
        assert estimator is not None
        self._report("rectification", self._checker.rectification_problem())
        self._report("range", self._checker.range_problem(checked.rig, estimator.config.min_disparity))
        estimate = estimator.estimate(checked.left, checked.right, checked.rig)
        self._outputs.publish(wanted, estimate, checked.left, pair)
        return estimate.seconds

    def _temporal_flow(self, wanted: set[str], checked: CheckedPair, pair: Pair) -> float:
        """Flow from the left image before; seconds in the model."""
        estimator = self._flow_host.estimator
        if not wanted & TEMPORAL_TOPICS.keys():
            self._temporal.forget()
            self._faults.clear("flow")
            return 0.0
        self._report(
            "flow",
            None
            if estimator
            else "temporal_flow/* has a listener, but flow_model is off: set it to flownet_lite or dis",
        )
        if estimator is None:
            return 0.0
        begun = time.monotonic()
        try:
            flow = self._temporal.next(pair.stamp, checked.left, estimator)
        except OutOfMemory as error:
            self._shrink(self._flow_host, error)
            return 0.0
        seconds = time.monotonic() - begun
        if flow is not None:
            self._outputs.publish_flow(wanted, flow, pair)
        return seconds

    def _check_rows(self, checked: CheckedPair) -> None:
        settings, estimator = self._settings, self._flow_host.estimator
        period = settings["row_check_period"]
        if estimator is None or period == 0:
            self._faults.forget("rows")  # nobody looks any more
            return
        if not self.rows.due(period):
            return
        try:
            self.rows.look(checked, estimator, period)
        except OutOfMemory as error:
            self._shrink(self._flow_host, error)
        self._report("rows", self.rows.problem(settings["row_check_median"], settings["row_check_tilt"]))

    def _report(self, subject: str, problem: str | None) -> None:
        if problem is None:
            self._faults.clear(subject)
        else:
            self._faults.report(subject, WARN, problem, kind=subject)

    def _shrink(self, host: StereoHost | FlowHost, error: OutOfMemory) -> None:
        scale = host.shrink()
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
