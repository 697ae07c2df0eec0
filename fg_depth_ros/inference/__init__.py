"""From a rectified pair to metric depth: the estimator and the matchers it can use. No ROS."""

from fg_depth_ros.inference.estimator import EstimatorConfig, StereoDepthEstimator, StereoEstimate
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

__all__ = [
    "EstimatorConfig",
    "Match",
    "Matcher",
    "ModelError",
    "NetworkMatcher",
    "OutOfMemory",
    "SgbmMatcher",
    "StereoDepthEstimator",
    "StereoEstimate",
    "create_matcher",
    "known_models",
]
