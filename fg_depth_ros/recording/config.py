"""Configuration of a recorder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fg_depth_ros.files import expand_home

Storage = Literal["raw", "zstd", "png", "jpeg"]


@dataclass(frozen=True)
class RecorderConfig:
    """Configuration of a recorder; raises ValueError naming a field, its value and what is allowed."""

    root: Path
    """Folder of the episodes; made where it is missing, unless it vanishes while the recorder runs."""
    before: float = 5.0
    """Seconds before a trigger."""
    after: float = 5.0
    """Seconds after a trigger."""
    ring_bytes: int = 512 << 20
    """Bytes that the seconds before may take in memory."""
    queue_bytes: int = 256 << 20
    """Bytes that may wait for the disk; what comes beyond is dropped and counted."""
    quota_bytes: int = 0
    """Bytes of all recordings in the folder; 0: no limit."""
    free_floor_bytes: int = 2 << 30
    """Bytes of the disk that stay free."""
    max_episode_bytes: int = 4 << 30
    """An episode of this size is continued in another."""
    max_episode_seconds: float = 300.0
    """An episode of this length is continued in another."""
    storage: Storage = "raw"
    """raw; zstd: packed chunks; png, jpeg: images are encoded (by the recorder's ``encode``)."""
    jpeg_quality: int = 95
    """1 to 100; for ``encode``."""
    sync_seconds: float = 1.0
    """Seconds between two syncs to the disk: what a power cut may cost."""
    prefix: str = "episode"
    """Prefix of episode names."""

    def __post_init__(self) -> None:
        for name in ("before", "after", "sync_seconds", "max_episode_seconds"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} is {value}: give seconds, 0 or more")
        for name in ("ring_bytes", "queue_bytes", "quota_bytes", "free_floor_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give bytes, 0 or more")
        if self.max_episode_bytes < 1 or self.max_episode_seconds <= 0:
            raise ValueError(
                f"max_episode_bytes is {self.max_episode_bytes} and max_episode_seconds {self.max_episode_seconds}: "
                "give more than 0, an episode holds something"
            )
        if self.storage not in get_args(Storage):
            raise ValueError(f"storage is '{self.storage}': {', '.join(get_args(Storage))} are known")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {self.jpeg_quality}: give 1 to 100")
        if not self.prefix or "/" in self.prefix or self.prefix.startswith("."):
            raise ValueError(f"prefix is '{self.prefix}': give the beginning of a folder's name")
        object.__setattr__(self, "root", expand_home(self.root, "root"))
