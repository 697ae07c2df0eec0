"""Transforms of /tf without tf2_ros: of each frame the nearest to a stamp, none that are stale."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from fg_depth_ros.nodes.common.frames import Frames

SECOND = 1_000_000_000


def message(parent: str, child: str, x: float = 0.0, w: float = 1.0, at: float = 0.0) -> SimpleNamespace:
    sec, nanosec = divmod(round(at * 1e9), SECOND)
    header = SimpleNamespace(frame_id=parent, stamp=SimpleNamespace(sec=sec, nanosec=nanosec))
    shift, turn = SimpleNamespace(x=x, y=0.0, z=0.0), SimpleNamespace(x=0.0, y=0.0, z=0.0, w=w)
    transform = SimpleNamespace(translation=shift, rotation=turn)
    return SimpleNamespace(transforms=[SimpleNamespace(header=header, child_frame_id=child, transform=transform)])


def test_static_transforms_hold_at_any_time_and_moving_ones_for_a_second() -> None:
    frames = Frames()
    assert frames.between("base", "camera", 5 * SECOND) is None
    frames.add(message("head", "camera", x=0.1), static=True)
    frames.add(message("base", "head", x=1.0, at=10.0), static=False)
    for stamp, known in ((9, True), (10, True), (11, True), (8, False), (12, False)):
        matrix = frames.between("base", "camera", stamp * SECOND)
        assert (matrix is not None) == known
    np.testing.assert_allclose(frames.between("base", "camera", 10 * SECOND)[:3, 3], [1.1, 0, 0])
    np.testing.assert_allclose(frames.between("camera", "base", 10 * SECOND)[:3, 3], [-1.1, 0, 0])
    frames.add(message("base", "head", x=2.0, at=12.0), static=False)
    np.testing.assert_allclose(frames.between("base", "camera", 12 * SECOND)[:3, 3], [2.1, 0, 0])
    frames.add(message("base", "head", x=3.0, at=1.0), static=False)  # a bag that starts again
    np.testing.assert_allclose(frames.between("base", "camera", 1 * SECOND)[:3, 3], [3.1, 0, 0])


def test_of_moving_transforms_the_nearest_to_a_slow_pair_counts_and_old_ones_are_dropped() -> None:
    frames = Frames()
    for tenth in [*range(148), 149, 148]:  # 15 s at 10 Hz, one late
        frames.add(message("base", "camera", x=tenth, at=100 + tenth / 10), static=False)
    for tenth in (60, 61, 148, 149):
        for beside in (-0.04, 0.04):
            matrix = frames.between("base", "camera", round((100 + tenth / 10 + beside) * SECOND))
            assert matrix[0, 3] == tenth
    assert frames.between("base", "camera", 102 * SECOND) is None  # more than 10 s ago
    assert frames.between("base", "camera", 116 * SECOND) is None
    assert frames.connected("base", "camera") and frames.connected("camera", "base")
    assert not frames.connected("base", "arm")
    frames.add(message("base", "camera", x=7.0), static=True)
    assert frames.between("base", "camera", 102 * SECOND)[0, 3] == 7.0


def test_what_is_no_transform_is_left_out_and_a_frame_has_one_parent() -> None:
    frames = Frames()
    frames.add(message("base", "camera", w=0.0), static=True)
    assert frames.between("base", "camera", 0) is None
    frames.add(message("base", "camera", x=1.0), static=True)
    frames.add(message("arm", "camera", x=5.0), static=True)
    assert frames.between("base", "camera", 0) is None
    assert frames.between("arm", "camera", 0) is not None
    np.testing.assert_array_equal(frames.between("camera", "camera", 0), np.eye(4))
