"""Images with true depth: folders, stereo sets, NYU, bags and the virtual world, from small files written here."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.pair_folders import FAR, NEAR, planes, small_rig, write_pairs

from fg_depth_ros.data.datasets.depth import NYU, open_depth_sets
from fg_depth_ros.data.datasets.layouts import NoPairsError
from fg_depth_ros.data.io.calibration import write_camera_files
from fg_depth_ros.data.io.formats import write_image, write_kitti_disparity, write_png_depth
from fg_depth_ros.data.samples import DepthProtocol, DepthSample
from fg_depth_ros.files import FileError
from fg_depth_ros.synthesis.textures import TextureAtlas
from fg_depth_ros.synthesis.world.generator import WorldGenerator
from fg_depth_ros.synthesis.world.samples import WORLD_SEED, world_samples

LEFT = planes(0)[0]
DEPTH = np.linspace(1, 20, 96 * 160, dtype=np.float32).reshape(96, 160)


def write_folder(folder, where="images", write=write_kitti_disparity):
    """Images a and b; only a has depth, and knows nothing of the first row."""
    (folder / where).mkdir(parents=True)
    (folder / "depth").mkdir()
    for name in ("a", "b"):
        write_image(folder / where / f"{name}.png", LEFT)
    depth = DEPTH.copy()
    depth[0] = np.nan
    write(folder / "depth" / "a.png", depth)
    return folder


# ---- bad input -------------------------------------------------------------------------------------------------


def test_what_cannot_be_opened_says_so(tmp_path):
    with pytest.raises(ValueError, match="unit of depth 'cm' is unknown; choose one of kitti, mm"):
        open_depth_sets([tmp_path], unit="cm")
    with pytest.raises(
        NoPairsError, match=r"neither stereo pairs nor images with depth found. Known: images in image,"
    ):
        open_depth_sets([tmp_path])
    folder = write_folder(tmp_path / "set")
    with pytest.raises(
        FileError, match=r"images/a\.png: no calibration next to it, and depth in metres needs the focal"
    ):
        open_depth_sets([folder])
    with pytest.raises(FileError, match=r"nyu\.mat: no such file"):
        open_depth_sets([tmp_path / "nyu.mat"])
    with pytest.raises(FileError, match="a: focal length is -5 px"):
        open_depth_sets([folder], fx=-5)


def test_a_picture_instead_of_a_measurement_is_named_when_it_is_read(tmp_path):
    folder = write_folder(tmp_path / "set")
    write_image(folder / "depth" / "a.png", LEFT)
    (sample,) = open_depth_sets([folder], fx=100)["set"]
    with pytest.raises(FileError, match=r"depth/a\.png: holds 3 channel\(s\) of uint8"):
        sample.truth()
    with pytest.raises(FileError, match=r"true depth has the shape \(2, 3, 1\)"):
        DepthSample("x", folder / "images/a.png", 100, lambda: np.ones((2, 3, 1))).truth()


@pytest.mark.parametrize(("arguments", "message"), [
    ({"crop": "middle"}, "crop 'middle' is unknown; choose one of none, garg, nyu"),
    ({"min_depth": 5, "max_depth": 5}, "need 0 < min_depth < max_depth, got 5 and 5 m"),
])  # fmt: skip
def test_a_protocol_is_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        DepthProtocol(**arguments)


# ---- folders and stereo sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "write", "step"), [
    ("kitti", write_kitti_disparity, 1 / 256), ("mm", write_png_depth, 1 / 1000),
])  # fmt: skip
@pytest.mark.parametrize("where", ["images", "rgb", "."])
def test_images_with_depth_in_both_units(tmp_path, unit, write, step, where):
    folder = write_folder(tmp_path / "set", where, write)
    (sample,) = open_depth_sets([folder], unit=unit, fx=123.0)["set"]
    assert (sample.name, sample.fx, sample.pair, sample.protocol) == ("a", 123.0, None, DepthProtocol())
    np.testing.assert_array_equal(sample.image_rgb(), LEFT)
    truth = sample.truth()
    assert truth.dtype == np.float32 and np.isnan(truth[0]).all()
    np.testing.assert_allclose(truth[1:], DEPTH[1:], atol=step / 2 + 1e-6)


@pytest.mark.parametrize("sides", [("images",), ("left", "right")])
def test_the_16_bit_images_of_a_folder_with_depth_have_one_white(tmp_path, sides):
    """A camera of 12 bits: most of its images would fit into 10."""
    for folder in (*sides, "depth"):
        (tmp_path / folder).mkdir()
    largest = [1000] * 5 + [1100] * 2
    for number, value in enumerate(largest):
        for side in sides:
            write_image(tmp_path / side / f"{number}.png", np.full((4, 8), value, np.uint16))
        write_kitti_disparity(tmp_path / "depth" / f"{number}.png", np.full((4, 8), 2.0, np.float32))
    (samples,) = open_depth_sets([tmp_path], fx=50.0).values()
    assert [int(sample.image_rgb().max()) for sample in samples] == [round(value * 255 / 4095) for value in largest]


def test_focal_length_comes_from_the_calibration_at_the_size_of_the_image(tmp_path):
    folder = write_folder(tmp_path / "set")
    (folder / "rig.json").write_text(json.dumps(small_rig().scaled(320, 192).to_dict()))
    (sample,) = open_depth_sets([folder])["set"]
    assert sample.fx == pytest.approx(200)


def test_depth_of_stereo_sets_is_worked_out_from_their_disparity(tmp_path):
    first, second = open_depth_sets([write_pairs(tmp_path / "pairs")])["pairs"]
    assert (first.name, second.name, first.fx) == ("a", "b", 200)
    truth = first.truth()
    assert np.isnan(truth[:4]).all()  # +inf in the file: unknown
    assert truth[90, 5] == pytest.approx(200 * 0.1 / (FAR + 4))
    assert truth[48, 80] == pytest.approx(200 * 0.1 / (NEAR + 4))
    assert first.pair.rig == small_rig()
    np.testing.assert_array_equal(first.pair.images()[0], first.image_rgb())


def test_measured_depth_comes_before_disparity_and_sets_without_either_have_no_truth(tmp_path):
    folder = write_pairs(tmp_path / "sets/with")
    (folder / "depth").mkdir()
    write_kitti_disparity(folder / "depth" / "a.png", DEPTH)
    write_pairs(tmp_path / "sets/without", truth=False, rig=False)
    sets = open_depth_sets([tmp_path / "sets"], fx=77)
    np.testing.assert_allclose(sets["with"][0].truth(), DEPTH, atol=1 / 512 + 1e-6)
    assert sets["with"][1].truth()[90, 5] == pytest.approx(2.0)
    assert sets["with"][0].fx == 200  # the calibration is known
    sample = sets["without"][0]
    assert (sample.fx, sample.truth(), sample.pair) == (77, None, None)


def test_pairs_with_true_depth_are_rectified_already(tmp_path, caplog):
    """As those with true disparity: depth is that of the images on disk, whatever the lenses were."""
    folder = write_pairs(tmp_path / "pairs", ("0", "1"), truth=False, rig=False)
    for side in ("left", "right"):
        for name in ("0", "1"):  # depth is called as the pair
            (folder / side / f"{name}.png").rename(folder / side / f"{side}_{name}.png")
    write_camera_files(folder, small_rig())
    for side in ("left", "right"):
        text = (folder / f"{side}.yaml").read_text()
        (folder / f"{side}.yaml").write_text(text.replace("data:\n  - 0.0", "data:\n  - -0.3", 1))
    (raw, _) = open_depth_sets([folder])["pairs"]
    assert raw.truth() is None and not np.array_equal(raw.image_rgb(), LEFT)
    np.testing.assert_array_equal(open_depth_sets([folder], bag={"rectify": "off"})["pairs"][0].image_rgb(), LEFT)
    (folder / "depth").mkdir()
    for name in ("0", "1"):
        write_kitti_disparity(folder / "depth" / f"{name}.png", DEPTH)
    caplog.clear()
    samples = open_depth_sets([folder])["pairs"]
    np.testing.assert_array_equal(samples[0].image_rgb(), LEFT)
    for sample in samples:
        assert sample.fx == 200
        np.testing.assert_allclose(sample.truth(), DEPTH, atol=1 / 512 + 1e-6)
    assert "but there is true depth of these pairs" in caplog.text
    with pytest.raises(FileError, match="is true depth of these pairs, so their images are rectified already"):
        open_depth_sets([folder], bag={"rectify": "on"})


def test_bags_are_sets_of_pairs_without_truth(tmp_path):
    pytest.importorskip("rosbags")
    from fg_depth_ros.data.bags.writing import write_stereo_bag

    bag = write_stereo_bag(tmp_path / "bag", [(10**9 * k, *planes(k)[:2]) for k in (1, 2)], small_rig())
    samples = open_depth_sets([bag])["bag"]
    assert [sample.name for sample in samples] == ["1000000000", "2000000000"]
    assert samples[0].truth() is None and samples[0].fx == 200
    for k, sample in enumerate(samples, 1):
        np.testing.assert_array_equal(sample.image_rgb(), planes(k)[0])
        np.testing.assert_array_equal(sample.pair.images()[1], planes(k)[1])


# ---- NYU -------------------------------------------------------------------------------------------------------


def write_nyu(path, names=("images", "depths", "rawDepths")):
    """Three frames of 6 x 8 px as MATLAB stores them: the last axis of H x W x 3 x N first."""
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 8, 3, 3), np.uint8)
    depths = random.uniform(1, 9, (6, 8, 3)).astype(np.float32)
    raw = np.where(random.random((6, 8, 3)) < 0.3, 0, depths)
    with h5py.File(path, "w") as file:
        for name, values in zip(("images", "depths", "rawDepths"), (images, depths, raw), strict=True):
            if name in names:
                file[name] = values.transpose()
    return images, depths, raw


def test_nyu_frames_stand_upright_and_truth_is_what_was_measured(tmp_path):
    images, depths, raw = write_nyu(tmp_path / "nyu_depth_v2_labeled.mat")
    samples = open_depth_sets([tmp_path / "nyu_depth_v2_labeled.mat"])["nyu_depth_v2_labeled.mat"]
    assert [sample.name for sample in samples] == ["0001", "0002", "0003"]
    assert {sample.protocol for sample in samples} == {NYU}
    assert (NYU.crop, NYU.max_depth) == ("nyu", 10.0)
    assert samples[0].fx == pytest.approx(518.858, abs=1e-3)
    for k, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.image_rgb(), images[..., k])
        np.testing.assert_array_equal(sample.truth(), np.where(raw[..., k] > 0, raw[..., k], np.nan))
    write_nyu(tmp_path / "b.mat", ("images", "depths"))
    np.testing.assert_array_equal(open_depth_sets([tmp_path / "b.mat"])["b.mat"][1].truth(), depths[..., 1])


def test_nyu_test_frames_by_text_and_by_the_split_of_the_data_set(tmp_path):
    images, _, _ = write_nyu(tmp_path / "nyu.mat")
    (tmp_path / "test.txt").write_text("3\n1\n")
    samples = open_depth_sets([tmp_path / "nyu.mat"], split=tmp_path / "test.txt")["nyu.mat"]
    assert [sample.name for sample in samples] == ["0001", "0003"]
    np.testing.assert_array_equal(samples[1].image_rgb(), images[..., 2])
    savemat = pytest.importorskip("scipy.io").savemat
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2]])})
    assert [sample.name for sample in open_depth_sets([tmp_path / "nyu.mat"])["nyu.mat"]] == ["0002"]


@pytest.mark.parametrize(("split", "message"), [
    ("1\nfour\n", r"split\.txt: holds 'four'; numbers of frames from 1 are expected"),
    ("1 4", r"split\.txt: names frame 4, and the data set has frames 1 to 3"),
    ("0", r"split\.txt: names frame 0"),
    (" \n", r"split\.txt: names no frame"),
])  # fmt: skip
def test_a_bad_split_is_named(tmp_path, split, message):
    write_nyu(tmp_path / "nyu.mat")
    (tmp_path / "split.txt").write_text(split)
    with pytest.raises(FileError, match=message):
        open_depth_sets([tmp_path / "nyu.mat"], split=tmp_path / "split.txt")


def test_files_that_are_not_nyu_are_named(tmp_path):
    write_nyu(tmp_path / "nyu.mat", ("images",))
    with pytest.raises(FileError, match=r"nyu\.mat: holds images, no images and depths"):
        open_depth_sets([tmp_path / "nyu.mat"])
    (tmp_path / "nyu.mat").write_bytes(b"MATLAB 5.0 MAT-file" * 50)
    with pytest.raises(FileError, match=r"nyu\.mat: not a readable MATLAB 7.3 file"):
        open_depth_sets([tmp_path / "nyu.mat"])
    write_nyu(tmp_path / "nyu.mat")
    (tmp_path / "splits.mat").write_bytes(b"no matlab" * 50)
    with pytest.raises(FileError, match=r"splits\.mat: no readable splits\.mat with testNdxs"):
        open_depth_sets([tmp_path / "nyu.mat"])


# ---- the virtual world -----------------------------------------------------------------------------------------


def test_world_scenes_are_pairs_with_exact_depth():
    first, second = world_samples("street", 2, 96, 64, patterns=4)
    assert (first.name, second.name) == ("street_000000", "street_000001")
    assert not np.array_equal(first.image_rgb(), second.image_rgb())
    generator = WorldGenerator(TextureAtlas.build([], 4, seed=WORLD_SEED), None, 96, 64, WORLD_SEED, kind="street")
    for index, sample in enumerate((first, second)):
        truth, rig = sample.truth(), sample.pair.rig
        assert truth.shape == (64, 96) and 0.05 < np.isfinite(truth).mean() <= 1
        batch = generator.batch([index])
        for image, tensor in zip(sample.pair.images(), (batch.left, batch.right), strict=True):
            np.testing.assert_array_equal(image, tensor[0].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(sample.image_rgb(), sample.pair.images()[0])
        known = np.isfinite(truth)
        np.testing.assert_allclose(
            truth[known] * batch.disparity[0, 0].numpy()[known], rig.fx * rig.baseline, rtol=1e-4
        )
        assert not batch.disparity[0, 0].numpy()[~known].any()  # the sky
        assert sample.fx == rig.fx == pytest.approx(float(batch.focal[0]), rel=1e-6)


def test_a_world_is_checked():
    with pytest.raises(ValueError, match="a world of 0 scenes is none; ask for at least 1"):
        world_samples("street", 0)
    with pytest.raises(ValueError, match="kind of world 'sea' is unknown; choose one of mixed, street, indoor"):
        world_samples("sea", 1)
