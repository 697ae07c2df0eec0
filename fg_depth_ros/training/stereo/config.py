"""Configuration of the training of a stereo network; imports neither PyTorch nor Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fg_depth_ros.training.config import Training, check_choice, check_multiple

SHIPPED_OPTIONS = {
    "features": [48, 96, 128],
    "aggregate": [64, 112, 160],
    "refine": 24,
    "deep": 48,
    "fine": True,
    "max_disparity": 192,
}
"""Options of the shipped network."""


@dataclass(frozen=True)
class StereoTraining(Training):
    """Configuration of one training run of a stereo network on synthetic scenes."""

    out: str = "runs/stereo"
    """Folder for weights, state and logs; a run found there is resumed."""
    model: str = "flownet_stereo"
    """Network to train."""
    batch: int = 4
    """Pairs per process and step."""
    pool: int = 48
    """Rendered scenes in memory, in each of four pools (a scene and its mirror image take 4 MB at 448x224)."""
    uses: int = 8
    """Pairs that are made of each rendered scene, each with another crop, scale and colours."""
    world_share: float = 0.15
    """Share of scenes from the virtual world (streets and rooms), the others being layered scenes."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Network options when training from scratch or with ``load_partial``; default: those of the shipped network."""

    def __post_init__(self) -> None:
        from fg_depth_ros.networks import STEREO_MODELS  # these load PyTorch
        from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE

        super().__post_init__()
        check_choice("stereo network", self.model, STEREO_MODELS)
        self._require_validation_scenes()
        check_multiple(SIZE_MULTIPLE, (self.width, self.height))
        if self.options and self.weights and not self.load_partial:
            raise ValueError(f"options {dict(self.options)} are of a fresh network; these weights have their own")
        if not self.weights or self.load_partial:
            self._resolve(options={**SHIPPED_OPTIONS, **self.options})
        if min(self.pool, self.uses) < 1:
            raise ValueError(f"--pool and --uses must be at least 1, got {self.pool} and {self.uses}")
        if not 0 <= self.world_share <= 1:
            raise ValueError(f"--world-share is a part of the scenes, 0 to 1, got {self.world_share:g}")
