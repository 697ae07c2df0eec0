"""Nodes as processes that a player feeds: started, waited for by their state, and ended in order.

No ROS import: the parent of the nodes is no node. It learns their states from ``apps.node_status``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fg_depth_ros.apps.node_status import NodeStatusMonitor
from fg_depth_ros.apps.processes import Child, ProcessGroup

MODULES = {
    "stereo_depth_node": "fg_depth_ros.nodes.stereo_depth.node",
    "data_logger_node": "fg_depth_ros.nodes.data_logger.node",
    "replay_evaluator_node": "fg_depth_ros.nodes.evaluator.node",
    "stereo_player_node": "fg_depth_ros.nodes.players.stereo_player",
    "bag_player_node": "fg_depth_ros.nodes.players.bag_player",
}
"""Module that runs each node of the package, by the name of node and executable."""
START_SECONDS = 90.0  # importing torch and reading weights from a cold disk on a busy machine
SUBSCRIBER_SECONDS = 60.0  # until the nodes and the player have found each other


def check_playing(rate: float, seconds: float = 1.0) -> None:
    """Raise ValueError, with the remedy, for pairs per second, or a time, that nothing can be played for."""
    if not 0.01 <= rate <= 1000.0:
        raise ValueError(f"rate = {rate:g} Hz: give a rate from 0.01 to 1000")
    if not 0.0 < seconds <= 86400.0:
        raise ValueError(f"seconds = {seconds:g}: give seconds above 0, and 86400 (a day) at most")


class ExperimentError(RuntimeError):
    """The experiment cannot continue; the message says why and what to do."""


@dataclass(frozen=True)
class NodeProcess:
    """A node of this package: its executable, parameters and remappings (name in the node, topic)."""

    executable: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    remappings: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Run:
    """A running experiment: its processes by executable, and what the nodes report."""

    group: ProcessGroup
    children: Mapping[str, Child]
    monitor: NodeStatusMonitor


@dataclass(frozen=True)
class Experiment:
    """Nodes and player of an experiment."""

    nodes: Sequence[NodeProcess]  # started first; each reports ``state`` on /diagnostics
    player: NodeProcess  # started when all nodes are active; it waits for its subscribers by itself
    seconds: float  # longest time from the start of the player to the end
    what: str  # name of the experiment, for messages

    def run(
        self, group: ProcessGroup, is_finished: Callable[[Run], bool],
        on_status: Callable[[str], None] = lambda text: None, may_end: Sequence[str] = (),
    ) -> Run:  # fmt: skip
        """Start everything and wait for the end.

        Args:
            group: owns the processes; the caller stops it.
            is_finished: called several times a second from the start of the player on.
            on_status: called with a line for people before the nodes are active.
            may_end: executables, in addition to the player's, that may end with code 0.

        Raises:
            ExperimentError: a node refuses its configuration.
            ChildDied, ChildTimeout: a process ended, or something did not happen in time.
        """
        monitor = NodeStatusMonitor()
        group.start("node_status", "fg_depth_ros.apps.node_status", on_line=monitor.on_line)
        children = {node.executable: self._start(group, node) for node in self.nodes}
        on_status("starting")

        def are_active() -> bool:
            self._check(monitor)
            return all(monitor.is_active(node.executable) for node in self.nodes)

        names = " and ".join(node.executable for node in self.nodes)
        group.wait_until(are_active, START_SECONDS, f"{names} to be active")
        children[self.player.executable] = self._start(group, self.player)
        run = Run(group, children, monitor)
        ending = tuple(children[name] for name in (*may_end, self.player.executable))

        def has_ended() -> bool:
            self._check(monitor)
            return is_finished(run)

        group.wait_until(has_ended, self.seconds, self.what, may_end=ending, poll=0.1)
        group.check(may_end=ending)
        return run

    def _start(self, group: ProcessGroup, node: NodeProcess) -> Child:
        remaps = [word for name, topic in node.remappings for word in ("-r", f"{name}:={topic}")]
        return group.start(node.executable, MODULES[node.executable], node.parameters, ros_args=remaps)

    def _check(self, monitor: NodeStatusMonitor) -> None:
        for node in self.nodes:
            if (refusal := monitor.refusal(node.executable)) is not None:
                raise ExperimentError(f"{node.executable}: {refusal}")
