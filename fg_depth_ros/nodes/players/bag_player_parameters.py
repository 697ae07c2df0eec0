"""The parameters of bag_player_node."""

from __future__ import annotations

from fg_depth_ros.nodes.common.parameters import NO_NAMES, Parameter, ParameterTable

BAG_PLAYER = ParameterTable(
    "bag_player_node",
    "Plays ROS 2 bags (MCAP or SQLite) on the topics that they were recorded from, where there is no `ros2 bag play`.",
    (
        Parameter(
            "bags",
            NO_NAMES,
            "Bags, or folders of bags, played one after the other.",
            run_time=False,
        ),
        Parameter(
            "topics",
            NO_NAMES,
            "Play these topics only, named as in the bag. Empty: all.",
            run_time=False,
        ),
        Parameter("rate", 1.0, "How many times as fast as it was recorded.", "", 0.01, 100.0, run_time=False),
        Parameter("loop", False, "Start again after the last message.", run_time=False),
        Parameter(
            "publish_clock",
            True,
            "Publish the recording's time on `/clock`, 40 times a second and before each message.",
            run_time=False,
        ),
        Parameter(
            "restart_clock",
            True,
            "`/clock` follows the recording back when it starts again, or when the next bag is an older one, as stamps "
            "do. Without it, `/clock` never goes back, and stamps fall behind it.",
            run_time=False,
        ),
        Parameter(
            "count",
            0,
            "End after this many messages; 0 plays to the end.",
            minimum=0,
            maximum=1_000_000_000,
            run_time=False,
        ),
        Parameter(
            "wait_for_subscribers",
            0,
            "Play nothing before each of the image and camera_info topics of the stereo pair has this many subscribers "
            "(each topic that is played, where there is no pair).",
            minimum=0,
            maximum=100,
            run_time=False,
        ),
        Parameter(
            "wait_timeout", 0.0, "Give up waiting after this long; 0 waits on.", "s", 0.0, 86400.0, run_time=False
        ),
    ),
)
