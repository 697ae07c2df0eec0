"""Pairs are matched within the time budget where the automatic scale can see to it."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator
from fg_depth_ros.inference.time_budget import TimeBudget

WIDTH, HEIGHT = 256, 128
CONFIG = StereoConfig("sgbm", inference_scale="auto", min_depth=0.5, photometric_check=False)
RIG = StereoRig(WIDTH, HEIGHT, 200.0, 200.0, 127.5, 63.5, 127.5, 0.1)  # 40 px at min_depth


class Clocked(StereoDepthEstimator):
    """A pair takes 0.1 s at the whole size, in proportion to its pixels."""

    def __init__(self, config: StereoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(config)
        self.now, match = 0.0, self._method.match

        def timed(left: np.ndarray, *others: object) -> object:
            self.now += 0.1 * left.shape[0] * left.shape[1] / (WIDTH * HEIGHT)
            return match(left, *others)

        monkeypatch.setattr(self._method, "match", timed)
        monkeypatch.setattr("fg_depth_ros.inference.stereo.time.perf_counter", lambda: self.now)

    def pairs(self, count: int, rig: StereoRig = RIG) -> list[float]:
        """Match pairs; returns the time of each, s."""
        image = np.random.default_rng(0).integers(0, 256, (rig.height, rig.width), np.uint8)
        return [self.estimate(image, image, rig).seconds for _ in range(count)]


@pytest.mark.parametrize("budget", [0.05, 0.02])
def test_the_scale_is_lowered_until_pairs_are_in_time(monkeypatch: pytest.MonkeyPatch, budget: float) -> None:
    estimator = Clocked(dataclasses.replace(CONFIG, time_budget=budget), monkeypatch)
    assert estimator.scale(RIG) == 1.0 and estimator.scale_reason == "min_depth is 0.5 m"
    estimator.pairs(20)
    assert 0.8 * budget < estimator.pairs(1)[0] <= budget
    assert estimator.scale_reason == f"time_budget is {budget:g} s, and pairs took 0.100 s"
    scale = estimator.scale(RIG)
    assert estimator.search_range(RIG).last > 191 / scale - 4  # the rest of the estimate knows
    estimator.pairs(60)
    assert estimator.scale(RIG) == scale and estimator.over_budget is None


def test_a_pair_was_searched_at_the_scale_that_it_was_matched_at(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = Clocked(dataclasses.replace(CONFIG, time_budget=0.05), monkeypatch)
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(21):
        searched = estimator.search_range(RIG)
        assert estimator.estimate(image, image, RIG).searched == searched
    assert estimator.scale(RIG) < 1


def test_what_the_smallest_scale_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = Clocked(dataclasses.replace(CONFIG, time_budget=0.001), monkeypatch)
    estimator.pairs(20)
    assert estimator.scale(RIG) == 0.25
    for _ in range(20):
        assert estimator.over_budget is None  # not known yet
        estimator.pairs(1)
    assert estimator.over_budget is not None
    assert "a pair takes 0.006 s even at inference_scale 0.25, and time_budget is 0.001 s" in estimator.over_budget


def test_a_slow_pair_now_and_then_changes_nothing_and_the_scale_is_never_raised() -> None:
    budget, factors = TimeBudget(0.05), []
    for number in range(200):
        slow = number % 5 == 0 or 80 <= number < 120
        budget.observe(budget.factor, 0.3 if slow else 0.04 * budget.factor**2)
        factors.append(budget.factor)
    assert set(factors[:80]) == {1.0}
    assert factors[-1] < 0.5 and all(after <= before for before, after in pairwise(factors))


def test_images_of_another_size_have_a_scale_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    half = RIG.scaled(WIDTH // 2, HEIGHT // 2)
    estimator = Clocked(dataclasses.replace(CONFIG, time_budget=0.004), monkeypatch)
    estimator.pairs(40)
    assert (smallest := estimator.scale(RIG)) == 0.25 and estimator.over_budget is not None
    assert estimator.scale(half) == 1.0  # they are a quarter as many pixels
    estimator.pairs(1, half)
    assert estimator.over_budget is None and estimator.scale_reason == "min_depth is 0.5 m"
    estimator.pairs(40, half)
    assert smallest < estimator.scale(half) < 1 and estimator.over_budget is None
    assert estimator.scale(RIG) == smallest  # known again where the camera is set back


@pytest.mark.parametrize("options", [{}, {"time_budget": 0.001, "inference_scale": 1.0}])
def test_without_a_budget_or_with_a_fixed_scale_time_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, float]
) -> None:
    estimator = Clocked(dataclasses.replace(CONFIG, **options), monkeypatch)
    estimator.pairs(45)
    assert estimator.scale(RIG) == 1.0 and estimator.over_budget is None
    assert estimator.scale_reason == ("min_depth is 0.5 m" if not options else "")


def test_a_budget_that_is_none_is_refused() -> None:
    for seconds in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="time_budget must be a number of seconds, 0 for none"):
            StereoConfig(time_budget=seconds)
