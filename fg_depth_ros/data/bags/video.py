"""Images of a camera that a bag holds as video, decoded by their places; see ``data.io.video_packets``."""

from __future__ import annotations

import os
import threading
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fg_depth_ros.data.bags.messages import Place, message_at
from fg_depth_ros.data.bags.storage import BagStorage
from fg_depth_ros.data.io.video_packets import (
    DELAYED,
    GAP,
    Decoded,
    PacketDecoder,
    PacketInfo,
    codec_of,
    frame_pixels,
    is_grey,
    load_av,
)
from fg_depth_ros.files import FileError


class _Packet(NamedTuple):
    place: Place
    key: bool
    order: int  # of the image in time
    with_parameters: bool


class VideoTopic:
    """Decodes the images of one topic; in the order of the recording is fastest. Threads may share it.

    A copy in another process begins again.
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
        return cls(bag, codec, is_grey(message))

    def add(self, place: Place, message: Any) -> None:
        """Add the next packet of the recording."""
        info = PacketInfo.of(message, self._codec, place.stamp, first=not self._packets)
        self._packets.append(_Packet(place, *info))

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
                    f"{place.describe(self._bag)}: the video is damaged at {bad.stamp} ns, and not decoded from there "
                    "to its next key frame"
                )
            return frame_pixels(frame, self._grey)

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
            gaps = (k for k in range(1, len(orders)) if orders[k] - orders[k - 1] > GAP * step)
            return begin + next(gaps, len(orders))
        # Not in the order of their time: any of them may need what is lost, which may be the last one.
        orders += [packet.order for packet in self._packets[end : end + 1]]
        orders.sort()
        return begin if any(b - a > GAP * step for a, b in pairwise(orders)) else end

    def _decode(self, key: int, index: int) -> Any:
        """Decode up to packet ``index`` from its key frame, or from where the decoder is; None where that fails."""
        if self._decoder is None or not key <= self._fed < index:
            self._start(key)
        last = next((k for k in range(index + 1, len(self._packets)) if self._packets[k].key), len(self._packets))
        for k in range(self._fed + 1, min(last, index + 1 + DELAYED)):
            if k > index and index in self._frames:
                break
            if not self._feed(k):
                self._broken[key] = k
                self._decoder = None
                return self._frames.get(index) if k > index else None
        if index not in self._frames:  # the last images of a decoder that holds some back
            self._keep(self._decoder.end())
            self._decoder = None
        for old in [k for k in self._frames if k < index - DELAYED]:
            del self._frames[old]
        return self._frames.get(index)

    def _start(self, key: int) -> None:
        parameters = None
        if not self._packets[key].with_parameters:
            earlier = next((k for k in range(key) if self._packets[k].with_parameters), None)
            parameters = None if earlier is None else self._data(earlier)  # sent once, at the beginning
        self._decoder = PacketDecoder(self._codec, str(self._bag.path), parameters)
        self._frames, self._fed = {}, key - 1

    def _data(self, k: int) -> bytes:
        return bytes(message_at(self._bag, self._packets[k].place).data)

    def _feed(self, k: int) -> bool:
        """Decode one packet; False where it is damaged."""
        self._fed = k
        return self._keep(self._decoder.decode(self._data(k), k))

    def _keep(self, decoded: Decoded) -> bool:
        """Keep the frames that are whole; False where one is not."""
        self._frames |= decoded.frames
        return decoded.whole
