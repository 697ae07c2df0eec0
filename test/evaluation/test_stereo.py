"""Evaluation of stereo on scenes whose errors are known in advance, and the classical baseline on real pairs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.engines import StandIn
from support.pair_folders import FAR, NEAR, planes, write_pairs

from fg_depth_ros.data.datasets.stereo import motorcycle, open_stereo_folder
from fg_depth_ros.data.io.formats import read_image
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.evaluation.stereo import StereoMethod, StereoTask
from fg_depth_ros.evaluation.task import evaluate
from fg_depth_ros.geometry import StereoRig, fill_holes_kitti
from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator

ROWS = 92  # of 96: the first four have no truth


class FakeMatcher:
    """Answers the true disparity plus an error, without an answer in the last ten columns."""

    def __init__(self, error: float = 0.0):
        self.error, self.calls = error, 0

    def match(self, left, right):
        self.calls += 1
        assert left.dtype == right.dtype == np.uint8
        assert left.shape == right.shape == (96, 160, 3)
        disparity = planes(0)[2] + np.float32(self.error)
        disparity[:, -10:] = np.nan
        return SimpleNamespace(disparity=disparity)


def metrics_of(report, method):
    return next(row["metrics"] for row in report.rows if row["method"] == method)


def evaluate_planes(tmp_path, methods, **more):
    sets = {"planes": open_stereo_folder(write_pairs(tmp_path))}
    return evaluate(StereoTask(), sets, methods, show_progress=False, **more)


def test_known_errors_give_known_numbers(tmp_path):
    matcher = FakeMatcher(2.5)
    methods = {
        "unfilled": matcher,
        "filled": StereoMethod(matcher, fill=fill_holes_kitti),
        "valid": StereoMethod(matcher, valid_only=True),
    }
    report = evaluate_planes(tmp_path, methods, model={"name": "fake", "sha256": "0"})
    assert matcher.calls == 3  # two pairs for three methods, and one call to warm up
    assert report.model == {"name": "fake", "sha256": "0"}
    assert report.settings == {"pixels": "all with truth", "no_answer": "wrong", "aggregate": "pooled"}
    row = report.rows[0]
    assert (row["set"], row["method"], row["images"]) == ("planes", "unfilled", 2)
    assert row["pixels"] == 2 * ROWS * 160
    unfilled, filled, valid = (metrics_of(report, name) for name in methods)
    assert unfilled["epe"] == filled["epe"] == pytest.approx(2.5)
    assert unfilled["density"] == pytest.approx(100 * 150 / 160)
    assert filled["density"] == valid["density"] == 100
    assert unfilled["bad_2"] == filled["bad_2"] == valid["bad_2"] == 100
    assert unfilled["bad_3"] == pytest.approx(100 * 10 / 160)
    assert filled["bad_3"] == valid["bad_3"] == 0
    # Z = 20 / (d + 4) m, so |dZ| / Z = 2.5 / (d + 6.5): square NEAR, wall FAR
    square = 48 * 40 / (ROWS * 160)
    expected = square * 2.5 / (NEAR + 6.5) + (1 - square) * 2.5 / (FAR + 6.5)
    assert filled["abs_rel"] == pytest.approx(expected, rel=1e-5)
    assert filled["seconds"] >= 0


def test_what_the_right_camera_sees_has_a_figure_of_its_own(tmp_path):
    hidden = np.zeros((96, 160), bool)
    hidden[:, :16] = True
    samples = [replace(sample, occlusion=lambda: hidden) for sample in open_stereo_folder(write_pairs(tmp_path))]
    wrong = planes(0)[2] + 9 * hidden
    report = evaluate(StereoTask(), {"planes": samples}, {"m": lambda left, right: wrong}, show_progress=False)
    metrics = metrics_of(report, "m")
    assert metrics["bad_2"] == pytest.approx(10.0)
    assert metrics["bad_2_noc"] == 0.0


def test_functions_are_methods_too_and_sets_without_calibration_have_no_metres(tmp_path):
    samples = open_stereo_folder(write_pairs(tmp_path, rig=False))
    report = evaluate(
        StereoTask(), {"planes": samples}, {"exact": lambda left, right: planes(0)[2]}, show_progress=False
    )
    metrics = metrics_of(report, "exact")
    assert (metrics["epe"], metrics["d1"], metrics["density"]) == (0, 0, 100)
    assert "abs_rel" not in metrics


def test_pooled_and_per_image_differ_as_they_should(tmp_path):
    many = open_stereo_folder(write_pairs(tmp_path / "many", ("a",)))
    few = open_stereo_folder(write_pairs(tmp_path / "few", ("b",), size=(80, 48)))

    def match(left, right):
        if left.shape[1] == 160:
            return planes(0)[2]
        return planes(0, 80, 48)[2] + 9

    both = {"both": [*many, *few]}
    pixels = (ROWS * 160, 44 * 80)
    pooled = evaluate(StereoTask(), both, {"m": match}, show_progress=False)
    assert metrics_of(pooled, "m")["bad_2"] == pytest.approx(100 * pixels[1] / sum(pixels))
    per_image = evaluate(StereoTask("per_image"), both, {"m": match}, show_progress=False)
    assert metrics_of(per_image, "m")["bad_2"] == pytest.approx(50)
    assert metrics_of(per_image, "m")["epe"] == pytest.approx(4.5)
    assert per_image.settings["aggregate"] == "per_image"


def test_a_disparity_at_infinity_is_a_depth_that_is_wrong(tmp_path):
    """Z = 20 / (d + 4) m: a quarter says infinitely far, which is taken for 80 m; no answer stays none."""
    truth = np.full((96, 160), 6.0, np.float32)
    samples = [replace(sample, disparity=truth) for sample in open_stereo_folder(write_pairs(tmp_path))]
    disparity = truth.copy()
    disparity[:, :40], disparity[:, 40:80] = -4.0, np.nan
    report = evaluate(StereoTask(), {"planes": samples}, {"m": lambda left, right: disparity}, show_progress=False)
    assert metrics_of(report, "m")["abs_rel"] == pytest.approx((80 - 2) / 2 / 3)
    assert metrics_of(report, "m")["density"] == 75


def test_contact_sheet_shows_each_pair(tmp_path):
    evaluate_planes(tmp_path / "data", {"fake": FakeMatcher()}, sheets=tmp_path / "sheets")
    sheet = read_image(tmp_path / "sheets/planes.png")
    assert sheet.shape == (22 + 2 * (240 + 6), 6 + 4 * 406, 3)
    # the error column: no truth in the first rows is grey, no answer at the right border magenta, exact is black
    error = sheet[22:, 6 + 3 * 406 :]
    assert error[4, 200].tolist() == [48, 48, 48]
    assert error[120, 395].tolist() == [255, 0, 255]
    assert error[120, 200].max() < 16


def test_nothing_to_judge_is_an_error(tmp_path):
    samples = open_stereo_folder(write_pairs(tmp_path, truth=False))
    with pytest.raises(ValueError, match=r"no sample with true disparity .*in the data sets \(planes\)"):
        evaluate(StereoTask(), {"planes": samples}, {"m": FakeMatcher()}, show_progress=False)
    with pytest.raises(ValueError, match="no method"):
        evaluate(StereoTask(), {"planes": samples}, {}, show_progress=False)
    with pytest.raises(ValueError, match="aggregate is 'median'"):
        StereoTask("median")


def test_an_answer_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"method 'half' returned \(48, 80\) for a.*\(96, 160\)"):
        evaluate_planes(tmp_path, {"half": lambda left, right: np.zeros((48, 80), np.float32)})


@pytest.mark.parametrize("far", [False, True])
def test_an_estimator_searches_from_zero_or_where_the_node_does_and_a_function_gets_two_images(far):
    """The search begins at 0 as in the benchmarks, unless a true disparity of the pair is negative."""
    sgbm, sample, shapes = StereoDepthEstimator(StereoConfig(model="sgbm")), motorcycle(), []
    if far:
        truth = sample.truth()
        truth[:2] = -20.0
        sample = replace(sample, disparity=truth)

    def function(*images):
        shapes.append([image.shape for image in images])
        return sgbm.match(*images, sample.rig.doffs if far else 0.0).disparity

    methods = {"estimator": sgbm, "function": function}
    report = evaluate(StereoTask(), {"Motorcycle": [sample]}, methods, show_progress=False)
    assert shapes[0] == [(500, 741, 3)] * 2
    estimated, searched = ({**metrics_of(report, name), "seconds": 0} for name in methods)
    assert estimated == searched


@pytest.mark.parametrize("kind", ["sizes", "doffs"])
def test_what_an_engine_compiles_is_in_no_time(tmp_path, monkeypatch, kind):
    """More sizes in turn than a runner keeps, and pairs of one size whose search begins elsewhere."""
    (tmp_path / "file").touch()
    engine = StandIn.installed(monkeypatch, tmp_path / "file")  # no folder: what is dropped is compiled again
    monkeypatch.setattr("fg_depth_ros.evaluation.task.time.perf_counter", lambda: float(len(engine.built)))

    def sample(width, doffs):
        image = np.zeros((64, width, 3), np.uint8)
        rig = StereoRig(width, 64, 100.0, 100.0, width / 2, 32.0, width / 2 + doffs, 0.1)
        return StereoSample(f"{width} {doffs}", image, image, rig, np.full((64, width), -1.0, np.float32))

    kinds = {"sizes": [(width, 0.0) for width in (64, 96, 128, 160, 192)], "doffs": [(64, 0.0), (64, 40.0)]}
    estimator = StereoDepthEstimator(StereoConfig(engine="openvino"))
    samples = [sample(*each) for each in 2 * kinds[kind]]
    report = evaluate(StereoTask(), {"set": samples}, {"m": estimator}, show_progress=False)
    assert len(engine.built) >= len(kinds[kind]) and estimator.engine_failure is None
    assert metrics_of(report, "m")["seconds"] == 0


def test_classical_stereo_on_the_real_pair_is_as_good_as_it_is_known_to_be():
    sgbm = StereoDepthEstimator(StereoConfig(model="sgbm"))
    report = evaluate(
        StereoTask(),
        {"Motorcycle": [motorcycle()]},
        {"filled": StereoMethod(sgbm, fill=fill_holes_kitti), "unfilled": sgbm},
        show_progress=False,
    )
    filled, unfilled = metrics_of(report, "filled"), metrics_of(report, "unfilled")
    assert filled["density"] == 100
    assert 60 < unfilled["density"] < 99
    assert unfilled["bad_2"] > filled["bad_2"]
    assert filled["epe"] < 1.7
    assert filled["bad_2"] < 10
    assert filled["d1"] < 9
    assert filled["abs_rel"] < 0.03
