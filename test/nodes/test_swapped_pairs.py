"""One pair of a stream whose images are swapped: told by the pairs before it, dropped with a reason of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.nodes import Bench, Scene, pair_messages, wall

from fg_depth_ros.data.datasets.stereo import motorcycle
from fg_depth_ros.data.io.messages import MessageError, MessageFault, stamp_ns
from fg_depth_ros.geometry import Support
from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator, StereoEstimate
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.stereo_depth.pair_checks import SwappedPairCheck

TOPICS = {name: f"/{name}" for name in INPUTS}
FRAME = 100_000_000  # ns


class Stream:
    """Pairs, ten a second, through a matcher and the check."""

    def __init__(self, **config: object) -> None:
        self.estimator = StereoDepthEstimator(StereoConfig(**config))
        self.check = SwappedPairCheck(TOPICS)
        self.stamp = 10**18

    def send(self, scene: Scene, *, swapped: bool = False, after: int = FRAME) -> StereoEstimate:
        self.stamp += after
        pair = (scene.right, scene.left) if swapped else (scene.left, scene.right)
        estimate = self.estimator.estimate(*pair, scene.rig)
        self.check.check(*pair, estimate, self.stamp)
        return estimate

    def assert_dropped(self, scene: Scene, words: str) -> None:
        with pytest.raises(MessageError, match=words) as caught:
            self.send(scene, swapped=True)
        assert caught.value.reason == MessageFault.SWAPPED_PAIR
        assert "/left/image_rect and /right/image_rect: the images of the pair at 100000000" in str(caught.value)


def real() -> Scene:
    """The Motorcycle pair; doffs 31 px."""
    sample = motorcycle()
    return Scene(*sample.images(), sample.rig, float("nan"))


def parallel() -> Scene:
    """The same images, cut so that infinity is at 0 px."""
    scene = real()
    rig = scene.rig
    cut = round(rig.doffs)
    width = rig.width - cut
    rig = type(rig)(width, rig.height, rig.fx, rig.fy, rig.cx, rig.cy, rig.cx_right - cut, rig.baseline)
    left, right = (np.ascontiguousarray(i) for i in (scene.left[:, :width], scene.right[:, cut:]))
    return Scene(left, right, rig, float("nan"))


@pytest.mark.parametrize("config", [{}, {"photometric_check": False}, {"model": "sgbm", "max_disparity": 128}])
def test_a_swapped_pair_is_told_by_those_before(config: dict[str, object]) -> None:
    scene, stream = parallel(), Stream(**config)
    for _ in range(2):
        for _ in range(3):
            stream.send(scene)
        for _ in range(2):  # a short burst
            stream.assert_dropped(scene, "matched features .* lie behind the cameras")
    stream.send(scene)


def test_where_principal_points_differ_the_disparities_come_back_with_the_other_sign() -> None:
    """A wall at 20 px, with infinity at -60 px: swapped, it is matched perfectly at -20 px, at another depth."""
    scene, stream = wall(disparity=20, doffs=60.0), Stream()
    estimate = stream.send(scene)
    assert np.nanmedian(estimate.depth) == pytest.approx(scene.depth, rel=0.02)  # 300 * 0.12 / 80 = 0.45 m
    stream.assert_dropped(scene, r"disparities of \+(19\.9|20\..) px became -(19\.9|20\..) px")
    stream.send(scene)
    # Without a pair before, nothing tells.
    wrong = Stream().send(scene, swapped=True)
    assert np.nanmedian(wrong.depth) == pytest.approx(300 * 0.12 / 40, rel=0.02)


def test_scenes_that_change_are_no_swapped_pairs() -> None:
    stream = Stream()
    for disparity in (10, 40, 12, 30, 8):
        for seed in (0, 1):
            stream.send(wall(disparity=disparity, seed=seed))
    wide = Stream()
    for disparity in (20, 50, -10, 30):
        wide.send(wall(disparity=disparity, doffs=60.0, seed=abs(disparity)))


def test_something_near_that_mirrors_the_disparities_is_no_swapped_pair() -> None:
    """With infinity at -31 px, a wall at -15 px gives way to one at +14 px: other images, and none of them swapped."""
    stream = Stream(model="sgbm", max_disparity=64)
    for seed, disparity in enumerate((-15, -15, 14, 14, -15)):
        scene = wall(disparity=disparity, doffs=31.0, seed=seed)
        estimate = stream.send(scene)
        assert np.nanmedian(estimate.depth) == pytest.approx(scene.depth, rel=0.02)
    stream.assert_dropped(scene, "disparities of")


def test_pairs_of_another_time_say_nothing() -> None:
    near, far = wall(disparity=20, doffs=60.0), wall(disparity=-20, doffs=60.0, seed=1)
    stream = Stream()
    stream.send(near)
    stream.send(far, after=3 * 10**9)
    stream.send(near, after=-(10**12))  # a bag that begins again


def test_only_a_sudden_change_is_matched_by_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordinary pairs pay for a median, not for features."""
    matched: list[int] = []
    module = "fg_depth_ros.nodes.stereo_depth.pair_checks.match_features"
    monkeypatch.setattr(module, lambda *_: matched.append(1))
    scene = wall()
    stream = Stream(model="sgbm", max_disparity=64)
    for seed in range(4):
        stream.send(wall(seed=seed))
    dark = Scene(scene.left // 64, scene.right // 64, scene.rig, scene.disparity)
    assert not matched
    assert isinstance(stream.send(scene).support, Support)
    monkeypatch.undo()
    for _ in range(4):
        stream.send(dark)  # looked at by features, and without any


# ---- the node -----------------------------------------------------------------------------------------------------


def test_the_node_drops_it_counts_it_and_goes_on(make: Callable[..., Bench]) -> None:
    scene = wall()
    good = pair_messages(scene)
    bad = pair_messages(Scene(scene.right, scene.left, scene.rig, scene.disparity))
    b = make()
    b.listen("depth/image_rect")
    stamps: list[int] = []

    def one_between_good_ones() -> bool:
        b.fresh_depth(good)
        stamps.append(b.send(bad))
        return int(b.values().get("dropped: swapped pair", 0)) > 0

    b.wait(one_between_good_ones)
    b.fresh_depth(good)
    assert not [stamp for stamp in stamps if b.answered(stamp)]
    assert b.log_has("are swapped") and b.log_has("it is dropped")
    b.send_until(good, lambda: b.level() == 0)
    depths = {stamp_ns(message.header) for message in b.seen["depth/image_rect"]}
    assert not depths & set(stamps)
