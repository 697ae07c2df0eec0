"""The motions, numbers and sizes of rendered pairs follow the recipe of the Flying Chairs."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import pytest
from support.chairs import small_generator

from fg_depth_ros.synthesis.affine_motion import BACKGROUND_MOTION, CHAIR_MOTION, Law, MotionLaws, about
from fg_depth_ros.synthesis.chairs_scenes import SceneSampler


def test_a_law_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="a law needs low < high"):
        Law(power=2, mean=0, deviation=1, low=1, high=1, chance=0.5)


class Drawn:
    """A generator of random numbers that gives these."""

    def __init__(self, normal, random):
        self._normal, self._random = np.array(normal), np.array(random)

    def normal(self, mean, deviation, count):
        return mean + deviation * self._normal

    def random(self, count):
        return self._random


def test_a_law_by_hand():
    law = Law(power=4, mean=0, deviation=2, low=-120, high=100, chance=0.7)
    # g = -1, 3, 4, 4: -1, 81, 256 -> 100, and one that does not happen
    drawn = law.draw(Drawn([-0.5, 1.5, 2.0, 2.0], [0.1, 0.6, 0.69, 0.71]), 4)
    np.testing.assert_allclose(drawn, [-1, 81, 100, 0])
    scale = Law(power=2, mean=1, deviation=0.1, low=0.8, high=1.2, chance=0.5)
    # g = 1.05, 0.8, 1: 1.1025, 0.64 -> 0.8, not drawn -> 1
    np.testing.assert_allclose(scale.draw(Drawn([0.5, -2.0, 0.0], [0.2, 0.2, 0.9]), 3), [1.1025, 0.8, 1.0])


def test_the_recipe_is_written_down_as_published():
    """Figures of the published set's description."""
    assert (
        MotionLaws(Law(4, 0, 1.3, -120, 120, 1.0), Law(2, 0, 1.3, -30, 30, 0.7), Law(2, 1, 0.1, 0.8, 1.2, 0.7))
        == CHAIR_MOTION
    )
    assert (
        MotionLaws(Law(4, 0, 1.3, -40, 40, 1.0), Law(2, 0, 1.3, -10, 10, 0.3), Law(2, 1, 0.1, 0.93, 1.07, 0.3))
        == BACKGROUND_MOTION
    )


def test_about_turns_scales_and_shifts_by_hand():
    # a quarter turn about (10, 20) takes one step right to one step down; twice as large; then (3, -1)
    motion = about((10, 20), np.pi / 2, 2.0, (3, -1))
    np.testing.assert_allclose(motion @ [11, 20, 1], [13, 21, 1], atol=1e-12)
    np.testing.assert_allclose(motion @ [10, 20, 1], [13, 19, 1], atol=1e-12)


def expected_below(law, value):
    """P(drawn <= value) of a law, from the normal distribution, for values strictly between its clips."""
    root = np.sign(value) * abs(value) ** (1 / law.power)
    below = 0.5 * (1 + erf((root - law.mean) / (law.deviation * sqrt(2))))
    return law.chance * below + (1 - law.chance) * (value >= law.mean)


def chair_parameters(scenes, size):
    """Displacements, angles (degrees) and scales of all chairs relative to their backgrounds."""
    found = []
    for ground, *chairs in scenes:
        for chair in chairs:
            relative = np.linalg.inv(ground.motion) @ chair.motion
            centre = np.linalg.inv(chair.to_mask) @ [0.5, 0.5, 1]
            shift = (relative @ centre - centre)[:2] / size
            angle = np.rad2deg(np.arctan2(relative[1, 0], relative[0, 0]))
            found.append([*shift, angle, sqrt(np.linalg.det(relative[:2, :2]))])
    return np.array(found).T


@pytest.fixture(scope="module")
def scenes():
    sampler = SceneSampler(512, 384, 6, 128, 6, 3, 24)
    return [sampler.draw(np.random.default_rng([9, i])) for i in range(350)]


def test_the_chairs_histogram_of_displacements_follows_the_recipe(scenes):
    u, v, angle, scale = chair_parameters(scenes, 1.0)
    count = len(u)
    assert count > 6000
    bound = 1.95 / sqrt(count)  # Kolmogorov-Smirnov: passed by chance but once in a thousand
    for drawn, law, values in (
        (u, CHAIR_MOTION.translation, [-100, -50, -20, -5, -1, -0.1, 0.1, 1, 5, 20, 50, 100]),
        (v, CHAIR_MOTION.translation, [-100, -50, -20, -5, -1, -0.1, 0.1, 1, 5, 20, 50, 100]),
        (angle, CHAIR_MOTION.rotation, [-9, -3, -1, -0.1, 0.1, 1, 3, 9]),
        (scale, CHAIR_MOTION.scale, [0.85, 0.9, 0.95, 0.999, 1.001, 1.05, 1.1, 1.15]),
    ):
        assert drawn.min() >= law.low - 1e-6 and drawn.max() <= law.high + 1e-6
        for value in values:
            assert (drawn <= value).mean() == pytest.approx(expected_below(law, value), abs=bound)
    # Some reach the clips: |g|^4 >= 120 where |g| >= 3.31, twice 0.55 % of them.
    assert (np.abs(u) > 119.999).mean() == pytest.approx(0.0109, abs=0.005)
    assert (np.abs(angle) < 1e-6).mean() == pytest.approx(0.3, abs=bound)
    assert (np.abs(scale - 1) < 1e-9).mean() == pytest.approx(0.3, abs=bound)


def test_backgrounds_follow_the_recipe(scenes):
    rng = np.random.default_rng(3)
    centre = (255.5, 191.5)
    drawn = []
    for motion in [scene[0].motion for scene in scenes] + [BACKGROUND_MOTION.draw(rng, centre) for _ in range(3000)]:
        shift = (motion @ [*centre, 1])[:2] - centre
        drawn.append([*shift, np.rad2deg(np.arctan2(motion[1, 0], motion[0, 0])), sqrt(np.linalg.det(motion[:2, :2]))])
    u, v, angle, scale = np.array(drawn).T
    bound = 1.95 / sqrt(len(u))
    for values, law, places in (
        (u, BACKGROUND_MOTION.translation, [-30, -5, -1, 1, 5, 30]),
        (v, BACKGROUND_MOTION.translation, [-30, -5, -1, 1, 5, 30]),
        (angle, BACKGROUND_MOTION.rotation, [-9, -1, 1, 9]),
        (scale, BACKGROUND_MOTION.scale, [0.94, 0.98, 1.02, 1.06]),
    ):
        assert values.min() >= law.low - 1e-6 and values.max() <= law.high + 1e-6
        for place in places:
            assert (values <= place).mean() == pytest.approx(expected_below(law, place), abs=bound)


def test_chairs_are_as_many_and_as_large_as_the_recipe_says(scenes):
    counts = np.array([len(scene) - 1 for scene in scenes])
    assert set(counts) == set(range(16, 25))
    assert counts.mean() == pytest.approx(20, abs=0.5)
    # The longer side of the unit square that the mask lies in.
    sizes = np.array([1 / np.linalg.norm(p.to_mask[:2, :2], axis=1).min() for s in scenes for p in s[1:]])
    assert sizes.min() == pytest.approx(50) and sizes.max() == pytest.approx(640)
    # N(200, 200): P(g <= 50) = Phi(-0.75) = 0.2266, P(g <= 200) = 0.5, P(g <= 400) = Phi(1) = 0.8413
    assert (sizes < 50.01).mean() == pytest.approx(0.2266, abs=0.03)
    assert (sizes <= 200).mean() == pytest.approx(0.5, abs=0.03)
    assert (sizes <= 400).mean() == pytest.approx(0.8413, abs=0.03)


def test_extras_are_small_or_thin_and_leave_the_recipe_alone(scenes):
    sampler = SceneSampler(512, 384, 6, 128, 6, 3, 24, extras=10)
    more = [sampler.draw(np.random.default_rng([9, i])) for i in range(100)]
    added = [len(b) - len(a) for a, b in zip(scenes, more, strict=False)]
    assert min(added) >= 0 and np.mean(added) == pytest.approx(10, abs=2)
    for a, b in zip(scenes, more, strict=False):
        kept = {layer.motion.tobytes() for layer in b}
        assert all(layer.motion.tobytes() in kept for layer in a)


def test_the_histogram_of_rendered_displacements_follows_the_recipe(monkeypatch):
    """Without chairs the flow at the frame's centre is the background's shift."""
    monkeypatch.setattr("fg_depth_ros.synthesis.chairs_scenes.CHAIRS", (0, 0))
    generator = small_generator(width=65, height=49, seed=2)
    drawn = (generator.batch(range(500)).flow[:, :, 24, 32] / generator.sampler.unit).numpy().ravel()
    assert len(drawn) == 1000
    assert np.abs(drawn).max() == pytest.approx(40, abs=0.01)
    bound = 1.95 / sqrt(len(drawn))
    for value in [-35, -20, -5, -1, -0.1, 0.1, 1, 5, 20, 35]:
        assert (drawn <= value).mean() == pytest.approx(expected_below(BACKGROUND_MOTION.translation, value), abs=bound)
