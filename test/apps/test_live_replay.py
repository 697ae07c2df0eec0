"""Bags played into the depth node and judged by the evaluator, all over ROS topics; and simulated time."""

from __future__ import annotations

import json
import re
import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from support.bags import bag_of
from support.nodes import QUICK, Bench, pair_messages, wall
from support.truth import with_messages
from support.waiting import wait_until

from fg_depth_ros.apps.live_evaluation import BagInputs, BagsEvaluation
from fg_depth_ros.apps.processes import ProcessGroup
from fg_depth_ros.data.bags.storage import COMPRESSED, DISPARITY, IMAGE, INFO
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.data.io.messages import stamp_ns
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.live.pair_ledger import PairLedger
from fg_depth_ros.evaluation.live.report import PairSeries
from fg_depth_ros.evaluation.replay.pictures import WorstPairs
from fg_depth_ros.evaluation.reports.page import Picture
from fg_depth_ros.files import FileError
from fg_depth_ros.nodes.common.codes import FaultCode
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.evaluator.parameters import REPLAY_EVALUATOR
from fg_depth_ros.nodes.players.bag_player import BagPlayerNode
from fg_depth_ros.nodes.players.parameters import BAG_PLAYER
from fg_depth_ros.nodes.stereo_depth.parameters import STEREO_DEPTH

MS = 1_000_000
FIRST = 1_700_000_000_000_000_000
SCENE = wall()  # 3.0 m away


def wall_bag(path: Path, count: int, period_ms: int = 200, truth: bool = True, **options: str) -> Path:
    depth = np.full(SCENE.left.shape[:2], SCENE.depth, np.float32) if truth else None
    frames = [
        StereoSample("", SCENE.left, SCENE.right, depth=depth, stamp=FIRST + k * period_ms * MS) for k in range(count)
    ]
    return write_stereo_bag(path, frames, SCENE.rig, **options)


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_a_bag_that_cannot_be_judged_is_refused_before_any_node_starts(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="gone: no such bag"):
        BagsEvaluation([tmp_path / "gone"], tmp_path / "out").run(None)  # type: ignore[arg-type]
    images = {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE}
    with pytest.raises(FileError, match="no camera_info next to /left/image_rect and /right/image_rect: .*record it"):
        BagInputs.of(bag_of(tmp_path / "blind", images))
    other = {"/cam0/image_rect": IMAGE, "/cam1/image_rect": IMAGE, "/cam0/camera_info": INFO, "/cam1/camera_info": INFO}
    inputs = BagInputs.of(bag_of(tmp_path / "other", other))
    assert inputs.remappings() == [
        ("left/image_rect", "/cam0/image_rect"), ("right/image_rect", "/cam1/image_rect"),
        ("left/camera_info", "/cam0/camera_info"), ("right/camera_info", "/cam1/camera_info"),
    ]  # fmt: skip
    assert (inputs.truth, inputs.transport) == ("", "raw")
    odd = {"/a/image": IMAGE, "/b/image": IMAGE, "/a/camera_info": INFO, "/b/right/camera_info": INFO}
    with pytest.raises(FileError, match="name the left and the right topic"):
        BagInputs.of(bag_of(tmp_path / "odd", odd))
    given = {"left": "a/image", "right": "b/image", "right_info": "b/right/camera_info"}
    assert dict(BagInputs.of(tmp_path / "odd", **given).remappings())["right/camera_info"] == "/b/right/camera_info"
    compressed = BagInputs.of(wall_bag(tmp_path / "png", 1, compressed="png"))
    assert (compressed.truth, compressed.transport) == ("raw", "compressed")
    assert compressed.remappings() == []
    packed = {**images, "/left/camera_info": INFO, "/right/camera_info": INFO}
    depth = [("/ground_truth/depth/compressedDepth", COMPRESSED, 1, b"")]
    inputs = BagInputs.of(with_messages(bag_of(tmp_path / "packed", packed), depth))
    assert (inputs.truth, inputs.transport) == ("compressedDepth", "raw")
    disparity = [("/ground_truth/disparity", DISPARITY, 1, b"")]
    assert BagInputs.of(with_messages(bag_of(tmp_path / "disparity", packed), disparity)).truth == "disparity"


def test_bags_that_differ_in_their_topics_are_not_played_into_one_node(tmp_path: Path) -> None:
    images = {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE}
    kinds = {**images, "/left/camera_info": INFO, "/right/camera_info": INFO}
    first = bag_of(tmp_path / "fleet" / "a", kinds)
    bag_of(tmp_path / "fleet" / "blind", images)
    second = bag_of(tmp_path / "fleet" / "z", kinds)

    def player() -> list[Path]:
        return [Path(bag) for bag in live.experiment().player.parameters["bags"]]

    live = BagsEvaluation([tmp_path / "fleet"], tmp_path / "out")
    assert player() == [first, second]
    other = bag_of(tmp_path / "fleet" / "y", {f"/cam{topic}": kind for topic, kind in kinds.items()})
    with pytest.raises(FileError, match=f"{first} and {other} differ in their topics .*: replay them apart"):
        live.experiment()
    packed = wall_bag(tmp_path / "packed", 1, truth=False, compressed="png")
    with pytest.raises(FileError, match=r"differ in their topics .*left/image_rect/compressed"):
        BagsEvaluation([first, packed], tmp_path / "out").experiment()
    with_truth = with_messages(bag_of(tmp_path / "truth", kinds), [("/ground_truth/depth", IMAGE, 1, b"")])
    with pytest.raises(FileError, match=r"differ in their true depth \(none; raw\)"):
        BagsEvaluation([first, with_truth], tmp_path / "out").experiment()
    with pytest.raises(FileError, match="no camera_info next to"):
        BagsEvaluation([tmp_path / "fleet" / "blind"], tmp_path / "out").experiment()


# ---- the whole -----------------------------------------------------------------------------------------------------


def test_a_bag_played_into_the_node_is_judged_pair_by_pair(group: ProcessGroup, tmp_path: Path) -> None:
    count, rate = 8, 1.5  # 7.5 pairs a second
    bag = wall_bag(tmp_path / "drive", count)
    told: list[str] = []
    # Played a second time up to its fifth pair: five messages a pair.
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(b"broken")
    live = BagsEvaluation([bag, broken], tmp_path / "out", rate=rate, loop=True, count=5 * (count + 5), depth=QUICK)
    report = live.run(group, told.append)
    (timing,) = [row for row in report.rows if row["kind"] == "timing"]
    figures = timing["metrics"]
    assert timing["set"] == "drive"
    assert figures["pairs_sent"] == count + 5
    assert figures["pairs_delivered"] + figures["pairs_dropped"] == count + 5
    assert figures["pairs_delivered"] >= 1  # a busy machine drops some, and says so
    assert figures["pairs_unaccounted"] == figures["pairs_not_evaluated"] == 0
    assert 0 < figures["published_p50_ms"] < 60_000  # of this machine's time, not since 2023
    accuracy = {row["method"]: row["metrics"] for row in report.rows if row["kind"] == "accuracy"}
    assert accuracy["sgbm masked"]["abs_rel"] < 0.02
    assert accuracy["sgbm masked"]["density"] > 70
    assert report.model["name"] == "sgbm"
    assert report.settings["bags"] == [{"name": "drive", "pairs": count}]
    (left_out,) = report.settings["left_out"]
    assert left_out["name"] == "broken" and "broken.mcap: cannot be read" in left_out["reason"]

    assert len(report.series) == count + 5
    stamps = [round(entry["stamp"] * 1e3) for entry in report.series]
    recorded = [FIRST // MS + 200 * k for k in range(count)]
    assert stamps == recorded + recorded[:5]
    answered = [entry for entry in report.series if "dropped" not in entry]
    assert len(answered) == figures["pairs_delivered"]
    assert all(0 < entry["latency_ms"] < 60_000 for entry in answered)
    assert all("abs_rel" in entry for entry in answered)
    assert {(entry["set"], entry["method"]) for entry in report.series} == {("drive", "sgbm")}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") >= 2 and page.count("data:image/jpeg") >= 4  # plots, and pictures
    assert not re.search(r"(src|href)=.https?:", page)
    assert any("pairs delivered" in text for text in told)
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (written["schema"], written["settings"]) == ("fg_depth_report/1", report.settings)


# ---- simulated time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_the_node_follows_the_clock_of_a_recording(make: Callable[..., Bench], tmp_path: Path, rate: float) -> None:
    bag = wall_bag(tmp_path / "bag", 6, round(200 * rate) + 100, truth=False)
    # Nothing is lost on the way with these, on a busy machine either.
    reliable = {f"qos_overrides./{name}.subscription.{policy}": value
                for name in INPUTS for policy, value in (("reliability", "reliable"), ("depth", 10))}  # fmt: skip
    b = make(use_sim_time=True, **reliable)
    b.listen("depth/image_rect", "disparity")
    b.wait(b.status)
    values = {"bags": [str(bag)], "rate": rate, "wait_for_subscribers": 1}
    # `User` has publishers of its own on these topics, but publishes nothing here.
    player = BagPlayerNode(context=b.context, parameter_overrides=[Parameter(n, value=v) for n, v in values.items()])
    b.executor.add_node(player)
    b.wait(lambda: player.finished)
    b.wait(lambda: int(b.values()["pairs matched"]) == 6 and b.accounted())
    b.wait(lambda: len(b.seen["depth/image_rect"]) == int(b.values()["pairs published"]) >= 1)
    recorded = [FIRST + k * (round(200 * rate) + 100) * MS for k in range(6)]
    assert {stamp_ns(m.header) for m in b.seen["depth/image_rect"]} <= set(recorded)
    # Time of the node: that of the recording, and so the latency from a stamp to its depth is a short one.
    b.wait(lambda: b.depth_node.get_clock().now().nanoseconds == recorded[-1])
    seen = len(b.statuses)
    b.wait(lambda: len(b.statuses) >= seen + 2)  # on the watch, once a second, although time stands still now
    assert float(b.values()["pipeline 99 % (ms)"]) < 60_000
    b.executor.remove_node(player)
    player.destroy_node()


def test_time_that_stands_still_stops_neither_work_nor_warnings(make: Callable[..., Bench]) -> None:
    b = make(use_sim_time=True, stall_timeout=1.0)
    arrays: list[int] = []
    b.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: arrays.append(stamp_ns(m.header)), 10)
    clock = b.node.create_publisher(Clock, "/clock", 10)
    standing = Clock()
    standing.clock.sec = 1000
    b.listen("depth/image_rect")
    pair = pair_messages(SCENE)
    b.wait(lambda: len(arrays) >= 2)
    assert not b.log_has("/clock"), "a player that is still starting"
    # Before the first /clock there is depth all the same, and a warning.
    b.send_until(pair, lambda: b.seen["depth/image_rect"] and b.has(FaultCode.NO_CLOCK, "/clock") and b.level() == 1)
    b.wait(lambda: "processing 50 % (ms)" in b.values())
    assert "pipeline 50 % (ms)" not in b.values()
    b.seen["depth/image_rect"].clear()
    stamps: list[float] = []

    def step() -> None:
        clock.publish(standing)
        stamps.append(1000.0 + 0.1 * len(stamps))  # stamps run ahead of a clock that stands
        b.send(pair, stamps[-1])

    def answered() -> set[int]:  # an answer to a pair of before may still arrive
        return {stamp_ns(m.header) for m in b.seen["depth/image_rect"]} & {round(s * 1e9) for s in stamps}

    wait_until(lambda: len(answered()) >= 4, step=step, period=0.1)
    b.wait(lambda: "pipeline 50 % (ms)" in b.values() and "/clock" not in b.status().message)
    # Nothing comes any more, and the clock does not move: the node notices by the time on the wall.
    b.wait(lambda: b.level() == 1 and "no stereo pair for" in b.status().message)
    before = len(arrays)
    b.wait(lambda: len(arrays) >= before + 2)
    assert arrays[-1] == 1000 * 10**9
    (result,) = b.set(max_depth=20.0)
    assert result.successful
    b.send_until(pair, lambda: b.level() == 0)
    # A recording that was played to its end is no camera that failed.
    b.node.destroy_publisher(clock)
    b.wait(lambda: b.depth_node.count_publishers("/clock") == 0)
    ended = len(b.statuses)
    b.wait(lambda: len(b.statuses) >= ended + 4)  # once a second
    assert {ord(status["pairs"].level) for status in b.statuses[ended:]} == {0}
    b.wait(lambda: b.has(FaultCode.CLOCK_ENDED, "/clock has no publisher any more"))


# ---- parts ---------------------------------------------------------------------------------------------------------


def test_the_series_knows_what_was_dropped_and_forgets_the_oldest() -> None:
    series = PairSeries(limit=3)
    for number in range(1, 6):
        series.sent(number, number * 10**9, "b" if number == 4 else "")
    series.note(1, {"latency_ms": 1.0})  # no longer kept
    series.note(4, {"latency_ms": 40.0})
    series.note(4, {"abs_rel": 0.1})
    common = {"set": "drive", "method": "net"}
    assert series.entries("drive", "net", pending={5}) == [
        {**common, "name": "3000000000", "stamp": 3.0, "dropped": True},
        {**common, "name": "b", "stamp": 4.0, "latency_ms": 40.0, "abs_rel": 0.1},
    ]


def test_the_worst_pairs_have_pictures() -> None:
    worst = WorstPairs(6)
    depth = np.full((48, 64), 2.0, np.float32)
    image = np.zeros((48, 64, 3), np.uint8)

    def add(error: float, left: np.ndarray | None = image) -> None:
        worst.add("", "7.000 s", {"abs_rel": error}, left, depth, "truth", depth * (1 + error))

    for error in (0.1, 0.9, 0.2, float("nan"), 0.8, 0.3, 0.7, 0.4):
        add(error)
    add(5.0, left=None)
    pictures: list[Picture] = worst.pictures
    assert [picture.title.split()[-1] for picture in pictures] == ["0.9", "0.8", "0.7", "0.4", "0.3", "0.2"]


def test_parts_of_the_next_round_may_come_before_its_announcement() -> None:
    ledger = PairLedger("depth", ["truth"], timeout=1.0)
    for _ in range(2):
        ledger.add(5, "truth", "T", 0)
        assert ledger.announce(5, 0) is None
        entry = ledger.add(5, "depth", "D", 1)
        assert entry is not None and entry.parts == {"truth": "T", "depth": "D"}
    assert (ledger.sent, ledger.delivered, ledger.dropped, ledger.pending) == (2, 2, 0, 0)
    ledger.announce(6, 0)
    ledger.add(6, "truth", "T", 0)
    assert ledger.pending_numbers == {3}
    # Announced again while the first waits for its answer: that one is dropped, and the truth is the second's.
    ledger.announce(6, 1)
    assert ledger.pending_numbers == {4}
    entry = ledger.add(6, "depth", "D", 2)
    assert entry is not None and (entry.number, entry.parts) == (4, {"truth": "T", "depth": "D"})
    assert (ledger.sent, ledger.delivered, ledger.dropped) == (4, 3, 1)


# ---- the launch file, without launch -------------------------------------------------------------------------------


class _Action:
    """Stands in for whatever a launch file makes: keeps what it was made of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs
        if args and isinstance(args[0], list):
            self.actions = args[0]


def launched(monkeypatch: pytest.MonkeyPatch, repository: Path, rosbag2: bool, **arguments: str) -> list[_Action]:
    """What the launch file starts with these arguments."""
    kinds = {
        "launch": ["LaunchDescription"],
        "launch.actions": [
            "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "LogInfo", "OpaqueFunction", "RegisterEventHandler",
        ],
        "launch.event_handlers": ["OnProcessExit"],
        "launch.events": ["Shutdown", "matches_action"],
        "launch.events.process": ["SignalProcess"],
        "launch_ros": [],
        "launch_ros.actions": ["Node"],
    }  # fmt: skip
    for name, classes in kinds.items():
        module = types.ModuleType(name)
        for kind in classes:
            setattr(module, kind, type(kind, (_Action,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    substitutions = types.ModuleType("launch.substitutions")
    substitutions.LaunchConfiguration = lambda name: types.SimpleNamespace(
        perform=lambda context: context.launch_configurations[name]
    )
    monkeypatch.setitem(sys.modules, "launch.substitutions", substitutions)

    def share(package: str) -> str:
        if package == "fg_depth_ros" or rosbag2:
            return str(repository)
        raise LookupError(package)

    monkeypatch.setattr("ament_index_python.packages.get_package_share_directory", share)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    file = runpy.run_path(str(repository / "launch" / "replay_evaluation.launch.py"))
    description = file["generate_launch_description"]()
    declared = {
        action.args[0]: action.kwargs.get("default_value")
        for action in description.actions
        if type(action).__name__ == "DeclareLaunchArgument"
    }
    assert declared.keys() >= arguments.keys() and declared["bag"] is None
    function = description.actions[-1].kwargs["function"]
    return list(function(types.SimpleNamespace(launch_configurations={**declared, **arguments})))


def parameters_of(node: _Action) -> dict[str, Any]:
    return {name: value for part in node.kwargs["parameters"] if isinstance(part, dict) for name, value in part.items()}


def test_the_evaluator_has_what_the_parameter_file_says_of_the_images(
    monkeypatch: pytest.MonkeyPatch, repository: Path, tmp_path: Path
) -> None:
    bag, file = wall_bag(tmp_path / "drive", 1), tmp_path / "mine.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    rectify: off\n    max_depth: 9.0\n    approximate_sync: true\n"
        "/robot/stereo_depth_node:\n  ros__parameters:\n    rectify: 'on'\n    sync_slop: 0.02\n"
        "data_logger_node:\n  ros__parameters:\n    sync_slop: 0.5\n"
    )

    def given(**arguments: str) -> list[dict[str, Any]]:
        arguments |= {"bag": str(bag), "out": str(tmp_path / "out"), "params_file": str(file)}
        nodes = [a for a in launched(monkeypatch, repository, True, **arguments) if type(a).__name__ == "Node"]
        assert nodes[0].kwargs["parameters"][0] == str(file)
        names = ("rectify", "approximate_sync", "sync_slop")
        return [{name: parameters_of(node).get(name) for name in names} for node in nodes]

    both = {"rectify": "on", "approximate_sync": True, "sync_slop": 0.02}
    assert given() == [both, both]
    assert given(rectify="off") == [both | {"rectify": "off"}] * 2
    file.write_text("/**: 9.0\n")
    with pytest.raises(ValueError, match=r"params_file '.*mine.yaml' is no parameter file of ROS"):
        given()


@pytest.mark.parametrize("rosbag2", [True, False])
def test_the_launch_file_starts_what_the_recording_needs(
    monkeypatch: pytest.MonkeyPatch, repository: Path, tmp_path: Path, rosbag2: bool
) -> None:
    bag = wall_bag(tmp_path / "drive", 1)
    actions = launched(
        monkeypatch, repository, rosbag2, bag=str(bag), out=str(tmp_path / "out"), rate="0.5", loop="true", model="sgbm"
    )
    nodes = {action.kwargs["executable"]: action for action in actions if type(action).__name__ == "Node"}
    assert nodes.keys() == {"stereo_depth_node", "replay_evaluator_node"}
    assert all(parameters_of(node)["use_sim_time"] is True for node in nodes.values())
    assert parameters_of(nodes["stereo_depth_node"])["model"] == "sgbm"
    evaluator = parameters_of(nodes["replay_evaluator_node"])
    assert (evaluator["pair_source"], evaluator["truth"], evaluator["set_name"]) == ("camera_info", True, "drive")
    assert evaluator["report"] == str(tmp_path / "out" / "report.json")
    overrides = {f"qos_overrides./{side}/camera_info.subscription.reliability" for side in ("left", "right")}
    assert set(evaluator) - {"use_sim_time"} - overrides <= set(REPLAY_EVALUATOR.parameters)
    assert set(parameters_of(nodes["stereo_depth_node"])) - {"use_sim_time"} <= set(STEREO_DEPTH.parameters)

    handlers = [action.args[0].kwargs for action in actions if type(action).__name__ == "RegisterEventHandler"]
    waits = [action for action in actions if type(action).__name__ == "ExecuteProcess"]
    assert [wait.kwargs["cmd"][-2:] for wait in waits] == [[name, "state=active"] for name in nodes]
    context = types.SimpleNamespace(is_shutdown=False)
    on_exit = handlers[0]["on_exit"]
    with pytest.raises(RuntimeError, match="wait_for_stereo_depth_node: its node is not active"):
        on_exit(types.SimpleNamespace(returncode=1, process_name="wait_for_stereo_depth_node"), context)
    done = [types.SimpleNamespace(returncode=0, process_name=wait.kwargs["name"]) for wait in waits]
    assert on_exit(done[0], context) is None
    (player,) = on_exit(done[1], context)
    assert [handler["target_action"] for handler in handlers] == [*waits, player, *nodes.values()]
    if rosbag2:
        command = ["ros2", "bag", "play", str(bag), "--clock", "40", "--rate", "0.5", "--delay", "3.0", "--loop"]
        assert player.kwargs["cmd"] == command
    else:
        given = parameters_of(player)
        assert player.kwargs["executable"] == "bag_player_node"
        assert (given["bags"], given["rate"], given["loop"]) == ([str(bag)], 0.5, True)
        assert set(given) <= set(BAG_PLAYER.parameters)
