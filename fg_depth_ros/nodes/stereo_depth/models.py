"""The models of stereo_depth_node: made from its parameters, swapped when those change, kept when that fails."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from fg_depth_ros import __version__
from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.inference import (
    AUTO,
    BlockMatching,
    EstimatorConfig,
    FlowConfig,
    FlowEstimator,
    MonoConfig,
    MonoDepthEstimator,
    StereoConfig,
    StereoDepthEstimator,
)
from fg_depth_ros.inference.engines import EngineRunner, select_engine
from fg_depth_ros.inference.estimator import Estimator, find_device, shipped_weights
from fg_depth_ros.nodes.common import diagnostics
from fg_depth_ros.nodes.common.codes import FaultCode, FaultSubject, SwapState
from fg_depth_ros.nodes.common.diagnostics import WARN, Faults
from fg_depth_ros.nodes.stereo_depth.model_host import LazyModelHost, ModelHost
from fg_depth_ros.nodes.stereo_depth.parameters import STEREO_DEPTH

Values = Mapping[str, Any]

# Configuration of each model, and its fields -> parameters of the node.
_BLOCK_MATCHING = tuple(field.name for field in dataclasses.fields(BlockMatching))  # the names of its parameters, too
_STEREO = {field.name: field.name for field in dataclasses.fields(StereoConfig)} | {"weights": "depth_weights"}
del _STEREO["block_matching"]
_DEVICE = {name: name for name in ("device", "engine", "precision")}
_FLOW = {"model": "flow_model", "weights": "flow_weights", "inference_scale": "inference_scale", **_DEVICE}
# A depth network resizes images to its own size, whatever theirs.
_MONO = {"model": "mono_model", "weights": "mono_weights", **_DEVICE}
_SLOTS: dict[str, tuple[type[EstimatorConfig], dict[str, str]]] = {
    "stereo": (StereoConfig, _STEREO), "flow": (FlowConfig, _FLOW), "mono": (MonoConfig, _MONO),
}  # fmt: skip
# Parameters that concern each model. Setting inference_scale ends for all what a shortage of memory led to.
_CONCERNS = {
    "stereo": {*_STEREO.values(), *_BLOCK_MATCHING}, "flow": {*_FLOW.values()},
    "mono": {*_MONO.values(), "inference_scale"},
}  # fmt: skip
_ALL = set().union(*_CONCERNS.values())


def _engine_values(prefix: str, runner: EngineRunner | None) -> dict[str, str]:
    """Return the key-value pairs about an engine."""
    if runner is None:
        return {}
    values = {prefix + keys.ENGINE: runner.engine, prefix + keys.PRECISION: runner.precision}
    if runner.compiling:
        values[prefix + keys.ENGINE] += " (compiling; torch meanwhile)"
    if runner.cache_problem is not None:
        values[f"{prefix}engine cache"] = runner.cache_problem
    return values


class NodeModels:
    """The three hosts of a node: ``stereo``, ``flow`` (may be off) and ``mono`` (may be off; loaded on request).

    ``post`` runs a function in the executor's thread; ``build`` makes the stereo estimator. When a model cannot be
    loaded, the node's parameters are set back.
    """

    def __init__(
        self,
        node: LifecycleNode,
        faults: Faults,
        post: Callable[[Callable[[], None]], None],
        build: Callable[[StereoConfig], StereoDepthEstimator],
    ) -> None:
        self._node, self._faults = node, faults
        self._setting_back = False

        def swapped(estimator: Estimator[Any, Any]) -> None:
            post(lambda: self._log_swap(estimator))

        def failed(slot: str) -> Callable[[EstimatorConfig, str], None]:
            return lambda config, text: post(lambda: self._set_back(slot, config, text))

        self.stereo: ModelHost[StereoConfig, StereoDepthEstimator] = ModelHost(build, swapped, failed("stereo"))
        self.flow: ModelHost[FlowConfig, FlowEstimator] = ModelHost(FlowEstimator, swapped, failed("flow"))
        self.mono: LazyModelHost[MonoConfig, MonoDepthEstimator] = LazyModelHost(
            MonoDepthEstimator, swapped, failed("mono")
        )

    @property
    def hosts(self) -> tuple[ModelHost[Any, Any], ...]:
        """All three."""
        return self.stereo, self.flow, self.mono

    @property
    def has_failed_swap(self) -> bool:
        """Whether a model runs that another one, whose loading failed, was to replace."""
        return any(host.swap_state == SwapState.FAILED and host.estimator is not None for host in self.hosts)

    def load(self, values: Values) -> None:
        """Load what the parameters ask for. Raises whatever a file or a device can lead to."""
        stereo, flow, mono = (self._config(slot, values) for slot in _SLOTS)
        self.stereo.load(stereo)
        if flow is not None:
            self.flow.load(flow)
        self.mono.configure(mono)

    def join(self, timeout: float) -> None:
        """Wait, at most ``timeout`` seconds, for what is still being loaded after ``release``."""
        end = time.monotonic() + timeout
        for host in self.hosts:
            host.join(max(0.0, end - time.monotonic()))

    def release(self) -> None:
        """Drop all models, and what is being loaded, at once."""
        self.stereo.release()
        self.flow.release()
        self.mono.configure(None)
        self._forget_memory()

    def problem(self, before: Values, values: Values) -> str | None:
        """Return why new parameter values are refused, or None.

        What is in a file (also whether it is calibrated for int8), and whether a model fits into memory, turns out when
        it is loaded.
        """
        changed = {name for name in _ALL if values[name] != before[name]}
        try:
            if changed & set(_BLOCK_MATCHING):  # of use to another model, maybe
                BlockMatching(**{name: values[name] for name in _BLOCK_MATCHING})
            if "device" in changed:
                find_device(values["device"])
            for slot, (_, names) in _SLOTS.items() if changed else ():
                if names["weights"] in changed:
                    self._check_weights(slot, values[names["weights"]])
                config = self._config(slot, values)
                if config is None or config.model in config.classical:
                    continue
                if changed & {names["model"], names["weights"]} and not config.weights:
                    shipped_weights(config.model)
                if changed & {names["model"], *_DEVICE}:
                    select_engine(config.engine, config.precision, find_device(config.device), int8=True)
        except ValueError as error:
            return str(error)
        return None

    def apply(self, changed: set[str], values: Values) -> None:
        """Configure the models that the changed parameters concern; a file of weights that is set is read again."""
        if "inference_scale" in changed:
            # Memory may have become free meanwhile.
            for host in self.hosts:
                host.forget_limit()
        for slot, host in zip(_SLOTS, self.hosts, strict=True):
            if changed & _CONCERNS[slot]:
                weights = _SLOTS[slot][1]["weights"]
                reload = weights in changed and bool(values[weights]) and not self._setting_back
                host.configure(self._config(slot, values), reload)
        if changed & _ALL and not self.has_failed_swap:
            self._faults.forget(FaultSubject.MODEL)
        self._forget_memory()

    def engine_failure(self) -> str | None:
        """Return why PyTorch runs instead of the engine that was wanted, for each model; None while all is well."""
        found = [host.estimator.engine_failure for host in self.hosts if host.estimator is not None]
        return "; ".join(dict.fromkeys(text for text in found if text is not None)) or None

    def over_budget(self) -> str | None:
        """Return why pairs take longer than ``time_budget``; None where they do not."""
        return None if self.stereo.estimator is None else self.stereo.estimator.over_budget

    def values(self) -> dict[str, str]:
        """Return the key-value pairs of a DiagnosticStatus."""
        values: dict[str, str] = {"version": __version__}
        for prefix, host in zip(("", keys.FLOW_PREFIX, keys.MONO_PREFIX), self.hosts, strict=True):
            values[prefix + keys.SWAP] = host.swap_state
            if host.estimator is not None:
                values[prefix + keys.MODEL] = host.estimator.model_name
                values[prefix + keys.SHA256] = host.estimator.model_sha256 or "none"
                values |= _engine_values(prefix, host.estimator.runner)
        stereo, mono = self.stereo.estimator, self.mono.estimator
        if stereo is not None:
            values |= {
                "weights": stereo.config.weights or ("shipped" if stereo.model_sha256 else "none"),
                keys.DEVICE: stereo.device,
                "inference_scale": f"{self.stereo.scale:g}",
                **diagnostics.memory_values(stereo.device),
            }
            if self.stereo.camera is not None:
                values["nearest depth (m)"] = f"{stereo.nearest_depth(self.stereo.camera):.3f}"
        if mono is not None:
            values |= {"mono weights": mono.config.weights or "shipped", "mono weights fit": mono.camera}
        return values

    @staticmethod
    def unused(values: Values, names: Collection[str]) -> str | None:
        """Say which of the parameters ``names`` are not at their default and of no use to the model; None for none."""
        model, defaults = values["model"], STEREO_DEPTH.defaults()
        ours = ("max_disparity", *_BLOCK_MATCHING)
        given = [name for name in ours if name in names and values[name] != defaults[name]]
        if model in StereoConfig.classical or not given:
            return None
        return (
            f"{', '.join(given)}: of the models {' and '.join(StereoConfig.classical)}, not used by {model}; set the "
            "parameter model to one of those, or leave them out"
        )

    def _config(self, slot: str, values: Values) -> Any:
        """Return a model's configuration from parameter values; None where it is off. Raises ValueError."""
        kind, names = _SLOTS[slot]
        fields = {field: values[name] for field, name in names.items()}
        if fields["model"] == "off":
            return None
        if fields["model"] in kind.classical:
            fields["weights"] = ""  # it has none
        if slot == "stereo" and fields["model"] in kind.classical:
            fields["block_matching"] = BlockMatching(**{name: values[name] for name in _BLOCK_MATCHING})
        self._check_weights(slot, fields["weights"])
        scale = fields.get("inference_scale", 1.0)
        if scale == AUTO and not kind.auto_scale:
            scale = 1.0
        config = kind(**{**fields, "inference_scale": scale})
        if math.isinf(limit := getattr(self, slot).scale_limit(config)):
            return config
        return dataclasses.replace(config, inference_scale=min(1.0 if scale == AUTO else scale, limit))

    def _check_weights(self, slot: str, weights: str) -> None:
        """Raise ValueError for a file of weights that does not exist."""
        running = getattr(self, slot).estimator
        loaded = running is not None and running.config.weights == weights  # its file may be gone since
        if weights and not loaded and not os.path.isfile(weights):
            raise ValueError(
                f"parameter {_SLOTS[slot][1]['weights']} = '{weights}': there is no such file; give the path of a "
                ".safetensors file, or nothing for the weights that come with the package"
            )

    def _forget_memory(self) -> None:
        """Forget that memory ran out, unless a model still runs at a smaller scale for it."""
        if not any(host.is_reduced for host in self.hosts):
            self._faults.forget(FaultSubject.MEMORY)

    def _log_swap(self, estimator: Estimator[Any, Any]) -> None:
        self._forget_memory()
        self._node.get_logger().info(f"now running {describe_estimator(estimator)}")

    def _set_back(self, slot: str, config: EstimatorConfig, text: str) -> None:
        """Set the parameters of a model that could not be loaded back to the one in use, or to off."""
        host, names = getattr(self, slot), _SLOTS[slot][1]
        if host.failure is None:
            return  # others were requested since
        running = host.estimator
        if running is not None:
            refused = _method_parameters(slot, config)
            used = _method_parameters(slot, running.config)
            back = {name: value for name, value in used.items() if value != refused.get(name, value)}
            note = f" (set back: {', '.join(back)})" if back else ""
            message = f"the model was not swapped, {running.model_name} still runs{note}: {text}"
            code = FaultCode.SWAP_FAILED
        else:
            back = {names["model"]: "off", names["weights"]: ""}
            message = f"{config.model} could not be loaded, and {names['model']} is off now: {text}"
            code = FaultCode.MODEL_NOT_LOADED
        self._setting_back = True
        self._node.set_parameters_atomically([Parameter(name, value=value) for name, value in back.items()])
        self._setting_back = False
        host.failure = text  # which setting them has ended
        self._faults.report(FaultSubject.MODEL, WARN, message, code)


def _method_parameters(slot: str, config: EstimatorConfig) -> dict[str, Any]:
    """Return parameter -> value of what a model is loaded for."""
    names = _SLOTS[slot][1]
    values = {names.get(option, option): value for option, value in config.method_options().items()}
    if isinstance(config, MonoConfig) and dataclasses.replace(config, model=AUTO) == config:
        values[names["model"]] = AUTO
    return values


def describe_estimator(estimator: Estimator[Any, Any]) -> str:
    """Return model, device, engine, precision and hash, for the log."""
    engine = f" with {estimator.engine} in {estimator.precision}" if estimator.engine else ""
    return f"{estimator.model_name} on {estimator.device}{engine} (sha256 {estimator.model_sha256 or '-'})"
