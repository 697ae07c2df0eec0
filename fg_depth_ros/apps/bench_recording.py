"""Whether every pair reaches the disk while the depth node works, and what that costs, measured over DDS.

No ROS import: this is the parent of the nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fg_depth_ros.apps.processes import Child, ProcessGroup, free_domain_id
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.nodes.common.environment import child_environment
from fg_depth_ros.nodes.players.source import MOTORCYCLE
from fg_depth_ros.recording import manifest

START_SECONDS, END_SECONDS = 90.0, 60.0
LOST = "lost on the way"
_ALONE = " without partner"  # only the inputs of pairs have such a figure
_DROPS = ("dropped: ", "dropped before the recorder: ")


def bench_recording(
    size: tuple[int, int] = (640, 480),
    rate: float = 30.0,
    seconds: float = 20.0,
    *,
    storage: str = "raw",
    depth: bool = True,
    model: str = "flownet_stereo",
    root: Path | None = None,
    logger: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Play pairs of `size` (width, height) at `rate` Hz for `seconds` into data_logger_node, which records all of them,
    each node a process of its own; with `depth` beside a depth node, whose depth and labels are recorded too.

    Args:
        storage: see the parameter of data_logger_node; `logger` has further ones.
        root: folder to record in, so that its disk is measured; None = a temporary one. What was recorded is removed.
        tell: gets a line about the state now and then.

    Returns:
        A report with one row: pairs sent, formed (all four messages came), written and dropped, `drops` by reason, and
        `pairs_unaccounted`: sent, and neither written nor dropped for a reason that somebody counted. Pairs in the
        queue to the disk (mean and largest, looked at with every pair), MB/s to the disk, CPU share of each process (%
        of one core) while pairs were played.

    Raises:
        ChildDied, ChildTimeout: it did not work; the message says why. No process stays behind.
    """
    folder = Path(tempfile.mkdtemp(prefix="fg_depth_bench_"))
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)
    recordings = Path(tempfile.mkdtemp(prefix="fg_depth_bench_", dir=root)) if root is not None else folder / "episodes"
    count = max(5, round(seconds * rate))
    watch = _Watch()
    with ProcessGroup(folder, child_environment(domain_id=free_domain_id())) as group:
        children = {"logger": _start_logger(group, recordings, storage, depth, dict(logger or {}))}
        group.start("tap", "fg_depth_ros.apps.diagnostics_tap", on_line=watch.line)
        if depth:
            children["depth"] = group.start(
                "depth", "fg_depth_ros.nodes.stereo_depth.node", {"model": model}, on_line=watch.depth_line
            )
        tell("starting")
        group.wait_until(
            lambda: watch.recording != {} and (watch.depth_active or not depth), START_SECONDS, "the nodes to start"
        )
        children["player"] = group.start(
            "player",
            "fg_depth_ros.nodes.players.stereo_player",
            {
                "pairs": MOTORCYCLE, "rate": rate, "count": count, "width": size[0], "height": size[1],
                "publish_truth": False, "wait_for_subscribers": 1 + depth, "wait_timeout": 30.0,
            },
        )  # fmt: skip
        player = children["player"]
        group.wait_until(lambda: watch.number("pairs formed") > 0, START_SECONDS, "the first pair", may_end=(player,))
        meter = CpuMeter(children)

        def ended() -> bool:
            meter.look()
            tell(watch.text(count))
            return not player.running

        group.wait_until(ended, count / rate + END_SECONDS, "the player to end", may_end=(player,), poll=0.2)
        told = watch.heard
        group.wait_until(lambda: watch.settled(told), END_SECONDS, "the queue to be written", may_end=(player,))
        values = dict(watch.recording)
        group.stop_child(children["logger"], grace=30.0)
    lines = [line for line in manifest.read(recordings) if "pairs" in line]
    shutil.rmtree(recordings, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # kept, with the logs, when something went wrong
    report = Report(
        command="bench recording",
        model={"name": model if depth else None},
        settings={"rate_hz": rate, "seconds": seconds, "storage": storage, "depth": depth, "cores": os.cpu_count()},
    )
    metrics, drops = account(count, values, sum(line["pairs"] for line in lines))
    span = sum(line["recorded_ns"][1] - line["recorded_ns"][0] for line in lines) / 1e9
    if depth:
        metrics["depth_written"] = sum(line["messages"].get("/depth/image_rect", 0) for line in lines)
    metrics["megabytes_per_s"] = sum(line["bytes"] for line in lines) / 1e6 / span if span else float("nan")
    metrics |= {f"cpu_{name}_percent": share for name, share in meter.shares().items()}
    name = f"{size[0]}x{size[1]} at {rate:g} Hz"
    report.add_row(
        name, f"{storage}, {'with depth' if depth else 'without depth'}", metrics, kind="recording", drops=drops
    )
    return report


def account(sent: int, values: Mapping[str, str], on_disk: int) -> tuple[dict[str, float], dict[str, int]]:
    """What became of `sent` pairs: the measures of the report's row, and the drops by reason.

    `values`: the last ones of the logger's diagnostics; `on_disk`: pairs in finished episodes.
    """
    formed = int(values["pairs formed"])
    inputs = [key.removesuffix(_ALONE) for key in values if key.endswith(_ALONE)]
    lost = sum(int(values[f"{name} {LOST}"]) for name in inputs)
    drops = {
        key.removeprefix(prefix): int(value)
        for prefix in _DROPS
        for key, value in values.items()
        if key.startswith(prefix)
    }
    # A pair lacks one message or several.
    drops[LOST] = min(lost, sent - formed)
    drops = {reason: number for reason, number in drops.items() if number}
    kept_out = sum(int(values[key]) for key in ("pairs not wanted", "pairs in ring", "pairs in queue"))
    metrics: dict[str, float] = {
        "pairs_sent": sent,
        "pairs_formed": formed,
        "pairs_written": on_disk,
        "pairs_dropped": sum(drops.values()),
        "pairs_before_recording": kept_out,
        "pairs_unaccounted": sent - on_disk - kept_out - sum(drops.values()),
        "queue_mean": float(values["pairs in queue, mean"]),
        "queue_largest": int(values["pairs in queue, largest"]),
    }
    return metrics, drops


def _start_logger(group: ProcessGroup, root: Path, storage: str, depth: bool, further: dict[str, Any]) -> Child:
    parameters = {
        "root": str(root), "record": "continuous", "storage": storage, "record_depth": depth, "quota": 0.0,
        "free_floor": 0.2, **further,
    }  # fmt: skip
    return group.start("logger", "fg_depth_ros.nodes.data_logger.node", parameters)


class _Watch:
    """What the nodes say, read in the readers' threads."""

    def __init__(self) -> None:
        self.recording: dict[str, str] = {}
        self.heard = 0
        self.depth_active = False

    def line(self, line: str) -> None:
        with contextlib.suppress(ValueError):
            for name, status in json.loads(line).items():
                if name.endswith(": recording"):
                    self.recording = status["values"]
                    self.heard += 1

    def depth_line(self, line: str) -> None:
        self.depth_active |= ": active with " in line

    def number(self, key: str) -> int:
        return int(self.recording.get(key, 0))

    def settled(self, since: int) -> bool:
        """Two reports later nothing waits for the disk any more."""
        return self.heard >= since + 2 and self.number("pairs in queue") == 0

    def text(self, count: int) -> str:
        written, queue = self.number("pairs written"), self.number("pairs in queue")
        return (
            f"{written} of {count} pairs written, {queue} in the queue, {self.recording.get('rate (MB/s)', '0')} MB/s"
        )


class CpuMeter:
    """CPU time of processes between the first look and the last at which all of them lived (/proc, Linux)."""

    def __init__(self, children: Mapping[str, Child]) -> None:
        self._children = children
        self._first: tuple[float, dict[str, float]] | None = None
        self._last: tuple[float, dict[str, float]] | None = None
        self.look()

    def look(self) -> None:
        """Read the processes' times."""
        with contextlib.suppress(OSError):  # one of them has ended
            seconds = {name: cpu_seconds(child.pid) for name, child in self._children.items()}
            self._last = (time.monotonic(), seconds)
            self._first = self._first or self._last

    def shares(self) -> dict[str, float]:
        """Per cent of one core by name; empty where nothing could be read."""
        if self._first is None or self._last is None or self._last[0] <= self._first[0]:
            return {}
        (begun, before), (ended, after) = self._first, self._last
        return {name: 100 * (after[name] - before[name]) / (ended - begun) for name in after}


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has taken, in its own code and the kernel's. Raises OSError when there is none."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()  # behind the name, which may hold anything; proc(5)
    if fields[0] == "Z":
        raise ProcessLookupError(f"process {pid} has ended")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
