"""Boxes and voxels of point clouds, against loops over points."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from fg_depth_ros.geometry.clouds import inside_box, voxel_means

EVERYWHERE = (np.full(3, -np.inf), np.full(3, np.inf))


def some_points(count: int, seed: int = 0, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(0, spread, (count, 3)).astype(np.float32), random.integers(0, 256, (count, 3), dtype=np.uint8)


def by_loop(points: np.ndarray, colours: np.ndarray, size: float) -> dict[tuple[int, ...], tuple[np.ndarray, ...]]:
    found = defaultdict(list)
    for point, colour in zip(points, colours, strict=True):
        found[tuple(int(np.floor(v * np.float32(1 / size))) for v in point)].append((point, colour))
    return {
        cell: tuple(np.mean(np.float64(each), axis=0) for each in zip(*of, strict=True)) for cell, of in found.items()
    }


@pytest.mark.parametrize("spread", [0.3, 5.0, 1e6])  # the last: more voxels than 64 bits can number
def test_voxels_have_the_mean_of_their_points(spread: float) -> None:
    size = 0.25
    points, colours = some_points(3000, spread=spread)
    points = np.concatenate([points, points[:500] + np.float32(0.01)])  # some share a voxel whatever the spread
    colours = np.concatenate([colours, colours[::-1][:500]])
    expected = by_loop(points, colours, size)
    found, mixed = voxel_means(points, colours, size)
    assert found.dtype == np.float32 and mixed.dtype == np.uint8
    assert len(found) == len(mixed) == len(expected)
    for (_, (point, colour)), p, c in zip(sorted(expected.items()), found, mixed, strict=True):
        np.testing.assert_allclose(p, point, rtol=1e-6, atol=1e-6)
        assert np.abs(c - colour).max() <= 0.5 + 1e-9


def test_grey_colours_none_and_no_points() -> None:
    points = np.array([[0.1, 0.1, 1.1], [0.2, 0.1, 1.3], [-0.1, 0.1, 1.1]], np.float32)
    found, grey = voxel_means(points, np.array([10, 21, 99], np.uint8), 1.0)
    np.testing.assert_allclose(found, [[-0.1, 0.1, 1.1], [0.15, 0.1, 1.2]], rtol=1e-6)
    assert grey.tolist() == [99, 16]  # 15.5, to even
    np.testing.assert_array_equal(voxel_means(points, None, 1.0)[0], found)
    assert voxel_means(points, None, 1.0)[1] is None
    assert len(voxel_means(points[:0], None, 1.0)[0]) == 0


def test_a_box_keeps_what_is_inside_and_its_sides() -> None:
    points, _ = some_points(4000)
    points[::7] = np.nan
    points[1], points[2] = (-1, 2, 3), (-1.0001, 2, 3)
    low, high = np.array([-1.0, -2.0, -np.inf]), np.array([1.5, 2.0, 3.0])
    expected = [all(a <= v <= b for v, a, b in zip(p, low, high, strict=True)) for p in points.tolist()]
    np.testing.assert_array_equal(inside_box(points, low, high), expected)
    assert inside_box(points, low, high)[1] and not inside_box(points, low, high)[2]
    image = points.reshape(40, 100, 3)
    np.testing.assert_array_equal(inside_box(image, low, high).reshape(-1), expected)
    np.testing.assert_array_equal(inside_box(points, *EVERYWHERE), np.isfinite(points[:, 0]))


def test_a_box_in_another_frame() -> None:
    # camera 0.4 m above the ground and 0.2 m ahead, looking forward: robot x = z + 0.2, y = -x, z = 0.4 - y
    to_robot = np.array([[0, 0, 1, 0.2], [-1, 0, 0, 0], [0, -1, 0, 0.4], [0, 0, 0, 1.0]])
    points, _ = some_points(2000)
    points[::9] = np.nan
    low, high = np.array([0.5, -1.0, 0.1]), np.array([4.0, 1.0, 1.8])
    x, y, z = points.T
    expected = (z + 0.2 >= 0.5) & (z + 0.2 <= 4) & (-x >= -1) & (-x <= 1) & (0.4 - y >= 0.1) & (0.4 - y <= 1.8)
    np.testing.assert_array_equal(inside_box(points, low, high, to_robot), expected)
