"""Cameras whose drivers, or recordings, have topics of their own: where their pairs are, and what they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CameraPreset:
    """Topics and settings of a camera driver.

    ``source``: the driver, or how the recording was made. ``namespace``: of its topics by default; ``several``: with
    more than one camera, ``{}`` being the camera's name, empty if there is only one. ``left`` and ``right``: image
    topics below; camera_info is next to them. ``frame``: optical frame of the left camera. ``encoding``: of the images.
    ``rectify``: what stereo_depth_node's parameter of that name must be. ``parameters``: others that it needs.
    ``setting``: what the driver must be told.
    """

    source: str
    namespace: str
    several: str
    left: str
    right: str
    frame: str
    encoding: str
    rectify: str = "off"
    parameters: Mapping[str, bool | float] = field(default_factory=dict)
    setting: str = ""

    def image(self, side: str, namespace: str = "") -> str:
        """Return the image topic of ``left`` or ``right``; ``namespace``: where it is not the default."""
        return f"{(namespace or self.namespace).rstrip('/')}/{self.left if side == 'left' else self.right}"


PRESETS: Mapping[str, CameraPreset] = {
    "zed": CameraPreset(
        "zed-ros2-wrapper 5.1 or later",
        "/zed/zed_node",
        "/{}/zed_node",
        "left/color/rect/image",
        "right/color/rect/image",
        "zed_left_camera_frame_optical",
        "bgra8",
        setting="`video.publish_left_right: true`",
    ),
    "realsense": CameraPreset(
        "realsense-ros 4",
        "/camera/camera",
        "/{}/{}",
        "infra1/image_rect_raw",
        "infra2/image_rect_raw",
        "camera_infra1_optical_frame",
        "mono8",
        setting="`enable_infra1:=true enable_infra2:=true`",
    ),
    "oak": CameraPreset(
        "depthai_ros_driver",
        "/oak",
        "/{}",
        "left/image_raw",
        "right/image_raw",
        "oak_left_camera_optical_frame",
        "mono8",
        # Each image has a stamp of its own sensor.
        parameters={"approximate_sync": True, "sync_slop": 0.005},
        setting="`stereo.i_publish_synced_rect_pair: true` and `stereo.i_reverse_stereo_socket_order: true`",
    ),
    "euroc": CameraPreset(
        "the bags of EuRoC MAV",
        "/",
        "",
        "cam0/image_raw",
        "cam1/image_raw",
        "cam0",
        "mono8",
        rectify="on",
        setting="they hold no camera_info: publish the calibration of each `sensor.yaml` next to the images",
    ),
    "kitti": CameraPreset(
        "kitti2bag of a synced raw drive",
        "/kitti",
        "",
        "camera_color_left/image_raw",
        "camera_color_right/image_raw",
        "camera_color_left",
        "bgr8",
        # Rectified by the data set, while K and D of camera_info are those of the cameras before.
    ),
}
"""Name -> preset."""


def namespaces_of(text: str) -> list[str]:
    """Parse the names of several cameras, ``front,rear``. Raises ValueError: there is none, or one twice."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"namespaces:={text} must name each camera once, such as namespaces:=front,rear")
    return names


def preset(name: str) -> CameraPreset | None:
    """Return a preset; None for an empty name. Raises ValueError for an unknown one."""
    if name and name not in PRESETS:
        raise ValueError(f"camera:={name} is unknown: choose {', '.join(PRESETS)}, or name topics with left_image")
    return PRESETS.get(name)
