"""The holder of the running model, without a node around it."""

from __future__ import annotations

import dataclasses
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
from fg_depth_ros.nodes.stereo_depth.model_host import LazyModelHost, ModelHost

RIG = StereoRig(160, 96, 100.0, 100.0, 80.0, 48.0, 100.0, 0.1)  # doffs 20


def test_going_back_while_another_model_loads_ends_with_the_first() -> None:
    begun, go_on = threading.Event(), threading.Event()
    swapped: list[str] = []

    class Slow(StereoDepthEstimator):
        def __init__(self, config: StereoConfig) -> None:
            if config.model == "bm":
                begun.set()
                assert go_on.wait(LIMIT)
            super().__init__(config)

    host = ModelHost(Slow, lambda e: swapped.append(e.model_name), lambda config, text: None)
    first, second = (StereoConfig(model=name) for name in ("sgbm", "bm"))
    host.load(first)
    host.configure(second)
    assert begun.wait(LIMIT)
    assert host.loading
    host.configure(first)
    assert not host.loading  # it is running already
    go_on.set()
    host.join(LIMIT)
    assert host.estimator is not None
    assert host.estimator.config == first
    assert swapped == []
    host.release()
    assert host.estimator is None


@pytest.mark.parametrize("swapped", [True, False])
def test_a_model_that_was_swapped_or_dropped_while_a_smaller_one_loads_stays_so(swapped: bool) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(StereoDepthEstimator):
        def warm_up_for(self, rig: StereoRig) -> None:
            if self.config.inference_scale != 1:
                begun.set()
                assert go_on.wait(LIMIT)
            super().warm_up_for(rig)

    host = ModelHost(Slow, lambda e: None, lambda config, text: None)
    host.camera = RIG
    host.load(StereoConfig(model="sgbm"))
    other = StereoConfig(model="bm")
    with ThreadPoolExecutor() as pool:
        reduced = pool.submit(host.reduce_scale)
        assert begun.wait(LIMIT)
        if swapped:
            host.configure(other)
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


THRESHOLDS = {
    "min_depth": 0.5, "max_depth": 9.0, "max_sigma": 3.0, "left_right_check": "off", "left_right_threshold": 2.0,
    "photometric_check": False, "max_vertical": 2.0, "refinement": "off", "min_disparity": -3, "inference_scale": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("model", ["sgbm", "flownet_stereo"])
def test_what_only_says_how_a_model_is_used_changes_without_loading_it(model: str) -> None:
    build = Builder()
    host = ModelHost(build, lambda e: None, lambda config, text: None)
    first = StereoConfig(model)
    host.load(first)
    for change in (THRESHOLDS, {"inference_scale": "auto", "time_budget": 0.1}):
        config = dataclasses.replace(first, **change)
        host.configure(config)
        assert host.estimator is not None
        assert (host.estimator.config, host.loading) == (config, False)
    assert host.estimator.scale_reason == "min_depth is 0.1 m"
    assert build.asked == [first]
    wider = dataclasses.replace(first, max_disparity=64)  # of the block matching, and of use to nothing else
    host.configure(wider)
    assert host.loading is (model == "sgbm")
    wait_until(lambda: host.estimator is not None and host.estimator.config == wider)


def test_a_threshold_that_is_set_while_a_model_loads_is_of_the_new_model() -> None:
    begun, go_on = threading.Event(), threading.Event()
    build, told = Builder(), []

    def slow(config: StereoConfig) -> StereoDepthEstimator:
        begun.set()
        assert go_on.wait(LIMIT)
        return build(config)

    host = ModelHost(slow, lambda e: told.append(e.config), lambda config, text: None)
    host.configure(CONFIG)
    assert begun.wait(LIMIT)
    wanted = dataclasses.replace(CONFIG, **THRESHOLDS)
    host.configure(wanted)
    go_on.set()
    wait_until(lambda: told)
    assert told == [wanted]
    assert host.estimator is not None and host.estimator.config == wanted
    assert build.asked == [CONFIG]  # once


def test_a_model_is_loaded_again_on_request_and_a_threshold_does_not_wait_for_it() -> None:
    begun, go_on = threading.Event(), threading.Event()
    build, told = Builder(), []

    def slow(config: StereoConfig) -> StereoDepthEstimator:
        if build.asked:
            begun.set()
            assert go_on.wait(LIMIT)
        return build(config)

    host = ModelHost(slow, lambda e: told.append(""), lambda config, text: told.append(text))
    host.load(CONFIG)
    host.configure(CONFIG, reload=True)
    assert begun.wait(LIMIT)
    wanted = dataclasses.replace(CONFIG, **THRESHOLDS)
    host.configure(wanted)
    assert host.loading
    assert host.estimator is not None and host.estimator.config == wanted
    build.trouble = "gone"
    go_on.set()
    wait_until(lambda: told)
    assert told == ["gone"]
    assert host.estimator.config == wanted


def test_a_failure_ends_when_the_model_in_use_is_asked_for() -> None:
    build = Builder()
    host = ModelHost(build, lambda e: None, lambda config, text: None)
    host.load(CONFIG)
    build.trouble = "damaged"
    host.configure(StereoConfig(model="bm"))
    wait_until(lambda: host.swap_state == "failed")
    host.configure(CONFIG)
    assert (host.swap_state, host.failure) == ("loaded", None)


@pytest.mark.parametrize("trouble", ["", "broken"])
def test_a_model_that_is_released_while_it_loads_is_discarded_without_waiting(trouble: str) -> None:
    begun, go_on = threading.Event(), threading.Event()
    build, told = Builder(trouble), []

    def slow(config: StereoConfig) -> StereoDepthEstimator:
        begun.set()
        assert go_on.wait(LIMIT)
        return build(config)

    host = ModelHost(slow, lambda e: told.append(e.config), lambda config, text: told.append(text))
    host.configure(CONFIG)
    assert begun.wait(LIMIT)
    host.release()  # while nothing lets the other go on
    assert not host.loading
    go_on.set()
    host.join(LIMIT)
    assert (host.estimator, host.failure, told) == (None, None, [])
    build.trouble = ""
    host.configure(CONFIG)
    wait_until(lambda: told)
    assert told == [CONFIG]


def test_the_failure_of_a_model_is_forgotten_with_it() -> None:
    host = ModelHost(Builder("broken"), lambda e: None, lambda config, text: None)
    host.configure(CONFIG)
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
    other = StereoConfig(model="bm")
    host.configure(other)
    wait_until(lambda: host.estimator.config == other)
    build.trouble = "damaged"
    host.configure(CONFIG)
    wait_until(lambda: "damaged" in told)
    assert host.request().config == other
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
    host.camera = RIG
    host.configure(StereoConfig(), reload=True)
    wait_until(lambda: swapped)
    assert engine.built == [(192, 96)]  # before the swap, of the size that is matched


# ---- whatever a file leads to ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [TypeError("a defect"), RecursionError(), MemoryError(), AttributeError("x")])
def test_whatever_a_loader_raises_is_a_refused_swap(error: Exception) -> None:
    fail = True

    def build(config: StereoConfig) -> StereoDepthEstimator:
        if fail and config.model == "bm":
            raise error
        return StereoDepthEstimator(config)

    told: list[str] = []
    host = ModelHost(build, lambda e: told.append("swapped"), lambda config, text: told.append(text))
    host.load(CONFIG)
    bad = StereoConfig(model="bm")
    host.configure(bad)
    wait_until(lambda: told)
    assert told == [str(error) or repr(error)] and host.swap_state == "failed"
    assert host.estimator is not None and host.estimator.config == CONFIG
    fail = False  # the thread that loads is there for the next request
    host.configure(bad)
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
    host.configure(config(network, str(bad)))
    wait_until(lambda: told)
    assert "gives results that are not finite" in told[0]
    assert host.estimator.config.weights == str(good)
