"""Run a node as a process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from fg_depth_ros.nodes.common.environment import use_shared_memory_profile
from fg_depth_ros.nodes.common.shared_memory import remove_abandoned

NodeT = TypeVar("NodeT", bound=Node)


def run_node(
    name: str,
    make: Callable[[], NodeT],
    spin: Callable[[NodeT, SingleThreadedExecutor], None],
    args: list[str] | None,
    *,
    refusals: tuple[type[Exception], ...] = (),
    handlers: SignalHandlerOptions = SignalHandlerOptions.ALL,
) -> bool:
    """Make a node and spin it until ``spin`` returns, Ctrl-C or shutdown; then destroy it.

    ``refusals``: errors of ``make`` that end the process with one line of the logger ``name``; then False is returned,
    as for arguments and parameter files that ROS cannot parse. ``args``: of the command line; None = the process's own.
    ``handlers``: of signals, that rclpy installs.
    """
    use_shared_memory_profile()
    remove_abandoned()
    try:
        rclpy.init(args=args, signal_handler_options=handlers)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        rclpy.logging.get_logger(name).fatal(
            f"not started: {text}; correct the arguments after --ros-args, or the parameter file"
        )
        return False
    node = None
    try:
        node = make()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        spin(node, executor)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except refusals as error:
        rclpy.logging.get_logger(name).fatal(str(error))
        return False
    finally:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would cut the cleaning up short
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        signal.signal(signal.SIGINT, before)
    return True
