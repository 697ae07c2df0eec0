"""What a command cannot use is refused before its work begins, by the name of the option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.pair_folders import write_pairs

Run = Callable[..., tuple[int, str]]


def _fail(*_: Any, **__: Any) -> None:
    raise AssertionError("the work has begun")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repeats", "-1"), "--repeats must be at least 1, got -1"),
        (("--repeats", "0"), "--repeats must be at least 1, got 0"),
        (("--threads", "-3"), "--threads must be 0 or more, got -3"),
        (("--node", "--rate", "0"), "rate = 0 Hz: give a rate from 0.01 to 1000"),
    ],
)
def test_bench_refuses_counts_that_are_none(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("fg_depth_ros.evaluation.bench.bench_models", _fail)
    status, text = run("bench", *arguments)
    assert status != 0
    assert message in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "0"), "rate = 0 Hz: give a rate from 0.01 to 1000"),
        (("--seconds", "0"), "seconds = 0: give seconds above 0"),
    ],
)
def test_a_recording_of_nothing_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("fg_depth_ros.apps.bench_recording.ProcessGroup", _fail)
    status, text = run("bench-recording", *arguments)
    assert (status, message in text) == (1, True), text


def test_uncertainty_of_nothing_is_refused(run: Run) -> None:
    status, text = run("evaluate", "uncertainty", "--no-motorcycle")
    assert status != 0 and "nothing to evaluate on: give --data" in text


STEREO, FLOW = "fg_depth_ros.evaluation.stereo.StereoTask.open", "fg_depth_ros.evaluation.flow.FlowTask.open"
CALIBRATE, EXPORT = "fg_depth_ros.training.quantization.calibrate", "fg_depth_ros.inference.export.export_network"


@pytest.mark.parametrize(
    ("command", "option", "work"),
    [
        (("bench",), "--json", "fg_depth_ros.evaluation.bench.bench_models"),
        (("bench-recording",), "--json", "fg_depth_ros.apps.bench_recording.bench_recording"),
        (("evaluate", "stereo"), "--json", STEREO),
        (("evaluate", "stereo"), "--sheets", STEREO),
        (("evaluate", "flow", "--data", "set"), "--json", FLOW),
        (("evaluate", "uncertainty"), "--json", "fg_depth_ros.evaluation.uncertainty.collect"),
        (("bag", "check", "bag"), "--json", "fg_depth_ros.data.bags.folders.find_bags"),
        (("demo",), "--json", "fg_depth_ros.apps.demo.run_demo"),
        (("infer", "left.png", "right.png"), "--out", "fg_depth_ros.data.datasets.stereo.open_pair"),
        (("quantize", "flownet_stereo"), "--out", CALIBRATE),
        (("export", "flownet_stereo"), "--out", EXPORT),
    ],
)
def test_where_results_cannot_be_written_is_told_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], option: str, work: str
) -> None:
    monkeypatch.setattr(work, _fail)
    (tmp_path / "file").write_text("taken")
    status, text = run(*command, option, tmp_path / "file" / "out")
    assert (status, text) == (1, f"fg-depth: {tmp_path}/file: is a file, not a folder; name another one")


def test_a_file_of_results_is_no_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CALIBRATE, _fail)
    status, text = run("quantize", "flownet_stereo", "--out", tmp_path)
    assert status == 1 and f"{tmp_path}: is a folder, not a file; give the name of the file to write" in text


def test_quantize_opens_its_data_sets_before_it_renders(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("fg_depth_ros.training.quantization._rendered", _fail)
    given = ("flownet_stereo", "--out", tmp_path / "out.safetensors")
    status, text = run("quantize", *given, "--data", tmp_path / "nix")
    assert status == 1 and f"{tmp_path}/nix: no such folder" in text
    status, text = run("quantize", *given, "--scenes", "-1")
    assert status == 1 and "--scenes must be at least 1, got -1" in text


def test_export_opens_its_pairs_before_it_converts(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(EXPORT, _fail)
    status, text = run("export", "flownet_stereo", "--out", tmp_path / "out", "--pairs", tmp_path / "nix")
    assert status == 1 and f"{tmp_path}/nix: no such folder" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "stereo", "--hours", "-1"), "--hours must not be negative, got -1"),
        (("train", "flow", "--steps", "-5"), "--steps must not be negative, got -5"),
        (("train", "stereo"), "a training needs a length: give --steps or --hours"),
        (
            ("train", "stereo", "--steps", "1", "--precision", "bf16"),
            "unknown precision 'bf16'; known: 16-mixed, 32, auto",
        ),
        (
            ("train", "stereo", "--steps", "1", "--model", "flownet_lite"),
            "unknown stereo network 'flownet_lite'; known: ",
        ),
        (
            ("train", "stereo", "--steps", "1", "--option", "foo=1"),
            "flownet_stereo has no option 'foo'; it has features, aggregate, refine, deep, fine, max_disparity",
        ),
        (("distill", "--hours", "nan"), "--hours must not be negative, got nan"),
        (("finetune", "--bags", "{nix}"), "nix: no such bag or folder; check the path"),
        (("infer", "--pairs", "motorcycle", "--scale", "-1"), "--scale must be auto or lie in 0.1 .. 4, got -1.0"),
        (("evaluate", "stereo", "--scale", "9"), "--scale must lie in 0.1 .. 4, got 9.0"),
        (("flow", "a.png", "b.png", "--scale", "-2"), "--scale must lie in 0.1 .. 4, got -2.0"),
        (("compile", "--scale", "0"), "--scale must lie in 0.1 .. 4, got 0.0"),
        (("replay", "bag", "--model", "sgbm", "--every", "0"), "fg-depth: --every must be at least 1, got 0"),
        (("replay", "bag", "--model", "sgbm", "--first", "-3"), "fg-depth: --first must be 0 or more, got -3"),
    ],
)
def test_a_value_out_of_range_is_told_by_the_name_of_its_option(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    out = () if arguments[0] in ("evaluate", "compile") else ("--out", tmp_path / "out")
    status, text = run(*(str(word).replace("{nix}", str(tmp_path / "nix")) for word in arguments), *out)
    assert status == 1
    assert message in text
    assert not (tmp_path / "out").exists()


def test_what_is_no_calibration_or_one_of_rectified_images_is_told_apart(run: Run, tmp_path: Path) -> None:
    write_pairs(tmp_path / "drive", ("a",))
    (tmp_path / "text.txt").write_text("hello")
    given = ("rectify", tmp_path / "drive", "--out", tmp_path / "out")
    status, text = run(*given, "--calib", tmp_path / "text.txt")
    assert status == 1 and "text.txt: not a stereo calibration: neither" in text
    status, text = run(*given)
    assert status == 1 and "these images are rectified already; use them as they are" in text
    assert "rectify at auto" not in text


@pytest.mark.parametrize(
    "words",
    [
        ("infer", "left.png", "right.png"),
        ("infer", "--pairs", "pairs"),
        ("rectify", "pairs"),
        ("view", "pairs"),
        ("evaluate", "stereo"),
        ("evaluate", "uncertainty"),
        ("evaluate", "depth", "--data", "raw", "--eigen", "list.txt"),
        ("replay", "bag"),
        ("bag", "check", "bag"),
        ("bag", "from-images", "pairs"),
        ("distill", "--data", "bag", "--steps", "1"),
        ("finetune", "--bags", "bag", "--steps", "1"),
        ("promote", "weights.safetensors"),
    ],
    ids=" ".join,
)
def test_what_cannot_choose_pairs_is_told_first_of_all(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    if words[0] == "view":
        pytest.importorskip("rerun", reason="rerun, the extra 'viewer', is not installed")
    writes = {"infer", "rectify", "replay", "from-images", "distill", "finetune"} & set(words)
    out = ("--out", tmp_path / "out") if writes else ()
    for option, value, message in (
        ("--stamps", "foo", "--stamps 'foo' is unknown; choose one of header, recorded"),
        ("--rectify", "maybe", "--rectify 'maybe' is unknown; choose one of auto, on, off"),
        ("--slop", "-1", "--slop must be 0 s or more, got -1"),
    ):
        if words[0] == "rectify" and option == "--rectify":
            continue
        assert run(*words, *out, option, value) == (1, f"fg-depth: {message}")
    assert not (tmp_path / "out").exists()
