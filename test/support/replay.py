"""For the replay's tests: methods whose answer is known, and recordings of two planes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from fg_depth_ros.evaluation.replay.config import ReplayMethod
from fg_depth_ros.evaluation.replay.methods import Loaded
from fg_depth_ros.inference import MonoConfig, MonoDepthEstimator, StereoConfig, StereoDepthEstimator
from fg_depth_ros.inference.matchers import Match


class FixedStereo(StereoDepthEstimator):
    """Answers every pair with one disparity, px."""

    def __init__(self, disparity: float) -> None:
        self.config = StereoConfig(model="sgbm")
        self._method = SimpleNamespace(name="fixed", sha256="5a", device="cpu", disparities=64, block=1, runner=None)
        self.disparity_px = disparity

    def match(self, left, right, doffs=0.0, scale=None):
        return Match(np.full(left.shape[:2], self.disparity_px, np.float32), None)


class FixedMono(MonoDepthEstimator):
    """Answers every image with one depth, m."""

    def __init__(self, depth: float) -> None:
        self.config = MonoConfig()
        self._method = SimpleNamespace(
            name="flat", sha256="3c", device="cpu", runner=None,
            depth=lambda image, fx, fy, scale: np.full(image.shape[:2], depth, np.float32),
        )  # fmt: skip


STEREO, MONO = ReplayMethod("six", "stereo", "sgbm"), ReplayMethod("flat", "mono", "depthnet_lite")


def use_fixed(monkeypatch, disparity=6.0, depth=2.5):
    """Let a replay use these instead of models."""
    estimators = {"stereo": FixedStereo(disparity), "mono": FixedMono(depth)}
    monkeypatch.setattr(
        "fg_depth_ros.evaluation.replay.run.load_methods",
        lambda methods, **_: [Loaded(method, estimators[method.kind]) for method in methods],
    )
    return estimators
