"""Holds the running estimator, and exchanges it for another one without stopping the work."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from fg_depth_ros.inference import (
    FlowConfig,
    FlowEstimator,
    ModelError,
    MonoConfig,
    MonoDepthEstimator,
    OutOfMemory,
    StereoConfig,
    StereoDepthEstimator,
)
from fg_depth_ros.nodes.common.codes import SwapState

AnyConfig = StereoConfig | FlowConfig | MonoConfig
AnyEstimator = StereoDepthEstimator | FlowEstimator | MonoDepthEstimator
ConfigT = TypeVar("ConfigT", bound=AnyConfig)
EstimatorT = TypeVar("EstimatorT", bound=AnyEstimator)

_SMALLEST_SCALE = 0.25
_SCALE_STEP = 0.75
# Image size to warm up with before the first pair has told the real one.
_USUAL_SIZE = (640, 480)

# Everything that can go wrong while a model is built from a user's settings and a user's file.
LOAD_ERRORS = (ModelError, OutOfMemory, ValueError, OSError, RuntimeError)


class ModelHost(Generic[ConfigT, EstimatorT]):
    """The estimator in use. Built and warmed up beside the running one, then exchanged; kept on failure.

    Args:
        on_exchanged: called from the loading thread with the new estimator.
        on_failed: called from the loading thread with (the configuration that failed, what went wrong).
        build: makes an estimator from a configuration.
    """

    def __init__(
        self,
        on_exchanged: Callable[[EstimatorT], None],
        on_failed: Callable[[ConfigT, str], None],
        build: Callable[[ConfigT], EstimatorT],
    ) -> None:
        self._on_exchanged, self._on_failed, self._build = on_exchanged, on_failed, build
        self._lock = threading.Lock()
        self._asked: ConfigT | None = None
        self._failure: str | None = None
        self._thread: threading.Thread | None = None
        self._estimator: EstimatorT | None = None
        self.size: tuple[int, int] = _USUAL_SIZE  # of the images to warm up for: width, height
        self.scale_limit = 1.0  # the largest inference_scale that fits into memory, as far as is known

    @property
    def estimator(self) -> EstimatorT | None:
        """The one to use now; None before the first load."""
        return self._estimator

    @property
    def loading(self) -> bool:
        """Whether another one is being made ready."""
        return self._asked is not None

    @property
    def failure(self) -> str | None:
        """What went wrong with the last one that was asked for; None when nothing did."""
        return self._failure

    @property
    def swap_state(self) -> SwapState:
        """Result of the newest request."""
        if self.loading:
            return SwapState.LOADING
        if self._failure is not None:
            return SwapState.FAILED
        return SwapState.LOADED if self._estimator is not None else SwapState.NOT_LOADED

    def load(self, config: ConfigT) -> None:
        """Build now and use it. Raises one of LOAD_ERRORS, and then keeps what there was."""
        self._estimator = self._ready(config)

    def exchange(self, config: ConfigT) -> None:
        """Build in the background, then use it. A newer wish replaces one that has not been begun.

        Nothing happens when this one is running and no other was asked for.
        """
        with self._lock:
            if self._asked is None and self._estimator is not None and self._estimator.config == config:
                return
            self._ask(config)

    def shrink(self) -> float | None:
        """After memory ran out: the same at a smaller inference_scale, at once. Returns the new scale.

        None when it cannot go lower, or when even the smaller one does not fit.
        """
        if self._estimator is None:
            return None
        config = self._estimator.config
        while config.inference_scale > _SMALLEST_SCALE:
            scale = max(_SMALLEST_SCALE, round(config.inference_scale * _SCALE_STEP, 3))
            config = dataclasses.replace(config, inference_scale=scale)
            try:
                self.load(config)  # type: ignore[arg-type]  # of the running estimator's own kind
            except OutOfMemory:
                continue
            self.scale_limit = scale
            return scale
        return None

    def release(self) -> None:
        """Forget the estimator, after waiting for one that is being made ready."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
        self._estimator = None

    def _ask(self, config: ConfigT) -> None:
        """With the lock held."""
        self._asked, self._failure = config, None
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="model loader", daemon=True)
            self._thread.start()

    def _ready(self, config: ConfigT) -> EstimatorT:
        estimator = self._build(config)
        estimator.warm_up(*self.size)
        return estimator

    def _work(self) -> None:
        while True:
            with self._lock:
                config = self._asked
                if config is None:
                    self._thread = None
                    return
            try:
                estimator = self._ready(config)
            except LOAD_ERRORS as error:
                self._done(config, str(error))
                self._on_failed(config, str(error))
            else:
                self._estimator = estimator
                self._done(config)
                self._on_exchanged(estimator)

    def _done(self, config: ConfigT, failure: str | None = None) -> None:
        with self._lock:
            if self._asked is config:
                self._asked, self._failure = None, failure


class LazyHost(ModelHost[ConfigT, EstimatorT]):
    """A host whose model is loaded, in the background, when somebody first demands it."""

    _wish: ConfigT | None = None

    @property
    def off(self) -> bool:
        """Whether nothing is to be loaded at all."""
        return self._wish is None

    @property
    def swap_state(self) -> SwapState:
        """See ModelHost; OFF where nothing is to be loaded."""
        return SwapState.OFF if self.off else super().swap_state

    def prepare(self, config: ConfigT | None) -> None:
        """What to load once it is demanded; None = nothing. A model that runs already is exchanged at once."""
        with self._lock:
            self._wish = config
            if self._estimator is None or self._estimator.config != config:
                self._failure = None  # else: back to what is running, after a failure that stays known
        if config is None:
            self.release()
        elif self._estimator is not None or self.loading:
            self.exchange(config)

    def demand(self) -> EstimatorT | None:
        """The estimator to use now. Where there is none yet it is asked for; after a failure only once."""
        with self._lock:
            if self._wish is not None and self._estimator is None and self._asked is None and self._failure is None:
                self._ask(self._wish)
        return self._estimator


StereoHost = ModelHost[StereoConfig, StereoDepthEstimator]
FlowHost = ModelHost[FlowConfig, FlowEstimator]
MonoHost = LazyHost[MonoConfig, MonoDepthEstimator]
