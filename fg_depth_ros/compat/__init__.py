"""Stand-in for the ROS package message_filters, which cannot be had as a wheel."""

from __future__ import annotations

import importlib
from types import ModuleType


def load_message_filters() -> ModuleType:
    """Import ROS's message_filters, or ``compat.message_filters`` where it is not installed."""
    try:
        return importlib.import_module("message_filters")
    except ImportError:
        return importlib.import_module("fg_depth_ros.compat.message_filters")
