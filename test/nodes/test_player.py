"""The player over real topics, in its own process: what arrives is what lies on the disk."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from support.pair_folders import FAR, NEAR, planes, small_rig, write_pairs
from support.spinning import SpinningNode
from support.waiting import LIMIT

from fg_depth_ros.apps.processes import ChildDied, ProcessGroup, write_parameter_file
from fg_depth_ros.data.io import messages
from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.data.io.messages import depth_to_array, image_to_array, stamp_ns
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.players import stereo_player
from fg_depth_ros.nodes.players.source import ENCODINGS, PairSource, encode_image, write_drive

PLAYER = "fg_depth_ros.nodes.players.stereo_player"
TOPICS = {
    "left/image_rect": Image,
    "right/image_rect": Image,
    "left/camera_info": CameraInfo,
    "right/camera_info": CameraInfo,
    "ground_truth/depth": Image,
    "published_pair": Header,
    "/clock": Clock,
}


class Listener(SpinningNode):
    """A node in this process that keeps everything the player publishes."""

    def __init__(self, group: ProcessGroup) -> None:
        super().__init__(group, "listener")
        self.messages: dict[str, list] = defaultdict(list)
        qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
        for topic, kind in TOPICS.items():
            self.node.create_subscription(kind, topic, self.messages[topic].append, qos)
        self.start()

    def wait(self, topic: str, count: int, may_end=()) -> list:
        self.group.wait_until(
            lambda: len(self.messages[topic]) >= count, LIMIT, f"{count} messages on {topic}", may_end=may_end
        )
        return self.messages[topic]


@pytest.fixture
def listener(group: ProcessGroup) -> Iterator[Listener]:
    listener = Listener(group)
    yield listener
    listener.close()


def test_pairs_arrive_with_their_calibration_and_truth(group: ProcessGroup, listener: Listener, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs")
    player = group.start("player", PLAYER, {"pairs": str(folder), "rate": 5.0, "count": 5, "wait_for_subscribers": 1})
    account = listener.wait("published_pair", 5, [player])
    for topic in list(TOPICS)[:5]:
        listener.wait(topic, 5, [player])
    group.wait_until(lambda: not player.running, LIMIT, "the end of the player", may_end=[player])
    assert player.returncode == 0

    assert [header.frame_id for header in account] == ["a", "b", "a", "b", "a"]  # looped
    stamps = [stamp_ns(header) for header in account]
    assert all(abs(stamp * 1e-9 - time.time()) < 60 for stamp in stamps)
    # 5 Hz: not faster on the whole, where the first may be late, and as fast at least once on a busy machine.
    intervals = np.diff(stamps) * 1e-9
    assert intervals.mean() > 0.15
    assert intervals.min() < 0.4
    for topic in list(TOPICS)[:5]:
        assert [stamp_ns(message.header) for message in listener.messages[topic]] == stamps, topic

    for number in range(2):
        left, right, disparity = planes(number)
        got_left, got_right = (listener.messages[f"{side}/image_rect"][number] for side in ("left", "right"))
        np.testing.assert_array_equal(image_to_array(got_left), left)
        np.testing.assert_array_equal(image_to_array(got_right), right)
        depth = depth_to_array(listener.messages["ground_truth/depth"][number])
        assert np.isnan(depth[:4]).all()
        # Z = f * B / (d + doffs) = 200 * 0.1 / (d + 4)
        expected = np.where(disparity == NEAR, 20 / (NEAR + 4), 20 / (FAR + 4))
        np.testing.assert_allclose(depth[4:], expected[4:], rtol=1e-6)
    infos = [listener.messages[f"{side}/camera_info"][0] for side in ("left", "right")]
    assert StereoRig.from_camera_info(*infos) == small_rig()
    assert infos[1].p[3] == pytest.approx(-20.0)  # -fx * baseline
    assert infos[1].p[2] - infos[0].p[2] == pytest.approx(4.0)  # doffs
    assert infos[0].header.frame_id == "left_camera_optical_frame"


def test_the_override_of_one_topic_is_of_no_other(group: ProcessGroup, listener: Listener, tmp_path: Path) -> None:
    overrides = {"qos_overrides./left/image_rect.publisher.reliability": "best_effort"}
    group.start("player", PLAYER, {"pairs": str(write_pairs(tmp_path / "pairs")), **overrides})
    offered = {topic: lambda topic=topic: listener.node.get_publishers_info_by_topic(f"/{topic}") for topic in INPUTS}
    group.wait_until(lambda: all(found() for found in offered.values()), LIMIT, "the player's topics")
    reliability = {topic: found()[0].qos_profile.reliability for topic, found in offered.items()}
    assert reliability.pop("left/image_rect") == ReliabilityPolicy.BEST_EFFORT
    assert set(reliability.values()) == {ReliabilityPolicy.RELIABLE}


def test_a_wrong_quality_of_service_is_named(group: ProcessGroup, tmp_path: Path) -> None:
    override = "qos_overrides./left/image_rect.publisher"
    given = {"pairs": str(write_pairs(tmp_path / "pairs")), f"{override}.reliability": "best-effort"}
    player = group.start("player", PLAYER, given)
    assert player.process.wait(LIMIT) == 1
    player.drain()
    assert any(f"where {override} is given" in line for line in player.tail)
    assert not any("Traceback" in line for line in player.tail)


def test_resizing_scales_the_calibration_and_keeps_the_metres(
    group: ProcessGroup, listener: Listener, tmp_path: Path
) -> None:
    folder = write_pairs(tmp_path / "pairs")
    group.start("player", PLAYER, {"pairs": str(folder), "rate": 20.0, "width": 80, "encoding": "mono8"})
    for topic in list(TOPICS)[:5]:
        listener.wait(topic, 1)
    image = listener.messages["left/image_rect"][0]
    assert (image.width, image.height, image.encoding) == (80, 48, "mono8")
    infos = [listener.messages[f"{side}/camera_info"][0] for side in ("left", "right")]
    assert StereoRig.from_camera_info(*infos) == small_rig().scaled(80, 48)
    depth = depth_to_array(listener.messages["ground_truth/depth"][0])
    assert depth.shape == (48, 80)
    assert depth[24, 40] == pytest.approx(20 / (NEAR + 4))
    assert depth[44, 5] == pytest.approx(20 / (FAR + 4))


def test_a_virtual_world_is_played_with_its_true_depth(
    group: ProcessGroup, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    parameters = {"world": "street", "world_frames": 2, "world_seed": 5, "width": 96, "rate": 20.0, "count": 3}
    player = group.start("player", PLAYER, {**parameters, "wait_for_subscribers": 1})
    group.wait_until(lambda: not player.running, LIMIT, "the end of the player", may_end=[player])
    assert player.returncode == 0, player.tail
    write_drive(tmp_path / "drive", "street", width=96, frames=2, seed=5)
    expected = PairSource(str(tmp_path / "drive"))
    account = listener.wait("published_pair", 3, [player])
    for topic in list(TOPICS)[:5]:
        listener.wait(topic, 3, [player])
    assert [header.frame_id for header in account] == ["000000", "000001", "000000"]
    for number in range(2):
        pair = expected.load(number)
        np.testing.assert_array_equal(image_to_array(listener.messages["left/image_rect"][number]), pair.left)
        np.testing.assert_array_equal(image_to_array(listener.messages["right/image_rect"][number]), pair.right)
        depth = depth_to_array(listener.messages["ground_truth/depth"][number])
        np.testing.assert_array_equal(depth, pair.depth)
        assert np.isfinite(depth).mean() > 0.3
    infos = [listener.messages[f"{side}/camera_info"][0] for side in ("left", "right")]
    rig = StereoRig.from_camera_info(*infos)
    assert (rig.width, rig.height, rig.baseline) == (96, 58, pytest.approx(0.3))
    assert list(temporary.iterdir()) == []  # what was rendered goes with the node


def test_simulated_time_restarts_with_every_round(group: ProcessGroup, listener: Listener, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", ("a", "b", "c"))
    group.start(
        "player",
        PLAYER,
        {"pairs": str(folder), "rate": 20.0, "publish_clock": True, "restart_clock": True},
    )
    account = listener.wait("published_pair", 7)
    first = next(i for i, header in enumerate(account) if header.frame_id == "a")
    stamps = [stamp_ns(header) * 1e-9 for header in account[first : first + 4]]
    assert stamps[0] < stamps[1] < stamps[2]
    assert stamps[3] < stamps[1]
    assert stamps[3] == pytest.approx(1.0, abs=0.02)
    clock = [message.clock.sec + message.clock.nanosec * 1e-9 for message in listener.wait("/clock", 8)]
    assert max(clock) < 2.0


def test_it_waits_for_subscribers_and_says_when_it_gives_up(group: ProcessGroup, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs")
    player = group.start("player", PLAYER, {"pairs": str(folder), "wait_for_subscribers": 1, "wait_timeout": 1.0})
    with pytest.raises(ChildDied, match="exit code 1(.|\n)*left/image_rect has 0 subscriber"):
        group.wait_until(lambda: False, LIMIT, "nothing")
    assert not player.running


@pytest.mark.parametrize(
    ("make", "parameters", "message"),
    [
        (lambda folder: None, {}, "no such folder"),
        (lambda folder: folder.mkdir(), {}, "the folder is empty"),
        (lambda folder: write_pairs(folder, rig=False), {}, "give focal"),
        (write_pairs, {"rate": -1.0}, "parameter rate = -1.0 Hz is out of range"),
        (write_pairs, {"restart_clock": True}, "needs publish_clock"),
        (write_pairs, {"world": "street"}, "name two things to play: leave one of them out"),
        (write_pairs, {"world": "forest"}, "parameter world = 'forest' is unknown: choose one of off, street, indoor"),
    ],
)
def test_what_cannot_be_played_ends_with_a_reason(
    ros_domain: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], make, parameters: dict, message: str
) -> None:
    folder = tmp_path / "pairs"
    make(folder)
    file = write_parameter_file(tmp_path / "parameters.yaml", {"pairs": str(folder), **parameters})
    assert stereo_player.main(["--ros-args", "--params-file", str(file)]) == 1
    assert message in capfd.readouterr().err


def test_without_a_home_folder_the_pairs_are_named(
    ros_domain: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # as for a container's --user 12345
    assert stereo_player.main(["--ros-args", "-p", "pairs:=~/pairs"]) == 1
    said = capfd.readouterr().err
    assert "pairs '~/pairs': ~ stands for no folder" in said
    assert "Traceback" not in said


def test_broken_pairs_are_named_and_left_out(group: ProcessGroup, listener: Listener, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", ("a", "b", "c"))
    (folder / "left" / "a.png").write_bytes((folder / "left" / "a.png").read_bytes()[:400])
    write_image(folder / "right" / "b.png", np.zeros((40, 50, 3), np.uint8))
    player = group.start("player", PLAYER, {"pairs": str(folder), "rate": 20.0})
    account = listener.wait("published_pair", 3)
    assert {header.frame_id for header in account} == {"c"}
    log = "\n".join(player.tail)
    assert "pair 'a' is left out" in log and "left/a.png" in log
    assert "pair 'b' is left out" in log and "160x96" in log and "50x40" in log


def test_a_folder_of_broken_pairs_only_is_refused(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", ("a",))
    (folder / "left" / "a.png").write_bytes(b"no image at all")
    with pytest.raises(FileError, match="a.png"):
        PairSource(str(folder)).load(0)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_what_the_reader_makes_of_it(encoding: str) -> None:
    smooth = np.dstack(
        [np.linspace(20 + 30 * c, 120 + 30 * c, 64, dtype=np.uint8)[None].repeat(48, 0) for c in range(3)]
    )
    array = encode_image(smooth, encoding)
    layout = messages.layout(encoding)
    assert array.dtype == layout.dtype
    message = Image(height=48, width=64, encoding=encoding, step=array.strides[0])
    message.data.frombytes(memoryview(np.ascontiguousarray(array)).cast("B"))
    read = image_to_array(message)
    expected = smooth if read.ndim == 3 else encode_image(smooth, "mono8")
    assert np.abs(read.astype(int) - expected)[2:-2, 2:-2].max() <= 3


def test_the_motorcycle_pair_has_its_published_calibration() -> None:
    pair = PairSource("motorcycle").load(0)
    assert pair.left.shape == (500, 741, 3)
    assert pair.rig.fx == 994.978 and pair.rig.doffs == pytest.approx(31.086)
    assert pair.depth is not None
    # Z = 994.978 * 0.193001 / (d + 31.086); the data set's disparities are 7.19 ... 59.91 px
    assert np.nanmax(pair.depth) == pytest.approx(192.031 / (7.1913557 + 31.086), rel=1e-4)
    assert np.nanmin(pair.depth) == pytest.approx(192.031 / (59.90896 + 31.086), rel=1e-4)
