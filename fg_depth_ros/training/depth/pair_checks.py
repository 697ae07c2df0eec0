"""Checks of one pair before it is trained on, and the reasons why it is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch

from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference.classical_flow import dis
from fg_depth_ros.training.depth.batch import TeacherPrediction
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.flow_mask import prior_flow_mask

REASONS = {
    "unreadable": "an image cannot be read: fetch it again or remove the pair",
    "not_finite": "an image holds numbers that are not finite (NaN): record it again or remove the pair",
    "wrong_size": "the images are not what their calibration is for: give the calibration of these images",
    "swapped": "things lie further right in the right image, as with a baseline of the wrong sign: swap the "
    "left and the right images",
    "rows": "the rows of the two images do not agree, as when they show different moments or are not rectified: pair "
    "the images by their stamps, or calibrate again",
    "no_answer": "the teacher predicts no valid pixel: inspect the images, widen the mask, or choose another teacher",
    "few_pixels": "too few of the teacher's predictions pass the flow mask: inspect the images, or widen the mask",
}
"""Why a pair is not trained on, by its code, and what to do."""

MIN_SHARE = 0.05
"""Part of the pixels that must pass the flow mask."""
_CONVINCING_SHARE = 0.5
_MIN_LEVEL = 0.4
"""Part of the pixels whose rows must agree. On a drive at 10 Hz it is 0.88 in true pairs, and 0.14 where the right
image is one frame late."""
_MAX_BACKWARD = 0.5
_TOLERANCE = 1.0  # px at the width below
_CHECK_WIDTH = 640


class BadPair(ValueError):
    """A pair that is not trained on: ``reason`` is one of ``REASONS``; the message names details of this pair."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def checked_images(pair: StereoSample) -> tuple[np.ndarray, np.ndarray, StereoRig]:
    """Return left and right, uint8 RGB of one size, and their rig. Raises BadPair: unreadable, or another size."""
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
        calibrated = f"{rig.width}x{rig.height}" if rig else "nothing"
        raise BadPair("wrong_size", f"images of {sizes}, calibration for {calibrated}")
    return left, right, rig


def remove_doffs(left: np.ndarray, right: np.ndarray, rig: StereoRig) -> tuple[np.ndarray, np.ndarray, StereoRig]:
    """Return the pair with infinity at disparity 0: the right image is shifted where principal columns differ."""
    if abs(rig.doffs) > 1e-3:
        shift = np.array([[1, 0, -rig.doffs], [0, 1, 0]], np.float64)
        right = cv2.warpAffine(right, shift, (rig.width, rig.height), borderMode=cv2.BORDER_REPLICATE)
        rig = replace(rig, cx_right=rig.cx)
    return left, right, rig


class RectificationCheck(NamedTuple):
    """Result of ``rectification_check``.

    ``level``: part of the pixels whose rows agree. ``backward``: part of these that lie further right in the right
    image than even infinity can.
    """

    level: float
    backward: float


def rectification_check(left: np.ndarray, right: np.ndarray, doffs: float = 0.0) -> RectificationCheck:
    """Compare rows and sides of a pair by OpenCV's DIS flow from left to right, at most 640 px wide.

    A stereo method searches the rows only, and to one side only, so it cannot see that the rows or the sides are wrong.
    ``doffs``: principal column of the right camera minus the left one's, px.
    """
    scale = min(1.0, _CHECK_WIDTH / left.shape[1])
    size = (max(16, round(left.shape[1] * scale)), max(16, round(left.shape[0] * scale)))
    grey = [
        cv2.resize(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        for image in (left, right)
    ]
    flow = dis(*grey)
    level = np.abs(flow[..., 1]) <= _TOLERANCE
    backward = flow[..., 0][level] > doffs * scale + _TOLERANCE
    return RectificationCheck(float(level.mean()), float(backward.mean()) if backward.size else 0.0)


def check_pair(
    check: RectificationCheck, prediction: TeacherPrediction | None, rig: StereoRig, mask: MaskConfig
) -> float:
    """Return the part of the pixels that passes the flow mask; 1 without a prediction.

    The rectification check fails at disparities of a quarter of the image. So a teacher whose own checks hold in half
    of the image overrules it. The rig has one principal column. Raises BadPair: left and right swapped, rows that do
    not agree, no prediction, too few pixels.
    """
    share = None
    if prediction is not None:
        device = prediction.disparity.device
        focal, baseline = (torch.tensor([value], device=device) for value in (rig.fx, rig.baseline))
        share = float(prior_flow_mask(prediction, focal, baseline, mask).float().mean())
    if share is None or share < _CONVINCING_SHARE:
        if check.level < _MIN_LEVEL:
            raise BadPair("rows", f"they agree in {100 * check.level:.0f} % of the image")
        if check.backward > _MAX_BACKWARD:
            raise BadPair("swapped", f"{100 * check.backward:.0f} % of the image lies further right in the right one")
    if share == 0:
        raise BadPair("no_answer", "nothing passes the flow mask")
    if share is not None and share < MIN_SHARE:
        raise BadPair("few_pixels", f"{100 * share:.1f} % of the image")
    return 1.0 if share is None else share
