"""Networks, their building blocks and their weights files. Tensors N x C x H x W; no ROS."""

from fg_depth_ros.networks.checkpoint import CheckpointError, ModelCard, load_checkpoint, save_checkpoint
from fg_depth_ros.networks.correlation import correlate_near, correlate_row, correlate_window
from fg_depth_ros.networks.depth import DepthNetwork, DepthPrediction, depth_of
from fg_depth_ros.networks.depthnet import DepthNet, load_resnet
from fg_depth_ros.networks.depthnet_lite import DepthNetLite
from fg_depth_ros.networks.flownet import FlowNetC, FlowNetS
from fg_depth_ros.networks.flownet2 import FlowNet2
from fg_depth_ros.networks.flownet_stereo import FlowNetStereo, StereoPrediction
from fg_depth_ros.networks.importing import import_checkpoint
from fg_depth_ros.networks.registry import (
    DEPTH_MODELS,
    FLOW_MODELS,
    MODELS,
    STEREO_MODELS,
    create_model,
    has_weights,
    load_model,
)

__all__ = [
    "DEPTH_MODELS", "FLOW_MODELS", "MODELS", "STEREO_MODELS", "CheckpointError", "DepthNet", "DepthNetLite",
    "DepthNetwork", "DepthPrediction", "FlowNet2", "FlowNetC", "FlowNetS", "FlowNetStereo", "ModelCard",
    "StereoPrediction", "correlate_near", "correlate_row", "correlate_window", "create_model", "depth_of",
    "has_weights", "import_checkpoint", "load_checkpoint", "load_model", "load_resnet", "save_checkpoint",
]  # fmt: skip
