"""What the training of a stereo network is configured by; imports neither PyTorch nor Lightning."""

from __future__ import annotations

from dataclasses import dataclass

from fg_depth_ros.training.config import Training, check_multiple


@dataclass(frozen=True)
class StereoTraining(Training):
    """Configuration of one training run of a stereo network on synthetic scenes."""

    out: str = "runs/stereo"
    """Folder for weights, state and logs; a run found there is resumed."""
    model: str = "flownet_stereo"
    """Network to train."""
    batch: int = 4
    """Pairs per process and step, even: every scene gives a pair and its mirror image."""

    def __post_init__(self) -> None:
        from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE  # loads PyTorch

        super().__post_init__()
        check_multiple(SIZE_MULTIPLE, (self.width, self.height))
        if self.batch % 2:
            raise ValueError(f"batch must be even and at least 2, got {self.batch}")
