"""Frames of video files, decoded one by one through OpenCV."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from fg_depth_ros.files import FileError

VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm"}


class Video:
    """A video file whose frames are decoded when they are asked for; in their order is fastest.

    One frame is held in memory. Threads and forked processes may share a video. Raises FileError: not a video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._owner = 0  # process that opened the decoder: one that is forked must not share its place in the file
        self._next, self._frame = 0, np.empty(0, np.uint8)
        self._open()
        # As the container states it; some overstate it by a frame or two, and the reader of such a frame says so.
        self.count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if self.count < 1:
            raise FileError(f"{path}: states no number of frames; write it again as .mp4 or .avi")

    def __reduce__(self) -> tuple[type[Video], tuple[Path]]:
        return Video, (self.path,)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames, px."""
        return int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))

    def read(self, index: int) -> np.ndarray:
        """Decode a frame, uint8 RGB H x W x 3. Raises FileError: it cannot be decoded."""
        with self._lock:
            if index == self._next - 1 and self._owner == os.getpid():
                return self._frame
            if index < self._next or self._owner != os.getpid():
                self._open()
            while self._next < index and self._capture.grab():
                self._next += 1
            _, frame = self._capture.read() if self._next == index else (False, None)
            if frame is None:
                self._open()
                raise FileError(
                    f"{self.path}: frame {index} of {self.count} cannot be decoded; the file may be cut off, write it "
                    "again"
                )
            self._next, self._frame = index + 1, np.ascontiguousarray(frame[:, :, ::-1])
            return self._frame

    def _open(self) -> None:
        self._capture = cv2.VideoCapture(str(self.path))
        self._owner, self._next = os.getpid(), 0
        if not self._capture.isOpened():
            raise FileError(
                f"{self.path}: cannot be decoded as a video; write it again as .mp4 (H.264) or .avi (MJPEG)"
            )


@dataclass(frozen=True)
class VideoFrame:
    """Reads one frame of a video."""

    video: Video = field(repr=False)
    index: int

    def __call__(self) -> np.ndarray:
        """Decode the frame, uint8 RGB H x W x 3. Raises FileError."""
        return self.video.read(self.index)
