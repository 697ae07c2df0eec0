"""Base of the estimators, and how a network comes onto its device: ``stereo``, ``flow`` and ``mono`` build on it."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference.config import EstimatorConfig
from fg_depth_ros.inference.engines import EngineRunner, OutOfMemory, Program
from fg_depth_ros.inference.engines.torch_engine import is_out_of_memory
from fg_depth_ros.networks import CheckpointError, ModelCard, load_model
from fg_depth_ros.networks.registry import weights_path


class ModelError(ValueError):
    """A model that cannot be used; the message says what is wrong and what to do."""


class Method(Protocol):
    """Method that an estimator runs: a network with its weights, or a classical method."""

    name: str
    sha256: str  # of the weights; empty if there are none
    device: str  # a torch device name

    @property
    def runner(self) -> EngineRunner | None:
        """Engine that runs the network; None for a classical method."""
        ...


ConfigT = TypeVar("ConfigT", bound=EstimatorConfig)
MethodT = TypeVar("MethodT", bound=Method)
EstimatorT = TypeVar("EstimatorT", bound="Estimator[Any, Any]")


class Estimator(Generic[ConfigT, MethodT]):
    """Base of the estimators: a configuration and the method that was loaded for it."""

    def __init__(self, config: ConfigT, method: MethodT) -> None:
        self.config, self._method = config, method

    def with_config(self: EstimatorT, config: Any) -> EstimatorT:
        """Return an estimator with this configuration and the same method; nothing is loaded.

        ``config``: one of the same ``method_options``.
        """
        other = copy.copy(self)
        other.config = config
        return other

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return self._method.name

    @property
    def model_sha256(self) -> str:
        """Hash of the weights; empty for classical methods."""
        return self._method.sha256

    @property
    def device(self) -> str:
        """Device that the model runs on, as torch names it."""
        return self._method.device

    @property
    def runner(self) -> EngineRunner | None:
        """Engine that runs the network, precision, failures; None for a classical method."""
        return self._method.runner

    @property
    def engine(self) -> str:
        """Engine that runs the network; empty for a classical method."""
        return "" if self.runner is None else self.runner.engine

    @property
    def precision(self) -> str:
        """Precision that the network runs in; empty for a classical method."""
        return "" if self.runner is None else self.runner.precision

    @property
    def engine_failure(self) -> str | None:
        """Why PyTorch runs instead of the engine that was wanted; None while all is well."""
        return None if self.runner is None else self.runner.failure

    def warm_up(self, width: int, height: int, doffs: float = 0.0) -> None:
        """Run once on empty images of this size, so that the first real one is not slow.

        ``doffs``: of the rig, px; where the search begins follows it, and with that the size that is matched.
        """
        raise NotImplementedError

    def scale(self, rig: StereoRig) -> float:
        """Return the factor on the size at which images of this rig are processed."""
        return float(self.config.inference_scale)

    def warm_up_for(self, rig: StereoRig) -> None:
        """Warm up for pairs of this rig."""
        self.warm_up(rig.width, rig.height, rig.doffs)

    def check(self, left: np.ndarray, right: np.ndarray) -> None:
        """Run the network on a real pair, uint8 RGB, with PyTorch. Raises ModelError: a result that is not finite."""
        if self.runner is None:
            return
        with self.runner.pytorch():
            found = self._result(left, right)
        if not np.isfinite(found).all():
            raise ModelError(
                f"{self.model_name} {self.model_sha256[:12]} gives results that are not finite in "
                f"{self.precision}: these weights cannot be used"
            )

    def _result(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return what the method finds for a pair."""
        raise NotImplementedError


class NetworkMethod:
    """Base of the methods that run a network, in evaluation mode and on its device, with an engine.

    ``engine`` and ``precision``: of ENGINES and PRECISIONS. ``inputs``: names of the images; ``outputs``: names of what
    ``to_tensors`` makes of the network's prediction, N x C x H x W each. Raises ModelError: the engine does not run on
    the device or not in the precision.
    """

    def __init__(
        self, network: nn.Module, name: str, sha256: str, engine: str, precision: str,
        inputs: tuple[str, ...], outputs: tuple[str, ...], to_tensors: Callable[[Any], tuple[torch.Tensor, ...]],
    ) -> None:  # fmt: skip
        self._network = network
        device = next(network.parameters()).device
        self.name, self.sha256, self.device = name, sha256, str(device)
        self.program = Program(network, inputs, outputs, to_tensors)
        try:
            self.runner = EngineRunner(self.program, name, engine, precision, device)
        except ValueError as error:
            raise ModelError(str(error)) from error


def check_images(**images: np.ndarray) -> None:
    """Raise ValueError, with the name, for images that are not H x W or H x W x 3 uint8, or empty."""
    for name, image in images.items():
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(
                f"the {name} image must be H x W or H x W x 3 of uint8, got {image.shape} of {image.dtype}"
            )
        if not image.size:
            raise ValueError(f"the {name} image is empty: {image.shape}")


def find_device(device: str) -> torch.device:
    """Return the device for ``auto`` (a GPU if there is one) or a device name; a GPU is not started for it.

    Raises ModelError: the device is unknown, or not on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise _no_device(device, "there is no device of this name") from error
    if found.type == "cuda" and (found.index or 0) >= (count := torch.cuda.device_count()):
        raise _no_device(device, f"PyTorch finds {count or 'no'} GPU{'s' if count > 1 else ''}")
    if found.type not in ("cuda", "cpu"):
        _allocate(device, found)
    return found


def choose_device(device: str) -> torch.device:
    """Return the device for ``auto`` (a GPU if there is one) or a device name.

    Raises ModelError: the device is unknown, or not available on this machine.
    """
    chosen = find_device(device)
    if device != "auto":
        _allocate(device, chosen)
    return chosen


def _allocate(device: str, found: torch.device) -> None:
    """Raise ModelError for a device on which nothing can be stored, or from which nothing comes back."""
    try:
        torch.empty(1, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise OutOfMemory(f"{found} has no memory left") from error
        raise _no_device(device, str(error).splitlines()[0]) from error


def _no_device(device: str, reason: str) -> ModelError:
    return ModelError(f"device '{device}' cannot be used here ({reason}); use auto, cpu or cuda:N")


def shipped_weights(model: str) -> Path:
    """Return the file of the weights that come with the package. Raises ModelError: none of this model do."""
    path = weights_path(model)
    if not path.is_file():
        raise ModelError(
            f"no weights of '{model}' come with the package ({path} does not exist); give a weights file: 'fg-depth "
            "train' and 'fg-depth distill' make them, 'fg-depth import' makes one of published flow weights"
        )
    return path


def fold_batch_norm(network: nn.Module) -> None:
    """Fold every batch norm that follows a convolution in an ``nn.Sequential`` into it, in place (inference only)."""
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for i in range(len(module) - 1):
            conv, norm = module[i], module[i + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[i] = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
                module[i + 1] = nn.Identity()


def load_network(
    model: str, weights: str | Path | None, device: str, known: Collection[str], kind: str
) -> tuple[nn.Module, ModelCard]:
    """Load a network and its weights onto a device, made fast for inference.

    Args:
        model: its name; empty = whichever of the ``known`` networks (of a task, ``kind``) the weights belong to.
        weights: path of a weights file; empty = the shipped ones.
        device: as ``choose_device`` takes it.

    Returns:
        The network in evaluation mode, and its model card.

    Raises:
        ModelError: an unknown model; weights that are missing, damaged or of another network; unknown device.
        OutOfMemory: the device cannot hold the network.
    """
    if model and model not in known:
        raise ModelError(f"'{model}' is no {kind} network; choose one of {', '.join(sorted(known))}")
    chosen = choose_device(device)
    path = Path(weights) if weights else shipped_weights(model)
    try:
        network, card = load_model(path)
    except CheckpointError as error:
        raise ModelError(str(error)) from error
    if card.name not in known:
        wanted = f"'{model}'" if model else f"one of {', '.join(sorted(known))}"
        raise ModelError(
            f"{path} holds weights of '{card.name}', not of {wanted}; '{card.name}' is no {kind} network: give weights "
            f"of {wanted}"
        )
    if model and card.name != model:
        raise ModelError(
            f"{path} holds weights of '{card.name}', not of '{model}'; set the model to '{card.name}' or give weights "
            f"of '{model}'"
        )
    fold_batch_norm(network)
    if chosen.type == "cpu":
        keep_freed_memory()
    try:
        return network.to(chosen, memory_format=torch.channels_last), card  # type: ignore[call-overload]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{chosen} has too little memory for '{card.name}'") from error
        raise


@cache
def keep_freed_memory() -> bool:
    """Keep freed memory in the process for the next pair. Returns whether the C library took the setting.

    By default glibc returns every large buffer to the system and gets it again, zeroed page by page, for the next
    layer; with megabytes per layer that costs a fifth of the time. The process keeps the memory of its largest pair.
    Other C libraries are left as they are.
    """
    trim_threshold, mmap_threshold = -1, -3  # glibc's mallopt(3)
    largest_threshold = 32 * 2**20  # what glibc accepts for the second on 64-bit machines
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(mmap_threshold, largest_threshold), mallopt(trim_threshold, 2**31 - 1)])
