"""Folders of stereo pairs, with true disparity and calibration where there are any."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fg_depth_ros.data.datasets.layouts import (
    Layout,
    collect_sets,
    combined,
    find_image,
    find_scenes,
    list_images,
    open_layouts,
    reader_of,
    rig_of,
)
from fg_depth_ros.data.io.calibration import find_calibration
from fg_depth_ros.data.io.formats import image_size, read_grey, read_kitti_disparity, read_pfm
from fg_depth_ros.data.samples import ArrayReader, StereoSample
from fg_depth_ros.files import FileError, read_bytes
from fg_depth_ros.geometry import StereoRig, left_right_mismatch

_LOG = logging.getLogger(__name__)
MOTORCYCLE = "motorcycle"
"""Names the ``motorcycle`` pair where a folder of pairs is expected."""


def open_stereo_folder(path: str | Path) -> list[StereoSample]:
    """Open the pairs of one data set, sorted by name; the layout is recognised by its names.

    Known: KITTI 2012/2015 (also its ``training/`` folder), KITTI raw (one drive, a date, or all of it), Middlebury
    2005/2006, Middlebury 2014, ETH3D, the I1_*/I2_* drives, and plain folders. A left image without a right one is left
    out, with a warning. Raises NoPairsError: no known layout.
    Raises FileError: a file is missing or damaged, naming it and what to do.
    """
    return _open_parts(Path(path))[""]


def open_stereo_sets(paths: Iterable[str | Path]) -> dict[str, list[StereoSample]]:
    """Open data sets by folder name; a folder that is none itself stands for the data sets right inside it."""
    return collect_sets(paths, _open_parts)


def _open_parts(path: Path) -> dict[str, list[StereoSample]]:
    return {part: _paired(samples) for part, samples in open_layouts(path, LAYOUTS, "stereo pairs").items()}


def _paired(samples: list[StereoSample]) -> list[StereoSample]:
    """Leave out left images without a right one, with a warning. Raises FileError: none has one."""
    paired = [sample for sample in samples if isinstance(sample.right, Path) and sample.right.is_file()]
    if len(paired) < len(samples):
        first = next(sample for sample in samples if not (isinstance(sample.right, Path) and sample.right.is_file()))
        text = f"{first.right}: missing: {first.left} has no right image; fetch it or remove {first.left.name}"  # type: ignore[union-attr]
        if not paired:
            raise FileError(text)
        _LOG.warning("%s (left out: %d of %d pairs)", text, len(samples) - len(paired), len(samples))
    return paired


def motorcycle() -> StereoSample:
    """Open the Motorcycle pair that scikit-image ships (Middlebury 2014 at a quarter of its size), with its truth.

    Calibration as ``skimage.data.stereo_motorcycle`` documents it: f 994.978 px, principal point (311.193,
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
    left, right, truth = (folder / f"motorcycle_{name}" for name in ("left.png", "right.png", "disp.npz"))
    return StereoSample("Motorcycle", left, right, rig, reader_of(_read_npz, truth))


def read_disparity(path: str | Path) -> np.ndarray:
    """Read a disparity file: .pfm (inf = unknown), .npy, or KITTI's uint16 PNG. float32 H x W px, NaN unknown."""
    path = Path(path)
    if path.suffix.lower() == ".pfm":
        values = read_pfm(path)
    elif path.suffix.lower() == ".npy":
        read_bytes(path)
        try:
            values = np.array(np.load(path, "r", allow_pickle=False))  # mapped: no more than the file holds
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


def _kitti(folder: Path) -> list[StereoSample]:
    for left_name, right_name in (("image_2", "image_3"), ("colored_0", "colored_1"), ("image_0", "image_1")):
        if (folder / left_name).is_dir() and (folder / right_name).is_dir():
            break
    else:
        return []
    lefts = list_images(folder / left_name)
    # Frame _11 of a scene is the next moment, for flow; truth belongs to _10.
    samples = []
    for left in [p for p in lefts if p.stem.endswith("_10")] or lefts:
        right = folder / right_name / left.name
        every = [folder / name / left.name for name in ("disp_occ_0", "disp_occ")]
        visible = [folder / name / left.name for name in ("disp_noc_0", "disp_noc")]
        truth = reader_of(read_kitti_disparity, *every, *visible)
        both = reader_of(read_kitti_disparity, *every), reader_of(read_kitti_disparity, *visible)
        occlusion = combined(lambda every, visible: np.isfinite(every) & np.isnan(visible), *both)
        samples.append(StereoSample(left.stem, left, right, _kitti_rig(folder, left), truth, occlusion))
    return samples


def _kitti_rig(folder: Path, left: Path) -> StereoRig | None:
    scene = left.stem.split("_")[0]
    own = [folder / name / f"{scene}.txt" for name in ("calib_cam_to_cam", "calib_cam", "calib")]
    return rig_of(next((path for path in own if path.is_file()), None) or find_calibration(folder), left)


def _kitti_raw(folder: Path) -> list[StereoSample]:
    """DATE/DATE_drive_NNNN_sync/image_02/data and image_03/data: the colour pairs of one drive or of all below."""
    inner, below = Path("image_02", "data"), sorted(folder.glob("*_sync")) or sorted(folder.glob("*/*_sync"))
    drives = [folder] if (folder / inner).is_dir() else below
    samples = []
    for drive in drives:
        if drive.resolve().name.endswith("_extract"):
            raise FileError(f"{drive}: holds images that are not rectified; use the drive that ends in _sync")
        lefts, rights = list_images(drive / inner), drive / "image_03" / "data"
        rig = rig_of(find_calibration(drive) or find_calibration(drive.resolve().parent), lefts[0]) if lefts else None
        for left in lefts:
            name = left.stem if drive == folder else f"{drive.name}_{left.stem}"
            samples.append(StereoSample(name, left, _same_stem(rights, left), rig))
    return samples


def _middlebury_views(folder: Path) -> list[StereoSample]:
    """Middlebury 2005/2006: view1 = left, view5 = right, 8-bit disparities, 0 = unknown."""
    samples = []
    for scene, left in find_scenes(folder, "view1"):
        right = find_image(scene, "view5") or scene / "view5.png"
        width, height = image_size(left)
        # Published in full size (1240-1390 px wide), half and third; the 8-bit value divides accordingly.
        factor = 1 if width > 1000 else 2 if width > 550 else 3
        disp1, disp5 = (_eight_bit(find_image(scene, name), factor) for name in ("disp1", "disp5"))
        rig = _middlebury_views_rig(scene, width, height, factor)
        samples.append(StereoSample(scene.name, left, right, rig, disp1, combined(_mismatch, disp1, disp5)))
    return samples


def _eight_bit(path: Path | None, factor: int) -> ArrayReader | None:
    def read(path: Path) -> np.ndarray:
        stored = read_grey(path)
        return np.where(stored > 0, stored.astype(np.float32) / factor, np.float32(np.nan))

    return None if path is None else reader_of(read, path)


def _mismatch(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.isfinite(left) & left_right_mismatch(left, right, threshold=1.0)


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
    for scene, left in find_scenes(folder, "im0"):
        right = find_image(scene, "im1") or scene / f"im1{left.suffix}"
        truth = reader_of(read_disparity, scene / "disp0GT.pfm", scene / "disp0.pfm")
        occlusion = reader_of(_occluded_in_mask, scene / "mask0nocc.png")
        samples.append(StereoSample(scene.name, left, right, rig_of(find_calibration(scene), left), truth, occlusion))
    return samples


def _occluded_in_mask(path: Path) -> np.ndarray:
    return read_grey(path) == 128  # 255 visible in both, 128 occluded, 0 unknown


def _numbered_cameras(folder: Path) -> list[StereoSample]:
    """I1_NAME = left, I2_NAME = right."""
    calibration = find_calibration(folder)
    return [
        StereoSample(left.stem[3:], left, left.with_name("I2_" + left.name[3:]), rig_of(calibration, left))
        for left in list_images(folder, "I1_*")
    ]


def _plain(folder: Path) -> list[StereoSample]:
    if (folder / "left").is_dir() and (folder / "right").is_dir():
        lefts = list_images(folder / "left")
        found = [(left.stem, left, _same_stem(folder / "right", left)) for left in lefts]
    else:
        found = []
        for left in (p for p in list_images(folder) if re.fullmatch(r"(.*_)?left", p.stem)):
            stem = left.stem[: -len("left")]
            right = find_image(folder, f"{stem}right") or left.with_name(f"{stem}right{left.suffix}")
            found.append((stem.rstrip("_") or folder.name, left, right))
    calibration = find_calibration(folder)
    return [
        StereoSample(name, left, right, rig_of(calibration, left), _plain_truth(folder, left, name))
        for name, left, right in found
    ]


def _same_stem(folder: Path, like: Path) -> Path:
    """Return the image of the same name and any ending, or where it would be."""
    exact = folder / like.name
    return exact if exact.is_file() else find_image(folder, like.stem) or exact


def _plain_truth(folder: Path, left: Path, name: str) -> ArrayReader | None:
    stems = [folder / "disp" / left.stem, folder / "disp" / name, left.with_name(f"{name}_disp")]
    if left.stem == "left":
        stems.append(left.with_name("disp"))
    files = [stem.with_name(stem.name + suffix) for stem in stems for suffix in (".pfm", ".png", ".npy")]
    return reader_of(read_disparity, *files)


LAYOUTS = (
    Layout("KITTI (image_2/ image_3/ [disp_occ_0/ disp_noc_0/])", _kitti),
    Layout("KITTI raw (DATE/*_sync/image_02/data image_03/data, DATE/calib_cam_to_cam.txt)", _kitti_raw),
    Layout("Middlebury 2005/2006 (view1 view5 [disp1])", _middlebury_views),
    Layout("Middlebury 2014 and ETH3D (im0 im1 [disp0GT.pfm] [calib.txt])", _middlebury_2014),
    Layout("I1_*/I2_* with calib.txt", _numbered_cameras),
    Layout("left/ right/ [disp/] or *_left.* *_right.*, with rig.json, calib.txt or left.yaml and right.yaml", _plain),
)
"""Layouts of stereo pairs, in the order in which they are tried."""
