"""Calibration files of stereo pairs -> StereoRig, or, of raw cameras, Rectification."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from fg_depth_ros.data.io.camera_files import (
    format_of,
    key_values,
    named_faults,
    numbers_of,
    read_rectification,
    read_text,
    ros_cameras,
)
from fg_depth_ros.files import FileError, atomic_write, write_json
from fg_depth_ros.geometry import RigError, StereoRig, camera_info_doubts
from fg_depth_ros.geometry.rectification import RECTIFY, Rectification

_LOG = logging.getLogger(__name__)

# Pairs of projection matrices, best first: KITTI raw, the `_roi` ones of cropped images, KITTI object and
# odometry (colour), a two-camera file, KITTI (grey). In each the left camera comes first.
_PROJECTION_PAIRS = (
    ("P_rect_02", "P_rect_03"), ("P1_roi", "P2_roi"), ("P2", "P3"), ("P1", "P2"), ("P_rect_00", "P_rect_01"),
    ("P0", "P1"),
)  # fmt: skip
_GREY_PAIRS = (("P_rect_00", "P_rect_01"), ("P0", "P1"))
_GREY_NAMES, _COLOUR_NAMES = (
    re.compile(rf"image_0?[{numbers}]|(?:.*[^a-z])?(?:{words})(?:[^a-z].*)?")
    for numbers, words in (("01", "gray|grey"), ("23", "colou?r|colou?red"))
)
_NAMED_ABOVE = 3  # folders above an image whose names may say which cameras it is of


def read_calibration(
    path: str | Path, width: int | None = None, height: int | None = None, *, grey: bool = False
) -> StereoRig:
    """Read the rig that a calibration file describes, for images of ``width`` x ``height`` pixels.

    Recognised by content: the project's own ``rig.json`` (fields of StereoRig), Middlebury and ETH3D ``calib.txt``
    (``cam0=[..]``, ``cam1``, ``doffs``, ``baseline`` in mm), KITTI text (``P_rect_02`` and ``P_rect_03``, ``P2`` and
    ``P3``; ``P1_roi`` and ``P2_roi``), and ROS's camera files: a pair (pass ``left.yaml``, ``right.yaml`` lies next to
    it, or their folder), or an ``ost.txt``. Where the file states an image size and the images have another one of the
    same shape, the rig is rescaled. ``grey``: of KITTI's two rigs that of the grey cameras (0 and 1), not of the colour
    cameras (2 and 3).

    Raises FileError: naming the file, the value and what to do.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    text, known = read_text(path), format_of(path)
    try:
        if known is not None and known[0].cameras is not None:
            with named_faults(path, known[0]):
                rig = _from_cameras(path, known[0].cameras(path, text))
                return rig.fitted(width or rig.width, height or rig.height)
        if path.suffix.lower() in (".yaml", ".yml"):
            ros_cameras(path, text)  # says what it lacks
        if path.suffix.lower() == ".json" or text.lstrip().startswith("{"):
            rig = _from_json(path, text, width, height)
        elif "cam0" in (values := key_values(text)):
            rig = _from_middlebury(path, values, width, height)
        else:
            rig = _from_projections(path, values, width, height, grey)
        for doubt in rig.doubts():
            _LOG.warning("%s: %s", path, doubt)
        return rig.fitted(width or rig.width, height or rig.height)
    except RigError as error:
        raise FileError(f"{path}: {error}") from error


def write_rig(path: str | Path, rig: StereoRig) -> None:
    """Write the project's own ``rig.json``, which ``read_calibration`` reads back."""
    write_json(path, rig.to_dict(), sync=False)


def read_numbers(path: str | Path, counts: Mapping[str, int]) -> list[np.ndarray]:
    """Read the numbers (float64) after each of these names in a text of ``name: numbers`` lines, as KITTI writes them.

    ``counts``: how many each has. Raises FileError naming what is missing or not a number.
    """
    path = Path(path)
    values = key_values(read_text(path))
    return [numbers_of(path, values, name, count) for name, count in counts.items()]


def is_named_grey(name: str) -> bool:
    """Return whether an image's path or topic says that it is of KITTI's grey cameras (0 and 1).

    The nearest component counts that has the word ``gray`` or ``grey``, or is one of ``image_00``, ``image_01``,
    ``image_0`` and ``image_1``, unless a nearer one says so of the colour cameras.
    """
    for part in reversed(name.lower().split("/")[-1 - _NAMED_ABOVE :]):
        if _GREY_NAMES.fullmatch(part):
            return True
        if _COLOUR_NAMES.fullmatch(part):
            return False
    return False


def find_calibration(folder: Path) -> Path | None:
    """Find the calibration file of a folder of pairs, or None. ``describes_raw`` says whether it is of raw images."""
    names = (
        "rig.json", "calib.txt", "calib_cam_to_cam.txt", "left.yaml", "left.yml", "cam0/sensor.yaml",
        "*camchain*.yaml", "dso/camchain.yaml", "intrinsics.yml", "intrinsics.yaml", "intrinsics.xml", "ost.txt",
        "SN*.conf",
    )  # fmt: skip
    return next((path for name in names for path in sorted(folder.glob(name)) if path.is_file()), None)


def describes_raw(path: Path) -> bool:
    """Return whether a file describes nothing but raw cameras. Raises FileError: unreadable."""
    known = format_of(path)
    return known is not None and known[0].is_raw is None


def open_calibration(
    path: Path, size: tuple[int, int] | None = None, *, grey: bool = False, named: bool = False, rectify: str = "auto"
) -> StereoRig | Rectification:
    """Read what a calibration says of images: the rig of rectified ones, or the rectification of raw ones.

    ``rectify`` (``geometry.rectification.RECTIFY``): ``auto`` takes them as raw where the file describes raw cameras
    only, or its distortion is not zero and they are not ``named`` as rectified (KITTI raw: where they have the size of
    the raw ones); ``on`` as raw; ``off`` as rectified by it. Other arguments as of ``read_calibration``.

    Raises FileError, also where raw images are to be rectified by a calibration of rectified ones.
    """
    if rectify not in RECTIFY:
        raise FileError(f"rectify is '{rectify}': choose one of {', '.join(RECTIFY)}")
    if path.is_dir():
        path = _in_folder(path)
    known = format_of(path)
    if known is None:
        rig = read_calibration(path, *(size or (None, None)), grey=grey)
        if rectify == "on":
            raise FileError(
                f"{path}: describes rectified images: these images are rectified already; use them as they are, or "
                "give the calibration of the raw cameras (docs/data.md)"
            )
        return rig
    form, text = known
    only_raw = form.is_raw is None
    with named_faults(path, form):
        raw = form.is_raw is None or form.is_raw(path, text, size, grey)
    if raw and named and not only_raw and rectify == "auto":
        _LOG.info("%s: is of raw images, but the name of these says rectified: set rectify to on if they are not", path)
        raw = False
    if rectify == "on" or (rectify == "auto" and raw):
        return read_rectification(path, size, grey=grey)
    if only_raw:
        return read_rectification(path, size, grey=grey).rig
    return read_calibration(path, *(size or (None, None)), grey=grey)


def write_camera_files(folder: Path, rig: StereoRig) -> None:
    """Write ``left.yaml`` and ``right.yaml`` of rectified images, as ROS's camera_calibration has them."""
    for name, text in camera_files(rig).items():
        with atomic_write(folder / name, sync=False) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def camera_files(rig: StereoRig) -> dict[str, str]:
    """Return the texts that ``write_camera_files`` writes, by the names of their files."""
    texts = {}
    for side, matrix in (("left", rig.P_left()), ("right", rig.P_right())):
        numbers = {
            "camera_matrix": matrix[:, :3], "distortion_coefficients": np.zeros((1, 5)),
            "rectification_matrix": np.eye(3), "projection_matrix": matrix,
        }  # fmt: skip
        values: dict[str, Any] = {"image_width": rig.width, "image_height": rig.height, "camera_name": side}
        values["distortion_model"] = "plumb_bob"
        for name, array in numbers.items():
            rows, columns = array.shape
            values[name] = {"rows": rows, "cols": columns, "data": array.ravel().tolist()}
        texts[f"{side}.yaml"] = yaml.safe_dump(values, sort_keys=False)
    return texts


def _in_folder(folder: Path) -> Path:
    found = find_calibration(folder)
    if found is None:
        raise FileError(f"{folder}: no rig.json, calib.txt or left.yaml with right.yaml in this folder (docs/data.md)")
    return found


def _from_json(path: Path, text: str, width: int | None, height: int | None) -> StereoRig:
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FileError(f"{path}: not valid JSON ({error}); write it with the fields of a rig") from None
    if not isinstance(values, dict):
        raise FileError(f"{path}: holds a {type(values).__name__}; a rig is an object with fx, cx, baseline, ...")
    sizes: dict[str, int | None] = {"width": width, "height": height}
    return StereoRig.from_dict({**{k: v for k, v in sizes.items() if v is not None}, **values})


def _size(path: Path, stated: tuple[float, float] | None, width: int | None, height: int | None) -> tuple[int, int]:
    if stated is not None:
        return int(stated[0]), int(stated[1])
    if width is None or height is None:
        raise FileError(f"{path}: does not state the image size; give width and height of the images")
    return width, height


def _from_middlebury(path: Path, values: Mapping[str, str], width: int | None, height: int | None) -> StereoRig:
    cam0, cam1 = numbers_of(path, values, "cam0", 9), numbers_of(path, values, "cam1", 9)
    baseline = float(numbers_of(path, values, "baseline", 1)[0])
    # doffs is cx1 - cx0, stated again; where it is given, it is what the truth was made with.
    doffs = float(numbers_of(path, values, "doffs", 1)[0]) if "doffs" in values else float(cam1[2] - cam0[2])
    stated = None
    if "width" in values and "height" in values:
        stated = (numbers_of(path, values, "width", 1)[0], numbers_of(path, values, "height", 1)[0])
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
    left, right = (numbers_of(path, values, key, 12) for key in (left_key, right_key))
    stated = None
    if left_key.startswith("P_rect_") and f"S_rect_{left_key[-2:]}" in values:
        stated = tuple(numbers_of(path, values, f"S_rect_{left_key[-2:]}", 2))
    elif left_key.endswith("_roi") and "roi" in values:
        first_x, last_x, first_y, last_y = numbers_of(path, values, "roi", 4)
        stated = (last_x - first_x + 1, last_y - first_y + 1)
    size = _size(path, stated, width, height)
    return StereoRig.from_camera_info(*(SimpleNamespace(width=size[0], height=size[1], p=p) for p in (left, right)))


def _from_cameras(path: Path, cameras: tuple[Any, Any]) -> StereoRig:
    rig, doubts = StereoRig.from_camera_info(*cameras), camera_info_doubts(*cameras)
    for doubt in doubts:
        _LOG.warning("%s: %s", path, doubt)
    return rig
