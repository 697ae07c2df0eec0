"""Metrics, evaluation of data sets and of recordings, reports and figures."""

from fg_depth_ros.evaluation.depth import DepthTask, PairMethod, against_stereo, evaluate_depth, watch_depth
from fg_depth_ros.evaluation.flow import FlowTask, draw_flow, evaluate_flow, watch_flow
from fg_depth_ros.evaluation.metrics import STEREO_THRESHOLDS, DepthMetrics, FlowMetrics, StereoMetrics
from fg_depth_ros.evaluation.reports.report import Report, read_report
from fg_depth_ros.evaluation.stereo import StereoMethod, StereoTask, evaluate_stereo
from fg_depth_ros.evaluation.task import Task, evaluate

__all__ = [
    "STEREO_THRESHOLDS",
    "DepthMetrics",
    "DepthTask",
    "FlowMetrics",
    "FlowTask",
    "PairMethod",
    "Report",
    "StereoMethod",
    "StereoMetrics",
    "StereoTask",
    "Task",
    "against_stereo",
    "draw_flow",
    "evaluate",
    "evaluate_depth",
    "evaluate_flow",
    "evaluate_stereo",
    "read_report",
    "watch_depth",
    "watch_flow",
]
