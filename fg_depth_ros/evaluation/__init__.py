"""Metrics, classical baselines, evaluation of data sets, reports and figures."""

from fg_depth_ros.evaluation.depth import PairMethod, against_stereo, evaluate_depth, watch_depth
from fg_depth_ros.evaluation.flow import draw_flow, evaluate_flow, watch_flow
from fg_depth_ros.evaluation.flow_metrics import FlowTally
from fg_depth_ros.evaluation.metrics import STEREO_THRESHOLDS, DepthTally, StereoTally
from fg_depth_ros.evaluation.reports.report import Report, read_report
from fg_depth_ros.evaluation.stereo import StereoMethod, evaluate_stereo

__all__ = [
    "STEREO_THRESHOLDS",
    "DepthTally",
    "FlowTally",
    "PairMethod",
    "Report",
    "StereoMethod",
    "StereoTally",
    "against_stereo",
    "draw_flow",
    "evaluate_depth",
    "evaluate_flow",
    "evaluate_stereo",
    "read_report",
    "watch_depth",
    "watch_flow",
]
