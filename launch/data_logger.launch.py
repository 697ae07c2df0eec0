"""Start data_logger_node.

ros2 launch fg_depth_ros data_logger.launch.py left:=/camera/left right:=/camera/right root:=/data/recordings
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from fg_depth_ros.nodes.common.environment import use_shared_memory_profile

SHARE = Path(get_package_share_directory("fg_depth_ros"))

ARGUMENTS = {
    "namespace": ("", "Namespace of the node and of its topics."),
    "left": ("left", "Prefix of the left camera's topics: <left>/image_rect and <left>/camera_info."),
    "right": ("right", "Prefix of the right camera's topics."),
    "left_image": ("", "Left image topic, where it is not <left>/image_rect."),
    "right_image": ("", "Right image topic, where it is not <right>/image_rect."),
    "params_file": (str(SHARE / "config" / "data_logger.yaml"), "Parameter file of the node."),
    "root": ("", "Parameter root, the folder of the episodes; empty: as in the parameter file."),
    "record": ("", "Parameter record (off, triggers or continuous); empty: as in the parameter file."),
    "storage": ("", "Parameter storage (raw, zstd, png or jpeg); empty: as in the parameter file."),
    "use_sim_time": ("false", "Take the time from /clock, for recordings."),
    "log_level": ("info", "debug, info, warn or error."),
}


def start_node(context):
    """The node's action, once the arguments are known."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    remappings = []
    for side in ("left", "right"):
        image = value[f"{side}_image"] or f"{value[side]}/image_rect"
        remappings += [
            (f"{side}/image_rect", image),
            (f"{side}/camera_info", f"{value[side]}/camera_info"),
        ]
    settings = {name: value[name] for name in ("root", "record", "storage") if value[name]}
    settings["use_sim_time"] = value["use_sim_time"].lower() in ("true", "1")
    return [
        Node(
            package="fg_depth_ros",
            executable="data_logger_node",
            name="data_logger_node",
            namespace=value["namespace"],
            parameters=[value["params_file"], settings],
            remappings=[(name, target) for name, target in remappings if name != target],
            arguments=["--ros-args", "--log-level", value["log_level"]],
            output="screen",
            # An episode is finished before the node ends, which may take longer than launch waits by itself.
            sigterm_timeout="40",
            sigkill_timeout="10",
        )
    ]


def generate_launch_description():
    """Everything `ros2 launch` needs to know."""
    actions = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    # Fast DDS's defaults lose most images.
    environment = dict(os.environ)
    if use_shared_memory_profile(environment):
        changed = environment.items() - os.environ.items()
        actions += [SetEnvironmentVariable(name, value) for name, value in sorted(changed)]
    actions.append(OpaqueFunction(function=start_node))
    return LaunchDescription(actions)
