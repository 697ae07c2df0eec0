"""Folders of stereo pairs, with true disparity and calibration where there are any."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np

from fg_depth_ros.data.io.calibration import find_calibration, read_calibration
from fg_depth_ros.data.io.formats import (
    image_size,
    read_bytes,
    read_grey,
    read_kitti_disparity,
    read_pfm,
)
from fg_depth_ros.data.samples import ArrayReader, StereoSample
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig, left_right_mismatch

MOTORCYCLE = "motorcycle"
"""Names the ``motorcycle`` pair where a folder of pairs is expected."""
_IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"}
_LAYOUTS = (
    "KITTI (image_2/ image_3/ [disp_occ_0/ disp_noc_0/]), KITTI raw (DATE/*_sync/image_02/data "
    "image_03/data, DATE/calib_cam_to_cam.txt), Middlebury 2005/2006 (view1 view5 [disp1]), "
    "Middlebury 2014 and ETH3D (im0 im1 [disp0GT.pfm] [calib.txt]), I1_*/I2_* with calib.txt, "
    "or left/ right/ [disp/] or *_left.* *_right.*, with rig.json, calib.txt or left.yaml and right.yaml"
)

_Sample = TypeVar("_Sample")


class NoPairsError(FileError):
    """A folder in which no known layout of pairs was recognised."""


def open_stereo_folder(path: str | Path) -> list[StereoSample]:
    """Open the pairs of one data set, sorted by name; the layout is recognised by its names.

    Known: KITTI 2012/2015 (also its `training/` folder), KITTI raw (one drive, a date, or all of it), Middlebury
    2005/2006, Middlebury 2014, ETH3D, the I1_*/I2_* drives, and plain folders. Raises FileError naming the folder or
    file and the way out.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; give the folder that holds the pairs")
    for candidate in (folder, folder / "training"):
        for reader in (_kitti, _kitti_raw, _middlebury_views, _middlebury_2014, _drive, _plain):
            samples = reader(candidate) if candidate.is_dir() else []
            if samples:
                return sorted(samples, key=lambda sample: sample.name)
    raise NoPairsError(f"{folder}: no stereo pairs found. Known layouts: {_LAYOUTS}")


def open_stereo_sets(paths: Iterable[str | Path]) -> dict[str, list[StereoSample]]:
    """Open data sets by folder name; a folder that is none itself stands for the data sets right inside it."""
    return collect_sets(paths, lambda path: {"": open_stereo_folder(path)})


def collect_sets(
    paths: Iterable[str | Path], open_parts: Callable[[Path], dict[str, list[_Sample]]]
) -> dict[str, list[_Sample]]:
    """Apply ``open_parts`` to folders, or, where it raises NoPairsError, to the folders right inside them.

    ``open_parts`` returns the parts of one data set by what is added to the folder's name ("" for a set in one part).
    A name that is taken already is written with its upper folder.
    """
    sets: dict[str, list[_Sample]] = {}
    for path in map(Path, paths):
        try:
            found = {path.resolve().name + part: samples for part, samples in open_parts(path).items()}
        except NoPairsError:
            found = {}
            for child in sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []:
                try:
                    found.update({child.name + part: samples for part, samples in open_parts(child).items()})
                except NoPairsError:
                    continue
            if not found:
                raise
        for name, samples in found.items():
            sets[name if name not in sets else f"{path.name}/{name}"] = samples
    return sets


def motorcycle() -> StereoSample:
    """Open the Motorcycle pair that scikit-image ships (Middlebury 2014 at a quarter of its size), with its truth.

    Calibration as `skimage.data.stereo_motorcycle` documents it: f 994.978 px, principal point (311.193,
    254.877) px, doffs 31.086 px, baseline 193.001 mm, 741x500 pixels.
    """
    spec = importlib.util.find_spec("skimage")  # found without importing it: only its files are needed
    folder = Path(spec.origin).parent / "data" if spec is not None and spec.origin else None
    if folder is None or not (folder / "motorcycle_left.png").is_file():
        raise FileError(
            f"{folder or 'skimage'}/motorcycle_left.png: scikit-image's sample pair is not here; "
            "install scikit-image >= 0.18 from its wheel"
        )
    rig = StereoRig(741, 500, 994.978, 994.978, 311.193, 254.877, 311.193 + 31.086, 0.193001)
    truth_path = folder / "motorcycle_disp.npz"
    return StereoSample(
        "Motorcycle",
        folder / "motorcycle_left.png",
        folder / "motorcycle_right.png",
        rig,
        lambda: _read_npz(truth_path),
    )


def read_disparity(path: str | Path) -> np.ndarray:
    """Read a disparity file: .pfm (inf = unknown), .npy, or KITTI's uint16 PNG. float32 H x W px, NaN unknown."""
    path = Path(path)
    if path.suffix.lower() == ".pfm":
        values = read_pfm(path)
    elif path.suffix.lower() == ".npy":
        read_bytes(path)
        try:
            values = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise FileError(f"{path}: not a readable .npy array ({error}); write it again") from None
    else:
        return read_kitti_disparity(path)
    if values.ndim != 2:
        raise FileError(f"{path}: holds an array of shape {values.shape}; a disparity is HxW")
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)


def _read_npz(path: Path) -> np.ndarray:
    read_bytes(path)
    with np.load(path, allow_pickle=False) as archive:
        values = archive["arr_0"].astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    return values


def partner_of(left: Path, right: Path, kind: str = "right") -> Path:
    """``right`` if it is a file. Raises FileError saying that ``left`` has no ``kind`` image."""
    if not right.is_file():
        raise FileError(f"{right}: missing: {left} has no {kind} image; fetch it or remove {left.name}")
    return right


def list_images(folder: Path, pattern: str = "*") -> list[Path]:
    """List the images right in a folder whose names match, sorted."""
    return sorted(p for p in folder.glob(pattern) if p.suffix.lower() in _IMAGE_ENDINGS and p.is_file())


def find_image(folder: Path, stem: str) -> Path | None:
    """Find the image of this name and any ending, or None."""
    return next(iter(list_images(folder, f"{stem}.*")), None)


def _kitti(folder: Path) -> list[StereoSample]:
    for left_name, right_name in (("image_2", "image_3"), ("colored_0", "colored_1"), ("image_0", "image_1")):
        if (folder / left_name).is_dir() and (folder / right_name).is_dir():
            break
    else:
        return []
    lefts = list_images(folder / left_name)
    # Frame _11 of a scene is the next moment, for flow; truth belongs to _10.
    first_frames = [p for p in lefts if p.stem.endswith("_10")]
    samples = []
    for left in first_frames or lefts:
        right = partner_of(left, folder / right_name / left.name)
        every = [folder / name / left.name for name in ("disp_occ_0", "disp_occ")]
        seen = [folder / name / left.name for name in ("disp_noc_0", "disp_noc")]
        all_path = next((p for p in every if p.is_file()), None)
        seen_path = next((p for p in seen if p.is_file()), None)
        truth_path = all_path or seen_path
        samples.append(
            StereoSample(
                left.stem,
                left,
                right,
                _kitti_rig(folder, left),
                None if truth_path is None else reader_of(read_kitti_disparity, truth_path),
                None if all_path is None or seen_path is None else _kitti_occlusion(all_path, seen_path),
            )
        )
    return samples


def reader_of(function: Callable[[Path], np.ndarray], path: Path) -> ArrayReader:
    """Make a reader of one file, to be called when its content is needed."""
    return lambda: function(path)


def _kitti_occlusion(all_path: Path, seen_path: Path) -> ArrayReader:
    return lambda: np.isfinite(read_kitti_disparity(all_path)) & np.isnan(read_kitti_disparity(seen_path))


def _kitti_rig(folder: Path, left: Path) -> StereoRig | None:
    scene = left.stem.split("_")[0]
    for name in ("calib_cam_to_cam", "calib_cam", "calib"):
        path = folder / name / f"{scene}.txt"
        if path.is_file():
            return read_calibration(path, *image_size(left))
    shared = find_calibration(folder)
    return None if shared is None else read_calibration(shared, *image_size(left))


def _kitti_raw(folder: Path) -> list[StereoSample]:
    """DATE/DATE_drive_NNNN_sync/image_02/data and image_03/data: the colour pairs of one drive or of all below."""
    inner, below = Path("image_02", "data"), sorted(folder.glob("*_sync")) or sorted(folder.glob("*/*_sync"))
    drives = [folder] if (folder / inner).is_dir() else below
    samples = []
    for drive in drives:
        if drive.resolve().name.endswith("_extract"):
            raise FileError(f"{drive}: holds images that are not rectified; use the drive that ends in _sync")
        lefts, rights = list_images(drive / inner), drive / "image_03" / "data"
        calibration = find_calibration(drive) or find_calibration(drive.resolve().parent)
        rig = read_calibration(calibration, *image_size(lefts[0])) if calibration and lefts else None
        for left in lefts:
            right = partner_of(left, _same_stem(rights, left) or rights / left.name)
            samples.append(
                StereoSample(left.stem if drive == folder else f"{drive.name}_{left.stem}", left, right, rig)
            )
    return samples


def _scenes(folder: Path, left_stem: str) -> list[Path]:
    """List the folder itself if it is a scene, else the scenes right inside it."""
    if find_image(folder, left_stem):
        return [folder]
    return sorted(p for p in folder.iterdir() if p.is_dir() and find_image(p, left_stem))


def _middlebury_views(folder: Path) -> list[StereoSample]:
    """Middlebury 2005/2006: view1 = left, view5 = right, 8-bit disparities, 0 = unknown."""
    samples = []
    for scene in _scenes(folder, "view1"):
        left = find_image(scene, "view1")
        assert left is not None
        right = partner_of(left, find_image(scene, "view5") or scene / "view5.png")
        width, height = image_size(left)
        # Published in full size (1240-1390 px wide), half and third; the 8-bit value divides accordingly.
        factor = 1 if width > 1000 else 2 if width > 550 else 3
        disp1, disp5 = find_image(scene, "disp1"), find_image(scene, "disp5")
        truth = None if disp1 is None else _eight_bit(disp1, factor)
        occlusion = None
        if disp1 is not None and disp5 is not None:
            occlusion = _views_occlusion(_eight_bit(disp1, factor), _eight_bit(disp5, factor))
        rig = _middlebury_views_rig(scene, width, height, factor)
        samples.append(StereoSample(scene.name, left, right, rig, truth, occlusion))
    return samples


def _eight_bit(path: Path, factor: int) -> ArrayReader:
    def read() -> np.ndarray:
        stored = read_grey(path)
        return np.where(stored > 0, stored.astype(np.float32) / factor, np.float32(np.nan))

    return read


def _views_occlusion(left: ArrayReader, right: ArrayReader) -> ArrayReader:
    def read() -> np.ndarray:
        disparity = left()
        return np.isfinite(disparity) & left_right_mismatch(disparity, right(), threshold=1.0)

    return read


def _middlebury_views_rig(scene: Path, width: int, height: int, factor: int) -> StereoRig | None:
    """Focal length 3740 px and baseline 160 mm at full size; dmin.txt holds the offset that cropping removed.

    The principal point is not published: the image centre stands in for it (depth does not depend on it).
    """
    dmin = scene / "dmin.txt"
    if not dmin.is_file():
        return None
    text = read_bytes(dmin).decode("utf-8", "replace")
    try:
        doffs = float(text) / factor
    except ValueError:
        raise FileError(f"{dmin}: holds {text[:40]!r}, expected one number of pixels") from None
    focal, cx, cy = 3740.0 / factor, (width - 1) / 2.0, (height - 1) / 2.0
    return StereoRig(width, height, focal, focal, cx, cy, cx + doffs, 0.160)


def _middlebury_2014(folder: Path) -> list[StereoSample]:
    """Middlebury 2014/2021 and ETH3D two-view: im0 = left, im1 = right."""
    samples = []
    for scene in _scenes(folder, "im0"):
        left = find_image(scene, "im0")
        assert left is not None
        right = partner_of(left, find_image(scene, "im1") or scene / f"im1{left.suffix}")
        truth = next((scene / name for name in ("disp0GT.pfm", "disp0.pfm") if (scene / name).is_file()), None)
        mask = scene / "mask0nocc.png"
        calibration = find_calibration(scene)
        samples.append(
            StereoSample(
                scene.name,
                left,
                right,
                None if calibration is None else read_calibration(calibration, *image_size(left)),
                None if truth is None else reader_of(read_disparity, truth),
                reader_of(_occluded_in_mask, mask) if mask.is_file() else None,
            )
        )
    return samples


def _occluded_in_mask(path: Path) -> np.ndarray:
    return read_grey(path) == 128  # 255 seen by both, 128 occluded, 0 unknown


def _drive(folder: Path) -> list[StereoSample]:
    lefts = list_images(folder, "I1_*")
    calibration = find_calibration(folder)
    samples = []
    for left in lefts:
        right = partner_of(left, left.with_name("I2_" + left.name[3:]))
        rig = None if calibration is None else read_calibration(calibration, *image_size(left))
        samples.append(StereoSample(left.stem[3:], left, right, rig))
    return samples


def _plain(folder: Path) -> list[StereoSample]:
    if (folder / "left").is_dir() and (folder / "right").is_dir():
        pairs = [
            (p, _same_stem(folder / "right", p) or folder / "right" / p.name) for p in list_images(folder / "left")
        ]
        names = [left.stem for left, _ in pairs]
    else:
        lefts = [p for p in list_images(folder) if re.fullmatch(r"(.*_)?left", p.stem)]
        pairs, names = [], []
        for left in lefts:
            stem = left.stem[: -len("left")]
            pairs.append((left, find_image(folder, f"{stem}right") or left.with_name(f"{stem}right{left.suffix}")))
            names.append(stem.rstrip("_") or folder.name)
    calibration = find_calibration(folder)
    samples = []
    for name, (left, right) in zip(names, pairs, strict=True):
        truth = _plain_truth(folder, left, name)
        rig = None if calibration is None else read_calibration(calibration, *image_size(left))
        reader = None if truth is None else reader_of(read_disparity, truth)
        samples.append(StereoSample(name, left, partner_of(left, right), rig, reader))
    return samples


def _same_stem(folder: Path, like: Path) -> Path | None:
    exact = folder / like.name
    return exact if exact.is_file() else find_image(folder, like.stem)


def _plain_truth(folder: Path, left: Path, name: str) -> Path | None:
    stems = [folder / "disp" / left.stem, folder / "disp" / name, left.with_name(f"{name}_disp")]
    if left.stem == "left":
        stems.append(left.with_name("disp"))
    for stem in stems:
        for ending in (".pfm", ".png", ".npy"):
            if stem.with_name(stem.name + ending).is_file():
                return stem.with_name(stem.name + ending)
    return None
