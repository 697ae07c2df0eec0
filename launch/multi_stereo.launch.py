"""Start one stereo_depth_node, in a process of its own, for each of several stereo cameras.

ros2 launch fg_depth_ros multi_stereo.launch.py namespaces:=front,rear
ros2 launch fg_depth_ros multi_stereo.launch.py namespaces:=front,rear camera:=realsense
"""

from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource

from fg_depth_ros.apps import launch_arguments as shared
from fg_depth_ros.apps.camera_presets import namespaces_of, preset
from fg_depth_ros.resources import resource_path

EACH = {
    **shared.parameter_file("stereo_depth"),
    **shared.MODELS,
    **shared.STEREO_IMAGE_PROC,
    **shared.NODE,
    **shared.NETWORK,
    "image_transport": shared.CAMERA["image_transport"],
}
"""Arguments that are handed to every camera's launch file."""
ARGUMENTS = {
    "namespaces": (None, "Names of the cameras, such as front,rear: the namespaces of their nodes."),
    "camera": ("", shared.CAMERA["camera"][1]),
    "driver_namespace": (
        "",
        "Namespace of the driver's topics, {} being a camera's name; empty: as the camera has it.",
    ),
    **EACH,
}


def start(context):
    """Return one group for each camera."""
    value = shared.values(context, ARGUMENTS, __file__)
    names = namespaces_of(value["namespaces"])
    topics = value["driver_namespace"]
    if (chosen := preset(value["camera"])) is not None:
        topics = topics or chosen.several
        if len(names) > 1 and "{}" not in topics:
            raise ValueError(
                f"driver_namespace:={topics} is the same for all cameras: write {{}} for the camera's name"
            )
    given = {name: value[name] for name in EACH} | {"camera": value["camera"]}
    return [
        # The arguments of one camera are gone before those of the next one.
        GroupAction(
            [
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(str(resource_path("launch/stereo_depth.launch.py"))),
                    launch_arguments=list(
                        {**given, "namespace": name, "driver_namespace": topics.replace("{}", name)}.items()
                    ),
                )
            ]
        )
        for name in names
    ]


def generate_launch_description():
    """Return the launch description."""
    return LaunchDescription([*shared.declare(ARGUMENTS), OpaqueFunction(function=start)])
