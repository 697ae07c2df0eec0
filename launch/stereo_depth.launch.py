"""Start stereo_depth_node, and rviz where wanted.

ros2 launch fg_depth_ros stereo_depth.launch.py left:=/camera/left right:=/camera/right
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
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
    "params_file": (str(SHARE / "config" / "stereo_depth.yaml"), "Parameter file of the node."),
    "model": ("", "Parameter model (flownet_stereo or sgbm); empty: as in the parameter file."),
    "depth_weights": ("", "Parameter depth_weights; empty: as in the parameter file."),
    "mono_weights": ("", "Parameter mono_weights; empty: as in the parameter file."),
    "use_sim_time": ("false", "Take the time from /clock, for recordings."),
    "log_level": ("info", "debug, info, warn or error."),
    "rviz": ("false", "Start rviz2 with the package's view."),
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
    settings = {name: value[name] for name in ("model", "depth_weights", "mono_weights") if value[name]}
    settings["use_sim_time"] = value["use_sim_time"].lower() in ("true", "1")
    return [
        Node(
            package="fg_depth_ros",
            executable="stereo_depth_node",
            name="stereo_depth_node",
            namespace=value["namespace"],
            # The node configures and activates itself (parameter autostart).
            parameters=[value["params_file"], settings],
            remappings=[(name, target) for name, target in remappings if name != target],
            arguments=["--ros-args", "--log-level", value["log_level"]],
            output="screen",
        )
    ]


def generate_launch_description():
    """Everything `ros2 launch` needs to know."""
    actions = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    # For rviz and whatever else is started here, too: Fast DDS's defaults lose most images.
    environment = dict(os.environ)
    if use_shared_memory_profile(environment):
        changed = environment.items() - os.environ.items()
        actions += [SetEnvironmentVariable(name, value) for name, value in sorted(changed)]
    actions.append(OpaqueFunction(function=start_node))
    actions.append(
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=LaunchConfiguration("namespace"),
            arguments=["-d", str(SHARE / "rviz" / "stereo_depth.rviz")],
            condition=IfCondition(LaunchConfiguration("rviz")),
        )
    )
    return LaunchDescription(actions)
