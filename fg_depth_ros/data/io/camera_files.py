"""Calibration files of two cameras before rectification, one reader for each format, found by what a file holds.

To add a format: a reader, and a line of ``FORMATS``.
"""

from __future__ import annotations

import configparser
import difflib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml

from fg_depth_ros.files import LARGEST_TEXT, FileError, read_bytes
from fg_depth_ros.geometry import RigError, StereoRig
from fg_depth_ros.geometry.rectification import LENSES, RawCamera, Rectification, raw_sides

_LOG = logging.getLogger(__name__)

Size = tuple[int, int]
# Whatever the parsers of NumPy, PyYAML, configparser and OpenCV make of a damaged file.
_DAMAGED = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, SystemError, np.linalg.LinAlgError,
    cv2.error, configparser.Error,
)  # fmt: skip
# Of a camera_info -> key of the file, and how many numbers it has (None: as many as the lens takes).
_ROS_MATRICES = {
    "k": ("camera_matrix", 9), "r": ("rectification_matrix", 9), "d": ("distortion_coefficients", None),
    "p": ("projection_matrix", 12),
}  # fmt: skip
_ROS_ADVICE = "write it with ROS's camera_calibration"
_ZED = {
    (1280, 720): "HD", (1920, 1080): "FHD", (2208, 1242): "2K", (672, 376): "VGA", (1920, 1200): "FHD1200",
    (960, 600): "SVGA",
}  # fmt: skip
_ZED_LENS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
# What people call the matrices of stereoCalibrate, without case and underscores; OpenCV's sample has the first.
_OPENCV = {
    "K1": ("m1", "k1", "cameramatrix1", "cameramatrixleft", "leftcameramatrix"),
    "K2": ("m2", "k2", "cameramatrix2", "cameramatrixright", "rightcameramatrix"),
    "D1": ("d1", "distcoeffs1", "distortioncoefficients1", "distcoeffsleft", "leftdistcoeffs"),
    "D2": ("d2", "distcoeffs2", "distortioncoefficients2", "distcoeffsright", "rightdistcoeffs"),
    "R": ("r", "rotation", "rotationmatrix"),
    "T": ("t", "translation", "translationvector"),
}  # fmt: skip
_OST_BLOCKS = {"camera matrix": "k", "distortion": "d", "rectification": "r", "projection": "p"}


class Format(NamedTuple):
    """A format of calibration files of raw cameras."""

    files: str
    """Names of the files, in markdown."""
    of: str
    """Programs that write them, for the docs."""
    recognises: Callable[[Path, str], bool]
    """Tells by path and text whether a file is of this format."""
    read: Callable[[Path, str, Size | None, bool], Rectification]
    """Reads path, text, size of the images (None: what the file states), whether the cameras are KITTI's grey ones.

    Returns the rectification at a size that the file states, or at that of the images where it states none.
    """
    is_raw: Callable[[Path, str, Size | None, bool], bool] | None = None
    """Tells whether the images are raw, if the file also describes rectified ones; called as ``read``. None: always."""
    cameras: Callable[[Path, str], tuple[Any, Any]] | None = None
    """Reads two CameraInfo-like objects, where the format has them."""


def format_of(path: Path) -> tuple[Format, str] | None:
    """Return the format of a file and its text; None where it is none of ``FORMATS``. Raises FileError: unreadable."""
    text = read_text(path)
    found = next((form for form in FORMATS if form.recognises(path, text)), None)
    return None if found is None else (found, text)


def read_rectification(path: Path, size: Size | None = None, *, grey: bool = False) -> Rectification:
    """Read two cameras that are not rectified, and rectify them for images of ``size`` (width, height) px.

    ``size``: None is that which the file states. ``grey``: of KITTI's two pairs that of the grey cameras.

    Raises FileError naming the file, the value and what to do: none of ``FORMATS``, incomplete, another shape.
    """
    known = format_of(path)
    if known is None:
        raise FileError(
            f"{path}: describes no raw cameras: it is none of {', '.join(form.of for form in FORMATS)} (docs/data.md)"
        )
    form, text = known
    with named_faults(path, form):
        found = form.read(path, text, size, grey)
        for doubt in found.rig.doubts():
            _LOG.warning("%s: %s", path, doubt)
        return found if size is None else found.scaled(*size)


@contextmanager
def named_faults(path: Path, form: Format) -> Iterator[None]:
    """Turn what a damaged or incomplete file of this format leads to, inside the block, into FileError."""
    try:
        yield
    except FileError:
        raise
    except RigError as error:
        raise FileError(f"{path}: {error}") from error
    except _DAMAGED as error:
        raise FileError(
            f"{path}: not the calibration of two cameras ({error!r}); write it as {form.of} has it (docs/data.md)"
        ) from None


# ---- texts --------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """Read a text file. Raises FileError."""
    try:
        return read_bytes(path, LARGEST_TEXT).decode("utf-8")
    except UnicodeDecodeError:
        raise FileError(f"{path}: not a text file; a calibration is text, JSON or YAML") from None


def read_yaml(path: Path) -> Any:
    """Read YAML, also after OpenCV's mark ``%YAML:1.0``. Raises FileError."""
    try:
        return yaml.safe_load(re.sub(r"\A%YAML:", "# ", read_text(path)))
    except (yaml.YAMLError, RecursionError) as error:
        raise FileError(f"{path}: not valid YAML ({error})") from None


def key_values(text: str) -> dict[str, str]:
    """Return ``key=value`` and ``key: value`` lines; a later line wins."""
    pairs = (re.match(r"\s*(\w+)\s*[=:]\s*(.*?)\s*$", line) for line in text.splitlines())
    return {match[1]: match[2] for match in pairs if match}


def numbers_of(path: Path, values: Mapping[str, str], key: str, count: int) -> np.ndarray:
    """Return the numbers of a key, float64. Raises FileError: it is missing, or has not ``count`` numbers."""
    if key not in values:
        raise FileError(f"{path}: no line for '{key}'; the calibration is incomplete")
    try:
        numbers = np.array([float(word) for word in re.split(r"[\s,;\[\]]+", values[key]) if word])
    except ValueError:
        raise FileError(f"{path}: '{key}' is {values[key]!r}, expected {count} number(s)") from None
    if numbers.size != count:
        raise FileError(f"{path}: '{key}' has {numbers.size} number(s), expected {count}")
    return numbers


# ---- EuRoC and Kalibr ---------------------------------------------------------------------------------------------


def _read_euroc(path: Path, text: str, size: Size | None, grey: bool) -> Rectification:
    """Read two files: ``cam1/sensor.yaml`` lies next to the folder of the left; ``T_BS`` takes points to the body."""
    files = [path, path.parent.parent / "cam1" / path.name]
    cameras = [read_yaml(file) for file in files]
    poses = [np.array(camera["T_BS"]["data"], np.float64).reshape(4, 4) for camera in cameras]
    return _chained(cameras, np.linalg.inv(poses[1]) @ poses[0])


def _read_kalibr(path: Path, text: str, size: Size | None, grey: bool) -> Rectification:
    """Read a chain: ``T_cn_cnm1`` takes points from cam0 to cam1, ``T_cam_imu`` from an IMU to each camera."""
    content = read_yaml(path)
    cameras = [content["cam0"], content["cam1"]]
    if "T_cn_cnm1" in cameras[1]:
        transform = np.array(cameras[1]["T_cn_cnm1"], np.float64)
    else:
        left, right = (np.array(camera["T_cam_imu"], np.float64).reshape(4, 4) for camera in cameras)
        transform = right @ np.linalg.inv(left)
    return _chained(cameras, transform.reshape(4, 4))


def _chained(cameras: list[Mapping[str, Any]], transform: np.ndarray) -> Rectification:
    """Rectify two cameras as EuRoC and Kalibr write them; ``transform``: 4 x 4, from the left to the right one."""
    left, right = (_camera_of(values) for values in cameras)
    if left[1] != right[1]:
        raise RigError(f"the cameras have {left[1]} and {right[1]} pixels; calibrate both with one resolution")
    return Rectification.of(left[0], right[0], transform[:3, :3], transform[:3, 3], left[1])


def _camera_of(values: Mapping[str, Any]) -> tuple[RawCamera, Size]:
    fx, fy, cx, cy = (float(number) for number in values["intrinsics"])
    lens, model = values.get("camera_model", "pinhole"), values.get("distortion_model", "radtan")
    if lens != "pinhole" or (model not in LENSES and model != "none"):
        raise RigError(f"lens {lens} {model} is not known; calibrate as pinhole with one of {', '.join(LENSES)}")
    distortion = values.get("distortion_coefficients", values.get("distortion_coeffs", ()))
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    width, height = (int(side) for side in values["resolution"])
    return RawCamera.of_model(matrix, model, [] if model == "none" else distortion), (width, height)


# ---- OpenCV -------------------------------------------------------------------------------------------------------


def _read_opencv(path: Path, text: str, size: Size | None, grey: bool) -> Rectification:
    """Read the matrices of ``stereoCalibrate``: one file, or intrinsics and extrinsics as OpenCV's sample has them."""
    files = [path]
    for one, other in (("intrinsics", "extrinsics"), ("extrinsics", "intrinsics")):
        if one in path.name:
            files.append(path.with_name(path.name.replace(one, other)))
    found: dict[str, Any] = {}
    for file in files:
        content = read_text(file)
        if _is_yaml(file) and not content.startswith("%YAML"):
            content = f"%YAML:1.0\n{content}"  # FileStorage takes no YAML without it
        storage = cv2.FileStorage(content, cv2.FileStorage_READ | cv2.FileStorage_MEMORY)
        root = storage.root()
        for key in root.keys():  # noqa: SIM118
            node, plain = root.getNode(key), key.lower().replace("_", "")
            parts = set(node.keys()) if node.isMap() else set()
            if {"width", "height"} <= parts and plain in ("size", "imagesize"):
                found["imagesize"] = [node.getNode(name).real() for name in ("width", "height")]
            elif "dt" in parts and (matrix := node.mat()) is not None:
                found[plain] = np.asarray(matrix, np.float64)
            elif node.isSeq():
                found[plain] = [node.at(index).real() for index in range(node.size())]
            elif not node.isMap():
                found[plain] = node.string() if node.isString() else node.real()
        storage.release()
    values = {name: _named(found, name, files) for name in _OPENCV}
    stated = found.get("imagesize", [found.get("imagewidth"), found.get("imageheight")])
    if stated[0] is not None:
        size = int(stated[0]), int(stated[1])
    if size is None:
        raise RigError("does not state the image size: give the images, or add image_width and image_height")
    fisheye = bool(found.get("fisheyemodel", 0)) or LENSES.get(str(found.get("distortionmodel", "")), False)
    if not {"fisheyemodel", "distortionmodel"} & found.keys() and values["D1"].size == 4:
        _LOG.warning(
            "%s: states no distortion model, and D1 has four coefficients, which are read as k1 k2 p1 p2; if they come "
            "from cv2.fisheye, add fisheye_model: 1 (else 0)", path,
        )  # fmt: skip
    model = "equidistant" if fisheye else "rational_polynomial"
    left, right = (RawCamera.of_model(values[f"K{n}"], model, values[f"D{n}"].ravel().tolist()) for n in (1, 2))
    try:
        return Rectification.of(left, right, values["R"].reshape(3, 3), values["T"].reshape(3), size)
    except RigError as error:
        length = float(np.linalg.norm(values["T"]))
        raise RigError(
            f"{error} (T is {length:g} long, in the unit of the squares of the board: that must be metres)"
        ) from error


def _named(found: Mapping[str, Any], name: str, files: Iterable[Path]) -> np.ndarray:
    matrix = next((found[key] for key in _OPENCV[name] if isinstance(found.get(key), np.ndarray)), None)
    if matrix is None:
        where = " and ".join(file.name for file in files)
        raise RigError(
            f"{where} lacks the matrix {name} of stereoCalibrate (called one of {', '.join(_OPENCV[name])}); write K1, "
            "D1, K2, D2, R and T"
        )
    return np.asarray(matrix, np.float64)


# ---- ZED ----------------------------------------------------------------------------------------------------------


def _read_zed(path: Path, text: str, size: Size | None, grey: bool) -> Rectification:
    """Read lengths in mm and the rotation as a vector RX, CV, RZ; cameras and rotation for each resolution."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(text)
    there = [each for each, name in _ZED.items() if f"LEFT_CAM_{name}" in parser and f"RIGHT_CAM_{name}" in parser]
    if not there:
        raise RigError("has no sections LEFT_CAM_HD and RIGHT_CAM_HD, or those of another resolution")
    chosen = there[0]
    if size is not None:
        ratio = size[0] / size[1]
        chosen = size if size in there else min(there, key=lambda each: abs(each[0] / each[1] - ratio))
    name = _ZED[chosen]
    cameras = []
    for side in ("LEFT", "RIGHT"):
        section = parser[f"{side}_CAM_{name}"]
        lens = dict(parser[f"{side}_DISTO"]) if parser.has_section(f"{side}_DISTO") else {}
        lens |= section
        fx, fy, cx, cy = (float(section[key]) for key in ("fx", "fy", "cx", "cy"))
        distortion = [float(lens.get(key, 0.0)) for key in _ZED_LENS]
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        cameras.append(RawCamera.of_model(matrix, "rational_polynomial", distortion))
    stereo = parser["STEREO"]

    def value(key: str) -> float:
        return float(stereo[f"{key}_{name}"] if f"{key}_{name}" in stereo else stereo[key])

    rotation = cv2.Rodrigues(np.array([value("RX"), value("CV"), value("RZ")]))[0]
    translation = -np.array([value("Baseline"), value("TY"), value("TZ")]) / 1000.0
    return Rectification.of(cameras[0], cameras[1], rotation, translation, chosen)


# ---- ROS ----------------------------------------------------------------------------------------------------------


def ros_cameras(path: Path, text: str = "") -> tuple[Any, Any]:
    """Read a pair of ROS camera files (either of them given) as two CameraInfo-like objects. Raises FileError."""
    if "right" in path.name and "left" not in path.name:
        path = path.with_name(path.name.replace("right", "left"))
    if "left" not in path.name:
        raise FileError(f"{path}: a ROS calibration is a pair left.yaml and right.yaml; this name has no 'left'")
    return _ros_camera(path), _ros_camera(path.with_name(path.name.replace("left", "right")))


def _ros_camera(path: Path) -> Any:
    values = read_yaml(path)
    if not isinstance(values, Mapping):
        raise FileError(f"{path}: holds no keys such as projection_matrix; {_ROS_ADVICE}")
    _check_ros_keys(path, values)
    numbers = {letter: _ros_numbers(path, values, *_ROS_MATRICES[letter]) for letter in _ROS_MATRICES}
    width, height = (_ros_side(path, values, name) for name in ("image_width", "image_height"))
    model = str(values.get("distortion_model", "plumb_bob"))
    return SimpleNamespace(width=width, height=height, distortion_model=model, **numbers)


def _check_ros_keys(path: Path, values: Mapping[Any, Any]) -> None:
    """Raise FileError for a key that is misspelled or lacks.

    A file of a rectified camera may have the projection matrix alone. One that describes the raw camera, too, has the
    lens as well: without it, a distorted image would be taken for a rectified one.
    """
    known = [name for name, _ in _ROS_MATRICES.values()] + ["image_width", "image_height", "distortion_model"]
    unknown = [str(name) for name in values if name not in known]
    absent = [name for name in known if name not in values]
    for name in absent:
        if near := difflib.get_close_matches(name, unknown, n=1, cutoff=0.8):
            raise FileError(f"{path}: has '{near[0]}' and no '{name}': correct the name")
    raw = {"camera_matrix", "rectification_matrix"}
    needed = {"image_width", "image_height", "projection_matrix"}
    if raw & values.keys():
        needed |= raw | {"distortion_coefficients"}
    if lacking := [name for name in absent if name in needed]:
        raise FileError(f"{path}: lacks {', '.join(lacking)}; {_ROS_ADVICE}")


def _ros_numbers(path: Path, values: Mapping[Any, Any], name: str, count: int | None) -> list[float]:
    """Return the data of a matrix; none where the file has no such matrix. ``count``: None is any."""
    if name not in values:
        return []
    matrix = values[name]
    data = matrix.get("data") if isinstance(matrix, Mapping) else None
    if not isinstance(data, list):
        raise FileError(f"{path}: {name} has no 'data' with a list of numbers; {_ROS_ADVICE}")
    numbers = []
    for number in data:
        try:
            numbers.append(float(number))
        except (TypeError, ValueError):
            raise FileError(f"{path}: {name}.data holds {number!r}, not a number; {_ROS_ADVICE}") from None
    if count is not None and len(numbers) != count:
        raise FileError(f"{path}: {name}.data has {len(numbers)} numbers, expected {count}; {_ROS_ADVICE}")
    return numbers


def _ros_side(path: Path, values: Mapping[Any, Any], name: str) -> int:
    try:
        pixels = int(values[name])
    except (TypeError, ValueError, OverflowError):
        pixels = 0
    if pixels < 1:
        raise FileError(f"{path}: {name} is {values[name]!r}, expected the pixels of the image")
    return pixels


def ost_cameras(path: Path, text: str) -> tuple[Any, Any]:
    """Read both cameras of an ost.txt as two CameraInfo-like objects. Raises FileError: incomplete."""
    cameras: dict[str, dict[str, list[float]]] = {}
    size: dict[str, int] = {}
    section, block = "", ""
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section, block = line[1:-1].rpartition("/")[2], ""
        elif line and not line.startswith("#"):
            if re.fullmatch(r"[a-z ]+", line):
                block = line
            elif section == "image" and block in ("width", "height"):
                size[block] = int(line)
            elif letter := _OST_BLOCKS.get(block):
                cameras.setdefault(section, {}).setdefault(letter, []).extend(float(word) for word in line.split())
    lacking = [f"[{side}] {name}" for side in ("left", "right") for name, letter in _OST_BLOCKS.items()
               if letter not in cameras.get(side, {})]  # fmt: skip
    lacking += [name for name in ("width", "height") if name not in size]
    if lacking:
        raise FileError(f"{path}: lacks {', '.join(lacking)}; an ost.txt of a stereo calibration has both cameras")
    left, right = (SimpleNamespace(**size, distortion_model="plumb_bob", **cameras[side]) for side in ("left", "right"))
    return left, right


def _of_cameras(
    files: str, of: str, recognises: Callable[[Path, str], bool], cameras: Callable[[Path, str], tuple[Any, Any]]
) -> Format:
    """Return the format of files that have what a camera_info has."""

    def read(path: Path, text: str, size: Size | None, grey: bool) -> Rectification:
        return Rectification.from_camera_info(*cameras(path, text))

    def is_raw(path: Path, text: str, size: Size | None, grey: bool) -> bool:
        return any(raw_sides(*cameras(path, text), ("", ""), "auto"))

    return Format(files, of, recognises, read, is_raw, cameras)


# ---- KITTI --------------------------------------------------------------------------------------------------------


def _kitti_numbers(grey: bool) -> tuple[str, str]:
    return ("00", "01") if grey else ("02", "03")


def _read_kitti(path: Path, text: str, size: Size | None, grey: bool) -> Rectification:
    """Read the cameras before rectification, as of a drive that ends in _extract; rectified images are smaller."""
    values, cameras, rotations, infos = key_values(text), [], [], []
    for camera in _kitti_numbers(grey):
        matrix, distortion, rotation, p = (
            numbers_of(path, values, f"{name}_{camera}", count)
            for name, count in (("K", 9), ("D", 5), ("R_rect", 9), ("P_rect", 12))
        )
        width, height = numbers_of(path, values, f"S_rect_{camera}", 2).astype(int).tolist()
        cameras.append(RawCamera.of_model(matrix, "plumb_bob", distortion.tolist()))
        rotations.append(rotation.reshape(3, 3))
        infos.append(SimpleNamespace(width=width, height=height, p=p))
    raw_width, raw_height = numbers_of(path, values, f"S_{_kitti_numbers(grey)[0]}", 2).astype(int).tolist()
    rig = StereoRig.from_camera_info(*infos)
    return Rectification(rig, (cameras[0], cameras[1]), (rotations[0], rotations[1]), (raw_width, raw_height))


def _is_raw_kitti(path: Path, text: str, size: Size | None, grey: bool) -> bool:
    """By the size of the images."""
    stated = numbers_of(path, key_values(text), f"S_{_kitti_numbers(grey)[0]}", 2)
    return size is not None and tuple(stated.astype(int).tolist()) == size


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _has(*words: str) -> Callable[[Path, str], bool]:
    return lambda path, text: _is_yaml(path) and all(re.search(rf"^\s*{word}\s*:", text, re.M) for word in words)


FORMATS = (
    Format(
        "`intrinsics.yml` and `extrinsics.yml`, or one file (.yml, .xml, .json)", "OpenCV's `stereoCalibrate`",
        lambda path, text: "opencv-matrix" in text or "<opencv_storage>" in text, _read_opencv,
    ),
    Format(
        "`cam0/sensor.yaml` and `cam1/sensor.yaml`", "EuRoC",
        lambda path, text: path.name == "sensor.yaml" or _has("T_BS", "intrinsics")(path, text), _read_euroc,
    ),
    Format(
        "`*camchain*.yaml`, `dso/camchain.yaml`", "Kalibr (with and without IMU), TUM-VI",
        lambda path, text: _is_yaml(path) and ("camchain" in path.name or _has("cam0", "cam1")(path, text)),
        _read_kalibr,
    ),
    Format(
        "`SN*.conf`", "ZED's factory calibration",
        lambda path, text: re.search(r"^\[LEFT_CAM_", text, re.M) is not None, _read_zed,
    ),
    _of_cameras("`left.yaml` and `right.yaml`", "ROS's camera_calibration", _has("projection_matrix"), ros_cameras),
    _of_cameras(
        "`ost.txt`", "ROS's camera_calibration (both cameras in one file)",
        lambda path, text: re.search(r"^\s*\[[^]]*left\]\s*$", text, re.M) is not None and "camera matrix" in text,
        ost_cameras,
    ),
    Format(
        "`calib_cam_to_cam.txt`", "KITTI raw; of `_extract` drives, whose images have the size before rectification",
        lambda path, text: re.search(r"^S_rect_0[02]\s*:", text, re.M) is not None and "\nK_0" in text,
        _read_kitti, _is_raw_kitti,
    ),
)  # fmt: skip
"""Formats of raw cameras; the first that recognises a file reads it. docs/data.md has this table."""
