"""Image encodings for the drop-ins; they need no ROS and live in ``fg_depth_ros.data.io.encodings``."""

from __future__ import annotations

from fg_depth_ros.data.io.encodings import EncodingError, Layout, convert, generic_name, layout, scaled_to_uint8, view

__all__ = ["EncodingError", "Layout", "convert", "generic_name", "layout", "scaled_to_uint8", "view"]
