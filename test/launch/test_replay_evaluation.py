"""The launch file plays a bag into the depth node, writes the evaluator's report and page, and ends by itself."""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path

import pytest

# "launch" alone would not do: the repository has a folder of that name.
pytest.importorskip("launch_ros", reason="launch comes with a ROS installation only")
pytest.importorskip("launch_testing_ros", reason="launch_testing comes with a ROS installation only")

import launch_testing.actions
import launch_testing.asserts
import numpy as np
from ament_index_python import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from fg_depth_ros.apps.processes import free_domain_id
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.reports.report import read_report
from fg_depth_ros.geometry import StereoRig

try:
    SHARE = get_package_share_directory("fg_depth_ros")
except PackageNotFoundError:
    pytest.skip("fg_depth_ros is in no sourced workspace: build it with colcon first", allow_module_level=True)

OUT = Path(tempfile.mkdtemp(prefix="fg_depth_launch_"))
PAIRS, DISPARITY = 10, 12


def record() -> Path:
    """A bag of a textured wall, 3 m away."""
    rig = StereoRig(320, 240, 300.0, 300.0, 159.5, 119.5, 159.5, baseline=0.12)
    random = np.random.default_rng(0)
    texture = np.repeat(np.repeat(random.integers(0, 256, (120, 166, 3), np.uint8), 2, axis=0), 2, axis=1)
    left, right = texture[:, :320].copy(), texture[:, DISPARITY : 320 + DISPARITY].copy()
    depth = np.full((240, 320), 300.0 * 0.12 / DISPARITY, np.float32)
    frames = [StereoSample("", left, right, depth=depth, stamp=10**18 + k * 300_000_000) for k in range(PAIRS)]
    return write_stereo_bag(OUT / "wall.3m", frames, rig)


@pytest.mark.rostest
def generate_test_description() -> LaunchDescription:
    """The launch file as users start it."""
    os.environ["ROS_DOMAIN_ID"] = str(free_domain_id())
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # A quiet log must not hide from the launch file that the depth node is ready.
    arguments = {"bag": str(record()), "out": str(OUT / "out"), "model": "sgbm", "player": "own", "log_level": "warn"}
    file = os.path.join(SHARE, "launch", "replay_evaluation.launch.py")
    return LaunchDescription(
        [
            IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=arguments.items()),
            launch_testing.actions.ReadyToTest(),
        ]
    )


class TestReplay(unittest.TestCase):
    """While the nodes run."""

    def test_it_ends_by_itself(self, proc_info) -> None:
        """The evaluator ends once the recording is through."""
        # By its argument: the process that waits for this node has its name, too.
        proc_info.assertWaitForShutdown(
            process="replay_evaluator_node", cmd_args="__node:=replay_evaluator_node", timeout=120
        )


@launch_testing.post_shutdown_test()
class TestReport(unittest.TestCase):
    """After the launch has ended."""

    def test_every_pair_is_in_the_report(self, proc_info) -> None:
        """Sent, delivered or dropped with a reason; true depth found; exit status 0."""
        launch_testing.asserts.assertExitCodes(proc_info)
        report = read_report(OUT / "out" / "report.json")
        assert {row["set"] for row in report.rows} == {"wall.3m"}  # as offline replay names it
        (timing,) = [row["metrics"] for row in report.rows if row["kind"] == "timing"]
        assert timing["pairs_sent"] == PAIRS == len(report.series)
        assert timing["pairs_unaccounted"] == 0
        (masked,) = [row["metrics"] for row in report.rows if row["method"] == "sgbm masked"]
        assert masked["abs_rel"] < 0.02
        assert (OUT / "out" / "report.html").is_file()
