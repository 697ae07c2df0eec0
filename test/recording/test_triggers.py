"""What calls for an episode, and the figures behind it, against hand-made situations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fg_depth_ros.geometry.masks import Label
from fg_depth_ros.recording.measures import confident_share, disagreement, mean_flow, small_grey
from fg_depth_ros.recording.triggers import KINDS, PeriodicTimer, RateLimiter, above, below

SECOND = 1_000_000_000


def limiter() -> tuple[RateLimiter, list[tuple[str, str]]]:
    fired: list[tuple[str, str]] = []
    return RateLimiter(lambda kind, detail: fired.append((kind, detail))), fired


# ---- bad input ------------------------------------------------------------------------------------------------


def test_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    made, fired = limiter()
    with pytest.raises(ValueError, match="'earthquake'.*interval.*manual"):
        made.call("earthquake", "", 0)
    assert fired == []


@pytest.mark.parametrize("figure", [None, float("nan")])
def test_what_cannot_be_measured_fires_nothing(figure: float | None) -> None:
    assert above(figure, 1.0, "flow") is None
    assert below(figure, 1.0, "share") is None


def test_sizes_that_differ_are_refused() -> None:
    small, large = np.zeros((20, 30)), np.zeros((20, 31))
    with pytest.raises(ValueError, match="sizes must agree"):
        disagreement(small, large)
    with pytest.raises(ValueError, match="sizes must agree"):
        disagreement(small, small, np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="sizes must agree"):
        mean_flow(small.astype(np.uint8), large.astype(np.uint8))
    with pytest.raises(ValueError, match="too small"):
        mean_flow(np.zeros((10, 160), np.uint8), np.zeros((10, 160), np.uint8))


# ---- rules over time --------------------------------------------------------------------------------------------


def test_a_period_begins_with_the_first_question_and_is_counted_from_there() -> None:
    every = PeriodicTimer()
    asked = [
        (at, every.due(round(at * SECOND), 2.0)) for at in (100.0, 101.0, 101.9, 102.0, 103.9, 104.5, 106.4, 106.5)
    ]
    assert [at for at, due in asked if due] == [102.0, 104.5, 106.5]


def test_a_clock_that_jumps_back_begins_a_new_period() -> None:
    every = PeriodicTimer()
    assert not every.due(100 * SECOND, 2.0)
    assert every.due(103 * SECOND, 2.0)
    assert not every.due(10 * SECOND, 2.0)
    assert not every.due(11 * SECOND, 2.0)
    assert every.due(12 * SECOND, 2.0)


def test_one_of_a_kind_per_cooldown_and_each_kind_for_itself() -> None:
    made, fired = limiter()
    went = [
        made.call("motion", "first", 100 * SECOND, 5.0),
        made.call("motion", "too soon", 104 * SECOND, 5.0),
        made.call("interval", "another kind", 104 * SECOND, 5.0),
        made.call("motion", "again", 105 * SECOND, 5.0),
    ]
    assert went == [True, False, True, True]
    assert fired == [("motion", "first"), ("interval", "another kind"), ("motion", "again")]
    assert made.values() == {
        "triggered: interval": "1",
        "triggered: motion": "2",
        "suppressed by cooldown: motion": "1",
    }


def test_a_manual_call_always_goes_through() -> None:
    made, fired = limiter()
    assert all(made.call("manual", "", SECOND + i, 60.0) for i in range(3))
    assert len(fired) == 3


def test_after_a_jump_back_the_cooldown_does_not_wait_for_the_old_time() -> None:
    made, _ = limiter()
    assert made.call("motion", "", 100 * SECOND, 5.0)
    assert made.call("motion", "", 1 * SECOND, 5.0)
    assert not made.call("motion", "", 2 * SECOND, 5.0)


def test_limits_are_exclusive_name_the_figure_and_zero_is_off() -> None:
    assert above(2.5, 2.0, "mean flow", " px") == "mean flow 2.5 px, above 2 px"
    assert above(2.0, 2.0, "mean flow") is None
    assert above(2.5, 0.0, "mean flow") is None
    assert below(0.25, 0.5, "share") == "share 0.25, below 0.5"
    assert below(0.5, 0.5, "share") is None
    assert below(-1.0, 0.0, "share") is None


def test_the_kinds_are_those_of_the_manifest() -> None:
    assert set(KINDS) == {"interval", "motion", "disagreement", "low_confidence", "calibration", "manual"}


# ---- figures ------------------------------------------------------------------------------------------------


def texture(height: int, width: int, seed: int = 1) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def test_mean_flow_is_the_shift_of_a_shifted_image() -> None:
    wide = texture(120, 180)
    before, after = wide[:, 10:170], wide[:, 7:167]  # the scene moves 3 px to the right
    assert mean_flow(before, after) == pytest.approx(3.0, abs=0.2)
    assert mean_flow(before, before) == pytest.approx(0.0, abs=0.01)


def test_mean_flow_is_the_length_of_the_flow_not_of_one_component() -> None:
    whole = texture(140, 180)
    before, after = whole[10:130, 10:170], whole[6:126, 7:167]  # (3, 4) px: 5 px
    assert mean_flow(before, after) == pytest.approx(5.0, abs=0.3)


def test_small_grey_keeps_proportions_and_brightness() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, :320] = (255, 0, 0)
    small = small_grey(image)
    assert small.shape == (120, 160)
    assert small.dtype == np.uint8
    assert small[60, 20] == 76  # 0.299 * 255, ITU-R BT.601
    assert small[60, 140] == 0
    assert np.array_equal(small_grey(np.full((480, 640), 9, np.uint8)), np.full((120, 160), 9, np.uint8))


def test_depths_that_differ_by_a_factor_agree() -> None:
    stereo = np.linspace(2.0, 20.0, 300 * 40, dtype=np.float32).reshape(40, 300)
    assert disagreement(stereo, 2.5 * stereo) == pytest.approx(0.0, abs=1e-5)


def test_disagreement_is_the_mean_relative_difference_at_the_median_scale() -> None:
    """Three quarters of the pixels agree, a quarter is seen twice as far: AbsRel = 0.25 * 1."""
    stereo = np.full((40, 100), 4.0, np.float32)
    mono = np.full((40, 100), 8.0, np.float32)
    mono[:10] = 16.0
    assert disagreement(stereo, mono) == pytest.approx(0.25, abs=1e-6)
    assert disagreement(stereo, np.where(mono > 8, np.nan, mono)) == pytest.approx(0.0, abs=1e-6)


def test_only_trusted_pixels_are_compared() -> None:
    stereo = np.full((40, 100), 4.0, np.float32)
    mono = stereo.copy()
    mono[:10] = 40.0
    trusted = np.ones((40, 100), bool)
    trusted[:10] = False
    assert disagreement(stereo, mono, trusted) == pytest.approx(0.0, abs=1e-6)
    assert disagreement(stereo, mono) == pytest.approx(0.25 * 9, abs=1e-6)


def test_too_few_pixels_say_nothing() -> None:
    stereo = np.full((40, 100), np.nan, np.float32)
    stereo[0, :50] = 3.0
    assert disagreement(stereo, np.full((40, 100), 5.0, np.float32)) is None
    assert disagreement(stereo, np.full((40, 100), 6.0, np.float32), least=50) == pytest.approx(0.0, abs=1e-6)


def test_a_large_image_is_compared_on_a_grid_with_the_same_answer() -> None:
    stereo = np.full((480, 640), 4.0, np.float32)
    mono = stereo.copy()
    mono[:120] = 8.0
    assert disagreement(stereo, mono) == pytest.approx(0.25, abs=0.01)


def test_only_valid_pixels_are_confident() -> None:
    labels = np.full((4, 10), Label.VALID, np.uint8)
    labels[0] = Label.LOW_CONFIDENCE
    labels[1] = Label.FILLED_FROM_MONO
    assert confident_share(labels) == 0.5
