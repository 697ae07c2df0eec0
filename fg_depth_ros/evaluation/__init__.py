"""Metrics, classical baselines, evaluation of data sets, reports and figures."""

from fg_depth_ros.evaluation.metrics import STEREO_THRESHOLDS, DepthTally, StereoTally
from fg_depth_ros.evaluation.report import Report, read_report
from fg_depth_ros.evaluation.stereo import StereoMethod, evaluate_stereo

__all__ = [
    "STEREO_THRESHOLDS",
    "DepthTally",
    "Report",
    "StereoMethod",
    "StereoTally",
    "evaluate_stereo",
    "read_report",
]
