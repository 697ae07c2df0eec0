"""The topics that stereo_depth_node publishes: made only for those who listen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header
from stereo_msgs.msg import DisparityImage

from fg_depth_ros.data.io import messages
from fg_depth_ros.geometry import StereoRig, organised_points
from fg_depth_ros.geometry.flow_colour import colour_flow
from fg_depth_ros.inference import StereoEstimate
from fg_depth_ros.nodes.common.qos import OVERRIDES, publisher_events
from fg_depth_ros.nodes.common.synchronizing import LeftView, Pair

# What is looked at most comes first: it is also published first.
TOPICS: dict[str, type] = {
    "depth/image_rect": Image,
    "depth/camera_info": CameraInfo,
    "disparity": DisparityImage,
    "depth/sigma": Image,
    "mask/image": Image,
    "mask/labels": Image,
    "flow/image": Image,
    "flow/image_color": Image,
    "points2": PointCloud2,
}
MONO_TOPIC = "mono_depth/image_rect"
TEMPORAL_TOPICS: dict[str, type] = {"temporal_flow/image": Image, "temporal_flow/image_color": Image}

# What changes when holes are filled, and what there is without a right image.
FILLED_TOPICS = frozenset({"depth/image_rect", "mask/image", "mask/labels", "points2"})
LEFT_TOPICS = FILLED_TOPICS | {"depth/camera_info", MONO_TOPIC}

# Block matching answers in sixteenths of a pixel, a network in whatever float32 holds at large disparities.
_SGBM_STEP = 1.0 / 16.0
_NETWORK_STEP = float(np.spacing(np.float32(128.0)))


class StereoOutputs:
    """The publishers of a lifecycle node, and the messages made from a StereoEstimate.

    `settings` is read at each pair: depth_encoding, min_depth, max_depth, cloud_decimation, cloud_max_depth.
    """

    def __init__(self, node: LifecycleNode, settings: Any) -> None:
        self._settings = settings
        self._node = node
        topics = TOPICS | {MONO_TOPIC: Image} | TEMPORAL_TOPICS
        qos = {name: QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE) for name in topics}
        self._publishers = {
            name: node.create_lifecycle_publisher(
                kind,
                name,
                qos[name],
                event_callbacks=publisher_events(node, name),
                qos_overriding_options=OVERRIDES,
            )
            for name, kind in topics.items()
        }
        self._makers: dict[str, Callable[[StereoEstimate, np.ndarray, Pair | LeftView, Header], Any]] = {
            "depth/image_rect": lambda e, left, pair, header: messages.fill_depth(
                Image(), e.depth, settings["depth_encoding"], header
            ),
            "depth/camera_info": self._camera_info,
            "disparity": self._disparity,
            "depth/sigma": self._sigma,
            "mask/image": lambda e, left, pair, header: messages.fill_image(
                Image(), np.where(e.mask, np.uint8(255), np.uint8(0)), "mono8", header
            ),
            "mask/labels": lambda e, left, pair, header: messages.fill_image(Image(), e.labels, "8UC1", header),
            "flow/image": lambda e, left, pair, header: messages.fill_image(Image(), e.flow, "32FC2", header),
            "flow/image_color": lambda e, left, pair, header: messages.fill_image(
                Image(), colour_flow(e.flow), "rgb8", header
            ),
            "points2": self._points,
        }

    def wanted(self) -> set[str]:
        """Topics that somebody subscribes to."""
        return {name for name, found in self._publishers.items() if found.get_subscription_count() > 0}

    def publish(
        self, wanted: Collection[str], estimate: StereoEstimate, left: np.ndarray, pair: Pair | LeftView
    ) -> None:
        """Make and publish the `wanted` topics of one pair; `left` is its image, uint8, H x W or H x W x 3
        RGB.
        """
        header = output_header(pair)
        for name in TOPICS:
            if name in wanted and (message := self._makers[name](estimate, left, pair, header)) is not None:
                self._publishers[name].publish(message)

    def publish_mono(self, wanted: Collection[str], depth: np.ndarray, pair: Pair | LeftView) -> None:
        """Publish mono depth where it is `wanted`; `depth`: H x W float32 m, masked here by the range."""
        if MONO_TOPIC not in wanted:
            return
        near, far = self._settings["min_depth"], self._settings["max_depth"]
        masked = np.where((depth >= near) & (depth <= far), depth, np.float32(np.nan))
        message = messages.fill_depth(Image(), masked, self._settings["depth_encoding"], output_header(pair))
        self._publishers[MONO_TOPIC].publish(message)

    def publish_flow(self, wanted: Collection[str], flow: np.ndarray, pair: Pair | LeftView) -> None:
        """Publish the `wanted` of the temporal topics; `flow`: H x W x 2 float32 px."""
        header = output_header(pair)
        if "temporal_flow/image" in wanted:
            message = messages.fill_image(Image(), flow, "32FC2", header)
            self._publishers["temporal_flow/image"].publish(message)
        if "temporal_flow/image_color" in wanted:
            message = messages.fill_image(Image(), colour_flow(flow), "rgb8", header)
            self._publishers["temporal_flow/image_color"].publish(message)

    def counts(self) -> Mapping[str, int]:
        """Subscribers by topic."""
        return {name: found.get_subscription_count() for name, found in self._publishers.items()}

    def destroy(self) -> None:
        """Take the publishers down."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def _camera_info(
        self, estimate: StereoEstimate, left: np.ndarray, pair: Pair | LeftView, header: Header
    ) -> CameraInfo:
        # The depth image has the left image's size, so the left camera_info fits it; but for the header.
        info = pair.left_info
        return CameraInfo(
            header=header,
            **{name: getattr(info, name) for name in info.get_fields_and_field_types() if name != "header"},
        )

    def _disparity(
        self, estimate: StereoEstimate, left: np.ndarray, pair: Pair | LeftView, header: Header
    ) -> DisparityImage:
        return disparity_message(
            # What is masked needs no completing, and mono depth is no match.
            np.where(estimate.matched_mask, estimate.matched, np.float32(np.nan)),
            estimate.rig,
            header,
            min_depth=self._settings["min_depth"],
            max_depth=self._settings["max_depth"],
            increment=_SGBM_STEP if self._settings["model"] == "sgbm" else _NETWORK_STEP,
        )

    def _sigma(self, estimate: StereoEstimate, left: np.ndarray, pair: Pair | LeftView, header: Header) -> Image | None:
        sigma = estimate.depth_sigma
        if sigma is None:
            self._node.get_logger().warning(
                f"depth/sigma is not published: model {self._settings['model']} gives no uncertainty; use "
                "flownet_stereo",
                once=True,
            )
            return None
        return messages.fill_image(Image(), np.ascontiguousarray(sigma, np.float32), "32FC1", header)

    def _points(self, estimate: StereoEstimate, left: np.ndarray, pair: Pair | LeftView, header: Header) -> PointCloud2:
        depth, stride = estimate.depth, self._settings["cloud_decimation"]
        near = np.where(depth <= self._settings["cloud_max_depth"], depth, np.float32(np.nan))
        points = organised_points(near, estimate.rig, stride)
        return cloud_message(points, left[::stride, ::stride], header)


def output_header(pair: Pair | LeftView) -> Header:
    """Stamp of the pair, frame of the left camera."""
    frame = pair.left.header.frame_id or pair.left_info.header.frame_id
    return Header(stamp=pair.left.header.stamp, frame_id=frame)


def disparity_message(
    disparity: np.ndarray,
    rig: StereoRig,
    header: Header,
    *,
    min_depth: float,
    max_depth: float,
    increment: float,
) -> DisparityImage:
    """A DisparityImage of image disparities `x_left - x_right` (float32 px H x W, NaN invalid).

    The message's disparity is `x_left - x_right - (cx_left - cx_right)`, so that `Z = f * t / d`; hence
    `doffs` is added. `min_disparity` and `max_disparity` are those of `max_depth` and `min_depth` (metres),
    `increment` (px) is the smallest step. Invalid pixels stay NaN.
    """
    message = DisparityImage(header=header)
    messages.fill_image(message.image, np.asarray(disparity + np.float32(rig.doffs), np.float32), "32FC1", header)
    message.f = float(rig.fx)
    message.t = float(rig.baseline)
    message.min_disparity = float(rig.fx * rig.baseline / max_depth)
    message.max_disparity = float(rig.fx * rig.baseline / min_depth)
    message.delta_d = float(increment)
    message.valid_window = RegionOfInterest(width=rig.width, height=rig.height)
    return message


def cloud_message(points: np.ndarray, colours: np.ndarray, header: Header) -> PointCloud2:
    """An organised PointCloud2 with x, y, z (float32 metres) and rgb, 16 bytes a point.

    `points`: H x W x 3 float32, NaN where there is none (REP 117); `colours`: uint8 H x W grey or H x W x 3
    RGB.
    """
    height, width = points.shape[:2]
    cells = np.empty((height, width, 4), np.float32)
    cells[..., :3] = points
    wide = colours.astype(np.uint32)
    packed = wide * 0x010101 if wide.ndim == 2 else wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    cells[..., 3] = packed.view(np.float32)
    message = PointCloud2(header=header, height=height, width=width, point_step=16, row_step=16 * width)
    message.fields = [
        PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate(("x", "y", "z", "rgb"))
    ]
    message.is_bigendian = sys.byteorder == "big"
    message.is_dense = False
    messages.fill_data(message, cells)
    return message
