"""The pool of scenes: each used as often as said, and every batch a function of its number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fg_depth_ros.training.scene_pool import MixedScenes, ScenePool


class Renderer:
    """Count what is rendered; a scene is its number."""

    def __init__(self):
        self.rendered = Counter()

    def __call__(self, numbers):
        self.rendered.update(numbers)
        return [[n] for n in numbers]


def use(scene, rng):
    return scene, rng.random()


def pool_of(renderer, size=6, uses=4, seed=3):
    return ScenePool(renderer, use, list, size=size, uses=uses, seed=seed)


def numbers(batch, count=2):
    return list(range(batch * count, (batch + 1) * count))


def test_a_batch_is_a_function_of_its_number():
    whole = pool_of(Renderer())
    batches = [whole.batch(numbers(b)) for b in range(40)]
    resumed = pool_of(Renderer())
    assert [resumed.batch(numbers(b)) for b in range(25, 40)] == batches[25:]
    workers = [pool_of(Renderer()) for _ in range(2)]
    assert [workers[b % 2].batch(numbers(b)) for b in range(40)] == batches
    assert pool_of(Renderer(), seed=4).batch(numbers(0)) != batches[0]


def test_scenes_are_rendered_once_and_used_several_times():
    renderer = Renderer()
    pool = pool_of(renderer)
    samples = [scene for b in range(800) for scene, _ in pool.batch(numbers(b))]
    assert set(renderer.rendered.values()) == {1}
    assert len(samples) / len(renderer.rendered) == pytest.approx(4, rel=0.1)
    assert len(pool._scenes) <= 4 * 6
    assert len({draw for b in range(8) for _, draw in pool.batch(numbers(800 + b))}) == 16  # each use another


def test_no_worker_renders_what_another_one_renders():
    renderers = [Renderer(), Renderer()]
    workers = [pool_of(renderer) for renderer in renderers]
    for b in range(100):
        workers[b % 2].batch(numbers(b))
    assert not renderers[0].rendered.keys() & renderers[1].rendered.keys()


@pytest.mark.parametrize("workers", [2, 4])
def test_batches_of_unequal_length_are_shared_too(workers):
    renderers = [Renderer() for _ in range(workers)]
    pools = [pool_of(renderer, size=16) for renderer in renderers]
    first = 0
    for index in range(200):
        count = 2 + index % 2
        pools[index % workers].batch(list(range(first, first + count)), index)
        first += count
    assert len(sum((renderer.rendered for renderer in renderers), Counter())) == sum(
        len(renderer.rendered) for renderer in renderers
    )


def test_views_of_a_scene_are_used_alike():
    pool = ScenePool(
        lambda numbers: [[(n, view) for view in "ab"] for n in numbers], lambda s, rng: s, list, size=8, uses=4, seed=0
    )
    views = Counter(view for b in range(200) for _, view in pool.batch(numbers(b)))
    assert 0.4 < views["a"] / (views["a"] + views["b"]) < 0.6


@pytest.mark.parametrize("wrong", [{"size": 0}, {"uses": 0}])
def test_an_empty_pool_is_refused(wrong):
    with pytest.raises(ValueError, match="at least one scene"):
        pool_of(Renderer(), **wrong)


def test_a_pool_smaller_than_a_batch_repeats_scenes():
    batch = pool_of(Renderer(), size=1).batch(numbers(0, 3))
    assert len({scene for scene, _ in batch}) == 1
    assert np.unique([draw for _, draw in batch]).size == 3


def test_which_scenes_are_of_the_world_says_nothing_of_what_the_others_show():
    """The first number that a generator draws for a scene is spread over its whole range among those it renders."""
    first = []

    def own(numbers):
        first.extend(np.random.default_rng([3, n]).random() for n in numbers)
        return [[n] for n in numbers]

    MixedScenes(own, lambda numbers: [[n] for n in numbers], share=0.3, seed=3)(list(range(400)))
    assert min(first) < 0.05
    assert len(first) == pytest.approx(0.7 * 400, rel=0.1)
