"""The evaluator in its own process, fed over real topics by a stand-in for player and depth node."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.srv import GetParameters
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from stereo_msgs.msg import DisparityImage
from support.nodes import compressed_image, compressed_video
from support.pair_folders import planes, small_rig
from support.raw_cameras import RawRig
from support.waiting import LIMIT, response_to, wait_until

from fg_depth_ros.apps.processes import Child, ChildDied, ProcessGroup
from fg_depth_ros.data.io import messages
from fg_depth_ros.evaluation.live.node_counters import LOST_AFTER, NEVER_REACHED, CountersByNode, NodeCounters
from fg_depth_ros.evaluation.live.pair_ledger import REMEMBERED, PairEntry
from fg_depth_ros.evaluation.replay.scores import PublishedPair
from fg_depth_ros.evaluation.reports.report import read_report
from fg_depth_ros.geometry import disparity_to_depth, organised_points
from fg_depth_ros.geometry.rectification import Rectification
from fg_depth_ros.inference import SearchRange
from fg_depth_ros.nodes.common.rectifying import PairRectifier
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.evaluator.node import ReplayEvaluatorNode
from fg_depth_ros.nodes.evaluator.pair_messages import Snapshot, published_pair
from fg_depth_ros.nodes.players.stereo_player import camera_infos
from fg_depth_ros.nodes.stereo_depth.outputs import cloud_message, disparity_message

EVALUATOR = "fg_depth_ros.nodes.evaluator.node"
TOPICS = {
    "left/camera_info": CameraInfo,
    "right/camera_info": CameraInfo,
    "left/image_rect": Image,
    "right/image_rect": Image,
    "depth/image_rect": Image,
    "disparity": DisparityImage,
    "flow/image": Image,
    "ground_truth/depth": Image,
    "ground_truth/disparity": DisparityImage,
    "mask/labels": Image,
    "points2": PointCloud2,
    "/diagnostics": DiagnosticArray,
}
COMPRESSED = {f"{side}/image_rect/compressed": CompressedImage for side in ("left", "right")}
COMPRESSED["ground_truth/depth/compressedDepth"] = CompressedImage


MakeEvaluator = Callable[..., ReplayEvaluatorNode]


class Source:
    """Publishes pairs and what a depth node would answer, exactly as told."""

    def __init__(self, group: ProcessGroup, folder: Path) -> None:
        self.group, self.folder = group, folder
        self.rig = small_rig()
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("stereo_depth_node", context=self.context)
        self.publishers = {t: self.node.create_publisher(k, t, 20) for t, k in (TOPICS | COMPRESSED).items()}
        self.compressed = False  # images and truth that are sent
        self.encoders: dict[str, Any] = {}  # by side, where images are sent as video
        latched = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.account = self.node.create_publisher(Header, "published_pair", latched)
        self.client = self.node.create_client(GetParameters, "replay_evaluator_node/get_parameters")
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.latencies: list[tuple[float, float]] = []  # between which an answer came after its stamp, ms

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def start_evaluator(self, **parameters: object) -> Child:
        values = {"report": str(self.folder / "report.json"), "timeout": 1.0, "idle_timeout": 10.0, **parameters}
        self.child = self.group.start("evaluator", EVALUATOR, values)
        needed = [self.publishers[topic] for topic in ("depth/image_rect", "left/camera_info", "/diagnostics")]
        self.group.wait_until(
            lambda: all(p.get_subscription_count() for p in needed) and self.client.service_is_ready(), LIMIT, "start"
        )
        self.settle()
        return self.child

    def wait_for_subscribers(self, *topics: str) -> None:
        """Wait until the evaluator listens to these topics."""
        wait_until(lambda: all(self.publishers[topic].get_subscription_count() for topic in topics))
        self.settle()

    def settle(self) -> None:
        """Wait until the evaluator has taken in what was sent: it serves a request after the messages before it."""
        request = GetParameters.Request(names=["pairs"])
        spin = lambda: self.executor.spin_once(timeout_sec=0.05)  # noqa: E731
        response_to(self.client, request, spin, lambda: self.child.running)

    def send(
        self,
        name: str,
        dense: np.ndarray | None,
        truth: np.ndarray | None,
        masked: np.ndarray | None = None,
        age: float = 0.0,
        images: tuple[np.ndarray, np.ndarray] | None = None,
        infos: bool = True,
        then: Callable[[Header], None] = lambda header: None,
    ) -> None:
        """One pair whose stamp is `age` seconds old; `dense` None leaves it unanswered; `then` publishes more of it."""
        stamp = self.node.get_clock().now() - Duration(seconds=age)
        self.header = header = Header(stamp=stamp.to_msg(), frame_id=name)
        self.account.publish(header)
        left_info, right_info = camera_infos(self.rig, "left", "right")
        left_info.header.stamp = right_info.header.stamp = header.stamp
        if infos:
            self.publishers["left/camera_info"].publish(left_info)
            self.publishers["right/camera_info"].publish(right_info)
        for side, image in zip(("left", "right"), images or (), strict=False):
            if self.compressed:
                message = compressed_image(image, header, kind="png")
                if self.encoders:
                    message = compressed_video(self.encoders[side].add(image)[0].data, header)
                self.publishers[f"{side}/image_rect/compressed"].publish(message)
            else:
                self.publishers[f"{side}/image_rect"].publish(messages.fill_image(Image(), image, "rgb8", header))
        if truth is not None:
            message = messages.fill_image(Image(), disparity_to_depth(truth, self.rig), "32FC1", header)
            if self.compressed:
                packed = messages.fill_compressed_depth(CompressedImage(), message, 0.1, 80.0)
                self.publishers["ground_truth/depth/compressedDepth"].publish(packed)
            else:
                self.publishers["ground_truth/depth"].publish(message)
        then(header)
        if dense is not None:
            self.answer(header, dense, masked)
        self.settle()

    def answer(self, header: Header, dense: np.ndarray, masked: np.ndarray | None = None) -> None:
        """What a depth node publishes for the pair of this header."""
        masked = dense if masked is None else masked
        depth = disparity_to_depth(masked, self.rig)
        message = messages.fill_image(Image(), depth, "32FC1", header)
        begun = time.time_ns()
        self.publishers["depth/image_rect"].publish(message)
        stamp = messages.stamp_ns(header)
        self.latencies.append(((begun - stamp) * 1e-6, (time.time_ns() - stamp) * 1e-6))
        flow = np.stack([-dense, np.zeros_like(dense)], axis=-1)
        self.publishers["flow/image"].publish(messages.fill_image(Image(), flow, "32FC2", header))
        searched = SearchRange(-self.rig.doffs, 400.0, 0)
        self.publishers["disparity"].publish(disparity_message(masked, self.rig, header, searched, increment=0.1))
        labels = np.where(np.isfinite(masked), 0, 2).astype(np.uint8)
        self.publishers["mask/labels"].publish(messages.fill_image(Image(), labels, "8UC1", header))
        points = organised_points(depth, self.rig, 2)
        self.publishers["points2"].publish(cloud_message(points, np.full(points.shape, 99, np.uint8), header))

    def send_diagnostics(self, node: str = "stereo_depth_node", **values: str) -> None:
        items = [KeyValue(key=key.replace("__", ": ").replace("_", " "), value=v) for key, v in values.items()]
        status = DiagnosticStatus(name=f"{node}: pairs", values=items)
        self.publishers["/diagnostics"].publish(DiagnosticArray(status=[status]))

    def wait_for_report(self, **values: str) -> dict:
        """The report. The evaluator ends when the node that it judges has spoken once more, with these values."""
        wait_until(
            lambda: not self.child.running,
            period=0.1,
            step=lambda: self.send_diagnostics(**(values or {"pairs_matched": "0"})),
            describe=self.child.last_lines,
        )
        self.group.check(may_end=[self.child])
        return json.loads((self.folder / "report.json").read_text())


@pytest.fixture
def source(ros_domain: int, tmp_path: Path) -> Iterator[Source]:
    with ProcessGroup(tmp_path / "logs") as group:
        source = Source(group, tmp_path)
        yield source
        source.close()


@pytest.fixture
def evaluator(ros_domain: int) -> Iterator[MakeEvaluator]:
    """Makes the evaluator in this process, for tests that hand it messages themselves."""
    with ExitStack() as made:

        def make(remap: Mapping[str, str] | None = None, **values: Any) -> ReplayEvaluatorNode:
            given = (w for name, value in values.items() for w in ("-p", f"{name}:={value}"))
            rules = (w for name, topic in (remap or {}).items() for w in ("-r", f"{name}:={topic}"))
            rclpy.init(args=["--ros-args", *given, *rules])
            made.callback(rclpy.shutdown)
            node = ReplayEvaluatorNode()
            made.callback(node.destroy_node)
            made.callback(node.finish, 0)
            return node

        yield make


def _row(report: dict, method: str, kind: str = "accuracy") -> dict:
    (row,) = [row for row in report["rows"] if row["method"] == method and row["kind"] == kind]
    return row


def test_accuracy_drops_and_latency_are_those_that_were_made(source: Source, tmp_path: Path) -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    dense = truth.copy()
    dense[:24] += 1.5
    masked = dense.copy()
    masked[:12] = np.nan
    source.start_evaluator(pairs=8, warm_up=1, set_name="planes", snapshot=str(tmp_path / "pair.npz"))
    source.send_diagnostics(pairs_matched="100", pairs_published="90", dropped__replaced_by_newer="10")
    source.settle()
    left = planes(0)[0]
    for number in range(8):
        answer = None if number in (2, 5) else dense
        source.send("a", answer, truth, masked, age=0.05, images=(left, left))
        if number == 0:  # the evaluator subscribes to the other topics of a snapshot when it has seen depth
            source.wait_for_subscribers("left/image_rect", "mask/labels", "points2")
    report = source.wait_for_report(pairs_matched="108", pairs_published="96", dropped__replaced_by_newer="12")
    assert source.child.returncode == 0

    # Nothing said what the model is, so the rows are called "published".
    everything, unmasked = _row(report, "published"), _row(report, "published masked")
    assert everything["set"] == "planes"
    assert everything["metrics"]["bad_1"] == pytest.approx(25.0)
    assert everything["metrics"]["bad_2"] == 0.0
    assert everything["metrics"]["density"] == 100.0
    assert unmasked["metrics"]["density"] == pytest.approx(87.5)
    assert unmasked["metrics"]["bad_1"] == pytest.approx(100 * 0.125 / 0.875)
    # Z = 20 / (d + 4): the truth is 2 m, what is off by 1.5 px is 20 / 11.5 m
    assert everything["metrics"]["abs_rel"] == pytest.approx(0.25 * (2 - 20 / 11.5) / 2, rel=1e-4)

    timing = _row(report, "published", "timing")
    metrics = timing["metrics"]
    assert (metrics["pairs_sent"], metrics["pairs_delivered"], metrics["pairs_dropped"]) == (8, 6, 2)
    assert timing["drops"] == {"replaced by newer": 2}
    assert metrics["pairs_unaccounted"] == 0
    least, most = np.median(source.latencies[1:], axis=0)  # without the pair of the warm-up
    assert 50 < least <= metrics["published_p50_ms"] <= most
    assert metrics["arrival_p50_ms"] >= metrics["published_p50_ms"]

    snapshot = Snapshot.read(tmp_path / "pair.npz")
    assert snapshot.name == "a"
    np.testing.assert_array_equal(snapshot.left, left)
    np.testing.assert_allclose(snapshot.disparity, dense)
    assert snapshot.rig == small_rig()
    assert snapshot.truth is not None
    assert snapshot.points.shape == (48, 80, 3)
    assert (snapshot.labels == 2).mean() == pytest.approx(0.125)
    read_report(tmp_path / "report.json")


def test_compressed_truth_is_compared_with(source: Source) -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    dense = truth.copy()
    dense[:24] += 1.5
    source.compressed = True
    source.start_evaluator(pairs=2, truth_transport="compressedDepth", image_transport="compressed")
    source.wait_for_subscribers("ground_truth/depth/compressedDepth")
    for _ in range(2):
        source.send("a", dense, truth)
    metrics = _row(source.wait_for_report(), "published")["metrics"]
    assert metrics["bad_1"] == pytest.approx(25.0)
    assert metrics["epe"] == pytest.approx(0.25 * 1.5, abs=0.01)  # the wall is at 2 m, to 0.3 mm or 0.002 px


def test_true_disparity_is_compared_with_by_its_own_f_and_t(source: Source) -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    truth[:, :40] = np.nan
    dense = np.full_like(truth, 6.0)
    dense[:24] += 1.5
    rig = source.rig
    source.start_evaluator(pairs=2, truth_transport="disparity")
    source.wait_for_subscribers("ground_truth/disparity")
    for _ in range(2):
        source.send("a", dense, None, then=lambda header: source.publishers["ground_truth/disparity"].publish(
            disparity_message(truth, rig, header, SearchRange(-rig.doffs, 400.0, 0), increment=0.1)
        ))  # fmt: skip
    metrics = _row(source.wait_for_report(), "published")["metrics"]
    assert metrics["bad_1"] == pytest.approx(25.0)
    assert metrics["epe"] == pytest.approx(0.25 * 1.5, abs=0.01)


@pytest.mark.parametrize(("transport", "video"), [("raw", False), ("compressed", False), ("compressed", True)])
def test_without_truth_the_images_are_compared(source: Source, transport: str, video: bool) -> None:
    left, right, truth = planes(0)
    source.compressed = transport == "compressed"
    if video:
        pytest.importorskip("av", reason="video is decoded by PyAV (extra 'video')")
        from support.video import Encoder

        source.encoders = {side: Encoder(160, 96) for side in ("left", "right")}
    source.start_evaluator(pairs=3, truth=False, image_transport=transport)
    source.wait_for_subscribers(*(topic for topic in COMPRESSED if source.compressed and "image" in topic))
    for _ in range(3):
        source.send("a", truth, None, images=(left, right))
    report = source.wait_for_report()
    metrics = _row(report, "published")["metrics"]
    assert metrics["photometric"] < 1.0
    assert metrics["seen_by_both"] > 90.0
    assert "bad_1" not in metrics


def test_video_that_cannot_be_decoded_is_said_and_its_pairs_are_not_judged(source: Source) -> None:
    pytest.importorskip("av", reason="video is decoded by PyAV (extra 'video')")
    from support.video import Encoder

    left, right, truth = planes(0)
    source.compressed = True
    source.encoders = {side: Encoder(160, 96, gop=1000) for side in ("left", "right")}
    for encoder in source.encoders.values():
        encoder.add(left)  # the key frame, which nobody gets
    source.start_evaluator(pairs=2, truth=False, image_transport="compressed")
    source.wait_for_subscribers(*(topic for topic in COMPRESSED if "image" in topic))
    for _ in range(2):
        source.send("a", truth, None, images=(left, right))
    report = source.wait_for_report()
    (timing,) = [row for row in report["rows"] if row["kind"] == "timing"]
    assert timing["metrics"]["pairs_not_evaluated"] == 2
    said = "a pair could not be evaluated: /left/image_rect/compressed: no key frame has come yet"
    assert any(said in line for line in source.child.last_lines().splitlines()), source.child.last_lines()


def test_images_of_10_bits_are_seen_as_the_depth_node_sees_them() -> None:
    """Read as 16 bits they are nearly black: nothing to compare, and black pictures in the report."""
    rig = small_rig()
    left, right, disparity = planes(0)
    depth = messages.fill_image(Image(), disparity_to_depth(disparity, rig), "32FC1")
    greys = {"left": left[..., 0], "right": right[..., 0]}
    assert max(grey.max() for grey in greys.values()) > 70  # needs more than 8 bits when it is scaled by 4

    def pair(scale: float, white: messages.LearnedWhite) -> PublishedPair:
        images = {
            side: messages.fill_image(Image(), np.rint(grey * (scale * 1023 / 255)).astype(np.uint16), "mono16")
            for side, grey in greys.items()
        }
        return published_pair(PairEntry(0, 0, parts={"depth": depth, **images}), Rectification.of_rectified(rig), white)

    white = messages.LearnedWhite()
    found, dark = pair(1.0, white), pair(0.25, white)  # the level of the first pair holds for the second
    for side, grey in greys.items():
        assert np.abs(getattr(found, side).astype(int) - grey).max() <= 1
        assert np.abs(getattr(dark, side) - 0.25 * grey).max() <= 1
    assert white.level == 1023


def test_raw_images_are_compared_as_the_depth_node_rectifies_them() -> None:
    world = RawRig("plumb_bob")
    infos = [world.camera_info(side, CameraInfo) for side in (0, 1)]
    topics = {name: f"/{name.replace('image_rect', 'image_raw')}" for name in INPUTS}
    rectification = PairRectifier(topics).for_pair(infos[0], infos[1], "auto")
    raw = {side: world.raw_image(index) for index, side in enumerate(("left", "right"))}
    parts = {side: messages.fill_image(Image(), image, "mono8") for side, image in raw.items()}
    parts["depth"] = messages.fill_image(Image(), np.ones((240, 320), np.float32), "32FC1")
    found = published_pair(PairEntry(0, 0, parts=parts), rectification, messages.LearnedWhite())
    expected = Rectification.from_camera_info(*infos)
    np.testing.assert_array_equal(found.left, expected.apply(raw["left"], 0))
    np.testing.assert_array_equal(found.right, expected.apply(raw["right"], 1))


def test_a_late_answer_is_delivered_and_late(source: Source) -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    source.start_evaluator(pairs=2, accuracy=False, timeout=4.0, live="json")
    # Far from the 5 s beyond which a stamp counts as no wall-clock time, also on a busy machine.
    source.send("a", None, None, age=1.0)
    header = source.header
    wait_until(lambda: any('"dropped": 1' in line for line in source.child.tail))
    source.answer(header, truth)
    source.send("a", truth, None)
    metrics = _row(source.wait_for_report(), "published", "timing")["metrics"]
    assert (metrics["pairs_delivered"], metrics["pairs_late"], metrics["pairs_dropped"]) == (2, 1, 0)


def test_no_latency_of_publication_is_made_up_where_the_middleware_gives_no_times(evaluator: MakeEvaluator) -> None:
    node = evaluator()
    header = Header(stamp=node.get_clock().now().to_msg(), frame_id="a")
    node._announce(header, {})
    node._store("depth", Image(header=header), {})
    report = node.report()
    (timing,) = report.rows
    assert not [name for name in timing["metrics"] if name.startswith("published_")]
    assert [report.series[0]["latency_ms"]] == [timing["metrics"]["arrival_p50_ms"]] == [pytest.approx(0, abs=5000)]


@pytest.mark.parametrize(
    ("with_truth", "message"),
    [(True, "true depth is 80x48 and the camera 160x96"), (False, "no ground_truth/depth came for pair 'a'")],
)
def test_what_cannot_be_judged_is_named_and_nothing_is_invented(source: Source, with_truth: bool, message: str) -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    source.start_evaluator(pairs=2)
    for _ in range(2):
        source.send("a", truth, truth[:48, :80] if with_truth else None)
    report = source.wait_for_report()
    (timing,) = report["rows"]
    assert timing["kind"] == "timing"
    assert timing["metrics"]["pairs_delivered"] == 2
    assert timing["metrics"]["pairs_not_evaluated"] == 2
    assert sum(message in line for line in source.child.tail) == 1


class Pairs:
    """Pairs for an evaluator in this process, without truth, with right images that are 1 ms later."""

    def __init__(self, node: ReplayEvaluatorNode) -> None:
        self.node, self.stamp = node, time.time_ns()
        self.left, self.right, self.dense = planes(0)

    def send(self, *, right_first: bool = False, lost: bool = False) -> None:
        self.stamp += 10**8
        headers = {side: Header() for side in ("left", "right")}
        for header, stamp in zip(headers.values(), (self.stamp, self.stamp + 10**6), strict=True):
            header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
        store = self.node._store

        def send_right() -> None:
            if not lost:
                store("right", messages.fill_image(Image(), self.right, "rgb8", headers["right"]), {})

        if right_first:
            send_right()
        for side, info in zip(headers, camera_infos(small_rig(), "left", "right"), strict=True):
            info.header = headers[side]
            self.node._store_info(side, info, {})
        if not right_first:
            send_right()
        depth = disparity_to_depth(self.dense, small_rig())
        flow = np.stack([-self.dense, np.zeros_like(self.dense)], axis=-1)
        store("left", messages.fill_image(Image(), self.left, "rgb8", headers["left"]), {})
        store("depth", messages.fill_image(Image(), depth, "32FC1", headers["left"]), {})
        store("flow", messages.fill_image(Image(), flow, "32FC2", headers["left"]), {})
        self.node._tick()


def test_a_right_image_with_another_stamp_is_of_its_pair_within_the_slop(evaluator: MakeEvaluator) -> None:
    node = evaluator(pair_source="camera_info", truth=False, approximate_sync=True, sync_slop=0.005, timeout=0.05)
    pairs = Pairs(node)
    for k in range(4):
        pairs.send(right_first=k % 2 == 1)
    wait_until(lambda: not node.ledger._open, step=node._tick)
    node.finish(0)
    metrics = {row["method"]: row["metrics"] for row in node.report().rows if row["kind"] == "accuracy"}
    assert metrics["published"]["seen_by_both"] > 90.0
    assert node.worker.not_evaluated == 0


@pytest.mark.parametrize(
    ("given", "remedy"), [({}, "set approximate_sync and sync_slop"), ({"approximate_sync": True}, "raise sync_slop")]
)
def test_a_pair_whose_right_image_did_not_come_is_not_evaluated_and_named(
    evaluator: MakeEvaluator, given: dict[str, Any], remedy: str
) -> None:
    node = evaluator(pair_source="camera_info", truth=False, timeout=0.05, **given)
    pairs = Pairs(node)
    for _ in range(3):
        pairs.send(lost=bool(given))
    wait_until(lambda: node.worker.not_evaluated == 3, step=node._tick)
    (text,) = node.worker.failures
    assert text.startswith("no image came on /right/image_rect for pair ''") and remedy in text
    node.finish(0)
    assert [row["kind"] for row in node.report().rows] == ["timing"]


def test_pairs_that_the_end_does_not_wait_for_are_counted(
    evaluator: MakeEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = evaluator(pair_source="camera_info", truth=False, approximate_sync=True, sync_slop=0.005, timeout=0.05)
    evaluated: list[PairEntry] = []

    def slow(scores: Any, series: Any, worst: Any, entry: PairEntry, pair: Any) -> None:
        wait_until(lambda: node.worker.not_evaluated)  # the first one is in work until the end has given up waiting
        evaluated.append(entry)

    monkeypatch.setattr("fg_depth_ros.nodes.evaluator.evaluation_worker.evaluate_pair", slow)
    monkeypatch.setattr("fg_depth_ros.nodes.evaluator.evaluation_worker.published_pair", lambda *job: None)
    pairs = Pairs(node)
    for _ in range(6):
        pairs.send()
    wait_until(lambda: not node.ledger._open, step=node._tick)
    wait_until(lambda: node.worker._queue.qsize() == 5)
    join, limits = node.worker._thread.join, iter((0.0, LIMIT))
    monkeypatch.setattr(node.worker._thread, "join", lambda _: join(next(limits)))
    node.finish(0)
    assert not node.worker._thread.is_alive()
    assert (len(evaluated), node.worker.not_evaluated) == (1, 5)
    (timing,) = [row for row in node.report().rows if row["kind"] == "timing"]
    assert timing["metrics"]["pairs_not_evaluated"] == 5


def test_a_file_that_cannot_be_written_costs_no_other_one(
    evaluator: MakeEvaluator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    report, page, scores = tmp_path / "file" / "report.json", tmp_path / "page.html", tmp_path / "scores.json"
    node = evaluator(truth=False, report=report, page=page, scores=scores)
    node.finish(0)
    assert page.is_file() and scores.is_file()
    assert node.exit_code == 1
    assert f"report {report} could not be written: " in capfd.readouterr().err


def test_it_ends_with_a_reason_when_nothing_comes(source: Source) -> None:
    source.group.start("evaluator", EVALUATOR, {"pairs": 2, "idle_timeout": 1.0})
    with pytest.raises(ChildDied, match="exit code 1(.|\n)*no pair was announced on /published_pair"):
        source.group.wait_until(lambda: False, LIMIT, "nothing")


def test_a_camera_or_a_bag_is_accounted_by_its_camera_info(source: Source) -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    source.start_evaluator(pairs=3, accuracy=False, pair_source="camera_info")
    for _ in range(3):
        source.send("a", truth, None)
    metrics = _row(source.wait_for_report(), "published", "timing")["metrics"]
    assert (metrics["pairs_sent"], metrics["pairs_delivered"]) == (3, 3)


def test_pairs_whose_camera_info_came_once_are_counted_by_their_images(source: Source) -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    pair = (np.zeros((96, 160, 3), np.uint8),) * 2
    source.start_evaluator(pairs=5, pair_source="camera_info", truth=False)
    source.wait_for_subscribers("left/image_rect")
    for k in range(5):  # the last pair is not answered
        source.send("a", truth if k < 4 else None, None, images=pair, infos=k == 0)
    metrics = _row(source.wait_for_report(), "published", "timing")["metrics"]
    assert [metrics[f"pairs_{what}"] for what in ("sent", "delivered", "dropped")] == [5, 4, 1]


def test_a_camera_info_with_a_stamp_of_its_own_is_no_pair(source: Source) -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    pair = (np.zeros((96, 160, 3), np.uint8),) * 2
    source.start_evaluator(pairs=7, pair_source="camera_info", truth=False)
    source.wait_for_subscribers("left/image_rect")

    def send_infos(*_: Header) -> None:
        for side, info in zip(("left", "right"), camera_infos(source.rig, "left", "right"), strict=True):
            info.header.stamp = source.node.get_clock().now().to_msg()
            source.publishers[f"{side}/camera_info"].publish(info)

    send_infos()
    source.settle()
    for k in range(7):  # the last pair is not answered
        then = send_infos if k in (2, 5) else lambda header: None
        source.send("a", truth if k < 6 else None, None, images=pair, infos=False, then=then)
    metrics = _row(source.wait_for_report(), "published", "timing")["metrics"]
    assert [metrics[f"pairs_{what}"] for what in ("sent", "delivered", "dropped")] == [7, 6, 1]


def test_a_camera_info_that_comes_behind_the_image_is_of_its_pair_also_the_first_one(evaluator: MakeEvaluator) -> None:
    node = evaluator(pair_source="camera_info", truth=False)
    now = node.get_clock().now()
    for k in range(3):  # none is answered
        header = Header(stamp=(now + Duration(nanoseconds=k)).to_msg())
        node._store("left", Image(header=header), {})
        node._store_info("left", CameraInfo(header=header), {})
        assert node.ledger.sent == k + 1


def test_pairs_are_counted_though_some_camera_infos_are_lost(evaluator: MakeEvaluator) -> None:
    node = evaluator(pair_source="camera_info", accuracy=False)
    now = node.get_clock().now()
    for k in range(10):
        header = Header(stamp=(now + Duration(nanoseconds=k)).to_msg())
        if k not in (3, 4, 5):
            node._store_info("left", CameraInfo(header=header), {})
        if k not in (2, 9):
            node._store("depth", Image(header=header), {})
    assert (node.ledger.sent, node.ledger.delivered, node.ledger.pending) == (10, 8, 2)
    for k in range(2000):  # a camera_info that came once is enough, and nothing is kept of so many images
        node._store("depth", Image(header=Header(stamp=(now + Duration(seconds=1, nanoseconds=k)).to_msg())), {})
    assert node.ledger.delivered == 2008
    assert len(node._announcer._without_info) == REMEMBERED


def test_the_counters_are_those_of_the_node_that_publishes_the_depth(source: Source) -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    source.start_evaluator(pairs=3, accuracy=False)
    front = {"weights_sha256": "abc", "model": "bm", "pairs_matched": "7", "inference_50_%_(ms)": "81"}
    rear = {"weights_sha256": "none", "model": "sgbm", "pairs_matched": "0", "inference_50_%_(ms)": "9"}
    source.send_diagnostics("rear/stereo_depth_node", **rear)
    source.send_diagnostics(**front)
    source.settle()
    for k in range(3):
        source.send("a", None if k == 1 else truth, None)
        source.send_diagnostics("rear/stereo_depth_node", **rear, dropped__image_size="9")
    report = source.wait_for_report(**front | {"pairs_matched": "10", "dropped__replaced_by_newer": "1"})
    assert (report["model"]["name"], report["model"]["sha256"]) == ("bm", "abc")
    timing = _row(report, "bm", "timing")
    assert timing["drops"] == {"replaced by newer": 1}
    assert timing["metrics"]["inference_p50_ms"] == 81


def test_counters_of_other_nodes_count_only_where_the_publisher_has_none_and_they_are_all_there_are() -> None:
    every = CountersByNode()
    assert not every.of({"relay"}).has_reports
    every.update("relay", {"bytes": "5"})
    every.update("front/stereo_depth_node", {"pairs matched": "5"})
    every.start()
    every.update("front/stereo_depth_node", {"pairs matched": "7", "dropped: stopped": "1"})
    assert every.of({"relay"}).explain(3, 1, 2) == ({NEVER_REACHED: 1, "stopped": 1}, 0)
    every.update("rear/stereo_depth_node", {"pairs matched": "3"})  # heard only after the first pair: all of it counts
    assert not every.of({"relay"}).has_reports
    assert every.of({"rear/stereo_depth_node"}).explain(4, 3, 1) == ({NEVER_REACHED: 1}, 0)


def test_a_latched_camera_info_of_before_is_used_and_is_no_pair(source: Source) -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    for side, info in zip(("left", "right"), camera_infos(source.rig, "left", "right"), strict=True):
        source.node.destroy_publisher(source.publishers[f"{side}/camera_info"])
        publisher = source.node.create_publisher(CameraInfo, f"{side}/camera_info", latched)
        info.header.stamp = source.node.get_clock().now().to_msg()
        publisher.publish(info)
        source.publishers[f"{side}/camera_info"] = publisher
    source.start_evaluator(pairs=3, pair_source="camera_info", truth=False)
    source.wait_for_subscribers("left/image_rect")
    truth, pair = np.full((96, 160), 6.0, np.float32), (np.zeros((96, 160, 3), np.uint8),) * 2

    def step() -> None:  # the first ones may come before the camera_infos do
        source.send("a", truth, None, images=pair, infos=False)
        source.send_diagnostics(pairs_matched="0")

    wait_until(lambda: not source.child.running, step=step, describe=source.child.last_lines)
    metrics = _row(source.wait_for_report(), "published", "timing")["metrics"]
    assert [metrics[f"pairs_{what}"] for what in ("sent", "delivered", "dropped")] == [3, 3, 0]


def test_the_node_account_explains_drops_with_reasons() -> None:
    account = NodeCounters()
    account.update({"pairs matched": "50", "pairs published": "40", "dropped: stopped": "10"})
    account.start()
    account.update(
        {
            "pairs matched": "147",
            "pairs published": "135",
            "dropped: stopped": "10",
            "dropped: replaced by newer": "2",
            "inference 50 % (ms)": "81.5",
        }
    )
    account.update({"model": "sgbm", "weights sha256": "none", "device": "cpu"})
    account.update({"battery": "full"})
    # 100 sent, 97 matched (3 never came), 95 published, 2 replaced, 94 arrived (1 lost on the way)
    drops, unaccounted = account.explain(sent=100, delivered=94, dropped=6)
    assert drops == {"replaced by newer": 2, NEVER_REACHED: 3, LOST_AFTER: 1}
    assert unaccounted == 0
    assert account.explain(sent=100, delivered=93, dropped=7)[1] == 0  # lost on the way, too
    assert account.latencies == {"inference_p50_ms": 81.5}
    assert account.model == {"name": "sgbm", "sha256": None, "device": "cpu"}
    assert NodeCounters().explain(5, 3, 2) == ({}, 2)


@pytest.mark.parametrize(
    ("transport", "remap", "infos"),
    [
        ("raw", "{side}/image_rect:=/cam/{side}/image_raw", "/cam/{side}/camera_info"),
        ("compressed", "{side}/image_rect/compressed:=/cam_{side}/jpeg", "/{side}/camera_info"),
    ],
)
def test_inputs_are_those_of_the_depth_node_wherever_they_are_remapped(
    evaluator: MakeEvaluator, transport: str, remap: str, infos: str
) -> None:
    rules = dict(remap.format(side=side).split(":=") for side in ("left", "right"))
    node = evaluator(rules, pair_source="camera_info", truth=False, image_transport=transport)
    expected = {*rules.values(), *(infos.format(side=side) for side in ("left", "right"))}
    assert expected <= {subscription.topic_name for subscription in node.subscriptions}
    assert infos.format(side="left") in node._idle_reason(1.0)
    broken = CameraInfo(width=4, height=4)
    with pytest.raises(messages.MessageError) as caught:
        node._rectifier.for_pair(broken, broken, "auto")
    assert all(infos.format(side=side) in str(caught.value) for side in ("left", "right"))
    stamp = Header(stamp=node.get_clock().now().to_msg())
    node._announce(stamp, {})
    for part in node.ledger.wanted:
        node._store(part, Image(header=stamp), {})
    node._store("depth", Image(header=stamp), {})
    assert any(infos.format(side="left") in text for text in node.worker.failures)


@pytest.mark.parametrize("topic", ["/depth/image_rect", "/left/camera_info"])
def test_a_wrong_quality_of_service_is_named(evaluator: MakeEvaluator, topic: str) -> None:
    override = f"qos_overrides.{topic}.subscription"
    with pytest.raises(ValueError, match=f"no subscription of {topic}: (.|\\n)*where {override} is given"):
        evaluator(**{f"{override}.reliability": "best-effort"})


def test_left_images_alone_are_no_pairs_of_the_account() -> None:
    account = NodeCounters()
    account.start()
    counts = {"pairs matched": "60", "pairs published": "60"}
    account.update({**counts, "mono fallback published": "30", "mono fallback dropped: no mono depth": "10"})
    # 100 sent, of 40 of them the right image never came: 30 were answered by the left one, 1 of these was lost
    assert account.explain(sent=100, delivered=89, dropped=11) == ({NEVER_REACHED: 10, LOST_AFTER: 1}, 0)


def test_counters_before_the_first_report() -> None:
    assert math.isinf(NodeCounters()._updated)
