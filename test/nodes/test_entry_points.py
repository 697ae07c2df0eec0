"""The console scripts of the nodes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fg_depth_ros.nodes import entry_points


def test_an_interrupt_during_the_imports_ends_without_a_traceback() -> None:
    program = (
        "import os, signal\n"
        "from fg_depth_ros.nodes import entry_points\n"
        "entry_points.import_module = lambda name: os.kill(os.getpid(), signal.SIGINT)\n"
        "entry_points.stereo_depth()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("module", "content"),
    [
        ("stereo_depth.node", "/**:\n  ros__parameters:\n    model: [1, a"),
        ("data_logger.node", "a: {b: [1, 2]}\n"),
        ("players.bag_player", "\0\1\2"),
        ("evaluator.node", None),
    ],
)
def test_a_parameter_file_that_cannot_be_parsed_is_one_line_with_its_name(
    tmp_path: Path, module: str, content: str | None
) -> None:
    pytest.importorskip("rclpy")
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-m", f"fg_depth_ros.nodes.{module}"]
    ended = subprocess.run(
        [*command, "--ros-args", "--params-file", str(path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "not started: " in ended.stderr and str(path) in ended.stderr


def test_the_handler_of_before_is_back_when_the_node_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        @staticmethod
        def main() -> int:
            assert signal.getsignal(signal.SIGINT) is before
            return 3

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(entry_points, "import_module", lambda name: Module)
    assert entry_points.bag_player() == 3
