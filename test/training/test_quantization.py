"""``fg-depth quantize``: weights that run in int8 and are as accurate, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pytorch_lightning")
pytest.importorskip("openvino")
from support.pair_folders import write_pairs

from fg_depth_ros.inference import open_estimator
from fg_depth_ros.inference.engines.openvino_engine import OpenVinoEngine
from fg_depth_ros.networks import create_model, load_model, save_checkpoint
from fg_depth_ros.networks.checkpoint import ModelCard
from fg_depth_ros.networks.quantization import int8_convolutions
from fg_depth_ros.training import quantization
from fg_depth_ros.training.quantization import MARGINS, Margin, calibrate

pytestmark = pytest.mark.skipif(
    "int8" not in OpenVinoEngine().precisions(torch.device("cpu")), reason="OpenVINO has no int8 on this machine"
)


@pytest.fixture(autouse=True)
def _small_scenes_and_an_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FG_DEPTH_CACHE", str(tmp_path / "engines"))
    monkeypatch.setattr(quantization, "_SIZE", (192, 128))
    monkeypatch.setattr(quantization, "_PATTERNS", 4)


def fresh(path: Path, name: str, **options: Any) -> Path:
    torch.manual_seed(0)
    network = create_model(name, **options)
    save_checkpoint(path, network, ModelCard(name, network.options, "", {"licence": "Apache-2.0"}))
    return path


def test_the_command_makes_weights_that_run_in_int8(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "int8.safetensors"
    status, text = run("quantize", "flownet_stereo", "--out", out, "--scenes", "4")  # two say nothing of 0.3 points
    assert status == 0, text
    network, card = load_model(out)
    before, shipped = load_model("flownet_stereo")
    assert card.sha256 == shipped.sha256
    assert set(network.int8_ranges) == set(int8_convolutions(before))  # type: ignore[arg-type]
    assert card.description["int8"]["scenes"] == 4
    assert [row["method"] for row in card.description["int8"]["figures"]] == ["float32", "int8"]
    assert card.description["licence"] == shipped.description["licence"]
    estimator = open_estimator("flownet_stereo", weights=str(out), device="cpu", engine="openvino")
    assert estimator.precision == "int8"


def test_int8_that_is_worse_is_not_written(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MARGINS, "stereo", (Margin("epe", points=-100.0),))
    out = tmp_path / "int8.safetensors"
    status, text = run("quantize", "flownet_stereo", "--out", out, "--scenes", "1")
    assert status == 3
    assert "epe on rendered is" in text
    assert f"{out} is not written" in text
    assert not out.exists()


@pytest.mark.parametrize(("full", "int8", "exceeded"), [(10, 10.3, False), (10, 10.4, True), (10, float("nan"), True)])
def test_a_margin_by_hand(full: float, int8: float, exceeded: bool) -> None:
    assert Margin("d1", points=0.3).exceeded({"d1": full}, {"d1": int8}) is exceeded
    assert Margin("d1", part=0.03).exceeded({"d1": full}, {"d1": int8 - 1e-9}) is exceeded


def test_flow_is_calibrated_on_flying_chairs(tmp_path: Path) -> None:
    source = fresh(
        tmp_path / "flow.safetensors",
        "flownet_lite",
        features=[16, 16, 16],
        widths=[16, 16, 16, 16],
        radii=[2, 1, 1, 0],
    )
    done = calibrate(source, tmp_path / "out.safetensors", scenes=1)
    assert {row["method"] for row in done.report.rows} == {"float32", "int8"}
    assert done.task == "flow"
    assert (tmp_path / "out.safetensors").exists() is not bool(done.worse)


@pytest.mark.parametrize("name", ["depthnet_lite", "depthnet_efficient"])
def test_depth_networks_are_calibrated_on_the_virtual_world(tmp_path: Path, name: str) -> None:
    source = fresh(tmp_path / "mono.safetensors", name, width=96, height=64)
    done = calibrate(source, tmp_path / "out.safetensors", scenes=1)
    assert done.task == "depth"
    rows = {row["method"]: row["metrics"]["abs_rel"] for row in done.report.rows}
    assert rows["int8"] == pytest.approx(rows["float32"], rel=0.1)
    assert not any("failed" in line for line in done.worse)


def test_a_data_set_called_rendered_does_not_replace_the_rendered_scenes(tmp_path: Path) -> None:
    source = fresh(tmp_path / "mono.safetensors", "depthnet_lite", width=96, height=64)
    data = write_pairs(tmp_path / "rendered")
    done = calibrate(source, tmp_path / "out.safetensors", scenes=1, data=[data])
    images = {row["set"]: row["images"] for row in done.report.rows}
    assert images == {"rendered_rendered": 1, "rendered": 2}


def test_openvino_that_is_missing_is_named_before_any_work(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(OpenVinoEngine, "missing", lambda self: "is not installed: pip install openvino")
    status, text = run("quantize", "flownet_stereo", "--out", tmp_path / "out.safetensors")
    assert status == 1
    assert "int8 needs OpenVINO, which is not installed: pip install openvino" in text


def test_a_network_without_convolutions_for_8_bits_is_named(run: Any, tmp_path: Path) -> None:
    source = fresh(tmp_path / "flow.safetensors", "flownet_s", width=0.0625)
    status, text = run("quantize", source, "--out", tmp_path / "out.safetensors", "--scenes", "1")
    assert status == 1
    assert "FlowNetS has no convolutions for 8 bits" in text
    with pytest.raises(ValueError, match="scenes must be at least 1, got 0"):
        calibrate("flownet_stereo", tmp_path / "out.safetensors", scenes=0)
