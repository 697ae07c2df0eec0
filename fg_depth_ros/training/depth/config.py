"""What can be chosen in a distillation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fg_depth_ros.networks import DEPTH_MODELS
from fg_depth_ros.synthesis.world.generator import WORLDS
from fg_depth_ros.training.depth.augmentation import ColourJitter
from fg_depth_ros.training.depth.flow_mask import MaskConfig
from fg_depth_ros.training.depth.losses import DepthLossConfig
from fg_depth_ros.training.depth.teacher import TRUTH
from fg_depth_ros.training.loop import Training, schedule

SCHEDULES: dict[str, tuple[float, Callable[[float], float]]] = {
    "step": (1e-4, lambda progress: 1.0 if progress < 0.75 else 0.1),
    "one_cycle": (1e-3, schedule),
}
"""Learning rate and its factor over the part of the run that is done. ``step`` is the paper's: a tenth from epoch 15 of
20 on. ``one_cycle`` warms up and then falls along a cosine; for short runs from fresh weights."""


@dataclass(frozen=True)
class DistillTraining(Training):
    """One distillation."""

    out: str = "runs/distill"
    model: str = "depthnet_lite"
    width: int = 640
    height: int = 192
    batch: int = 8
    learning_rate: float = 0.0
    """At its highest; 0 = the schedule's own."""
    weight_decay: float = 0.0
    schedule: str = "step"
    """See ``SCHEDULES``."""
    data: tuple[str, ...] = ()
    """Folders of rectified pairs with calibration, and bags."""
    frames: str = ""
    """Part of every folder that is used, such as ``0:80``; empty = all."""
    held_out: str = ""
    """Part of every folder that the weights are judged and selected by, such as ``72:80``, never trained on; empty =
    the last tenth of ``frames``."""
    watched: str = ""
    """Part of every folder whose figures are written down beside, such as ``80:``; neither trained on nor selected
    by."""
    skip_useless: bool = False
    """A set of which no pair can be used is left out and named, instead of ending everything."""
    bag: Mapping[str, Any] = field(default_factory=dict)
    """Options of ``data.bags.open_bag_pairs``."""
    world: str = ""
    """``street``, ``indoor`` or ``mixed``: train on rendered scenes, too."""
    world_share: float = 0.5
    """Part of the samples that is rendered, where there are folders as well."""
    select_by_world: bool = True
    """Whether rendered scenes take part in the choice of the best weights; else they are watched."""
    shapes: tuple[tuple[int, int], ...] = ()
    """Further sizes (width, height) of rendered scenes, batch by batch by turns with the first, so that the network
    learns pictures of several shapes; about as many pixels each. Without folders only."""
    stamps: tuple[str, ...] = ()
    """Folders of cut-outs with alpha for rendered scenes."""
    outlines: int = 64
    """Drawn outlines beside the cut-outs."""
    teacher: str = "flownet_stereo"
    """Any model for stereo or flow, or ``truth``: the true depth that comes with the pairs."""
    teacher_weights: str = ""
    teacher_scale: float = 1.0
    """The teacher sees the images resized by this; below 1 it is faster and reaches larger disparities."""
    teacher_precision: str = "float32"
    on_the_fly: bool = False
    """Ask the teacher at every step, at the training's size, instead of once at the pairs' own size."""
    cache: str = ""
    """Folder for what the teacher says; empty = ``OUT/teaching``."""
    focal: float = 0.0
    """Canonical focal length, px at the training's size; 0 = that of the weights to start from, else the camera's
    where there is one camera only, else 0.6 of the width."""
    encoder: str = ""
    """Published ResNet weights that the encoder of depthnet_r18 or depthnet_r50 starts with."""
    losses: DepthLossConfig = field(default_factory=DepthLossConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    graft: bool = True
    zoom: float = 1.0
    """Largest factor by which a window of a sample is enlarged, as by a longer lens; 1 = none."""
    flips: float = 0.5
    """Probability that a sample is mirrored."""
    jitter: ColourJitter = field(default_factory=ColourJitter)

    def __post_init__(self) -> None:
        super().__post_init__()
        _choose("model", self.model, DEPTH_MODELS)
        _choose("schedule", self.schedule, SCHEDULES)
        _choose("world", self.world, ("", *WORLDS))
        object.__setattr__(self, "learning_rate", self.learning_rate or SCHEDULES[self.schedule][0])
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if not self.data and not self.world:
            raise ValueError("nothing to train on: name folders or bags of pairs (data), or a world to render")
        if not 0 < self.world_share <= 1:
            raise ValueError(f"world_share must lie in 0 .. 1, got {self.world_share}")
        if not 0 <= self.flips <= 1:
            raise ValueError(f"flips is a probability, got {self.flips}")
        if self.shapes and self.data:
            raise ValueError("several shapes are for rendered scenes alone; leave the shapes or the folders out")
        if not 1 <= self.zoom <= 4:
            raise ValueError(f"zoom must lie in 1 .. 4, got {self.zoom}")
        if self.focal < 0:
            raise ValueError(f"focal must not be negative, got {self.focal} px")
        if self.focal and self.weights:
            raise ValueError(f"the weights to start from have their own canonical focal length; leave {self.focal} out")
        if self.encoder and self.weights:
            raise ValueError(f"the weights to start from have an encoder already; leave {self.encoder} out")
        if self.teacher == TRUTH and self.mask.left_right:  # there is no right view that could contradict
            object.__setattr__(self, "mask", replace(self.mask, left_right=0.0))

    @property
    def all_shapes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of every shape of rendered scenes, px."""
        return ((self.width, self.height), *self.shapes)

    @property
    def needs_right(self) -> bool:
        """Whether anything looks at the right pictures."""
        losses = self.losses
        warps = losses.photometric or losses.flow_photometric or losses.self_distillation
        return bool(warps) or self.teacher != TRUTH


def _choose(what: str, name: str, known: Any) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} '{name}'; known: {', '.join(sorted(filter(None, known)))}")
