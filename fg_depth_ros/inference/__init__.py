"""From a rectified pair to metric depth, from two frames to optical flow: estimators and their methods. No ROS."""

from fg_depth_ros.inference.estimator import EstimatorConfig, StereoDepthEstimator, StereoEstimate
from fg_depth_ros.inference.flow import FlowConfig, FlowEstimate, FlowEstimator, NetworkFlow, known_flow_models
from fg_depth_ros.inference.matchers import (
    Match,
    Matcher,
    ModelError,
    NetworkMatcher,
    OutOfMemory,
    SgbmMatcher,
    create_matcher,
    known_models,
)
from fg_depth_ros.inference.mono import MonoConfig, MonoDepthEstimator, MonoEstimate, NetworkMono, known_depth_models

__all__ = [
    "EstimatorConfig",
    "FlowConfig",
    "FlowEstimate",
    "FlowEstimator",
    "Match",
    "Matcher",
    "ModelError",
    "MonoConfig",
    "MonoDepthEstimator",
    "MonoEstimate",
    "NetworkFlow",
    "NetworkMatcher",
    "NetworkMono",
    "OutOfMemory",
    "SgbmMatcher",
    "StereoDepthEstimator",
    "StereoEstimate",
    "create_matcher",
    "known_depth_models",
    "known_flow_models",
    "known_models",
]
