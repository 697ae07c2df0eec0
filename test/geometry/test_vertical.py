"""Median and tilt of the vertical flow, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fg_depth_ros.geometry import vertical_flow


def flow_of(vertical: np.ndarray) -> np.ndarray:
    return np.stack([np.full_like(vertical, -12.0), vertical], -1).astype(np.float32)


def test_a_tilted_camera():
    columns = np.arange(300) - 149.5
    found = vertical_flow(flow_of(np.tile(0.8 + 0.01 * columns, (60, 1))))
    assert found.median == pytest.approx(0.8, abs=0.01)
    assert found.tilt == pytest.approx(3.0, abs=0.02)  # 0.01 px a column, 300 columns


def test_wrong_matches_in_a_third_of_the_pixels_change_nothing():
    rng = np.random.default_rng(0)
    vertical = np.full((90, 300), 0.5)
    wrong = rng.random(vertical.shape) < 0.33
    vertical[wrong] = rng.uniform(-40, 40, wrong.sum())
    found = vertical_flow(flow_of(vertical))
    assert found == pytest.approx((0.5, 0.0), abs=0.01)


def test_only_reliable_and_known_pixels_count():
    vertical = np.full((60, 300), 0.5)
    vertical[:, ::2] = 30.0
    reliable = np.ones(vertical.shape, bool)
    reliable[:, ::2] = False
    flow = flow_of(vertical)
    flow[0] = np.nan
    assert vertical_flow(flow, reliable) == pytest.approx((0.5, 0.0))
    assert vertical_flow(flow, np.zeros_like(reliable)) is None
