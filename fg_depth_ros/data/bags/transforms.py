"""The transforms that a bag holds."""

from __future__ import annotations

from fg_depth_ros.data.bags.storage import BagStorage, message_types
from fg_depth_ros.data.io.transforms import Transform
from fg_depth_ros.files import FileError

TF_MESSAGE = "tf2_msgs/msg/TFMessage"


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
            shift, turn = each.transform.translation, each.transform.rotation
            one = Transform.of(
                each.header.frame_id, each.child_frame_id, (shift.x, shift.y, shift.z),
                (turn.x, turn.y, turn.z, turn.w), where,
            )  # fmt: skip
            found[one.parent, one.child] = one
    return list(found.values())
