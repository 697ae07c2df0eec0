"""stereo_depth_node with an engine that fails: it keeps publishing, and says what happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.engines import StandIn
from support.nodes import Bench, pair_messages, share_near, wall

SCENE = wall()
PAIR = pair_messages(SCENE)
NETWORK = {"model": "flownet_stereo", "engine": "openvino", "precision": "float32"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    return StandIn.installed(monkeypatch, tmp_path)


def test_an_engine_that_fails_while_the_node_runs_is_replaced_and_reported(
    make: Callable[..., Bench], engine: StandIn
) -> None:
    b = make(**NETWORK)
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.9
    b.wait(lambda: b.values("model").get("engine") == "openvino")
    assert b.values("model")["precision"] == "float32"
    assert b.level("model") == 0
    engine.fails_to_run = "device lost"
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.9
    b.wait(lambda: b.has("engine failed", "device lost", "PyTorch runs instead", name="model"))
    assert b.level("model") == 1
    assert b.values("model")["engine"] == "torch"
    assert "dropped: internal error" not in b.values()
    b.set(engine="torch")  # what was asked for now runs
    b.wait(lambda: b.values("model").get("reason") == "ok")


def test_a_missing_engine_is_reported_with_the_command_that_installs_it(
    make: Callable[..., Bench], engine: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "missing", lambda self: "is not installed: pip install openvino")
    b = make(**NETWORK)
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.9
    b.wait(lambda: b.has("engine failed", "pip install openvino", name="model"))


def test_images_of_a_new_size_are_matched_while_the_engine_compiles(
    make: Callable[..., Bench], engine: StandIn
) -> None:
    b = make(**NETWORK)
    b.listen("depth/image_rect")
    engine.go_on.clear()
    assert share_near(b.fresh_depth(PAIR), SCENE.depth) > 0.9
    b.wait(lambda: "compiling" in b.values("model").get("engine", ""))
    assert engine.built == []  # nothing is compiled for a camera that is not known yet
    engine.go_on.set()
    b.send_until(PAIR, lambda: b.values("model").get("engine") == "openvino")
    assert (320, 256) in engine.built
