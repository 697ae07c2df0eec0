"""The holder of the running model, without a node around it."""

from __future__ import annotations

import threading
import time

from fg_depth_ros.inference import EstimatorConfig, StereoDepthEstimator
from fg_depth_ros.nodes.model_host import ModelHost


def test_going_back_while_another_model_loads_ends_with_the_first() -> None:
    begun, go_on = threading.Event(), threading.Event()
    exchanged: list[float] = []

    class Slow(StereoDepthEstimator):
        def __init__(self, config: EstimatorConfig) -> None:
            if config.max_depth == 50.0:
                begun.set()
                assert go_on.wait(10.0)
            super().__init__(config)

    host = ModelHost(lambda e: exchanged.append(e.config.max_depth), lambda config, text: None, Slow)
    first, second = (EstimatorConfig(model="sgbm", max_depth=depth) for depth in (80.0, 50.0))
    host.load(first)
    host.exchange(second)
    assert begun.wait(10.0)
    assert host.loading
    host.exchange(first)
    go_on.set()
    end = time.monotonic() + 10.0
    while host.loading and time.monotonic() < end:
        time.sleep(0.01)
    assert host.estimator is not None
    assert host.estimator.config == first
    assert exchanged[-1] == 80.0
    host.exchange(first)  # it is running already
    assert not host.loading
    host.release()
    assert host.estimator is None
