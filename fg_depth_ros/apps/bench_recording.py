"""Measure over DDS whether every pair reaches the disk while the depth node works, and at what cost.

No ROS import: this is the parent of the nodes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fg_depth_ros.apps.experiment import SUBSCRIBER_SECONDS, Experiment, NodeProcess, Run, check_playing
from fg_depth_ros.apps.processes import Child, ProcessGroup, free_domain_id
from fg_depth_ros.data.datasets.stereo import MOTORCYCLE
from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.nodes.common.environment import child_environment
from fg_depth_ros.recording import manifest

LOGGER, DEPTH_NODE, PLAYER = "data_logger_node", "stereo_depth_node", "stereo_player_node"
END_SECONDS = 60.0
_CPU_NAMES = {LOGGER: "logger", DEPTH_NODE: "depth", PLAYER: "player"}
LOST = "lost on the way"
_ALONE = keys.WITHOUT_PARTNER  # only the inputs of pairs have such a figure


def bench_recording(
    size: tuple[int, int] = (640, 480), rate: float = 30.0, seconds: float = 20.0, *, storage: str = "raw",
    depth: bool = True, model: str = "flownet_stereo", root: Path | None = None,
    logger: Mapping[str, Any] | None = None, on_status: Callable[[str], None] = lambda text: None,
) -> Report:  # fmt: skip
    """Measure data_logger_node over DDS: play pairs into it, of which it records all.

    With ``depth`` a depth node runs, and its depth and labels are recorded, too.

    Args:
        size: of the images, (width, height) in pixels.
        rate: pairs per second, played for ``seconds``.
        storage: see the parameter of data_logger_node; ``logger`` has further ones.
        root: folder to record in, so that its disk is measured; None = a temporary one. What was recorded is removed.
        on_status: gets a line about the state now and then.

    Returns:
        A report with one row: pairs sent, formed (of four messages), written and dropped, ``drops`` by reason, and
        ``pairs_unaccounted``: sent, and neither written nor dropped for a known reason. Pairs in the queue to the disk
        (mean and largest, counted with every pair), MB/s to the disk, CPU share of each process (%
        of one core) while pairs were played.

    Raises as ``Experiment.run``; ValueError: a rate or a time that nothing can be played for.
    """
    check_playing(rate, seconds)
    folder = Path(tempfile.mkdtemp(prefix="fg_depth_bench_"))
    root = folder if root is None else root
    root.mkdir(parents=True, exist_ok=True)
    recordings = Path(tempfile.mkdtemp(prefix="fg_depth_bench_", dir=root))
    count = max(5, round(seconds * rate))
    logger_parameters = {
        "root": str(recordings), "record": "continuous", "storage": storage, "record_depth": depth, "quota": 0.0,
        "free_floor": 0.2, **(logger or {}),
    }  # fmt: skip
    player_parameters = {
        "pairs": MOTORCYCLE, "rate": rate, "count": count, "width": size[0], "height": size[1],
        "publish_truth": False, "wait_for_subscribers": 1 + depth, "wait_timeout": SUBSCRIBER_SECONDS,
    }  # fmt: skip
    experiment = Experiment(
        [NodeProcess(LOGGER, logger_parameters), *([NodeProcess(DEPTH_NODE, {"model": model})] if depth else [])],
        NodeProcess(PLAYER, player_parameters),
        count / rate + SUBSCRIBER_SECONDS + END_SECONDS,
        f"{count} pairs to be written",
    )
    progress = _Progress(count, on_status)
    try:
        with ProcessGroup(folder, child_environment(domain_id=free_domain_id())) as group:
            run = experiment.run(group, progress.is_finished, on_status)
            values = run.monitor.values(LOGGER)
            group.stop_child(run.children[LOGGER], grace=30.0)
        lines = [line for line in manifest.read(recordings) if "pairs" in line]
    finally:
        shutil.rmtree(recordings, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # not after an error: it has the logs
    report = Report(
        command="bench recording",
        model={"name": model if depth else None},
        settings={"rate_hz": rate, "seconds": seconds, "storage": storage, "depth": depth, "cores": os.cpu_count()},
    )
    metrics, drops = count_pairs(count, values, sum(line["pairs"] for line in lines))
    span = sum(line["recorded_ns"][1] - line["recorded_ns"][0] for line in lines) / 1e9
    if depth:
        metrics["depth_written"] = sum(line["messages"].get("/depth/image_rect", 0) for line in lines)
    metrics["megabytes_per_s"] = sum(line["bytes"] for line in lines) / 1e6 / span if span else float("nan")
    assert progress.meter is not None
    metrics |= {f"cpu_{name}_percent": share for name, share in progress.meter.shares().items()}
    name, method = f"{size[0]}x{size[1]} at {rate:g} Hz", f"{storage}, {'with' if depth else 'without'} depth"
    report.add_row(name, method, metrics, kind="recording", drops=drops)
    return report


def count_pairs(sent: int, values: Mapping[str, str], on_disk: int) -> tuple[dict[str, float], dict[str, int]]:
    """Account for every pair: return the measures of the report's row, and the number of drops by reason.

    ``values``: the last of the logger's diagnostics; ``on_disk``: pairs in finished episodes.
    """
    formed = int(values[keys.PAIRS_FORMED])
    inputs = [key.removesuffix(_ALONE) for key in values if key.endswith(_ALONE)]
    lost = sum(int(values[f"{name}{keys.LOST_ON_THE_WAY}"]) for name in inputs)
    drops = {
        key.partition(": ")[2]: int(value)
        for key, value in values.items()
        if key.startswith((keys.DROPPED, keys.DROPPED_BEFORE_RECORDER))
    }
    # A pair lacks one message or several.
    drops[LOST] = min(lost, sent - formed)
    drops = {reason: number for reason, number in drops.items() if number}
    kept_out = sum(int(values[key]) for key in (keys.PAIRS_NOT_WANTED, keys.PAIRS_IN_RING, keys.PAIRS_IN_QUEUE))
    metrics: dict[str, float] = {
        "pairs_sent": sent,
        "pairs_formed": formed,
        "pairs_written": on_disk,
        "pairs_dropped": sum(drops.values()),
        "pairs_before_recording": kept_out,
        "pairs_unaccounted": sent - on_disk - kept_out - sum(drops.values()),
        "queue_mean": float(values[keys.QUEUE_MEAN]),
        "queue_largest": int(values[keys.QUEUE_LARGEST]),
    }
    return metrics, drops


class _Progress:
    """Measures CPU time while pairs are played, and finds the end: the player has ended and all pairs are written."""

    def __init__(self, count: int, on_status: Callable[[str], None]) -> None:
        self.meter: CpuMeter | None = None
        self._count, self._on_status = count, on_status
        self._formed = 0
        self._reports_at_end: int | None = None

    def is_finished(self, run: Run) -> bool:
        values, reports = run.monitor.values(LOGGER), run.monitor.reports(LOGGER)
        playing = run.children[PLAYER].running
        before, self._formed = self._formed, int(values[keys.PAIRS_FORMED])
        if self.meter is None or (playing and self._formed and not before):  # again with the first pair
            self.meter = CpuMeter({_CPU_NAMES[name]: child for name, child in run.children.items()})
        if playing:
            self.meter.sample()
            self._on_status(
                f"{values[keys.PAIRS_WRITTEN]} of {self._count} pairs written, "
                f"{values[keys.PAIRS_IN_QUEUE]} in the queue, {values[keys.WRITE_RATE]} MB/s"
            )
            return False
        self._reports_at_end = reports if self._reports_at_end is None else self._reports_at_end
        # Two reports later the counters hold everything that was played.
        return reports >= self._reports_at_end + 2 and not int(values[keys.PAIRS_IN_QUEUE])


class CpuMeter:
    """CPU time of processes between the first and the last sample at which all of them lived (/proc, Linux)."""

    def __init__(self, children: Mapping[str, Child]) -> None:
        self._children = children
        self._samples: list[tuple[float, dict[str, float]]] = []
        self.sample()

    def sample(self) -> None:
        """Read the CPU times of the processes."""
        with contextlib.suppress(OSError):  # one of them has ended
            seconds = {name: cpu_seconds(child.pid) for name, child in self._children.items()}
            self._samples[1:] = [(time.monotonic(), seconds)]

    def shares(self) -> dict[str, float]:
        """Return the share of one core in per cent by name; empty where nothing could be read."""
        if len(self._samples) < 2:
            return {}
        (begun, before), (ended, after) = self._samples
        return {name: 100 * (after[name] - before[name]) / (ended - begun) for name in after}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in seconds, user and system. Raises OSError when there is no such process."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()  # after the name, which may hold anything; proc(5)
    if fields[0] == "Z":
        raise ProcessLookupError(f"process {pid} has ended")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
