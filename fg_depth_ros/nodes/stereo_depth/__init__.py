"""Run stereo_depth_node: stereo pairs in, disparity, depth, masks, flow and points out."""
