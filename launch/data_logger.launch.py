"""Start data_logger_node.

ros2 launch fg_depth_ros data_logger.launch.py left_namespace:=/camera/left right_namespace:=/camera/right \
    root:=/data/recordings
"""

from launch import LaunchDescription
from launch.actions import OpaqueFunction
from launch_ros.actions import Node

from fg_depth_ros.apps import launch_arguments as shared

RECORDING = {
    "root": ("", "Parameter root, the folder of the episodes; empty: as in the parameter file."),
    "record": ("", "Parameter record (off, triggers or continuous); empty: as in the parameter file."),
    "storage": ("", "Parameter storage (raw, zstd, png or jpeg); empty: as in the parameter file."),
}
ARGUMENTS = {**shared.CAMERA, **shared.parameter_file("data_logger"), **RECORDING, **shared.NODE, **shared.NETWORK}


def start_node(context):
    """Return the node's action."""
    value = shared.values(context, ARGUMENTS, __file__)
    return [
        Node(
            package="fg_depth_ros",
            executable="data_logger_node",
            name="data_logger_node",
            namespace=value["namespace"],
            parameters=[value["params_file"], shared.parameters(value, RECORDING)],
            remappings=shared.camera_remappings(value),
            arguments=shared.log_level(value["log_level"]),
            additional_env=shared.environment(value),
            output="screen",
            # An episode is finished before the node ends, which may take longer than launch waits by itself.
            sigterm_timeout="40",
            sigkill_timeout="10",
        )
    ]


def generate_launch_description():
    """Return the launch description."""
    return LaunchDescription([*shared.declare(ARGUMENTS), OpaqueFunction(function=start_node)])
