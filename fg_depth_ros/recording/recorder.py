"""The recorder: accepts messages without blocking, and writes episodes when triggered.

Callers' threads only store (a ring of the last seconds, a bounded queue); one thread writes. The time base is the
``recorded`` time of the pairs, the node's clock, which may jump.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.recording.config import RecorderConfig
from fg_depth_ros.recording.definitions import Message, Topic
from fg_depth_ros.recording.episode_writer import DISK, Encode, EpisodeRequest, EpisodeWriter, Latched, OnFault, copied
from fg_depth_ros.recording.episodes import OpenFile
from fg_depth_ros.recording.mcap_writer import DurableFile
from fg_depth_ros.recording.recovery import recover
from fg_depth_ros.recording.ring import BACK, Group, Ring

__all__ = ["Message", "Recorder", "RecorderConfig", "Topic"]

RECOVERY, INTERNAL, DESCRIPTION = "recovery", "internal", "description"
LOST = keys.LOST_ON_THE_WAY.strip()
"""Reason of messages that never came."""

_LOG = logging.getLogger(__name__)
_FORWARD = 10_000_000_000  # ns that the clock may outrun the steady one
_END_SECONDS = 5.0  # beyond the end of an episode, to wait for its last pair
_SILENT_SECONDS = 1.0  # without a pair: its time no longer says what time it is now
_CHUNK_BYTES, _CHUNK_GROUPS = 8 << 20, 64  # what one chunk may hold: what a crash may cost
_TICK = 0.25  # s


class _Entry(NamedTuple):
    """An entry of the queue: a group, or a request that begins, or (both None) the end of the episode."""

    group: Group | None = None
    request: EpisodeRequest | None = None
    preroll: bool = False


class Recorder:
    """Records pairs and other messages in episodes.

    Every method may be called from any thread; none of them raises or waits, except ``close``. Callbacks come from the
    writing thread or the caller's, never while a lock of the recorder is held.
    """

    def __init__(
        self, config: RecorderConfig, describe: Callable[[], dict[str, Any]], on_fault: OnFault,
        encode: Encode | None = None, *, latched: Latched = tuple,
        on_finished: Callable[[dict[str, Any]], None] = lambda line: None, open_file: OpenFile = DurableFile,
    ) -> None:  # fmt: skip
        """Start the writing thread; messages fill the ring until an episode is requested.

        Args:
            describe: returns "rig", "weights", "software" for the manifest. Called with every pair that is written, in
                the submitting thread; an episode has the last value before its end.
            on_fault: called with subject and text of a fault, and with the subject and None when it is over.
            encode: applied to each message in the writing thread; where it raises, the message is dropped.
            latched: returns messages, in the writing thread, that every episode begins with, recorded again with the
                time of its first message: those before a trigger need them, too.
            on_finished: called with the manifest's line of every complete episode.
            open_file: how files are opened; tests put a failing disk here.
        """
        self.config = config
        self._describe, self._on_fault, self._on_finished = describe, on_fault, on_finished
        self._wake = threading.Condition()
        self._queue: deque[_Entry] = deque()
        self._queue_bytes = self._preroll_bytes = self._pairs_in_queue = 0
        self._ring = Ring()
        self._request: EpisodeRequest | None = None
        self._continuous = False
        self._until: int | None = None  # of the episode, ns; None: not known before a pair comes
        self._deadline = math.inf  # steady time when an episode ends without further pairs
        self._newest: int | None = None  # recorded time of the last pair, ns
        self._seen = 0.0  # steady time of the last pair, s
        self._offered = self._written = self._not_wanted = self._extras = 0
        self._drops: Counter[str] = Counter()
        self._extra_drops: Counter[str] = Counter()
        self._input_drops: Counter[str] = Counter()
        self._all_drops = {  # by their keys of the manifest
            "drops": self._drops, "input_drops": self._input_drops, "other_drops": self._extra_drops
        }  # fmt: skip
        self._last_error = ""
        self._closing = False
        self._recovering: threading.Thread | None = None
        self._writer = EpisodeWriter(
            config, self._fault, encode, latched, open_file, self._all_drops, self._finished, self._recover
        )
        self._writer.prepare()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def submit_pair(self, stamp_ns: int, messages: Sequence[tuple[Topic, Message]]) -> None:
        """Submit a pair, which is recorded as a whole or not at all.

        ``stamp_ns``: of the left image, which comes before the right one among the messages.
        """
        recorded = max((message.recorded for _, message in messages), default=stamp_ns)
        group = Group(recorded, stamp_ns, tuple(messages))
        description = self._described() if self._request is not None else None
        with self._wake:
            self._offered += 1
            if self._closing:
                self._drops["closed"] += 1
                return
            self._check_clock(recorded)
            self._newest, self._seen = recorded, time.monotonic()
            if self._request is not None and not self._continuous:
                if self._until is None:
                    self._until = recorded + round(self.config.after * 1e9)
                if recorded > self._until:
                    self._end()
                else:
                    self._set_deadline()
            if self._request is None:
                self._to_ring(group)
            else:
                if description:
                    self._request.description = description
                self._enqueue(group)

    def submit_extra(self, topic: Topic, message: Message) -> None:
        """Submit another message; it is recorded within the time of an episode, and counted apart from the pairs."""
        group = Group(message.recorded, None, ((topic, message),))
        with self._wake:
            if self._closing:
                self._extra_drops["closed"] += 1
            elif self._request is not None:
                self._enqueue(group)
            else:
                self._to_ring(group)

    def count_lost(self, *, inputs: int, others: int) -> None:
        """Count messages that were lost before they were submitted, by how many they are so far.

        Args:
            inputs: messages of the pairs; counted apart from these, as a pair lacks one of them or several.
            others: other messages.
        """
        with self._wake:
            for drops, number in ((self._input_drops, inputs), (self._extra_drops, others)):
                if number:
                    drops[LOST] = number

    def trigger(self, kind: str, detail: str = "") -> None:
        """Record the seconds before and after now. During an episode: continue until ``after`` s from now.

        While the cameras are silent, ``after`` counts from the next pair.
        """
        description = self._described()
        with self._wake:
            if self._closing:
                return
            if self._request is None:
                self._trim_ring()
                self._begin(EpisodeRequest(kind, detail, description))
                for group in self._ring.take():
                    self._preroll_bytes += group.memory
                    self._pairs_in_queue += group.stamp is not None
                    self._queue.append(_Entry(group, preroll=True))
            else:
                self._request.add_detail(f"{kind}: {detail}" if detail else kind)
            if not self._continuous and self._newest is not None:
                silent = time.monotonic() - self._seen > _SILENT_SECONDS
                self._until = None if silent else max(self._until or 0, self._newest + round(self.config.after * 1e9))
            self._set_deadline()
            self._wake.notify_all()

    def start(self) -> None:
        """Record everything from now on; an episode in progress is continued."""
        description = self._described()
        with self._wake:
            if self._closing or self._continuous:
                return
            self._continuous, self._deadline = True, math.inf
            if self._request is not None:
                self._request.add_detail("continuous")
                self._request.endless = True
                return
            self._not_wanted += sum(group.stamp is not None for group in self._ring.take())
            self._begin(EpisodeRequest("continuous", "", description, endless=True))

    def stop(self) -> None:
        """End the current episode, whatever requested it."""
        with self._wake:
            self._continuous = False
            if self._request is not None:
                self._end()

    def cut(self, reason: str) -> None:
        """Begin a new episode for a request in progress and clear the ring, as the cameras have changed."""
        with self._wake:
            self._break(reason)

    def counters(self) -> dict[str, int]:
        """Return the numbers of pairs; ``offered`` is the sum of the others at every moment."""
        with self._wake:
            return {
                "offered": self._offered, "written": self._written, "not_wanted": self._not_wanted,
                "in_ring": self._ring.pairs, "in_queue": self._pairs_in_queue, "dropped": self._drops.total(),
            }  # fmt: skip

    @property
    def drops(self) -> Counter[str]:
        """Number of dropped pairs by reason."""
        with self._wake:
            return Counter(self._drops)

    @property
    def input_drops(self) -> Counter[str]:
        """Number of messages that pairs are formed of and that never came, by reason."""
        with self._wake:
            return Counter(self._input_drops)

    @property
    def extra_drops(self) -> Counter[str]:
        """Number of dropped other messages by reason."""
        with self._wake:
            return Counter(self._extra_drops)

    @property
    def continuous(self) -> bool:
        """Whether everything is recorded, from ``start`` to ``stop``."""
        return self._continuous

    @property
    def episode(self) -> str:
        """Name of the episode being written; empty if there is none."""
        return self._writer.episode_name

    @property
    def begun(self) -> tuple[int, str]:
        """Number of episodes begun so far, and the name of the last one."""
        return self._writer.begun

    def values(self) -> dict[str, str]:
        """Return keys for diagnostics."""
        disk = self._writer
        with self._wake:
            kind = "no" if self._request is None else "continuous" if self._continuous else self._request.kind
            values = {
                "recording": kind,
                "episode": disk.episode_name or "none",
                "last episode": disk.last_name or "none",
                "episodes finished": str(disk.finished),
                "pairs offered": str(self._offered),
                keys.PAIRS_WRITTEN: str(self._written),
                keys.PAIRS_NOT_WANTED: str(self._not_wanted),
                keys.PAIRS_IN_RING: str(self._ring.pairs),
                keys.PAIRS_IN_QUEUE: str(self._pairs_in_queue),
                "other messages written": str(self._extras),
                "queue (bytes)": str(self._queue_bytes + self._preroll_bytes),
                "ring (bytes)": str(self._ring.bytes),
                "ring (s)": f"{self._ring.seconds:.2f}",
            }
            values |= {f"{keys.DROPPED}{reason}": str(count) for reason, count in sorted(self._drops.items())}
            values |= {f"others dropped: {reason}": str(n) for reason, n in sorted(self._extra_drops.items())}
            last_error = self._last_error
        return values | {
            "bytes written": str(disk.bytes_written),
            keys.WRITE_RATE: f"{disk.rate / 1e6:.2f}",
            "free space (bytes)": str(disk.free_bytes),
            "recordings (bytes)": str(disk.space.used),
            "quota (bytes)": str(self.config.quota_bytes) if self.config.quota_bytes else "none",
            "last error": last_error or "none",
        }

    def close(self, timeout: float = 10.0) -> None:
        """Write the queue, complete the episode and end the thread, within ``timeout`` s."""
        end = time.monotonic() + timeout
        with self._wake:
            if not self._closing and self._request is not None:
                self._end()
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout)
        if self._recovering is not None:  # begun by the writing thread, at its last
            self._recovering.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            self._fault(DISK, f"{self.config.root}: not written within {timeout:g} s; run fg-depth recover")

    # What follows down to _run is called with the lock held.

    def _begin(self, request: EpisodeRequest) -> None:
        request.drops = copied(self._all_drops)
        self._request, self._until = request, None
        self._queue.append(_Entry(request=request))
        self._wake.notify_all()

    def _end(self) -> None:
        self._request, self._until, self._deadline = None, None, math.inf
        self._queue.append(_Entry())
        self._wake.notify_all()

    def _break(self, reason: str, shift: int = 0) -> None:
        """End the episode and continue the request in another one, ``shift`` ns later by the clock."""
        self._not_wanted += sum(group.stamp is not None for group in self._ring.take())
        if self._request is not None:
            request, until = self._request, self._until
            self._end()
            self._begin(
                EpisodeRequest(
                    request.kind, request.detail, request.description, continued=True, endless=request.endless
                )
            )
            self._request.add_detail(reason)
            self._until = until + shift if until is not None else None
            self._set_deadline()

    def _check_clock(self, recorded: int) -> None:
        if self._newest is None:
            return
        step = recorded - self._newest
        outran = step - (time.monotonic() - self._seen) * 1e9
        if step < -BACK or outran > _FORWARD:
            self._break(f"clock jumped {'back' if step < 0 else 'forward'} {abs(step) / 1e9:.1f} s", step)

    def _set_deadline(self) -> None:
        if self._continuous:
            return
        left = self.config.after
        if self._until is not None and self._newest is not None:
            left = (self._until - self._newest) / 1e9
        self._deadline = time.monotonic() + left + _END_SECONDS

    def _to_ring(self, group: Group) -> None:
        self._ring.add(group)
        self._trim_ring()

    def _trim_ring(self) -> None:
        limit = max(0, self.config.ring_bytes - self._preroll_bytes)
        self._not_wanted += self._ring.trim(round(self.config.before * 1e9), limit)

    def _enqueue(self, group: Group) -> None:
        if self._queue_bytes and self._queue_bytes + group.memory > self.config.queue_bytes:
            self._count_drop(group, "queue full")
            return
        self._queue_bytes += group.memory
        self._pairs_in_queue += group.stamp is not None
        self._queue.append(_Entry(group))
        self._wake.notify_all()

    def _count_drop(self, group: Group, reason: str) -> None:
        (self._drops if group.stamp is not None else self._extra_drops)[reason] += 1

    def _next(self) -> list[_Entry]:
        """Take one request or end, or as many groups as fit in a chunk, out of the queue."""
        taken: list[_Entry] = []
        size = 0
        while self._queue and len(taken) < _CHUNK_GROUPS and size < _CHUNK_BYTES:
            if taken and self._queue[0].group is None:
                break
            entry = self._queue.popleft()
            taken.append(entry)
            if entry.group is None:
                break
            size += entry.group.size
        return taken

    # The writing thread.

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._queue and not self._closing:
                    self._wake.wait(_TICK)
                if self._request is not None and time.monotonic() > self._deadline:
                    self._end()
                entries = self._next()
                if not entries and self._closing:
                    return
            groups = [entry.group for entry in entries if entry.group is not None]
            results = ["internal error"] * len(groups)
            try:
                results = self._writer.write(groups) if groups else []
                for entry in entries if not groups else ():  # a request or an end, which stands alone
                    if entry.request is not None:
                        self._writer.begin(entry.request)
                    else:
                        self._writer.end()
                self._writer.tick()
            except Exception as error:  # a defect must not end the recording
                _LOG.exception("recording into %s", self.config.root)
                self._writer.abandon()
                self._fault(INTERNAL, f"{type(error).__name__}: {error}; the episode is left for fg-depth recover")
            self._count_results(entries, results)

    def _count_results(self, entries: list[_Entry], results: list[str]) -> None:
        with self._wake:
            for entry, result in zip((e for e in entries if e.group is not None), results, strict=True):
                assert entry.group is not None
                if entry.preroll:
                    self._preroll_bytes -= entry.group.memory
                else:
                    self._queue_bytes -= entry.group.memory
                pair = entry.group.stamp is not None
                self._pairs_in_queue -= pair
                if result:
                    self._count_drop(entry.group, result)
                elif pair:
                    self._written += 1
                else:
                    self._extras += 1

    def _described(self) -> dict[str, Any]:
        try:
            return dict(self._describe())
        except Exception as error:  # must not reach the caller's thread
            self._fault(DESCRIPTION, f"{type(error).__name__}: {error}; the manifest lacks rig and weights")
            return {}

    def _fault(self, subject: str, text: str | None) -> None:
        if text is not None:
            self._last_error = text
        try:
            self._on_fault(subject, text)
        except Exception:
            _LOG.exception("on_fault failed at '%s: %s'", subject, text)

    def _finished(self, line: dict[str, Any]) -> None:
        try:
            self._on_finished(line)
        except Exception:
            _LOG.exception("on_finished failed at %s", line["name"])

    def _recover(self) -> None:
        """Recover what a failing disk left, while recording continues."""
        if self._recovering is None or not self._recovering.is_alive():
            self._recovering = threading.Thread(target=self._recover_now, name="recovery", daemon=True)
            self._recovering.start()

    def _recover_now(self) -> None:
        try:
            problems = [f"{entry.name}: {entry.note}" for entry in recover(self.config.root) if not entry.done]
        except Exception as error:
            problems = [f"{self.config.root}: {error}"]
        self._fault(RECOVERY, "; ".join(problems) or None)
