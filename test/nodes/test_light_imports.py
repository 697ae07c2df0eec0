"""What importing a node loads: only its own packages, and PyTorch only where a network runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "cv2", "h5py", "matplotlib", "mcap", "onnx", "onnxruntime", "openvino", "pytorch_lightning", "rerun", "rich",
    "rosbags", "scipy", "skimage", "tensorboard", "torch", "typer",
}  # fmt: skip
BASE = {"geometry", "nodes", "resources"}
LIGHT = BASE | {"data", "files"}
# node -> (packages of fg_depth_ros, heavy third-party modules)
EXPECTED = {
    "stereo_depth.node": (BASE | {"compat", "data", "files", "inference", "networks"}, {"cv2", "torch"}),
    "data_logger.node": (LIGHT | {"compat", "files", "recording"}, {"cv2", "mcap"}),
    "players.stereo_player": (LIGHT, {"cv2"}),
    "players.bag_player": (LIGHT, {"cv2"}),
    "evaluator.node": (LIGHT | {"compat", "evaluation"}, {"cv2", "rich"}),
    "viewer.node": (LIGHT | {"compat", "evaluation"}, {"cv2"}),
}


@pytest.mark.parametrize("node", EXPECTED)
def test_a_node_loads_only_what_it_needs(node: str) -> None:
    code = f"import fg_depth_ros.nodes.{node}, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    modules = json.loads(done.stdout)
    packages = {name.split(".")[1] for name in modules if name.startswith("fg_depth_ros.")}
    heavy = {name.split(".")[0] for name in modules} & HEAVY
    assert (packages, heavy) == EXPECTED[node]
    tables = {name for name in modules if name.startswith("fg_depth_ros.nodes.") and name.endswith("parameters")}
    own = f"fg_depth_ros.nodes.{node.split('.')[0]}."
    assert all(name.startswith((own, "fg_depth_ros.nodes.common.")) for name in tables), "another node's table"
