"""Optical flow from one left image to the next."""

from __future__ import annotations

import numpy as np

from fg_depth_ros.inference import FlowEstimator

_LONGEST_GAP = 1_000_000_000  # ns between two frames that still show one motion
_FRAMES_APART = 3  # in a row, before that is a fault


class TemporalFlow:
    """Flow from the left image before to the newest one. Not thread-safe."""

    def __init__(self) -> None:
        self._before: tuple[int, np.ndarray] | None = None
        self._apart = 0  # images in a row that came too long after the one before
        self._gap = 0.0  # s, of the last of them

    @property
    def problem(self) -> str | None:
        """Why there is no flow, or None: several images in a row came too long after the one before."""
        if self._apart < _FRAMES_APART:
            return None
        return (
            f"nothing is published on temporal_flow/*: pairs are more than {_LONGEST_GAP * 1e-9:g} s apart (the last "
            f"two {self._gap:.2f} s): let the cameras send them faster, or, where pairs are dropped, set model to a "
            "faster one or inference_scale lower"
        )

    def update(self, stamp: int, left: np.ndarray, estimator: FlowEstimator) -> np.ndarray | None:
        """Return the flow from the image before to ``left``, H x W x 2 float32 px; ``stamp``: of ``left``, ns.

        None if there is no image to compare with: the first one, another size, more than a second ago, or a later
        stamp (a source that begins again). Raises OutOfMemory.
        """
        before, self._before = self._before, (stamp, left)
        gap = 0 if before is None else stamp - before[0]
        self._apart, self._gap = self._apart + 1 if gap > _LONGEST_GAP else 0, gap * 1e-9
        if before is None or not 0 < stamp - before[0] <= _LONGEST_GAP or before[1].shape != left.shape:
            return None
        return estimator.estimate(before[1], left).flow

    def reset(self) -> None:
        """Begin again with the next image."""
        self._before, self._apart = None, 0
