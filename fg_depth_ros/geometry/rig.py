"""The rectified stereo rig: pinhole intrinsics of both cameras and the baseline, for one image size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

# Two calibrations of one rig agree to far better than this; what differs by more was not rectified together.
_RELATIVE_FOCAL_TOLERANCE = 1e-3
_ROW_TOLERANCE_PX = 0.5


class RigError(ValueError):
    """A calibration that cannot be a rectified stereo pair; the message names the field and the way out."""


@dataclass(frozen=True)
class StereoRig:
    """A rectified stereo pair of ``width`` x ``height`` pixels (pixel centres at integer coordinates).

    ``fx``, ``fy``, ``cx``, ``cy`` (pixels) belong to the left camera; the right one shares ``fx``, ``fy``, ``cy``, and
    has its own principal column ``cx_right``. ``baseline`` is in metres and positive: the right camera is at +x of the
    left one (REP 103 optical frame: x right, y down, z forward).

    With the image disparity ``d = x_left - x_right`` in pixels, depth is ``Z = fx * baseline / (d + doffs)``.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    cx_right: float
    baseline: float

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            if int(getattr(self, name)) < 1:
                raise RigError(f"rig {name} is {getattr(self, name)}: it must be at least 1 pixel")
        for name in ("fx", "fy", "cx", "cy", "cx_right", "baseline"):
            if not math.isfinite(getattr(self, name)):
                raise RigError(f"rig {name} is {getattr(self, name)}: it must be a finite number")
        for name in ("fx", "fy"):
            if getattr(self, name) <= 0.0:
                raise RigError(f"rig {name} is {getattr(self, name)}: a focal length in pixels is positive")
        if self.baseline == 0.0:
            raise RigError("rig baseline is 0: two cameras at one place see no disparity; give it in metres")
        if self.baseline < 0.0:
            raise RigError(
                f"rig baseline is {self.baseline} m, negative: are left and right swapped? Exchange the two cameras"
            )

    @property
    def doffs(self) -> float:
        """``cx_right - cx`` in pixels: what is added to the image disparity before it is turned into depth."""
        return self.cx_right - self.cx

    @classmethod
    def from_camera_info(cls, left: Any, right: Any) -> StereoRig:
        """Make the rig of a rectified pair from its two sensor_msgs/CameraInfo messages (REP 104).

        Duck typed: reads ``width``, ``height``, ``p`` (or ``P``; 12 numbers, row major) and, where present,
        ``binning_x``, ``binning_y`` and ``roi``. Region of interest and binning are applied, so the rig fits the
        published image. Raises RigError naming the camera and the field, the value found and what to do.
        """
        p_left, p_right = _projection(left, "left"), _projection(right, "right")
        width, height = _image_size(left, "left")
        if _image_size(right, "right") != (width, height):
            r_width, r_height = _image_size(right, "right")
            raise RigError(
                f"left camera_info describes {width}x{height} pixels and right {r_width}x{r_height}: "
                "both cameras of a rectified pair have one size; check region of interest and binning of both"
            )
        _check_pair(p_left, p_right)
        bin_x, bin_y, x0, y0 = _window(left)
        right_x0 = _window(right)[2]
        fx, fy = float(p_left[0, 0]), float(p_left[1, 1])
        cx = _rescaled_centre(float(p_left[0, 2]) - x0, 1.0 / bin_x)
        cy = _rescaled_centre(float(p_left[1, 2]) - y0, 1.0 / bin_y)
        cx_right = _rescaled_centre(float(p_right[0, 2]) - right_x0, 1.0 / bin_x)
        return cls(width, height, fx / bin_x, fy / bin_y, cx, cy, cx_right, -float(p_right[0, 3]) / fx)

    def scaled(self, width: int, height: int) -> StereoRig:
        """Return the rig of resized images; pixel centres are at integers: ``c' = (c + 0.5) * s - 0.5``."""
        if width < 1 or height < 1:
            raise RigError(f"cannot rescale a rig to {width}x{height}: both must be at least 1 pixel")
        sx, sy = width / self.width, height / self.height
        cx, cy, cx_right = (_rescaled_centre(c, s) for c, s in ((self.cx, sx), (self.cy, sy), (self.cx_right, sx)))
        return StereoRig(int(width), int(height), self.fx * sx, self.fy * sy, cx, cy, cx_right, self.baseline)

    def P_left(self) -> np.ndarray:
        """Projection matrix of the left camera, 3x4 float64, as in CameraInfo."""
        return np.array([[self.fx, 0.0, self.cx, 0.0], [0.0, self.fy, self.cy, 0.0], [0.0, 0.0, 1.0, 0.0]])

    def P_right(self) -> np.ndarray:
        """Projection matrix of the right camera, 3x4 float64, ``P[0, 3] = -fx * baseline`` (REP 104)."""
        matrix = self.P_left()
        matrix[0, 2] = self.cx_right
        matrix[0, 3] = -self.fx * self.baseline
        return matrix

    def to_dict(self) -> dict[str, float | int]:
        """Return the eight fields by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StereoRig:
        """Make a rig from ``to_dict``'s result; ``cx_right`` (= ``cx``) and ``fy`` (= ``fx``) may lack.

        Raises RigError.
        """
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise RigError(f"rig has unknown field(s) {', '.join(unknown)}: known are {', '.join(names)}")
        filled = dict(values)
        filled.setdefault("fy", filled.get("fx"))
        filled.setdefault("cx_right", filled.get("cx"))
        missing = [name for name in names if filled.get(name) is None]
        if missing:
            raise RigError(f"rig lacks the field(s) {', '.join(missing)}: all of {', '.join(names)} are needed")
        for name in names:
            try:
                filled[name] = int(filled[name]) if name in ("width", "height") else float(filled[name])
            except (TypeError, ValueError):
                raise RigError(f"rig {name} is {filled[name]!r}: it must be a number") from None
        return cls(**filled)


def _rescaled_centre(centre: float, scale: float) -> float:
    return (centre + 0.5) * scale - 0.5


def _projection(info: Any, side: str) -> np.ndarray:
    values = getattr(info, "p", None)
    if values is None:
        values = getattr(info, "P", None)
    if values is None:
        raise RigError(f"{side} camera_info has no field p: pass a sensor_msgs/CameraInfo")
    matrix = np.asarray(values, dtype=np.float64).reshape(-1)
    if matrix.size != 12:
        raise RigError(f"{side} camera_info: p has {matrix.size} numbers, a projection matrix has 12")
    if not np.isfinite(matrix).all():
        raise RigError(f"{side} camera_info: p holds a number that is not finite: {matrix.tolist()}")
    if not matrix.any():
        raise RigError(
            f"{side} camera_info: p is all zeros: the camera is not calibrated; calibrate the stereo pair "
            "and let the driver publish its rectified projection matrices"
        )
    if matrix[0] <= 0.0 or matrix[5] <= 0.0:
        raise RigError(
            f"{side} camera_info: focal lengths p[0]={matrix[0]:g}, p[5]={matrix[5]:g} must be positive: "
            "calibrate the camera again"
        )
    return matrix.reshape(3, 4)


def _check_pair(p_left: np.ndarray, p_right: np.ndarray) -> None:
    fx, left_shift, right_shift = p_left[0, 0], p_left[0, 3], p_right[0, 3]
    way_out = "left and right swapped? Exchange the two camera_info (and image) topics"
    if left_shift != 0.0:
        if left_shift < 0.0 and right_shift == 0.0:
            raise RigError(
                f"left camera_info: p[3] is {left_shift:g} and right p[3] is 0, it should be the other "
                f"way round: {way_out}"
            )
        raise RigError(
            f"left camera_info: p[3] is {left_shift:g}, but the left camera of a rectified pair has 0 "
            f"(REP 104): {way_out}, or subtract it from p[3] of both cameras"
        )
    if right_shift == 0.0:
        raise RigError(
            "right camera_info: p[3] is 0, so the baseline is zero: it must be -fx * baseline (metres); "
            "calibrate both cameras together as a stereo pair"
        )
    if right_shift > 0.0:
        raise RigError(
            f"right camera_info: p[3] is {right_shift:g}, so the baseline is negative "
            f"({-right_shift / fx:g} m): {way_out}"
        )
    for index, label, a, b in ((0, "fx", fx, p_right[0, 0]), (5, "fy", p_left[1, 1], p_right[1, 1])):
        if abs(a - b) > _RELATIVE_FOCAL_TOLERANCE * a:
            raise RigError(
                f"camera_info p[{index}] ({label}) is {a:g} on the left and {b:g} on the right: a rectified "
                "pair shares it; use the projection matrices of stereo rectification for both cameras"
            )
    if abs(p_left[1, 2] - p_right[1, 2]) > _ROW_TOLERANCE_PX or p_right[1, 3] != 0.0:
        raise RigError(
            f"camera_info rows differ: p[6] (cy) is {p_left[1, 2]:g} on the left and {p_right[1, 2]:g} on "
            f"the right, p[7] on the right is {p_right[1, 3]:g}: rows of a rectified pair agree, p[7] is 0; "
            "rectify the pair horizontally"
        )


def _window(info: Any) -> tuple[int, int, int, int]:
    """Binning (x, y; 0 means 1) and the offset (x, y; unbinned pixels) of the region of interest."""
    roi = getattr(info, "roi", None)
    return (
        max(int(getattr(info, "binning_x", 0) or 0), 1),
        max(int(getattr(info, "binning_y", 0) or 0), 1),
        int(getattr(roi, "x_offset", 0) or 0),
        int(getattr(roi, "y_offset", 0) or 0),
    )


def _image_size(info: Any, side: str) -> tuple[int, int]:
    """Width and height of the published image: the region of interest (0 = all), divided by the binning."""
    roi, (bin_x, bin_y, _, _) = getattr(info, "roi", None), _window(info)
    width = (int(getattr(roi, "width", 0) or 0) or int(info.width)) // bin_x
    height = (int(getattr(roi, "height", 0) or 0) or int(info.height)) // bin_y
    if width < 1 or height < 1:
        raise RigError(
            f"{side} camera_info describes {info.width}x{info.height} pixels: the driver must fill width and "
            "height of the calibrated image"
        )
    return width, height
