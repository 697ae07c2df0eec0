"""Depth from the left image alone in stereo_depth_node: as a topic, in the holes of the stereo depth, and in its place
while the right camera is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.nodes import Bench, Scene, pair_messages, share_near, wall
from support.waiting import LIMIT, wait_until

from fg_depth_ros.data.io import messages
from fg_depth_ros.geometry import Label
from fg_depth_ros.inference import MonoConfig, MonoDepthEstimator, OutOfMemory, StereoDepthEstimator
from fg_depth_ros.networks import ModelCard, create_model, registry, save_checkpoint
from fg_depth_ros.nodes.common.codes import FaultCode
from fg_depth_ros.nodes.stereo_depth import models as node_models

SCENE = wall()  # 3.0 m away, 320x240, fx 300 px; block matching has no answer in its leftmost columns
PAIR = pair_messages(SCENE)
LEFT = {name: message for name, message in PAIR.items() if name.startswith("left")}
DEPTH, MONO, LABELS = "depth/image_rect", "mono_depth/image_rect", "mask/labels"


def network_that_says(metres: float, path: Path) -> str:
    """Weights of a network that says `metres` everywhere in a picture of the scene."""
    # Fresh networks say 10 m in their own camera. The scene's images are resized to 64x32, where fx is 60 px.
    network = create_model("depthnet_lite", focal=60.0 * 10.0 / metres, width=64, height=32)
    torch.nn.init.zeros_(network.depth.weight)
    save_checkpoint(path, network, ModelCard("depthnet_lite", network.options))
    return str(path)


@pytest.fixture
def six_metres(tmp_path: Path) -> str:
    """Weights of a network that takes the wall for twice as far as it is."""
    return network_that_says(6.0, tmp_path / "six.safetensors")


@pytest.fixture
def no_shipped_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "WEIGHTS_DIR", tmp_path / "none")


def newest(b: Bench, *topics: str) -> dict[str, Any] | None:
    """The newest messages of these topics that have one stamp; None where there are none."""
    stamps = set.intersection(*({messages.stamp_ns(m.header) for m in list(b.seen[topic])} for topic in topics))
    if not stamps:
        return None
    stamp = max(stamps)
    return {t: next(m for m in reversed(b.seen[t]) if messages.stamp_ns(m.header) == stamp) for t in topics}


def depth_of(message: Any) -> np.ndarray:
    return messages.depth_to_array(message)


def labels_of(message: Any) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


# ---- the topic -----------------------------------------------------------------------------------------------------


def test_mono_depth_is_what_the_estimator_says_and_needs_no_stereo(make: Callable[..., Bench], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("depthnet_lite", focal=100.0, width=96, height=64)
    torch.nn.init.normal_(network.depth.weight, std=0.5)
    weights = tmp_path / "random.safetensors"
    card = save_checkpoint(weights, network, ModelCard("depthnet_lite", network.options))
    expected = MonoDepthEstimator(MonoConfig(weights=str(weights))).estimate(SCENE.left, SCENE.rig.fx).depth
    near, far = (float(depth) for depth in np.quantile(expected, (0.2, 0.8)))
    matched: list[int] = []

    class Counting(StereoDepthEstimator):
        def estimate(self, *args: Any) -> Any:
            matched.append(1)
            return super().estimate(*args)

    b = make(build=Counting, mono_weights=str(weights), min_depth=near, max_depth=far)
    b.wait(b.status)
    assert b.values("model")["mono swap"] == "not loaded"
    b.listen(MONO)
    b.send_until(PAIR, lambda: b.seen[MONO])
    message = b.seen[MONO][-1]
    assert (message.encoding, message.header.frame_id) == ("32FC1", "left_eye")
    inside = (expected >= np.float32(near)) & (expected <= np.float32(far))
    assert expected.std() > 0.1
    np.testing.assert_allclose(depth_of(message), np.where(inside, expected, np.nan), rtol=1e-5)
    assert matched == []
    b.wait(lambda: b.values("model").get("mono model") == "depthnet_lite")
    model = b.values("model")
    assert model["mono weights sha256"] == card.sha256
    assert model["mono weights"] == str(weights)
    assert model["mono weights fit"].startswith("96x64 px, focal length 100 px")
    b.wait(lambda: b.accounted() and int(b.values()["pairs published"]) > 0)


def test_mono_depth_in_millimetres_beside_stereo_depth(make: Callable[..., Bench], six_metres: str) -> None:
    b = make(mono_weights=six_metres, depth_encoding="16UC1")
    b.listen(DEPTH, MONO)
    found = b.send_until(PAIR, lambda: newest(b, DEPTH, MONO))
    assert found[MONO].encoding == "16UC1"
    assert (np.frombuffer(found[MONO].data, np.uint16) == 6000).all()
    depth = depth_of(found[DEPTH])
    assert share_near(depth, 3.0) > 0.97  # in its own metres, and holes stay
    assert np.isnan(depth).any()
    # Measured all the same, for when the right camera goes: 3 m / 6 m.
    b.send_until(PAIR, lambda: b.values().get("mono factor") == "0.500")


# ---- holes ---------------------------------------------------------------------------------------------------------


def test_holes_are_filled_at_the_scale_of_the_stereo_depth(make: Callable[..., Bench], six_metres: str) -> None:
    b = make(mono_weights=six_metres)
    topics = (DEPTH, LABELS, "mask/image", "disparity", "points2", "depth/camera_info")
    b.listen(*topics)
    before = labels_of(b.send_until(PAIR, lambda: newest(b, *topics))[LABELS])
    holes = before != Label.VALID
    assert 0.02 < holes.mean() < 0.5
    (result,) = b.set(fill_from_mono=True)
    assert result.successful
    b.send_until(PAIR, lambda: (labels_of(b.seen[LABELS][-1]) == Label.FILLED_FROM_MONO).any())
    for topic in topics:
        b.seen[topic].clear()
    found = b.send_until(PAIR, lambda: newest(b, *topics))
    assert len({message.header.frame_id for message in found.values()}) == 1
    labels, depth = labels_of(found[LABELS]), depth_of(found[DEPTH])
    np.testing.assert_array_equal(labels, np.where(holes, Label.FILLED_FROM_MONO, Label.VALID))
    np.testing.assert_allclose(depth[holes], 3.0, rtol=0.005)  # 6 m * 0.5
    assert share_near(depth, 3.0) > 0.97
    assert (messages.image_to_array(found["mask/image"]) == 255).all()
    np.testing.assert_array_equal(np.isfinite(messages.float_array(found["disparity"].image)), ~holes)
    points, _ = messages.cloud_to_arrays(found["points2"])
    np.testing.assert_array_equal(points[..., 2], depth[::2, ::2])
    b.wait(lambda: b.values().get("mono factor") == "0.500")
    assert b.level() == b.level("model") == 0


def test_mono_depth_that_cannot_be_brought_to_scale_fills_nothing(make: Callable[..., Bench], tmp_path: Path) -> None:
    b = make(mono_weights=network_that_says(100.0, tmp_path / "far.safetensors"), fill_from_mono=True)
    b.listen(DEPTH, LABELS)
    b.send_until(PAIR, lambda: b.level() == 1)
    assert "nothing is filled from mono: stereo depth is 0.03 times mono depth" in b.status().message
    found = newest(b, DEPTH, LABELS)
    assert not (labels_of(found[LABELS]) == Label.FILLED_FROM_MONO).any()
    assert share_near(depth_of(found[DEPTH]), 3.0) > 0.97
    b.set(fill_from_mono=False)
    b.send_until(PAIR, lambda: b.level() == 0)


def test_pairs_go_on_while_the_model_is_loaded(
    make: Callable[..., Bench], six_metres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(MonoDepthEstimator):
        def __init__(self, config: MonoConfig) -> None:
            begun.set()
            assert go_on.wait(LIMIT)
            super().__init__(config)

    monkeypatch.setattr(node_models, "MonoDepthEstimator", Slow)
    b = make(mono_weights=six_metres, fill_from_mono=True)
    b.listen(DEPTH)
    b.send_until(PAIR, begun.is_set)
    seen = len(b.seen[DEPTH])
    b.send_until(PAIR, lambda: len(b.seen[DEPTH]) >= seen + 3)
    assert np.isnan(depth_of(b.seen[DEPTH][-1])).any()
    go_on.set()
    b.send_until(PAIR, lambda: np.isfinite(depth_of(b.seen[DEPTH][-1])).all())


# ---- the right camera is gone --------------------------------------------------------------------------------------


def test_depth_goes_on_without_the_right_camera_and_comes_back(make: Callable[..., Bench], six_metres: str) -> None:
    rest, silent = LEFT, "/right/image_rect"
    b = make(mono_weights=six_metres, mono_timeout=1.0, stall_timeout=1.0, flow_model="off")
    stereo_only = ("disparity", "flow/image")
    both = (DEPTH, LABELS, MONO, "mask/image", "points2", "depth/camera_info")
    b.listen(*both, *stereo_only)
    b.send_until(PAIR, lambda: newest(b, *both) and b.values().get("mono factor") == "0.500")

    alone: set[int] = set()
    wait_until(
        lambda: (
            b.has(FaultCode.RIGHT_CAMERA_SILENT, "depthnet_lite", silent, "publisher(s) are there, but nothing comes")
            and len(alone & {messages.stamp_ns(m.header) for m in list(b.seen[DEPTH])}) >= 3
        ),
        period=0.1,
        step=lambda: alone.add(b.send(rest)),
        describe=b.status,
    )
    assert b.level() == 1
    assert b.values()["mono factor in use without a pair"] == "0.500"
    assert "own scale" not in b.status().message
    found = b.wait(lambda: (f := newest(b, *both)) and messages.stamp_ns(f[DEPTH].header) in alone and f)
    assert {m.header.frame_id for m in found.values()} == {"left_eye"}
    assert (labels_of(found[LABELS]) == Label.FILLED_FROM_MONO).all()
    np.testing.assert_allclose(depth_of(found[DEPTH]), 3.0, rtol=0.005)  # with the last factor
    np.testing.assert_allclose(depth_of(found[MONO]), 6.0, rtol=1e-4)  # in the network's own metres
    assert (messages.image_to_array(found["mask/image"]) == 255).all()
    points, colours = messages.cloud_to_arrays(found["points2"])
    x = (2 * 100 - SCENE.rig.cx) * depth_of(found[DEPTH])[80, 200] / 300.0
    assert points[40, 100, 0] == pytest.approx(x, rel=1e-4)
    np.testing.assert_array_equal(colours, SCENE.left[::2, ::2])
    assert found["depth/camera_info"].p[0] == 300.0
    for topic in stereo_only:  # these need two cameras
        assert not alone & {messages.stamp_ns(m.header) for m in b.seen[topic]}

    # The right camera comes back with an image whose left one was answered already.
    moment = float(b.node.get_clock().now().nanoseconds // 10**9 + 1)
    alone.add(b.send(rest, moment))
    b.wait(lambda: messages.stamp_ns(b.seen[DEPTH][-1].header) == round(moment * 1e9))
    b.send({name: message for name, message in PAIR.items() if name not in rest}, moment)
    b.wait(lambda: b.values().get("dropped: left image already published") == "1")
    pairs = len(b.seen["disparity"])
    b.send_until(PAIR, lambda: len(b.seen["disparity"]) > pairs and b.level() == 0)
    assert share_near(b.fresh_depth(PAIR), 3.0) > 0.97
    assert b.log_has("recovered after")
    b.wait(b.accounted)
    stamps = [messages.stamp_ns(m.header) for m in b.seen[DEPTH]]
    assert len(stamps) == len(set(stamps))  # nothing is answered twice
    assert int(b.values()["mono fallback published"]) == len(alone & set(stamps))


def test_without_a_right_camera_no_baseline_is_made_up(make: Callable[..., Bench], six_metres: str) -> None:
    b = make(mono_weights=six_metres, mono_timeout=0.2, inference_scale="auto", min_depth=0.15)
    b.listen(DEPTH)
    b.send_until(LEFT, lambda: int(b.values().get("mono fallback published", 0)) > 0)
    seen = len(b.statuses)
    b.wait(lambda: len(b.statuses) >= seen + 2)
    assert "nearest depth (m)" not in b.values("model")
    assert b.values("model")["inference_scale"] == "1"
    assert "baseline (m)" not in b.values()
    b.send_until(PAIR, lambda: b.values("model").get("nearest depth (m)") == "0.150")


def test_only_when_it_is_wanted(make: Callable[..., Bench], six_metres: str) -> None:
    b = make(mono_weights=six_metres, mono_timeout=0.0, stall_timeout=0.5)
    b.listen(DEPTH)
    b.send_until(LEFT, lambda: b.level() == 1 and b.has(FaultCode.NO_PAIRS))
    assert b.seen[DEPTH] == []
    assert b.values()["mono fallback received"] == "0"
    b.set(mono_timeout=0.5)
    b.send_until(LEFT, lambda: b.seen[DEPTH])
    assert np.isfinite(depth_of(b.seen[DEPTH][-1])).all()  # the right camera never was there
    np.testing.assert_allclose(depth_of(b.seen[DEPTH][-1]), 6.0, rtol=1e-4)  # no factor is known
    own_scale = ("at its own scale, as it was compared with no pair lately",)
    b.send_until(LEFT, lambda: b.has(FaultCode.RIGHT_CAMERA_SILENT, *own_scale))
    assert b.values()["mono factor in use without a pair"] == "1.000"
    b.set(mono_model="off")
    b.send_until(LEFT, lambda: b.has(FaultCode.NO_PAIRS))
    b.send_until(LEFT, lambda: b.log_has("no message on /right/image_rect"))


def test_for_the_camera_info_of_depth_alone_no_mono_depth_is_estimated(
    make: Callable[..., Bench], six_metres: str
) -> None:
    b = make(mono_weights=six_metres, mono_timeout=0.2, stall_timeout=0.5)
    b.listen("depth/camera_info")
    b.send_until(LEFT, lambda: b.seen["depth/camera_info"] and b.has(FaultCode.NO_PAIRS))
    assert b.values("model")["mono swap"] == "not loaded"
    b.listen(DEPTH)
    b.send_until(LEFT, lambda: b.seen[DEPTH] and b.has(FaultCode.RIGHT_CAMERA_SILENT))


def test_a_bad_left_image_alone_is_named(make: Callable[..., Bench], six_metres: str) -> None:
    half: Scene = SCENE.half()
    b = make(mono_weights=six_metres, mono_timeout=0.3)
    b.listen(DEPTH)
    bad = {**LEFT, "left/image_rect": pair_messages(half)["left/image_rect"]}
    b.send_until(bad, lambda: b.level() == 2)
    assert "/left/image_rect is 160x120 pixels, but /left/camera_info describes 320x240" in b.status().message
    no_calibration = pair_messages(SCENE)["left/camera_info"]
    no_calibration.p = [0.0] * 12
    b.send_until(
        {**LEFT, "left/camera_info": no_calibration}, lambda: b.level() == 2 and "all zeros" in b.status().message
    )
    b.send_until(LEFT, lambda: b.seen[DEPTH] and b.level() == 1)


# ---- what may be missing -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_shipped_weights")
def test_missing_weights_are_named_when_they_are_needed_and_stereo_goes_on(
    make: Callable[..., Bench], six_metres: str
) -> None:
    b = make()
    b.listen(DEPTH)
    assert share_near(b.fresh_depth(PAIR), 3.0) > 0.97
    b.wait(lambda: b.level("model") == 0)  # nobody needs them yet
    b.listen(MONO)
    b.send_until(PAIR, lambda: b.has(FaultCode.NO_MONO_DEPTH, name="model"))
    message = b.status("model").message
    assert message.startswith("mono_depth/image_rect has a subscriber")
    assert "'depthnet_efficient'" in message
    assert "Set mono_model and mono_weights" in message
    b.wait(lambda: b.values("model")["mono swap"] == "failed")
    names = b.depth_node.parameters
    assert (names["mono_model"], names["mono_weights"]) == ("off", "")  # they name nothing that does not run
    assert b.log_has("mono_model is off now")
    b.set(fill_from_mono=True)
    b.send_until(PAIR, lambda: "fill_from_mono is set" in b.status("model").message)
    assert share_near(b.fresh_depth(PAIR), 3.0) > 0.97
    assert b.level() == 0
    (result,) = b.set(mono_weights=six_metres, mono_model="auto")
    assert result.successful
    b.send_until(PAIR, lambda: b.seen[MONO] and b.level("model") == 0)


@pytest.mark.usefixtures("no_shipped_weights")
def test_without_weights_a_missing_right_camera_is_named_as_ever(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fg_depth_ros.nodes.stereo_depth.node._SWAP_FAULT_SECONDS", 2.0)
    b = make(mono_timeout=0.3, stall_timeout=0.6)
    b.listen(DEPTH)
    fallback_fails = lambda: b.has(FaultCode.NO_MONO_DEPTH, "right camera", name="model")  # noqa: E731
    b.send_until(LEFT, lambda: b.has(FaultCode.NO_PAIRS) and fallback_fails())
    assert b.seen[DEPTH] == []
    b.send_until(LEFT, lambda: int(b.values().get("mono fallback dropped: no mono depth", 0)) > 0)
    assert b.values()["pairs dropped"] == "0"
    b.wait(b.accounted)
    assert share_near(b.fresh_depth(PAIR), 3.0) > 0.97
    b.send_until(PAIR, lambda: b.level() == b.level("model") == 0)


def test_a_listener_without_a_mono_model_is_told(make: Callable[..., Bench]) -> None:
    b = make(mono_model="off")
    b.listen(MONO)
    b.send_until(PAIR, lambda: b.has(FaultCode.NO_MONO_DEPTH, "mono_depth/image_rect", name="model"))
    assert b.log_has("mono_model is off: set it to auto")
    b.listen(DEPTH)
    b.unlisten(MONO)
    b.send_until(PAIR, lambda: b.level("model") == 0)
    b.listen(MONO)
    b.send_until(PAIR, lambda: b.level("model") == 1)
    b.unlisten(MONO)
    b.unlisten(DEPTH)
    b.wait(lambda: b.level("model") == 0)  # the inputs are closed


def test_weights_that_cannot_be_used_are_refused_or_put_back(
    make: Callable[..., Bench], six_metres: str, tmp_path: Path
) -> None:
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(b"this is no checkpoint")
    b = make(mono_weights=six_metres)
    b.listen(MONO)
    b.send_until(PAIR, lambda: b.seen[MONO])
    (result,) = b.set(mono_weights="/nowhere/mono.safetensors")
    assert not result.successful
    assert "mono_weights = '/nowhere/mono.safetensors'" in result.reason
    (result,) = b.set(mono_weights=str(corrupt))
    assert result.successful  # the file is there; what is in it turns out later
    b.send_until(PAIR, lambda: b.values("model").get("mono swap") == "failed")
    assert b.log_has(str(corrupt))
    b.wait(lambda: b.depth_node.parameters["mono_weights"] == six_metres)
    four = network_that_says(4.0, tmp_path / "four.safetensors")
    b.set(mono_weights=four)
    b.send_until(PAIR, lambda: np.allclose(depth_of(b.seen[MONO][-1]), 4.0, rtol=1e-4))


def test_start_weights_that_do_not_exist_fail_configure(make: Callable[..., Bench]) -> None:
    b = make(mono_weights="/nowhere/mono.safetensors")
    b.wait(lambda: b.level() == 2)
    assert "not configured: parameter mono_weights = '/nowhere/mono.safetensors'" in b.status().message


def test_too_little_memory_for_mono_leaves_stereo_alone(
    make: Callable[..., Bench], six_metres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(MonoDepthEstimator):
        """A device with room for half the size."""

        def estimate(self, *args: Any) -> Any:
            if self.config.inference_scale > 0.6 and args[0].any():  # not while it warms up
                raise OutOfMemory("2 GiB wanted, 1 GiB free")
            return super().estimate(*args)

    monkeypatch.setattr(node_models, "MonoDepthEstimator", Small)
    b = make(mono_weights=six_metres, fill_from_mono=True)
    b.listen(DEPTH)
    b.send_until(PAIR, lambda: b.level("model") == 2)
    assert b.status("model").message.startswith("depthnet_lite: out of memory (2 GiB wanted, 1 GiB free)")
    b.send_until(PAIR, lambda: np.isfinite(depth_of(b.seen[DEPTH][-1])).all())  # filled, by the smaller one
    b.wait(b.accounted)
    assert b.values()["pairs dropped"] == "0" or set(b.values()) & {"dropped: replaced by newer"}
    assert "inference_scale 0.562" in b.status("model").message
    assert b.values("model")["inference_scale"] == "1"  # of the stereo model
