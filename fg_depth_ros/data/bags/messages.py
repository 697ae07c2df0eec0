"""Locate the messages of a bag by their own stamps, and read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fg_depth_ros.data.bags.storage import BagStorage, message_types
from fg_depth_ros.files import FileError


class Place(NamedTuple):
    """Location of a message: its topic, the time it was recorded, and its own stamp, both in ns."""

    topic: str
    recorded: int
    stamp: int

    def describe(self, bag: BagStorage) -> str:
        """Return the bag, the topic and the stamp, for an error."""
        return f"{bag.path}, {self.topic} at {self.stamp} ns"


def stamp_of(data: bytes) -> int | None:
    """Read the header's stamp in ns, which these messages begin with, without decoding the rest; None: too short.

    CDR (DDS-RTPS 10.5): four bytes, of which the second tells the byte order; then int32 s, uint32 ns.
    """
    if len(data) < 12:
        return None
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = np.frombuffer(data, np.dtype(f"{order}i4, {order}u4"), 1, offset=4)[0]
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def moment(bag: BagStorage, recorded: int, data: bytes) -> int | None:
    """Return a message's stamp, or when it was recorded where the bag is opened so, ns; None: it has no stamp."""
    return recorded if bag.stamps == "recorded" else stamp_of(data)


def places(bag: BagStorage, topics: Iterable[str]) -> dict[str, dict[int, Place]]:
    """Locate the messages of these topics, by topic and stamp. Of two with one stamp the first counts."""
    found: dict[str, dict[int, Place]] = {topic: {} for topic in topics}
    for topic, recorded, data in bag.scan(list(found)):
        stamp = moment(bag, recorded, data)
        if stamp is not None:
            found[topic].setdefault(stamp, Place(topic, recorded, stamp))
    return found


def message_at(bag: BagStorage, place: Place) -> Any:
    """Read and decode the message at a place. Raises FileError: it is gone, or damaged."""
    kind, where = bag.topics[place.topic], place.describe(bag)
    messages = bag.at(place.topic, place.recorded)
    data = next((each for each in messages if moment(bag, place.recorded, each) == place.stamp), None)
    if data is None:
        raise FileError(f"{where}: the message is gone; the bag has changed since it was opened: open it again")
    return decoded(data, kind, where)


def decoded(data: bytes, kind: str, where: str) -> Any:
    """Decode a message of this type from its bytes (CDR). Raises FileError, naming ``where``, for damaged data."""
    try:
        return message_types().deserialize_cdr(data, kind)
    except Exception as error:  # damaged data breaks a parser in any way
        raise FileError(f"{where}: {len(data)} bytes are no whole {kind} ({error}); the bag is damaged") from error


def topic_named(topics: Mapping[str, str], name: str, kinds: tuple[str, ...], where: str) -> str:
    """Return the full name of a topic, given with or without its first slash.

    Raises FileError, naming ``where`` and the topics there are: there is none of this name and one of these types.
    """
    full = name if name in topics else f"/{name}"
    if topics.get(full) not in kinds:
        problem = f"'{name}' is a {topics[full]}" if full in topics else f"no topic '{name}'"
        known = ", ".join(sorted(topic for topic, kind in topics.items() if kind in kinds))
        raise FileError(f"{where}: {problem}; of {' or '.join(kinds)} there are: {known or 'none'}")
    return full


def nearest(stamps: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the index of the stamp (sorted, at least one) nearest to each wanted one."""
    after = np.clip(np.searchsorted(stamps, wanted), 1, max(len(stamps) - 1, 1)).clip(max=len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(stamps[before] - wanted) <= np.abs(stamps[after] - wanted), before, after)
