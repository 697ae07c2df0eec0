"""``fg-depth promote``, ``rollback`` and ``deployed``, on a bag whose depth is known; and with a running node."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

from fg_depth_ros.cli import deploy
from fg_depth_ros.cli.app import REFUSED
from fg_depth_ros.data.bags.folders import bag_sha256
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference import StereoDepthEstimator
from fg_depth_ros.inference.engines.openvino_engine import OpenVinoEngine
from fg_depth_ros.networks import ModelCard, create_model, load_checkpoint, registry, save_checkpoint
from fg_depth_ros.networks.registry import load_model, weights_path
from fg_depth_ros.networks.weights_store import WeightsStore

MODEL = "depthnet_lite"
SHIPPED = load_checkpoint(weights_path(MODEL))[1].sha256
RIG = StereoRig(96, 64, 90.0, 90.0, 47.5, 31.5, 47.5, baseline=0.12)
TRUE_DEPTH = 3.0
TINY_STEREO = {"features": [8, 8, 8], "aggregate": [8, 8, 8], "refine": 8, "max_disparity": 64}


def says(metres: float, path: Path) -> tuple[Path, str]:
    """Weights of a network that says `metres` everywhere in a picture of the bag, and their hash."""
    # Fresh networks say 10 m in their own camera. The images are resized to 64x32, where fx is 60 px.
    network = create_model(MODEL, focal=60.0 * 10.0 / metres, width=64, height=32, channels=(8, 8, 8, 8))
    torch.nn.init.zeros_(network.depth.weight)
    return path, save_checkpoint(path, network, ModelCard(MODEL, network.options)).sha256


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two held-out recordings of a wall, with true depth."""
    folder = tmp_path_factory.mktemp("held_out")
    random = np.random.default_rng(0)
    for name in ("day", "night"):
        frames = []
        for number in range(2):
            texture = random.integers(0, 256, (64, 100, 3), np.uint8)
            depth = np.full((64, 96), TRUE_DEPTH, np.float32)
            frames.append(
                StereoSample("", texture[:, :96].copy(), texture[:, 4:].copy(), depth=depth, stamp=10**9 * (number + 1))
            )
        write_stereo_bag(folder / name, frames, RIG)
    return folder


@pytest.fixture
def call(run: Callable[..., tuple[int, str]], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    def call(command: str, *arguments: object) -> tuple[int, str]:
        # Two pairs on a busy machine say nothing about speed.
        speed = ("--margin-latency", 0) if command == "promote" else ()
        return run(command, *arguments, *speed, "--store", tmp_path / "store")

    return call


@pytest.fixture
def store(tmp_path: Path) -> WeightsStore:
    return WeightsStore(tmp_path / "store")


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_judged_is_refused_before_any_work(run, call, store, bags, tmp_path) -> None:
    good, _ = says(3.0, tmp_path / "good.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    stereo = create_model("flownet_stereo", **TINY_STEREO)
    save_checkpoint(tmp_path / "stereo.safetensors", stereo, ModelCard("flownet_stereo", stereo.options))
    for arguments, why in [
        ((good,), "--bags: name recordings to evaluate the weights on, or give the reason with --force-reason"),
        ((tmp_path / "none.safetensors", "--bags", bags), "none.safetensors does not exist"),
        ((tmp_path / "bad.safetensors", "--bags", bags), "bad.safetensors is not a readable safetensors file"),
        ((good, "--bags", tmp_path / "gone"), "gone: no such bag or folder"),
        ((good, "--bags", bags, "--left", "/cam0"), "no topic '/cam0'"),
        ((good, "--bags", bags, "--metric", "beauty"), "unknown measure beauty: choose among abs_rel"),
        ((good, "--bags", bags, "--margin", "-1"), "margins must be 0 or more"),
        ((tmp_path / "stereo.safetensors", "--bags", bags, "--against", good), "compare weights of one kind"),
        ((good, "--bags", bags, "--json", good / "x.json"), "good.safetensors: is a file, not a folder"),
    ]:
        status, text = call("promote", *arguments)
        assert (status, why in text) == (1, True), text
    status, text = run("promote", good, "--bags", bags, "--store", good)
    assert status == 1 and "good.safetensors: is a file, not a folder" in text and "abs_rel" not in text
    assert store.models() == []
    status, text = call("rollback")
    assert status == 1 and "nothing was promoted there" in text and "(--store, FG_DEPTH_STORE)" in text


def test_a_metric_that_the_network_cannot_have_is_refused_before_the_replay(call, bags, tmp_path, monkeypatch) -> None:
    def replay(*_: object) -> None:
        raise AssertionError("replayed")

    monkeypatch.setattr("fg_depth_ros.evaluation.replay.run.replay", replay)
    good, _ = says(3.0, tmp_path / "good.safetensors")
    status, text = call("promote", good, "--bags", bags, "--metric", "abs_rel", "--metric", "photometric")
    assert status == 1 and "--metric photometric: a mono network has no such figure; choose among abs_rel, " in text
    assert "d1" not in text
    stereo = create_model("flownet_stereo", **TINY_STEREO)
    save_checkpoint(tmp_path / "stereo.safetensors", stereo, ModelCard("flownet_stereo", stereo.options))
    status, text = call("promote", tmp_path / "stereo.safetensors", "--bags", bags, "--metric", "rmse_log")
    assert status == 1 and "--metric rmse_log: a stereo network has no such figure; choose among abs_rel, " in text


def test_the_report_is_written_although_nothing_in_it_decides(call, store, bags, tmp_path) -> None:
    report, trained = tmp_path / "report.json", tmp_path / "trained.safetensors"
    network, card = load_model("flownet_lite")
    next(network.parameters()).data *= 1 + 1e-6
    save_checkpoint(trained, network, card)
    status, text = call("promote", trained, "--bags", bags / "day", "--metric", "photometric", "--json", report)
    assert status == 1 and "no figure of 'in use' that decides (photometric)" in text
    values = json.loads(report.read_text())
    assert values["command"] == "promote" and values["rows"] and "promotion" not in values["settings"]
    assert store.models() == []


# ---- the way there and back ----------------------------------------------------------------------------------------


def test_better_weights_are_used_worse_ones_refused_and_the_way_back_is_short(call, store, bags, tmp_path) -> None:
    near, sha_near = says(3.3, tmp_path / "near.safetensors")  # AbsRel 0.1
    exact, sha_exact = says(3.0, tmp_path / "exact.safetensors")  # AbsRel 0
    report = tmp_path / "report.json"

    status, text = call("promote", near, "--bags", bags, "--against", near, "--json", report)
    assert status == 0, text
    assert f"{MODEL}: {sha_near[:12]} is in use, {SHIPPED[:12]} before" in text
    rows = json.loads(report.read_text())["rows"]
    found = {(row["set"], row["method"]): row["metrics"].get("abs_rel") for row in rows if row["kind"] == "accuracy"}
    assert {name for name, _ in found} == {"all", "day", "night"}
    assert found["all", "candidate"] == pytest.approx(0.1, abs=1e-4)
    status, text = call("promote", exact, "--bags", bags / "day", "--bags", bags / "night")
    assert status == 0, text
    record = store.history(MODEL).entry.record
    assert record["against"] == sha_near and record["source"] == str(exact)
    assert [bag["name"] for bag in record["bags"]] == ["day", "night"]
    assert all(len(bag["sha256"]) == 64 and bag["replayed"] == 2 for bag in record["bags"])
    assert record["metrics"]["all pixels: abs_rel"] == pytest.approx([0.1, 0.0], abs=1e-4)
    assert "│ all │ 4 │ all pixels │ abs_rel │" in text and "│ day │ 2 │ all pixels │ abs_rel │" in text

    status, text = call("promote", near, "--bags", bags, "--json", report)
    assert status == REFUSED, text
    assert "all, all pixels: abs_rel is 0.1," in text and "refused" in text and "nothing has changed" in text
    assert json.loads(report.read_text())["settings"]["promotion"]["accepted"] is False
    assert store.history(MODEL).entry.sha256 == sha_exact
    # AbsRel 0.05 against 0.1 of the named file: good enough for that one.
    half, _ = says(3.15, tmp_path / "half.safetensors")
    assert call("promote", half, "--bags", bags)[0] == REFUSED
    assert call("promote", half, "--bags", bags, "--against", near)[0] == 0

    status, text = call("deployed")
    assert status == 0
    assert (
        text.count(sha_exact[:12]) >= 2
        and "in use" in text
        and str(store.folder / MODEL / "current.safetensors") in text
    )
    status, text = call("rollback", "--why", "foggy")
    assert status == 0 and f"restored {sha_exact[:12]}" in text
    status, text = call("rollback", "foo")
    assert (status, text) == (
        1, f"fg-depth: {store.folder}: no weights of 'foo' were promoted there; choose one of {MODEL}"
    )  # fmt: skip
    assert "foggy" in call("deployed", MODEL)[1]
    for expected in (sha_near, SHIPPED):
        assert call("rollback", MODEL)[0] == 0
        assert store.history(MODEL).entry.sha256 == expected
    status, text = call("rollback")
    assert status == 1 and "is the first entry" in text


def test_bags_without_truth_decide_next_to_others(call, store, bags, tmp_path) -> None:
    texture = np.random.default_rng(1).integers(0, 256, (64, 100, 3), np.uint8)
    other = write_stereo_bag(tmp_path / "fog", [(10**9, texture[:, :96].copy(), texture[:, 4:].copy())], RIG)
    (near, _), (exact, _) = (says(metres, tmp_path / f"{metres}.safetensors") for metres in (3.3, 3.0))
    options = ("--margin", 9, "--margin-per-bag", 9)  # of the second one stereo is no good judge
    status, text = call("promote", exact, "--bags", bags, "--bags", other, "--against", near, *options)
    assert status == 0, text
    metrics = store.history(MODEL).entry.record["metrics"]
    assert metrics["all pixels: abs_rel"] == pytest.approx([0.1, 0.0], abs=1e-4)
    assert len(metrics["all without truth, all pixels: abs_rel"]) == 2
    assert "│ all without truth │ 1 │ all pixels │ abs_rel │" in text


def test_weights_in_use_are_not_compared_with_themselves_but_restored(call, store, bags, tmp_path) -> None:
    near, sha_near = says(3.3, tmp_path / "near.safetensors")
    assert call("promote", near, "--bags", bags, "--against", near)[0] == 0
    history = store.history(MODEL)
    store.path(MODEL, history.entry).unlink()
    status, text = call("promote", near, "--bags", tmp_path / "gone")
    assert status == 0 and f"{sha_near[:12]} is in use already" in text
    assert store.history(MODEL) == history and store.problems(MODEL) == []


def test_shipped_weights_are_in_use_before_the_first_promotion(call, store, tmp_path) -> None:
    status, text = call("promote", weights_path(MODEL), "--bags", tmp_path / "gone")
    assert status == 0 and f"{SHIPPED[:12]} is in use already: nothing is compared" in text, text
    (entry,) = store.history(MODEL).entries
    assert entry.sha256 == SHIPPED and entry.record == {"source": "shipped with the package"}


def test_weights_are_evaluated_with_the_engine_that_will_run_them(call, store, bags, tmp_path) -> None:
    exact, _ = says(3.0, tmp_path / "exact.safetensors")
    report = tmp_path / "report.json"
    running = ("--engine", "torch", "--precision", "bfloat16")
    status, text = call("promote", exact, "--bags", bags, *running, "--json", report)
    assert status == 0, text
    methods = json.loads(report.read_text())["settings"]["methods"]
    assert {(method["engine"], method["precision"]) for method in methods} == {("torch", "bfloat16")}
    record = store.history(MODEL).entry.record
    assert (record["engine"], record["precision"]) == ("torch", "bfloat16")
    other, _ = says(3.1, tmp_path / "other.safetensors")
    status, text = call("promote", other, "--bags", bags, "--engine", "abacus")
    assert status == 1
    assert "engine 'abacus' is unknown" in text


def test_the_way_back_to_int8_is_named(call, store, bags, tmp_path, monkeypatch) -> None:
    pytest.importorskip("openvino")
    if "int8" not in OpenVinoEngine().precisions(torch.device("cpu")):
        pytest.skip("OpenVINO has no int8 on this machine")
    monkeypatch.setenv("FG_DEPTH_CACHE", str(tmp_path / "engines"))
    card = load_checkpoint(weights_path("flownet_stereo"))[1]
    torch.manual_seed(0)
    worse = tmp_path / "fresh.safetensors"
    save_checkpoint(worse, create_model(card.name, **card.options), ModelCard(card.name, card.options))
    running = ("--engine", "openvino")
    status, text = call("promote", worse, "--against", "flownet_stereo", "--bags", bags, *running)
    assert status == REFUSED, text
    assert "one of the two ran in int8 and the other did not: 'fg-depth quantize' calibrates" in text


def test_the_way_back_from_a_first_promotion_leads_to_what_it_was_held_against(call, store, bags, tmp_path) -> None:
    near, sha_near = says(3.3, tmp_path / "near.safetensors")
    exact, sha_exact = says(3.0, tmp_path / "exact.safetensors")
    status, text = call("promote", exact, "--against", near, "--bags", bags)
    assert status == 0 and f"{sha_exact[:12]} is in use, {sha_near[:12]} before" in text
    for expected in (sha_near, SHIPPED):
        assert call("rollback")[0] == 0
        assert store.history(MODEL).entry.sha256 == expected


def test_a_flow_network_is_judged_by_its_disparity(call, store, bags, tmp_path) -> None:
    report, trained = tmp_path / "report.json", tmp_path / "trained.safetensors"
    network, card = load_model("flownet_lite")
    next(network.parameters()).data *= 1 + 1e-6
    save_checkpoint(trained, network, card)
    status, text = call("promote", trained, "--bags", bags, "--json", report)
    assert status == 0, text
    assert "evaluated by its disparity" in text and "flownet_lite" in text
    assert store.history("flownet_lite").entry.record["metrics"]["all pixels: abs_rel"][1] < 0.2
    status, text = call("promote", weights_path("flownet_lite"), "--bags", bags, "--against", "depthnet_lite")
    assert status == 1 and "compare weights of one kind" in text


@pytest.mark.parametrize("part", ["training", "stopping"])
@pytest.mark.parametrize("by", ["itself", "its parent"])
def test_recordings_that_weights_were_made_with_do_not_judge_them(call, store, bags, tmp_path, part, by) -> None:
    day, night = bags / "day", bags / "night"
    parts = {"training": 0, "stopping": 0, "held_out": 0, "guard": 0}
    made_of: dict[str, Any] = {
        "bags": [
            {"name": "monday", "sha256": bag_sha256(day), "parts": parts | {part: 2}},
            {"name": "tuesday", "sha256": bag_sha256(night), "parts": parts | {"held_out": 2}},
            {"name": "broken", "sha256": "", "parts": {}},
        ]
    }
    path, tuned = says(3.0, tmp_path / "exact.safetensors")[0], tmp_path / "tuned.safetensors"
    network, card = load_model(path)
    description = made_of if by == "itself" else {"parent": {"sha256": "1" * 64, **made_of}}
    sha = save_checkpoint(tuned, network, replace(card, description=description)).sha256
    status, text = call("promote", tuned, "--bags", bags)
    assert status == REFUSED and "abs_rel" not in text, text
    assert f"trained on or selected by {day}:" in text and "tuesday" not in text and str(night) not in text
    assert "--force-reason" in text and "nothing has changed" in text and store.models() == []
    status, text = call("promote", tuned, "--bags", bags, "--force-reason", "no others yet")
    assert status == 0 and f"selected by {day}:" in text, text
    record = store.history(MODEL).entry.record
    assert record["trained_on"] == [str(day)] and record["forced"] == "no others yet"
    assert store.history(MODEL).entry.sha256 == sha and call("rollback")[0] == 0
    status, text = call("promote", tuned, "--bags", night)  # held out by its own training
    assert status == 0 and "trained_on" not in store.history(MODEL).entry.record, text


def test_weights_that_came_into_use_meanwhile_are_not_replaced_unseen(call, store, bags, tmp_path, monkeypatch) -> None:
    exact, sha_exact = says(3.0, tmp_path / "exact.safetensors")
    near, sha_near = says(3.3, tmp_path / "near.safetensors")
    far, _ = says(3.6, tmp_path / "far.safetensors")

    def meanwhile(*arguments: Any) -> Any:
        store.promote(exact, {})
        return compare(*arguments)

    compare = deploy._compare
    monkeypatch.setattr(deploy, "_compare", meanwhile)
    status, text = call("promote", near, "--bags", bags)
    assert status == 1 and f"{sha_exact[:12]} came into use" in text and "compare again" in text, text
    assert store.history(MODEL).entry.sha256 == sha_exact
    assert call("promote", far, "--bags", bags, "--against", far)[0] == 0  # what is compared was named
    assert call("promote", near, "--bags", bags, "--force-reason", "for the crane")[0] == 0
    assert store.history(MODEL).entry.sha256 == sha_near


def test_a_reason_forces_what_the_figures_refuse_and_is_kept(call, store, bags, tmp_path) -> None:
    exact, _ = says(3.0, tmp_path / "exact.safetensors")
    far, sha_far = says(9.0, tmp_path / "far.safetensors")
    status, text = call("promote", far, "--bags", bags, "--against", exact, "--force-reason", "only for the crane")
    assert status == 0 and "% worse" in text
    record = store.history(MODEL).entry.record
    assert record["forced"] == "only for the crane" and "abs_rel" in record["reasons"][0]
    assert store.in_use(MODEL).name.startswith(sha_far[:12])
    store.in_use(MODEL).write_bytes(b"broken")
    status, text = call("deployed")
    assert status == 1 and "not a readable safetensors file" in text
    status, text = call("promote", weights_path("flownet_lite"), "--force-reason", "judged elsewhere")
    assert status == 0 and "flownet_lite" in text


def test_without_weights_in_use_and_shipped_ones_something_must_be_named(
    call, bags, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, _ = says(3.3, tmp_path / "near.safetensors")
    monkeypatch.setattr("fg_depth_ros.networks.weights_store.has_weights", lambda name: False)
    status, text = call("promote", near, "--bags", bags)
    assert status == 1 and "name some with --against" in text


# ---- with a running node -------------------------------------------------------------------------------------------


@pytest.mark.ros
def test_a_running_node_takes_the_weights_or_nothing_changes(
    call, store, tmp_path, make: Callable[..., Any], ros_domain
) -> None:
    pytest.importorskip("rclpy")

    def stereo(seed: int) -> tuple[Path, str]:
        torch.manual_seed(seed)
        network = create_model("flownet_stereo", **TINY_STEREO)
        path = tmp_path / f"stereo_{seed}.safetensors"
        return path, save_checkpoint(path, network, ModelCard("flownet_stereo", network.options)).sha256

    (first, sha_1), (second, sha_2) = stereo(1), stereo(2)
    shipped = load_checkpoint(registry.WEIGHTS_DIR / "flownet_stereo.safetensors")[1].sha256
    b = make(model="flownet_stereo", depth_weights=str(first))
    b.wait(lambda: b.values("model").get("weights sha256") == sha_1)
    node = ("--node", "/stereo_depth_node")

    def runs(sha256: str) -> None:
        b.wait(lambda: b.values("model")["weights sha256"] == sha256)
        in_use = Path(b.depth_node.parameters["depth_weights"])
        assert in_use.parent == store.folder / "flownet_stereo" and in_use.name.startswith(sha256[:12])

    status, text = call("promote", second, "--force-reason", "test", *node)
    assert status == 0 and f"/stereo_depth_node runs {sha_2[:12]}" in text, text
    runs(sha_2)
    assert store.history("flownet_stereo").entry.record["node"] == "/stereo_depth_node"

    # A node that cannot use them: the swap fails, the old ones stay, in the node and in the store.
    b.depth_node._models.stereo._build = lambda config: (_ for _ in ()).throw(RuntimeError("the device is gone"))
    status, text = call("promote", first, "--force-reason", "test", *node)
    assert status == 1 and f"{sha_2[:12]}" in text and "the device is gone" in text, text
    runs(sha_2)
    assert store.history("flownet_stereo").entry.sha256 == sha_2
    status, text = call("rollback", *node)
    assert status == 1 and "the device is gone" in text
    assert store.history("flownet_stereo").entry.sha256 == sha_2
    b.depth_node._models.stereo._build = StereoDepthEstimator
    status, text = call("rollback", *node)
    assert status == 0 and f"/stereo_depth_node runs {shipped[:12]}" in text, text
    runs(shipped)
    assert b.level("model") == 0
