"""The parameters of data_logger_node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fg_depth_ros.nodes.common.input_topics import SYNC_PARAMETERS, image_transport
from fg_depth_ros.nodes.common.parameters import NO_NAMES, AtStart, Parameter, ParameterTable
from fg_depth_ros.recording.recorder import RecorderConfig

MIB, GIB = 2**20, 2**30
TRIGGER_LIMITS = ("interval_period", "motion_flow", "disagreement_abs_rel", "low_confidence_share")
"""Parameters that are 0 where their trigger is off."""

DATA_LOGGER = ParameterTable(
    "data_logger_node",
    "Records synchronised stereo pairs, and any other topics, into episodes that `ros2 bag play` reads: what happened "
    "before and after something worth learning from, or all of it. A trigger whose limit is 0 is off.",
    (
        AtStart("root", "~/fg_depth_recordings", "Folder of the episodes. `~` is the home folder."),
        Parameter("record", "triggers",
                  "`triggers`: an episode whenever a trigger fires. `continuous`: everything. `off`: nothing but what "
                  "`~/start` and `~/snapshot` ask for.", choices=("off", "triggers", "continuous")),
        AtStart("before", 5.0, "Time recorded before a trigger.", "s", 0.0, 600.0),
        AtStart("after", 5.0, "Time recorded after a trigger.", "s", 0.0, 600.0),
        Parameter("interval_period", 0.0,
                  "Trigger `interval` fires once in this period. 0 = off, as with all triggers.", "s", 0.0, 86400.0),
        Parameter("motion_flow", 0.0,
                  "Trigger `motion` fires when the mean optical flow between two left images, `check_period` apart, is "
                  "larger, in pixels of an image 160 pixels wide.", "px", 0.0, 160.0),
        Parameter("disagreement_abs_rel", 0.0,
                  "Trigger `disagreement` fires when the mean relative difference between `depth/image_rect` and "
                  "`mono_depth/image_rect`, brought to one scale, is larger. The depth node computes both while this "
                  "is on.", "", 0.0, 100.0),
        Parameter("low_confidence_share", 0.0,
                  "Trigger `low_confidence` fires when the share of pixels that `mask/labels` calls valid is smaller. "
                  "The depth node computes them while this is on.", "", 0.0, 1.0),
        Parameter("calibration_alarm", True,
                  "Trigger `calibration` fires when the depth node's diagnostics say that the cameras have moved or "
                  "are not rectified."),
        Parameter("cooldown", 5.0, "A trigger of one kind fires at most once in this time.", "s", 0.0, 86400.0),
        Parameter("check_period", 0.25, "How often the triggers check images and depth.", "s", 0.0, 60.0),
        AtStart("depth_node", "stereo_depth_node",
                "Name of the depth node whose diagnostics are read (calibration, hashes of the weights); relative to "
                "this node's namespace."),
        AtStart("topics", NO_NAMES, "Further topics to record, of any type that is installed, as they are."),
        AtStart("record_depth", False, "Also record `depth/image_rect` and `mask/labels` of the depth node."),
        AtStart("storage", "raw",
                "`raw`; `zstd`: packed without loss in chunks; `png`: each image packed without loss; `jpeg`: each "
                "image with `jpeg_quality`, smallest.", choices=("raw", "zstd", "png", "jpeg")),
        AtStart("jpeg_quality", 95, "Quality of JPEG images.", "%", 1, 100),
        AtStart("ring_size", 512,
                "Memory for the time before a trigger; where it is too small for `before`, the oldest is dropped.",
                "MiB", 1, 1_000_000),
        AtStart("queue_size", 256,
                "Memory for what waits to be written; when it is full, pairs are dropped and counted.",
                "MiB", 1, 1_000_000),
        AtStart("quota", 0.0,
                "Largest size of all episodes; the oldest are removed to keep it. 0 = no limit.", "GiB", 0.0, 1e6),
        AtStart("free_floor", 2.0,
                "Free space to leave on the disk; the oldest episodes are removed to keep it.", "GiB", 0.0, 1e6),
        AtStart("max_episode_size", 4096, "A larger episode is continued in a new one.", "MiB", 1, 100_000_000),
        AtStart("max_episode_seconds", 300.0, "A longer episode is continued in a new one.", "s", 1.0, 86400.0),
        AtStart("sync_period", 1.0,
                "How often what was written is forced to the disk: at most this much is lost when the power fails.",
                "s", 0.05, 60.0),
        image_transport("`compressed`, `ffmpeg` or `foxglove` subscribe to `<image topic>/<name>` and record it as it "
                        "is."),
        *SYNC_PARAMETERS,
        AtStart("sync_queue_size", 30, "Messages held per input until their partners arrive.", minimum=1, maximum=1000),
        AtStart("input_depth", 30,
                "Depth of the subscriptions: messages of a topic that the middleware keeps while the node is busy.",
                minimum=1, maximum=10_000),
        Parameter("stall_timeout", 3.0, "Warn, with the reason, when no pair arrives for this long.", "s", 0.1, 3600.0),
    ),
    renamed={"look_period": "check_period"},
)  # fmt: skip


def recorder_config(values: Mapping[str, Any]) -> RecorderConfig:
    """Return the recorder's part of all parameters. Raises ValueError as RecorderConfig does."""
    return RecorderConfig(
        root=Path(values["root"]),
        before=values["before"],
        after=values["after"],
        ring_bytes=values["ring_size"] * MIB,
        queue_bytes=values["queue_size"] * MIB,
        quota_bytes=round(values["quota"] * GIB),
        free_floor_bytes=round(values["free_floor"] * GIB),
        max_episode_bytes=values["max_episode_size"] * MIB,
        max_episode_seconds=values["max_episode_seconds"],
        storage=values["storage"],
        jpeg_quality=values["jpeg_quality"],
        sync_seconds=values["sync_period"],
    )


def small_quota(config: RecorderConfig) -> str | None:
    """Return what happens where an episode may be larger than half of the quota; None where it may not."""
    if not 0 < config.quota_bytes < 2 * config.max_episode_bytes:
        return None
    half = config.quota_bytes / 2 / MIB
    return (
        f"quota is {config.quota_bytes / GIB:g} GiB and max_episode_size {config.max_episode_bytes / MIB:g} MiB: "
        f"continuous recording begins a new episode at {half:g} MiB, half of the quota, so that older ones can be "
        "removed, and an episode of a trigger pauses when it alone fills the quota; raise quota, or lower "
        "max_episode_size to half of it"
    )
