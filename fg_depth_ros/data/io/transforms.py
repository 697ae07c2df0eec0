"""Transforms between sensors, from a file or elsewhere, chained through frames.

A transform has ROS's meaning (geometry_msgs/TransformStamped): it takes a point of the child's frame into the parent's,
``p_parent = R p_child + t``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fg_depth_ros.files import LARGEST_TEXT, FileError, read_bytes

_NORM_TOLERANCE = 0.01  # of a quaternion: farther from 1 it was mistyped, not rounded
_AS_FILE = (
    "a transform is a mapping of parent, child (names of frames), translation ([x, y, z] in m) and rotation "
    "(quaternion [x, y, z, w]); several stand in a list"
)


@dataclass(frozen=True)
class Transform:
    """Takes points of frame ``child`` into frame ``parent``. ``matrix``: 4 x 4 float64, homogeneous, m."""

    parent: str
    child: str
    matrix: np.ndarray

    @classmethod
    def of(
        cls, parent: str, child: str, translation: Sequence[float], rotation: Sequence[float], where: str
    ) -> Transform:
        """Make one of x, y, z (m) and a quaternion x, y, z, w. Raises FileError, naming ``where``: they are none."""
        shift, turn = np.asarray(translation, np.float64), np.asarray(rotation, np.float64)
        if shift.shape != (3,) or turn.shape != (4,) or not (np.isfinite(shift).all() and np.isfinite(turn).all()):
            raise FileError(
                f"{where}, {parent} -> {child}: translation {translation} and rotation {rotation}; {_AS_FILE}"
            )
        length = float(np.linalg.norm(turn))
        if abs(length - 1) > _NORM_TOLERANCE:
            raise FileError(
                f"{where}, {parent} -> {child}: the rotation {turn.tolist()} has length {length:.3g} and a quaternion "
                "has 1; give x, y, z, w (0, 0, 0, 1 turns nothing)"
            )
        matrix = np.eye(4)
        x, y, z, w = turn / length
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])  # times a vector: its product with the axis
        matrix[:3, :3] += 2 * w * cross + 2 * cross @ cross
        matrix[:3, 3] = shift
        return cls(_frame(parent), _frame(child), matrix)

    @classmethod
    def from_message(cls, message: Any, where: str) -> Transform:
        """Make one of a geometry_msgs/TransformStamped. Raises FileError, naming ``where``: it holds none."""
        shift, turn = message.transform.translation, message.transform.rotation
        translation, rotation = (shift.x, shift.y, shift.z), (turn.x, turn.y, turn.z, turn.w)
        return cls.of(message.header.frame_id, message.child_frame_id, translation, rotation, where)


def _frame(name: str) -> str:
    return name.removeprefix("/")  # as ROS 1 wrote them


def chain(transforms: Iterable[Transform], target: str, source: str, where: str) -> np.ndarray:
    """Return the 4 x 4 float64 that takes points of frame ``source`` into frame ``target``, along the shortest way.

    Raises FileError, naming ``where`` and both frames with what each is connected to, if there is no way.
    """
    steps: dict[str, dict[str, np.ndarray]] = {}
    for each in transforms:
        steps.setdefault(each.child, {})[each.parent] = each.matrix
        steps.setdefault(each.parent, {})[each.child] = np.linalg.inv(each.matrix)
    target, source = _frame(target), _frame(source)
    reached, waiting = {source: np.eye(4)}, deque([source])
    while waiting:
        frame = waiting.popleft()
        for following, matrix in steps.get(frame, {}).items():
            if following not in reached:
                reached[following] = matrix @ reached[frame]
                waiting.append(following)
    if target not in reached:
        others = ", ".join(sorted(set(steps) - set(reached))) or "none"
        raise FileError(
            f"{where}: no transform from frame '{source}' to frame '{target}': '{source}' is connected to "
            f"{', '.join(sorted(set(reached) - {source})) or 'nothing'}; other frames: {others}. Give a file with the "
            f"transform of parent '{target}' and child '{source}'"
        )
    return reached[target]


def read_transforms(path: str | Path) -> list[Transform]:
    """Read the transforms of a YAML file: one mapping, a list of them, or a list under ``transforms``.

    A mapping has ``parent`` and ``child`` (also ``frame_id`` and ``child_frame_id``), ``translation`` and ``rotation``
    (x, y, z, w), both as lists or as mappings by these letters. Raises FileError: no such file, no YAML, or anything
    that is no transform.
    """
    import yaml

    try:
        content = yaml.safe_load(read_bytes(path, LARGEST_TEXT).decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise FileError(f"{path}: no YAML ({' '.join(str(error).split())}); {_AS_FILE}") from error
    if isinstance(content, Mapping) and "transforms" in content:
        content = content["transforms"]
    entries = content if isinstance(content, list) else [content]
    if not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise FileError(f"{path}: holds {type(content).__name__}; {_AS_FILE}")
    return [_read(entry, str(path)) for entry in entries]


def _read(entry: Mapping[str, Any], where: str) -> Transform:
    known = {"parent": "frame_id", "child": "child_frame_id"}
    parent, child = (str(entry.get(name, entry.get(other)) or "") for name, other in known.items())
    missing = [name for name, found in (("parent", parent), ("child", child)) if not found]
    missing += [name for name in ("translation", "rotation") if name not in entry]
    unknown = sorted(set(map(str, entry)) - {*known, *known.values(), "translation", "rotation"})
    if missing or unknown:
        problem = f"{', '.join(missing)} missing" if missing else f"{', '.join(unknown)} unknown"
        raise FileError(f"{where}: {problem}; {_AS_FILE}")
    translation, rotation = (
        _numbers(entry[name], letters, f"{where}: {name}")
        for name, letters in (("translation", "xyz"), ("rotation", "xyzw"))
    )
    return Transform.of(parent, child, translation, rotation, where)


def _numbers(value: Any, letters: str, where: str) -> list[float]:
    given: Any = [value.get(letter) for letter in letters] if isinstance(value, Mapping) else value
    try:
        return [float(number) for number in given]
    except (TypeError, ValueError):
        raise FileError(f"{where} is {value!r}; {_AS_FILE}") from None
