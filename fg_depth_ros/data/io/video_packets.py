"""Images of a camera that come as video: H.264, H.265 and what else PyAV (FFmpeg) decodes, a packet an image.

A packet needs those before it, from the last key frame on. Where one of them is lost or damaged, no image may be used
until the next key frame: decoders conceal the loss, and show what was there before. Messages are duck typed: packets of
ffmpeg_image_transport (FFMPEGPacket), of Foxglove (CompressedVideo), and CompressedImages whose format is a codec.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fg_depth_ros.data.io.formats import LARGEST_IMAGE
from fg_depth_ros.files import FileError

FFMPEG, VIDEO = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "foxglove_msgs/msg/CompressedVideo"
IMAGE_TRANSPORTS = {
    "raw": "sensor_msgs/msg/Image",
    "compressed": "sensor_msgs/msg/CompressedImage",
    "ffmpeg": FFMPEG,
    "foxglove": VIDEO,
}
"""Type of the messages of a camera by image_transport's name, which follows the topic of all but raw ones."""
GAP = 1.5
"""Packets farther apart than so many times their usual step have lost ones between them."""
DELAYED = 16
"""Images that a decoder holds back, at most."""

_DECODERS = {"264": "h264", "avc": "h264", "265": "hevc", "hevc": "hevc", "av1": "av1", "vp8": "vp8", "vp9": "vp9"}
_KEY_FLAG = 1  # of FFMPEGPacket.flags, FFmpeg's AV_PKT_FLAG_KEY
# Types of NAL units (ITU-T H.264 7.4.1, H.265 7.4.2.2): of key frames, and of the parameter sets that they need.
_KEYS = {"h264": {5}, "hevc": set(range(16, 22))}
_PARAMETERS = {"h264": 7, "hevc": 33}


def split_transport(topic: str) -> tuple[str, str]:
    """Return the base topic of an image topic, and the name of its transport by what follows it."""
    base, _, last = topic.rpartition("/")
    return (base, last) if base and last in IMAGE_TRANSPORTS and last != "raw" else (topic, "raw")


def load_av(where: str) -> Any:
    """Import PyAV. Raises FileError, naming ``where``, with the command that installs it, where it is missing."""
    try:
        import av
    except ImportError as error:
        raise FileError(f"{where}: its images are video, which PyAV decodes ({error}): pip install av") from error
    return av


def codec_of(message: Any) -> str | None:
    """Return FFmpeg's name of the codec of a message; None where it is no video. Raises ValueError: an unknown one."""
    text = str(getattr(message, "encoding", None) or getattr(message, "format", "")).partition(";")[0].strip().lower()
    found = next((name for word, name in _DECODERS.items() if word in text), None)
    if found is None and (hasattr(message, "pts") or hasattr(message, "timestamp")):  # can be nothing else
        raise ValueError(f"its codec '{text}' is not known: {', '.join(sorted(set(_DECODERS.values())))} are read")
    return found


def is_grey(message: Any) -> bool:
    """Return whether the camera of a packet is grey; only FFMPEGPacket tells."""
    return "mono" in str(getattr(message, "encoding", ""))


class PacketInfo(NamedTuple):
    """Properties of a packet that decoding depends on."""

    key: bool
    """Whether it needs no other packet, but for parameter sets."""
    order: int
    """Position of its image in time: the packet's own counter or clock, else its stamp, ns."""
    with_parameters: bool
    """Whether it also holds the parameter sets that later key frames need."""

    @classmethod
    def of(cls, message: Any, codec: str, stamp: int, *, first: bool) -> PacketInfo:
        """Inspect a packet; ``first``: a codec whose key frames nothing tells is decoded from this one on."""
        units, counted = _unit_types(bytes(message.data), codec), hasattr(message, "pts")
        key = bool(units & _KEYS.get(codec, set())) or (counted and bool(message.flags & _KEY_FLAG))
        key |= first and codec not in _KEYS and not counted
        return cls(key, int(message.pts) if counted else stamp, _PARAMETERS.get(codec, -1) in units)


class Decoded(NamedTuple):
    """Images that are complete, by the numbers of their packets, and whether all of them are undamaged."""

    frames: dict[int, Any]
    whole: bool


class PacketDecoder:
    """Decodes the packets of one stream from a key frame on, in their order. Not thread-safe."""

    def __init__(self, codec: str, where: str, parameters: bytes | None = None) -> None:
        """Start; ``parameters``: an earlier packet with parameter sets, where the key frame comes without.

        Raises FileError, naming ``where``: PyAV is missing.
        """
        self._av = load_av(where)
        self._context = self._av.CodecContext.create(codec, "r")
        self._context.thread_type, self._context.thread_count = "NONE", 1  # threads hold images back
        self._context.options = {"max_pixels": str(LARGEST_IMAGE)}
        if parameters is not None:
            self.decode(parameters, -1)

    def decode(self, data: bytes, number: int) -> Decoded:
        """Decode the next packet, whose number is returned with its image, now or later."""
        packet = self._av.Packet(data)
        packet.pts = number
        try:
            return self._sorted(self._context.decode(packet))
        except self._av.FFmpegError:
            return Decoded({}, False)

    def end(self) -> Decoded:
        """Return the images that are still held back; nothing can be decoded after it."""
        try:
            return self._sorted(self._context.decode(None))
        except self._av.FFmpegError:
            return Decoded({}, False)

    @staticmethod
    def _sorted(frames: Iterable[Any]) -> Decoded:
        found = list(frames)
        whole = {int(frame.pts): frame for frame in found if not frame.is_corrupt and frame.pts >= 0}
        return Decoded(whole, not any(frame.is_corrupt for frame in found))


def frame_pixels(frame: Any, grey: bool) -> np.ndarray:
    """Return the pixels of a decoded image, uint8, H x W where ``grey``, else H x W x 3 RGB."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(pixels[..., 1]) if grey else pixels


class VideoImage(NamedTuple):
    """A decoded image with the header of its packet. Its pixels are converted when they are asked for."""

    header: Any
    frame: Any
    grey: bool

    def pixels(self) -> np.ndarray:
        """Return uint8, H x W for grey or H x W x 3 RGB."""
        return frame_pixels(self.frame, self.grey)


def _unit_types(data: bytes, codec: str) -> set[int]:
    """Return the types of the NAL units in a packet (Annex B: each after the bytes 0, 0, 1)."""
    found: set[int] = set()
    at = data.find(b"\0\0\1") if codec in _KEYS else -1
    while 0 <= at < len(data) - 3:
        found.add(data[at + 3] & 31 if codec == "h264" else data[at + 3] >> 1 & 63)
        at = data.find(b"\0\0\1", at + 3)
    return found
