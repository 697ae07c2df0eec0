"""Methods that answer a rectified pair with disparity: networks and the classical one, behind one interface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fg_depth_ros.inference.allocation import keep_freed_memory
from fg_depth_ros.networks import STEREO_MODELS, CheckpointError, load_model
from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLASSICAL = ("sgbm",)


class ModelError(ValueError):
    """A model that cannot be used; the message says what is wrong and what to do."""


class OutOfMemory(RuntimeError):
    """The device has too little memory for a pair of this size."""


@dataclass(frozen=True)
class Match:
    """Answer of a matcher: ``disparity`` H x W float32 px (x_left - x_right, NaN = none) and ``sigma``, one standard
    deviation of its error, H x W float32 px, or None where the method does not know."""

    disparity: np.ndarray
    sigma: np.ndarray | None


class Matcher(Protocol):
    """Finds the disparity of a rectified pair.

    The search covers ``min_disparity`` to ``min_disparity`` + the method's range, px.
    """

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

    def match(self, left: np.ndarray, right: np.ndarray, min_disparity: int = 0) -> Match:
        """H x W x 3 uint8 RGB or H x W uint8 images of one size."""
        ...


def known_models() -> tuple[str, ...]:
    """Names that ``create_matcher`` takes."""
    return (*sorted(STEREO_MODELS), *CLASSICAL)


def create_matcher(
    model: str,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    max_disparity: int = 192,
) -> Matcher:
    """A matcher by name.

    Args:
        model: name of a network or of a classical method.
        weights: path of a weights file; none = the shipped ones.
        device: ``auto`` (a GPU if there is one), or a name torch knows (``cpu``, ``cuda:0``).
        precision: ``float32``, ``bfloat16`` or ``float16``, of the network.
        max_disparity: search range of the classical methods, px; a network's is fixed by its weights.

    Raises:
        ModelError: unknown model, weights that do not exist or do not fit, unknown device or precision.
    """
    if model not in known_models():
        raise ModelError(f"unknown model '{model}'; known: {', '.join(known_models())}")
    if model == "sgbm":
        return SgbmMatcher(max_disparity)
    return NetworkMatcher.load(model, weights, device, precision)


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


class NetworkMatcher:
    """A stereo network, wherever it lies and whatever weights it has."""

    def __init__(self, network: nn.Module, name: str, sha256: str = "", precision: torch.dtype = torch.float32) -> None:
        """``network``: in evaluation mode, on its device; not changed."""
        self._network, self._precision = network, precision
        self._device = next(network.parameters()).device
        self.name, self.sha256, self.device = name, sha256, str(self._device)

    @classmethod
    def load(cls, model: str, weights: str | Path | None, device: str, precision: str) -> NetworkMatcher:
        """As ``create_matcher``: a network with weights, made fast for inference."""
        if precision not in PRECISIONS:
            raise ModelError(f"unknown precision '{precision}'; known: {', '.join(PRECISIONS)}")
        chosen = choose_device(device)
        try:
            network, card = load_model(weights or model)
        except CheckpointError as error:
            raise ModelError(str(error)) from error
        if card.name != model:
            raise ModelError(
                f"{weights} holds weights of '{card.name}', not of '{model}'; set the model to '{card.name}' or give "
                f"weights of '{model}'"
            )
        fold_batch_norm(network)
        if chosen.type == "cpu":
            keep_freed_memory()
        network = network.to(chosen, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, model, card.sha256, PRECISIONS[precision])

    def match(self, left: np.ndarray, right: np.ndarray, min_disparity: int = 0) -> Match:
        """See ``Matcher``. Raises OutOfMemory."""
        height, width = left.shape[:2]
        left, right, first = widened(left, right, min_disparity)
        view = (0, 0, slice(height), slice(first, first + width))
        try:
            with torch.inference_mode(), self._autocast():
                answer = self._network(self._tensor(left), self._tensor(right))
            disparity = answer.disparity[view].float() + min_disparity
            sigma = 2**0.5 * answer.log_scale[view].float().exp()  # Laplace: sqrt(2) b
            return Match(disparity.cpu().numpy(), sigma.cpu().numpy())
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                raise OutOfMemory(f"{self.device} has too little memory for a {width}x{height} pair") from error
            raise

    def _autocast(self) -> torch.autocast:
        enabled = self._precision is not torch.float32
        return torch.autocast(self._device.type, dtype=self._precision if enabled else torch.bfloat16, enabled=enabled)

    def _tensor(self, image: np.ndarray) -> torch.Tensor:
        """Image to 1 x 3 x H x W in [0, 1], padded to a size the network takes."""
        rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
        tensor = torch.from_numpy(np.ascontiguousarray(rgb)).to(self._device)
        tensor = tensor.permute(2, 0, 1).unsqueeze(0).to(torch.float32).div_(255)
        down, across = -image.shape[0] % SIZE_MULTIPLE, -image.shape[1] % SIZE_MULTIPLE
        return F.pad(tensor, (0, across, 0, down), mode="replicate") if down or across else tensor


class SgbmMatcher:
    """OpenCV's semi-global block matching (Hirschmueller 2008) with its stock parameters for 5 x 5 blocks."""

    name, sha256, device = "sgbm", "", "cpu"

    def __init__(self, max_disparity: int = 192) -> None:
        """``max_disparity``: search range in px, rounded up to a multiple of 16."""
        block = 5
        self._matcher = cv2.StereoSGBM.create(
            minDisparity=0,
            numDisparities=-(-max_disparity // 16) * 16,
            blockSize=block,
            P1=8 * 3 * block * block,
            P2=32 * 3 * block * block,
            disp12MaxDiff=1,
            uniquenessRatio=10,
            speckleWindowSize=100,
            speckleRange=2,
            mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
        )

    def match(self, left: np.ndarray, right: np.ndarray, min_disparity: int = 0) -> Match:
        """See ``Matcher``."""
        # OpenCV answers only columns whose whole search range lies in the image; borders give the others a chance.
        front = self._matcher.getNumDisparities() + max(min_disparity, 0)
        back = max(-min_disparity, 0)
        pair = (cv2.copyMakeBorder(i, 0, 0, front, back, cv2.BORDER_REPLICATE) for i in (left, right))
        self._matcher.setMinDisparity(min_disparity)
        fixed_point = self._matcher.compute(*pair)[:, front : front + left.shape[1]]
        disparity = fixed_point.astype(np.float32) / 16
        disparity[fixed_point < 16 * min_disparity] = np.nan
        return Match(disparity, None)


def widened(left: np.ndarray, right: np.ndarray, min_disparity: int) -> tuple[np.ndarray, np.ndarray, int]:
    """A pair whose disparities are smaller by ``min_disparity``, by borders on opposite sides; nothing is lost.

    Returns the two images, and the column of the left one where the original begins.
    """
    before, after = max(-min_disparity, 0), max(min_disparity, 0)
    if before == after:
        return left, right, 0

    def bordered(image: np.ndarray, front: int, back: int) -> np.ndarray:
        return cv2.copyMakeBorder(np.ascontiguousarray(image), 0, 0, front, back, cv2.BORDER_REPLICATE)

    return bordered(left, before, after), bordered(right, after, before), before


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
