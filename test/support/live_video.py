"""Cameras that send live video to a node's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from std_msgs.msg import Header

from fg_depth_ros.data.io.video_packets import IMAGE_TRANSPORTS
from fg_depth_ros.nodes.common.message_classes import message_class
from support.nodes import Scene, User, compressed_video, pair_messages
from support.video import Encoded, Encoder

PERIOD = 100_000_000  # ns between two pairs, by their stamps


def packet_message(transport: str, packet: Encoded, header: Header) -> Any:
    """The message of a packet of H.264."""
    if transport == "compressed":
        return compressed_video(packet.data, header)
    made = message_class(IMAGE_TRANSPORTS[transport])()
    made.data.frombytes(packet.data)
    if transport == "foxglove":
        made.timestamp, made.frame_id, made.format = header.stamp, header.frame_id, "h264"
    else:
        made.header, made.encoding, made.pts, made.flags = header, "h264", packet.number, int(packet.key)
    return made


class VideoCameras:
    """Two cameras that send H.264 to the inputs of a node, scene after scene in turn."""

    def __init__(self, user: User, scenes: Sequence[Scene], *, gop: int = 6, transport: str = "compressed") -> None:
        self.user, self.scenes, self.count, self._transport = user, scenes, 0, transport
        self.begun = user.node.get_clock().now().nanoseconds
        width, height = scenes[0].rig.width, scenes[0].rig.height
        self._encoders = {side: Encoder(width, height, gop=gop) for side in ("left", "right")}
        kind = message_class(IMAGE_TRANSPORTS[transport])
        self._publishers = {
            side: user.node.create_publisher(kind, f"{side}/image_rect/{transport}", 5) for side in self._encoders
        }
        user.wait(lambda: all(each.get_subscription_count() for each in self._publishers.values()))

    def stamp(self, number: int) -> int:
        """Stamp of a pair, ns."""
        return self.begun + number * PERIOD

    def scene(self, stamp: int) -> Scene:
        """What the pair with this stamp, ns, shows."""
        return self.scenes[(stamp - self.begun) // PERIOD % len(self.scenes)]

    def send(self, *, without: str = "") -> int:
        """Send the next pair; ``without``: the camera whose packet gets lost. Returns its number."""
        number, self.count = self.count, self.count + 1
        scene = self.scene(self.stamp(number))
        for side, encoder in self._encoders.items():
            (packet,) = encoder.add(getattr(scene, side))
            header = Header(frame_id=f"{side}_eye")
            header.stamp.sec, header.stamp.nanosec = divmod(self.stamp(number), 10**9)
            info = pair_messages(scene)[f"{side}/camera_info"]
            info.header.stamp = header.stamp
            self.user.publish(f"{side}/camera_info", info)
            if side != without:
                self._publishers[side].publish(packet_message(self._transport, packet, header))
        return number
