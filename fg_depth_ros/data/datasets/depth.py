"""Data sets with true depth: NYU, folders of depth images, stereo sets; KITTI raw: ``kitti_depth``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from fg_depth_ros.data.datasets.layouts import NoPairsError, collect_sets, list_images, reader_of, rig_of
from fg_depth_ros.data.datasets.stereo import is_recording, open_stereo, open_stereo_folder
from fg_depth_ros.data.io.calibration import find_calibration
from fg_depth_ros.data.io.formats import read_kitti_disparity, read_png_depth
from fg_depth_ros.data.samples import ArrayReader, DepthProtocol, DepthSample, SequenceWhite, StereoSample
from fg_depth_ros.files import FileError, read_bytes

DepthUnit = Literal["kitti", "mm"]
_READERS = {"kitti": read_kitti_disparity, "mm": read_png_depth}
_IMAGES = ("image", "images", "rgb", "color", "left", "image_02", "image_2")
NYU = DepthProtocol("NYU Eigen", crop="nyu", max_depth=10.0)
_NYU_FX = 518.8579
"""Focal length of the colour camera, px, from the data set's own toolbox (camera_params.m)."""


def open_depth_sets(
    paths: Iterable[str | Path], *, unit: DepthUnit = "kitti", fx: float = 0.0, split: str | Path | None = None,
    bag: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, list[DepthSample]]:  # fmt: skip
    """Open data sets by name; a folder that is none itself stands for the data sets right inside it.

    Args:
        paths: nyu_depth_v2_labeled.mat; folders of images and ``depth/``; any set of stereo pairs that
            ``open_stereo_folder`` knows (true depth from true disparity and calibration); bags of pairs.
        unit: of 16-bit depth PNG: ``kitti`` (1/256 m) or ``mm``; 0 is unknown.
        fx: focal length of the images in px, where no calibration lies next to them.
        split: list of NYU's test frames, see ``open_nyu``.
        bag: options of ``open_bag_pairs``; ``rectify`` is that of folders of pairs, too.

    Raises FileError: nothing readable or known, images without focal length. Raises ValueError: an unknown unit.
    """
    if unit not in _READERS:
        raise ValueError(f"unit of depth '{unit}' is unknown; choose one of {', '.join(_READERS)}")
    return collect_sets(paths, lambda path: {"": _open(path, unit, fx, split, bag)})


def _open(
    path: Path, unit: DepthUnit, fx: float, split: str | Path | None, bag: Mapping[str, Any]
) -> list[DepthSample]:
    if path.suffix == ".mat":
        return open_nyu(path, split)
    if is_recording(path):
        return [DepthSample.of_pair(pair) for pair in open_stereo(path, **bag)]
    return open_depth_folder(path, unit, fx, rectify=bag.get("rectify", "auto"))


def open_depth_folder(
    path: str | Path, unit: DepthUnit = "kitti", fx: float = 0.0, *, rectify: str = "auto"
) -> list[DepthSample]:
    """Open the images of one folder, in the order of ``by_number``; arguments and errors as ``open_depth_sets``.

    Depth PNG are looked for in ``depth/`` under the name of the image, or of the pair; where there are some, pairs are
    rectified already. ``rectify``: as of ``open_stereo_folder``. Raises NoPairsError if there are neither pairs nor
    images with depth.
    """
    folder = Path(path)
    has_depth = any((folder / "depth").glob("*.png"))
    try:
        pairs = open_stereo_folder(folder, rectify=rectify, true_depth=has_depth)
        return [_from_pair(folder, pair, unit, fx) for pair in pairs]
    except NoPairsError:
        images = next((found for name in _IMAGES if (found := list_images(folder / name))), None)
        images = images if images is not None else list_images(folder)
        depths = [(image, reader_of(_READERS[unit], folder / "depth" / f"{image.stem}.png")) for image in images]
        white = SequenceWhite(images)
        samples = [
            DepthSample(image.stem, image, fx or _focal_length(folder, image), depth, white=white)
            for image, depth in depths
            if depth
        ]
        if not samples:
            raise NoPairsError(
                f"{folder}: neither stereo pairs nor images with depth found. Known: images in {', '.join(_IMAGES)} or "
                "right here with depth/NAME.png, sets of stereo pairs, bags, nyu_depth_v2_labeled.mat"
            ) from None
        return samples


def _from_pair(folder: Path, pair: StereoSample, unit: DepthUnit, fx: float) -> DepthSample:
    image = pair.left
    names = [image.stem, pair.name] if isinstance(image, Path) else [pair.name]
    depth = reader_of(_READERS[unit], *(folder / "depth" / f"{name}.png" for name in names))
    pair = replace(pair, depth=depth)
    if pair.rig is not None or not isinstance(image, Path):
        return DepthSample.of_pair(pair)
    return DepthSample(pair.name, image, fx or _focal_length(folder, image), pair.depth, white=pair.white)


def _focal_length(folder: Path, image: Path) -> float:
    rig = rig_of(find_calibration(folder), image)
    if rig is None:
        raise FileError(
            f"{image}: no calibration next to it, and depth in metres needs the focal length: give it in px, or put a "
            f"rig.json or calib.txt into {folder}"
        )
    return rig.fx


# ---- NYU -------------------------------------------------------------------------------------------------------


def open_nyu(path: str | Path, split: str | Path | None = None) -> list[DepthSample]:
    """Open the frames of nyu_depth_v2_labeled.mat (Silberman et al., ECCV 2012), evaluated in Eigen's crop up to 10 m.

    Truth is what the sensor measured (``rawDepths``; ``depths``, with holes painted over, where the file lacks it).
    ``split``: the test frames, splits.mat of the data set or a text of frame numbers from 1; empty = the splits.mat
    next to the file, else all frames. Raises FileError: a file is missing, damaged or of another kind; a number that is
    none of the file's; h5py or scipy is not installed.
    """
    path = Path(path)
    beside = path.with_name("splits.mat")
    chosen = Path(split) if split else beside if beside.is_file() else None
    with _hdf5(path) as file:
        frames, truth = len(file["images"]), "rawDepths" if "rawDepths" in file else "depths"
    numbers = range(1, frames + 1) if chosen is None else _test_frames(chosen, frames)
    return [
        DepthSample(f"{n:04d}", _nyu_reader(path, "images", n), _NYU_FX, _nyu_reader(path, truth, n), None, NYU)
        for n in numbers
    ]


def _hdf5(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise FileError(f"{path}: reading it needs h5py ({error}); pip install 'fg_depth_ros[data]'") from error
    _check_there(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FileError(f"{path}: not a readable MATLAB 7.3 file ({error}); fetch it again") from error
    if "images" not in file or not {"depths", "rawDepths"} & set(file):
        content = ", ".join(file)
        file.close()
        raise FileError(f"{path}: holds {content or 'nothing'}, no images and depths; nyu_depth_v2_labeled.mat does")
    return file


def _check_there(path: Path) -> None:
    """Raise FileError where a file is missing or empty."""
    if not path.is_file() or not path.stat().st_size:
        read_bytes(path)


def _nyu_reader(path: Path, name: str, number: int) -> ArrayReader:
    """Return the reader of one frame. MATLAB stores columns first, so every axis comes out reversed."""

    def read() -> np.ndarray:
        with _hdf5(path) as file:
            try:
                return np.ascontiguousarray(file[name][number - 1].T)
            except OSError as error:
                raise FileError(f"{path}: frame {number} of {name} is damaged ({error}); fetch it again") from error

    return read


def _test_frames(path: Path, frames: int) -> list[int]:
    _check_there(path)
    if path.suffix == ".mat":
        try:
            from scipy.io import loadmat

            numbers = [int(n) for n in np.ravel(loadmat(path)["testNdxs"])]
        except ImportError as error:
            raise FileError(f"{path}: reading it needs scipy ({error}); pip install 'fg_depth_ros[data]'") from error
        except Exception as error:  # damaged data breaks a parser in any way
            raise FileError(f"{path}: no readable splits.mat with testNdxs ({error}); fetch it again") from error
    else:
        words = read_bytes(path).decode("utf-8", "replace").split()
        wrong = next((word for word in words if not re.fullmatch(r"\d+", word)), None)
        if wrong is not None:
            raise FileError(f"{path}: holds '{wrong[:40]}'; numbers of frames from 1 are expected")
        numbers = [int(word) for word in words]
    outside = [n for n in numbers if not 1 <= n <= frames]
    if outside or not numbers:
        found = f"frame {outside[0]}" if outside else "no frame"
        raise FileError(f"{path}: names {found}, and the data set has frames 1 to {frames}; is it of this data set?")
    return sorted(numbers)
