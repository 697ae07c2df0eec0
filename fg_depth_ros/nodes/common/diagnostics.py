"""What the node tells about itself: rates, latencies, drops by reason, faults; as a DiagnosticArray (REP
107).
"""

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

from fg_depth_ros.nodes.common.codes import FaultCode

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

PERCENTILES = (50, 95, 99)


class RateMeter:
    """Events per second over the last `window` seconds."""

    def __init__(self, window: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window, self._clock = window, clock
        self._times: deque[float] = deque()
        self.total = 0

    def tick(self) -> None:
        """Count one event now."""
        self.total += 1
        self._times.append(self._clock())
        self._forget()

    def rate(self) -> float:
        """Hz; 0 when fewer than two events lie in the window."""
        self._forget()
        if len(self._times) < 2:
            return 0.0
        # From the first event to now, at least to the last: a source that stopped fades out.
        span = max(self._times[-1] - self._times[0], self._clock() - self._times[0] - self._mean_gap())
        return (len(self._times) - 1) / span if span > 0 else 0.0

    def _mean_gap(self) -> float:
        return (self._times[-1] - self._times[0]) / (len(self._times) - 1)

    def _forget(self) -> None:
        end = self._clock() - self._window
        while self._times and self._times[0] < end:
            self._times.popleft()


class Latency:
    """Percentiles of the last `size` durations, in seconds."""

    def __init__(self, size: int = 300) -> None:
        self._values: deque[float] = deque(maxlen=size)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._values.append(seconds)

    def percentiles(self) -> dict[int, float]:
        """Percentile -> seconds; empty when nothing was measured."""
        if not self._values:
            return {}
        found = np.percentile(np.array(self._values), PERCENTILES)
        return dict(zip(PERCENTILES, found.tolist(), strict=True))


def node_log(node: Any) -> Callable[[bytes, str], None]:
    """Writes (level, text) to a node's log."""

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
    """Something that is wrong just now."""

    level: bytes
    text: str
    since: float
    code: str


class Faults:
    """Faults by subject. A new one, and one that persists, is logged; one that went is logged as recovered.

    `log(level, text)` is called with OK for a recovery. Thread-safe.
    """

    def __init__(self, log: Callable[[bytes, str], None], repeat: float = 10.0) -> None:
        self._log, self._repeat = log, repeat
        self._lock = threading.Lock()
        self._faults: dict[str, Fault] = {}
        self._logged: dict[str, float] = {}

    def report(self, subject: str, level: bytes, text: str, code: str = "") -> None:
        """Report that something is wrong with ``subject``.

        Args:
            subject: key of the fault; a later report replaces an earlier one.
            level: WARN or ERROR.
            text: what is wrong and what to do, for people.
            code: fixed value for programs (codes.FaultCode, MessageError.reason); empty = ``subject``, and then every
                new text is logged. With a code the fault is logged when its code is new, and every ``repeat`` seconds.
        """
        now = time.monotonic()
        with self._lock:
            before = self._faults.get(subject)
            new = before is None or (before.code != code if code else before.text != text)
            since = now if before is None else before.since
            self._faults[subject] = Fault(level, text, since, str(code or subject))
            speak = new or now - self._logged.get(subject, -self._repeat) >= self._repeat
            if speak:
                self._logged[subject] = now
        if speak:
            self._log(level, text)

    def clear(self, subject: str) -> None:
        """`subject` is well."""
        with self._lock:
            fault = self._faults.pop(subject, None)
        if fault is not None:
            self._log(OK, f"recovered after {time.monotonic() - fault.since:.1f} s: {subject}")

    def forget(self, subject: str, older_than: float = 0.0) -> None:
        """Nothing is known about `subject` any more (its fault is older than so many seconds)."""
        with self._lock:
            fault = self._faults.get(subject)
            if fault is not None and time.monotonic() - fault.since >= older_than:
                del self._faults[subject]

    def __getitem__(self, subject: str) -> Fault | None:
        return self._faults.get(subject)

    def present(self, subjects: Iterable[str]) -> list[Fault]:
        """Return the faults of these subjects, the worst first, equals in the order of ``subjects``."""
        with self._lock:
            found = [self._faults[subject] for subject in subjects if subject in self._faults]
        return sorted(found, key=lambda fault: fault.level, reverse=True)


class PairStatistics:
    """The account of the pairs, and of left images that stand for one while the right camera is gone:
    `matched + taken alone = published + published from the left image + dropped + in work`. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.input = RateMeter()
        self.output = RateMeter()
        self.alone = Counter[str]()  # left images: "taken", "published"
        self.drops: Counter[str] = Counter()
        self.inference, self.processing, self.pipeline = Latency(), Latency(), Latency()

    def came(self, alone: bool = False) -> None:
        """A pair was matched, or a left image was taken `alone`."""
        with self._lock:
            self.input.tick()
            self.alone["taken"] += alone

    def dropped(self, reason: str, count: int = 1) -> None:
        """`count` pairs, or left images taken alone, were dropped for `reason`."""
        with self._lock:
            self.drops[reason] += count

    def finished(self, *, inference: float, processing: float, pipeline: float | None, alone: bool = False) -> None:
        """A pair was published, or what a left image `alone` gives. Seconds: in the models; in the worker; from the
        stamp to published, None where that is not known.
        """
        with self._lock:
            self.output.tick()
            self.alone["published"] += alone
            self.inference.add(inference)
            self.processing.add(processing)
            if pipeline is not None:
                self.pipeline.add(pipeline)

    def values(self) -> dict[str, str]:
        """Key -> value for a DiagnosticStatus."""
        with self._lock:
            values = {
                "pairs matched": str(self.input.total - self.alone["taken"]),
                "pairs published": str(self.output.total - self.alone["published"]),
                "pairs dropped": str(sum(self.drops.values())),
                "left images taken alone": str(self.alone["taken"]),
                "left images published alone": str(self.alone["published"]),
                "input rate (Hz)": f"{self.input.rate():.2f}",
                "output rate (Hz)": f"{self.output.rate():.2f}",
            }
            for reason, count in sorted(self.drops.items()):
                values[f"dropped: {reason}"] = str(count)
            for name in ("inference", "processing", "pipeline"):
                for percent, seconds in getattr(self, name).percentiles().items():
                    values[f"{name} {percent} % (ms)"] = f"{seconds * 1e3:.1f}"
        return values


def status(
    name: str,
    hardware: str,
    faults: Sequence[Fault],
    message: str,
    values: Mapping[str, str],
    reason: str = FaultCode.OK,
) -> DiagnosticStatus:
    """Make a DiagnosticStatus with the keys ``reason`` and ``faults``.

    Args:
        name: of the status.
        hardware: its hardware_id.
        faults: worst first; the first gives level, message and ``reason``.
        message: where there is no fault.
        values: further keys.
        reason: value of ``reason`` where there is no fault.
    """
    worst = faults[0] if faults else None
    codes = {"reason": worst.code if worst else str(reason), "faults": ", ".join(fault.code for fault in faults)}
    return DiagnosticStatus(
        level=worst.level if worst else OK,
        name=name,
        message=worst.text if worst else message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=value) for key, value in {**codes, **values}.items()],
    )


def fault_codes(status: DiagnosticStatus) -> frozenset[str]:
    """Return the codes of all faults in a status made by ``status``."""
    found = next((item.value for item in status.values if item.key == "faults"), "")
    return frozenset(filter(None, found.split(", ")))


def memory_values(device: str) -> dict[str, str]:
    """Memory of this process, and of the accelerator `device` where the model runs on one (MiB)."""
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
