"""The parameters of the player nodes."""

from __future__ import annotations

from fg_depth_ros.data.datasets.stereo import MOTORCYCLE
from fg_depth_ros.geometry.rectification import RECTIFY
from fg_depth_ros.nodes.common.parameters import NO_NAMES, AtStart, ParameterTable
from fg_depth_ros.nodes.players.source import ENCODINGS, NO_WORLD, WORLDS

_WAIT = (
    AtStart("wait_for_subscribers", 0,
            "Play nothing before each of the image and camera_info topics of the stereo pair has this many subscribers "
            "(each topic that is played, if there is no pair).", minimum=0, maximum=100),
    AtStart("wait_for_topics", NO_NAMES,
            "Further topics to wait for, or the same ones with another number of subscribers: `TOPIC=NUMBER`, such as "
            "`left/camera_info=2`."),
    AtStart("wait_timeout", 0.0,
            "End with an error when the subscribers have not appeared after this long; 0 waits on.", "s", 0.0, 86400.0),
)  # fmt: skip

BAG_PLAYER = ParameterTable(
    "bag_player_node",
    "Plays bags (MCAP, SQLite, ROS 1) on the topics that they were recorded from, if there is no `ros2 bag play`.",
    (
        AtStart("bags", NO_NAMES, "Bags, or folders of bags, played one after the other."),
        AtStart("topics", NO_NAMES, "Play these topics only, named as in the bag. Empty: all."),
        AtStart("rate", 1.0, "How many times as fast as it was recorded.", "", 0.01, 100.0),
        AtStart("loop", False, "Start again after the last message."),
        AtStart("publish_clock", True,
                "Publish the recording's time on `/clock`, 40 times a second and before each message."),
        AtStart("restart_clock", True,
                "`/clock` follows the recording back when it starts again, or when the next bag is an older one, as "
                "stamps do. Without it, `/clock` never goes back, and stamps fall behind it."),
        AtStart("count", 0, "End after this many messages; 0 plays to the end.", minimum=0, maximum=1_000_000_000),
        *_WAIT,
    ),
)  # fmt: skip

STEREO_PLAYER = ParameterTable(
    "stereo_player_node",
    "Plays a real stereo pair, a folder of pairs, or a drive through a virtual world, as a calibrated stereo camera; "
    "with true depth where the pairs have it.",
    (
        AtStart("pairs", MOTORCYCLE,
                "Folder of pairs, bag or video (docs/data.md has the layouts), or `motorcycle` for the pair that "
                "scikit-image ships."),
        AtStart("side_by_side", False, "Each image or video of `pairs` has the left view in its left half."),
        AtStart("rectify", "auto",
                "Rectify the images of `pairs` by their calibration: `auto` those that seem raw (docs/data.md).",
                choices=RECTIFY),
        AtStart("world", NO_WORLD,
                "Play a drive through this virtual world instead, with true depth. It is rendered at start. `off` "
                "plays `pairs`.", choices=WORLDS),
        AtStart("world_frames", 20,
                "Length of the drive through a virtual world; at 10 frames per second of its time.",
                minimum=1, maximum=10_000),
        AtStart("world_seed", 0, "Seed of the virtual world.", minimum=0, maximum=1_000_000_000),
        AtStart("rate", 5.0, "Pairs per second.", "Hz", 0.01, 1000.0),
        AtStart("loop", True, "Start again after the last pair."),
        AtStart("count", 0, "Stop after this many pairs, and end; 0 plays on.", minimum=0, maximum=1_000_000_000),
        AtStart("encoding", "rgb8", "Encoding of the images.", choices=ENCODINGS),
        AtStart("width", 0,
                "Resize to this width (camera_info goes along); 0 keeps the size, or follows `height`. A virtual world "
                "is rendered in this size (0: 640x384).", "px", 0, 16384),
        AtStart("height", 0, "Likewise for the height.", "px", 0, 16384),
        AtStart("left_frame_id", "left_camera_optical_frame", "Frame of the left images."),
        AtStart("right_frame_id", "right_camera_optical_frame", "Frame of the right images."),
        AtStart("publish_truth", True, "Publish true depth on `ground_truth/depth` for the pairs that have it."),
        AtStart("publish_clock", False, "Publish `/clock` and stamp with its simulated time, which starts at 1 s."),
        AtStart("restart_clock", False,
                "With `publish_clock`: simulated time starts again with every round through the folder, as in a "
                "looping bag."),
        *_WAIT,
        AtStart("focal", 0.0,
                "Focal length for pairs without a calibration file; 0 refuses such pairs.", "px", 0.0, 1e6),
        AtStart("baseline", 0.0, "Baseline for the same.", "m", 0.0, 1000.0),
    ),
)  # fmt: skip
