"""Folders of stereo pairs, with true disparity and calibration if any."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from fg_depth_ros.data.bags.files import METADATA, is_bag, listed, recorded_in
from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.datasets.layouts import NoPairsError, collect_sets, combined, find_image, in_order, reader_of
from fg_depth_ros.data.datasets.pairing import FoundPair, PairPattern, find_pairs, is_video, list_media
from fg_depth_ros.data.io.calibration import find_calibration, is_named_grey, open_calibration
from fg_depth_ros.data.io.formats import image_size, read_grey, read_kitti_disparity, read_pfm
from fg_depth_ros.data.io.video import Video, VideoFrame
from fg_depth_ros.data.samples import ArrayReader, Image, SequenceWhite, StereoSample, read_pixels
from fg_depth_ros.files import FileError, read_bytes
from fg_depth_ros.geometry import RigError, StereoRig, left_right_difference
from fg_depth_ros.geometry.rectification import Rectification, is_named_rectified

_LOG = logging.getLogger(__name__)
FoundTruth = tuple[ArrayReader | None, ArrayReader | None]
"""True disparity and occlusion."""
Truth = Callable[[FoundPair], FoundTruth]
_NAMED_ABOVE = 3  # folders above an image whose names may say that it is rectified
MOTORCYCLE = "motorcycle"
"""Names the ``motorcycle`` pair where ``open_stereo`` expects a folder; one of this name is opened by its full path."""


@dataclass(frozen=True)
class StereoLayout(PairPattern):
    """A layout of stereo pairs, with what its data set knows of them."""

    truth: Truth | None = None
    """Finds true disparity and occlusion of a pair; None: ``disp/NAME`` or ``NAME_disp``, as .pfm, .png or .npy."""
    calibration: Callable[[FoundPair], Path | None] | None = None
    """Finds the calibration file where it is not called or placed as ``find_calibration`` expects."""
    rig: Callable[[FoundPair], StereoRig | None] | None = None
    """Makes the rig where it is no file."""
    grey: bool = False
    """The pairs are those of KITTI's grey cameras."""


def open_stereo(
    path: str | Path, calibration: Path | None = None, *, side_by_side: bool = False, rectify: str = "auto", **bag: Any
) -> list[StereoSample]:
    """Open the pairs of a folder, of a bag, or, with ``side_by_side``, of an image or video that holds both views.

    ``path``: ``motorcycle`` is the pair that scikit-image ships. ``calibration``: used instead of what lies next to the
    images. ``rectify``: as of ``open_calibration``. ``bag``: options of ``open_bag_pairs``. Raises as ``is_recording``,
    ``open_stereo_folder`` and ``open_bag_pairs``.
    """
    path = Path(path)
    if path == Path(MOTORCYCLE):
        if calibration is not None or side_by_side:
            raise FileError(f"{path}: is two images with their calibration: leave --calib and --side-by-side out")
        return [motorcycle()]
    if is_recording(path):
        if side_by_side:
            raise FileError(f"{path}: is a bag, whose cameras have a topic each; leave --side-by-side out")
        return open_bag_pairs(path, calibration=calibration, rectify=rectify, **bag)
    return open_stereo_folder(path, calibration, side_by_side=side_by_side, rectify=rectify)


def is_recording(path: Path) -> bool:
    """Tell a bag from a folder of pairs.

    Pairs next to files of recordings are pairs, with a warning that names those; next to metadata.yaml of rosbag2
    nothing tells which is meant. Raises FileError: such a folder, or one of several recordings, with what was found.
    """
    if not path.is_dir():
        return path.exists() and is_bag(path)
    others = recorded_in(path)
    try:
        layout, pairs = find_pairs(path, LAYOUTS)
    except NoPairsError:
        if is_bag(path) or not others:
            return is_bag(path)
        raise FileError(f"{listed(path, others)}; there are no stereo pairs next to them") from None
    except FileError as error:
        if not others:
            raise
        problem = f"images of pairs ({error})"
    else:
        problem = f"{len(pairs)} stereo pair(s) in {layout.left} and {layout.right}"
        if not others:  # its metadata.yaml is another program's
            return False
        if not (path / METADATA).is_file():
            names = ", ".join(file.name for file in others[:3])
            _LOG.warning("%s: the %s are read; %s is not read: give it for the recording", path, problem, names)
            return False
    names = ", ".join(file.name for file in others[:3])
    raise FileError(
        f"{path}: holds {problem}, and a recording ({names}): give {others[0]} for the recording, or move it elsewhere "
        "for the images"
    )


def open_stereo_folder(
    path: str | Path, calibration: Path | None = None, *, side_by_side: bool = False, rectify: str = "auto",
    true_depth: bool = False,
) -> list[StereoSample]:  # fmt: skip
    """Open the pairs of one data set, ``in_order``; the layout is recognised by its names (``LAYOUTS``).

    Left and right are images, or videos, whose frames are decoded one by one. Images of raw cameras are rectified when
    they are read, by their calibration (``open_calibration``). Those of 16 bits have one white level in all pairs. What
    lacks its partner is left out, with a warning.

    ``calibration``: used instead of what lies next to the images. ``side_by_side``: every image or video of the folder,
    or the one of this path, has the left view in its left half. ``rectify``: as of ``open_calibration``; pairs of which
    some have true disparity are rectified already (``auto``). ``true_depth``: so are these, as they have true depth.

    Raises NoPairsError: no known layout. Raises FileError: several layouts fit; a file is missing or damaged, naming it
    and what to do; raw images that have true disparity or depth.
    """
    path = Path(path)
    truth = "true depth" if true_depth else ""
    if side_by_side:
        files = [path] if path.is_file() else list_media(path) if path.is_dir() else []
        if not files:
            raise NoPairsError(f"{path}: no image or video there, and --side-by-side needs some with both views")
        calibrations = _Calibrations(calibration, rectify, truth)
        samples = [sample for file in files for sample in _halves(file, calibrations)]
    elif path.is_file():
        raise FileError(
            f"{path}: is one file, and a pair is two: give the folder of both, or, where its left half is the left "
            "view, --side-by-side"
        )
    else:
        layout, pairs = find_pairs(path, LAYOUTS)
        assert isinstance(layout, StereoLayout)
        truths = [(None, None) if is_video(pair.left) else (layout.truth or _plain_truth)(pair) for pair in pairs]
        truth = truth or ("true disparity" if any(disparity is not None for disparity, _ in truths) else "")
        calibrations = _Calibrations(calibration, rectify, truth)
        samples = [
            sample
            for pair, found in zip(pairs, truths, strict=True)
            for sample in _samples(path, layout, pair, found, calibrations)
        ]
    white = SequenceWhite([sample.left for sample in samples], [sample.right for sample in samples])
    return in_order(replace(sample, white=white) for sample in samples)


def open_stereo_sets(
    paths: Iterable[str | Path], *, side_by_side: bool = False, **options: Any
) -> dict[str, list[StereoSample]]:
    """Open data sets by name, as ``open_stereo``; a folder that is none stands for the data sets right inside it."""
    return collect_sets(paths, lambda path: {"": open_stereo(path, side_by_side=side_by_side, **options)})


@dataclass(frozen=True)
class HalfImage:
    """Reads one half of an image that shows both views side by side."""

    image: Image
    right: bool

    def __call__(self) -> np.ndarray:
        """Read the half, uint8 or uint16, H x W or H x W x 3 RGB. Raises FileError: it is unreadable."""
        pixels = read_pixels(self.image)
        return np.ascontiguousarray(np.hsplit(pixels, 2)[self.right])


@dataclass(frozen=True)
class RectifiedImage:
    """Reads an image of a raw camera, rectified."""

    image: Image
    rectification: Rectification = field(repr=False)
    side: int

    def __call__(self) -> np.ndarray:
        """Read and rectify, uint8 or uint16, H x W or H x W x 3 RGB. Raises FileError."""
        try:
            return self.rectification.apply(read_pixels(self.image), self.side)
        except RigError as error:
            raise FileError(f"{self.image if isinstance(self.image, Path) else 'a raw image'}: {error}") from error


class _Calibrations:
    """Calibration files, each found once, and read once for a size of images.

    ``truth``: what there is of the pairs that only rectified images have; such are not rectified again.
    """

    def __init__(self, given: Path | None = None, rectify: str = "auto", truth: str = "") -> None:
        found = find_calibration(given) if given is not None and given.is_dir() else None
        self._given, self._rectify, self._truth = found or given, rectify, truth
        self.above = cache(_calibration_above)
        self._known: dict[tuple[Path, tuple[int, int] | None, bool, bool], StereoRig | Rectification | None] = {}

    def calibrated(
        self, sample: StereoSample, calibration: Path | None, image: Path, size: tuple[int, int] | None, grey: bool
    ) -> StereoSample:
        """Return a sample with its rig, rectified where the calibration is of raw cameras."""
        calibration = self._given or calibration
        if calibration is None:
            return sample
        key = calibration, size, grey, is_named_rectified(image.as_posix(), _NAMED_ABOVE)
        if key not in self._known:
            self._known[key] = self._read_once(*key)
            if isinstance(self._known[key], Rectification):
                _LOG.info("%s: of raw cameras: their images are rectified when they are read", calibration)
        known = self._known[key]
        if not isinstance(known, Rectification):
            return replace(sample, rig=known)
        images = [RectifiedImage(each, known, side) for side, each in enumerate((sample.left, sample.right))]
        return replace(sample, left=images[0], right=images[1], rig=known.rig)

    def _read_once(
        self, calibration: Path, size: tuple[int, int] | None, grey: bool, named: bool
    ) -> StereoRig | Rectification | None:
        found = _read(calibration, size, grey, named, self._rectify)
        if not self._truth or not isinstance(found, Rectification) or not any(found.sides):
            return found
        if self._rectify == "on":
            raise FileError(
                f"{calibration}: is of raw cameras, but there is {self._truth} of these pairs, so their images are "
                f"rectified already: use them as they are; if they are raw, move the {self._truth}, which is not theirs"
            )
        _LOG.warning(
            "%s: is of raw cameras, but there is %s of these pairs, so their images are taken as rectified already (as "
            "with --rectify off)", calibration, self._truth,
        )  # fmt: skip
        return _read(calibration, size, grey, named, "off")


def _read(
    calibration: Path, size: tuple[int, int] | None, grey: bool, named: bool, rectify: str
) -> StereoRig | Rectification | None:
    """Read a calibration; without a size (the image is unreadable, and says so later) for the size that it states."""
    if size is not None:
        return open_calibration(calibration, size, grey=grey, named=named, rectify=rectify)
    with suppress(FileError):
        return open_calibration(calibration, grey=grey, named=named, rectify=rectify)
    return None


def open_pair(left: Path, right: Path, calibration: Path | None = None, *, rectify: str = "auto") -> StereoSample:
    """Open one pair of images, rectified where their calibration is of raw cameras (``open_calibration``).

    ``calibration``: used instead of what lies next to the left image, or above it as far as in the lowest folder that
    holds both. Of KITTI's two rigs it has that of the grey cameras where its path is named so (``is_named_grey``).

    Raises FileError.
    """
    calibrations = _Calibrations(calibration, rectify)
    place = left.absolute().parent
    both = next(folder for folder in (place, *place.parents) if folder in right.absolute().parents)
    sample = StereoSample(left.stem, left, right)
    grey = is_named_grey(left.absolute().as_posix())
    return calibrations.calibrated(sample, calibrations.above(place, both), left, image_size(left), grey)


def _samples(
    folder: Path, layout: StereoLayout, pair: FoundPair, truth: FoundTruth, calibrations: _Calibrations
) -> Iterator[StereoSample]:
    """Yield the sample of a pair of images, or those of the frames of two videos."""
    rig = None if layout.rig is None else layout.rig(pair)
    own = layout.calibration(pair) if layout.calibration else None
    calibration = own or calibrations.above(pair.place, folder)
    for name, left, right, size in _frames(pair):
        sample = StereoSample(name, left, right, rig, *truth)
        yield calibrations.calibrated(sample, calibration, pair.left, size, layout.grey)


def _frames(pair: FoundPair) -> Iterator[tuple[str, Image, Image, tuple[int, int] | None]]:
    """Yield name, left, right and size of what two files hold: a pair of images, or the frames of two videos."""
    if not is_video(pair.left):
        size = None
        with suppress(FileError):  # the pair says so when it is read, and the others of the folder can be
            size = image_size(pair.left)
        yield pair.name, pair.left, pair.right, size
        return
    left, right = Video(pair.left), Video(pair.right)
    if left.count != right.count:
        raise FileError(
            f"{pair.left} has {left.count} frames and {pair.right} {right.count}, so nothing tells which belong "
            "together; cut them to the same frames"
        )
    for index in range(left.count):
        yield f"{pair.name}_{index:06d}", VideoFrame(left, index), VideoFrame(right, index), left.size


def _halves(file: Path, calibrations: _Calibrations) -> Iterator[StereoSample]:
    """Yield the samples of an image or a video that shows both views side by side."""
    if is_video(file):
        video = Video(file)
        images: list[Image] = [VideoFrame(video, index) for index in range(video.count)]
        names, size = [f"{file.stem}_{index:06d}" for index in range(video.count)], video.size
    else:
        images, names, size = [file], [file.stem], image_size(file)
    if size[0] % 2:
        raise FileError(f"{file}: is {size[0]} px wide, so its halves are not alike; crop it to an even width")
    calibration = find_calibration(file.parent)
    for name, image in zip(names, images, strict=True):
        sample = StereoSample(name, HalfImage(image, False), HalfImage(image, True))
        yield calibrations.calibrated(sample, calibration, file, (size[0] // 2, size[1]), False)


def _calibration_above(place: Path, folder: Path) -> Path | None:
    """Find the calibration of a part of a set: there, or in the folders above it as far as that of the set."""
    above = [place, *(p for p in place.parents if p == folder or folder in p.parents)]
    return next((found for p in above if (found := find_calibration(p)) is not None), None)


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


def _kitti_truth(pair: FoundPair) -> FoundTruth:
    every = [pair.place / name / pair.left.name for name in ("disp_occ_0", "disp_occ")]
    visible = [pair.place / name / pair.left.name for name in ("disp_noc_0", "disp_noc")]
    both = reader_of(read_kitti_disparity, *every), reader_of(read_kitti_disparity, *visible)
    occlusion = combined(lambda every, visible: np.isfinite(every) & np.isnan(visible), *both)
    return reader_of(read_kitti_disparity, *every, *visible), occlusion


def _kitti_calibration(pair: FoundPair) -> Path | None:
    scene = pair.left.stem.split("_")[0]
    own = [pair.place / name / f"{scene}.txt" for name in ("calib_cam_to_cam", "calib_cam", "calib")]
    return next((path for path in own if path.is_file()), None)


def _kitti_raw_calibration(pair: FoundPair) -> Path | None:
    """Find the calibration of a drive, which is next to it, of all drives of a date."""
    drive = pair.place.resolve()
    return find_calibration(pair.place) or find_calibration(drive.parent)


def _middlebury_views_truth(pair: FoundPair) -> FoundTruth:
    """Find the 8-bit disparities of both views, 0 = unknown."""
    factor = _middlebury_views_factor(pair)
    disp1, disp5 = (_eight_bit(find_image(pair.place, name), factor) for name in ("disp1", "disp5"))
    return disp1, combined(_occluded, disp1, disp5)


def _middlebury_views_factor(pair: FoundPair) -> int:
    """Return how many times smaller the pair is than the largest published; its 8-bit values divide accordingly."""
    width, _ = image_size(pair.left)
    return 1 if width > 1000 else 2 if width > 550 else 3  # full size is 1240-1390 px wide; half, third


def _eight_bit(path: Path | None, factor: int) -> ArrayReader | None:
    def read(path: Path) -> np.ndarray:
        stored = read_grey(path)
        return np.where(stored > 0, stored.astype(np.float32) / factor, np.float32(np.nan))

    return None if path is None else reader_of(read, path)


def _occluded(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return which pixels the right camera does not see: another surface is at their match, or it is outside."""
    return np.isfinite(left) & ~(left_right_difference(left, right) <= 1.0)  # NaN where the match is outside


def _middlebury_views_rig(pair: FoundPair) -> StereoRig | None:
    """Focal length 3740 px and baseline 160 mm at full size; dmin.txt holds the offset that cropping removed.

    The principal point is not published: the image centre stands in for it (depth does not depend on it).
    """
    dmin, (width, height), factor = pair.place / "dmin.txt", image_size(pair.left), _middlebury_views_factor(pair)
    if not dmin.is_file():
        return None
    text = read_bytes(dmin).decode("utf-8", "replace")
    try:
        doffs = float(text) / factor
    except ValueError:
        raise FileError(f"{dmin}: holds {text[:40]!r}, expected one number of pixels") from None
    focal, cx, cy = 3740.0 / factor, (width - 1) / 2.0, (height - 1) / 2.0
    return StereoRig(width, height, focal, focal, cx, cy, cx + doffs, 0.160)


def _middlebury_2014_truth(pair: FoundPair) -> FoundTruth:
    truth = reader_of(read_disparity, pair.place / "disp0GT.pfm", pair.place / "disp0.pfm")
    return truth, reader_of(_occluded_in_mask, pair.place / "mask0nocc.png")


def _occluded_in_mask(path: Path) -> np.ndarray:
    return read_grey(path) == 128  # 255 visible in both, 128 occluded, 0 unknown


def _plain_truth(pair: FoundPair) -> FoundTruth:
    left, names = pair.left, (pair.left.stem, pair.name)
    stems = [*(pair.place / "disp" / name for name in names), left.with_name(f"{pair.name}_disp")]
    if left.stem == "left":
        stems.append(left.with_name("disp"))
    files = [stem.with_name(stem.name + suffix) for stem in stems for suffix in (".pfm", ".png", ".npy")]
    return reader_of(read_disparity, *files), None


_SCENES = ("*", "training", "training/*")
_kitti = partial(
    StereoLayout, "KITTI 2012 and 2015, odometry", truth=_kitti_truth, calibration=_kitti_calibration, frame="10"
)  # frame _11 of a scene is the next moment, for flow; truth belongs to _10
_kitti_raw = partial(StereoLayout, "KITTI raw", calibration=_kitti_raw_calibration, inside=("*_sync", "*/*_sync"))

LAYOUTS = (
    _kitti("image_2/*", "image_3/*", common=True),
    _kitti("colored_0/*", "colored_1/*"),
    _kitti("image_0/*", "image_1/*", grey=True),
    _kitti_raw("image_02/data/*", "image_03/data/*"),
    _kitti_raw("image_00/data/*", "image_01/data/*", grey=True),
    StereoLayout(
        "Middlebury 2005 and 2006", "view1", "view5", _SCENES, truth=_middlebury_views_truth, rig=_middlebury_views_rig
    ),
    StereoLayout("Middlebury 2014 and 2021, ETH3D", "im0", "im1", _SCENES, truth=_middlebury_2014_truth, common=True),
    StereoLayout("EuRoC, TUM-VI", "cam0/data/*", "cam1/data/*", ("mav0",)),
    StereoLayout("drives", "I1_*", "I2_*"),
    StereoLayout("folders left and right", "left/*", "right/*", common=True),
    StereoLayout("folders of numbered cameras", "cam0/*", "cam1/*"),
    StereoLayout("folders of numbered cameras", "cam_0/*", "cam_1/*"),
    StereoLayout("folders of RealSense", "infra1/*", "infra2/*"),
    StereoLayout("names left and right", "*_left", "*_right", common=True),
    StereoLayout("names left and right", "left_*", "right_*", loose=True),
    StereoLayout("names left and right", "*_left_*", "*_right_*", loose=True),
    StereoLayout("one pair", "left", "right", _SCENES),
    StereoLayout("names L and R", "*_L", "*_R", loose=True),
    StereoLayout("names L and R", "L_*", "R_*", loose=True),
    StereoLayout("names of numbered cameras", "cam0_*", "cam1_*", loose=True),
    StereoLayout("names of numbered cameras", "*_cam0", "*_cam1", loose=True),
)
"""Layouts of stereo pairs. To add one, add a line, here and in the table of docs/data.md (a test compares them)."""
