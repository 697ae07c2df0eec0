"""Bags for tests: of noise that fills several chunks, and with any topics."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fg_depth_ros.data.bags.storage import IMAGE, message_types
from fg_depth_ros.data.bags.writing import write_stereo_bag
from support.pair_folders import planes, small_rig

SECOND = 1_000_000_000


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


def bag_of(folder, kinds, times=None):
    """A bag with these topics: small grey images whose pixels are their stamp, and calibrations with distortion.

    ``times``: (recorded, stamp) of every message by topic; by default one at 1 ns.
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
                common = {"header": header, "height": rig.height, "width": rig.width}
                if kind == IMAGE:
                    pixels = np.full(rig.height * rig.width, stamp, np.uint8)
                    message = types.types[kind](**common, encoding="mono8", is_bigendian=0, step=rig.width, data=pixels)
                else:
                    roi = types.types["sensor_msgs/msg/RegionOfInterest"](
                        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
                    )
                    matrix = rig.P_right() if "right" in topic else rig.P_left()
                    message = types.types[kind](
                        **common, distortion_model="plumb_bob", d=np.full(5, 0.1), k=np.zeros(9), r=np.zeros(9),
                        p=matrix.reshape(-1), binning_x=0, binning_y=0, roi=roi,
                    )  # fmt: skip
                bag.write(line, recorded, types.serialize_cdr(message, kind))
    return folder
