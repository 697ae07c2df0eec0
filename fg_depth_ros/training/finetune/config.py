"""Configuration of fine-tuning on recordings; imports neither PyTorch nor Lightning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fg_depth_ros.training.config import Training, check_choice, check_multiple
from fg_depth_ros.training.depth.config import PRESETS, DepthLossConfig, DistillTraining, MaskConfig

SPLITS = ("blocks", "end", "bag")
LOSS = "flow_mask_fd"
"""Name of the losses among ``PRESETS``."""
LOSSES = replace(PRESETS[LOSS], regression_of="ratio")
MASK = MaskConfig(max_disparity=0.0)
"""No largest disparity, as near things matter most to a robot."""


@dataclass(frozen=True)
class TimeSplit:
    """Division of recordings into three parts: training, stopping and held out.

    ``training``; ``stopping``, which selects the best weights and stops the run; ``held_out``, which evaluates them and
    has no part in anything else. ``blocks``: every bag is cut into blocks of equal time, of which some are held out and
    as many used for stopping, by turns. ``end``: its last part is held out, the part before it used for stopping.
    ``bag``: whole bags, by their SHA-256, so that a bag stays in its part when others are added.
    """

    kind: str = field(default="blocks", metadata={"option": "split"})
    """Division of the bags: blocks, end (of time), or bag (whole ones)."""
    held_out: float = 0.2
    """Part of the time that is held out; as much is used for stopping."""
    guard: float = 0.3
    """Time between the parts that is left out, s."""

    def __post_init__(self) -> None:
        check_choice("split", self.kind, SPLITS)
        if not 0 < self.held_out <= 1 / 3:
            raise ValueError(f"--held-out must lie in 0 .. 1/3 (as much again is for stopping), got {self.held_out}")
        if self.guard < 0:
            raise ValueError(f"--guard must not be negative, got {self.guard} s")


@dataclass(frozen=True)
class DepthFinetuning(DistillTraining):
    """Configuration of fine-tuning a depth network on recordings; what is 0 is chosen by the recordings."""

    out: str = "runs/finetune"
    """Folder for weights, state and logs; a run found there is resumed."""
    width: int = 0
    """Width of the network's input, px, a multiple of 32; 0: the shape of most images."""
    height: int = 0
    """Height of the network's input, px, a multiple of 32; 0: the shape of most images."""
    learning_rate: float = 5e-4
    """Highest learning rate."""
    schedule: str = "one_cycle"
    """Schedule: step (the paper's) or one_cycle."""
    skip_unusable: bool = True
    """Leave out bags without a usable pair, with a warning, instead of refusing to train."""
    world_share: float = 0.3
    """Part of the samples that is rendered, so that the network does not forget other places."""
    select_by_world: bool = False
    """Whether rendered scenes take part in the selection of the best weights."""
    losses: DepthLossConfig = LOSSES
    """The terms of the loss."""
    mask: MaskConfig = MASK
    """The checks of the teacher's predictions."""
    zoom: float = 1.8
    """Largest factor by which a window of a sample is enlarged, as by a longer lens; 1: none."""
    validate_minutes: float = 0.0
    """Minutes between validations; 0: a twentieth of the hours."""
    validation_scenes: int = 0
    """Pairs of every bag that a validation evaluates; 0: 48 of all bags together."""
    patience: int = 5
    """Validations without improvement, from a third of the run on, after which it stops; 0: never."""

    def __post_init__(self) -> None:
        from fg_depth_ros.networks import DepthNetwork  # loads PyTorch

        Training.__post_init__(self)  # the other checks need the recordings: see ``finetune_depth``
        if self.width or self.height:
            check_multiple(DepthNetwork.size_multiple, (self.width, self.height))


@dataclass(frozen=True)
class StereoFinetuning(Training):
    """Configuration of fine-tuning a stereo network on recordings by self-supervision.

    ``width`` and ``height`` are those of windows of the pairs at their own size; smaller where a pair is smaller.
    """

    out: str = "runs/finetune_stereo"
    """Folder for weights, state and logs; a run found there is resumed."""
    model: str = "flownet_stereo"
    """Network to train."""
    weights: str = "flownet_stereo"
    """Stereo weights to start from, a model's name or a file."""
    width: int = 512
    """Width of the windows, px, a multiple of 32."""
    height: int = 256
    """Height of the windows, px, a multiple of 32."""
    batch: int = 2
    """Pairs per process and step."""
    learning_rate: float = 1e-4
    """Highest learning rate."""
    weight_decay: float = 0.0
    """Weight decay of the optimizer."""
    validate_minutes: float = 0.0
    """Minutes between validations; 0: a twentieth of the hours."""
    validation_scenes: int = 0
    """Pairs of every bag that a validation evaluates; 0: 16 of all bags together."""
    patience: int = 5
    """Validations without improvement, from a third of the run on, after which it stops; 0: never."""
    photometric: float = 1.0
    """Weight of the photometric error where both cameras see a pixel."""
    left_right: float = 0.02
    """Weight of the difference of the two views' disparities, per px."""
    smoothness: float = 1e-3
    """Weight of the edge-aware smoothness."""
    anchor: float = 10.0
    """Weight of the squared distance of the parameters from those to start from, by their squared length."""
    tolerance: float = 1.5
    """Largest difference of the two views' disparities where both cameras see a pixel, px."""

    def __post_init__(self) -> None:
        from fg_depth_ros.networks import STEREO_MODELS  # these load PyTorch
        from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE

        super().__post_init__()
        check_choice("stereo network", self.model, STEREO_MODELS)
        if not self.weights or self.load_partial:
            raise ValueError(
                "--stereo starts from weights of the network itself: name them by --stereo-weights, without "
                "--load-partial"
            )
        check_multiple(SIZE_MULTIPLE, (self.width, self.height))
        for name in ("photometric", "left_right", "smoothness", "anchor"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative, got {getattr(self, name)}")
        if self.tolerance <= 0:
            raise ValueError(f"--tolerance must be positive, got {self.tolerance} px")
