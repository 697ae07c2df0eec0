"""The messages of one replayed pair as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from stereo_msgs.msg import DisparityImage

from fg_depth_ros.data.io import messages
from fg_depth_ros.evaluation.replay.scores import PublishedPair
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.nodes.evaluator.pair_ledger import PairEntry

DEPTH, TRUTH = "depth/image_rect", "ground_truth/depth"


def image_disparity(message: DisparityImage, rig: StereoRig) -> np.ndarray:
    """Image disparity `x_left - x_right` (float32 px, NaN none) of a message, whose own disparity is
    `x_left - x_right - (cx_left - cx_right)`. What lies outside its range is no answer: so some nodes mark holes.

    Raises MessageError when the image is not 32FC1.
    """
    values = messages.float_array(message.image, "disparity")
    answered = (values >= message.min_disparity) & (values <= message.max_disparity) & (values > 0)
    return np.where(answered, values - np.float32(rig.doffs), np.float32(np.nan))


def published_pair(entry: PairEntry, rig: StereoRig) -> PublishedPair:
    """The messages of a pair as arrays. Raises MessageError (a ValueError) naming topic and value."""
    parts: dict[str, Any] = entry.parts
    disparity = dense = None
    if "disparity" in parts:
        disparity = image_disparity(parts["disparity"], rig)
    if "flow" in parts:
        dense = -messages.float_array(parts["flow"], "flow/image")[..., 0]
    images = {side: messages.image_to_array(parts[side], side) for side in ("left", "right") if side in parts}
    return PublishedPair(
        entry.name or f"pair at {entry.stamp * 1e-9:.9f} s",
        rig,
        messages.depth_to_array(parts["depth"], DEPTH),
        dense,
        disparity,
        messages.depth_to_array(parts["truth"], TRUTH) if "truth" in parts else None,
        **images,
    )
