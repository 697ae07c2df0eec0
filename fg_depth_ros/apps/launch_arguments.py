"""Arguments and actions that the launch files share. For launch files: imports ``launch``."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument, LogInfo
from launch.substitutions import LaunchConfiguration

from fg_depth_ros.apps.camera_presets import PRESETS, preset
from fg_depth_ros.data.io.video_packets import split_transport
from fg_depth_ros.nodes.common.environment import (
    DISCOVERY,
    LOCALHOST_ONLY,
    knows_localhost_only,
    use_shared_memory_profile,
)
from fg_depth_ros.resources import resource_path

Arguments = Mapping[str, tuple[str | None, str]]
"""Name -> (default, description); a default of None makes the argument mandatory."""

CAMERA: Arguments = {
    "namespace": ("", "Namespace of the node and of its topics."),
    "camera": ("", f"Topics of a driver or a recording ({', '.join(PRESETS)}); empty: left/ and right/image_rect."),
    "driver_namespace": ("", "Namespace of that driver's topics, where it is not its default."),
    "left_namespace": ("", "Prefix of the left camera's topics, <prefix>/image_rect and <prefix>/camera_info; empty: "
                       "left, or as the camera has it."),
    "right_namespace": ("", "Prefix of the right camera's topics; empty: right, or as the camera has it."),
    "left_image": ("", "Left image topic, where it is another one; camera_info is taken from next to it, in the same "
                    "namespace, if it has one."),
    "right_image": ("", "Right image topic, where it is another one; camera_info is taken from next to it, in the same "
                     "namespace, if it has one."),
    "image_transport": ("", "Parameter image_transport (raw, compressed, ffmpeg or foxglove); empty: as "
                        "left_image ends, or as in the parameter file."),
}  # fmt: skip
NODE: Arguments = {
    "use_sim_time": ("", "true: take the time from /clock, for recordings; empty: as in the parameter file."),
    "log_level": ("info", "debug, info, warn or error."),
}
NETWORK: Arguments = {
    "discovery": (
        os.environ.get(DISCOVERY) or "LOCALHOST",
        f"{DISCOVERY} of the nodes: LOCALHOST keeps all messages on this machine, SUBNET lets others see them.",
    ),
}
MODELS: Arguments = {
    "model": ("", "Parameter model (flownet_stereo, a flow network, sgbm or bm); empty: as in the parameter file."),
    "depth_weights": ("", "Parameter depth_weights; empty: as in the parameter file."),
    "engine": ("", "Parameter engine (auto, torch, openvino, onnxruntime or tensorrt); empty: as in the file."),
    "precision": ("", "Parameter precision (auto, float32, bfloat16, float16 or int8); empty: as in the file."),
    "mono_weights": ("", "Parameter mono_weights; empty: as in the parameter file."),
    "rectify": ("", "Parameter rectify (auto, on or off); empty: as the camera needs it, or as in the file."),
}
_STEREO_IMAGE_PROC_PARAMETERS = (
    "approximate_sync", "use_system_default_qos", "use_color", "avoid_point_cloud_padding", "min_disparity",
    "correlation_window_size", "prefilter_cap", "texture_threshold", "speckle_size", "speckle_range", "disp12_max_diff",
    "uniqueness_ratio", "P1", "P2", "sgbm_mode", "stereo_algorithm", "disparity_range", "prefilter_size", "full_dp",
    "approximate_sync_tolerance_seconds", "queue_size",
)  # fmt: skip
STEREO_IMAGE_PROC: Arguments = {
    **{
        name: ("", f"Parameter {name} of stereo_image_proc; empty: as in the parameter file.")
        for name in _STEREO_IMAGE_PROC_PARAMETERS
    },
    "launch_image_proc": ("", "true: the images are raw, <prefix>/image_raw, and the node rectifies them (parameter "
                          "rectify); false: they are not rectified again."),
    "container": ("", "Accepted for stereo_image_proc's sake: a Python node is a process of its own."),
}  # fmt: skip
"""Further arguments of stereo_image_proc's launch file."""
RENAMED = {"left": "left_namespace", "right": "right_namespace"}


def parameter_file(node: str) -> Arguments:
    """Return the argument ``params_file`` for ``config/<node>.yaml``."""
    return {"params_file": (str(resource_path(f"config/{node}.yaml")), "Parameter file of the node.")}


def from_file(file: str, node: str, names: Collection[str]) -> dict[str, Any]:
    """Return those of the parameters ``names`` that a parameter file has for a node, whatever its namespace.

    Raises ValueError: it is no parameter file.
    """
    found: dict[str, Any] = {}
    try:
        for key, value in yaml.safe_load(Path(file).read_text(encoding="utf-8")).items():
            if key.rpartition("/")[2] in ("**", "*", node):
                found |= {name: value["ros__parameters"][name] for name in names if name in value["ros__parameters"]}
    except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"params_file '{file}' is no parameter file of ROS ({error}); correct it") from error
    return found


def declare(arguments: Arguments) -> list[DeclareLaunchArgument]:
    """Return the actions that declare ``arguments``."""
    return [
        DeclareLaunchArgument(name, description=text, **({} if default is None else {"default_value": default}))
        for name, (default, text) in arguments.items()
    ]


def values(context: Any, arguments: Arguments, file: str) -> dict[str, str]:
    """Return the value of each argument of the launch ``file``.

    Raises ValueError: the parameter file does not exist, with which a node would start with its defaults; where the
    launch file is started, not included in another, whose arguments are here, too: an argument was given under its
    former name, under a name that resembles a declared one, or under that of a parameter.
    """
    given = set(context.launch_configurations) - set(arguments)
    if Path(file).name not in (Path(word).name for word in sys.argv):
        given = set()
    parameter_names = _parameter_names(arguments["params_file"][0]) if given and "params_file" in arguments else set()
    problems = [problem for name in sorted(given) if (problem := _unknown(name, arguments, parameter_names))]
    found = {name: LaunchConfiguration(name).perform(context) for name in arguments}
    if "params_file" in found and not os.path.isfile(found["params_file"]):
        problems.append(f"params_file '{found['params_file']}' does not exist; name a file, or leave it out")
    if problems:
        raise ValueError("; ".join(problems))
    return found


def camera_remappings(value: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the remappings of a node's four inputs for the values of CAMERA. Raises ValueError: an unknown camera."""
    chosen = preset(value["camera"])
    name = "image_raw" if is_true(value, "launch_image_proc") else "image_rect"
    remappings = {}
    for side in ("left", "right"):
        prefix, given = value[f"{side}_namespace"], value[f"{side}_image"]
        image = split_transport(given)[0] or f"{prefix or side}/{name}"
        if chosen is not None and not (prefix or given):
            image = chosen.image(side, value["driver_namespace"])
        remappings[f"{side}/image_rect"] = image
        if beside := prefix or image.rpartition("/")[0]:
            remappings[f"{side}/camera_info"] = f"{beside}/camera_info"
    shared = remappings.get("left/camera_info") == remappings.get("right/camera_info")  # which cannot be of both
    return [
        (name, topic)
        for name, topic in remappings.items()
        if name != topic and not (shared and name.endswith("camera_info"))
    ]


def parameters(value: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
    """Return the parameters of a node: those of its camera, and those of ``names`` and use_sim_time that were given."""
    chosen = preset(value.get("camera", ""))
    named = split_transport(value.get("left_image", ""))[1]
    transport = value.get("image_transport", "") or named.replace("raw", "")
    return {
        **({} if chosen is None else chosen.parameters),
        **({"image_transport": transport} if transport else {}),
        **{name: value[name] for name in names if value[name]},
        **({"use_sim_time": is_true(value, "use_sim_time")} if value["use_sim_time"] else {}),
    }


def stereo_parameters(value: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters of stereo_depth_node for the values of MODELS and STEREO_IMAGE_PROC, and what to say.

    The parameter file has every parameter by its own name, so that other names of them are translated here.
    """
    # Imported late: it takes a second, of which other launch files have no need.
    from fg_depth_ros.nodes.stereo_depth.parameters import STEREO_DEPTH

    known, chosen = STEREO_DEPTH.parameters, preset(value["camera"])
    given = {name: yaml.safe_load(value[name]) for name in _STEREO_IMAGE_PROC_PARAMETERS if value[name]}
    aliased, said = STEREO_DEPTH.resolve({**{name: value[name] for name in MODELS if value[name]}, **given})
    said += [STEREO_DEPTH.unknown(name) for name in given if name not in known and name not in STEREO_DEPTH.aliases]
    rectify = {} if chosen is None else {"rectify": chosen.rectify}
    if value["launch_image_proc"]:
        rectify = {"rectify": "on" if is_true(value, "launch_image_proc") else "off"}
    if value["container"]:
        said.append(f"container:={value['container']} is not used: a Python node is a process of its own")
    own = {name: given[name] for name in given if name in known}
    return {**rectify, **parameters(value, MODELS), **aliased, **own}, said


def log(lines: Iterable[str]) -> list[LogInfo]:
    """Return the actions that log lines."""
    return [LogInfo(msg=line) for line in lines]


def is_true(value: Mapping[str, str], name: str) -> bool:
    """Tell whether an argument says yes; an empty one does not. Raises ValueError: it says neither yes nor no."""
    text = value.get(name, "").lower()
    if text not in ("true", "1", "false", "0", ""):
        raise ValueError(f"{name}:={value[name]} says neither yes nor no: give true or false")
    return text in ("true", "1")


def require_package(name: str, argument: str) -> None:
    """Raise ValueError, with the remedy, unless a ROS package is installed that a launch argument asks for."""
    try:
        get_package_prefix(name)
    except (PackageNotFoundError, OSError):  # the second: no workspace is sourced
        raise ValueError(
            f"{argument} needs the package {name}, which is not installed: install it (apt install "
            f"ros-$ROS_DISTRO-{name.replace('_', '-')}), or leave {argument} out"
        ) from None


def log_level(level: str) -> list[str]:
    """Return the command-line arguments of a node for a log level."""
    return ["--ros-args", "--log-level", level]


def environment(value: Mapping[str, str]) -> dict[str, str]:
    """Return what our processes have in their environment in addition to that of the launch, for ``additional_env``.

    It keeps messages on this machine, unless ``discovery`` says otherwise, and whole: Fast DDS is pointed to the
    package's profile, since its defaults lose most images. Setting it in the launch itself would change it for the
    nodes of others, too: an included launch file is no scope.
    """
    own = {DISCOVERY: value["discovery"]}
    if knows_localhost_only():
        own[LOCALHOST_ONLY] = "0" if value["discovery"] in ("SUBNET", "SYSTEM_DEFAULT") else "1"
    changed = dict(os.environ)
    use_shared_memory_profile(changed)
    return {**own, **dict(changed.items() - os.environ.items())}


def _parameter_names(file: str | None) -> set[str]:
    """Return the names of the parameters in a parameter file of the package, which has all of a node."""
    assert file is not None
    nodes = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    return {name for node in nodes.values() for name in node["ros__parameters"]}


def _unknown(name: str, arguments: Arguments, parameter_names: Collection[str]) -> str | None:
    """Return what is wrong with an argument that is not declared here; None where another launch file may own it."""
    if name in parameter_names:
        return (
            f"'{name}' is a parameter and no launch argument: set it in a copy of {arguments['params_file'][0]}, and "
            "name that file with params_file:="
        )
    if RENAMED.get(name) in arguments:
        return f"launch argument '{name}' is now '{RENAMED[name]}'"
    similar = difflib.get_close_matches(name, arguments, n=1, cutoff=0.8)
    return f"unknown launch argument '{name}': did you mean '{similar[0]}'?" if similar else None
