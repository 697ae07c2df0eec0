"""The parameters of replay_evaluator_node."""

from __future__ import annotations

from fg_depth_ros.geometry.rectification import RECTIFY
from fg_depth_ros.nodes.common.input_topics import SYNC_PARAMETERS, image_transport
from fg_depth_ros.nodes.common.parameters import AtStart, ParameterTable
from fg_depth_ros.nodes.common.topics import TRUTH_TOPICS

REPLAY_EVALUATOR = ParameterTable(
    "replay_evaluator_node",
    "Compares the depth that a node publishes with true depth, accounts for every pair, and measures rates and "
    "latencies.",
    (
        AtStart("pair_source", "published_pair",
                "Source of the pairs that were sent: the player's topic, or the stamps of `left/camera_info` (a bag, a "
                "camera).", choices=("published_pair", "camera_info")),
        AtStart("pairs", 0,
                "End after this many sent pairs; 0 runs until it is stopped.", minimum=0, maximum=1_000_000_000),
        AtStart("warm_up", 0, "Number of first pairs left out of the latency figures.", minimum=0, maximum=1_000_000),
        AtStart("truth", True, "Compare depth with `ground_truth/depth`; if false, check it against the right image."),
        AtStart("truth_transport", "raw",
                "`compressedDepth` subscribes to `ground_truth/depth/compressedDepth`, `disparity` to "
                "`ground_truth/disparity` (DisparityImage).", choices=tuple(TRUTH_TOPICS)),
        image_transport("How the images come, as stereo_depth_node's parameter of that name."),
        AtStart("rectify", "auto",
                "Rectify the images as stereo_depth_node does with its parameter of that name.", choices=RECTIFY),
        *SYNC_PARAMETERS,
        AtStart("accuracy", True, "Measure accuracy; without it only rates and latencies."),
        AtStart("timeout", 3.0, "A pair without depth after this long is counted as dropped.", "s", 0.05, 3600.0),
        AtStart("idle_timeout", 30.0,
                "End with an error when nothing arrives for this long; 0 waits on.", "s", 0.0, 86400.0),
        AtStart("set_name", "replay", "Name of the data in the report."),
        AtStart("report", "", "JSON file for the report; empty writes none."),
        AtStart("page", "",
                "HTML file for the same with plots over time and pictures of the worst pairs; empty writes none."),
        AtStart("snapshot_pair", "",
                "Name of the pair for the snapshot; empty takes the first. If it does not arrive, another one is "
                "written."),
        AtStart("scores", "",
                "JSON file for the error sums of every pair, to compare two runs on the pairs that got depth in both; "
                "empty writes none."),
        AtStart("snapshot", "",
                "File (.npz) for the first pair with everything that was published for it; empty writes none."),
        AtStart("live", "log", "How the running figures are reported, once a second.", choices=("log", "json", "off")),
    ),
    renamed={"account": "pair_source", "judge": "accuracy", "patience": "idle_timeout"},
)  # fmt: skip
