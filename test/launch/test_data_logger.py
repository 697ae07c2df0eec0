"""The launch file brings up the logger, which records what a player plays; SIGINT completes the episode."""

from __future__ import annotations

import json
import os
import tempfile
import time
import unittest
from pathlib import Path

import pytest

# "launch" alone would not do: the repository has a folder of that name.
pytest.importorskip("launch_ros", reason="launch comes with a ROS installation only")
pytest.importorskip("launch_testing_ros", reason="launch_testing comes with a ROS installation only")

import launch_ros.actions
import launch_testing.actions
import launch_testing.asserts
from ament_index_python import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from fg_depth_ros.apps.processes import free_domain_id
from fg_depth_ros.data.bags.pairs import open_bag_pairs

try:
    SHARE = get_package_share_directory("fg_depth_ros")
except PackageNotFoundError:
    pytest.skip("fg_depth_ros is in no sourced workspace: build it with colcon first", allow_module_level=True)

ROOT = Path(tempfile.mkdtemp(prefix="fg_depth_launch_"))


@pytest.mark.rostest
def generate_test_description() -> LaunchDescription:
    """The launch file as users start it, and a player as the camera."""
    os.environ["ROS_DOMAIN_ID"] = str(free_domain_id())
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "data_logger.launch.py")),
                launch_arguments={"root": str(ROOT), "record": "continuous"}.items(),
            ),
            launch_ros.actions.Node(
                package="fg_depth_ros",
                executable="stereo_player_node",
                parameters=[{"rate": 5.0, "width": 370}],
            ),
            launch_testing.actions.ReadyToTest(),
        ]
    )


class TestRecording(unittest.TestCase):
    """While the nodes run."""

    def test_an_episode_begins(self) -> None:
        """A part with megabytes in it."""
        end = time.monotonic() + 60
        while not (size := sum(file.stat().st_size for file in ROOT.glob(".episode_*.part/*.mcap"))) > 5_000_000:
            assert time.monotonic() < end, f"{size} bytes in {sorted(ROOT.iterdir())}"
            time.sleep(0.2)


@launch_testing.post_shutdown_test()
class TestShutdown(unittest.TestCase):
    """After launch has interrupted the nodes."""

    def test_nodes_end_cleanly(self, proc_info) -> None:
        """SIGINT ends every node with exit status 0."""
        launch_testing.asserts.assertExitCodes(proc_info)

    def test_the_episode_is_complete(self) -> None:
        """It has its name, and every pair in it can be read."""
        (line,) = [json.loads(text) for text in (ROOT / "manifest.jsonl").read_text().splitlines()]
        pairs = open_bag_pairs(ROOT / line["name"])
        assert len(pairs) == line["pairs"]
        assert len(pairs) > 2
        assert pairs[-1].images()[0].shape[1] == 370
