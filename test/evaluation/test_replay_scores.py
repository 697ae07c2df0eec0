"""Scores of published pairs against hand-computed numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.pair_folders import FAR, NEAR, planes, small_rig

from fg_depth_ros.evaluation.replay.config import ALL, FILLED, MASKED
from fg_depth_ros.evaluation.replay.scores import PublishedPair, ReplayScores
from fg_depth_ros.geometry import disparity_to_depth


def _pair(disparity: np.ndarray, truth: np.ndarray | None, **images: np.ndarray) -> PublishedPair:
    rig = small_rig()
    depth = disparity_to_depth(disparity, rig)
    true_depth = None if truth is None else disparity_to_depth(truth, rig)
    return PublishedPair("a", rig, depth, None, disparity, true_depth, **images)


def test_truth_itself_scores_perfectly_and_needs_no_filling() -> None:
    truth = planes(0)[2]
    scores = ReplayScores()
    scores.add(_pair(truth.copy(), truth))
    rows = scores.rows()
    assert set(rows) == {ALL, MASKED}
    assert rows[ALL]["bad_1"] == 0.0
    assert rows[ALL]["epe"] == pytest.approx(0.0, abs=1e-5)
    assert rows[MASKED]["density"] == 100.0


def test_errors_and_holes_are_counted_by_hand() -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    disparity = truth.copy()
    disparity[:24] += 1.5  # a quarter is off by 1.5 px
    disparity[24:48, :40] = np.nan  # a sixteenth has no answer
    scores = ReplayScores()
    scores.add(_pair(disparity, truth))
    scores.add(_pair(disparity, truth))  # played again: it counts once
    rows = scores.rows()
    assert scores.names == {"a"}
    assert rows[ALL]["density"] == pytest.approx(93.75)
    assert rows[ALL]["bad_1"] == pytest.approx(25 + 6.25)
    assert rows[ALL]["bad_2"] == pytest.approx(6.25)
    assert rows[ALL]["epe"] == pytest.approx(1.5 * 0.25 / 0.9375, rel=1e-5)
    assert rows[FILLED]["density"] == 100.0
    assert rows[FILLED]["bad_1"] == pytest.approx(25.0)
    # Z = 20 / (d + 4): 2 m and, where the disparity is 7.5 px, 20 / 11.5 m
    assert rows[FILLED]["abs_rel"] == pytest.approx(0.25 * (2 - 20 / 11.5) / 2, rel=1e-5)


def test_a_disparity_at_infinity_is_a_depth_that_is_wrong() -> None:
    truth = np.full((96, 160), 6.0, np.float32)  # Z = 20 / (d + 4): 2 m
    dense = truth.copy()
    dense[:, :40], dense[:, 40:80] = -4.0, np.nan  # infinitely far, which is taken for 80 m; no answer
    masked, rig = np.where(dense > 0, dense, np.float32(np.nan)), small_rig()
    scores = ReplayScores()
    scores.add(PublishedPair("a", rig, disparity_to_depth(masked, rig), dense, masked, disparity_to_depth(truth, rig)))
    rows = scores.rows()
    assert rows[ALL]["density"] == 75.0
    assert rows[ALL]["abs_rel"] == pytest.approx((80 - 2) / 2 / 3)
    assert rows[ALL]["rmse"] == pytest.approx((78**2 / 3) ** 0.5)
    assert rows[ALL]["delta_1"] == pytest.approx(0.5)
    assert rows[MASKED]["abs_rel"] == pytest.approx(0.0, abs=1e-6)


def test_truth_out_of_range_is_not_compared() -> None:
    truth = np.full((96, 160), 6.0, np.float32)  # Z = 20 / (d + 4): 2 m
    truth[:, 80:120], truth[:, 120:] = -3.6, 36.0  # 50 m and 0.5 m
    rig, depth = small_rig(), disparity_to_depth(truth, small_rig())
    inside = (depth >= 1) & (depth <= 20)
    published, masked = np.where(inside, depth, np.float32(np.nan)), np.where(inside, truth, np.float32(np.nan))
    scores = ReplayScores(1.0, 20.0)
    scores.add(PublishedPair("a", rig, published, truth, masked, depth))
    wrong = np.where(inside, truth, truth + 9)  # wrong where nothing is compared
    scores.add(PublishedPair("b", rig, published, wrong, None, depth))
    for row in scores.rows().values():
        assert row["density"] == 100.0
        assert row["epe"] == pytest.approx(0.0, abs=1e-5)
        assert row["bad_1"] == row["d1"] == 0.0


def test_what_the_node_masks_is_left_out_of_the_masked_row_only() -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    dense = truth.copy()
    dense[:24] += 1.5
    masked = dense.copy()
    masked[:12] = np.nan  # the mask finds half of what is wrong: an eighth of the image
    rig = small_rig()
    scores = ReplayScores()
    scores.add(PublishedPair("a", rig, disparity_to_depth(masked, rig), dense, masked, disparity_to_depth(truth, rig)))
    rows = scores.rows()
    assert set(rows) == {ALL, MASKED}
    assert rows[ALL]["bad_1"] == pytest.approx(25.0)
    assert rows[MASKED]["density"] == pytest.approx(87.5)
    assert rows[MASKED]["bad_1"] == pytest.approx(100 * 0.125 / 0.875)
    assert rows[MASKED]["abs_rel"] == pytest.approx(0.125 / 0.875 * (2 - 20 / 11.5) / 2, rel=1e-5)


def test_without_truth_the_images_must_agree() -> None:
    left, right, truth = planes(0)
    scores = ReplayScores()
    scores.add(_pair(truth, None, left=left, right=right))
    (row,) = scores.rows().values()
    # The wall behind the square's shadow and the columns that leave the image are not seen by both.
    shadow = (NEAR - FAR) * 48 + FAR * 96
    assert row["seen_by_both"] == pytest.approx(100 * (1 - shadow / truth.size), abs=0.7)
    assert row["photometric"] < 1.0
    assert row["density"] == 100.0

    wrong = ReplayScores()
    wrong.add(_pair(truth + 3, None, left=left, right=right))
    assert wrong.rows()[ALL]["photometric"] > 20.0


def test_sizes_that_differ_are_named() -> None:
    rig = small_rig()
    pair = PublishedPair("a", rig, np.ones((48, 80), np.float32))
    with pytest.raises(ValueError, match="depth is 80x48 and the camera 160x96"):
        ReplayScores().add(pair)


def test_pairs_are_pooled_once_each_and_can_be_chosen(tmp_path: Path) -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    good, bad = _pair(truth.copy(), truth), _pair(truth + 1.5, truth)
    scores = ReplayScores()
    for _ in range(3):
        scores.add(replace(good, name="good"))
    scores.add(replace(good, name="turns bad"))
    scores.add(replace(bad, name="turns bad"))  # the last answer counts
    assert scores.rows()[ALL]["bad_1"] == pytest.approx(50.0)
    assert scores.rows({"good"})[ALL]["bad_1"] == 0.0
    assert scores.rows({"nobody"}) == {}

    scores.write(tmp_path / "scores.json")
    again = ReplayScores.read(tmp_path / "scores.json")
    assert again.rows() == scores.rows()
    assert set(again.methods("sgbm")) == {"sgbm", "sgbm masked"}
    (tmp_path / "scores.json").write_text('{"a": {"rows": {"x": {}}}}')
    with pytest.raises(ValueError, match=r"scores\.json: no scores"):
        ReplayScores.read(tmp_path / "scores.json")


def test_methods_are_named_by_what_was_done_to_their_holes() -> None:
    truth = np.full((96, 160), 6.0, np.float32)
    holes = truth.copy()
    holes[:10] = np.nan
    scores = ReplayScores()
    scores.add(_pair(holes, truth))
    assert list(scores.methods("sgbm")) == ["sgbm unfilled", "sgbm filled", "sgbm masked"]
