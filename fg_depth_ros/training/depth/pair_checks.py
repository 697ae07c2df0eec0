"""Which stereo pairs a depth network may learn from: what is wrong with the others, and how often that was found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from fg_depth_ros.data.datasets.stereo import list_images
from fg_depth_ros.data.io.formats import FileError
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference.classical_flow import dis
from fg_depth_ros.training.depth.batch import Taught
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.flow_mask import prior_flow_mask

REASONS = {
    "unreadable": "an image cannot be read: fetch it again or remove the pair",
    "not_finite": "an image holds numbers that are not finite (NaN): record it again or remove the pair",
    "wrong_size": "the images are not what their calibration is for: give the calibration of these images",
    "exchanged": "things lie further right in the right image, as with a baseline of the wrong sign: exchange the "
    "left and the right images",
    "rows": "the rows of the two images do not agree, as when they show different moments or are not rectified: pair "
    "the images by their stamps, or calibrate again",
    "no_answer": "the teacher yields no valid pixel: look at the images, widen the mask, or choose another teacher",
    "few_pixels": "of the teacher's answers too few pass the flow mask: look at the images, or widen the mask",
}
"""Why a pair is not trained on, and the way out."""

LEAST_SHARE = 0.05
"""Part of the pixels that must pass the flow mask, or the pair teaches nothing but its errors."""
_CONVINCING = 0.5
_LEAST_LEVEL = 0.4
"""Part of the pixels whose rows must agree. On a drive at 10 Hz it is 0.88 in true pairs, and 0.14 where the right
image is one frame late."""
_LEAST_BACKWARD = 0.5
_TOLERANCE = 1.0  # px at the width below
_WITNESS_WIDTH = 640
_PATIENCE = 20
"""A set of which the first pairs are all bad is refused after as many, not after hours."""


class BadPair(ValueError):
    """A pair that is not trained on: ``reason`` is one of ``REASONS``; the message tells more of this very pair."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass
class PairCounts:
    """Pairs that were used and pairs that were left out, by reason."""

    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """Of every reason the first pair that it was found at, and what was wrong with it."""

    def skip(self, name: str, reason: str, detail: str = "") -> None:
        """Count a pair that is left out."""
        self.skipped[reason] += 1
        self.examples.setdefault(reason, f"{name}: {detail}" if detail else name)

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(self.used + other.used, self.skipped + other.skipped, {**other.examples, **self.examples})

    def as_dict(self) -> dict[str, Any]:
        """For a card."""
        return {"used": self.used, "skipped": dict(self.skipped), "examples": dict(self.examples)}

    def summary(self) -> str:
        """In one line a reason."""
        lines = [f"{self.used} pairs used, {self.skipped.total()} left out"]
        for reason, count in self.skipped.most_common():
            lines.append(f"  {count} x {reason}: {REASONS[reason]} (first: {self.examples[reason]})")
        return "\n".join(lines)


def refuse_if_useless(set_name: str, counts: PairCounts, whole: bool) -> None:
    """Raise FileError where no pair of a set can be used: all of them (``whole``), or none of the first ones."""
    seen = counts.used + counts.skipped.total()
    if counts.used or not seen or not (whole or seen >= _PATIENCE):
        return
    what = f"none of its {seen} pairs" if whole else f"none of the first {seen} pairs"
    reasons = "; ".join(
        f"{count} x {reason}: {REASONS[reason]} (first: {counts.examples[reason]})"
        for reason, count in counts.skipped.most_common()
    )
    raise FileError(f"{set_name}: {what} can be trained on. {reasons}")


def checked_images(pair: StereoSample) -> tuple[np.ndarray, np.ndarray, StereoRig]:
    """Left and right, H x W x 3 uint8 RGB of one size, and their rig.

    Raises:
        BadPair: unreadable, not finite, not of the rig's size.
    """
    try:
        left, right = pair.images()
    except (FileError, OSError) as error:
        raise BadPair("unreadable", str(error)) from error
    for side, image in (("left", left), ("right", right)):
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise BadPair("not_finite", f"{np.count_nonzero(~np.isfinite(image))} numbers of the {side} image")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise BadPair("unreadable", f"the {side} image is {image.shape} of {image.dtype}, not H x W x 3 of uint8")
    rig = pair.rig
    if rig is None or left.shape != right.shape or left.shape[:2] != (rig.height, rig.width):
        sizes = " and ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (left, right))
        raise BadPair("wrong_size", f"images of {sizes}, calibration for " + (_size(rig) if rig else "nothing"))
    return left, right, rig


def _size(rig: StereoRig) -> str:
    return f"{rig.width}x{rig.height}"


def level_pair(left: np.ndarray, right: np.ndarray, rig: StereoRig) -> tuple[np.ndarray, np.ndarray, StereoRig]:
    """A pair as a rig shows it whose cameras have one principal column: infinity at disparity 0.

    Where the principal columns differ the right image is moved by ``doffs``.
    """
    if abs(rig.doffs) > 1e-3:
        shift = np.array([[1, 0, -rig.doffs], [0, 1, 0]], np.float64)
        right = cv2.warpAffine(right, shift, (rig.width, rig.height), borderMode=cv2.BORDER_REPLICATE)
        rig = replace(rig, cx_right=rig.cx)
    return left, right, rig


def as_tensor(image: np.ndarray) -> torch.Tensor:
    """H x W x C to 1 x C x H x W."""
    # Copied where nobody may write: images of a bag lie in the message.
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]


class Witness(NamedTuple):
    """``level``: part of the pixels whose rows agree. ``backward``: part of these that lie further right in the right
    image than anything can, even at infinity."""

    level: float
    backward: float


def witness(left: np.ndarray, right: np.ndarray, doffs: float = 0.0) -> Witness:
    """What a method that knows nothing of stereo sees: OpenCV's DIS flow from left to right, at most 640 px wide.

    A stereo method searches the rows only, and to one side only; so it cannot see that the rows or the sides are wrong.

    Args:
        left, right: H x W x 3 uint8 RGB of one size.
        doffs: principal column of the right camera minus the left one's, px.
    """
    scale = min(1.0, _WITNESS_WIDTH / left.shape[1])
    size = (max(16, round(left.shape[1] * scale)), max(16, round(left.shape[0] * scale)))
    grey = [
        cv2.resize(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        for image in (left, right)
    ]
    flow = dis(*grey)
    level = np.abs(flow[..., 1]) <= _TOLERANCE
    backward = flow[..., 0][level] > doffs * scale + _TOLERANCE
    return Witness(float(level.mean()), float(backward.mean()) if backward.size else 0.0)


def check_pair(seen: Witness, taught: Taught | None, rig: StereoRig, mask: MaskConfig) -> float:
    """The part of the pixels that passes the flow mask; 1 where no teacher was asked.

    The witness loses its way in disparities of a quarter of the image. So a teacher whose own checks hold in half of
    the image is believed against it.

    Args:
        seen: by the witness.
        taught: of one pair, at the rig's size, or None.
        rig: of that pair, its principal columns alike.
        mask: the checks.

    Raises:
        BadPair: left and right exchanged, rows that do not agree, no answer, too few pixels.
    """
    share = None if taught is None else _passing(taught, rig, mask)
    if share is None or share < _CONVINCING:
        if seen.level < _LEAST_LEVEL:
            raise BadPair("rows", f"they agree in {100 * seen.level:.0f} % of the image")
        if seen.backward > _LEAST_BACKWARD:
            raise BadPair("exchanged", f"{100 * seen.backward:.0f} % of the image lies further right in the right one")
    if share == 0:
        raise BadPair("no_answer", "nothing passes the flow mask")
    if share is not None and share < LEAST_SHARE:
        raise BadPair("few_pixels", f"{100 * share:.1f} % of the image")
    return 1.0 if share is None else share


def _passing(taught: Taught, rig: StereoRig, mask: MaskConfig) -> float:
    focal, baseline = (torch.tensor([value], device=taught.disparity.device) for value in (rig.fx, rig.baseline))
    return float(prior_flow_mask(taught, focal, baseline, mask).float().mean())


def check_partners(set_name: str, pairs: Sequence[StereoSample]) -> None:
    """Images on disk that are no pairs of one moment: other counts in the two folders, or other stamps beside them.

    Looks at samples that name their files (``left``, ``right``), with KITTI's ``timestamps.txt`` above them if there.

    Raises:
        FileError: naming the folders and the way out.
    """
    files = [(p.left, p.right) for p in pairs if isinstance(p.left, Path) and isinstance(p.right, Path)]
    folders = {(left.parent, right.parent) for left, right in files if left.parent != right.parent}
    for left, right in sorted(folders):
        counts = [len(list_images(folder)) for folder in (left, right)]
        if counts[0] != counts[1]:
            raise FileError(
                f"{set_name}: {left} holds {counts[0]} images and {right} {counts[1]}: the cameras were not recorded "
                "together, so equal names need not be equal moments; pair the images by their stamps first"
            )
        _check_stamps(set_name, left.parent / "timestamps.txt", right.parent / "timestamps.txt")
    used = {path for both in files for path in both}
    for folder in sorted({left.parent for left, right in files if left.parent == right.parent}):
        stray = [p for p in list_images(folder) if p not in used and re.match(r"I2_|(.*_)?right$", p.stem)]
        if stray:
            raise FileError(
                f"{set_name}: {stray[0]} and {len(stray) - 1} more right images have no left one: the cameras were not "
                "recorded together; pair the images by their stamps first, or remove these"
            )


def _check_stamps(set_name: str, left: Path, right: Path) -> None:
    if left == right or not (left.is_file() and right.is_file()):
        return
    stamps = [_stamps(path) for path in (left, right)]
    if len(stamps[0]) != len(stamps[1]):
        raise FileError(f"{set_name}: {left} has {len(stamps[0])} stamps and {right} {len(stamps[1])}; pair them first")
    if len(stamps[0]) < 2:
        return
    period = float(np.median(np.diff(stamps[0])))
    apart = np.abs(stamps[0] - stamps[1])
    if np.median(apart) > period / 4:
        raise FileError(
            f"{set_name}: the stamps in {left} and {right} lie {1000 * float(np.median(apart)):.0f} ms apart (median) "
            f"at a period of {1000 * period:.0f} ms: these are not pairs of one moment; pair the images by their stamps"
        )


def _stamps(path: Path) -> np.ndarray:
    """Seconds of KITTI's lines such as ``2011-09-26 13:02:25.964389445``; within one recording."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    try:
        return np.array([np.datetime64(line.replace(" ", "T"), "ns").astype(np.int64) for line in lines]) / 1e9
    except ValueError as error:
        raise FileError(f"{path}: not a list of stamps ({error}); remove it or write it again") from None
