"""Entry points of the nodes' console scripts: Ctrl-C during the imports ends a node without a traceback."""

from __future__ import annotations

import signal
from importlib import import_module


def stereo_depth() -> int:
    """Run stereo_depth_node."""
    return _run("stereo_depth.node")


def data_logger() -> int:
    """Run data_logger_node."""
    return _run("data_logger.node")


def stereo_player() -> int:
    """Run stereo_player_node."""
    return _run("players.stereo_player")


def bag_player() -> int:
    """Run bag_player_node."""
    return _run("players.bag_player")


def replay_evaluator() -> int:
    """Run replay_evaluator_node."""
    return _run("evaluator.node")


def _run(module: str) -> int:
    """Import a node's module and call its ``main``; until then SIGINT ends the process as it ends a C program."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = import_module(f"fg_depth_ros.nodes.{module}").main
    signal.signal(signal.SIGINT, before)
    return int(main())
