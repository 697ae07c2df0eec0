"""The teacher: a frozen method for stereo or flow that predicts the matches of pairs; and a cache for that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fg_depth_ros.data.io.formats import read_kitti_disparity, write_kitti_disparity
from fg_depth_ros.files import FileError, read_bytes, write_json
from fg_depth_ros.inference import BlockMatcher, ModelError
from fg_depth_ros.inference.config import CLASSICAL_FLOW, CLASSICAL_STEREO
from fg_depth_ros.inference.engines import FLOATS, inference_mode
from fg_depth_ros.inference.estimator import choose_device, load_network
from fg_depth_ros.inference.flow import ClassicalFlow
from fg_depth_ros.networks import FLOW_MODELS, STEREO_MODELS
from fg_depth_ros.networks.flow import pad_to_multiple
from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE
from fg_depth_ros.training.depth.batch import PairBatch, TeacherPrediction

_VERTICAL_ZERO = 128.0  # added to the row component on disk, where only positive numbers can be written
_MAX_STORED = 65535 / 256  # px, in the unit of 1

_Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def known_teachers() -> tuple[str, ...]:
    """Return the names that ``Teacher`` takes: networks for stereo and flow, then classical methods."""
    return (*sorted(STEREO_MODELS), *sorted(FLOW_MODELS), *CLASSICAL_STEREO, *CLASSICAL_FLOW)


class Teacher:
    """Any method for stereo or flow, frozen.

    A stereo method finds the match on the row; of the flow of a flow method the horizontal part, reversed, is the
    disparity, and the vertical part is kept. The right view is predicted as the left view of the mirrored pair, where
    the right camera stands on the left.

    ``model``: one of ``known_teachers``; empty = the network that ``weights`` belongs to. ``weights``: empty = the
    shipped ones. ``scale``: the images are resized by this for matching; below 1 it is faster and reaches larger
    disparities. Raises ModelError: model, weights, device or precision that cannot be used. Raises ValueError: a scale
    out of range.
    """

    def __init__(
        self, model: str = "flownet_stereo", weights: str = "", device: str = "auto", precision: str = "float32",
        scale: float = 1.0,
    ) -> None:  # fmt: skip
        if not 0.1 <= scale <= 4:
            raise ValueError(f"the teacher's scale must lie in 0.1 .. 4, got {scale}")
        if model not in known_teachers() and not (weights and not model):
            raise ModelError(f"unknown teacher '{model}'; known: {', '.join(known_teachers())}")
        if precision not in FLOATS:
            raise ModelError(f"unknown precision '{precision}'; known: {', '.join(FLOATS)}")
        classical = model in (*CLASSICAL_STEREO, *CLASSICAL_FLOW)
        if classical and weights:
            raise ModelError(f"teacher '{model}' has no weights; leave {weights} out or name its network")
        self.scale, self.name, self.sha256, self._precision = scale, model, "", precision
        self._options: dict[str, Any] | None = None  # of the network
        self._network: torch.nn.Module | None = None
        self._device = torch.device("cpu") if classical else choose_device(device)
        if classical:
            self._predict = _classical(model)
            return
        known = {**STEREO_MODELS, **FLOW_MODELS}
        network, card = load_network(model, weights or None, device, known, "stereo or flow")
        self._network = network.requires_grad_(False)
        self.name, self.sha256, self._options = card.name, card.sha256, card.options
        self._predict = _stereo_network(network) if card.name in STEREO_MODELS else _flow_network(network)

    @property
    def settings(self) -> dict[str, Any]:
        """Return what its predictions depend on, for cards and caches.

        Options such as the order of the channels change no tensor, so the hash of the weights does not tell them apart.
        """
        found = {"model": self.name, "sha256": self.sha256, "scale": self.scale, "precision": self._precision}
        return found if self._options is None else {**found, "options": self._options}

    @property
    def device(self) -> torch.device:
        """Return the device that it runs on."""
        return self._device

    def to(self, device: torch.device | str) -> Teacher:
        """Move it there (a classical method stays on the CPU); return it."""
        if self._network is not None:
            self._device = torch.device(device)
            self._network.to(self._device)
        return self

    def predict(self, left: Tensor, right: Tensor, both: bool = True) -> TeacherPrediction:
        """Predict N rectified pairs, N x 3 x H x W uint8 RGB each.

        ``both``: the right view, too, which the left-right check needs; twice the time. Returns float32 px of these
        images on its device, NaN where there is no prediction, nothing infinite. Raises ValueError: images of another
        type or of different size. Raises OutOfMemory: the device cannot hold pairs of this size.
        """
        for side, image in (("left", left), ("right", right)):
            if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != 3:
                raise ValueError(
                    f"{side} images must be N x 3 x H x W of uint8, got {tuple(image.shape)} of {image.dtype}"
                )
        if left.shape != right.shape:
            raise ValueError(f"left and right images differ: {tuple(left.shape)} and {tuple(right.shape)}")
        disparity, vertical = self._matches(left, right)
        if not both:
            return TeacherPrediction(disparity, vertical)
        mirrored, _ = self._matches(right.flip(-1), left.flip(-1))
        return TeacherPrediction(disparity, vertical, mirrored.flip(-1))

    def _matches(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        height, width = left.shape[-2:]
        with inference_mode(self._device, self._precision, width, height):
            pair = [image.to(self._device).float() / 255 for image in (left, right)]
            if self.scale != 1:
                size = (max(16, round(height * self.scale)), max(16, round(width * self.scale)))
                pair = [F.interpolate(i, size, mode="bilinear", antialias=self.scale < 1) for i in pair]
            found = self._predict(*pair)
            if self.scale != 1:
                across, down = width / size[1], height / size[0]
                enlarged = [F.interpolate(field.float(), (height, width), mode="bilinear") for field in found]
                found = (enlarged[0] * across, enlarged[1] * down)
        # Cloned outside: what is made in inference mode cannot take part in a training.
        disparity, vertical = (torch.where(torch.isfinite(f), f, torch.nan).float().clone() for f in found)
        return disparity, vertical


def _stereo_network(network: torch.nn.Module) -> _Predict:
    def predict(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        height, width = left.shape[-2:]
        found = network(*pad_to_multiple(SIZE_MULTIPLE, left, right)).disparity[..., :height, :width].float()
        return found, torch.zeros_like(found)

    return predict


def _flow_network(network: torch.nn.Module) -> _Predict:
    def predict(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        flow = network(left, right).flow.float()
        return -flow[:, :1], flow[:, 1:]

    return predict


def _classical(model: str) -> _Predict:
    """Return a classical method, which takes one pair of uint8 images."""
    if model in CLASSICAL_STEREO:
        matcher = BlockMatcher(model)
    else:
        method = ClassicalFlow(model)

    def match(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        if model in CLASSICAL_STEREO:
            disparity = matcher.match(left, right).disparity
            return np.stack([disparity, np.zeros_like(disparity)])
        u, v = np.moveaxis(method.flow(left, right), -1, 0)
        return np.stack([-u, v])

    def predict(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        pixels = ((255 * images).round().to(torch.uint8).permute(0, 2, 3, 1) for images in (left, right))
        pairs = zip(*(images.cpu().contiguous().numpy() for images in pixels), strict=True)
        disparity, vertical = torch.from_numpy(np.stack([match(*pair) for pair in pairs], 1)).unsqueeze(2)
        return disparity, vertical

    return predict


def prediction_from_truth(pairs: PairBatch) -> TeacherPrediction:
    """Return the true depth of pairs as a prediction: ``d = f B / Z``, NaN unknown; without the right view."""
    scale = (pairs.focal * pairs.baseline).view(-1, 1, 1, 1)
    known = torch.isfinite(pairs.truth) & (pairs.truth > 0)
    disparity = torch.where(known, scale / torch.where(known, pairs.truth, 1.0), torch.nan)
    return TeacherPrediction(disparity, torch.zeros_like(disparity))


class PredictionCache:
    """A teacher's predictions on disk, at the pairs' own size, as 16-bit PNG (KITTI's disparity format).

    Per pair ``NAME-KEY_left.png``, ``_right.png``, for a teacher with a row component ``_vertical.png`` (128 added),
    and, written last, ``NAME-KEY.json`` with the results of the pair's checks and ``units``, which the disparities of a
    file are multiplied by: a power of two, 1 where they are below 256 px and in files of 0.1.0. The key holds the
    pair's identity and the teacher's settings, weights included: another teacher's predictions are never used, nor
    those of a file that changed. ``folder`` is made when something is saved; each teacher has a folder of its own
    inside.
    """

    def __init__(self, folder: str | Path, teacher: Teacher) -> None:
        self._settings = teacher.settings
        self.folder = Path(folder) / "-".join(filter(None, (teacher.name, teacher.sha256[:12])))

    def key(self, name: str, identity: str) -> str:
        """Return the stem of a pair's files. ``identity``: differs for every content of a pair."""
        text = json.dumps([identity, self._settings], sort_keys=True)
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[-60:]
        return f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def notes(self, key: str) -> dict[str, Any] | None:
        """Return the results of a pair's checks; None where nothing is saved, or not all of it."""
        try:
            stored = json.loads((self.folder / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        whole = isinstance(stored, dict) and stored.get("teacher") == self._settings
        return dict(stored["notes"]) if whole else None

    def load(self, key: str) -> TeacherPrediction:
        """Return a prediction, 1 x 1 x H x W each. Raises FileError: a file that is missing or damaged."""
        units = self._units(key)
        left, right = (_read(self.folder / f"{key}_{side}.png") * units.get(side, 1) for side in ("left", "right"))
        path = self.folder / f"{key}_vertical.png"
        vertical = _read(path) - _VERTICAL_ZERO if path.is_file() else torch.zeros_like(left)
        return TeacherPrediction(left, vertical, right)

    def load_if_there(self, key: str) -> TeacherPrediction | None:
        """Return a prediction, or None where it is missing or damaged."""
        try:
            return self.load(key)
        except FileError:
            return None

    def save(self, key: str, notes: dict[str, Any], prediction: TeacherPrediction | None) -> None:
        """Write the results of a pair's checks, and its prediction (1 x 1 x H x W) if there is one.

        Raises WriteError.
        """
        units: dict[str, int] = {}
        if prediction is not None:
            if prediction.right_disparity is None:
                raise ValueError("a cache holds both views: have the teacher predict both")
            width = prediction.disparity.shape[-1]  # px; a match at a larger disparity lies beyond the other image
            for side, field in (("left", prediction.disparity), ("right", prediction.right_disparity)):
                units[side] = self._write(f"{key}_{side}", field, max(width, _MAX_STORED))
            if prediction.vertical.any():
                self._write(f"{key}_vertical", prediction.vertical + _VERTICAL_ZERO, _MAX_STORED)
        document = {"teacher": self._settings, "notes": notes, "units": units}
        write_json(self.folder / f"{key}.json", document, indent=1, sync=False)

    def forget(self, key: str) -> None:
        """Have a pair checked again the next time."""
        (self.folder / f"{key}.json").unlink(missing_ok=True)

    def _units(self, key: str) -> dict[str, int]:
        path = self.folder / f"{key}.json"
        content = read_bytes(path)
        try:
            return dict(json.loads(content).get("units", {}))
        except (ValueError, TypeError, AttributeError):
            raise FileError(f"{path}: damaged; remove it, and the pair is predicted once more") from None

    def _write(self, stem: str, field: Tensor, limit: float) -> int:
        """Write the values below ``limit`` in the smallest unit that holds them, others as unknown; return the unit."""
        values = field[0, 0].cpu().numpy()
        known = (values > 0) & (values < limit)
        largest, unit = float(values.max(where=known, initial=0)), 1
        while largest >= unit * _MAX_STORED:
            unit *= 2
        write_kitti_disparity(self.folder / f"{stem}.png", np.where(known, values / unit, np.nan))
        return unit


def _read(path: Path) -> Tensor:
    return torch.from_numpy(read_kitti_disparity(path))[None, None]
