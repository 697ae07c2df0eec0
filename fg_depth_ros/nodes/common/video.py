"""Live video of a camera: packets in, images out, from key frame to key frame."""

from __future__ import annotations

from collections import Counter, deque
from statistics import median
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from fg_depth_ros.compat.message_filters import SimpleFilter
from fg_depth_ros.data.io.messages import MessageFault, stamp_ns
from fg_depth_ros.data.io.video_packets import DELAYED, GAP, PacketDecoder, PacketInfo, VideoImage, codec_of, is_grey
from fg_depth_ros.files import FileError
from fg_depth_ros.nodes.common.codes import PacketDrop
from fg_depth_ros.nodes.common.message_loss import MessageLoss, with_info
from fg_depth_ros.nodes.common.qos import naming_overrides, overridable, subscription_events

_STEPS = 16  # between packets, for their usual step
_FEWEST_STEPS = 4
_WAITING = {
    PacketDrop.NO_KEY_FRAME: "no key frame has come yet",
    PacketDrop.PACKET_LOST: "packets of the video were lost, and no key frame has come since",
    PacketDrop.PACKET_DAMAGED: "the video is damaged, and no key frame has come since",
}


class VideoStream:
    """Decodes the packets of one camera as they come; what it cannot is counted in ``drops``. Not thread-safe.

    After a lost or damaged packet nothing is decoded until the next key frame. Lost ones are told by the caller, and,
    where the images are in the order of their packets, by gaps in the packets' own counter or in their stamps.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.drops: Counter[str] = Counter()
        self.is_video = False
        """Whether the newest message was video, and no image as it is."""
        self._problem = ""
        self._reason = PacketDrop.NO_KEY_FRAME  # why the next packet is dropped unless it is a key frame
        self._codec: str | None = None
        self._decoder: PacketDecoder | None = None
        self._count = 0  # packets
        self._waiting: dict[int, Header] = {}  # headers of packets whose images have not come out, by number
        self._parameters: bytes | None = None  # the newest packet with parameter sets
        self._last: int | None = None  # largest order so far
        self._steps: deque[int] = deque(maxlen=_STEPS)

    @property
    def problem(self) -> str | None:
        """Why no image comes out now, with what to do; None where they do."""
        if self._problem or not self.is_video or self._decoder is not None:
            return self._problem or None
        return (
            f"{self._topic}: {_WAITING[self._reason]}: let the encoder send one at least every second (its GOP size), "
            "without them none of the images after a lost packet can be decoded"
        )

    def add(self, message: Any, *, lost: bool = False) -> list[Any]:
        """Return the images that are complete with this message: VideoImage, or the message itself if it is no video.

        ``lost``: whether messages between this one and the one before it were lost.
        """
        try:
            codec = codec_of(message)
        except ValueError as error:
            return self._refuse(MessageFault.UNKNOWN_ENCODING, f"{self._topic}: {error}")
        self.is_video = codec is not None
        if codec is None:
            self._problem = ""
            return [message]
        try:
            return self._decode(message, codec, lost)
        except FileError as error:  # PyAV is missing
            return self._refuse(PacketDrop.NO_DECODER, str(error))

    def _refuse(self, reason: str, text: str) -> list[Any]:
        self.drops[str(reason)] += 1
        self._problem = text
        return []

    def _decode(self, message: Any, codec: str, lost: bool) -> list[VideoImage]:
        header = getattr(message, "header", None)
        if header is None:  # of CompressedVideo
            header = Header(stamp=message.timestamp, frame_id=message.frame_id)
        data, number = bytes(message.data), self._count
        info = PacketInfo.of(message, codec, stamp_ns(header), first=self._decoder is None)
        images: list[VideoImage] = []
        grey = is_grey(message)
        if self._is_interrupted(info) or lost or codec != self._codec:
            reason = PacketDrop.PACKET_LOST if self._codec == codec else PacketDrop.NO_KEY_FRAME
            images = self._interrupt(reason, grey)
        self._codec, self._count = codec, self._count + 1
        if self._decoder is None:
            if not info.key:
                self.drops[str(self._reason)] += 1
                return images
            self._decoder = PacketDecoder(codec, self._topic, None if info.with_parameters else self._parameters)
        if info.with_parameters:
            self._parameters = data
        self._problem = ""
        self._waiting[number] = header
        decoded = self._decoder.decode(data, number)
        images += self._taken(decoded.frames, grey)
        if not decoded.whole:
            self._decoder = None  # what it still holds back needs the damaged one
            self._drop_waiting(PacketDrop.PACKET_DAMAGED)
        return images

    def _is_interrupted(self, info: PacketInfo) -> bool:
        """Return whether packets are missing before this one, by their order, or the source has started again."""
        last, self._last = self._last, info.order if self._last is None else max(self._last, info.order)
        step = median(self._steps) if len(self._steps) >= _FEWEST_STEPS else None
        if last is None or info.order == last:
            return False
        if info.order < last:  # decoded before an image that comes earlier, unless it is too far back
            if not info.key and (step is None or last - info.order <= DELAYED * step):
                self._steps.clear()
                return False
            self._last = info.order
            return True
        self._steps.append(info.order - last)
        return step is not None and info.order - last > GAP * step

    def _interrupt(self, reason: PacketDrop, grey: bool) -> list[VideoImage]:
        """End the decoder before a packet that does not follow; returns what it held back."""
        images = [] if self._decoder is None else self._taken(self._decoder.end().frames, grey)
        self._decoder = None
        self._drop_waiting(reason)
        return images

    def _drop_waiting(self, reason: PacketDrop) -> None:
        self._reason = reason
        if self._waiting:
            self.drops[str(reason)] += len(self._waiting)
        self._waiting.clear()

    def _taken(self, frames: dict[int, Any], grey: bool) -> list[VideoImage]:
        images = [
            VideoImage(self._waiting.pop(number), frame, grey)
            for number, frame in sorted(frames.items())
            if number in self._waiting
        ]
        for number in [number for number in self._waiting if number < self._count - DELAYED]:
            del self._waiting[number]  # the decoder left it out
            self.drops[str(PacketDrop.PACKET_DAMAGED)] += 1
        return images


class PacketSubscriber(SimpleFilter):
    """Subscribes to a camera's images, CompressedImage or packets of video, and signals them; video as VideoImage.

    Raises ValueError: the user's QoS cannot be used.
    """

    def __init__(self, node: Node, kind: type, topic: str, qos: QoSProfile) -> None:
        super().__init__()
        self.stream = VideoStream(topic)
        self.info: Any = {}
        """Arrival info of the newest message, as rclpy gives it."""
        self._loss = MessageLoss()
        events = subscription_events(node, topic)
        events.message_lost = self._loss.on_lost
        with naming_overrides(topic, "subscription"):
            self.sub = node.create_subscription(
                kind, topic, with_info(self._on_message), event_callbacks=events, **overridable(qos)
            )

    def _on_message(self, message: Any, info: Any) -> None:
        before = self._loss.lost
        self._loss.on_received(info)
        self.info = info
        for image in self.stream.add(message, lost=self._loss.lost > before):
            self.signalMessage(image)
