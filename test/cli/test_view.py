"""``fg-depth view``: what it refuses, and how it says so."""

from __future__ import annotations

import sys

import pytest
from support.engines import StandIn
from support.pair_folders import write_pairs


@pytest.fixture
def rerun() -> None:
    pytest.importorskip("rerun", reason="rerun, the extra 'viewer', is not installed")


def test_without_rerun_the_command_that_installs_it_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    status, text = run("view", "motorcycle")
    assert status == 1
    assert "the viewer needs rerun, the extra 'viewer'" in text
    assert "pip install rerun-sdk" in text


@pytest.mark.usefixtures("rerun")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--model", "sgbm"), "--model is for pairs: name a folder, a bag or motorcycle with it"),
        (("--count", "3", "--engine", "torch", "--right", "/r", "--rectify", "on"),
         "--count, --engine, --right, --rectify are for pairs: name a folder, a bag or motorcycle with them"),
        (("--max-depth", "80"), "--max-depth is for pairs"),
        (("motorcycle", "--namespace", "/front"), "--namespace is for live topics: leave it or motorcycle out"),
        (("motorcycle", "--port", "9876"), "page and data cannot share port 9876"),
        (("motorcycle", "--model", "depthnet_lite"), "gives depth from one image"),
        (("motorcycle", "--count", "-1"), "--count must be 0 or more, got -1"),
        (("no_such_folder",), "no_such_folder"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_way_out(run, words, expected):
    status, text = run("view", *words)
    assert status != 0
    assert expected in " ".join(text.split())


@pytest.mark.usefixtures("rerun")
def test_an_engine_that_does_not_run_is_told_at_the_end(run, tmp_path, monkeypatch):
    StandIn.installed(monkeypatch, tmp_path / "engines").fails_to_build = "no such instruction"
    pairs = write_pairs(tmp_path / "pairs", ("a",))
    status, text = run("view", pairs, "--engine", "openvino", "--save", tmp_path / "look.rrd")
    assert status == 0, text
    assert "flownet_stereo: engine openvino failed" in text and "PyTorch runs instead: no such instruction" in text


@pytest.mark.usefixtures("rerun")
def test_a_file_is_not_written_where_there_is_no_folder_for_it(run, tmp_path):
    (tmp_path / "a_file").touch()
    status, text = run("view", "motorcycle", "--save", tmp_path / "a_file" / "look.rrd")
    assert status == 1
    assert str(tmp_path / "a_file") in text
