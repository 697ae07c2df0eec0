"""Metric depth, disparity, optical flow and point clouds from a stereo camera, for ROS 2.

Only ``nodes``, ``apps`` and ``compat`` import rclpy. ``fg_depth_ros.inference.StereoDepthEstimator`` is the entry point
for Python programs, ``fg-depth`` the one for the command line.
"""

import os

__version__ = "0.1.0"

# A robot's cores are shared. By default OpenMP's waiting threads spin for milliseconds, and where another process holds
# one of the cores that makes a network several times slower; without any spinning it is slower on idle cores. OpenMP
# reads this when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
