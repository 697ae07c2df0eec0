"""The topics that stereo_depth_node publishes; outputs without subscribers are not computed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header
from stereo_msgs.msg import DisparityImage

from fg_depth_ros.data.io.compressed_depth import SUFFIX
from fg_depth_ros.data.io.messages import (
    fill_compressed,
    fill_compressed_depth,
    fill_data,
    fill_depth,
    fill_image,
    stamp_ns,
)
from fg_depth_ros.geometry import StereoRig, organised_points
from fg_depth_ros.geometry.clouds import inside_box, voxel_means
from fg_depth_ros.geometry.depth_colour import colour_disparity
from fg_depth_ros.geometry.flow_colour import colour_flow
from fg_depth_ros.inference import FilledEstimate, SearchRange, StereoEstimate
from fg_depth_ros.inference.config import CLASSICAL_STEREO
from fg_depth_ros.nodes.common.codes import FaultCode, FaultSubject
from fg_depth_ros.nodes.common.diagnostics import WARN, Faults
from fg_depth_ros.nodes.common.frames import MAX_AGE, Frames, subscribe_frames
from fg_depth_ros.nodes.common.parameters import DeclaredParameters
from fg_depth_ros.nodes.common.qos import naming_overrides, overridable, publisher_events
from fg_depth_ros.nodes.common.synchronizing import StereoMessages
from fg_depth_ros.nodes.stereo_depth.parameters import CLOUD_EVERYWHERE

MONO_TOPIC = "mono_depth/image_rect"
CAMERA_INFO_TOPIC = "depth/camera_info"
"""The one output of a pair for which nothing is estimated."""
TEMPORAL_TOPICS: dict[str, type] = {"temporal_flow/image": Image, "temporal_flow/image_color": Image}

COMPRESSED_TOPICS = {
    topic: f"{topic}{SUFFIX if topic.endswith('image_rect') else '/compressed'}"
    for topic in (
        "depth/image_rect", MONO_TOPIC, "disparity/image_color", "mask/image", "mask/labels", "flow/image_color",
        "temporal_flow/image_color",
    )
}  # fmt: skip
"""Topics of the additional outputs of ``publish_compressed``, named as image_transport names them."""
_LOSSLESS = {"mask/image", "mask/labels"}  # JPEG would invent labels

# Outputs that change when holes are filled, and those without a right image.
FILLED_TOPICS = frozenset({"depth/image_rect", "mask/image", "mask/labels", "points2"})
LEFT_TOPICS = FILLED_TOPICS | {CAMERA_INFO_TOPIC, MONO_TOPIC}

# Block matching gives sixteenths of a pixel, a network what float32 resolves at large disparities.
_BLOCK_STEP = 1.0 / 16.0
_OWN_FRAME = np.array([1, 1, 1, 0] * 3, np.float64)  # factors of P
_SMALLEST_VOXEL = 0.001  # m
_REPEAT_SECONDS = 10.0  # between two log lines of one cause
_NETWORK_STEP = float(np.spacing(np.float32(128.0)))


class _Pair(NamedTuple):
    """What the messages of a pair are made of; ``left``: the left image, uint8, H x W or H x W x 3 RGB."""

    stereo: StereoEstimate
    filled: StereoEstimate | FilledEstimate  # of FILLED_TOPICS; the same as `stereo` where nothing is filled
    left: np.ndarray
    messages: StereoMessages
    header: Header


class StereoOutputs:
    """The publishers of a lifecycle node, and the messages made from estimates. Parameters are read at each pair.

    Raises ValueError: a publisher cannot be made.
    """

    def __init__(self, node: LifecycleNode, parameters: DeclaredParameters, faults: Faults) -> None:
        self._node, self._parameters, self._faults = node, parameters, faults
        self._frames, self._no_frames = Frames(), ""
        self._tf: list[Any] = []  # subscriptions
        if parameters["cloud_frame"]:
            try:
                self._tf = subscribe_frames(node, self._frames.add)
            except ValueError as error:
                self._no_frames = f"/tf: {error}"
        types = {name: output.type for name, output in TOPICS.items()} | {MONO_TOPIC: Image} | TEMPORAL_TOPICS
        topics = {name: (name, kind) for name, kind in types.items()}
        if parameters["publish_compressed"]:  # beside the raw ones, also where these are remapped
            topics |= {
                packed: (f"{node.resolve_topic_name(name)}{packed.removeprefix(name)}", CompressedImage)
                for name, packed in COMPRESSED_TOPICS.items()
            }
        self._publishers: dict[str, Any] = {}
        try:
            for name, (topic, kind) in topics.items():
                self._publishers[name] = self._publisher(topic, kind)
        except ValueError:
            self.destroy()
            raise

    def subscribed(self) -> set[str]:
        """Return the outputs that have subscribers, raw or compressed, by the names of the raw ones."""
        topics = TOPICS.keys() | TEMPORAL_TOPICS.keys() | {MONO_TOPIC}
        return {
            name
            for name in topics
            if self._has_subscribers(name) or self._has_subscribers(COMPRESSED_TOPICS.get(name, ""))
        }

    def publish(
        self,
        topics: Collection[str],
        estimate: StereoEstimate | FilledEstimate,
        left: np.ndarray,
        messages: StereoMessages,
    ) -> None:
        """Publish those of ``topics`` that are in TOPICS and that the estimate of a pair gives.

        ``left``: the left image, uint8, H x W or H x W x 3 RGB.
        """
        if not self._has_subscribers("points2"):
            self._faults.forget(FaultSubject.CLOUD)
        stereo = estimate.stereo if isinstance(estimate, FilledEstimate) else estimate
        pair = _Pair(stereo, estimate, left, messages, output_header(messages))
        for name, output in TOPICS.items():
            if name in topics and (message := output.build(self, pair)) is not None:
                self._send(name, message)

    def publish_camera_info(self, topics: Collection[str], messages: StereoMessages) -> None:
        """Publish the camera_info of depth, without an estimate, if its topic is in ``topics``."""
        if CAMERA_INFO_TOPIC in topics:
            self._send(CAMERA_INFO_TOPIC, depth_camera_info(messages))

    def publish_mono(self, topics: Collection[str], depth: np.ndarray, messages: StereoMessages) -> None:
        """Publish mono depth (H x W float32 m, masked here by the range) if its topic is in ``topics``."""
        if MONO_TOPIC not in topics:
            return
        near, far = self._parameters["min_depth"], self._parameters["max_depth"]
        masked = np.where((depth >= near) & (depth <= far), depth, np.float32(np.nan))
        message = fill_depth(Image(), masked, self._parameters["depth_encoding"], output_header(messages))
        self._send(MONO_TOPIC, message)

    def publish_flow(self, topics: Collection[str], flow: np.ndarray, messages: StereoMessages) -> None:
        """Publish temporal flow (H x W x 2 float32 px) on its topics that are in ``topics``."""
        header = output_header(messages)
        if "temporal_flow/image" in topics:
            self._send("temporal_flow/image", fill_image(Image(), flow, "32FC2", header))
        if "temporal_flow/image_color" in topics:
            self._send("temporal_flow/image_color", fill_image(Image(), colour_flow(flow), "rgb8", header))

    def destroy(self) -> None:
        """Destroy the publishers, and the subscriptions of frames."""
        for subscription in self._tf:
            self._node.destroy_subscription(subscription)
        self._tf.clear()
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def _publisher(self, topic: str, kind: type) -> Any:
        """Make the publisher of an output. Raises ValueError."""
        with naming_overrides(self._node.resolve_topic_name(topic), "publisher"):
            return self._node.create_lifecycle_publisher(
                kind,
                topic,
                event_callbacks=publisher_events(self._node, topic),
                **overridable(QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)),
            )

    def _has_subscribers(self, topic: str) -> bool:
        return topic in self._publishers and self._publishers[topic].get_subscription_count() > 0

    def _send(self, name: str, message: Any) -> None:
        """Publish the message of an output, raw and compressed, for those who subscribe to it."""
        packed = COMPRESSED_TOPICS.get(name, "")
        if not self._has_subscribers(packed):
            self._publishers[name].publish(message)
            return
        if self._has_subscribers(name):
            self._publishers[name].publish(message)
        if packed.endswith(SUFFIX):
            limits = self._parameters["min_depth"], self._parameters["max_depth"]
            self._publishers[packed].publish(fill_compressed_depth(CompressedImage(), message, *limits))
        else:
            quality = None if name in _LOSSLESS else self._parameters["jpeg_quality"]
            self._publishers[packed].publish(fill_compressed(CompressedImage(), message, quality))

    def _depth(self, pair: _Pair) -> Image:
        return fill_depth(Image(), pair.filled.depth, self._parameters["depth_encoding"], pair.header)

    def _disparity(self, pair: _Pair) -> DisparityImage:
        estimate = pair.stereo
        assert estimate.searched is not None
        return disparity_message(
            # What is masked needs no completing, and mono depth is no match.
            np.where(estimate.mask, estimate.matched, np.float32(np.nan)),
            estimate.rig,
            pair.header,
            estimate.searched,
            increment=_BLOCK_STEP if estimate.config.model in CLASSICAL_STEREO else _NETWORK_STEP,
        )

    def _disparity_colour(self, pair: _Pair) -> Image:
        estimate = pair.stereo
        assert estimate.searched is not None
        # As in the DisparityImage: 0 is infinity, and the colours end where the search does, or at the largest.
        moved = np.where(estimate.mask, estimate.matched, np.float32(np.nan)) + estimate.rig.doffs
        last = float(estimate.searched.last + estimate.rig.doffs)
        farthest = max(last, 1.0) if estimate.searched.limited else None
        return fill_image(Image(), colour_disparity(moved, farthest), "rgb8", pair.header)

    def _sigma(self, pair: _Pair) -> Image | None:
        """Return the uncertainty of depth; None: the model gives none."""
        estimate = pair.stereo
        if estimate.depth_sigma is None:
            self._node.get_logger().warning(
                f"depth/sigma is not published: model {estimate.config.model} gives no uncertainty; use flownet_stereo",
                throttle_duration_sec=_REPEAT_SECONDS,
            )
            return None
        return fill_image(Image(), np.asarray(estimate.depth_sigma, np.float32), "32FC1", pair.header)

    def _mask(self, pair: _Pair) -> Image:
        return fill_image(Image(), pair.filled.mask.view(np.uint8) * np.uint8(255), "mono8", pair.header)

    def _labels(self, pair: _Pair) -> Image:
        return fill_image(Image(), pair.filled.labels, "8UC1", pair.header)

    def _flow(self, pair: _Pair) -> Image:
        return fill_image(Image(), pair.stereo.flow, "32FC2", pair.header)

    def _flow_colour(self, pair: _Pair) -> Image:
        return fill_image(Image(), colour_flow(pair.stereo.flow), "rgb8", pair.header)

    def _cloud(self, pair: _Pair) -> PointCloud2 | None:
        """Return the cloud: organised as it is, a row of points where it is thinned; None: its box cannot be placed."""
        estimate, left, header = pair.filled, pair.left, pair.header
        parameters = self._parameters
        stride, padded = parameters["cloud_decimation"], not parameters["avoid_point_cloud_padding"]
        near = np.where(estimate.depth <= parameters["cloud_max_depth"], estimate.depth, np.float32(np.nan))
        colours = left[::stride, ::stride] if parameters["use_color"] else None
        points = organised_points(near, estimate.rig, stride)
        low, high = (np.array([parameters[f"cloud_{end}_{axis}"] for axis in "xyz"]) for end in ("min", "max"))
        low[low <= -CLOUD_EVERYWHERE], high[high >= CLOUD_EVERYWHERE] = -np.inf, np.inf
        box, voxel = bool(np.isfinite([low, high]).any()), parameters["cloud_voxel"]
        thinned = voxel >= _SMALLEST_VOXEL
        if not box:
            self._faults.clear(FaultSubject.CLOUD)
            if not thinned:
                return cloud_message(points, colours, header, padded=padded)
        matrix, frame = None, parameters["cloud_frame"]
        if box and frame:
            matrix = self._frames.between(frame, header.frame_id, stamp_ns(header))
            self._faults.update(
                FaultSubject.CLOUD, WARN, self._why_no_box(header.frame_id, matrix), FaultCode.NO_TRANSFORM
            )
            if matrix is None:
                return None
        kept = inside_box(points, low, high, matrix) if box else np.isfinite(points[..., 2])
        points, colours = points[kept], None if colours is None else colours[kept]
        if thinned:
            points, colours = voxel_means(points, colours, voxel)
        return cloud_message(
            points[None], None if colours is None else colours[None], header, padded=padded, dense=True
        )

    def _why_no_box(self, camera: str, matrix: np.ndarray | None) -> str | None:
        """Return why the box of the cloud cannot be placed; None where it can."""
        frame = self._parameters["cloud_frame"]
        if matrix is not None:
            return None
        why = self._no_frames or (
            f"the transforms there from '{camera}' are more than {MAX_AGE:g} s away from the pair: check that they are "
            "published all the time, with stamps of the camera's clock"
            if self._frames.connected(frame, camera)
            else f"no transform leads there from '{camera}' on /tf and /tf_static: publish it (docs/robot.md), or "
            "leave cloud_frame empty for a box in the camera's frame"
        )
        return f"points2 is not published: its box is in frame '{frame}' (cloud_frame), and {why}"


class Output(NamedTuple):
    """An output of a pair: the type of its messages, and what makes one; that gives None where there is none."""

    type: type
    build: Callable[[StereoOutputs, _Pair], Any]


# In the order of publication: the outputs that are used most come first.
TOPICS = {
    "depth/image_rect": Output(Image, StereoOutputs._depth),
    CAMERA_INFO_TOPIC: Output(CameraInfo, lambda outputs, pair: depth_camera_info(pair.messages)),
    "disparity": Output(DisparityImage, StereoOutputs._disparity),
    "disparity/image_color": Output(Image, StereoOutputs._disparity_colour),
    "depth/sigma": Output(Image, StereoOutputs._sigma),
    "mask/image": Output(Image, StereoOutputs._mask),
    "mask/labels": Output(Image, StereoOutputs._labels),
    "flow/image": Output(Image, StereoOutputs._flow),
    "flow/image_color": Output(Image, StereoOutputs._flow_colour),
    "points2": Output(PointCloud2, StereoOutputs._cloud),
}


def output_header(messages: StereoMessages) -> Header:
    """Return a header with the pair's stamp and the left camera's frame."""
    frame = messages.left.header.frame_id or messages.left_info.header.frame_id
    return Header(stamp=messages.left.header.stamp, frame_id=frame)


def depth_camera_info(messages: StereoMessages) -> CameraInfo:
    """Return the camera_info of depth: that of the left image, whose size depth has, in that camera's own frame."""
    info = messages.left_info
    fields = {name: getattr(info, name) for name in info.get_fields_and_field_types() if name != "header"}
    # Depth and points are in the left camera's own frame, wherever its P has its origin (P[3], P[7], P[11]).
    fields["p"] = np.asarray(info.p) * _OWN_FRAME
    return CameraInfo(header=output_header(messages), **fields)


def disparity_message(
    disparity: np.ndarray, rig: StereoRig, header: Header, searched: SearchRange, *, increment: float
) -> DisparityImage:
    """Return a DisparityImage.

    The message's disparity is ``x_left - x_right - (cx_left - cx_right)``, so that ``Z = f * t / d``; hence ``doffs``
    is added to the image disparity.

    Args:
        disparity: image disparity ``x_left - x_right``, H x W float32 px, NaN where invalid.
        rig: at that size.
        searched: gives ``min_disparity`` and ``max_disparity`` (or the smallest and the largest disparity, where those
            are beyond them), moved by ``doffs`` as the disparity is, and ``valid_window`` as stereo_image_proc has it:
            where the whole range was in the right image; everywhere for a method without a range.
        increment: smallest step, px.
    """
    message = DisparityImage(header=header)
    moved = np.asarray(disparity + np.float32(rig.doffs), np.float32)
    fill_image(message.image, moved, "32FC1", header)
    message.f = float(rig.fx)
    message.t = float(rig.baseline)
    # A network's refinement may pass the ends of the search; readers drop what is beyond the message's own range.
    smallest, largest = float(np.fmin.reduce(moved, axis=None)), float(np.fmax.reduce(moved, axis=None))  # NaN: none
    message.min_disparity = max(min(float(searched.first + rig.doffs), smallest), 0.0)  # less is behind the cameras
    message.max_disparity = max(float(searched.last + rig.doffs), largest)
    message.delta_d = float(increment)
    if not searched.limited:
        message.valid_window = RegionOfInterest(width=rig.width, height=rig.height)
        return message
    border, first = searched.border, round(searched.first)
    left = min(max(round(searched.last) + border, 0), rig.width)
    right = rig.width - 1 - (border + first if first >= 0 else max(border, -first))
    message.valid_window = RegionOfInterest(
        x_offset=left, y_offset=border, width=max(right - left, 0), height=max(rig.height - 1 - 2 * border, 0)
    )
    return message


def cloud_message(
    points: np.ndarray, colours: np.ndarray | None, header: Header, *, padded: bool = False, dense: bool = False
) -> PointCloud2:
    """Return a PointCloud2 with x, y, z (float32 m) and, with colours, rgb.

    A point takes 16 bytes, or 12 without colours; where it is ``padded`` as PCL's, 32 and 16.

    ``points``: H x W x 3 float32 m, NaN where invalid (REP 117). ``colours``: uint8, H x W grey or H x W x 3 RGB.
    ``dense``: no point is NaN.
    """
    height, width = points.shape[:2]
    offsets = {"x": 0, "y": 1, "z": 2} | ({} if colours is None else {"rgb": 4 if padded else 3})
    size = (4 if padded else 3) if colours is None else (8 if padded else 4)  # float32 a point
    cells = (np.zeros if padded else np.empty)((height, width, size), np.float32)
    sources, pairs = [np.ascontiguousarray(points, np.float32)], [0, 0, 1, 1, 2, 2]
    if colours is not None and points.size:
        code = cv2.COLOR_GRAY2BGRA if colours.ndim == 2 else cv2.COLOR_RGB2BGRA
        packed = cv2.cvtColor(np.ascontiguousarray(colours), code).view("<u4") & np.uint32(0x00FFFFFF)
        sources.append(packed.view(np.float32))
        pairs += [3, offsets["rgb"]]
    if points.size:
        cv2.mixChannels(sources, [cells], pairs)
    message = PointCloud2(header=header, height=height, width=width, point_step=4 * size, row_step=4 * size * width)
    message.fields = [
        PointField(name=name, offset=4 * offset, datatype=PointField.FLOAT32, count=1)
        for name, offset in offsets.items()
    ]
    message.is_bigendian = sys.byteorder == "big"
    message.is_dense = dense
    fill_data(message, cells)
    return message
