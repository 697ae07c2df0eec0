"""The thread that turns the newest pair into outputs; and, while the right camera is gone, the newest left image."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode

from fg_depth_ros.data.io.messages import MessageError
from fg_depth_ros.inference import MonoEstimate, OutOfMemory, StereoEstimate
from fg_depth_ros.nodes.common.codes import DropReason, FaultCode
from fg_depth_ros.nodes.common.diagnostics import ERROR, WARN, Faults, PairStatistics
from fg_depth_ros.nodes.common.parameters import DeclaredParameters
from fg_depth_ros.nodes.common.synchronizing import LeftView, NewestSlot, Pair
from fg_depth_ros.nodes.stereo_depth.flow_work import RowMonitor, TemporalFlow
from fg_depth_ros.nodes.stereo_depth.model_host import ModelHost
from fg_depth_ros.nodes.stereo_depth.models import NodeModels
from fg_depth_ros.nodes.stereo_depth.mono_work import MonoWork
from fg_depth_ros.nodes.stereo_depth.outputs import (
    FILLED_TOPICS,
    LEFT_TOPICS,
    MONO_TOPIC,
    TEMPORAL_TOPICS,
    TOPICS,
    StereoOutputs,
)
from fg_depth_ros.nodes.stereo_depth.pair_check import CheckedLeft, CheckedPair, PairChecker

_STOP_SECONDS = 30.0


class _Dropped(Exception):
    """Nothing is published for a pair or a left image."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason)
        self.reason = reason


class StereoWorker:
    """Checks, matches and publishes, one pair at a time. Whatever a pair is like, the thread lives on."""

    def __init__(
        self,
        node: LifecycleNode,
        settings: DeclaredParameters,
        models: NodeModels,
        checker: PairChecker,
        outputs: StereoOutputs,
        statistics: PairStatistics,
        faults: Faults,
    ) -> None:
        self._node, self._settings, self._models = node, settings, models
        self._checker, self._outputs = checker, outputs
        self._statistics, self._faults = statistics, faults
        self._temporal, self._rows = TemporalFlow(), RowMonitor(checker.topic)
        self._mono = MonoWork(models.mono, faults)
        self._answered: int | None = None  # stamp of the last left image that was published alone
        self._slot: NewestSlot[Pair | LeftView] = NewestSlot()
        self._thread = threading.Thread(target=self._run, name="stereo worker", daemon=True)
        self._thread.start()

    def put(self, come: Pair | LeftView) -> None:
        """Leave a pair, or a left image, to work on; returns at once. An older one that waits is dropped."""
        if self._slot.put(come) is not None:
            self._statistics.dropped(DropReason.REPLACED)

    def stop(self) -> None:
        """End the thread, after the pair in work."""
        if self._slot.close() is not None:
            self._statistics.dropped(DropReason.STOPPED)
        self._thread.join(_STOP_SECONDS)

    def values(self) -> Mapping[str, str]:
        """Key -> value for a DiagnosticStatus: what was measured beside the outputs."""
        return {**self._rows.values(), **self._mono.scale.values()}

    def _run(self) -> None:
        while (come := self._slot.take()) is not None:
            try:
                self._work(come)
            except Exception as error:
                if not self._node.context.ok():
                    return  # the process is ending, and publishers went before us
                self._statistics.dropped(DropReason.INTERNAL_ERROR)
                self._faults.report(
                    "matching",
                    ERROR,
                    f"a pair could not be worked on: {error!r}; please report this",
                    code=FaultCode.INTERNAL_ERROR,
                )
                self._node.get_logger().debug(traceback.format_exc())

    def _work(self, come: Pair | LeftView) -> None:
        begun = time.monotonic()
        wanted = self._outputs.wanted()
        try:
            if not wanted:
                raise _Dropped(DropReason.NO_SUBSCRIBERS)
            if isinstance(come, LeftView):
                self._left_view(begun, wanted, come)
            else:
                self._pair(begun, wanted, come)
        except _Dropped as drop:
            self._faults.forget("right camera")  # nothing stands in for the pairs, which is told as for any stall
            self._statistics.dropped(drop.reason)
        except MessageError as error:
            self._statistics.dropped(error.reason)
            self._faults.report("input", ERROR, str(error), code=error.reason)

    def _pair(self, begun: float, wanted: set[str], pair: Pair) -> None:
        self._mono.scale.let_go()
        if pair.stamp == self._answered:  # the right camera came back with it, a moment too late
            raise _Dropped(DropReason.LEFT_PUBLISHED)
        checked = self._checker.check(pair, self._settings["mono16_white"])
        self._passed(checked)
        inference = self._depth(wanted, checked, pair)
        inference += self._temporal_flow(wanted, checked.left, pair)
        self._finished(begun, inference, pair)
        self._check_rows(checked)
        try:
            self._checker.look(checked)
        except MessageError as error:  # the next pair will not pass
            self._faults.report("input", ERROR, str(error), code=error.reason)

    def _left_view(self, begun: float, wanted: set[str], view: LeftView) -> None:
        if not wanted & (LEFT_TOPICS | TEMPORAL_TOPICS.keys()):
            raise _Dropped(DropReason.RIGHT_CAMERA_SILENT)
        checked = self._checker.check_left(view, self._settings["mono16_white"])
        self._passed(checked)
        inference = self._depth_alone(wanted & LEFT_TOPICS, checked, view)
        inference += self._temporal_flow(wanted, checked.left, view)
        self._answered = view.stamp
        self._finished(begun, inference, view)

    def _passed(self, checked: CheckedPair | CheckedLeft) -> None:
        self._faults.clear("input")
        size = (checked.rig.width, checked.rig.height)
        self._models.stereo.size = self._models.flow.size = self._models.mono.size = size

    def _finished(self, begun: float, inference: float, come: Pair | LeftView) -> None:
        self._faults.clear("matching")
        now = self._node.get_clock().now().nanoseconds
        self._statistics.finished(
            inference=inference,
            processing=time.monotonic() - begun,
            pipeline=None if now == 0 else (now - come.stamp) * 1e-9,  # 0: simulated time that nobody tells
            alone=isinstance(come, LeftView),
        )

    def _depth(self, wanted: set[str], checked: CheckedPair, pair: Pair) -> float:
        """Everything that comes from the stereo pair, and mono depth beside it; seconds in the models."""
        estimate = self._stereo(checked) if wanted & TOPICS.keys() else None
        filling = estimate is not None and self._settings["fill_from_mono"] and bool(wanted & FILLED_TOPICS)
        if estimate is not None:  # what is not filled need not wait for the other network
            self._outputs.publish(wanted - FILLED_TOPICS if filling else wanted, estimate, checked.left, pair)
        need = f"{MONO_TOPIC} has a listener" if MONO_TOPIC in wanted else None
        mono = self._mono_depth(checked, "fill_from_mono is set" if filling else need)
        if estimate is not None and mono is not None and not filling and self._settings["mono_timeout"] > 0:
            self._mono.keep_scale(estimate, mono.depth)
        if estimate is not None and filling:
            filled = estimate if mono is None else self._mono.fill(estimate, mono.depth)
            self._outputs.publish(wanted & FILLED_TOPICS, filled, checked.left, pair)
        else:
            self._faults.forget("scale")
        if mono is not None:
            self._outputs.publish_mono(wanted, mono.depth, pair)
        if estimate is None and mono is None and not wanted & TEMPORAL_TOPICS.keys():
            raise _Dropped(DropReason.NO_MONO_DEPTH)
        return sum(answer.seconds for answer in (estimate, mono) if answer is not None)

    def _stereo(self, checked: CheckedPair) -> StereoEstimate:
        estimator = self._models.stereo.estimator
        assert estimator is not None
        self._report("rectification", FaultCode.NOT_RECTIFIED, self._checker.rectification_problem())
        self._report(
            "range", FaultCode.RANGE_LIMITED, self._checker.range_problem(checked.rig, estimator.config.min_disparity)
        )
        try:
            return estimator.estimate(checked.left, checked.right, checked.rig)
        except OutOfMemory as error:
            self._shrink(self._models.stereo, error)
            raise _Dropped(DropReason.OUT_OF_MEMORY) from error

    def _mono_depth(self, checked: CheckedPair | CheckedLeft, need: str | None) -> MonoEstimate | None:
        """Depth from the left image; None where nothing needs it (`need` says what does), or where it cannot be had,
        which is reported.
        """
        if need is None:
            self._faults.forget("mono")
            return None
        try:
            return self._mono.estimate(checked.left, checked.rig.fx, need)
        except OutOfMemory as error:
            self._shrink(self._models.mono, error)
            return None

    def _depth_alone(self, wanted: set[str], checked: CheckedLeft, view: LeftView) -> float:
        """Everything that the left image gives by itself; seconds in the model."""
        if not wanted:
            self._faults.forget("right camera")
            return 0.0
        mono, stereo = self._mono_depth(checked, "the right camera is gone"), self._models.stereo.estimator
        assert stereo is not None
        if mono is None:
            raise _Dropped(DropReason.NO_MONO_DEPTH)
        estimate = StereoEstimate.from_mono(
            mono.depth * self._mono.scale.hold(), checked.rig, stereo.config, mono.seconds
        )
        self._outputs.publish(wanted, estimate, checked.left, view)
        self._outputs.publish_mono(wanted, mono.depth, view)
        self._faults.report(
            "right camera",
            WARN,
            f"depth comes from the left image alone ({self._settings['mono_model']}): {view.why}",
            code=FaultCode.RIGHT_CAMERA_SILENT,
        )
        return mono.seconds

    def _temporal_flow(self, wanted: set[str], left: np.ndarray, come: Pair | LeftView) -> float:
        """Flow from the left image before; seconds in the model."""
        estimator = self._models.flow.estimator
        if not wanted & TEMPORAL_TOPICS.keys():
            self._temporal.forget()
            self._faults.clear("flow")
            return 0.0
        if estimator is None:
            lacking = self._models.flow.failure or "flow_model is off: set it to flownet_lite or dis"
            self._report("flow", FaultCode.NO_FLOW_MODEL, f"temporal_flow/* has a listener, but {lacking}")
            return 0.0
        self._faults.clear("flow")
        begun = time.monotonic()
        try:
            flow = self._temporal.next(come.stamp, left, estimator)
        except OutOfMemory as error:
            self._shrink(self._models.flow, error)
            return 0.0
        seconds = time.monotonic() - begun
        if flow is not None:
            self._outputs.publish_flow(wanted, flow, come)
        return seconds

    def _check_rows(self, checked: CheckedPair) -> None:
        settings, estimator = self._settings, self._models.flow.estimator
        period = settings["rectification_check_period"]
        if estimator is None or period == 0:
            self._faults.forget("rows")  # nobody looks any more
            return
        if not self._rows.due(period):
            return
        try:
            self._rows.look(checked, estimator, period)
        except OutOfMemory as error:
            self._shrink(self._models.flow, error)
        self._report(
            "rows",
            FaultCode.ROWS_MISALIGNED,
            self._rows.problem(settings["rectification_check_median"], settings["rectification_check_tilt"]),
        )

    def _report(self, subject: str, code: FaultCode, problem: str | None) -> None:
        if problem is None:
            self._faults.clear(subject)
        else:
            self._faults.report(subject, WARN, problem, code=code)

    def _shrink(self, host: ModelHost[Any, Any], error: OutOfMemory) -> None:
        name = host.estimator.model_name if host.estimator is not None else "the model"
        scale = host.shrink()
        if scale is None:
            text = (
                f"{name}: out of memory even at the smallest inference_scale ({error}): set device to cpu, send "
                "smaller images, or free memory"
            )
        else:
            text = (
                f"{name}: out of memory ({error}): going on with inference_scale {scale:g}; send smaller images or "
                "free memory, then set inference_scale again"
            )
        self._faults.report("memory", ERROR, text, code=FaultCode.OUT_OF_MEMORY)
