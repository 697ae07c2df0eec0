"""The launch files' arguments become parameters, remappings and warnings. Runs without a ROS installation."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fg_depth_ros import apps

_NAMES = {
    "launch": ["LaunchDescription"],
    "launch.actions": [
        "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "OpaqueFunction", "RegisterEventHandler",
        "SetEnvironmentVariable", "TimerAction",
    ],
    "launch.event_handlers": ["OnProcessExit", "OnProcessIO"],
    "launch.events": ["Shutdown", "matches_action"],
    "launch.events.process": ["SignalProcess"],
    "launch_ros": [],
    "launch_ros.actions": ["Node"],
}  # fmt: skip


class Recorded:
    """Stands for any class of launch: keeps what it was made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


def describe(repository: Path, name: str) -> Recorded:
    return runpy.run_path(str(repository / "launch" / f"{name}.launch.py"))["generate_launch_description"]()


class LaunchConfiguration(Recorded):
    def perform(self, context: Context) -> str:
        return context.launch_configurations[self.args[0]]


class Context:
    """A launch context after the arguments of a description were declared."""

    def __init__(self, description: Recorded, given: dict[str, str]) -> None:
        self.launch_configurations = {
            action.args[0]: action.kwargs["default_value"]
            for action in description.args[0]
            if "default_value" in action.kwargs
        } | given


@pytest.fixture
def launch_file(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a launch file against the recording classes: (name, given arguments) -> actions of its function."""
    for name, classes in _NAMES.items():
        module = ModuleType(name)
        for kind in classes:
            setattr(module, kind, type(kind, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    substitutions = ModuleType("launch.substitutions")
    substitutions.LaunchConfiguration = LaunchConfiguration  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "launch.substitutions", substitutions)
    monkeypatch.delitem(sys.modules, "fg_depth_ros.apps.launch_arguments", raising=False)

    def run(name: str, **given: str) -> list[Recorded]:
        description = describe(repository, name)
        (function,) = [a.kwargs["function"] for a in description.args[0] if "function" in a.kwargs]
        return function(Context(description, given))

    yield run
    sys.modules.pop("fg_depth_ros.apps.launch_arguments", None)


@pytest.mark.parametrize("name", ["stereo_depth", "data_logger"])
def test_without_arguments_the_node_runs_with_its_parameter_file_and_no_remappings(
    launch_file: Any, repository: Path, name: str
) -> None:
    (node,) = launch_file(name)
    assert node.kwargs["executable"] == f"{name}_node"
    assert node.kwargs["remappings"] == []
    assert node.kwargs["parameters"] == [str(repository / "config" / f"{name}.yaml"), {"use_sim_time": False}]


@pytest.mark.parametrize("name", ["stereo_depth", "data_logger"])
def test_camera_arguments_become_remappings(launch_file: Any, name: str) -> None:
    (node,) = launch_file(
        name, left_namespace="/eyes/l", right_namespace="/eyes/r", right_image="/eyes/r/rgb", use_sim_time="True"
    )
    assert node.kwargs["remappings"] == [
        ("left/image_rect", "/eyes/l/image_rect"),
        ("left/camera_info", "/eyes/l/camera_info"),
        ("right/image_rect", "/eyes/r/rgb"),
        ("right/camera_info", "/eyes/r/camera_info"),
    ]
    assert node.kwargs["parameters"][1]["use_sim_time"] is True


def test_parameters_that_were_given_override_the_file(launch_file: Any) -> None:
    (node,) = launch_file("stereo_depth", model="sgbm", mono_weights="/w.safetensors", log_level="debug")
    assert node.kwargs["parameters"][1] == {"model": "sgbm", "mono_weights": "/w.safetensors", "use_sim_time": False}
    assert node.kwargs["arguments"] == ["--ros-args", "--log-level", "debug"]


def test_a_former_or_misspelt_argument_is_refused_with_the_right_name(launch_file: Any) -> None:
    with pytest.raises(ValueError, match=r"'left' is now 'left_namespace'.*'right' is now 'right_namespace'"):
        launch_file("data_logger", left="/camera/left", right="/camera/right")
    with pytest.raises(ValueError, match="'modelx'.*'model'"):
        launch_file("stereo_depth", modelx="sgbm")
    launch_file("stereo_depth", map_file="of another launch file that includes this one")


@pytest.mark.parametrize("name", ["stereo_depth", "data_logger", "replay_evaluation"])
@pytest.mark.parametrize(("given", "default"), [("", "LOCALHOST"), ("SUBNET", "SUBNET")])
def test_messages_stay_on_this_machine_unless_the_user_says_otherwise(
    launch_file: Any, repository: Path, monkeypatch: pytest.MonkeyPatch, name: str, given: str, default: str
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", given)
    monkeypatch.delitem(sys.modules, "fg_depth_ros.apps.launch_arguments", raising=False)
    monkeypatch.delattr(apps, "launch_arguments", raising=False)
    actions = describe(repository, name).args[0]
    (argument,) = [a for a in actions if a.args == ("discovery",)]
    assert argument.kwargs["default_value"] == default
    (value,) = [a.args[1] for a in actions if a.args[:1] == ("ROS_AUTOMATIC_DISCOVERY_RANGE",)]
    assert value.args == ("discovery",)


@pytest.mark.parametrize("name", ["stereo_depth", "data_logger", "replay_evaluation"])
def test_a_missing_parameter_file_is_named(launch_file: Any, name: str) -> None:
    with pytest.raises(ValueError, match="params_file '/nowhere/my.yaml' does not exist"):
        launch_file(name, params_file="/nowhere/my.yaml", bag="/tmp", out="/tmp")


def test_rviz_gets_the_remappings_and_is_asked_for_before_a_node_starts(
    launch_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="rviz:=true needs the package rviz2, which is not installed"):
        launch_file("stereo_depth", rviz="true")
    monkeypatch.setattr(apps.launch_arguments, "get_package_prefix", lambda name: "/opt/ros")
    node, rviz = launch_file("stereo_depth", rviz="true", left_namespace="/eyes/l", namespace="head")
    assert rviz.kwargs["executable"] == "rviz2"
    assert rviz.kwargs["remappings"] == node.kwargs["remappings"] != []
    assert rviz.kwargs["namespace"] == "head"


def test_the_evaluation_declares_the_shared_arguments_and_its_own(launch_file: Any, repository: Path) -> None:
    actions = describe(repository, "replay_evaluation").args[0]
    declared = {a.args[0]: a.kwargs for a in actions if a.args and "description" in a.kwargs}
    assert {"bag", "out", "rate", "loop", "player", "params_file", "model", "log_level"} <= declared.keys()
    assert "default_value" not in declared["bag"], "it has to be given"
