"""The ROS nodes, one package each, and what they share (``common``)."""
