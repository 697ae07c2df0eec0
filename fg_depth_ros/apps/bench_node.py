"""Latency that the node adds to a model, and the pairs that it drops, measured over DDS."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from fg_depth_ros.apps.experiment import check_playing
from fg_depth_ros.apps.live_evaluation import PairsEvaluation, compile_networks
from fg_depth_ros.apps.processes import ProcessGroup, free_domain_id
from fg_depth_ros.data.datasets.stereo import MOTORCYCLE
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.inference.config import FlowConfig, StereoConfig
from fg_depth_ros.nodes.common.environment import child_environment
from fg_depth_ros.nodes.players.source import PairSource

WARM_UP_PAIRS = 5
_THREADS = ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")  # PyTorch reads the first, and the engines follow it


def bench_node(
    model: str = "flownet_stereo", size: tuple[int, int] = (640, 480), rate: float = 5.0, seconds: float = 20.0, *,
    cameras: int = 1, pairs: str = MOTORCYCLE, weights: str = "", device: str = "auto", engine: str = "auto",
    precision: str = "auto", threads: int = 0,
    on_status: Callable[[str], None] = lambda text: None,
) -> Report:  # fmt: skip
    """Measure depth nodes over DDS: play pairs of ``size`` (width, height) at ``rate`` Hz for ``seconds``.

    ``cameras``: that many nodes at the same time, each in a process and a ROS domain of its own. ``threads``: CPU
    threads of each; 0 leaves them to the libraries.

    Returns a report with a row for each camera: pairs sent, delivered, dropped (``drops`` has them by reason) and
    unaccounted for; ``published_*_ms``, from the stamp to the publication of ``depth/image_rect``; ``inference_*_ms``,
    the node's own measure of the model; ``overhead_p50_ms`` and ``overhead_p95_ms``, the difference of these
    percentiles (over a run they need not belong to the same pairs). ``on_status`` gets a line about the state from time
    to time. Raises as ``PairsEvaluation.run``; ValueError: no camera, or nothing that can be played.
    """
    check_playing(rate, seconds)
    if cameras < 1:
        raise ValueError(f"cameras is {cameras}: measure one at least")
    folder = Path(tempfile.mkdtemp(prefix="fg_depth_bench_"))
    count, name = max(5, round(seconds * rate)) + WARM_UP_PAIRS, f"{size[0]}x{size[1]} at {rate:g} Hz"
    names = [name] if cameras == 1 else [f"{name}, camera {i + 1} of {cameras}" for i in range(cameras)]
    depth = {"depth_weights": weights, "device": device, "engine": engine, "precision": precision}
    rig = PairSource(pairs, width=size[0], height=size[1]).load(0).rig
    if rig is not None and model not in StereoConfig.classical:
        compile_networks((model, FlowConfig.model), rig, depth)
    evaluations = [
        PairsEvaluation(
            model, count, rate, pairs, each, WARM_UP_PAIRS, truth=False, accuracy=False, depth=depth,
            player={"width": size[0], "height": size[1]},
        )
        for each in names
    ]  # fmt: skip
    limits = dict.fromkeys(_THREADS, str(threads)) if threads else {}
    domains: set[int] = set()
    while len(domains) < cameras:
        domains.add(free_domain_id())
    with ExitStack() as stack, ThreadPoolExecutor(cameras) as pool:
        groups = [
            stack.enter_context(ProcessGroup(folder / str(domain), child_environment(domain_id=domain) | limits))
            for domain in sorted(domains)
        ]
        try:
            runs = [pool.submit(one.run, group, on_status) for one, group in zip(evaluations, groups, strict=True)]
            results = [run.result() for run in runs]
        except BaseException:  # a run that has failed, or Ctrl-C, ends the others
            for group in groups:
                group.stop()
            raise
    shutil.rmtree(folder, ignore_errors=True)  # not after an error: it has the logs
    report = Report(
        command="bench node",
        model=results[0].report.model,
        settings={
            "rate_hz": rate, "seconds": seconds, "cameras": cameras, "warm_up_pairs": WARM_UP_PAIRS, "input": pairs,
            "threads": threads or "default",
        },
    )  # fmt: skip
    for result in results:
        timing = result.timing
        metrics = dict(timing["metrics"])
        for percent in ("p50", "p95"):
            published, inference = metrics.get(f"published_{percent}_ms"), metrics.get(f"inference_{percent}_ms")
            if published is not None and inference is not None:
                metrics[f"overhead_{percent}_ms"] = published - inference
        ran = {name: result.report.model.get(name) or None for name in ("engine", "precision")}
        report.add_row(
            timing["set"], " ".join(filter(None, (timing["method"], *ran.values()))), metrics, kind="node",
            drops=timing.get("drops", {}), **ran,
        )  # fmt: skip
    return report
