"""The drop-in message_filters: upstream's behaviour, minus its three defects."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rclpy.clock import ROSClock
from rclpy.time import Time
from std_msgs.msg import Header, String

from fg_depth_ros.compat import load_message_filters
from fg_depth_ros.compat.message_filters import (
    ApproximateTimeSynchronizer,
    Cache,
    SimpleFilter,
    Subscriber,
    TimeSynchronizer,
)


class Stamped:
    """A message with a header; `name` tells it apart."""

    def __init__(self, seconds: float, name: str = "") -> None:
        nanoseconds = round(seconds * 1e9)
        self.header = Header()
        self.header.stamp.sec, self.header.stamp.nanosec = divmod(nanoseconds, 1_000_000_000)
        self.seconds, self.name = seconds, name


class Headerless:
    """A message without a stamp."""


def exact(queue_size: int = 3) -> tuple[SimpleFilter, SimpleFilter, TimeSynchronizer, list[tuple[Any, ...]]]:
    left, right = SimpleFilter(), SimpleFilter()
    sync = TimeSynchronizer([left, right], queue_size)
    seen: list[tuple[Any, ...]] = []
    sync.registerCallback(lambda *messages: seen.append(tuple(m.seconds for m in messages)))
    return left, right, sync, seen


def approximate(slop: float, queue_size: int = 3) -> tuple[SimpleFilter, SimpleFilter, list[tuple[float, float]]]:
    left, right = SimpleFilter(), SimpleFilter()
    sync = ApproximateTimeSynchronizer([left, right], queue_size, slop)
    seen: list[tuple[float, float]] = []
    sync.registerCallback(lambda a, b: seen.append((a.seconds, b.seconds)))
    return left, right, seen


def test_a_filter_passes_messages_and_its_own_arguments_on() -> None:
    source, seen = SimpleFilter(), []
    first = source.registerCallback(lambda *args: seen.append(args), "extra", 2)
    second = source.registerCallback(seen.append)
    source.signalMessage("message")
    assert seen == [("message", "extra", 2), "message"]
    assert first != second


def test_equal_stamps_meet_in_any_order_of_arrival() -> None:
    left, right, _, seen = exact()
    left.signalMessage(Stamped(1.0))
    left.signalMessage(Stamped(2.0))
    right.signalMessage(Stamped(2.0))
    right.signalMessage(Stamped(1.0))
    assert seen == [(2.0, 2.0), (1.0, 1.0)]


def test_unequal_stamps_never_meet_in_exact_mode() -> None:
    left, right, _, seen = exact()
    left.signalMessage(Stamped(1.0))
    right.signalMessage(Stamped(1.000000001))
    assert seen == []


def test_the_queue_keeps_the_newest_messages() -> None:
    left, right, sync, seen = exact(queue_size=2)
    for seconds in (1.0, 2.0, 3.0):
        left.signalMessage(Stamped(seconds))
    assert sorted(sync.queues[0]) == [2_000_000_000, 3_000_000_000]
    for seconds in (1.0, 2.0, 3.0):
        right.signalMessage(Stamped(seconds))
    assert seen == [(2.0, 2.0), (3.0, 3.0)]


def test_four_inputs_fire_only_when_all_are_there() -> None:
    inputs = [SimpleFilter() for _ in range(4)]
    sync = TimeSynchronizer(inputs, 2)
    seen: list[tuple[str, ...]] = []
    sync.registerCallback(lambda *messages: seen.append(tuple(m.name for m in messages)))
    for name, source in zip("abc", inputs, strict=False):
        source.signalMessage(Stamped(5.0, name))
    assert seen == []
    inputs[3].signalMessage(Stamped(5.0, "d"))
    assert seen == [("a", "b", "c", "d")]


# ---- defect 1: a backward jump of time ------------------------------------------------------------------------


@pytest.mark.parametrize("slop", [None, 0.05])
def test_goes_on_after_time_jumped_back_with_full_queues(slop: float | None) -> None:
    if slop is None:
        left, right, _, seen = exact(queue_size=3)
    else:
        left, right, seen = approximate(slop, queue_size=3)
    for seconds in (100.0, 101.0, 102.0):  # unmatched on both sides: the queues are full
        left.signalMessage(Stamped(seconds))
        right.signalMessage(Stamped(seconds + 0.5))
    assert seen == []
    for seconds in (1.0, 2.0, 3.0):
        left.signalMessage(Stamped(seconds))
        right.signalMessage(Stamped(seconds))
    assert seen == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]


def test_a_loop_shorter_than_a_second_keeps_firing() -> None:
    left, right, _, seen = exact(queue_size=3)
    for _ in range(5):
        for seconds in (10.0, 10.1, 10.2, 10.3):
            left.signalMessage(Stamped(seconds))
            if seconds != 10.3:  # the last right image of each round is lost
                right.signalMessage(Stamped(seconds))
    assert seen == [(s, s) for s in (10.0, 10.1, 10.2)] * 5


@pytest.mark.parametrize("slop", [None, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_messages_that_come_in_any_order_all_meet(slop: float | None, seed: int) -> None:
    # Seconds apart, and later by more than that: a network that delivers late, or a bag that is sorted by its chunks.
    left, right, *_, seen = exact(queue_size=9) if slop is None else approximate(slop, queue_size=9)
    shuffle = random.Random(seed)
    for side in (left, right):
        for seconds in shuffle.sample(range(9), 9):
            side.signalMessage(Stamped(float(seconds)))
    assert sorted(seen) == [(float(s), float(s)) for s in range(9)]


# ---- defect 2: a callback that raises -------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("slop", [None, 0.01])
def test_works_on_after_a_callback_raised(slop: float | None) -> None:
    left, right = SimpleFilter(), SimpleFilter()
    sync = TimeSynchronizer([left, right], 3) if slop is None else ApproximateTimeSynchronizer([left, right], 3, slop)
    seen: list[float] = []

    def callback(a: Stamped, b: Stamped) -> None:
        seen.append(a.seconds)
        if len(seen) == 1:
            raise RuntimeError("the user's mistake")

    sync.registerCallback(callback)
    left.signalMessage(Stamped(1.0))
    with pytest.raises(RuntimeError, match="user's mistake"):
        right.signalMessage(Stamped(1.0))
    left.signalMessage(Stamped(2.0))
    right.signalMessage(Stamped(2.0))
    assert seen == [1.0, 2.0]  # and the first pair is not handed out twice


@pytest.mark.timeout(60)
def test_a_callback_may_feed_the_synchroniser() -> None:
    left, right, sync, seen = exact()
    sync.registerCallback(lambda a, b: left.signalMessage(Stamped(9.0)) if a.seconds == 1.0 else None)
    left.signalMessage(Stamped(1.0))
    right.signalMessage(Stamped(1.0))
    right.signalMessage(Stamped(9.0))
    assert seen == [(1.0, 1.0), (9.0, 9.0)]


# ---- defect 3: a slop of zero ---------------------------------------------------------------------------------


def test_slop_zero_matches_equal_stamps_only() -> None:
    left, right, seen = approximate(0.0)
    left.signalMessage(Stamped(1.0))
    right.signalMessage(Stamped(1.000000001))
    right.signalMessage(Stamped(1.0))
    assert seen == [(1.0, 1.0)]


def test_slop_is_inclusive() -> None:
    left, right, seen = approximate(0.1)
    left.signalMessage(Stamped(1.0))
    right.signalMessage(Stamped(1.1))
    left.signalMessage(Stamped(5.0))
    right.signalMessage(Stamped(5.100000001))
    assert seen == [(1.0, 1.1)]


# ---- approximate matching as upstream does it -----------------------------------------------------------------


def test_takes_the_nearest_stamp() -> None:
    left, right, seen = approximate(0.5, queue_size=5)
    for seconds in (1.0, 1.3, 1.6):
        left.signalMessage(Stamped(seconds))
    right.signalMessage(Stamped(1.35))
    assert seen == [(1.3, 1.35)]


def test_all_inputs_lie_within_the_slop_of_each_other() -> None:
    inputs = [SimpleFilter() for _ in range(3)]
    sync = ApproximateTimeSynchronizer(inputs, 5, 0.1)
    seen: list[tuple[float, ...]] = []
    sync.registerCallback(lambda *messages: seen.append(tuple(m.seconds for m in messages)))
    inputs[0].signalMessage(Stamped(1.0))
    inputs[1].signalMessage(Stamped(1.16))
    inputs[2].signalMessage(Stamped(1.08))  # near both, but they are 0.16 apart
    assert seen == []
    inputs[1].signalMessage(Stamped(1.05))
    assert seen == [(1.0, 1.05, 1.08)]


def test_messages_without_a_stamp_are_refused_unless_allowed() -> None:
    left, right = SimpleFilter(), SimpleFilter()
    refusing = ApproximateTimeSynchronizer([left, right], 3, 1.0)
    allowing = ApproximateTimeSynchronizer([left, right], 3, 1.0, allow_headerless=True)
    seen: dict[str, int] = {"refusing": 0, "allowing": 0}
    refusing.registerCallback(lambda *_: seen.update(refusing=seen["refusing"] + 1))
    allowing.registerCallback(lambda *_: seen.update(allowing=seen["allowing"] + 1))
    left.signalMessage(Headerless())
    right.signalMessage(Headerless())
    assert seen == {"refusing": 0, "allowing": 1}


# ---- the cache ------------------------------------------------------------------------------------------------


def cached(size: int, *seconds: float) -> Cache:
    source = SimpleFilter()
    cache = Cache(source, size)
    for each in seconds:
        source.signalMessage(Stamped(each))
    return cache


def names(messages: list[Stamped]) -> list[float]:
    return [message.seconds for message in messages]


def test_a_cache_is_queried_by_stamps_whatever_the_order_of_arrival() -> None:
    cache = cached(5, 3.0, 1.0, 4.0, 2.0)
    assert names(cache.getInterval(Time(seconds=2), Time(seconds=3))) == [2.0, 3.0]
    assert names(cache.getInterval(Time(seconds=2.1), Time(seconds=2.9))) == []
    assert cache.getElemAfterTime(Time(seconds=2)).seconds == 2.0
    assert cache.getElemAfterTime(Time(seconds=2, nanoseconds=1)).seconds == 3.0
    assert cache.getElemBeforeTime(Time(seconds=3.5)).seconds == 3.0
    assert cache.getElemBeforeTime(Time(seconds=3)).seconds == 3.0
    assert cache.getElemBeforeTime(Time(seconds=0.5)) is cache.getElemAfterTime(Time(seconds=5)) is None
    assert cache.getOldestTime().nanoseconds == 1_000_000_000
    assert cache.getLastestTime().nanoseconds == 4_000_000_000
    assert cache.getLast().seconds == 4.0
    # A stamp of a message serves, too.
    stamp = Stamped(3.0).header.stamp
    assert names(cache.getInterval(stamp, stamp)) == [3.0]
    with pytest.raises(ValueError, match="ends 1000000000 ns before it begins"):
        cache.getInterval(Time(seconds=2), Time(seconds=1))


def test_a_cache_keeps_the_messages_that_came_last_and_passes_all_on() -> None:
    source, seen = SimpleFilter(), []
    cache = Cache(source, 2)
    cache.registerCallback(lambda message: seen.append(message.seconds))
    assert cache.getLast() is cache.getOldestTime() is cache.getLastestTime() is None
    for each in (8.0, 9.0, 1.0):  # time went back
        source.signalMessage(Stamped(each))
    assert seen == [8.0, 9.0, 1.0]
    assert names(cache.getInterval(Time(), Time(seconds=100))) == [1.0, 9.0]


def test_a_cache_takes_messages_without_a_stamp_only_where_that_is_allowed() -> None:
    refusing, allowing = Cache(SimpleFilter(), 2), Cache(SimpleFilter(), 2, allow_headerless=True)
    message = Headerless()
    before = ROSClock().now()
    refusing.add(message)
    allowing.add(message)
    assert refusing.getLast() is None
    assert allowing.getInterval(before, ROSClock().now()) == [message]


# ---- the subscriber -------------------------------------------------------------------------------------------


class RecordingNode:
    """Stands in for a node: keeps what was asked of it."""

    def create_subscription(self, *args: Any, **kwargs: Any) -> Any:
        self.args, self.kwargs = args, kwargs
        return type("Subscription", (), {"topic_name": "/resolved"})()


def test_a_subscriber_takes_what_create_subscription_takes() -> None:
    node = RecordingNode()
    subscriber = Subscriber(node, String, "chatter", qos_profile=5)
    assert node.args == (String, "chatter", subscriber.callback)
    assert node.kwargs == {"qos_profile": 5}
    assert subscriber.getTopic() == "chatter"
    assert subscriber.topic_name == "/resolved"  # attributes of the subscription are served
    seen: list[str] = []
    subscriber.registerCallback(seen.append)
    subscriber.callback("hello")
    assert seen == ["hello"]


def test_a_subscriber_has_a_queue_of_ten_by_default() -> None:
    node = RecordingNode()
    Subscriber(node, String, "chatter")
    assert node.kwargs == {"qos_profile": 10}


# ---- choosing between real and drop-in ------------------------------------------------------------------------


@pytest.fixture
def without_module() -> Iterator[None]:
    """Imports of message_filters start afresh, and leave nothing behind."""
    before = sys.modules.pop("message_filters", None)
    yield
    sys.modules.pop("message_filters", None)
    if before is not None:
        sys.modules["message_filters"] = before


@pytest.mark.usefixtures("without_module")
def test_the_real_package_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "message_filters.py").write_text("REAL = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_message_filters().REAL


@pytest.mark.skipif(find_spec("message_filters") is not None, reason="the real message_filters is installed")
def test_the_drop_in_is_used_where_there_is_no_other() -> None:
    assert load_message_filters().TimeSynchronizer is TimeSynchronizer
