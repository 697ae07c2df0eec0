"""The messages of one pair as arrays: for the metrics, and, with all outputs, for a picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stereo_msgs.msg import DisparityImage

from fg_depth_ros.data.io import messages
from fg_depth_ros.evaluation.live.pair_ledger import PairEntry
from fg_depth_ros.evaluation.replay.scores import PublishedPair
from fg_depth_ros.files import atomic_write
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.geometry.rectification import Rectification

DEPTH = "depth/image_rect"
_TRUTH = "true depth"

# Outputs of a complete snapshot; the optional ones are added where they are there.
SNAPSHOT_PARTS = ("depth", "flow", "left", "labels", "points")
OPTIONAL_PARTS = ("truth", "right")
_KEPT = 12


def image_disparity(message: DisparityImage, rig: StereoRig) -> np.ndarray:
    """Convert a DisparityImage to image disparity ``x_left - x_right``: float32 H x W px, NaN where there is none.

    The message's own disparity is ``x_left - x_right - (cx_left - cx_right)``; values outside its range are holes.
    Raises MessageError.
    """
    values = messages.disparity_to_array(message)
    return np.where(values > 0, values - np.float32(rig.doffs), np.float32(np.nan))


def published_pair(entry: PairEntry, rectification: Rectification, white: messages.LearnedWhite) -> PublishedPair:
    """Convert the messages of a pair to arrays, its images rectified; ``white``: of the pairs before.

    Raises MessageError or RigError (ValueErrors) naming topic and value.
    """
    parts: dict[str, Any] = entry.parts
    rig = rectification.rig
    disparity = dense = None
    if "disparity" in parts:
        disparity = image_disparity(parts["disparity"], rig)
    if "flow" in parts:
        dense = -messages.float_array(parts["flow"], "flow/image")[..., 0]
    images = {
        side: rectification.apply(image, ("left", "right").index(side))
        for side, image in _camera_images(parts, white).items()
    }
    return PublishedPair(
        entry.name or f"pair at {entry.stamp * 1e-9:.9f} s",
        rig,
        messages.depth_to_array(parts["depth"], DEPTH),
        dense,
        disparity,
        messages.depth_to_array(parts["truth"], _TRUTH) if "truth" in parts else None,
        **images,
    )


@dataclass(frozen=True)
class Snapshot:
    """One pair with all outputs of the node."""

    left: np.ndarray  # uint8 RGB H x W x 3
    disparity: np.ndarray  # dense image disparity, float32 H x W px
    depth: np.ndarray  # float32 H x W m with NaN
    labels: np.ndarray  # uint8 H x W (geometry.Label)
    points: np.ndarray  # of the cloud, h x w x 3
    colours: np.ndarray
    rig: StereoRig
    truth: np.ndarray | None  # as depth
    name: str = ""
    right: np.ndarray | None = None  # as left

    @classmethod
    def read(cls, path: Path) -> Snapshot:
        """Read what ``SnapshotCollector.write`` wrote. Raises OSError or ValueError for anything else."""
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        try:
            rig = StereoRig.from_dict(dict(zip(_RIG, arrays.pop("rig").tolist(), strict=True)))
            return cls(rig=rig, truth=arrays.pop("truth", None), name=str(arrays.pop("name")), **arrays)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: no snapshot of replay_evaluator_node ({error})") from error


_RIG = ("width", "height", "fx", "fy", "cx", "cy", "cx_right", "baseline")


class SnapshotCollector:
    """Collects messages by stamp until one stamp has them all."""

    def __init__(self) -> None:
        self._by_stamp: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def add(self, stamp: int, part: str, message: Any) -> None:
        """Add a message; those of the newest stamps are held."""
        self._by_stamp.setdefault(stamp, {})[part] = message
        while len(self._by_stamp) > _KEPT:
            self._by_stamp.popitem(last=False)

    def complete(self) -> list[int]:
        """Return the stamps of complete pairs, oldest first."""
        return [stamp for stamp, parts in self._by_stamp.items() if all(name in parts for name in SNAPSHOT_PARTS)]

    def write(self, path: Path, stamp: int, name: str, infos: Mapping[str, Mapping[int, Any]]) -> None:
        """Write the pair with this stamp, called ``name``, to an .npz file. ``infos``: camera_info by side and stamp.

        Raises ValueError: a message is malformed or its camera_info did not come. OSError: no such folder.
        """
        parts = self._by_stamp[stamp]
        if any(stamp not in infos[side] for side in ("left", "right")):
            raise ValueError("the camera_info of this pair did not come")
        rig = StereoRig.from_camera_info(infos["left"][stamp], infos["right"][stamp])
        points, colours = messages.cloud_to_arrays(parts["points"])
        arrays: dict[str, Any] = {
            **{side: _colour(image) for side, image in _camera_images(parts, messages.LearnedWhite()).items()},
            "disparity": -messages.float_array(parts["flow"], "flow/image")[..., 0],
            "depth": messages.depth_to_array(parts["depth"], DEPTH),
            "labels": messages.image_to_array(parts["labels"], "mask/labels"),
            "points": points,
            "colours": colours,
            "name": np.array(name),
            "rig": np.array([getattr(rig, name) for name in _RIG]),
        }
        if "truth" in parts:
            arrays["truth"] = messages.depth_to_array(parts["truth"], _TRUTH)
        with atomic_write(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)


def _camera_images(parts: Mapping[str, Any], white: messages.LearnedWhite) -> dict[str, np.ndarray]:
    """Return those of the left and right image that are there, uint8."""
    found = {
        side: messages.image_to_array(parts[side], f"{side}/image_rect", mono16_white=None)
        for side in ("left", "right")
        if side in parts
    }
    return dict(zip(found, white.to_uint8(*found.values()), strict=True))


def _colour(image: np.ndarray) -> np.ndarray:
    return np.dstack([image] * 3) if image.ndim == 2 else image
