"""Live video as input: decoded from key frame to key frame, each image with its own header, every loss counted."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="video is decoded by PyAV (extra 'video')")

import av
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from support.live_video import PERIOD, VideoCameras
from support.nodes import Bench, compressed_image, pair_messages, share_near, wall
from support.video import Encoded, Encoder

from fg_depth_ros.data.io.messages import image_to_array, stamp_ns
from fg_depth_ros.data.io.video_packets import IMAGE_TRANSPORTS
from fg_depth_ros.nodes.common.codes import FaultCode
from fg_depth_ros.nodes.common.message_classes import message_class
from fg_depth_ros.nodes.common.video import PacketSubscriber, VideoStream

COUNT, GOP = 24, 8
KINDS = ("compressed", "ffmpeg", "foxglove")
LOST, DAMAGED, EARLY = "after a lost packet", "damaged video", "before the first key frame"


def header_at(stamp: int) -> Header:
    return Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="eye")


def message(kind: str, packet: Encoded, codec: str = "h264", ros: str = "bgr8", start: int = 1) -> Any:
    """The message of a packet, with the fields of the real types; those of two packages are not on PyPI."""
    head, data = header_at((start + packet.number) * PERIOD), packet.data
    if kind == "ffmpeg":
        encoding = f"{codec};yuv420p;{ros};{ros}"
        return SimpleNamespace(header=head, encoding=encoding, pts=packet.number, flags=int(packet.key), data=data)
    if kind == "foxglove":
        return SimpleNamespace(timestamp=head.stamp, frame_id="eye", data=data, format=codec)
    return CompressedImage(header=head, format=codec, data=data)


def brightness(number: int) -> int:
    return 40 + 7 * number


def packets(codec: str = "libx264", reordered: bool = False) -> list[Encoded]:
    """Of grey images, each brighter than the one before."""
    encoder = Encoder(64, 48, codec=codec, gop=GOP, reordered=reordered)
    texture = np.random.default_rng(0).integers(-12, 13, (48, 64, 1)) * np.ones(3, int)
    images = (np.clip(brightness(k) + texture, 0, 255).astype(np.uint8) for k in range(COUNT))
    return [packet for image in images for packet in encoder.add(image)] + encoder.end()


PACKETS = packets()


def played(stream: VideoStream, messages: Sequence[Any], lost: Sequence[int] = ()) -> list[int]:
    """Numbers of the images that come out, each checked against its stamp; ``lost``: messages behind a gap."""
    numbers = []
    for index, each in enumerate(messages):
        for image in stream.add(each, lost=index in lost):
            assert isinstance(image.header, Header) and image.header.frame_id == "eye"
            number = stamp_ns(image.header) // PERIOD - 1
            assert abs(float(image_to_array(image).mean()) - brightness(number)) < 2.0
            numbers.append(number)
    return numbers


# ---- one camera ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_lost_packet_nothing_comes_until_the_next_key_frame(kind: str) -> None:
    stream = VideoStream("/left")
    kept = [packet for packet in PACKETS if packet.number not in (10, 21)]
    assert played(stream, [message(kind, each) for each in kept]) == [*range(10), *range(16, 21)]
    assert stream.drops == Counter({LOST: 5 + 2})
    assert stream.problem is not None and re.match("/left: packets of the video were lost, and no key", stream.problem)
    assert stream.add(message(kind, PACKETS[0], start=25)) and stream.problem is None


@pytest.mark.parametrize("kind", KINDS)
def test_packets_before_the_first_key_frame_are_left_out(kind: str) -> None:
    stream = VideoStream("/left")
    assert played(stream, [message(kind, each) for each in PACKETS[3:]]) == list(range(8, COUNT))
    assert stream.drops == Counter({EARLY: 5})


def test_lost_packets_are_told_by_the_middleware_without_a_gap_in_the_stamps() -> None:
    class Middleware:
        def create_subscription(
            self, kind: type, topic: str, callback: Callable[..., None], *args: Any, **options: Any
        ):
            self.deliver = callback

    node, seen = Middleware(), []
    subscriber = PacketSubscriber(node, CompressedImage, "/left", None)
    subscriber.registerCallback(seen.append)
    for number, packet in enumerate(PACKETS):
        if number != 3:  # too early to know the usual step
            each = message("compressed", packet._replace(number=number - (number > 3)))
            node.deliver(each, {"publication_sequence_number": number, "publisher_gid": {"data": [1]}})
    assert len(seen) == 3 + 16 and subscriber.stream.drops == Counter({LOST: 4})


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_packet_spoils_those_that_need_it(kind: str) -> None:
    stream = VideoStream("/left")
    spoilt = [p._replace(data=p.data[: len(p.data) // 2]) if p.number == 11 else p for p in PACKETS]
    assert played(stream, [message(kind, each) for each in spoilt]) == [*range(11), *range(16, COUNT)]
    assert stream.drops == Counter({DAMAGED: 5})


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_starts_again_goes_on_at_a_key_frame(kind: str) -> None:
    stream = VideoStream("/left")
    again = [*PACKETS, *PACKETS[5:]]
    assert played(stream, [message(kind, each) for each in again]) == [*range(COUNT), *range(8, COUNT)]
    assert stream.drops == Counter({LOST: 3})


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_come_out_in_another_order_keep_their_headers(kind: str) -> None:
    reordered = packets(reordered=True)
    stream = VideoStream("/left")
    found = played(stream, [message(kind, each) for each in reordered])
    assert found == list(range(len(found))) and len(found) >= COUNT - 4  # the decoder waits for the rest
    lost = VideoStream("/left")
    numbers = played(lost, [message(kind, each) for each in [*reordered[:10], *reordered[11:]]], lost=[10])
    keys = [packet.number for packet in reordered if packet.key]
    assert not [n for n in numbers if n < keys[2] and n > max(p.number for p in reordered[:10])]
    assert lost.drops[LOST] == len(reordered) - 1 - len(numbers) - len(lost._waiting)


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_parameter_sets_that_come_once_serve_later_key_frames(codec: str) -> None:
    if codec == "h265" and "libx265" not in av.codecs_available:
        pytest.skip("PyAV has no libx265")
    sets = {7, 8} if codec == "h264" else {32, 33, 34}

    def kind_of(unit: bytes) -> int:
        return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63

    def without(data: bytes) -> bytes:
        units = [unit for unit in re.split(rb"\x00\x00\x00?\x01", data) if unit]
        return b"".join(b"\0\0\0\1" + unit for unit in units if kind_of(unit) not in sets)

    made = packets("libx264" if codec == "h264" else "libx265")
    sent = [made[0], *(packet._replace(data=without(packet.data)) for packet in made[1:])]
    stream = VideoStream("/left")
    kept = [packet for packet in sent if packet.number != 10]
    assert played(stream, [message("foxglove", each, codec) for each in kept]) == [*range(10), *range(16, COUNT)]


def test_what_is_no_video_passes_and_grey_cameras_stay_grey() -> None:
    stream, jpeg = VideoStream("/left"), compressed_image(np.zeros((8, 8), np.uint8))
    assert stream.add(jpeg) == [jpeg] and stream.problem is None
    (image,) = stream.add(message("ffmpeg", PACKETS[0], ros="mono8"))
    assert image_to_array(image).shape == (48, 64)
    (image,) = VideoStream("/left").add(message("ffmpeg", PACKETS[0]))
    assert image_to_array(image).shape == (48, 64, 3)


def test_an_unknown_codec_a_missing_decoder_and_huge_images_are_named_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = VideoStream("/left")
    assert stream.add(message("ffmpeg", PACKETS[0], "mpeg7")) == []
    assert stream.problem == "/left: its codec 'mpeg7' is not known: av1, h264, hevc, vp8, vp9 are read"
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "av", None)
        assert stream.add(message("ffmpeg", PACKETS[0])) == []
        assert re.match("/left: its images are video, which PyAV decodes .*: pip install av", stream.problem)
    assert played(stream, [message("ffmpeg", each) for each in PACKETS[:2]]) == [0, 1] and stream.problem is None
    monkeypatch.setattr("fg_depth_ros.data.io.video_packets.LARGEST_IMAGE", 1000)
    bomb = VideoStream("/left")
    assert bomb.add(message("ffmpeg", PACKETS[0])) == []
    assert stream.drops + bomb.drops == Counter({"unknown encoding": 1, "no video decoder": 1, DAMAGED: 1})


# ---- the node --------------------------------------------------------------------------------------------------------

WALLS = (wall(disparity=12), wall(disparity=24, seed=1))


def depth_of(b: Bench, stamp: int) -> np.ndarray | None:
    """What the node answered for a pair."""
    found = (m for m in list(b.seen["depth/image_rect"]) if stamp_ns(m.header) == stamp)
    return next((np.frombuffer(m.data, np.float32) for m in found), None)


@pytest.mark.parametrize("transport", KINDS)
def test_depth_of_live_video_and_what_a_lost_packet_costs(make: Callable[..., Bench], transport: str) -> None:
    try:
        message_class(IMAGE_TRANSPORTS[transport])
    except ValueError as error:
        pytest.skip(str(error))
    topics = [f"{side}/{name}" for side in ("left", "right") for name in (f"image_rect/{transport}", "camera_info")]
    reliable = {f"qos_overrides./{topic}.subscription.reliability": "reliable" for topic in topics}
    b = make(image_transport=transport, **reliable)
    b.listen("depth/image_rect")
    cameras = VideoCameras(b, WALLS, transport=transport)
    for _ in range(9):
        number = cameras.send()
        b.wait(lambda number=number: depth_of(b, cameras.stamp(number)) is not None)
        assert share_near(depth_of(b, cameras.stamp(number)), WALLS[number % 2].depth) > 0.95
    cameras.send(without="left")  # 9; 10 and 11 need it, 12 is the next key frame
    for _ in range(2):
        cameras.send()
    last = cameras.send()
    b.wait(lambda: depth_of(b, cameras.stamp(last)) is not None)
    assert last == 12 and share_near(depth_of(b, cameras.stamp(12)), WALLS[0].depth) > 0.95
    assert [depth_of(b, cameras.stamp(number)) for number in (9, 10, 11)] == [None] * 3
    b.wait(lambda: b.values().get("left/image_rect dropped: after a lost packet") == "2")
    assert not any(key.startswith("right/image_rect dropped") for key in b.values())
    b.wait(b.accounted)
    assert b.values()["pairs matched"] == "10" and b.level() == 0


def test_a_stream_without_key_frames_and_a_missing_decoder_are_said_and_end_nothing(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = make(image_transport="compressed", stall_timeout=0.3)
    b.listen("depth/image_rect")
    b.wait(b.heard)
    cameras = VideoCameras(b, WALLS, gop=1000)
    cameras.send(without="left")

    def told(*words: str) -> bool:
        cameras.send()
        return b.has(FaultCode.VIDEO_NOT_DECODED, "no stereo pair for", *words)

    b.wait(lambda: told("/left/image_rect/compressed: no key frame has come yet: let the encoder send one at least"))
    assert "shared memory" not in b.status().message
    monkeypatch.setitem(sys.modules, "av", None)
    cameras = VideoCameras(b, WALLS, gop=2)
    b.wait(lambda: told("/left/image_rect/compressed: its images are video", "pip install av"))
    assert int(b.values()["left/image_rect dropped: no video decoder"]) > 0
    assert share_near(b.fresh_depth(pair_messages(WALLS[0])), WALLS[0].depth) > 0.95  # images as PNG
    b.send_until(pair_messages(WALLS[0]), lambda: b.level() == 0)


def test_a_transport_whose_messages_are_not_installed_is_refused_and_another_one_taken(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ffmpeg_image_transport_msgs.msg", None)
    b = make(image_transport="ffmpeg")
    b.wait(lambda: b.has(FaultCode.NOT_CONFIGURED))
    said = b.status().message
    assert "parameter image_transport = 'ffmpeg': its type ffmpeg_image_transport_msgs/msg/FFMPEGPacket cannot" in said
    assert "apt install ros-$ROS_DISTRO-ffmpeg-image-transport-msgs" in said
    assert b.set(image_transport="raw")[0].successful
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(pair_messages(WALLS[0])), WALLS[0].depth) > 0.95


def test_each_transport_has_its_type_and_its_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in IMAGE_TRANSPORTS.values():
        package, _, name = kind.partition("/msg/")
        if not package.startswith("sensor"):
            stand_in = ModuleType(f"{package}.msg")
            setattr(stand_in, name, type(name, (), {}))
            monkeypatch.setitem(sys.modules, package, ModuleType(package))
            monkeypatch.setitem(sys.modules, f"{package}.msg", stand_in)
        assert message_class(kind).__name__ == name
