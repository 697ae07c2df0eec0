"""The launch file brings up the depth node, which turns the player's pair into true metres."""

from __future__ import annotations

import os
import unittest

import pytest

# "launch" alone would not do: the repository has a folder of that name.
pytest.importorskip("launch_ros", reason="launch comes with a ROS installation only")
pytest.importorskip("launch_testing_ros", reason="launch_testing comes with a ROS installation only")

import launch_ros.actions
import launch_testing.actions
import launch_testing.asserts
import numpy as np
import rclpy
from ament_index_python import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from fg_depth_ros.apps.processes import free_domain_id

try:
    SHARE = get_package_share_directory("fg_depth_ros")
except PackageNotFoundError:
    pytest.skip("fg_depth_ros is in no sourced workspace: build it with colcon first", allow_module_level=True)


@pytest.mark.rostest
def generate_test_description() -> LaunchDescription:
    """The launch file as users start it, and a player as the camera."""
    os.environ["ROS_DOMAIN_ID"] = str(free_domain_id())
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "stereo_depth.launch.py"))
            ),
            launch_ros.actions.Node(
                package="fg_depth_ros",
                executable="stereo_player_node",
                parameters=[{"rate": 2.0, "width": 370}],
            ),
            launch_testing.actions.ReadyToTest(),
        ]
    )


class TestDepth(unittest.TestCase):
    """While the nodes run."""

    def setUp(self) -> None:
        rclpy.init()
        self.node = rclpy.create_node("test_launch_stereo_depth")

    def tearDown(self) -> None:
        self.node.destroy_node()
        rclpy.shutdown()

    def test_published_depth_is_the_true_depth(self) -> None:
        """Median relative error of a frame below 5 %, over at least half of the pixels with truth."""
        depth: dict[tuple[int, int], np.ndarray] = {}
        truth: dict[tuple[int, int], np.ndarray] = {}

        def keep(store: dict[tuple[int, int], np.ndarray]):
            def callback(message: Image) -> None:
                assert message.encoding == "32FC1"
                pixels = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
                store[message.header.stamp.sec, message.header.stamp.nanosec] = pixels.copy()

            return callback

        self.node.create_subscription(Image, "depth/image_rect", keep(depth), qos_profile_sensor_data)
        self.node.create_subscription(Image, "ground_truth/depth", keep(truth), qos_profile_sensor_data)
        end = self.node.get_clock().now().nanoseconds + 90 * 10**9
        while not depth.keys() & truth.keys() and self.node.get_clock().now().nanoseconds < end:
            rclpy.spin_once(self.node, timeout_sec=0.2)
        common = depth.keys() & truth.keys()
        assert common, f"{len(depth)} depth images and {len(truth)} true ones, none of the same pair"
        stamp = min(common)
        known = np.isfinite(truth[stamp])
        answered = known & np.isfinite(depth[stamp])
        assert answered.sum() > 0.5 * known.sum()
        error = np.abs(depth[stamp][answered] / truth[stamp][answered] - 1.0)
        assert float(np.median(error)) < 0.05


@launch_testing.post_shutdown_test()
class TestShutdown(unittest.TestCase):
    """After launch has interrupted the nodes."""

    def test_nodes_end_cleanly(self, proc_info) -> None:
        """SIGINT ends every node with exit status 0."""
        launch_testing.asserts.assertExitCodes(proc_info)
