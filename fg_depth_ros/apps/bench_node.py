"""Latency that the node adds to a model, and the pairs that it drops, measured over DDS."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from fg_depth_ros.apps.live_evaluation import PairsEvaluation
from fg_depth_ros.apps.processes import ProcessGroup, free_domain_id
from fg_depth_ros.data.datasets.stereo import MOTORCYCLE
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.nodes.common.environment import child_environment
from fg_depth_ros.nodes.players.source import PairSource

WARM_UP_PAIRS = 5


def bench_node(
    model: str = "flownet_stereo", size: tuple[int, int] = (640, 480), rate: float = 5.0, seconds: float = 20.0, *,
    pairs: str = MOTORCYCLE, weights: str = "", device: str = "auto", engine: str = "auto",
    precision: str = "auto",
    on_status: Callable[[str], None] = lambda text: None,
) -> Report:  # fmt: skip
    """Measure a depth node over DDS: play pairs of ``size`` (width, height) at ``rate`` Hz for ``seconds``.

    Returns a report with one row: pairs sent, delivered, dropped (``drops`` has them by reason) and unaccounted for;
    ``published_*_ms``, from the stamp to the publication of ``depth/image_rect``; ``inference_*_ms``, the node's own
    measure of the model; ``overhead_p50_ms`` and ``overhead_p95_ms``, the difference of these percentiles (over a run
    they need not belong to the same pairs). ``on_status`` gets a line about the state from time to time. Raises as
    ``PairsEvaluation.run``.
    """
    folder = Path(tempfile.mkdtemp(prefix="fg_depth_bench_"))
    count, name = max(5, round(seconds * rate)) + WARM_UP_PAIRS, f"{size[0]}x{size[1]} at {rate:g} Hz"
    evaluation = PairsEvaluation(
        model, count, rate, pairs, name, WARM_UP_PAIRS, truth=False, accuracy=False,
        depth={"depth_weights": weights, "device": device, "engine": engine, "precision": precision},
        player={"width": size[0], "height": size[1]},
        compile_for=PairSource(pairs, width=size[0], height=size[1]).load(0).rig,
    )  # fmt: skip
    with ProcessGroup(folder, child_environment(domain_id=free_domain_id())) as group:
        result = evaluation.run(group, on_status)
    shutil.rmtree(folder, ignore_errors=True)  # not after an error: it has the logs
    timing = result.timing
    metrics = dict(timing["metrics"])
    for percent in ("p50", "p95"):
        published, inference = metrics.get(f"published_{percent}_ms"), metrics.get(f"inference_{percent}_ms")
        if published is not None and inference is not None:
            metrics[f"overhead_{percent}_ms"] = published - inference
    report = Report(
        command="bench node",
        model=result.report.model,
        settings={"rate_hz": rate, "seconds": seconds, "warm_up_pairs": WARM_UP_PAIRS, "input": pairs},
    )
    report.add_row(timing["set"], timing["method"], metrics, kind="node", drops=timing.get("drops", {}))
    return report
