"""Configuration of the distillation of a depth network; imports neither PyTorch nor Lightning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from fg_depth_ros.training.config import Schedule, Training, check_choice, check_multiple, one_cycle

PHOTOMETRIC_MASKS = ("auto", "flow", "none")
REGRESSIONS = ("metres", "ratio")
TRUTH = "truth"
"""The teacher that stands for the true depth that comes with the pairs, as of rendered ones."""
SCHEDULES: dict[str, Schedule] = {
    "step": (1e-4, lambda progress: 1.0 if progress < 0.75 else 0.1),
    "one_cycle": (1e-3, one_cycle),
}
"""Learning rate and its factor over the part of the run that is done. ``step`` is the paper's: a tenth from epoch 15 of
20 on. ``one_cycle`` warms up and then falls along a cosine; for short runs from fresh weights."""


def _check_not_negative(config: DepthLossConfig | MaskConfig, what: str) -> None:
    for one in fields(config):
        value = getattr(config, one.name)
        if not isinstance(value, str) and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"--{one.name.replace('_', '-')} of {what} is {value}: give 0 (off) or a positive number")


@dataclass(frozen=True)
class DepthLossConfig:
    """The terms of the loss and their weights; 0 leaves a term out.

    The defaults are FG-Depth's full loss on the finest level.
    """

    photometric: float = 1.0
    """Weight of the target against the warped source."""
    photometric_mask: str = "flow"
    """Mask of that loss: flow (the prior-flow mask), auto (where the unwarped source fits worse, Monodepth2), none."""
    regression: float = 1.0
    """Weight of L_dr: depth against the flow's depth, within the prior-flow mask."""
    regression_of: str = "metres"
    """Unit in which L_dr compares: metres, as published and led by far depths, or ratio, for relative errors."""
    flow_photometric: float = 1.0
    """Weight of L_fp: the source warped by depth against the source warped by flow, within the prior-flow mask."""
    smoothness: float = 1e-3
    """Weight of the edge-aware smoothness of the inverse depth, halved with every coarser level."""
    scales: int = 1
    """Levels of the network that learn, finest first, each enlarged to the full size (Monodepth2 has 4)."""
    self_distillation: float = 0.0
    """Weight of every level learning, pixel by pixel, from the level that explains the target best there."""
    sky: float = 1.0
    """Weight of the sky of rendered scenes being far, which no other term asks for."""

    def __post_init__(self) -> None:
        check_choice("photometric_mask", self.photometric_mask, PHOTOMETRIC_MASKS)
        check_choice("regression_of", self.regression_of, REGRESSIONS)
        _check_not_negative(self, "the depth loss")
        if self.scales < 1:
            raise ValueError(f"scales of the depth loss is {self.scales}: at least the finest level has to learn")
        if self.photometric + self.regression + self.flow_photometric == 0:
            raise ValueError("the depth loss learns from nothing: photometric, regression and flow_photometric are 0")
        if self.self_distillation and self.scales == 1:
            raise ValueError("self_distillation needs several levels that learn from each other: set scales to 4")


PRESETS: dict[str, DepthLossConfig] = {
    "auto_mask": DepthLossConfig(photometric_mask="auto", regression=0.0, flow_photometric=0.0),
    "flow_mask": DepthLossConfig(regression=0.0, flow_photometric=0.0),
    "flow_mask_dr": DepthLossConfig(flow_photometric=0.0),
    "flow_mask_fp": DepthLossConfig(regression=0.0),
    "flow_mask_fd": DepthLossConfig(),
}
"""The rows of FG-Depth's ablation by name: the baseline; the other mask; and with it ``L_dr``, ``L_fp``, both."""


@dataclass(frozen=True)
class MaskConfig:
    """The checks that a teacher's prediction must pass, pixel by pixel; 0 (False) switches a check off.

    FG-Depth names one bound of 80 and not its side, so ``max_depth`` and ``max_disparity`` are both here. ``vertical``
    and ``left_right`` do not change with the width: both are errors of a matcher, which come in pixels of its input.
    """

    max_depth: float = 80.0
    """Ignore pixels farther than this, m; 0: no limit."""
    max_disparity: float = 80.0
    """Ignore larger disparities, px at a width of 1024 px, in proportion at others; 0: no limit."""
    min_disparity: float = 0.0
    """Ignore smaller disparities, px of the pair."""
    inside: bool = True
    """Whether the match must lie in the other image."""
    vertical: float = 1.0
    """Largest row component of the teacher's match, px of the pair; 0: no limit."""
    left_right: float = 1.5
    """Largest difference between the predictions for the two views, px of the pair; 0: no limit."""

    def __post_init__(self) -> None:
        _check_not_negative(self, "the flow mask")


@dataclass(frozen=True)
class ColourJitter:
    """Largest colour changes of the network's input; the losses never see it.

    Factors are drawn from 1 - this .. 1 + this.
    """

    probability: float = 0.5
    """Probability that the colours of a sample change."""
    brightness: float = 0.2
    """Largest change of the brightness."""
    contrast: float = 0.2
    """Largest change of the contrast, about the picture's mean grey."""
    saturation: float = 0.2
    """Largest change of the saturation."""
    hue: float = 0.1
    """Largest rotation of the hue, in turns."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} of the colour jitter must be within 0 .. 1, got {value}")


@dataclass(frozen=True)
class DistillTraining(Training):
    """Configuration of one distillation of a depth network."""

    out: str = "runs/distill"
    """Folder for weights, state and logs; a run found there is resumed."""
    model: str = ""
    """Network to train: depthnet_lite, depthnet_efficient, depthnet_r18 or depthnet_r50; empty: that of the weights."""
    weights: str = "depthnet_efficient"
    """Depth weights to start from, a model's name or a file; empty: fresh ones, which take far longer."""
    width: int = 640
    """Width of the network's input, px, a multiple of 32."""
    height: int = 192
    """Height of the network's input, px, a multiple of 32."""
    batch: int = 8
    """Pairs per process and step."""
    learning_rate: float = 0.0
    """Highest learning rate; 0: the schedule's own."""
    weight_decay: float = 0.0
    """Weight decay of the optimizer."""
    schedule: str = "step"
    """Schedule: step (the paper's) or one_cycle."""
    data: tuple[str, ...] = ()
    """Folder of calibrated pairs, or bag."""
    frames: str = ""
    """Part of every folder that is used, such as 0:80; empty: all."""
    held_out: str = ""
    """Part of every folder that selects the best weights, such as 72:80; empty: the last tenth of the frames
    without the test frames."""
    test_frames: str = ""
    """Part of every folder that is also evaluated; neither trained on nor selected by."""
    skip_unusable: bool = False
    """Leave out data sets without a usable pair, with a warning, instead of refusing to train."""
    bag: Mapping[str, Any] = field(default_factory=dict)
    """Options of ``data.bags.open_bag_pairs``."""
    world: str = ""
    """Train on rendered scenes, too: street, indoor or mixed."""
    world_share: float = 0.5
    """Part of the samples that is rendered, in addition to folders."""
    select_by_world: bool = True
    """Whether rendered scenes take part in the selection of the best weights."""
    shapes: tuple[tuple[int, int], ...] = field(default=(), metadata={"option": "shape"})
    """A further WIDTHxHEIGHT of rendered scenes, by turns with the first; about as many pixels; without folders."""
    uses: int = 4
    """Samples that each rendered scene gives on average; 1: every scene once."""
    cutouts: tuple[str, ...] = ()
    """Folder of cut-outs with alpha for rendered scenes."""
    outlines: int = 64
    """Number of drawn outlines in addition to the cut-outs."""
    teacher: str = "flownet_stereo"
    """Any model for stereo or flow, or truth: the true depth that comes with the pairs."""
    teacher_weights: str = ""
    """Weights file of the teacher; empty: the shipped ones."""
    teacher_scale: float = 1.0
    """Factor by which images are resized for the teacher; below 1 it is faster and reaches larger disparities."""
    teacher_precision: str = "float32"
    """Precision of the teacher: float32, bfloat16 or float16."""
    on_the_fly: bool = False
    """Run the teacher at every step, at the training's size, instead of once at the pairs' own size."""
    cache: str = ""
    """Folder for the teacher's predictions; empty: OUT/teaching."""
    focal: float = 0.0
    """Canonical focal length at the training's size, px; 0: that of the weights, else the camera's, or 0.6 width."""
    encoder: str = ""
    """Published ResNet weights that the encoder of depthnet_r18 or depthnet_r50 starts with."""
    encoder_rate: float = 0.1
    """Learning rate of the encoder, in parts of that of the rest; 0: it stays as it is, and a step takes less time."""
    losses: DepthLossConfig = field(default_factory=DepthLossConfig)
    """The terms of the loss."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """The checks of the teacher's predictions."""
    graft: bool = True
    """Data grafting (EPCDepth): rows of a sample come from another one."""
    zoom: float = 1.0
    """Largest factor by which a window of a sample is enlarged, as by a longer lens; 1: none."""
    flips: float = 0.5
    """Probability that a sample is mirrored."""
    jitter: ColourJitter = field(default_factory=ColourJitter)
    """Changes of the input's colours."""

    def __post_init__(self) -> None:
        from fg_depth_ros.networks import DEPTH_MODELS, DepthNetwork, load_checkpoint  # these load PyTorch
        from fg_depth_ros.networks.registry import weights_path
        from fg_depth_ros.synthesis.world.generator import WORLDS

        super().__post_init__()
        self._require_validation_scenes()
        check_multiple(DepthNetwork.size_multiple, *self.all_shapes)
        if self.model:
            check_choice("model", self.model, DEPTH_MODELS)
        elif not self.weights:
            raise ValueError("a network with fresh weights needs a name: give --model")
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("world", self.world, ("", *WORLDS))
        self._resolve(learning_rate=self.learning_rate or SCHEDULES[self.schedule][0])
        if not self.data and not self.world:
            raise ValueError("nothing to train on: give --data, folders or bags of pairs, or a --world to render")
        if not 0 < self.world_share <= 1:
            raise ValueError(f"--world-share must lie in 0 .. 1, got {self.world_share}")
        if self.uses < 1:
            raise ValueError(f"--uses must be at least 1, got {self.uses}")
        if not 0 <= self.flips <= 1:
            raise ValueError(f"--flips is a probability, got {self.flips}")
        if self.shapes and self.data:
            raise ValueError("several shapes are for rendered scenes alone; leave --shape or --data out")
        if not 1 <= self.zoom <= 4:
            raise ValueError(f"--zoom must lie in 1 .. 4, got {self.zoom}")
        if self.focal < 0:
            raise ValueError(f"--focal must not be negative, got {self.focal} px")
        if not (math.isfinite(self.encoder_rate) and self.encoder_rate >= 0):
            raise ValueError(f"--encoder-rate must not be negative, got {self.encoder_rate}")
        if self.encoder and self.weights:
            raise ValueError(
                f"the weights to start from have an encoder already; leave --encoder {self.encoder} out, or give "
                "--weights ''"
            )
        if not self.model:
            model = load_checkpoint(weights_path(self.weights))[1].name
            check_choice("model", model, DEPTH_MODELS)
            self._resolve(model=model)
        if self.teacher == TRUTH:  # nothing for the right view to compare with; what it does not show is known, too
            self._resolve(mask=replace(self.mask, left_right=0.0, inside=self.mask.inside and self.needs_right))

    @property
    def all_shapes(self) -> tuple[tuple[int, int], ...]:
        """Return width and height of every shape of rendered scenes, px."""
        return ((self.width, self.height), *self.shapes)

    @property
    def needs_right(self) -> bool:
        """Return whether loss or teacher use the right images."""
        losses = self.losses
        warps = losses.photometric or losses.flow_photometric or losses.self_distillation
        return bool(warps) or self.teacher != TRUTH
