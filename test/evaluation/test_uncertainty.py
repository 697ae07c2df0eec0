"""Reliability and sparsification, on errors whose answers are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from support.pair_folders import planes, write_pairs

from fg_depth_ros.data.datasets.stereo import open_stereo_folder
from fg_depth_ros.evaluation.uncertainty import (
    FRACTIONS,
    LEFT_RIGHT,
    SIGMA,
    Uncertainty,
    collect,
    report_uncertainty,
)


def laplace(count: int = 200_000) -> Uncertainty:
    """Laplace errors whose standard deviation is known pixel by pixel."""
    rng = np.random.default_rng(1)
    sigma = rng.uniform(0.2, 4.0, count)
    return Uncertainty(np.abs(rng.laplace(0, sigma / math.sqrt(2))), {SIGMA: sigma, "noise": rng.random(count)})


def test_a_right_sigma_covers_what_its_distribution_says():
    one, two = laplace().coverage((1.0, 2.0))
    assert one == pytest.approx(1 - math.exp(-math.sqrt(2)), abs=0.005)
    assert two == pytest.approx(1 - math.exp(-2 * math.sqrt(2)), abs=0.005)


def test_the_least_certain_go_first():
    four = Uncertainty(np.array([4.0, 1.0, 3.0, 2.0]), {SIGMA: np.array([1.0, 2.0, 3.0, 4.0])})
    kept = np.maximum(np.round((1 - FRACTIONS) * 4), 1).astype(int)
    by_score = {1: 4.0, 2: 2.5, 3: 8 / 3, 4: 2.5}
    best = {1: 1.0, 2: 1.5, 3: 2.0, 4: 2.5}
    assert four.sparsification(four.scores[SIGMA]) == pytest.approx([by_score[k] for k in kept])
    assert four.sparsification() == pytest.approx([best[k] for k in kept])


def test_the_error_itself_is_the_best_score_and_noise_leaves_the_mean():
    found = laplace()
    found.scores["error"] = found.error
    assert found.area_above_best("error") == pytest.approx(0.0)
    left = found.sparsification(found.scores["noise"])
    assert left == pytest.approx(np.full(len(left), found.error.mean()), rel=0.03)
    assert 0 < found.area_above_best(SIGMA) < 0.5 * found.area_above_best("noise")


class FakeMatcher:
    """Answers the true disparity plus 3 px in the upper half of the left view, and says so."""

    model_name = "fake"

    def __init__(self, sigma: bool = True) -> None:
        self.sigma = sigma
        self.doffs: list[float] = []

    def match(self, left, right, doffs):
        self.doffs.append(doffs)
        truth = planes(0)[2].astype(np.float32)
        error = np.zeros_like(truth)
        error[: len(truth) // 2] = 3.0
        return SimpleNamespace(disparity=truth + error, sigma=error + 0.1 if self.sigma else None)

    def match_right(self, left, right, doffs):
        self.doffs.append(doffs)
        return planes(0)[2].astype(np.float32)


def test_pairs_are_compared_pixel_by_pixel(tmp_path):
    samples = open_stereo_folder(write_pairs(tmp_path))
    matcher = FakeMatcher()
    found = collect(matcher, samples)  # type: ignore[arg-type]
    assert matcher.doffs == [0.0] * 4  # of two pairs, both ways: no true disparity is negative
    assert found.error[found.scores[SIGMA] > 1] == pytest.approx(3.0)
    assert found.error[found.scores[SIGMA] < 1] == pytest.approx(0.0, abs=1e-5)
    assert found.area_above_best(SIGMA) == pytest.approx(0.0, abs=1e-6)
    assert found.area_above_best(SIGMA) < found.area_above_best(LEFT_RIGHT)
    rows = report_uncertainty({"planes": found}, {"name": "fake"}).rows
    assert rows[0]["metrics"]["within_1_sigma"] == pytest.approx(100.0)
    assert "within_1_sigma" not in rows[1]["metrics"]


def test_what_cannot_be_compared_is_refused(tmp_path):
    samples = open_stereo_folder(write_pairs(tmp_path))
    with pytest.raises(ValueError, match="fake gives no uncertainty"):
        collect(FakeMatcher(sigma=False), samples)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no pair with true disparity"):
        collect(FakeMatcher(), [])  # type: ignore[arg-type]


def test_the_command_prints_the_table_and_writes_the_plots(run, tmp_path):
    status, text = run(
        "evaluate", "uncertainty", "--data", write_pairs(tmp_path / "pairs"), "--no-motorcycle", "--figures", tmp_path
    )
    assert status == 0, text
    assert "within 1 sigma %" in text and "left-right check" in text
    for name in ("reliability", "sparsification"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
