"""The ROS nodes: parameters, synchronising, messages, diagnostics. The only room, with `compat`, that knows ROS."""
