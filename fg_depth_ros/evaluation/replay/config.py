"""Configuration of a replay; imports no PyTorch, so that the command line shows its options at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from fg_depth_ros.data.bags.topics import PairTopics

Kind = Literal["stereo", "mono"]
ALL_BAGS = "all"
"""The set of a report that holds every bag; it comes first. Its rows have ``overall``: a bag may have that name.

Where some bags have truth, its accuracy is of these."""
WITHOUT_TRUTH = "all without truth"
"""The set of all bags without truth, where others have it; ``overall`` as well."""
ALL, FILLED, MASKED = "all pixels", "holes filled", "unmasked pixels"
"""Pixels that a row of a report counts, its ``part``."""


class ReplayMethod(NamedTuple):
    """A line of the comparison. ``kind``: "stereo" or "mono". ``weights``: a file; empty = the shipped weights."""

    label: str
    kind: Kind
    model: str
    weights: str = ""


@dataclass(frozen=True)
class ReplayConfig:
    """Options of a replay and its evaluation. Raises ValueError for values out of range, naming the remedy."""

    bags: tuple[str, ...]
    """Bags, or folders with bags in or below them."""
    methods: tuple[ReplayMethod, ...]
    """Evaluated side by side. Where there is no truth, depth networks are compared with the first stereo method."""
    every: int = 1
    """Take every n-th pair."""
    first: int = 0
    """Largest number of pairs of every bag; 0: all."""
    topics: PairTopics = field(default_factory=PairTopics)
    """Which pairs of a bag are taken, and how."""
    truth_topic: str = ""
    """Depth or disparity images; empty: ``ground_truth/depth`` or ``/disparity`` if it is there; ``none``: unused."""
    lidar_topic: str = ""
    """PointCloud2 of a LiDAR; empty: found by name; ``none``: not used. Depth images take precedence."""
    transform: str = ""
    """YAML file with the LiDAR's pose; it takes precedence over the bag's /tf_static."""
    lidar_slop: float = 0.05
    """Largest difference between the stamps of sweep and image, s."""
    camera_frame: str = "auto"
    """Frame of true depth and of the LiDAR's pose: that of the raw camera or rectified; auto: raw if the images are."""
    device: str = "auto"
    """auto, cpu, cuda:N."""
    engine: str = "auto"
    """Engine of the networks: auto, torch, openvino, onnxruntime, tensorrt."""
    precision: str = "auto"
    """auto, float32, bfloat16, float16 or int8."""
    min_depth: float = 0.1
    """Nearer pixels are out of range, of predictions and of truth, m."""
    max_depth: float = 80.0
    """Farther pixels are out of range, m."""
    timings: bool = True
    """Measure times. Without them every network runs on one thread, since sums of another order round otherwise, and
    runs on one machine write the same report, byte for byte, however many processes there are."""
    worst: int = 6
    """Pictures of the worst pairs, for each method."""

    def __post_init__(self) -> None:
        if not self.bags:
            raise ValueError("no bag to replay: give at least one, or a folder of bags")
        if self.every < 1:
            raise ValueError(f"--every must be at least 1, got {self.every}")
        for option, value in (("first", self.first), ("worst", self.worst)):
            if value < 0:
                raise ValueError(f"--{option} must be 0 or more, got {value}")
        if not self.lidar_slop >= 0:
            raise ValueError(f"--lidar-slop must not be negative, got {self.lidar_slop:g} s")
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(f"need 0 < --min-depth < --max-depth, got {self.min_depth} and {self.max_depth} m")
