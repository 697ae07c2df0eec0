"""Open any model by its name."""

from __future__ import annotations

from typing import Any

from fg_depth_ros.inference.config import FlowConfig, MonoConfig, StereoConfig
from fg_depth_ros.inference.estimator import StereoDepthEstimator
from fg_depth_ros.inference.flow import FlowEstimator
from fg_depth_ros.inference.mono import MonoDepthEstimator


def open_estimator(model: str, **options: Any) -> StereoDepthEstimator | FlowEstimator | MonoDepthEstimator:
    """Load a network or classical method for stereo, flow or depth from one image.

    ``options``: fields of the configuration of the model's task. Raises ModelError, and ValueError for a name that no
    task has.
    """
    if model in FlowConfig.known_models():
        return FlowEstimator(FlowConfig(model, **options))
    if model in MonoConfig.known_models():
        return MonoDepthEstimator(MonoConfig(model, **options))
    return StereoDepthEstimator(StereoConfig(model, **options))
