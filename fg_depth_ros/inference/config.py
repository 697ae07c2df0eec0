"""Configurations of the estimators."""

from __future__ import annotations

import difflib
import math
from collections import ChainMap
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference.engines.base import ENGINES, PRECISIONS
from fg_depth_ros.networks.registry import DEPTH_MODELS, FLOW_MODELS, STEREO_MODELS

AUTO = "auto"
_FARTHEST = 2048  # px, where a search may begin
_WIDEST = 4096  # px, of a search
_FIXED_POINT = 2047  # px: OpenCV's matchers give sixteenths in 16 bits, and the smallest one is what has no match
SMALLEST_AUTO = 0.25
"""Smallest ``inference_scale`` that ``auto`` chooses."""
CLASSICAL_STEREO = ("sgbm", "bm")
CLASSICAL_FLOW = ("dis", "farneback", "lucas_kanade", "horn_schunck")
# What a model is for that another task does not take.
_TASKS = {
    **dict.fromkeys((*FLOW_MODELS, *CLASSICAL_FLOW), "optical flow"),
    **dict.fromkeys((*STEREO_MODELS, *CLASSICAL_STEREO), "stereo pairs"),
    **dict.fromkeys(DEPTH_MODELS, "depth from one image"),
}


def check_scale(name: str, scale: float | str, auto: bool = False) -> None:
    """Raise ValueError, naming the parameter or option, for a scale out of range; ``auto``: it may be that, too."""
    if not (auto and scale == AUTO) and (isinstance(scale, str) or not 0.1 <= scale <= 4):
        raise ValueError(f"{name} must {'be auto or ' if auto else ''}lie in 0.1 .. 4, got {scale}")


def check_fixed_point(model: str, first: int, disparities: int) -> None:
    """Raise ValueError where a classical method cannot search so many disparities from ``first``, px."""
    last = first - 1 + -(-disparities // 16) * 16
    if first < -_FIXED_POINT or last > _FIXED_POINT:
        raise ValueError(
            f"{model} finds disparities of -{_FIXED_POINT} to {_FIXED_POINT} px, and would search from {first} to "
            f"{last} px at the matched size: set min_disparity nearer to 0, or max_disparity or inference_scale lower"
        )


@dataclass(frozen=True)
class EstimatorConfig:
    """Base of the configurations. Raises ValueError for values out of range, with the allowed ones."""

    model: str
    """Network or classical method; empty = the network that ``weights`` belongs to."""
    weights: str = ""
    """Path of a weights file; empty = the shipped weights."""
    device: str = "auto"
    """auto, cpu, cuda:N; classical methods run on the CPU."""
    precision: str = "auto"
    """auto (the fastest of the engine here), float32, bfloat16, float16 or int8 (calibrated weights alone)."""
    inference_scale: float | str = 1.0
    """Factor on the size at which the network runs."""
    engine: str = "auto"
    """Engine that runs the network: auto, torch, openvino, onnxruntime or tensorrt."""

    networks: ClassVar[Collection[str]] = ()
    classical: ClassVar[tuple[str, ...]] = ()
    auto_scale: ClassVar[bool] = False  # whether inference_scale may be auto

    def __post_init__(self) -> None:
        models = (*self.known_models(), *([""] if self.weights else []))
        self._check_choice("model", self.model, models)
        self._check_choice("precision", self.precision, PRECISIONS)
        self._check_choice("engine", self.engine, ENGINES)
        if self.weights and self.model in self.classical:
            raise ValueError(f"'{self.model}' has no weights; leave {self.weights} out or set the model to its network")
        check_scale("inference_scale", self.inference_scale, self.auto_scale)

    def method_options(self) -> dict[str, Any]:
        """Return by name the options that the method is loaded for; the other ones say how it is used."""
        return {name: getattr(self, name) for name in ("model", "weights", "device", "engine", "precision")}

    @classmethod
    def known_models(cls) -> tuple[str, ...]:
        """Return the names that ``model`` takes: networks, then classical methods."""
        return (*sorted(cls.networks, key=lambda name: (name not in STEREO_MODELS, name)), *cls.classical)

    def _check_choice(self, name: str, value: str, known: Collection[str]) -> None:
        if value in known:
            return
        choices = ", ".join(filter(None, known))
        if name == "model" and value in _TASKS:
            raise ValueError(f"model '{value}' is for {_TASKS[value]}; choose one of {choices}")
        nearest = difflib.get_close_matches(value, known, n=1)
        advice = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"{name} '{value}' is unknown; choose one of {choices}{advice}")


@dataclass(frozen=True)
class BlockMatching:
    """Options of the classical matchers, by the names and with the meaning that stereo_image_proc gives them.

    ``auto`` is what suits the matcher. Raises ValueError for values out of range, with the allowed ones.
    """

    correlation_window_size: int | str = AUTO
    """Side of the window that is compared, px, odd; auto = 5 for sgbm, 15 for bm."""
    prefilter_cap: int | str = AUTO
    """Bound on the filtered grey values that are compared, 1 .. 63; auto = 15 for sgbm, 31 for bm."""
    texture_threshold: int = 10
    """Windows with less texture (sum of absolute x derivatives) have no disparity; bm only."""
    uniqueness_ratio: float = 10.0
    """Percent by which the best match must be better than the second best; whole numbers count."""
    speckle_size: int = 100
    """Regions of equal disparity with fewer pixels are removed; 0 = none."""
    speckle_range: int | str = AUTO
    """Disparities that differ by more are of different regions: px for sgbm, sixteenths of a px for bm, as OpenCV has
    them; auto = 2 px."""
    disp12_max_diff: int = 1
    """Largest difference of OpenCV's own left-right check, px; sgbm only."""
    P1: float = 200.0
    """Penalty on a disparity that changes by 1 from pixel to pixel; per image channel; sgbm only."""
    P2: float = 800.0
    """Penalty on a disparity that changes by more; per image channel; sgbm only."""
    sgbm_mode: int = 2
    """0 SGBM (five directions), 1 HH (eight, full size in memory), 2 SGBM_3WAY, 3 HH4; sgbm only."""

    def __post_init__(self) -> None:
        limits = {
            "correlation_window_size": (5, 255), "prefilter_cap": (1, 63), "texture_threshold": (0, 10000),
            "uniqueness_ratio": (0, 100), "speckle_size": (0, 1000), "speckle_range": (0, 31),
            "disp12_max_diff": (0, 128), "P1": (0, 4000), "P2": (0, 4000), "sgbm_mode": (0, 3),
        }  # fmt: skip
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            auto = isinstance(getattr(type(self), name), str)
            if not (value == AUTO and auto) and (isinstance(value, str) or not least <= value <= most):
                raise ValueError(f"{name} must {'be auto or ' if auto else ''}lie in {least} .. {most}, got {value}")

        if self.correlation_window_size != AUTO and int(self.correlation_window_size) % 2 == 0:
            near = int(self.correlation_window_size)
            raise ValueError(f"correlation_window_size must be odd, got {near}: choose {near - 1} or {near + 1}")

    def value(self, name: str, auto: int) -> int:
        """Return an option as the whole number that OpenCV takes; ``auto`` where it is that."""
        value = getattr(self, name)
        return auto if value == AUTO else int(value)


@dataclass(frozen=True)
class StereoConfig(EstimatorConfig):
    """Configuration of depth from a rectified pair."""

    model: str = "flownet_stereo"
    """Network or classical method; empty = the network that ``weights`` belongs to."""
    inference_scale: float | str = 1.0
    """Factor on the size at which pairs are matched. ``auto``: the largest one, of 0.25 to 1, at which the search
    reaches ``min_depth`` and pairs take no longer than ``time_budget``."""
    time_budget: float = 0.0
    """Longest time to match a pair, s, with ``inference_scale`` auto; 0 = no limit."""
    min_depth: float = 0.1
    """Nearer pixels are out of range, m."""
    max_depth: float = 80.0
    """Farther pixels are out of range, m."""
    left_right_check: str = "one_pass"
    """one_pass: half-occlusions found in the left disparity alone; two_pass: the right view is matched too, at twice
    the time; off."""
    left_right_threshold: float = 1.5
    """Largest difference in that check, px."""
    refinement: str = "semi_global"
    """semi_global: what a stereo network finds is refined by semi-global matching within some pixels; off."""
    photometric_check: bool = True
    """Pixels whose match the images do not support are unsupported: too little texture or light, or other views."""
    max_vertical: float = 1.0
    """Pixels that a flow network matches farther from their row are off their row, px; 0 = off."""
    max_sigma: float = 7.5
    """Pixels less certain than this are low confidence, px of disparity; 0 = off."""
    min_disparity: int | str = AUTO
    """Smallest image disparity of the search, px. Objects at infinity have ``-doffs``: ``auto`` begins there."""
    max_disparity: int = 192
    """Search range of the classical methods, px at the matched size."""
    block_matching: BlockMatching = BlockMatching()
    """Further options of the classical methods."""

    networks: ClassVar[Collection[str]] = ChainMap(STEREO_MODELS, FLOW_MODELS)
    classical: ClassVar[tuple[str, ...]] = CLASSICAL_STEREO
    auto_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("left_right_check", self.left_right_check, ("one_pass", "two_pass", "off"))
        self._check_choice("refinement", self.refinement, ("semi_global", "off"))
        if not 0 < self.min_depth < self.max_depth < math.inf:
            raise ValueError(f"need 0 < min_depth < max_depth, got {self.min_depth} and {self.max_depth} m")
        if not 0 <= self.time_budget < math.inf:
            raise ValueError(f"time_budget must be a number of seconds, 0 for none, got {self.time_budget}")
        first = self.min_disparity
        if first != AUTO and (isinstance(first, str) or not -_FARTHEST <= first <= _FARTHEST):
            raise ValueError(f"min_disparity must be auto or lie in -{_FARTHEST} .. {_FARTHEST} px, got {first}")
        if not 16 <= self.max_disparity <= _WIDEST:
            raise ValueError(f"max_disparity must lie in 16 .. {_WIDEST} px, got {self.max_disparity}")
        if self.model in self.classical:
            scale = 1.0 if isinstance(self.inference_scale, str) else self.inference_scale
            check_fixed_point(
                self.model, 0 if isinstance(first, str) else math.floor(first * scale), self.max_disparity
            )
        if self.left_right_threshold <= 0 or self.max_sigma < 0 or self.max_vertical < 0:
            raise ValueError(
                "left_right_threshold must be positive, max_sigma and max_vertical not negative, got "
                f"{self.left_right_threshold}, {self.max_sigma} and {self.max_vertical} px"
            )

    def method_options(self) -> dict[str, Any]:
        """See ``EstimatorConfig``."""
        options = super().method_options()
        if self.model in self.classical:
            options |= {"max_disparity": self.max_disparity, **asdict(self.block_matching)}
        return options

    def scale(self, rig: StereoRig, disparities: int | None) -> float:
        """Return the factor on the size at which the search for pairs of this rig reaches ``min_depth``, if it is auto.

        ``disparities``: number of those searched, px at the matched size; None = no fixed range.
        """
        if not isinstance(self.inference_scale, str):
            return self.inference_scale
        if disparities is None:
            return 1.0
        nearest = rig.fx * rig.baseline / self.min_depth - rig.doffs  # image disparity
        wanted = max(nearest - self.search_start(rig.doffs), 1.0)
        return min(1.0, max(SMALLEST_AUTO, math.floor(1000 * (disparities - 1) / wanted) / 1000))

    def search_start(self, doffs: float) -> int:
        """Return the image disparity, px, at which the search begins for a rig with this ``doffs``."""
        if not isinstance(self.min_disparity, str):
            return self.min_disparity
        # A thousandth of a pixel of rounding in a calibration is no reason to search one more.
        return max(-_FARTHEST, min(_FARTHEST, math.floor(1e-3 - doffs)))


@dataclass(frozen=True)
class FlowConfig(EstimatorConfig):
    """Configuration of optical flow."""

    model: str = "flownet_lite"
    """Network or classical method; empty = the network that ``weights`` belongs to."""
    refinement: str = AUTO
    """auto: what ``flownet_lite`` finds is refined by one iteration of a variational solver, which other methods do
    without; variational: the ``+v`` of the FlowNet paper, for any method; off."""

    networks: ClassVar[Collection[str]] = FLOW_MODELS
    classical: ClassVar[tuple[str, ...]] = CLASSICAL_FLOW

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("refinement", self.refinement, (AUTO, "variational", "off"))


@dataclass(frozen=True)
class MonoConfig(EstimatorConfig):
    """Configuration of depth from one image. ``inference_scale`` is relative to the size that the network fits."""

    model: str = AUTO
    """Network; auto or empty = the one that ``weights`` belongs to; auto without weights: depthnet_efficient."""

    networks: ClassVar[Collection[str]] = DEPTH_MODELS

    def __post_init__(self) -> None:
        if self.model == AUTO:
            object.__setattr__(self, "model", "" if self.weights else "depthnet_efficient")
        super().__post_init__()


def config_of(model: str, **options: Any) -> StereoConfig | FlowConfig | MonoConfig:
    """Return the configuration of a network or classical method: of flow where it has that, of depth, or of stereo.

    ``options``: fields of that configuration. Raises ValueError: a model that no task has, or a value out of range.
    """
    if model in FlowConfig.known_models():
        return FlowConfig(model, **options)
    return MonoConfig(model, **options) if model in MonoConfig.known_models() else StereoConfig(model, **options)
