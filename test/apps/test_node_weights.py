"""Weights of a running node swapped from outside: taken with their hash in the diagnostics, or refused and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("rclpy")

from support.nodes import Bench, pair_messages, share_near, wall

from fg_depth_ros.apps import node_weights
from fg_depth_ros.apps.node_weights import NodeWeightsError, set_node_weights
from fg_depth_ros.networks import ModelCard, create_model, save_checkpoint

NODE = "/stereo_depth_node"
TINY = {"features": [8, 8, 8], "aggregate": [8, 8, 8], "refine": 8, "max_disparity": 64}


def saved(path: Path, name: str, seed: int = 0, **options: object) -> tuple[str, str]:
    """A small network's file and its hash."""
    torch.manual_seed(seed)
    network = create_model(name, **options)
    return str(path), save_checkpoint(path, network, ModelCard(name, network.options)).sha256


@pytest.fixture
def stereo(tmp_path: Path) -> list[tuple[str, str]]:
    return [saved(tmp_path / f"stereo_{seed}.safetensors", "flownet_stereo", seed, **TINY) for seed in (1, 2)]


@pytest.fixture
def mono(tmp_path: Path) -> tuple[str, str]:
    return saved(tmp_path / "mono.safetensors", "depthnet_lite", width=64, height=32)


def test_a_node_that_is_not_there_is_named_with_those_that_are(make: Callable[..., Bench], monkeypatch) -> None:
    b = make()
    monkeypatch.setattr(node_weights, "RESPONSE_SECONDS", 1.5)
    with pytest.raises(NodeWeightsError, match=r"no node /robot/depth answered .*running: .*/stereo_depth_node"):
        set_node_weights("robot/depth", "flownet_stereo", "", "", context=b.context)


def test_a_flow_network_that_gives_the_disparity_is_swapped_there(make: Callable[..., Bench], tmp_path: Path) -> None:
    (first, sha_1), (second, sha_2) = (
        saved(tmp_path / f"flow_{seed}.safetensors", "flownet_s", seed, width=0.0625) for seed in (1, 2)
    )
    b = make(model="flownet_s", depth_weights=first)
    b.wait(lambda: b.values("model").get("weights sha256") == sha_1)
    taken = set_node_weights(NODE, "flownet_s", second, sha_2, context=b.context)
    assert taken == (True, {"model": "flownet_s", "depth_weights": first})


def test_stereo_weights_are_swapped_and_a_bad_file_leaves_the_old_ones(
    make: Callable[..., Bench], stereo, tmp_path: Path
) -> None:
    (first, sha_1), (second, sha_2) = stereo
    b = make(model="flownet_stereo", depth_weights=first)
    b.wait(lambda: b.values("model").get("weights sha256") == sha_1)
    taken = set_node_weights(NODE, "flownet_stereo", second, sha_2, context=b.context)
    assert taken == (True, {"model": "flownet_stereo", "depth_weights": first})
    b.wait(lambda: b.values("model")["weights sha256"] == sha_2)

    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(Path(first).read_bytes()[:-64])
    with pytest.raises(NodeWeightsError, match=rf"still runs {sha_2[:12]}: the model was not swapped.*bad\.safet"):
        set_node_weights(NODE, "flownet_stereo", str(bad), sha_1, context=b.context)
    with pytest.raises(
        NodeWeightsError, match=r"refuses: .*depth_weights = '/none\.safetensors': there is no such file"
    ):
        set_node_weights(NODE, "flownet_stereo", "/none.safetensors", sha_1, context=b.context)
    assert b.depth_node.parameters["depth_weights"] == second
    assert b.values("model")["weights sha256"] == sha_2

    # What runs already is confirmed at once, and the way back is the same call.
    assert set_node_weights(NODE, "flownet_stereo", second, sha_2, context=b.context).confirmed
    assert set_node_weights(NODE, "flownet_stereo", first, sha_1, context=b.context).confirmed


def test_the_model_changes_with_its_weights_and_goes_back_with_them(make: Callable[..., Bench], stereo) -> None:
    b = make(model="sgbm")
    b.listen("depth/image_rect")
    scene = wall()
    assert share_near(b.fresh_depth(pair_messages(scene)), scene.depth) > 0.97
    with pytest.raises(NodeWeightsError, match="still runs none: the model was not swapped"):
        set_node_weights(NODE, "flownet_stereo", __file__, "0" * 64, context=b.context)
    assert (b.depth_node.parameters["model"], b.depth_node.parameters["depth_weights"]) == ("sgbm", "")
    assert share_near(b.fresh_depth(pair_messages(scene)), scene.depth) > 0.97
    path, sha256 = stereo[0]
    assert set_node_weights(NODE, "flownet_stereo", path, sha256, context=b.context).confirmed
    b.wait(lambda: b.values("model").get("model") == "flownet_stereo")


def test_mono_weights_are_loaded_for_it_where_images_come(make: Callable[..., Bench], mono) -> None:
    path, sha256 = mono
    b = make()
    b.wait(b.status)
    # Nothing needs them and no image comes: taken, and said to be unconfirmed.
    taken = set_node_weights(NODE, "depthnet_lite", path, sha256, timeout=2.5, context=b.context)
    assert taken == (False, {"mono_model": "auto", "mono_weights": ""})
    assert b.depth_node.parameters["mono_weights"] == path
    b.set(mono_weights="")

    b.listen("depth/image_rect")
    found: list[object] = []
    thread = threading.Thread(
        target=lambda: found.append(set_node_weights(NODE, "depthnet_lite", path, sha256, context=b.context))
    )
    thread.start()
    b.send_until(pair_messages(wall()), lambda: not thread.is_alive())
    assert found[0].confirmed
    b.wait(lambda: b.values("model").get("mono weights sha256") == sha256)


def test_mono_weights_that_cannot_be_loaded_are_taken_back(make: Callable[..., Bench], tmp_path: Path) -> None:
    b = make(fill_from_mono=True, mono_weights="")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no weights")
    b.listen("depth/image_rect")
    b.send_until(pair_messages(wall()), lambda: b.values("model").get("mono weights sha256"))
    sha256 = b.values("model")["mono weights sha256"]
    with pytest.raises(NodeWeightsError, match=rf"still runs {sha256[:12]}: the model was not swapped"):
        set_node_weights(NODE, "depthnet_lite", str(bad), "0" * 64, context=b.context)
    assert b.depth_node.parameters["mono_weights"] == ""
