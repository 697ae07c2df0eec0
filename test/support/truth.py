"""Bags with true depth for tests: any messages in any topics, point clouds and transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fg_depth_ros.data.bags.storage import IMAGE, message_types
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.geometry import disparity_to_depth
from support.pair_folders import planes, small_rig

SECOND = 1_000_000_000
CLOUD, TF = "sensor_msgs/msg/PointCloud2", "tf2_msgs/msg/TFMessage"


def types():
    return message_types().types


def header(stamp, frame):
    time = types()["builtin_interfaces/msg/Time"](sec=stamp // SECOND, nanosec=stamp % SECOND)
    return types()["std_msgs/msg/Header"](stamp=time, frame_id=frame)


def cloud(stamp, points, frame="lidar", dtype="<f4", padding=4):
    """A PointCloud2 of N x 3 points, with an intensity field before x and a gap behind each point."""
    order, size = dtype[0], int(dtype[2])
    form = np.dtype(
        {"names": ["i", "x", "y", "z"], "formats": [f"{order}f4"] + [dtype] * 3,
         "offsets": [0, 4, 4 + size, 4 + 2 * size], "itemsize": 4 + 3 * size + padding}
    )  # fmt: skip
    data = np.zeros(len(points), form)
    data["i"] = 7.0
    for axis, name in enumerate("xyz"):
        data[name] = np.asarray(points)[:, axis]
    field = types()["sensor_msgs/msg/PointField"]
    kind = {4: 7, 8: 8}[size]
    fields = [field(name="intensity", offset=0, datatype=7, count=1)]
    fields += [field(name=n, offset=form.fields[n][1], datatype=kind, count=1) for n in "xyz"]
    return types()[CLOUD](
        header=header(stamp, frame), height=1, width=len(points), fields=fields, is_bigendian=order == ">",
        point_step=form.itemsize, row_step=form.itemsize * len(points),
        data=np.frombuffer(data.tobytes(), np.uint8), is_dense=True,
    )  # fmt: skip


def static(parent, child, translation, rotation=(0.0, 0.0, 0.0, 1.0)):
    """A TFMessage with one transform."""
    vector, quaternion = types()["geometry_msgs/msg/Vector3"], types()["geometry_msgs/msg/Quaternion"]
    transform = types()["geometry_msgs/msg/Transform"](
        translation=vector(*map(float, translation)), rotation=quaternion(*map(float, rotation))
    )
    stamped = types()["geometry_msgs/msg/TransformStamped"](
        header=header(0, parent), child_frame_id=child, transform=transform
    )
    return types()[TF](transforms=[stamped])


def frames(count, truth=True, size=(160, 96), seed=0):
    """Pairs of two planes at 1, 2, ... s, with their true depth."""
    rig = small_rig(*size)
    for k in range(count):
        left, right, disparity = planes(seed + k, *size)
        yield StereoSample(
            "", left, right, depth=disparity_to_depth(disparity, rig) if truth else None, stamp=(k + 1) * SECOND
        )


def stereo_bag(folder, count=2, truth=True, size=(160, 96), seed=0, **options) -> Path:
    return write_stereo_bag(folder, frames(count, truth, size, seed), small_rig(*size), **options)


def with_messages(bag: Path, messages) -> Path:
    """The same bag with more messages: (topic, type, recorded ns, message or bytes). Returns the new folder."""
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer

    out = bag.with_name(f"{bag.name}_more")
    with Reader(bag) as reader, Writer(out, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        lines = {
            c.topic: writer.add_connection(c.topic, c.msgtype, typestore=message_types()) for c in reader.connections
        }
        for connection, recorded, data in reader.messages():
            writer.write(lines[connection.topic], recorded, data)
        for topic, kind, recorded, message in messages:
            if topic not in lines:
                lines[topic] = writer.add_connection(topic, kind, typestore=message_types())
            data = message if isinstance(message, bytes) else message_types().serialize_cdr(message, kind)
            writer.write(lines[topic], recorded, data)
    return out


PLACE = static("lidar", "left_camera", (1, 0, 0), (-0.5, 0.5, -0.5, 0.5))


def depth_message(stamp, depth, encoding="32FC1"):
    height, width = depth.shape
    return types()[IMAGE](
        header=header(stamp, "left_camera"), height=height, width=width, encoding=encoding, is_bigendian=0,
        step=depth[0].nbytes, data=np.frombuffer(depth.tobytes(), np.uint8),
    )  # fmt: skip
