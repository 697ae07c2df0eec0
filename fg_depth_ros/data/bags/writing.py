"""Stereo pairs as a ROS 2 bag, without ROS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from fg_depth_ros.data.bags.storage import COMPRESSED, IMAGE, INFO, message_types
from fg_depth_ros.data.io.messages import layout
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.files import FileError, atomic_write
from fg_depth_ros.geometry import StereoRig

TRUE_DEPTH = "/ground_truth/depth"
"""Topic of true depth, as the player names it."""
Pair = StereoSample | tuple[int, np.ndarray | None, np.ndarray | None]


def write_stereo_bag(
    path: str | Path, pairs: Iterable[Pair], rig: StereoRig,
    *, encoding: str = "", compressed: Literal["", "png", "jpeg"] = "", storage: Literal["mcap", "sqlite3"] = "mcap",
    frame_id: str = "left_camera",
) -> Path:  # fmt: skip
    """Write a bag with left/image_rect, right/image_rect and their camera_infos; it appears under its name when whole.

    True depth, if any, goes to ground_truth/depth (32FC1, m). Readable from ROS 2 Humble on.

    Args:
        path: the bag's folder, which must not be there yet.
        pairs: in the order of their stamps; samples, or (stamp in ns, left, right) where an image may be missing.
        rig: calibration at the images' size.
        encoding: of the images, whose arrays must have its type and channels; empty = mono8 or rgb8 by their shape.
        compressed: write CompressedImage of this format instead (arrays grey or RGB).
        storage, frame_id: format of the bag, and frame of all headers.

    Raises FileError: the folder exists, or cannot be written. Raises ValueError: an array that does not fit the
    encoding.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer

    path = Path(path)
    if path.exists():
        raise FileError(f"{path}: is there already; choose another folder, or remove it")
    kinds = {"image_rect/compressed" if compressed else "image_rect": COMPRESSED if compressed else IMAGE}
    kinds["camera_info"] = INFO
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with (
        atomic_write(path) as unfinished,
        _with_checksums(unfinished),
        Writer(unfinished, version=8, storage_plugin=plugin) as bag,
    ):
        lines = {
            (side, kind): bag.add_connection(f"/{side}/{name}", kind, typestore=message_types())
            for side in ("left", "right") for name, kind in kinds.items()
        }  # fmt: skip
        truth = None
        for pair in pairs:
            stamp, left, right, depth = _parts(pair)
            header = _header(stamp, frame_id)
            sides = (("left", left, rig.P_left()), ("right", right, rig.P_right()))
            for side, image, matrix in sides:
                if image is not None:
                    picture = _compressed(header, image, compressed) if compressed else _raw(header, image, encoding)
                    for message in (picture, _info(header, rig, matrix)):
                        data = message_types().serialize_cdr(message, message.__msgtype__)
                        bag.write(lines[side, message.__msgtype__], stamp, data)
            if depth is not None:
                truth = truth or bag.add_connection(TRUE_DEPTH, IMAGE, typestore=message_types())
                bag.write(truth, stamp, message_types().serialize_cdr(_raw(header, depth, "32FC1"), IMAGE))
    return path


@contextmanager
def _with_checksums(bag: Path) -> Iterator[None]:
    """Add the CRCs of chunks to the files of a bag once they are complete: rosbags writes none."""
    from fg_depth_ros.data.bags.mcap import add_checksums

    yield
    for file in bag.glob("*.mcap"):
        add_checksums(file)


def _parts(pair: Pair) -> tuple[int, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Stamp, left, right and true depth."""
    if isinstance(pair, StereoSample):
        if pair.stamp is None:
            raise ValueError(f"{pair.name}: a pair without a stamp cannot be recorded")
        return (pair.stamp, *pair.raw_images(), pair.true_depth())
    return (*pair, None)


def _message(kind: str, **fields: Any) -> Any:
    return message_types().types[kind](**fields)


def _header(stamp: int, frame_id: str) -> Any:
    time = _message("builtin_interfaces/msg/Time", sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)
    return _message("std_msgs/msg/Header", stamp=time, frame_id=frame_id)


def _raw(header: Any, image: np.ndarray, encoding: str) -> Any:
    encoding = encoding or ("mono8" if image.ndim == 2 else "rgb8")
    form = layout(encoding)
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype != form.dtype or channels != form.channels:
        raise ValueError(f"an array of {image.dtype} {image.shape} is no {encoding} image")
    step, data = image[0].nbytes, np.frombuffer(np.ascontiguousarray(image).tobytes(), np.uint8)
    height, width = image.shape[:2]
    return _message(
        IMAGE, header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=step, data=data
    )


def _compressed(header: Any, image: np.ndarray, form: str) -> Any:
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg" if form == "jpeg" else f".{form}", bgr)[1].reshape(-1)
    return _message(COMPRESSED, header=header, format=form, data=data)


def _info(header: Any, rig: StereoRig, matrix: np.ndarray) -> Any:
    whole = _message("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return _message(
        INFO, header=header, height=rig.height, width=rig.width, distortion_model="plumb_bob", d=np.zeros(5),
        k=matrix[:, :3].reshape(-1).copy(), r=np.eye(3).reshape(-1), p=matrix.reshape(-1), binning_x=0, binning_y=0,
        roi=whole,
    )  # fmt: skip
