"""Play a bag into stereo_depth_node and judge what comes out: accuracy, latency, drops and rates.

ros2 launch fg_depth_ros replay_evaluation.launch.py bag:=recordings/drive out:=evaluation
"""

import os
import shutil
import signal
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import Shutdown, matches_action
from launch.events.process import SignalProcess
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from fg_depth_ros.apps.live_replay import LAST_ANSWERS_SECONDS, BagInputs
from fg_depth_ros.apps.session import START_SECONDS
from fg_depth_ros.nodes.common.environment import use_shared_memory_profile

SHARE = Path(get_package_share_directory("fg_depth_ros"))
TIMEOUT = 3.0  # s; a pair without depth after this long is dropped
DISCOVERY = 3.0  # s that `ros2 bag play` gives the nodes to find its topics
READY = "active with "  # what the depth node says when it has loaded its model
REFUSED = "not configured: "  # and when it could not

ARGUMENTS = {
    "bag": (None, "The recording: a bag's folder, or one .mcap or .db3 file."),
    "out": ("replay_evaluation", "Folder for report.json and report.html."),
    "rate": ("1.0", "How many times as fast as it was recorded."),
    "loop": ("false", "Play it again and again, until Ctrl-C."),
    "player": ("auto", "ros2bag, own, or auto: `ros2 bag play` where rosbag2 is installed."),
    "params_file": (str(SHARE / "config" / "stereo_depth.yaml"), "Parameter file of the depth node."),
    "model": ("", "Parameter model (flownet_stereo or sgbm); empty: as in the parameter file."),
    "depth_weights": ("", "Parameter depth_weights; empty: as in the parameter file."),
    "mono_weights": ("", "Parameter mono_weights; empty: as in the parameter file."),
    "log_level": ("info", "debug, info, warn or error. The depth node stays at info: it says when it is ready."),
}


def start(context):
    """The nodes, once the arguments are known: the player follows when the depth node is ready."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    bag, out = Path(value["bag"]).resolve(), Path(value["out"]).absolute()
    inputs = BagInputs.of(value["bag"])
    report, page = out / "report.json", out / "report.html"
    for older in (report, page):  # one would pass for this one's
        older.unlink(missing_ok=True)
    simulated = {"use_sim_time": True}
    settings = {name: value[name] for name in ("model", "depth_weights", "mono_weights") if value[name]}
    settings["image_transport"] = "compressed" if inputs.compressed else "raw"
    common = {"package": "fg_depth_ros", "remappings": inputs.remaps(), "output": "screen"}
    depth = Node(
        executable="stereo_depth_node",
        name="stereo_depth_node",
        parameters=[value["params_file"], settings, simulated],
        arguments=log_level("debug" if value["log_level"].lower() == "debug" else "info"),
        **common,
    )
    evaluator = Node(
        executable="replay_evaluator_node",
        name="replay_evaluator_node",
        parameters=[
            {
                "account": "camera_info",
                "truth": inputs.truth,
                "timeout": TIMEOUT,
                "patience": START_SECONDS + 30.0,
                "set_name": bag.stem if bag.is_file() else bag.name,
                "report": str(report),
                "page": str(page),
            },
            simulated,
        ],
        arguments=log_level(value["log_level"]),
        # It writes its report before it ends, which may take longer than launch waits by itself.
        sigterm_timeout="60",
        sigkill_timeout="10",
        **common,
    )
    player = play(value, inputs.subscribers)
    begun, failures = [], []

    def begin(event):
        text = event.text.decode(errors="replace")
        if REFUSED in text:
            raise RuntimeError("the depth node was " + text[text.index(REFUSED) :].splitlines()[0])
        if READY in text and not begun:
            begun.append(True)
            return [player]
        return None

    def ended(event, context):
        """The evaluator's end, and any other node's before it, ends the launch; failures give it exit status 1."""
        if context.is_shutdown:
            return None
        if event.returncode:
            failures.append(f"{event.process_name} ended with exit status {event.returncode}")
        if event.action is player:
            return [end]
        if failures:
            raise RuntimeError("; ".join(failures))
        return [EmitEvent(event=Shutdown(reason=f"{event.process_name} ended"))]

    # When the recording is at its end, what is under way may still come; then the evaluator writes its report.
    end = TimerAction(
        period=TIMEOUT + LAST_ANSWERS_SECONDS,
        actions=[
            EmitEvent(event=SignalProcess(signal_number=signal.SIGINT, process_matcher=matches_action(evaluator)))
        ],
    )
    handlers = [
        OnProcessIO(target_action=depth, on_stdout=begin, on_stderr=begin),
        *(OnProcessExit(target_action=action, on_exit=ended) for action in (player, evaluator, depth)),
    ]
    return [*(RegisterEventHandler(handler) for handler in handlers), depth, evaluator]


def log_level(level):
    """Arguments of a node."""
    return ["--ros-args", "--log-level", level]


def play(value, subscribers):
    """What plays the bag."""
    loop = value["loop"].lower() in ("true", "1")
    try:
        rate = float(value["rate"])
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise ValueError(f"rate:={value['rate']} is no speed: give a number above 0, such as rate:=0.5")
    if value["player"] not in ("auto", "ros2bag", "own"):
        raise ValueError(f"player:={value['player']} is unknown: choose auto, ros2bag or own")
    if value["player"] == "ros2bag" or (value["player"] == "auto" and has_rosbag2()):
        words = ["ros2", "bag", "play", value["bag"], "--clock", "40", "--rate", value["rate"]]
        words += ["--delay", str(DISCOVERY), *(["--loop"] if loop else [])]
        return ExecuteProcess(cmd=words, name="ros2_bag_play", output="screen")
    return Node(
        package="fg_depth_ros",
        executable="bag_player_node",
        name="bag_player_node",
        parameters=[
            {
                "bags": [str(Path(value["bag"]).absolute())],
                "rate": rate,
                "loop": loop,
                "wait_for_subscribers": subscribers,
                "wait_timeout": 30.0,
                "use_sim_time": True,
            }
        ],
        arguments=log_level(value["log_level"]),
        output="screen",
    )


def has_rosbag2():
    """Whether `ros2 bag play` is there."""
    try:
        get_package_share_directory("ros2bag")
    except LookupError:  # PackageNotFoundError
        return False
    return shutil.which("ros2") is not None


def generate_launch_description():
    """Everything `ros2 launch` needs to know."""
    actions = [
        DeclareLaunchArgument(name, description=text, **({} if default is None else {"default_value": default}))
        for name, (default, text) in ARGUMENTS.items()
    ]
    # For `ros2 bag play`, too: Fast DDS's defaults lose most images.
    environment = dict(os.environ)
    if use_shared_memory_profile(environment):
        changed = environment.items() - os.environ.items()
        actions += [SetEnvironmentVariable(name, value) for name, value in sorted(changed)]
    return LaunchDescription([*actions, OpaqueFunction(function=start)])
