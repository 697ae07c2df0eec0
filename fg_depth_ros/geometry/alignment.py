"""Scale between two depth maps."""

from __future__ import annotations

import numpy as np


def scale_between(depth: np.ndarray, reference: np.ndarray, trusted: np.ndarray, least: int = 200) -> float | None:
    """Return the factor from ``depth`` to ``reference``: ``exp(median(log(reference / depth)))``.

    The median resists errors in less than half of the pixels (the median scaling of Zhou et al., CVPR
    2017, with the ratio taken pixel by pixel).

    Args:
        depth, reference: H x W m; what is not finite or not positive is left out.
        trusted: H x W bool, the pixels to compare.
        least: fewer usable pixels than this say nothing.

    Returns:
        The factor, > 0; None where there are too few pixels.

    Raises:
        ValueError: the sizes differ.
    """
    if not depth.shape == reference.shape == trusted.shape:
        raise ValueError(
            f"depth is {depth.shape}, reference {reference.shape} and trusted {trusted.shape}: sizes must agree"
        )
    a, b = depth[trusted].astype(np.float64), reference[trusted].astype(np.float64)
    usable = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    if np.count_nonzero(usable) < least:
        return None
    return float(np.exp(np.median(np.log(b[usable]) - np.log(a[usable]))))
