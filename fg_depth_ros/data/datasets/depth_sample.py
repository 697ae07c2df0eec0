"""One image and its true depth: what depth methods are judged on, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from fg_depth_ros.data.io.formats import FileError, read_image
from fg_depth_ros.geometry import StereoRig

ArrayReader = Callable[[], np.ndarray]
Crop = Literal["none", "garg", "nyu"]
CROPS = ("none", "garg", "nyu")


@dataclass(frozen=True)
class DepthProtocol:
    """Which pixels of a data set are judged, and how."""

    name: str = ""
    """Of a published protocol; empty = none."""
    crop: Crop = "none"
    """none; garg: of Garg et al., ECCV 2016, for KITTI; nyu: of Eigen et al., NIPS 2014, for NYU."""
    min_depth: float = 1e-3
    """Truth up to this is not judged, answers are clamped to it, m."""
    max_depth: float = 80.0
    """Truth from this on is not judged, answers are clamped to it, m."""

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(f"crop '{self.crop}' is unknown; choose one of {', '.join(CROPS)}")
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(f"need 0 < min_depth < max_depth, got {self.min_depth} and {self.max_depth} m")


class StereoPair(Protocol):
    """A rectified pair with its rig: a ``StereoSample`` or a ``BagSample``."""

    @property
    def rig(self) -> StereoRig | None:
        """Calibration at the images' size."""
        ...

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """Left and right, uint8 RGB H x W x 3."""
        ...


@dataclass(frozen=True)
class DepthSample:
    """One image with its focal length and, where known, its depth. Nothing is read before it is asked for, nor kept."""

    name: str
    image: Path | ArrayReader
    """A file, or what returns uint8 RGB H x W x 3."""
    fx: float
    """Focal length of this image, px."""
    truth_reader: ArrayReader | None = field(default=None, repr=False)
    pair: StereoPair | None = field(default=None, repr=False)
    """The stereo pair whose left image this is, where there is one: for stereo methods beside."""
    protocol: DepthProtocol = DepthProtocol()

    def __post_init__(self) -> None:
        if not self.fx > 0:
            raise FileError(
                f"{self.name}: focal length is {self.fx} px; give the camera's, a positive number of pixels"
            )

    def image_rgb(self) -> np.ndarray:
        """The image, uint8 RGB H x W x 3. Raises FileError where it cannot be read."""
        return read_image(self.image) if isinstance(self.image, Path) else self.image()

    def truth(self) -> np.ndarray | None:
        """True depth along the optical axis, float32 H x W m, NaN unknown; None where there is none.

        Its size may differ from the image's, not its shape. Raises FileError where it cannot be read.
        """
        if self.truth_reader is None:
            return None
        depth = np.asarray(self.truth_reader(), dtype=np.float32)
        if depth.ndim != 2:
            raise FileError(f"{self.name}: true depth has the shape {depth.shape}; it is H x W")
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))
