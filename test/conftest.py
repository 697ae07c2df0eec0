"""Fixtures and the environment that every test shares: local traffic, own domains, few threads."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Set before anything imports torch, OpenCV or rclpy.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("MPLBACKEND", "Agg")

# A shell starts background jobs with SIGINT ignored, and they hand that on to the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need ROS by the folder of their file."""
    for item in items:
        if item.path.parent.name in ("nodes", "apps", "launch"):
            item.add_marker(pytest.mark.ros)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Top folder of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with public stereo sets (KITTI, Middlebury); the test is skipped where there is none."""
    named = os.environ.get("FG_DEPTH_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder with public stereo sets at {folder} (FG_DEPTH_DATA names another)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _ros_logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the nodes' log files out of the home folder."""
    before = os.environ.get("ROS_LOG_DIR")
    os.environ["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_log"))
    yield
    if before is None:
        del os.environ["ROS_LOG_DIR"]
    else:
        os.environ["ROS_LOG_DIR"] = before


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS domain that nobody else on this machine uses; ROS_DOMAIN_ID is set to it.

    A lock per domain keeps test runs apart that draw at the same time, before their nodes have opened ports.
    """
    from fg_depth_ros.apps.processes import free_domain_id

    folder = Path(tempfile.gettempdir()) / f"fg_depth_ros_domains_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for _ in range(100):
        domain = free_domain_id()
        with (folder / str(domain)).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
            yield domain
            return
    pytest.fail(f"other test runs hold the ROS domains that are free (locks in {folder})")


@pytest.fixture
def make(ros_domain: int) -> Iterator[Callable[..., Any]]:
    """Makes ``support.nodes.Bench``es with these parameters, and closes them after the test."""
    from support.nodes import bench

    with ExitStack() as made:
        yield lambda **options: made.enter_context(bench(ros_domain, **options))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs ``fg-depth`` with these arguments: exit status and what it printed, on one line."""
    from fg_depth_ros import cli

    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fg-depth", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        text = capsys.readouterr()
        return status, " ".join((text.out + text.err).split())

    return call
