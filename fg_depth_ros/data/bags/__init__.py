"""Read, check and write ROS 2 bags without ROS."""
