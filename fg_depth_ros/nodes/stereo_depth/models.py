"""The models of stereo_depth_node: made from its parameters, swapped when those change, kept when that fails."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from fg_depth_ros import __version__
from fg_depth_ros.data.datasets.stereo import motorcycle
from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference import (
    AUTO,
    BlockMatching,
    EstimatorConfig,
    FlowConfig,
    FlowEstimator,
    MonoConfig,
    MonoDepthEstimator,
    OutOfMemory,
    StereoConfig,
    StereoDepthEstimator,
)
from fg_depth_ros.inference.engines import EngineRunner, select_engine
from fg_depth_ros.inference.estimator import Estimator, find_device, shipped_weights
from fg_depth_ros.nodes.common import diagnostics
from fg_depth_ros.nodes.common.codes import FaultCode, SwapState
from fg_depth_ros.nodes.common.diagnostics import WARN, Faults
from fg_depth_ros.nodes.stereo_depth.parameters import STEREO_DEPTH

ConfigT = TypeVar("ConfigT", bound=EstimatorConfig)
EstimatorT = TypeVar("EstimatorT", bound=Estimator[Any, Any])
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

_SMALLEST_SCALE = 0.25
_SCALE_STEP = 0.75
_CHECK_SIZE = (320, 240)  # of the real pair that new weights must pass


@cache
def _real_pair() -> tuple[np.ndarray, np.ndarray]:
    """Return the pair that new weights are checked with, uint8 RGB: Motorcycle; noise where its files are not here."""
    width, height = _CHECK_SIZE
    try:
        return motorcycle().resized(width, height).images()
    except FileError:
        left, right = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        return left, right


@dataclasses.dataclass(eq=False)
class _Request(Generic[ConfigT]):
    """A model to load. Until that is done ``config`` may become another one of the same ``method_options``."""

    config: ConfigT


class ModelHost(Generic[ConfigT, EstimatorT]):
    """The estimator in use. Another one is built and warmed up meanwhile, then replaces it; on failure it stays.

    Args:
        build: makes an estimator from a configuration.
        on_swapped: called from the loading thread with the new estimator.
        on_failed: called from the loading thread with the configuration that failed and the reason.
    """

    def __init__(
        self,
        build: Callable[[ConfigT], EstimatorT],
        on_swapped: Callable[[EstimatorT], None],
        on_failed: Callable[[ConfigT, str], None],
    ) -> None:
        self._build, self._on_swapped, self._on_failed = build, on_swapped, on_failed
        self._lock = threading.Lock()
        self._requested: _Request[ConfigT] | None = None
        self._thread: threading.Thread | None = None
        self.estimator: EstimatorT | None = None  # to use now; None before the first load
        self.failure: str | None = None  # why the newest request failed; None when it did not
        self.camera: StereoRig | None = None  # to warm up for; None before the first pair
        self._reduced: ConfigT | None = None  # whose inference_scale is the largest that is known to fit into memory

    @property
    def loading(self) -> bool:
        """Whether another estimator is being loaded."""
        return self._requested is not None

    @property
    def swap_state(self) -> SwapState:
        """Result of the newest request."""
        if self.loading:
            return SwapState.LOADING
        if self.failure is not None:
            return SwapState.FAILED
        return SwapState.OFF if self.estimator is None else SwapState.LOADED

    @property
    def scale(self) -> float:
        """The inference_scale in use; 1 where it is auto and no camera is known."""
        assert self.estimator is not None
        if self.camera is not None:
            return self.estimator.scale(self.camera)
        chosen = self.estimator.config.inference_scale
        return 1.0 if isinstance(chosen, str) else float(chosen)

    def scale_limit(self, config: ConfigT) -> float:
        """Return the largest inference_scale that fits into memory with the model and device of ``config``.

        Infinite where memory has not run out with them.
        """
        reduced = self._reduced
        return math.inf if reduced is None or not _same_method(reduced, config) else float(reduced.inference_scale)

    def forget_limit(self) -> None:
        """Try any inference_scale again."""
        self._reduced = None

    @property
    def is_reduced(self) -> bool:
        """Whether the estimator in use runs at a smaller inference_scale since memory ran out."""
        return self.estimator is not None and math.isfinite(self.scale_limit(self.estimator.config))

    def load(self, config: ConfigT) -> None:
        """Build an estimator now and use it. Raises whatever that raises, and then keeps the one before."""
        self.estimator = self._loaded(config)

    def configure(self, config: ConfigT | None, reload: bool = False) -> None:
        """Use another configuration; None = no model.

        Where the model in use serves, it is used so at once. Another one is loaded in the background, unless a newer
        request withdraws it. ``reload``: load it also if it is in use, since its file may be another one.
        """
        if config is None:
            self.release()
            return
        with self._lock:
            serves = False
            if self.estimator is not None and _same_method(self.estimator.config, config):
                self.estimator, serves = self.estimator.with_config(config), True
            if self._requested is not None and _same_method(self._requested.config, config) and not reload:
                self._requested.config = config
            elif serves and not reload:
                self._requested = self.failure = None
            else:
                self._request(config)

    def reduce_scale(self) -> float | None:
        """Use the model at a smaller inference_scale after memory ran out. Returns the new scale.

        None when it cannot be lower, or when even the smallest one does not fit. A model that was swapped or dropped
        meanwhile stays so.
        """
        before = self.estimator
        if before is None:
            return None
        config, scale = before.config, self.scale
        while scale > _SMALLEST_SCALE:
            scale = max(_SMALLEST_SCALE, round(scale * _SCALE_STEP, 3))
            config = dataclasses.replace(config, inference_scale=scale)
            smaller = before.with_config(config)
            try:
                if self.camera is not None:
                    smaller.warm_up_for(self.camera)
            except OutOfMemory:
                continue
            with self._lock:
                if self.estimator is before:
                    self.estimator, self._reduced = smaller, config
                return scale if self.estimator is None else self.scale
        return None

    def release(self) -> None:
        """Drop the estimator, and the result of one that is being loaded, at once."""
        with self._lock:
            self._requested = None
            self.estimator = self.failure = self._reduced = None

    def join(self, timeout: float) -> None:
        """Wait, at most ``timeout`` seconds, for the thread that loads to end; after ``release``."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _request(self, config: ConfigT) -> None:
        """Request a configuration; the lock is held."""
        self._requested, self.failure = _Request(config), None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="model loader", daemon=True)
            self._thread.start()

    def _loaded(self, config: ConfigT) -> EstimatorT:
        estimator = self._build(config)
        estimator.check(*_real_pair())
        if (camera := self.camera) is not None:
            estimator.warm_up_for(camera)
        elif estimator.runner is not None:
            estimator.runner.preload()
        if estimator.runner is not None:
            estimator.runner.background = True  # from now on nothing waits for a compiler
        return estimator

    def _run(self) -> None:
        while True:
            with self._lock:
                request = self._requested
                if request is None:
                    self._thread = None
                    return
            estimator, failure = None, ""
            try:
                estimator = self._loaded(request.config)
            except Exception as error:  # whatever a file leads to, the model in use stays
                failure = str(error) or repr(error)
            with self._lock:
                if self._requested is not request:
                    continue  # it was withdrawn meanwhile
                self._requested, self.failure = None, failure or None
                if estimator is not None:
                    self.estimator = estimator = estimator.with_config(request.config)
            if estimator is None:
                self._on_failed(request.config, failure)
            else:
                self._on_swapped(estimator)


class LazyModelHost(ModelHost[ConfigT, EstimatorT]):
    """A host whose model is loaded, in the background, when it is first requested."""

    _config: ConfigT | None = None

    @property
    def off(self) -> bool:
        """Whether no model is configured, and not since the one that was could not be loaded."""
        return self._config is None and self.failure is None

    @property
    def swap_state(self) -> SwapState:
        """Result of the newest request."""
        state = super().swap_state
        return SwapState.NOT_LOADED if state == SwapState.OFF and not self.off else state

    def configure(self, config: ConfigT | None, reload: bool = False) -> None:
        """Set the model to load on request; None = none. One that is in use already is swapped at once."""
        with self._lock:
            self._config, self.failure = config, None
        if config is None or self.estimator is not None or self.loading:
            super().configure(config, reload)

    def request(self) -> EstimatorT | None:
        """Return the estimator, or start to load it. After a failure nothing is loaded until it is configured again."""
        with self._lock:
            idle = self._requested is None and self.failure is None
            if self._config is not None and self.estimator is None and idle:
                self._request(self._config)
        return self.estimator


def _same_method(one: EstimatorConfig, other: EstimatorConfig) -> bool:
    """Whether what is loaded for one configuration serves for the other."""
    return one.method_options() == other.method_options()


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
            self._faults.forget("model")
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
            self._faults.forget("memory")

    def _log_swap(self, estimator: Estimator[Any, Any]) -> None:
        self._forget_memory()
        self._node.get_logger().info(
            f"now running {estimator.model_name} on {estimator.device}{_with_engine(estimator)} "
            f"(sha256 {estimator.model_sha256 or '-'})"
        )

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
        self._faults.report("model", WARN, message, code)


def _method_parameters(slot: str, config: EstimatorConfig) -> dict[str, Any]:
    """Return parameter -> value of what a model is loaded for."""
    names = _SLOTS[slot][1]
    values = {names.get(option, option): value for option, value in config.method_options().items()}
    if isinstance(config, MonoConfig) and dataclasses.replace(config, model=AUTO) == config:
        values[names["model"]] = AUTO
    return values


def _with_engine(estimator: Estimator[Any, Any]) -> str:
    return f" with {estimator.engine} in {estimator.precision}" if estimator.engine else ""
