"""Fixtures and the environment that every test shares: local traffic, own domains, few threads."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Set before anything imports torch, OpenCV or rclpy.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# One thread each: workers and the processes they start inherit it, and more threads than cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# What tests compare exactly is PyTorch's; the tests of engines name theirs. No test reads the user's cache.
os.environ["FG_DEPTH_ENGINE"] = "torch"
os.environ["FG_DEPTH_CACHE"] = str(Path(tempfile.gettempdir()) / f"fg_depth_ros_tests_{os.getuid()}" / "engines")
os.environ["COLUMNS"] = "400"  # rich reads it when a console is made: no table is folded

# A shell starts background jobs with SIGINT ignored, and they hand that on to the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


LOCKS = Path(tempfile.gettempdir()) / f"fg_depth_ros_tests_{os.getuid()}"


def _is_serial(item: pytest.Item) -> bool:
    return item.get_closest_marker("serial") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need ROS by the folder of their file; serial tests come last."""
    for item in items:
        if item.path.parent.name in ("nodes", "apps", "launch"):
            item.add_marker(pytest.mark.ros)
    items.sort(key=_is_serial)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Run a serial test while no other worker runs any; outermost, so that no time limit counts the waiting.

    Workers share one lock, serial tests hold it alone. Who waits for it holds the gate before it, so that a serial
    test is the next one to run.
    """
    if not hasattr(item.config, "workerinput"):
        return (yield)
    LOCKS.mkdir(exist_ok=True)
    with (LOCKS / "gate").open("w") as gate, (LOCKS / "running").open("w") as running:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if _is_serial(item) else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        return (yield)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Top folder of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder with public sets (KITTI, Middlebury) that FG_DEPTH_DATA names; without it the test is skipped."""
    named = os.environ.get("FG_DEPTH_DATA")
    if not named:
        pytest.skip("FG_DEPTH_DATA names no folder with public sets")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"FG_DEPTH_DATA = {named!r} is no folder")
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

    A lock per domain keeps workers and test runs apart before their nodes have opened ports.
    """
    from fg_depth_ros.apps.processes import free_domain_id

    LOCKS.mkdir(exist_ok=True)
    for domain in random.SystemRandom().sample(range(1, 102), 101):
        with (LOCKS / f"domain_{domain}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free_domain_id(domain, domain)
            except (BlockingIOError, RuntimeError):  # another test's, or another program's
                continue
            monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
            yield domain
            return
    pytest.fail(f"every ROS domain is in use (locks of tests in {LOCKS})")


@pytest.fixture
def group(ros_domain: int, tmp_path: Path) -> Iterator[Any]:
    """A ``ProcessGroup`` for the nodes under test, whose logs lie in the test's folder."""
    from fg_depth_ros.apps.processes import ProcessGroup

    with ProcessGroup(tmp_path / "logs") as group:
        yield group


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
