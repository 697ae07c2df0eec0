"""Parameters of a stereo pair's inputs, and the topics and types that follow from them."""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from fg_depth_ros.data.io.video_packets import IMAGE_TRANSPORTS
from fg_depth_ros.nodes.common.message_classes import message_class
from fg_depth_ros.nodes.common.parameters import AtStart, DeclaredParameters, Parameter
from fg_depth_ros.nodes.common.topics import CAMERAS, INPUTS

SYNC_PARAMETERS = (
    AtStart("approximate_sync", False, "Match stamps that differ by up to `sync_slop`. Without it they must be equal."),
    AtStart("sync_slop", 0.01, "Largest difference of stamps in a pair.", "s", 0.0, 10.0),
)
"""How a node forms pairs."""


def image_transport(description: str) -> Parameter:
    """Return the line of the parameter ``image_transport``; refused where the type of its messages is not installed."""

    def check(name: str) -> str | None:
        try:
            message_class(IMAGE_TRANSPORTS[name])
        except ValueError as error:
            return str(error)
        return None

    return AtStart("image_transport", "raw", description, choices=tuple(IMAGE_TRANSPORTS), check=check)


def input_types(parameters: DeclaredParameters) -> dict[str, type]:
    """Return input name -> message type for the parameter ``image_transport``."""
    image = message_class(IMAGE_TRANSPORTS[parameters["image_transport"]])
    return {name: image if name.endswith("image_rect") else CameraInfo for name in INPUTS}


def input_topics(node: Node, parameters: DeclaredParameters) -> dict[str, str]:
    """Return input name -> resolved topic, remapping and image transport included.

    Where an image is remapped and its camera_info is not, that is taken from the image's namespace, as
    image_transport does, unless it would be one for both cameras.
    With a transport other than ``raw``, an image may be remapped to the base topic or to that of the transport itself.
    """

    def remapped(name: str) -> bool:
        return bool(node.resolve_topic_name(name) != node.resolve_topic_name(name, only_expand=True))

    transport = parameters["image_transport"]
    end = "" if transport == "raw" else f"/{transport}"
    ends = {name: end if name in CAMERAS else "" for name in INPUTS}
    topics = {name: str(node.resolve_topic_name(name)).removesuffix(ends[name]) for name in INPUTS}
    beside = {
        info: str(node.resolve_topic_name(f"{topics[image].rpartition('/')[0]}/camera_info"))
        for image, info in CAMERAS.items()
        if remapped(image) and not remapped(info)
    }
    if len({beside.get(info, topics[info]) for info in CAMERAS.values()}) == len(CAMERAS):
        topics |= beside
    # That of the transport may be remapped itself, as with image_transport.
    return {
        name: str(node.resolve_topic_name(f"{topic}{ends[name]}")) if ends[name] else topic
        for name, topic in topics.items()
    }
