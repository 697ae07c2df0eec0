"""Names of topics that several nodes share. No ROS import."""

INPUTS = ("left/image_rect", "right/image_rect", "left/camera_info", "right/camera_info")
"""Topics of a stereo pair, before remapping."""
CAMERAS = {"left/image_rect": "left/camera_info", "right/image_rect": "right/camera_info"}
"""Of these, image -> camera_info of its camera."""
TRUTH_TOPICS = {
    "raw": "ground_truth/depth",
    "compressedDepth": "ground_truth/depth/compressedDepth",
    "disparity": "ground_truth/disparity",
}
"""Topic of true depth, before remapping, by the evaluator's parameter ``truth_transport``."""
