"""The launch files' arguments become parameters, remappings and warnings. Runs without a ROS installation."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.bags import bag_of

from fg_depth_ros import apps
from fg_depth_ros.data.bags.storage import IMAGE, INFO
from fg_depth_ros.files import FileError
from fg_depth_ros.nodes.stereo_depth.parameters import STEREO_DEPTH

_NAMES = {
    "launch": ["LaunchDescription"],
    "launch.actions": [
        "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "GroupAction", "IncludeLaunchDescription", "LogInfo",
        "OpaqueFunction", "RegisterEventHandler", "TimerAction",
    ],
    "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
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
    monkeypatch.delattr(apps, "launch_arguments", raising=False)

    def run(name: str, included: bool = False, **given: str) -> list[Recorded]:
        file = "whole_robot" if included else name
        monkeypatch.setattr(sys, "argv", ["/opt/ros/bin/ros2", "launch", "some_package", f"{file}.launch.py"])
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
    assert node.kwargs["parameters"] == [str(repository / "config" / f"{name}.yaml"), {}]


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
    (node,) = launch_file(name, use_sim_time="false")  # as given, whatever the parameter file says
    assert node.kwargs["parameters"][1]["use_sim_time"] is False


@pytest.mark.parametrize("transport", ["compressed", "ffmpeg", "foxglove"])
@pytest.mark.parametrize("name", ["stereo_depth", "data_logger"])
def test_compressed_images_are_chosen_or_named(launch_file: Any, name: str, transport: str) -> None:
    (node,) = launch_file(name, left_namespace="/l", right_namespace="/r", image_transport=transport)
    assert dict(node.kwargs["remappings"])["left/image_rect"] == "/l/image_rect"
    assert node.kwargs["parameters"][1]["image_transport"] == transport
    ends = {"left_image": f"/l/image_raw/{transport}", "right_image": f"/r/image_raw/{transport}"}
    (node,) = launch_file(name, **ends)
    assert node.kwargs["parameters"][1]["image_transport"] == transport
    assert dict(node.kwargs["remappings"]) == {
        "left/image_rect": "/l/image_raw", "left/camera_info": "/l/camera_info",
        "right/image_rect": "/r/image_raw", "right/camera_info": "/r/camera_info",
    }  # fmt: skip


def nodes(actions: list[Recorded]) -> list[Recorded]:
    return [action for action in actions if "executable" in action.kwargs]


def said(actions: list[Recorded]) -> list[str]:
    return [action.kwargs["msg"] for action in actions if "msg" in action.kwargs]


def remapped(node: Recorded) -> dict[str, str]:
    names = ("left/image_rect", "left/camera_info", "right/image_rect", "right/camera_info")
    return {name: dict(node.kwargs["remappings"]).get(name, name) for name in names}


# The topics that each driver has by default, as its sources and documents list them.
DRIVERS = {
    "zed": {"/zed/zed_node/left/color/rect/image", "/zed/zed_node/left/color/rect/camera_info",
            "/zed/zed_node/right/color/rect/image", "/zed/zed_node/right/color/rect/camera_info",
            "/zed/zed_node/rgb/color/rect/image", "/zed/zed_node/left/color/raw/image"},
    "realsense": {"/camera/camera/infra1/image_rect_raw", "/camera/camera/infra1/camera_info",
                  "/camera/camera/infra2/image_rect_raw", "/camera/camera/infra2/camera_info",
                  "/camera/camera/color/image_raw", "/camera/camera/depth/image_rect_raw"},
    "oak": {"/oak/left/image_raw", "/oak/left/camera_info", "/oak/right/image_raw", "/oak/right/camera_info",
            "/oak/rgb/image_raw", "/oak/stereo/image_raw"},
    "euroc": {"/cam0/image_raw", "/cam1/image_raw", "/cam0/camera_info", "/cam1/camera_info", "/imu0"},
    "kitti": {f"/kitti/camera_{colour}_{side}/{topic}" for colour in ("color", "gray") for side in ("left", "right")
              for topic in ("image_raw", "camera_info")},
}  # fmt: skip


@pytest.mark.parametrize("name", ["stereo_depth", "data_logger"])
@pytest.mark.parametrize("camera", DRIVERS)
def test_a_camera_is_listened_to_where_its_driver_publishes(launch_file: Any, name: str, camera: str) -> None:
    (node,) = nodes(launch_file(name, camera=camera))
    topics = remapped(node)
    assert set(topics.values()) <= DRIVERS[camera]
    assert len(set(topics.values())) == 4
    for side, number in (("left", "0"), ("right", "1")):
        words = {side, "cam" + number, f"infra{int(number) + 1}"}
        for topic in (topics[f"{side}/image_rect"], topics[f"{side}/camera_info"]):
            assert words & set(topic.replace("_", "/").split("/"))
    parameters = node.kwargs["parameters"][1]
    assert parameters.get("approximate_sync", False) == (camera == "oak")
    assert STEREO_DEPTH.problems(parameters) == []


def test_topics_that_are_given_go_before_those_of_the_camera(launch_file: Any) -> None:
    (node,) = nodes(launch_file("stereo_depth", camera="realsense", driver_namespace="/robot1/D455_1/"))
    assert remapped(node)["right/camera_info"] == "/robot1/D455_1/infra2/camera_info"
    (node,) = nodes(launch_file("stereo_depth", camera="zed", left_image="/zed/l", right_namespace="/zed/r"))
    assert remapped(node) == {
        "left/image_rect": "/zed/l", "left/camera_info": "/zed/camera_info",
        "right/image_rect": "/zed/r/image_rect", "right/camera_info": "/zed/r/camera_info",
    }  # fmt: skip
    with pytest.raises(ValueError, match="camera:=d435 is unknown: choose zed, realsense, oak, euroc, kitti"):
        launch_file("stereo_depth", camera="d435")


def test_the_camera_info_is_beside_the_image(launch_file: Any) -> None:
    (node,) = nodes(
        launch_file("stereo_depth", left_image="left/image_rect_color", right_image="/eyes/right/image_rect_color")
    )
    assert remapped(node) == {
        "left/image_rect": "left/image_rect_color", "left/camera_info": "left/camera_info",
        "right/image_rect": "/eyes/right/image_rect_color", "right/camera_info": "/eyes/right/camera_info",
    }  # fmt: skip


@pytest.mark.parametrize("start", ["", "/", "/eyes/"])
def test_the_camera_infos_of_images_in_one_namespace_stay_two(launch_file: Any, start: str) -> None:
    images = {f"{side}_image": f"{start}{side}_rect" for side in ("left", "right")}
    (node,) = nodes(launch_file("stereo_depth", **images))
    images = {f"{side}/image_rect": f"{start}{side}_rect" for side in ("left", "right")}
    assert remapped(node) == {**images, **{f"{side}/camera_info": f"{side}/camera_info" for side in ("left", "right")}}


def test_the_lines_for_colour_images_take_both_images_and_their_camera_infos(
    launch_file: Any, repository: Path
) -> None:
    """As docs/coming_from.md has them for what stereo_image_proc calls left/image_rect_color."""
    page = (repository / "docs" / "coming_from.md").read_text(encoding="utf-8")
    (block,) = [code for code in re.findall(r"```console\n(.*?)```", page, re.S) if "image_rect_color" in code]
    launch, run = (shlex.split(line) for line in re.sub(r"\\\n", " ", block).splitlines())
    assert launch[:5] == ["$", "ros2", "launch", "fg_depth_ros", "stereo_depth.launch.py"]
    (node,) = nodes(launch_file("stereo_depth", **dict(word.split(":=") for word in launch[5:])))
    colour = {f"{side}/image_rect": f"/camera/{side}/image_rect_color" for side in ("left", "right")}
    infos = {f"{side}/camera_info": f"/camera/{side}/camera_info" for side in ("left", "right")}
    assert remapped(node) == colour | infos
    # The node itself looks for camera_info beside an image that is remapped.
    assert run[:6] == ["$", "ros2", "run", "fg_depth_ros", "stereo_depth_node", "--ros-args"]
    assert run[6::2] == ["-r", "-r"]
    assert dict(word.split(":=") for word in run[7::2]) == colour
    (relative,) = re.findall(r"With `namespace:=camera`, `([^`]*)`", page)
    (node,) = nodes(launch_file("stereo_depth", namespace="camera", **dict(w.split(":=") for w in relative.split())))
    assert node.kwargs["namespace"] == "camera"
    assert {f"/camera/{topic}" for topic in remapped(node).values()} == {*colour.values(), *infos.values()}


# The arguments of stereo_image_proc's launch file, Humble to Rolling, and what the node's parameters become.
UPSTREAM = {
    "approximate_sync": ("True", {"approximate_sync": True}),
    "avoid_point_cloud_padding": ("False", {"avoid_point_cloud_padding": False}),
    "use_color": ("False", {"use_color": False}),
    "use_system_default_qos": ("True", {"use_system_default_qos": True}),
    "stereo_algorithm": ("1", {"model": "sgbm"}),
    "prefilter_cap": ("20", {"prefilter_cap": 20}),
    "correlation_window_size": ("21", {"correlation_window_size": 21}),
    "min_disparity": ("-8", {"min_disparity": -8}),
    "disparity_range": ("128", {"max_disparity": 128}),
    "texture_threshold": ("5", {"texture_threshold": 5}),
    "speckle_size": ("50", {"speckle_size": 50}),
    "speckle_range": ("3", {"speckle_range": 3}),
    "disp12_max_diff": ("2", {"disp12_max_diff": 2}),
    "uniqueness_ratio": ("15.0", {"uniqueness_ratio": 15.0}),
    "P1": ("200", {"P1": 200}),
    "P2": ("400.0", {"P2": 400.0}),
    "sgbm_mode": ("3", {"sgbm_mode": 3}),
    "full_dp": ("True", {"sgbm_mode": 1}),
    "approximate_sync_tolerance_seconds": ("0.03", {"sync_slop": 0.03}),
    "queue_size": ("7", {"sync_queue_size": 7}),
    "prefilter_size": ("9", {}),
    "container": ("my_container", {}),
}


@pytest.mark.parametrize("argument", UPSTREAM)
def test_an_argument_of_stereo_image_proc_becomes_the_parameter_that_it_means(launch_file: Any, argument: str) -> None:
    given, expected = UPSTREAM[argument]
    actions = launch_file("stereo_depth", **{argument: given})
    (node,) = nodes(actions)
    parameters = node.kwargs["parameters"][1]
    assert parameters == expected
    assert STEREO_DEPTH.problems({name: value for name, value in parameters.items() if name != "P1"}) == []
    if not expected:
        (line,) = said(actions)
        assert argument in line
        assert "is not used" in line


def test_an_own_argument_goes_before_that_of_stereo_image_proc(launch_file: Any) -> None:
    actions = launch_file("stereo_depth", model="flownet_stereo", stereo_algorithm="0")
    assert nodes(actions)[0].kwargs["parameters"][1]["model"] == "flownet_stereo"
    (line,) = said(actions)
    assert line == "parameter stereo_algorithm = 0 is not used: model = flownet_stereo is given, too; leave one out"


def test_raw_images_are_taken_where_image_proc_would_have_been_started(launch_file: Any) -> None:
    (node,) = nodes(launch_file("stereo_depth", launch_image_proc="True", left_namespace="/eyes/l"))
    assert remapped(node) == {
        "left/image_rect": "/eyes/l/image_raw", "left/camera_info": "/eyes/l/camera_info",
        "right/image_rect": "right/image_raw", "right/camera_info": "right/camera_info",
    }  # fmt: skip
    assert node.kwargs["parameters"][1]["rectify"] == "on"


@pytest.mark.parametrize(("given", "expected"), [
    ({}, None), ({"rectify": "on"}, "on"), ({"camera": "kitti"}, "off"), ({"camera": "euroc"}, "on"),
    ({"launch_image_proc": "false"}, "off"), ({"camera": "kitti", "rectify": "auto"}, "auto"),
])  # fmt: skip
def test_whether_images_are_rectified_follows_the_argument_then_the_camera(
    launch_file: Any, given: dict[str, str], expected: str | None
) -> None:
    (node,) = nodes(launch_file("stereo_depth", **given))
    assert node.kwargs["parameters"][1].get("rectify") == expected


# ---- several cameras ------------------------------------------------------------------------------------------


def started(launch_file: Any, **given: str) -> list[Recorded]:
    """The nodes of multi_stereo.launch.py, through the other launch file that it includes."""
    found = []
    for group in launch_file("multi_stereo", **given):
        (include,) = group.args[0]
        assert include.args[0].args[0].endswith("launch/stereo_depth.launch.py")
        found += nodes(launch_file("stereo_depth", included=True, **dict(include.kwargs["launch_arguments"])))
    return found


def test_each_camera_has_a_node_in_its_namespace(launch_file: Any) -> None:
    front, rear = started(
        launch_file, namespaces="front, rear", model="sgbm", disparity_range="48", use_sim_time="true"
    )
    for node, namespace in ((front, "front"), (rear, "rear")):
        assert node.kwargs["namespace"] == namespace
        assert node.kwargs["remappings"] == []  # left/image_rect in its namespace
        parameters = {"model": "sgbm", "max_disparity": 48, "use_sim_time": True}
        assert node.kwargs["parameters"][1] == parameters


@pytest.mark.parametrize(
    ("given", "topic"),
    [
        ({"camera": "zed"}, "/rear/zed_node/left/color/rect/image"),
        ({"camera": "realsense"}, "/rear/rear/infra1/image_rect_raw"),
        ({"camera": "oak"}, "/rear/left/image_raw"),
        ({"camera": "realsense", "driver_namespace": "/robot/{}"}, "/robot/rear/infra1/image_rect_raw"),
    ],
)
def test_each_camera_has_its_driver(launch_file: Any, given: dict[str, str], topic: str) -> None:
    front, rear = started(launch_file, namespaces="front,rear", **given)
    assert remapped(rear)["left/image_rect"] == topic
    assert remapped(front)["left/image_rect"] == topic.replace("rear", "front")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"namespaces": " , "}, "must name each camera once"),
        ({"namespaces": "front,front"}, "must name each camera once"),
        ({"namespaces": "a,b", "camera": "zed", "driver_namespace": "/zed"}, "is the same for all cameras"),
        ({"namespaces": "a,b", "camera": "kitti"}, "is the same for all cameras"),
    ],
)
def test_cameras_that_cannot_be_told_apart_are_refused(launch_file: Any, given: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        launch_file("multi_stereo", **given)


def test_parameters_that_were_given_override_the_file(launch_file: Any) -> None:
    (node,) = nodes(launch_file("stereo_depth", model="sgbm", mono_weights="/w.safetensors", log_level="debug"))
    assert node.kwargs["parameters"][1] == {"model": "sgbm", "mono_weights": "/w.safetensors"}
    assert node.kwargs["arguments"] == ["--ros-args", "--log-level", "debug"]


@pytest.mark.parametrize(
    ("name", "argument"),
    [("data_logger", "use_sim_time"), ("stereo_depth", "launch_image_proc"), ("replay_evaluation", "loop")],
)
def test_a_word_that_is_neither_yes_nor_no_is_refused(
    launch_file: Any, tmp_path: Path, name: str, argument: str
) -> None:
    with pytest.raises(ValueError, match=f"{argument}:=yes says neither yes nor no: give true or false"):
        launch_file(name, **{argument: "yes", "bag": str(tmp_path), "out": str(tmp_path)})


def test_a_former_or_misspelt_argument_is_refused_with_the_right_name(launch_file: Any) -> None:
    with pytest.raises(ValueError, match=r"'left' is now 'left_namespace'.*'right' is now 'right_namespace'"):
        launch_file("data_logger", left="/camera/left", right="/camera/right")
    with pytest.raises(ValueError, match="'modelx'.*'model'"):
        launch_file("stereo_depth", modelx="sgbm")
    with pytest.raises(ValueError, match="'max_depth' is a parameter.*config/stereo_depth.yaml.*params_file:="):
        launch_file("stereo_depth", max_depth="40.0")
    launch_file("stereo_depth", map_file="of a launch file that was started before")
    # Those of a file that includes this one are none of ours, whatever they are called.
    launch_file("stereo_depth", included=True, modelx="sgbm", left="wheel", max_depth="40.0")


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


@pytest.mark.parametrize("name", ["stereo_depth", "multi_stereo", "data_logger", "replay_evaluation"])
@pytest.mark.usefixtures("launch_file")
def test_a_launch_file_changes_nothing_for_what_is_started_beside_it(repository: Path, name: str) -> None:
    """An included launch file is no scope: what it sets in the environment holds for every later process."""
    kinds = [type(action).__name__ for action in describe(repository, name).args[0]]
    assert set(kinds) == {"DeclareLaunchArgument", "OpaqueFunction"}


def environments(actions: list[Recorded]) -> list[dict[str, str]]:
    """What the processes among these actions have in their environment beside that of the launch."""
    return [a.kwargs["additional_env"] for a in actions if "executable" in a.kwargs or "cmd" in a.kwargs]


@pytest.mark.parametrize("discovery", ["LOCALHOST", "SUBNET"])
@pytest.mark.parametrize(("name", "given", "processes"), [
    ("stereo_depth", {"rviz": "true"}, 2), ("data_logger", {}, 1),
    ("replay_evaluation", {"player": "own"}, 5), ("replay_evaluation", {"player": "ros2bag"}, 5),
])  # fmt: skip
def test_every_process_gets_the_range_of_its_messages_and_the_shared_memory_profile(
    launch_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, discovery: str, name: str,
    given: dict[str, str], processes: int,
) -> None:  # fmt: skip
    for variable in ("RMW_IMPLEMENTATION", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("ament_index_python.packages.get_package_prefix", lambda name: "/opt/ros")
    monkeypatch.setattr("ament_index_python.packages.get_package_share_directory", lambda name: str(tmp_path))
    if name == "replay_evaluation":
        kinds = {"/left/image": IMAGE, "/right/image": IMAGE, "/left/camera_info": INFO, "/right/camera_info": INFO}
        bag = bag_of(tmp_path / "bag", kinds)
        given = {**given, "bag": str(bag), "out": str(tmp_path / "out")}
    actions = launch_file(name, discovery=discovery, **given)
    if name == "replay_evaluation":
        actions += [player_of(actions)]
    found = environments(actions)
    assert len(found) == processes
    for environment in found:
        assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == discovery
        assert "ROS_LOCALHOST_ONLY" not in environment
        assert environment["FASTDDS_DEFAULT_PROFILES_FILE"].endswith("config/fastdds_shm.xml")


def player_of(actions: list[Recorded]) -> Recorded:
    """The player, which the launch file of the evaluation starts when all nodes are active."""
    targets = [a.args[0].kwargs["target_action"] for a in actions if type(a).__name__ == "RegisterEventHandler"]
    (player,) = [target for target in targets if target not in actions]
    return player


def test_a_profile_of_the_users_own_is_left_alone(launch_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/my.xml")
    assert environments(launch_file("stereo_depth")) == [{"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}]


@pytest.mark.parametrize(("discovery", "only"), [("LOCALHOST", "1"), ("OFF", "1"), ("SUBNET", "0")])
def test_on_humble_messages_stay_on_this_machine_too(
    launch_file: Any, monkeypatch: pytest.MonkeyPatch, discovery: str, only: str
) -> None:
    """Humble does not know the discovery range."""
    monkeypatch.setenv("ROS_DISTRO", "humble")
    (environment,) = environments(launch_file("stereo_depth", discovery=discovery))
    assert environment["ROS_LOCALHOST_ONLY"] == only


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


def test_the_topics_of_the_evaluated_bag_can_be_named(
    launch_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that say nothing of a side, as `fg-depth replay-live --left ... --right ...` takes them."""
    monkeypatch.setattr("ament_index_python.packages.get_package_share_directory", lambda name: str(tmp_path))
    kinds = {"/eye/a": IMAGE, "/eye/b": IMAGE, "/calib/a": INFO, "/calib/b": INFO}
    bag = bag_of(tmp_path / "bag", kinds)
    given = {"bag": str(bag), "out": str(tmp_path / "out"), "player": "own"}
    with pytest.raises(FileError, match="no pair of image topics can be identified by name"):
        launch_file("replay_evaluation", **given)
    topics = {"left": "/eye/a", "right": "/eye/b", "left_info": "/calib/a", "right_info": "/calib/b"}
    actions = launch_file("replay_evaluation", **given, **topics)
    nodes = {a.kwargs["executable"]: a.kwargs for a in actions if "executable" in a.kwargs}
    wanted = [
        ("left/image_rect", "/eye/a"), ("right/image_rect", "/eye/b"),
        ("left/camera_info", "/calib/a"), ("right/camera_info", "/calib/b"),
    ]  # fmt: skip
    assert nodes["stereo_depth_node"]["remappings"] == nodes["replay_evaluator_node"]["remappings"] == wanted
