"""Encoded video for tests: packets of FFmpeg, from images."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np


class Encoded(NamedTuple):
    """A packet: its data, whether it is a key frame, and the number of its image."""

    data: bytes
    key: bool
    number: int


class Encoder:
    """Encodes images (H x W x 3 RGB) one after another; ``gop``: images from one key frame to the next."""

    def __init__(
        self, width: int, height: int, *, codec: str = "libx264", gop: int = 8, reordered: bool = False
    ) -> None:
        """``reordered``: images refer to later ones, and packets come in another order than images."""
        self._coder = av.CodecContext.create(codec, "w")
        self._coder.width, self._coder.height, self._coder.pix_fmt = width, height, "yuv420p"
        self._coder.time_base = Fraction(1, 10)
        self._coder.gop_size, self._coder.max_b_frames = gop, 2 if reordered else 0
        self._coder.options = {"crf": "4", "preset": "fast", "x264-params": "b-adapt=0:bframes=2:scenecut=0"}
        if codec == "libx265":
            self._coder.options = {"crf": "4", "x265-params": f"log-level=error:keyint={gop}:bframes=0"}
        elif not reordered:
            self._coder.options = {"crf": "4", "preset": "ultrafast", "tune": "zerolatency"}
        self._count = 0

    def add(self, image: np.ndarray) -> list[Encoded]:
        """Encode an image; returns the packets that are complete."""
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, self._count = self._count, self._count + 1
        return self._packets(self._coder.encode(frame))

    def end(self) -> list[Encoded]:
        """Return what was held back."""
        return self._packets(self._coder.encode(None))

    @staticmethod
    def _packets(packets: Iterable[av.Packet]) -> list[Encoded]:
        return [Encoded(bytes(p), p.is_keyframe, p.pts) for p in packets]
