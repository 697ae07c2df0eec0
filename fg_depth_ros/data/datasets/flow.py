"""Folders of frame pairs with true optical flow: Flying Chairs, Sintel, KITTI, Middlebury."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from fg_depth_ros.data.datasets.layouts import (
    Layout,
    NoPairsError,
    collect_sets,
    combined,
    find_image,
    find_scenes,
    list_images,
    open_layouts,
    partner_of,
    reader_of,
)
from fg_depth_ros.data.io.formats import read_flo, read_grey, read_kitti_flow
from fg_depth_ros.data.samples import FlowSample
from fg_depth_ros.files import FileError, read_bytes

CHAIRS_SPLITS = ("FlyingChairs_train_val.txt", "chairs_split.txt")
"""Names of the list that divides Flying Chairs: line n is 1 where pair n is for training, 2 where it is for testing."""
_SPLITS = {"all": (1, 2), "train": (1,), "test": (2,)}


def open_flow_sets(paths: Iterable[str | Path], split: str = "all") -> dict[str, list[FlowSample]]:
    """Open data sets by folder name; a folder that is none itself stands for the data sets right inside it.

    A path may also be their ``training/`` or ``data/`` folder, or one scene of Middlebury. Sintel's passes are two
    sets, named with /clean and /final. ``split``: all, train or test; what is not all needs the list that divides
    Flying Chairs. Raises NoPairsError: no known layout. Raises FileError: a file is missing or damaged. Raises
    ValueError: an unknown split.
    """
    return collect_sets(paths, lambda path: _open_parts(path, split))


def _open_parts(folder: Path, split: str) -> dict[str, list[FlowSample]]:
    if split not in _SPLITS:
        raise ValueError(f"split '{split}' is unknown; choose one of {', '.join(_SPLITS)}")
    chairs = Layout(
        "Flying Chairs ([data/]00001_img1.ppm 00001_img2.ppm 00001_flow.flo)",
        partial(_chairs, split=split),
        inside=("data", "FlyingChairs_release/data"),
    )
    if split == "all":
        return open_layouts(folder, (chairs, *LAYOUTS), "pairs of frames")
    try:
        return open_layouts(folder, (chairs,), "Flying Chairs")
    except NoPairsError:
        raise NoPairsError(
            f"{folder}: holds no Flying Chairs, and nothing else is divided; use the split 'all'"
        ) from None


# ---- Flying Chairs ---------------------------------------------------------------------------------------------


def _chairs(folder: Path, split: str) -> list[FlowSample]:
    """Read NNNNN_img1.ppm, _img2.ppm, _flow.flo [_occ.png]; or NNNNNNN-img0.ppm, -img1.ppm, -gt.flo of the examples."""
    samples, numbers = [], []
    for flow in sorted([*folder.glob("*_flow.flo"), *folder.glob("*-gt.flo")]):
        found = re.fullmatch(r"(\d+)(_flow|-gt)", flow.stem)
        if found is None:
            continue
        number, (one, two) = found[1], ("_img1", "_img2") if found[2] == "_flow" else ("-img0", "-img1")
        first = find_image(folder, number + one) or folder / f"{number}{one}.ppm"
        second = find_image(folder, number + two) or folder / f"{number}{two}.ppm"
        partner_of(flow, first, "first")
        occlusion = reader_of(_read_mask, folder / f"{number}_occ.png")
        samples.append(
            FlowSample(number, first, partner_of(first, second, "second"), reader_of(read_flo, flow), occlusion)
        )
        numbers.append(int(number))
    if split == "all" or not samples:
        return samples
    chosen = _SPLITS[split]
    part_of = _chairs_split(folder, max(numbers))
    return [sample for sample, number in zip(samples, numbers, strict=True) if part_of[number - 1] in chosen]


def _chairs_split(folder: Path, pairs: int) -> list[int]:
    places = [place / name for place in (folder, folder.parent, folder.parent.parent) for name in CHAIRS_SPLITS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileError(
            f"{folder}: the list that divides the pairs ({CHAIRS_SPLITS[0]}) is missing; put it there, or use the "
            "split 'all'"
        )
    lines = read_bytes(path).decode("utf-8", "replace").split()
    for number, line in enumerate(lines, 1):
        if line not in ("1", "2"):
            raise FileError(f"{path}: line {number} holds {line[:40]!r}; 1 (training) or 2 (test) is expected")
    if len(lines) < pairs:
        raise FileError(f"{path}: divides {len(lines)} pairs, and {folder} has pair number {pairs}; fetch it again")
    return [int(line) for line in lines]


def _read_mask(path: Path) -> np.ndarray:
    return read_grey(path) >= 128


# ---- Sintel ----------------------------------------------------------------------------------------------------


def _sintel(folder: Path) -> dict[str, list[FlowSample]]:
    """Read training/{clean,final,flow,occlusions}/SCENE/frame_NNNN: neighbouring frames of each scene."""
    passes = {}
    for name in ("clean", "final"):
        samples = []
        for scene in sorted(p for p in (folder / name).glob("*") if p.is_dir()):
            frames = list_images(scene, "frame_*")
            numbers = [int(frame.stem[6:]) if frame.stem[6:].isdecimal() else -9 for frame in frames]
            for k, (first, second) in enumerate(pairwise(frames)):
                if numbers[k + 1] == numbers[k] + 1:
                    samples.append(_sintel_sample(folder, scene.name, first, second))
        if samples:
            passes[f"/{name}"] = samples
    return passes


def _sintel_sample(folder: Path, scene: str, first: Path, second: Path) -> FlowSample:
    name = f"{scene}/{first.stem}"
    flow, mask = folder / "flow" / scene / f"{first.stem}.flo", folder / "occlusions" / scene / f"{first.stem}.png"
    if not flow.is_file():  # the test half has none
        return FlowSample(name, first, second)
    truth = reader_of(read_flo, flow)
    # The mask need not hold the pixels that leave the frame.
    occlusion = combined(lambda hidden, flow: hidden | _leaves_frame(flow), reader_of(_read_mask, mask), truth)
    return FlowSample(name, first, second, truth, occlusion)


def _leaves_frame(flow: np.ndarray) -> np.ndarray:
    h, w = flow.shape[:2]
    x, y = flow[..., 0] + np.arange(w), flow[..., 1] + np.arange(h)[:, None]
    return (x < -0.5) | (x > w - 0.5) | (y < -0.5) | (y > h - 0.5)


# ---- KITTI -----------------------------------------------------------------------------------------------------


def _kitti(folder: Path) -> list[FlowSample]:
    """Read KITTI 2015 (image_2) and 2012 (colored_0, image_0): frames _10 and _11; truth flow_occ, else flow_noc."""
    truth_folders = folder / "flow_occ", folder / "flow_noc"
    for name in ("image_2", "colored_0", "image_0"):
        firsts = list_images(folder / name, "*_10.*")
        if firsts and (list_images(folder / name, "*_11.*") or any(p.is_dir() for p in truth_folders)):
            break
    else:
        return []
    samples = []
    for first in firsts:
        second = partner_of(first, first.with_name(f"{first.stem[:-2]}11{first.suffix}"), "second")
        everything, visible = (place / f"{first.stem}.png" for place in truth_folders)
        both = reader_of(_known, everything), reader_of(_known, visible)
        occlusion = combined(lambda known, seen: known & ~seen, *both)
        truth = reader_of(read_kitti_flow, everything, visible)
        samples.append(FlowSample(first.stem, first, second, truth, occlusion))
    return samples


def _known(path: Path) -> np.ndarray:
    return np.isfinite(read_kitti_flow(path)).all(axis=2)


# ---- Middlebury ------------------------------------------------------------------------------------------------


def _middlebury(folder: Path) -> list[FlowSample]:
    """Read SCENE/frame10, frame11 below other-data/ or here; flow10.flo next to them or in other-gt-flow/SCENE/."""
    samples = []
    for scene, first in find_scenes(folder / "other-data" if (folder / "other-data").is_dir() else folder, "frame10"):
        second = partner_of(first, find_image(scene, "frame11") or scene / f"frame11{first.suffix}", "second")
        elsewhere = scene.parent.parent / "other-gt-flow" / scene.name / "flow10.flo"
        samples.append(FlowSample(scene.name, first, second, reader_of(read_flo, scene / "flow10.flo", elsewhere)))
    return samples


LAYOUTS = (
    Layout("Sintel (clean/ final/ [flow/ occlusions/])", _sintel),
    Layout("KITTI (image_2/ or colored_0/ or image_0/ with *_10 and *_11, [flow_occ/ flow_noc/])", _kitti),
    Layout(
        "Middlebury (other-data/ [other-gt-flow/], or frame10 frame11 [flow10.flo] in a folder per scene)", _middlebury
    ),
)
"""Layouts of pairs of frames other than Flying Chairs, in the order in which they are tried."""
