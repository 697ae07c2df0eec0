"""Pairs from four inputs, with the drop-in and with a message_filters that has upstream's three defects."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from std_msgs.msg import Header

from fg_depth_ros.compat import message_filters as drop_in
from fg_depth_ros.compat.message_filters import SimpleFilter
from fg_depth_ros.nodes.common import synchronizing
from fg_depth_ros.nodes.common.codes import FaultCode
from fg_depth_ros.nodes.common.missing_pairs import explain_no_pair, why_silent
from fg_depth_ros.nodes.common.synchronizing import PairSynchronizer, StereoMessages
from fg_depth_ros.nodes.common.topics import INPUTS

LEFT, RIGHT, LEFT_INFO, RIGHT_INFO = range(4)


class DefectiveTimeSynchronizer(SimpleFilter):
    """Behaves as upstream does: throws out the smallest stamp, keeps the lock when a callback raises."""

    def __init__(self, fs: Any, queue_size: int) -> None:
        super().__init__()
        self.queues: list[dict[int, Any]] = [{} for _ in fs]
        self.queue_size, self.lock = queue_size, threading.Lock()
        for index, source in enumerate(fs):
            source.registerCallback(self.add, self.queues[index], index)

    def matches(self, stamp: int) -> list[list[int]]:
        return [[t] * len(self.queues) for t in sorted(set.intersection(*(set(q) for q in self.queues)))]

    def add(self, message: Any, queue: dict[int, Any], index: int) -> None:
        if not self.lock.acquire(timeout=1.0):
            raise TimeoutError("deadlock")
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if stamp < 0:
            raise ValueError("no time before 1970")
        queue[stamp] = message
        while len(queue) > self.queue_size:
            del queue[min(queue)]
        for stamps in self.matches(stamp):
            self.signalMessage(*(q[t] for q, t in zip(self.queues, stamps, strict=True)))
            for q, t in zip(self.queues, stamps, strict=True):
                del q[t]
        self.lock.release()


class DefectiveApproximateTimeSynchronizer(DefectiveTimeSynchronizer):
    """As upstream: a difference must be below the slop."""

    def __init__(self, fs: Any, queue_size: int, slop: float) -> None:
        super().__init__(fs, queue_size)
        self.slop = slop * 1e9

    def matches(self, stamp: int) -> list[list[int]]:
        if not all(self.queues):
            return []
        nearest = [min(queue, key=lambda t: abs(t - stamp)) for queue in self.queues]
        return [nearest] if max(nearest) - min(nearest) < self.slop else []


DEFECTIVE = SimpleNamespace(
    TimeSynchronizer=DefectiveTimeSynchronizer,
    ApproximateTimeSynchronizer=DefectiveApproximateTimeSynchronizer,
)


@pytest.fixture(params=["drop-in", "upstream's defects"])
def filters(request: pytest.FixtureRequest) -> Any:
    return drop_in if request.param == "drop-in" else DEFECTIVE


def message(seconds: float) -> Any:
    header = Header()
    header.stamp.sec, header.stamp.nanosec = divmod(round(seconds * 1e9), 10**9)
    return SimpleNamespace(header=header)


class Rig:
    """Four sources and a synchroniser on them."""

    def __init__(self, filters: Any, **options: Any) -> None:
        self.sources = [SimpleFilter() for _ in INPUTS]
        self.pairs: list[StereoMessages] = []
        self.sync = PairSynchronizer(
            self.sources, options.pop("on_pair", self.pairs.append), filters=filters, **options
        )

    def send(self, *seconds: float | None) -> None:
        for source, at in zip(self.sources, seconds, strict=True):
            if at is not None:
                source.signalMessage(message(at))

    @property
    def stamps(self) -> list[float]:
        return [pair.stamp * 1e-9 for pair in self.pairs]

    @property
    def seconds(self) -> list[int]:
        return [pair.left.header.stamp.sec for pair in self.pairs]


def test_the_stand_in_has_the_three_defects() -> None:
    left, right = SimpleFilter(), SimpleFilter()
    seen: list[float] = []

    def callback(a: Any, b: Any) -> None:
        seen.append(a.header.stamp.sec)
        raise RuntimeError("raised")

    exact = DefectiveTimeSynchronizer([left, right], 2)
    exact.registerCallback(callback)
    for at in (100.0, 101.0):
        left.signalMessage(message(at))
        right.signalMessage(message(at + 0.5))
    for at in (1.0, 2.0):
        left.signalMessage(message(at))
        right.signalMessage(message(at))
    assert seen == []  # starved after the jump
    left.signalMessage(message(200.0))
    with pytest.raises(RuntimeError):
        right.signalMessage(message(200.0))
    with pytest.raises(TimeoutError, match="deadlock"):
        left.signalMessage(message(201.0))
    left, right = SimpleFilter(), SimpleFilter()
    DefectiveApproximateTimeSynchronizer([left, right], 2, 0.0).registerCallback(callback)
    left.signalMessage(message(5.0))
    right.signalMessage(message(5.0))
    assert 5.0 not in seen


def test_one_pair_for_four_messages_of_one_stamp(filters: Any) -> None:
    rig = Rig(filters)
    rig.send(1.0, 1.0, 1.0, None)
    assert rig.pairs == []
    rig.send(None, None, None, 1.0)
    (pair,) = rig.pairs
    assert [m.header.stamp.sec for m in (pair.left, pair.right, pair.left_info, pair.right_info)] == [1] * 4
    assert rig.sync.matched == 1


@pytest.mark.parametrize("approximate", [False, True])
@pytest.mark.parametrize("length", [4, 40])
def test_a_looping_source_keeps_producing(filters: Any, approximate: bool, length: int) -> None:
    rig = Rig(filters, approximate=approximate, slop=0.01, queue_size=5)
    for _ in range(4):
        for frame in range(length):
            at = 100.0 + 0.1 * frame
            lost = frame >= length - 2  # right images are lost at the end of every round
            rig.send(at, None if lost else at, at, at)
    assert rig.stamps == pytest.approx([100.0 + 0.1 * f for f in range(length - 2)] * 4)


def test_starts_again_after_a_jump_with_every_queue_full_of_the_future(filters: Any) -> None:
    jumps: list[tuple[str, float]] = []
    rig = Rig(filters, queue_size=3, on_time_jump=lambda name, back: jumps.append((name, back)))
    for at in (1000.0, 1001.0, 1002.0, 1003.0):  # nothing matches: all queues fill up
        rig.send(at, at + 0.1, at + 0.2, at + 0.3)
    for at in (1.0, 2.0, 3.0):
        rig.send(at, at, at, at)
    assert rig.stamps == [1.0, 2.0, 3.0]
    assert [name for name, _ in jumps] == list(INPUTS)
    assert jumps[0][1] == pytest.approx(1002.0)


@pytest.mark.timeout(60)
def test_an_exception_is_reported_and_stops_nothing(filters: Any) -> None:
    seen: list[float] = []
    errors: list[Exception] = []

    def on_pair(pair: StereoMessages) -> None:
        seen.append(pair.stamp * 1e-9)
        if len(seen) == 1:
            raise RuntimeError("first")

    rig = Rig(filters, on_pair=on_pair, on_error=errors.append)
    rig.send(1.0, 1.0, 1.0, 1.0)
    rig.send(2.0, 2.0, 2.0, 2.0)
    assert seen == [1.0, 2.0]
    assert [str(error) for error in errors] == ["first"]


def test_slop_zero_matches_equal_stamps(filters: Any) -> None:
    rig = Rig(filters, approximate=True, slop=0.0)
    rig.send(1.0, 1.0, 1.0, 1.0)
    rig.send(2.0, 2.000001, 2.0, 2.0)
    assert rig.stamps == [1.0]


def test_every_message_is_accounted_for(filters: Any) -> None:
    rig = Rig(filters, queue_size=2)
    for at in (1.0, 2.0, 3.0, 4.0, 5.0):
        rig.send(at, None if at == 2.0 else at, at, at)
    rig.send(6.0, None, None, None)
    rig.send(7.0, None, None, None)
    rig.send(8.0, None, None, None)
    # left: 8 came, 4 matched, the two newest wait, 2.0 and 6.0 were thrown out
    assert (rig.sync.received("left/image_rect"), rig.sync.matched) == (8, 4)
    assert (rig.sync.waiting("left/image_rect"), rig.sync.unmatched("left/image_rect")) == (2, 2)
    assert rig.sync.unmatched("right/image_rect") == 0


def test_says_that_stamps_never_match_and_what_to_do(filters: Any) -> None:
    rig = Rig(filters, queue_size=4)
    for frame in range(6):
        at = 10.0 + 0.1 * frame
        rig.send(at, at + 0.02, at, at + 0.02)
    assert rig.pairs == []
    text = explain_no_pair(rig.sync.unpaired, lambda name: 1, lambda name: f"/camera/{name}")
    assert "the nearest are 0.020000 s apart" in text
    assert "/camera/left/image_rect 10.500000" in text
    assert "/camera/right/image_rect 10.520000" in text
    assert "set approximate_sync to true and sync_slop above 0.020000" in text


def test_the_advice_of_a_wider_slop_works(filters: Any) -> None:
    rig = Rig(filters, approximate=True, slop=0.005)
    rig.send(10.0, 10.02, 10.0, 10.02)
    assert rig.pairs == []
    assert "raise sync_slop above 0.020000" in explain_no_pair(rig.sync.unpaired, lambda name: 1, str)
    wider = Rig(filters, approximate=True, slop=0.02)
    wider.send(10.0, 10.02, 10.0, 10.02)
    assert len(wider.pairs) == 1


def test_says_which_input_is_silent(filters: Any) -> None:
    rig = Rig(filters)
    rig.send(1.0, None, 1.0, None)
    text = explain_no_pair(rig.sync.unpaired, lambda name: 0 if name == "right/image_rect" else 2, str)
    assert "no message on right/image_rect (it has no publisher" in text
    assert "no message on right/camera_info (2 publisher(s) are there, but nothing comes" in text
    assert "left" not in text


@pytest.mark.parametrize(
    ("size", "said", "not_said"),
    [
        ((3840, 2160), ["images of 3840x2160 (25 MB in colour) do not fit", "config/fastdds_shm_large.xml"], "QoS"),
        ((1280, 720), ["images of 1280x720 (3 MB in colour) do not fit", "config/fastdds_shm.xml"], "QoS"),
        ((320, 240), ["check that the driver publishes them"], "shared"),
        (None, ["they do not fit", "config/fastdds_shm_large.xml"], "QoS"),  # camera_info as bytes, not decoded
    ],
)
def test_images_that_are_lost_while_their_camera_info_comes_are_those_that_do_not_fit(
    filters: Any, size: tuple[int, int] | None, said: list[str], not_said: str
) -> None:
    rig = Rig(filters)
    assert rig.sync.stall_code == FaultCode.NO_PAIRS

    def send(at: float, *present: int) -> None:
        for index, source in enumerate(rig.sources):
            if index in present or index > 1:
                sent = message(at)
                if index > 1 and size is not None:
                    sent.width, sent.height = size
                source.signalMessage(sent)

    for frame in range(5):
        send(10.0 + 0.1 * frame)
    assert rig.sync.stall_code == FaultCode.IMAGES_LOST
    text = explain_no_pair(rig.sync.unpaired, lambda name: 1, lambda name: f"/{name}")
    for side in ("left", "right"):
        assert f"no message on /{side}/image_rect (1 publisher(s) are there, and camera_info comes, but no" in text
    assert all(words in text for words in said)
    assert not_said not in text
    assert "it has no publisher" in explain_no_pair(rig.sync.unpaired, lambda name: 0, str)
    # some arrive, never both of a pair: no matter of stamps
    for frame in range(5, 10):
        send(10.0 + 0.1 * frame, *([frame % 2] if frame > 7 else []))
    assert rig.pairs == [] and rig.sync.stall_code == FaultCode.IMAGES_LOST
    text = explain_no_pair(rig.sync.unpaired, lambda name: 1, lambda name: f"/{name}")
    assert "only 1 images of 10 camera_infos came on /left/image_rect" in text and "sync_slop" not in text
    send(20.0, 0, 1)
    assert len(rig.pairs) == 1 and rig.sync.stall_code == FaultCode.NO_PAIRS


def test_a_camera_info_that_comes_more_often_is_no_lost_image(filters: Any) -> None:
    rig = Rig(filters)
    for frame in range(6):
        at = 10.0 + 0.1 * frame
        rig.send(at, at + 0.02, at, at + 0.02)
    assert rig.sync.stall_code == FaultCode.NO_PAIRS
    rig.send(10.7, None, 10.7, 10.7)  # one that is lost is no reason either
    assert rig.sync.stall_code == FaultCode.NO_PAIRS


# ---- the left camera alone ------------------------------------------------------------------------------------


def left_rig(filters: Any, **options: Any) -> tuple[Rig, list[tuple[float, float]]]:
    """A rig, and the stamps of left images and their camera_infos that it handed out."""
    alone: list[tuple[float, float]] = []

    def note(*messages: Any) -> None:
        alone.append(tuple(round(m.header.stamp.sec + m.header.stamp.nanosec * 1e-9, 6) for m in messages))

    return Rig(filters, on_left_only=note, **options), alone


def test_a_left_image_is_handed_out_once_with_its_own_camera_info(filters: Any) -> None:
    rig, alone = left_rig(filters)
    rig.send(1.0, None, None, None)
    rig.send(None, None, 0.5, None)
    assert alone == []
    rig.send(None, None, 1.0, None)
    assert alone == [(1.0, 1.0)]
    rig.send(None, None, 2.0, None)  # the camera_info first
    rig.send(2.0, None, None, None)
    rig.send(None, None, 1.9, None)
    assert alone == [(1.0, 1.0), (2.0, 2.0)]
    assert rig.pairs == []
    rig.send(None, 2.0, None, 2.0)  # it still becomes a pair
    assert rig.stamps == [2.0]


def test_the_left_message_that_completes_a_pair_is_not_handed_out(filters: Any) -> None:
    rig, alone = left_rig(filters)
    rig.send(None, 1.0, 1.0, 1.0)
    rig.send(1.0, None, None, None)
    assert rig.stamps == [1.0]
    assert alone == []


def test_left_images_find_the_nearest_camera_info_within_the_slop(filters: Any) -> None:
    rig, alone = left_rig(filters, approximate=True, slop=0.02)
    rig.send(None, None, 0.985, None)
    rig.send(None, None, 1.01, None)
    rig.send(1.0, None, None, None)
    rig.send(None, None, 1.5, None)
    rig.send(1.53, None, None, None)
    assert alone == [(1.0, 1.01)]


def test_left_images_go_on_after_a_jump_back_of_time(filters: Any) -> None:
    rig, alone = left_rig(filters, queue_size=3)
    for at in (1000.0, 1001.0, 1002.0, 1003.0, 1.0, 2.0):
        rig.send(at, None, at, None)
    assert [image for image, _ in alone] == [1000.0, 1001.0, 1002.0, 1003.0, 1.0, 2.0]


def test_an_exception_over_a_left_image_is_reported_and_stops_nothing(filters: Any) -> None:
    def fail(*messages: Any) -> None:
        raise RuntimeError("left")

    errors: list[Exception] = []
    rig = Rig(filters, on_left_only=fail, on_error=errors.append)
    rig.send(1.0, None, 1.0, None)
    rig.send(2.0, 2.0, 2.0, 2.0)
    assert rig.stamps == [2.0]
    assert [str(error) for error in errors] == ["left", "left"]  # of 1.0, and of 2.0 before it was a pair


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The seconds that the synchroniser reads, as `clock.now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(synchronizing, "time", SimpleNamespace(monotonic=lambda: clock.now, time_ns=lambda: 1))
    return clock


def test_the_right_camera_is_gone_when_left_images_go_on_without_it(filters: Any, clock: SimpleNamespace) -> None:
    rig, _ = left_rig(filters)
    clock.now += 10.0
    assert rig.sync.silent_right(2.0) is None  # nothing goes on
    rig.send(1.0, 1.0, 1.0, 1.0)
    clock.now += 10.0
    rig.send(2.0, None, 2.0, None)
    assert rig.sync.silent_right(2.0) is None  # a slow camera's next pair begins like this
    for at, gone in ((3.0, None), (4.0, "right/image_rect")):
        clock.now += 1.0
        rig.send(at, None, at, at)
        assert rig.sync.silent_right(2.0) == gone
    assert rig.sync.silent_right(10.0) is None  # it may still come
    rig.send(4.5, 4.5, 4.5, 4.5)
    assert rig.sync.silent_right(2.0) is None
    for at in (5.0, 6.0, 7.0):
        rig.send(at, at, at, None)
    assert rig.stamps[-3:] == [5.0, 6.0, 7.0]  # by the camera_info that came before


@pytest.mark.parametrize("last", [1.0, None])
def test_a_right_camera_that_starts_after_the_left_one_is_not_gone(
    filters: Any, clock: SimpleNamespace, last: float | None
) -> None:
    rig, _ = left_rig(filters)
    rig.send(1.0, last, 1.0, last)  # the last right image before a pause may get lost
    clock.now += 6.0  # both drivers start again
    for i in range(8):
        clock.now += 0.1
        rig.send(7.0 + 0.1 * i, None, 7.0 + 0.1 * i, None)
        assert rig.sync.silent_right(2.0) is None
    rig.send(8.0, 8.0, 8.0, 8.0)
    assert rig.stamps[-1] == 8.0


def test_the_right_camera_is_gone_when_its_calibration_never_came(filters: Any, clock: SimpleNamespace) -> None:
    rig, _ = left_rig(filters)
    for at in (1.0, 2.0, 3.0):
        clock.now += 1.0
        rig.send(at, at, at, None)
    assert rig.sync.silent_right(2.0) == "right/camera_info"


# ---- camera_info that comes rarely, and messages without a stamp ----------------------------------------------------


@pytest.mark.parametrize("approximate", [False, True])
def test_a_camera_info_that_comes_once_holds_for_all_later_images(filters: Any, approximate: bool) -> None:
    rig = Rig(filters, approximate=approximate, slop=0.01)
    rig.send(None, None, 0.5, 0.5)
    for k in range(1, 31):
        rig.send(float(k), float(k), None, None)
    assert rig.seconds == list(range(1, 31))
    assert all(pair.left_info.header.stamp.sec == pair.left.header.stamp.sec for pair in rig.pairs)
    assert [rig.sync.repeated(name) for name in INPUTS] == [0, 0, 30, 30]
    for name in INPUTS:
        expected = 1 if name.endswith("camera_info") else 30
        assert rig.sync.received(name) == expected
        assert expected + rig.sync.repeated(name) == 30 + rig.sync.waiting(name) + rig.sync.unmatched(name)


def test_a_rare_camera_info_is_used_until_the_next_one_comes(filters: Any) -> None:
    rig = Rig(filters)
    for k in range(1, 21):
        info = float(k) if k in (1, 11) else None
        for source, at in zip(rig.sources, (None, None, info, info), strict=True):
            if at is not None:
                sent = message(at)
                sent.width = k
                source.signalMessage(sent)
        rig.send(float(k), float(k), None, None)
    assert rig.seconds == list(range(1, 21))
    assert [pair.left_info.width for pair in rig.pairs] == [1] * 10 + [11] * 10


def test_camera_infos_of_every_image_are_waited_for(filters: Any) -> None:
    rig = Rig(filters)
    for k in range(1, 11):
        rig.send(float(k), float(k), None, None)
        assert len(rig.pairs) == k - 1
        rig.send(None, None, float(k), float(k))
    assert rig.seconds == list(range(1, 11))
    assert sum(map(rig.sync.repeated, INPUTS)) == 0


@pytest.mark.parametrize("approximate", [False, True])
def test_a_lost_camera_info_does_not_complete_its_pair_after_later_ones(filters: Any, approximate: bool) -> None:
    rig = Rig(filters, approximate=approximate, slop=0.01 if approximate else 0.0, queue_size=30)
    for k in range(1, 31):
        left_info = None if k == 5 else float(k)
        if k in (20, 21):  # of these moments the left image arrives alone, twice in a row: camera_infos seem rare
            rig.send(float(k), None, None, None)
        else:
            rig.send(float(k), float(k), left_info, float(k))
    assert rig.seconds == [k for k in range(1, 31) if k not in (5, 20, 21)]


@pytest.mark.parametrize(
    ("transport", "came", "said", "not_said"),
    [
        ("compressed", 90_000, "ros2 topic hz /left/image_rect/compressed", "shared"),
        ("compressed", 3_000_000, "compressed images of 3.0 MB do not fit into the shared-memory segment", "25 MB"),
        ("compressed", 0, "; if they are PNG, 6.2 MB or more do not fit into the shared", "25 MB"),
        ("ffmpeg", 0, "/left/image_rect/ffmpeg.subscription.reliability: reliable", "shared"),
    ],
)
def test_lost_compressed_images_are_not_taken_for_raw_ones(
    filters: Any, transport: str, came: int, said: str, not_said: str
) -> None:
    rig = Rig(filters)
    for frame in range(5):
        for index, source in enumerate(rig.sources):
            sent = message(10.0 + 0.1 * frame)
            sent.width, sent.height, sent.data = 3840, 2160, bytes(came if index < 2 else 0)
            if index > 1 or (came and index == frame):  # one image of each, never both of a pair
                source.signalMessage(sent)
    assert rig.sync.stall_code == FaultCode.IMAGES_LOST
    topics = {name: f"/{name}" + (f"/{transport}" if "image" in name else "") for name in INPUTS}
    text = explain_no_pair(rig.sync.unpaired, lambda name: 1, topics.__getitem__)
    assert said in text and not_said not in text
    quiet = why_silent(1, topics["left/image_rect"])
    assert "QoS" in quiet and "shared" not in quiet and "shared memory" in why_silent(1, "/left/image_rect")


def test_messages_without_a_stamp_form_no_pair_and_that_is_said(filters: Any) -> None:
    rig = Rig(filters)
    for k in range(5):
        rig.send(0.0, 0.0, 0.0, 0.0)
        rig.send(float(k + 1), float(k + 1), 0.0, 0.0)
    assert rig.pairs == []
    assert rig.sync.unstamped == ["left/camera_info", "right/camera_info"]
    why = explain_no_pair(rig.sync.unpaired, lambda name: 1, lambda name: f"/{name}")
    assert "/left/camera_info, /right/camera_info have no stamp (it is 0 or less)" in why
    assert "sync_slop above" not in why


def test_a_stamp_before_1970_is_none_and_stops_nothing(filters: Any) -> None:
    rig = Rig(filters)
    for _ in range(3):
        rig.send(-1.0, -0.5, -1.0, -1.0)
    assert rig.pairs == []
    assert rig.sync.unstamped == list(INPUTS)
    rig.send(1.0, 1.0, 1.0, 1.0)
    assert rig.stamps == [1.0]
    by_arrival = Rig(filters, allow_unstamped=True, slop=0.02, now=lambda: 5 * 10**9)
    by_arrival.send(None, None, -1.0, -1.0)
    by_arrival.send(-1.0, -1.0, None, None)
    assert by_arrival.seconds == [5]


@pytest.mark.parametrize("stamped_infos", [False, True])
def test_messages_without_a_stamp_are_paired_by_arrival_where_that_is_allowed(
    filters: Any, stamped_infos: bool
) -> None:
    clock = [0]
    rig = Rig(filters, allow_unstamped=True, slop=0.02, now=lambda: clock[0])
    info = 7.0 if stamped_infos else 0.0
    for k in range(1, 6):  # left images at k s, right ones 5 ms later; at k + 0.5 s a left one whose partner is lost
        clock[0] = k * 10**9
        rig.send(0.0, None, info + k * stamped_infos, None)
        clock[0] += 5_000_000
        rig.send(None, 0.0, None, info + k * stamped_infos)
        clock[0] += 500_000_000
        rig.send(0.0, None, None, None)
    assert 4 <= len(rig.pairs) <= 5  # the very first images may come before their calibration
    for pair in rig.pairs:
        apart = pair.right.header.stamp.nanosec - pair.left.header.stamp.nanosec
        assert (pair.left.header.stamp.sec, apart) == (pair.right.header.stamp.sec, 5_000_000)
    assert rig.seconds[-1] == 5


def test_stamped_images_with_unstamped_camera_infos_keep_their_stamps(filters: Any) -> None:
    rig = Rig(filters, allow_unstamped=True, slop=0.0, now=lambda: 10**18)
    for k in range(1, 6):
        rig.send(None, None, 0.0, 0.0)
        rig.send(float(k), float(k), None, None)
    assert rig.seconds == list(range(1, 6))


@pytest.mark.parametrize("right_first", [False, True])
def test_a_slop_wider_than_the_frame_period_pairs_no_image_with_one_of_the_next_moment(
    filters: Any, right_first: bool
) -> None:
    rig = Rig(filters, approximate=True, slop=0.05)
    for frame in range(1, 21):
        left = 10.0 + frame / 30  # 33 ms apart
        right = left + 0.0001 if frame != 10 else None  # one is lost on the way
        first, second = (None, right, None, right), (left, None, left, None)
        for half in (first, second) if right_first else (second, first):
            rig.send(*half)
    apart = [
        round((pair.right.header.stamp.sec - pair.left.header.stamp.sec) * 1e9)
        + pair.right.header.stamp.nanosec - pair.left.header.stamp.nanosec
        for pair in rig.pairs
    ]  # fmt: skip
    assert max(map(abs, apart)) <= 100_001  # ns; the next image is 33 ms away
    assert len(rig.pairs) == 19


def test_free_running_cameras_are_paired_up_to_half_a_period_apart(filters: Any) -> None:
    rig = Rig(filters, approximate=True, slop=0.05)
    for frame in range(1, 21):
        left, right = 10.0 + 0.1 * frame, 10.0 + 0.1 * frame + 0.045
        rig.send(left, None, left, None)
        rig.send(None, right, None, right)
    assert len(rig.pairs) == 20


def test_clocks_that_differ_are_told_from_a_slop_that_is_too_small(filters: Any) -> None:
    rig = Rig(filters, approximate=True, slop=0.01)
    for frame in range(1, 9):
        at = 10.0 + frame / 30
        rig.send(at, at + 99.7, at, at + 99.7)
    text = explain_no_pair(rig.sync.unpaired, lambda name: 1, str)
    assert "farther than one image from the next (0.033" in text
    assert "synchronise the clocks" in text
    assert "sync_slop above" not in text
