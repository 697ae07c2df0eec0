"""Configuration of the ablation of FG-Depth's losses."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from fg_depth_ros.training.depth.config import PRESETS

GRAFTINGS = ("both", "with", "without")
LABELS = {
    "auto_mask": "photometric, auto-mask",
    "flow_mask": "photometric, prior-flow mask",
    "flow_mask_dr": "  + L_dr",
    "flow_mask_fp": "  + L_fp",
    "flow_mask_fd": "  + L_dr + L_fp",
}
"""The paper's rows in its order: presets of the loss, and what a table calls them."""


@dataclass(frozen=True)
class LossAblation:
    """Configuration of the experiment.

    To resume it, all but ``seeds``, ``losses``, ``grafting`` and ``choices`` must be unchanged.
    """

    out: str = "runs/ablation"
    """Folder for scenes, runs and the tables; rows that are finished there are not trained again."""
    seeds: int = 2
    """Trainings of every row, each with scenes and weights of its own."""
    losses: tuple[str, ...] = field(default=tuple(LABELS), metadata={"option": "loss"})
    """Preset of the loss: auto_mask, flow_mask, flow_mask_dr, flow_mask_fp or flow_mask_fd; may be repeated."""
    grafting: str = "both"
    """Rows with or without data grafting, or both: with, without, both."""
    choices: bool = False
    """Also the rows for what the paper leaves open: bounds of the mask, levels, the form of L_dr."""
    steps: int = 1000
    """Training steps per row."""
    scenes: int = 400
    """Rendered pairs that each seed trains on."""
    test_scenes: int = 100
    """Rendered pairs that every row is evaluated on."""
    world: str = "street"
    """Kind of scenes: street, indoor or mixed."""
    data: tuple[str, ...] = ()
    """Folder of calibrated pairs, or bag, to train on instead of rendered scenes; may be repeated."""
    frames: str = ""
    """Part of every folder that is used, such as 0:80; empty: all."""
    test_frames: str = ""
    """Part of every folder that every row is evaluated on, such as 80:, by true depth, else by the teacher's."""
    photos: tuple[str, ...] = ()
    """Folder of photos for textures; may be repeated."""
    patterns: int = 160
    """Procedural textures in addition to the photos."""
    model: str = "depthnet_lite"
    """Network: depthnet_lite, depthnet_efficient, depthnet_r18 or depthnet_r50."""
    weights: str = ""
    """Weights that every row starts from, a model's name or a file; empty: fresh ones."""
    load_partial: bool = False
    """Load as much of the weights as fits, such as an encoder alone."""
    encoder_rate: float = 1.0
    """Learning rate of the encoder, in parts of that of the rest."""
    width: int = 256
    """Width of the network's input, px; scenes are rendered twice as large."""
    height: int = 96
    """Height of the network's input, px."""
    batch: int = 8
    """Pairs per step."""
    schedule: str = "one_cycle"
    """Schedule of the learning rate: step (the paper's) or one_cycle."""
    learning_rate: float = 0.0
    """Peak learning rate; 0: the schedule's own."""
    teacher: str = "flownet_stereo"
    """Teacher: any model for stereo or flow."""
    teacher_weights: str = ""
    """Weights file of the teacher; default: the shipped ones."""
    precision: str = "32"
    """Precision of the training: 32, bf16-mixed, 16-mixed, or auto: bf16-mixed where the device computes in it."""

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("steps", 1), ("scenes", 2), ("test_scenes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of the ablation is {getattr(self, name)}: it needs at least {least}")
        unknown = sorted(set(self.losses) - set(PRESETS))
        if unknown or not self.losses:
            raise ValueError(f"unknown loss '{', '.join(unknown)}'; known: {', '.join(PRESETS)}")
        if self.grafting not in GRAFTINGS:
            raise ValueError(f"unknown grafting '{self.grafting}'; known: {', '.join(GRAFTINGS)}")
        if self.data and not self.test_frames:
            raise ValueError("--data needs --test-frames, such as 80:, that the rows are evaluated on")
        if not self.data and (self.frames or self.test_frames):
            raise ValueError("--frames and --test-frames are for --data; rendered scenes have --test-scenes")

    @property
    def fixed(self) -> dict[str, Any]:
        """Return the settings that all rows of a folder share."""
        free = ("out", "seeds", "losses", "grafting", "choices")
        return json.loads(json.dumps({name: value for name, value in asdict(self).items() if name not in free}))
