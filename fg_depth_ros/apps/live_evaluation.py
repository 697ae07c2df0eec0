"""A depth node that a player feeds, evaluated over ROS topics: stereo pairs, or bags.

No ROS import: this is the parent of the nodes.
"""

from __future__ import annotations

import logging
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fg_depth_ros.apps.experiment import START_SECONDS, SUBSCRIBER_SECONDS, Experiment, NodeProcess, Run
from fg_depth_ros.apps.processes import ProcessGroup
from fg_depth_ros.data.bags.folders import bag_names, find_bags
from fg_depth_ros.data.bags.pairs import BagTopics, find_topics
from fg_depth_ros.data.bags.storage import COMPRESSED, DISPARITY, IMAGE, BagStorage
from fg_depth_ros.data.datasets.stereo import MOTORCYCLE
from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.data.io.video_packets import IMAGE_TRANSPORTS, split_transport
from fg_depth_ros.evaluation.replay.scores import ReplayScores
from fg_depth_ros.evaluation.reports.report import Report, read_report
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference.config import FlowConfig, StereoConfig
from fg_depth_ros.nodes.common.topics import INPUTS, TRUTH_TOPICS
from fg_depth_ros.resources import module_command

DEPTH_NODE, EVALUATOR = "stereo_depth_node", "replay_evaluator_node"
END_SECONDS = 60.0  # beyond the time that playing takes
SHARED_PARAMETERS = ("rectify", "approximate_sync", "sync_slop")
"""Parameters that the depth node and the evaluator have, and must have alike."""
_LOG = logging.getLogger(__name__)
_UNLIMITED = 366 * 86400.0
_IDLE_SECONDS = START_SECONDS + SUBSCRIBER_SECONDS + 30.0


@dataclass(frozen=True)
class PairsEvaluation:
    """Stereo pairs played into a depth node (``fg-depth demo``, ``fg-depth bench``)."""

    model: str
    count: int
    rate: float  # Hz
    pairs: str = MOTORCYCLE
    set_name: str = "replay"
    warm_up: int = 3  # first pairs, which count for everything but latency
    truth: bool = True  # the pairs have true depth
    accuracy: bool = True  # measure accuracy too, otherwise rates and latencies only
    snapshot: bool = False  # save one pair with all outputs
    snapshot_pair: str = ""  # name of that pair; empty: the first
    depth: Mapping[str, Any] = field(default_factory=dict)  # further parameters of the depth node
    player: Mapping[str, Any] = field(default_factory=dict)  # further parameters of the player
    compile_for: StereoRig | None = None  # compile the networks for this camera before the first pair

    def run(self, group: ProcessGroup, on_status: Callable[[str], None] = lambda text: None) -> PairsResult:
        """Run the nodes in ``group``, which the caller stops, and return what the evaluator measured.

        ``on_status`` gets a line about the state whenever it may have changed. Raises as ``Experiment.run``.
        """
        if self.compile_for is not None and self.model not in StereoConfig.classical:
            on_status("compiling, once per machine and size of images")
            compile_networks((self.model, FlowConfig.model), self.compile_for, self.depth)
        folder = group.log_dir
        report, snapshot, scores = folder / "report.json", folder / "pair.npz", folder / "scores.json"
        # The evaluator always listens to camera_info, and to what it compares with.
        listened = ["left/camera_info", "right/camera_info"]
        if self.accuracy:
            listened += [TRUTH_TOPICS["raw"]] if self.truth else INPUTS[:2]
        evaluator = {
            "warm_up": self.warm_up, "truth": self.truth, "accuracy": self.accuracy, "set_name": self.set_name,
            "report": str(report), "scores": str(scores) if self.accuracy else "",
            "snapshot": str(snapshot) if self.snapshot else "", "snapshot_pair": self.snapshot_pair, "live": "off",
            "idle_timeout": _IDLE_SECONDS,
        }  # fmt: skip
        player = {
            "pairs": self.pairs, "rate": self.rate, "count": self.count, "publish_truth": self.truth,
            **wait_parameters(INPUTS, listened), **self.player,
        }  # fmt: skip
        experiment = Experiment(
            [NodeProcess(DEPTH_NODE, {"model": self.model, **self.depth}), NodeProcess(EVALUATOR, evaluator)],
            NodeProcess("stereo_player_node", player),
            self.count / self.rate + SUBSCRIBER_SECONDS + END_SECONDS,
            f"the evaluator to report {self.count} pairs",
        )
        last = _run(experiment, group, on_status)
        measured = ReplayScores.read(scores) if self.accuracy else ReplayScores()
        return PairsResult(self.model, read_report(report), measured, snapshot, last)


@dataclass(frozen=True)
class PairsResult:
    """Result of a live evaluation."""

    model: str
    report: Report
    scores: ReplayScores  # the report's accuracy rows pair by pair
    snapshot: Path  # a nodes.evaluator.pair_messages.Snapshot, if one was wanted and arrived complete
    last_status: str

    @property
    def timing(self) -> dict[str, Any]:
        """The report's row of rates, latencies and drops."""
        return next(row for row in self.report.rows if row.get("kind") == "timing")


@dataclass(frozen=True)
class BagInputs:
    """Properties of a recording that the nodes need."""

    topics: BagTopics  # of its stereo pair
    transport: str  # of its images, as image_transport names it
    truth: str = ""  # key of TRUTH_TOPICS; "" = it has no true depth
    reliable: bool = True  # camera_info was published reliably, and so is played reliably
    pairs: int = 0  # messages of the camera that has fewer

    @classmethod
    def of(cls, bag: str | Path, **given: str) -> BagInputs:
        """Inspect a bag; ``given``: topics as of ``find_topics``.

        Raises FileError: no such bag, no pair of image topics, or no camera_info for it.
        """
        storage = BagStorage(bag)
        kinds = storage.topics
        topics = find_topics(kinds, **given, where=str(bag))
        transport, other = (_transport(kinds[name]) for name in topics[:2])
        if transport != other:
            raise FileError(
                f"{bag}: {topics.left} is a {kinds[topics.left]} and {topics.right} a {kinds[topics.right]}, and a "
                "node has one image_transport: evaluate it with fg-depth replay"
            )
        if not (topics.left_info and topics.right_info):
            raise FileError(
                f"{bag}: no camera_info next to {topics.left} and {topics.right}: nothing says what a pixel of "
                "disparity is in metres; name the camera_info topics (left_info, right_info), or record it too"
            )
        qos = storage.offered_qos
        reliable = all(qos[name].reliable for name in (topics.left_info, topics.right_info) if name in qos)
        wanted = zip(TRUTH_TOPICS.items(), (IMAGE, COMPRESSED, DISPARITY), strict=True)
        truth = next((name for (name, topic), kind in wanted if kinds.get(f"/{topic}") == kind), "")
        pairs = min(storage.counts[topic] for topic in topics[:2])
        return cls(topics, transport, truth, reliable, pairs)

    def remappings(self) -> list[tuple[str, str]]:
        """Return (name in the nodes, topic of the bag) for the depth node and the evaluator."""
        rules = []
        for name, topic in zip(INPUTS, self.topics, strict=True):
            base, transport = split_transport(topic)
            if name in INPUTS[:2] and transport != self.transport:  # not named by it
                name = f"{name}/{self.transport}"
            elif name in INPUTS[:2]:
                topic = base
            if topic != f"/{name}":
                rules.append((name, topic))
        return rules


@dataclass(frozen=True)
class BagsEvaluation:
    """Bags played into a depth node (``fg-depth replay-live``, launch/replay_evaluation.launch.py)."""

    bags: Sequence[str | Path]  # recordings, or folders of them
    out: Path  # folder for report.json, report.html and the nodes' logs
    rate: float = 1.0  # times the recorded speed; this and the next two are parameters of the player
    count: int = 0
    loop: bool = False
    depth: Mapping[str, Any] = field(default_factory=dict)  # parameters of the depth node
    topics: Mapping[str, str] = field(default_factory=dict)  # left, right, left_info, right_info; else found by name
    timeout: float = 3.0  # s; a pair without depth after that is dropped

    @property
    def report(self) -> Path:
        """The evaluator's report."""
        return self.out.absolute() / "report.json"

    def experiment(self) -> Experiment:
        """Describe the nodes. Raises FileError: no bag that can be played, or bags that differ in topics."""
        return self._experiment(self._playable()[0])

    def _playable(self) -> tuple[dict[Path, BagInputs], list[dict[str, str]]]:
        """Inspect the bags; return those that can be played into one node, and name and reason of the others."""
        bags = find_bags(self.bags)
        found: dict[Path, BagInputs] = {}
        left_out: list[dict[str, str]] = []
        for name, bag in zip(bag_names(bags), bags, strict=True):
            try:
                found[bag] = BagInputs.of(bag, **self.topics)
            except FileError as error:
                left_out.append({"name": name, "reason": str(error)})
        if not found:
            raise FileError("; ".join(entry["reason"] for entry in left_out))
        first, inputs = next(iter(found.items()))
        for bag, other in found.items():
            for what, one, two in (
                ("topics", ", ".join(inputs.topics), ", ".join(other.topics)),
                ("image_transport", inputs.transport, other.transport),
                ("true depth", inputs.truth or "none", other.truth or "none"),
            ):
                if one != two:
                    raise FileError(
                        f"{first} and {bag} differ in their {what} ({one}; {two}), and they are played into one depth "
                        "node: replay them apart, or with fg-depth replay"
                    )
        for entry in left_out:
            _LOG.warning("left out: %s: %s", entry["name"], entry["reason"])
        return found, left_out

    def _experiment(self, found: Mapping[Path, BagInputs]) -> Experiment:
        bags, inputs = list(found), next(iter(found.values()))
        remappings = inputs.remappings()
        listened = [inputs.topics.left_info, inputs.topics.right_info]
        if inputs.truth:
            listened.append(f"/{TRUTH_TOPICS[inputs.truth]}")
        # The evaluator subscribes to images for its pictures, and to both without truth.
        listened += [inputs.topics.left, *([] if inputs.truth else [inputs.topics.right])]
        evaluator: dict[str, Any] = {
            "use_sim_time": True, "pair_source": "camera_info", "truth": bool(inputs.truth), "timeout": self.timeout,
            "set_name": _set_name(bags), "report": str(self.report), "page": str(self.report.with_suffix(".html")),
            "idle_timeout": _IDLE_SECONDS, "image_transport": inputs.transport,
            "truth_transport": inputs.truth or "raw",
            **{name: self.depth[name] for name in SHARED_PARAMETERS if name in self.depth},
        }  # fmt: skip
        if all(each.reliable for each in found.values()):  # a lost camera_info is a pair that is not counted
            for topic in listened[:2]:
                evaluator[f"qos_overrides.{topic}.subscription.reliability"] = "reliable"
        depth = {"use_sim_time": True, "image_transport": inputs.transport, **self.depth}
        player = {
            "bags": [str(bag.absolute()) for bag in bags], "rate": self.rate, "loop": self.loop, "count": self.count,
            **wait_parameters(filter(None, inputs.topics), listened),
        }  # fmt: skip
        nodes = [NodeProcess(DEPTH_NODE, depth, remappings), NodeProcess(EVALUATOR, evaluator, remappings)]
        return Experiment(nodes, NodeProcess("bag_player_node", player), _UNLIMITED, "the end of the bags")

    def run(self, group: ProcessGroup, on_status: Callable[[str], None] = lambda text: None) -> Report:
        """Run the nodes in ``group``, which the caller stops, and return the evaluator's report.

        Its settings get the bags that were played and those that were left out. ``on_status`` gets a line about the
        state whenever it may have changed. Raises FileError for bags that cannot be played, and as ``Experiment.run``.
        """
        found, left_out = self._playable()
        experiment = self._experiment(found)
        self.report.unlink(missing_ok=True)  # an older one must not pass for this one's
        _run(experiment, group, on_status)
        report = read_report(self.report)
        named = zip(bag_names(list(found)), found.values(), strict=True)
        report.settings["bags"] = [{"name": name, "pairs": inputs.pairs} for name, inputs in named]
        report.settings["left_out"] = left_out
        report.write_json(self.report)
        return report


def _transport(kind: str) -> str:
    return next(name for name, each in IMAGE_TRANSPORTS.items() if each == kind)


def compile_networks(models: Iterable[str], rig: StereoRig, depth: Mapping[str, Any]) -> None:
    """Compile those of the models that are networks for a camera; a failure is left to the depth node to report.

    ``depth``: parameters of that node; its ``depth_weights`` belong to the first model.
    """
    chosen = {name: str(depth.get(name, "auto")) for name in ("device", "engine", "precision")}
    if chosen["engine"] == "torch":
        return
    jobs: dict[str, list[str]] = {}  # by weights
    for index, model in enumerate(models):
        if model not in (*StereoConfig.classical, *FlowConfig.classical):
            jobs.setdefault("" if index else str(depth.get("depth_weights", "")), []).append(model)
    size = [f"--size={rig.width}x{rig.height}", f"--doffs={rig.doffs}"]
    for weights, names in jobs.items():
        options = [f"--{name}={value}" for name, value in {**chosen, "weights": weights}.items() if value]
        subprocess.run(module_command("fg_depth_ros.cli", "compile", *names, *size, *options), capture_output=True)


def wait_parameters(inputs: Iterable[str], listened: Iterable[str]) -> dict[str, Any]:
    """Return the parameters by which a player waits for all subscribers of a depth node and an evaluator."""
    wanted = [f"{topic}={count}" for topic, count in Counter([*inputs, *listened]).items()]
    return {"wait_for_topics": wanted, "wait_timeout": SUBSCRIBER_SECONDS}


def _run(experiment: Experiment, group: ProcessGroup, on_status: Callable[[str], None]) -> str:
    """Run until the evaluator has written its report. Returns the last status in words."""
    interrupted: list[bool] = []

    def is_finished(run: Run) -> bool:
        on_status(_status(run))
        if not run.children[experiment.player.executable].running and not interrupted:
            interrupted.append(True)  # the evaluator waits for what is under way, writes its report and ends
            run.children[EVALUATOR].signal(signal.SIGINT)
        return not run.children[EVALUATOR].running

    run = experiment.run(group, is_finished, on_status, may_end=(EVALUATOR,))
    run.children[EVALUATOR].drain()
    return _status(run)


def _status(run: Run) -> str:
    values = run.monitor.values(EVALUATOR)
    if not int(values.get(keys.PAIRS_SENT, 0)):
        return "waiting for the first pair"
    return (
        f"{values[keys.DELIVERY_RATE]} Hz, latency {values[keys.DELIVERY_LATENCY]} ms, "
        f"{values[keys.PAIRS_DELIVERED]} of {values[keys.PAIRS_SENT]} pairs delivered, "
        f"{values[keys.PAIRS_WITHOUT_DEPTH]} dropped"
    )


def _set_name(bags: Sequence[Path]) -> str:
    """Name the data: the bag's whole name, as that of an episode has a dot in it."""
    if len(bags) > 1:
        return f"{len(bags)} bags"
    return bags[0].stem if bags[0].is_file() else bags[0].name
