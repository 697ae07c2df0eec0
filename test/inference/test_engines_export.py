"""Exported networks: the same numbers as PyTorch, in other sizes too, and without this package."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the exporter needs onnx (extra 'engines')")

from fg_depth_ros.data.datasets.stereo import motorcycle
from fg_depth_ros.inference import FlowConfig, FlowEstimator, ModelError, StereoConfig, StereoDepthEstimator
from fg_depth_ros.inference.estimator import load_network
from fg_depth_ros.inference.export import check_export, export_network
from fg_depth_ros.networks import FLOW_MODELS, ModelCard, create_model, load_checkpoint, save_checkpoint
from fg_depth_ros.networks.registry import weights_path


@pytest.mark.parametrize("model", ["flownet_stereo", "flownet_lite", "depthnet_lite"])
def test_a_dynamic_file_takes_other_sizes_with_the_same_numbers(tmp_path: Path, model: str) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is an extra (onnx)")
    done = export_network(model, tmp_path, formats=["onnx"], size=(320, 256), dynamic=True)
    pairs = [motorcycle().resized(*size).images() for size in ((320, 256), (192, 320))]
    for each in check_export(done, pairs):
        assert each.mean < 1e-3
        assert each.mean <= each.percentile_99 <= each.largest < 0.1


def test_a_network_without_shipped_weights_is_exported_to_both_formats(tmp_path: Path) -> None:
    """``depthnet_efficient``, whose padding on one side and bounded ReLU no other network has."""
    pytest.importorskip("openvino", reason="OpenVINO is an extra (engines)")
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is an extra (onnx)")
    torch.manual_seed(0)
    network = create_model("depthnet_efficient", focal=100.0, width=128, height=96)
    torch.nn.init.normal_(network.depth.weight, std=0.5)  # type: ignore[union-attr, arg-type]
    weights = tmp_path / "weights.safetensors"
    save_checkpoint(weights, network, ModelCard("depthnet_efficient", network.options))  # type: ignore[arg-type]
    done = export_network("", tmp_path / "out", weights=str(weights), size=(128, 96))
    found = check_export(done, [motorcycle().images()])
    assert [each.format for each in found] == ["onnx", "openvino"]
    assert all(each.percentile_99 < 1e-3 for each in found)


def test_a_mistyped_name_is_no_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'flownet_sterio' is no network; choose one of .*; for a file use --weights"):
        export_network("flownet_sterio", tmp_path)
    with pytest.raises(ModelError, match="'raft' is no flow network; choose one of flownet2, .*, flownet_lite"):
        load_network("raft", None, "cpu", FLOW_MODELS, "flow")


def test_networks_run_on_while_others_are_exported() -> None:
    """The exporter switches whole networks between training and evaluation, and has state for the whole process."""
    methods = [make(engine="torch", precision="float32") for make in (_stereo, _flow)]
    images = motorcycle().resized(160, 120).images()  # no multiple of 32: refused in training mode
    before = methods[1].estimate(*images).flow
    programs = [method._method.program for method in methods]
    modes = [module.training for program in programs for module in program.modules()]
    with ThreadPoolExecutor() as pool:
        exports = [pool.submit(program.onnx, (128, 96)) for program in programs]
        while not all(export.done() for export in exports):
            np.testing.assert_array_equal(methods[1].estimate(*images).flow, before)
        assert all(export.result() for export in exports)
    assert [module.training for program in programs for module in program.modules()] == modes
    np.testing.assert_array_equal(methods[1].estimate(*images).flow, before)


def _stereo(**options: str) -> StereoDepthEstimator:
    return StereoDepthEstimator(StereoConfig(**options))


def _flow(**options: str) -> FlowEstimator:
    return FlowEstimator(FlowConfig(**options))


def test_an_openvino_file_has_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an extra (engines)")
    done = export_network("flownet_stereo", tmp_path, formats=["openvino"], size=(320, 224))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "flownet_stereo.bin", "flownet_stereo.json", "flownet_stereo.xml",
    ]  # fmt: skip
    found = check_export(done, [motorcycle().images()])
    assert [(each.format, each.output) for each in found] == [("openvino", "disparity"), ("openvino", "sigma")]
    assert all(each.mean < 1e-3 for each in found)


def test_another_network_in_the_file_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is an extra (onnx)")
    done = export_network("flownet_stereo", tmp_path, formats=["onnx"], size=(128, 96))
    done.program.network.aggregation.direct.data.mul_(0.5)  # PyTorch's is another one now
    assert max(each.mean for each in check_export(done, [motorcycle().images()])) > 0.01


def test_the_description_names_the_network_its_files_and_its_arrays(tmp_path: Path) -> None:
    done = export_network("depthnet_lite", tmp_path, formats=["onnx"], size=(128, 96))
    document = json.loads(done.description.read_text())
    content = done.files["onnx"].read_bytes()
    assert document["sha256"] == {"depthnet_lite.onnx": hashlib.sha256(content).hexdigest()}
    assert document["weights_sha256"] == load_checkpoint(weights_path("depthnet_lite"))[1].sha256
    assert document["inputs"] == [{"name": "image", "type": "uint8", "shape": [1, 96, 128, 3], "content": "RGB"}]
    (output,) = document["outputs"]
    assert (output["name"], output["shape"], output["unit"]) == ("inverse", [1, 1, 96, 128], "1/m")
    assert (document["size_multiple"], document["opset"], document["options"]["focal"]) == (32, 17, 288.0)


def test_what_cannot_be_exported_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiples of 32 px, not 640x470; the nearest is 640x480"):
        export_network("flownet_stereo", tmp_path, size=(640, 470))
    with pytest.raises(ValueError, match="format 'plan' is unknown; choose one of onnx, openvino"):
        export_network("flownet_stereo", tmp_path, formats=["plan"])
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_the_documentation_needs_onnxruntime_alone(tmp_path: Path, repository: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is an extra (onnx)")
    export_network("flownet_stereo", tmp_path / "fg_depth_export", formats=["onnx"], size=(320, 224))
    left, right = motorcycle().resized(320, 224).images()
    for name, image in (("left", left), ("right", right)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    page = (repository / "docs" / "engines.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert example is not None
    assert len([line for line in example[1].splitlines() if line]) <= 15
    code = example[1] + '\nimport sys; assert not {"torch", "fg_depth_ros"} & set(sys.modules)\n'
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    expected = _stereo(engine="torch", precision="float32", refinement="off").match(left, right).disparity
    assert np.abs(np.load(tmp_path / "disparity.npy") - expected).mean() < 1e-3


def test_the_command_writes_and_checks(tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is an extra (onnx)")
    options = ("--format", "onnx", "--size", "128x96", "--out", tmp_path, "--check")
    status, text = run("export", "depthnet_lite", *options)
    assert status == 0, text
    assert "depthnet_lite.onnx" in text
    assert "inverse 1/m" in text
    status, text = run("export", "--out", tmp_path)
    assert status == 2
    assert "name a network" in text


def test_the_command_lists_both_files_of_an_ir(tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    status, text = run("export", "depthnet_lite", "--format", "openvino", "--size", "128x96", "--out", tmp_path)
    assert status == 0, text
    assert text.split() == [str(tmp_path / f"depthnet_lite.{suffix}") for suffix in ("xml", "bin", "json")]
