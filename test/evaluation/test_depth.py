"""Evaluation of depth against numbers worked out by hand: measures, crops, bands, scaling, resizing, stereo beside."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.pair_folders import FAR, NEAR, planes, small_rig, write_pairs

from fg_depth_ros.data.datasets.depth import NYU, open_depth_sets
from fg_depth_ros.data.datasets.kitti_depth import EIGEN, EIGEN_IMPROVED
from fg_depth_ros.data.datasets.stereo import open_stereo_folder
from fg_depth_ros.data.io.formats import read_image
from fg_depth_ros.data.samples import DepthProtocol, DepthSample
from fg_depth_ros.evaluation.depth import PUBLISHED, DepthTask, PairMethod, against_stereo
from fg_depth_ros.evaluation.task import evaluate
from fg_depth_ros.files import FileError
from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator
from fg_depth_ros.inference.mono import NetworkMono
from fg_depth_ros.networks import create_model

H, W = 48, 160


def sample(truth, name="a", shape=(H, W), **more):
    """An image of one grey, so that methods need not look at it."""
    truth = np.asarray(truth, np.float32)
    return DepthSample(name, lambda: np.zeros((*shape, 3), np.uint8), 100.0, lambda: truth, **more)


def constant(depth, shape=(H, W)):
    return np.full(shape, depth, np.float32)


def rows_by_method(samples, methods, sheets=None, **options):
    report = evaluate(DepthTask(**options), {"set": samples}, methods, sheets=sheets, show_progress=False)
    return {row["method"]: row for row in report.rows}


def measures_of(samples, method, **more):
    return rows_by_method(samples, {"m": method}, **more)["m"]["metrics"]


# ---- bad input -------------------------------------------------------------------------------------------------


def test_nothing_to_judge_is_an_error():
    with pytest.raises(ValueError, match="no method to evaluate"):
        rows_by_method([sample(constant(5))], {})
    with pytest.raises(ValueError, match="aggregate is 'mean': choose 'pooled' or 'per_image'"):
        rows_by_method([sample(constant(5))], {"m": lambda image, fx: constant(5)}, aggregate="mean")
    blind = replace(sample(constant(5)), depth=None)
    with pytest.raises(ValueError, match=r"no sample with true depth .*in the data sets \(set\)"):
        rows_by_method([blind], {"m": lambda image, fx: constant(5)})
    with pytest.raises(FileError, match="data set set has no true depth"):
        DepthTask().validation({"set": [blind]})
    mixed = [sample(constant(5)), sample(constant(5), protocol=NYU)]
    with pytest.raises(ValueError, match="data set set has 2 protocols"):
        rows_by_method(mixed, {"m": lambda image, fx: constant(5)})


def test_answers_and_truth_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"method 'm' returned \(2, 3\) for a, whose size is \(48, 160\)"):
        rows_by_method([sample(constant(5))], {"m": lambda image, fx: constant(5, (2, 3))})
    with pytest.raises(FileError, match="a: true depth is 160x90 pixels and the image 160x48, of another shape"):
        rows_by_method([sample(constant(5, (90, 160)))], {"m": lambda image, fx: constant(5)})


# ---- measures --------------------------------------------------------------------------------------------------


def test_measures_by_hand():
    """Half the pixels lie at 10 m and are called 12, half at 20 m and are called 16."""
    truth, answer = constant(10), constant(12)
    truth[:, W // 2 :], answer[:, W // 2 :] = 20, 16
    row = rows_by_method([sample(truth)], {"m": lambda image, fx: answer})["m"]
    assert (row["images"], row["pixels"]) == (1, H * W)
    assert row["protocol"] == {"name": "", "crop": "none", "min_depth": 1e-3, "max_depth": 80.0}
    m = row["metrics"]
    assert m["abs_rel"] == pytest.approx(0.2)
    assert m["sq_rel"] == pytest.approx((4 / 10 + 16 / 20) / 2)
    assert m["rmse"] == pytest.approx(np.sqrt((4 + 16) / 2))
    assert m["rmse_log"] == pytest.approx(np.sqrt((np.log(1.2) ** 2 + np.log(0.8) ** 2) / 2), rel=1e-5)
    assert m["delta_1"] == pytest.approx(0.5)  # 20 / 16 is 1.25, which is not below it
    assert m["delta_2"] == m["delta_3"] == 1
    assert m["depth_density"] == 100
    # 10 m belongs to the second band, 20 m to the third
    assert [m[f"abs_rel_{band}"] for band in ("10_20", "20_40")] == pytest.approx([0.2, 0.2])
    assert [m[f"rmse_{band}"] for band in ("10_20", "20_40")] == pytest.approx([2, 4])
    assert np.isnan([m["abs_rel_0_10"], m["abs_rel_40_80"]]).all()


def test_range_clamps_answers_and_leaves_out_truth():
    truth = constant(50)
    truth[0], truth[1], truth[2] = 80, 1e-3, np.nan  # none of them is judged
    row = rows_by_method([sample(truth)], {"m": lambda image, fx: constant(1000)})["m"]
    assert row["pixels"] == (H - 3) * W
    assert row["metrics"]["abs_rel"] == pytest.approx(30 / 50)
    assert measures_of([sample(truth)], lambda image, fx: constant(np.inf))["rmse"] == pytest.approx(30)


def test_no_answer_is_wrong_in_the_deltas_and_missing_in_the_means():
    answer = constant(10)
    answer[:12] = np.nan
    m = measures_of([sample(constant(10))], lambda image, fx: answer)
    assert (m["abs_rel"], m["delta_1"], m["depth_density"]) == (0, 0.75, 75)


def test_every_image_counts_alike_unless_pixels_are_pooled():
    few = constant(10)
    few[1:] = np.nan  # one row
    samples, method = [sample(constant(10)), sample(few, "b")], Counting([10.0, 20.0])
    assert measures_of(samples, method)["abs_rel"] == pytest.approx(0.5)
    method = Counting([10.0, 20.0])
    assert measures_of(samples, method, aggregate="pooled")["abs_rel"] == pytest.approx(1 / (H + 1))
    assert method.calls == 3  # the first once more, to warm up


class Counting:
    """Answers with one depth per image, whose focal length it must be given."""

    def __init__(self, depths):
        self.depths, self.calls = depths, 0

    def estimate(self, image, fx):
        assert fx == 100 and image.dtype == np.uint8
        self.calls += 1
        return SimpleNamespace(depth=constant(self.depths[max(0, self.calls - 2)]))


@pytest.mark.parametrize(("protocol", "shape", "rows", "columns"), [
    # floor of .40810811 * 375, .99189189 * 375, .03594771 * 1242, .96405229 * 1242
    (EIGEN, (375, 1242), (153, 371), (44, 1197)),
    (NYU, (480, 640), (45, 471), (41, 601)),
])  # fmt: skip
def test_crops_are_those_of_the_protocols(protocol, shape, rows, columns):
    inside = np.zeros(shape, bool)
    inside[slice(*rows), slice(*columns)] = True
    answer = np.where(inside, np.float32(5), np.float32(9))
    row = rows_by_method([sample(constant(5, shape), shape=shape, protocol=protocol)], {"m": lambda image, fx: answer})[
        "m"
    ]
    assert row["pixels"] == inside.sum()
    assert row["metrics"]["abs_rel"] == 0
    answer = np.where(inside, np.float32(6), np.float32(5))
    metrics = measures_of([sample(constant(5, shape), shape=shape, protocol=protocol)], lambda image, fx: answer)
    assert metrics["abs_rel"] == pytest.approx(0.2)


def test_median_scaling_takes_the_judged_pixels_only():
    truth, answer = constant(10), constant(5)
    truth[:, :20] = np.nan
    answer[:, :20] = 500
    m = measures_of([sample(truth)], lambda image, fx: answer, median=True)
    assert (m["abs_rel"], m["scale"]) == (0, 2)
    assert "scale" not in measures_of([sample(truth)], lambda image, fx: answer)
    # the even one in the middle of three factors
    samples = [sample(constant(d), name) for d, name in ((10, "a"), (20, "b"), (60, "c"))]
    assert measures_of(samples, lambda image, fx: constant(10), median=True)["scale"] == 2


def test_answers_are_resized_as_inverse_depth():
    """A plane: inverse depth is linear in the column, and stays so; depth itself would be smeared."""
    u = np.arange(W) + 0.5
    plane = np.broadcast_to(1 / (0.02 + 0.001 * u), (H, W)).astype(np.float32)
    half = np.broadcast_to(1 / (0.02 + 0.002 * (np.arange(W // 2) + 0.5)), (H // 2, W // 2)).astype(np.float32)
    half_truth = half.copy()
    half_truth[:, [0, -1]] = np.nan  # the border of a resize
    assert measures_of([sample(half_truth)], lambda image, fx: plane)["abs_rel"] < 1e-6
    twice = sample(plane[:, 2:-2], shape=(H // 2, W // 2 - 2))
    assert measures_of([twice], lambda image, fx: half[:, 1:-1])["abs_rel"] < 2e-3


# ---- stereo beside ---------------------------------------------------------------------------------------------


class FakeStereo:
    """Answers the true disparity of ``planes`` plus an error, and at infinity and without answer in some columns."""

    def __init__(self, error=0.0):
        self.error = error

    def disparity(self, left, right, doffs):
        assert left.shape == right.shape == (96, 160, 3)
        disparity = planes(0)[2] + np.float32(self.error)
        disparity[:, :4], disparity[:, 4:8] = -4, np.nan  # d + doffs = 0: infinitely far
        return disparity


def test_stereo_is_judged_beside_mono_where_there_are_pairs(tmp_path):
    samples = open_depth_sets([write_pairs(tmp_path / "pairs", ("a",))])["pairs"]
    lone = replace(samples[0], name="lone", pair=None)
    methods = {"mono": lambda image, fx: constant(2.0, (96, 160)), "stereo": PairMethod(FakeStereo(1.0))}
    rows = rows_by_method([*samples, lone], methods, aggregate="pooled")
    assert (rows["mono"]["images"], rows["stereo"]["images"]) == (2, 1)
    # Z = 20 / (d + 4) m; the far wall is at 2 m, the square at 20 / 18 m
    square = 48 * 40 / (92 * 160)
    mono = square * (2 / (20 / (NEAR + 4)) - 1)
    assert rows["mono"]["metrics"]["abs_rel"] == pytest.approx(mono, rel=1e-5)
    m = rows["stereo"]["metrics"]
    assert m["depth_density"] == pytest.approx(100 * 156 / 160)
    answered = 156 * 92
    far = answered - 4 * 92 - 48 * 40
    infinite = 4 * 92 * (80 / 2 - 1)  # clamped to 80 m
    expected = (far / (FAR + 5) + 48 * 40 / (NEAR + 5) + infinite) / answered
    assert m["abs_rel"] == pytest.approx(expected, rel=1e-4)


def test_a_drive_without_truth_is_judged_against_stereo_where_its_checks_hold(tmp_path):
    (pair,) = open_stereo_folder(write_pairs(tmp_path / "pairs", ("a",), truth=False))
    (blind,) = open_depth_sets([tmp_path / "pairs"])["pairs"]
    assert blind.truth() is None
    estimator = StereoDepthEstimator(StereoConfig(model="sgbm", left_right_check="two_pass"))
    lone = replace(blind, pair=None)
    samples = against_stereo([replace(blind, protocol=EIGEN), lone], estimator)
    assert len(samples) == 1 and samples[0].protocol == replace(EIGEN, name="")
    expected = estimator.estimate(*pair.images(), pair.rig).depth
    truth = samples[0].truth()
    np.testing.assert_array_equal(truth, expected)
    known = np.isfinite(truth)
    exact = 200 * 0.1 / (planes(0)[2] + 4)
    assert 0.4 < known.mean() < 1
    assert np.median(np.abs(truth[known] / exact[known] - 1)) < 0.01


# ---- published rows, watching, pictures ------------------------------------------------------------------------


def test_published_rows_stand_below_ours_where_they_were_measured_likewise():
    def rows(protocol, **more):
        samples = [sample(constant(5), protocol=protocol)]
        report = evaluate(DepthTask(**more), {"s": samples}, {"m": lambda image, fx: constant(5)}, show_progress=False)
        return [(row["method"], row.get("published", False)) for row in report.rows]

    ours, *others = rows(EIGEN)
    assert ours == ("m", False)
    assert [name for name, published in others if published] == [name for name, _ in PUBLISHED["KITTI Eigen"]]
    assert all(name.endswith("(published)") for name, _ in others)
    figures = dict(PUBLISHED["KITTI Eigen"])["EPCDepth R50 1024x320 (published)"]
    assert figures == {"abs_rel": 0.0905, "rmse": 4.207, "delta_1": 0.901}
    for protocol, more in (
        (EIGEN, {"median": True}), (EIGEN, {"aggregate": "pooled"}), (EIGEN_IMPROVED, {}), (DepthProtocol(), {}),
    ):  # fmt: skip
        assert rows(protocol, **more) == [("m", False)]


def test_a_network_is_watched_while_it_is_trained(tmp_path):
    torch.manual_seed(0)
    network = create_model("depthnet_lite", focal=100.0, width=64, height=32).eval()
    samples = [sample(constant(7), protocol=EIGEN), sample(constant(9), "b", protocol=EIGEN)]
    found = DepthTask().validation({"street": samples, "other": samples[:1]})(network)
    assert list(found) == [
        f"{name}/{measure}" for name in ("street", "other") for measure in ("abs_rel", "rmse", "delta_1")
    ]
    depth = NetworkMono(network, "x").depth(np.zeros((H, W, 3), np.uint8), 100.0)
    expected = measures_of(samples, lambda image, fx: depth)
    assert found["street/abs_rel"] == pytest.approx(expected["abs_rel"])
    assert found["street/rmse"] == pytest.approx(expected["rmse"])


def test_sheets_show_image_truth_answers_and_error(tmp_path):
    truth = constant(4)
    truth[:, 80:] = 40
    answer = truth.copy()
    answer[:, 120:] = 60
    methods = {"one": lambda image, fx: answer, "two": lambda image, fx: truth}
    sparse = np.full((H, W), np.nan, np.float32)
    sparse[::8, ::8] = 4
    rows_by_method([sample(truth), sample(sparse, "b")], methods, sheets=tmp_path / "sheets")
    sheet = read_image(tmp_path / "sheets/set.png")
    assert sheet.shape == (22 + 2 * (120 + 6), 6 + 5 * 406, 3)
    tiles = [sheet[22:142, 6 + 406 * k : 406 + 406 * k].astype(int) for k in range(5)]
    np.testing.assert_array_equal(tiles[1][60, 250:290], tiles[2][60, 250:290])  # right where the answer is
    assert tiles[1][60, 100, 0] > tiles[1][60, 300, 0]  # near is yellow
    assert tiles[4][60, 250].max() < 16 and tiles[4][60, 350].min() > 100  # 50 % off: as bright as it gets
    second = sheet[148:268, 6 + 406 : 406 + 406]
    assert (second.max(-1) > 0).mean() > 0.3  # sparse truth is spread to be seen


def test_the_rig_of_a_pair_scales_stereo(tmp_path):
    """The same disparity with twice the baseline is twice as far."""
    image = np.zeros((96, 160, 3), np.uint8)
    near = PairMethod(FakeStereo()).depth(image, image, small_rig())
    far = PairMethod(FakeStereo()).depth(image, image, replace(small_rig(), baseline=0.2))
    np.testing.assert_allclose(far[:, 8:], 2 * near[:, 8:], rtol=1e-6)
    assert np.isposinf(near[:, :4]).all() and np.isnan(near[:, 4:8]).all()
