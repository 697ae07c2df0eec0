"""Rendered pairs on disk: what is refused, what is written, and the command that does it."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.chairs import HEIGHT, WIDTH, save_rgba, small_generator, stamp

from fg_depth_ros import cli
from fg_depth_ros.data.datasets.flow import open_flow_sets
from fg_depth_ros.data.io.formats import read_image
from fg_depth_ros.files import FileError
from fg_depth_ros.synthesis.chairs_folder import write_chairs


def open_flow_folder(path, split="all"):
    """The pairs of all sets in one folder."""
    return [sample for samples in open_flow_sets([path], split).values() for sample in samples]


@pytest.fixture(scope="module")
def generator():
    return small_generator()


def test_write_chairs_refuses_before_it_writes(generator, tmp_path):
    out = tmp_path / "set"
    with pytest.raises(ValueError, match="count is 0"):
        write_chairs(out, generator, 0)
    with pytest.raises(ValueError, match=r"share of test pairs is 1\.5"):
        write_chairs(out, generator, 1, test_share=1.5)
    assert not out.exists()
    out.write_text("a file")
    with pytest.raises(FileError, match=rf"{out}.*: cannot be written"):
        write_chairs(out, generator, 1)
    (tmp_path / "old/data").mkdir(parents=True)
    (tmp_path / "old/data/00001_flow.flo").write_bytes(b"x")
    with pytest.raises(FileError, match="holds pairs already"):
        write_chairs(tmp_path / "old", generator, 1)


def test_a_full_disk_leaves_no_half_file(generator, tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def full(path, content):
        if path.suffix == ".flo":
            raise OSError(28, "No space left on device", str(path))
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match="No space left on device"):
        write_chairs(tmp_path, generator, 1)
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == ["00001_img1.ppm", "00001_img2.ppm", "00001_occ.png"]
    for path in (tmp_path / "data").glob("*.ppm"):
        assert read_image(path).shape == (HEIGHT, WIDTH, 3)
    assert not list(tmp_path.glob("*.txt"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--photos", "/nowhere"], "photo folder /nowhere does not exist"),
        (["--photos", "."], "no photo"),
        (["--cutouts", "."], "no cut-out"),
        (["--count", "0", "--patterns", "1", "--outlines", "1"], "count is 0"),
        (["--patterns", "0", "--outlines", "1"], "give photos or at least one pattern"),
        (["--outlines", "0", "--patterns", "1"], "cut-outs and outlines"),
    ],
)
def test_every_mistake_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, option, message):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", ["fg-depth", "synth", "chairs", "--out", str(tmp_path / "x"), *option])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    text = capsys.readouterr()
    assert stop.value.code == 1
    assert message in " ".join((text.out + text.err).split())
    assert "Traceback" not in text.out + text.err
    assert not (tmp_path / "x").exists()


def test_the_folder_reads_back_as_it_was_rendered(generator, tmp_path):
    listed = write_chairs(tmp_path / "set", generator, 5, test_share=0.4, batch=2)
    assert listed == tmp_path / "set/FlyingChairs_train_val.txt"
    assert sorted(listed.read_text().split()) == ["1", "1", "1", "2", "2"]
    samples = open_flow_folder(tmp_path / "set")
    assert [sample.name for sample in samples] == ["00001", "00002", "00003", "00004", "00005"]
    truth = generator.batch(range(5))
    for i, sample in enumerate(samples):
        first, second = sample.images()
        np.testing.assert_array_equal(first, truth.first[i].permute(1, 2, 0))
        np.testing.assert_array_equal(second, truth.second[i].permute(1, 2, 0))
        np.testing.assert_array_equal(sample.truth(), truth.flow[i].permute(1, 2, 0))
        np.testing.assert_array_equal(sample.occluded(), truth.occluded[i, 0])
    assert not list((tmp_path / "set/data").glob(".*"))
    assert {len(open_flow_folder(tmp_path / "set", split)) for split in ("train", "test")} == {3, 2}


def test_synth_chairs_writes_a_set(tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "stamps").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.png"), np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    save_rgba(tmp_path / "stamps/a.png", stamp())
    arguments = [
        "synth", "chairs", "--out", tmp_path / "set", "--photos", tmp_path / "photos", "--cutouts", tmp_path / "stamps",
        "--count", 4, "--width", 64, "--height", 48, "--seed", 3, "--test-share", 0.25, "--patterns", 2,
        "--outlines", 4, "--device", "cpu",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["fg-depth", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert "4 pairs in" in capsys.readouterr().out
    samples = open_flow_folder(tmp_path / "set", "train")
    assert len(samples) == 3
    assert samples[0].truth().shape == (48, 64, 2)
