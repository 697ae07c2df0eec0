"""``fg-depth bag from-images``."""

from __future__ import annotations

import numpy as np
import pytest
from support.pair_folders import planes, small_rig, write_pairs

from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.storage import BagStorage, message_types
from fg_depth_ros.data.bags.writing import TRUE_DEPTH, write_stereo_bag
from fg_depth_ros.data.datasets.stereo import open_stereo_folder
from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.geometry import disparity_to_depth


@pytest.fixture
def folder(tmp_path):
    """Four pairs, the last one without colours, the second one without true disparity."""
    pairs = write_pairs(tmp_path / "pairs", ("0", "1", "2", "3"))
    (pairs / "disp" / "1.pfm").unlink()
    for side in ("left", "right"):
        write_image(pairs / side / "3.png", planes(3)[0][..., :1].repeat(3, 2))
    return pairs


def test_a_folder_becomes_a_bag_with_all_it_knows(folder, tmp_path, run):
    status, text = run("bag", "from-images", folder, "--out", tmp_path / "bag", "--rate", 4, "--start", 2.5)
    assert status == 0, text
    samples, pairs = open_stereo_folder(folder), open_bag_pairs(tmp_path / "bag")
    assert [pair.name for pair in pairs] == [str(2_500_000_000 + k * 250_000_000) for k in range(4)]
    assert pairs[0].rig == samples[0].rig
    for sample, pair in zip(samples, pairs, strict=True):
        for theirs, ours in zip(sample.images(), pair.images(), strict=True):
            np.testing.assert_array_equal(theirs, ours)
    bag = BagStorage(tmp_path / "bag")
    images = [message_types().deserialize_cdr(m.data, "sensor_msgs/msg/Image") for m in bag.scan(["/left/image_rect"])]
    assert [image.encoding for image in images] == ["rgb8"] * 4
    depths = {
        m.recorded: message_types().deserialize_cdr(m.data, bag.topics[TRUE_DEPTH]) for m in bag.scan([TRUE_DEPTH])
    }
    assert sorted(depths) == [int(pairs[k].name) for k in (0, 2, 3)]
    for k in (0, 2, 3):
        expected = disparity_to_depth(samples[k].truth(), samples[k].rig)
        depth = np.frombuffer(depths[int(pairs[k].name)].data, np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(depth, expected)
        assert np.isnan(depth[0, 0])


def test_both_topics_keep_one_encoding_whatever_single_images_hold(tmp_path, run):
    pairs = write_pairs(tmp_path / "pairs", ("0", "1", "2"))
    write_image(pairs / "left" / "1.png", np.full((96, 160, 3), 255, np.uint8))  # overexposed
    (tmp_path / "grey").mkdir()
    grey = write_pairs(tmp_path / "grey", ("0", "1"))
    for file in (*grey.glob("left/*.png"), *grey.glob("right/*.png")):
        write_image(file, planes(0)[0][..., :1].repeat(3, 2))
    for folder, encoding in ((pairs, "rgb8"), (grey, "mono8")):
        out = tmp_path / encoding
        assert run("bag", "from-images", folder, "--out", out)[0] == 0
        messages = BagStorage(out).scan(["/left/image_rect", "/right/image_rect"])
        found = {message_types().deserialize_cdr(m.data, "sensor_msgs/msg/Image").encoding for m in messages}
        assert found == {encoding}


def test_a_part_compressed_without_truth(folder, tmp_path, run):
    options = ("--frames", "1:3", "--compressed", "png", "--storage", "sqlite3", "--no-truth")
    assert run("bag", "from-images", folder, "--out", tmp_path / "bag", *options)[0] == 0
    assert len(list((tmp_path / "bag").glob("*.db3"))) == 1
    pairs = open_bag_pairs(tmp_path / "bag")
    assert len(pairs) == 2 and TRUE_DEPTH not in pairs[0].left.bag.topics
    np.testing.assert_array_equal(pairs[0].images()[1], open_stereo_folder(folder)[1].images()[1])


def test_pairs_of_a_bag_keep_their_stamps(tmp_path, run):
    """Also where they are uneven; --rate or --start gives them new ones."""
    stamps = [1_700_000_000_000_000_000 + after for after in (0, 33_333_333, 66_666_667, 1_100_000_000)]
    source = write_stereo_bag(tmp_path / "source", [(stamp, *planes(0)[:2]) for stamp in stamps], small_rig())
    for options, expected in (
        ((), stamps),
        (("--frames", "1:3"), stamps[1:3]),
        (("--rate", 4), [1_000_000_000 + 250_000_000 * k for k in range(4)]),
        (("--start", 7), [7_000_000_000 + 100_000_000 * k for k in range(4)]),
    ):
        out = tmp_path / f"bag{'_'.join(map(str, options)).replace(':', '_')}"
        status, text = run("bag", "from-images", source, "--out", out, *options)
        assert status == 0, text
        assert [pair.stamp for pair in open_bag_pairs(out)] == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--frames", "9:"), "leaves none of its 4 frames"),
        (("--frames", "first"), "0:80"),
        (("--rate", "0"), "must be positive"),
        (("--storage", "bag"), "choose one of mcap, sqlite3"),
        (("--compressed", "gif"), "choose one of png, jpeg"),
    ],
)
def test_what_cannot_be_asked_for(folder, tmp_path, run, options, said):
    status, text = run("bag", "from-images", folder, "--out", tmp_path / "bag", *options)
    assert status != 0 and said in text
    assert not (tmp_path / "bag").exists()


def test_a_folder_without_calibration_and_a_bag_that_is_there_are_refused(folder, tmp_path, run):
    write_stereo_bag(tmp_path / "bag", [], small_rig())
    assert "is there already" in run("bag", "from-images", folder, "--out", tmp_path / "bag")[1]
    (folder / "rig.json").unlink()
    status, text = run("bag", "from-images", folder, "--out", tmp_path / "other")
    assert status != 0 and "has no calibration" in text and not (tmp_path / "other").exists()
