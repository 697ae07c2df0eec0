"""stereo_depth_node: a rectified stereo pair in, disparity, metric depth, masks, flow and points out.

A lifecycle node. Callbacks only store; one worker thread works on the newest pair. See docs/topics.md for the
topics and docs/parameters.md for the parameters.
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile

from fg_depth_ros import __version__
from fg_depth_ros.inference import EstimatorConfig, FlowConfig, FlowEstimator, StereoDepthEstimator
from fg_depth_ros.nodes import diagnostics
from fg_depth_ros.nodes.diagnostics import ERROR, WARN, Faults, PairStatistics
from fg_depth_ros.nodes.environment import use_shared_memory_profile
from fg_depth_ros.nodes.model_host import LOAD_ERRORS, FlowHost, StereoHost
from fg_depth_ros.nodes.pair_check import PairChecker
from fg_depth_ros.nodes.parameters import STEREO_DEPTH
from fg_depth_ros.nodes.stereo_inputs import StereoInputs
from fg_depth_ros.nodes.stereo_outputs import StereoOutputs
from fg_depth_ros.nodes.stereo_worker import StereoWorker
from fg_depth_ros.nodes.synchronizing import Pair

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

# Parameters that make an EstimatorConfig: field -> parameter.
_CONFIG = {
    name: name
    for name in (
        "model",
        "device",
        "precision",
        "min_depth",
        "max_depth",
        "left_right_check",
        "left_right_threshold",
        "max_sigma",
        "inference_scale",
        "min_disparity",
        "max_disparity",
    )
} | {"weights": "depth_weights"}
# The same for a FlowConfig.
_FLOW_CONFIG = {
    "model": "flow_model",
    "weights": "flow_weights",
    "device": "device",
    "precision": "precision",
    "inference_scale": "inference_scale",
}

_PAIR_FAULTS = ("configuration", "input", "matching", "pairs", "rectification", "rows", "range", "flow")
_WATCH_SECONDS = 0.1
_CLOSE_AFTER = 20  # watches without a listener before the inputs are closed: two seconds
_SWAP_FAULT_SECONDS = 60.0


class StereoDepthNode(LifecycleNode):
    """The node. `build` makes the estimator from its configuration (for tests); the rest goes to
    LifecycleNode.
    """

    def __init__(
        self,
        *,
        build: Callable[[EstimatorConfig], StereoDepthEstimator] = StereoDepthEstimator,
        **kwargs: Any,
    ) -> None:
        super().__init__("stereo_depth_node", **kwargs)
        self.faults = Faults(self._log)
        self.statistics = PairStatistics()
        self._phase = "unconfigured"
        self._unheard = 0
        self._outputs: StereoOutputs | None = None
        self._inputs: StereoInputs | None = None
        self._worker: StereoWorker | None = None
        self._mail: deque[Callable[[], None]] = deque()
        self._mail_came = self.create_guard_condition(self._read_mail)
        self._host = StereoHost(
            lambda estimator: self._post(lambda: self._model_exchanged(estimator)),
            lambda config, text: self._post(lambda: self._model_failed(self._host, _CONFIG, config, text)),
            build,
        )
        self._flow_host = FlowHost(
            lambda estimator: self._post(lambda: self._model_exchanged(estimator)),
            lambda config, text: self._post(lambda: self._model_failed(self._flow_host, _FLOW_CONFIG, config, text)),
            FlowEstimator,
        )
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
            values = self.parameters.values()
            self._host.load(self._config(values))
            flow = self._flow_config(values)
            if flow is not None:
                self._flow_host.load(flow)
        except LOAD_ERRORS as error:
            self.faults.report("configuration", ERROR, f"not configured: {error}")
            return FAILURE
        self.faults.clear("configuration")
        self._outputs = StereoOutputs(self, self.parameters)
        self._phase = "inactive"
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to work."""
        assert self._outputs is not None
        self._inputs = StereoInputs(self, self.parameters, self._put, self.statistics, self.faults)
        checker = PairChecker(self._inputs.topic, compressed=self._inputs.compressed)
        self._worker = StereoWorker(
            self, self.parameters, self._host, self._flow_host, checker, self._outputs, self.statistics, self.faults
        )
        self._phase = "active"
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
        self._host.release()
        self._flow_host.release()
        super().destroy_node()

    def _start(self) -> None:
        if self._phase != "unconfigured" or self.trigger_configure() != SUCCESS:
            return
        if self.trigger_activate() == SUCCESS:
            estimator = self._host.estimator
            assert estimator is not None
            self.get_logger().info(f"active with {estimator.model_name} on {estimator.device}")

    def _stop(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        if self._phase == "active":
            self._phase = "inactive"

    def _tear_down(self) -> None:
        self._stop()
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        self._host.release()
        self._flow_host.release()
        self._phase = "unconfigured"

    # ---- parameters and models -------------------------------------------------------------------

    def _config(self, values: dict[str, Any]) -> EstimatorConfig:
        """The estimator's configuration from parameter values. Raises ValueError for what does not go
        together.
        """
        fields = {field: values[name] for field, name in _CONFIG.items()}
        if fields["model"] == "sgbm":
            fields["weights"] = ""  # the classical method has none
        _check_file("depth_weights", fields["weights"])
        fields["inference_scale"] = min(fields["inference_scale"], self._host.scale_limit)
        return EstimatorConfig(**fields)

    def _flow_config(self, values: dict[str, Any]) -> FlowConfig | None:
        """The same for flow; None where it is off."""
        fields = {field: values[name] for field, name in _FLOW_CONFIG.items()}
        if fields["model"] == "off":
            return None
        if fields["model"] != "flownet_lite":
            fields["weights"] = ""
        _check_file("flow_weights", fields["weights"])
        fields["inference_scale"] = min(fields["inference_scale"], self._flow_host.scale_limit)
        return FlowConfig(**fields)

    def _check(self, values: dict[str, Any]) -> str | None:
        models = {*_CONFIG.values(), *_FLOW_CONFIG.values()}
        if all(values[name] == self.parameters[name] for name in models):
            return None
        try:
            self._config(values)
            self._flow_config(values)
        except ValueError as error:
            return str(error)
        return None

    def _apply(self, changed: set[str]) -> None:
        if "inference_scale" in changed:
            self._host.scale_limit = self._flow_host.scale_limit = 1.0
            self.faults.forget("memory")
        if self._phase == "unconfigured":
            if self.parameters["autostart"]:
                self._post(self._start)
            return
        if changed & set(_CONFIG.values()):
            self.faults.forget("model")
            self._host.exchange(self._config(self.parameters.values()))
        if changed & set(_FLOW_CONFIG.values()):
            self.faults.forget("model")
            flow = self._flow_config(self.parameters.values())
            if flow is None:
                self._flow_host.release()
            else:
                self._flow_host.exchange(flow)

    def _model_exchanged(self, estimator: StereoDepthEstimator | FlowEstimator) -> None:
        self.get_logger().info(
            f"now running {estimator.model_name} on {estimator.device} (sha256 {estimator.model_sha256 or '-'})"
        )

    def _model_failed(
        self, host: StereoHost | FlowHost, fields: Mapping[str, str], config: EstimatorConfig | FlowConfig, text: str
    ) -> None:
        """The new model could not be had: the parameters go back to what is running."""
        running = host.estimator
        if running is None:
            return
        back = {
            name: getattr(running.config, field)
            for field, name in fields.items()
            if getattr(running.config, field) != getattr(config, field)
        }
        self.set_parameters_atomically([Parameter(name, value=value) for name, value in back.items()])
        self.faults.report(
            "model", WARN, f"the model was not exchanged, {running.model_name} goes on as before: {text}"
        )

    # ---- pairs -----------------------------------------------------------------------------------

    def _put(self, pair: Pair) -> None:
        if self._worker is not None:
            self._worker.put(pair)

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
        name = self.get_fully_qualified_name().lstrip("/")
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        listening = self._inputs is not None and self._inputs.opened
        fine = self._phase if self._phase != "active" or listening else "idle: nobody subscribes to an output"
        values = {"state": self._phase, **self.statistics.values()}
        if self._inputs is not None:
            values |= self._inputs.values()
        if self._worker is not None:
            values |= self._worker.rows.values()
        pairs = self.faults.worst(_PAIR_FAULTS)
        message.status.append(diagnostics.status(f"{name}: pairs", "stereo camera", pairs, fine, values))
        model = self.faults.worst(("configuration", "memory", "model"))
        message.status.append(
            diagnostics.status(f"{name}: model", "stereo camera", model, "running", self._model_values())
        )
        self._diagnostics.publish(message)

    def _model_values(self) -> dict[str, str]:
        estimator = self._host.estimator
        values = {"version": __version__, "exchange in progress": str(self._host.loading).lower()}
        if estimator is not None:
            values |= {
                "model": estimator.model_name,
                "weights sha256": estimator.model_sha256 or "none",
                "weights": estimator.config.weights or ("shipped" if estimator.model_sha256 else "none"),
                "device": estimator.device,
                "inference_scale": f"{estimator.config.inference_scale:g}",
                **diagnostics.memory_values(estimator.device),
            }
        flow = self._flow_host.estimator
        if flow is not None:
            values |= {"flow model": flow.model_name, "flow weights sha256": flow.model_sha256 or "none"}
        return values

    def _log(self, level: bytes, text: str) -> None:
        # One call for each: rclpy binds a line of code to one severity.
        if level == ERROR:
            self.get_logger().error(text)
        elif level == WARN:
            self.get_logger().warning(text)
        else:
            self.get_logger().info(text)

    def _post(self, task: Callable[[], None]) -> None:
        """Let the executor's thread do it."""
        self._mail.append(task)
        self._mail_came.trigger()

    def _read_mail(self) -> None:
        while self._mail:
            self._mail.popleft()()


def _check_file(parameter: str, path: str) -> None:
    if path and not Path(path).is_file():
        raise ValueError(
            f"parameter {parameter} = '{path}': there is no such file; give the path of a .safetensors file, or "
            "nothing for the weights that come with the package"
        )


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
