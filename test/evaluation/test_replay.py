"""Offline replay: hand-computed figures of answers that are known, what is left out, the same bytes each time."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

from support.bags import bag_of, rewrite, storage_file, write
from support.pair_folders import planes, small_rig
from support.replay import MONO, STEREO, FixedStereo, use_fixed
from support.truth import CLOUD, PLACE, SECOND, TF, cloud, depth_message, stereo_bag, with_messages

from fg_depth_ros.data.bags.folders import bag_sha256
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.evaluation.replay import run
from fg_depth_ros.evaluation.replay.config import ALL, ReplayConfig, ReplayMethod
from fg_depth_ros.evaluation.replay.methods import Loaded, of_weights, shipped, unique
from fg_depth_ros.evaluation.replay.run import replay
from fg_depth_ros.files import FileError
from fg_depth_ros.networks import CheckpointError, ModelCard, create_model, save_checkpoint
from fg_depth_ros.networks.registry import weights_path

IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"


def replayed(bags, methods=(STEREO, MONO), **options):
    return replay(ReplayConfig(tuple(str(bag) for bag in bags), methods, **options))


def row_of(report, set_name, method, kind="accuracy", **details):
    wanted = {"set": set_name, "method": method, "kind": kind, **details}
    (row,) = [row for row in report.rows if wanted.items() <= row.items()]
    return row


# ---- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bags": ()}, "no bag to replay"),
        ({"every": 0}, "every must be at least 1"),
        ({"first": -1}, "--first must be 0 or more, got -1"),
        ({"worst": -1}, "--worst must be 0 or more, got -1"),
        ({"lidar_slop": -0.1}, "--lidar-slop must not be negative, got -0.1 s"),
        ({"min_depth": 5.0, "max_depth": 1.0}, "need 0 < --min-depth < --max-depth, got 5.0 and 1.0 m"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ReplayConfig(**{"bags": ("a",), "methods": (STEREO,), **options})


def test_methods_must_be_told_apart(tmp_path):
    bag = stereo_bag(tmp_path / "bag", 1)
    with pytest.raises(ValueError, match="no method: give"):
        replayed([bag], ())
    with pytest.raises(ValueError, match="several methods are called sgbm"):
        replayed([bag], (shipped("sgbm"), shipped("sgbm")))


def test_a_bag_without_calibration_is_refused_with_the_way_out(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    bag = bag_of(tmp_path / "bare", {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE})
    with pytest.raises(FileError, match=r"bare: no camera_info for /left/image_rect .* name the camera_info topics"):
        replayed([bag])


def test_weights_of_no_depth_are_refused(tmp_path):
    assert of_weights(weights_path("flownet_lite")).kind == "stereo"
    encoder = tmp_path / "encoder.safetensors"
    save_checkpoint(encoder, create_model("flownet_s", width=1 / 64), ModelCard("efficientnet_lite0"))
    with pytest.raises(CheckpointError, match="'efficientnet_lite0' gives no depth to replay; .* that do: flownet_s"):
        of_weights(encoder)
    with pytest.raises(CheckpointError, match="does not exist"):
        of_weights(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="model 'resnet'"):
        shipped("resnet")


def test_depth_networks_alone_need_something_to_be_judged_by(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    bag = stereo_bag(tmp_path / "bag", 1, truth=False)
    with pytest.raises(FileError, match="no true depth, and no stereo method to compare depth networks with: add one"):
        replayed([bag], (MONO,))


# ---- figures ---------------------------------------------------------------------------------------------------

# The wall lies at 20 / (6 + 4) = 2 m, the square, an eighth of the picture, at 20 / (14 + 4) m. Six pixels everywhere
# is right on the wall; on the square 2 m are 0.8 too far, and 8 px off. Six columns leave the right picture.
SEEN = 154 / 160
SQUARE = 0.125


def test_figures_against_truth_are_those_computed_by_hand(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    found = replayed([stereo_bag(tmp_path / "bag", 3)])
    row = row_of(found.report, "bag", "six")
    assert row["against"] == "true depth" and row["pairs"] == 3 and row["label"] == "six"
    expected = {"epe": 8 * SQUARE, "bad_4": 12.5, "d1": 12.5, "density": 100.0, "abs_rel": 0.8 * SQUARE,
                "delta_1": 1 - SQUARE, "rmse": SQUARE**0.5 * (2 - 20 / 18)}  # fmt: skip
    assert {name: row["metrics"][name] for name in expected} == pytest.approx(expected, rel=1e-5)
    masked = row_of(found.report, "bag", "six masked")["metrics"]
    assert masked["density"] == pytest.approx(100 * SEEN)
    assert masked["abs_rel"] == pytest.approx(0.8 * SQUARE / SEEN, rel=1e-5)
    mono = row_of(found.report, "bag", "flat")
    # 2.5 m are 0.25 too far on the wall, 1.25 on the square; the median of the ratios is the wall's.
    assert mono["metrics"]["abs_rel"] == pytest.approx(0.25 * (1 - SQUARE) + 1.25 * SQUARE, rel=1e-5)
    assert mono["metrics"]["scale"] == pytest.approx(0.8, rel=1e-5)
    assert mono["against"] == "true depth"
    assert row_of(found.report, "all", "six")["metrics"] == row["metrics"]
    # One bin of the histogram holds the error of 0.8, the first one what is right; six columns have no depth.
    counts = np.array(row["histogram"]["counts"])
    edges = row["histogram"]["edges"]
    assert counts[0] == 3 * (154 * 96 - 48 * 40) and counts.sum() == 3 * 154 * 96
    (other,) = np.flatnonzero(counts[1:]) + 1
    assert edges[other] <= 0.8 < edges[other + 1] and len(edges) == len(counts) + 1


def test_the_histogram_counts_what_the_row_counts(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    found = replayed([stereo_bag(tmp_path / "bag", 1)], max_depth=1.5)  # only the square is nearer
    for label in ("six", "flat"):
        row = row_of(found.report, "bag", label)
        error = 1.5 / (20 / 18) - 1  # both answers are beyond max_depth
        assert row["metrics"]["abs_rel"] == pytest.approx(error, rel=1e-5)
        counts, edges = np.array(row["histogram"]["counts"]), row["histogram"]["edges"]
        (inside,) = np.flatnonzero(counts)
        assert counts[inside] == 48 * 40
        assert edges[inside] <= error < edges[inside + 1]


def test_without_truth_the_views_must_agree_and_networks_agree_with_stereo(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    found = replayed([stereo_bag(tmp_path / "bag", 1, truth=False)])
    row = row_of(found.report, "bag", "six")
    assert row["against"] == "itself"
    left, right = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float) for image in planes(0)[:2])
    difference = np.mean([abs(left[y, x] - right[y, x - 6]) for y in range(96) for x in range(6, 160)])
    expected = {
        "photometric": difference, "seen_by_both": 100 * SEEN, "left_right": 100.0, "density": 100.0,
        "depth_density": 100 * SEEN, "label_valid": 100 * SEEN, "label_leaves_image": 100 - 100 * SEEN,
    }  # fmt: skip
    assert {name: row["metrics"][name] for name in expected} == pytest.approx(expected, rel=1e-5)
    mono = row_of(found.report, "bag", "flat")
    assert mono["against"] == "six"
    assert mono["metrics"]["abs_rel"] == pytest.approx(0.25, rel=1e-5)
    assert mono["metrics"]["depth_density"] == 100.0
    assert row["histogram"]["measure"] == "left-right difference, px"
    assert row["histogram"]["counts"][0] == 154 * 96


def test_two_answers_that_contradict_each_other_lower_left_right(tmp_path, monkeypatch):
    from fg_depth_ros.inference.matchers import Match

    use_fixed(monkeypatch)
    left = planes(0)[0]

    def match(
        self, first, second, doffs=0.0, scale=None
    ):  # the mirrored pair (its left picture is the right one) differs
        answer = 6.0 if np.array_equal(first, left) else 9.0
        return Match(np.full(first.shape[:2], answer, np.float32), None)

    monkeypatch.setattr("support.replay.FixedStereo.match", match)
    found = replayed([stereo_bag(tmp_path / "bag", 1, truth=False)], (STEREO,))
    assert row_of(found.report, "bag", "six")["metrics"]["left_right"] == 0.0


def test_bags_without_truth_have_rows_of_their_own_next_to_others(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    with_truth, b, c = (stereo_bag(tmp_path / n, k, truth=n == "a", seed=k) for k, n in enumerate("abc", 1))
    found = replayed([with_truth, b, c])
    for label, reference in (("six", "itself"), ("flat", "six")):
        of_all, without = (row_of(found.report, s, label, overall=True) for s in ("all", "all without truth"))
        assert (of_all["pairs"], of_all["against"]) == (1, "true depth")
        assert (without["pairs"], without["against"]) == (5, reference)
        assert without["metrics"] == row_of(replayed([b, c]).report, "all", label)["metrics"]
    assert row_of(found.report, "all", "six", "timing")["pairs"] == 6
    for bags in ([with_truth], [b, c]):
        assert "all without truth" not in {row["set"] for row in replayed(bags).report.rows}


def test_lidar_judges_the_pixels_that_it_hits(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    # From the LiDAR, 1 m behind the camera: 4 m and 2 m ahead of the camera; the answer is 2 m.
    sweep = cloud(SECOND, [(5.0, 0.0, 0.0), (3.0, 0.2, 0.0)])
    bag = with_messages(
        stereo_bag(tmp_path / "bag", 2, truth=False),
        [("/tf_static", TF, SECOND, PLACE), ("/velodyne_points", CLOUD, SECOND, sweep)],
    )
    found = replayed([bag], timings=False)
    row = row_of(found.report, "bag_more", "six")
    assert row["against"] == "LiDAR" and row["pairs"] == 1  # the second pair has no sweep
    assert row["metrics"]["abs_rel"] == pytest.approx((0.5 + 0.0) / 2)
    assert found.report.settings["bags"][0]["truth"] == "LiDAR, /velodyne_points"
    assert found.report.settings["bags"][0]["pairs_with_truth"] == 1
    assert {entry["against"] for entry in found.report.series if entry["method"] == "six"} == {"LiDAR", "itself"}


def test_every_pair_has_an_entry_in_order_and_every_nth_can_be_taken(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    bags = [stereo_bag(tmp_path / name, 5) for name in ("b", "a")]
    found = replayed(bags, (STEREO,), every=2, first=2)
    assert [(e["set"], e["stamp"], e["method"]) for e in found.report.series] == [
        ("b", 1.0, "six"), ("b", 3.0, "six"), ("a", 1.0, "six"), ("a", 3.0, "six"),
    ]  # fmt: skip
    assert found.report.series[0]["abs_rel"] == pytest.approx(0.8 * SQUARE, rel=1e-5)
    assert found.report.series[0]["latency_ms"] > 0
    assert row_of(found.report, "all", "six")["pairs"] == 4
    timing = row_of(found.report, "all", "six", "timing")
    assert timing["pairs"] == 4
    assert timing["metrics"]["inference_p50_ms"] <= timing["metrics"]["inference_p99_ms"]
    assert [entry["pairs"] for entry in found.report.settings["bags"]] == [5, 5]
    assert found.report.settings["bags"][0]["sha256"] == bag_sha256(bags[0])


def test_the_worst_pairs_have_pictures_worst_first(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    depths = [np.full((96, 160), depth, np.float32) for depth in (2.1, 4.0, 2.5)]
    bag = with_messages(
        stereo_bag(tmp_path / "bag", 4, truth=False),
        [("/ground_truth/depth", IMAGE, s, depth_message((s + 1) * SECOND, d)) for s, d in enumerate(depths)],
    )
    found = replayed([bag], (STEREO,), worst=2)
    assert [picture.title for picture in found.worst] == [
        "six, bag_more, 2.000 s: abs_rel 0.5", "six, bag_more, 3.000 s: abs_rel 0.2",
    ]  # fmt: skip
    images = [cv2.imdecode(np.frombuffer(tile, np.uint8), 1) for _, tile in found.worst[0].tiles]
    captions = [caption.split(",")[0] for caption, _ in found.worst[0].tiles]
    assert captions[:3] == ["left image", "prediction", "true depth"]
    assert len(images) == 4 and all(image.shape == (192, 320, 3) for image in images)
    assert replayed([bag], (STEREO,), worst=0).worst == []


# ---- what is left out ------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_named_and_the_rest_is_used(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    folder = tmp_path / "drives"
    folder.mkdir()
    stereo_bag(folder / "a", 2)
    storage_file(stereo_bag(folder / "b", 2)).write_bytes(b"x" * 500)
    bag_of(folder / "c", {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE})
    stereo_bag(folder / "d", 1, seed=7)
    found = replayed([folder])
    assert [entry["name"] for entry in found.report.settings["bags"]] == ["a", "d"]
    left_out = {entry["name"]: entry["reason"] for entry in found.report.settings["left_out"]}
    assert sorted(left_out) == ["b", "c"]
    assert "cannot be read" in left_out["b"] and "no camera_info" in left_out["c"]
    assert row_of(found.report, "all", "six")["pairs"] == 3
    with pytest.raises(FileError, match=r"no bag can be used: .*b.mcap: cannot be read.*; .*no camera_info"):
        replayed([folder / "b", folder / "c"])


def test_a_damaged_pair_is_counted_and_named(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    good = depth_message(3 * SECOND, np.zeros((96, 160), np.uint8), "mono8")
    fields = {name: getattr(good, name) for name in good.__dataclass_fields__ if name != "__msgtype__"}
    cut = type(good)(**(fields | {"height": 97}))
    bag = with_messages(
        stereo_bag(tmp_path / "bag", 2),
        [("/left/image_rect", IMAGE, 3 * SECOND, cut), ("/right/image_rect", IMAGE, 3 * SECOND, good)],
    )
    found = replayed([bag], (STEREO,))
    (damaged,) = found.report.settings["damaged"]
    assert damaged["set"] == "bag_more" and damaged["name"] == "3000000000"
    assert "the data is truncated" in damaged["reason"]
    facts = found.report.settings["bags"][0]
    assert (facts["pairs"], facts["replayed"], facts["damaged"]) == (3, 2, 1)
    assert len(found.report.series) == 2


def test_what_a_check_of_a_bag_warns_of_is_in_the_report(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    again = write(tmp_path / "again", (SECOND, 2 * SECOND, SECOND))

    def set_back(topic, message, place):
        message.header.stamp.sec -= 6 if place == 2 else 0
        return message

    back = rewrite(write(tmp_path / "forth", (10 * SECOND, 11 * SECOND, 12 * SECOND)), tmp_path / "back", set_back)
    left, right = planes(0)[:2]
    alone = write_stereo_bag(tmp_path / "alone", [(SECOND, left, right), (2 * SECOND, left, None)], small_rig())
    settings = replayed([again, back, alone, stereo_bag(tmp_path / "fine")], (STEREO,)).report.settings
    facts = {bag["name"]: (bag["repeated"], bag["jumps"], bag["unpaired"]) for bag in settings["bags"]}
    assert facts == {
        "again": (2, 0, [0, 0]), "back": (0, 1, [0, 0]), "alone": (0, 0, [1, 0]), "fine": (0, 0, [0, 0]),
    }  # fmt: skip
    warnings = {entry["name"]: entry["text"] for entry in settings["warnings"]}
    assert sorted(warnings) == ["again", "alone", "back"] and len(settings["warnings"]) == 3
    assert warnings["again"].startswith("2 images repeat the stamp of an earlier one")
    assert warnings["back"].startswith("stamps jump back 1 time(s), by up to 5 s")
    assert "1 pair; 1 image has no partner" in warnings["alone"]


def test_a_bag_whose_calibration_changes_is_left_out(tmp_path, monkeypatch):
    use_fixed(monkeypatch)

    def moved(topic, message, place):
        if topic == "/right/camera_info" and place == 1:
            message.p = message.p * 1.01
        return message

    bag = rewrite(write(tmp_path / "bag"), tmp_path / "moved", moved)
    found = replayed([bag, stereo_bag(tmp_path / "fine")], (STEREO,))
    (left_out,) = found.report.settings["left_out"]
    assert left_out["name"] == "moved" and "the calibration changes 2 time(s) within the bag" in left_out["reason"]
    assert row_of(found.report, "all", "six")["pairs"] == 2
    with pytest.raises(FileError, match="the calibration changes .* cut the recording there"):
        replayed([bag], (STEREO,))


def test_a_grey_and_a_colour_camera_are_a_pair(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    left, right = planes(0)[:2]
    bag = write_stereo_bag(tmp_path / "bag", [(SECOND, left, right), (2 * SECOND, left, right[..., 0])], small_rig())
    found = replayed([bag])
    assert found.report.settings["damaged"] == []
    assert {row_of(found.report, "bag", label)["pairs"] for label in ("six", "flat")} == {2}


def test_a_pair_that_a_method_refuses_is_named_and_counts_for_none(tmp_path, monkeypatch):
    estimators = use_fixed(monkeypatch)
    refused = planes(1)[0]

    def depth(image, fx, fy, scale):
        if np.array_equal(image, refused):
            raise ValueError("the image is upside down")
        return np.full(image.shape[:2], 2.5, np.float32)

    estimators["mono"]._method.depth = depth
    found = replayed([stereo_bag(tmp_path / "bag", 3)])
    assert found.report.settings["damaged"] == [
        {"set": "bag", "name": str(2 * SECOND), "reason": "flat: the image is upside down"}
    ]
    for kind in ("accuracy", "timing"):
        assert {row_of(found.report, "bag", label, kind)["pairs"] for label in ("six", "flat")} == {2}


def test_bags_of_one_name_are_told_apart_by_their_folders(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    bags = [stereo_bag(tmp_path / folder / "drive", 1) for folder in ("monday", "tuesday")]
    bags.append(stereo_bag(tmp_path / "other", 1))
    found = replayed(bags, (STEREO,))
    assert [entry["name"] for entry in found.report.settings["bags"]] == ["monday/drive", "tuesday/drive", "other"]


def test_a_bag_called_all_does_not_replace_the_figures_of_all_bags(tmp_path, monkeypatch):
    use_fixed(monkeypatch)
    found = replayed([stereo_bag(tmp_path / "all", 1), stereo_bag(tmp_path / "b", 2)], (STEREO,))
    for kind in ("accuracy", "timing"):
        of_bag = row_of(found.report, f"{tmp_path.name}/all", "six", kind, part=ALL, overall=False)
        of_all = row_of(found.report, "all", "six", kind, part=ALL, overall=True)
        assert (of_bag["pairs"], of_all["pairs"]) == (1, 3)


def test_the_report_names_the_engine_that_ran(tmp_path, monkeypatch):
    stereo = use_fixed(monkeypatch)["stereo"]
    stereo._method.runner = SimpleNamespace(engine="openvino", precision="bfloat16", compiling=False, failure=None)

    def fails_and_is_replaced(left, right, doffs=0.0, scale=None):
        stereo._method.runner.engine, stereo._method.runner.precision = "torch", "float32"
        return FixedStereo.match(stereo, left, right)

    monkeypatch.setattr(stereo, "match", fails_and_is_replaced, raising=False)
    found = replayed([stereo_bag(tmp_path / "bag", 1)], (STEREO,), timings=False)
    (method,) = found.report.settings["methods"]
    assert (method["engine"], method["precision"]) == ("torch", "float32")
    assert found.report.model["engine"] == "torch"


def test_an_engine_that_failed_in_one_of_several_processes_is_named(tmp_path, monkeypatch):
    """Each process has estimators of its own; here each of two has one bag."""
    failure = "engine openvino failed while running, PyTorch runs instead: boom"
    runners = [
        SimpleNamespace(engine="torch", precision="float32", compiling=False, failure=failure),
        SimpleNamespace(engine="openvino", precision="int8", compiling=False, failure=None),
    ]

    def load(methods, **_):
        stereo = FixedStereo(6.0)
        stereo._method.runner = runners.pop(0)
        return [Loaded(STEREO, stereo)]

    monkeypatch.setattr(run, "load_methods", load)
    monkeypatch.setattr(run, "shared_map", lambda bags, work: [result for bag in bags for result in work([bag])])
    found = replayed([stereo_bag(tmp_path / name, 1) for name in "ab"], (STEREO,), timings=False)
    (method,) = found.report.settings["methods"]
    assert method["engine_failure"] == failure
    assert (method["engine"], method["precision"], method["device"]) == ("torch, openvino", "float32, int8", "cpu")
    assert found.report.model["engine"] == "torch, openvino"


def test_methods_are_warmed_up_for_each_bag(tmp_path, monkeypatch):
    """What an engine compiled for the bags before may be dropped, whatever their size."""
    warmed = []
    monkeypatch.setattr(use_fixed(monkeypatch)["stereo"], "warm_up_for", warmed.append, raising=False)
    replayed([stereo_bag(tmp_path / name, 2) for name in "abc"], (STEREO,))
    assert len(warmed) == 3


# ---- methods ---------------------------------------------------------------------------------------------------


def test_weights_are_named_by_their_file_and_hash_and_know_their_kind(tmp_path):
    path = tmp_path / "street.safetensors"
    model = create_model("depthnet_lite", width=64, height=32)
    card = save_checkpoint(path, model, ModelCard("depthnet_lite", {"width": 64, "height": 32}))
    method = of_weights(path)
    assert method == ReplayMethod(f"street {card.sha256[:8]}", "mono", "depthnet_lite", str(path))
    assert shipped("flownet_stereo") == ReplayMethod("flownet_stereo (shipped)", "stereo", "flownet_stereo")
    other = method._replace(weights="elsewhere/street.safetensors")
    assert [m.label for m in unique([method, method, other])] == [
        method.label, f"{method.label} (elsewhere/street.safetensors)",
    ]  # fmt: skip
    found = replayed([stereo_bag(tmp_path / "bag", 1)], (shipped("sgbm"), method))
    identity = found.report.settings["methods"][1]
    assert identity["sha256"] == card.sha256 and identity["kind"] == "mono" and identity["name"] == "depthnet_lite"
    assert found.report.model == {
        "name": "sgbm", "sha256": None, "device": "cpu", "engine": None, "precision": None,
    }  # fmt: skip
    assert row_of(found.report, "bag", "sgbm filled")["metrics"]["abs_rel"] < 0.05  # random texture is easy


def test_a_flow_network_is_replayed_as_a_stereo_method(tmp_path):
    bag = stereo_bag(tmp_path / "bag", 1, truth=False)
    found = replayed([bag], (shipped("flownet_lite"),), engine="torch", max_depth=1000.0)
    row = row_of(found.report, "bag", "flownet_lite (shipped)")["metrics"]
    assert row["density"] == 100.0
    shares = {name: value for name, value in row.items() if name.startswith("label_")}
    assert sum(shares.values()) == pytest.approx(100.0)
    assert found.report.settings["methods"][0]["kind"] == "stereo"


def test_two_runs_without_times_are_the_same_bytes(tmp_path):
    methods = (shipped("sgbm"), shipped("depthnet_lite"))
    bags = [stereo_bag(tmp_path / "a", 2), stereo_bag(tmp_path / "b", 2, truth=False)]
    texts = []
    for name in ("one", "two"):
        found = replayed(bags, methods, timings=False, max_depth=30.0)
        found.report.write_json(tmp_path / f"{name}.json")
        texts.append((tmp_path / f"{name}.json").read_bytes())
    assert texts[0] == texts[1]
    values = json.loads(texts[0])
    assert "created" not in values
    assert not any("latency_ms" in entry for entry in values["series"])
    assert {row["kind"] for row in values["rows"]} == {"accuracy"}
    assert b"seconds" not in texts[0]
