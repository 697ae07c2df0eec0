"""Start stereo_depth_node, and rviz where wanted.

ros2 launch fg_depth_ros stereo_depth.launch.py camera:=realsense
ros2 launch fg_depth_ros stereo_depth.launch.py left_namespace:=/camera/left right_namespace:=/camera/right
"""

from launch import LaunchDescription
from launch.actions import OpaqueFunction
from launch_ros.actions import Node

from fg_depth_ros.apps import launch_arguments as shared
from fg_depth_ros.resources import resource_path

ARGUMENTS = {
    **shared.CAMERA,
    **shared.parameter_file("stereo_depth"),
    **shared.MODELS,
    **shared.STEREO_IMAGE_PROC,
    **shared.NODE,
    **shared.NETWORK,
    "rviz": ("false", "Start rviz2 with the package's view."),
}


def start_node(context):
    """Return the actions of the node and of rviz."""
    value = shared.values(context, ARGUMENTS, __file__)
    parameters, said = shared.stereo_parameters(value)
    actions = [
        *shared.log(said),
        Node(
            package="fg_depth_ros",
            executable="stereo_depth_node",
            name="stereo_depth_node",
            namespace=value["namespace"],
            # The node configures and activates itself (parameter autostart).
            parameters=[value["params_file"], parameters],
            remappings=shared.camera_remappings(value),
            arguments=shared.log_level(value["log_level"]),
            additional_env=shared.environment(value),
            output="screen",
            # Several nodes that end at once on a busy machine take longer than launch waits by itself.
            sigterm_timeout="30",
        ),
    ]
    if shared.is_true(value, "rviz"):
        shared.require_package("rviz2", "rviz:=true")
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=value["namespace"],
                remappings=shared.camera_remappings(value),
                arguments=["-d", str(resource_path("rviz/stereo_depth.rviz"))],
                additional_env=shared.environment(value),
            )
        )
    return actions


def generate_launch_description():
    """Return the launch description."""
    return LaunchDescription([*shared.declare(ARGUMENTS), OpaqueFunction(function=start_node)])
