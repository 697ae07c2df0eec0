"""stereo_depth_node: a stereo pair in, disparity, metric depth, masks, flow and points out.

While the right camera is silent, depth comes from the left image alone. A lifecycle node: callbacks store
messages and decode packets of video, one worker thread processes the newest pair. docs/topics.md describes the topics,
docs/parameters.md the parameters.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile

from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator
from fg_depth_ros.inference.engines import compiling_beside
from fg_depth_ros.nodes.common import diagnostics
from fg_depth_ros.nodes.common.clock import CLOCK_ENDED_TEXT
from fg_depth_ros.nodes.common.codes import FaultCode, FaultSubject, NodeState
from fg_depth_ros.nodes.common.diagnostics import ERROR, WARN, Faults, PairStatistics
from fg_depth_ros.nodes.common.input_topics import input_topics
from fg_depth_ros.nodes.common.running import run_node
from fg_depth_ros.nodes.stereo_depth.inputs import PAIR_FAULTS, StereoInputs
from fg_depth_ros.nodes.stereo_depth.models import NodeModels, describe_estimator
from fg_depth_ros.nodes.stereo_depth.outputs import StereoOutputs
from fg_depth_ros.nodes.stereo_depth.parameters import STEREO_DEPTH, cloud_problem
from fg_depth_ros.nodes.stereo_depth.worker import StereoWorker

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

_PAIR_FAULTS = (FaultSubject.CONFIGURATION, *PAIR_FAULTS, FaultSubject.TIME)
_MODEL_FAULTS = (
    FaultSubject.CONFIGURATION,
    FaultSubject.MEMORY,
    FaultSubject.MONO,
    FaultSubject.MODEL,
    FaultSubject.ENGINE,
    FaultSubject.BUDGET,
)
_CHECK_SECONDS = 0.1
_CLOSE_AFTER = 20  # checks without a subscriber before the inputs are closed: two seconds
_SWAP_FAULT_SECONDS = 60.0
_LOADING_SECONDS = 30.0  # that the end of the node waits for a model that is being loaded
_NO_CLOCK = (
    "use_sim_time is true, but /clock has no publisher: latencies are not known; let the player publish it (ros2 "
    "bag play --clock), or set use_sim_time to false"
)


class StereoDepthNode(LifecycleNode):
    """The node. ``build`` makes the stereo estimator (for tests); other arguments are those of LifecycleNode."""

    def __init__(
        self, *, build: Callable[[StereoConfig], StereoDepthEstimator] = StereoDepthEstimator, **kwargs: Any
    ) -> None:
        super().__init__("stereo_depth_node", **kwargs)
        self.faults = Faults(diagnostics.node_log(self), subjects={*_PAIR_FAULTS, *_MODEL_FAULTS})
        self.statistics = PairStatistics()
        self._state = NodeState.UNCONFIGURED
        self._start_failed = False  # and is tried again when a parameter changes
        self._unsubscribed = 0
        self._outputs: StereoOutputs | None = None
        self._inputs: StereoInputs | None = None
        self._worker: StereoWorker | None = None
        self._tasks: deque[Callable[[], None]] = deque()
        self._tasks_ready = self.create_guard_condition(self._run_tasks)
        self._models = NodeModels(self, self.faults, self._post, build)
        self.parameters = STEREO_DEPTH.declare(self, check=self._refusal, apply=self._apply, reread=True)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        # Simulated time may stand still; these must not.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.create_timer(_CHECK_SECONDS, self._check_inputs, clock=steady)
        if self.parameters["autostart"]:
            self._post(self._start)

    # ---- lifecycle -------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the models and create the topics. FAILURE, with a fault, when the parameters are refused."""
        try:
            if self.parameters.problems:
                raise ValueError("; ".join(self.parameters.problems))
            if (problem := cloud_problem(self.parameters.values())) is not None:
                raise ValueError(problem)
            self._models.load(self.parameters.values())
            self._outputs = StereoOutputs(self, self.parameters, self.faults)
        except Exception as error:  # whatever a file leads to
            self._tear_down()
            self.faults.report(
                FaultSubject.CONFIGURATION,
                ERROR,
                f"not configured: {str(error) or repr(error)}",
                FaultCode.NOT_CONFIGURED,
            )
            return FAILURE
        self.faults.clear(FaultSubject.CONFIGURATION)
        self._log_unused(STEREO_DEPTH.parameters)
        self._state, self._start_failed = NodeState.INACTIVE, False
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start processing."""
        assert self._outputs is not None
        topics = input_topics(self, self.parameters)
        self._worker = StereoWorker(
            self, self.parameters, topics, self._models, self._outputs, self.statistics, self.faults
        )
        self._inputs = StereoInputs(
            self, self.parameters, topics, self._worker.submit, lambda: self._models.mono.off, self.statistics,
            self.faults,
        )  # fmt: skip
        self._state = NodeState.ACTIVE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing; the models stay loaded."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release topics and models."""
        self._tear_down()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release topics and models."""
        self._tear_down()
        self._state = NodeState.FINALIZED
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything after a transition raised, so that it can be tried again."""
        self.get_logger().error(f"the transition from '{state.label}' failed; starting over from unconfigured")
        self._tear_down()
        return SUCCESS

    def destroy_node(self) -> None:
        """Stop the threads, then destroy the node."""
        self._stop()
        self._models.release()
        self._models.join(_LOADING_SECONDS)
        super().destroy_node()

    def _start(self) -> None:
        if self._state != NodeState.UNCONFIGURED:
            return
        self._start_failed = self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS
        if not self._start_failed:
            estimator = self._models.stereo.estimator
            assert estimator is not None
            self.get_logger().info(f"active with {describe_estimator(estimator)}")

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        if self._inputs is not None:  # closed last: that forgets the faults of the worker's last pair, too
            self._inputs.close()
            self._inputs = None
        if self._state == NodeState.ACTIVE:
            self._state = NodeState.INACTIVE

    def _tear_down(self) -> None:
        self._stop()
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        self._models.release()
        self._state = NodeState.UNCONFIGURED

    # ---- parameters and models -------------------------------------------------------------------

    def _refusal(self, values: dict[str, Any]) -> str | None:
        return cloud_problem(values) or self._models.problem(self.parameters.values(), values)

    def _log_unused(self, names: Collection[str]) -> None:
        if (text := self._models.unused(self.parameters.values(), names)) is not None:
            self.get_logger().warning(text)

    def _apply(self, changed: set[str]) -> None:
        if self._state in (NodeState.INACTIVE, NodeState.ACTIVE):
            self._log_unused(changed)
            self._models.apply(changed, self.parameters.values())
        elif self._start_failed:
            self._post(self._start)

    # ---- pairs -----------------------------------------------------------------------------------

    def _check_inputs(self) -> None:
        """Open and close the inputs with the subscribers of the outputs, and check that pairs arrive."""
        if self._inputs is None or self._outputs is None:
            return
        self._unsubscribed = 0 if self._outputs.subscribed() else self._unsubscribed + 1
        if self._unsubscribed == 0:
            self._inputs.open()
        elif self._unsubscribed >= _CLOSE_AFTER:
            self._inputs.close()
        self._inputs.check()

    # ---- diagnostics ------------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        if not self._models.has_failed_swap:
            self.faults.forget(FaultSubject.MODEL, older_than=_SWAP_FAULT_SECONDS)
        self.faults.update(FaultSubject.ENGINE, WARN, self._models.engine_failure(), FaultCode.ENGINE_FAILED)
        self.faults.update(FaultSubject.BUDGET, WARN, self._models.over_budget(), FaultCode.OVER_TIME_BUDGET)
        now = self.get_clock().now()
        if now.nanoseconds:
            self.faults.clear(FaultSubject.TIME)
        elif self._inputs is not None and self._inputs.is_receiving:  # else its player may still be starting
            self.faults.report(FaultSubject.TIME, WARN, _NO_CLOCK, FaultCode.NO_CLOCK)
        name = self.get_fully_qualified_name().lstrip("/")
        message = DiagnosticArray()
        message.header.stamp = now.to_msg()
        subscribed = self._inputs is not None and self._inputs.is_open
        idle = self._state == NodeState.ACTIVE and not subscribed
        fine = "idle: no output has a subscriber" if idle else self._state.value
        values = {keys.STATE: self._state, **self.statistics.values()}
        if self._inputs is not None:
            values |= self._inputs.values()
        if self._worker is not None:
            values |= self._worker.values()
        pairs, model = self.faults.present(_PAIR_FAULTS), self.faults.present(_MODEL_FAULTS)
        reason = FaultCode.IDLE if idle else FaultCode.OK
        if self._inputs is not None and self._inputs.ended:
            fine, reason = CLOCK_ENDED_TEXT, FaultCode.CLOCK_ENDED
        message.status = [
            diagnostics.status(f"{name}: pairs", "stereo camera", pairs, fine, values, reason),
            diagnostics.status(f"{name}: model", "stereo camera", model, "running", self._models.values()),
        ]
        self._diagnostics.publish(message)

    def _post(self, task: Callable[[], None]) -> None:
        """Run a function in the executor's thread."""
        self._tasks.append(task)
        self._tasks_ready.trigger()

    def _run_tasks(self) -> None:
        while self._tasks:
            self._tasks.popleft()()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; returns the exit status."""
    started = run_node("stereo_depth_node", StereoDepthNode, lambda node, executor: executor.spin(), args)
    if compiling_beside():
        # Python would end that thread within the engine's library, and that aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0 if started else 1


if __name__ == "__main__":
    sys.exit(main())
