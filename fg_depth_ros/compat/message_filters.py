"""Drop-in for ``message_filters`` (Python part): the same classes and methods, minus three defects of upstream.

1. After a backward jump of time with full queues upstream never fires again, because it throws out the smallest stamp,
   which is always the new message. Here the message that came first goes.
2. If a callback raises, upstream keeps its lock and the next message deadlocks. Here no lock is held meanwhile.
3. With a slop of 0 upstream never matches, not even equal stamps. Here a difference of exactly ``slop`` matches.

``Cache`` and ``Subscriber.getTopic`` are for programs that replace upstream by this module; the nodes do not use them.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import rclpy.logging
from rclpy.clock import ROSClock
from rclpy.node import Node
from rclpy.time import Time


class SimpleFilter:
    """Anything that has output: callbacks are registered on it, and called with each message it puts out."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

    def registerCallback(self, cb: Callable[..., Any], *args: Any) -> int:
        """Call ``cb(message, ..., *args)`` for each output. Returns the number of the connection."""
        connection = len(self.callbacks)
        self.callbacks[connection] = (cb, args)
        return connection

    def signalMessage(self, *msg: Any) -> None:
        """Hand ``msg`` to every registered callback, in the order of registration."""
        for callback, args in list(self.callbacks.values()):
            callback(*msg, *args)


class Subscriber(SimpleFilter):
    """A subscription as a filter: ``Subscriber(node, msg_type, topic, qos_profile=10, ...)``.

    Takes what ``Node.create_subscription`` takes, save the callback; attributes of the subscription are served too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.node: Node = args[0]
        self.topic: str = args[2]
        if len(args) < 4:
            kwargs.setdefault("qos_profile", 10)
        self.sub = self.node.create_subscription(*args[1:3], self.callback, *args[3:], **kwargs)

    def callback(self, msg: Any) -> None:
        """Pass a message on."""
        self.signalMessage(msg)

    def getTopic(self) -> str:
        """Return the topic as it was given."""
        return self.topic

    def __getattr__(self, key: str) -> Any:
        if key == "sub":  # not there yet: the subscription could not be made
            raise AttributeError(key)
        return getattr(self.sub, key)


class Cache(SimpleFilter):
    """Keeps the last ``cache_size`` messages of a filter, and passes each on; queries are by stamp.

    With ``allow_headerless``, messages without a stamp count as stamped on arrival; otherwise they are left out.
    Queries take an rclpy Time or a builtin_interfaces/Time.
    """

    def __init__(self, f: SimpleFilter, cache_size: int = 1, allow_headerless: bool = False) -> None:
        super().__init__()
        self.cache_size, self.allow_headerless = cache_size, allow_headerless
        self._messages: deque[tuple[int, Any, Any]] = deque(maxlen=cache_size)  # ns, the same as a stamp, message
        self.connectInput(f)

    def connectInput(self, f: SimpleFilter) -> None:
        """Listen to this filter, too."""
        self.incoming_connection = f.registerCallback(self.add)

    def add(self, msg: Any) -> None:
        """Take a message in, and pass it on."""
        stamp = _stamp(msg, self.allow_headerless, "message_filters_cache")
        if stamp is not None:
            self._messages.append((_nanoseconds(stamp), stamp, msg))
            self.signalMessage(msg)

    def getInterval(self, from_stamp: Any, to_stamp: Any) -> list[Any]:
        """Return the messages from one stamp to another (inclusive), in their order. Raises ValueError: reversed."""
        first, last = _nanoseconds(from_stamp), _nanoseconds(to_stamp)
        if first > last:
            raise ValueError(f"the interval ends {first - last} ns before it begins")
        return [message for time, _, message in self._sorted() if first <= time <= last]

    def getElemAfterTime(self, stamp: Any) -> Any:
        """Return the earliest message at or after a stamp; None if there is none."""
        wanted = _nanoseconds(stamp)
        return next((message for time, _, message in self._sorted() if time >= wanted), None)

    def getElemBeforeTime(self, stamp: Any) -> Any:
        """Return the latest message at or before a stamp; None if there is none."""
        wanted = _nanoseconds(stamp)
        return next((message for time, _, message in reversed(self._sorted()) if time <= wanted), None)

    def getLastestTime(self) -> Time | None:  # upstream's spelling
        """Return the latest stamp; None without messages."""
        return _time(self._sorted()[-1][1]) if self._messages else None

    def getOldestTime(self) -> Time | None:
        """Return the earliest stamp; None without messages."""
        return _time(self._sorted()[0][1]) if self._messages else None

    def getLast(self) -> Any:
        """Return the message with the latest stamp; None without messages."""
        return self._sorted()[-1][2] if self._messages else None

    def _sorted(self) -> list[tuple[int, Any, Any]]:
        return sorted(self._messages, key=lambda item: item[0])


class TimeSynchronizer(SimpleFilter):
    """Calls back with one message of each input whenever all of them have the same stamp.

    ``fs`` are the inputs, ``queue_size`` how many messages of each input wait for their partners.
    """

    def __init__(self, fs: Sequence[SimpleFilter], queue_size: int) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.queue_size = queue_size
        self.connectInput(fs)

    def connectInput(self, fs: Sequence[SimpleFilter]) -> None:
        """Listen to these filters instead of those before."""
        self.queues: list[dict[int, Any]] = [{} for _ in fs]
        self.input_connections = [
            f.registerCallback(self.add, queue, index)
            for index, (f, queue) in enumerate(zip(fs, self.queues, strict=True))
        ]

    def add(self, msg: Any, my_queue: dict[int, Any], my_queue_index: int | None = None) -> None:
        """Take a message in, and signal the sets that are complete now."""
        with self.lock:
            self._put(my_queue, _nanoseconds(msg.header.stamp), msg)
            common = set.intersection(*(set(queue) for queue in self.queues))
            complete = [[queue.pop(stamp) for queue in self.queues] for stamp in sorted(common)]
        for messages in complete:
            self.signalMessage(*messages)

    def _put(self, queue: dict[int, Any], stamp: int, msg: Any) -> None:
        queue.pop(stamp, None)  # a repeated stamp counts as having come now
        queue[stamp] = msg
        while len(queue) > self.queue_size:
            del queue[next(iter(queue))]


class ApproximateTimeSynchronizer(TimeSynchronizer):
    """Calls back with one message of each input whose stamps lie within ``slop`` seconds (inclusive).

    With ``allow_headerless``, messages without a stamp count as stamped on arrival; otherwise they are refused.
    """

    def __init__(
        self, fs: Sequence[SimpleFilter], queue_size: int, slop: float, allow_headerless: bool = False
    ) -> None:
        super().__init__(fs, queue_size)
        self.slop_ns = round(slop * 1e9)
        self.allow_headerless = allow_headerless

    def add(self, msg: Any, my_queue: dict[int, Any], my_queue_index: int | None = None) -> None:
        """Take a message in, and signal the set that it completes, if any."""
        found = _stamp(msg, self.allow_headerless, "message_filters_approx")
        if found is None:
            return
        stamp = _nanoseconds(found)
        with self.lock:
            self._put(my_queue, stamp, msg)
            stamps = self._match(stamp, my_queue)
            messages = [queue.pop(s) for queue, s in zip(self.queues, stamps, strict=True)] if stamps else []
        if messages:
            self.signalMessage(*messages)

    def _match(self, stamp: int, my_queue: dict[int, Any]) -> tuple[int, ...] | None:
        """Return one stamp per queue, nearest to ``stamp`` first, within the slop; None when there are none."""
        candidates = [
            [stamp]
            if queue is my_queue
            else sorted((s for s in queue if abs(s - stamp) <= self.slop_ns), key=lambda s: abs(s - stamp))
            for queue in self.queues
        ]
        for stamps in itertools.product(*candidates):
            if max(stamps) - min(stamps) <= self.slop_ns:
                return stamps
        return None


def _stamp(msg: Any, allow_headerless: bool, logger: str) -> Any:
    """Return a message's stamp, or now; None, with a warning, where it has none and must have one."""
    stamp = getattr(getattr(msg, "header", None), "stamp", None)
    if stamp is not None:
        return stamp
    if allow_headerless:
        return ROSClock().now()
    rclpy.logging.get_logger(logger).warning(
        f"a {type(msg).__name__} has no header.stamp and was left out: give stamped messages, or set allow_headerless "
        "to use the time of arrival"
    )
    return None


def _time(stamp: Any) -> Time:
    """Return an rclpy Time for one or for a builtin_interfaces/Time."""
    return stamp if hasattr(stamp, "nanoseconds") else Time.from_msg(stamp)


def _nanoseconds(stamp: Any) -> int:
    """Return the nanoseconds of a builtin_interfaces/Time or an rclpy Time."""
    if hasattr(stamp, "nanoseconds"):
        return int(stamp.nanoseconds)
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
