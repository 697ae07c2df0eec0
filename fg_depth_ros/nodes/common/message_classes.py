"""Message classes by the name of their type."""

from __future__ import annotations

import importlib
from typing import Any


def message_class(name: str) -> Any:
    """Return the Python class of a type such as ``sensor_msgs/msg/Image``.

    Raises ValueError, with the remedy, if it is not installed.
    """
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError, TypeError) as error:  # the last for a name that names no package
        way_out = f"install or source {package} (apt install ros-$ROS_DISTRO-{package.replace('_', '-')})"
        raise ValueError(f"its type {name} cannot be imported ({error}): {way_out}") from error
