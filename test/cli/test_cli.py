"""The command line as a user meets it: files that come out, and one clear line when something is wrong."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from support.engines import StandIn
from support.pair_folders import planes, small_rig, write_pairs

from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.data.datasets.stereo import motorcycle
from fg_depth_ros.data.io.formats import read_kitti_disparity, read_pfm, read_png_depth, write_image
from fg_depth_ros.evaluation.reports.report import Report
from fg_depth_ros.evaluation.reports.results import write_disparity
from fg_depth_ros.inference import FlowEstimator, StereoDepthEstimator
from fg_depth_ros.inference.engines.selection import INSTALLABLE
from fg_depth_ros.networks.registry import MODELS, has_weights, weights_path


@pytest.fixture
def real_pair(tmp_path):
    """The Motorcycle pair with a calibration file in Middlebury's form."""
    sample = motorcycle()
    calib = tmp_path / "calib.txt"
    calib.write_text(
        "cam0=[994.978 0 311.193; 0 994.978 254.877; 0 0 1]\ncam1=[994.978 0 342.279; 0 994.978 254.877; 0 0 1]\n"
        "doffs=31.086\nbaseline=193.001\nwidth=741\nheight=500\n"
    )
    return sample, calib


def test_infer_writes_every_file_with_the_same_numbers(run, real_pair, tmp_path):
    sample, calib = real_pair
    out = tmp_path / "out"
    status, text = run("infer", sample.left, sample.right, "--calib", calib, "--out", out, "--model", "sgbm")
    assert status == 0, text
    assert "8 files" in text and "% valid" in text
    name = sample.left.stem
    depth = np.load(out / f"{name}_depth.npy")
    assert depth.shape == (500, 741) and depth.dtype == np.float32
    disparity = read_pfm(out / f"{name}_disparity.pfm")
    known = np.isfinite(depth)
    # Z = f B / (d + doffs), by hand
    np.testing.assert_allclose(depth[known], 994.978 * 0.193001 / (disparity[known] + 31.086), rtol=1e-4)
    png = read_kitti_disparity(out / f"{name}_disparity.png")
    positive = known & (disparity > 0)  # KITTI's PNG has no other numbers
    np.testing.assert_allclose(png[positive], disparity[positive], atol=1 / 256)
    np.testing.assert_allclose(read_png_depth(out / f"{name}_depth.png")[known], depth[known], atol=1e-3)
    header = (out / f"{name}_cloud.ply").read_bytes()[:200].decode("ascii", "ignore")
    assert f"element vertex {known.sum()}" in header
    assert cv2.imread(str(out / f"{name}_depth_colour.png")).shape == (542, 741, 3)  # with a colour bar below


def test_a_flow_network_answers_for_pairs_in_every_command(run, real_pair, tmp_path):
    sample, calib = real_pair
    quick = ("--model", "flownet_lite", "--engine", "torch", "--scale", "0.4")
    out = tmp_path / "out"
    status, text = run("infer", sample.left, sample.right, "--calib", calib, "--out", out, *quick)
    assert status == 0, text
    assert np.isfinite(np.load(out / f"{sample.left.stem}_depth.npy")).mean() > 0.5
    report = tmp_path / "report.json"
    status, text = run("evaluate", "stereo", *quick, "--json", report)
    assert status == 0, text
    rows = {row["method"]: row["metrics"] for row in json.loads(report.read_text())["rows"]}
    assert rows["flownet_lite"]["epe"] < 5 and "SGBM filled" in rows


def test_the_times_that_infer_and_flow_print_are_without_compiling(run, monkeypatch, tmp_path):
    warmed = []
    monkeypatch.setattr(StereoDepthEstimator, "warm_up_for", lambda self, rig: warmed.append((rig.width, rig.height)))
    monkeypatch.setattr(FlowEstimator, "warm_up", lambda self, width, height: warmed.append((width, height)))
    folder = write_pairs(tmp_path / "pairs")
    status, text = run("infer", folder, "--out", tmp_path / "o", "--model", "sgbm")
    assert status == 0, text
    assert warmed == [(160, 96)]
    frames = folder / "left" / "a.png", folder / "right" / "a.png"
    status, text = run("flow", *frames, "--out", tmp_path / "o", "--model", "dis")
    assert status == 0, text
    assert warmed == [(160, 96)] * 2


def test_infer_without_calibration_says_so(run, real_pair, tmp_path):
    sample, _ = real_pair
    status, text = run("infer", sample.left, sample.right, "--out", tmp_path / "o", "--model", "sgbm")
    assert status == 0
    assert "disparity only: no calibration (give --calib)" in text
    assert not list((tmp_path / "o").glob("*depth*"))


@pytest.mark.parametrize("calibrated", [True, False])
def test_infer_says_when_images_cannot_be_matched(run, real_pair, tmp_path, calibrated):
    sample, calib = real_pair
    size = cv2.imread(str(sample.right)).shape
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros(size, np.uint8))
    given = ["--calib", calib] if calibrated else []
    status, text = run("infer", sample.left, tmp_path / "black.png", *given, "--out", tmp_path / "o", "--model", "sgbm")
    assert status == 0
    assert "right camera covered" in text


def test_infer_says_why_a_pair_has_hardly_any_depth(run, tmp_path):
    write_pairs(tmp_path / "pairs", ("a",))
    rig = json.loads((tmp_path / "pairs" / "rig.json").read_text())
    (tmp_path / "pairs" / "rig.json").write_text(json.dumps(rig | {"baseline": 1000 * rig["baseline"] / 10}))
    status, text = run("infer", "--pairs", tmp_path / "pairs", "--out", tmp_path / "o", "--model", "sgbm")
    assert status == 0
    assert "a: only 0.0% of the pixels have depth" in text and "check baseline and focal length" in text


def test_infer_does_a_folder_and_names_what_it_skips(run, tmp_path):
    folder = tmp_path / "pairs"
    write_pairs(folder, ("a", "b", "c"))
    spoiled = sorted((folder / "left").iterdir())[1]
    spoiled.write_bytes(spoiled.read_bytes()[:40])
    status, text = run("infer", "--pairs", folder, "--out", tmp_path / "o", "--model", "sgbm")
    assert status == 1  # two done, one named
    assert "skipped" in text and spoiled.name in text
    assert len(list((tmp_path / "o").glob("*_disparity.pfm"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["infer", "--pairs", "/nowhere"], "/nowhere: no such folder"),
        (["infer", "l.png", "r.png"], "l.png: no such file"),
        (["infer"], "give a folder of pairs, a bag, two images"),
        (["infer", "l.png", "r.png", "--min-disparity", "far"], "'far' is neither auto nor a whole number"),
        (
            ["infer", "--pairs", ".", "--model", "raft"],
            "model 'raft' is unknown; choose one of flownet_stereo",
        ),
        (["infer", "--pairs", ".", "--model", "depthnet_lite"], "model 'depthnet_lite' is for depth from one image"),
        (["infer", "--pairs", ".", "--model", "flownet2"], "no weights of 'flownet2' come with the package"),
        (["evaluate", "stereo", "--model", "flownet2s"], "did you mean flownet2_s?"),
        (["infer", "--pairs", ".", "--scale", "0"], "--scale must be auto or lie in"),
        (["evaluate", "stereo", "--data", "/nowhere"], "/nowhere"),
        (["evaluate", "stereo", "--weights", "/nowhere.safetensors"], "/nowhere.safetensors does not exist"),
        (
            ["evaluate", "stereo", "--model", "sgbm", "--weights", "w.safetensors"],
            "'sgbm' has no weights; leave",
        ),
        (["export", "flownet_sterio"], "'flownet_sterio' is no network; choose one of depthnet_efficient"),
        (["bench", "--size", "big"], "size 'big' is not WIDTHxHEIGHT"),
        (["synth", "stereo", "--out", "x", "--photos", "/nowhere"], "photo folder /nowhere does not exist"),
        (["train", "stereo", "--out", "x"], "give --steps or --hours"),
        (
            ["play", ".", "--remap", "a b:=/c"],
            "--remap 'a b:=/c' is no rule: give FROM:=TO, such as /left/image_rect:=",
        ),
        (["play", ".", "--remap", "/a:=/b@d"], "--remap '/a:=/b@d' is no rule"),
    ],
)
def test_every_mistake_is_one_line_with_the_way_out(run, tmp_path, monkeypatch, arguments, message):
    write_pairs(tmp_path, ("a",))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    status, text = run(*arguments)
    assert status != 0
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "x").exists()  # nothing half written


def test_what_the_system_refuses_is_one_line_too(run, tmp_path, monkeypatch):
    """A file that cannot be written names itself; an error that is none of the system's shows all of it."""
    (tmp_path / "file").write_text("")
    bag = write_stereo_bag(tmp_path / "bag", [(10**9, *planes(0)[:2])], small_rig())
    status, text = run("bag", "check", bag, "--json", tmp_path / "file" / "x.json")
    assert status == 1
    assert f"fg-depth: {tmp_path}/file: is a file, not a folder; name another one" in text
    monkeypatch.setattr("fg_depth_ros.data.bags.folders.find_bags", lambda paths: [][1])
    with pytest.raises(IndexError):
        run("bag", "check", bag)


def test_evaluate_stereo_writes_the_report(run, tmp_path):
    report = tmp_path / "report.json"
    status, text = run("evaluate", "stereo", "--json", report, "--sheets", tmp_path / "sheets")
    assert status == 0, text
    content = json.loads(report.read_text())
    assert content["schema"] == "fg_depth_report/1"
    assert content["model"]["name"] == "flownet_stereo" and len(content["model"]["sha256"]) == 64
    methods = {row["method"]: row["metrics"] for row in content["rows"]}
    assert set(methods) == {"flownet_stereo", "flownet_stereo raw", "SGBM filled", "SGBM unfilled"}
    assert methods["SGBM filled"]["density"] == 100 > methods["SGBM unfilled"]["density"]
    assert cv2.imread(str(tmp_path / "sheets" / "Motorcycle.png")) is not None


def test_evaluations_say_what_ran_every_method_and_why_an_engine_did_not(run, tmp_path, monkeypatch):
    StandIn.installed(monkeypatch, tmp_path / "engines").fails_to_build = "no such instruction"
    report, pairs = tmp_path / "report.json", write_pairs(tmp_path / "pairs", ("a",))
    given = ("--data", pairs, "--no-motorcycle", "--json", report)
    status, text = run("evaluate", "stereo", *given, "--engine", "openvino", "--precision", "float32")
    assert status == 0, text
    assert text.count("flownet_stereo: engine openvino failed for ") == 1
    assert "PyTorch runs instead: no such instruction" in text and "flownet_stereo: torch float32" in text
    content = json.loads(report.read_text())
    ran = {row["method"]: (row["engine"], row["precision"]) for row in content["rows"]}
    assert ran["flownet_stereo"] == ran["flownet_stereo raw"] == ("torch", "float32")
    assert ran["SGBM filled"] == ran["SGBM unfilled"] == (None, None)
    assert content["model"]["name"] == "flownet_stereo" and content["model"]["engine"] == "torch"
    status, text = run("evaluate", "uncertainty", *given, "--engine", "openvino")
    assert status == 0, text
    assert "PyTorch runs instead: no such instruction" in text
    assert {row["engine"] for row in json.loads(report.read_text())["rows"]} == {"torch"}


def test_synth_writes_pairs_that_the_loader_reads(run, tmp_path):
    from fg_depth_ros.data.datasets.stereo import open_stereo_folder

    arguments = ["--count", 2, "--width", 96, "--height", 48, "--patterns", 4]
    status, _ = run("synth", "stereo", "--out", tmp_path / "s", *arguments)
    assert status == 0
    samples = open_stereo_folder(tmp_path / "s")
    assert len(samples) == 2
    truth = samples[0].truth()
    assert truth.shape == (48, 96) and np.isfinite(truth).mean() > 0.9
    status, text = run("synth", "stereo", "--out", tmp_path / "s", *arguments[:2], "--width", 64, "--patterns", 4)
    assert status == 1 and "holds pictures already; name another folder" in " ".join(text.split())
    assert [sample.truth().shape for sample in open_stereo_folder(tmp_path / "s")] == [(48, 96)] * 2


# ---- what is odd costs no more than itself --------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["[red]", "a$\\frac{$", ":smile:"])
def test_names_are_shown_as_they_are(run, tmp_path, stem):
    left, right = planes(0)[:2]
    for name, image in ((f"{stem}_left.png", left), (f"{stem}_right.png", right)):
        write_image(tmp_path / "set" / name, image)
    status, text = run("infer", "--pairs", tmp_path / "set", "--model", "sgbm", "--out", tmp_path / "out")
    assert status == 0 and f"{stem}: 3 files in" in text
    (tmp_path / "set" / f"{stem}_left.png").write_bytes(b"x")
    status, text = run(
        "infer", tmp_path / "set" / f"{stem}_left.png", tmp_path / "set" / f"{stem}_right.png", "--model", "sgbm"
    )
    assert status == 1 and f"set/{stem}_left.png: is no image" in text


def test_a_pair_that_fails_and_one_without_a_right_image_cost_nothing_else(run, tmp_path, monkeypatch):
    from fg_depth_ros.inference import StereoDepthEstimator

    match = StereoDepthEstimator.match

    def failing(self, left, right, *more):
        if (left == 9).all():
            raise ZeroDivisionError("float division by zero")
        return match(self, left, right, *more)

    monkeypatch.setattr(StereoDepthEstimator, "match", failing)
    folder = write_pairs(tmp_path / "set", ("a", "b", "c", "d", "e"))
    for side in ("left", "right"):
        write_image(folder / side / "b.png", np.full((96, 160, 3), 9, np.uint8))
    (folder / "right" / "c.png").unlink()
    (folder / "left" / "d.png").write_bytes(b"")
    status, text = run("infer", "--pairs", folder, "--model", "sgbm", "--out", tmp_path / "out")
    assert status == 1
    assert "b: skipped: float division by zero" in text and "d: skipped: " in text
    assert all(f"{name}: 8 files in" in text for name in ("a", "e"))


def test_disparities_beyond_kittis_png_are_unknown_in_it_and_whole_in_the_others(tmp_path):
    disparity = np.array([[300.0, 255.99, 2.0, 0.0, np.nan]], np.float32)
    write_disparity(disparity, tmp_path, "a")
    assert read_pfm(tmp_path / "a_disparity.pfm").tolist() == [[300.0, np.float32(255.99), 2.0, 0.0, np.inf]]
    np.testing.assert_array_equal(
        read_kitti_disparity(tmp_path / "a_disparity.png"), [[np.nan] * 2 + [2.0] + [np.nan] * 2]
    )


def test_infer_warns_of_swapped_cameras(run, tmp_path):
    from skimage import data

    from fg_depth_ros.data.io.formats import write_image

    for name, image in zip(("left", "right"), data.stereo_motorcycle()[:2], strict=True):
        write_image(tmp_path / f"{name}.png", image[::2, ::2])
    images = [tmp_path / f"{name}.png" for name in ("right", "left")]
    status, text = run("infer", *images, "--model", "sgbm", "--out", tmp_path / "out")
    assert status == 0
    assert "seem to be swapped" in text
    status, text = run("infer", *images[::-1], "--model", "sgbm", "--out", tmp_path / "out")
    assert "seem to be swapped" not in text


def test_compile_keeps_what_the_node_will_load(run, tmp_path, monkeypatch):
    engine = StandIn.installed(monkeypatch, tmp_path / "engines")
    monkeypatch.delenv("FG_DEPTH_ENGINE")
    for said in ("compiled in", "kept from before, loaded in"):
        status, text = run("compile", "flownet_stereo", "sgbm", "--size", "160x96", "--doffs", "20")
        assert status == 0, text
        assert f"flownet_stereo openvino float32 160x96: {said}" in text
        assert "sgbm 160x96: nothing to compile" in text
    assert engine.built == [(192, 96)]


def test_compile_takes_the_nodes_networks_and_its_parameters(run, tmp_path, monkeypatch):
    engine = StandIn.installed(monkeypatch, tmp_path / "engines")
    monkeypatch.delenv("FG_DEPTH_ENGINE")
    built = []
    for options in ((), ("--scale", "0.5", "--min-disparity", "-64")):
        status, text = run("compile", "--size", "256x128", *options)
        assert status == 0, text
        for name in ("flownet_stereo", "flownet_lite", "depthnet_efficient"):
            assert text.count(f"{name} openvino") == 1
        built.append(dict(zip(("stereo", "flow", "mono"), engine.built, strict=False)))
        engine.built.clear()
    whole, half = built
    assert whole["stereo"] == whole["flow"] == (256, 128)
    # half of 256x128, and a border of half of 64 columns
    assert half == {"stereo": (160, 64), "flow": (128, 64)}, "the network for one image is kept from before"


def test_bench_measures_the_node_with_every_engine_and_precision(run, monkeypatch):
    speed, node, asked = Report("bench"), Report("bench node"), []
    for model, engine, precision in (
        ("flownet_stereo", "torch", "float32"), ("flownet_stereo", "openvino", "int8"), ("sgbm", None, None),
        ("flownet_lite", "torch", "float32"), ("depthnet_lite", "torch", "float32"),
    ):  # fmt: skip
        speed.add_row("160x96", model, {}, kind="speed", model=model, engine=engine, precision=precision)

    def bench_node(model, size, rate, **options):
        asked.append((model, size, options["engine"], options["precision"], options["threads"]))
        return node

    monkeypatch.setattr("fg_depth_ros.evaluation.bench.bench_models", lambda *a, **k: speed)
    monkeypatch.setattr("fg_depth_ros.apps.bench_node.bench_node", bench_node)
    status, text = run("bench", "--node", "--threads", 2)
    assert status == 0, text
    assert asked == [
        ("flownet_stereo", (160, 96), "torch", "float32", 2), ("flownet_stereo", (160, 96), "openvino", "int8", 2),
        ("sgbm", (160, 96), "auto", "auto", 2), ("flownet_lite", (160, 96), "torch", "float32", 2),
    ]  # fmt: skip


def test_exported_files_are_compared_where_pairs_are_given(run, tmp_path, monkeypatch):
    compared = []
    done = SimpleNamespace(files={}, written=[], description="net.json")
    monkeypatch.setattr("fg_depth_ros.inference.export.export_network", lambda *a, **k: done)
    monkeypatch.setattr("fg_depth_ros.inference.export.check_export", lambda e, pairs: compared.extend(pairs) or [])
    for options, count in (((), 0), (("--pairs", write_pairs(tmp_path / "set", ("a", "b"))), 2)):
        status, text = run("export", "flownet_stereo", *options)
        assert status == 0, text
        assert len(compared) == count


def test_compile_takes_the_network_of_the_weights(run, tmp_path, monkeypatch):
    StandIn.installed(monkeypatch, tmp_path / "engines")
    monkeypatch.delenv("FG_DEPTH_ENGINE")
    status, text = run("compile", "--weights", weights_path("flownet_lite"), "--size", "128x64")
    assert status == 0, text
    assert text.count("compiled in") == text.count("flownet_lite") == 1


def test_compile_says_when_the_engine_fails(run, tmp_path, monkeypatch):
    StandIn.installed(monkeypatch, tmp_path / "engines").fails_to_build = "no such instruction"
    monkeypatch.delenv("FG_DEPTH_ENGINE")
    status, text = run("compile", "flownet_stereo", "--size", "160x96")
    assert status == 1
    assert "PyTorch runs instead: no such instruction" in text


def test_doctor_checks_all_weights_that_come_with_the_package(run):
    text = run("doctor")[1]
    assert "weights: " not in text, text
    for name in filter(has_weights, MODELS):
        assert re.search(rf"{name} +weights [0-9a-f]{{12}}, runs on [a-z]+ [a-z0-9]+ \(", text), text
    for engine in INSTALLABLE:
        assert re.search(rf"engine {engine} +\w", text), text


def test_the_overview_shows_flags_without_a_value(run):
    for words in ((), ("bag",), ("bag", "check")):
        assert "bool" not in run(*words, "--help")[1]
