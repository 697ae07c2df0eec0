"""Arguments and actions that the launch files share. For launch files: imports ``launch``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration

from fg_depth_ros.nodes.common.environment import use_shared_memory_profile
from fg_depth_ros.resources import resource_path

_DISCOVERY = "ROS_AUTOMATIC_DISCOVERY_RANGE"

Arguments = Mapping[str, tuple[str | None, str]]
"""Name -> (default, description); a default of None makes the argument mandatory."""

CAMERA: Arguments = {
    "namespace": ("", "Namespace of the node and of its topics."),
    "left_namespace": ("left", "Prefix of the left camera's topics: <prefix>/image_rect and <prefix>/camera_info."),
    "right_namespace": ("right", "Prefix of the right camera's topics."),
    "left_image": ("", "Left image topic, where it is not <left_namespace>/image_rect."),
    "right_image": ("", "Right image topic, where it is not <right_namespace>/image_rect."),
}
NODE: Arguments = {
    "use_sim_time": ("false", "Take the time from /clock, for recordings."),
    "log_level": ("info", "debug, info, warn or error."),
}
NETWORK: Arguments = {
    "discovery": (
        os.environ.get(_DISCOVERY) or "LOCALHOST",
        f"{_DISCOVERY} of the nodes: LOCALHOST keeps all messages on this machine, SUBNET lets others see them.",
    ),
}
MODELS: Arguments = {
    "model": ("", "Parameter model (flownet_stereo or sgbm); empty: as in the parameter file."),
    "depth_weights": ("", "Parameter depth_weights; empty: as in the parameter file."),
    "engine": ("", "Parameter engine (auto, torch, openvino, onnxruntime or tensorrt); empty: as in the file."),
    "precision": ("", "Parameter precision (auto, float32, bfloat16 or float16); empty: as in the file."),
    "mono_weights": ("", "Parameter mono_weights; empty: as in the parameter file."),
}
RENAMED = {"left": "left_namespace", "right": "right_namespace"}


def parameter_file(node: str) -> Arguments:
    """Return the argument ``params_file`` for ``config/<node>.yaml``."""
    return {"params_file": (str(resource_path(f"config/{node}.yaml")), "Parameter file of the node.")}


def declare(arguments: Arguments) -> list[DeclareLaunchArgument]:
    """Return the actions that declare ``arguments``."""
    return [
        DeclareLaunchArgument(name, description=text, **({} if default is None else {"default_value": default}))
        for name, (default, text) in arguments.items()
    ]


def values(context: Any, arguments: Arguments) -> dict[str, str]:
    """Return the value of each argument.

    Raises ValueError: an argument was given under its former name, or under a name that resembles a declared one; the
    parameter file does not exist, with which a node would start with its defaults.
    """
    given = set(context.launch_configurations) - set(arguments)
    problems = [problem for name in sorted(given) if (problem := _unknown(name, arguments)) is not None]
    found = {name: LaunchConfiguration(name).perform(context) for name in arguments}
    if "params_file" in found and not os.path.isfile(found["params_file"]):
        problems.append(f"params_file '{found['params_file']}' does not exist; name a file, or leave it out")
    if problems:
        raise ValueError("; ".join(problems))
    return found


def camera_remappings(value: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the remappings of a node's four inputs for the values of CAMERA."""
    remappings = []
    for side in ("left", "right"):
        prefix = value[f"{side}_namespace"]
        remappings += [
            (f"{side}/image_rect", value[f"{side}_image"] or f"{prefix}/image_rect"),
            (f"{side}/camera_info", f"{prefix}/camera_info"),
        ]
    return [(name, topic) for name, topic in remappings if name != topic]


def parameters(value: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
    """Return the parameters of a node: those of ``names`` that were given, and use_sim_time."""
    return {
        **{name: value[name] for name in names if value[name]},
        "use_sim_time": value["use_sim_time"].lower() in ("true", "1"),
    }


def require_package(name: str, argument: str) -> None:
    """Raise ValueError, with the way out, unless a ROS package is installed that a launch argument asks for."""
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


def environment() -> list[SetEnvironmentVariable]:
    """Return the actions that keep messages on this machine, unless ``discovery`` says otherwise, and whole.

    Fast DDS is pointed to the package's profile: its defaults lose most images.
    """
    changed = dict(os.environ)
    use_shared_memory_profile(changed)
    profile = [SetEnvironmentVariable(*item) for item in sorted(changed.items() - os.environ.items())]
    return [SetEnvironmentVariable(_DISCOVERY, LaunchConfiguration("discovery")), *profile]


def _unknown(name: str, arguments: Arguments) -> str | None:
    """Return what is wrong with an argument that is not declared here; None where another launch file may own it."""
    if RENAMED.get(name) in arguments:
        return f"launch argument '{name}' is now '{RENAMED[name]}'"
    similar = difflib.get_close_matches(name, arguments, n=1, cutoff=0.8)
    return f"unknown launch argument '{name}': did you mean '{similar[0]}'?" if similar else None
