"""Diagnostics of a node: rates, latencies, drops by reason and faults, as DiagnosticStatus (REP 107)."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.nodes.common.codes import FaultCode

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

_LATENCIES = 300  # durations that they are of
_PLAUSIBLE = 60.0  # s from a stamp to the publication


class RateMeter:
    """Events per second over the last ``window`` seconds."""

    def __init__(self, window: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window, self._clock = window, clock
        self._times: deque[float] = deque()
        self.total = 0

    def tick(self) -> None:
        """Count one event."""
        self.total += 1
        self._times.append(self._clock())
        self._trim()

    def rate(self) -> float:
        """Return the rate in Hz; 0 with fewer than two events in the window."""
        self._trim()
        if len(self._times) < 2:
            return 0.0
        gaps, span = len(self._times) - 1, self._times[-1] - self._times[0]
        # From the first event to now, at least to the last: a source that stopped fades out.
        span = max(span, self._clock() - self._times[0] - span / gaps)
        return gaps / span if span > 0 else 0.0

    @property
    def count(self) -> int:
        """Number of events in the window."""
        self._trim()
        return len(self._times)

    @property
    def seconds(self) -> float:
        """Time since the first event in the window, s; 0 without one."""
        self._trim()
        return self._clock() - self._times[0] if self._times else 0.0

    def _trim(self) -> None:
        end = self._clock() - self._window
        while self._times and self._times[0] < end:
            self._times.popleft()


def node_log(node: Any) -> Callable[[bytes, str], None]:
    """Return a function that writes (level, text) to a node's log."""

    def log(level: bytes, text: str) -> None:
        # One call for each: rclpy binds a line of code to one severity.
        if level == ERROR:
            node.get_logger().error(text)
        elif level == WARN:
            node.get_logger().warning(text)
        else:
            node.get_logger().info(text)

    return log


@dataclass(frozen=True)
class Fault:
    """Something that is wrong now."""

    level: bytes
    text: str
    since: float
    code: str


class Faults:
    """Faults by subject. New ones are logged, persisting ones every ``repeat`` seconds, and recoveries. Thread-safe.

    ``log`` is called with level (OK for a recovery) and text. ``subjects``: those that are shown in a status; any other
    raises KeyError; None = all are taken.
    """

    def __init__(
        self, log: Callable[[bytes, str], None], repeat: float = 10.0, subjects: Iterable[str] | None = None
    ) -> None:
        self._log, self._repeat = log, repeat
        self._subjects = None if subjects is None else frozenset(subjects)
        self._lock = threading.Lock()
        self._faults: dict[str, Fault] = {}
        self._logged: dict[str, float] = {}

    def report(self, subject: str, level: bytes, text: str, code: str, *, log_every_text: bool = False) -> None:
        """Report what is wrong with ``subject`` and what to do; it replaces an earlier report.

        ``subject``: a codes.FaultSubject. ``code``: fixed value for programs (codes.FaultCode, codes.RecorderFault,
        MessageError.reason). The fault is logged when its code is new, or with ``log_every_text`` when its text is, and
        every ``repeat`` seconds.
        """
        self._check(subject)
        now = time.monotonic()
        with self._lock:
            before = self._faults.get(subject)
            new = before is None or (before.text != text if log_every_text else before.code != code)
            since = now if before is None else before.since
            self._faults[subject] = Fault(level, text, since, str(code))
            speak = new or now - self._logged.get(subject, -self._repeat) >= self._repeat
            if speak:
                self._logged[subject] = now
        if speak:
            self._log(level, text)

    def update(self, subject: str, level: bytes, text: str | None, code: str, *, log_every_text: bool = False) -> None:
        """Report ``text``, or clear the fault where it is None."""
        if text is None:
            self.clear(subject)
        else:
            self.report(subject, level, text, code, log_every_text=log_every_text)

    def clear(self, subject: str) -> None:
        """Remove the fault of ``subject`` and log that it has recovered."""
        self._check(subject)
        with self._lock:
            fault = self._faults.pop(subject, None)
        if fault is not None:
            self._log(OK, f"recovered after {time.monotonic() - fault.since:.1f} s: {subject}")

    def forget(self, subject: str, older_than: float = 0.0) -> None:
        """Remove the fault of ``subject`` without a log line, if it is older than so many seconds."""
        with self._lock:
            fault = self._faults.get(subject)
            if fault is not None and time.monotonic() - fault.since >= older_than:
                del self._faults[subject]

    def _check(self, subject: str) -> None:
        if self._subjects is not None and subject not in self._subjects:
            raise KeyError(f"fault subject '{subject}' is in no status: add it to the list of subjects")

    def __getitem__(self, subject: str) -> Fault | None:
        return self._faults.get(subject)

    def present(self, subjects: Iterable[str]) -> list[Fault]:
        """Return the faults of these subjects, the worst first, equals in the order of ``subjects``."""
        with self._lock:
            found = [self._faults[subject] for subject in subjects if subject in self._faults]
        return sorted(found, key=lambda fault: fault.level, reverse=True)


class PairStatistics:
    """Counts pairs, and left images that are processed alone while the right camera is silent. Thread-safe.

    Of both, received = published + dropped + in work.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.input = RateMeter()
        self.output = RateMeter()
        self._mono_received = self._mono_published = 0  # left images without a right one
        self._drops: Counter[str] = Counter()
        self._mono_drops: Counter[str] = Counter()
        self._seconds: dict[str, deque[float]] = {name: deque(maxlen=_LATENCIES) for name in keys.LATENCIES}

    def receive(self, mono: bool = False) -> None:
        """Count a pair, or with ``mono`` a left image alone."""
        with self._lock:
            self.input.tick()
            self._mono_received += mono

    def drop(self, reason: str, mono: bool = False) -> None:
        """Count a pair, or with ``mono`` a left image alone, that was dropped."""
        with self._lock:
            (self._mono_drops if mono else self._drops)[str(reason)] += 1

    def publish(self, *, inference: float, processing: float, pipeline: float | None, mono: bool = False) -> None:
        """Count a published pair, or with ``mono`` a left image alone.

        Seconds in the models, in the worker, and from the stamp to publication: None where that is not known, and
        unknown, too, where it is more than a minute, since stamps are then of another clock.
        """
        with self._lock:
            self.output.tick()
            self._mono_published += mono
            self._seconds["inference"].append(inference)
            self._seconds["processing"].append(processing)
            if pipeline is None or not -_PLAUSIBLE < pipeline < _PLAUSIBLE:
                self._seconds["pipeline"].clear()
            else:
                self._seconds["pipeline"].append(pipeline)

    def values(self) -> dict[str, str]:
        """Return the key-value pairs of a DiagnosticStatus."""
        with self._lock:
            values = {
                keys.PAIRS_MATCHED: str(self.input.total - self._mono_received),
                keys.PAIRS_PUBLISHED: str(self.output.total - self._mono_published),
                "pairs dropped": str(self._drops.total()),
                "mono fallback received": str(self._mono_received),
                keys.MONO_PUBLISHED: str(self._mono_published),
                "mono fallback dropped": str(self._mono_drops.total()),
                f"input{keys.RATE}": f"{self.input.rate():.2f}",
                f"output{keys.RATE}": f"{self.output.rate():.2f}",
            }
            for prefix, drops in (("", self._drops), ("mono fallback ", self._mono_drops)):
                values |= {f"{prefix}{keys.DROPPED}{reason}": str(count) for reason, count in sorted(drops.items())}
            for name, seconds in self._seconds.items():
                if seconds:
                    found = np.percentile(np.array(seconds), keys.PERCENTILES).tolist()
                    for percent, value in zip(keys.PERCENTILES, found, strict=True):
                        values[keys.latency(name, percent)] = f"{value * 1e3:.1f}"
                elif self.output.total:
                    values[name] = "unknown"
        return values


def status(
    name: str, hardware: str, faults: Sequence[Fault], message: str, values: Mapping[str, str],
    reason: str = FaultCode.OK,
) -> DiagnosticStatus:  # fmt: skip
    """Make a DiagnosticStatus with the keys ``reason`` and ``faults``, and those of ``values``.

    ``faults``, worst first: the first gives level, message and ``reason``; without one ``message`` and ``reason`` hold.
    """
    worst = faults[0] if faults else None
    codes = {keys.REASON: worst.code if worst else str(reason), keys.FAULTS: ", ".join(fault.code for fault in faults)}
    return DiagnosticStatus(
        level=worst.level if worst else OK,
        name=name,
        message=worst.text if worst else message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=value) for key, value in {**codes, **values}.items()],
    )


def fault_codes(status: DiagnosticStatus) -> frozenset[str]:
    """Return the codes of all faults in a status made by ``status``."""
    return frozenset(filter(None, _value(status, keys.FAULTS).split(", ")))


def reason_of(status: DiagnosticStatus) -> str:
    """Return the code of the fault that the message of a status made by ``status`` is about."""
    return _value(status, keys.REASON)


def _value(status: DiagnosticStatus, key: str) -> str:
    return next((str(item.value) for item in status.values if item.key == key), "")


def memory_values(device: str) -> dict[str, str]:
    """Return the memory of this process, and of ``device`` where that is a GPU, MiB, as key-value pairs."""
    values = {}
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        values["process memory (MiB)"] = f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f}"
    except OSError:
        pass  # not Linux
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        values["device memory of the model (MiB)"] = f"{torch.cuda.max_memory_reserved(device) / 2**20:.0f}"
        values["device memory free (MiB)"] = f"{free / 2**20:.0f} of {total / 2**20:.0f}"
    return values
