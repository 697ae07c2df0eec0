"""Fingerprints of the data of a run, so that it is resumed only with the data that it began with.

Folders keep their names when images are added to them. Pairs held out before would then be trained on, the best score
so far would be that of other pairs, and the canonical focal length, and with it the metres, could be another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fg_depth_ros.data.datasets.stereo import HalfImage, RectifiedImage
from fg_depth_ros.data.samples import FlowSample, Image, StereoSample
from fg_depth_ros.geometry import StereoRig

Content = Mapping[str, Mapping[str, Any]]
"""``count`` and ``sha256`` of everything that a run is trained on and selected by, by what it is; in JSON's types."""


def content_of_pairs(parts: Mapping[str, Mapping[str, Sequence[StereoSample]]]) -> Content:
    """Return the fingerprints of stereo pairs, by part and set: names, rigs and the sizes of the images' files."""
    return {
        f"{part} pairs of {name}": _fingerprint([p.name, _rig(p.rig), _size(p.left), _size(p.right)] for p in pairs)
        for part, sets in parts.items()
        for name, pairs in sets.items()
    }


def content_of_frames(parts: Mapping[str, Sequence[FlowSample]]) -> Content:
    """Return the fingerprints of pairs of frames, by part: names and the sizes of the images' files."""
    return {
        f"{part} pairs": _fingerprint([s.name, _size(s.first), _size(s.second)] for s in samples)
        for part, samples in parts.items()
    }


def content_of_files(**kinds: Sequence[Path]) -> Content:
    """Return the fingerprints of files, by what they are: names and sizes."""
    return {kind: _fingerprint([path.name, _size(path)] for path in paths) for kind, paths in kinds.items()}


def content_changes(before: Content, now: Content) -> list[str]:
    """Return in words what is not as it was."""
    changes = []
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            was, count = (each[name]["count"] if name in each else "none" for each in (before, now))
            changes.append(f"{name} were {was} and are {count}" + (" others" if was == count else ""))
    return changes


def _fingerprint(items: Iterable[list[Any]]) -> dict[str, Any]:
    lines = [json.dumps(item) for item in items]
    return {"count": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def _rig(rig: StereoRig | None) -> dict[str, str] | None:
    """Return the fields of a rig to six digits: the last ones of a rectification are the machine's."""
    return None if rig is None else {name: f"{value:.6g}" for name, value in rig.to_dict().items()}


def _size(image: Image) -> int | None:
    """Return the size of the file that an image is in, bytes; None: in none of its own, or it cannot be read."""
    while isinstance(image, (HalfImage, RectifiedImage)):
        image = image.image
    if isinstance(image, Path):
        with suppress(OSError):
            return image.stat().st_size
    return None
