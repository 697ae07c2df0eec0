"""Run the player nodes: stereo pairs or bags on ROS topics."""
