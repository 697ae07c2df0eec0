"""Estimate metric depth from a rectified pair or one image, and optical flow from two frames. No ROS."""

from __future__ import annotations

from typing import Any

from fg_depth_ros.inference.config import (
    AUTO,
    BlockMatching,
    EstimatorConfig,
    FlowConfig,
    MonoConfig,
    StereoConfig,
    config_of,
)
from fg_depth_ros.inference.engines import EngineError, OutOfMemory
from fg_depth_ros.inference.estimator import ModelError
from fg_depth_ros.inference.flow import FlowEstimate, FlowEstimator, NetworkFlow
from fg_depth_ros.inference.matchers import BlockMatcher, Match, NetworkMatcher
from fg_depth_ros.inference.mono import MonoDepthEstimator, MonoEstimate, NetworkMono
from fg_depth_ros.inference.stereo import FilledEstimate, SearchRange, StereoDepthEstimator, StereoEstimate

__all__ = [
    "AUTO", "BlockMatcher", "BlockMatching", "EngineError", "EstimatorConfig", "FilledEstimate", "FlowConfig",
    "FlowEstimate", "FlowEstimator", "Match", "ModelError", "MonoConfig", "MonoDepthEstimator", "MonoEstimate",
    "NetworkFlow", "NetworkMatcher", "NetworkMono", "OutOfMemory", "SearchRange", "StereoConfig",
    "StereoDepthEstimator", "StereoEstimate", "config_of", "open_estimator",
]  # fmt: skip


def open_estimator(model: str, **options: Any) -> StereoDepthEstimator | FlowEstimator | MonoDepthEstimator:
    """Load a network or classical method for stereo, flow or depth from one image; arguments as of ``config_of``.

    Raises ModelError, and ValueError as ``config_of``.
    """
    config = config_of(model, **options)
    if isinstance(config, FlowConfig):
        return FlowEstimator(config)
    return MonoDepthEstimator(config) if isinstance(config, MonoConfig) else StereoDepthEstimator(config)
