"""The node and the offline replay give the same depth for the same pair."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

from support.nodes import pair_messages, wall

from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.data.io import messages
from fg_depth_ros.evaluation.replay.methods import load_methods, shipped


def recorded(scene, encoding, folder):
    """The images of a pair of messages in a bag, opened as a replay opens it."""
    sent = pair_messages(scene, encoding)
    left, right = (messages.image_to_array(sent[f"{side}/image_rect"]) for side in ("left", "right"))
    (sample,) = open_bag_pairs(write_stereo_bag(folder, [(10**9, left, right)], scene.rig, encoding=encoding))
    return sent, sample


@pytest.mark.parametrize(("model", "encoding"), [("flownet_stereo", "rgb8"), ("sgbm", "mono8")])
def test_stereo_depth_is_the_same_to_rounding(make, tmp_path, model, encoding):
    sent, sample = recorded(wall(doffs=2.0), encoding, tmp_path / "bag")
    node = make(model=model, max_disparity=192)
    node.listen("depth/image_rect")
    published = node.fresh_depth(sent)
    (loaded,) = load_methods(
        [shipped(model)], device="cpu", engine="torch", precision="float32",
        min_depth=node.depth_node.get_parameter("min_depth").value,
        max_depth=node.depth_node.get_parameter("max_depth").value,
    )  # fmt: skip
    offline = loaded.estimator.estimate(*sample.raw_images(), sample.rig).depth
    assert np.isfinite(published).mean() > 0.5
    np.testing.assert_array_equal(np.isfinite(offline), np.isfinite(published))
    np.testing.assert_allclose(offline, published, rtol=1e-6)


def test_mono_depth_is_the_same_to_rounding(make, tmp_path):
    sent, sample = recorded(wall(), "rgb8", tmp_path / "bag")
    node = make(mono_model="depthnet_lite")
    node.listen("mono_depth/image_rect")
    seen = node.seen["mono_depth/image_rect"]
    published = messages.depth_to_array(node.send_until(sent, lambda: seen and seen[-1]))
    (loaded,) = load_methods(
        [shipped("depthnet_lite")], device="cpu", engine="torch", precision="float32", min_depth=0.1, max_depth=80
    )
    np.testing.assert_allclose(
        loaded.estimator.estimate(sample.raw_images()[0], sample.rig.fx).depth, published, rtol=1e-6
    )
