"""How the pairs of a bag are found; imports no other module, so that the command line shows its options at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

STAMPS = ("header", "recorded")
"""Source of the times of messages."""
_TOPIC = {"metavar": "TOPIC"}


@dataclass(frozen=True)
class PairTopics:
    """The topics of a stereo pair in bags, what is empty is found by name; and whether the pair is raw.

    Raises ValueError: an unknown word, or a slop below 0, named as options of the command line.
    """

    PANEL: ClassVar[str] = "Bags and raw pairs"
    """Heading of the options in the help of a command."""
    left: str = field(default="", metadata=_TOPIC)
    """Topic of the left images in bags; default: found by name."""
    right: str = field(default="", metadata=_TOPIC)
    """Topic of the right images in bags."""
    left_info: str = field(default="", metadata=_TOPIC)
    """Topic of the left camera_info; default: next to the images."""
    right_info: str = field(default="", metadata=_TOPIC)
    """Topic of the right camera_info."""
    slop: float = 0.0
    """Largest difference of the two stamps of a pair in bags, s."""
    rectify: str = field(default="auto", metadata={"metavar": "auto|on|off"})
    """Rectify images by their calibration: on, off, or auto: those that seem raw (docs/data.md)."""
    stamps: str = field(default="header", metadata={"metavar": "|".join(STAMPS)})
    """Times of images in bags: header, or, where drivers leave that at 0, recorded (when they were written)."""

    def __post_init__(self) -> None:
        from fg_depth_ros.geometry.rectification import RECTIFY  # loads OpenCV

        for option, value, known in (("stamps", self.stamps, STAMPS), ("rectify", self.rectify, RECTIFY)):
            if value not in known:
                raise ValueError(f"--{option} '{value}' is unknown; choose one of {', '.join(known)}")
        if not 0 <= self.slop < math.inf:
            raise ValueError(f"--slop must be 0 s or more, got {self.slop:g}")

    def given(self) -> dict[str, Any]:
        """Return what was given, as options of ``data.datasets.stereo.open_stereo`` and ``open_bag_pairs``."""
        unset = {"rectify": "auto", "stamps": "header"}
        return {name: value for name, value in vars(self).items() if value and value != unset.get(name)}
