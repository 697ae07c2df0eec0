"""The bag player over real topics, in its own process: what arrives is what was recorded, when it was recorded."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

import rclpy
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from support.bags import large, storage_file, to_ros1
from support.nodes import RecordingLogger
from support.pair_folders import planes, small_rig
from support.spinning import SpinningNode
from support.waiting import LIMIT, wait_until

from fg_depth_ros.apps.processes import Child, ChildDied, ProcessGroup
from fg_depth_ros.data.bags.storage import IMAGE, INFO, BagStorage, RawMessage, message_types
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.files import FileError
from fg_depth_ros.nodes.common.message_classes import message_class
from fg_depth_ros.nodes.players import bag_player as bag_player_node
from fg_depth_ros.nodes.players.bag_player import BagPlayerNode, PlayedClock, ReadAhead

PLAYER = "fg_depth_ros.nodes.players.bag_player"
MS = 1_000_000
FIRST = 1_700_000_000_000_000_000  # long ago, so that it cannot be taken for the time now
TOPICS = {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE, "/left/camera_info": INFO, "/right/camera_info": INFO}
STRING = "std_msgs/msg/String"


def stereo_bag(path: Path, count: int = 5, period_ms: int = 100, first: int = FIRST, **options: Any) -> Path:
    pairs = [(first + k * period_ms * MS, *planes(k % 2)[:2]) for k in range(count)]
    return write_stereo_bag(path, pairs, small_rig(), **options)


def text_bag(path: Path, texts: Sequence[tuple[str, int, bytes]], kinds: dict[str, str], qos: tuple = ()) -> Path:
    """A bag of raw messages: (topic, recorded ns, bytes)."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    types = message_types()
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        lines = {}
        for topic, kind in kinds.items():
            known = kind in types.types
            lines[topic] = bag.add_connection(
                topic, kind, **({"typestore": types} if known else {"msgdef": "int8 x\n", "rihs01": "RIHS01_0"}),
                offered_qos_profiles=list(qos),
            )  # fmt: skip
        for topic, recorded, data in texts:
            bag.write(lines[topic], recorded, data)
    return path


def string(text: str) -> bytes:
    return bytes(message_types().serialize_cdr(message_types().types[STRING](data=text), STRING))


class Listener(SpinningNode):
    """Keeps every message as (bytes, time.monotonic of its arrival), by topic."""

    def __init__(
        self, group: ProcessGroup, topics: dict[str, str], best_effort: bool = False, latched: bool = False
    ) -> None:
        super().__init__(group, f"listener_{id(self)}")
        self.got: dict[str, list[tuple[bytes, float]]] = defaultdict(list)
        self.clock: list[int] = []
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        for topic, kind in topics.items():
            self.node.create_subscription(
                message_class(kind),
                topic,
                lambda data, got=self.got[topic]: got.append((bytes(data), time.monotonic())),
                QoSProfile(depth=500, reliability=reliability, durability=durability),
                raw=True,
            )
        self.node.create_subscription(
            Clock, "/clock", lambda m: self.clock.append(m.clock.sec * 10**9 + m.clock.nanosec), 1000
        )
        self.start()

    def wait(self, topic: str, count: int, may_end: Sequence[Child] = ()) -> list[tuple[bytes, float]]:
        self.group.wait_until(lambda: len(self.got[topic]) >= count, LIMIT, f"{count} of {topic}", may_end=may_end)
        return self.got[topic]


@pytest.fixture
def listen(group: ProcessGroup) -> Iterator[Callable[..., Listener]]:
    with contextlib.ExitStack() as made:

        def make(topics: dict[str, str] = TOPICS, **options: Any) -> Listener:
            listener = Listener(group, topics, **options)
            made.callback(listener.close)
            return listener

        yield make


def play(listener: Listener, *bags: Path, ros_args: Sequence[str] = (), **parameters: Any) -> str:
    """Plays to the end, in this process; returns what the player said."""
    values = {"bags": [str(bag) for bag in bags], "wait_for_subscribers": 1, "wait_timeout": LIMIT, **parameters}
    given = [Parameter(name, value=value) for name, value in values.items()]
    said: list[str] = []
    logger = RecordingLogger(said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BagPlayerNode, "get_logger", lambda self: logger)
        options = {"cli_args": ["--ros-args", *ros_args]} if ros_args else {}
        player = BagPlayerNode(context=listener.context, parameter_overrides=given, **options)
        listener.executor.add_node(player)
        listener.group.wait_until(lambda: player.finished, LIMIT, "the end of the player")
        player.wait_until_acknowledged(2.0)
        listener.executor.remove_node(player)
        player.destroy_node()
    assert not player.failure
    return "\n".join(said)


def stored(bag: Path) -> dict[str, list[RawMessage]]:
    found: dict[str, list[RawMessage]] = defaultdict(list)
    for message in BagStorage(bag).replay(BagStorage(bag).topics):
        found[message.topic].append(message)
    return found


def came(listener: Listener, topic: str, expected: Sequence[bytes]) -> bool:
    """Whether exactly these messages come. DDS may fill each up with zeros to a multiple of four bytes."""
    wait_until(lambda: len(listener.got[topic]) >= len(expected), describe=lambda: len(listener.got[topic]))
    got = [data for data, _ in listener.got[topic]]
    return len(got) == len(expected) and all(
        data in (want, want + bytes(-len(want) % 4)) for data, want in zip(got, expected, strict=True)
    )


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "error", "why"),
    [
        ({"bags": [""]}, FileError, "parameter bags is empty: name the bag to play"),
        ({"bags": ["gone"]}, FileError, "gone: no such bag"),
        ({"bags": ["bad"]}, FileError, "no bag of bad can be played; the last one: .*bad"),
        ({"topics": ["o"]}, ValueError, "topics: /o is in none of the bags; they have /left/camera_info, "),
        ({"rate": 0.0}, ValueError, "parameter rate = 0.0 is out of range"),
    ],
)
def test_what_cannot_be_played_is_refused(ros_domain, tmp_path, monkeypatch, parameters, error, why) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad").mkdir()
    Path("bad", "bad.mcap").write_bytes(b"no bag at all")
    values = {"bags": [str(stereo_bag(tmp_path / "bag", 2))], **parameters}
    given = [Parameter(name, value=value) for name, value in values.items()]
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    with pytest.raises(error, match=why):
        BagPlayerNode(context=context, parameter_overrides=given)
    rclpy.shutdown(context=context)


def test_what_is_closed_while_it_waits_names_no_fault_of_the_bag(ros_domain, tmp_path, monkeypatch) -> None:
    values = {"bags": [str(stereo_bag(tmp_path / "bag", 2))], "wait_for_subscribers": 1}
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    given = [Parameter(name, value=value) for name, value in values.items()]
    asked = threading.Event()
    patched = BagPlayerNode._has_subscribers
    monkeypatch.setattr(BagPlayerNode, "_has_subscribers", lambda self: asked.set() or patched(self))
    player = BagPlayerNode(context=context, parameter_overrides=given)
    assert asked.wait(LIMIT)
    player.destroy_node()
    assert player.failure == ""
    rclpy.shutdown(context=context)


def test_it_says_when_it_gives_up_waiting(group, tmp_path) -> None:
    values = {"bags": [str(stereo_bag(tmp_path / "bag", 2))], "wait_for_subscribers": 1, "wait_timeout": 0.5}
    group.start("player", PLAYER, values)
    why = r"/left/image_rect has 0 subscriber\(s\) of 1"
    with pytest.raises(ChildDied, match=f"exit code 1(.|\n)*{why}"):
        group.wait_until(lambda: False, LIMIT, "nothing")


def test_what_is_broken_is_named_and_the_rest_is_played(listen, tmp_path, caplog) -> None:
    whole = stereo_bag(tmp_path / "day" / "b_whole", 3)
    (tmp_path / "day" / "a_broken").mkdir()
    (tmp_path / "day" / "a_broken" / "a.mcap").write_bytes(b"broken")
    cut, _ = large(tmp_path / "day" / "c_cut", 8)
    file = storage_file(cut)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.5)])
    (cut / "metadata.yaml").unlink()
    text_bag(
        tmp_path / "day" / "d_odd",
        [("/odd", 5, b"\0\1\0\0\7"), ("/words", 6, b"\0"), ("/words", 7, string("good")), ("/a b!", 8, string("x"))],
        {"/odd": "nobody_msgs/msg/Odd", "/words": STRING, "/a b!": STRING},
    )
    listener = listen({**TOPICS, "/words": STRING})
    text = play(listener, tmp_path / "day", rate=20.0)
    rest = [m.data for m in BagStorage(file).scan(["/left/image_rect"])]
    assert 1 <= len(rest) < 8
    assert came(listener, "/left/image_rect", [m.data for m in stored(whole)["/left/image_rect"]] + rest)
    assert came(listener, "/words", [string("good")])
    assert "a bag is left out:" in text and "a_broken" in text
    assert "/odd is left out: its type nobody_msgs/msg/Odd cannot be imported" in text
    assert "/a b! is left out: Invalid topic name" in text
    assert "/words at 6 ns is left out, and others like it: 1 bytes are no message" in text
    assert "c_cut.mcap" in caplog.text and "cut off or damaged" in caplog.text


# ---- what it is for ------------------------------------------------------------------------------------------------


@pytest.fixture
def due(monkeypatch) -> list[int]:
    """When messages are to be published, ns of time.monotonic_ns(); each time once."""
    times: list[int] = []
    until = BagPlayerNode._until

    def noted(self: BagPlayerNode, at: int) -> bool:
        if at not in times[-1:]:
            times.append(at)
        return until(self, at)

    monkeypatch.setattr(BagPlayerNode, "_until", noted)
    return times


def early(listener: Listener, topic: str, due: Sequence[int]) -> int:
    """How many messages came before they were to be published. A busy machine makes them late, never early."""
    return sum(at * 1e9 < when - MS for (_, at), when in zip(listener.got[topic], due, strict=True))


@pytest.mark.parametrize(("storage", "rate"), [("mcap", 2.0), ("sqlite3", 0.5), ("ros1", 1.0)])
def test_bytes_and_times_are_those_of_the_recording(listen, due, tmp_path, storage, rate) -> None:
    bag = stereo_bag(tmp_path / "bag", 6, storage="mcap" if storage == "ros1" else storage)
    if storage == "ros1":  # played as the messages of ROS 2 that they were made of
        to_ros1(bag, tmp_path / "one.bag")
    listener = listen()
    text = play(listener, tmp_path / "one.bag" if storage == "ros1" else bag, rate=rate)
    for topic, messages in stored(bag).items():
        assert came(listener, topic, [m.data for m in messages]), topic
    assert np.diff(due).tolist() == [round(100 * MS / rate)] * 5
    assert early(listener, "/left/image_rect", due) == 0
    # /clock: the recording's time, never ahead of what is played, with each message's own time.
    wait_until(lambda: listener.clock and listener.clock[-1] == FIRST + 500 * MS)
    assert sorted(listener.clock) == listener.clock
    assert {m.recorded for m in stored(bag)["/left/image_rect"]} <= set(listener.clock)
    assert (min(listener.clock), max(listener.clock)) == (FIRST, FIRST + 500 * MS)
    assert "played 24 message(s)" in text


def test_the_clock_stands_at_the_first_message_until_all_listen(listen, tmp_path) -> None:
    bag = stereo_bag(tmp_path / "bag", 3, 50)
    first = listen()
    with ThreadPoolExecutor(1) as beside:
        playing = beside.submit(play, first, bag, wait_for_subscribers=2)
        wait_until(lambda: len(first.clock) >= 3)
        assert set(first.clock) == {FIRST} and not first.got["/left/image_rect"]
        second = listen()
        assert "played 12 message(s)" in playing.result()
    messages = [m.data for m in stored(bag)["/left/image_rect"]]
    assert came(first, "/left/image_rect", messages) and came(second, "/left/image_rect", messages)


@pytest.mark.parametrize("restart", [True, False])
def test_a_loop_starts_again_and_so_does_the_clock_unless_it_must_not(listen, due, tmp_path, restart) -> None:
    bag = stereo_bag(tmp_path / "bag", 3, 50)
    listener = listen()
    play(listener, bag, loop=True, count=28, restart_clock=restart)
    messages = [m.data for m in stored(bag)["/left/image_rect"]]
    assert came(listener, "/left/image_rect", [*messages, *messages, messages[0]])
    steps = np.diff(due)
    assert steps[[0, 1, 3, 4]].tolist() == [50 * MS] * 4 and min(steps[[2, 5]]) >= 50 * MS  # between rounds, too
    assert early(listener, "/left/image_rect", due) == 0
    wait_until(lambda: listener.clock and listener.clock[-1] == FIRST + (0 if restart else 200 * MS))
    back = [a - b for a, b in zip(listener.clock, listener.clock[1:], strict=False) if b < a]
    assert back == ([100 * MS] * 2 if restart else [])
    assert max(listener.clock) == (FIRST + 100 * MS if restart else FIRST + 200 * MS)


def test_bags_are_played_one_after_the_other_and_only_the_topics_that_are_wanted(listen, tmp_path) -> None:
    second = stereo_bag(tmp_path / "day" / "b", 2, 50, first=FIRST + 3_600_000 * MS)
    first = stereo_bag(tmp_path / "day" / "a", 2, 50)
    listener = listen()
    play(listener, tmp_path / "day", topics=["left/image_rect", "/left/camera_info"], publish_clock=False)
    expected = [m.data for bag in (first, second) for m in stored(bag)["/left/image_rect"]]
    assert came(listener, "/left/image_rect", expected)
    listener.wait("/left/camera_info", 4)
    assert len(listener.got["/left/camera_info"]) == 4
    assert listener.got["/right/image_rect"] == []
    assert listener.clock == []


def test_topics_are_remapped_and_qos_is_as_recorded_or_overridden(listen, tmp_path) -> None:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    never = QosTime(0, 0)
    qos = Qos(
        QosHistory.KEEP_LAST, 3, QosReliability.BEST_EFFORT, QosDurability.VOLATILE, never, never,
        QosLiveliness.AUTOMATIC, never, False,
    )  # fmt: skip
    texts = [("/words", k * 20 * MS, string(str(k))) for k in range(5)]
    bag = text_bag(tmp_path / "bag", texts, {"/words": STRING}, (qos,))
    assert BagStorage(bag).offered_qos["/words"] == (False, False, 3)
    deaf, listener = listen({"/words": STRING}), listen({"/said": STRING}, best_effort=True)
    text = play(listener, bag, ros_args=["-r", "/words:=/said"])
    assert came(listener, "/said", [data for _, _, data in texts])
    override = ["-p", "qos_overrides./words.publisher.reliability:=reliable"]
    play(listener, bag, ros_args=override)
    assert came(deaf, "/words", [data for _, _, data in texts])
    assert "played 5 message(s)" in text


def test_a_late_listener_gets_all_messages_of_a_latched_topic(listen, ros_domain, tmp_path) -> None:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    never = QosTime(0, 0)
    latched = Qos(  # as of one of the publishers of /tf_static
        QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, never, never,
        QosLiveliness.AUTOMATIC, never, False,
    )  # fmt: skip
    said = [str(k) for k in range(15)]
    texts = [("/words", k, string(one)) for k, one in enumerate(said)]
    bag = text_bag(tmp_path / "bag", texts, {"/words": STRING}, (latched,))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    player = BagPlayerNode(context=context, parameter_overrides=[Parameter("bags", value=[str(bag)])])
    try:
        wait_until(lambda: player.finished)
        listener = listen({"/words": STRING}, latched=True)
        assert came(listener, "/words", [data for _, _, data in texts])
    finally:
        player.destroy_node()
        rclpy.shutdown(context=context)


def test_a_late_player_catches_up_leaves_nothing_out_and_says_so(listen, due, tmp_path, monkeypatch) -> None:
    texts = [("/words", k * 20 * MS, string(str(k))) for k in range(30)]
    bag = text_bag(tmp_path / "bag", texts, {"/words": STRING})
    replay = BagStorage.replay

    def slow(self: BagStorage, topics: Sequence[str]) -> Iterator[RawMessage]:
        for number, message in enumerate(replay(self, topics)):
            # A disk that hangs; really, as the player's waits and the listener's arrivals are in real time. A busy
            # machine only makes more messages late.
            time.sleep(0.5 if number == 10 else 0.0)
            yield message

    monkeypatch.setattr(BagStorage, "replay", slow)
    monkeypatch.setattr(bag_player_node, "ReadAhead", functools.partial(ReadAhead, limit=1))
    listener = listen({"/words": STRING})
    text = play(listener, bag)
    listener.wait("/words", 30)
    assert came(listener, "/words", [data for _, _, data in texts])
    # Read ten messages (0.2 s) into the recording, half a second late at most; what waited was caught up at once.
    assert "behind the recording's time; everything is played" in text
    late = re.search(r"played 30 message\(s\), (\d+) of them late, by up to \d\.\d", text)
    assert late is not None and 5 <= int(late[1]) < 30  # the first is always in time
    assert np.diff(due).tolist() == [20 * MS] * 29  # the delay is not added to what follows
    assert early(listener, "/words", due) == 0


def test_a_clock_that_was_set_forward_is_not_waited_for(listen, due, tmp_path) -> None:
    booted, set_forward = 5_000 * MS, FIRST  # before and after a time server was heard
    times = [booted + k * 20 * MS for k in range(4)] + [set_forward + k * 20 * MS for k in range(3)]
    bag = text_bag(tmp_path / "bag", [("/words", at, string(str(at))) for at in times], {"/words": STRING})
    listener = listen({"/words": STRING})
    text = play(listener, bag)
    assert came(listener, "/words", [string(str(at)) for at in times])
    assert np.diff(due).tolist() == [20 * MS] * 3 + [1000 * MS] + [20 * MS] * 2
    assert early(listener, "/words", due) == 0
    assert re.search(r"bag: the time recorded jumps by 1\.7e\+09 s at 1700000000000000000 ns, .* 1 s of it", text)
    wait_until(lambda: listener.clock and listener.clock[-1] == times[-1])
    assert sorted(listener.clock) == listener.clock and set(times) <= set(listener.clock)
    assert not any(times[3] < at < times[4] - 1000 * MS for at in listener.clock)


def test_a_pause_of_the_recording_is_told_and_waited_for(listen, due, tmp_path) -> None:
    times = [0, 20 * MS, 90_000 * MS]
    bag = text_bag(tmp_path / "bag", [("/words", at, string(str(at))) for at in times], {"/words": STRING})
    listener = listen({"/words": STRING})
    text = play(listener, bag, rate=100.0)
    assert came(listener, "/words", [string(str(at)) for at in times])
    assert (due[-1] - due[0]) == 900 * MS
    assert "bag: nothing was recorded for 90 s: the next message is in 0.9 s" in text


# ---- parts ---------------------------------------------------------------------------------------------------------


def test_messages_are_read_in_the_order_of_their_times_over_topics_and_files(tmp_path) -> None:
    times = [("/a", 10), ("/b", 15), ("/a", 20), ("/b", 12), ("/a", 5)]
    kinds = {"/a": STRING, "/b": STRING, "/c": STRING}
    bag = text_bag(tmp_path / "bag", [(t, at, string(f"{t}{at}")) for t, at in times], kinds)
    assert [m.recorded for m in BagStorage(bag).replay(["/a", "/b"])] == [5, 10, 12, 15, 20]
    assert [m.recorded for m in BagStorage(bag).replay(["/b"])] == [12, 15]
    assert list(BagStorage(bag).replay(["/c", "/none"])) == []
    # Without an index, and in a file that is cut off behind its last message.
    bag = text_bag(tmp_path / "long", [(t, k, bytes(40_000)) for k in range(40) for t in ("/b", "/a")], kinds)
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[:-2000])
    (bag / "metadata.yaml").unlink()
    got = [(m.recorded, m.topic) for m in BagStorage(bag).replay(["/a", "/b"])]
    assert [at for at, _ in got] == sorted(at for at, _ in got)
    assert len(got) == len(set(got)) >= 50


def test_the_reader_ahead_holds_no_more_than_it_may() -> None:
    read: list[int] = []
    held: list[int] = []  # bytes that were read and not taken yet, as the next message is read
    taken = 0

    def source(sizes: Sequence[int]) -> Iterator[RawMessage]:
        for number, size in enumerate(sizes):
            read.append(number)
            held.append(sum(sizes[:number]) - taken)
            yield RawMessage("/a", number, bytes(size))
        raise OSError("the disk is gone")

    sizes = [40, 40, 40, 500, 1]
    ahead = ReadAhead(source(sizes), limit=100)
    wait_until(lambda: len(read) >= 3)
    messages = iter(ahead)
    for number, size in enumerate(sizes):
        taken += size
        assert next(messages).recorded == number
    assert max(held) <= 100  # the third one waits for room
    with pytest.raises(OSError, match="the disk is gone"):
        next(messages)
    assert read == [0, 1, 2, 3, 4]
    read.clear()
    ahead = ReadAhead(source([60] * 9), limit=100)
    next(iter(ahead))
    ahead.close()
    assert len(read) <= 4


def test_the_clock_neither_passes_the_next_message_nor_goes_back() -> None:
    told: list[int] = []
    clock = PlayedClock(2.0, told.append)
    clock.tick()
    assert told == []
    clock.stand(1000)
    clock.tick()
    clock.run(1000, time.monotonic_ns())
    clock.wait_for(1000 + 50 * MS)
    clock.reach(1000 + 20 * MS)
    clock.tick()
    assert told[:2] == [1000, 1000 + 20 * MS] and told[2] >= told[1]
    clock.run(1000, time.monotonic_ns() - 10**9)
    clock.tick()
    assert told[-1] == 1000 + 50 * MS
    clock.stand(500)
    clock.tick()
    assert told[-1] == 500


def test_the_command_plays_without_launch(group, listen, tmp_path) -> None:
    bag = stereo_bag(tmp_path / "bag", 3, 50)
    listener = listen({"/cam/left": IMAGE, "/left/camera_info": INFO})
    words = ["--topic", "left/image_rect", "--remap", "/left/image_rect:=/cam/left", "--rate", "0.5", "--wait", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "fg_depth_ros.cli", "play", bag, *words, "--no-clock"],
        env=group.env, capture_output=True, text=True, timeout=2 * LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert came(listener, "/cam/left", [m.data for m in stored(bag)["/left/image_rect"]])
    assert listener.got["/left/camera_info"] == listener.clock == []
