"""Bags played into a running depth node, and what the evaluator says of it: as launch/replay_evaluation.launch.py does
it, where there is no launch.

No ROS import: this is the parent of the nodes.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fg_depth_ros.apps.processes import ChildTimeout, ProcessGroup
from fg_depth_ros.apps.session import START_SECONDS, Watch
from fg_depth_ros.data.bags.folders import find_bags
from fg_depth_ros.data.bags.pairs import BagTopics, find_topics
from fg_depth_ros.data.bags.storage import COMPRESSED, IMAGE, BagStorage
from fg_depth_ros.data.io.formats import FileError
from fg_depth_ros.evaluation.reports.report import Report, read_report

TRUTH_TOPIC = "/ground_truth/depth"
LAST_ANSWERS_SECONDS = 1.5  # diagnostics come once a second


@dataclass(frozen=True)
class BagInputs:
    """What the nodes must know of a recording: its pair's topics, how its images come, whether it has true depth."""

    topics: BagTopics
    compressed: bool
    truth: bool

    @classmethod
    def of(cls, bag: str | Path) -> BagInputs:
        """Those of a bag. Raises FileError: no such bag, no pair of image topics, or no camera_info for it."""
        kinds = BagStorage(bag).topics
        topics = find_topics(kinds, where=str(bag))
        if not (topics.left_info and topics.right_info):
            raise FileError(
                f"{bag}: no camera_info beside {topics.left} and {topics.right}: nothing says what a pixel of "
                "disparity is in metres; record it too"
            )
        return cls(topics, kinds[topics.left] == COMPRESSED, kinds.get(TRUTH_TOPIC) == IMAGE)

    def remaps(self) -> list[tuple[str, str]]:
        """(name in the nodes, topic of the bag) for the depth node and the evaluator."""
        left, right = (topic.removesuffix("/compressed") for topic in self.topics[:2])
        names = ("left/image_rect", "right/image_rect", "left/camera_info", "right/camera_info")
        bag = (left, right, self.topics.left_info, self.topics.right_info)
        return [(name, topic) for name, topic in zip(names, bag, strict=True) if topic != f"/{name}"]

    @property
    def subscribers(self) -> int:
        """How many each topic of the pair has when both nodes listen: without truth the evaluator needs the images."""
        return 1 if self.truth or self.compressed else 2


@dataclass(frozen=True)
class LiveReplay:
    """What is played and measured.

    ``bags``: recordings, or folders of them. ``out``: folder for report.json, report.html and the nodes' logs.
    ``rate``: times the recorded speed. ``rounds``: how often everything is played. ``depth``: further parameters of
    the depth node. ``timeout``: a pair without depth after so many seconds is dropped.
    """

    bags: Sequence[str | Path]
    out: Path
    rate: float = 1.0
    count: int = 0
    loop: bool = False
    depth: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 3.0

    def run(self, group: ProcessGroup, tell: Callable[[str], None] = lambda text: None) -> Report:
        """Start the three nodes in `group`, which the caller stops, and return the evaluator's report.

        `tell` gets a line about the state whenever it may have changed.

        Raises:
            FileError: no bag that can be played.
            SessionError: the depth node refuses its model or a parameter.
            ChildDied, ChildTimeout: a node ended, or something did not happen in time.
        """
        bags = find_bags(self.bags)
        inputs = BagInputs.of(bags[0])
        remaps = [word for name, topic in inputs.remaps() for word in ("-r", f"{name}:={topic}")]
        report, watch = self.out / "report.json", Watch()
        report.unlink(missing_ok=True)  # an older one would pass for this one's
        depth = group.start(
            "depth node",
            "fg_depth_ros.nodes.stereo_depth.node",
            {
                "use_sim_time": True,
                "image_transport": "compressed" if inputs.compressed else "raw",
                **self.depth,
            },
            ros_args=remaps,
            on_line=watch.depth_line,
        )
        evaluator = group.start(
            "evaluator",
            "fg_depth_ros.nodes.evaluator.node",
            {
                "use_sim_time": True,
                "account": "camera_info",
                "truth": inputs.truth,
                "timeout": self.timeout,
                "set_name": _set_name(bags),
                "report": str(report.absolute()),
                "page": str((self.out / "report.html").absolute()),
                "live": "json",
                "patience": START_SECONDS + 30.0,
            },
            ros_args=remaps,
            on_line=watch.evaluator_line,
        )
        tell("starting")
        group.wait_until(
            lambda: watch.check() and watch.depth_active and watch.evaluator_ready,
            START_SECONDS,
            "the depth node to load its model",
        )
        player = group.start(
            "player",
            "fg_depth_ros.nodes.players.bag_player",
            {
                "bags": [str(bag.absolute()) for bag in bags],
                "rate": self.rate,
                "loop": self.loop,
                "count": self.count,
                "wait_for_subscribers": inputs.subscribers,
                "wait_timeout": 30.0,
            },
        )
        while player.running:
            group.check(may_end=(player,))
            tell(watch.text())
            time.sleep(0.1)
        group.check(may_end=(player,))
        # What is under way may still come, and then the node's own account of it.
        end = time.monotonic() + self.timeout + LAST_ANSWERS_SECONDS
        while time.monotonic() < end:
            group.check(may_end=(player,))
            time.sleep(0.1)
        evaluator.signal(signal.SIGINT)
        try:
            group.wait_until(
                lambda: not evaluator.running, 30.0, "the evaluator's report", may_end=(player, evaluator, depth)
            )
        except ChildTimeout:
            if not report.is_file():
                raise
        return read_report(report)


def _set_name(bags: Sequence[Path]) -> str:
    """The bag's name, whole: that of an episode has a point in it."""
    if len(bags) > 1:
        return f"{len(bags)} bags"
    return bags[0].stem if bags[0].is_file() else bags[0].name
