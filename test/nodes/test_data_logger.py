"""data_logger_node over DDS: what is recorded, and what is said about it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Int32MultiArray, String
from support.logger import LoggerBench, balanced, logger_bench, small_wall
from support.nodes import compressed_image, pair_messages
from support.waiting import LIMIT, wait_until

from fg_depth_ros.data.bags.messages import stamp_of
from fg_depth_ros.data.bags.storage import BagStorage
from fg_depth_ros.data.io import messages
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.nodes.common.message_classes import message_class
from fg_depth_ros.nodes.data_logger import node as data_logger_node
from fg_depth_ros.nodes.data_logger import topics as logger_topics

Make = Callable[..., LoggerBench]


@pytest.fixture
def make(ros_domain: int, tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as made:
        yield lambda **values: made.enter_context(logger_bench(ros_domain, tmp_path / "recordings", **values))


def test_a_snapshot_keeps_what_came_before_and_after_it(make: Make) -> None:
    bench = make(use_sim_time=True)
    bench.play_pairs(20)
    assert not list(bench.root.glob("*episode*")), "nothing was asked for yet"
    answer = bench.call("snapshot")
    assert answer.success, answer.message
    (line,) = bench.episodes(1)
    assert (line["name"], line["trigger"]) == (answer.message, "manual")
    pairs = bench.pairs(line)
    stamps = [int(pair.name) for pair in pairs]
    first = bench.sent.index(stamps[0])
    assert stamps == bench.sent[first : first + len(stamps)], "every pair between the first and the last"
    assert bench.called - 0.6e9 <= stamps[0] <= bench.answered - 0.55e9, "0.6 s before"
    assert bench.called + 0.25e9 <= stamps[-1] <= bench.answered + 0.3e9, "0.3 s after"
    assert (line["pairs"], line["began_ns"], line["ended_ns"]) == (len(stamps), stamps[0], stamps[-1])
    scene = small_wall()
    assert all(np.array_equal(a, b) for a, b in zip(pairs[-1].images(), (scene.left, scene.right), strict=True))
    assert pairs[0].rig == StereoRig.from_dict(line["rig"])
    assert pairs[0].rig.baseline == pytest.approx(scene.rig.baseline)
    account = bench.settled()
    assert balanced(account), account
    assert (account["dropped"], account["written"]) == (0, len(stamps))


def test_a_snapshot_that_ends_before_the_node_looks_again_is_answered_with_its_name(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fg_depth_ros.nodes.data_logger.node._CHECK_SECONDS", 2.0)
    bench = make(use_sim_time=True)
    bench.play_pairs(20)
    answer = bench.call("snapshot")
    (line,) = bench.episodes(1)
    assert (answer.success, answer.message) == (True, line["name"])


def test_start_and_stop_record_all_that_comes_between(make: Make) -> None:
    bench = make(record="off", interval_period=0.1)  # off: the interval does not count
    assert bench.call("stop", playing=False).message == "nothing was being recorded"
    bench.play_pairs(8)
    begun = bench.call("start")
    assert begun.success, begun.message
    bench.play(lambda: int(bench.values("recording").get("pairs written", 0)) > 5)
    received = bench.logger_node.inputs.matched
    values = bench.wait(
        lambda: (v := bench.values("recording")).get("pairs formed") == str(received) and v["episode"] != "none" and v
    )
    ended = bench.call("stop")
    assert (ended.success, ended.message) == (True, begun.message)
    (line,) = bench.episodes(1, playing=False)
    assert (line["name"], line["trigger"], line["drops"]) == (begun.message, "continuous", {})
    stamps = [int(pair.name) for pair in bench.pairs(line)]
    first = bench.sent.index(stamps[0])
    assert first >= 8, "what came before ~/start is not wanted"
    assert stamps == bench.sent[first : first + len(stamps)]
    assert values["left/image_rect received"] == values["pairs formed"] == values["pairs offered"]
    assert 0 < float(values["left/image_rect rate (Hz)"]) < 25
    assert values["episode"] == begun.message
    assert int(values["free space (bytes)"]) > 0
    assert {"queue (bytes)", "rate (MB/s)", "last error", "pairs in queue, largest"} <= values.keys()


def test_a_snapshot_without_cameras_says_what_is_missing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_logger_node, "_RESPONSE_SECONDS", 1.2)
    bench = make()
    answer = bench.call("snapshot", playing=False)
    assert not answer.success
    assert "no message on /left/image_rect (" in answer.message
    assert "1 publisher(s) are there, but nothing comes: check that they run" in answer.message
    assert bench.level("recording") == 1


def test_other_topics_are_recorded_as_they_are_also_what_was_said_before(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger_topics, "_WARN_SECONDS", 0.2)
    bench = make(topics=["words", "/numbers", "/latched", "/left/image_rect"])
    bench.play(lambda: "/words: nobody publishes it" in bench.told())
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    said = [bench.node.create_publisher(String, "latched", latched) for _ in range(25)]  # as static transforms have
    for number, publisher in enumerate(said):
        publisher.publish(String(data=f"long ago {number}"))
    effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    words, numbers = (
        bench.node.create_publisher(String, "words", 10),
        bench.node.create_publisher(Int32MultiArray, "numbers", effort),
    )
    bench.wait(lambda: all(p.get_subscription_count() for p in (*said, words, numbers)))
    bench.play_pairs(20)  # longer than what is kept from before
    bench.call("start")
    texts = [String(data=text) for text in ("", "zwei", "ein längerer Satz")]
    arrays = [Int32MultiArray(data=[i, -5, 2**31 - 1]) for i in range(3)]
    for text, array in zip(texts, arrays, strict=True):
        words.publish(text)
        numbers.publish(array)
    bench.play(lambda: "/numbers received" in bench.values("recording"))
    bench.play_pairs(5)
    bench.call("stop")
    (line,) = bench.episodes(1, playing=False)
    assert bench.messages(line, "/words") == [serialize_message(text) for text in texts]
    assert bench.messages(line, "/numbers") == [serialize_message(array) for array in arrays]
    assert {serialize_message(String(data=f"long ago {number}")) for number in range(25)} <= set(
        bench.messages(line, "/latched")
    )
    topics = BagStorage(bench.root / line["name"]).topics
    assert topics["/numbers"] == "std_msgs/msg/Int32MultiArray"
    assert len(bench.messages(line, "/left/image_rect")) == line["pairs"], "named twice, recorded once"
    metadata = yaml.safe_load((bench.root / line["name"] / "metadata.yaml").read_text())
    profiles = {
        topic["topic_metadata"]["name"]: yaml.safe_load(topic["topic_metadata"]["offered_qos_profiles"])[0]
        for topic in metadata["rosbag2_bagfile_information"]["topics_with_message_count"]
    }
    assert profiles["/latched"]["durability"] == 1, "a player must latch it again"
    assert (profiles["/words"]["durability"], profiles["/words"]["reliability"]) == (2, 1)
    assert profiles["/numbers"]["reliability"] == 2
    assert bench.log_has("/words (std_msgs/msg/String) has appeared")


def test_latched_messages_that_are_large_are_not_all_repeated_and_images_not_at_all(make: Make) -> None:
    bench = make(use_sim_time=True, record="off", record_depth=True, topics=["/maps", "/large"], queue_size=16)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    maps, large = (bench.node.create_publisher(String, name, latched) for name in ("/maps", "/large"))
    depth = bench.node.create_publisher(Image, "/depth/image_rect", latched)
    bench.wait(lambda: all(p.get_subscription_count() for p in (maps, large, depth)))
    received = bench.logger_node.topics.received
    sent = {
        maps: [String(data=f"{k:02}" * 500_000) for k in range(30)],
        large: [String(data=c * 5_000_000) for c in "ab"],
    }
    sent[depth] = [messages.fill_image(Image(), np.ones((100, 100), np.float32), "32FC1")]
    for publisher, every in sent.items():
        for count, message in enumerate(every, start=1):
            publisher.publish(message)
            bench.wait(lambda p=publisher, count=count: received[p.topic_name] == count)
    bench.play_pairs(20)  # longer than what is kept from before
    bench.call("start")
    bench.play_pairs(5)
    bench.call("stop")
    (line,) = bench.episodes(1, playing=False)
    assert [data[8:10] for data in bench.messages(line, "/maps")] == [b"26", b"27", b"28", b"29"], "4 MiB"
    assert [data[8:9] for data in bench.messages(line, "/large")] == [b"b"]
    assert "/depth/image_rect" not in line["messages"]
    assert (line["drops"], bench.settled()["dropped"]) == ({}, 0)


def test_a_triggered_episode_begins_with_its_latched_topics(make: Make) -> None:
    """They are needed from the seconds before the trigger on, in every episode."""
    bench = make(use_sim_time=True, topics=["/latched"], before=0.5, max_episode_seconds=1.0, after=1.5)
    publisher = bench.node.create_publisher(
        String, "/latched", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )
    publisher.publish(String(data="long ago"))
    bench.wait(lambda: bench.logger_node.topics.received["/latched"])
    bench.play_pairs(20)  # longer than what is kept from before
    assert bench.call("snapshot").success
    for line in bench.episodes(2)[:2]:
        messages = list(BagStorage(bench.root / line["name"]).replay(["/latched", "/left/image_rect"]))
        assert [message.topic for message in messages].index("/latched") == 0
        assert messages[0].data == serialize_message(String(data="long ago"))
        assert messages[0].recorded == line["recorded_ns"][0] == messages[1].recorded
        assert [message.topic for message in messages].count("/latched") == 1


def test_a_topic_that_becomes_latched_is_latched_in_the_recording(make: Make) -> None:
    bench = make(topics=["/words"], before=0.1)
    volatile = bench.node.create_publisher(String, "/words", 10)
    bench.wait(volatile.get_subscription_count)
    bench.executor.create_task(bench.node.destroy_publisher, volatile)
    bench.wait(lambda: bench.node.count_publishers("/words") == 0)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    bench.node.create_publisher(String, "/words", latched).publish(String(data="at the start of its driver"))
    bench.wait(lambda: bench.log_has("/words: subscribed again: it is latched now"))
    bench.wait(lambda: bench.logger_node.topics.latched())
    bench.play_pairs(10)  # longer than what is kept from before
    assert bench.call("snapshot").success
    (line,) = bench.episodes(1)
    assert bench.messages(line, "/words") == [serialize_message(String(data="at the start of its driver"))]


def test_a_topic_whose_type_is_not_installed_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> Any:
        return message_class(name.replace("std_msgs", "no_such_msgs"))

    monkeypatch.setattr(logger_topics, "message_class", not_installed)
    bench = make(topics=["words"], record="continuous")
    bench.node.create_publisher(String, "words", 10)
    bench.play(lambda: "/words is not recorded" in bench.told())
    assert "its type no_such_msgs/msg/String cannot be imported" in bench.told()
    assert "install or source no_such_msgs" in bench.told()
    assert bench.settled()["written"] > 0


def test_other_messages_that_are_dropped_or_lost_are_a_warning_and_in_the_manifest(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(record="continuous", topics=["/words"], stall_timeout=3600.0)
    publisher = bench.node.create_publisher(String, "words", 10)
    bench.wait(publisher.get_subscription_count)
    bench.play_until_written(3)
    bench.wait(lambda: bench.level("recording") == 0)
    recorder, gate = bench.logger_node.recorder, threading.Event()
    write = recorder._writer.write
    monkeypatch.setattr(recorder._writer, "write", lambda groups: write(groups) if gate.wait(LIMIT) else [])
    monkeypatch.setattr(recorder, "config", replace(recorder.config, queue_bytes=1))
    monkeypatch.setattr(type(bench.logger_node.topics), "lost", 5)

    def send() -> None:
        bench.send(bench.pair)
        publisher.publish(String(data="word"))

    wait_until(lambda: recorder.extra_drops["queue full"], step=send, period=0.05)
    gate.set()
    bench.wait(lambda: "other messages were dropped so far: " in bench.told())
    assert bench.level("recording") == 1
    assert "lost on the way 5" in bench.told() and "raise queue_size (queue full)" in bench.told()
    bench.end()
    (line,) = bench.lines()
    assert line["other_drops"]["lost on the way"] == 5
    assert line["other_drops"]["queue full"] >= 1


def test_lost_messages_of_the_cameras_are_a_warning_and_in_the_manifest(make: Make) -> None:
    bench = make(record="continuous", input_depth=1, stall_timeout=3600.0)
    bench.play_until_written(3)

    def burst() -> None:
        for _ in range(5):
            bench.send(bench.pair)

    inputs = bench.logger_node.inputs
    wait_until(lambda: inputs.lost > 4, step=burst, period=0.05)
    bench.play(lambda: "camera messages were dropped so far: lost on the way" in bench.told())
    assert bench.level("recording") == 1
    assert "raise queue_size (queue full) or input_depth (lost on the way)" in bench.told()
    bench.wait(lambda: bench.logger_node.recorder.input_drops.total() == inputs.lost)
    bench.end()
    (line,) = bench.lines()
    assert line["input_drops"] == {"lost on the way": inputs.lost}
    assert line["drops"] == line["other_drops"] == {}


def test_recording_that_was_stopped_goes_on_when_record_is_set_again(make: Make) -> None:
    bench = make(record="continuous")
    bench.play_until_written(2)
    assert bench.call("stop").success
    bench.play(lambda: "stopped by ~/stop, though record is continuous" in bench.told())
    assert bench.level("recording") == 0
    written = bench.settled()["written"]
    assert bench.logger_node.set_parameters([Parameter("record", value="continuous")])[0].successful
    bench.play_until_written(written + 2)


def test_without_a_home_folder_the_parameter_is_named(
    ros_domain: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # as for a container's --user 12345
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert data_logger_node.main([]) == 1
    said = capfd.readouterr().err
    assert "root '~/fg_depth_recordings': ~ stands for no folder" in said
    assert "Traceback" not in said


def test_pairs_of_a_camera_info_that_came_once_are_recorded_with_it(make: Make) -> None:
    bench = make(record="continuous")
    bench.play_until_written(1)
    images = {name: message for name, message in bench.pair.items() if name.endswith("image_rect")}
    bench.play_until_written(12, pair=images)
    bench.end()
    (line,) = bench.lines()
    pairs = bench.pairs(line)
    assert len(pairs) >= 12
    infos = [stamp_of(data) for data in bench.messages(line, "/left/camera_info")]
    assert infos == [int(pair.name) for pair in pairs], "each image has one of its own"


def test_a_latched_camera_info_is_received_however_long_ago_it_was_sent(make: Make) -> None:
    bench = make(latched=True, record="continuous")
    bench.end()
    bench.send({name: message for name, message in bench.pair.items() if name.endswith("camera_info")})
    bench.begin()
    images = {name: message for name, message in bench.pair.items() if name.endswith("image_rect")}
    bench.play_until_written(3, pair=images)
    bench.end()
    (line,) = bench.lines()
    assert len(bench.pairs(line)) >= 3


@pytest.mark.parametrize("storage", ["zstd", "png"])
def test_images_are_packed_without_loss(make: Make, storage: str) -> None:
    bench = make(storage=storage, record="continuous")
    bench.play_until_written(6)
    bench.end()
    (line,) = bench.lines()
    left = "/left/image_rect/compressed" if storage == "png" else "/left/image_rect"
    assert line["messages"][left] == line["pairs"] >= 6
    assert line["storage"] == storage
    scene = small_wall()
    assert all(
        np.array_equal(a, b) for a, b in zip(bench.pairs(line)[0].images(), (scene.left, scene.right), strict=True)
    )


def test_compressed_images_are_recorded_as_they_come(make: Make) -> None:
    bench = make(image_transport="compressed", storage="jpeg", record="continuous")
    bench.play_until_written(6)
    bench.end()
    (line,) = bench.lines()
    packed = compressed_image(small_wall().left, kind="png").data.tobytes()
    assert all(
        data.rstrip(b"\0").endswith(packed.rstrip(b"\0"))
        for data in bench.messages(line, "/left/image_rect/compressed")
    )
    assert cv2.imdecode(np.frombuffer(packed, np.uint8), 1) is not None
    assert np.array_equal(bench.pairs(line)[0].images()[1], small_wall().right)


def test_live_video_is_recorded_as_it_comes_and_its_motion_is_measured(make: Make) -> None:
    pytest.importorskip("av", reason="video is decoded by PyAV (extra 'video')")
    from support.live_video import VideoCameras

    bench = make(image_transport="compressed", record="continuous", motion_flow=2.0, check_period=0.0)
    scenes = [small_wall(), small_wall(seed=1, disparity=24)]
    cameras = VideoCameras(bench, scenes)
    written = bench.logger_node.recorder.counters
    wait_until(
        lambda: written()["written"] >= 12 and float(bench.values("recording").get("measured: motion", 0)) > 0.5,
        step=cameras.send, period=0.05,
    )  # fmt: skip
    bench.end()
    (line,) = bench.lines()
    pairs = bench.pairs(line)
    assert len(pairs) >= 6
    for pair in pairs:
        scene = cameras.scene(pair.stamp)
        for image, sent in zip(pair.images(), (scene.left, scene.right), strict=True):
            grey, sent_grey = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(int) for each in (image, sent))
            assert np.abs(grey - sent_grey).mean() < 6.0, "another wall differs by 40"


def test_another_calibration_begins_another_episode(make: Make) -> None:
    bench = make(record="continuous")
    bench.play_until_written(6)
    moved = small_wall()
    rig = StereoRig(**{**moved.rig.to_dict(), "baseline": 0.24})
    other = pair_messages(type(moved)(moved.left, moved.right, rig, moved.disparity))
    other["left/image_rect"].header.frame_id = bench.pair["left/image_rect"].header.frame_id
    changed = len(bench.sent)
    bench.play_until_written(12, other)
    bench.end()
    before, after = bench.lines()
    assert (before["rig"]["baseline"], after["rig"]["baseline"]) == (pytest.approx(0.12), pytest.approx(0.24))
    assert after["continues"] == before["name"]
    assert {pair.rig.baseline for pair in bench.pairs(before)} == {before["rig"]["baseline"]}
    assert {pair.rig.baseline for pair in bench.pairs(after)} == {after["rig"]["baseline"]}
    stamps = [int(pair.name) for line in (before, after) for pair in bench.pairs(line)]
    assert stamps == bench.sent[bench.sent.index(stamps[0]) :]
    assert int(bench.pairs(after)[0].name) == bench.sent[changed]
    assert bench.log_has("another calibration")


def test_a_calibration_of_no_stereo_pair_is_recorded_and_named(make: Make) -> None:
    bench = make(record="continuous")
    bench.pair["right/camera_info"].p = bench.pair["left/camera_info"].p
    bench.play(lambda: "recorded without a rig" in bench.told())
    bench.end()
    (line,) = bench.lines()
    assert line["rig"] is None
    assert len(bench.messages(line, "/left/image_rect")) == line["pairs"] > 0


def test_a_refused_start_value_is_named_and_the_default_taken(make: Make) -> None:
    bench = make(storage="lz4")
    bench.wait(lambda: bench.level("recording") == 1)
    bench.play(lambda: "no stereo pair" not in bench.told())
    assert "storage = 'lz4' is unknown: choose one of raw, zstd, png, jpeg; the default is used" in bench.told()


def test_refused_start_values_are_all_named_until_they_are_replaced(make: Make) -> None:
    bench = make(storage="lz4", cooldown=-1.0)
    bench.play(lambda: "storage = 'lz4'" in bench.told() and "cooldown = -1" in bench.told())
    node = bench.logger_node
    assert node is not None
    assert node.set_parameters([Parameter("cooldown", value=1.0)])[0].successful
    bench.play(lambda: "storage = 'lz4'" in bench.told() and "cooldown" not in bench.told())
    assert not node.set_parameters([Parameter("storage", value="png")])[0].successful  # it was read at the start


def test_a_damaged_message_is_named_until_the_next_pair(make: Make) -> None:
    bench = make(record="continuous", stall_timeout=30.0)
    bench.play_until_written(2)
    bench.publish("left/image_rect", b"\x00\x01\x00\x00")
    bench.wait(lambda: "are no message with a header" in bench.told())
    bench.play(lambda: bench.log_has("recovered after") and "no message with a header" not in bench.told())


def test_the_logger_needs_no_network_library() -> None:
    """It runs where there is no accelerator and little memory, and is there as soon as it is started."""
    code = "import sys, fg_depth_ros.nodes.data_logger.node; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((String, ReliabilityPolicy.RELIABLE, False), (String, ReliabilityPolicy.BEST_EFFORT, False)),
        ((String, ReliabilityPolicy.RELIABLE, True), (String, ReliabilityPolicy.RELIABLE, False)),
        ((String, ReliabilityPolicy.RELIABLE, False), (Int32MultiArray, ReliabilityPolicy.RELIABLE, False)),
    ],
    ids=["best effort", "volatile", "another type"],
)
def test_a_publisher_that_comes_back_with_another_offer_is_recorded_again(
    make: Make, ros_domain: int, before: Any, after: Any
) -> None:
    bench = make(topics=["/words"], record="continuous")
    received = bench.logger_node.topics.received
    for kind, reliability, latched in (before, after):
        context = Context()  # a participant of its own: within one, all of a topic have one type
        rclpy.init(context=context, domain_id=ros_domain)
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(depth=10, reliability=reliability, durability=durability)
        node = rclpy.create_node("publisher", context=context)
        publisher = node.create_publisher(kind, "/words", qos)
        try:
            received.clear()
            # One that is sent before both sides know each other never comes.
            wait_until(lambda: received["/words"], step=partial(publisher.publish, kind()), period=0.1)
        finally:
            node.destroy_node()
            rclpy.shutdown(context=context)
        bench.wait(lambda: bench.node.count_publishers("/words") == 0)
    assert bench.log_has("/words: subscribed again")
