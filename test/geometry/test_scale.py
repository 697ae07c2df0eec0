"""The factor between two depth maps."""

from __future__ import annotations

import numpy as np
import pytest

from fg_depth_ros.geometry import scale_between


def test_the_factor_is_found_among_many_wrong_pixels() -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 50, (40, 50)).astype(np.float32)
    reference = depth * np.float32(1.7)
    wrong = rng.random(depth.shape) < 0.4
    reference[wrong] = rng.uniform(0.1, 200, np.count_nonzero(wrong))
    assert scale_between(depth, reference, np.ones(depth.shape, bool)) == pytest.approx(1.7, rel=0.05)
    assert scale_between(depth, reference, ~wrong) == pytest.approx(1.7, rel=1e-5)


def test_only_trusted_finite_and_positive_pixels_count() -> None:
    depth, reference = np.full((20, 20), 2.0, np.float32), np.full((20, 20), 3.0, np.float32)
    reference[:8] = np.nan
    depth[8:12] = np.inf
    depth[12:14] = 0
    trusted = np.ones((20, 20), bool)
    trusted[:, 10:] = False
    assert scale_between(depth, reference, trusted, least=60) == pytest.approx(1.5)
    assert scale_between(depth, reference, trusted, least=61) is None
    assert scale_between(depth, np.full_like(depth, np.nan), trusted, least=1) is None


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="sizes must agree"):
        scale_between(np.zeros((2, 3)), np.zeros((3, 2)), np.zeros((2, 3), bool))
