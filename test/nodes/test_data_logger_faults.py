"""What goes wrong around data_logger_node: restarts, clocks that jump, a disk that refuses, a crash before."""

from __future__ import annotations

import json
import re
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import rclpy
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from std_msgs.msg import String
from support.logger import QUICK, LoggerBench, balanced, logger_bench, small_wall
from support.nodes import User, pair_messages
from support.waiting import LIMIT, wait_until

from fg_depth_ros.apps.processes import ProcessGroup
from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.nodes.common.codes import FaultCode, RecorderFault
from fg_depth_ros.nodes.common.environment import child_environment
from fg_depth_ros.nodes.data_logger import node
from fg_depth_ros.nodes.data_logger.node import DataLoggerNode
from fg_depth_ros.recording import episode_writer, recorder
from fg_depth_ros.recording.recovery import Recovered

Make = Callable[..., LoggerBench]


@pytest.fixture
def make(ros_domain: int, tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as made:
        yield lambda **values: made.enter_context(logger_bench(ros_domain, tmp_path / "recordings", **values))


def test_what_the_recorder_reports_about_are_codes() -> None:
    written = {name: getattr(episode_writer, name) for name in ("DISK", "SPACE", "ENCODING", "TYPES", "MANIFEST")}
    kept = {name: getattr(recorder, name) for name in ("RECOVERY", "INTERNAL", "DESCRIPTION")}
    assert {name: RecorderFault[name] for name in written | kept} == written | kept


def test_the_logger_starts_again_beside_what_it_recorded(make: Make) -> None:
    bench = make(record="continuous")
    bench.play_until_written(4)
    bench.end()
    (first,) = bench.lines()
    bench.begin()
    bench.play_until_written(4)
    bench.end()
    lines = bench.lines()
    assert lines[0] == first
    assert len(lines) == 2
    assert all(len(bench.pairs(line)) == line["pairs"] >= 4 for line in lines)


def test_cameras_that_start_again_go_on_in_the_same_episode(make: Make) -> None:
    bench = make(record="continuous")
    bench.play_until_written(4)
    for publisher in list(bench._publishers.values()):
        bench.executor.create_task(bench.node.destroy_publisher, publisher)
    bench.wait(lambda: "no stereo pair for" in bench.told())
    assert "no message on /left/image_rect" in bench.told() or "none belong together" in bench.told()
    camera = User(bench.owner)
    try:
        camera.wait(camera.heard)
        written = bench.settled()["written"]
        assert bench.logger_node is not None
        recorder = bench.logger_node.recorder
        camera.send_until(bench.pair, lambda: recorder.counters()["written"] >= written + 4, period=0.05)
        camera.send_until(bench.pair, lambda: "no stereo pair" not in bench.told(), period=0.05)
    finally:
        camera.close()
    bench.end()
    (line,) = bench.lines()
    assert line["pairs"] >= written + 4


def test_the_end_of_a_recording_is_no_camera_that_failed(make: Make) -> None:
    bench = make(use_sim_time=True, stall_timeout=0.3)
    bench.play_pairs(3)
    bench.wait(lambda: "no stereo pair for" in bench.told())
    bench.node.destroy_publisher(bench._clock)
    bench.wait(lambda: bench.has(FaultCode.CLOCK_ENDED, "/clock has no publisher any more", name="recording"))
    assert bench.level("recording") == 0


def test_an_image_without_its_partner_is_counted_and_not_recorded(make: Make) -> None:
    bench = make(record="continuous", sync_queue_size=2)
    bench.play_until_written(3)
    alone = {name: message for name, message in bench.pair.items() if name.startswith("left")}
    for _ in range(6):
        bench.send(alone)
    bench.play(lambda: int(bench.values("recording").get("left/image_rect without partner", 0)) >= 4)
    values = bench.values("recording")
    assert values["right/image_rect without partner"] == "0"
    assert values["pairs formed"] == values["pairs offered"]


def test_a_clock_that_jumps_begins_another_episode_and_loses_no_pair_uncounted(make: Make) -> None:
    """use_sim_time: a simulation that starts again, and one that is wound on."""
    bench = make(record="continuous", use_sim_time=True)
    node = bench.logger_node
    assert node is not None
    bench.send_until(bench.pair, lambda: node.inputs.drops["no time"] >= 2, period=0.05)  # there is no /clock yet
    assert bench.settled()["offered"] == 0
    begins = [1000.0, 900.0, 5000.0]  # s: first, then back, then forward
    for number, begin in enumerate(begins):
        bench.time = round(begin * 1e9)
        done = bench.settled()["written"] + 5
        bench.play(lambda done=done: node.recorder.counters()["written"] >= done)
        assert bench.settled()["written"] >= done, number
    bench.end()
    lines = bench.lines()
    assert [line["name"][len("episode_") :][:15] for line in lines] == [
        "19700101T001640", "19700101T001500", "19700101T012320",
    ]  # fmt: skip
    for line, begin in zip(lines, begins, strict=True):
        stamps = [int(pair.name) / 1e9 for pair in bench.pairs(line)]
        assert begin < stamps[0] <= stamps[-1] < begin + 10
        assert begin * 1e9 < line["recorded_ns"][0] <= line["recorded_ns"][1] < (begin + 10) * 1e9
    assert [line["continues"] for line in lines] == [None, lines[0]["name"], lines[1]["name"]]
    account = node.recorder.counters()
    assert balanced(account), account
    assert account["dropped"] == 0
    assert account["written"] == sum(line["pairs"] for line in lines)


def test_a_disk_that_refuses_is_loud_and_recording_goes_on_by_itself(make: Make) -> None:
    bench = make(record="continuous", sync_period=0.1)
    bench.play_until_written(4)
    aside = bench.root.with_name("aside")
    bench.root.rename(aside)
    bench.root.write_text("a file where the folder was")
    bench.play(lambda: bench.level("recording") == 2)
    assert str(bench.root) in bench.told()
    assert bench.logger_node is not None
    recorder = bench.logger_node.recorder
    bench.play(lambda: recorder.counters()["dropped"] > 0)
    bench.root.unlink()
    aside.rename(bench.root)
    written = recorder.counters()["written"]
    bench.play(lambda: recorder.counters()["written"] >= written + 4)
    bench.play(lambda: bench.level("recording") < 2)
    account = bench.settled()
    assert balanced(account), account
    values = bench.values("recording")
    assert sum(int(value) for key, value in values.items() if key.startswith("dropped: ")) > 0
    bench.episodes(1)  # what had to be left is completed beside the recording
    bench.end()
    lines = bench.lines()
    assert sum(line["pairs"] for line in lines) == recorder.counters()["written"]
    assert all(len(bench.pairs(line)) == line["pairs"] for line in lines)


@pytest.mark.parametrize("values", [{"record": "continuous"}, {"interval_period": 0.5}])
def test_what_an_earlier_run_left_is_completed_beside_the_recording(
    make: Make, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(root: Path) -> list[Recovered]:
        assert go_on.wait(LIMIT)
        return [Recovered("episode_before", 7, 0, "complete again")]

    monkeypatch.setattr(node, "recover", slow)
    bench = make(**values)
    bench.play_until_written(4)
    bench.play(lambda: bench.values("recording").get("earlier recordings") == "being completed")
    go_on.set()
    bench.play(lambda: bench.log_has("an earlier run left episode_before: 7 messages"))
    bench.play(lambda: "earlier recordings" not in bench.values("recording"))


def test_a_wrong_quality_of_service_is_named_and_leaves_the_node_up(make: Make, ros_domain: int) -> None:
    bench = make(
        topics=["/words"], record="continuous",
        **{"qos_overrides./words.subscription.reliability": "best-effort"},
    )  # fmt: skip
    publisher = bench.node.create_publisher(String, "/words", 5)
    bench.play(lambda: "qos_overrides./words.subscription" in bench.told() and "`best-effort`" in bench.told())
    bench.play_until_written(3)
    assert publisher.get_subscription_count() == 0
    bench.end()
    bench.values_given["qos_overrides./left/image_rect.subscription.durability"] = "latched"
    given = [Parameter(name, value=value) for name, value in {"root": str(bench.root), **bench.values_given}.items()]
    wrong = DataLoggerNode(context=bench.owner, parameter_overrides=given)
    try:
        fault = wrong.faults["subscription"]
        assert fault is not None and fault.code == FaultCode.NOT_CONFIGURED
        assert "qos_overrides./left/image_rect.subscription" in fault.text and "`latched`" in fault.text
        assert {"/right/image_rect", "/left/camera_info"} <= {found.topic_name for found in wrong.subscriptions}
    finally:
        wrong.destroy_node()


def test_a_message_that_cannot_be_read_is_counted_and_the_logger_goes_on(make: Make) -> None:
    """A string of 2 GiB in a message of 20 bytes: its stamp can be read, and nothing behind it."""
    bench = make(image_transport="compressed", motion_flow=2.0, record="continuous")
    bench.play_until_written(2)
    publisher = bench._publishers["left/image_rect"]
    node = bench.logger_node
    assert node is not None
    wait_until(
        lambda: node.inputs.drops["malformed message"],
        step=lambda: publisher.publish(bytes((0, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 255, 255, 255, 127)) + b"abcd"),
    )
    assert "/left/image_rect/compressed: " in node.faults["input"].text
    bench.play(lambda: node.faults["input"] is None)  # with the next pair
    bench.play_until_written(node.recorder.counters()["written"] + 2)
    assert not node.inputs.drops["internal error"]


def test_a_camera_info_that_cannot_be_read_is_counted_and_the_calibration_stays(make: Make) -> None:
    bench = make(record="continuous")
    bench.play_until_written(2)
    node = bench.logger_node
    assert node is not None
    rig = node.inputs.rig
    publisher = bench._publishers["left/camera_info"]
    whole = serialize_message(bench.pair["left/camera_info"])

    def step() -> None:
        stamp = bench.send({name: each for name, each in bench.pair.items() if name != "left/camera_info"})
        head = whole[:4] + struct.pack("<iI", stamp // 10**9, stamp % 10**9)
        publisher.publish(head + b"\xff\xff\xff\x7fabcd")

    wait_until(lambda: node.inputs.drops["malformed message"], step=step, period=0.05)
    assert "/left/camera_info: " in node.faults["input"].text
    written = node.recorder.counters()["written"]
    bench.play_until_written(written + 4)
    assert node.inputs.rig == rig
    assert not node.inputs.drops["internal error"]
    bench.end()
    assert len(bench.lines()) == 1


def test_quota_is_a_warning_and_the_oldest_go(make: Make) -> None:
    megabyte = 1 / 1024
    bench = make(quota=3 * megabyte, max_episode_size=1, record="continuous")
    bench.play_until_written(40)  # 117 kB each
    bench.end()
    lines, kept = bench.lines(), sorted(path.name for path in bench.root.glob("episode_*"))
    assert len(lines) > len(kept) >= 1
    assert kept == sorted(line["name"] for line in lines)[-len(kept) :]
    assert sum(file.stat().st_size for file in bench.root.rglob("*.mcap")) < 3 * 2**20


def test_a_quota_that_is_too_small_is_named_before_the_drops_that_it_makes(make: Make) -> None:
    bench = make(quota=0.0001, record="continuous")  # 107,374 bytes
    bench.play(lambda: bench.values("recording").get("dropped: quota", "0") != "0")
    bench.play(lambda: bench.level("recording") == 1)
    assert re.search(r"take 0 bytes and need \d\d\d,\d\d\d more, of 107,374; move some elsewhere", bench.told())


def test_names_that_can_be_no_topic_are_told_and_the_rest_is_recorded(make: Make) -> None:
    bench = make(topics=["not a topic", "", "/tf"], record="continuous")
    bench.play_until_written(2)
    bench.play(lambda: bench.level("recording") == 1)
    assert bench.told().startswith("parameter topics: 'not a topic' (")
    assert bench.told().endswith("give names such as /odom")
    assert "/tf waits" in bench.values("recording")


def test_a_killed_logger_is_recovered_at_the_next_start_and_sigint_completes(
    ros_domain: int, tmp_path: Path, make: Make
) -> None:
    root = tmp_path / "recordings"
    given = {**QUICK, "root": str(root), "record": "continuous"}
    context = Context()
    rclpy.init(context=context, domain_id=ros_domain)
    camera = User(context)
    try:
        with ProcessGroup(tmp_path / "logs", child_environment(domain_id=ros_domain)) as group:
            killed = group.start("killed", "fg_depth_ros.nodes.data_logger.node", given)
            pair = pair_messages(small_wall())

            def written() -> int:
                values = camera.values("recording") if camera.statuses else {}
                return int(values.get("pairs written", 0))

            camera.send_until(pair, lambda: written() > 5, period=0.05)
            killed.signal(signal.SIGKILL)
            killed.process.wait(LIMIT)
            assert list(root.glob(".episode_*.part"))
            assert not list(root.glob("episode_*"))
            camera.statuses.clear()
            again = group.start("again", "fg_depth_ros.nodes.data_logger.node", given)
            camera.send_until(pair, lambda: written() > 5, period=0.05)
            again.signal(signal.SIGINT)
            assert again.process.wait(LIMIT) == 0
            again.drain()
            assert any("an earlier run left episode_" in line for line in again.tail)
            assert any("_continuous is complete: " in line for line in again.tail)
            assert not any("rosout" in line for line in again.tail), "its last words were heard"
    finally:
        camera.close()
        rclpy.shutdown(context=context)
    lines = [json.loads(text) for text in (root / "manifest.jsonl").read_text().splitlines()]
    assert [line["recovered"] for line in lines] == [True, False]
    assert not list(root.glob(".episode_*"))
    for line in lines:
        pairs = open_bag_pairs(root / line["name"])
        assert len(pairs) >= 5
        assert pairs[0].images()[0].tobytes() == small_wall().left.tobytes()
