"""The models of stereo_depth_node: made from its parameters, exchanged when those change, put back when that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from fg_depth_ros import __version__
from fg_depth_ros.inference import (
    FlowConfig,
    FlowEstimator,
    MonoConfig,
    MonoDepthEstimator,
    StereoConfig,
    StereoDepthEstimator,
)
from fg_depth_ros.nodes.common import diagnostics
from fg_depth_ros.nodes.common.codes import FaultCode, SwapState
from fg_depth_ros.nodes.common.diagnostics import WARN, Faults
from fg_depth_ros.nodes.stereo_depth.model_host import (
    AnyConfig,
    AnyEstimator,
    FlowHost,
    ModelHost,
    MonoHost,
    StereoHost,
)

# Parameters that make a configuration: field -> parameter.
_STEREO = {
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
_FLOW = {
    "model": "flow_model",
    "weights": "flow_weights",
    "device": "device",
    "precision": "precision",
    "inference_scale": "inference_scale",
}
# A depth network brings images to its own size, whatever theirs.
_MONO = {"model": "mono_model", "weights": "mono_weights", "device": "device", "precision": "precision"}
_ALL = {*_STEREO.values(), *_FLOW.values(), *_MONO.values()}

Values = Mapping[str, Any]


class NodeModels:
    """The three hosts of a node: `stereo`, `flow` (may be off) and `mono` (may be off; loaded when it is needed).

    Args:
        node: whose parameters go back when a model cannot be had.
        post: lets the executor's thread do something.
        build: makes the stereo estimator.
    """

    def __init__(
        self,
        node: LifecycleNode,
        faults: Faults,
        post: Callable[[Callable[[], None]], None],
        build: Callable[[StereoConfig], StereoDepthEstimator],
    ) -> None:
        self._node, self._faults = node, faults

        def exchanged(estimator: AnyEstimator) -> None:
            post(lambda: self._exchanged(estimator))

        self.stereo: StereoHost = StereoHost(
            exchanged, lambda config, text: post(lambda: self._failed(self.stereo, _STEREO, config, text)), build
        )
        self.flow: FlowHost = FlowHost(
            exchanged, lambda config, text: post(lambda: self._failed(self.flow, _FLOW, config, text)), FlowEstimator
        )
        self.mono: MonoHost = MonoHost(
            exchanged,
            lambda config, text: post(lambda: self._failed(self.mono, _MONO, config, text)),
            MonoDepthEstimator,
        )

    def load(self, values: Values) -> None:
        """What `values` (all parameters) ask for. Raises one of LOAD_ERRORS."""
        flow, mono = self._flow_config(values), self._mono_config(values)
        self.stereo.load(self._stereo_config(values))
        if flow is not None:
            self.flow.load(flow)
        self.mono.prepare(mono)

    def release(self) -> None:
        """Give all of them back."""
        self.stereo.release()
        self.flow.release()
        self.mono.prepare(None)

    def problem(self, before: Values, values: Values) -> str | None:
        """Why `values` would not do where they differ from those before, or None."""
        if all(values[name] == before[name] for name in _ALL):
            return None
        try:
            self._stereo_config(values)
            self._flow_config(values)
            self._mono_config(values)
        except ValueError as error:
            return str(error)
        return None

    def apply(self, changed: set[str], values: Values) -> None:
        """Exchange the models that the `changed` parameters concern."""
        if "inference_scale" in changed:
            # Memory may have become free meanwhile.
            self.stereo.scale_limit = self.flow.scale_limit = self.mono.scale_limit = 1.0
            self._faults.forget("memory")
        if changed & _ALL:
            self._faults.forget("model")
        if changed & set(_STEREO.values()):
            self.stereo.exchange(self._stereo_config(values))
        if changed & set(_FLOW.values()):
            flow = self._flow_config(values)
            if flow is None:
                self.flow.release()
            else:
                self.flow.exchange(flow)
        if changed & {*_MONO.values(), "inference_scale"}:
            self.mono.prepare(self._mono_config(values))

    @property
    def _flow_configured(self) -> bool:
        return bool(self._node.get_parameter("flow_model").value != "off")

    def values(self) -> dict[str, str]:
        """Key -> value for a DiagnosticStatus."""
        hosts: tuple[ModelHost[Any, Any], ...] = (self.stereo, self.flow, self.mono)
        values = {
            "version": __version__,
            "swap": self.stereo.swap_state,
            "flow swap": self.flow.swap_state if self._flow_configured else SwapState.OFF,
            "mono swap": self.mono.swap_state,
        }
        stereo, flow, mono = (host.estimator for host in hosts)
        if stereo is not None:
            values |= {
                "model": stereo.model_name,
                "weights sha256": stereo.model_sha256 or "none",
                "weights": stereo.config.weights or ("shipped" if stereo.model_sha256 else "none"),
                "device": stereo.device,
                "inference_scale": f"{stereo.config.inference_scale:g}",
                **diagnostics.memory_values(stereo.device),
            }
        if flow is not None:
            values |= {"flow model": flow.model_name, "flow weights sha256": flow.model_sha256 or "none"}
        if mono is not None:
            values |= {
                "mono model": mono.model_name,
                "mono weights sha256": mono.model_sha256,
                "mono weights": mono.config.weights or "shipped",
                "mono weights fit": mono.camera,
            }
        return values

    def _stereo_config(self, values: Values) -> StereoConfig:
        """The configurations from parameter values. They raise ValueError for what does not go together."""
        fields = {field: values[name] for field, name in _STEREO.items()}
        if fields["model"] == "sgbm":
            fields["weights"] = ""  # the classical method has none
        _check_file("depth_weights", fields["weights"])
        fields["inference_scale"] = min(fields["inference_scale"], self.stereo.scale_limit)
        return StereoConfig(**fields)

    def _flow_config(self, values: Values) -> FlowConfig | None:
        fields = {field: values[name] for field, name in _FLOW.items()}
        if fields["model"] == "off":
            return None
        if fields["model"] != "flownet_lite":
            fields["weights"] = ""
        _check_file("flow_weights", fields["weights"])
        fields["inference_scale"] = min(fields["inference_scale"], self.flow.scale_limit)
        return FlowConfig(**fields)

    def _mono_config(self, values: Values) -> MonoConfig | None:
        fields = {field: values[name] for field, name in _MONO.items()}
        if fields["model"] == "off":
            return None
        _check_file("mono_weights", fields["weights"])
        return MonoConfig(**fields, inference_scale=self.mono.scale_limit)

    def _exchanged(self, estimator: AnyEstimator) -> None:
        self._node.get_logger().info(
            f"now running {estimator.model_name} on {estimator.device} (sha256 {estimator.model_sha256 or '-'})"
        )

    def _failed(self, host: ModelHost[Any, Any], fields: Mapping[str, str], config: AnyConfig, text: str) -> None:
        """The new model could not be had: the parameters go back to what is running, if anything is."""
        running = host.estimator
        if running is None:
            if host is not self.mono:  # reported by the outputs that need it
                self._faults.report(
                    "model", WARN, f"{config.model} could not be loaded: {text}", FaultCode.MODEL_NOT_LOADED
                )
            return
        back = {
            name: getattr(running.config, field)
            for field, name in fields.items()
            if getattr(running.config, field) != getattr(config, field)
        }
        self._node.set_parameters_atomically([Parameter(name, value=value) for name, value in back.items()])
        self._faults.report(
            "model",
            WARN,
            f"the model was not swapped, {running.model_name} still runs: {text}",
            FaultCode.SWAP_FAILED,
        )


def _check_file(parameter: str, path: str) -> None:
    if path and not Path(path).is_file():
        raise ValueError(
            f"parameter {parameter} = '{path}': there is no such file; give the path of a .safetensors file, or "
            "nothing for the weights that come with the package"
        )
