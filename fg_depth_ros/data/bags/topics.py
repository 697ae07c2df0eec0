"""How the pairs of a bag are found; imports nothing, so that the command line shows its options at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PairTopics:
    """The topics of a stereo pair in bags, what is empty is found by name; and whether the pair is raw."""

    left: str = ""
    """Topic of the left images in bags; default: found by name."""
    right: str = ""
    """Topic of the right images in bags."""
    left_info: str = ""
    """Topic of the left camera_info; default: next to the images."""
    right_info: str = ""
    """Topic of the right camera_info."""
    slop: float = 0.0
    """Largest difference of the two stamps of a pair in bags, s."""
    rectify: str = "auto"
    """Rectify images by their calibration: on, off, or auto: those that seem raw (docs/data.md)."""
    stamps: str = "header"
    """Times of images in bags: those of their header, or, where drivers leave these at 0, when they were recorded."""

    def given(self) -> dict[str, Any]:
        """Return what was given, as options of ``data.datasets.stereo.open_stereo`` and ``open_bag_pairs``."""
        unset = {"rectify": "auto", "stamps": "header"}
        return {name: value for name, value in vars(self).items() if value and value != unset.get(name)}
