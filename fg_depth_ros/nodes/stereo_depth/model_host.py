"""Holds the model in use, and loads another one beside it."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np

from fg_depth_ros.data.datasets.stereo import motorcycle
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference import EstimatorConfig, OutOfMemory
from fg_depth_ros.inference.estimator import Estimator
from fg_depth_ros.nodes.common.codes import SwapState

ConfigT = TypeVar("ConfigT", bound=EstimatorConfig)
EstimatorT = TypeVar("EstimatorT", bound=Estimator[Any, Any])

_SMALLEST_SCALE = 0.25
_SCALE_STEP = 0.75
_CHECK_SIZE = (320, 240)  # of the real pair that new weights must pass


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


@cache
def _real_pair() -> tuple[np.ndarray, np.ndarray]:
    """Return the pair that new weights are checked with, uint8 RGB: Motorcycle; noise where its files are not here."""
    width, height = _CHECK_SIZE
    try:
        return motorcycle().resized(width, height).images()
    except FileError:
        left, right = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        return left, right
