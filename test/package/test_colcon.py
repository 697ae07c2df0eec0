"""colcon builds the package, and what it installs works from there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import fg_depth_ros

COLCON = Path(sys.executable).parent / "colcon"
NODES = ("stereo_depth_node", "stereo_player_node", "replay_evaluator_node", "data_logger_node", "bag_player_node")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COLCON.exists(), reason=f"no colcon beside {sys.executable}: install the extra 'test'"),
]


@dataclass(frozen=True)
class Workspace:
    """A built workspace."""

    root: Path
    log: str

    @property
    def prefix(self) -> Path:
        """Where the package is installed."""
        return self.root / "install" / "fg_depth_ros"

    def run(self, *command: str, timeout: float = 90.0) -> subprocess.CompletedProcess[str]:
        """Run a command in a shell that has sourced the workspace, outside the repository."""
        line = f". {shlex.quote(str(self.root / 'install' / 'setup.sh'))} && exec {shlex.join(command)}"
        return subprocess.run(
            ["sh", "-c", line],
            cwd=self.root,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )


def environment() -> dict[str, str]:
    """This process's environment, with the Python environment as the underlay of the workspace."""
    clean = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "COLCON_PREFIX_PATH"}}
    return {
        **clean,
        "AMENT_PREFIX_PATH": os.environ.get("AMENT_PREFIX_PATH") or sys.prefix,
        "PATH": f"{COLCON.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }


@pytest.fixture(scope="module")
def workspace(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The repository built by colcon into a temporary folder."""
    root = tmp_path_factory.mktemp("workspace")
    command = [str(COLCON), "--log-base", str(root / "log"), "build", "--base-paths", str(repository)]
    command += ["--build-base", str(root / "build"), "--install-base", str(root / "install")]
    done = subprocess.run(
        command,
        cwd=root,
        env={**environment(), "COLCON_HOME": str(root / "home")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    return Workspace(root, log)


def test_the_repository_is_one_package(workspace: Workspace) -> None:
    """In particular nothing inside the environment .venv is taken for a package."""
    assert re.findall(r"^Starting >>> (\S+)", workspace.log, re.MULTILINE) == ["fg_depth_ros"]
    assert sorted(path.name for path in (workspace.root / "build").iterdir() if path.is_dir()) == ["fg_depth_ros"]


def test_executables_are_where_ros_looks_for_them(workspace: Workspace) -> None:
    folder = workspace.prefix / "lib" / "fg_depth_ros"
    for name in (*NODES, "fg-depth"):
        assert os.access(folder / name, os.X_OK), f"{folder / name} is missing or not executable"


def test_every_module_is_installed(workspace: Workspace, repository: Path) -> None:
    """A folder without __init__.py would be left out, and an editable installation would hide that."""
    (installed,) = workspace.prefix.glob("lib/python3.*/site-packages/fg_depth_ros")
    source = repository / "fg_depth_ros"
    modules = {path.relative_to(source) for path in source.rglob("*.py")}
    assert modules - {path.relative_to(installed) for path in installed.rglob("*.py")} == set()


def test_shared_files_are_installed_unchanged(workspace: Workspace, repository: Path) -> None:
    share = workspace.prefix / "share"
    assert (share / "ament_index/resource_index/packages/fg_depth_ros").is_file()
    for name in (
        "package.xml",
        "launch/stereo_depth.launch.py",
        "launch/multi_stereo.launch.py",
        "launch/data_logger.launch.py",
        "launch/replay_evaluation.launch.py",
        "config/stereo_depth.yaml",
        "config/fastdds_shm.xml",
        "config/fastdds_shm_large.xml",
        "rviz/stereo_depth.rviz",
    ):
        assert (share / "fg_depth_ros" / name).read_bytes() == (repository / name).read_bytes()


def test_weights_are_installed_unchanged(workspace: Workspace, repository: Path) -> None:
    shipped = sorted((repository / "fg_depth_ros" / "weights").glob("*.safetensors"))
    assert "flownet_stereo.safetensors" in {path.name for path in shipped}
    (installed,) = workspace.prefix.glob("lib/python3.*/site-packages/fg_depth_ros/weights")
    for path in shipped:
        assert (installed / path.name).read_bytes() == path.read_bytes()


def test_the_installed_copy_is_imported_and_finds_its_own_files(workspace: Workspace) -> None:
    code = (
        "import fg_depth_ros as f, fg_depth_ros.inference, fg_depth_ros.resources as r;"
        "print(f.__version__, f.__file__, r.resource_path('config/fastdds_shm.xml'), sep='\\n')"
    )
    done = workspace.run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    version, module, profile = done.stdout.splitlines()[-3:]
    assert version == fg_depth_ros.__version__
    assert Path(module).is_relative_to(workspace.prefix)
    assert Path(profile) == workspace.prefix / "share/fg_depth_ros/config/fastdds_shm.xml"


def test_the_index_finds_the_package(workspace: Workspace) -> None:
    pytest.importorskip("ament_index_python", reason="needs ROS or its wheels")
    code = "from ament_index_python import get_package_share_directory as s; print(s('fg_depth_ros'))"
    done = workspace.run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.split()[-1]) == workspace.prefix / "share" / "fg_depth_ros"


@pytest.mark.parametrize("name", NODES)
def test_an_installed_node_starts_and_names_a_wrong_argument(workspace: Workspace, ros_domain: int, name: str) -> None:
    pytest.importorskip("rclpy", reason="the nodes need rclpy")
    executable = workspace.prefix / "lib" / "fg_depth_ros" / name
    done = workspace.run(str(executable), "--ros-args", "-p", "not_an_assignment")
    assert done.returncode not in (0, 126, 127)
    assert "not_an_assignment" in done.stdout + done.stderr


def test_the_installed_command_line_answers(workspace: Workspace) -> None:
    done = workspace.run(str(workspace.prefix / "lib" / "fg_depth_ros" / "fg-depth"), "--help")
    assert done.returncode == 0, done.stderr
    for command in ("demo", "doctor", "infer", "evaluate", "train", "bench"):
        assert command in done.stdout
