"""Message classes by the name of their type."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def message_class(name: str) -> Any:
    """Return the Python class of a type such as ``sensor_msgs/msg/Image``, as the graph of ROS names it.

    Those of services and actions, too: ``std_srvs/srv/Trigger_Event``, ``nav2_msgs/action/Spin_FeedbackMessage``.
    Raises ValueError, with the remedy, if it is not installed.
    """
    package, _, rest = name.partition("/")
    kind, _, symbol = rest.partition("/")
    try:
        module = importlib.import_module(f"{package}.{kind}")
        if "_" in symbol:  # a part of a service or action, which the module that defines it has
            module = sys.modules[getattr(module, symbol.partition("_")[0]).__module__]
        return getattr(module, symbol)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # for a name that names no package
        way_out = f"install or source {package} (apt install ros-$ROS_DISTRO-{package.replace('_', '-')})"
        raise ValueError(f"its type {name} cannot be imported ({error}): {way_out}") from error
