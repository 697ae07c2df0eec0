"""Speed and memory of models: latency, throughput, memory, per model, image size and precision.

Every combination runs in a process of its own, so that its memory is its own and nothing is warm but what it
warmed up itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.inference.config import CLASSICAL_FLOW, FlowConfig, MonoConfig, StereoConfig
from fg_depth_ros.inference.estimator import Estimator, StereoDepthEstimator
from fg_depth_ros.inference.flow import FlowEstimator
from fg_depth_ros.inference.mono import MonoDepthEstimator
from fg_depth_ros.resources import module_command

WARM_UP = 3
_MODULE = "fg_depth_ros.evaluation.bench"
CLASSICAL = ("sgbm", *CLASSICAL_FLOW)  # they know no precision: measured once per size
_TIME_LIMIT = 600.0  # seconds for one combination


class BenchError(RuntimeError):
    """A combination could not be measured; the message names it and says why."""


def bench_models(
    models: Sequence[str] = ("flownet_stereo", "sgbm"), sizes: Sequence[tuple[int, int]] = ((640, 480),),
    precisions: Sequence[str] = ("float32",), repeats: int = 20, *, weights: str = "", device: str = "auto",
    threads: int = 0,
) -> Report:  # fmt: skip
    """Measure models through ``inference``, as the node and the command line run them.

    Args:
        models: names of networks or classical methods, for stereo, flow (from the left to the right image) or depth
            from the left image alone. A depth network resizes to the width that its weights were trained at.
        sizes: (width, height) of the images in pixels; the Motorcycle pair is resized to them.
        precisions: of the networks; classical methods are measured once.
        repeats: measured runs per combination, after a few to warm up.
        weights, device: of the networks, as the estimators take them.
        threads: of the processor; 0 leaves it to the libraries.

    Returns a report with one row per combination: ``latency_p50_ms``, ``latency_p95_ms`` (from the images in host
    memory to the answer in host memory, so an accelerator is waited for), ``throughput_hz`` (pairs per second,
    one after the other), ``memory_mib`` (growth of this process's peak resident memory; Linux only) and, on an
    accelerator, ``device_memory_mib`` (peak). Raises BenchError: a combination failed.
    """
    report = Report(
        command="bench",
        settings={"repeats": repeats, "warm_up": WARM_UP, "threads": threads or "default", "cores": os.cpu_count()},
    )
    for width, height in sizes:
        for model in models:
            for precision in precisions if model not in CLASSICAL else ("float32",):
                job = {
                    "model": model, "width": width, "height": height, "precision": precision, "repeats": repeats,
                    "weights": weights if model not in CLASSICAL else "", "device": device, "threads": threads,
                }  # fmt: skip
                found = _in_own_process(job)
                if not report.model:
                    report.model = {"name": model, "sha256": found["sha256"] or None}
                report.add_row(
                    f"{width}x{height}", model if model in CLASSICAL else f"{model} {precision}", found["metrics"],
                    kind="speed", device=found["device"], threads=found["threads"], sha256=found["sha256"] or None,
                )  # fmt: skip
    return report


def _in_own_process(job: dict[str, Any]) -> dict[str, Any]:
    what = f"{job['model']} at {job['width']}x{job['height']}, {job['precision']} on {job['device']}"
    threads = {"OMP_NUM_THREADS": str(job["threads"])} if job["threads"] else {}
    command = module_command(_MODULE, json.dumps(job))
    try:
        done = subprocess.run(
            command, env={**os.environ, **threads}, capture_output=True, text=True, timeout=_TIME_LIMIT
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{what}: not done after {_TIME_LIMIT:.0f} s; lower repeats or the size") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        reason = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise BenchError(f"{what}: {reason}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Measure one combination in this process. ``job`` has the arguments of ``bench_models`` for one of each."""
    import cv2
    import torch

    from fg_depth_ros.data.datasets.stereo import motorcycle

    if job["threads"]:
        torch.set_num_threads(job["threads"])
        cv2.setNumThreads(job["threads"])
    size = (job["width"], job["height"])
    left, right = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in motorcycle().images())
    before = _memory("VmRSS")
    model, run = _load(job, left, right)
    for _ in range(WARM_UP):
        run()
    on_cuda = model.device.startswith("cuda")
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(job["repeats"]):
        begun = time.perf_counter()
        run()  # gives arrays in host memory: the device is through when it returns
        seconds.append(time.perf_counter() - begun)
    p50, p95 = np.percentile(seconds, [50, 95])
    metrics = {"latency_p50_ms": 1e3 * p50, "latency_p95_ms": 1e3 * p95, "throughput_hz": len(seconds) / sum(seconds)}
    metrics["memory_mib"] = _memory("VmHWM") - before
    if on_cuda:
        metrics["device_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return {
        "metrics": {name: float(value) for name, value in metrics.items()},
        "sha256": model.model_sha256,
        "device": model.device,
        "threads": torch.get_num_threads(),
    }


def _load(
    job: Mapping[str, Any], left: np.ndarray, right: np.ndarray
) -> tuple[Estimator[Any, Any], Callable[[], object]]:
    """Load the job's model; return it and a function that runs it once."""
    name, chosen = job["model"], {key: job[key] for key in ("model", "weights", "device", "precision")}
    if name in FlowConfig.known_models():
        flow = FlowEstimator(FlowConfig(**chosen))
        return flow, lambda: flow.estimate(left, right)
    if name in MonoConfig.known_models():
        mono = MonoDepthEstimator(MonoConfig(**chosen))
        return mono, lambda: mono.estimate(left, fx=float(left.shape[1]))
    stereo = StereoDepthEstimator(StereoConfig(**chosen))
    return stereo, lambda: stereo.match(left, right)


def _memory(field: str) -> float:
    """Read ``VmRSS`` (now) or ``VmHWM`` (peak) of this process in MiB; NaN where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return float("nan")
    values = [line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(values[0]) / 1024 if values else float("nan")


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(measure(json.loads(sys.argv[1]))) + "\n")
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(str(error))
