"""The holder of the running model, without a node around it."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.engines import StandIn
from support.waiting import LIMIT, wait_until

from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference import (
    FlowConfig,
    FlowEstimator,
    ModelError,
    MonoConfig,
    MonoDepthEstimator,
    StereoConfig,
    StereoDepthEstimator,
)
from fg_depth_ros.networks import ModelCard, create_model, save_checkpoint
from fg_depth_ros.nodes.stereo_depth.models import LazyModelHost, ModelHost


def test_going_back_while_another_model_loads_ends_with_the_first() -> None:
    begun, go_on = threading.Event(), threading.Event()
    swapped: list[float] = []

    class Slow(StereoDepthEstimator):
        def __init__(self, config: StereoConfig) -> None:
            if config.max_depth == 50.0:
                begun.set()
                assert go_on.wait(LIMIT)
            super().__init__(config)

    host = ModelHost(Slow, lambda e: swapped.append(e.config.max_depth), lambda config, text: None)
    first, second = (StereoConfig(model="sgbm", max_depth=depth) for depth in (80.0, 50.0))
    host.load(first)
    host.swap(second)
    assert begun.wait(LIMIT)
    assert host.loading
    host.swap(first)
    go_on.set()
    wait_until(lambda: not host.loading)
    assert host.estimator is not None
    assert host.estimator.config == first
    assert swapped[-1] == 80.0
    host.swap(first)  # it is running already
    assert not host.loading
    host.release()
    assert host.estimator is None


@pytest.mark.parametrize("swapped", [True, False])
def test_a_model_that_was_swapped_or_dropped_while_a_smaller_one_loads_stays_so(swapped: bool) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(StereoDepthEstimator):
        def __init__(self, config: StereoConfig) -> None:
            if config.inference_scale != 1:
                begun.set()
                assert go_on.wait(LIMIT)
            super().__init__(config)

    host = ModelHost(Slow, lambda e: None, lambda config, text: None)
    host.load(StereoConfig(model="sgbm"))
    other = StereoConfig(model="bm")
    with ThreadPoolExecutor() as pool:
        reduced = pool.submit(host.reduce_scale)
        assert begun.wait(LIMIT)
        if swapped:
            host.swap(other)
            wait_until(lambda: not host.loading)
        else:
            host.release()
        go_on.set()
        assert (reduced.result(LIMIT) == 1.0) is swapped
    assert host.estimator is None or host.estimator.config == other
    assert (host.estimator is None) is not swapped
    assert host.scale_limit(other) == host.scale_limit(StereoConfig(model="sgbm")) == math.inf


def test_a_scale_that_memory_demands_holds_for_its_model_and_device_alone() -> None:
    host = ModelHost(StereoDepthEstimator, lambda e: None, lambda config, text: None)
    config = StereoConfig(model="sgbm")
    host.load(config)
    assert not host.is_reduced
    assert host.reduce_scale() == 0.75
    assert host.is_reduced
    assert host.scale_limit(StereoConfig(model="sgbm", max_depth=9.0)) == 0.75
    for other in (StereoConfig(model="bm"), StereoConfig(model="sgbm", device="cpu")):
        assert host.scale_limit(other) == math.inf
    host.release()
    assert host.scale_limit(config) == math.inf


@pytest.mark.parametrize("trouble", ["", "broken"])
def test_a_model_that_is_released_while_it_loads_is_discarded_without_waiting(trouble: str) -> None:
    begun, go_on = threading.Event(), threading.Event()
    build, told = Builder(trouble), []

    def slow(config: StereoConfig) -> StereoDepthEstimator:
        begun.set()
        assert go_on.wait(LIMIT)
        return build(config)

    host = ModelHost(slow, lambda e: told.append(e.config), lambda config, text: told.append(text))
    host.swap(CONFIG)
    assert begun.wait(LIMIT)
    host.release()  # while nothing lets the other go on
    assert not host.loading
    go_on.set()
    host.join(LIMIT)
    assert (host.estimator, host.failure, told) == (None, None, [])
    build.trouble = ""
    host.swap(CONFIG)
    wait_until(lambda: told)
    assert told == [CONFIG]


def test_the_failure_of_a_model_is_forgotten_with_it() -> None:
    host = ModelHost(Builder("broken"), lambda e: None, lambda config, text: None)
    host.swap(CONFIG)
    wait_until(lambda: not host.loading)
    assert host.failure == "broken"
    host.release()
    assert host.failure is None


# ---- loaded when it is needed --------------------------------------------------------------------------------------


CONFIG = StereoConfig(model="sgbm")


class Builder:
    """Builds estimators, fails with `trouble` where there is one, and remembers what was asked for."""

    def __init__(self, trouble: str = "") -> None:
        self.trouble, self.asked = trouble, []

    def __call__(self, config: StereoConfig) -> StereoDepthEstimator:
        self.asked.append(config)
        if self.trouble:
            raise ModelError(self.trouble)
        return StereoDepthEstimator(config)


def lazy(build: Builder) -> tuple[LazyModelHost, list[str]]:
    told: list[str] = []
    host = LazyModelHost(build, lambda e: told.append(e.model_name), lambda config, text: told.append(text))
    return host, told


def test_nothing_is_loaded_before_it_is_demanded_and_then_once() -> None:
    build = Builder()
    host, _ = lazy(build)
    assert host.off
    assert host.request() is None
    assert host.swap_state == "off"
    host.configure(CONFIG)
    assert not host.off
    assert host.swap_state == "not loaded"
    assert host.estimator is None
    assert build.asked == []
    host.request()
    wait_until(host.request)
    assert host.request() is host.estimator
    assert build.asked == [CONFIG]
    host.configure(None)
    assert host.off
    assert host.request() is None
    assert build.asked == [CONFIG]


def test_a_failure_is_kept_and_not_tried_again_until_something_changes() -> None:
    build = Builder("no such file")
    host, told = lazy(build)
    host.configure(CONFIG)
    assert host.request() is None
    wait_until(lambda: told)
    assert (host.failure, host.swap_state) == ("no such file", "failed")
    for _ in range(3):
        assert host.request() is None
    assert len(build.asked) == 1
    build.trouble = ""
    host.configure(CONFIG)
    assert host.failure is None
    host.request()
    wait_until(host.request)
    assert len(build.asked) == 2


def test_a_model_that_runs_is_swapped_at_once_and_stays_on_failure() -> None:
    build = Builder()
    host, told = lazy(build)
    host.configure(CONFIG)
    host.request()
    wait_until(host.request)
    other = StereoConfig(model="sgbm", max_depth=9.0)
    host.configure(other)
    wait_until(lambda: host.estimator.config == other)
    build.trouble = "damaged"
    host.configure(CONFIG)
    wait_until(lambda: "damaged" in told)
    assert host.request().config == other
    assert host.swap_state == "failed"
    host.configure(other)  # as the node sets its parameters back
    assert host.swap_state == "failed"


# ---- engines ---------------------------------------------------------------------------------------------------------


def test_nothing_is_compiled_before_the_camera_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = StandIn.installed(monkeypatch, tmp_path)
    monkeypatch.delenv("FG_DEPTH_ENGINE")
    swapped: list[str] = []
    host = ModelHost(StereoDepthEstimator, lambda e: swapped.append(e.model_name), lambda config, text: None)
    host.load(StereoConfig())
    assert host.estimator is not None
    assert (host.estimator.engine, engine.built) == ("openvino", [])
    host.camera = StereoRig(160, 96, 100.0, 100.0, 80.0, 48.0, 100.0, 0.1)  # doffs 20
    host.swap(StereoConfig(max_depth=9.0))
    wait_until(lambda: swapped)
    assert engine.built == [(192, 96)]  # before the swap, of the size that is matched


# ---- whatever a file leads to ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TypeError("a defect"), RecursionError(), MemoryError(), AttributeError("x")])
def test_whatever_a_loader_raises_is_a_refused_swap(error: Exception) -> None:
    fail = True

    def build(config: StereoConfig) -> StereoDepthEstimator:
        if fail and config.max_depth == 9.0:
            raise error
        return StereoDepthEstimator(config)

    told: list[str] = []
    host = ModelHost(build, lambda e: told.append("swapped"), lambda config, text: told.append(text))
    host.load(CONFIG)
    bad = StereoConfig(model="sgbm", max_depth=9.0)
    host.swap(bad)
    wait_until(lambda: told)
    assert told == [str(error) or repr(error)] and host.swap_state == "failed"
    assert host.estimator is not None and host.estimator.config == CONFIG
    fail = False  # the thread that loads is there for the next request
    host.swap(bad)
    wait_until(lambda: "swapped" in told)
    assert host.estimator.config == bad


@pytest.mark.parametrize("network", ["flownet_stereo", "flownet_lite", "depthnet_lite"])
def test_weights_whose_results_are_not_finite_are_not_swapped(tmp_path: Path, network: str) -> None:
    """Every value in the file is finite; the convolutions overflow."""
    kinds = {
        "flownet_stereo": (StereoDepthEstimator, StereoConfig), "flownet_lite": (FlowEstimator, FlowConfig),
        "depthnet_lite": (MonoDepthEstimator, MonoConfig),
    }  # fmt: skip
    estimator, config = kinds[network]
    model = create_model(network)
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_checkpoint(good, model, ModelCard(network, model.options))  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data.fill_(3e38)
    save_checkpoint(bad, model, ModelCard(network, model.options))  # type: ignore[arg-type]
    told: list[str] = []
    host: ModelHost = ModelHost(estimator, lambda e: told.append("swapped"), lambda config, text: told.append(text))
    host.load(config(network, str(good)))
    host.swap(config(network, str(bad)))
    wait_until(lambda: told)
    assert "gives results that are not finite" in told[0]
    assert host.estimator.config.weights == str(good)
