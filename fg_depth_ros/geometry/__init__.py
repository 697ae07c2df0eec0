"""The rig, disparity <-> depth, warping, masks, organised clouds. Arrays and tensors in, the same out."""

from fg_depth_ros.geometry.depth import (
    depth_sigma,
    depth_to_disparity,
    disparity_to_depth,
    nearest_depth,
    organised_points,
    scale_between,
)
from fg_depth_ros.geometry.masks import (
    Label,
    complete_occluded,
    fill_holes_kitti,
    hidden_by_nearer,
    label_pixels,
    leaves_image,
    left_right_difference,
    left_right_mismatch,
)
from fg_depth_ros.geometry.rig import RigError, StereoRig, camera_info_doubts
from fg_depth_ros.geometry.support import PairFault, Support, photometric_support, unchecked_support
from fg_depth_ros.geometry.vertical import VerticalFlow, vertical_flow
from fg_depth_ros.geometry.warp import warp_right_to_left

__all__ = [
    "Label", "PairFault", "RigError", "StereoRig", "Support", "VerticalFlow", "camera_info_doubts", "complete_occluded",
    "depth_sigma", "depth_to_disparity", "disparity_to_depth", "fill_holes_kitti", "hidden_by_nearer", "label_pixels",
    "leaves_image", "left_right_difference", "left_right_mismatch", "nearest_depth", "organised_points",
    "photometric_support", "scale_between", "unchecked_support", "vertical_flow", "warp_right_to_left",
]  # fmt: skip
