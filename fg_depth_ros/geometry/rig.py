"""The rectified stereo rig: pinhole intrinsics of both cameras and the baseline, for one image size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

# Two calibrations of one rig agree to far better than this; what differs by more was not rectified together.
_FOCAL_TOLERANCE = 1e-3  # relative
_ROW_TOLERANCE = 0.5  # px
_ZERO = 1e-4  # what is to be 0 or 1 in a projection matrix, in units of the focal length; 0.1 px at the border
_ASIDE = 0.02  # offset of the cameras down and forward, part of the baseline; KITTI's is 0.005 and 0.009
# Outside the first limits a calibration is refused, outside the second it is doubted.
_BASELINES = ((1e-3, 20.0), (8e-3, 2.0))  # m
_FIELDS_OF_VIEW = ((2.0, 172.0), (10.0, 150.0))  # degrees across
_OTHER_SIZE = 1.3  # times as far from the corner as the middle, in both directions: a centre of other images
_ASPECT_TOLERANCE = 0.01
_RESIZED = (0.9, 1.1)  # factors between these are not those of a resize: a border was cropped, or added
_LARGEST = 1e7  # of any number in a projection matrix
_VERTICAL = 0.01  # m between the cameras' heights, without any baseline: a rig with one camera above the other
_MATRIX = "a rectified camera has P = [fx 0 cx Tx; 0 fy cy Ty; 0 0 1 Tz] (REP 104)"


class RigError(ValueError):
    """A calibration that cannot be a rectified stereo pair; the message names the field and the remedy."""


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
                f"rig baseline is {self.baseline} m, negative: are left and right swapped? Swap the two cameras"
            )
        shortest, longest = _BASELINES[0]
        if not shortest <= self.baseline <= longest:
            raise RigError(
                f"rig baseline is {self.baseline:g} m, not within {shortest:g} .. {longest:g} m: "
                f"{self._baseline_cause()}"
            )

    def _baseline_cause(self) -> str:
        """Return the likely reason of an implausible baseline, and the remedy."""
        if self.baseline < _BASELINES[1][0]:
            return (
                f"right P[3] is -fx * baseline in px * m, here {-self.fx * self.baseline:g}; a baseline of "
                f"{self.fx * self.baseline:g} m written there without its factor fx = {self.fx:g} px looks like this, "
                f"and so does one of {1000 * self.baseline:g} m that was divided by 1000 once too often"
            )
        return (
            f"a baseline is in metres; {self.baseline:g} mm or cm, or squares of the board, written as metres looks "
            "like this: divide P[3] of the right camera (T of stereoCalibrate) by 1000 or 100, or multiply it by the "
            "side of a square"
        )

    def doubts(self) -> list[str]:
        """Return what is unusual about this rig, a sentence each with the likely cause; mostly none."""
        return self._implausible() + self._off_centre()

    def _implausible(self) -> list[str]:
        """Return the doubts about baseline and focal lengths."""
        doubts, (shortest, longest) = [], _BASELINES[1]
        if not shortest <= self.baseline <= longest:
            doubts.append(f"the baseline is {self.baseline:g} m: {self._baseline_cause()}, unless the rig is so")
        narrowest, widest = _FIELDS_OF_VIEW[1]
        if not narrowest <= (across := _field_of_view(self.width, self.fx)) <= widest:
            doubts.append(_unlikely_focal(self.fx, self.width, across))
        if not 0.5 <= self.fy / self.fx <= 2.0:
            doubts.append(
                f"fx is {self.fx:g} px and fy {self.fy:g} px: of a rectified image they are alike; calibrate again"
            )
        return doubts

    def _off_centre(self) -> list[str]:
        """Return the doubts about principal points outside of the images."""
        found = (("cx", self.cx, self.width), ("cx", self.cx_right, self.width), ("cy", self.cy, self.height))
        doubts = [
            f"{name} is {centre:.1f} px in images of {size} px: the calibration may be of images of another size"
            for name, centre, size in found
            if not -0.25 * size <= centre <= 1.25 * size
        ]
        return list(dict.fromkeys(doubts))  # both cameras may have one cx

    @property
    def doffs(self) -> float:
        """``cx_right - cx`` in pixels: what is added to the image disparity before it is turned into depth."""
        return self.cx_right - self.cx

    @property
    def pixel_aspect(self) -> float:
        """Width of a pixel by its height: ``fy / fx``."""
        return self.fy / self.fx

    @classmethod
    def from_camera_info(cls, left: Any, right: Any) -> StereoRig:
        """Make the rig of a rectified pair from its two sensor_msgs/CameraInfo messages (REP 104).

        Duck typed: reads ``width``, ``height``, ``p`` (or ``P``; 12 numbers, row major) and, where present,
        ``binning_x``, ``binning_y`` and ``roi``. Region of interest and binning are applied as
        ``image_geometry::PinholeCameraModel`` does, so the rig fits the published image: ``c' = (c - offset) /
        binning``, for each camera by its own. The baseline is the difference of the two ``P[3]``, and neither of them
        need be 0.

        Raises:
            RigError: names the camera and the field, the value found and what to do.
        """
        cameras = _Camera.read(left, "left"), _Camera.read(right, "right")
        _check_pair(*cameras)
        a, b = cameras
        return cls(a.width, a.height, a.fx, a.fy, a.cx, a.cy, b.cx, (a.tx - b.tx) / a.fx)

    def fitted(self, width: int, height: int) -> StereoRig:
        """Return the rig of images that were resized. Raises RigError: they were cropped (``check_shape``)."""
        check_shape((self.width, self.height), (width, height))
        return self if (width, height) == (self.width, self.height) else self.scaled(width, height)

    def scaled(self, width: int, height: int) -> StereoRig:
        """Return the rig of resized images; pixel centres are at integers: ``c' = (c + 0.5) * s - 0.5``."""
        if width < 1 or height < 1:
            raise RigError(f"cannot rescale a rig to {width}x{height}: both must be at least 1 pixel")
        sx, sy = width / self.width, height / self.height
        cx, cy, cx_right = (_rescaled_centre(c, s) for c, s in ((self.cx, sx), (self.cy, sy), (self.cx_right, sx)))
        return StereoRig(int(width), int(height), self.fx * sx, self.fy * sy, cx, cy, cx_right, self.baseline)

    def P_left(self) -> np.ndarray:
        """Return the projection matrix of the left camera, 3x4 float64, as in CameraInfo."""
        return np.array([[self.fx, 0.0, self.cx, 0.0], [0.0, self.fy, self.cy, 0.0], [0.0, 0.0, 1.0, 0.0]])

    def P_right(self) -> np.ndarray:
        """Return the projection matrix of the right camera, 3x4 float64, ``P[0, 3] = -fx * baseline`` (REP 104)."""
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


def check_shape(calibrated: tuple[int, int], images: tuple[int, int]) -> None:
    """Raise RigError unless images of one size can be those of a calibration for another, resized.

    They never have another shape, and none of nearly the same size: a sensor's border was cropped there.
    """
    if tuple(images) == tuple(calibrated):
        return
    sx, sy = images[0] / calibrated[0], images[1] / calibrated[1]
    cropped = "another shape" if abs(sx / sy - 1.0) > _ASPECT_TOLERANCE else ""
    if not cropped and all(_RESIZED[0] <= factor <= _RESIZED[1] for factor in (sx, sy)):
        cropped = "nearly the same size"
    if cropped:
        remedy = "they were cropped; calibrate for the cropped images"
        if abs(2 * sx / sy - 1.0) <= _ASPECT_TOLERANCE:
            remedy = (
                "they are halves: leave --side-by-side out where an image has one view, or give the calibration of one "
                "half; or they were cropped: calibrate for the cropped images"
            )
        raise RigError(
            f"calibrated for {calibrated[0]}x{calibrated[1]} pixels, the images have {images[0]}x{images[1]}: "
            f"{cropped}, so {remedy}"
        )


def _rescaled_centre(centre: float, scale: float) -> float:
    return (centre + 0.5) * scale - 0.5


def camera_info_doubts(left: Any, right: Any, raw: tuple[bool, bool] = (False, False)) -> list[str]:
    """Return what is doubtful about the calibration of a rectified pair, a sentence each with the likely cause.

    A pair that ``StereoRig.from_camera_info`` takes is compared with ``K``, ``R`` and ``D`` here, where the messages
    have them: they are of the images before rectification, so depth does not need them, but they come from one
    calibration. A ``P[3]`` that alone was not resized cannot be told: nothing else has the baseline in it.

    Args:
        left, right: as of ``StereoRig.from_camera_info``.
        raw: whether the image of each is rectified by them, and so was not before.

    Raises:
        RigError: as ``StereoRig.from_camera_info``.
    """
    rig = StereoRig.from_camera_info(left, right)
    cameras = {"left": (left, raw[0]), "right": (right, raw[1])}
    sizes = {side: other for side, (info, _) in cameras.items() if (other := _other_size(info, side)) is not None}
    doubts = rig._implausible()
    if not any(other.matrix == "p" for other in sizes.values()):  # that says it better
        doubts += rig._off_centre()
    sides: dict[str, list[str]] = {}  # of each doubt about a camera_info
    for side, (info, is_raw) in cameras.items():
        for doubt in _camera_doubts(info, side, is_raw, sizes):
            sides.setdefault(doubt, []).append(side)
    return doubts + [f"{' and '.join(named)} camera_info: {doubt}" for doubt, named in sides.items()]


def _camera_doubts(info: Any, side: str, is_raw: bool, sizes: Mapping[str, _OtherSize]) -> list[str]:
    """Return the doubts about one camera_info; ``sizes``: of both, as far as they are of images of another size."""
    doubts = _binned_twice(info, side)
    if side in sizes:
        # Both cameras were resized alike; that their centres differ a little makes no second doubt.
        doubts.append(next(other for other in sizes.values() if other.matrix == sizes[side].matrix).doubt)
    p, k, r, d = (camera_info_numbers(info, name) for name in "pkrd")
    if not np.isfinite(np.concatenate([k, r, d])).all():
        return [*doubts, "k, r or d holds a number that is not finite: calibrate again"]
    if k.size == 9 and k.any():
        if side not in sizes and not 0.5 <= p[0] / max(k[0], 1e-9) <= 2.0:
            doubts.append(
                f"fx is {p[0]:g} in p and {k[0]:g} in k: they may be of images of different sizes; publish both for "
                "the published size"
            )
        if d.any() and not is_raw and np.array_equal(p.reshape(3, 4)[:, :3].ravel(), k):
            doubts.append(
                "p repeats k although d is not zero, as drivers of single cameras do: the pair may not be rectified; "
                "calibrate it as a stereo pair and publish rectified images"
            )
    if r.size == 9 and r.any() and not is_rotation(r):
        doubts.append("r is no rotation matrix: the calibration may be damaged; calibrate again")
    return doubts


def is_rotation(numbers: np.ndarray) -> bool:
    """Return whether nine numbers (row major) are a rotation matrix."""
    matrix = numbers.reshape(3, 3)
    return bool(
        np.isfinite(matrix).all()
        and np.abs(matrix).max() <= 1.001
        and np.abs(matrix @ matrix.T - np.eye(3)).max() <= 1e-3
        and np.linalg.det(matrix) > 0
    )


def image_window(info: Any) -> tuple[int, int, int, int]:
    """Return offset x, y (px of the full image) and binning x, y of the image that a camera_info describes."""
    bin_x, bin_y = (max(int(getattr(info, f"binning_{axis}", 0) or 0), 1) for axis in "xy")
    x, y = (int(getattr(getattr(info, "roi", None), f"{axis}_offset", 0) or 0) for axis in "xy")
    return x, y, bin_x, bin_y


@dataclass(frozen=True)
class _OtherSize:
    """A matrix of a camera_info, ``p`` or ``k`` alone, that seems to be of images of another size; and the doubt."""

    matrix: str
    doubt: str


def _other_size(info: Any, side: str) -> _OtherSize | None:
    """Return which matrix of a camera_info is of images of another size than the published ones, if any."""
    camera, k = _Camera.read(info, side), camera_info_numbers(info, "k")
    if camera.binning != (1, 1) or (camera.width, camera.height) != (int(info.width), int(info.height)):
        return None  # a region of interest may lie anywhere
    size = f"{camera.width}x{camera.height}"
    if (factor := _times_as_large(camera.cx, camera.cy, camera)) is not None:
        doubt = (
            f"p (cx {camera.cx:g}, cy {camera.cy:g}) seems to be of images {factor:.2g} times as large as {size}, and "
            f"depth would be {factor:.2g} times too large; publish p of the published size"
        )
        return _OtherSize("p", doubt)
    if k.size == 9 and (factor := _times_as_large(k[2], k[5], camera)) is not None:
        doubt = (
            f"k (cx {k[2]:g}, cy {k[5]:g}) seems to be of images {factor:.2g} times as large as {size}, and p of "
            f"these: if p[3] was not resized with the rest of p, the baseline and all depth are {factor:.2g} times too "
            "large; publish k and all of p for the published size"
        )
        return _OtherSize("k", doubt)
    return None


def _times_as_large(cx: float, cy: float, camera: _Camera) -> float | None:
    """Return how many times as large the images are that have this centre; None where it fits the camera's."""
    across, down = 2 * cx / camera.width, 2 * cy / camera.height
    far = min(across, down) >= _OTHER_SIZE or 0 < max(across, down) <= 1 / _OTHER_SIZE
    if not far or not 1 / 1.15 <= across / down <= 1.15:
        return None
    return math.sqrt(across * down)


def _binned_twice(info: Any, side: str) -> list[str]:
    """Return the doubt that ``p`` is of the binned image already: its centre lies in the middle third of that one."""
    camera = _Camera.read(info, side)
    (x, y), width, height = camera.binning, int(info.width), int(info.height)
    if (x, y) == (1, 1) or (camera.width, camera.height) != (width // x, height // y):
        return []  # a region of interest may lie anywhere
    cx, cy = camera.cx * x, camera.cy * y
    if not all(1 / 3 <= centre / size <= 2 / 3 for centre, size in ((cx, camera.width), (cy, camera.height))):
        return []
    return [
        f"binning is {x}x{y}, but p (cx {cx:g}, cy {cy:g}) seems to be of the binned image of "
        f"{camera.width}x{camera.height} pixels already, and depth would be {x} times too small; publish width, height "
        "and p of the image without binning, or those of the binned one with a binning of 0"
    ]


@dataclass(frozen=True)
class _Camera:
    """One rectified camera, in pixels of its published image; ``tx``, ``ty`` in px * m, ``tz`` in m."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    tx: float
    ty: float
    tz: float
    binning: tuple[int, int]
    text: str

    @classmethod
    def read(cls, info: Any, side: str) -> _Camera:
        """Read one camera_info. Raises RigError naming the field."""
        p = _projection(info, side)
        x0, y0, bin_x, bin_y = image_window(info)
        width, height = (int(getattr(getattr(info, "roi", None), name, 0) or 0) for name in ("width", "height"))
        full_width, full_height = int(info.width), int(info.height)
        width, height = (width or full_width) // bin_x, (height or full_height) // bin_y
        if min(width, height) < 1:
            raise RigError(
                f"{side} camera_info describes {full_width}x{full_height} pixels: the driver must fill width and "
                "height of the calibrated image"
            )
        narrowest, widest = _FIELDS_OF_VIEW[0]
        if full_width and not narrowest <= (across := _field_of_view(full_width, p[0, 0])) <= widest:
            raise RigError(f"{side} camera_info: {_unlikely_focal(p[0, 0], full_width, across)}")
        return cls(
            width, height, float(p[0, 0] / bin_x), float(p[1, 1] / bin_y), float((p[0, 2] - x0) / bin_x),
            float((p[1, 2] - y0) / bin_y), float(p[0, 3] / bin_x), float(p[1, 3] / bin_y), float(p[2, 3]),
            (bin_x, bin_y), f"{width}x{height} pixels (roi at {x0}, {y0}; binning {bin_x}x{bin_y})",
        )  # fmt: skip


def _field_of_view(width: float, fx: float) -> float:
    return math.degrees(2 * math.atan2(width, 2 * fx))


def _unlikely_focal(fx: float, width: int, across: float) -> str:
    return (
        f"fx is {fx:g} px in images {width} px wide, a field of view of {across:.1f} degrees: fx is in pixels (not "
        "in mm) of the published image size; publish the calibration for this size"
    )


def camera_info_numbers(info: Any, name: str) -> np.ndarray:
    """Return a field of a camera_info (lower or upper case) as float64; empty where it has none."""
    values = getattr(info, name, None)
    if values is None:
        values = getattr(info, name.upper(), None)
    return np.asarray(() if values is None else values, dtype=np.float64).reshape(-1)


def _projection(info: Any, side: str) -> np.ndarray:
    """Return the projection matrix of a camera_info after a check of each number, 3 x 4."""
    matrix = camera_info_numbers(info, "p")
    if matrix.size != 12:
        raise RigError(
            f"{side} camera_info: p has {matrix.size} numbers, a projection matrix has 12"
            if matrix.size
            else f"{side} camera_info has no field p: pass a sensor_msgs/CameraInfo"
        )
    if not (np.abs(matrix) < _LARGEST).all():
        raise RigError(f"{side} camera_info: p holds a number that is not finite, or is huge: {matrix.tolist()}")
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
    wanted = {1: (0.0, matrix[0]), 4: (0.0, matrix[5]), 8: (0.0, 1.0), 9: (0.0, 1.0), 10: (1.0, 1.0)}
    for index, (value, unit) in wanted.items():
        if abs(matrix[index] - value) > _ZERO * unit:
            raise RigError(
                f"{side} camera_info: p[{index}] is {matrix[index]:g} and should be {value:g}: {_MATRIX}; publish the "
                "projection matrices of stereo rectification"
            )
    return matrix.reshape(3, 4)


def _check_pair(left: _Camera, right: _Camera) -> None:
    """Raise RigError unless two cameras are a rectified pair, the left one first."""
    if left.binning != right.binning or (left.width, left.height) != (right.width, right.height):
        raise RigError(
            f"left camera_info describes {left.text} and right {right.text}: both cameras of a rectified pair have one "
            "size and one binning; check region of interest and binning of both"
        )
    for index, label, a, b in ((0, "fx", left.fx, right.fx), (5, "fy", left.fy, right.fy)):
        if abs(a - b) > _FOCAL_TOLERANCE * a:
            raise RigError(
                f"camera_info p[{index}] ({label}) is {a:g} on the left and {b:g} on the right: a rectified "
                "pair shares it; use the projection matrices of stereo rectification for both cameras"
            )
    shift, down, forward = left.tx - right.tx, left.ty - right.ty, left.tz - right.tz
    found = f"p[3] is {left.tx:g} on the left and {right.tx:g} on the right"
    if abs(down) / left.fy > max(abs(shift) / left.fx, _VERTICAL):
        raise RigError(
            f"camera_info: p[7] is {left.ty:g} on the left and {right.ty:g} on the right, and {found}: one camera is "
            "above the other; rectify the pair horizontally"
        )
    if abs(shift) <= 1e-9 * left.fx:
        one = (
            "both are alike, so they may come from one topic: name that of each camera; else " if left == right else ""
        )
        raise RigError(
            f"camera_info: {found}, so the baseline is zero: {one}p[3] of the right camera must be -fx * baseline "
            "(metres); calibrate both cameras together as a stereo pair"
        )
    if shift < 0.0:
        raise RigError(
            f"camera_info: {found}, so the baseline is negative ({shift / left.fx:g} m): left and right swapped? "
            "Swap the two camera_info (and image) topics; where they are right, the sign of p[3] is not: that of "
            "the right camera is -fx * baseline"
        )
    if abs(left.cy - right.cy) > _ROW_TOLERANCE:
        raise RigError(
            f"camera_info rows differ: cy (p[6], less the roi's y_offset) is {left.cy:g} on the left and {right.cy:g} "
            "on the right: rows of a rectified pair agree; rectify the pair, and give both cameras one roi.y_offset"
        )
    if abs(down) / left.fy > _ASIDE * shift / left.fx or abs(forward) > _ASIDE * shift / left.fx:
        raise RigError(
            f"camera_info: the right camera is {down / left.fy:g} m below and {forward:g} m before the left one by "
            f"p[7] and p[11], at a baseline of {shift / left.fx:g} m: {_MATRIX} with Ty and Tz alike in both; rectify "
            "the pair"
        )
