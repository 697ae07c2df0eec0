"""Topics and messages of the recorder, and the message definitions that a bag contains."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import yaml

from fg_depth_ros.data.bags.mcap import QOS_KEY, Channel
from fg_depth_ros.data.bags.storage import message_types

_SEPARATOR = "=" * 80
_BUILTIN = re.compile(r"(bool|byte|char|float32|float64|u?int(8|16|32|64)|w?string)\b")
_FIELD = re.compile(r"^\s*([A-Za-z][\w/]*)", re.MULTILINE)
_FOREVER = "{sec: 9223372036, nsec: 854775807}"


def qos_yaml(history: int, depth: int, reliability: int, durability: int) -> str:
    """Format a QoS profile as rosbag2's metadata has it (version 8: YAML with the numbers of rmw/types.h)."""
    return (
        f"- history: {history}\n  depth: {depth}\n  reliability: {reliability}\n  durability: {durability}\n"
        f"  deadline: {_FOREVER}\n  lifespan: {_FOREVER}\n  liveliness: 1\n"
        f"  liveliness_lease_duration: {_FOREVER}\n  avoid_ros_namespace_conventions: false"
    )


# Reliable, volatile, the last ten: what a player offers that any subscriber accepts.
DEFAULT_QOS = qos_yaml(history=1, depth=10, reliability=1, durability=2)


class Topic(NamedTuple):
    """A topic's full name, its type such as ``sensor_msgs/msg/Image``, and the QoS it was offered with (YAML)."""

    name: str
    msgtype: str
    qos: str = ""


class Message(NamedTuple):
    """A received message: the full name of its topic, when it was received (node clock, ns), its bytes (CDR)."""

    topic: str
    recorded: int
    data: bytes


def channel_of(topic: Topic) -> Channel:
    """Return the MCAP channel of a topic; a type that is not known here gets an empty schema."""
    text = definition(topic.msgtype)
    qos = topic.qos if _is_qos(topic.qos) else DEFAULT_QOS
    return Channel(topic.name, topic.msgtype, "ros2msg" if text else "", text.encode(), "cdr", ((QOS_KEY, qos),))


@lru_cache(maxsize=256)
def definition(msgtype: str) -> str:
    """Return the definition of a type and of the types it uses (``ros2msg``); "" where it is not known here.

    It is searched among the standard types, then in ``share/PACKAGE/msg`` of the folders in AMENT_PREFIX_PATH.
    """
    try:
        return message_types().generate_msgdef(msgtype, ros_version=2)[0]
    except Exception:  # the library's own error for types it does not know, and what damaged names break
        pass
    parts: dict[str, str] = {}
    waiting = [msgtype]
    for name in waiting:
        if name not in parts:
            if (text := _installed(name)) is None:
                return ""
            parts[name] = text
            waiting += _used(text, name.partition("/")[0])  # looked at by this loop, too
    own = parts.pop(msgtype)
    others = [f"{_SEPARATOR}\nMSG: {name.replace('/msg/', '/')}\n{text}" for name, text in parts.items()]
    return "\n".join([own, *others])


def type_hash(msgtype: str) -> str:
    """Return the type's REP 2016 hash ("RIHS01_..."); "" where the type is not known here."""
    try:
        return message_types().hash_rihs01(msgtype)
    except Exception:  # the library's own error for types it does not know
        return ""


def _installed(msgtype: str) -> str | None:
    package, _, name = msgtype.rpartition("/")
    if not re.fullmatch(r"\w+/msg", package) or not name.isidentifier():
        return None
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        file = Path(prefix) / "share" / package / f"{name}.msg"
        if prefix and file.is_file():
            return file.read_text(encoding="utf-8", errors="replace").strip() + "\n"
    return None


def _used(text: str, package: str) -> list[str]:
    """Return the types that a definition uses."""
    found = []
    for word in _FIELD.findall(text):
        if not _BUILTIN.fullmatch(word):
            parts = word.split("/")
            found.append(f"{parts[0] if len(parts) > 1 else package}/msg/{parts[-1]}")
    return found


def _is_qos(text: str) -> bool:
    try:
        profiles = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return isinstance(profiles, list) and all(isinstance(profile, dict) for profile in profiles)
