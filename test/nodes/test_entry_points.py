"""The console scripts of the nodes."""

from __future__ import annotations

import signal
import subprocess
import sys

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


def test_the_handler_of_before_is_back_when_the_node_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        @staticmethod
        def main() -> int:
            assert signal.getsignal(signal.SIGINT) is before
            return 3

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(entry_points, "import_module", lambda name: Module)
    assert entry_points.bag_player() == 3
