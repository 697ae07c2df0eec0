"""Configuration of the training of a flow network; imports neither PyTorch nor Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fg_depth_ros.training.config import Schedule, Training, check_choice, one_cycle

LOSSES = ("finest", "flownet2", "lite")
SHIPPED_OPTIONS = {"fine": True}
"""Options of the shipped network that are not those of a fresh one by default."""
LARGEST_DEFORMATION = 6.0
"""Px; larger ones could fold an image over itself."""


@dataclass(frozen=True)
class FlowAugmentation:
    """Ranges to draw from; the defaults are those of FlowNet (see ``training.flow.augmentation``)."""

    translation: float = 0.2
    """Largest shift along either axis, part of the width; never so far that the window leaves the picture."""
    rotation: float = 17.0
    """Largest rotation, degrees."""
    scale: tuple[float, float] = (0.9, 2.0)
    """Magnification, uniform."""
    mirror: float = 0.0
    """Probability of swapping left and right."""
    relative: float = 1.0
    """Strength of the smaller transform between the frames, geometric and of colour; 0 = none."""
    weakest: float = 1.0
    """Least part of that strength: each sample's is drawn log-uniformly from here to 1."""
    deformation: float = 0.0
    """Largest amplitude of a smooth, not rigid, deformation between the frames, px; half of the samples have one."""
    noise: float = 0.04
    """Largest deviation of the Gaussian noise, of 1."""
    contrast: tuple[float, float] = (-0.8, 0.4)
    """Logarithm of the factor on the distance from middle grey, as the public layers take it."""
    colour: tuple[float, float] = (0.5, 2.0)
    """Factor of each channel, uniform in its logarithm."""
    gamma: tuple[float, float] = (0.7, 1.5)
    """Exponent, uniform in its logarithm."""
    brightness: float = 0.2
    """Deviation of what is added, of 1."""
    erase: float = 0.0
    """Probability that up to three patches of the second frame are covered by its mean colour."""
    blur: float = 0.0
    """Probability that what moves is blurred in both frames, by exposures of up to half the time between them."""

    def __post_init__(self) -> None:
        for name in ("scale", "contrast", "colour", "gamma"):
            low, high = getattr(self, name)
            if low > high or (name != "contrast" and low <= 0):
                raise ValueError(f"{name} must be a range (low, high) of positive factors, got ({low}, {high})")
        if not 0 < self.weakest <= 1:
            raise ValueError(f"weakest is a part of the strength, above 0 and up to 1, got {self.weakest}")
        if not 0 <= self.deformation <= LARGEST_DEFORMATION:
            raise ValueError(f"deformation must be between 0 and {LARGEST_DEFORMATION:g} px, got {self.deformation}")
        for name in ("mirror", "erase", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")


AUGMENTATIONS = {
    "paper": FlowAugmentation(),
    "wide": FlowAugmentation(mirror=0.5, weakest=0.02, deformation=4.0, noise=0.03),
    "mild": FlowAugmentation(
        translation=0.1, rotation=5.0, scale=(0.95, 1.3), relative=0.3, noise=0.02, contrast=(-0.3, 0.2),
        colour=(0.8, 1.25), gamma=(0.85, 1.2), brightness=0.05,
    ),
    "none": FlowAugmentation(
        translation=0.0, rotation=0.0, scale=(1.0, 1.0), relative=0.0, noise=0.0, contrast=(0.0, 0.0),
        colour=(1.0, 1.0), gamma=(1.0, 1.0), brightness=0.0,
    ),
}  # fmt: skip
"""By name: the paper's; down to motions of a fraction of a pixel and with deformations, for the compact network; weaker
than the paper's, for fine-tuning; and only the window in the middle."""


def _halved(*points: float) -> Callable[[float], float]:
    """Return a factor that is halved at each of these parts of the run."""
    return lambda progress: 0.5 ** sum(progress >= point for point in points)


_WARM, _SHORT = 1 / 60, _halved(3 / 6, 4 / 6, 5 / 6)

SCHEDULES: dict[str, Schedule] = {
    "S": (1e-4, _SHORT),
    "S_long": (1e-4, _halved(2 / 6, 3 / 6, 4 / 6, 5 / 6)),
    "C": (1e-4, lambda progress: 0.01 + 0.99 * progress / _WARM if progress < _WARM else _SHORT(progress)),
    "one_cycle": (1e-3, one_cycle),
    "fixed": (1e-5, lambda progress: 1.0),
}
"""Learning rate and its factor over the part of the run that is done.

``S`` at 600,000 steps is FlowNet's: constant, from 300,000 on halved every 100,000. ``S_long`` at 1,200,000 is FlowNet
2.0's: halved every 200,000 from 400,000 on. ``C`` is ``S`` after a linear warm-up from a hundredth, 10,000 of 600,000
steps. ``one_cycle`` is the stereo network's. ``fixed`` is for fine-tuning.
"""


@dataclass(frozen=True)
class FlowTraining(Training):
    """Configuration of one training run of a flow network."""

    out: str = "runs/flow"
    """Folder for weights, state and logs; a run found there is resumed."""
    model: str = "flownet_lite"
    """Network to train: flownet_lite, flownet_s, flownet_c, ..."""
    height: int = 320
    """Height of the training images, px."""
    batch: int = 8
    """Pairs per process and step."""
    learning_rate: float = 0.0
    """Highest learning rate; 0: the schedule's own."""
    weight_decay: float = 4e-4
    """Weight decay of all but biases: with the gradient (Adam) for the published losses, decoupled (AdamW) for lite."""
    clip: float = -1.0
    """Largest norm of the gradient; 0: not clipped; negative: 1 with the loss lite, not clipped with the others."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Option of a fresh network, NAME=VALUE such as width=0.375; flownet_lite: default those of the shipped one."""
    cutouts: tuple[str, ...] = ()
    """Folder of cut-outs with alpha that move through the scenes, in addition to drawn outlines."""
    outlines: int = 256
    """Number of drawn outlines in addition to the cut-outs."""
    extras: int = 0
    """Mean number of small, thin and fast pieces in a scene."""
    pool: int = 48
    """Rendered scenes in memory, in each of four pools (a scene takes 2.6 MB at 512x320)."""
    uses: int = 4
    """Pairs that are made of each rendered scene, each with another crop, rotation and colours; 1: every scene once."""
    world_share: float = 0.2
    """Share of scenes from the virtual world (streets and rooms), the others being Flying Chairs."""
    data: tuple[str, ...] = ()
    """Folder of pairs with true flow to train on instead of rendered scenes; a twentieth is kept for validation."""
    split: str = "all"
    """Part of Flying Chairs to train on: all, or train as its list divides it, validated on the other part."""
    loss: str = ""
    """Loss: finest, flownet2 (the published weightings) or lite; empty: the model's own."""
    sparse: bool = False
    """The true flow is sparse (LiDAR): pool it as the public code does."""
    schedule: str = ""
    """Schedule: S, S_long, C, one_cycle or fixed; empty: fixed with weights to start from, else the model's own."""
    augment: str = ""
    """Augmentation: paper, wide (also small motions and deformations), mild or none; empty: the model's own."""
    erase: float = 0.0
    """Probability that patches of the second frame are covered."""
    blur: float = 0.0
    """Probability of motion blur in both frames."""
    margin: int = 64
    """Pixels by which scenes are wider and higher than the training images, as room for the augmentation."""

    def __post_init__(self) -> None:
        from fg_depth_ros.networks import FLOW_MODELS  # loads PyTorch

        super().__post_init__()
        self._require_validation_scenes()
        check_choice("model", self.model, FLOW_MODELS)
        compact, fresh = self.model == "flownet_lite", self.load_partial or not self.weights
        own = "one_cycle" if compact else "C" if self.model.startswith("flownet_c") else "S"
        loss, schedule = self.loss or ("lite" if compact else "finest"), self.schedule or (own if fresh else "fixed")
        self._resolve(loss=loss, schedule=schedule, augment=self.augment or ("wide" if compact else "paper"))
        check_choice("split", self.split, ("all", "train"))
        check_choice("loss", self.loss, LOSSES)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("augment", self.augment, AUGMENTATIONS)
        self._resolve(
            learning_rate=self.learning_rate or SCHEDULES[self.schedule][0],
            clip=self.clip if self.clip >= 0 else float(self.loss == "lite"),
        )
        _ = self.augmentation  # refuses what is no probability
        if min(self.pool, self.uses) < 1:
            raise ValueError(f"--pool and --uses must be at least 1, got {self.pool} and {self.uses}")
        if not 0 <= self.world_share <= 1:
            raise ValueError(f"--world-share is a part of the scenes, 0 to 1, got {self.world_share:g}")
        if self.margin < 0:
            raise ValueError(f"--margin must not be negative, got {self.margin}")
        if self.options and not fresh:
            raise ValueError(f"options {dict(self.options)} are of a fresh network; these weights have their own")
        if compact and fresh:
            self._resolve(options={**SHIPPED_OPTIONS, **self.options})
        if self.data and (self.photos or self.cutouts):
            raise ValueError("give folders of pairs (--data) or material for scenes (--photos, --cutouts), not both")

    @property
    def augmentation(self) -> FlowAugmentation:
        """Return the ranges of the augmentation."""
        return replace(AUGMENTATIONS[self.augment], erase=self.erase, blur=self.blur)
