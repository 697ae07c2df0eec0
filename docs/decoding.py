"""Measures what decoding live video costs a node: milliseconds a packet, without and with the conversion to RGB."""

from __future__ import annotations

import time
from types import SimpleNamespace

import av
import numpy as np
from std_msgs.msg import Header

from fg_depth_ros.data.io.messages import image_to_array
from fg_depth_ros.nodes.common.video import VideoStream

COUNT = 60


def encoded(width: int, height: int) -> list[bytes]:
    """Return the packets of a texture that moves by 4 px an image, H.264 as a live encoder makes it."""
    coder = av.CodecContext.create("libx264", "w")
    coder.width, coder.height, coder.pix_fmt, coder.gop_size = width, height, "yuv420p", 30
    coder.framerate, coder.options = 30, {"preset": "ultrafast", "tune": "zerolatency"}
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8 + 30, 3), np.uint8)
    texture, packets = noise.repeat(8, 0).repeat(8, 1), []
    for k in range(COUNT):
        image = np.ascontiguousarray(texture[:, 4 * k : 4 * k + width])
        packets += coder.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
    return [bytes(packet) for packet in packets]


def main() -> None:
    """Print a line for each size."""
    for width, height in ((640, 480), (1280, 720), (1920, 1080)):
        stream, decoding, converting = VideoStream("camera"), 0.0, 0.0
        for number, data in enumerate(encoded(width, height)):
            begun = time.perf_counter()
            images = stream.add(SimpleNamespace(header=Header(), format="h264", data=data))
            decoded = time.perf_counter()
            for image in images:
                image_to_array(image)
            if number:  # the first one begins the decoder
                decoding, converting = decoding + decoded - begun, converting + time.perf_counter() - decoded
        each = 1e3 / (COUNT - 1)
        print(f"{width}x{height}: decoding {each * decoding:.1f} ms, conversion to RGB {each * converting:.1f} ms")


if __name__ == "__main__":
    main()
