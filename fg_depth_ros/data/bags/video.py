"""Images of a camera that a bag holds as video: H.264, H.265 and what else PyAV (FFmpeg) decodes, a packet an image.

A packet needs those before it, from the last key frame on. Where one of them is lost or damaged, no image comes out
until the next key frame: decoders conceal the loss, and show what was there before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fg_depth_ros.data.bags.messages import Place, message_at
from fg_depth_ros.data.bags.storage import FFMPEG, VIDEO, BagStorage
from fg_depth_ros.files import FileError

_DECODERS = {"264": "h264", "avc": "h264", "265": "hevc", "hevc": "hevc", "av1": "av1", "vp8": "vp8", "vp9": "vp9"}
_KEY_FLAG = 1  # of FFMPEGPacket.flags, FFmpeg's AV_PKT_FLAG_KEY
# Types of NAL units (ITU-T H.264 7.4.1, H.265 7.4.2.2): of key frames, and of the parameter sets that they need.
_KEYS = {"h264": {5}, "hevc": set(range(16, 22))}
_PARAMETERS = {"h264": 7, "hevc": 33}
_GAP = 1.5  # times the usual step from one packet to the next: some between them are lost
_DELAYED = 16  # images that a decoder holds back, at most


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
    if found is None and message.__msgtype__ in (FFMPEG, VIDEO):
        raise ValueError(f"its codec '{text}' is not known: {', '.join(sorted(set(_DECODERS.values())))} are read")
    return found


class _Packet(NamedTuple):
    place: Place
    key: bool
    order: int  # of the image in time
    with_parameters: bool


class VideoTopic:
    """Decodes the images of one topic; in the order of the recording is fastest. Threads may share it.

    A copy in another process begins anew.
    """

    def __init__(self, bag: BagStorage, codec: str, grey: bool) -> None:
        """Start without packets; ``grey``: images are H x W, else H x W x 3 RGB."""
        self._bag, self._codec, self._grey = bag, codec, grey
        self._packets: list[_Packet] = []
        self._broken: dict[int, int] = {}  # first packet that cannot be used, by the packet of the key frame before it
        self._forget()

    @classmethod
    def of(cls, bag: BagStorage, message: Any, where: str) -> VideoTopic | None:
        """Make one for a topic by its first message; None: it is no video. Raises FileError: unknown, or no PyAV."""
        try:
            codec = codec_of(message)
        except ValueError as error:
            raise FileError(f"{where}: {error}") from error
        if codec is None:
            return None
        load_av(where)
        return cls(bag, codec, "mono" in str(getattr(message, "encoding", "")))

    def add(self, place: Place, message: Any) -> None:
        """Add the next packet of the recording."""
        units = _unit_types(bytes(message.data), self._codec)
        key = bool(units & _KEYS.get(self._codec, set()))
        if message.__msgtype__ == FFMPEG:
            key |= bool(message.flags & _KEY_FLAG)
        order = int(message.pts) if message.__msgtype__ == FFMPEG else place.stamp
        if self._codec not in _KEYS and message.__msgtype__ != FFMPEG:
            key |= not self._packets  # nothing says where the others are: decoded from the first packet on
        self._packets.append(_Packet(place, key, order, _PARAMETERS.get(self._codec, -1) in units))

    def usable(self) -> tuple[list[Place], str]:
        """Return the places whose images can be decoded, and what is left out and why, "" without loss; after all."""
        count = len(self._packets)
        keys = [k for k in range(count) if self._packets[k].key]
        first, step = keys[0] if keys else count, self._step()
        self._by_place: dict[Place, int] = {}
        self._key_of = [0] * count
        lost = 0
        for begin, end in zip(keys, [*keys[1:], count], strict=False):
            usable = self._whole(begin, end, step)
            if usable < end:
                self._broken[begin], lost = usable, lost + end - usable
            for k in range(begin, usable):
                self._key_of[k] = begin
                self._by_place.setdefault(self._packets[k].place, k)
        reasons = []
        if first:
            reasons.append(f"{first} packets before the first key frame")
        if lost:
            reasons.append(f"{lost} from packets that are lost to the next key frame")
        return list(self._by_place), " and ".join(reasons)

    def read(self, place: Place) -> np.ndarray:
        """Decode the image of a packet: uint8, H x W or H x W x 3 RGB. Raises FileError: damaged, or one before it."""
        with self._lock:
            if self._owner != os.getpid():
                self._forget()
            index = self._by_place[place]
            key, frame = self._key_of[index], self._frames.get(index)
            if frame is None and index < self._broken.get(key, len(self._packets)):
                frame = self._decode(key, index)
            if frame is None:
                bad = self._packets[self._broken.get(key, index)].place
                raise FileError(
                    f"{place.of(self._bag)}: the video is damaged at {bad.stamp} ns, and not decoded from there to its "
                    "next key frame"
                )
            pixels = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(pixels[..., 1]) if self._grey else pixels

    def __getstate__(self) -> dict[str, Any]:
        own = ("_bag", "_codec", "_grey", "_packets", "_broken", "_by_place", "_key_of")
        return {name: self.__dict__[name] for name in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._decoder: Any = None
        self._fed = -1  # last packet
        self._frames: dict[int, Any] = {}  # newest ones, by packet

    def _step(self) -> float:
        """Return the usual step of ``order`` from one packet to the next."""
        steps = np.diff(np.sort([packet.order for packet in self._packets]))
        return float(np.median(steps[steps > 0])) if np.any(steps > 0) else float("inf")

    def _whole(self, begin: int, end: int, step: float) -> int:
        """Return the packet up to which none is lost among those from a key frame on, to before ``end``."""
        orders = [packet.order for packet in self._packets[begin:end]]
        if all(one < other for one, other in pairwise(orders)):
            gaps = (k for k in range(1, len(orders)) if orders[k] - orders[k - 1] > _GAP * step)
            return begin + next(gaps, len(orders))
        # Not in the order of their time: any of them may need what is lost, which may be the last one.
        orders += [packet.order for packet in self._packets[end : end + 1]]
        orders.sort()
        return begin if any(b - a > _GAP * step for a, b in pairwise(orders)) else end

    def _decode(self, key: int, index: int) -> Any:
        """Decode up to packet ``index`` from its key frame, or from where the decoder is; None where that fails."""
        if self._decoder is None or not key <= self._fed < index:
            self._start(key)
        last = next((k for k in range(index + 1, len(self._packets)) if self._packets[k].key), len(self._packets))
        for k in range(self._fed + 1, min(last, index + 1 + _DELAYED)):
            if k > index and index in self._frames:
                break
            if not self._feed(k):
                self._broken[key] = k
                self._decoder = None
                return self._frames.get(index) if k > index else None
        if index not in self._frames:  # the last images of a decoder that holds some back
            self._keep(self._decoder.decode(None))
            self._decoder = None
        for old in [k for k in self._frames if k < index - _DELAYED]:
            del self._frames[old]
        return self._frames.get(index)

    def _start(self, key: int) -> None:
        self._decoder = load_av(str(self._bag.path)).CodecContext.create(self._codec, "r")
        self._decoder.thread_type, self._decoder.thread_count = "NONE", 1  # threads hold images back
        self._frames, self._fed = {}, key - 1
        if self._codec in _PARAMETERS and not self._packets[key].with_parameters:
            earlier = next((k for k in range(key) if self._packets[k].with_parameters), None)
            if earlier is not None:  # sent once, at the beginning
                self._feed(earlier)
                self._frames, self._fed = {}, key - 1

    def _feed(self, k: int) -> bool:
        """Decode one packet; False where it is damaged."""
        av = load_av(str(self._bag.path))
        packet = av.Packet(bytes(message_at(self._bag, self._packets[k].place).data))
        packet.pts, self._fed = k, k
        try:
            return self._keep(self._decoder.decode(packet))
        except av.FFmpegError:
            return False

    def _keep(self, frames: Iterable[Any]) -> bool:
        """Keep frames that are whole; False where one is not."""
        whole = True
        for frame in frames:
            if frame.is_corrupt:
                whole = False
            else:
                self._frames[frame.pts] = frame
        return whole


def _unit_types(data: bytes, codec: str) -> set[int]:
    """Return the types of the NAL units in a packet (Annex B: each behind the bytes 0, 0, 1)."""
    found: set[int] = set()
    at = data.find(b"\0\0\1") if codec in _KEYS else -1
    while 0 <= at < len(data) - 3:
        found.add(data[at + 3] & 31 if codec == "h264" else data[at + 3] >> 1 & 63)
        at = data.find(b"\0\0\1", at + 3)
    return found
