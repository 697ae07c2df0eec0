"""The demo end to end: processes over real DDS, what it says, and what it leaves behind (nothing)."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from rich.console import Console
from support.pair_folders import FAR, NEAR, planes, small_rig, write_pairs
from support.waiting import LIMIT, wait_until

from fg_depth_ros.apps import demo
from fg_depth_ros.apps.demo import run_demo
from fg_depth_ros.apps.demo_picture import draw_demo
from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.evaluation.reports.report import read_report
from fg_depth_ros.geometry import Label, disparity_to_depth, organised_points
from fg_depth_ros.nodes.common.shared_memory import SHARED_MEMORY
from fg_depth_ros.nodes.evaluator.pair_messages import Snapshot

pytestmark = pytest.mark.ros
Leftovers = Callable[[], set[str]]
VICTIMS = ("stereo_depth_node", "stereo_player_node")
SIZE = (320, 192)  # sgbm searches 192 px
# The children and their modules; what they log begins with their names.
NODES = {
    "stereo_depth_node": "fg_depth_ros.nodes.stereo_depth.node",
    "stereo_player_node": "fg_depth_ros.nodes.players.stereo_player",
    "replay_evaluator_node": "fg_depth_ros.nodes.evaluator.node",
}
CODE = "import sys; sys.exit(demo.run_demo('sgbm', {pairs!r}, 600.0, 5.0, {out!r}))"


def _children(pid: int) -> dict[str, int]:
    """The node processes below a process: name of the node -> pid."""
    names = {module: name for name, module in NODES.items()}
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (entry / "cmdline").read_bytes().decode().split("\0")
        except (OSError, ValueError, IndexError):
            continue
        if parent == pid:
            found.update({names[word]: int(entry.name) for word in command if word in names})
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _port_files(domain: int) -> set[str]:
    """Fast DDS's port files of this domain (DDS-RTPS 2.2, 9.6.1.1: ports 7400 + 250 domain and on)."""
    low = 7400 + 250 * domain
    return {
        path.name
        for path in SHARED_MEMORY.glob("*fast*_port*")
        if (match := re.search(r"_port(\d+)", path.name)) and low <= int(match[1]) < low + 250
    }


@pytest.fixture
def leftovers(ros_domain: int) -> Callable[[], set[str]]:
    """Shared memory of this test's domain that was not there before (somebody else's crash may have left some)."""
    before = _port_files(ros_domain)
    return lambda: _port_files(ros_domain) - before


@pytest.fixture
def domain(ros_domain: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """The demo draws its own domain; here it gets one that no other test uses."""
    monkeypatch.setattr(demo, "free_domain_id", lambda: ros_domain)
    return ros_domain


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's log folders go here."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def _demo(**arguments: object) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=100)
    code = run_demo("sgbm", console=console, **arguments)  # type: ignore[arg-type]
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def test_a_folder_with_truth_gives_table_picture_and_report(
    domain: int, leftovers: Leftovers, temporary: Path, tmp_path: Path
) -> None:
    folder = write_pairs(tmp_path / "pairs", size=SIZE)
    picture, report_path = tmp_path / "out" / "demo.png", tmp_path / "out" / "demo.json"
    code, text = _demo(pairs=str(folder), seconds=2.0, rate=5.0, out=picture, json=report_path)
    assert code == 0, text
    assert str(picture) in text
    assert "bad-2" in text
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.shape[1] > 1200

    values = json.loads(report_path.read_text())
    assert values["schema"].startswith("fg_depth_report/")
    assert values["settings"]["size"] == f"{SIZE[0]}x{SIZE[1]}"
    report = read_report(report_path)
    assert report.command == "demo"
    assert report.model["name"] == "sgbm"
    rows = {row["method"]: row for row in report.rows if row["kind"] == "accuracy"}
    # Planes with random texture: what classical matching answers is right, but for the edges.
    masked = rows["sgbm masked"]["metrics"]
    assert masked["bad_1"] < 5.0
    assert masked["abs_rel"] < 0.02
    (timing,) = [row for row in report.rows if row["kind"] == "timing"]
    metrics = timing["metrics"]
    assert metrics["pairs_sent"] == 13
    assert metrics["pairs_delivered"] + metrics["pairs_dropped"] == 13
    assert metrics["pairs_unaccounted"] == 0
    assert list(temporary.iterdir()) == []  # logs go when all went well
    assert leftovers() == set()


def test_a_virtual_world_is_judged_by_its_true_depth(
    domain: int, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "WORLD_FRAMES", 3)
    code, text = _demo(world="indoor", width=SIZE[0], seconds=2.0, rate=5.0, out=tmp_path / "demo.png")
    assert code == 0, text
    assert "virtual_indoor: 3 pair(s), 320x192 px" in text and "with true depth" in text
    assert "bad-2" in text
    assert (tmp_path / "demo.png").stat().st_size > 20_000
    assert list(temporary.iterdir()) == []  # what was rendered goes too


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": "forest"}, "there is no virtual world 'forest': choose one of street, indoor"),
        ({"world": "street", "pairs": "somewhere"}, "two things to play: leave one of them out"),
    ],
)
def test_a_world_that_cannot_be_played_is_refused(temporary: Path, tmp_path: Path, options: dict, message: str) -> None:
    code, text = _demo(**options, out=tmp_path / "demo.png")
    assert code == 1
    assert message in " ".join(text.split())
    assert list(temporary.iterdir()) == []


def test_pairs_without_truth_and_calibration_are_shown_with_a_warning(
    domain: int, temporary: Path, tmp_path: Path
) -> None:
    folder = write_pairs(tmp_path / "pairs", truth=False, rig=False, size=SIZE)
    code, text = _demo(pairs=str(folder), seconds=1.0, rate=5.0, out=tmp_path / "demo.png")
    assert code == 0, text
    assert "no calibration found" in text
    assert "photometric" in text
    assert "bad-2" not in text
    assert (tmp_path / "demo.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "the folder is empty"),
        (lambda folder: (folder / "left").mkdir(parents=True), "no stereo pairs found"),
        (
            lambda folder: [
                write_pairs(folder, ("a",)),
                write_image(folder / "right" / "a.png", np.zeros((40, 50, 3), np.uint8)),
            ],
            "160x96(.|\n)*50x40",
        ),
        (
            lambda folder: [write_pairs(folder, ("a",)), (folder / "left" / "a.png").write_bytes(b"\x89PNG garbage")],
            "a.png",
        ),
    ],
    ids=["missing", "empty", "no images", "sizes differ", "garbage"],
)
def test_what_is_no_input_is_refused_at_once_with_a_reason(
    temporary: Path, tmp_path: Path, prepare, message: str
) -> None:
    prepare(tmp_path / "pairs")
    code, text = _demo(pairs=str(tmp_path / "pairs"), out=tmp_path / "demo.png")
    assert code == 1
    assert re.search(message, text), text
    assert not (tmp_path / "demo.png").exists()
    assert list(temporary.iterdir()) == []  # nothing ran, so there are no logs to keep


def test_a_rate_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    code, text = _demo(rate=0.0, out=tmp_path / "demo.png")
    assert code == 1
    assert "rate = 0 Hz" in text


def test_weights_that_cannot_be_used_are_reported(domain: int, temporary: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"garbage")
    folder = write_pairs(tmp_path / "pairs", size=SIZE)
    console = Console(file=io.StringIO(), width=100)
    code = run_demo("flownet_stereo", str(folder), out=tmp_path / "demo.png", weights=str(weights), console=console)
    assert code == 1
    assert "weights.safetensors" in console.file.getvalue()  # type: ignore[attr-defined]


def _logs(folder: Path) -> str:
    """What the demo's children have written so far."""
    return "".join(path.read_text(errors="replace") for path in folder.glob("fg_depth_demo_*/*/*.log"))


@pytest.fixture
def running(ros_domain: int, leftovers: Leftovers, temporary: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo in its own process, with all three children at work."""
    folder = write_pairs(tmp_path / "pairs", size=SIZE)
    code = f"from fg_depth_ros.apps import demo; demo.free_domain_id = lambda: {ros_domain}; "
    code += CODE.format(pairs=str(folder), out=str(tmp_path / "demo.png"))
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        # At work: all three run, and those that log have said something.
        wait_until(
            lambda: (
                _children(process.pid).keys() == NODES.keys()
                and all(f"[{name}]" in _logs(temporary) for name in VICTIMS)
            ),
            describe=lambda: f"{_children(process.pid)}, exit code {process.poll()}, {_logs(temporary)}",
        )
        yield process
    finally:
        process.kill()
        process.wait(LIMIT)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_child_that_is_killed_ends_the_demo_with_its_last_lines(
    running: subprocess.Popen[str], leftovers: Leftovers, victim: str
) -> None:
    children = _children(running.pid)
    os.kill(children[victim], signal.SIGKILL)
    text = running.communicate(timeout=LIMIT)[0]
    assert running.returncode == 1
    assert "was killed by SIGKILL" in text
    assert f"[{victim}]" in text  # a line of its log
    assert not any(_alive(pid) for pid in children.values())
    assert leftovers() == set()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_the_demo_takes_its_children_along(
    running: subprocess.Popen[str], leftovers: Leftovers, number: signal.Signals, code: int
) -> None:
    children = _children(running.pid)
    running.send_signal(number)
    running.communicate(timeout=LIMIT)
    assert running.returncode == code
    wait_until(lambda: not any(_alive(pid) for pid in children.values()))
    assert leftovers() == set()


@pytest.mark.parametrize("methods", [("sgbm",), ("flownet_stereo", "sgbm")])
@pytest.mark.parametrize("with_truth", [True, False])
def test_the_picture_is_drawn_for_every_kind_of_input(
    tmp_path: Path, methods: tuple[str, ...], with_truth: bool
) -> None:
    left, _, truth = planes(0)
    rig = small_rig()
    depth = disparity_to_depth(truth, rig)
    dense = truth.copy()
    dense[:, :20] = np.nan
    labels = np.full(truth.shape, Label.VALID, np.uint8)
    labels[:, :20] = Label.OUT_OF_RANGE
    points = organised_points(depth, rig, 2)
    shot = Snapshot(left, dense, depth, labels, points, left[::2, ::2], rig, depth if with_truth else None)
    path = draw_demo(tmp_path / "new" / "sheet.png", dict.fromkeys(methods, shot), ["one", "two"], title="title")
    image = cv2.imread(str(path))
    assert image.shape[1] > 1200
    # The square in front of the wall has another colour in the disparity panel (top row, second column).
    panel = image[: image.shape[0] // (3 if len(methods) > 1 else 2), image.shape[1] // 3 : 2 * image.shape[1] // 3]
    colours = {tuple(colour) for colour in panel.reshape(-1, 3)[::7]}
    assert len(colours) > 8
    assert NEAR > FAR
