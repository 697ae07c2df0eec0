"""How a node that plays something runs: until the end of what it plays, Ctrl-C or shutdown."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from fg_depth_ros.data.io.formats import FileError
from fg_depth_ros.geometry import RigError
from fg_depth_ros.nodes.common.environment import use_shared_memory_profile


def play(name: str, make: Callable[[], Any], args: list[str] | None) -> int:
    """Run a player; returns the exit code: 1 when nothing could be played.

    Args:
        name: whose log tells why it cannot be made.
        make: the node, with ``finished``, ``failure`` and ``wait_until_taken(seconds)``. FileError, RigError and
            ValueError end it with one line.
        args: of the command line; None = the process's own.
    """
    use_shared_memory_profile()
    rclpy.init(args=args)
    node = None
    try:
        node = make()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not node.finished:
            executor.spin_once(timeout_sec=0.1)
        node.wait_until_taken(2.0)
        # Best-effort subscribers acknowledge nothing: give the last messages time to be read.
        time.sleep(0.5)
        return 1 if node.failure else 0
    except (FileError, RigError, ValueError) as error:
        rclpy.logging.get_logger(name).fatal(str(error))
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
