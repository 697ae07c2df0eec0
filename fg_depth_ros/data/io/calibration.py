"""Calibration files of stereo pairs -> StereoRig, or, of raw cameras, Rectification."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import yaml

from fg_depth_ros.files import LARGEST_TEXT, FileError, atomic_write, read_bytes
from fg_depth_ros.geometry import RigError, StereoRig, camera_info_doubts
from fg_depth_ros.geometry.rectification import RawCamera, Rectification

_LOG = logging.getLogger(__name__)

# A calibration may be used for its images at another size, never at another shape.
_ASPECT_TOLERANCE = 0.01
# Pairs of projection matrices, best first: KITTI raw, the `_roi` ones of cropped images, KITTI object and
# odometry (colour), a two-camera file, KITTI (grey). In each the left camera comes first.
_PROJECTION_PAIRS = (
    ("P_rect_02", "P_rect_03"), ("P1_roi", "P2_roi"), ("P2", "P3"), ("P1", "P2"), ("P_rect_00", "P_rect_01"),
    ("P0", "P1"),
)  # fmt: skip
_GREY_PAIRS = (("P_rect_00", "P_rect_01"), ("P0", "P1"))
_FISHEYE = {"radial-tangential": False, "radtan": False, "equidistant": True}
_OTHER_MATRICES = {"k": "camera_matrix", "r": "rectification_matrix", "d": "distortion_coefficients"}


def read_calibration(
    path: str | Path, width: int | None = None, height: int | None = None, *, grey: bool = False
) -> StereoRig:
    """Read the rig that a calibration file describes, for images of ``width`` x ``height`` pixels.

    Recognised by content: the project's own ``rig.json`` (fields of StereoRig), Middlebury and ETH3D ``calib.txt``
    (``cam0=[..]``, ``cam1``, ``doffs``, ``baseline`` in mm), KITTI text (``P_rect_02`` and ``P_rect_03``, ``P2`` and
    ``P3``; ``P1_roi`` and ``P2_roi``), and a pair of ROS camera files (pass ``left.yaml``, ``right.yaml`` lies beside
    it, or their folder). Where the file states an image size and the images have another one of the same shape, the rig
    is rescaled. ``grey``: of KITTI's two rigs that of the grey cameras (0 and 1), not of the colour cameras (2 and 3).

    Raises FileError: naming the file, the value and what to do.
    """
    path = Path(path)
    if path.is_dir():
        found = find_calibration(path)
        if found is None:
            raise FileError(f"{path}: no rig.json, calib.txt or left.yaml with right.yaml in this folder")
        path = found
    if path.suffix.lower() in (".yaml", ".yml"):
        return _fitted(path, _from_ros_pair(path), width, height)
    text = _text(path)
    try:
        if path.suffix.lower() == ".json" or text.lstrip().startswith("{"):
            rig = _from_json(path, text, width, height)
        elif "cam0" in (values := _key_values(text)):
            rig = _from_middlebury(path, values, width, height)
        else:
            rig = _from_projections(path, values, width, height, grey)
        for doubt in rig.doubts():
            _LOG.warning("%s: %s", path, doubt)
        return _fitted(path, rig, width, height)
    except RigError as error:
        raise FileError(f"{path}: {error}") from error


def write_rig(path: str | Path, rig: StereoRig) -> None:
    """Write the project's own ``rig.json``, which ``read_calibration`` reads back."""
    with atomic_write(path, sync=False) as unfinished:
        unfinished.write_text(json.dumps(rig.to_dict(), indent=2) + "\n", encoding="utf-8")


def read_numbers(path: str | Path, counts: Mapping[str, int]) -> list[np.ndarray]:
    """Read the numbers (float64) behind each of these names in a text of ``name: numbers`` lines, as KITTI writes them.

    ``counts``: how many each has. Raises FileError naming what is missing or not a number.
    """
    path = Path(path)
    values = _key_values(_text(path))
    return [_numbers(path, values, name, count) for name, count in counts.items()]


def find_calibration(folder: Path) -> Path | None:
    """Find the calibration file of a folder of pairs, or None. ``describes_raw`` says whether it is of raw images."""
    names = (
        "rig.json", "calib.txt", "calib_cam_to_cam.txt", "left.yaml", "left.yml", "cam0/sensor.yaml",
        "*camchain*.yaml", "dso/camchain.yaml",
    )  # fmt: skip
    return next((path for name in names for path in sorted(folder.glob(name)) if path.is_file()), None)


def describes_raw(path: Path) -> bool:
    """Whether a file is one that ``read_rectification`` reads: EuRoC's sensor.yaml or Kalibr's camchain."""
    return path.name == "sensor.yaml" or (path.suffix in (".yaml", ".yml") and "camchain" in path.name)


def read_rectification(path: Path, width: int, height: int) -> Rectification:
    """Read two cameras that are not rectified, and rectify them for images of this size.

    ``path``: EuRoC's ``cam0/sensor.yaml`` (``cam1/sensor.yaml`` lies beside its folder; ``T_BS`` takes points from the
    camera to the body), or Kalibr's camchain, which TUM-VI has (``T_cn_cnm1`` takes them from cam0 to cam1). Lenses are
    radial-tangential or equidistant. Raises FileError naming the file, the value and what to do.
    """
    try:
        if path.name == "sensor.yaml":
            files = [path, path.parent.parent / "cam1" / path.name]
            cameras = [_yaml(file) for file in files]
            poses = [np.array(camera["T_BS"]["data"], np.float64).reshape(4, 4) for camera in cameras]
            transform = np.linalg.inv(poses[1]) @ poses[0]
        else:
            content = _yaml(path)
            cameras = [content["cam0"], content["cam1"]]
            transform = np.array(cameras[1]["T_cn_cnm1"], np.float64).reshape(4, 4)
        left, right = (_raw_camera(camera, width, height) for camera in cameras)
        return Rectification.of(left, right, transform[:3, :3], transform[:3, 3], (width, height))
    except RigError as error:
        raise FileError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, np.linalg.LinAlgError, cv2.error) as error:
        raise FileError(
            f"{path}: not the calibration of two cameras ({error!r}); write it as EuRoC's sensor.yaml or Kalibr's "
            "camchain.yaml have it"
        ) from None


def _raw_camera(values: Mapping[str, Any], width: int, height: int) -> RawCamera:
    """Read what EuRoC and Kalibr both write, for images of this size."""
    fx, fy, cx, cy = (float(number) for number in values["intrinsics"])
    model = values.get("distortion_model", "radtan")
    if model not in _FISHEYE or values.get("camera_model", "pinhole") != "pinhole":
        raise RigError(
            f"lens {values.get('camera_model', 'pinhole')} {model} is not known; calibrate as pinhole with one of "
            f"{', '.join(_FISHEYE)}"
        )
    distortion = np.array(values.get("distortion_coefficients", values.get("distortion_coeffs", [0] * 4)), np.float64)
    camera = RawCamera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), distortion, _FISHEYE[model])
    sx, sy = width / int(values["resolution"][0]), height / int(values["resolution"][1])
    if abs(sx / sy - 1.0) > _ASPECT_TOLERANCE:
        raise RigError(
            f"calibrated for {'x'.join(map(str, values['resolution']))} pixels, the images have {width}x{height}: "
            "another shape, so they were cropped; calibrate for the cropped images"
        )
    return camera.scaled(sx, sy)


def distortion_doubt(path: Path, image: Path) -> str | None:
    """Return a warning where a pair of ROS camera files has distortion and nothing says that an image is rectified."""
    if path.suffix.lower() not in (".yaml", ".yml") or describes_raw(path):
        return None
    named = any(word.startswith("rect") for part in image.parts[-4:] for word in re.split(r"[\W_]", part.lower()))
    if named or not any(_ros_camera(path).d):
        return None
    return (
        f"{path}: has distortion (D is not zero), and {image} is not named as rectified: images that are not rectified "
        "give wrong depth; rectify them first"
    )


def _text(path: Path) -> str:
    try:
        return read_bytes(path, LARGEST_TEXT).decode("utf-8")
    except UnicodeDecodeError:
        raise FileError(f"{path}: not a text file; a calibration is text, JSON or YAML") from None


def _fitted(path: Path, rig: StereoRig, width: int | None, height: int | None) -> StereoRig:
    width, height = width or rig.width, height or rig.height
    if (width, height) == (rig.width, rig.height):
        return rig
    sx, sy = width / rig.width, height / rig.height
    if abs(sx / sy - 1.0) > _ASPECT_TOLERANCE:
        raise FileError(
            f"{path}: calibrated for {rig.width}x{rig.height} pixels, the images have {width}x{height}: "
            "another shape, so they were cropped; calibrate for the cropped images"
        )
    return rig.scaled(width, height)


def _from_json(path: Path, text: str, width: int | None, height: int | None) -> StereoRig:
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FileError(f"{path}: not valid JSON ({error}); write it with the fields of a rig") from None
    if not isinstance(values, dict):
        raise FileError(f"{path}: holds a {type(values).__name__}; a rig is an object with fx, cx, baseline, ...")
    sizes: dict[str, int | None] = {"width": width, "height": height}
    return StereoRig.from_dict({**{k: v for k, v in sizes.items() if v is not None}, **values})


def _key_values(text: str) -> dict[str, str]:
    """``key=value`` and ``key: value`` lines; a later line wins."""
    pairs = (re.match(r"\s*(\w+)\s*[=:]\s*(.*?)\s*$", line) for line in text.splitlines())
    return {match[1]: match[2] for match in pairs if match}


def _numbers(path: Path, values: Mapping[str, str], key: str, count: int) -> np.ndarray:
    if key not in values:
        raise FileError(f"{path}: no line for '{key}'; the calibration is incomplete")
    try:
        numbers = np.array([float(word) for word in re.split(r"[\s,;\[\]]+", values[key]) if word])
    except ValueError:
        raise FileError(f"{path}: '{key}' is {values[key]!r}, expected {count} number(s)") from None
    if numbers.size != count:
        raise FileError(f"{path}: '{key}' has {numbers.size} number(s), expected {count}")
    return numbers


def _size(path: Path, stated: tuple[float, float] | None, width: int | None, height: int | None) -> tuple[int, int]:
    if stated is not None:
        return int(stated[0]), int(stated[1])
    if width is None or height is None:
        raise FileError(f"{path}: does not state the image size; give width and height of the images")
    return width, height


def _from_middlebury(path: Path, values: Mapping[str, str], width: int | None, height: int | None) -> StereoRig:
    cam0, cam1 = _numbers(path, values, "cam0", 9), _numbers(path, values, "cam1", 9)
    baseline = float(_numbers(path, values, "baseline", 1)[0])
    # doffs is cx1 - cx0, stated again; where it is given, it is what the truth was made with.
    doffs = float(_numbers(path, values, "doffs", 1)[0]) if "doffs" in values else float(cam1[2] - cam0[2])
    stated = None
    if "width" in values and "height" in values:
        stated = (_numbers(path, values, "width", 1)[0], _numbers(path, values, "height", 1)[0])
    size = _size(path, stated, width, height)
    return StereoRig(*size, cam0[0], cam0[4], cam0[2], cam0[5], cam0[2] + doffs, baseline / 1000.0)


def _from_projections(
    path: Path, values: Mapping[str, str], width: int | None, height: int | None, grey: bool
) -> StereoRig:
    for left_key, right_key in (*(_GREY_PAIRS if grey else ()), *_PROJECTION_PAIRS):
        if left_key in values and right_key in values:
            break
    else:
        raise FileError(
            f"{path}: not a stereo calibration: neither cam0 and cam1 (Middlebury, ETH3D) nor a pair of "
            "projection matrices (P_rect_02/P_rect_03, P1_roi/P2_roi, P2/P3, P1/P2)"
        )
    left, right = (_numbers(path, values, key, 12) for key in (left_key, right_key))
    stated = None
    if left_key.startswith("P_rect_") and f"S_rect_{left_key[-2:]}" in values:
        stated = tuple(_numbers(path, values, f"S_rect_{left_key[-2:]}", 2))
    elif left_key.endswith("_roi") and "roi" in values:
        first_x, last_x, first_y, last_y = _numbers(path, values, "roi", 4)
        stated = (last_x - first_x + 1, last_y - first_y + 1)
    size = _size(path, stated, width, height)
    return StereoRig.from_camera_info(*(SimpleNamespace(width=size[0], height=size[1], p=p) for p in (left, right)))


def _from_ros_pair(path: Path) -> StereoRig:
    if "right" in path.name and "left" not in path.name:
        path = path.with_name(path.name.replace("right", "left"))
    if "left" not in path.name:
        raise FileError(f"{path}: a ROS calibration is a pair left.yaml and right.yaml; this name has no 'left'")
    other = path.with_name(path.name.replace("left", "right"))
    cameras = _ros_camera(path), _ros_camera(other)
    try:
        rig, doubts = StereoRig.from_camera_info(*cameras), camera_info_doubts(*cameras)
    except RigError as error:
        raise FileError(f"{path} and {other.name}: {error}") from error
    for doubt in doubts:
        _LOG.warning("%s and %s: %s", path, other.name, doubt)
    return rig


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(re.sub(r"\A%YAML:", "# ", _text(path)))  # EuRoC's may begin with OpenCV's mark
    except (yaml.YAMLError, RecursionError) as error:
        raise FileError(f"{path}: not valid YAML ({error})") from None


def _ros_camera(path: Path) -> SimpleNamespace:
    values = _yaml(path)
    try:
        return SimpleNamespace(
            width=int(values["image_width"]),
            height=int(values["image_height"]),
            p=[float(number) for number in values["projection_matrix"]["data"]],
            **{
                letter: [float(number) for number in (values.get(name) or {}).get("data", ())]
                for letter, name in _OTHER_MATRICES.items()
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{path}: lacks image_width, image_height or projection_matrix.data ({error!r}); "
            "write it with ROS's camera_calibration"
        ) from None
