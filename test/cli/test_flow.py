"""``fg-depth flow`` and ``fg-depth evaluate flow``: files that come out, and one clear line when something is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fg_depth_ros.data.io.formats import read_flo, read_image, read_kitti_flow, write_flo, write_image
from fg_depth_ros.inference import FlowConfig, FlowEstimator
from fg_depth_ros.networks import FLOW_MODELS, ModelCard, create_model, has_weights, save_checkpoint

METHODS = ["dis", "farneback", "lucas_kanade", "horn_schunck"]


@pytest.fixture
def scenes(tmp_path):
    """Two scenes in the layout of Middlebury, 64 x 48, with a flow of (2, 1) px; the folder."""
    random = np.random.default_rng(0)
    folder = tmp_path / "scenes"
    for name in ("one", "two"):
        picture = np.kron(random.integers(0, 256, (20, 28, 3), dtype=np.uint8), np.ones((3, 3, 1), np.uint8))
        (folder / name).mkdir(parents=True)
        write_image(folder / name / "frame10.png", picture[1:49, 2:66])
        write_image(folder / name / "frame11.png", picture[:48, :64])
        write_flo(folder / name / "flow10.flo", np.broadcast_to(np.float32([2, 1]), (48, 64, 2)))
    return folder


@pytest.fixture
def thin(tmp_path):
    """Weights of a thin FlowNetS and of a small stereo net."""
    torch.manual_seed(0)
    flow, stereo = tmp_path / "thin.safetensors", tmp_path / "stereo.safetensors"
    network = create_model("flownet_s", width=0.125)
    save_checkpoint(flow, network, ModelCard("flownet_s", network.options))
    options = {"features": (16, 16, 16), "aggregate": (16, 16, 16), "max_disparity": 64}
    save_checkpoint(stereo, create_model("flownet_stereo", **options), ModelCard("flownet_stereo", options))
    return flow, stereo


def spoil(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flow", "no.png", "{second}"], "no.png: no such file"),
        (["flow", "{first}", "{small}"], "small.png 32x48: the frames of a pair have one size"),
        (["flow", "{first}", "{cut}"], "cut.png: truncated"),
        (["flow", "{first}", "{text}"], "text.png: is no image, or a damaged one; give a PNG or JPEG"),
        (["flow", "{first}", "{second}", "--model", "raft"], "model 'raft' is unknown; choose one of flownet2"),
        (["flow", "{first}", "{second}", "--model", "flownet_s"], "no weights of 'flownet_s' come with the package"),
        (["flow", "{first}", "{second}", "--weights", "no.safetensors"], "no.safetensors does not exist"),
        (["flow", "{first}", "{second}", "--weights", "{stereo}"], "'flownet_stereo' is no flow network"),
        (["flow", "{first}", "{second}", "--weights", "{text}"], "text.png is not a readable safetensors file"),
        (["flow", "{first}", "{second}", "--weights", "{flow}", "--model", "dis"], "'dis' has no weights"),
        (["flow", "{first}", "{second}", "--weights", "{flow}", "--model", "flownet_c"], "of 'flownet_s', not of"),
        (["flow", "{first}", "{second}", "--model", "dis", "--scale", "9"], "--scale must lie in"),
        (["flow", "{first}", "{second}", "--model", "dis", "--out", "{text}"], "text.png"),
        (["infer", "{first}", "{second}", "--weights", "{flow}"], "set the model to 'flownet_s'"),
        (["evaluate", "flow", "--data", "/nowhere", "--model", "dis"], "/nowhere: no such folder"),
        (["evaluate", "flow", "--data", "{empty}", "--model", "dis"], "no pairs of frames found. Known layouts"),
        (["evaluate", "flow", "--data", "{scenes}", "--model", "flownet_c"], "no weights of 'flownet_c' come"),
        (["evaluate", "flow", "--data", "{scenes}", "--weights", "{stereo}"], "'flownet_stereo' is no flow network"),
    ],
)
def test_every_mistake_is_one_line_with_the_way_out(run, scenes, thin, tmp_path, monkeypatch, arguments, message):
    places = {
        "first": scenes / "one" / "frame10.png",
        "second": scenes / "one" / "frame11.png",
        "scenes": scenes,
        "flow": thin[0],
        "stereo": thin[1],
        "empty": tmp_path / "empty",
        **{name: tmp_path / f"{name}.png" for name in ("small", "cut", "text")},
    }
    places["empty"].mkdir()
    write_image(places["small"], np.zeros((48, 32, 3), np.uint8))
    places["cut"].write_bytes(places["first"].read_bytes()[:500])
    places["text"].write_text("not an image")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, text = run(*(argument.format(**places) for argument in arguments))
    assert status != 0
    assert message in text
    assert "Traceback" not in text
    assert sorted(tmp_path.rglob("*")) == before  # nothing half written


@pytest.mark.parametrize(("file", "keep"), [("flow10.flo", -4), ("flow10.flo", 7), ("frame11.png", 200)])
def test_a_truncated_file_of_a_data_set_is_named(run, scenes, tmp_path, file, keep):
    spoil(scenes / "two" / file, keep)
    report, sheets = tmp_path / "r.json", tmp_path / "sheets"
    status, text = run(
        "evaluate", "flow", "--data", scenes, "--model", "dis", "--json", report, "--sheets", sheets
    )  # fmt: skip
    assert status == 1
    assert f"two/{file}: truncated" in text
    assert "Traceback" not in text
    assert not report.exists() and not sheets.exists()


def test_flow_writes_every_file_with_the_same_numbers(run, scenes, tmp_path):
    frames = [scenes / "one" / f"frame{number}.png" for number in (10, 11)]
    status, text = run("flow", *frames, "--model", "dis", "--variational", "--out", tmp_path / "out")
    assert status == 0, text
    assert "frame10_flow.flo, frame10_flow.png, frame10_flow_colour.png in" in text
    assert "(dis +v, " in text
    expected = FlowEstimator(FlowConfig(model="dis", refinement="variational")).estimate(*map(read_image, frames)).flow
    flow = read_flo(tmp_path / "out/frame10_flow.flo")
    np.testing.assert_array_equal(flow, expected)
    np.testing.assert_allclose(np.median(flow, (0, 1)), [2, 1], atol=0.1)
    np.testing.assert_allclose(read_kitti_flow(tmp_path / "out/frame10_flow.png"), flow, atol=1 / 128 + 1e-4)
    assert read_image(tmp_path / "out/frame10_flow_colour.png").shape == (113, 64, 3)  # with the wheel below


def test_weights_say_which_network_they_are_of(run, scenes, thin, tmp_path):
    frames = [scenes / "one" / f"frame{number}.png" for number in (10, 11)]
    for more in ([], ["--model", "flownet_s"]):
        status, text = run("flow", *frames, "--weights", thin[0], "--out", tmp_path / "out", *more)
        assert status == 0, text
        assert "(flownet_s, " in text


def test_learned_and_classical_methods_stand_in_one_table(run, scenes, thin, tmp_path, monkeypatch):
    report = tmp_path / "report.json"
    monkeypatch.setenv("COLUMNS", "60")  # nothing is cut off in a narrow terminal either
    status, text = run(
        "evaluate", "flow", "--data", scenes, "--weights", thin[0], "--json", report, "--sheets", tmp_path / "sheets"
    )
    assert status == 0, text
    for word in ("flownet_s", *METHODS, "EPE px", "noc", ">40", "Fl %", "AE °", "s/pair"):
        assert word in text
    content = json.loads(report.read_text())
    assert content["command"] == "evaluate flow"
    assert content["model"]["name"] == "flownet_s" and len(content["model"]["sha256"]) == 64
    assert [row["method"] for row in content["rows"]] == ["flownet_s", *METHODS]
    assert all((row["set"], row["images"], row["pixels"]) == ("scenes", 2, 2 * 48 * 64) for row in content["rows"])
    metrics = {row["method"]: row["metrics"] for row in content["rows"]}
    assert metrics["flownet_s"]["epe"] > 1  # it has learned nothing
    assert metrics["dis"]["epe"] < 0.3
    assert metrics["dis"]["epe_noc"] is None  # this data set does not say what is hidden
    assert metrics["dis"]["epe_below_10"] == metrics["dis"]["epe"]
    assert read_image(tmp_path / "sheets" / "scenes.png").shape[1] == 6 + (2 + 5 + 1) * 406


def test_methods_can_be_chosen_and_refined(run, scenes, thin, tmp_path):
    report = tmp_path / "report.json"
    arguments = ["--model", "farneback", "--model", "dis", "--variational", "--json", report]
    other = tmp_path / "other" / "thin.safetensors"
    other.parent.mkdir()
    other.write_bytes(thin[0].read_bytes())
    status, text = run("evaluate", "flow", "--data", scenes, *arguments)
    assert status == 0, text
    rows = json.loads(report.read_text())["rows"]
    assert [row["method"] for row in rows] == ["farneback", "farneback +v", "dis", "dis +v"]
    assert 0 < rows[1]["metrics"]["epe"] != rows[0]["metrics"]["epe"] > 0
    status, text = run(
        "evaluate", "flow", "--data", scenes, "--model", "dis", "--weights", thin[0], "--weights", other,
        "--json", report,
    )  # fmt: skip
    assert status == 0, text
    names = [row["method"] for row in json.loads(report.read_text())["rows"]]
    assert names == ["flownet_s thin", f"flownet_s {other}", "dis"]  # two files of one name stay apart


def test_models_that_no_file_belongs_to_are_judged_with_the_shipped_weights(run, scenes, thin, tmp_path):
    report = tmp_path / "report.json"
    models = [word for name in ("flownet_s", "flownet_lite", "dis") for word in ("--model", name)]
    status, text = run("evaluate", "flow", "--data", scenes, *models, "--weights", thin[0], "--json", report)
    assert status == 0, text
    rows = json.loads(report.read_text())["rows"]
    assert [row["method"] for row in rows] == ["flownet_s", "flownet_lite", "dis"]
    assert [row["engine"] for row in rows] == ["torch", "torch", None]


def test_without_arguments_the_classical_methods_and_what_comes_with_weights_are_judged(run, scenes, tmp_path):
    report = tmp_path / "report.json"
    status, text = run("evaluate", "flow", "--data", scenes, "--json", report)
    assert status == 0, text
    shipped = [name for name in FLOW_MODELS if has_weights(name)]
    assert [row["method"] for row in json.loads(report.read_text())["rows"]] == [*shipped, *METHODS]


def test_a_network_without_weights_says_how_to_get_some(run, scenes, monkeypatch, tmp_path):
    monkeypatch.setattr("fg_depth_ros.networks.registry.WEIGHTS_DIR", tmp_path)
    status, text = run("evaluate", "flow", "--data", scenes, "--model", "flownet_s")
    assert status == 1
    assert "no weights of 'flownet_s' come with the package" in text
    assert "fg-depth import" in text
