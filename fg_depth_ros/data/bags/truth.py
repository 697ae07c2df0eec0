"""True depth of the left images in a bag: from depth images, or from a LiDAR whose place at the camera is known."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fg_depth_ros.data.bags.messages import Place, message_at, nearest, places, topic_named
from fg_depth_ros.data.bags.storage import COMPRESSED, DISPARITY, IMAGE, BagStorage, message_types
from fg_depth_ros.data.io.compressed_depth import SUFFIX
from fg_depth_ros.data.io.messages import MessageError, depth_to_array
from fg_depth_ros.data.io.transforms import Transform, chain, read_transforms
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import StereoRig, nearest_depth
from fg_depth_ros.geometry.rectification import Rectification, is_named_rectified

CLOUD = "sensor_msgs/msg/PointCloud2"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"
CAMERA_FRAMES = ("auto", "raw", "rectified")
OFF = "none"
"""Given as a topic: do not look for one."""
# The last components of topics of true depth, the first kind that is there.
_TRUE_DEPTH = {
    IMAGE: ["ground_truth", "depth"],
    COMPRESSED: ["ground_truth", "depth", SUFFIX.removeprefix("/")],
    DISPARITY: ["ground_truth", "disparity"],
}
# How drivers of LiDARs name their clouds; other clouds may be made of the very depth that is to be evaluated.
_LIDARS = {"lidar", "velodyne", "velo", "ouster", "livox", "hesai", "pandar", "robosense", "rslidar"}
_TURNED = 1.0  # px by which R moves the centre of an image, above which it matters whose frame a transform is of
_SMALLEST_DISPARITY = 0.1  # px; at less, depth says nothing
_FLOATS = {7: "f4", 8: "f8"}  # sensor_msgs/PointField

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TruthOptions:
    """Sources of a bag's true depth. An empty topic is found by name and type; ``none`` disables it."""

    depth_topic: str = ""
    """Depth images at the left camera (32FC1 m or 16UC1 mm, raw or compressedDepth), or DisparityImages of it; found:
    ``ground_truth/depth``, or with ``/compressedDepth`` after it, or ``ground_truth/disparity``. They take
    precedence over LiDAR."""
    lidar_topic: str = ""
    """PointCloud2; found: the one whose name has a LiDAR in it, where the way to the camera is known."""
    transforms: str = ""
    """YAML file with the pose of the LiDAR; it takes precedence over the bag's /tf_static."""
    lidar_slop: float = 0.05
    """Largest difference between the stamps of a sweep and of an image, s. Motion in between is not compensated."""
    camera_frame: str = "auto"
    """Whose frame true depth and a LiDAR's pose are of: the ``raw`` camera, from which R of its camera_info leads to
    the rectified one, or that of ``rectified`` images; ``auto``: raw where the images are (depth images: and where
    their topic is not named rectified, and their frame_id and size are those of the images). Disparity is always of
    rectified images."""


@dataclass(frozen=True)
class DepthImage:
    """Reads one depth image of a bag."""

    bag: BagStorage = field(repr=False)
    place: Place
    rig: StereoRig = field(repr=False)
    raw: Rectification | None = field(default=None, repr=False)
    """Rectifies depth of the raw left camera; None: it is of the rectified one."""
    kind = "true depth"

    def __call__(self) -> np.ndarray:
        """Read depth, H x W float32 m, NaN unknown. Raises FileError: damaged, no depth image, or of another size."""
        where = self.place.describe(self.bag)
        try:
            depth = depth_to_array(message_at(self.bag, self.place), where)
        except MessageError as error:
            raise FileError(str(error)) from error
        width, height = (self.rig.width, self.rig.height) if self.raw is None else self.raw.size
        if depth.shape != (height, width):
            raise FileError(
                f"{where}: true depth is {depth.shape[1]}x{depth.shape[0]} pixels and the left camera "
                f"{width}x{height}: it must be that camera's"
            )
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))
        return depth if self.raw is None else self.raw.apply_to_depth(depth)


@dataclass(frozen=True)
class LidarSweep:
    """Reads one sweep of a bag as depth of the left camera. ``to_camera``: 4 x 4, the LiDAR's frame to the camera's."""

    bag: BagStorage = field(repr=False)
    place: Place
    rig: StereoRig = field(repr=False)
    to_camera: np.ndarray = field(repr=False)
    kind = "LiDAR"

    def __call__(self) -> np.ndarray:
        """Read depth H x W float32 m, NaN where no point falls. Raises FileError: damaged, no x, y, z."""
        points = cloud_points(message_at(self.bag, self.place), self.place.describe(self.bag))
        return project(points, self.to_camera, self.rig)


DepthReader = DepthImage | LidarSweep


def project(points: np.ndarray, to_camera: np.ndarray, rig: StereoRig) -> np.ndarray:
    """Project points into the left camera of a rig: H x W float32 m along the optical axis, NaN where none falls.

    A point counts for the pixel whose centre is nearest; of several in one pixel the nearest counts. What a near
    surface hides from the camera but not from the LiDAR shines through between its points. ``points``: N x 3 m; rows
    that are not finite are left out. ``to_camera``: 4 x 4, takes them into the camera's optical frame (x right, y down,
    z forward).
    """
    points = points[np.isfinite(points).all(axis=1)].astype(np.float64)
    seen = points @ to_camera[:3, :3].T + to_camera[:3, 3]
    seen = seen[seen[:, 2] > 0]
    columns, rows = (
        focal * seen[:, axis] / seen[:, 2] + centre
        for axis, focal, centre in ((0, rig.fx, rig.cx), (1, rig.fy, rig.cy))
    )
    return nearest_depth(np.column_stack([columns, rows]), seen[:, 2], rig.width, rig.height)


def cloud_points(message: Any, where: str) -> np.ndarray:
    """Read x, y, z of a PointCloud2: N x 3 float64 m. Raises FileError, naming ``where``: missing or damaged."""
    fields = {each.name: each for each in message.fields}
    missing = [name for name in "xyz" if name not in fields or fields[name].datatype not in _FLOATS]
    if missing:
        raise FileError(
            f"{where}: no floating point field {', '.join(missing)} (there are {', '.join(fields) or 'none'}); name a "
            "topic with points in metres"
        )
    height, width = int(message.height), int(message.width)
    step, row = int(message.point_step), int(message.row_step)
    ends = [fields[name].offset + np.dtype(_FLOATS[fields[name].datatype]).itemsize for name in "xyz"]
    if row < width * step or len(message.data) < height * row or max(ends) > step:
        raise FileError(
            f"{where}: {len(message.data)} bytes do not hold {height} rows of {row} bytes with {width} points of "
            f"{step}; the bag is damaged, or its recorder is"
        )
    if not height * width:
        return np.zeros((0, 3))
    order, data = ">" if message.is_bigendian else "<", np.ascontiguousarray(message.data)
    columns = [
        np.ndarray((height, width), order + _FLOATS[fields[n].datatype], data, fields[n].offset, (row, step))
        for n in "xyz"
    ]
    return np.stack(columns, axis=-1).reshape(-1, 3).astype(np.float64)


def find_truth(
    bag: BagStorage, rig: StereoRig, left: Sequence[Place], options: TruthOptions, slop: float = 0.0,
    *, raw: bool = False, rotation: np.ndarray | None = None, raw_camera: Rectification | None = None,
) -> dict[int, DepthReader]:  # fmt: skip
    """Make readers of true depth by the stamp (ns) of the left image, for those that have any.

    ``left``: where the left images lie, at least one. ``slop``: largest difference between the stamps of a depth image
    and of the left image, s. ``raw``: the bag's left images are those of the raw camera; ``rotation``: R of that camera
    (3 x 3), from its frame to the rectified one; ``raw_camera``: its rectification, where it is known.

    Raises FileError: a topic given that is not there or has no message near a left image, no way from a LiDAR given to
    the camera, a file of transforms that cannot be read, or depth of a raw camera that is not known.
    """
    if options.camera_frame not in CAMERA_FRAMES:
        raise FileError(f"camera_frame is '{options.camera_frame}': choose one of {', '.join(CAMERA_FRAMES)}")
    stamps = np.array(sorted(place.stamp for place in left), np.int64)
    clouds = [topic for topic, kind in bag.topics.items() if kind == CLOUD]
    topic = _topic(bag, options.depth_topic, tuple(_TRUE_DEPTH), true_depth_topics(bag.topics))
    if topic:
        found = places(bag, [topic])[topic]
        near = _beside(bag, topic, stamps, found, slop, "slop", given=bool(options.depth_topic))
        if near:
            camera = _camera_of_depth(bag, list(near.values()), left[0], options.camera_frame, raw, raw_camera)
            readers = {stamp: DepthImage(bag, place, rig, camera) for stamp, place in near.items()}
            _check_unit(list(readers.values()), topic)
            return dict(readers)
    lidars = [topic for topic in clouds if _words(topic) & _LIDARS]
    topic = _topic(bag, options.lidar_topic, (CLOUD,), lidars)
    if not topic and options.transforms and options.lidar_topic != OFF:
        _LOG.warning("%s: no LiDAR known by its name, so %s is not used (PointCloud2: %s): name its topic",
                     bag.path, options.transforms, ", ".join(sorted(clouds)) or "none")  # fmt: skip
    sweeps = places(bag, [topic])[topic] if topic else {}
    given = bool(topic and options.lidar_topic)
    near = _beside(bag, topic, stamps, sweeps, options.lidar_slop, "lidar_slop", given=given)
    if not near:
        return {}
    try:
        matrix = _to_camera(bag, left[0], sweeps[min(sweeps)], options.transforms)
    except FileError as error:
        if options.lidar_topic or options.transforms:
            raise
        _LOG.warning("%s is not used: %s", topic, error)
        return {}
    matrix = _turned(matrix, rotation, raw, rig, options.camera_frame, f"{bag.path}, {topic}")
    return {stamp: LidarSweep(bag, place, rig, matrix) for stamp, place in near.items()}


def _words(topic: str) -> set[str]:
    """Return the words of a topic, in lower case: what ``/``, ``_``, digits or capitals part."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", topic)}


def _turned(
    matrix: np.ndarray, rotation: np.ndarray | None, raw: bool, rig: StereoRig, frame: str, where: str
) -> np.ndarray:
    """Return the transform from the LiDAR to rectified images, of one (4 x 4) to the frame of the left image."""
    if rotation is None:
        return matrix
    if frame == "raw" or (frame == "auto" and raw):
        to_rectified = np.eye(4)
        to_rectified[:3, :3] = rotation
        return to_rectified @ matrix
    axis = rotation[:, 2]  # where the raw camera's axis points, in the rectified frame
    moved = rig.fx * float(np.hypot(*axis[:2])) / max(float(axis[2]), 1e-6)
    if frame == "auto" and moved > _TURNED:
        _LOG.warning(
            "%s: the transform is taken to be that of the rectified images; where it is that of the camera itself, its "
            "R moves points by %.1f px: give --camera-frame raw, or rectified where this is right", where, moved,
        )  # fmt: skip
    return matrix


def _camera_of_depth(
    bag: BagStorage, depths: Sequence[Place], left: Place, frame: str, raw: bool, camera: Rectification | None
) -> Rectification | None:
    """Return what rectifies depth images of one topic; None: they are of the rectified images.

    ``camera``: the raw left camera, where it is known; ``raw``: the left images are as it took them. Raises FileError:
    depth of a raw camera that is not known.
    """
    topic = depths[0].topic
    if frame == "rectified" or bag.topics[topic] == DISPARITY:
        return None
    if frame == "raw":
        if camera is None:
            raise FileError(
                f"{bag.path}, {topic}: camera_frame is 'raw', and no camera_info in use says how the raw left camera "
                "is rectified (K, D, R and P): record it with the images, or give depth of the rectified ones"
            )
        return camera
    if not raw or camera is None or is_named_rectified(topic):
        return None
    for place in depths:
        try:
            message = message_at(bag, place)
            height, width = depth_to_array(message, topic).shape
            own, images = _frame_id(message), _frame_id(message_at(bag, left))
        except (FileError, MessageError):  # reported when it is read
            continue
        different = None
        if (width, height) != camera.size:
            different = f"is {width}x{height} pixels, and the raw left images {camera.size[0]}x{camera.size[1]}"
        elif own and images and own != images:
            different = f"has the frame '{own}', and the raw left images '{images}'"
        if different is None:
            _LOG.info("%s, %s: is taken as depth of the raw left camera and rectified like it", bag.path, topic)
            return camera
        _LOG.warning(
            "%s, %s: %s, so it is taken to be of the rectified images: give --camera-frame raw, or rectified where "
            "this is right", bag.path, topic, different,
        )  # fmt: skip
        return None
    return None


def _check_unit(images: Sequence[DepthImage], topic: str) -> None:
    """Warn of depth that no stereo camera could see, by the first image: mostly millimetres as floating point."""
    for image in images[:1]:
        with suppress(FileError):  # reported when it is read
            depth, farthest = image(), image.rig.fx * image.rig.baseline / _SMALLEST_DISPARITY
            if np.isfinite(depth).any() and (median := float(np.nanmedian(depth))) > farthest:
                _LOG.warning(
                    "%s, %s: the median depth is %g m, farther than this rig can see (%g m): floating point depth is "
                    "in metres (REP 118), is it in millimetres?", image.bag.path, topic, median, farthest,
                )  # fmt: skip


def _beside(
    bag: BagStorage, topic: str, stamps: np.ndarray, found: Mapping[int, Place], slop: float, option: str, *,
    given: bool,
) -> dict[int, Place]:  # fmt: skip
    """Find the place nearest to each stamp, where it is no farther than ``slop`` s, which is called ``option``.

    Where there is none: raises FileError for a topic that was given, and warns of messages in one that was found.
    """
    if not found:
        if given:
            raise FileError(f"{bag.path}: {topic} holds no message with a stamp; name another topic, or none")
        return {}
    there = np.array(sorted(found), np.int64)
    chosen = there[nearest(there, stamps)]
    apart = np.abs(chosen - stamps)
    close = apart <= round(slop * 1e9)
    if not close.any():
        gap = int(apart.min()) / 1e9
        way_out = f"give a {option} of at least {gap:g} s" if gap <= 1 else "they are not of one recording"
        text = (
            f"{bag.path}: no message of {topic} is true depth of a left image: the nearest is {gap:g} s away, and the "
            f"{option} is {slop:g} s; {way_out}"
        )
        if given:
            raise FileError(text)
        _LOG.warning("%s", text)
    return {int(a): found[int(b)] for a, b in zip(stamps[close], chosen[close], strict=True)}


def _to_camera(bag: BagStorage, left: Place, sweep: Place, file: str) -> np.ndarray:
    camera, lidar = (_frame_id(message_at(bag, place)) for place in (left, sweep))
    for frame, place in ((camera, left), (lidar, sweep)):
        if not frame:
            raise FileError(f"{bag.path}, {place.topic}: its messages name no frame_id, so no transform can be found")
    transforms = bag_transforms(bag)
    if file:
        transforms += read_transforms(file)  # later ones go before earlier ones
    return chain(transforms, camera, lidar, f"{bag.path}, {sweep.topic}" + (f" with {file}" if file else ""))


def bag_transforms(bag: BagStorage) -> list[Transform]:
    """Read a bag's /tf_static; of a transform sent again, the last. Raises FileError: damaged, or no transform."""
    topics = [name for name, kind in bag.topics.items() if kind == TF_MESSAGE and name.split("/")[-1] == "tf_static"]
    found: dict[tuple[str, str], Transform] = {}
    for message in bag.scan(topics) if topics else []:
        where = f"{bag.path}, {message.topic}"
        try:
            sent = message_types().deserialize_cdr(message.data, TF_MESSAGE).transforms
        except Exception as error:  # damaged data breaks a parser in any way
            raise FileError(f"{where}: no whole {TF_MESSAGE} ({error}); give the transforms in a file") from error
        for each in sent:
            one = Transform.from_message(each, where)
            found[one.parent, one.child] = one
    return list(found.values())


def _frame_id(message: Any) -> str:
    return str(getattr(message, "header", message).frame_id)  # foxglove's messages have no header


def true_depth_topics(topics: Mapping[str, str]) -> list[str]:
    """Return the topics of true depth among a bag's (type by topic), by their names: raw ones if any."""
    found = (
        [topic for topic, other in topics.items() if other == kind and topic.split("/")[-len(end) :] == end]
        for kind, end in _TRUE_DEPTH.items()
    )
    return next(filter(None, found), [])


def _topic(bag: BagStorage, name: str, kinds: tuple[str, ...], found: Sequence[str]) -> str:
    """Return the topic that was given, or the one that was found; "" if there is none."""
    if name == OFF:
        return ""
    if name:
        return topic_named(bag.topics, name, kinds, str(bag.path))
    if kinds == (CLOUD,) and len(found) > 1:
        _LOG.warning("%s: %s could be true depth: name one of them to use it", bag.path, " and ".join(sorted(found)))
    return found[0] if len(found) == 1 else ""
