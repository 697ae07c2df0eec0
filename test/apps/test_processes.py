"""Children end with their parent, a dead child is reported, and shared memory is cleaned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import LIMIT, wait_until

from fg_depth_ros.apps.node_status import NodeStatusMonitor, main
from fg_depth_ros.apps.processes import ChildDied, ChildTimeout, ProcessGroup, free_domain_id


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PYTHONPATH with small modules that stand in for nodes."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "sleeper.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(600)\n")
    (folder / "stubborn.py").write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\ntime.sleep(600)\n"
    )
    (folder / "failing.py").write_text("import sys\nprint('the reason', flush=True)\nsys.exit(3)\n")
    (folder / "parent.py").write_text(
        "import sys, time\nfrom pathlib import Path\nfrom fg_depth_ros.apps.processes import ProcessGroup\n"
        "group = ProcessGroup(Path(sys.argv[1]))\nchild = group.start('sleeper', 'sleeper')\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(root)]))
    return folder


def _alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def test_stop_ends_even_a_child_that_ignores_signals(modules: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    with ProcessGroup(tmp_path / "logs") as group:
        children = [group.start("a", "sleeper", on_line=lines.append), group.start("b", "stubborn")]
        group.wait_until(lambda: all("ready" in c.tail for c in children), LIMIT, "two children")
        group.stop(grace=0.3)
    assert lines == ["ready"] or lines[0] == "ready"
    assert children[1].returncode == -signal.SIGKILL
    assert not any(_alive(child.pid) for child in children)


def test_a_child_that_dies_is_reported_with_its_last_lines(modules: Path, tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        group.start("failing node", "failing")
        with pytest.raises(ChildDied, match="failing node process ended with exit code 3(.|\n)*the reason"):
            group.wait_until(lambda: False, LIMIT, "nothing")


def test_a_killed_child_is_reported_with_the_signal(modules: Path, tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        child = group.start("player", "sleeper")
        group.wait_until(lambda: "ready" in child.tail, LIMIT, "the child")
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ChildDied, match="player process was killed by SIGKILL"):
            group.wait_until(lambda: False, LIMIT, "nothing")


def test_waiting_has_a_limit_and_says_what_for(modules: Path, tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        group.start("sleeper", "sleeper")
        with pytest.raises(ChildTimeout, match="waited 1 s for the end of days"):
            group.wait_until(lambda: False, 1.0, "the end of days")


def test_children_die_with_a_killed_parent(modules: Path, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, str(modules / "parent.py"), str(tmp_path / "logs")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    log = tmp_path / "logs" / "sleeper.log"
    wait_until(lambda: log.exists() and "ready" in log.read_text())
    assert _alive(pid)
    parent.kill()
    parent.wait(LIMIT)
    parent.stdout.close()
    wait_until(lambda: not _alive(pid))


def test_free_domain_id_is_in_range_and_avoids_used_ports() -> None:
    import socket

    domain = free_domain_id(20, 90)  # other nodes run on this machine, not least those of these tests
    assert 20 <= domain <= 90
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as used:
        used.bind(("0.0.0.0", 7400 + 250 * domain + 10))
        assert free_domain_id(domain, domain + 8) != domain
        with pytest.raises(RuntimeError, match=f"every ROS domain from {domain} to {domain} is in use"):
            free_domain_id(domain, domain)


def test_what_lies_in_the_working_folder_is_not_imported(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As in the parent of a clone, or beside a program of the user's."""
    work = tmp_path / "work"
    (work / "fg_depth_ros").mkdir(parents=True)
    for name in ("contextlib", "yaml", "sleeper"):
        (work / f"{name}.py").write_text("raise SystemExit('executed')\n")
    monkeypatch.chdir(work)
    with ProcessGroup(tmp_path / "logs") as group:
        child = group.start("sleeper", "sleeper")
        wait_until(lambda: "ready" in child.tail, describe=lambda: list(child.tail))


def test_a_node_is_meant_by_its_full_name_before_the_end_of_another_one() -> None:
    monitor = NodeStatusMonitor()

    def report(node: str, state: str) -> None:
        monitor.update({f"{node}: pairs": {"message": "", "values": {"state": state}}})

    report("rear/stereo_depth_node", "inactive")
    assert monitor.values("stereo_depth_node") == {"state": "inactive"}
    report("stereo_depth_node", "active")
    assert monitor.values("stereo_depth_node") == {"state": "active"}


@pytest.mark.parametrize(
    "line",
    [
        '{"level": "warn", "message": "x"}', '{"camera": {"message": "x"}}', '{"camera": null}',
        '{"camera": {"message": "x", "values": 3}}', "[1]", "{", "a word",
    ],
)  # fmt: skip
def test_lines_that_are_no_report_are_ignored(line: str) -> None:
    monitor = NodeStatusMonitor()
    monitor.on_line(line)
    assert monitor.reports("camera") == monitor.reports("level") == 0
    monitor.on_line('{"camera: pairs": {"message": "", "values": {"state": "active"}}}')
    assert monitor.values("camera") == {"state": "active"} and monitor.reports("camera") == 1


def test_a_condition_of_another_form_is_refused_with_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["stereo_depth_node", "active"])
    assert "'active' is no condition: give KEY=VALUE or KEY!=VALUE" in capsys.readouterr().err
