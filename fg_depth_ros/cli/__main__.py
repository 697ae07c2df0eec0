"""``python -m fg_depth_ros.cli``, as torchrun wants it."""

from fg_depth_ros.cli import main

main()
