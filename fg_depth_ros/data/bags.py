"""Stereo pairs from ROS 2 bags, without ROS."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from fg_depth_ros.data.bag_storage import COMPRESSED, IMAGE, INFO, BagStorage, message_types
from fg_depth_ros.data.camera_images import MessageError, compressed_to_array, image_to_array
from fg_depth_ros.data.formats import FileError
from fg_depth_ros.geometry import RigError, StereoRig

_LOG = logging.getLogger(__name__)
# How the topics of two cameras differ: ours and most drivers', RealSense's, EuRoC's and OAK's, KITTI's.
_SIDES = (
    ("left", "right"), ("infra1", "infra2"), ("cam0", "cam1"), ("cam_0", "cam_1"), ("camera_0", "camera_1"),
    ("image_02", "image_03"),
)  # fmt: skip
_NO_CAMERA = ("depth", "disparity", "mask", "flow", "theora", "ffmpeg")


class BagTopics(NamedTuple):
    """The topics of a pair."""

    left: str
    right: str
    left_info: str
    right_info: str


class _Place(NamedTuple):
    """Where a message lies: its topic, the time it was recorded, and its own stamp, both in ns."""

    topic: str
    recorded: int
    stamp: int


@dataclass(frozen=True)
class BagSample:
    """One rectified pair of a bag, as a ``StereoSample``. Images are read when asked for, never kept.

    ``name`` is the left image's stamp in ns, ``slack`` the right image's stamp minus the left one's, in s.
    """

    name: str
    rig: StereoRig
    slack: float
    bag: BagStorage = field(repr=False)
    left: _Place = field(repr=False)
    right: _Place = field(repr=False)
    truth_reader: None = field(default=None, repr=False)
    """A bag of pairs holds no true disparity."""

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """Left and right, uint8 RGB HxWx3.

        Raises FileError: a message that is gone, damaged, of an encoding that no camera sends, or of another size than
        the calibration.
        """
        return self._image(self.left), self._image(self.right)

    def truth(self) -> None:
        """None: a bag of pairs holds no true disparity."""
        return None

    def occluded(self) -> None:
        """None: a bag does not say."""
        return None

    def _image(self, place: _Place) -> np.ndarray:
        kind, where = self.bag.topics[place.topic], f"{self.bag.path}, {place.topic} at {place.stamp} ns"
        data = next((d for d in self.bag.at(place.topic, place.recorded) if _stamp(d) == place.stamp), None)
        if data is None:
            raise FileError(f"{where}: the message is gone; the bag has changed since it was opened: open it again")
        message = _decoded(data, kind, where)
        try:
            pixels = compressed_to_array(message, where) if kind == COMPRESSED else image_to_array(message, where)
        except MessageError as error:
            raise FileError(str(error)) from error
        height, width = pixels.shape[:2]
        if (width, height) != (self.rig.width, self.rig.height):
            raise FileError(
                f"{where}: the image is {width}x{height} pixels and the calibration for {self.rig.width}x"
                f"{self.rig.height}; use the camera_info of these images"
            )
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else np.ascontiguousarray(pixels)


def open_bag_pairs(
    path: str | Path,
    left: str = "",
    right: str = "",
    slop: float = 0.0,
    *,
    left_info: str = "",
    right_info: str = "",
    rig: StereoRig | None = None,
) -> list[BagSample]:
    """The rectified pairs of a bag, in the order of their stamps.

    Every image message is looked at once, for its stamp; pixels are read later, pair by pair. Of two messages with one
    stamp (a looping source) the first counts.

    Args:
        path: the bag's folder, or one ``.mcap`` or ``.db3`` file. What is whole of a cut-off MCAP file is used.
        left, right: image topics, raw or compressed; empty = found by name and type.
        slop: largest difference of the two stamps, s. Pairs are mutual nearest neighbours; 0 = equal stamps.
        left_info, right_info: camera_info topics; empty = beside the images.
        rig: calibration to use instead of the bag's.

    Raises:
        FileError: no such bag, topics that are not there or not to be told apart, no camera_info, a calibration of no
            rectified pair, an encoding that no camera sends, or no pair; the message says what to do.
    """
    bag = BagStorage(path)
    topics = find_topics(bag.topics, left, right, left_info, right_info, where=str(path))
    if rig is None:
        rig = _rig(bag, topics)
    places = _places(bag, topics)
    for topic, found in places.items():
        if found:
            _check_encoding(bag, found[min(found)])
        else:
            raise FileError(f"{path}: {topic} holds no message; record both cameras, or name the topics")
    return [
        BagSample(str(a), rig, (b - a) / 1e9, bag, places[topics.left][a], places[topics.right][b])
        for a, b in _matched(path, topics, sorted(places[topics.left]), sorted(places[topics.right]), slop)
    ]


def find_topics(
    topics: Mapping[str, str], left: str = "", right: str = "", left_info: str = "", right_info: str = "",
    *, where: str = "bag",
) -> BagTopics:  # fmt: skip
    """The topics of a pair among a bag's, by their types and names; those given are taken as they are.

    Rectified images come before others, raw ones before compressed ones. A camera_info that is neither given nor beside
    its images comes out empty.

    Raises:
        FileError: no pair, several that are equally good, or a topic given that is not there.
    """
    images = [
        name for name, kind in topics.items() if kind in (IMAGE, COMPRESSED) and not any(w in name for w in _NO_CAMERA)
    ]
    given = [_given(topics, name, (IMAGE, COMPRESSED), where) for name in (left, right)]
    given += [_given(topics, name, (INFO,), where) for name in (left_info, right_info)]
    left, right = given[:2]
    if not (left and right):
        pairs = [(a, b) for a, b in _sides(images) if left in ("", a) and right in ("", b)]
        ranks = {pair: ("rect" not in pair[0], topics[pair[0]] == COMPRESSED) for pair in pairs}
        best = [pair for pair in pairs if ranks[pair] == min(ranks.values())]
        if len(best) != 1:
            found = ", ".join(sorted(images)) or "none"
            problem = "no pair of image topics can be told by name" if not best else "several pairs of image topics fit"
            raise FileError(f"{where}: {problem} (images: {found}); name the left and the right topic")
        left, right = best[0]
    infos = [
        name or (beside if topics.get(beside := _info_beside(image)) == INFO else "")
        for name, image in zip(given[2:], (left, right), strict=True)
    ]
    return BagTopics(left, right, *infos)


def _given(topics: Mapping[str, str], name: str, kinds: tuple[str, ...], where: str) -> str:
    """The full name of a topic that was given, or "" where none was."""
    if not name:
        return ""
    full = name if name in topics else f"/{name}"
    if topics.get(full) not in kinds:
        problem = f"'{name}' is a {topics[full]}" if full in topics else f"no topic '{name}'"
        known = ", ".join(sorted(topic for topic, kind in topics.items() if kind in kinds))
        raise FileError(f"{where}: {problem}; of {' or '.join(kinds)} there are: {known or 'none'}")
    return full


def _sides(images: list[str]) -> list[tuple[str, str]]:
    """(left, right) among topic names that differ only in the word for the side."""
    pairs = ((name, name.replace(a, b)) for name in images for a, b in _SIDES if a in name)
    return [(a, b) for a, b in dict.fromkeys(pairs) if b in images]


def _info_beside(image: str) -> str:
    """Where image_transport puts the camera_info of an image topic."""
    return image.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"


def _rig(bag: BagStorage, topics: BagTopics) -> StereoRig:
    infos = []
    for image, name in zip(topics[:2], topics[2:], strict=True):
        first = next((message.data for message in bag.scan([name])), None) if name else None
        if first is None:
            known = [n for n, kind in bag.topics.items() if kind == INFO]
            raise FileError(
                f"{bag.path}: no camera_info for {image} (expected {_info_beside(image)}; the bag has "
                f"{', '.join(sorted(known)) or 'none'}): name the camera_info topics, or give the calibration (rig)"
            )
        infos.append(_decoded(first, INFO, f"{bag.path}, {name}"))
    try:
        rig = StereoRig.from_camera_info(*infos)
    except RigError as error:
        raise FileError(f"{bag.path}, {topics.left_info} and {topics.right_info}: {error}") from error
    if "rect" not in topics.left and any(np.asarray(info.d).any() for info in infos):
        _LOG.warning(
            "%s: %s is not named as rectified and its camera_info has distortion: images that are not rectified give "
            "wrong depth; rectify them first", bag.path, topics.left,
        )  # fmt: skip
    return rig


def _places(bag: BagStorage, topics: BagTopics) -> dict[str, dict[int, _Place]]:
    """Where the images lie, by topic and stamp."""
    found: dict[str, dict[int, _Place]] = {topics.left: {}, topics.right: {}}
    for topic, recorded, data in bag.scan(topics[:2]):
        stamp = _stamp(data)
        if stamp is not None:
            found[topic].setdefault(stamp, _Place(topic, recorded, stamp))
    return found


def _stamp(data: bytes) -> int | None:
    """The header's stamp in ns, which all these messages begin with, without decoding the rest; None: too short.

    CDR (DDS-RTPS 10.5): four bytes, of which the second tells the byte order; then int32 s, uint32 ns.
    """
    if len(data) < 12:
        return None
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = np.frombuffer(data, np.dtype(f"{order}i4, {order}u4"), 1, offset=4)[0]
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _check_encoding(bag: BagStorage, place: _Place) -> None:
    """Raises FileError where the first image of a topic is none that a camera sends, before any work is done."""
    if bag.topics[place.topic] == IMAGE:
        where = f"{bag.path}, {place.topic}"
        message = _decoded(next(bag.at(place.topic, place.recorded)), IMAGE, where)
        try:
            image_to_array(message, where)
        except MessageError as error:
            if error.reason == "unknown encoding":  # a damaged image is that one pair's
                raise FileError(str(error)) from error


def _matched(
    path: str | Path, topics: BagTopics, left: list[int], right: list[int], slop: float
) -> list[tuple[int, int]]:
    """Stamps of pairs: each is the other's nearest, and they differ by no more than ``slop`` s."""
    a, b = np.array(left, np.int64), np.array(right, np.int64)
    to_right, to_left = b[_nearest(b, a)], a[_nearest(a, b)]
    mutual = to_left[_nearest(b, a)] == a
    near = np.abs(to_right - a) <= round(slop * 1e9)
    pairs = [(int(x), int(y)) for x, y in zip(a[mutual & near], to_right[mutual & near], strict=True)]
    if not pairs:
        gap = int(np.abs(to_right - a).min()) / 1e9
        raise FileError(
            f"{path}: no pairs: {len(left)} stamps of {topics.left} and {len(right)} of {topics.right}, the nearest "
            f"{gap:g} s apart, and the slop is {slop:g} s; "
            + ("the cameras are not of one recording" if gap > 1 else f"give a slop of at least {gap:g} s")
        )
    lost = len(left) + len(right) - 2 * len(pairs)
    if lost:
        _LOG.warning("%s: %d pairs; %d images have no partner within %g s", path, len(pairs), lost, slop)
    return pairs


def _nearest(stamps: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of the stamp (sorted) nearest to each wanted one."""
    after = np.clip(np.searchsorted(stamps, wanted), 1, max(len(stamps) - 1, 1)).clip(max=len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(stamps[before] - wanted) <= np.abs(stamps[after] - wanted), before, after)


def _decoded(data: bytes, kind: str, where: str) -> Any:
    try:
        return message_types().deserialize_cdr(data, kind)
    except Exception as error:  # damaged data breaks a parser in any way
        raise FileError(f"{where}: {len(data)} bytes are no whole {kind} ({error}); the bag is damaged") from error
