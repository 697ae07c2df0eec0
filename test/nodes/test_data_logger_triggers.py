"""Each trigger of data_logger_node fires on a situation made for it, and not otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from support.logger import LoggerBench, logger_bench, small_wall
from support.nodes import pair_messages, wall

from fg_depth_ros.data.io import messages
from fg_depth_ros.geometry.masks import Label
from fg_depth_ros.nodes.common.diagnostics import Faults
from fg_depth_ros.nodes.data_logger.trigger_monitor import MONITOR_FAULTS, TriggerMonitor, WeightsMonitor

Make = Callable[..., LoggerBench]
SHA = "0123456789abcdef" * 4


@pytest.fixture
def make(ros_domain: int, tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as made:
        yield lambda **values: made.enter_context(logger_bench(ros_domain, tmp_path / "recordings", **values))


def fired(bench: LoggerBench, kind: str) -> int:
    assert bench.logger_node is not None
    return bench.logger_node._limiter.fired[kind]


class DepthNode:
    """Publishes what a depth node would."""

    def __init__(self, bench: LoggerBench, **kinds: str) -> None:
        self.bench, self.kinds = bench, kinds
        self.publishers = {name: bench.node.create_publisher(Image, name, 5) for name in kinds}
        bench.wait(lambda: all(p.get_subscription_count() for p in self.publishers.values()))

    def publish(self, **arrays: np.ndarray) -> None:
        """Images of one moment, by the last part of `depth_image_rect` and the like."""
        stamp = self.bench.node.get_clock().now().to_msg()
        for name, publisher in self.publishers.items():
            array = arrays[name.split("/")[0]]
            publisher.publish(messages.fill_image(Image(), array, self.kinds[name], Header(stamp=stamp)))

    def publish_until(self, done: Callable[[], Any], **arrays: np.ndarray) -> None:
        def step() -> Any:
            self.publish(**arrays)
            return done()

        self.bench.play(step)


def status(name: str, level: bytes, message: str = "", **values: str) -> DiagnosticArray:
    items = [KeyValue(key=key.replace("_", " "), value=value) for key, value in values.items()]
    return DiagnosticArray(status=[DiagnosticStatus(name=name, level=level, message=message, values=items)])


def test_that_nothing_will_be_recorded_is_said_at_the_start_and_at_every_change(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = make()
    node = bench.logger_node
    assert node is not None
    text = "record is triggers, and only the trigger calibration is on: set one of interval_period"
    assert text in capfd.readouterr().err
    node.set_parameters([Parameter("interval_period", value=10.0)])
    assert not any("record is triggers" in line for line in bench.logged)
    node.set_parameters([Parameter("interval_period", value=0.0)])
    node.set_parameters([Parameter("calibration_alarm", value=False)])
    node.set_parameters([Parameter("record", value="continuous")])
    assert sum("record is triggers" in line for line in bench.logged) == 1
    node.set_parameters([Parameter("record", value="triggers")])
    assert "no trigger is on" in bench.logged[-1]


# ---- by the pairs themselves ----------------------------------------------------------------------------------------


def test_nothing_fires_while_everything_is_off(make: Make) -> None:
    bench = make(calibration_alarm=False)
    other = pair_messages(small_wall(seed=5))
    for pair in (bench.pair, other, bench.pair):
        bench.play_pairs(8, pair)
    assert bench.logger_node is not None
    assert bench.logger_node._limiter.fired.total() == 0
    assert not list(bench.root.glob("*episode_*"))
    assert bench.settled()["written"] == 0


def test_interval_fires_once_a_period(make: Make) -> None:
    bench = make(use_sim_time=True, interval_period=0.8, before=0.1, after=0.1)
    (first, second, *_) = bench.episodes(2)
    assert (first["trigger"], first["detail"]) == ("interval", "every 0.8 s")
    # Each begins with what came up to 0.1 s before its trigger.
    assert second["began_ns"] - first["began_ns"] == pytest.approx(0.8e9, abs=0.11e9)
    assert bench.log_has("trigger interval: every 0.8 s")


def test_motion_fires_when_the_picture_moves_and_not_when_it_stands(make: Make) -> None:
    bench = make(motion_flow=2.0, check_period=0.05)
    bench.play(lambda: "measured: motion" in bench.values("recording"))
    assert fired(bench, "motion") == 0
    assert float(bench.values("recording")["measured: motion"]) < 0.2
    # The same wall, 4 px of a 160 px wide image further with every picture.
    whole = wall(width=960).left
    scene = small_wall()
    place = iter(range(0, 600, 8))
    views: list[dict[str, Any]] = []
    for offset in place:
        view = np.ascontiguousarray(whole[::2, offset : offset + 320 : 2])
        views.append(pair_messages(type(scene)(view, scene.right, scene.rig, scene.disparity)))
    shown = iter(views)

    def moving() -> bool:
        bench.send(next(shown))
        return fired(bench, "motion") > 0

    bench.wait(moving)
    (line,) = bench.episodes(1)
    assert line["trigger"] == "motion"
    flow = float(line["detail"].split()[2])
    assert line["detail"].startswith("mean flow ") and "above 2 px" in line["detail"]
    assert flow > 2.0


def motion_of(images: list[np.ndarray], seconds: list[float] | None = None) -> tuple[TriggerMonitor, list[Any]]:
    """The monitor after these grey images, and what it fired. The first one only begins the period.

    ``seconds``: times of the images; default: a second apart.
    """
    moment, fired = iter([round(1e9 * time) for time in seconds or range(1, 100)]), []
    parameters: Any = {"motion_flow": 2.0, "check_period": 0.0}
    monitor = TriggerMonitor(parameters, lambda: next(moment), lambda *what: fired.append(what), Faults(print))
    for grey in images:
        message = messages.fill_image(Image(), grey, "mono8" if grey.dtype == np.uint8 else "mono16")
        monitor.on_left_image(partial(copy, message))
    return monitor, fired


def still_views(seed: int, count: int) -> list[np.ndarray]:
    return [small_wall(seed=seed).left[..., 0]] * count


@pytest.mark.parametrize("gap", [3600.0, -3600.0], ids=["a pause", "a recording that begins again"])
def test_two_views_of_a_camera_that_stood_still_before_and_after_a_gap_are_no_motion(gap: float) -> None:
    views = still_views(0, 5) + still_views(1, 5)
    times = [1e4 + 0.25 * k + (gap if k >= 5 else 0.0) for k in range(10)]
    monitor, fired = motion_of(views, times)
    assert not fired
    assert monitor.figures["motion"] == pytest.approx(0.0, abs=0.05)
    assert motion_of(views)[1]  # without a gap it is motion


def test_the_motion_of_a_slow_camera_is_measured() -> None:
    texture = wall(width=960).left[::2, ::2, 0]
    views = [np.ascontiguousarray(texture[:, 8 * step : 8 * step + 320]) for step in range(5)]
    monitor, fired = motion_of(views, [100.0 + 5.0 * k for k in range(5)])
    assert monitor.figures["motion"] > 3.0 and fired


def test_the_motion_of_a_10_bit_camera_is_that_of_8_bits() -> None:
    """The wall moves by 8 px of 320, which is 4 px of the 160 px that are compared."""
    texture = wall(width=960).left[::2, ::2, 0]
    eight = [np.ascontiguousarray(texture[:, 8 * step : 8 * step + 320]) for step in range(4)]
    usual, fired = motion_of(eight)
    ten, fired_too = motion_of([np.rint(grey * (1023 / 255)).astype(np.uint16) for grey in eight])
    assert usual.figures["motion"] > 3.0
    assert ten.figures["motion"] == pytest.approx(usual.figures["motion"], abs=0.1)
    assert fired and fired_too


def test_a_white_level_that_rises_is_no_motion() -> None:
    grey = np.rint(small_wall().left[..., 0] * (1023 / 255)).astype(np.uint16)
    bright = grey.copy()
    bright[0, 0] = 2000  # a lamp: 12 bits from now on, and the rest is four times as dark
    assert "motion" not in motion_of([grey, grey, bright])[0].figures
    assert motion_of([grey, grey, bright, bright])[0].figures["motion"] == pytest.approx(0.0, abs=0.05)


def test_record_off_holds_the_triggers_back_until_it_is_set(make: Make) -> None:
    bench = make(record="off", interval_period=0.6, before=0.1, after=0.1)
    bench.play_pairs(16)
    assert fired(bench, "interval") == 0
    assert bench.logger_node is not None
    bench.logger_node.set_parameters([Parameter("record", value="triggers")])
    assert bench.episodes(1)[0]["trigger"] == "interval"
    bench.logger_node.set_parameters([Parameter("record", value="continuous")])
    bench.play(lambda: bench.values("recording").get("recording") == "continuous")
    bench.logger_node.set_parameters([Parameter("record", value="off")])
    bench.play(lambda: bench.values("recording")["episode"] == "none")


# ---- by what the depth node publishes ---------------------------------------------------------------------------


def test_disagreement_fires_for_another_shape_and_not_for_another_scale(make: Make) -> None:
    bench = make(disagreement_abs_rel=0.2, check_period=0.05)
    node = DepthNode(bench, **{"depth/image_rect": "32FC1", "mono_depth/image_rect": "32FC1", "mask/labels": "8UC1"})
    stereo = np.tile(np.linspace(2.0, 8.0, 160, dtype=np.float32), (120, 1))
    labels = np.zeros((120, 160), np.uint8)
    labels[:, :60] = Label.FILLED_FROM_MONO
    half_wrong = 3.0 * stereo
    half_wrong[:, :50] *= 9.0  # where stereo has nothing of its own
    node.publish_until(
        lambda: "measured: disagreement" in bench.values("recording"), depth=stereo, mono_depth=half_wrong, mask=labels
    )
    assert float(bench.values("recording")["measured: disagreement"]) < 0.01
    assert fired(bench, "disagreement") == 0
    wrong = 3.0 * stereo
    wrong[:48] *= 2.0  # 40 % of the pixels twice as far: 0.4
    node.publish_until(lambda: fired(bench, "disagreement"), depth=stereo, mono_depth=wrong, mask=labels * 0)
    (line,) = bench.episodes(1)
    assert (line["trigger"], line["detail"]) == (
        "disagreement",
        "AbsRel between stereo and mono depth 0.4, above 0.2",
    )
    assert "/depth/image_rect" not in line["messages"], "looked at, not recorded"


def test_low_confidence_fires_below_its_share_and_depth_is_recorded_beside(make: Make) -> None:
    bench = make(low_confidence_share=0.5, check_period=0.0, record_depth=True)
    node = DepthNode(bench, **{"depth/image_rect": "16UC1", "mask/labels": "8UC1"})
    depth, labels = np.full((120, 160), 3000, np.uint16), np.zeros((120, 160), np.uint8)
    labels[:59] = Label.LOW_CONFIDENCE  # 51 % are valid
    node.publish_until(lambda: "measured: low_confidence" in bench.values("recording"), depth=depth, mask=labels)
    assert fired(bench, "low_confidence") == 0
    labels[:72] = Label.LEFT_RIGHT_MISMATCH
    node.publish_until(lambda: fired(bench, "low_confidence"), depth=depth, mask=labels)
    node.publish_until(lambda: bench.lines(), depth=depth, mask=labels * 0)
    line = bench.lines()[0]
    assert (line["trigger"], line["detail"]) == ("low_confidence", "share of valid pixels 0.4, below 0.5")
    assert len(bench.pairs(line)) == line["pairs"], "depth is no camera"
    assert min(line["messages"]["/depth/image_rect"], line["messages"]["/mask/labels"]) > 3


@pytest.mark.parametrize("off", [{"motion_flow": 0.0, "low_confidence_share": 0.0}, {"record": "off"}])
def test_what_cannot_be_measured_is_no_fault_where_the_trigger_is_off(off: dict[str, Any]) -> None:
    on = {"motion_flow": 2.0, "disagreement_abs_rel": 0.0, "low_confidence_share": 0.5}
    parameters: Any = {**on, "record": "triggers", "check_period": 0.0}
    moment, faults = iter(range(10**9, 10**11, 10**9)), Faults(lambda level, text: None)
    monitor = TriggerMonitor(parameters, lambda: next(moment), lambda *what: None, faults)
    for _ in range(2):  # the first one only begins the period
        monitor.on_left_image(lambda: Image(encoding="invented"))
    monitor.uses()["mask/labels"](b"damaged")
    assert {fault.code for fault in faults.present(MONITOR_FAULTS)} == {"motion", "mask/labels"}
    parameters |= off
    assert monitor.uses() == {}
    assert [fault.code for fault in faults.present(MONITOR_FAULTS)] == ["motion"] * ("record" in off)


def test_a_topic_that_cannot_be_read_is_named_once_beside_readable_ones() -> None:
    parameters: Any = {
        "record": "triggers", "disagreement_abs_rel": 0.5, "low_confidence_share": 0.0, "motion_flow": 0.0,
        "check_period": 0.0,
    }  # fmt: skip
    said: list[str] = []
    faults = Faults(lambda level, text: said.append(text), subjects=MONITOR_FAULTS)
    monitor = TriggerMonitor(parameters, lambda: 1, lambda *what: None, faults)
    uses = monitor.uses()

    def send(name: str, shape: tuple[int, int], stamp: int) -> None:
        header = Header()
        header.stamp.sec = stamp
        uses[name](serialize_message(messages.fill_image(Image(), np.ones(shape, np.float32), "32FC1", header)))

    for stamp in range(1, 6):
        send("depth/image_rect", (40, 60), stamp)
        uses["mono_depth/image_rect"](b"damaged")
    assert len(said) == 1 and said[0].startswith("mono_depth/image_rect cannot be read: ")
    for stamp in range(6, 10):
        send("depth/image_rect", (40, 60), stamp)
        send("mono_depth/image_rect", (20, 30), stamp)
    assert [text.partition(" s: ")[2] or text for text in said[1:]] == [
        "mono_depth/image_rect",
        "depth/image_rect is (40, 60) and mono_depth/image_rect (20, 30): nothing to compare",
    ]
    send("depth/image_rect", (40, 60), 10)
    send("mono_depth/image_rect", (40, 60), 10)
    assert faults.present(MONITOR_FAULTS) == []


def test_the_depth_node_is_left_in_peace_while_nothing_looks_at_its_depth(make: Make) -> None:
    bench = make()
    publishers = [bench.node.create_publisher(Image, name, 5) for name in ("depth/image_rect", "mask/labels")]
    bench.play_pairs(10)
    assert [publisher.get_subscription_count() for publisher in publishers] == [0, 0]


@pytest.mark.parametrize(
    ("worst", "detail"),
    [("rows misaligned", "rows misaligned: {alarm}"), ("internal error", "rows misaligned")],
)
def test_calibration_fires_when_the_depth_node_begins_to_complain(make: Make, worst: str, detail: str) -> None:
    bench = make()
    publisher = bench.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    bench.wait(lambda: publisher.get_subscription_count() >= 2)
    alarm = "/right/image_rect lies +3.0 px lower than /left/image_rect: calibrate the pair again"
    name = "stereo_depth_node: pairs"
    for array in (
        status("another_node: pairs", DiagnosticStatus.WARN, alarm, faults="rows misaligned"),
        status(name, DiagnosticStatus.OK, "active", faults=""),
        status(name, DiagnosticStatus.WARN, alarm, faults="no pairs"),
    ):
        publisher.publish(array)
    bench.play_pairs(6)
    assert fired(bench, "calibration") == 0
    both = {"reason": worst, "faults": "internal error, rows misaligned"}
    for _ in range(3):
        publisher.publish(status(name, DiagnosticStatus.ERROR, alarm, **both))
        bench.play_pairs(6)
    (line,) = bench.episodes(1)
    assert (line["trigger"], line["detail"]) == ("calibration", detail.format(alarm=alarm))
    assert fired(bench, "calibration") == 1, "once, not as long as it lasts"


def test_the_weights_heard_stand_in_the_manifest(make: Make) -> None:
    bench = make(record="off", depth_node="eyes/depth")
    publisher = bench.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    bench.wait(lambda: publisher.get_subscription_count() >= 2)
    told = {"model": "flownet_stereo", "weights_sha256": SHA, "flow_model": "dis", "flow_weights_sha256": "none"}
    message = status("eyes/depth: model", DiagnosticStatus.OK, "running", **told, mono_model="not loaded yet")

    def heard() -> bool:
        publisher.publish(message)
        return SHA in bench.values("recording").get("stereo weights used", "")

    bench.play(heard)
    bench.call("snapshot")
    (line,) = bench.episodes(1)
    assert line["weights"] == {
        "stereo": {"model": "flownet_stereo", "sha256": SHA},
        "flow": {"model": "dis", "sha256": ""},
        "mono": None,
    }
    assert line["software"]["fg_depth_ros"]


def test_weights_change_only_when_the_named_node_says_so() -> None:
    heard = WeightsMonitor()
    told = status("depth: model", DiagnosticStatus.OK, model="a", weights_sha256=SHA)
    assert not heard.on_diagnostics(told, "other")
    assert heard.on_diagnostics(told, "depth")
    assert not heard.on_diagnostics(told, "depth")
    assert heard.weights["stereo"] == {"model": "a", "sha256": SHA}
