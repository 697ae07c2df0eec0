"""Bags for tests: of noise that fills several chunks, and with any topics."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fg_depth_ros.data.bags.mcap import McapScanner
from fg_depth_ros.data.bags.storage import IMAGE, BagStorage, message_types
from fg_depth_ros.data.bags.writing import write_stereo_bag
from support.pair_folders import planes, small_rig
from support.raw_cameras import RawRig

SECOND = 1_000_000_000
WORLD = RawRig("plumb_bob")


def pairs_at(*stamps):
    return [(stamp, *planes(seed)[:2]) for seed, stamp in enumerate(stamps)]


def write(folder, stamps=(10 * SECOND, 11 * SECOND, 12 * SECOND), **options) -> Path:
    return write_stereo_bag(folder, pairs_at(*stamps), small_rig(), **options)


def storage_file(bag):
    return next(path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))


def large(folder, count=8):
    """A bag whose messages fill several chunks, as a recorder writes them."""
    rig = small_rig(480, 320)
    random = np.random.default_rng(0)
    pairs = [(k * SECOND, *random.integers(0, 256, (2, 320, 480, 3), np.uint8)) for k in range(1, count + 1)]
    return write_stereo_bag(folder, pairs, rig), pairs


def damage_chunks(bag, numbers, *, head=False):
    """Damage chunks of a bag, in their middle or in their head.

    Returns the bytes of these chunks, and (topic, time recorded) of their messages.
    """
    file = storage_file(bag)
    segments = [segment for number, segment in enumerate(McapScanner(file)) if number in numbers]
    content = bytearray(file.read_bytes())
    for segment in segments:
        at = segment.start if head else (segment.start + segment.end) // 2
        content[at : at + 2000] = bytes(2000)
    file.write_bytes(content)
    lost = {(message.channel.topic, message.recorded) for segment in segments for message in segment.messages}
    return sum(segment.end - segment.start for segment in segments), lost


def bag_of(folder, kinds, times=None, fields=None):
    """A bag with these topics: small grey images whose pixels are their stamp, and calibrations without distortion.

    ``times``: (recorded, stamp) of every message by topic; by default one at 1 ns. ``fields``: other values of the
    messages of a topic.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer

    types = message_types()
    rig = small_rig()
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        for topic, kind in kinds.items():
            line = bag.add_connection(topic, kind, typestore=types)
            for recorded, stamp in (times or {}).get(topic, [(1, 1)]):
                header = types.types["std_msgs/msg/Header"](
                    stamp=types.types["builtin_interfaces/msg/Time"](sec=0, nanosec=stamp), frame_id=""
                )
                values = {"header": header, "height": rig.height, "width": rig.width}
                if kind == IMAGE:
                    pixels = np.full(rig.height * rig.width, stamp % 256, np.uint8)
                    values |= {"encoding": "mono8", "is_bigendian": 0, "step": rig.width, "data": pixels}
                else:
                    roi = types.types["sensor_msgs/msg/RegionOfInterest"](
                        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
                    )
                    matrix = rig.P_right() if "right" in topic else rig.P_left()
                    values |= {
                        "distortion_model": "plumb_bob", "d": np.zeros(5), "k": np.zeros(9), "r": np.zeros(9),
                        "p": matrix.reshape(-1), "binning_x": 0, "binning_y": 0, "roi": roi,
                    }  # fmt: skip
                message = types.types[kind](**{**values, **(fields or {}).get(topic, {})})
                bag.write(line, recorded, types.serialize_cdr(message, kind))
    return folder


def raw_bag(folder, image="image_raw", count=1) -> Path:
    """A bag of pairs of a world (``WORLD``) through distorted lenses, 0.1 s apart; ``image``: end of the topics."""
    kinds, fields = {}, {}
    for index, side in enumerate(("left", "right")):
        pixels, info = WORLD.raw_image(index), WORLD.camera_info(index)
        width, height = WORLD.size
        size = {"height": height, "width": width}
        fields[f"/{side}/{image}"] = {**size, "step": width, "data": pixels.ravel()}
        fields[f"/{side}/camera_info"] = {
            **size, "distortion_model": info.distortion_model,
            **{name: np.array(getattr(info, name), np.float64) for name in "dkrp"},
        }  # fmt: skip
        kinds |= {f"/{side}/{image}": IMAGE, f"/{side}/camera_info": "sensor_msgs/msg/CameraInfo"}
    times = [(k * SECOND // 10, k * SECOND // 10) for k in range(1, count + 1)]
    return bag_of(folder, kinds, dict.fromkeys(kinds, times), fields)


def to_ros1(source, path, *, compression="", latched=(), also=()) -> Path:
    """The same messages as a ROS 1 bag: header.seq counted from 7, fields of CameraInfo by ROS 1's names.

    ``also``: (topic, type, definition, recorded, bytes) of messages that ROS 2 does not know.
    """
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    bag, types = BagStorage(source), get_typestore(Stores.ROS1_NOETIC)
    types.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
    writer = Writer(path)
    if compression:
        writer.set_compression(Writer.CompressionFormat[compression])
    with writer:
        lines, counts = {}, {}
        for topic, kind in bag.topics.items():
            lines[topic] = writer.add_connection(topic, kind, typestore=types, latching=int(topic in latched))
        for message in bag.replay(bag.topics):
            data = bytearray(message_types().cdr_to_ros1(message.data, bag.topics[message.topic]))
            counts[message.topic] = counts.get(message.topic, 6) + 1
            if bag.topics[message.topic] != "tf2_msgs/msg/TFMessage":
                data[:4] = counts[message.topic].to_bytes(4, "little")
            writer.write(lines[message.topic], message.recorded, bytes(data))
        for topic, kind, definition, recorded, data in also:
            if topic not in lines:
                lines[topic] = writer.add_connection(topic, kind, msgdef=definition, md5sum="0" * 32)
            writer.write(lines[topic], recorded, data)
    return path


def pack(file) -> Path:
    """Compress a file as rosbag2 does with ``--compression-mode file``; the original is gone."""
    import zstandard

    packed = file.with_name(f"{file.name}.zstd")
    packed.write_bytes(zstandard.ZstdCompressor().compress(file.read_bytes()))
    file.unlink()
    return packed


def split(source, folder, parts=2) -> Path:
    """The same messages in several files, as a recorder writes them that begins a new one now and then."""
    import yaml

    bag = BagStorage(source)
    messages = list(bag.replay(bag.topics))
    folder.mkdir()
    metadata = None
    for part in range(parts):
        some = messages[part * len(messages) // parts : (part + 1) * len(messages) // parts]
        one = write_messages(folder / f"part{part}", bag.topics, some)
        storage_file(one).rename(folder / f"{folder.name}_{part}.mcap")
        here = yaml.safe_load((one / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        metadata = metadata or {**here, "relative_file_paths": [], "message_count": 0}
        metadata["relative_file_paths"].append(f"{folder.name}_{part}.mcap")
        metadata["message_count"] += len(some)
        (one / "metadata.yaml").unlink()
        one.rmdir()
    for line in metadata["topics_with_message_count"]:
        line["message_count"] = sum(message.topic == line["topic_metadata"]["name"] for message in messages)
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": metadata}))
    return folder


def write_messages(folder, kinds, messages, storage="mcap") -> Path:
    """A bag of messages as ``BagStorage`` yields them."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with Writer(folder, version=9, storage_plugin=plugin) as bag:
        lines = {topic: bag.add_connection(topic, kind, typestore=message_types()) for topic, kind in kinds.items()}
        for message in messages:
            bag.write(lines[message.topic], message.recorded, message.data)
    return folder


def rewrite(path, out, change):
    """Every message of a bag in another one; ``change``: (topic, message, place) -> the message or None."""
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer

    types = message_types()
    with Reader(path) as reader, Writer(out, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        lines = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=types) for c in reader.connections}
        places = dict.fromkeys(lines, -1)
        for connection, recorded, data in reader.messages():
            places[connection.topic] += 1
            message = types.deserialize_cdr(data, connection.msgtype)
            message = change(connection.topic, message, places[connection.topic])
            if message is not None:
                writer.write(lines[connection.topic], recorded, types.serialize_cdr(message, connection.msgtype))
    return out
