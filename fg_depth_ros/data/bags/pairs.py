"""Stereo pairs from bags, without ROS."""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fg_depth_ros.data.bags.messages import Place, decoded, message_at, moment, nearest, topic_named
from fg_depth_ros.data.bags.storage import IMAGE, IMAGES, INFO, BagStorage, Unread
from fg_depth_ros.data.bags.truth import TruthOptions, find_truth
from fg_depth_ros.data.bags.video import VideoTopic
from fg_depth_ros.data.io.calibration import is_named_grey, open_calibration
from fg_depth_ros.data.io.formats import MONO16_WHITE, scaled_to_uint8, white_level
from fg_depth_ros.data.io.messages import MessageError, MessageFault, image_to_array
from fg_depth_ros.data.io.video_packets import split_transport
from fg_depth_ros.data.samples import StereoSample, sampled_white_level
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import RigError, StereoRig, camera_info_doubts
from fg_depth_ros.geometry.rectification import RECTIFY, Rectification, is_named_rectified, raw_sides
from fg_depth_ros.geometry.rig import camera_info_numbers, is_rotation

_LOG = logging.getLogger(__name__)
# Whole components in which the topics of two cameras differ: ours and most drivers', RealSense's, EuRoC's and OAK's,
# KITTI's.
_SIDES = (
    ("left", "right"), ("infra1", "infra2"), ("infra_1", "infra_2"), ("cam0", "cam1"), ("cam_0", "cam_1"),
    ("camera0", "camera1"), ("camera_0", "camera_1"), ("left_camera", "right_camera"), ("camera_left", "camera_right"),
    ("left_cam", "right_cam"), ("cam_left", "cam_right"), ("left_image", "right_image"),
    ("left_image_rect", "right_image_rect"), ("camera_color_left", "camera_color_right"),
    ("camera_gray_left", "camera_gray_right"), ("image_02", "image_03"), ("image_00", "image_01"),
)  # fmt: skip
_ALIKE = 1e-6  # calibrations that differ by less, relatively, are one
_STAMP_END = 12  # bytes of a message before its frame_id
_APART = 10**9  # ns; two images that were recorded farther apart are of two moments, where the stamps jumped back
_NAME_THEM = "name the left and the right topic (--left and --right; infer takes them as arguments)"
_NO_CAMERA = {"depth", "compresseddepth", "disparity", "mask", "flow", "theora"}


class BagTopics(NamedTuple):
    """The topics of a pair."""

    left: str
    right: str
    left_info: str
    right_info: str


@dataclass(frozen=True)
class BagImage:
    """Reads one image of a bag."""

    bag: BagStorage = field(repr=False)
    place: Place
    rectification: Rectification = field(repr=False)
    side: int
    white: int = MONO16_WHITE  # of 16-bit grey
    video: VideoTopic | None = field(default=None, repr=False)

    def __call__(self) -> np.ndarray:
        """Read the pixels as the node has them, rectified, uint8. Raises FileError: gone, damaged, of another size."""
        where = self.place.describe(self.bag)
        try:
            if self.video is not None:
                pixels = self.video.read(self.place)
            else:
                pixels = image_to_array(message_at(self.bag, self.place), where, mono16_white=None)
        except MessageError as error:
            raise FileError(str(error)) from error
        if (level := white_level(pixels)) > self.white:
            text = "%s: values need %d bits, but the bag's images seemed to have %d: what is brighter is clipped"
            _LOG.warning(text, where, level.bit_length(), self.white.bit_length())
        pixels = scaled_to_uint8(pixels, self.white)
        height, width = pixels.shape[:2]
        if (width, height) != self.rectification.size:
            raise FileError(
                f"{where}: the image is {width}x{height} pixels and the calibration for {self.rectification.size[0]}x"
                f"{self.rectification.size[1]}; use the camera_info of these images"
            )
        pixels = self.rectification.apply(pixels, self.side)
        return np.require(pixels, requirements=["C", "W"])  # a message's bytes are not writable, as torch wants them


@dataclass(frozen=True)
class StereoBag:
    """The rectified pairs of a bag, and what one pass over its messages found."""

    samples: list[StereoSample]
    """Pairs in the order of their stamps; at least one."""
    images: tuple[int, int]
    """Left and right images with different stamps."""
    repeated: int
    """Images whose stamp an earlier one of their topic has, as from a source that loops."""
    encodings: tuple[str, str]
    """Encodings of the first left and right image (format of compressed ones)."""
    calibration_changes: int
    """Number of camera_infos that differ from the one before; 0 if the rig was given."""
    changed_at: str
    """Time recorded and topic of the first change."""
    jumps: int = 0
    """Number of times the stamps of a camera's images go back in the order they were recorded."""
    largest_jump: float = 0.0
    """Largest step back of the stamps, s."""
    unread: Unread = field(default_factory=Unread)
    """What of the bag could not be read: messages of the topics of the pair and of true depth, and bytes."""

    @property
    def unpaired(self) -> tuple[int, int]:
        """Left and right images without a partner."""
        left, right = self.images
        return left - len(self.samples), right - len(self.samples)


def open_bag_pairs(path: str | Path, *args: Any, **options: Any) -> list[StereoSample]:
    """Open the pairs of a bag, rectified, in the order of their stamps; arguments and errors as ``open_stereo_bag``.

    A calibration that changes within the bag is a warning: all pairs have the first one.
    """
    bag = open_stereo_bag(path, *args, **options)
    if bag.calibration_changes:
        _LOG.warning(
            "%s: the calibration changes within the bag (%d times, first at %s), and all pairs are read with the first "
            "one, so later depth is wrong: cut the recording there, or give the calibration",
            path, bag.calibration_changes, bag.changed_at,
        )  # fmt: skip
    return bag.samples


def open_stereo_bag(
    path: str | Path, left: str = "", right: str = "", slop: float = 0.0, *, left_info: str = "", right_info: str = "",
    rig: StereoRig | None = None, truth: TruthOptions | None = None, calibration: Path | None = None,
    rectify: str = "auto", stamps: str = "header",
) -> StereoBag:  # fmt: skip
    """Open the pairs of a bag in one pass over the messages of its cameras; raw ones are rectified when they are read.

    Pixels are read later, pair by pair. Of two messages with one stamp (a looping source) the first counts. What is
    whole of a cut-off or damaged MCAP file is used.

    Args:
        path: the bag's folder, or one ``.mcap``, ``.db3`` or (ROS 1) ``.bag`` file.
        left, right: image topics, raw, compressed or video; empty = found by name and type.
        slop: largest difference of the two stamps, s. Pairs are mutual nearest neighbours; 0 = equal stamps.
        left_info, right_info: camera_info topics; empty = next to the images.
        rig: of rectified images, to use instead of the bag's calibration.
        truth: where true depth is looked for; default: what ``TruthOptions`` finds by itself.
        calibration: file to use instead of the bag's camera_infos.
        rectify: whether images are rectified by them, as stereo_depth_node's parameter (``raw_sides``), and by the file
            (``open_calibration``).
        stamps: ``recorded``: pairs are matched by when they were recorded, for drivers that leave the stamps at 0.

    Raises FileError, saying what to do: no bag, topics or calibration of a rectified pair; no pair; as ``find_truth``.
    """
    bag = BagStorage(path, stamps)
    topics = find_topics(bag.topics, left, right, left_info, right_info, where=str(path))
    found = _Messages(bag, topics, with_infos=rig is None and calibration is None)
    rectification = _given(rig, calibration, topics, rectify) or _by_camera_infos(bag, topics, found.infos, rectify)
    rig = rectification.rig
    lefts, rights = (found.images[topic] for topic in topics[:2])
    for topic, messages in found.images.items():
        if not messages and topic in found.unstamped:
            raise FileError(
                f"{path}: the messages of {topic} have no stamp (it is 0), and nothing tells which belong together: "
                "let the driver fill header.stamp, and record again; or pair them by when they were recorded "
                "(--stamps recorded, with a --slop)"
            )
        if not messages and topic in found.videos:
            raise FileError(f"{path}: {topic} is video without a key frame that can be used; record it again")
        if not messages:
            raise FileError(f"{path}: {topic} holds no message; record both cameras, or name the topics")
    matched = _matched(path, topics, lefts, rights, slop, apart=_APART if found.jumps else None)
    encodings = found.encodings.get(topics.left, ""), found.encodings.get(topics.right, "")
    sides = [lefts[a] for a, _ in matched], [rights[b] for _, b in matched]
    white = _white_level(bag, [side for side in sides if side[0].topic not in found.videos])
    depth = find_truth(
        bag, rig, [lefts[a] for a, _ in matched], truth or TruthOptions(), slop, raw=rectification.sides[0],
        rotation=_rotation(rectification, found.infos.get(topics.left_info)),
        raw_camera=_raw_camera(rectification, *(found.infos.get(name) for name in topics[2:])),
    )  # fmt: skip
    videos = [found.videos.get(topic) for topic in topics[:2]]
    samples = [
        StereoSample(
            str(a), BagImage(bag, lefts[a], rectification, 0, white, videos[0]),
            BagImage(bag, rights[b], rectification, 1, white, videos[1]),
            rig, depth=depth.get(a), stamp=a, stamp_difference=(b - a) / 1e9,
        )
        for a, b in matched
    ]  # fmt: skip
    return StereoBag(
        samples, (len(lefts), len(rights)), found.repeated, encodings, found.calibration_changes, found.changed_at,
        max(found.jumps.values(), default=0), found.largest_jump / 1e9, bag.unread,
    )  # fmt: skip


class _Messages:
    """One pass over the messages of two cameras: stamps and encodings of images, first camera_infos and changes."""

    def __init__(self, bag: BagStorage, topics: BagTopics, with_infos: bool) -> None:
        self.images: dict[str, dict[int, Place]] = {topics.left: {}, topics.right: {}}
        self.unstamped: set[str] = set()  # image topics with messages whose stamp is 0, which is none
        self.encodings: dict[str, str] = {}
        self.videos: dict[str, VideoTopic] = {}
        self.infos: dict[str, Any] = {}
        self.repeated, self.calibration_changes, self.changed_at = 0, 0, ""
        self.jumps: Counter[str] = Counter()  # back, by image topic
        self.largest_jump = 0  # ns
        self._latest: dict[str, int] = {}
        last: dict[str, tuple[bytes, np.ndarray]] = {}
        infos = [name for name in topics[2:] if name] if with_infos else []
        for topic, recorded, data in bag.scan([*self.images, *infos]):
            if topic in self.images:
                self._image(bag, topic, recorded, data)
            elif topic not in last or last[topic][0] != data[_STAMP_END:]:
                try:
                    info = decoded(data, INFO, f"{bag.path}, {topic}")
                except FileError:
                    if topic not in last:  # there is none to use instead
                        raise
                    continue
                roi = info.roi
                size = [info.width, info.height, info.binning_x, info.binning_y]
                size += [roi.x_offset, roi.y_offset, roi.width, roi.height]
                camera = np.concatenate([size, info.k, info.d, info.r, info.p])
                before = last[topic][1] if topic in last else camera
                if before.shape != camera.shape or not np.allclose(before, camera, rtol=_ALIKE, atol=1e-9):
                    self.calibration_changes += 1
                    self.changed_at = self.changed_at or f"{recorded} ns ({topic})"
                last[topic] = data[_STAMP_END:], camera
                self.infos.setdefault(topic, info)
        for topic, video in self.videos.items():
            usable, left_out = video.usable()
            images, kept = self.images[topic], set(usable)
            self.images[topic] = {stamp: place for stamp, place in images.items() if place in kept}
            if left_out:
                _LOG.warning(
                    "%s, %s: of %d images %d can be decoded (%s)", bag.path, topic, len(images),
                    len(self.images[topic]), left_out,
                )  # fmt: skip

    def _image(self, bag: BagStorage, topic: str, recorded: int, data: bytes) -> None:
        stamp = moment(bag, recorded, data)
        if stamp is None:
            return
        if stamp == 0 and bag.stamps == "header":
            if topic not in self.unstamped:
                _LOG.warning("%s, %s: images without a stamp (it is 0) are left out", bag.path, topic)
            self.unstamped.add(topic)
            return
        if (back := self._latest.get(topic, stamp) - stamp) > 0:
            self.jumps[topic] += 1
            self.largest_jump = max(self.largest_jump, back)
        self._latest[topic] = stamp
        self.repeated += stamp in self.images[topic]
        place = Place(topic, recorded, stamp)
        self.images[topic].setdefault(stamp, place)
        if topic not in self.encodings:
            self._first(bag, topic, data)
        if topic in self.videos:
            try:
                message = decoded(data, bag.topics[topic], place.describe(bag))
            except FileError:  # as one that is lost
                return
            self.videos[topic].add(place, message)

    def _first(self, bag: BagStorage, topic: str, data: bytes) -> None:
        """Look at the first image of a topic. Raises FileError: nothing of its kind can be read."""
        where, raw = f"{bag.path}, {topic}", bag.topics[topic] == IMAGE
        try:
            message = decoded(data, bag.topics[topic], where)
        except FileError:  # a damaged image is that one pair's
            return
        self.encodings[topic] = message.encoding if hasattr(message, "encoding") else message.format
        if raw:
            try:
                image_to_array(message, where)
            except MessageError as error:
                # Before any work is done; a damaged image is that one pair's.
                if error.reason == MessageFault.UNKNOWN_ENCODING:
                    raise FileError(str(error)) from error
        elif (video := VideoTopic.of(bag, message, where)) is not None:
            self.videos[topic] = video


def find_topics(
    topics: Mapping[str, str], left: str = "", right: str = "", left_info: str = "", right_info: str = "",
    *, where: str = "bag",
) -> BagTopics:  # fmt: skip
    """Find the topics of a pair among a bag's, by their types and names; those given are taken as they are.

    Rectified images come before others, raw ones before compressed ones, and these before video. A camera_info that is
    neither given nor next to its images comes out empty. Raises FileError: no pair, several that are equally good, or a
    topic given that is not there.
    """
    images = [name for name, kind in topics.items() if kind in IMAGES]
    wanted = [(left, IMAGES), (right, IMAGES), (left_info, (INFO,)), (right_info, (INFO,))]
    left, right, *given = (name and topic_named(topics, name, kinds, where) for name, kinds in wanted)
    for name in (left, right):
        if name.lower().endswith("/compresseddepth"):
            raise FileError(f"{where}: {name} is compressed depth, no image of a camera; {_NAME_THEM}")
    if not (left and right):
        pairs = [(a, b) for a, b in _sides(images) if left in ("", a) and right in ("", b)]
        ranks = {pair: (not is_named_rectified(pair[0]), IMAGES.index(topics[pair[0]])) for pair in pairs}
        best = sorted(pair for pair in pairs if ranks[pair] == min(ranks.values()))
        if len(best) != 1:
            problem = (
                f"no pair of image topics can be identified by name (images: {', '.join(sorted(images)) or 'none'})"
            )
            if best:
                several = ", ".join(f"{a} with {b}" for a, b in best)
                problem = f"several pairs of image topics fit: {several}"
            raise FileError(f"{where}: {problem}; {_NAME_THEM}")
        left, right = best[0]
    beside = _infos(topics, left, right)
    infos = [name or found for name, found in zip(given, beside, strict=True)]
    return BagTopics(left, right, *infos)


def _sides(images: Sequence[str]) -> list[tuple[str, str]]:
    """Return (left, right) among topic names that differ only in the component for the side, the last one of them."""
    pairs: dict[tuple[str, str], None] = {}
    for name in images:
        parts = name.split("/")
        for left, right in _SIDES:
            if left not in parts:
                continue
            last = len(parts) - 1 - parts[::-1].index(left)
            # What lies above the camera may have any name; the camera's own images say what they show.
            shown = {word for part in parts[last:] for word in part.lower().split("_")}
            partner = "/".join([*parts[:last], right, *parts[last + 1 :]])
            if partner in images and not _NO_CAMERA & {*shown, *parts[:last]}:
                pairs[name, partner] = None
    return list(pairs)


def _info_beside(image: str) -> str:
    """Return the camera_info topic that image_transport gives an image topic."""
    return split_transport(image)[0].rpartition("/")[0] + "/camera_info"


def _infos(topics: Mapping[str, str], left: str, right: str) -> tuple[str, str]:
    """Find the camera_infos of two image topics; "" if there is none, or where several fit.

    Next to the images; else where the names differ as the images' do, in the same component and below the same others:
    ``/rig/left/camera_info`` or ``/rig/left_info`` of ``/rig/left``.
    """
    beside = _info_beside(left), _info_beside(right)
    if beside[0] != beside[1] and all(topics.get(name) == INFO for name in beside):
        return beside
    lefts, rights = left.split("/"), right.split("/")
    places = [k for k, (one, other) in enumerate(zip(lefts, rights, strict=False)) if one != other]
    if beside[0] == beside[1]:
        beside = "", ""
    alone = tuple(name if topics.get(name) == INFO else "" for name in beside)
    if len(lefts) != len(rights) or len(places) != 1:
        return alone[0], alone[1]
    (place,) = places
    words = [set(each[place].split("_")) for each in (lefts, rights)]
    swapped = words[0] - words[1], words[1] - words[0]
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for name in (name for name, kind in topics.items() if kind == INFO):
        parts = name.split("/")
        if parts[:place] != lefts[:place] or len(parts) <= place or len(swapped[0]) != 1 or len(swapped[1]) != 1:
            continue
        if _NO_CAMERA & {word for part in parts[place:] for word in part.lower().split("_")}:
            continue
        (one,), (other,) = swapped
        its = parts[place].split("_")
        partner = "/".join([*parts[:place], "_".join(other if w == one else w for w in its), *parts[place + 1 :]])
        if its.count(one) == 1 and topics.get(partner) == INFO:
            shared = next((k for k, (x, y) in enumerate(zip(parts, lefts, strict=False)) if x != y), len(lefts))
            found[name, partner] = -shared, len(parts)
    best = [pair for pair, rank in found.items() if rank == min(found.values())]
    return best[0] if len(best) == 1 else (alone[0], alone[1])


def _given(rig: StereoRig | None, calibration: Path | None, topics: BagTopics, rectify: str) -> Rectification | None:
    """Return what was given instead of camera_infos; None where nothing was."""
    if rig is not None:
        return Rectification.of_rectified(rig)
    if calibration is None:
        return None
    named, grey = is_named_rectified(topics.left), is_named_grey(topics.left)
    found = open_calibration(calibration, grey=grey, named=named, rectify=rectify)
    return found if isinstance(found, Rectification) else Rectification.of_rectified(found)


def _by_camera_infos(bag: BagStorage, topics: BagTopics, found: Mapping[str, Any], rectify: str) -> Rectification:
    for image, name in zip(topics[:2], topics[2:], strict=True):
        if name and name not in found:
            raise FileError(f"{bag.path}: {name} holds no message that can be read; record it with the images")
        if not name:
            known = [n for n, kind in bag.topics.items() if kind == INFO]
            raise FileError(
                f"{bag.path}: no camera_info for {image} (expected {_info_beside(image)}; the bag has "
                f"{', '.join(sorted(known)) or 'none'}): name the camera_info topics (--left-info, --right-info); "
                "if there are none, record them with the images, or give a file (--calib of infer, view and bag "
                "from-images, which writes a bag that has them)"
            )
    left, right = (found[name] for name in topics[2:])
    if rectify not in RECTIFY:
        raise FileError(f"rectify is '{rectify}': choose one of {', '.join(RECTIFY)}")
    raw = raw_sides(left, right, topics[:2], rectify)
    try:
        rectification, doubts = Rectification.from_camera_info(left, right, raw), camera_info_doubts(left, right, raw)
    except RigError as error:
        raise FileError(f"{bag.path}, {topics.left_info} and {topics.right_info}: {error}") from error
    for doubt in doubts:
        _LOG.warning("%s, %s and %s: %s", bag.path, topics.left_info, topics.right_info, doubt)
    if raw != raw_sides(left, right, ("", ""), rectify):
        text = "%s: the camera_infos are of raw images, but the names %s and %s say rectified: set rectify to on if not"
        _LOG.info(text, bag.path, topics.left, topics.right)
    if any(raw):
        _LOG.info("%s: %s is raw: its images are rectified when they are read", bag.path, topics.left)
    return rectification


def _rotation(rectification: Rectification, info: Any) -> np.ndarray | None:
    """Return R of the left camera, 3 x 3, also where its images are rectified already; None: it is not known."""
    if rectification.sides[0]:
        return rectification.rotations[0]
    r = None if info is None else camera_info_numbers(info, "r")
    return r.reshape(3, 3) if r is not None and r.size == 9 and is_rotation(r) else None


def _raw_camera(rectification: Rectification, left: Any, right: Any) -> Rectification | None:
    """Return what rectifies raw images of the left camera, also where its images are rectified already; or None."""
    if rectification.sides[0]:
        return rectification
    if left is not None and right is not None:
        with suppress(RigError):  # not needed for images that are rectified
            return Rectification.from_camera_info(left, right)
    return None


def _white_level(bag: BagStorage, sides: Sequence[Sequence[Place]]) -> int:
    """Return the white level of a bag's 16-bit images, by some of each side."""
    level = sampled_white_level(sides, lambda place: image_to_array(message_at(bag, place), mono16_white=None))
    if 0 < level < MONO16_WHITE:
        _LOG.info("%s: 16-bit grey images are taken to be of %d bits", bag.path, level.bit_length())
    return level or MONO16_WHITE


def _matched(
    path: str | Path, topics: BagTopics, lefts: Mapping[int, Place], rights: Mapping[int, Place], slop: float,
    apart: int | None,
) -> list[tuple[int, int]]:  # fmt: skip
    """Match the stamps of pairs: each is the other's nearest, and they differ by no more than ``slop`` s.

    ``apart``: largest time between the recording of both, ns, where stamps jumped back and may be of two moments.
    """
    a, b = (np.array(sorted(found), np.int64) for found in (lefts, rights))
    if apart is None:
        to_right, to_left = b[nearest(b, a)], a[nearest(a, b)]
        mutual = to_left[nearest(b, a)] == a
        near = np.abs(to_right - a) <= round(slop * 1e9)
        pairs = [(int(x), int(y)) for x, y in zip(a[mutual & near], to_right[mutual & near], strict=True)]
    else:
        to_right_, to_left_ = (
            dict(_nearest_recorded(one, other, round(slop * 1e9), apart))
            for one, other in ((lefts, rights), (rights, lefts))
        )
        pairs = [(x, y) for x, y in sorted(to_right_.items()) if to_left_.get(y) == x]
    if not pairs:
        gap = int(np.abs(b[nearest(b, a)] - a).min()) / 1e9
        raise FileError(
            f"{path}: no pairs: {len(a)} stamps of {topics.left} and {len(b)} of {topics.right}, the nearest "
            f"{gap:g} s apart, and the slop is {slop:g} s; "
            + ("the cameras are not of one recording" if gap > 1 else f"give a slop of at least {gap:g} s")
        )
    lost = len(a) + len(b) - 2 * len(pairs)
    if lost:
        counted = f"{len(pairs)} pair{'s' * (len(pairs) != 1)}"
        alone = "1 image has" if lost == 1 else f"{lost} images have"
        _LOG.warning("%s: %s; %s no partner within %g s: give a larger --slop", path, counted, alone, slop)
    return pairs


def _nearest_recorded(
    of: Mapping[int, Place], among: Mapping[int, Place], slop: int, apart: int
) -> Iterator[tuple[int, int]]:
    """Yield (stamp, nearest stamp ``among`` others) where stamps and times recorded are near enough, all in ns."""
    stamps = sorted(among)
    for stamp, place in of.items():
        first, last = bisect_left(stamps, stamp - slop), bisect_right(stamps, stamp + slop)
        near = [each for each in stamps[first:last] if abs(among[each].recorded - place.recorded) <= apart]
        if near:
            yield stamp, min(near, key=lambda each: abs(each - stamp))
