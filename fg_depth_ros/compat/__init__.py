"""Stand-ins for ROS packages that cannot be had as wheels, used only where the real ones cannot be imported."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

NAMES = ("message_filters", "cv_bridge")


def load(name: str) -> ModuleType:
    """The real ROS package `name` (`message_filters` or `cv_bridge`), or its drop-in where there is none that
    works.

    Raises ValueError for another name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no drop-in for '{name}': there is one for {' and '.join(NAMES)}")
    try:
        module = importlib.import_module(name)
    except ImportError:
        module = None
    if module is not None and (name != "cv_bridge" or _reads_depth(module)):
        return module
    return importlib.import_module(f"{__name__}.{name}")


def _reads_depth(cv_bridge: ModuleType) -> bool:
    """Whether a cv_bridge knows that 16UC1 has 16 bits: there is a wheel of that name that does not."""
    try:
        return tuple(cv_bridge.CvBridge().encoding_to_dtype_with_channels("16UC1")) == ("uint16", 1)
    except Exception:  # built against another NumPy or OpenCV, it fails in many ways
        return False


def install() -> list[str]:
    """Make `import message_filters` and `import cv_bridge` work in this process; returns the drop-ins put in.

    Packages that can be imported stay what they are.
    """
    used = []
    for name in NAMES:
        module = load(name)
        if module.__name__ != name:
            sys.modules[name] = module
            used.append(name)
    return used
