"""From a rectified pair to metric depth, from two frames to optical flow, from one image to depth. No ROS."""

from fg_depth_ros.inference.config import AUTO, BlockMatching, EstimatorConfig, FlowConfig, MonoConfig, StereoConfig
from fg_depth_ros.inference.engines import EngineError, OutOfMemory
from fg_depth_ros.inference.estimator import (
    BlockMatcher,
    Match,
    ModelError,
    NetworkFlow,
    NetworkMatcher,
    SearchRange,
    StereoDepthEstimator,
    StereoEstimate,
)
from fg_depth_ros.inference.flow import FlowEstimate, FlowEstimator
from fg_depth_ros.inference.mono import MonoDepthEstimator, MonoEstimate, NetworkMono
from fg_depth_ros.inference.opening import open_estimator

__all__ = [
    "AUTO", "BlockMatcher", "BlockMatching", "EngineError", "EstimatorConfig", "FlowConfig", "FlowEstimate",
    "FlowEstimator", "Match", "ModelError", "MonoConfig", "MonoDepthEstimator", "MonoEstimate", "NetworkFlow",
    "NetworkMatcher", "NetworkMono", "OutOfMemory", "SearchRange", "StereoConfig", "StereoDepthEstimator",
    "StereoEstimate", "open_estimator",
]  # fmt: skip
