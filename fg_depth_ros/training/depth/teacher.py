"""The teacher: a frozen method that says of stereo pairs where the matches are, and what it once said, kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fg_depth_ros.data.io.formats import FileError, read_kitti_disparity, write_kitti_disparity
from fg_depth_ros.inference import ModelError, SgbmMatcher
from fg_depth_ros.inference.config import CLASSICAL_FLOW, CLASSICAL_STEREO
from fg_depth_ros.inference.estimator import choose_device, inference_mode, load_network
from fg_depth_ros.inference.flow import ClassicalFlow
from fg_depth_ros.networks import FLOW_MODELS, STEREO_MODELS
from fg_depth_ros.networks.flow import pad_to_multiple
from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE
from fg_depth_ros.training.depth.batch import PairBatch, Taught

_VERTICAL_ZERO = 128.0  # added to the row component on disk, where only positive numbers can be written
_LARGEST = 65535 / 256  # what the file format can hold

_Answer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def known_teachers() -> tuple[str, ...]:
    """Names that ``Teacher`` takes: networks for stereo and flow, then classical methods."""
    return (*sorted(STEREO_MODELS), *sorted(FLOW_MODELS), *CLASSICAL_STEREO, *CLASSICAL_FLOW)


class Teacher:
    """Any method for stereo or flow, frozen.

    A stereo method says where on the row the match lies; of a flow method's answer the horizontal part, reversed, is
    the disparity, and the vertical part is kept. The right view is asked as the left view of the mirrored pair, where
    the right camera stands on the left.
    """

    def __init__(
        self,
        model: str = "flownet_stereo",
        weights: str = "",
        device: str = "auto",
        precision: str = "float32",
        scale: float = 1.0,
    ) -> None:
        """Load it.

        Args:
            model: one of ``known_teachers``; empty = the network that ``weights`` belongs to.
            weights: path of a weights file; empty = the shipped weights.
            device: auto, cpu, cuda:N; classical methods run on the CPU.
            precision: float32, bfloat16 or float16, of a network.
            scale: the images are resized by this for matching; below 1 it is faster and reaches larger disparities.

        Raises:
            ModelError: unknown model, weights that cannot be used, unknown device or precision.
            ValueError: a scale out of range.
        """
        if not 0.1 <= scale <= 4:
            raise ValueError(f"the teacher's scale must lie in 0.1 .. 4, got {scale}")
        if model not in known_teachers() and not (weights and not model):
            raise ModelError(f"unknown teacher '{model}'; known: {', '.join(known_teachers())}")
        classical = model in (*CLASSICAL_STEREO, *CLASSICAL_FLOW)
        if classical and weights:
            raise ModelError(f"teacher '{model}' has no weights; leave {weights} out or name its network")
        self.scale, self.name, self.sha256, self._precision = scale, model, "", precision
        self._network: torch.nn.Module | None = None
        self._device = torch.device("cpu") if classical else choose_device(device)
        if classical:
            self._answer = _sgbm if model in CLASSICAL_STEREO else _classical_flow(model)
            return
        known = {**STEREO_MODELS, **FLOW_MODELS}
        network, card = load_network(model, weights or None, device, precision, known, "stereo or flow")
        self._network = network.requires_grad_(False)
        self.name, self.sha256 = card.name, card.sha256
        self._answer = _stereo_network(network) if card.name in STEREO_MODELS else _flow_network(network)

    @property
    def settings(self) -> dict[str, Any]:
        """What its answers depend on, for cards and caches."""
        return {"model": self.name, "sha256": self.sha256, "scale": self.scale, "precision": self._precision}

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    def to(self, device: torch.device | str) -> Teacher:
        """The same teacher, moved there (a classical method stays on the CPU)."""
        if self._network is not None:
            self._device = torch.device(device)
            self._network.to(self._device)
        return self

    def teach(self, left: Tensor, right: Tensor, both: bool = True) -> Taught:
        """What it says of N rectified pairs.

        Args:
            left, right: N x 3 x H x W uint8 RGB.
            both: also of the right view, which the left-right check needs; twice the time.

        Returns:
            float32 px of these images on its device, NaN where it has no answer, nothing infinite.

        Raises:
            ValueError: images of another type or of different size.
            OutOfMemory: the device cannot hold pairs of this size.
        """
        for side, image in (("left", left), ("right", right)):
            if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != 3:
                raise ValueError(
                    f"{side} images must be N x 3 x H x W of uint8, got {tuple(image.shape)} of {image.dtype}"
                )
        if left.shape != right.shape:
            raise ValueError(f"left and right images differ: {tuple(left.shape)} and {tuple(right.shape)}")
        disparity, vertical = self._ask(left, right)
        if not both:
            return Taught(disparity, vertical)
        mirrored, _ = self._ask(right.flip(-1), left.flip(-1))
        return Taught(disparity, vertical, mirrored.flip(-1))

    def _ask(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        height, width = left.shape[-2:]
        with inference_mode(self._device, self._precision, width, height):
            pair = [image.to(self._device).float() / 255 for image in (left, right)]
            if self.scale != 1:
                size = (max(16, round(height * self.scale)), max(16, round(width * self.scale)))
                pair = [F.interpolate(i, size, mode="bilinear", antialias=self.scale < 1) for i in pair]
            found = self._answer(*pair)
            if self.scale != 1:
                across, down = width / size[1], height / size[0]
                enlarged = [F.interpolate(field.float(), (height, width), mode="bilinear") for field in found]
                found = (enlarged[0] * across, enlarged[1] * down)
        # Cloned outside: what is made in inference mode cannot take part in a training.
        disparity, vertical = (torch.where(torch.isfinite(f), f, torch.nan).float().clone() for f in found)
        return disparity, vertical


def _stereo_network(network: torch.nn.Module) -> _Answer:
    def answer(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        height, width = left.shape[-2:]
        found = network(*pad_to_multiple(SIZE_MULTIPLE, left, right)).disparity[..., :height, :width].float()
        return found, torch.zeros_like(found)

    return answer


def _flow_network(network: torch.nn.Module) -> _Answer:
    def answer(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        flow = network(left, right).flow.float()
        return -flow[:, :1], flow[:, 1:]

    return answer


def _arrays(images: Tensor) -> list[np.ndarray]:
    pixels = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [np.ascontiguousarray(image) for image in pixels]


def _sgbm(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    matcher = SgbmMatcher()
    pairs = zip(_arrays(left), _arrays(right), strict=True)
    found = torch.from_numpy(np.stack([matcher.match(*pair).disparity for pair in pairs])[:, None])
    return found, torch.zeros_like(found)


def _classical_flow(model: str) -> _Answer:
    method = ClassicalFlow(model)

    def answer(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        pairs = zip(_arrays(left), _arrays(right), strict=True)
        flow = torch.from_numpy(np.stack([method.flow(*pair) for pair in pairs])).permute(0, 3, 1, 2)
        return -flow[:, :1], flow[:, 1:]

    return answer


def taught_by_truth(pairs: PairBatch) -> Taught:
    """What the true depth of rendered pairs says: ``d = f B / Z``, NaN where the truth is not known.

    There is no right view; rows agree exactly.
    """
    scale = (pairs.focal * pairs.baseline).view(-1, 1, 1, 1)
    known = torch.isfinite(pairs.truth) & (pairs.truth > 0)
    disparity = torch.where(known, scale / torch.where(known, pairs.truth, 1.0), torch.nan)
    return Taught(disparity, torch.zeros_like(disparity))


class TeachingCache:
    """A teacher's answers on disk, at the pairs' own size, as 16-bit PNG (KITTI's disparity format).

    Per pair ``NAME-KEY_left.png``, ``_right.png``, for a teacher with a row component ``_vertical.png`` (128 added),
    and, written last, ``NAME-KEY.json`` with what was found out about the pair. The key holds the pair's identity and
    the teacher's settings, weights included: another teacher's answers are never used, nor those of a file that
    changed.
    """

    def __init__(self, folder: str | Path, teacher: Teacher) -> None:
        """``folder``: made when the first answer is kept; each teacher has a folder of its own inside."""
        self._settings = teacher.settings
        self.folder = Path(folder) / "-".join(filter(None, (teacher.name, teacher.sha256[:12])))

    def key(self, name: str, identity: str) -> str:
        """The stem of a pair's files. ``identity``: what tells the pair's content from all others'."""
        text = json.dumps([identity, self._settings], sort_keys=True)
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[-60:]
        return f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def notes(self, key: str) -> dict[str, Any] | None:
        """What was found out about a pair; None where nothing is kept, or not all of it."""
        try:
            stored = json.loads((self.folder / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        whole = isinstance(stored, dict) and stored.get("teacher") == self._settings
        return dict(stored["notes"]) if whole else None

    def taught(self, key: str) -> Taught:
        """The answer, 1 x 1 x H x W each.

        Raises:
            FileError: a file that is missing or damaged.
        """
        left, right = (_read(self.folder / f"{key}_{side}.png") for side in ("left", "right"))
        path = self.folder / f"{key}_vertical.png"
        vertical = _read(path) - _VERTICAL_ZERO if path.is_file() else torch.zeros_like(left)
        return Taught(left, vertical, right)

    def keep(self, key: str, notes: dict[str, Any], taught: Taught | None) -> None:
        """Write down what was found out about a pair, and the teacher's answer (1 x 1 x H x W) if it is of use.

        Raises:
            FileError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if taught is not None:
                if taught.right_disparity is None:
                    raise ValueError("a cache keeps both views: ask the teacher for both")
                self._write(f"{key}_left", taught.disparity)
                self._write(f"{key}_right", taught.right_disparity)
                if taught.vertical.any():
                    self._write(f"{key}_vertical", taught.vertical + _VERTICAL_ZERO)
            text = json.dumps({"teacher": self._settings, "notes": notes}, indent=1) + "\n"
            self._place(f"{key}.json", lambda partial: partial.write_text(text))
        except OSError as error:
            raise FileError(
                f"{self.folder}: what the teacher said cannot be kept there ({error.strerror}); free some space or "
                "name another folder"
            ) from error

    def forget(self, key: str) -> None:
        """Have a pair looked at anew the next time."""
        (self.folder / f"{key}.json").unlink(missing_ok=True)

    def _write(self, stem: str, field: Tensor) -> None:
        # Beyond the format's range nothing is kept: at widths up to 3277 px the flow mask cuts that anyway.
        values = field[0, 0].cpu().numpy()
        values = np.where((values > 0) & (values < _LARGEST), values, np.nan)
        self._place(f"{stem}.png", lambda partial: write_kitti_disparity(partial, values))

    def _place(self, name: str, write: Callable[[Path], Any]) -> None:
        """A file appears under its name only when it is complete."""
        partial = self.folder / f".{os.getpid()}.{name}"
        try:
            write(partial)
            os.replace(partial, self.folder / name)
        finally:
            partial.unlink(missing_ok=True)


def _read(path: Path) -> Tensor:
    return torch.from_numpy(read_kitti_disparity(path))[None, None]
