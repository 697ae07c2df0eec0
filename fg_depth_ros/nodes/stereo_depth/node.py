"""stereo_depth_node: a rectified stereo pair in, disparity, metric depth, masks, flow and points out; while the right
camera is gone, what the left image gives alone.

A lifecycle node. Callbacks only store; one worker thread works on the newest pair. See docs/topics.md for the
topics and docs/parameters.md for the parameters.
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile

from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator
from fg_depth_ros.nodes.common import diagnostics
from fg_depth_ros.nodes.common.codes import FaultCode, NodeState
from fg_depth_ros.nodes.common.diagnostics import ERROR, WARN, Faults, PairStatistics
from fg_depth_ros.nodes.common.environment import use_shared_memory_profile
from fg_depth_ros.nodes.common.synchronizing import LeftView, Pair
from fg_depth_ros.nodes.stereo_depth.inputs import StereoInputs
from fg_depth_ros.nodes.stereo_depth.model_host import LOAD_ERRORS
from fg_depth_ros.nodes.stereo_depth.models import NodeModels
from fg_depth_ros.nodes.stereo_depth.outputs import StereoOutputs
from fg_depth_ros.nodes.stereo_depth.pair_check import PairChecker
from fg_depth_ros.nodes.stereo_depth.parameters import STEREO_DEPTH
from fg_depth_ros.nodes.stereo_depth.worker import StereoWorker

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

_PAIR_FAULTS = (
    "configuration",
    "input",
    "matching",
    "right camera",
    "pairs",
    "rectification",
    "rows",
    "range",
    "scale",
    "flow",
    "time",
)
_MODEL_FAULTS = ("configuration", "memory", "model", "mono")
_WATCH_SECONDS = 0.1
_CLOSE_AFTER = 20  # watches without a listener before the inputs are closed: two seconds
_SWAP_FAULT_SECONDS = 60.0
_NO_CLOCK = (
    "use_sim_time is true, and nobody publishes /clock: latencies are not known; let the player publish it (ros2 "
    "bag play --clock), or set use_sim_time to false"
)


class StereoDepthNode(LifecycleNode):
    """The node. `build` makes the estimator from its configuration (for tests); the rest goes to
    LifecycleNode.
    """

    def __init__(
        self,
        *,
        build: Callable[[StereoConfig], StereoDepthEstimator] = StereoDepthEstimator,
        **kwargs: Any,
    ) -> None:
        super().__init__("stereo_depth_node", **kwargs)
        self.faults = Faults(diagnostics.node_log(self))
        self.statistics = PairStatistics()
        self._state = NodeState.UNCONFIGURED
        self._unheard = 0
        self._outputs: StereoOutputs | None = None
        self._inputs: StereoInputs | None = None
        self._worker: StereoWorker | None = None
        self._mail: deque[Callable[[], None]] = deque()
        self._mail_came = self.create_guard_condition(self._read_mail)
        self._models = NodeModels(self, self.faults, self._post, build)
        self.parameters = STEREO_DEPTH.declare(self, check=self._check, apply=self._apply)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        # Simulated time may stand still; these must not.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.create_timer(_WATCH_SECONDS, self._watch, clock=steady)
        if self.parameters["autostart"]:
            self._post(self._start)

    # ---- lifecycle -------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create the topics. FAILURE, with the reason, when the settings allow neither."""
        try:
            if self.parameters.problems:
                raise ValueError("; ".join(self.parameters.problems))
            self._models.load(self.parameters.values())
        except LOAD_ERRORS as error:
            self.faults.report("configuration", ERROR, f"not configured: {error}", FaultCode.NOT_CONFIGURED)
            return FAILURE
        self.faults.clear("configuration")
        self._outputs = StereoOutputs(self, self.parameters)
        self._state = NodeState.INACTIVE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to work."""
        assert self._outputs is not None
        self._inputs = StereoInputs(self, self.parameters, self._put, self.statistics, self.faults)
        checker = PairChecker(self._inputs.topic, compressed=self._inputs.compressed)
        self._worker = StereoWorker(
            self, self.parameters, self._models, checker, self._outputs, self.statistics, self.faults
        )
        self._state = NodeState.ACTIVE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop working; the model stays loaded."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back."""
        self._tear_down()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back, for good."""
        self._tear_down()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised: give everything back, so that it can be tried again."""
        self.get_logger().error(f"the transition from '{state.label}' failed; starting over from unconfigured")
        self._tear_down()
        return SUCCESS

    def destroy_node(self) -> None:
        """Stop the threads, then destroy the node."""
        self._stop()
        self._models.release()
        super().destroy_node()

    def _start(self) -> None:
        if self._state != NodeState.UNCONFIGURED or self.trigger_configure() != SUCCESS:
            return
        if self.trigger_activate() == SUCCESS:
            estimator = self._models.stereo.estimator
            assert estimator is not None
            self.get_logger().info(f"active with {estimator.model_name} on {estimator.device}")

    def _stop(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
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

    def _check(self, values: dict[str, Any]) -> str | None:
        return self._models.problem(self.parameters.values(), values)

    def _apply(self, changed: set[str]) -> None:
        if self._state != NodeState.UNCONFIGURED:
            self._models.apply(changed, self.parameters.values())
        elif self.parameters["autostart"]:
            self._post(self._start)

    # ---- pairs -----------------------------------------------------------------------------------

    def _put(self, come: Pair | LeftView) -> None:
        if self._worker is not None:
            self._worker.put(come)

    def _watch(self) -> None:
        """Open and close the inputs with the listeners, and look after them."""
        if self._inputs is None or self._outputs is None:
            return
        self._unheard = 0 if self._outputs.wanted() else self._unheard + 1
        if self._unheard == 0:
            self._inputs.open()
        elif self._unheard >= _CLOSE_AFTER:
            self._inputs.close()
        self._inputs.watch()

    # ---- telling ---------------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        self.faults.forget("model", older_than=_SWAP_FAULT_SECONDS)
        now = self.get_clock().now()
        if now.nanoseconds:
            self.faults.clear("time")
        else:
            self.faults.report("time", WARN, _NO_CLOCK, FaultCode.NO_CLOCK)
        name = self.get_fully_qualified_name().lstrip("/")
        message = DiagnosticArray()
        message.header.stamp = now.to_msg()
        listening = self._inputs is not None and self._inputs.opened
        idle = self._state == NodeState.ACTIVE and not listening
        message_text = "idle: no output has a subscriber" if idle else self._state.value
        values = {"state": self._state, **self.statistics.values()}
        if self._inputs is not None:
            values |= self._inputs.values()
        if self._worker is not None:
            values |= self._worker.values()
        pairs = self.faults.present(_PAIR_FAULTS)
        reason = FaultCode.IDLE if idle else FaultCode.OK
        message.status.append(
            diagnostics.status(f"{name}: pairs", "stereo camera", pairs, message_text, values, reason)
        )
        model = self.faults.present(_MODEL_FAULTS)
        message.status.append(
            diagnostics.status(f"{name}: model", "stereo camera", model, "running", self._models.values())
        )
        self._diagnostics.publish(message)

    def _post(self, task: Callable[[], None]) -> None:
        """Let the executor's thread do it."""
        self._mail.append(task)
        self._mail_came.trigger()

    def _read_mail(self) -> None:
        while self._mail:
            self._mail.popleft()()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted."""
    use_shared_memory_profile()
    rclpy.init(args=args)
    node = None
    try:
        node = StereoDepthNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would cut the cleaning up short
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
