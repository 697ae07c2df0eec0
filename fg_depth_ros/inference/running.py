"""What running any network takes: its weights, its device, its precision, images as tensors, too little memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from fg_depth_ros.inference.allocation import keep_freed_memory
from fg_depth_ros.networks import CheckpointError, ModelCard, load_model
from fg_depth_ros.networks.registry import weights_path

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelError(ValueError):
    """A model that cannot be used; the message says what is wrong and what to do."""


class OutOfMemory(RuntimeError):
    """The device has too little memory for a pair of this size."""


class Method(Protocol):
    """Anything that answers images: a network with its weights, or a classical method."""

    @property
    def name(self) -> str:
        """Name of the model."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of the weights; empty where there are none."""
        ...

    @property
    def device(self) -> str:
        """Where it runs, in torch's words."""
        ...


MethodT = TypeVar("MethodT", bound=Method)


class MethodRunner(Generic[MethodT]):
    """What every estimator says of the method that it runs."""

    def __init__(self, method: MethodT) -> None:
        self._method = method

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
        """Where it runs, in torch's words."""
        return self._method.device


def choose_device(device: str) -> torch.device:
    """``auto`` or a device name to a device that works here.

    Raises:
        ModelError: the device is unknown, or not available on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device '{device}' cannot be used here ({reason}); use auto, cpu or cuda:N") from error
    return chosen


def fold_batch_norm(network: nn.Module) -> None:
    """Work every batch norm that follows a convolution in an ``nn.Sequential`` into it (inference only, in place)."""
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for i in range(len(module) - 1):
            conv, norm = module[i], module[i + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[i] = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
                module[i + 1] = nn.Identity()


def load_network(
    model: str, weights: str | Path | None, device: str, precision: str, known: Collection[str], kind: str
) -> tuple[nn.Module, ModelCard]:
    """A network with weights on its device, made fast for inference, and what its weights say of themselves.

    Args:
        model: its name; empty = whichever of the known networks the weights belong to.
        weights: path of a weights file; empty = the shipped ones.
        device: as ``choose_device`` takes it.
        precision: one of ``PRECISIONS``; only checked here.
        known: names of the networks that can do the work.
        kind: what they do, in a word: "flow".

    Raises:
        ModelError: weights that are missing, damaged or of another network; unknown device or precision.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"unknown precision '{precision}'; known: {', '.join(PRECISIONS)}")
    chosen = choose_device(device)
    path = Path(weights) if weights else weights_path(model)
    if not weights and not path.is_file():
        raise ModelError(
            f"no weights of '{model}' come with the package ({path} does not exist); give a weights file: 'fg-depth "
            "train' and 'fg-depth distill' make them, 'fg-depth import' makes one of published flow weights"
        )
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
    return network.to(chosen, memory_format=torch.channels_last), card  # type: ignore[call-overload]


def as_tensor(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """An image H x W x 3 RGB or H x W, uint8, as 1 x 3 x H x W float32 in [0, 1]; grey is repeated."""
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    # The batch dimension comes first: only then do its strides say that the pixels lie channels last.
    tensor = torch.from_numpy(np.ascontiguousarray(rgb)).to(device).unsqueeze(0)
    return tensor.permute(0, 3, 1, 2).to(torch.float32).div_(255)


@contextmanager
def running(device: torch.device, precision: torch.dtype, width: int, height: int) -> Iterator[None]:
    """Everything that runs a network on a pair of images stands inside: no gradients, the precision of the device.

    Args:
        device: where the network lies.
        precision: float32 leaves all layers as they are; else torch's automatic mixed precision.
        width, height: of the images, px, for the message.

    Raises:
        OutOfMemory: what runs inside needs more memory than the device has.
    """
    lower = precision is not torch.float32
    autocast = torch.autocast(device.type, dtype=precision if lower else torch.bfloat16, enabled=lower)
    try:
        with torch.inference_mode(), autocast:
            yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            if device.type == "cuda":
                torch.cuda.empty_cache()
            raise OutOfMemory(f"{device} has too little memory for a {width}x{height} pair") from error
        raise
