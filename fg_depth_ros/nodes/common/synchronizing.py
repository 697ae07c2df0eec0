"""Form pairs of four input streams, and left images without a right one."""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fg_depth_ros.compat import load_message_filters
from fg_depth_ros.compat.message_filters import SimpleFilter
from fg_depth_ros.data.io.messages import stamp_ns
from fg_depth_ros.nodes.common.codes import FaultCode
from fg_depth_ros.nodes.common.missing_pairs import LostImages, UnpairedInputs
from fg_depth_ros.nodes.common.topics import CAMERAS, INPUTS

_LEFT_IMAGE, _RIGHT_IMAGE, _LEFT_INFO, _RIGHT_INFO = INPUTS
# A message this much older than the newest one waiting on the same input is no late message: time went back.
_JUMP_BACK_NS = 1_000_000_000
_GAPS = 16  # between images, for their period
_FEWEST_GAPS = 4
_INFOS_WITHOUT_IMAGE = 4  # since the last pair; then images got lost
_IMAGES_WITHOUT_INFO = 3  # in a row; then the camera_info before is taken for them
_PAUSE_SECONDS = 1.0  # between messages that go on; more of a pause does not count


@dataclass(frozen=True)
class StereoMessages:
    """Messages of one moment; of the left camera alone where ``right`` is None, and ``reason`` says why."""

    left: Any
    right: Any
    left_info: Any
    right_info: Any
    reason: str = ""

    @property
    def stamp(self) -> int:
        """Stamp of the left image, ns."""
        return stamp_ns(self.left.header)


class _Input(SimpleFilter):
    """An input of the synchroniser: passes messages on to message_filters, and counts them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        # All messages so far.
        self.received = 0
        self.unstamped = 0  # without a stamp, and so left out
        self.held = 0  # camera_infos that are only kept for images to come
        self.repeated = 0  # camera_infos that were taken again
        self.largest = 0  # bytes of a message
        # The newest one.
        self.last: Any = None
        self.by_arrival = False  # whether it had no stamp, and was taken
        self.last_stamp: int | None = None
        self.last_arrival = time.monotonic()  # before the first one, when the waiting began
        # Since the last pair.
        self.since_match = 0
        self.unmatched_seconds = 0.0  # for which messages have come, pauses left out
        self._gaps: deque[int] = deque(maxlen=_GAPS)

    @property
    def period(self) -> float | None:
        """Median of the time between the newest messages by their stamps, ns; None before a few have come."""
        return statistics.median(self._gaps) if len(self._gaps) >= _FEWEST_GAPS else None

    def count_arrival(self, message: Any) -> None:
        """Count a message of the subscription."""
        self.received += 1
        before, self.last_arrival = self.last_arrival, time.monotonic()
        if self.since_match == 0:
            self.unmatched_seconds = 0.0
        else:
            self.unmatched_seconds += min(self.last_arrival - before, _PAUSE_SECONDS)
        self.largest = max(self.largest, len(getattr(message, "data", ())))

    def count_stamp(self, stamp: int) -> None:
        """Count a message that is to be matched by this stamp, ns."""
        self.since_match += 1
        if self.last_stamp is not None and stamp > self.last_stamp:
            self._gaps.append(stamp - self.last_stamp)
        self.last_stamp = stamp


class PairSynchronizer:
    """Calls ``on_pair(StereoMessages)`` for images and camera_infos of one moment.

    Uses the real message_filters where it can be imported and the drop-in elsewhere, and holds for both:
    a source whose time jumps back keeps producing pairs; an exception in ``on_pair`` goes to ``on_error`` and
    stops nothing; a slop of 0 matches equal stamps; with a slop wider than half the time between images, one whose
    partner was lost is left out, not paired with the next one.

    A camera_info that comes once, or rarely, holds for the later images of its camera until another one comes. A stamp
    of 0, or less, is none: such messages are left out, and listed in ``unstamped``, unless ``allow_unstamped``.

    Args:
        sources: filters of the four inputs, in the order of INPUTS.
        approximate: match stamps that differ by up to ``slop`` seconds; else they must be equal.
        queue_size: messages of each input that wait for their partners.
        allow_unstamped: give messages without a stamp their time of arrival, in their header too, and match as with
            ``approximate``.
        now: time of arrival, ns.
        on_time_jump: called with (input name, seconds) when an input's time went back.
        on_left_only: called with (left image, left camera_info) as soon as both wait for the right camera, each image
            once; most of them become a pair a moment later.
        infos: input name -> camera_info of before, which holds until another one comes.
        filters: the message_filters module (for tests).
    """

    def __init__(
        self,
        sources: Sequence[Any],
        on_pair: Callable[[StereoMessages], None],
        *,
        approximate: bool = False,
        slop: float = 0.0,
        queue_size: int = 10,
        allow_unstamped: bool = False,
        now: Callable[[], int] = time.time_ns,
        on_error: Callable[[Exception], None] | None = None,
        on_time_jump: Callable[[str, float], None] | None = None,
        on_left_only: Callable[[Any, Any], None] | None = None,
        infos: Mapping[str, Any] | None = None,
        filters: ModuleType | Any | None = None,
    ) -> None:
        filters = filters if filters is not None else load_message_filters()
        self._on_pair, self._on_error = on_pair, on_error
        self._on_time_jump, self._on_left_only = on_time_jump, on_left_only
        self._last_left_only: int | None = None  # stamp of the last left image that on_left_only had
        self._allow_unstamped, self._now = allow_unstamped, now
        self._without_info = dict.fromkeys(CAMERAS, 0)  # images since the last camera_info
        self._rare_info = dict.fromkeys(CAMERAS, False)  # camera_infos come more rarely than images
        self._inputs = {name: _Input(name) for name in INPUTS}
        for name, info in (infos or {}).items():
            self._inputs[name].last = info
        approximate = approximate or allow_unstamped
        if approximate:
            # Upstream matches differences below the slop only; a nanosecond more makes it "up to".
            self._sync = filters.ApproximateTimeSynchronizer([*self._inputs.values()], queue_size, slop + 1e-9)
        else:
            self._sync = filters.TimeSynchronizer([*self._inputs.values()], queue_size)
        self._sync.registerCallback(self._matched)
        self._queues = dict(zip(INPUTS, self._sync.queues, strict=True))
        self._queue_size, self._approximate, self._slop = queue_size, approximate, slop
        self._slop_ns = round(slop * 1e9) if approximate else 0
        self.matched = 0
        self.last_match = time.monotonic()
        for source, each in zip(sources, self._inputs.values(), strict=True):
            source.registerCallback(functools.partial(self._on_message, each))

    @property
    def infos(self) -> dict[str, Any]:
        """Input name -> the newest camera_info, of those that have come."""
        return {name: last for name in CAMERAS.values() if (last := self._inputs[name].last) is not None}

    def received(self, name: str) -> int:
        """Return the number of messages of an input."""
        return self._inputs[name].received

    def silent(self, name: str) -> float:
        """Return the seconds since the last message of an input, or since the start before the first one."""
        return time.monotonic() - self._inputs[name].last_arrival

    def silent_right(self, timeout: float) -> str | None:
        """Return the right camera's input that has been silent for ``timeout`` seconds while left images arrived.

        None if there is none. Time in which the left camera was silent, too, does not count.
        """
        inputs = [_RIGHT_IMAGE, *([_RIGHT_INFO] if self._inputs[_RIGHT_INFO].last is None else [])]
        longest = max(inputs, key=self.silent)
        seconds = min(self.silent(longest), self._inputs[_LEFT_IMAGE].unmatched_seconds)
        return longest if seconds >= timeout else None

    def waiting(self, name: str) -> int:
        """Return the number of messages of an input that still wait for their partners."""
        return len(self._queues[name])

    def unmatched(self, name: str) -> int:
        """Return the number of messages of an input that were removed without a partner.

        received + repeated = matched + waiting + unmatched; camera_infos that are only kept for images to come are not
        counted in it.
        """
        found = self._inputs[name]
        return found.received - found.held + found.repeated - self.matched - self.waiting(name)

    def repeated(self, name: str) -> int:
        """Return how often a camera_info was taken for an image that came without one."""
        return self._inputs[name].repeated

    def largest(self, name: str) -> int:
        """Return the bytes of the largest message of an input."""
        return self._inputs[name].largest

    @property
    def unstamped(self) -> list[str]:
        """Inputs whose messages are left out since they have no stamp."""
        return [each.name for each in self._inputs.values() if each.unstamped and each.since_match == 0]

    @property
    def stall_code(self) -> FaultCode:
        """What keeps pairs from forming."""
        if self.unstamped:
            return FaultCode.NO_STAMPS
        return FaultCode.IMAGES_LOST if self._lost_images() else FaultCode.NO_PAIRS

    def lost_images(self, name: str) -> LostImages | None:
        """Return what is known of the images of an input, where its camera_info arrives and most of them do not."""
        image, info = self._inputs[name], self._inputs[CAMERAS[name]]
        if info.since_match < _INFOS_WITHOUT_IMAGE or 2 * image.since_match > info.since_match:
            return None
        return LostImages(
            int(getattr(info.last, "width", 0)),
            int(getattr(info.last, "height", 0)),
            image.largest,
            image.since_match,
            info.since_match,
        )

    def _lost_images(self) -> dict[str, LostImages]:
        """Image inputs that get few or no messages while their camera_info arrives, with what is known of them."""
        return {name: lost for name in CAMERAS if (lost := self.lost_images(name)) is not None}

    @property
    def unpaired(self) -> UnpairedInputs:
        """What is known of the inputs, to explain by it why no pairs form."""
        return UnpairedInputs(
            unstamped=self.unstamped,
            silent=[
                each.name
                for each in self._inputs.values()
                if each.since_match == 0 and not (each.last is not None and each.name in CAMERAS.values())
            ],
            lost_images=self._lost_images(),
            last_stamps={each.name: each.last_stamp or 0 for each in self._inputs.values()},
            smallest_gap=self._smallest_gap(),
            period=self._period(),
            slop=self._slop if self._approximate else None,
        )

    def _smallest_gap(self) -> float:
        """Return the seconds between the stamps that are nearest to a match: the slop that would be needed."""
        last = {each.name: [] if each.last_stamp is None else [each.last_stamp] for each in self._inputs.values()}
        stamps = [list(queue) or last[name] for name, queue in self._queues.items()]
        spans = []
        for anchor in stamps[0]:
            nearest = [min(others, key=lambda s: abs(s - anchor)) for others in stamps[1:] if others]
            spans.append(max([anchor, *nearest]) - min([anchor, *nearest]))
        return min(spans, default=0) * 1e-9

    def _period(self) -> float | None:
        """Return the time between the images of the faster camera, ns; None where it is not known."""
        return min((p for name in CAMERAS if (p := self._inputs[name].period) is not None), default=None)

    def _on_message(self, input_: _Input, message: Any) -> None:
        input_.count_arrival(message)
        stamp = self._matching_stamp(input_, message)
        if stamp is None:
            return
        if input_.name in CAMERAS:
            self._repeat_info(input_, stamp)
        self._add(input_, message, stamp)

    def _add(self, input_: _Input, message: Any, stamp: int) -> None:
        """Hand a message with this stamp, ns, to message_filters."""
        self._drop_unmatchable(input_, stamp)
        self._drop_after_time_jump(input_, stamp)
        input_.count_stamp(stamp)
        input_.signalMessage(message)
        self._report_left_only(input_, stamp)

    def _matching_stamp(self, input_: _Input, message: Any) -> int | None:
        """Return the stamp under which a message that arrived is matched; None where it is not."""
        stamp = stamp_ns(message.header)
        unstamped = stamp <= 0  # message_filters takes no time before 1970
        if unstamped and not self._allow_unstamped:
            input_.unstamped += 1
            return None
        input_.last, input_.by_arrival = message, unstamped
        image = next((image for image, info in CAMERAS.items() if info == input_.name), None)
        if image is not None:  # a camera_info
            self._rare_info[image] = self._without_info[image] >= _IMAGES_WITHOUT_INFO
            self._without_info[image] = 0
            if unstamped or self._inputs[image].by_arrival:
                input_.held += 1
                return None
        elif unstamped:
            stamp = self._now()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        return stamp

    def _repeat_info(self, image: _Input, stamp: int) -> None:
        """Take the newest camera_info again for the images of its camera that came without one since the last pair.

        An older image would become a pair after later ones.
        """
        info = self._inputs[CAMERAS[image.name]]
        self._without_info[image.name] += 1
        self._rare_info[image.name] |= self._without_info[image.name] >= _IMAGES_WITHOUT_INFO
        if info.last is None or not (self._rare_info[image.name] or info.by_arrival or image.by_arrival):
            return
        queue = self._queues[info.name]
        recent = list(self._queues[image.name])[-image.since_match :] if image.since_match else []
        for missing in sorted({*recent, stamp}):
            if all(abs(found - missing) > self._slop_ns for found in queue):
                repeated = copy.copy(info.last)
                repeated.header = copy.deepcopy(info.last.header)
                repeated.header.stamp.sec, repeated.header.stamp.nanosec = divmod(missing, 1_000_000_000)
                info.repeated += 1
                self._add(info, repeated, missing)

    def _drop_unmatchable(self, input_: _Input, stamp: int) -> None:
        """Remove what waits for an earlier message of this input that was lost, before a message is added.

        Within a slop wider than half a period it would be paired with this one, and every later image with the next.
        """
        period = None if self._allow_unstamped else self._period()  # times of arrival jitter by more
        if period is None or self._slop_ns <= period / 2:
            return
        queue = self._queues[input_.name]
        with self._sync.lock:
            for name, partners in self._queues.items():
                if name != input_.name:
                    for other in [o for o in partners if stamp - o > period / 2]:
                        if all(abs(mine - other) > period / 2 for mine in queue):
                            del partners[other]

    def _drop_after_time_jump(self, input_: _Input, stamp: int) -> None:
        """Remove messages that wait from before a backward jump of time, before a message is added.

        Upstream keeps the largest stamps of a full queue. After a jump back those are the old ones, which no
        partner will ever come for, and every new message would be thrown out in their place.
        """
        queue = self._queues[input_.name]
        if input_.last_stamp is not None and stamp < input_.last_stamp and self._on_time_jump is not None:
            back = (input_.last_stamp - stamp) * 1e-9
            if back * 1e9 > _JUMP_BACK_NS:
                self._on_time_jump(input_.name, back)
        if not queue or stamp >= max(queue):
            return
        starved = len(queue) >= self._queue_size and stamp < min(queue)
        if starved or stamp < max(queue) - _JUMP_BACK_NS:
            with self._sync.lock:
                for future in [waiting for waiting in queue if waiting > stamp]:
                    del queue[future]

    def _report_left_only(self, input_: _Input, stamp: int) -> None:
        """Report a left image that waits, with its camera_info, for the right camera; after a message was added."""
        if self._on_left_only is None or input_.name not in (_LEFT_IMAGE, _LEFT_INFO):
            return
        other = _LEFT_INFO if input_.name == _LEFT_IMAGE else _LEFT_IMAGE
        waiting, partners = self._queues[input_.name], self._queues[other]
        partner = min(partners, key=lambda s: abs(s - stamp), default=None)
        if stamp not in waiting or partner is None or abs(partner - stamp) > self._slop_ns:
            return
        image, info = (stamp, partner) if input_.name == _LEFT_IMAGE else (partner, stamp)
        if image == self._last_left_only:
            return
        self._last_left_only = image
        self._guarded(self._on_left_only, self._queues[_LEFT_IMAGE][image], self._queues[_LEFT_INFO][info])

    def _matched(self, left: Any, right: Any, left_info: Any, right_info: Any) -> None:
        self.matched += 1
        self.last_match = time.monotonic()
        for each in self._inputs.values():
            each.since_match = 0
        self._guarded(self._on_pair, StereoMessages(left, right, left_info, right_info))

    def _guarded(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception as error:  # upstream would keep its lock, and no message would ever pass again
            if self._on_error is None:
                raise
            self._on_error(error)
