"""Bags that are cut off or damaged: what is whole is used, and the rest is said."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

from support.bags import SECOND, large, pairs_at, storage_file, write
from support.pair_folders import small_rig

from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.storage import BagStorage, is_bag
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.files import FileError


def test_what_is_whole_of_a_cut_off_file_is_used_and_said(tmp_path, caplog):
    bag, pairs = large(tmp_path / "bag")
    content = storage_file(bag).read_bytes()
    counts = []
    for part in (0.95, 0.6, 0.3):
        (tmp_path / "cut.mcap").write_bytes(content[: int(len(content) * part)])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            samples = open_bag_pairs(tmp_path / "cut.mcap")
        assert "cut.mcap: cut off or damaged" in caplog.text
        counts.append(len(samples))
        for sample, (stamp, left, right) in zip(samples, pairs, strict=False):
            assert sample.name == str(stamp)
            for image, expected in zip(sample.images(), (left, right), strict=True):
                np.testing.assert_array_equal(image, expected)
    assert 8 > counts[0] >= 6 and counts[0] > counts[1] > counts[2] >= 1


def test_the_folder_of_a_recorder_that_was_killed_is_read(tmp_path, caplog):
    """No metadata.yaml, no index, and half a message at the end."""
    bag, _ = large(tmp_path / "bag")
    (bag / "metadata.yaml").unlink()
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[:-5000])
    assert is_bag(bag)
    assert len(open_bag_pairs(bag)) >= 6
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 9}")
    with caplog.at_level(logging.WARNING):
        assert len(open_bag_pairs(bag)) >= 6
    assert "not read as its metadata.yaml says" in caplog.text


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_damage_in_the_middle_costs_what_it_hides(tmp_path, caplog, byte):
    bag, _ = large(tmp_path / "bag")
    file = storage_file(bag)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600_000] = 600_000 * byte  # more than a message
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        samples = open_bag_pairs(bag)
    assert 1 <= len(samples) < 8
    assert re.search(r"damaged \(.*\): only \d+ of 32 messages of /left/image_rect, /right/image_rect", caplog.text)


def test_a_cut_off_sqlite_bag_says_how_to_save_it(tmp_path):
    bag, _ = large(tmp_path / "bag", 4)
    bag = write_stereo_bag(tmp_path / "db", pairs_at(*range(1, 9)), small_rig(), storage="sqlite3")
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(FileError, match=r"\.db3: cannot be read .*'sqlite3 .*\.db3 \.recover'; record MCAP"):
        open_bag_pairs(file)


def test_an_image_that_is_cut_off_costs_that_pair_alone(tmp_path):
    bag = write(tmp_path / "bag", compressed="png")
    samples = open_bag_pairs(bag)
    data = next(BagStorage(bag).at("/left/image_rect/compressed", 11 * SECOND))
    file = storage_file(bag)
    content = file.read_bytes()
    at = content.index(data) + data.index(b"IEND")
    # The checksum of the chunk is cleared with it: 0 says that there is none.
    chunk = content.index(b"\x06", 8)
    content = content[:at] + b"XXXX" + content[at + 4 :]
    content = content[: chunk + 9 + 24] + bytes(4) + content[chunk + 9 + 28 :]
    file.write_bytes(content)
    samples = open_bag_pairs(bag)
    samples[0].images()
    with pytest.raises(
        FileError, match="/left/image_rect/compressed at 11000000000 ns: the compressed image .* cut off"
    ):
        samples[1].images()


def test_damage_that_comes_later_is_named(tmp_path):
    bag, _ = large(tmp_path / "bag")
    samples = open_bag_pairs(bag)
    file = storage_file(bag)
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(600_000 * b"\xff")
    failed = []
    for sample in samples:
        try:
            sample.images()
        except FileError as error:
            failed.append(str(error))
    assert 1 <= len(failed) < 8
    assert re.search(r"bag, /(left|right)/image_rect at \d+ ns: (damaged \(|the message is gone)", failed[0])
