"""Writes requested episodes: opens, splits and completes them, and pauses while the disk refuses."""

from __future__ import annotations

import errno
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fg_depth_ros.data.bags.storage import IMAGES
from fg_depth_ros.recording import manifest
from fg_depth_ros.recording.config import RecorderConfig
from fg_depth_ros.recording.definitions import Message, Topic
from fg_depth_ros.recording.episodes import Episode, OpenFile, episode_name
from fg_depth_ros.recording.mcap_writer import DurableFile
from fg_depth_ros.recording.ring import Group
from fg_depth_ros.recording.space import Shortage, Space

Encode = Callable[[Topic, Message], tuple[Topic, Message]]
# Subject and text of a fault; None: it is over.
OnFault = Callable[[str, "str | None"], None]
# Key of the manifest -> how many were dropped, by reason.
Drops = Mapping[str, Counter[str]]
# Topics and bytes of the messages that every episode begins with.
Latched = Callable[[], Sequence[tuple[Topic, bytes]]]

DISK, SPACE, ENCODING, TYPES, MANIFEST = "disk", "space", "encoding", "types", "manifest"
_RETRY = 1.0  # s between attempts
_REFRESH = 1.0  # s between readings of the free space
_RATE_SPAN = 5.0  # s
_SLACK = 1 << 16  # bytes: the index, metadata.yaml and episode.json of an episode
_DETAIL_LENGTH = 500


@dataclass
class EpisodeRequest:
    """A request for an episode. The recorder changes its detail, description and ``endless`` while it is written."""

    kind: str
    detail: str
    description: dict[str, Any] = field(default_factory=dict)
    continued: bool = False  # the episode before was cut, this one goes on
    endless: bool = False  # continuous recording: its own older parts are removed, too, so that it goes on
    drops: Drops = field(default_factory=dict)  # before it

    def add_detail(self, text: str) -> None:
        """Append to the detail, up to ``_DETAIL_LENGTH`` characters."""
        if text and len(self.detail) + len(text) < _DETAIL_LENGTH:
            self.detail = f"{self.detail}; {text}" if self.detail else text


class EpisodeWriter:
    """Writes episodes for the recorder's thread; other threads may read its plain attributes. Raises no OSError."""

    def __init__(
        self, config: RecorderConfig, on_fault: OnFault, encode: Encode | None, latched: Latched, open_file: OpenFile,
        drops: Drops, on_finished: Callable[[dict[str, Any]], None], on_incomplete: Callable[[], None],
    ) -> None:  # fmt: skip
        """Write nothing yet.

        Args:
            encode: applied to every message.
            latched: returns what every episode begins with, recorded again with the time of its first message.
            drops: the recorder's counters, read only; every episode has what was added to them meanwhile.
            on_finished: called with the manifest's line of an episode.
            on_incomplete: called when an episode was left unfinished.
        """
        self.space = Space(config.root, config.quota_bytes, config.free_floor_bytes)
        self.episode_name = self.last_name = ""
        self.begun = (0, "")  # how many episodes began, and the name of the last one
        self.finished = self.bytes_written = self.free_bytes = 0
        self.rate = 0.0  # bytes/s
        self._faults: dict[str, str] = {}  # subject -> code of what is wrong
        self._config, self._on_fault, self._encode, self._open_file = config, on_fault, encode, open_file
        self._latched = latched
        self._on_finished, self._on_incomplete = on_finished, on_incomplete
        self._drops, self._drops_before = drops, copied(drops)
        self._request: EpisodeRequest | None = None
        self._episode: Episode | None = None
        self._chain = ""  # the episode that the next one continues
        self._rooted = self._incomplete = False
        self._paused, self._retry_at = "", 0.0
        self._synced, self._refreshed = time.monotonic(), -math.inf
        self._unsynced = False
        self._marks: deque[tuple[float, int]] = deque([(self._synced, 0)])

    def prepare(self) -> None:
        """Make the folder of the episodes, so that a fault is known before the first one."""
        try:
            self._make_root()
        except OSError as error:
            self._fail(error)

    def begin(self, request: EpisodeRequest) -> None:
        """Begin a request; its episode is created with its first message."""
        self.end()
        self._request = request
        if not request.continued:
            self._chain, self._retry_at = "", 0.0
            self._drops_before = request.drops

    def end(self) -> None:
        """Complete the episode, if there is one."""
        self._finish()
        self._request = None

    def write(self, groups: Sequence[Group]) -> list[str]:
        """Write groups to the current request's episode. Returns for each "" or the reason of its drop."""
        if self._paused and time.monotonic() < self._retry_at:
            return [self._paused] * len(groups)
        encoded, results = self._encoded(groups)
        if encoded:
            reason = self._write(encoded)
            results = [result or reason for result in results]
        return results

    def tick(self) -> None:
        """Sync, update figures and retry after faults, where due. Call it several times a second."""
        now = time.monotonic()
        if self._episode is not None and self._unsynced and now - self._synced >= self._config.sync_seconds:
            try:
                self._sync()
            except OSError as error:
                self._fail(error)
        while len(self._marks) > 1 and now - self._marks[1][0] > _RATE_SPAN:
            self._marks.popleft()
        began, before = self._marks[0]
        self.rate = (self.bytes_written - before) / min(max(now - began, 1e-3), _RATE_SPAN)
        if now - self._refreshed >= _REFRESH:
            self._refreshed = now
            with suppress(OSError):
                self.free_bytes = self.space.free()
            if self._incomplete and not self._paused:
                self._incomplete = False
                self._on_incomplete()
            if self._request is None and self._faults.keys() & {DISK, SPACE} and now >= self._retry_at:
                self._probe()

    def abandon(self) -> None:
        """Leave the episode as it is, for the recovery, after an error that is not the disk's."""
        if self._episode is not None:
            self._incomplete |= self._episode.messages > 0
            with suppress(OSError):
                self._episode.abandon()
        self._episode, self.episode_name = None, ""

    def _encoded(self, groups: Sequence[Group]) -> tuple[list[Group], list[str]]:
        if self._encode is None:
            return list(groups), [""] * len(groups)
        encoded, results = [], []
        for group in groups:
            try:
                items = tuple(self._encode(topic, message) for topic, message in group.items)
                encoded.append(group._replace(items=items))
                results.append("")
                self._fault_over(ENCODING)
            except Exception as error:  # a malformed image breaks a codec in any way
                results.append("encode error")
                names = ", ".join(topic.name for topic, _ in group.items)
                self._fault(ENCODING, names, f"{names}: cannot be encoded ({error})")
        return encoded, results

    def _write(self, groups: Sequence[Group]) -> str:
        if self._request is None:
            return "no episode"
        size = sum(group.size for group in groups)
        try:
            self._make_root()
            self._split_where_due(groups[0].recorded, size)
            items = [item for group in groups for item in group.items]
            if self._episode is None:
                first = min((message.recorded for _, message in items), default=groups[0].recorded)
                items[:0] = [(topic, Message(topic.name, first, data)) for topic, data in self._latched()]
                size = sum(len(message.data) for _, message in items)
            written = self._episode.size if self._episode else 0
            keep = "" if self._request.endless else self._chain
            shortage = self.space.room_for(size + _SLACK, current=self.episode_name, written=written, keep=keep)
            if shortage is not None:
                return self._pause(shortage)
            if self._episode is None:
                self._open(groups[0].recorded)
            assert self._episode is not None
            before = self._episode.size
            pairs = [group for group in groups if group.stamp is not None]
            if pairs and not self._episode.pairs:
                self._episode.describe({"images": _image_topics(pairs[0])})
            self._episode.write(items, [group.stamp for group in pairs if group.stamp is not None])
            self.bytes_written += self._episode.size - before
            self._unsynced = True
            if self._paused:  # the fault is over only when the disk holds it
                self._sync()
                self._resume()
        except OSError as error:
            return self._fail(error)
        self._marks.append((time.monotonic(), self.bytes_written))
        if self._episode.unknown_types:
            names = ", ".join(sorted(self._episode.unknown_types))
            text = f"no definition of {names} found (AMENT_PREFIX_PATH): recorded without; source its workspace"
            self._fault(TYPES, names, text)
        return ""

    def _make_root(self) -> None:
        """Make the folder of the episodes until it was there once. Raises OSError.

        One that vanishes later is on a disk that is gone, and another in its place would fill another disk.
        """
        if not self._rooted:
            self._config.root.mkdir(parents=True, exist_ok=True)
            self._rooted = True

    def _open(self, recorded: int) -> None:
        assert self._request is not None
        draft = {
            **_description(self._request), "trigger": self._request.kind, "detail": self._request.detail,
            "storage": self._config.storage, "continues": self._chain or None,
        }  # fmt: skip
        name = episode_name(self._config.prefix, recorded, self._request.kind)
        self._episode = Episode(self._config.root, name, draft, self._open_file)
        self.episode_name = self._episode.name
        self.begun = (self.begun[0] + 1, self._episode.name)
        self._synced, self._unsynced = time.monotonic(), True

    def _split_where_due(self, recorded: int, size: int) -> None:
        episode, config = self._episode, self._config
        if episode is None or not episode.messages:
            return
        seconds, largest = (recorded - episode.first_recorded) / 1e9, config.max_episode_bytes
        if self._request is not None and self._request.endless:
            # A part can only be removed when it is complete: two of them fit.
            largest = min(largest, self.space.capacity(episode.size) // 2 - _SLACK)
        if episode.size + size > largest or seconds > config.max_episode_seconds:
            self._finish()

    def _finish(self) -> None:
        try:
            self._complete()
        except OSError as error:
            self._fail(error)

    def _complete(self) -> None:
        """Complete an episode that has messages. On OSError it is left for the recovery."""
        episode, request = self._episode, self._request
        if episode is None or request is None:
            return
        if not episode.messages:
            self.abandon()
            return
        before, self._drops_before = self._drops_before, copied(self._drops)
        drops = {key: dict(count - before.get(key, Counter())) for key, count in self._drops_before.items()}
        self._chain = episode.name
        try:
            line = episode.finish({**_description(request), "detail": request.detail, **drops})
        except OSError:
            self._drops_before = before  # the next episode reports them
            self.abandon()
            raise
        self.last_name, self._episode, self.episode_name = episode.name, None, ""
        self.finished += 1
        self.space.invalidate()
        self._incomplete |= not episode.listed
        if episode.listed:
            self._fault_over(MANIFEST)
        else:
            where = self._config.root / manifest.NAME
            self._fault(MANIFEST, "not written", f"{where}: cannot be written; run fg-depth recover")
        self._on_finished(line)

    def _fail(self, error: OSError) -> str:
        """Handle a disk error: complete what is there, then pause. Returns the reason of drops meanwhile."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        self._paused, self._retry_at = "disk full" if full else "write error", time.monotonic() + _RETRY
        if self._episode is not None:
            with suppress(OSError):
                self._complete()
        where = error.filename or self._config.root
        remedy = "bring the folder back, or make it writable" if self._rooted else "give another folder"
        remedy = "make room on the disk" if full else remedy
        text = f"{where}: {error.strerror or error}; nothing is recorded until it can be written again: {remedy}"
        self._fault(DISK, errno.errorcode.get(error.errno or 0, "unknown"), text)
        return self._paused

    def _pause(self, shortage: Shortage) -> str:
        """Pause as there is no room and no episode may be removed."""
        self._complete()
        self._paused, self._retry_at = shortage.code, time.monotonic() + _RETRY
        self._fault(SPACE, shortage.code, f"{shortage.text}; nothing is recorded until then")
        return self._paused

    def _resume(self) -> None:
        self._paused = ""
        self._fault_over(DISK)
        self._fault_over(SPACE)

    def _probe(self) -> None:
        """Check whether the next episode could be written; nothing is removed for it."""
        probe = self._config.root / ".probe"
        self._retry_at = time.monotonic() + _RETRY
        with suppress(OSError):
            self._make_root()
            probe.unlink(missing_ok=True)
            if self.space.room_for(_SLACK, remove=False) is not None:
                return
            file: DurableFile = self._open_file(probe)
            try:
                file.write([bytes(_SLACK)])
                file.sync()
            finally:
                file.close()
                probe.unlink()
            self._resume()

    def _sync(self) -> None:
        assert self._episode is not None
        self._episode.sync()
        self._synced, self._unsynced = time.monotonic(), False

    def _fault(self, subject: str, code: str, text: str) -> None:
        """Report a fault, once as long as its code stays the same."""
        if self._faults.get(subject) != code:
            self._faults[subject] = code
            self._on_fault(subject, text)

    def _fault_over(self, subject: str) -> None:
        if self._faults.pop(subject, None) is not None:
            self._on_fault(subject, None)


def copied(drops: Drops) -> Drops:
    """Return the counts of now."""
    return {key: count.copy() for key, count in drops.items()}


def _image_topics(pair: Group) -> list[str]:
    """Return the topics of the images of a pair, the left one first, as they are recorded."""
    return [topic.name for topic, _ in pair.items if topic.msgtype in IMAGES]


def _description(request: EpisodeRequest) -> dict[str, Any]:
    return {key: request.description.get(key) for key in ("rig", "weights", "software") if key in request.description}
