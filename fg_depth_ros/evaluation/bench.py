"""Speed and memory of models: latency, throughput, memory, per model, image size, engine and precision.

Every combination runs in a process of its own, so that its memory is its own and nothing is warm but what it
warmed up itself.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fg_depth_ros.evaluation.energy import EnergyError, EnergyMeter
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.inference import FlowEstimator, MonoConfig, MonoDepthEstimator, config_of, open_estimator
from fg_depth_ros.inference.config import CLASSICAL_FLOW, CLASSICAL_STEREO
from fg_depth_ros.inference.estimator import Estimator
from fg_depth_ros.resources import module_command

WARM_UP = 3
_MODULE = "fg_depth_ros.evaluation.bench"
CLASSICAL = (*CLASSICAL_STEREO, *CLASSICAL_FLOW)  # they know no engine and no precision: measured once per size
_TIME_LIMIT = 600.0  # seconds for one combination


class BenchError(RuntimeError):
    """A combination could not be measured; the message names it and says why."""


def bench_models(
    models: Sequence[str] = ("flownet_stereo", "sgbm"), sizes: Sequence[tuple[int, int]] = ((640, 480),),
    precisions: Sequence[str] = ("auto",), repeats: int = 20, *, engines: Sequence[str] = ("auto",),
    weights: str = "", device: str = "auto", threads: int = 0, energy: bool = False,
) -> Report:  # fmt: skip
    """Measure models through ``inference``, as the node and the command line run them.

    Args:
        models: names of networks or classical methods, for stereo, flow (from the left to the right image) or depth
            from the left image alone. A depth network resizes to the width that its weights were trained at.
        sizes: (width, height) of the images in pixels; the Motorcycle pair is resized to them.
        precisions, engines: of the networks, all with all; classical methods are measured once.
        repeats: measured runs per combination, after a few to warm up.
        weights, device: of the networks, as the estimators take them.
        threads: of the processor; 0 leaves it to the libraries.
        energy: measure joules, too.

    Returns a report with one row per combination: ``latency_p50_ms``, ``latency_p95_ms`` (from the images in host
    memory to the result in host memory, so an accelerator is waited for), ``throughput_hz`` (pairs per second,
    one after the other), ``memory_mib`` (peak of this process's resident memory, less what it had before the
    model was loaded; NaN where the system cannot reset the peak: it can on Linux) and, on an accelerator,
    ``device_memory_mib`` (peak); with ``energy`` ``energy_j`` (per run, of all processor packages and
    whatever else runs on them; an accelerator's is not counted); for a network also the difference from PyTorch in
    float32 on this pair, ``epe_float32`` (px; disparity or flow) or ``abs_rel_float32`` (depth), and where an engine
    compiles ``compile_s`` and ``compile_cached_s``. Combinations that failed are in the settings, ``left_out``.
    Raises BenchError: all failed, or energy cannot be read. Raises ValueError, before anything is measured: a model,
    engine or precision that is unknown.
    """
    for model, engine, precision in itertools.product(models, engines, precisions):
        config_of(model, engine=engine, precision=precision)
    if energy:
        try:
            EnergyMeter()
        except EnergyError as error:
            raise BenchError(str(error)) from error
    report = Report(
        command="bench",
        settings={"repeats": repeats, "warm_up": WARM_UP, "threads": threads or "default", "cores": os.cpu_count()},
    )
    failed: list[BenchError] = []
    for (width, height), model in itertools.product(sizes, models):
        classical = model in CLASSICAL
        pairs = [("auto", "float32")] if classical else list(itertools.product(engines, precisions))
        for engine, precision in pairs:
            job = {
                "model": model, "width": width, "height": height, "engine": engine, "precision": precision,
                "repeats": repeats, "weights": "" if classical else weights, "device": device, "threads": threads,
                "energy": energy,
            }  # fmt: skip
            try:
                found = _in_own_process(job)
            except BenchError as error:
                failed.append(error)
                continue
            ran = {name: found[name] or None for name in ("engine", "precision", "sha256")}
            if not report.model:
                report.model = {"name": model, "sha256": ran["sha256"]}
            report.add_row(
                f"{width}x{height}", " ".join(filter(None, (model, ran["engine"], ran["precision"]))),
                found["metrics"], kind="speed", model=model, device=found["device"], threads=found["threads"], **ran,
            )  # fmt: skip
    if not report.rows and failed:
        raise failed[0]
    if failed:
        report.settings["left_out"] = [str(error) for error in failed]
    return report


def _in_own_process(job: dict[str, Any]) -> dict[str, Any]:
    chosen = ", ".join(job[name] for name in ("engine", "precision", "device") if job[name] != "auto")
    what = f"{job['model']} at {job['width']}x{job['height']}" + (f" ({chosen})" if chosen else "")
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
    with tempfile.TemporaryDirectory() as folder:  # compiled engines of earlier runs would be no first compilation
        os.environ["FG_DEPTH_CACHE"] = folder
        before = _peak_reset()
        model, run = _load(job, left, right)
        for _ in range(WARM_UP):
            run()
        if model.engine_failure is not None:
            raise BenchError(model.engine_failure)
        on_cuda = model.device.startswith("cuda")
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(model.device)
        meter = EnergyMeter() if job.get("energy") else None
        seconds = []
        for _ in range(job["repeats"]):
            begun = time.perf_counter()
            run()  # gives arrays in host memory: the device is through when it returns
            seconds.append(time.perf_counter() - begun)
        joules = meter.joules() if meter else None
        memory = _memory("VmHWM") - before
        compiled = model.runner and model.runner.compile_seconds
        if compiled:
            again, run_again = _load(job, left, right)
            run_again()
            cached = again.runner and again.runner.compile_seconds
    p50, p95 = np.percentile(seconds, [50, 95])
    metrics = {"latency_p50_ms": 1e3 * p50, "latency_p95_ms": 1e3 * p95, "throughput_hz": len(seconds) / sum(seconds)}
    metrics["memory_mib"] = memory
    if joules is not None:
        metrics["energy_j"] = joules / len(seconds)
    if on_cuda and model.engine == "torch":  # PyTorch knows of no memory but its own
        metrics["device_memory_mib"] = torch.cuda.max_memory_allocated(model.device) / 2**20
    if compiled and cached:
        metrics |= {"compile_s": compiled[0], "compile_cached_s": cached[0]}
    if model.engine:
        _, reference = _load({**job, "engine": "torch", "precision": "float32"}, left, right)
        metrics |= _difference(run(), reference(), job["model"] in MonoConfig.known_models())
    return {
        "metrics": {name: float(value) for name, value in metrics.items()},
        "sha256": model.model_sha256,
        "device": model.device,
        "engine": model.engine,
        "precision": model.precision,
        "threads": torch.get_num_threads(),
    }


def _load(
    job: Mapping[str, Any], left: np.ndarray, right: np.ndarray
) -> tuple[Estimator[Any, Any], Callable[[], np.ndarray]]:
    """Load the job's model; return it and a function that runs it once."""
    model = open_estimator(
        job["model"], **{key: job[key] for key in ("weights", "device", "engine", "precision") if key in job}
    )
    if isinstance(model, FlowEstimator):
        return model, lambda: model.estimate(left, right).flow
    if isinstance(model, MonoDepthEstimator):
        return model, lambda: model.estimate(left, fx=float(left.shape[1])).depth
    return model, lambda: model.match(left, right).disparity


def _difference(found: np.ndarray, expected: np.ndarray, depth: bool) -> dict[str, float]:
    """Return the mean difference of a prediction from the one in float32: of disparity, of flow, or of depth."""
    if depth:
        return {"abs_rel_float32": float(np.mean(np.abs(found - expected) / expected))}
    error = np.abs(found - expected) if found.ndim == 2 else np.linalg.norm(found - expected, axis=-1)
    return {"epe_float32": float(np.mean(error))}


def _peak_reset() -> float:
    """Make the memory that this process has now its peak and return it, MiB; NaN where the system does not."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return float("nan")
    return _memory("VmRSS")


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
