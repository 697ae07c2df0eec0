"""The files that describe the package agree with each other and with what the code imports."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import fg_depth_ros
from fg_depth_ros.resources import ResourceError, resource_path

# import name -> name in setup.py, where they differ
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "pytorch_lightning": "pytorch-lightning",
    "rerun": "rerun-sdk",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}
# rosdep name -> name in setup.py, where it is not the name behind "python3-"
ROSDEP = {
    "python3-opencv": "opencv-python-headless",
    "python3-pil": "pillow",
    "python3-skimage": "scikit-image",
    "python3-yaml": "pyyaml",
}
# These come with a ROS installation only. The package brings a drop-in for the first and does without the others.
NO_WHEEL = {
    "message_filters",
    "launch",
    "launch_ros",
    "launch_testing",
    "launch_testing_ros",
    "ros2launch",
    "tf2_msgs",
}


@pytest.fixture
def setup_arguments(repository: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    import setuptools

    seen: dict[str, Any] = {}
    monkeypatch.chdir(repository)
    monkeypatch.setattr(setuptools, "setup", seen.update)
    code = compile((repository / "setup.py").read_text(), "setup.py", "exec")
    exec(code, {"__file__": str(repository / "setup.py"), "__name__": "__main__"})
    return seen


@pytest.fixture
def manifest(repository: Path) -> ET.Element:
    """The root of package.xml."""
    return ET.parse(repository / "package.xml").getroot()


def names(requirements: list[str]) -> set[str]:
    """Lower-case distribution names of requirements such as "numpy>=1.21"."""
    return {re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0].lower() for requirement in requirements}


def imported(folder: Path) -> dict[str, Path]:
    """Top-level names imported by the Python files of a folder, each with one file that does."""
    found: dict[str, Path] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            else:
                continue
            found.update({module.split(".")[0]: path for module in modules})
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names}


def test_versions_agree(repository: Path, manifest: ET.Element, setup_arguments: dict[str, Any]) -> None:
    changelog = (repository / "CHANGELOG.rst").read_text()
    newest = re.search(r"^(\d+\.\d+\.\d+) \(\d{4}-\d{2}-\d{2}\)\n-+$", changelog, re.MULTILINE)
    assert newest, "CHANGELOG.rst has no heading such as '0.1.0 (2026-01-31)' underlined with dashes"
    version = fg_depth_ros.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert [newest.group(1), manifest.findtext("version"), setup_arguments["version"]] == [version] * 3


def test_names_and_licences_agree(repository: Path, manifest: ET.Element, setup_arguments: dict[str, Any]) -> None:
    assert manifest.get("format") == "3"
    assert manifest.findtext("export/build_type") == "ament_python"
    assert manifest.findtext("name") == setup_arguments["name"] == "fg_depth_ros"
    assert (repository / "resource" / "fg_depth_ros").is_file()
    assert manifest.findtext("license") == setup_arguments["license"] == "Apache-2.0"
    licence = (repository / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_python_dependencies_of_the_manifest_are_declared_for_pip(
    manifest: ET.Element, setup_arguments: dict[str, Any]
) -> None:
    declared = names(setup_arguments["install_requires"])
    for requirements in setup_arguments["extras_require"].values():
        declared |= names(requirements)
    for element in manifest:
        dependency = (element.text or "").strip()
        if not element.tag.endswith("depend") or dependency in NO_WHEEL:
            continue
        if dependency.startswith("python3-"):
            wheel = ROSDEP.get(dependency, dependency.removeprefix("python3-"))
        else:
            wheel = "ros-" + dependency.replace("_", "-")
        assert wheel in declared, f"package.xml names {dependency}, but setup.py has no {wheel}"


def test_every_import_is_declared(repository: Path, manifest: ET.Element, setup_arguments: dict[str, Any]) -> None:
    extras = setup_arguments["extras_require"]
    optional = ("train", "data", "engines", "onnx", "viewer", "video")
    used = [requirement for name in optional for requirement in extras[name]]
    required = names(setup_arguments["install_requires"] + used)
    ros = {(element.text or "").strip() for element in manifest if element.tag.endswith("depend")}
    own = {"fg_depth_ros", "setuptools", "support"}
    for folder, wheels in (("fg_depth_ros", required), ("test", required | names(extras["test"]))):
        for name, path in imported(repository / folder).items():
            known = name in own or name in ros or DISTRIBUTIONS.get(name, name).lower() in wheels
            assert known, f"{path} imports {name}: add it to package.xml (ROS) or setup.py"


def test_every_requirement_has_an_exact_pin(repository: Path, setup_arguments: dict[str, Any]) -> None:
    lines = [line.split("#")[0].strip() for line in (repository / "constraints.txt").read_text().splitlines()]
    pins = names([line for line in lines if line])
    assert all(re.match(r"[\w.-]+==\S+( ; python_version [<>=]+ \"\d\.\d+\")?$", line) for line in lines if line)
    wanted = names(setup_arguments["install_requires"])
    for requirements in setup_arguments["extras_require"].values():
        wanted |= names(requirements)
    assert wanted - pins == set()
    assert "torch==2.13.0" in lines


def test_console_scripts_can_be_imported(setup_arguments: dict[str, Any]) -> None:
    scripts = setup_arguments["entry_points"]["console_scripts"]
    assert {script.split(" = ")[0] for script in scripts} >= {
        "stereo_depth_node",
        "stereo_player_node",
        "replay_evaluator_node",
        "fg-depth",
    }
    pytest.importorskip("rclpy", reason="the nodes need rclpy")
    for script in scripts:
        module, function = script.split(" = ")[1].split(":")
        assert callable(getattr(importlib.import_module(module), function)), script


def test_installed_scripts_are_the_declared_ones(setup_arguments: dict[str, Any]) -> None:
    installed = {f"{e.name} = {e.value}" for e in entry_points(group="console_scripts") if "fg_depth_ros" in e.value}
    if not installed:
        pytest.skip("the package is on the path but not installed")
    assert installed == set(setup_arguments["entry_points"]["console_scripts"])


def test_shared_files_are_installed(repository: Path, setup_arguments: dict[str, Any]) -> None:
    installed = {
        f"{destination}/{Path(name).name}" for destination, files in setup_arguments["data_files"] for name in files
    }
    for name in (
        "package.xml",
        "launch/stereo_depth.launch.py",
        "launch/multi_stereo.launch.py",
        "config/stereo_depth.yaml",
        "config/fastdds_shm.xml",
        "config/fastdds_shm_large.xml",
        "rviz/stereo_depth.rviz",
    ):
        assert f"share/fg_depth_ros/{name}" in installed
    assert "share/ament_index/resource_index/packages/fg_depth_ros" in installed
    for _, files in setup_arguments["data_files"]:
        assert all((repository / name).is_file() for name in files)
    assert {"fg_depth_ros", "fg_depth_ros.geometry", "fg_depth_ros.nodes"} <= set(setup_arguments["packages"])


def test_nothing_that_pip_reads_names_an_index(repository: Path) -> None:
    for name in ("setup.py", "constraints.txt", "pyproject.toml", "Makefile", ".ci/run", ".ci/checks.py"):
        text = (repository / name).read_text()
        found = re.findall(r"\w+://\S+|--(?:extra-)?index-url\S*|--find-links\S*", text)
        assert found == [], f"{name} ties the installation to {found}"


def test_resource_path_prefers_the_files_of_the_running_code(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "share" / "fg_depth_ros"
    other.mkdir(parents=True)
    (other / "package.xml").write_text("<package/>")
    (other / "only_there.txt").write_text("found")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    code = Path(fg_depth_ros.__file__).resolve().parent
    if (code.parent / "package.xml").is_file():
        assert resource_path("package.xml") == code.parent / "package.xml"
    assert resource_path("only_there.txt").read_text() == "found"


def test_resource_path_names_what_is_missing_and_where_it_looked() -> None:
    with pytest.raises(ResourceError, match=r"'config/no_such\.yaml'.*share/fg_depth_ros"):
        resource_path("config/no_such.yaml")
    with pytest.raises(ValueError, match="must be relative"):
        resource_path("../secret")
    with pytest.raises(ValueError, match="must be relative"):
        resource_path("/etc/passwd")
