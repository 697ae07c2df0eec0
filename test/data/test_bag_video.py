"""Video in bags: packets of ffmpeg_image_transport, of Foxglove and of drivers, whole and with losses."""

from __future__ import annotations

import logging
import pickle
import re
import sys

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")
pytest.importorskip("av", reason="video is decoded by PyAV (extra 'video')")

import av
from support.bags import bag_of
from support.truth import header, types, with_messages
from support.video import Encoded, Encoder

from fg_depth_ros.apps.live_evaluation import BagInputs
from fg_depth_ros.data.bags.pairs import find_topics, open_bag_pairs
from fg_depth_ros.data.bags.storage import COMPRESSED, FFMPEG, INFO, VIDEO
from fg_depth_ros.files import FileError

COUNT, GOP, PERIOD = 24, 8, 100_000_000
ENDS = {FFMPEG: "/ffmpeg", VIDEO: "/foxglove", COMPRESSED: "/compressed"}


def picture(k: int, side: str, grey: bool = False) -> np.ndarray:
    """Image ``k`` of a camera: each has another brightness and a texture of its own. 160 x 96."""
    random = np.random.default_rng(1000 * (side == "right") + k)
    texture = cv2.resize(random.integers(-12, 13, (12, 20, 3)).astype(np.float32), (160, 96))
    rgb = np.clip(40 + 7 * k + texture, 0, 255).astype(np.uint8)
    return np.dstack([rgb[..., 1]] * 3) if grey else rgb


def encoded(side: str, codec: str = "libx264", reordered: bool = False, grey: bool = False) -> list[Encoded]:
    """The packets, in the order of decoding."""
    encoder = Encoder(160, 96, codec=codec, gop=GOP, reordered=reordered)
    packets = [packet for k in range(COUNT) for packet in encoder.add(picture(k, side, grey))]
    return packets + encoder.end()


def message(kind: str, data: bytes, key: bool, k: int, codec: str, ros: str = "bgr8"):
    stamp, data = (k + 1) * PERIOD, np.frombuffer(data, np.uint8)
    if kind == FFMPEG:
        text = f"{codec};yuv420p;{ros};{ros}"
        return types()[FFMPEG](
            header=header(stamp, "eye"), width=160, height=96, encoding=text, pts=k, flags=int(key), is_bigendian=False,
            data=data,
        )  # fmt: skip
    if kind == VIDEO:
        return types()[VIDEO](timestamp=header(stamp, "").stamp, frame_id="eye", data=data, format=codec)
    return types()[COMPRESSED](header=header(stamp, "eye"), format=codec, data=data)


def video_bag(folder, kind=FFMPEG, codec="libx264", name="h264", drop=(), change=None, ros="bgr8", **options):
    """A bag with video of both cameras; ``drop``: packets of the left one that are lost; ``change``: (packet, data)."""
    base = bag_of(folder, {"/left/camera_info": INFO, "/right/camera_info": INFO})
    messages = []
    for side in ("left", "right"):
        for at, (data, key, k) in enumerate(encoded(side, codec, **options)):
            if side == "left" and at in drop:
                continue
            if side == "left" and change is not None and at == change[0]:
                data = change[1](data)
            sent = message(kind, data, key, k, name, ros)
            messages.append((f"/{side}/image_rect{ENDS[kind]}", kind, (at + 1) * PERIOD, sent))
    return with_messages(base, sorted(messages, key=lambda each: each[2]))


def numbers(samples) -> list[int]:
    return [sample.stamp // PERIOD - 1 for sample in samples]


def check(samples, grey: bool = False) -> None:
    """Every image is that of its own stamp."""
    for sample in samples:
        left, right = sample.raw_images()
        for side, image in (("left", left), ("right", right)):
            expected = picture(sample.stamp // PERIOD - 1, side, grey)
            expected = expected[..., 1] if grey else expected
            assert image.shape == expected.shape
            assert np.abs(image.astype(int) - expected).mean() < 3.0  # the next image is 7 brighter
            assert abs(float(image.mean()) - float(expected.mean())) < 2.0


# ---- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FFMPEG, VIDEO, COMPRESSED])
def test_after_a_lost_packet_nothing_is_decoded_until_the_next_key_frame(tmp_path, caplog, kind):
    bag = video_bag(tmp_path / "bag", kind, drop=(3, 10))
    with caplog.at_level(logging.WARNING):
        samples = open_bag_pairs(bag)
    assert numbers(samples) == [0, 1, 2, 8, 9, *range(16, 24)]
    said = f"/left/image_rect{ENDS[kind]}: of 22 images 13 can be decoded (9 from packets that are lost to the next"
    assert said in caplog.text
    check(samples)


def test_a_lost_key_frame_and_packets_before_the_first_one(tmp_path, caplog):
    bag = video_bag(tmp_path / "bag", drop=(0, 16))
    with caplog.at_level(logging.WARNING):
        samples = open_bag_pairs(bag)
    assert numbers(samples) == list(range(8, 16))
    assert "(7 packets before the first key frame and 7 from packets that are lost" in caplog.text
    check(samples)
    with pytest.raises(FileError, match="/left/image_rect/ffmpeg is video without a key frame that can be used"):
        open_bag_pairs(video_bag(tmp_path / "none", drop=(0, 8, 16)))


def test_a_damaged_packet_is_named_by_all_that_need_it(tmp_path):
    def damaged(data: bytes) -> bytes:
        return data[: len(data) // 2]

    samples = open_bag_pairs(video_bag(tmp_path / "bag", change=(11, damaged)))
    assert numbers(samples) == list(range(COUNT))
    check(samples[:11])
    for sample in (samples[11], samples[13], samples[15], samples[12]):
        with pytest.raises(
            FileError, match=f"at {sample.stamp} ns: the video is damaged at 1200000000 ns, and not dec"
        ):
            sample.images()
    check(samples[16:])
    check(samples[8:11])


def test_a_codec_that_is_not_known_and_a_missing_pyav_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileError, match="/left/image_rect/ffmpeg: its codec 'mpeg7' is not known: av1, h264, hevc"):
        open_bag_pairs(video_bag(tmp_path / "other", name="mpeg7"))
    bag = video_bag(tmp_path / "bag")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(FileError, match="/left/image_rect/ffmpeg: its images are video, which PyAV .*: pip install av"):
        open_bag_pairs(bag)


@pytest.mark.parametrize(("kind", "transport"), [(FFMPEG, "ffmpeg"), (VIDEO, "foxglove"), (COMPRESSED, "compressed")])
def test_nodes_take_the_transport_that_the_bag_has(tmp_path, monkeypatch, kind, transport):
    inputs = BagInputs.of(video_bag(tmp_path / "bag", kind))
    assert (inputs.transport, inputs.remappings()) == (transport, [])
    monkeypatch.setitem(ENDS, kind, "_h264")  # a driver's own name
    assert BagInputs.of(video_bag(tmp_path / "own", kind)).remappings() == [
        (f"{side}/image_rect/{transport}", f"/{side}/image_rect_h264") for side in ("left", "right")
    ]


def test_a_node_has_one_transport(tmp_path):
    topics = {"/left/image_rect/compressed": COMPRESSED, "/right/image_rect/ffmpeg": FFMPEG}
    images = [(topic, kind, 1, message(kind, b"", True, 0, "h264")) for topic, kind in topics.items()]
    bag = with_messages(bag_of(tmp_path / "bag", {"/left/camera_info": INFO, "/right/camera_info": INFO}), images)
    with pytest.raises(
        FileError, match=f"is a {COMPRESSED} and /right/image_rect/ffmpeg a {FFMPEG}, and a node has on"
    ):
        BagInputs.of(bag, left="/left/image_rect/compressed", right="/right/image_rect/ffmpeg")


# ---- whole streams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "codec", "name"),
    [
        (FFMPEG, "libx264", "libx264"), (FFMPEG, "libx264", "h264_nvenc"), (VIDEO, "libx264", "h264"),
        (COMPRESSED, "libx264", "h264"), (FFMPEG, "libx265", "hevc_nvenc"), (VIDEO, "libx265", "h265"),
    ],
)  # fmt: skip
def test_every_image_has_its_own_stamp_in_any_order(tmp_path, kind, codec, name):
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec}")
    samples = open_bag_pairs(video_bag(tmp_path / "bag", kind, codec, name))
    assert numbers(samples) == list(range(COUNT))
    check(samples)
    check([samples[k] for k in (20, 3, 3, 23, 0, 15, 16, 7)])
    check(pickle.loads(pickle.dumps(samples))[5:7])


def test_images_that_are_not_in_the_order_of_decoding(tmp_path, caplog):
    samples = open_bag_pairs(video_bag(tmp_path / "bag", reordered=True))
    assert numbers(samples) == list(range(COUNT))
    check(samples)
    check([samples[k] for k in (23, 2, 9, 1)])
    with caplog.at_level(logging.WARNING):
        samples = open_bag_pairs(video_bag(tmp_path / "lost", reordered=True, drop=(11,)))
    assert not set(range(8, 16)) & set(numbers(samples)) and len(samples) >= COUNT - GOP - 1
    check(samples)


def test_grey_cameras_stay_grey(tmp_path):
    check(open_bag_pairs(video_bag(tmp_path / "bag", ros="mono8", grey=True)), grey=True)


def test_parameter_sets_that_come_once(tmp_path):
    def without_parameters(data: bytes) -> bytes:
        units = re.split(rb"\x00\x00\x00?\x01", data)
        kept = [unit for unit in units if unit and unit[0] & 31 not in (7, 8)]
        return b"".join(b"\0\0\0\1" + unit for unit in kept)

    samples = open_bag_pairs(video_bag(tmp_path / "bag", change=(16, without_parameters)))
    check([samples[k] for k in (18, 2, 17, 16, 23)])


def test_raw_and_compressed_images_come_before_video():
    video = {f"/{side}/image_rect/ffmpeg": FFMPEG for side in ("left", "right")}
    infos = {f"/{side}/camera_info": INFO for side in ("left", "right")}
    found = find_topics({**video, **infos})
    assert found == ("/left/image_rect/ffmpeg", "/right/image_rect/ffmpeg", "/left/camera_info", "/right/camera_info")
    packed = {f"/{side}/image_rect/compressed": COMPRESSED for side in ("left", "right")}
    assert find_topics({**video, **packed, **infos}).left == "/left/image_rect/compressed"
