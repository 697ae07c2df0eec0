"""Record what a robot sees: triggers, crash-safe episodes, recovery. Works without ROS."""

from fg_depth_ros.recording.config import RecorderConfig
from fg_depth_ros.recording.definitions import Message, Topic
from fg_depth_ros.recording.recorder import Recorder
from fg_depth_ros.recording.recovery import Recovered, recover

__all__ = ["Message", "Recorder", "RecorderConfig", "Recovered", "Topic", "recover"]
