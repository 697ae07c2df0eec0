"""Flow measures against numbers computed by hand, and evaluation on pairs whose errors are known in advance."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from fg_depth_ros.data.datasets.flow import open_flow_sets
from fg_depth_ros.data.io.formats import read_flo, read_image, read_kitti_flow, write_flo, write_image
from fg_depth_ros.data.samples import FlowSample
from fg_depth_ros.evaluation.flow import FlowTask
from fg_depth_ros.evaluation.metrics import FlowMetrics
from fg_depth_ros.evaluation.reports.report import _HEADINGS, read_report
from fg_depth_ros.evaluation.reports.results import write_flow
from fg_depth_ros.evaluation.task import evaluate
from fg_depth_ros.files import FileError
from fg_depth_ros.inference import FlowConfig, FlowEstimator
from fg_depth_ros.networks.flow import FlowPrediction

NAN = np.nan
# truth, answer, hidden in the second frame; lengths 5, 25, 50, 10, 40, -, 3; errors 0, 5, 2, none, 1, -, 4
PIXELS = [
    ((3, 4), (3, 4), False),
    ((0, 25), (3, 29), True),
    ((30, 40), (30, 42), False),
    ((10, 0), (NAN, 0), False),
    ((0, -40), (0, -41), False),
    ((NAN, NAN), (1, 1), True),
    ((3, 0), (3, 4), True),
]
TRUTH, FOUND = (np.array([[pixel[i] for pixel in PIXELS]], np.float32) for i in (0, 1))
HIDDEN = np.array([[pixel[2] for pixel in PIXELS]])


# ---- measures --------------------------------------------------------------------------------------------------


def test_arrays_that_do_not_fit_are_refused():
    for prediction, truth, occluded, message in (
        (FOUND[:, :3], TRUTH, None, r"prediction \(1, 3, 2\) and truth \(1, 7, 2\) must both be HxWx2 of one size"),
        (FOUND[..., 0], TRUTH[..., 0], None, "must both be HxWx2"),
        (FOUND, TRUTH, HIDDEN[:, :2], r"occluded must be bool of the truth's size \(1, 7\), got \(1, 2\) of bool"),
        (FOUND, TRUTH, HIDDEN.astype(np.uint8), "got .* of uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            FlowMetrics().update(prediction, truth, occluded)


def test_measures_of_seven_pixels():
    metric = FlowMetrics()
    metric.update(FOUND, TRUTH, HIDDEN)
    metrics = metric.compute()
    assert metric.pixels == 6
    assert metrics["epe"] == pytest.approx((0 + 5 + 2 + 1 + 4) / 5)
    assert metrics["epe_noc"] == pytest.approx((0 + 2 + 1) / 3)
    assert metrics["epe_occ"] == pytest.approx((5 + 4) / 2)
    assert metrics["epe_below_10"] == pytest.approx((0 + 4) / 2)
    assert metrics["epe_10_40"] == pytest.approx((5 + 1) / 2)  # 40 px belongs here; the one of 10 px has no answer
    assert metrics["epe_above_40"] == pytest.approx(2)
    # wrong: 5 px (> 3 and > 1.25), 4 px (> 3 and > 0.15), and the one without answer
    assert metrics["fl_all"] == pytest.approx(100 * 3 / 6)
    assert metrics["density"] == pytest.approx(100 * 5 / 6)


def test_an_outlier_is_off_by_more_than_3_px_and_more_than_5_percent():
    truth = np.array([[[100.0, 0]] * 4])
    found = np.array([[[95.1, 0], [94.9, 0], [100, 3.0], [np.inf, 0]]])
    metric = FlowMetrics()
    metric.update(found, truth)
    assert metric.compute()["fl_all"] == pytest.approx(50)  # 5.1 px of 100, and the one that is no number
    assert metric.compute()["density"] == 75


def test_angular_error_in_space_and_time():
    def angle(found, truth):
        metric = FlowMetrics()
        metric.update(np.array([[found]], np.float64), np.array([[truth]], np.float64))
        return metric.compute()["angular"]

    # between (1, 0, 1) and (0, 0, 1): 45; (1, 0, 1) and (-1, 0, 1): 90; (1, 0, 1) and (0, 1, 1): cos = 1 / 2
    assert angle((1, 0), (0, 0)) == pytest.approx(45)
    assert angle((1, 0), (-1, 0)) == pytest.approx(90)
    assert angle((0, 1), (1, 0)) == pytest.approx(60)
    assert angle((2, 3), (2, 3)) == 0
    assert angle((1e-6, 0), (0, 0)) == pytest.approx(math.degrees(1e-6), rel=1e-9)


def test_pairs_are_pooled_and_only_those_that_know_count_for_noc_and_occ():
    metric, second = FlowMetrics(), FlowMetrics()
    metric.update(FOUND, TRUTH, HIDDEN)
    second.update(np.full((3, 3, 2), 6.0), np.zeros((3, 3, 2)))
    metric += second
    metrics = metric.compute()
    assert metric.pixels == 15
    assert metrics["epe"] == pytest.approx((12 + 9 * 72**0.5) / 14)
    assert metrics["epe_noc"] == pytest.approx(1)
    assert metrics["epe_occ"] == pytest.approx(4.5)
    assert metrics["fl_all"] == pytest.approx(100 * 12 / 15)


def test_no_truth_gives_no_number():
    metric = FlowMetrics()
    metric.update(FOUND, np.full_like(TRUTH, NAN), HIDDEN)
    assert all(math.isnan(value) for value in metric.compute().values())


def test_every_measure_stands_in_the_document_and_has_a_heading(repository):
    document = (repository / "docs/report_schema.md").read_text()
    names = set(FlowMetrics().compute())
    assert names <= set(_HEADINGS)
    for name in names:
        assert f"`{name}`" in document, name


# ---- data sets -------------------------------------------------------------------------------------------------


def everywhere(u, v, height=40, width=64):
    """One flow at every pixel."""
    return np.broadcast_to(np.array([u, v], np.float32), (height, width, 2)).copy()


def sample(folder, name, truth, occluded=None, seed=0):
    """A pair on disk; the first row of the truth is unknown."""
    height, width = truth.shape[:2]
    random = np.random.default_rng(seed)
    paths = [folder / f"{name}_{i}.png" for i in (1, 2)]
    for path in paths:
        write_image(path, random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    given = truth.astype(np.float32).copy()
    given[0] = NAN
    return FlowSample(name, *paths, lambda: given, None if occluded is None else lambda: occluded)


class FakeEstimator:
    """Answers a constant flow."""

    def __init__(self, u, v):
        self.answer, self.calls = np.array([u, v], np.float32), 0

    def estimate(self, first, second):
        self.calls += 1
        assert first.dtype == second.dtype == np.uint8
        assert first.shape == second.shape and first.shape[2] == 3
        return SimpleNamespace(flow=np.broadcast_to(self.answer, (*first.shape[:2], 2)))


def row_of(report, method, set_name=None):
    return next(r for r in report.rows if r["method"] == method and set_name in (None, r["set"]))


def test_known_errors_give_known_numbers(tmp_path):
    still, fast = everywhere(0, 0), everywhere(45, 0)
    hidden = np.zeros((40, 64), bool)
    hidden[:, :16] = True
    pairs = [sample(tmp_path, "a", still, hidden), sample(tmp_path, "b", fast, hidden)]
    estimator = FakeEstimator(4, 3)  # off by 5 and by sqrt(41^2 + 3^2)
    report = evaluate(
        FlowTask(),
        {"both": pairs, "unknown": [FlowSample("c", pairs[0].first, pairs[0].second)]},
        {"constant": estimator, "exact on a": lambda first, second: np.zeros((40, 64, 2))},
        model={"name": "fake", "sha256": "0"},
        show_progress=False,
    )
    assert estimator.calls == 3  # two pairs and one call to warm up
    assert report.model == {"name": "fake", "sha256": "0"}
    assert report.settings == {"pixels": "all with truth", "no_answer": "wrong", "aggregate": "pooled"}
    assert [row["set"] for row in report.rows] == ["both", "both"]
    row = row_of(report, "constant")
    assert (row["images"], row["pixels"]) == (2, 2 * 39 * 64)
    far = (41**2 + 3**2) ** 0.5
    metrics = row["metrics"]
    assert metrics["epe"] == metrics["epe_occ"] == pytest.approx((5 + far) / 2)
    assert metrics["epe_below_10"] == pytest.approx(5)
    assert metrics["epe_above_40"] == pytest.approx(far)
    assert math.isnan(metrics["epe_10_40"])
    assert metrics["fl_all"] == 100
    assert metrics["seconds"] >= 0
    other = row_of(report, "exact on a")["metrics"]
    assert (other["epe"], other["fl_all"], other["angular"]) == (
        pytest.approx(22.5), pytest.approx(50), pytest.approx(math.degrees(math.atan(45)) / 2),
    )  # fmt: skip
    report.write_json(tmp_path / "report.json")
    written = read_report(tmp_path / "report.json").rows[0]["metrics"]
    assert written["epe_10_40"] is None
    assert written["epe"] == pytest.approx(metrics["epe"])


def test_the_first_call_of_a_size_is_not_timed(tmp_path, monkeypatch):
    class Compiling(FakeEstimator):
        known: ClassVar[set] = set()

        def estimate(self, first, second):
            self.known.add(first.shape)
            return super().estimate(first, second)

    monkeypatch.setattr("fg_depth_ros.evaluation.task.time.perf_counter", lambda: float(len(Compiling.known)))
    pairs = [sample(tmp_path, name, everywhere(4, 3, width=width)) for name, width in (("a", 64), ("b", 72), ("c", 64))]
    report = evaluate(FlowTask(), {"sizes": pairs}, {"compiling": Compiling(4, 3)}, model={}, show_progress=False)
    assert row_of(report, "compiling")["metrics"]["seconds"] == 0
    assert len(Compiling.known) == 2


def test_a_sheet_shows_each_pair(tmp_path):
    truth = everywhere(2, 0, 50, 100)
    evaluate(
        FlowTask(),
        {"set/clean": [sample(tmp_path, "a", truth), sample(tmp_path, "b", truth)]},
        {"right": lambda a, b: truth, "still": lambda a, b: np.zeros_like(truth)},
        sheets=tmp_path / "sheets",
        show_progress=False,
    )
    sheet = read_image(tmp_path / "sheets/set_clean.png")
    assert sheet.shape == (22 + 2 * (200 + 6), 6 + 5 * 406, 3)
    _, true, right, still, error = (sheet[22:222, 6 + i * 406 :][:, :400] for i in range(5))
    assert true[100, 200].tolist() == right[100, 200].tolist() == [255, 0, 0]  # to the right is red
    assert still[100, 200].tolist() == [255, 255, 255]
    assert error[1, 300].tolist() == [48, 48, 48]  # no truth in the first row
    assert error[100, 200].max() < 16


def test_a_picture_of_one_sample():
    truth = everywhere(0, 8, 100, 400)
    answer = truth.copy()
    answer[:, 200:] += 4
    truth[:10] = NAN
    picture = FlowTask().draw(np.full((100, 400, 3), 90, np.uint8), truth, answer, "step 7")
    assert picture.dtype == np.uint8
    assert picture.shape == (22 + 100 + 6, 6 + 4 * 406, 3)
    tiles = [picture[22:122, 6 + i * 406 :][:, :400] for i in range(4)]
    assert tiles[0][50, 50].tolist() == [90, 90, 90]
    assert tiles[1][5, 50].tolist() == [0, 0, 0]
    assert tiles[1][50, 50].tolist() == tiles[2][50, 50].tolist() != tiles[2][50, 300].tolist()
    assert tiles[3][50, 50].max() < 16
    assert tiles[3][50, 300].min() > 100  # 5.7 px
    assert FlowTask().draw(np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 2), NAN), np.zeros((8, 8, 2))).ndim == 3


def test_nothing_to_judge_is_an_error(tmp_path):
    one = sample(tmp_path, "a", np.zeros((8, 8, 2)))
    without = FlowSample("a", one.first, one.second)
    with pytest.raises(ValueError, match=r"no sample with true flow .*in the data sets \(street\)"):
        evaluate(FlowTask(), {"street": [without]}, {"m": FakeEstimator(0, 0)}, show_progress=False)
    with pytest.raises(ValueError, match="no method"):
        evaluate(FlowTask(), {"street": [one]}, {}, show_progress=False)
    with pytest.raises(ValueError, match=r"method 'half' returned \(4, 4, 2\) for a, whose size is \(8, 8\)"):
        evaluate(FlowTask(), {"s": [one]}, {"half": lambda a, b: np.zeros((4, 4, 2))}, show_progress=False)
    with pytest.raises(FileError, match="data set street has no true flow"):
        FlowTask().validation({"street": [without]})


def test_frames_of_two_sizes_and_a_damaged_file_are_named(tmp_path):
    one = sample(tmp_path, "a", np.zeros((8, 8, 2)))
    write_image(tmp_path / "wide.png", np.zeros((8, 9, 3), np.uint8))
    write_flo(tmp_path / "cut.flo", np.zeros((8, 8, 2)))
    (tmp_path / "cut.flo").write_bytes((tmp_path / "cut.flo").read_bytes()[:-4])
    for spoiled, message in (
        (FlowSample("x", one.first, tmp_path / "wide.png", one.flow), r"wide\.png 9x8: .* one size"),
        (FlowSample("x", one.first, one.second, lambda: read_flo(tmp_path / "cut.flo")), r"cut\.flo: truncated"),
    ):
        with pytest.raises(FileError, match=message):
            evaluate(
                FlowTask(), {"s": [spoiled]}, {"m": FakeEstimator(0, 0)}, sheets=tmp_path / "s", show_progress=False
            )
    assert not (tmp_path / "s").exists()


class Still(torch.nn.Module):
    """No motion anywhere."""

    def __init__(self):
        super().__init__()
        self.zero = torch.nn.Parameter(torch.zeros(1))

    def forward(self, first, second):
        return FlowPrediction(self.zero * (first[:, :2] + second[:, :2]))


def test_a_network_in_training_is_watched(tmp_path):
    sets = {
        "slow": [sample(tmp_path, "a", everywhere(0, 2))],
        "fast": [sample(tmp_path, "b", everywhere(30, 40))],
    }
    assert FlowTask().validation(sets)(Still()) == {
        "slow/epe": pytest.approx(2), "slow/fl_all": 0, "fast/epe": pytest.approx(50), "fast/fl_all": 100,
    }  # fmt: skip


def test_classical_flow_on_real_pairs_is_as_good_as_it_is_known_to_be(public_data):
    sets = open_flow_sets([public_data / "flow"])
    (name,) = sets
    rubber_whale = [one for one in sets[name] if one.name == "RubberWhale"]
    methods = {model: FlowEstimator(FlowConfig(model=model)) for model in ("dis", "farneback", "horn_schunck")}
    methods["dis +v"] = methods["dis"].refined()
    report = evaluate(FlowTask(), {name: rubber_whale}, methods, show_progress=False)
    errors = {method: row_of(report, method)["metrics"] for method in methods}
    assert errors["dis"]["epe"] < 0.25
    assert errors["dis +v"]["epe"] < 0.8 * errors["dis"]["epe"]
    assert errors["horn_schunck"]["epe"] < 0.4
    assert errors["farneback"]["epe"] < 0.4
    for one in errors.values():
        assert 1 < one["angular"] < 15
        assert one["fl_all"] < 2
        assert one["density"] == 100


# ---- files -----------------------------------------------------------------------------------------------------


def test_flow_files_hold_the_same_numbers(tmp_path):
    flow = np.random.default_rng(0).uniform(-300, 300, (20, 30, 2)).astype(np.float32)
    flow[3, 4] = NAN
    flow[5, 6] = [700, 1]  # more than KITTI's PNG can hold
    paths = write_flow(flow, tmp_path / "new" / "folder", "a")
    assert [path.name for path in paths] == ["a_flow.flo", "a_flow.png", "a_flow_colour.png"]
    assert sorted(tmp_path.glob("new/folder/*")) == sorted(paths)  # and nothing else
    np.testing.assert_array_equal(read_flo(paths[0]), flow)
    png = read_kitti_flow(paths[1])
    assert np.isnan(png[3, 4]).all() and np.isnan(png[5, 6]).all()
    fits = np.isfinite(png).all(-1)
    assert fits.sum() == 20 * 30 - 2
    np.testing.assert_allclose(png[fits], flow[fits], atol=1 / 128 + 1e-4)
    assert read_image(paths[2]).shape == (85, 30, 3)  # with the wheel below


def test_flow_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    from fg_depth_ros.evaluation.reports import results

    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"file.*: cannot be written .*choose another folder"):
        write_flow(np.zeros((4, 4, 2), np.float32), tmp_path / "file", "a")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_image", full)
    with pytest.raises(FileError, match="cannot be written .No space left on device.; .*choose another folder"):
        write_flow(np.zeros((4, 4, 2), np.float32), tmp_path / "out", "a")
    assert list((tmp_path / "out").iterdir()) == []
