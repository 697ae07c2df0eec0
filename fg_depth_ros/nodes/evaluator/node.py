"""``replay_evaluator_node``: evaluates a running depth node, against true depth, if any."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
import rclpy.subscription
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from stereo_msgs.msg import DisparityImage

from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.data.io import messages
from fg_depth_ros.data.io.compressed_depth import SUFFIX
from fg_depth_ros.evaluation.live.latency import LatencyMeter
from fg_depth_ros.evaluation.live.node_counters import CountersByNode, NodeCounters
from fg_depth_ros.evaluation.live.pair_ledger import PairEntry, PairLedger
from fg_depth_ros.evaluation.live.report import PairSeries, live_report
from fg_depth_ros.evaluation.reports.page import write_page
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.geometry import RigError
from fg_depth_ros.nodes.common import diagnostics
from fg_depth_ros.nodes.common.codes import NodeState
from fg_depth_ros.nodes.common.input_topics import input_topics, input_types
from fg_depth_ros.nodes.common.message_loss import with_info
from fg_depth_ros.nodes.common.qos import (
    CameraInfoSubscription,
    input_qos,
    naming_overrides,
    overridable,
    subscription_events,
)
from fg_depth_ros.nodes.common.rectifying import PairRectifier
from fg_depth_ros.nodes.common.running import run_node
from fg_depth_ros.nodes.common.topics import TRUTH_TOPICS
from fg_depth_ros.nodes.common.video import PacketSubscriber, VideoStream
from fg_depth_ros.nodes.evaluator.announcing import CameraInfoAnnouncer
from fg_depth_ros.nodes.evaluator.evaluation_worker import EvaluationWorker
from fg_depth_ros.nodes.evaluator.pair_messages import DEPTH, OPTIONAL_PARTS, SNAPSHOT_PARTS, SnapshotCollector
from fg_depth_ros.nodes.evaluator.parameters import REPLAY_EVALUATOR

REPORT_SECONDS = 8.0  # the node's diagnostics come once a second, on a busy machine later
_KEPT_RIGHT = 32  # right images whose pair may still be announced
__all__ = ["REPLAY_EVALUATOR", "ReplayEvaluatorNode", "main"]


class ReplayEvaluatorNode(Node):
    """Subscribes to the outputs of a depth node and matches them, by stamp, with the pairs that were sent.

    Callbacks store; an ``EvaluationWorker`` computes the metrics. ``exit_code`` is None while it runs. Latency is the
    time from a pair's stamp to the publication of its depth (the middleware's source timestamp) and to its arrival
    here; where stamps are not wall-clock time it starts at the announcement on ``published_pair``. Where the middleware
    gives no source timestamp (Humble), the latency to the publication is not known.

    Raises ValueError: a parameter that is out of range, qos_overrides included.
    """

    def __init__(self) -> None:
        super().__init__("replay_evaluator_node")
        self.parameters = REPLAY_EVALUATOR.declare(self)
        if self.parameters.problems:
            raise ValueError("; ".join(self.parameters.problems))
        self.exit_code: int | None = None
        wanted: list[str] = []
        if self.parameters["accuracy"]:
            wanted = ["flow", "disparity", *(["truth"] if self.parameters["truth"] else ["left", "right"])]
            if self.parameters["page"] and "left" not in wanted:
                wanted.append("left")  # for the pictures
        self.ledger = PairLedger("depth", wanted, timeout=self.parameters["timeout"], limit=self.parameters["pairs"])
        self.series = PairSeries()
        self.latency = LatencyMeter(self.ledger, self.series, self.parameters["warm_up"])
        self.worker = EvaluationWorker(self.series, self.get_logger().error)
        self._counters = CountersByNode()
        self._depth_nodes: set[str] = set()  # that publish the depth, or did
        self._simulated = bool(self.get_parameter("use_sim_time").value)
        self._infos: dict[str, OrderedDict[int, CameraInfo]] = {"left": OrderedDict(), "right": OrderedDict()}
        self._inputs = input_topics(self, self.parameters)
        self._rectifier = PairRectifier(self._inputs)
        slop = self.parameters["sync_slop"] if self.parameters["approximate_sync"] else 0.0
        self._slop = round(slop * 1e9)  # ns
        self._right: OrderedDict[int, tuple[Any, int]] = OrderedDict()  # images with stamps of their own, and arrivals
        self._announcer = CameraInfoAnnouncer(
            self._infos["left"], self._announce_pair, lambda stamp: self.ledger.find(stamp) is not None
        )
        self._snapshot = SnapshotCollector() if self.parameters["snapshot"] else None
        self._snapshot_subscriptions: list[rclpy.subscription.Subscription] = []
        self._last_news = self._last_announcement = time.monotonic()
        self._last_live = 0.0
        self._closing_since: float | None = None
        self._finished_since: float | None = None
        self._videos: dict[str, VideoStream] = {}  # by part
        self._camera_infos: dict[str, CameraInfoSubscription] = {}  # by side
        self._subscribe(wanted)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.1, self._tick, clock=steady)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self._log_live({"event": "ready"}, "waiting for pairs")

    # ---- input ---------------------------------------------------------------------------------------------

    def _subscribe(self, wanted: list[str]) -> None:
        reliable = QoSProfile(depth=10)
        sensor = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        all_pairs = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        inputs, kinds = self._inputs, input_types(self.parameters)
        transport = self.parameters["truth_transport"]
        truth: tuple[str, type] = (TRUTH_TOPICS[transport], DisparityImage if transport == "disparity" else Image)
        if transport == "compressedDepth":
            truth = (f"{self.resolve_topic_name(TRUTH_TOPICS['raw'])}{SUFFIX}", CompressedImage)
        self._truth_topic = truth[0]
        topics: dict[str, tuple[str, type, QoSProfile]] = {
            "depth": (DEPTH, Image, reliable),
            "disparity": ("disparity", DisparityImage, reliable),
            "flow": ("flow/image", Image, reliable),
            "truth": (*truth, reliable),
            "left": (inputs["left/image_rect"], kinds["left/image_rect"], sensor),
            "right": (inputs["right/image_rect"], kinds["right/image_rect"], sensor),
            "labels": ("mask/labels", Image, reliable),
            "points": ("points2", PointCloud2, reliable),
        }
        for part in ["depth", *wanted]:
            self._subscribe_part(part, *topics[part])
        self._snapshot_topics = {part: topics[part] for part in SNAPSHOT_PARTS if part not in ("depth", *wanted)}
        # Small, and a lost one may be a pair that is not counted.
        infos = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
        for side in ("left", "right"):
            store = with_info(functools.partial(self._store_info, side))
            self._camera_infos[side] = CameraInfoSubscription(self, inputs[f"{side}/camera_info"], store, infos)
        if self.parameters["pair_source"] == "published_pair":
            self._listen(Header, "published_pair", self._announce, all_pairs)
        self._listen(DiagnosticArray, "/diagnostics", self._store_diagnostics, QoSProfile(depth=10))

    def _listen(
        self, kind: type, topic: str, callback: Callable[[Any, Any], None], qos: QoSProfile
    ) -> rclpy.subscription.Subscription:
        events = subscription_events(self, topic)
        with naming_overrides(self.resolve_topic_name(topic), "subscription"):
            return self.create_subscription(
                kind, topic, with_info(callback), event_callbacks=events, **overridable(qos)
            )

    def _subscribe_part(self, part: str, topic: str, kind: type, qos: QoSProfile) -> rclpy.subscription.Subscription:
        if part not in ("left", "right") or self.parameters["image_transport"] == "raw":
            return self._listen(kind, topic, functools.partial(self._store, part), qos)
        packets = PacketSubscriber(self, kind, topic, input_qos(False, every=True))
        packets.registerCallback(lambda image: self._store(part, image, packets.info))
        self._videos[part] = packets.stream
        return packets.sub

    def _announce(self, header: Header, info: Any) -> None:
        published = info.get("source_timestamp") or time.time_ns()
        self._announce_pair(messages.stamp_ns(header), published, header.frame_id)

    def _announce_pair(self, stamp: int, published: int, name: str = "") -> None:
        self._last_news = self._last_announcement = time.monotonic()
        self._counters.start()
        # A stamp that is no wall-clock time (a bag's, a simulation's) says nothing about latency.
        fresh = not self._simulated and abs(published - stamp) < 5_000_000_000
        before = self.ledger.sent
        entry = self.ledger.announce(stamp, stamp if fresh else published, name)
        if self.ledger.sent > before:
            self.series.sent(self.ledger.sent, stamp, name)
            self.latency.on_pair(stamp)
        if self._slop and self._right:  # images may come before the announcement
            for other in [other for other in self._right if self.ledger.nearest(other, self._slop) == stamp]:
                entry = self.ledger.add(stamp, "right", *self._right.pop(other)) or entry
        if entry is not None:
            self._completed(entry)

    def _store(self, part: str, message: Any, info: Any) -> None:
        self._last_news = time.monotonic()
        stamp = messages.stamp_ns(message.header)
        arrival = info.get("received_timestamp") or time.time_ns()
        if self._snapshot is not None and part in (*SNAPSHOT_PARTS, *OPTIONAL_PARTS):
            self._snapshot.add(stamp, part, message)
        if part in ("left", "depth") and self.parameters["pair_source"] == "camera_info" and stamp:
            self._announcer.on_image(stamp, info.get("source_timestamp") or arrival)
        if part == "right" and self._slop:
            stamp = self.ledger.nearest(stamp, self._slop)
            if self.ledger.find(stamp) is None:
                self._right[stamp] = (message, arrival)
                while len(self._right) > _KEPT_RIGHT:
                    self._right.popitem(last=False)
                return
        entry = self.ledger.add(stamp, part, message, arrival)
        if part == "depth":
            self.latency.on_depth(stamp, info.get("source_timestamp") or None, arrival)
        if entry is not None:
            self._completed(entry)

    def _store_info(self, side: str, message: CameraInfo, info: Any) -> None:
        infos = self._infos[side]
        stamp = messages.stamp_ns(message.header)
        infos[stamp] = message
        while len(infos) > 64:
            infos.popitem(last=False)
        if side != "left" or self.parameters["pair_source"] != "camera_info" or not stamp:
            return
        if self._camera_infos[side].is_kept(info):
            return  # of before, and the pair it may have belonged to, too
        self._announcer.on_info(stamp, info.get("source_timestamp") or time.time_ns())

    def _store_diagnostics(self, message: DiagnosticArray, _: Any) -> None:
        publishers = self.get_publishers_info_by_topic(self.resolve_topic_name(DEPTH))
        self._depth_nodes |= {f"{info.node_namespace}/{info.node_name}".lstrip("/") for info in publishers}
        for status in message.status:
            node = status.name.partition(": ")[0]
            self._counters.update(node, {item.key: item.value for item in status.values})

    @property
    def node_counters(self) -> NodeCounters:
        """The figures of the node that publishes the depth."""
        return self._counters.of(self._depth_nodes)

    # ---- evaluation ------------------------------------------------------------------------------------

    def _completed(self, entry: PairEntry) -> None:
        if not self.parameters["accuracy"]:
            return
        try:
            infos = []
            for side in ("left", "right"):
                received = self._infos[side]
                if not received:
                    topic = self._inputs[f"{side}/camera_info"]
                    raise RigError(f"{topic} has not come: nothing says what a disparity is in metres")
                infos.append(received.get(entry.stamp) or received[next(reversed(received))])
            rectification = self._rectifier.for_pair(infos[0], infos[1], self.parameters["rectify"])
        except (RigError, messages.MessageError) as error:
            self.worker.count_failure(str(error))
        else:
            self.worker.submit(entry, rectification)

    # ---- running -------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        for subscription in self._camera_infos.values():
            subscription.follow()
        for entry in self.ledger.expire(time.time_ns()):
            if (problem := self._what_is_missing(entry)) is not None:
                self.worker.count_failure(problem)
            elif self.parameters["accuracy"]:
                # A node without flow/image or disparity is evaluated by its depth.
                self._completed(entry)
        self._take_snapshot()
        if time.monotonic() - self._last_live >= 1.0:
            self._last_live = time.monotonic()
            self._log_figures()
        if self._closing_since is not None:
            self._accept_no_more()
        idle_timeout = self.parameters["idle_timeout"]
        if self.ledger.finished:
            self._finish_after_report()
        elif idle_timeout and time.monotonic() - self._last_news > idle_timeout:
            self.get_logger().error(self._idle_reason(idle_timeout))
            self.finish(1)

    def _what_is_missing(self, entry: PairEntry) -> str | None:
        """Return what the depth of a pair cannot be compared with as it did not come, or None."""
        compared = ["truth"] if self.parameters["truth"] else ["left", "right"]
        missing = [part for part in compared if part in self.ledger.wanted and part not in entry.parts]
        video = [v.problem for part, v in self._videos.items() if part not in entry.parts and v.problem]
        if "truth" in missing:
            return f"no {self._truth_topic} came for pair '{entry.name}'; set truth to false if there is none"
        if video or not missing:
            return "; ".join(video) or None
        topic = self._inputs[f"{missing[0]}/image_rect"]
        remedy = "raise sync_slop" if self._slop else "set approximate_sync and sync_slop"
        return (
            f"no image came on {topic} for pair '{entry.name}': it was lost, or its stamp is another one: {remedy} as "
            "stereo_depth_node has it"
        )

    def close(self) -> None:
        """Expect no further pair: end when those that were sent have their depth or are dropped."""
        self._closing_since = time.monotonic()

    @property
    def is_closing(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing_since is not None

    def _accept_no_more(self) -> None:
        """Ignore pairs from now on, once the announcements that were under way have arrived."""
        assert self._closing_since is not None
        now = time.monotonic()
        if now - max(self._last_announcement, self._closing_since) < 1.0 and now - self._closing_since < 5.0:
            return
        self.ledger.limit = self.ledger.limit or self.ledger.sent
        if not self.ledger.sent or not self.count_publishers(self.resolve_topic_name(DEPTH)):
            self.finish(0)  # no depth can arrive any more

    def _finish_after_report(self) -> None:
        """Wait until the depth node has reported its counters once more, then end."""
        now = time.monotonic()
        self._finished_since = now if self._finished_since is None else self._finished_since
        waited = now - self._finished_since
        # A report made just after the last answer counts that one; one made at the same moment may not.
        reported = self.node_counters.updated_after(self._finished_since + 0.1)
        if reported or waited > REPORT_SECONDS or (waited > 2.0 and not self.node_counters.has_reports):
            self.finish(0)

    def _idle_reason(self, idle_timeout: float) -> str:
        if self.ledger.sent == 0:
            is_announced = self.parameters["pair_source"] == "published_pair"
            topic = self.resolve_topic_name("published_pair") if is_announced else self._inputs["left/camera_info"]
            found = self.count_publishers(topic)
            way = "start stereo_player_node, or set pair_source to camera_info for a bag or a camera"
            return f"no pair was announced on {topic} for {idle_timeout:.0f} s ({found} publisher(s)): {way}"
        topic = self.resolve_topic_name(DEPTH)
        return (
            f"nothing came for {idle_timeout:.0f} s after {self.ledger.sent} pair(s), {self.ledger.delivered} of them "
            f"answered ({self.count_publishers(topic)} publisher(s) of {topic}): has the player or the depth node "
            "ended? Set pairs to 0 to evaluate until stopped"
        )

    def _take_snapshot(self) -> None:
        if self._snapshot is None or not self.ledger.delivered:
            return
        if not self._snapshot_subscriptions:
            # Only now: a player that waits for subscribers must not take these for the depth node's.
            self._snapshot_subscriptions = [
                self._subscribe_part(part, *topic) for part, topic in self._snapshot_topics.items()
            ]
        if (chosen := self._snapshot_choice()) is None:
            return
        try:
            self._snapshot.write(Path(self.parameters["snapshot"]), *chosen, self._infos)
        except (OSError, ValueError) as error:
            self.get_logger().error(f"snapshot {self.parameters['snapshot']} could not be written: {error}")
        self._snapshot = None
        for subscription in self._snapshot_subscriptions:
            self.destroy_subscription(subscription)  # the node does not compute outputs without subscribers
        self._snapshot_subscriptions.clear()

    def _snapshot_choice(self) -> tuple[int, str] | None:
        """Return stamp and name of the pair to keep: the wanted one, or any one at the end."""
        assert self._snapshot is not None
        found = [pair for stamp in self._snapshot.complete() if (pair := self.ledger.find(stamp)) is not None]
        wanted = self.parameters["snapshot_pair"]
        at_end = self.is_closing or self.ledger.finished
        chosen = [pair for pair in found if wanted in ("", pair.name)] or (found if at_end else [])
        return (chosen[0].stamp, chosen[0].name) if chosen else None

    def _log_figures(self) -> None:
        ledger = self.ledger
        if not ledger.sent:
            return
        latency, rate = self.latency.recent_ms, ledger.rate()
        counts = {"sent": ledger.sent, "delivered": ledger.delivered, "dropped": ledger.dropped}
        self._log_live(
            {"event": "live", **counts, "rate_hz": rate, "latency_ms": latency},
            f"{ledger.delivered} of {ledger.sent} pairs, {0.0 if math.isnan(rate) else rate:.1f} Hz, latency "
            f"{latency:.0f} ms, {ledger.dropped} dropped",
        )

    def _log_live(self, event: dict[str, Any], text: str) -> None:
        if self.parameters["live"] == "json":
            clean = {k: None if isinstance(v, float) and v != v else v for k, v in event.items()}
            with contextlib.suppress(OSError):  # who read it may be gone
                sys.stdout.write(json.dumps(clean) + "\n")
                sys.stdout.flush()
        elif self.parameters["live"] == "log":
            self.get_logger().info(text)

    # ---- the end -------------------------------------------------------------------------------------------

    def finish(self, exit_code: int) -> None:
        """Evaluate what is queued, write the report and set ``exit_code``. A second call does nothing."""
        if self.exit_code is not None:
            return
        self.exit_code = exit_code
        self.worker.stop()
        report = self.report()
        files: dict[str, Callable[[str], None]] = {
            "report": report.write_json,
            "page": lambda path: write_page(path, report, pictures=self.worker.worst.pictures, title="Live replay"),
            "scores": lambda path: self.worker.scores.write(Path(path)),
        }
        for name, write in files.items():
            try:
                if path := self.parameters[name]:
                    write(path)
            except OSError as error:  # the others may be on another disk
                self.exit_code = self.exit_code or 1
                self.get_logger().error(f"{name} {path} could not be written: {error}")
        self._log_figures()
        self._log_live({"event": "done", "exit_code": self.exit_code}, f"report: {self.parameters['report'] or 'none'}")

    def _publish_diagnostics(self) -> None:
        ledger, rate = self.ledger, self.ledger.rate()
        latency = self.latency.recent_ms
        values = {
            keys.STATE: NodeState.ACTIVE,
            keys.PAIRS_SENT: str(ledger.sent),
            keys.PAIRS_DELIVERED: str(ledger.delivered),
            keys.PAIRS_WITHOUT_DEPTH: str(ledger.dropped),
            "pairs pending": str(ledger.pending),
            "pairs not evaluated": str(self.worker.not_evaluated),
            keys.DELIVERY_RATE: f"{0.0 if math.isnan(rate) else rate:.1f}",
            keys.DELIVERY_LATENCY: f"{0.0 if math.isnan(latency) else latency:.0f}",
        }
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        text = f"{ledger.delivered} of {ledger.sent} pairs"
        message.status.append(diagnostics.status(f"{name}: evaluation", "depth node", [], text, values))
        self._diagnostics.publish(message)

    def report(self) -> Report:
        """Return what was measured so far."""
        latencies = {"published": self.latency.published, "arrival": self.latency.arrival}
        return live_report(
            self.parameters.values(), self.ledger, self.worker.scores, self.node_counters, self.series, latencies,
            self.worker.not_evaluated,
        )  # fmt: skip


def main(args: list[str] | None = None) -> int:
    """Evaluate until the pairs are through, Ctrl-C or shutdown. Returns the exit code.

    SIGINT waits for the depth of pairs that were sent before it; a second one, or SIGTERM, ends at once.
    """
    node: ReplayEvaluatorNode | None = None

    def interrupt(number: int, _: Any) -> None:
        if node is None or (node.exit_code is None and (number == signal.SIGTERM or node.is_closing)):
            raise KeyboardInterrupt
        node.close()

    def spin(made: ReplayEvaluatorNode, executor: SingleThreadedExecutor) -> None:
        nonlocal node
        node = made
        try:
            while node.exit_code is None:
                executor.spin_once(timeout_sec=0.2)
        except (KeyboardInterrupt, ExternalShutdownException):
            node.finish(0)

    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin with SIGINT ignored
        signal.signal(ending, interrupt)
    # rclpy's own handlers shut the context down at once; here the report is written first, and a further signal does
    # not cut that short.
    no_handlers, name = SignalHandlerOptions.NO, "replay_evaluator_node"
    if not run_node(name, ReplayEvaluatorNode, spin, args, refusals=(ValueError,), handlers=no_handlers):
        return 1
    return node.exit_code or 0 if node is not None else 0


if __name__ == "__main__":
    sys.exit(main())
