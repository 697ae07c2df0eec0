"""Play a bag into stereo_depth_node and evaluate its outputs: accuracy, latency, drops and rates.

ros2 launch fg_depth_ros replay_evaluation.launch.py bag:=recordings/drive out:=evaluation
"""

import shutil
import signal
import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import EmitEvent, ExecuteProcess, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown, matches_action
from launch.events.process import SignalProcess
from launch_ros.actions import Node

from fg_depth_ros.apps import launch_arguments as shared
from fg_depth_ros.apps.experiment import START_SECONDS
from fg_depth_ros.apps.live_evaluation import SHARED_PARAMETERS, BagsEvaluation
from fg_depth_ros.data.bags.pairs import BagTopics

DISCOVERY = 3.0  # s that `ros2 bag play` gives the nodes to find its topics

ARGUMENTS = {
    "bag": (None, "The recording: a bag's folder, or one .mcap or .db3 file."),
    "out": ("replay_evaluation", "Folder for report.json and report.html."),
    "rate": ("1.0", "How many times as fast as it was recorded."),
    "loop": ("false", "Play it again and again, until Ctrl-C."),
    "player": ("auto", "ros2bag, own, or auto: `ros2 bag play` where rosbag2 is installed."),
    "left": ("", "Topic of the left images in the bag, raw or compressed; empty: found by name."),
    "right": ("", "Topic of the right images in the bag; empty: found by name."),
    "left_info": ("", "Topic of the left camera_info in the bag; empty: next to the left images."),
    "right_info": ("", "Topic of the right camera_info in the bag; empty: next to the right images."),
    **shared.parameter_file("stereo_depth"),
    **shared.MODELS,
    "log_level": shared.NODE["log_level"],
    **shared.NETWORK,
}


def start(context):
    """Start the nodes; the player follows when both are active."""
    value = shared.values(context, ARGUMENTS, __file__)
    out = Path(value["out"]).absolute()
    depth = shared.from_file(value["params_file"], "stereo_depth_node", SHARED_PARAMETERS)
    depth |= {name: value[name] for name in shared.MODELS if value[name]}
    loop = shared.is_true(value, "loop")
    topics = {name: value[name] for name in BagTopics._fields if value[name]}
    evaluation = BagsEvaluation([value["bag"]], out, rate=speed(value["rate"]), loop=loop, depth=depth, topics=topics)
    experiment = evaluation.experiment()
    for older in (evaluation.report, evaluation.report.with_suffix(".html")):  # must not pass for this one's
        older.unlink(missing_ok=True)
    nodes = {
        process.executable: node(
            process,
            value,
            [value["params_file"]] if process.executable == "stereo_depth_node" else [],
            # The evaluator writes its report before it ends, which may take longer than launch waits by itself.
            sigterm_timeout="60",
            sigkill_timeout="10",
        )
        for process in experiment.nodes
    }
    player = play(value, experiment.player)
    command = [sys.executable, "-m", "fg_depth_ros.apps.node_status", "--timeout", str(START_SECONDS)]
    waits = [
        ExecuteProcess(
            cmd=[*command, name, "state=active"],
            name=f"wait_for_{name}",
            additional_env=shared.environment(value),
            output="screen",
        )
        for name in nodes
    ]
    active, failures = [], []

    def waited(event, context):
        """Start the player when every node is active."""
        if context.is_shutdown:
            return None
        if event.returncode:
            raise RuntimeError(f"{event.process_name}: its node is not active; see above")
        active.append(event.process_name)
        return [player] if len(active) == len(waits) else None

    def ended(event, context):
        """End the launch with the evaluator, or with any other node that ends before; failures give exit status 1."""
        if context.is_shutdown:
            return None
        if event.returncode:
            failures.append(f"{event.process_name} ended with exit status {event.returncode}")
        if event.action is player:
            return [end]
        if failures:
            raise RuntimeError("; ".join(failures))
        return [EmitEvent(event=Shutdown(reason=f"{event.process_name} ended"))]

    # The evaluator waits for the depth of the pairs that were sent, writes its report and ends.
    matcher = matches_action(nodes["replay_evaluator_node"])
    end = EmitEvent(event=SignalProcess(signal_number=signal.SIGINT, process_matcher=matcher))
    handlers = [
        *(OnProcessExit(target_action=action, on_exit=waited) for action in waits),
        *(OnProcessExit(target_action=action, on_exit=ended) for action in (player, *nodes.values())),
    ]
    return [*(RegisterEventHandler(handler) for handler in handlers), *nodes.values(), *waits]


def node(process, value, parameter_files=(), **options):
    """Make the action that runs a node of the package."""
    return Node(
        package="fg_depth_ros",
        executable=process.executable,
        name=process.executable,
        parameters=[*parameter_files, dict(process.parameters)],
        remappings=list(process.remappings),
        arguments=shared.log_level(value["log_level"]),
        additional_env=shared.environment(value),
        output="screen",
        **options,
    )


def speed(text):
    """Parse the argument `rate`."""
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise ValueError(f"rate:={text} is no speed: give a number above 0, such as rate:=0.5")
    return rate


def play(value, player):
    """Make the action that plays the bag; `player` is this package's own."""
    if value["player"] not in ("auto", "ros2bag", "own"):
        raise ValueError(f"player:={value['player']} is unknown: choose auto, ros2bag or own")
    if value["player"] == "own" or (value["player"] == "auto" and not has_rosbag2()):
        return node(player, value)
    words = ["ros2", "bag", "play", value["bag"], "--clock", "40", "--rate", value["rate"]]
    words += ["--delay", str(DISCOVERY), *(["--loop"] if player.parameters["loop"] else [])]
    return ExecuteProcess(cmd=words, name="ros2_bag_play", additional_env=shared.environment(value), output="screen")


def has_rosbag2():
    """Return whether `ros2 bag play` is installed."""
    try:
        get_package_share_directory("ros2bag")
    except LookupError:  # PackageNotFoundError
        return False
    return shutil.which("ros2") is not None


def generate_launch_description():
    """Return the launch description."""
    return LaunchDescription([*shared.declare(ARGUMENTS), OpaqueFunction(function=start)])
